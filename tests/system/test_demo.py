"""The main job, small: it comes to its end whatever the policy says, and is never done twice."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from spira.stores.registry import Registry
from spira.stores.settings import StoresSettings

Ended = subprocess.CompletedProcess[str]
Spira = Callable[..., Ended]

REFUSED = 3
QUICK = """\
name: quick
split: {key: demo, fractions: {train: 0.375, validation: 0.125, test: 0.5}}
noise: {kind: snr, present: 1, absent: 1}
network: {kind: compact}
windows: {length_s: 2, step_s: 2}
optimisation: {epochs: 2, optimiser: {kind: adamw}, schedule: {kind: cosine}}
"""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A demo of 60 people and two epochs, in one process: others take longer to start."""
    experiment = tmp_path_factory.mktemp("experiment") / "quick.yaml"
    experiment.write_text(QUICK)
    alone = ("--setting", "datasets.jobs=1", "--setting", "training.jobs=1")
    return (*alone, "demo", "--participants", "60", "--experiment", str(experiment))


@pytest.fixture(scope="module")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory, spira: Spira, words: tuple[str, ...]
) -> Path:
    """A data folder in which that demo came as far as its evaluation; copy it before writing."""
    home = tmp_path_factory.mktemp("demo") / "home"
    ended = spira(home, *words, ok=False)
    assert ended.returncode == REFUSED, ended.stderr
    shutil.rmtree(home / "demo")
    return home


def assert_stays_done(home: Path, words: tuple[str, ...], here: Spira, *, first: Ended) -> None:
    """A second call runs nothing, and ends with the same summary, exit code and reason."""
    second = here(home, *words)

    summary = first.stdout[first.stdout.rindex("simulated people of the test side") :]
    report = Path(summary.rpartition("Report: ")[2].strip())
    assert report.exists()
    assert second.returncode == first.returncode
    assert second.stderr == "".join(
        line for line in first.stderr.splitlines(keepends=True) if line.startswith("spira: ")
    )
    assert "Everything was done already; nothing was run." in second.stdout
    assert "$ spira" not in second.stdout
    assert second.stdout.endswith(summary)


def test_a_demo_that_the_policy_refuses_ends_with_its_summary_and_stays_done(
    evaluated: Path,
    words: tuple[str, ...],
    here: Spira,
    copy: Callable[[Path], Path],
    evaluated_as: Callable[..., None],
) -> None:
    """Too few people are tested: it warns, goes on without a champion, and says why."""
    home, unknown = copy(evaluated), "not enough data"
    evaluated_as(home, noise=unknown, background=unknown, acquisition=unknown)

    first = here(home, *words)

    assert first.returncode == REFUSED, first.stderr
    assert "too few are tested for the policy" in first.stdout
    assert "goes on without a champion" in first.stdout
    assert "RI present" in first.stdout  # people of the test side were asked about
    assert "sem significado clínico" in first.stdout
    assert "refused by policy demo" in first.stderr
    assert_stays_done(home, words, here, first=first)


def test_a_demo_whose_model_failed_an_audit_ends_with_its_summary_and_stays_done(
    evaluated: Path,
    words: tuple[str, ...],
    here: Spira,
    copy: Callable[[Path], Path],
    evaluated_as: Callable[..., None],
) -> None:
    """No model is registered, so none is promoted or asked; figures, audits and report are told."""
    home = copy(evaluated)
    evaluated_as(home, background="fail")

    first = here(home, *words)

    assert first.returncode == REFUSED, first.stderr
    assert "goes on without a model" in first.stdout
    assert "background fail" in first.stdout
    assert "$ spira train" in first.stdout
    assert "$ spira model promote" not in first.stdout
    assert "$ spira predict" not in first.stdout
    assert "audit background failed" in first.stderr
    assert Registry.open(StoresSettings(), home=home).versions() == []
    assert_stays_done(home, words, here, first=first)
