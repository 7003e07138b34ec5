"""Intervals against scipy, sklearn, brute force, published examples and small simulations."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from spira.domain.draws import draws
from spira.evaluation.intervals import (
    ONE_SIDED,
    auroc_difference,
    auroc_estimate,
    auroc_interval,
    bootstrap,
    chance_variance,
    clopper_pearson,
    delong,
    effective_n,
    mean_of_two,
    paired_change_interval,
    predictive_values,
    proportion,
)
from spira.evaluation.results import Estimate


@pytest.mark.parametrize(
    ("successes", "n"), [(0, 7), (7, 7), (3, 10), (51, 54), (1, 1), (999, 1000)]
)
def test_clopper_pearson_agrees_with_scipy(successes: int, n: int) -> None:
    """The exact interval is scipy's, two-sided and one-sided."""
    expected = binomtest(successes, n).proportion_ci(0.95, method="exact")
    upper = binomtest(successes, n, alternative="less").proportion_ci(0.95, method="exact")

    assert clopper_pearson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-10)
    assert clopper_pearson(successes, n, tail=ONE_SIDED)[1] == pytest.approx(upper.high, abs=1e-10)


@pytest.mark.parametrize(("people", "shown"), [(36, 0.90), (72, 0.95)])
def test_people_without_a_miss_show_what_the_clinical_notes_say(people: int, shown: float) -> None:
    """36 positives without a miss show 0.90, and 35 do not; 72 show 0.95, and 71 do not."""
    assert proportion([True] * people).low == pytest.approx(shown, abs=0.003)
    assert (proportion([True] * people).low or 0) >= shown
    assert (proportion([True] * (people - 1)).low or 1) < shown


def test_proportion_of_nobody_has_no_value() -> None:
    """No rows give no figure, and no error."""
    assert proportion([]) == Estimate(value=None, n=0)


def test_repeating_the_recordings_of_a_person_shows_nothing_new() -> None:
    """Ten identical recordings a person are worth about as much as one."""
    rng = np.random.default_rng(0)
    people = rng.random(40) < 0.8
    once = proportion(people, np.arange(40))

    tenfold = proportion(np.repeat(people, 10), np.repeat(np.arange(40), 10))

    assert tenfold.value == once.value
    assert tenfold.low == pytest.approx(once.low, abs=0.02)
    assert tenfold.high == pytest.approx(once.high, abs=0.02)


def test_recordings_without_a_miss_count_people_and_not_recordings() -> None:
    """When everything is right, the interval rests on the number of people."""
    everything_right = proportion([True] * 60, np.repeat(np.arange(20), 3))

    assert (everything_right.low, everything_right.high) == clopper_pearson(20, 20)


def test_independent_recordings_are_worth_nearly_their_number() -> None:
    """Recordings that do not resemble those of the same person lose little."""
    outcomes = np.random.default_rng(1).random(600) < 0.7

    worth = effective_n(outcomes, np.repeat(np.arange(300), 2))

    assert 480 < worth <= 600


def test_clustered_proportion_covers() -> None:
    """With alike recordings of 30 people the interval holds the truth about 95 times in 100."""
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(30), 4)
    held = 0
    for _ in range(300):
        share = rng.beta(1.6, 0.4, size=30)  # mean 0.8, strongly alike within a person
        found = proportion(rng.random(120) < share[clusters], clusters)
        held += (found.low or 0) <= 0.8 <= (found.high or 0)

    assert 0.92 <= held / 300 <= 1.0


def test_tango_agrees_with_published_example() -> None:
    """Airway reactivity before and after transplantation: -0.517, -0.026 (Fagerland 2014)."""
    assert paired_change_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(
    ("gained", "lost", "n"),
    [(1, 7, 21), (0, 1, 44), (40, 20, 160), (5, 5, 30), (0, 9, 80), (3, 0, 3)],
)
@pytest.mark.parametrize("tail", [0.025, 0.05])
def test_tango_solves_the_score_equations(gained: int, lost: int, n: int, tail: float) -> None:
    """At each end, the score under numerically maximised likelihood is the normal quantile."""

    def score(delta: float) -> float:
        def loss(p21: float) -> float:  # of the multinomial, given p12 = p21 + delta
            cells = np.array([p21 + delta, p21, 1 - 2 * p21 - delta])
            counts = np.array([gained, lost, n - gained - lost])
            return float(-np.sum(counts * np.log(np.maximum(cells, 1e-300))))

        bounds = (max(0.0, -delta), (1 - delta) / 2)
        p21 = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        variance = n * (2 * p21 + delta - delta**2)  # of gained - lost: n (p12 + p21 - delta²)
        return float((gained - lost - n * delta) / np.sqrt(variance))

    low, high = paired_change_interval(gained, lost, n, tail=tail)

    z = norm.ppf(1 - tail)
    assert score(low) == pytest.approx(z, abs=1e-3)
    assert high == 1.0 or score(high) == pytest.approx(-z, abs=1e-3)
    assert paired_change_interval(lost, gained, n, tail=tail) == pytest.approx((-high, -low))


