"""Killed with -9 at random moments, the pipeline goes on and ends with the same bytes."""

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from spira.stores.registry import Registry
from spira.stores.settings import StoresSettings

STAGES = ["snapshot", "split", "features", "train", "evaluate", "publish"]


@dataclass(frozen=True)
class Tiny:
    """The tiny experiment: how it is started, and what it leaves when nothing disturbs it."""

    command: Callable[..., list[str]]
    stage_bytes: Callable[[Path], dict[str, dict[str, str]]]
    experiment: Path
    imported: Path  # a data folder with the corpus only
    trained: Path  # a data folder after an undisturbed run

    def train(self, home: Path) -> "subprocess.Popen[str]":
        """Start `spira train` as the head of a process group."""
        return subprocess.Popen(
            self.command(home, "train", str(self.experiment), "--data", "tiny"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )

    def assert_as_undisturbed(self, home: Path) -> None:
        """The same bytes of every stage, and one model version, the challenger, with its report."""
        assert self.stage_bytes(home) == self.stage_bytes(self.trained)
        (version,) = Registry.open(StoresSettings(), home=home).versions()
        assert version.aliases == ("challenger",)
        assert "report.html" in version.files


@pytest.fixture
def tiny(
    spira_command: Callable[..., list[str]],
    bytes_of_stages: Callable[[Path], dict[str, dict[str, str]]],
    tiny_experiment: Path,
    tiny_home: Path,
    trained_home: Path,
) -> Tiny:
    """The tiny experiment."""
    return Tiny(spira_command, bytes_of_stages, tiny_experiment, tiny_home, trained_home)


@pytest.mark.parametrize(
    ("kills", "seed"), [(6, 20261124), pytest.param(40, 7, marks=pytest.mark.slow)]
)
def test_killed_anywhere_it_ends_with_the_same_bytes(
    kills: int, seed: int, tiny: Tiny, copy: Callable[[Path], Path]
) -> None:
    """Split, features, weights, predictions, metrics and ONNX equal an uninterrupted run's.

    Kills come at random moments of the whole run; whenever it completes all the same, the result
    is compared and it starts anew. No stage that was committed is ever done again.
    """
    rng = random.Random(seed)
    took_s = undisturbed_s(tiny.trained)
    home, known, committed = copy(tiny.imported), set[Path](), set[str]()
    completed, left = 0, kills
    while left or not completed:
        process = tiny.train(home)
        try:
            _, errors = process.communicate(timeout=rng.uniform(0.2, took_s) if left else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            left -= 1
            assert not done_by_runs(home, but=known) & committed
            known, committed = run_records(home), committed_stages(home)
            continue
        assert process.returncode == 0, errors
        assert not done_by_runs(home, but=known) & committed
        tiny.assert_as_undisturbed(home)
        completed += 1
        if left:
            home, known, committed = copy(tiny.imported), set(), set()
    print(f"kills={kills} seed={seed} completed={completed} undisturbed={took_s:.0f}s")


def undisturbed_s(trained: Path) -> float:
    """How long the whole command took, starting included."""
    (record,) = (trained / "runs").glob("*/run.json")
    return 1.5 + float(sum(row["seconds"] for row in json.loads(record.read_text())["stages"]))


def run_records(home: Path) -> set[Path]:
    """The record of every run that lived long enough to make one."""
    return set((home / "runs").glob("*/run.json"))


def done_by_runs(home: Path, *, but: set[Path]) -> set[str]:
    """The stages that runs did themselves, without those of the records `but`."""
    records = [json.loads(path.read_text()) for path in run_records(home) - but]
    return {row["stage"] for run in records for row in run["stages"] if not row["already"]}


def committed_stages(home: Path) -> set[str]:
    """The stages whose artifact is in the store."""
    return {stage for stage in STAGES if any((home / "store/manifests" / stage).glob("*.json"))}


def test_a_second_run_does_nothing(tiny: Tiny, copy: Callable[[Path], Path]) -> None:
    """All six stages are already done and the same model version stands."""
    home = copy(tiny.trained)

    output, errors = tiny.train(home).communicate()

    assert output.count("already done") == len(STAGES), errors
    tiny.assert_as_undisturbed(home)


@pytest.mark.parametrize("stage", STAGES)
def test_a_damaged_artifact_is_made_again(
    stage: str, tiny: Tiny, copy: Callable[[Path], Path]
) -> None:
    """One byte of a stage's largest file is flipped: the next run ends with the right bytes.

    Not of a file that the dataset has too: what was imported can only be imported again.
    """
    home = copy(tiny.trained)
    imported = files_of(home, "dataset")
    made = {
        digest: size for digest, size in files_of(home, stage).items() if digest not in imported
    }
    digest = max(made, key=lambda digest: made[digest])
    blob = home / "store/blobs" / digest[:2] / digest
    right = blob.read_bytes()
    blob.write_bytes(right[:-9] + bytes([right[-9] ^ 1]) + right[-8:])

    process = tiny.train(home)
    _, errors = process.communicate()

    assert process.returncode == 0, errors
    assert blob.read_bytes() == right
    tiny.assert_as_undisturbed(home)


def files_of(home: Path, stage: str) -> dict[str, int]:
    """Digest and size of each file of a stage's only artifact."""
    (manifest,) = (home / "store/manifests" / stage).glob("*.json")
    files = json.loads(manifest.read_text().partition("\n")[2])["files"]
    return {digest: int(size) for digest, size in files.values()}


def test_two_runs_at_once_do_not_disturb_each_other(
    tiny: Tiny, copy: Callable[[Path], Path]
) -> None:
    """Both end well, with the bytes of one run and one model version."""
    home = copy(tiny.imported)

    both = [tiny.train(home), tiny.train(home)]
    errors = [process.communicate()[1] for process in both]

    assert [process.returncode for process in both] == [0, 0], errors
    tiny.assert_as_undisturbed(home)
