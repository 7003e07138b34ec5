"""Temperature, threshold and band, from validation recordings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from spira.domain.errors import InputError
from spira.evaluation.calibration import (
    TEMPERATURE_BOUNDS,
    choose_operating_point,
    fit_temperature,
)


def test_temperature_recovers_what_was_done_to_the_logits() -> None:
    """Logits made three times too sharp are brought back by a temperature of 3."""
    rng = np.random.default_rng(0)
    honest = rng.normal(size=4000) * 1.5
    present = rng.random(4000) < expit(honest)

    assert fit_temperature(expit(3 * honest), present) == pytest.approx(3, rel=0.06)
    assert fit_temperature(expit(honest / 3), present) == pytest.approx(1 / 3, rel=0.06)


def test_temperature_is_the_minimum_of_the_loss() -> None:
    """No temperature of a fine grid is more likely under Platt's targets."""
    rng = np.random.default_rng(1)
    present = np.arange(40) < 15
    logits = rng.normal(size=40) + 1.5 * np.where(present, 1, -1)
    targets = np.where(present, 16 / 17, 1 / 27)

    def loss(temperature: float) -> float:
        fitted = expit(logits / temperature)
        return float(-np.mean(targets * np.log(fitted) + (1 - targets) * np.log(1 - fitted)))

    found = fit_temperature(expit(logits), present)

    assert loss(found) <= min(loss(t) for t in np.geomspace(*TEMPERATURE_BOUNDS, 500)) + 1e-9


@pytest.mark.parametrize("gap", [0.1, 1.0, 8.0])
def test_temperature_stays_finite_when_classes_separate(gap: float) -> None:
    """Perfect separation of 40 people allows no more confidence than 40 people support."""
    present = np.arange(40) < 20
    logits = np.where(present, gap, -gap)

    temperature = fit_temperature(expit(logits), present)

    assert TEMPERATURE_BOUNDS[0] <= temperature <= TEMPERATURE_BOUNDS[1]
    assert expit(gap / temperature) <= 21 / 22 + 1e-3


def test_temperature_of_scores_that_mean_the_opposite_is_the_upper_bound() -> None:
    """Scores that say the contrary are flattened as far as allowed."""
    present = np.arange(40) < 20

    assert fit_temperature(np.where(present, 0.1, 0.9), present) == TEMPERATURE_BOUNDS[1]


def test_threshold_is_midway_between_neighbours() -> None:
    """Separated classes: the threshold lies in the middle of the gap, in logit."""
    probabilities = [0.1, 0.2, 0.7, 0.9]
    present = [False, False, True, True]

    point = choose_operating_point(
        probabilities, present, sensitivity_aim=0.9, inconclusive_share=0.0
    )

    middle = (logit(0.2) + logit(0.7)) / 2 / point.temperature
    assert point.threshold == pytest.approx(expit(middle))
    assert point.band_low == point.threshold == point.band_high
    assert point.prevalence == 0.5
    assert point.aim == "sensitivity >= 0.90"


def test_aim_allows_one_miss_in_ten() -> None:
    """With ten patients and an aim of 0.90 the lowest one is given up for specificity."""
    present = np.array([True] * 10 + [False] * 10)
    probabilities = np.concatenate([[0.05], np.linspace(0.6, 0.9, 9), np.linspace(0.1, 0.5, 10)])

    point = choose_operating_point(
        probabilities, present, sensitivity_aim=0.90, inconclusive_share=0.0
    )

    positive = np.array([point.calibrate(p) for p in probabilities]) >= point.threshold
    assert positive[present].mean() == 0.9
    assert not positive[~present].any()


scores = st.floats(0, 1) | st.sampled_from([0.0, 0.2, 0.5, 1.0])


@given(
    st.lists(st.tuples(scores, st.booleans()), min_size=2, max_size=40).filter(
        lambda rows: 0 < sum(label for _, label in rows) < len(rows)
    ),
    st.sampled_from([0.5, 0.8, 0.9, 1.0]),
    st.sampled_from([0.0, 0.1, 0.3]),
)
@settings(deadline=None, max_examples=150)
def test_no_other_threshold_is_better(
    rows: list[tuple[float, bool]], aim: float, share: float
) -> None:
    """Whatever the scores: the aim is reached, nothing that reaches it is more specific or, as
    specific, more sensitive; and the band holds its share.
    """
    probabilities = np.array([score for score, _ in rows])
    present = np.array([label for _, label in rows])

    point = choose_operating_point(
        probabilities, present, sensitivity_aim=aim, inconclusive_share=share
    )

    calibrated = np.array([point.calibrate(p) for p in probabilities])

    def merit(threshold: float) -> tuple[float, float]:
        positive = calibrated >= threshold
        return float(np.mean(~positive[~present])), float(np.mean(positive[present]))

    specificity, sensitivity = merit(point.threshold)
    assert sensitivity >= aim - 1e-9
    for other in calibrated:
        if merit(other)[1] >= aim - 1e-9:
            assert (specificity, sensitivity) >= merit(other)
    held = np.mean((calibrated >= point.band_low) & (calibrated <= point.band_high))
    assert share == 0 or held >= share - 1e-9


def test_band_is_the_smallest_symmetric_one_that_holds_its_share() -> None:
    """A tenth of 200 recordings is inconclusive, and the band reaches equally far either way."""
    rng = np.random.default_rng(3)
    present = np.arange(200) < 100
    probabilities = expit(rng.normal(size=200) + np.where(present, 1, -1))

    point = choose_operating_point(
        probabilities, present, sensitivity_aim=0.9, inconclusive_share=0.10
    )

    outcomes = [point.outcome(point.calibrate(p)) for p in probabilities]
    assert outcomes.count("inconclusive") == 20
    below = logit(point.threshold) - logit(point.band_low)
    assert below == pytest.approx(logit(point.band_high) - logit(point.threshold))


@pytest.mark.parametrize("label", [True, False])
def test_one_label_is_refused(label: bool) -> None:
    """Validation people of one class choose nothing."""
    with pytest.raises(InputError, match="needs both"):
        choose_operating_point(
            [0.1, 0.9], [label, label], sensitivity_aim=0.9, inconclusive_share=0.1
        )