@pytest.mark.parametrize("n", [1, 15, 80])
def test_tango_without_any_change_is_the_closed_form(n: int) -> None:
    """Nobody changed: the bound is z² / (n + z²)."""
    z = norm.ppf(0.95)

    assert paired_change_interval(0, 0, n, tail=ONE_SIDED)[1] == pytest.approx(z**2 / (n + z**2))


def test_tango_reaches_the_ends() -> None:
    """Everybody changed: the interval ends at 1; nobody measured: nothing is known."""
    assert paired_change_interval(9, 0, 9)[1] == 1.0
    assert paired_change_interval(0, 9, 9)[0] == -1.0
    assert paired_change_interval(0, 0, 0) == (-1.0, 1.0)


def test_tango_one_sided_bound_covers() -> None:
    """The one-sided 95 % bound on 80 people lies above the true change about 95 times in 100."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        gained, lost, _ = rng.multinomial(80, [0.08, 0.03, 0.89])
        held += paired_change_interval(int(gained), int(lost), 80, tail=ONE_SIDED)[1] >= 0.05

    assert 0.92 <= held / 400 <= 0.98


def components(
    scores: NDArray[np.float64], present: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """DeLong's structural components, pair by pair."""
    against = scores[present][:, None] - scores[~present][None, :]
    kernel = (against > 0) + 0.5 * (against == 0)
    return kernel.mean(axis=1), kernel.mean(axis=0)


@pytest.mark.parametrize("ties", [False, True])
def test_delong_agrees_with_brute_force_and_sklearn(ties: bool) -> None:
    """Midranks give what all pairs give, ties counting one half."""
    rng = np.random.default_rng(4)
    present = rng.random(90) < 0.4
    scores = rng.normal(size=90) + present
    scores = np.round(scores) if ties else scores
    of_present, of_absent = components(scores, present)

    value, variance = delong(scores, present)

    assert value == pytest.approx(roc_auc_score(present, scores))
    assert variance == pytest.approx(
        of_present.var(ddof=1) / of_present.size + of_absent.var(ddof=1) / of_absent.size
    )


def test_repeated_rows_of_a_person_leave_the_variance_alone() -> None:
    """Three identical recordings a person say what one says."""
    rng = np.random.default_rng(5)
    present = np.arange(60) < 25
    scores = rng.normal(size=60) + present

    once = delong(scores, present)
    thrice = delong(np.repeat(scores, 3), np.repeat(present, 3), np.repeat(np.arange(60), 3))

    assert thrice == pytest.approx(once)


def test_clustered_auroc_agrees_with_a_bootstrap_of_people() -> None:
    """Everybody recorded ill and again well: the variance is that of resampling whole people."""
    rng = np.random.default_rng(6)
    clusters = np.repeat(np.arange(120), 2)
    present = np.tile([True, False], 120)
    scores = rng.normal(size=240) + 1.2 * present + 1.5 * rng.normal(size=120)[clusters]
    resampled = []
    for _ in range(500):
        people = rng.integers(0, 120, size=120)
        rows = np.concatenate([2 * people, 2 * people + 1])
        resampled.append(delong(scores[rows], present[rows])[0])

    _, variance = delong(scores, present, clusters)
    _, as_strangers = delong(scores, present)

    assert np.sqrt(variance) == pytest.approx(np.std(resampled), rel=0.12)
    assert np.sqrt(as_strangers) > 1.3 * np.sqrt(variance)


def test_auroc_interval_covers() -> None:
    """On 60 and 60 people with a true AUROC of 0.92 the interval holds it 95 times in 100."""
    rng = np.random.default_rng(7)
    truth = norm.cdf(2 / np.sqrt(2))
    present = np.arange(120) < 60
    held = 0
    for _ in range(400):
        found = auroc_estimate(rng.normal(size=120) + 2 * present, present)
        held += (found.low or 0) <= truth <= (found.high or 0)

    assert 0.92 <= held / 400 <= 0.98


@pytest.mark.parametrize("n", [2, 15, 80])
def test_perfect_separation_still_has_an_interval(n: int) -> None:
    """AUROC 1 has a lower bound that grows with the people, and AUROC 0 mirrors it."""
    present = np.arange(2 * n) < n

    best = auroc_estimate(present, present)
    worst = auroc_estimate(~present, present)

    assert (best.value, best.high) == (1.0, 1.0)
    assert best.low == pytest.approx(0.025 ** (1 / n))
    assert (worst.value, worst.low) == (0.0, 0.0)
    assert worst.high == pytest.approx(1 - 0.025 ** (1 / n))


