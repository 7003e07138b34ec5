"""A model's answers counted: per recording and per participant, by condition and by subgroup.

Everything rests on one table of predictions (polars), one row a recording and condition:
recording_id, participant_id, condition, label ("present" or "absent"; other rows are left out)
and probability (mean of the windows, not calibrated). For subgroups also sex, age, site, device,
null or absent where the dataset does not say. Further columns are ignored: the calibrated
probability and the answer are taken from the operating point, by the code that predicts.

Counted per participant, the probability is the mean over the recordings of one label, so somebody
recorded ill and again well counts once in each class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit, ndtri

from spira.domain.answers import OperatingPoint
from spira.domain.draws import draws
from spira.domain.recordings import AGE_BANDS, NOT_AVAILABLE, age_band
from spira.evaluation.intervals import (
    TWO_SIDED,
    Statistic,
    auroc_estimate,
    bootstrap,
    effective_n,
    mean_of_two,
    people_of_each,
    predictive_values,
    proportion,
)
from spira.evaluation.results import (
    Attribute,
    CalibrationBin,
    Condition,
    ConditionResult,
    Confusion,
    Curve,
    Estimate,
    Level,
    PredictiveValue,
    Subgroup,
)

PREVALENCES = (0.05, 0.10, 0.20, 0.40)
SEVERAL = "several"  # one participant recorded with two devices, say

_BINS = 10
_SMALLEST_BIN = 5  # fewer bins rather than smaller ones


def evaluate_condition(
    predictions: pl.DataFrame,
    operating_point: OperatingPoint,
    condition: Condition,
    level: Level,
    *,
    seed: int,
    resamples: int = 2000,
) -> ConditionResult:
    """Every figure of one condition at one level, each with its 95 % interval.

    predictions  see above; rows of other conditions are left out
    seed         names the draws of the bootstrap (Brier score, calibration error)
    returns      estimates without a value where a class is missing or nobody was recorded

    Sensitivity and specificity are taken at the threshold as if there were no band; the confusion
    counts show the answers as given. Slope and intercept are those of a logistic regression of
    the label on the calibrated logit (intercept with the slope held at 1: calibration in the
    large), so a test set richer in patients than validation shows in the intercept.

    source       Steyerberg, Clinical Prediction Models, 2019, chapter 15
    """
    answers = _answers(predictions, operating_point, condition, level)
    present, people = answers.present, answers.person
    positive = answers.calibrated >= operating_point.threshold
    sensitivity = proportion(positive[present], people[present])
    specificity = proportion(~positive[~present], people[~present])
    brier, error = _bootstrapped(answers, seed, (condition, level), resamples)
    slope, intercept = _calibration_line(answers)
    return ConditionResult(
        condition=condition,
        level=level,
        n_present=int(present.sum()),
        n_absent=int((~present).sum()),
        sensitivity=sensitivity,
        specificity=specificity,
        balanced_accuracy=mean_of_two(sensitivity, specificity),
        auroc=auroc_estimate(answers.probability, present, people),
        brier=brier,
        calibration_slope=slope,
        calibration_intercept=intercept,
        calibration_error=error,
        calibration_bins=_calibration_bins(answers),
        inconclusive=proportion(answers.outcome == "inconclusive", people),
        confusion=_confusion(answers),
        roc=_roc(answers),
        predictive_values=_predictive_values(answers),
    )


def subgroups(
    predictions: pl.DataFrame,
    operating_point: OperatingPoint,
    *,
    minimum: int,
    condition: Condition = "clean",
) -> tuple[Subgroup, ...]:
    """Figures by sex, age band, site and device, per participant, in a fixed order.

    minimum  people of each class below which a subgroup is not sufficient
    returns  all values that occur; "not available" last, also where the column is missing
    """
    answers = _answers(predictions, operating_point, condition, "participant")
    found = []
    for attribute, column in answers.attributes.items():
        for value in sorted(set(column.tolist()), key=_subgroup_order):
            chosen = column == value
            present, person = answers.present[chosen], answers.person[chosen]
            positive = answers.calibrated[chosen] >= operating_point.threshold
            n_present, n_absent = people_of_each(present, person)
            found.append(
                Subgroup(
                    attribute=attribute,
                    value=value,
                    n_present=n_present,
                    n_absent=n_absent,
                    sensitivity=proportion(positive[present], person[present]),
                    specificity=proportion(~positive[~present], person[~present]),
                    auroc=auroc_estimate(answers.probability[chosen], present, person),
                    sufficient=min(n_present, n_absent) >= minimum,
                )
            )
    return tuple(found)


def per_participant(predictions: pl.DataFrame) -> pl.DataFrame:
    """One row a participant and label, sorted: participant_id, label, mean probability.

    Rows whose label is neither present nor absent are left out.
    """
    return (
        predictions.filter(pl.col("label").is_in(["present", "absent"]))
        .group_by("participant_id", "label")
        .agg(pl.col("probability").sort().mean())  # sorted: a sum must not depend on row order
        .sort("participant_id", "label")
    )


@dataclass(frozen=True)
class _Answers:
    """Arrays of one length: a recording each, or a participant (and label) each."""

    present: NDArray[np.bool_]
    probability: NDArray[np.float64]  # ranks people; calibration may round neighbours to a tie
    calibrated: NDArray[np.float64]
    outcome: NDArray[np.object_]
    person: NDArray[np.str_]
    attributes: dict[Attribute, NDArray[np.object_]]


def _answers(
    predictions: pl.DataFrame, operating_point: OperatingPoint, condition: Condition, level: Level
) -> _Answers:
    rows = predictions.filter(
        (pl.col("condition") == condition) & pl.col("label").is_in(["present", "absent"])
    ).sort("participant_id", "label", "recording_id")
    columns = {attribute: _spoken(rows, attribute) for attribute in _ATTRIBUTES}
    if level == "participant":
        keys = list(zip(rows["participant_id"], rows["label"], strict=True))
        rows = per_participant(rows)
        of_each = list(zip(rows["participant_id"], rows["label"], strict=True))
        columns = {name: _gathered(keys, column, of_each) for name, column in columns.items()}
    probability = rows["probability"].to_list()
    calibrated = [operating_point.calibrate(p) for p in probability]
    return _Answers(
        present=np.array([label == "present" for label in rows["label"]], dtype=bool),
        probability=np.array(probability, dtype=np.float64),
        calibrated=np.array(calibrated, dtype=np.float64),
        outcome=np.array([operating_point.outcome(p) for p in calibrated], dtype=object),
        person=np.array(rows["participant_id"].to_list(), dtype=str),
        attributes={name: np.array(column, dtype=object) for name, column in columns.items()},
    )


_ATTRIBUTES: dict[Attribute, str] = {
    "sex": "sex",
    "age band": "age",
    "site": "site",
    "device": "device",
}


def _spoken(rows: pl.DataFrame, attribute: Attribute) -> list[str]:
    """An attribute of each row in words, NOT_AVAILABLE where the dataset does not say."""
    column = _ATTRIBUTES[attribute]
    values = rows[column].to_list() if column in rows.columns else [None] * rows.height
    if attribute == "age band":
        return [age_band(value) for value in values]
    return [NOT_AVAILABLE if value is None else str(value) for value in values]


def _gathered(
    keys: list[tuple[str, str]], column: list[str], of_each: list[tuple[str, str]]
) -> list[str]:
    """One value a participant: the only known one, SEVERAL, or NOT_AVAILABLE."""
    known: dict[tuple[str, str], set[str]] = {key: set() for key in of_each}
    for key, value in zip(keys, column, strict=True):
        known[key] |= {value} - {NOT_AVAILABLE}
    return [
        SEVERAL if len(values) > 1 else next(iter(values), NOT_AVAILABLE)
        for values in (known[key] for key in of_each)
    ]


def _subgroup_order(value: str) -> tuple[int, int, str]:
    bands = [name for _, _, name in AGE_BANDS]
    return (
        [SEVERAL, NOT_AVAILABLE].index(value) + 1 if value in (SEVERAL, NOT_AVAILABLE) else 0,
        bands.index(value) if value in bands else len(bands),
        value,
    )


def _confusion(answers: _Answers) -> Confusion:
    counts = {
        f"{label}_{outcome}": int(np.sum((answers.outcome == outcome) & of_label))
        for label, of_label in (("present", answers.present), ("absent", ~answers.present))
        for outcome in ("positive", "inconclusive", "negative")
    }
    return Confusion(**counts)


def _roc(answers: _Answers) -> Curve:
    """1 - specificity against sensitivity, the corners only; empty when a class is missing."""
    present = answers.present
    if present.all() or not present.any():
        return Curve(x=(), y=())
    order = np.argsort(-answers.probability, kind="stable")
    last_of_tie = np.append(np.diff(answers.probability[order]) != 0, True)
    hits = np.append(0, np.cumsum(present[order])[last_of_tie])
    alarms = np.append(0, np.cumsum(~present[order])[last_of_tie])
    # A point on the straight line between its neighbours draws nothing.
    turn = np.diff(hits)[:-1] * np.diff(alarms)[1:] != np.diff(hits)[1:] * np.diff(alarms)[:-1]
    corner = np.concatenate([[True], turn, [True]])
    return Curve(
        x=tuple((alarms[corner] / (~present).sum()).tolist()),
        y=tuple((hits[corner] / present.sum()).tolist()),
    )


def _predictive_values(answers: _Answers) -> tuple[PredictiveValue, ...]:
    """By Bayes, for PREVALENCES: of the answers as they are given, inconclusive ones left out."""
    present, person = answers.present, answers.person
    nothing = Estimate(value=None, n=present.size)
    if present.all() or not present.any():
        return tuple(
            PredictiveValue(prevalence=prevalence, positive=nothing, negative=nothing)
            for prevalence in PREVALENCES
        )
    # What is not called positive, and what is called negative, are two things: a band lies between.
    positive, not_negative = answers.outcome == "positive", answers.outcome != "negative"
    found = []
    for prevalence in PREVALENCES:
        both = [
            predictive_values(
                float(called[present].mean()),
                effective_n(called[present], person[present]),
                float((~called[~present]).mean()),
                effective_n(~called[~present], person[~present]),
                prevalence,
            )[which]
            for which, called in enumerate((positive, not_negative))
        ]
        of_positive, of_negative = (
            nothing
            if answer is None
            else Estimate(
                value=answer[0],
                low=answer[1][0],
                high=answer[1][1],
                n=present.size,
                method="logit (Mercaldo)",
            )
            for answer in both
        )
        found.append(
            PredictiveValue(prevalence=prevalence, positive=of_positive, negative=of_negative)
        )
    return tuple(found)


def _bins(answers: _Answers) -> list[NDArray[np.int64]]:
    """Rows by calibrated probability, in bins of equal count."""
    count = min(_BINS, answers.calibrated.size // _SMALLEST_BIN)
    order = np.argsort(answers.calibrated, kind="stable")
    return np.array_split(order, max(count, 1)) if order.size else []


def _calibration_bins(answers: _Answers) -> tuple[CalibrationBin, ...]:
    return tuple(
        CalibrationBin(
            predicted=float(answers.calibrated[rows].mean()),
            observed=proportion(answers.present[rows], answers.person[rows]),
        )
        for rows in _bins(answers)
    )


def _bootstrapped(
    answers: _Answers, seed: int, keys: Sequence[str], resamples: int
) -> tuple[Estimate, Estimate]:
    """Brier score and expected calibration error, with intervals over resampled people."""
    n = answers.present.size
    if answers.present.all() or not answers.present.any():
        return Estimate(value=None, n=n), Estimate(value=None, n=n)
    gap = answers.calibrated - answers.present
    in_bin = np.zeros((n, len(bins := _bins(answers))))
    for number, rows in enumerate(bins):
        in_bin[rows, number] = 1.0

    def brier(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(weights @ gap**2 / weights.sum(axis=1))

    def error(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        # Sum over bins of (rows in bin) x |mean gap in bin|, the bins staying where they are.
        return np.asarray(np.abs((weights * gap) @ in_bin).sum(axis=1) / weights.sum(axis=1))

    def estimate(purpose: str, statistic: Statistic, *, reflect: bool) -> Estimate:
        rng = draws(seed, "bootstrap", purpose, *keys)
        resampled = bootstrap(
            statistic, answers.person, answers.present, rng=rng, resamples=resamples
        )
        value = float(statistic(np.ones((1, n)))[0])
        low, high = np.quantile(resampled, [TWO_SIDED, 1 - TWO_SIDED]).tolist()
        if reflect:
            low, high = max(0.0, 2 * value - high), max(high, 2 * value - low)
        return Estimate(value=value, low=low, high=high, n=n, method="bootstrap by participant")

    # A calibration error is a mean of absolute values, so chance adds to it, and resampling adds
    # once more (0.07 for 160 people and a perfect model): the low end is reflected about the
    # value. Simulated coverage is 0.91 to 0.97 instead of 0.42 to 0.91 by percentiles alone.
    return estimate("brier", brier, reflect=False), estimate("error", error, reflect=True)


def _calibration_line(answers: _Answers) -> tuple[Estimate, Estimate]:
    """Calibration slope, and intercept with the slope held at 1; Wald, robust by person."""
    n, present = answers.present.size, answers.present
    nothing = Estimate(value=None, n=n)
    if present.all() or not present.any():
        return nothing, nothing
    line = logit(np.clip(answers.calibrated, 1e-12, 1 - 1e-12))
    ones = np.ones((n, 1))
    intercept = _logistic(ones, present, line, answers.person)
    separated = line[present].min() >= line[~present].max() or (
        line[present].max() <= line[~present].min()
    )
    if separated:  # the slope of most likelihood is infinite
        return nothing, intercept
    slope = _logistic(np.column_stack([line, ones]), present, np.zeros(n), answers.person)
    return slope, intercept


def _logistic(
    design: NDArray[np.float64],
    present: NDArray[np.bool_],
    offset: NDArray[np.float64],
    person: NDArray[np.str_],
) -> Estimate:
    """First coefficient of a logistic regression, by maximum likelihood.

    source    variance: sandwich over people, Liang and Zeger, Biometrika 1986; 73:13-22
    """

    def loss(at: NDArray[np.float64]) -> float:
        scores = offset + design @ at
        return float(-log_expit(np.where(present, scores, -scores)).sum())

    def gradient(at: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(design.T @ (expit(offset + design @ at) - present))

    def curvature(at: NDArray[np.float64]) -> NDArray[np.float64]:
        fitted = expit(offset + design @ at)
        return np.asarray(design.T * (fitted * (1 - fitted)) @ design)

    start = np.zeros(design.shape[1])
    fit = minimize(
        loss, start, jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-8}
    ).x
    _, code = np.unique(person, return_inverse=True)
    people = int(code.max()) + 1
    scores = np.zeros((people, design.shape[1]))
    np.add.at(scores, code, design * (expit(offset + design @ fit) - present)[:, None])
    bread = np.linalg.pinv(curvature(fit))
    variance = (bread @ scores.T @ scores @ bread)[0, 0] * people / (people - 1)
    half = float(-ndtri(TWO_SIDED) * np.sqrt(variance))
    value = float(fit[0])
    return Estimate(
        value=value,
        low=value - half,
        high=value + half,
        n=present.size,
        method="Wald, robust by participant",
    )
