"""The pipeline: six stages, each named by what it is made of, none ever done twice.

    snapshot -> split -> features -> train -> evaluate -> publish

A stage's fingerprint is the digest of its inputs' fingerprints, its parameters and its version,
so the whole chain of names is known before anything runs. A stage that is committed is never done
again; a pipeline killed anywhere continues with the first stage that is not.
"""

import importlib
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import structlog

from spira.audio.noise import NoNoise
from spira.domain.errors import InputError, IntegrityError
from spira.domain.fingerprint import fingerprint
from spira.domain.progress import Progress, no_progress
from spira.evaluation.settings import EvaluationSettings
from spira.stores.artifacts import Artifact, ArtifactStore
from spira.stores.locks import locked
from spira.training.experiments import Experiment
from spira.training.settings import TrainingSettings

if TYPE_CHECKING:
    from spira.stores.registry import Registry

StageName = Literal["snapshot", "split", "features", "train", "evaluate", "publish"]
STAGES: tuple[StageName, ...] = get_args(StageName)

# A stage's version changes whenever its code would make other bytes of the same inputs.
_VERSIONS: Mapping[StageName, int] = {
    "snapshot": 1,
    "split": 1,
    "features": 2,
    "train": 2,
    "evaluate": 2,
    "publish": 2,
}
_INPUTS: Mapping[StageName, tuple[StageName, ...]] = {
    "snapshot": (),
    "split": ("snapshot",),
    "features": ("snapshot",),
    "train": ("snapshot", "split", "features"),
    "evaluate": ("snapshot", "split", "features", "train"),
    "publish": ("train", "evaluate"),
}
_FUNCTIONS: Mapping[StageName, str] = {
    "snapshot": "spira.training.tables:snapshot",
    "split": "spira.training.tables:split",
    "features": "spira.training.features:features",
    "train": "spira.training.loop:train",
    "evaluate": "spira.training.evaluating:evaluate",
    "publish": "spira.training.publishing:publish",
}

Files = Mapping[str, Path | bytes]
_log = structlog.get_logger()


@dataclass(frozen=True)
class Plan:
    """What would run, and under which names; nothing has been read but the dataset's digest."""

    experiment: Experiment
    dataset: str  # digest of the dataset version
    fingerprints: Mapping[StageName, str]
    parameters: Mapping[StageName, Mapping[str, Any]]
    training: TrainingSettings
    evaluation: EvaluationSettings


@dataclass(frozen=True)
class Work:
    """What a stage's function is handed; it returns the files to commit, and facts about them."""

    plan: Plan
    stage: StageName
    store: ArtifactStore
    folder: Path  # for temporary files; emptied afterwards
    progress: Progress = no_progress

    @property
    def experiment(self) -> Experiment:
        """The experiment being run."""
        return self.plan.experiment

    @property
    def fingerprint(self) -> str:
        """The name the result will be committed under."""
        return self.plan.fingerprints[self.stage]

    def input(self, stage: StageName) -> Artifact:
        """A committed input.

        raises    InputError when that stage has not been run
        """
        artifact = self.store.find(stage, self.plan.fingerprints[stage])
        if artifact is None:
            raise InputError(
                f"stage {self.stage}: its input {stage} is not there; "
                f"run `spira stage {stage}` with the same experiment and dataset first"
            )
        return artifact


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


def host_facts(training: TrainingSettings) -> dict[str, Any]:
    """What the trained bits depend on beside the experiment: same facts, same bytes."""
    return {
        "accelerator": training.accelerator,
        "device": _gpu_kind() if training.accelerator == "cuda" else _cpu_kind(),
        "cpu": _cpu_kind(),  # features are computed there, wherever the network is
        "threads": training.threads,
        "processes": 1,
        **_versions("torch", "lightning-fabric", "numpy", "scipy"),
    }