def test_equal_scores_are_as_unsure_as_chance() -> None:
    """A model that says the same of everybody is at 0.5, as unsure as noise is."""
    found = auroc_estimate(np.zeros(40), np.arange(40) < 20)

    assert found.value == 0.5
    assert (found.low, found.high) == auroc_interval(0.5, chance_variance(20, 20), 20, 20)


def test_auroc_says_nothing_where_nothing_can_be_said() -> None:
    """One class: no value. One person of a class: anything between 0 and 1."""
    alone = auroc_estimate([0.9, 0.8, 0.1, 0.2], [True, True, False, False], [1, 1, 2, 2])

    assert auroc_estimate([0.1, 0.2], [True, True]).value is None
    assert auroc_estimate([], []).value is None
    assert delong([0.5, 0.1, 0.9], [True, False, False])[0] == 0.5
    assert auroc_interval(*delong([0.5, 0.1, 0.9], [True, False, False]), 1, 2) == (0.0, 1.0)
    assert (alone.value, alone.high) == (1.0, 1.0)
    assert (alone.low or 0) < 0.1
    with pytest.raises(ValueError, match="both classes"):
        delong([0.1], [True])


def test_balanced_accuracy_of_perfection_is_not_certain() -> None:
    """Two perfect proportions of 20 people do not give the interval 1 to 1."""
    perfect = proportion([True] * 20)

    found = mean_of_two(perfect, perfect)

    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.8 < (found.low or 0) < 0.95
    assert mean_of_two(perfect, proportion([])).value is None


def test_balanced_accuracy_covers() -> None:
    """The interval holds the mean of two true shares at least 93 times in 100."""
    rng = np.random.default_rng(8)
    held = 0
    for _ in range(400):
        found = mean_of_two(proportion(rng.random(40) < 0.95), proportion(rng.random(60) < 0.8))
        held += (found.low or 0) <= 0.875 <= (found.high or 0)

    assert 0.93 <= held / 400 <= 1.0


def test_predictive_value_is_the_one_in_the_clinical_notes() -> None:
    """Sensitivity 0.90 and specificity 0.85 mean 24 % at a prevalence of 5 %."""
    positive, negative = predictive_values(0.90, 100, 0.85, 100, 0.05)

    assert positive is not None
    assert negative is not None
    assert positive[0] == pytest.approx(0.24)
    assert positive[1][0] < 0.24 < positive[1][1]
    assert negative[0] == pytest.approx(0.95 * 0.85 / (0.95 * 0.85 + 0.05 * 0.10))


def test_predictive_values_cover() -> None:
    """At 10 % prevalence the intervals hold the true values about 95 times in 100."""
    rng = np.random.default_rng(9)
    true_positive = 0.1 * 0.9 / (0.1 * 0.9 + 0.9 * 0.15)
    true_negative = 0.9 * 0.85 / (0.9 * 0.85 + 0.1 * 0.1)
    held = np.zeros(2)
    for _ in range(400):
        hits, clears = rng.binomial(80, 0.9) / 80, rng.binomial(80, 0.85) / 80
        both = predictive_values(hits, 80, clears, 80, 0.1)
        for which, truth in enumerate((true_positive, true_negative)):
            found = both[which]
            assert found is not None
            held[which] += found[1][0] <= truth <= found[1][1]

    assert np.all((held / 400 >= 0.92) & (held / 400 <= 0.99))


@pytest.mark.parametrize(("sensitivity", "specificity"), [(1.0, 1.0), (1.0, 0.8), (0.7, 1.0)])
def test_predictive_values_at_the_edge_are_not_certain(
    sensitivity: float, specificity: float
) -> None:
    """A figure of exactly 1 rests on finitely many people, and its interval says so."""
    for found in predictive_values(sensitivity, 40, specificity, 40, 0.10):
        assert found is not None
        value, (low, high) = found
        assert 0 <= low <= value <= high <= 1
        assert high - low > 0.005


def test_an_answer_that_nobody_gets_has_no_predictive_value() -> None:
    """Without a positive answer there is no positive predictive value."""
    positive, negative = predictive_values(0.0, 40, 1.0, 40, 0.10)

    assert positive is None
    assert negative is not None
    assert negative[0] == pytest.approx(0.9)


