"""Runs: who ran what, when, and how it ended. Times and hosts live here, outside fingerprints."""

import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from spira.domain.errors import InputError, PolicyRefused
from spira.stores.artifacts import ArtifactStore
from spira.stores.locks import is_held, locked
from spira.training.experiments import compose
from spira.training.pipeline import Done
from spira.training.plan import STAGES, Plan, StageName

RunState = Literal["running", "complete", "refused", "failed", "interrupted"]
_FETCHED_WITHIN_S = 3600.0  # a model, a blob, an empty database: seconds each


@dataclass
class Run:
    """One attempt at a pipeline, as written in `runs/ID/run.json`."""

    run_id: str
    experiment: str
    seed: int
    dataset: str
    started_at: str
    fingerprints: dict[str, str]
    host: dict[str, str]
    ended_at: str | None = None
    state: RunState = "running"
    reason: str | None = None  # of a refusal, a failure or an interruption
    stages: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def recorded(home: Path, plan: Plan) -> Iterator["Recorder"]:
    """Record a run while it lasts; however it ends, its folder says so."""
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    folder = home / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text(compose(plan.experiment), encoding="utf-8")
    run = Run(
        run_id=run_id,
        experiment=plan.experiment.name,
        seed=plan.experiment.seed,
        dataset=plan.dataset,
        started_at=now.isoformat(timespec="seconds"),
        fingerprints=dict(plan.fingerprints.items()),
        host={"machine": platform.machine(), "system": platform.system(), "pid": str(os.getpid())},
    )
    with locked(folder / "lock"):
        recorder = Recorder(folder, run)
        recorder.write()
        try:
            yield recorder
            run.state = "complete"
        except KeyboardInterrupt:
            run.state, run.reason = "interrupted", "interrupted from the keyboard"
            raise
        except PolicyRefused as refusal:
            run.state, run.reason = "refused", str(refusal)
            raise
        except Exception as error:
            run.state, run.reason = "failed", str(error) or type(error).__name__
            raise
        finally:
            run.ended_at = datetime.now(UTC).isoformat(timespec="seconds")
            recorder.write()


@dataclass
class Recorder:
    """The open record of a run."""

    folder: Path
    run: Run

    def add(self, done: Done) -> None:
        """A stage ended."""
        self.run.stages.append(
            {
                "stage": done.stage,
                "fingerprint": done.artifact.fingerprint,
                "already": done.already,
                "seconds": round(done.seconds, 3),
            }
        )
        self.write()

    def keep(self, name: str, source: Path) -> Path:
        """Put a copy of a file where people find it: in the run's folder."""
        target = self.folder / name
        shutil.copyfile(source, target)
        return target

    def write(self) -> None:
        """Write `run.json` as a whole."""
        temporary = self.folder / ".run.json"
        temporary.write_text(json.dumps(asdict(self.run), indent=2), encoding="utf-8")
        temporary.replace(self.folder / "run.json")


def list_runs(home: Path) -> list[Run]:
    """Every run, newest first; one whose process is gone without a word is `interrupted`."""
    found = [_read(path) for path in sorted((home / "runs").glob("*/run.json"), reverse=True)]
    return [run for run in found if run is not None]


def find_run(home: Path, run_id: str) -> Run:
    """The run with this id, or the only one whose id begins so.

    raises    InputError when there is none, or more than one
    """
    matches = [run for run in list_runs(home) if run.run_id.startswith(run_id)]
    if len(matches) != 1:
        raise InputError(
            f"run {run_id}: {len(matches)} runs have an id that begins so; "
            "`spira runs list` shows them"
        )
    return matches[0]


@dataclass(frozen=True)
class Cleaned:
    """What `clean` removed."""

    runs: int
    checkpoints: int
    folders: int
    bytes_freed: int


def clean(home: Path, store: ArtifactStore, *, interrupted: bool = False) -> Cleaned:
    """Remove what kills left behind; nothing that a run still needs.

    Always: working folders and locks without a process, runs without a record, checkpoints of
    stages that are committed, files that no artifact names, what was half-fetched. With
    `interrupted`: also the records of runs that were interrupted or failed, and every checkpoint
    that no other run needs; such a stage then starts from its beginning.

    raises    TransientError while another process writes here; IntegrityError, before anything is
              removed, where the manifest of a dataset is damaged
    """
    # Whoever trains holds `writers`, so no lock of a stage is held, and no checkpoint is in use.
    with locked(home / "locks" / "writers", wait=False):
        freed = store.sweep()  # first: it refuses before it deletes
        removed_runs = 0
        needed: set[str] = set()
        for run in list_runs(home):
            if interrupted and run.state in ("interrupted", "failed"):
                shutil.rmtree(home / "runs" / run.run_id)
                removed_runs += 1
            else:
                needed.update(run.fingerprints.values())
        unneeded = {artifact.fingerprint for stage in STAGES for artifact in store.list(stage)}
        if interrupted:  # `spira stage` records no run: what nobody needs goes, whoever saved it
            unneeded |= store.scratch(settled=True) - needed
        checkpoints = store.scratch() & unneeded
        for name in checkpoints:
            store.clear_scratch(name)
        folders = [*_left(home), *_half_fetched(home)]
        for path in folders:
            shutil.rmtree(path, ignore_errors=True)  # its owner may be removing it too
        for path in (home / "locks").glob("*.lock"):
            path.unlink()
        return Cleaned(removed_runs, len(checkpoints), len(folders), freed)


def _left(home: Path) -> Iterator[Path]:
    """Working folders, and folders of runs that did not live to write a record."""
    for path in (*(home / "work").glob("*"), *(home / "runs").glob("*")):
        if path.is_dir() and not (path / "run.json").exists():
            yield path


def _half_fetched(home: Path) -> Iterator[Path]:
    """What a killed process was fetching or making; those at it now hold no lock that tells."""
    for pattern in ("cache/fetching-*", "cache/models/fetching-*", "mlflow/making-*"):
        for path in home.glob(pattern):
            with suppress(FileNotFoundError):  # its owner has just removed it
                if path.stat().st_mtime < time.time() - _FETCHED_WITHIN_S:
                    yield path


def stage_rows(run: Run) -> list[tuple[StageName, str, str]]:
    """(stage, state, seconds) of each stage of a run, in order."""
    ended = {row["stage"]: row for row in run.stages}
    rows: list[tuple[StageName, str, str]] = []
    for stage in STAGES:
        row = ended.get(stage)
        state = "not done" if row is None else "already done" if row["already"] else "done"
        rows.append((stage, state, "" if row is None else f"{row['seconds']:.1f} s"))
    return rows


def _read(path: Path) -> Run | None:
    """The record of a run; None where it is torn, or another version's."""
    try:
        run = Run(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return None
    if run.state == "running" and not is_held(path.parent / "lock"):
        run.state = "interrupted"
        run.reason = run.reason or "its process ended without a word; run the same command again"
    return run
