"""Stages are named by what they are made of."""

import pytest

from spira.evaluation.settings import EvaluationSettings
from spira.training.experiments import Experiment, parse_experiment
from spira.training.pipeline import STAGES, Plan, StageName, make_plan, stores_features
from spira.training.settings import TrainingSettings

DATASET = "d" * 64


def plan(*overrides: str, dataset: str = DATASET, threads: int = 1, limit: float = 0.65) -> Plan:
    """The plan of an experiment that differs from the default by a few keys."""
    return make_plan(
        parse_experiment("name: x", where="test", overrides=overrides),
        dataset,
        training=TrainingSettings(threads=threads),
        evaluation=EvaluationSettings(auroc_limit=limit),
    )


def changed(other: Plan) -> list[StageName]:
    """The stages that have another name than in the default plan."""
    return [stage for stage in STAGES if plan().fingerprints[stage] != other.fingerprints[stage]]


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


def test_features_are_stored_only_where_they_stay_the_same() -> None:
    """With noise, or with windows that start anywhere, they are made anew every epoch."""
    still = Experiment.model_validate({"name": "x", "noise": {"kind": "none"}})
    moving = still.model_copy(
        update={"optimisation": still.optimisation.model_copy(update={"random_start": True})}
    )

    assert stores_features(still)
    assert not stores_features(moving)
    assert not stores_features(Experiment(name="x"))
