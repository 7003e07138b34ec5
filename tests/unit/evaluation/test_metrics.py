"""Figures of an evaluation against sklearn, hand counts, and tables with holes in them."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import auc, brier_score_loss, roc_auc_score

from spira.domain.answers import OperatingPoint
from spira.domain.recordings import age_band
from spira.evaluation.metrics import evaluate_condition, subgroups
from spira.evaluation.results import ConditionResult, Level

POINT = OperatingPoint(threshold=0.5, band_low=0.4, band_high=0.6, temperature=1.0, prevalence=0.5)
FEW = 200  # resamples


def table(
    probabilities: NDArray[np.float64] | list[float],
    present: NDArray[np.bool_] | list[bool],
    participants: list[str] | None = None,
    **columns: Sequence[str | int | None],
) -> pl.DataFrame:
    """Predictions under the clean condition, one recording a person unless people are named."""
    n = len(probabilities)
    return pl.DataFrame(
        {
            "recording_id": [f"r{i:04}" for i in range(n)],
            "participant_id": participants or [f"p{i:04}" for i in range(n)],
            "condition": ["clean"] * n,
            "label": ["present" if label else "absent" for label in present],
            "probability": list(probabilities),
            **columns,
        }
    )


def ward(n: int = 160, *, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Well calibrated probabilities and labels drawn from them."""
    rng = np.random.default_rng(seed)
    probabilities = expit(2 * rng.normal(size=n))
    return probabilities, rng.random(n) < probabilities


def figures(predictions: pl.DataFrame, level: Level = "recording") -> ConditionResult:
    """The clean condition."""
    return evaluate_condition(predictions, POINT, "clean", level, seed=1, resamples=FEW)


def test_counts_by_hand() -> None:
    """Eight recordings, counted on fingers: threshold, band, confusion."""
    found = figures(
        table(
            [0.9, 0.55, 0.45, 0.1, 0.2, 0.5, 0.3, 0.7],
            [True, True, True, True, False, False, False, False],
        )
    )

    assert (found.n_present, found.n_absent) == (4, 4)
    assert found.sensitivity.value == 0.5
    assert found.specificity.value == 0.5
    assert found.balanced_accuracy.value == 0.5
    assert found.inconclusive.value == 3 / 8
    assert found.confusion.model_dump() == {
        "present_positive": 1,
        "present_inconclusive": 2,
        "present_negative": 1,
        "absent_positive": 1,
        "absent_inconclusive": 1,
        "absent_negative": 2,
    }


def test_agrees_with_sklearn() -> None:
    """AUROC, area under the drawn curve and Brier score are sklearn's."""
    probabilities, present = ward()

    found = figures(table(probabilities, present))

    assert found.auroc.value == pytest.approx(roc_auc_score(present, probabilities))
    assert auc(found.roc.x, found.roc.y) == pytest.approx(found.auroc.value)
    assert found.brier.value == pytest.approx(brier_score_loss(present, probabilities))
    assert (found.brier.low or 1) < (found.brier.value or 0) < (found.brier.high or 0)


def test_curve_of_tied_scores_has_its_corners_only() -> None:
    """Two scores draw three points, whatever the number of people."""
    found = figures(table([0.2] * 50 + [0.8] * 50, [i % 3 == 0 or i > 80 for i in range(100)]))

    assert len(found.roc.x) == 3
    assert auc(found.roc.x, found.roc.y) == pytest.approx(found.auroc.value)


def test_calibration_line_agrees_with_sklearn() -> None:
    """Slope is that of an unpenalised logistic regression on the calibrated logit."""
    probabilities, present = ward(seed=3)
    line = logit(probabilities)
    regression = LogisticRegression(C=np.inf).fit(line[:, None], present)

    found = figures(table(probabilities, present))

    assert found.calibration_slope.value == pytest.approx(regression.coef_[0, 0], rel=1e-3)


def test_intercept_makes_the_expected_number_of_patients_right() -> None:
    """Calibration in the large: shifted by the intercept, probabilities sum to the patients."""
    probabilities, present = ward(seed=4)
    shifted = expit(logit(probabilities) - 1)

    found = figures(table(shifted, present))

    intercept = found.calibration_intercept.value or 0
    assert expit(logit(shifted) + intercept).sum() == pytest.approx(present.sum())
    assert intercept == pytest.approx(1, abs=0.5)


def test_calibration_intervals_cover_a_perfectly_calibrated_model() -> None:
    """Slope 1 and intercept 0 are inside their intervals about 95 times in 100."""
    held = np.zeros(2)
    for seed in range(150):
        found = figures(table(*ward(seed=seed)))
        for which, (estimate, truth) in enumerate(
            [(found.calibration_slope, 1.0), (found.calibration_intercept, 0.0)]
        ):
            held[which] += (estimate.low or 0) <= truth <= (estimate.high or 0)

    assert np.all(held / 150 >= 0.90)