def test_bootstrap_resamples_people_within_their_class() -> None:
    """All rows of a person come together, and each class keeps its number of people."""
    clusters = np.array([0, 0, 0, 1, 2, 3, 3])
    present = np.array([1, 1, 1, 1, 0, 0, 0], dtype=bool)
    seen: list[NDArray[np.float64]] = []

    def watch(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        seen.append(weights)
        return np.asarray(weights.sum(axis=1))

    bootstrap(watch, clusters, present, rng=draws(1, "test"), resamples=200)

    weights = np.concatenate(seen)
    assert weights.shape == (200, 7)
    assert np.all(weights[:, 0] == weights[:, 1])
    assert np.all(weights[:, 5] == weights[:, 6])
    assert np.all(weights[:, 0] + weights[:, 3] == 2)
    assert np.all(weights[:, 4] + weights[:, 5] == 2)


def test_bootstrap_of_a_mean_has_its_standard_error() -> None:
    """The spread of resampled means is s / sqrt(n), and the draws are named by the seed."""
    values = np.random.default_rng(10).normal(size=200)

    def mean(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(weights @ values / weights.sum(axis=1))

    def resampled(seed: int) -> NDArray[np.float64]:
        rng = draws(seed, "test")
        return bootstrap(mean, np.arange(200), np.ones(200), rng=rng, resamples=2000)

    assert resampled(1).std() == pytest.approx(values.std() / np.sqrt(200), rel=0.06)
    assert np.array_equal(resampled(1), resampled(1))
    assert not np.array_equal(resampled(1), resampled(2))


def kernel_covariance(
    first: NDArray[np.float64], second: NDArray[np.float64], present: NDArray[np.bool_]
) -> float:
    """DeLong's variance of a difference by its definition: pairs of people, one by one."""

    def placements(scores: NDArray[np.float64]) -> tuple[list[float], list[float]]:
        ill, well = scores[present], scores[~present]
        wins = [[1.0 if a > b else 0.5 if a == b else 0.0 for b in well] for a in ill]
        return [float(np.mean(row)) for row in wins], [
            float(np.mean(row)) for row in zip(*wins, strict=True)
        ]

    (p1, a1), (p2, a2) = placements(first), placements(second)
    of_present = np.cov(np.subtract(p1, p2), ddof=1) / len(p1)
    of_absent = np.cov(np.subtract(a1, a2), ddof=1) / len(a1)
    return float(of_present + of_absent)


def test_the_difference_of_two_aurocs_is_paired() -> None:
    """Against DeLong's definition computed pair by pair, and scikit-learn's AUROCs."""
    rng = np.random.default_rng(4)
    present = np.arange(90) < 40
    shared = rng.normal(size=90)
    first = np.round(1.5 * present + shared + 0.3 * rng.normal(size=90), 1)  # with ties
    second = np.round(1.0 * present + shared + 0.3 * rng.normal(size=90), 1)

    found = auroc_difference(first, second, present)

    expected = roc_auc_score(present, first) - roc_auc_score(present, second)
    half = 1.959964 * math.sqrt(kernel_covariance(first, second, present))
    assert found.value == pytest.approx(expected)
    assert found.low == pytest.approx(expected - half, abs=1e-6)
    assert found.high == pytest.approx(expected + half, abs=1e-6)
    apart = math.sqrt(sum(delong(scores, present)[1] for scores in (first, second)))
    assert half < 1.96 * apart  # the same people: surer than two samples would be


def test_the_difference_of_an_auroc_of_1_is_not_sure_of_itself() -> None:
    """Perfect separation has no variance by DeLong; the interval still has a width."""
    present = np.arange(40) < 20
    perfect = present + 0.01 * np.arange(40)
    nearly = perfect.copy()
    nearly[0] = 0.5

    found = auroc_difference(perfect, nearly, present)
    same = auroc_difference(perfect, perfect, present)

    assert found.low is not None
    assert found.low < 0 < (found.high or 0)
    assert same.value == 0
    assert (same.low or 0) < -0.1


def test_rows_of_one_person_do_not_make_a_difference_surer() -> None:
    """Everybody nine times is everybody once."""
    rng = np.random.default_rng(5)
    present = np.arange(60) < 30
    first, second = rng.normal(size=60) + present, rng.normal(size=60) + present
    often = np.repeat(np.arange(60), 9)

    once = auroc_difference(first, second, present)
    repeated = auroc_difference(first[often], second[often], present[often], often)

    assert repeated.low == pytest.approx(once.low, abs=1e-9)


def test_a_difference_needs_both_classes_and_two_people_of_each() -> None:
    """No value, and no interval."""
    assert auroc_difference([1, 2], [2, 1], [True, True]).value is None
    few = auroc_difference([3, 1, 2], [3, 2, 1], [True, False, False])
    assert few.value == 0
    assert few.low is None
