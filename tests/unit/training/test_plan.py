"""Stages are named by what they are made of."""

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from spira.console import Console
from spira.datasets.names import give_name
from spira.evaluation.settings import EvaluationSettings
from spira.settings import read_settings
from spira.stores.artifacts import ArtifactStore
from spira.training import plan as plans
from spira.training.experiments import Experiment, parse_experiment
from spira.training.plan import STAGES, Plan, StageName, make_plan
from spira.training.settings import TrainingSettings
from spira.wiring import Application

DATASET = "d" * 64


def plan(
    *overrides: str,
    dataset: str = DATASET,
    limit: float = 0.65,
    **training: Any,
) -> Plan:
    """The plan of an experiment that differs from the default by a few keys."""
    return make_plan(
        parse_experiment("name: x", where="test", overrides=overrides),
        dataset,
        training=TrainingSettings(**training),
        evaluation=EvaluationSettings(auroc_limit=limit),
    )


def changed(other: Plan, one: Plan | None = None) -> list[StageName]:
    """The stages that have another name than in the default plan, or in `one`."""
    one = one or plan()
    return [stage for stage in STAGES if one.fingerprints[stage] != other.fingerprints[stage]]


def test_the_same_plan_has_the_same_names() -> None:
    """Names do not depend on when or where they are computed."""
    assert changed(plan()) == []


@pytest.mark.parametrize(
    ("other", "stages"),
    [
        (plan(dataset="e" * 64), list(STAGES)),
        (plan("utterance=vowel"), list(STAGES)),
        (plan("split.key=mine"), ["split", "train", "evaluate", "publish"]),
        (plan("seed=43"), ["train", "evaluate", "publish"]),
        (plan("optimisation.epochs=2"), ["train", "evaluate", "publish"]),
        (plan(threads=2), ["train", "evaluate", "publish"]),
        (plan("evaluation.sensitivity_aim=0.8"), ["evaluate", "publish"]),
        (plan(limit=0.7), ["evaluate", "publish"]),
        (plan("description=mine"), ["evaluate", "publish"]),
    ],
    ids=["dataset", "utterance", "split", "seed", "epochs", "threads", "aim", "limit", "words"],
)
def test_a_change_renames_what_depends_on_it_and_nothing_else(
    other: Plan, stages: list[StageName]
) -> None:
    """Work that a change does not touch is shared with what was done before."""
    assert changed(other) == stages


COMPUTED: list[StageName] = ["features", "train", "evaluate", "publish"]
TRAINED, EVALUATED = COMPUTED[1:], COMPUTED[2:]
SOFTWARE: dict[str, tuple[list[StageName], list[StageName]]] = {
    # package: stages whose bytes it decides with noise, and where features are stored
    "av": (COMPUTED, COMPUTED),
    "soundfile": (COMPUTED, COMPUTED),
    "soxr": (COMPUTED, COMPUTED),
    "numpy": (TRAINED, COMPUTED),
    "scipy": (TRAINED, COMPUTED),
    "torch": (TRAINED, TRAINED),
    "lightning-fabric": (TRAINED, TRAINED),
    "spira": (EVALUATED, EVALUATED),
    "scikit-learn": (EVALUATED, EVALUATED),
    "polars": (EVALUATED, EVALUATED),
    "onnxruntime": (EVALUATED, EVALUATED),
    "onnx": (EVALUATED, EVALUATED),
    "onnxscript": (EVALUATED, EVALUATED),
    "onnx-ir": (EVALUATED, EVALUATED),
    "silero-vad": (EVALUATED, EVALUATED),
    "jinja2": (EVALUATED, EVALUATED),
    "pyyaml": (EVALUATED, EVALUATED),
}


@pytest.mark.parametrize("package", SOFTWARE)
@pytest.mark.parametrize("stored", [False, True])
def test_another_version_of_what_computes_renames_what_it_computes(
    package: str, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another library may give other bytes: the stage, and those after it, have another name."""
    keys = ["noise={kind: none}"] if stored else []
    before = plan(*keys)
    monkeypatch.setattr(
        "spira.training.plan.version",
        lambda name: "0.0" if name == package else version(name),
    )

    assert changed(plan(*keys), before) == SOFTWARE[package][stored]


@pytest.mark.parametrize(
    ("fact", "keys", "training", "stages"),
    [
        ("_cpu_kind", [], {}, TRAINED),
        ("_cpu_kind", ["noise={kind: none}"], {}, COMPUTED),
        ("_cpu_kind", [], {"accelerator": "cuda"}, TRAINED),
        ("_gpu_kind", [], {"accelerator": "cuda"}, TRAINED),
        ("_gpu_kind", [], {}, []),
    ],
)
def test_another_processor_renames_what_is_computed_on_it(
    fact: str,
    keys: list[str],
    training: dict[str, Any],
    stages: list[StageName],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kernels, and so last bits, are chosen by the kind of processor; decoding is not."""
    before = plan(*keys, **training)
    monkeypatch.setattr(plans, fact, lambda: "another kind")

    assert changed(plan(*keys, **training), before) == stages


def test_another_python_renames_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which says which one it was."""
    before = plan()
    monkeypatch.setattr("platform.python_version", lambda: "3.99")

    assert changed(plan(), before) == EVALUATED


@pytest.mark.parametrize("stage", STAGES)
def test_another_version_of_a_stage_renames_it_and_those_after_it(
    stage: StageName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes a stage's bytes raises its version, and nobody reads the old ones."""
    before = plan()
    monkeypatch.setattr(plans, "VERSIONS", {**plans.VERSIONS, stage: 99})

    after = changed(plan(), before)

    assert after[0] == stage
    assert after[-1] == "publish"


def test_what_decides_no_byte_is_in_no_name(tmp_path: Path, store: ArtifactStore) -> None:
    """How many processes work, how often they save, what the dataset is called, where it lies."""
    assert changed(plan(jobs=7, checkpoint_every_s=0)) == []

    store.commit("dataset", DATASET, {}, {})
    plans = []
    for number, name in enumerate(("one", "two")):
        home = tmp_path / f"home-{number}"
        app = Application(
            read_settings(home=home, overrides=[f"stores.artifacts={tmp_path / 'store'}"]),
            Console(),
        )
        give_name(app.artifacts, name, DATASET, datetime(2026, 1, 1, tzinfo=UTC))
        plans.append(app.plan(Experiment(name="x"), name))
    assert changed(*plans) == []


def test_features_are_stored_only_where_they_stay_the_same() -> None:
    """With noise, or with windows that start anywhere, they are made anew every epoch."""
    still = Experiment.model_validate({"name": "x", "noise": {"kind": "none"}})
    moving = still.model_copy(
        update={"optimisation": still.optimisation.model_copy(update={"random_start": True})}
    )

    assert still.stores_features
    assert not moving.stores_features
    assert not Experiment(name="x").stores_features
