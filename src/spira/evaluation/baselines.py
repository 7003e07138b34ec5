"""Two honest, simple competitors: timing of pauses, and summary features. Both are physiology.

A model that does not beat them has learned nothing that a ruler and a stopwatch do not show.
Each is a logistic regression, trained on the people that the model was trained on.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spira.domain.answers import Sentence
from spira.domain.errors import InputError
from spira.evaluation.intervals import auroc_estimate
from spira.evaluation.results import Baseline, Estimate
from spira.evaluation.wording import decimal, fill

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
    name: Literal["timing", "summary"],
    pipeline: Any,
    *,
    clean: Sample,
    noise: Sample | None,
    model_clean: Estimate,
    model_noise: Estimate | None,
) -> Baseline:
    """How well a fitted baseline ranks the test people, beside the model.

    clean, noise              test recordings; noise None where the evaluation knows no noise
    model_clean, model_noise  the model's AUROC per participant under the same conditions

    A participant's score is the mean over recordings. The two are compared under noise, or clean
    where no noise is: `better_than_model` is about the figures, not about proof.
    """
    on_clean = _per_participant(pipeline, clean)
    on_noise = _per_participant(pipeline, noise) if noise else Estimate(value=None, n=0)
    baseline, model = on_clean, model_clean
    noisy = model_noise is not None and None not in (model_noise.value, on_noise.value)
    if noisy and model_noise is not None:
        baseline, model = on_noise, model_noise
    better = baseline.value is not None and model.value is not None and baseline.value > model.value
    return Baseline(
        name=name,
        title=TITLES[name],
        auroc_clean=on_clean,
        auroc_noise=on_noise,
        better_than_model=better,
        explanation=_explanation(baseline.value, model.value, noisy=noisy),
    )


def _finite(features: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(features, dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _per_participant(pipeline: Any, sample: Sample) -> Estimate:
    present = np.asarray(sample.present, dtype=bool)
    if present.size == 0:
        return Estimate(value=None, n=0)
    scores = baseline_scores(pipeline, sample.features)
    person = np.asarray(sample.participants).astype(str)
    unit = np.array([f"{who}\x1f{label:d}" for who, label in zip(person, present, strict=True)])
    _, first, code = np.unique(unit, return_index=True, return_inverse=True)
    means = np.bincount(code, weights=scores) / np.bincount(code)
    return auroc_estimate(means, present[first], person[first])


def _explanation(baseline: float | None, model: float | None, *, noisy: bool) -> Sentence:
    if baseline is None or model is None:
        return Sentence(
            pt="Não há pessoas com e sem insuficiência respiratória para comparar.",
            en="There are not people with and without respiratory insufficiency to compare.",
        )
    if baseline > model:
        verdict = Sentence(
            pt="Esta conta simples é melhor que o modelo.",
            en="This simple calculation is better than the model.",
        )
    else:
        verdict = fill(
            "O modelo é melhor por {difference}.",
            "The model is better by {difference}.",
            difference=decimal(model - baseline),
        )
    return fill(
        "Separa as pessoas {where} com AUROC {baseline}; o modelo, com {model} "
        "(0,5 é acaso, 1 é acerto sempre). {verdict}",
        "Tells people apart {where} with an AUROC of {baseline}; the model, of {model} "
        "(0.5 is chance, 1 is always right). {verdict}",
        where=Sentence(
            pt="com ruído" if noisy else "sem ruído", en="with noise" if noisy else "without noise"
        ),
        baseline=decimal(baseline),
        model=decimal(model),
        verdict=verdict,
    )