def test_calibration_error_is_the_mean_gap_of_equal_bins() -> None:
    """A model that says 0.8 of people of whom half are ill is wrong by 0.3, one bin or ten."""
    found = figures(table([0.8] * 100, [i % 2 == 0 for i in range(100)]))

    assert found.calibration_error.value == pytest.approx(0.3)
    assert len(found.calibration_bins) == 10
    assert sum(each.observed.n for each in found.calibration_bins) == 100
    assert all(each.predicted == pytest.approx(0.8) for each in found.calibration_bins)


def test_calibration_error_covers() -> None:
    """Chance adds to a calibration error; the interval still holds the true one."""
    held = 0
    crowd, _ = ward(100_000, seed=99)
    wrong = expit(logit(crowd) + 0.5)
    bins = np.array_split(np.argsort(wrong), 10)
    truth = np.mean([abs((crowd[rows] - wrong[rows]).mean()) for rows in bins])
    for seed in range(100):
        probabilities, present = ward(seed=seed)
        found = figures(table(expit(logit(probabilities) + 0.5), present)).calibration_error
        held += (found.low or 0) <= truth <= (found.high or 0)

    assert held >= 88


def test_calibration_is_that_of_the_calibrated_probability() -> None:
    """The temperature is applied before anything is compared with a threshold or a label."""
    probabilities, present = ward(seed=5)
    point = POINT.model_copy(update={"temperature": 3.0})
    too_sharp = expit(3 * logit(probabilities))

    raw = figures(table(probabilities, present))
    found = evaluate_condition(
        table(too_sharp, present), point, "clean", "recording", seed=1, resamples=FEW
    )

    assert found.brier.value == pytest.approx(raw.brier.value)
    assert found.calibration_slope.value == pytest.approx(raw.calibration_slope.value, rel=1e-3)


def test_separated_classes_have_no_slope() -> None:
    """A slope of most likelihood that is infinite is not reported as a number."""
    found = figures(table([0.9] * 20 + [0.1] * 20, [True] * 20 + [False] * 20))

    assert found.auroc.value == 1.0
    assert found.calibration_slope.value is None
    assert found.calibration_intercept.value is not None


def test_participant_is_the_mean_of_their_recordings() -> None:
    """Two recordings at 0.9 and 0.3 make one person at 0.6, whatever the rows' order."""
    predictions = table([0.9, 0.3, 0.2, 0.1], [True, True, False, False], ["a", "a", "b", "c"])

    found = figures(predictions, "participant")

    assert (found.n_present, found.n_absent) == (1, 2)
    assert found.confusion.present_positive == 1
    assert found == figures(predictions.reverse(), "participant")
    assert figures(predictions) == figures(predictions.reverse())


def test_recordings_of_few_people_are_not_many_people() -> None:
    """Recordings repeated ten times narrow no interval of the recording level."""
    probabilities, present = ward(60, seed=6)
    people = [f"p{i}" for i in range(60)]

    once = figures(table(probabilities, present, people))
    tenfold = figures(table(np.tile(probabilities, 10), np.tile(present, 10), people * 10))

    for name in ("sensitivity", "specificity", "auroc", "brier", "calibration_slope"):
        a, b = getattr(once, name), getattr(tenfold, name)
        assert b.high - b.low == pytest.approx(a.high - a.low, rel=0.15), name
    narrow, wide = once.predictive_values[1].positive, tenfold.predictive_values[1].positive
    assert wide.low == pytest.approx(narrow.low, abs=0.03)


def test_somebody_recorded_ill_and_well_counts_once_in_each_class() -> None:
    """One person, two visits with different labels: two units and no crash."""
    found = figures(
        table([0.9, 0.2, 0.8, 0.3], [True, False, True, False], ["a", "a", "b", "c"]),
        "participant",
    )

    assert (found.n_present, found.n_absent) == (2, 2)
    assert found.auroc.value == 1.0


@pytest.mark.parametrize("level", ["recording", "participant"])
@pytest.mark.parametrize("label", [True, False])
def test_one_class_only_gives_what_can_be_given(level: Level, label: bool) -> None:
    """Without the other class there is no AUROC, and no error."""
    found = figures(table([0.2, 0.7, 0.9], [label] * 3), level)

    assert (found.sensitivity.value is None) is not label
    assert (found.specificity.value is None) is label
    for name in ("auroc", "brier", "balanced_accuracy", "calibration_slope", "calibration_error"):
        assert getattr(found, name).value is None
    assert all(each.positive.value is None for each in found.predictive_values)
    assert found.roc.x == ()


@pytest.mark.parametrize("level", ["recording", "participant"])
def test_nobody_at_all_gives_an_empty_result(level: Level) -> None:
    """A condition without rows is a result without figures."""
    found = figures(table([0.5], [True]).clear(), level)

    assert (found.n_present, found.n_absent) == (0, 0)
    assert found.inconclusive.value is None
    assert found.calibration_bins == ()


