"""The pipeline: six stages, none ever done twice.

    snapshot -> split -> features -> train -> evaluate -> publish

A stage that is committed under the name that its plan gives it (spira.training.plan) is never
done again; a pipeline killed anywhere continues with the first stage that is not.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from spira.domain.errors import IntegrityError
from spira.domain.progress import Progress, no_progress
from spira.stores.artifacts import Artifact, ArtifactStore
from spira.stores.locks import locked
from spira.training.plan import INPUTS, STAGES, VERSIONS, Files, Plan, StageName, Work

if TYPE_CHECKING:
    from spira.stores.registry import Alias, Registry

_FUNCTIONS: Mapping[StageName, str] = {
    "snapshot": "spira.training.tables:snapshot",
    "split": "spira.training.tables:split",
    "features": "spira.training.features:features",
    "train": "spira.training.loop:train",
    "evaluate": "spira.training.evaluating:evaluate",
    "publish": "spira.training.publishing:publish",
}

_log = structlog.get_logger()


class StageFunction(Protocol):
    """One stage: reads its inputs, returns files and facts about them."""

    def __call__(self, work: Work) -> tuple[Files, dict[str, Any]]:
        """Do the work."""


@dataclass(frozen=True)
class Done:
    """How one stage ended."""

    stage: StageName
    artifact: Artifact
    already: bool  # it had been done before
    seconds: float = field(compare=False, default=0.0)


def find_done(
    plan: Plan,
    stage: StageName,
    *,
    store: ArtifactStore,
    open_registry: "Callable[[], Registry]",
    alias: "Alias | None" = "challenger",
) -> Artifact | None:
    """What a stage left, if it is done; asks only, and imports neither torch nor MLflow.

    alias     for publish: what the registry must have given the model, too
    returns   the committed artifact, intact; None where `run_stage` has something left to do, or
              where only MLflow could tell (a model on a server)
    raises    InputError for an artifact of a newer format; TransientError where the store is away
    """
    found = store.find(stage, plan.fingerprints[stage])
    if found is None or not store.intact(found):
        return None
    if stage == "publish" and not open_registry().holds(found.fingerprint, alias=alias):
        return None
    return found


def run_stage(
    plan: Plan,
    stage: StageName,
    *,
    store: ArtifactStore,
    home: Path,
    open_registry: "Callable[[], Registry]",
    alias: "Alias | None" = "challenger",
    progress: Progress = no_progress,
    waiting: Callable[[], None] | None = None,
) -> Done:
    """Run one stage unless it is done; of two processes at one fingerprint, one works, one waits.

    alias     what `publish` gives the model it registers; it is in no fingerprint
    raises    InputError when an input is missing; IntegrityError when one is damaged
    """
    import shutil
    import time

    name = plan.fingerprints[stage]
    began = time.monotonic()
    with (
        locked(home / "locks" / f"{stage}-{name}.lock", waiting=waiting),
        store.claimed(stage, name, waiting=waiting),
    ):
        found = store.find(stage, name)
        if found is not None and store.intact(found):
            _finish(stage, found, open_registry, alias)
            return Done(stage, found, already=True, seconds=time.monotonic() - began)
        if found is not None:
            _log.warning("damaged artifact discarded", stage=stage, fingerprint=name)
            store.discard(found)
        _log.info("stage started", stage=stage, fingerprint=name)
        folder = home / "work" / f"{stage}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            work = Work(plan, stage, store, folder, progress)
            files, about = _function(stage)(work)
            about |= {
                "experiment": plan.experiment.name,
                "dataset": plan.dataset,
                "inputs": {name: plan.fingerprints[name] for name in INPUTS[stage]},
                "parameters": plan.parameters[stage],
                "version": VERSIONS[stage],
            }
            artifact = store.commit(stage, name, files, about)
            store.clear_scratch(name)
            _finish(stage, artifact, open_registry, alias)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - began
    _log.info("stage done", stage=stage, fingerprint=name, seconds=round(seconds, 3))
    return Done(stage, artifact, already=False, seconds=seconds)


def run_pipeline(
    plan: Plan,
    *,
    store: ArtifactStore,
    home: Path,
    open_registry: "Callable[[], Registry]",
    progress: Progress = no_progress,
    waiting: Callable[[], None] | None = None,
) -> Iterator[Done]:
    """Run every stage in order, yielding as each ends.

    A damaged input found on the way is discarded and made again, once; damage of the dataset
    itself cannot be mended here and is raised.
    """
    mended = False
    position = 0
    while position < len(STAGES):
        stage = STAGES[position]
        try:
            done = run_stage(
                plan,
                stage,
                store=store,
                home=home,
                open_registry=open_registry,
                progress=progress,
                waiting=waiting,
            )
        except IntegrityError:
            damaged = [] if mended else _damaged(plan, stage, store)
            if not damaged:
                raise
            mended = True
            _log.warning("damaged inputs discarded", stages=[a.stage for a in damaged])
            for artifact in damaged:
                store.discard(artifact)
            position = 0
            continue
        yield done
        position += 1


def _damaged(plan: Plan, stage: StageName, store: ArtifactStore) -> list[Artifact]:
    """The inputs of a stage, however far back, whose bytes are not what was committed."""
    damaged = []
    for name in STAGES[: STAGES.index(stage)]:
        artifact = store.find(name, plan.fingerprints[name])
        if artifact is not None and not store.intact(artifact, thorough=True):
            damaged.append(artifact)
    return damaged


def _finish(
    stage: StageName,
    artifact: Artifact,
    open_registry: "Callable[[], Registry]",
    alias: "Alias | None",
) -> None:
    """A published model is in the registry, also when the registry was lost or is another one."""
    if stage != "publish":
        return
    registry = open_registry()
    if not registry.holds(artifact.fingerprint, alias=alias):
        from spira.training.publishing import register

        register(artifact, registry, alias=alias)


def _function(stage: StageName) -> StageFunction:
    module, _, name = _FUNCTIONS[stage].partition(":")
    function: StageFunction = getattr(importlib.import_module(module), name)
    return function