def make_plan(
    experiment: Experiment,
    dataset: str,
    *,
    training: TrainingSettings,
    evaluation: EvaluationSettings,
) -> Plan:
    """Name every stage of an experiment on a dataset version.

    dataset   digest of a dataset version
    """
    chosen = experiment.model_dump(mode="json")
    parameters: dict[StageName, dict[str, Any]] = {
        "snapshot": {
            "dataset": dataset,
            "utterance": chosen["utterance"],
            "exclude_findings": chosen["exclude_findings"],
            "shortest_samples": experiment.shortest_samples,
        },
        "split": {"split": chosen["split"]},
        "features": {
            "rate_hz": experiment.features.rate_hz,
            "decoding": _versions("av", "soundfile", "soxr"),
        },
        "train": {
            key: chosen[key]
            for key in ("seed", "features", "windows", "noise", "network", "optimisation")
        }
        | {"host": host_facts(training)},
        "evaluate": {
            "evaluation": chosen["evaluation"],
            "test_noise": experiment.test_noise.model_dump(mode="json"),
            "settings": evaluation.model_dump(mode="json"),
            "name": chosen["name"],  # the report tells the whole experiment
            "description": chosen["description"],
            "host": {
                "cpu": _cpu_kind(),  # also where the network was trained on a GPU
                "python": platform.python_version(),
                **_versions("spira", "numpy", "scipy", "scikit-learn", "polars", "onnxruntime"),
                **_versions("torch", "onnx", "onnxscript", "onnx-ir"),  # they write model.onnx
                **_versions("silero-vad", "jinja2", "pyyaml"),
            },
        },
        "publish": {},
    }
    if stores_features(experiment):
        parameters["features"] |= {
            "features": chosen["features"],
            "windows": chosen["windows"],
            "host": {"cpu": _cpu_kind(), **_versions("numpy", "scipy")},
        }
    names: dict[StageName, str] = {}
    for stage in STAGES:
        names[stage] = fingerprint(
            {
                "stage": stage,
                "version": _VERSIONS[stage],
                "inputs": {name: names[name] for name in _INPUTS[stage]},
                "parameters": parameters[stage],
            }
        )
    return Plan(experiment, dataset, names, parameters, training, evaluation)


def stores_features(experiment: Experiment) -> bool:
    """Whether windows' features stay the same between epochs, and so are computed once."""
    return isinstance(experiment.noise, NoNoise) and not (
        experiment.optimisation.random_start or experiment.optimisation.window_step_s
    )


def run_stage(
    plan: Plan,
    stage: StageName,
    *,
    store: ArtifactStore,
    home: Path,
    open_registry: "Callable[[], Registry]",
    progress: Progress = no_progress,
    waiting: Callable[[], None] | None = None,
) -> Done:
    """Run one stage unless it is done; of two processes at one fingerprint, one works, one waits.

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
            _finish(stage, found, open_registry)
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
                "inputs": {name: plan.fingerprints[name] for name in _INPUTS[stage]},
                "parameters": plan.parameters[stage],
                "version": _VERSIONS[stage],
            }
            artifact = store.commit(stage, name, files, about)
            store.clear_scratch(name)
            _finish(stage, artifact, open_registry)
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


def _finish(stage: StageName, artifact: Artifact, open_registry: "Callable[[], Registry]") -> None:
    """A published model is in the registry, also when the registry was lost or is another one."""
    if stage != "publish":
        return
    registry = open_registry()
    if not registry.holds(artifact.fingerprint):
        from spira.training.publishing import register

        register(artifact, registry)


def _versions(*packages: str) -> dict[str, str]:
    try:
        return {package: version(package) for package in packages}
    except PackageNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed; `pip install 'spira[train]'` brings what is missing"
        ) from error


def _function(stage: StageName) -> StageFunction:
    module, _, name = _FUNCTIONS[stage].partition(":")
    function: StageFunction = getattr(importlib.import_module(module), name)
    return function


def _gpu_kind() -> str:
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in file.read_text().splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return "unknown"


def _cpu_kind() -> str:
    """The model of the processor: kernels, and so last bits, are chosen by it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
