"""Two honest, simple competitors: timing of pauses, and summary features. Both are physiology.

A model that does not beat them has learned nothing that a ruler and a stopwatch do not show.
Each is a logistic regression, trained on the people that the model was trained on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from spira.domain.answers import Sentence
from spira.domain.errors import InputError
from spira.evaluation.intervals import auroc_difference, auroc_estimate
from spira.evaluation.metrics import per_participant
from spira.evaluation.results import Baseline, Estimate, standing
from spira.evaluation.wording import NOT_AVAILABLE, decimal, fill, interval, word

TITLES: dict[Literal["timing", "summary"], Sentence] = {
    "timing": Sentence(pt="Só o tempo das pausas", en="Timing of pauses only"),
    "summary": Sentence(pt="Só médias simples do som", en="Plain averages of the sound only"),
}


@dataclass(frozen=True)
class Sample:
    """Test recordings as a baseline sees them, under one condition."""

    features: ArrayLike  # [n, k], NaN where not measured
    present: ArrayLike  # [n] booleans
    participants: ArrayLike  # [n] pseudonyms
    model: ArrayLike  # [n] the model's probability of present, of the same recordings


def fit_baseline(features: ArrayLike, present: ArrayLike) -> Any:
    """A logistic regression on standardised features (L2, C = 1), on one thread.

    features  [n, k]; NaN and infinities count as not measured: the column's median is put in
              their place and a column that says so is added
    present   [n] booleans
    returns   a fitted sklearn pipeline; `baseline_scores` asks it
    raises    InputError when a class is missing
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    labels = np.asarray(present, dtype=bool)
    if labels.all() or not labels.any():
        raise InputError(
            f"a baseline needs recordings of both labels to train on, it was given "
            f"{int(labels.sum())} present and {int((~labels).sum())} absent"
        )
    pipeline = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(C=1.0, max_iter=10_000),
    )
    with threadpool_limits(1):
        return pipeline.fit(_finite(features), labels)


def baseline_scores(pipeline: Any, features: ArrayLike) -> NDArray[np.float64]:
    """Probability of present for each row, [n]."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return np.asarray(pipeline.predict_proba(_finite(features))[:, 1], dtype=np.float64)


def compare_baseline(
    name: Literal["timing", "summary"], pipeline: Any, *, clean: Sample, noise: Sample | None
) -> Baseline:
    """How well a fitted baseline ranks the test people, beside the model, on the same people.

    clean, noise  test recordings; noise None where the evaluation knows no noise

    A participant's score is the mean over recordings. The two are compared under each condition,
    by the paired interval of the difference of their AUROCs.
    """
    found = {
        condition: _compared(pipeline, sample)
        for condition, sample in (("clean", clean), ("noise", noise))
        if sample is not None
    }
    unknown = (Estimate(value=None, n=0),) * 3
    return Baseline(
        name=name,
        title=TITLES[name],
        auroc_clean=found["clean"][0],
        auroc_noise=found.get("noise", unknown)[0],
        difference_clean=found["clean"][2],
        difference_noise=found.get("noise", unknown)[2],
        explanation=_explanation(found),
    )


def _finite(features: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(features, dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


_Compared = tuple[Estimate, Estimate, Estimate]  # AUROC of the baseline, of the model, difference


def _compared(pipeline: Any, sample: Sample) -> _Compared:
    present = np.asarray(sample.present, dtype=bool)
    if present.size == 0:
        nothing = Estimate(value=None, n=0)
        return nothing, nothing, nothing
    rows = pl.DataFrame(
        {
            "participant_id": np.asarray(sample.participants).astype(str),
            "label": np.where(present, "present", "absent"),
        }
    )
    # One row a participant and label, in one order for both.
    rule, model = (
        per_participant(rows.with_columns(probability=pl.Series(np.asarray(scores, np.float64))))
        for scores in (baseline_scores(pipeline, sample.features), sample.model)
    )
    labels = (rule["label"] == "present").to_numpy()
    people = rule["participant_id"].to_numpy()
    ours, theirs = model["probability"].to_numpy(), rule["probability"].to_numpy()
    return (
        auroc_estimate(theirs, labels, people),
        auroc_estimate(ours, labels, people),
        auroc_difference(ours, theirs, labels, people),
    )


_CONDITIONS = {
    "clean": Sentence(pt="Sem ruído", en="Without noise"),
    "noise": Sentence(pt="Com ruído", en="With noise"),
}


def _explanation(found: dict[str, _Compared]) -> Sentence:
    told = list(_comparisons(found))
    if not told:
        return Sentence(
            pt="Não há pessoas com e sem insuficiência respiratória para comparar.",
            en="There are not people with and without respiratory insufficiency to compare.",
        )
    return Sentence(
        pt=" ".join(sentence.pt for sentence in told),
        en=" ".join(sentence.en for sentence in told),
    )


def _comparisons(found: dict[str, _Compared]) -> Iterator[Sentence]:
    for condition, (rule, model, difference) in found.items():
        if difference.value is None:
            continue
        yield fill(
            "{where}: AUROC {rule}; a do modelo, {model}; diferença, nas mesmas pessoas, entre "
            "{between}: {verdict}.",
            "{where}: AUROC {rule}; the model's, {model}; difference, on the same people, between "
            "{between}: {verdict}.",
            where=_CONDITIONS[condition],
            rule=decimal(rule.value),
            model=decimal(model.value),
            between=_between(difference),
            verdict=word(standing(difference)),
        )


def _between(difference: Estimate) -> Sentence:
    """Both ends of a difference, rounded outwards."""
    if difference.low is None:
        return NOT_AVAILABLE
    ends = interval(difference, signed=True)
    return Sentence(pt=ends.pt.replace(" a ", " e "), en=ends.en.replace(" to ", " and "))
