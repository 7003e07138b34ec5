"""Killed with -9 at any moment, the pipeline goes on and ends with the same bytes."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
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


@dataclass(frozen=True)
class Target:
    """A state of the data folder that lasts a moment, and when in it the kill comes."""

    stage: str
    phase: str
    delay_s: float = 0.0  # from the moment the state is seen

    def __str__(self) -> str:
        return f"{self.stage}: {self.phase}"

    def holds(self, watched: "Watched") -> bool:
        """Whether the data folder is in this state, by the hand of the run that is watched."""
        committed, at_work = watched.committed(self.stage), watched.at_work(self.stage)
        match self.phase:
            case "at work":
                return at_work and not committed
            case "checkpoint saved":
                return at_work and not committed and watched.has_new("store/scratch/*/*")
            case "files without a manifest":
                return at_work and not committed and watched.has_new("store/blobs/*/*")
            case "manifest just written":
                return at_work and committed
            case "database being made":
                return watched.has_new("mlflow/making-*")
            case "run without a version":
                return watched.rows(RUNS) > 0 and watched.rows(VERSIONS) == 0
            case "version without alias":
                return watched.rows(VERSIONS) > watched.rows(ALIASES)
            case _:  # at any time
                return True

    def passed(self, watched: "Watched") -> bool:
        """Whether the state cannot come any more in this run."""
        match self.phase:
            case "database being made":
                return (watched.home / "mlflow" / "mlflow.db").exists()
            case "run without a version":
                return watched.rows(VERSIONS) > 0
            case "version without alias":
                return watched.rows(ALIASES) > 0
            case "manifest just written":
                return watched.committed(self.stage) and not watched.at_work(self.stage)
            case "at any time":
                return False
            case _:
                return watched.committed(self.stage)


WORKING = ("at work", "files without a manifest", "manifest just written")
REGISTERING = ("database being made", "run without a version", "version without alias")
RUNS, VERSIONS, ALIASES = "runs", "model_versions", "registered_model_aliases"


def targets_of_a_life(rng: random.Random, took_s: dict[str, float]) -> list[Target]:
    """One or more a stage, in the order in which a run comes by, and one at any time."""
    targets = []
    for stage in STAGES:
        phases = [*WORKING, "checkpoint saved"] if stage == "train" else WORKING
        phase = rng.choice(phases)
        within = took_s[stage] if phase in ("at work", "checkpoint saved") else 0
        targets.append(Target(stage, phase, rng.uniform(0, 0.6 * within)))
    targets.append(Target("publish", rng.choice(REGISTERING)))
    anywhen = Target("some stage", "at any time", rng.uniform(0.2, 4.0))
    targets.insert(rng.randrange(len(targets)), anywhen)
    return targets


class Watched:
    """A data folder, seen from outside: what the run that starts now does to it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._before = dict(
            self._stamps("work/*", "store/scratch/*/*", "store/blobs/*/*", "mlflow/making-*")
        )

    def _stamps(self, *patterns: str) -> Iterator[tuple[str, tuple[int, int]]]:
        for pattern in patterns:
            for path in self.home.glob(pattern):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    yield str(path), (status.st_ino, status.st_mtime_ns)

    def has_new(self, pattern: str) -> bool:
        """Whether something is there that was not when the run started, or was another file."""
        return any(self._before.get(name) != stamp for name, stamp in self._stamps(pattern))

    def at_work(self, stage: str) -> bool:
        """Whether the run has made the stage's working folder and not removed it yet."""
        return self.has_new(f"work/{stage}-*")

    def committed(self, stage: str) -> bool:
        """Whether the stage's artifact is there."""
        return stage in committed_stages(self.home)

    def rows(self, table: str) -> int:
        """How many the registry's table has; none while there is no registry."""
        uri = f"file:{self.home / 'mlflow' / 'mlflow.db'}?mode=ro"
        try:
            with closing(sqlite3.connect(uri, uri=True)) as database:
                return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def killed_at_next(process: "subprocess.Popen[str]", home: Path, left: list[Target]) -> str | None:
    """Kill the run in the first state of `left` that is met; those that went by unseen go.

    The run is stopped before it is looked at again, so that what is killed is what was seen.
    returns   what was hit; None where the run came to its end
    """
    watched = Watched(home)
    seen_at: float | None = time.monotonic() if left[0].phase == "at any time" else None
    while process.poll() is None:
        while left and left[0].passed(watched):
            del left[0]
            seen_at = None
        if not left:
            break
        if seen_at is None and left[0].holds(watched):
            seen_at = time.monotonic()
        if seen_at is not None and time.monotonic() - seen_at >= left[0].delay_s:
            os.killpg(process.pid, signal.SIGSTOP)
            if left[0].holds(watched):
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                return str(left.pop(0))
            os.killpg(process.pid, signal.SIGCONT)
            seen_at = None
        time.sleep(0.001)
    left.clear()
    return None


@pytest.mark.parametrize(
    ("lives", "seed", "different"),
    [(1, 20261124, 5), pytest.param(5, 7, 15, marks=pytest.mark.slow)],
)
def test_killed_anywhere_it_ends_with_the_same_bytes(
    lives: int, seed: int, different: int, tiny: Tiny, copy: Callable[[Path], Path]
) -> None:
    """Split, features, weights, predictions, metrics and ONNX equal an uninterrupted run's.

    In a life a data folder is killed at a moment of every stage, the registry and at any time, up
    to eight times, and then comes to its end. No stage that was committed is ever done again.
    """
    rng = random.Random(seed)
    took_s = undisturbed_s(tiny.trained)
    hits: list[str] = []
    aimed: list[str] = []
    for life in range(lives + 2):
        if life >= lives and len(set(hits)) >= different:
            break  # a busy machine lets more moments go by unseen
        home, known, committed = copy(tiny.imported), set[Path](), set[str]()
        left = targets_of_a_life(rng, took_s)
        aimed += map(str, left)
        hit: str | None = "start"
        while hit:
            process = tiny.train(home)
            hit = killed_at_next(process, home, left) if left else None
            if hit:
                hits.append(hit)
            else:
                _, errors = process.communicate()
                assert process.returncode == 0, errors
            assert not done_by_runs(home, but=known) & committed, hits
            known, committed = run_records(home), committed_stages(home)
        tiny.assert_as_undisturbed(home)
    print(f"seed={seed}, {len(hits)} kills of {len(aimed)} aimed at:", *hits, sep="\n  ")
    print("went by unseen:", *(Counter(aimed) - Counter(hits)).elements(), sep="\n  ")
    assert len(set(hits)) >= different, hits


def undisturbed_s(trained: Path) -> dict[str, float]:
    """How long each stage took where nothing disturbed it."""
    (record,) = (trained / "runs").glob("*/run.json")
    return {row["stage"]: row["seconds"] for row in json.loads(record.read_text())["stages"]}


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