def test_two_people_are_enough_not_to_crash() -> None:
    """One person of each class: figures that admit to knowing next to nothing."""
    found = figures(table([0.9, 0.2], [True, False]), "participant")

    assert found.auroc.value == 1.0
    assert (found.auroc.low or 0) < 0.05
    assert found.sensitivity.high == 1.0


def test_unknown_labels_and_other_conditions_are_left_out() -> None:
    """Only present and absent, and only the condition asked for, are counted."""
    predictions = table([0.9, 0.8, 0.1, 0.2], [True, True, False, False]).with_columns(
        label=pl.Series(["present", "unknown", "absent", "absent"]),
        condition=pl.Series(["clean", "clean", "clean", "noise"]),
    )

    found = figures(predictions)

    assert (found.n_present, found.n_absent) == (1, 1)


def test_predictive_values_stand_at_four_prevalences() -> None:
    """5, 10, 20 and 40 %, by Bayes from the answers as they are given: the band is left out."""
    found = figures(table(*ward()))

    counts = found.confusion
    assert counts.present_inconclusive + counts.absent_inconclusive > 0
    called = counts.present_positive / found.n_present, counts.absent_positive / found.n_absent
    cleared = counts.present_negative / found.n_present, counts.absent_negative / found.n_absent
    assert [each.prevalence for each in found.predictive_values] == [0.05, 0.10, 0.20, 0.40]
    for each in found.predictive_values:
        hits, alarms = each.prevalence * called[0], (1 - each.prevalence) * called[1]
        misses, clears = each.prevalence * cleared[0], (1 - each.prevalence) * cleared[1]
        assert each.positive.value == pytest.approx(hits / (hits + alarms))
        assert each.negative.value == pytest.approx(clears / (clears + misses))
        assert (each.positive.low or 1) < (each.positive.value or 0) < (each.positive.high or 0)


@pytest.mark.parametrize(
    ("age", "band"),
    [
        (0, "under 18"),
        (17, "under 18"),
        (18, "18-39"),
        (39, "18-39"),
        (40, "40-59"),
        (59, "40-59"),
        (60, "60-74"),
        (74, "60-74"),
        (75, "75 and over"),
        (104, "75 and over"),
        (None, "not available"),
    ],
)
def test_age_bands(age: int | None, band: str) -> None:
    """A band holds its lower age and not its upper."""
    assert age_band(age) == band


def test_subgroups_say_what_is_not_available() -> None:
    """Missing columns and missing values are a group of their own, never an error."""
    predictions = table(
        [0.9, 0.8, 0.2, 0.3],
        [True, True, False, False],
        sex=["female", None, "male", "female"],
        age=[30, 80, None, 64],
    )

    found = subgroups(predictions, POINT, minimum=1)

    assert [(each.attribute, each.value) for each in found] == [
        ("sex", "female"),
        ("sex", "male"),
        ("sex", "not available"),
        ("age band", "18-39"),
        ("age band", "60-74"),
        ("age band", "75 and over"),
        ("age band", "not available"),
        ("site", "not available"),
        ("device", "not available"),
    ]
    women, men = found[0], found[1]
    assert (women.n_present, women.n_absent, women.sufficient) == (1, 1, True)
    assert women.auroc.value == 1.0
    assert (men.n_present, men.sensitivity.value, men.sufficient) == (0, None, False)


def test_subgroup_needs_its_minimum_in_both_classes() -> None:
    """Nine patients are too few where ten are asked for, however many controls there are."""
    present = [True] * 9 + [False] * 30
    predictions = table([0.5] * 39, present, site=["a"] * 39)

    assert not any(each.sufficient for each in subgroups(predictions, POINT, minimum=10))
    assert all(each.sufficient for each in subgroups(predictions, POINT, minimum=9))


def test_participant_with_two_devices_is_several() -> None:
    """A person recorded with two devices belongs to neither; one known value is enough."""
    predictions = table(
        [0.9, 0.8, 0.2, 0.3],
        [True, True, False, False],
        ["a", "a", "b", "b"],
        device=["tablet", "phone", None, "phone"],
    )

    devices = [
        each for each in subgroups(predictions, POINT, minimum=1) if each.attribute == "device"
    ]

    assert [each.value for each in devices] == ["phone", "several"]


def test_conditions_are_kept_apart() -> None:
    """Asked for noise, only the noisy answers are counted."""
    clean = table(*ward(60))
    noisy = clean.with_columns(condition=pl.lit("noise"), probability=pl.lit(0.99))

    found = evaluate_condition(
        pl.concat([clean, noisy]), POINT, "noise", "participant", seed=1, resamples=FEW
    )

    assert found.n_present + found.n_absent == 60
    assert found.specificity.value == 0
