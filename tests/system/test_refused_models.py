"""A model that failed a shortcut audit is published by no command, and its report says why."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spira.stores.artifacts import ArtifactStore
from spira.stores.registry import Registry
from spira.stores.settings import StoresSettings
from spira.training.plan import STAGES

Ended = subprocess.CompletedProcess[str]
Spira = Callable[..., Ended]
Copy = Callable[[Path], Path]
REFUSED = 3


@pytest.fixture(scope="module")
def evaluated_home(
    tmp_path_factory: pytest.TempPathFactory, trained_home: Path, evaluated_as: Callable[..., None]
) -> Path:
    """A data folder whose model failed two audits and is not published; copy before writing."""
    home = Path(shutil.copytree(trained_home, tmp_path_factory.mktemp("evaluated") / "home"))
    evaluated_as(home, noise="fail", background="fail")
    shutil.rmtree(home / "runs")
    return home


def published(home: Path) -> list[Any]:
    """Everything that a publish leaves: artifacts and registered versions."""
    store = ArtifactStore.open(str(home / "store"), cache=home / "cache")
    return [*store.list("publish"), *Registry.open(StoresSettings(), home=home).versions()]


def assert_says_why(ended: Ended, home: Path) -> None:
    """Exit code 3; each failed audit with its figures, what to do, and a report that is there."""
    store = ArtifactStore.open(str(home / "store"), cache=home / "cache")
    (evaluated,) = store.list("evaluate")
    audits = {audit["name"]: audit for audit in evaluated.read_json("metrics.json")["audits"]}
    assert ended.returncode == REFUSED, ended.stderr
    *failed, advice = [line for line in ended.stderr.splitlines() if line.startswith("spira: ")]
    for line, name, limit in zip(failed, ("noise", "background"), ("0.10", "0.65"), strict=True):
        bound = audits[name]["bound"]
        assert line.startswith(f"spira: stage publish: audit {name} failed: ")
        assert f"{audits[name]['statistic']} " in line
        assert f"one-sided 95 % bound {bound:.3f}"[:-1] in line
        assert line.endswith(f"limit {limit}")
    assert "nothing is registered" in advice
    assert "the ward instead of the voice: read its report, then try another exp" in advice
    report = Path(ended.stdout.partition("Report: ")[2].strip())
    assert report.suffix == ".html"
    assert report.read_bytes() == evaluated.read("report.html")


def test_a_run_whose_model_failed_an_audit_ends_as_refused(
    evaluated_home: Path, tiny_experiment: Path, here: Spira, copy: Copy
) -> None:
    """`spira train` publishes nothing; the run says that it was refused, and keeps its report."""
    home = copy(evaluated_home)
    words = ("train", str(tiny_experiment), "--data", "tiny")

    ended = here(home, *words)
    again = here(home, *words)
    run = json.loads(here(home, "--json", *words).stdout)
    listed = json.loads(here(home, "--json", "runs", "list").stdout)
    shown = here(home, "runs", "show", run["run_id"]).stdout

    for one in (ended, again):
        assert_says_why(one, home)
    assert run in listed
    assert {one["state"] for one in listed} == {"refused"}
    assert "audit noise failed" in run["reason"]
    assert [row["stage"] for row in run["stages"]] == list(STAGES[:-1])
    assert run["reason"] in shown
    assert Path(shown.partition("Report: ")[2].strip()).exists()
    assert published(home) == []


def test_a_stage_alone_publishes_no_model_that_failed_an_audit(
    evaluated_home: Path, tiny_experiment: Path, spira_command: Any, copy: Copy
) -> None:
    """`spira stage publish` refuses without importing torch, and leaves the report to be read."""
    home = copy(evaluated_home)
    words = spira_command(home, "stage", "publish", str(tiny_experiment), "--data", "tiny")[3:]
    started = "import sys; sys.modules['torch'] = None; from spira.cli import main; main()"

    ended = subprocess.run(
        [sys.executable, "-c", started, *words], capture_output=True, text=True, check=False
    )

    assert_says_why(ended, home)
    assert published(home) == []
    assert not list((home / "work").iterdir())


def test_a_model_of_which_too_little_is_known_is_published(trained_home: Path, copy: Copy) -> None:
    """Where no audit failed, "not enough data" stops nothing: that is left to promotion."""
    home = copy(trained_home)
    store = ArtifactStore.open(str(home / "store"), cache=home / "cache")
    (evaluated,) = store.list("evaluate")

    audits = [one for one in evaluated.read_json("metrics.json")["audits"] if one["refuses"]]

    assert {one["verdict"] for one in audits} == {"not enough data"}
    (artifact, version) = published(home)
    assert artifact.fingerprint == version.fingerprint


def test_clean_keeps_a_run_that_was_refused(
    evaluated_home: Path, tiny_experiment: Path, here: Spira, copy: Copy
) -> None:
    """It came to its end, and its report is why it was refused."""
    home = copy(evaluated_home)
    here(home, "train", str(tiny_experiment), "--data", "tiny")

    cleaned = json.loads(here(home, "--json", "runs", "clean", "--interrupted").stdout)

    assert cleaned["runs"] == 0
    (run,) = (home / "runs").iterdir()
    assert (run / "report.html").exists()
