"""What loading the definitions costs: the code server, and every worker of a run, pays for it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HEAVY = ("torch", "mlflow", "polars", "scipy", "sklearn", "onnxruntime")
LOAD = f"""
import json, sys
opened = []
sys.addaudithook(lambda event, facts: opened.append(str(facts[0])) if event == "open" else None)
from spira.scheduling.definitions import definitions
print(json.dumps({{
    "heavy": sorted(set({HEAVY!r}) & sys.modules.keys()),
    "opened": opened,
    "assets": sorted(key.to_user_string() for key in definitions.resolve_all_asset_keys()),
    "jobs": [job.name for job in definitions.jobs],
}}))
"""


def load(folder: Path) -> Any:
    """What another process finds in the definitions, and how it came by them."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SPIRA_")}
    settings = {"SPIRA_HOME": str(folder / "home"), "SPIRA_SCHEDULING__EXPERIMENTS": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], capture_output=True, text=True, env=environment | settings
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_loading_is_light_and_reads_no_experiment(tmp_path: Path) -> None:
    """No library that trains, evaluates or registers; and experiment files, broken ones among
    them, are for the sensor: nothing that is wrong with one can keep the service from starting.
    """
    (tmp_path / "broken.yaml").write_text("name: [broken\nsede: 3")
    (tmp_path / "good.yaml").write_text("name: good\nseed: 1\n")

    found = load(tmp_path)

    assert found["heavy"] == []
    assert [path for path in found["opened"] if path.endswith((".yaml", ".yml"))] == []
    assert found["assets"] == sorted(
        ["experiments", "snapshot", "split", "features", "train", "evaluate", "publish"]
    )
    assert found["jobs"] == ["pipeline"]
