"""The plan: what each stage of an experiment is made of, and so what its artifact is called.

    snapshot -> split -> features -> train -> evaluate -> publish

A stage's fingerprint is the digest of its inputs' fingerprints, its parameters and its version,
so the whole chain of names is known before anything runs.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

from spira.domain.errors import InputError
from spira.domain.fingerprint import fingerprint
from spira.domain.progress import Progress, no_progress
from spira.evaluation.settings import EvaluationSettings
from spira.stores.artifacts import Artifact, ArtifactStore
from spira.training.experiments import Experiment
from spira.training.settings import TrainingSettings

StageName = Literal["snapshot", "split", "features", "train", "evaluate", "publish"]
STAGES: tuple[StageName, ...] = get_args(StageName)

# A stage's version changes whenever its code would make other bytes of the same inputs.
VERSIONS: Mapping[StageName, int] = {
    "snapshot": 1,
    "split": 2,
    "features": 2,
    "train": 2,
    "evaluate": 2,
    "publish": 3,
}
INPUTS: Mapping[StageName, tuple[StageName, ...]] = {
    "snapshot": (),
    "split": ("snapshot",),
    "features": ("snapshot",),
    "train": ("snapshot", "split", "features"),
    "evaluate": ("snapshot", "split", "features", "train"),
    "publish": ("train", "evaluate"),
}
Files = Mapping[str, Path | bytes]


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
    if experiment.stores_features:
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
                "version": VERSIONS[stage],
                "inputs": {name: names[name] for name in INPUTS[stage]},
                "parameters": parameters[stage],
            }
        )
    return Plan(experiment, dataset, names, parameters, training, evaluation)


def host_facts(training: TrainingSettings) -> dict[str, Any]:
    """What the trained bits depend on beside the experiment: same facts, same bytes."""
    return {
        "accelerator": training.accelerator,
        "device": _gpu_kind() if training.accelerator == "cuda" else _cpu_kind(),
        "cpu": _cpu_kind(),  # features are computed there, wherever the network is
        "threads": training.threads,
        "processes": 1,
        **_versions("torch", "lightning-fabric", "numpy", "scipy"),
        **({"tf32": False} if training.accelerator == "cuda" else {}),
    }


def _versions(*packages: str) -> dict[str, str]:
    try:
        return {package: version(package) for package in packages}
    except PackageNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed; `pip install 'spira[train]'` brings what is missing"
        ) from error


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
