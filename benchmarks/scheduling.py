"""What the Scheduler Service costs, with stages of a moment.

A real service on a data folder of its own; its stages plan, lock, commit and do no other work. The
other way is the same stages as commands, one after the other, without a service.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_REPEATS = 3
_TESTS = Path(__file__).parents[1] / "tests"


def measured() -> Iterator[tuple[str, str, str, str]]:
    """(what, ours, other, ratio), as rows of the table."""
    sys.path[:0] = [str(_TESTS), str(_TESTS / "system")]
    from services import TINY_SPIRA, Service, wait_for  # type: ignore[import-not-found]

    from conftest import write_tiny_corpus  # type: ignore[import-not-found]
    from spira.training.plan import STAGES

    for executor in ("in process", "process"):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place).resolve()
            for name in ("home", "experiments", "corpus"):
                (folder / name).mkdir()
            write_tiny_corpus(folder / "corpus", people=36)
            service = Service(
                folder / "home",
                folder / "experiments",
                {
                    "SPIRA_SCHEDULING__COMMAND": json.dumps([sys.executable, str(TINY_SPIRA)]),
                    "SPIRA_SCHEDULING__EXECUTOR": executor,
                },
            )
            service.import_csv(folder / "corpus" / "recordings.csv")
            service.start()
            try:
                service.write("warm")
                service.ended(service.ask("warm"), 120)
                started, whole, again, by_hand, cancelled = [], [], [], [], []
                for number in range(_REPEATS):
                    name = f"bench-{number}"
                    service.write(name)
                    by_hand.append(_by_hand(service, name))
                    service.write(f"{name}-served")
                    request = service.ask(f"{name}-served")
                    asked = time.perf_counter()
                    wait_for(lambda: service.processes("worker"), 60, "a worker")  # noqa: B023
                    started.append(time.perf_counter() - asked)
                    service.ended(request, 120)
                    whole.append(_run_s(service, service.requests.get(request).run_id))
                    asked = time.perf_counter()
                    service.ended(service.ask(f"{name}-served"), 120)
                    again.append(time.perf_counter() - asked)
                    service.write(f"{name}-endless", train={"s": 600})
                    request = service.ask(f"{name}-endless")
                    wait_for(lambda: _training(service), 60, "train at work")  # noqa: B023
                    asked = time.perf_counter()
                    assert service.spira("cancel", request).returncode == 0
                    wait_for(lambda: not service.processes("stage"), 60, "no stage")  # noqa: B023
                    cancelled.append(time.perf_counter() - asked)
                    wait_for(lambda: not service.processes("worker"), 60, "no worker")  # noqa: B023
            finally:
                service.kill("everything")
        ours, other = (statistics.median(one) / len(STAGES) for one in (whole, by_hand))
        yield (
            f"scheduler, {executor}: a stage that does nothing, against its command by hand",
            f"{ours:.2f} s a stage",
            f"{other:.2f} s a stage",
            f"{other / ours:.2f}",
        )
        yield f"scheduler, {executor}: from asking to a worker", _spread(started), "", ""
        yield f"scheduler, {executor}: asking for what is up to date", _spread(again), "", ""
        yield f"scheduler, {executor}: from `cancel` to no stage", _spread(cancelled), "", ""


def _training(service: Any) -> bool:
    return any(
        "tiny_spira.py" in words and " stage train " in words for _, words in service.alive()
    )


def _by_hand(service: Any, name: str) -> float:
    """Seconds that the six commands take one after the other."""
    from spira.training.plan import STAGES

    experiment = service.experiments / f"{name}.yaml"
    program = json.loads(service.settings["SPIRA_SCHEDULING__COMMAND"])
    began = time.perf_counter()
    for stage in STAGES:
        subprocess.run(
            [*program, "stage", stage, str(experiment), "--data", "tiny"],
            env={**os.environ, **service.environment},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    return time.perf_counter() - began


def _run_s(service: Any, run_id: str | None) -> float:
    """Seconds from a run's start to its end, by Dagster's own clock."""
    from spira.scheduling.instance import open_instance

    assert run_id is not None
    with open_instance(service.home) as instance:
        record = instance.get_run_record_by_id(run_id)
        assert record is not None
        assert record.start_time is not None
        assert record.end_time is not None
        return record.end_time - record.start_time


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"
