"""`spira` with stages of a moment: what they do is written in the experiment's description.

    {"train": {"s": 2.0, "fail": "transient", "times": 1}}

TINY_METRICS is a file with what `evaluate` finds: to make it up would take each of them a second.
Plans, locks, artifacts and exit codes are the real ones; only the work of a stage, and the
registry, are made up.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from spira.cli import main
from spira.domain.errors import InputError, PolicyRefused, TransientError
from spira.domain.recordings import SIDES
from spira.training import pipeline
from spira.training.plan import Files, Work
from spira.wiring import Application

ERRORS = {"transient": TransientError, "refused": PolicyRefused, "wrong input": InputError}
ABOUT: dict[str, dict[str, Any]] = {
    "snapshot": {
        "recordings": 2,
        "participants": 2,
        "ambient": 0,
        "noise": 0,
        "labels": {"absent": 1, "present": 1},
        "left_out": {},
        "origin": "synthetic",
        "language": "pt-BR",
        "participants_known": "given",
    },
    "split": {
        "balance": {
            "label": {side: {"present": 1, "absent": 1} for side in SIDES},
            "noise": {side: {"recordings": 3} for side in SIDES},
        }
    },
    "train": {"epochs": 1, "best_validation_loss": 0.7},
    "evaluate": {"headline": {"clean_auroc": 0.9, "noise_auroc": 0.8}},
    "publish": {"metrics": {"clean_auroc": 0.9}, "evidence_level": "synthetic"},
}


def work(asked: Work) -> tuple[Files, dict[str, Any]]:
    """Wait, fail or be done, as the experiment's description says."""
    told = json.loads(asked.experiment.description or "{}").get(asked.stage, {})
    if "fail" in told:
        tried = asked.folder.parents[1] / f"tried-{asked.fingerprint[:12]}"
        times = int(tried.read_text()) if tried.exists() else 0
        tried.write_text(str(times + 1))
        if times < told.get("times", 1000):
            raise ERRORS[told["fail"]](f"{asked.stage} was told to fail")
    time.sleep(told.get("s", 0.0))
    files: dict[str, bytes] = {"made.txt": f"{asked.stage} of {asked.fingerprint}".encode()}
    if asked.stage == "train":
        files["history.json"] = b'[{"epoch": 0, "train": 0.6, "validation": 0.7}]'
    if asked.stage == "evaluate":
        files["metrics.json"] = Path(os.environ["TINY_METRICS"]).read_bytes()
        files["report.html"] = b"<h1>a report</h1>"
    return files, dict(ABOUT.get(asked.stage, {}))


class Holding:
    """A registry that holds everything."""

    def holds(self, *_: object, **__: object) -> bool:
        """It does."""
        return True


if __name__ == "__main__":
    pipeline._function = lambda stage: work  # type: ignore[assignment]
    Application.registry = property(lambda self: Holding())  # type: ignore[assignment, method-assign]
    main()
