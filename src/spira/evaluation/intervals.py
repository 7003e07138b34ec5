"""How sure a figure is: 95 % intervals for proportions, AUROC, paired changes and means.

People are the unit of evidence, recordings are not: `clusters` names the person of each row, and
an interval is as wide as the number of people allows. With one row a person every method below
is its textbook self.

`tail` is the probability left out at each end. TWO_SIDED (0.025) gives the two-sided 95 %
interval; either end of the ONE_SIDED (0.05) interval is a one-sided 95 % bound.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv, expit, logit, ndtri, stdtrit

from spira.evaluation.results import Estimate

TWO_SIDED = 0.025
ONE_SIDED = 0.05

Interval = tuple[float, float]
Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def clopper_pearson(successes: float, n: float, *, tail: float = TWO_SIDED) -> Interval:
    """Exact interval of a proportion.

    successes, n  counts; an effective sample size need not be whole
    returns       (0, 1) when n is 0
    source        Clopper and Pearson, Biometrika 1934; 26:404-413
    """
    failures = n - successes
    low = float(betaincinv(successes, failures + 1, tail)) if successes > 0 else 0.0
    high = float(betaincinv(successes + 1, failures, 1 - tail)) if failures > 0 else 1.0
    return low, high


def proportion(outcomes: ArrayLike, clusters: ArrayLike | None = None) -> Estimate:
    """Share of true outcomes with its exact two-sided 95 % interval.

    outcomes  [n] booleans
    clusters  [n] person of each row; None: every row is a person of its own. Where people have
              several rows, Clopper-Pearson is taken on the effective sample size
    source    Korn and Graubard, Survey Methodology 1998; 24:193-201
    """
    rows = np.asarray(outcomes, dtype=bool)
    if rows.size == 0:
        return Estimate(value=None, n=0)
    share = float(rows.mean())
    size = effective_n(rows, clusters)
    low, high = clopper_pearson(share * size, size)
    method = "Clopper-Pearson"
    if clusters is not None and np.unique(np.asarray(clusters)).size < rows.size:
        method = "Clopper-Pearson by participant (Korn-Graubard)"
    return Estimate(value=share, low=low, high=high, n=rows.size, method=method)


def effective_n(outcomes: ArrayLike, clusters: ArrayLike | None = None) -> float:
    """How many independent rows a proportion of clustered rows is worth.

    The variance of the proportion is that of a ratio of sums over people; where it is zero
    (all right, or all wrong) nothing is known of how alike a person's rows are, and people are
    counted. Never more than the number of rows.
    """
    rows = np.asarray(outcomes, dtype=np.float64)
    if clusters is None or rows.size == 0:
        return float(rows.size)
    _, person = np.unique(np.asarray(clusters), return_inverse=True)
    people = int(person.max()) + 1
    if people == rows.size:
        return float(people)
    share = rows.mean()
    residuals = np.bincount(person, weights=rows - share, minlength=people)
    variance = float(np.sum(residuals**2)) / rows.size**2 * people / max(people - 1, 1)
    if people < 2 or variance <= 0 or share in (0, 1):
        return float(people)
    # Few people make the variance itself unsure: Student's t for people against rows.
    students = stdtrit(rows.size - 1, TWO_SIDED) / stdtrit(people - 1, TWO_SIDED)
    return float(min(share * (1 - share) / variance * students**2, rows.size))


def paired_change_interval(gained: int, lost: int, n: int, *, tail: float = TWO_SIDED) -> Interval:
    """Score interval of the change of a proportion measured twice on the same people.

    gained  people for whom only the second measurement is a success
    lost    people for whom only the first is
    n       all people; the change is (gained - lost) / n
    returns (-1, 1) when n is 0
    source  Tango, Statistics in Medicine 1998; 17:891-908
    """
    if n == 0:
        return -1.0, 1.0
    z = float(-ndtri(tail))
    change = (gained - lost) / n

    def score(delta: float) -> float:
        # The share of `lost` that is most likely if the change were delta, in closed form.
        b = -gained - lost + (2 * n - gained + lost) * delta
        root = np.sqrt(max(b * b + 8 * n * lost * delta * (1 - delta), 0.0))
        variance = n * (2 * (root - b) / (4 * n) + delta * (1 - delta))
        distance = gained - lost - n * delta
        if distance == 0:
            return 0.0
        return float(distance / np.sqrt(variance)) if variance > 0 else np.sign(distance) * np.inf

    edge = 1e-12
    low = -1.0 if gained - lost == -n else _root(lambda d: score(d) - z, -1 + edge, change)
    high = 1.0 if gained - lost == n else _root(lambda d: score(d) + z, change, 1 - edge)
    return low, high


def delong(
    scores: ArrayLike, present: ArrayLike, clusters: ArrayLike | None = None
) -> tuple[float, float]:
    """AUROC and its variance; ties count one half.

    scores    [n] any real numbers, higher means present
    present   [n] booleans, both values occur
    clusters  [n] person of each row; several rows of a person, even with both labels, are
              summed before they are squared
    returns   (AUROC, variance); the variance is NaN with fewer than two people of a class
    raises    ValueError when a class is missing
    source    DeLong et al., Biometrics 1988; 44:837-845, by midranks as Sun and Xu, IEEE Signal
              Processing Letters 2014; 21:1389-1393; clusters as Obuchowski, Biometrics 1997;
              53:567-578
    """
    aurocs, covariance = _delong([scores], present, clusters)
    return float(aurocs[0]), float(covariance[0, 0])


def auroc_difference(
    first: ArrayLike, second: ArrayLike, present: ArrayLike, clusters: ArrayLike | None = None
) -> Estimate:
    """AUROC of the first scores minus that of the second, of the same people, paired.

    first, second, present, clusters  as in `delong`, row by row the same
    returns   value None when a class is missing; low and high None with fewer than two people of
              one. Where an AUROC is exactly 0 or 1 its variance says nothing: the ends then come
              from the two single intervals as if they were independent, which is wider
    source    DeLong et al., Biometrics 1988; the exception by MOVER, as in `mean_of_two`
    """
    labels = np.asarray(present, dtype=bool)
    if labels.all() or not labels.any():
        return Estimate(value=None, n=labels.size)
    aurocs, covariance = _delong([first, second], labels, clusters)
    value = float(aurocs[0] - aurocs[1])
    if np.isnan(covariance).any():
        return Estimate(value=value, n=labels.size)
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance > 0 and not np.isin(aurocs, (0.0, 1.0)).any():
        half = float(-ndtri(TWO_SIDED)) * np.sqrt(variance)
        low, high, method = value - half, value + half, "DeLong, paired"
    else:
        n_people = people_of_each(labels, clusters)
        (a_low, a_high), (b_low, b_high) = (
            auroc_interval(float(auroc), float(own), *n_people)
            for auroc, own in zip(aurocs, covariance.diagonal(), strict=True)
        )
        a, b = aurocs.tolist()
        low, high = value - np.hypot(a - a_low, b_high - b), value + np.hypot(a_high - a, b - b_low)
        method = "MOVER of DeLong"
    return Estimate(
        value=value,
        low=max(-1.0, float(low)),
        high=min(1.0, float(high)),
        n=labels.size,
        method=method,
    )


def _delong(
    several: Sequence[ArrayLike], present: ArrayLike, clusters: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUROCs [k] of k scores of the same rows, and their covariance [k, k]; see `delong`."""
    labels = np.asarray(present, dtype=bool)
    m, n = int(labels.sum()), int((~labels).sum())
    if m == 0 or n == 0:
        raise ValueError(f"AUROC needs both classes, got {m} present and {n} absent")
    names = np.arange(labels.size) if clusters is None else np.asarray(clusters)
    _, person = np.unique(names, return_inverse=True)
    people = int(person.max()) + 1
    aurocs, in_present, in_absent = [], [], []
    for scores in several:
        values = np.asarray(scores, dtype=np.float64)
        ranks = _midranks(values)
        beaten = (ranks[labels] - _midranks(values[labels])) / n  # of absents, by each present
        beating = 1 - (ranks[~labels] - _midranks(values[~labels])) / m  # presents, over absents
        auroc = float(beaten.mean())
        aurocs.append(auroc)
        in_present.append(np.bincount(person[labels], weights=beaten - auroc, minlength=people) / m)
        in_absent.append(
            np.bincount(person[~labels], weights=beating - auroc, minlength=people) / n
        )
    m_people = np.unique(person[labels]).size
    n_people = np.unique(person[~labels]).size
    if m_people < 2 or n_people < 2:
        return np.array(aurocs), np.full((len(aurocs), len(aurocs)), np.nan)
    p, a = np.array(in_present), np.array(in_absent)  # [k, people]
    covariance = (
        m_people / (m_people - 1) * (p @ p.T)
        + n_people / (n_people - 1) * (a @ a.T)
        + people / (people - 1) * (p @ a.T + a @ p.T)
    )
    np.fill_diagonal(covariance, np.maximum(covariance.diagonal(), 0.0))
    return np.array(aurocs), covariance


def auroc_interval(
    value: float, variance: float, n_present: int, n_absent: int, *, tail: float = TWO_SIDED
) -> Interval:
    """Interval of an AUROC from DeLong's variance, symmetric in its logit.

    The logit keeps the interval inside 0..1 and covers better than the plain one near 1 (Pepe,
    2003; Qin and Hotilovac, 2008). Where the variance says nothing:

    AUROC 1 or 0   the classes separate perfectly and DeLong's variance is 0. Among n_present and
                   n_absent people there are k = min(n_present, n_absent) disjoint pairs, and all
                   of them are in order with probability AUROC^k: the bound is tail^(1/k), exact
                   for those pairs and so on the safe side (80 and 80 people: 0.955). It can be
                   below the bound of an AUROC of 0.999, whose variance is an estimate
    all scores equal   AUROC 0.5 with variance 0: the variance of scores that carry no information
    one person of a class (variance NaN)   (0, 1)

    n_present, n_absent  people, not recordings
    """
    if np.isnan(variance):
        return 0.0, 1.0
    if value in (0.0, 1.0):
        bound = tail ** (1 / min(n_present, n_absent))
        return (bound, 1.0) if value == 1.0 else (0.0, 1 - bound)
    if variance == 0:
        variance = chance_variance(n_present, n_absent)
    half = float(-ndtri(tail)) * np.sqrt(variance) / (value * (1 - value))
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))


def chance_variance(n_present: int, n_absent: int) -> float:
    """Variance of the AUROC of continuous scores that carry no information (Mann-Whitney)."""
    return (n_present + n_absent + 1) / (12 * n_present * n_absent)


def auroc_estimate(
    scores: ArrayLike, present: ArrayLike, clusters: ArrayLike | None = None
) -> Estimate:
    """AUROC with its two-sided 95 % interval; value None when a class is missing."""
    labels = np.asarray(present, dtype=bool)
    if labels.all() or not labels.any():
        return Estimate(value=None, n=labels.size)
    value, variance = delong(scores, labels, clusters)
    n_present, n_absent = people_of_each(labels, clusters)
    low, high = auroc_interval(value, variance, n_present, n_absent)
    clustered = clusters is not None and np.unique(np.asarray(clusters)).size < labels.size
    method = "DeLong by participant (Obuchowski)" if clustered else "DeLong"
    if value in (0.0, 1.0):
        method = "exact for perfect separation"
    return Estimate(value=value, low=low, high=high, n=labels.size, method=method)


def people_of_each(present: ArrayLike, clusters: ArrayLike | None = None) -> tuple[int, int]:
    """How many people have a row with label present, and how many one with label absent."""
    labels = np.asarray(present, dtype=bool)
    if clusters is None:
        return int(labels.sum()), int((~labels).sum())
    person = np.asarray(clusters)
    return int(np.unique(person[labels]).size), int(np.unique(person[~labels]).size)


def mean_of_two(first: Estimate, second: Estimate) -> Estimate:
    """The mean of two independent proportions, such as balanced accuracy.

    The distance to each end is recovered from the ends of the two intervals, so it stays honest
    where both are 1 and a bootstrap would answer "1 to 1".

    source    MOVER: Zou and Donner, Statistics in Medicine 2008; 27:1693-1702
    """
    n = first.n + second.n
    known = [
        (part.value, part.low, part.high)
        for part in (first, second)
        if part.value is not None and part.low is not None and part.high is not None
    ]
    if len(known) < 2:
        return Estimate(value=None, n=n)
    (p, p_low, p_high), (q, q_low, q_high) = known
    value = (p + q) / 2
    low = max(0.0, value - float(np.hypot(p - p_low, q - q_low)) / 2)
    high = min(1.0, value + float(np.hypot(p_high - p, q_high - q)) / 2)
    return Estimate(value=value, low=low, high=high, n=n, method="MOVER of Clopper-Pearson")


def predictive_values(
    sensitivity: float, n_present: float, specificity: float, n_absent: float, prevalence: float
) -> tuple[tuple[float, Interval] | None, tuple[float, Interval] | None]:
    """Positive and negative predictive value at an assumed prevalence, by Bayes' rule.

    n_present, n_absent  (effective) numbers that sensitivity and specificity rest on
    returns   (value, two-sided 95 % interval) of each; None where nobody gets that answer.
              Intervals are symmetric in the logit. A sensitivity or specificity of exactly 0 or 1
              has no variance: z²/2 successes and failures are then added to both before the
              interval is taken, which is widened to hold the value itself
    source    Mercaldo, Lau and Zhou, Statistics in Medicine 2007; 26:2170-2183
    """
    z = float(-ndtri(TWO_SIDED))
    shares = np.array([sensitivity, specificity])
    sizes = np.array([n_present, n_absent], dtype=np.float64)
    degenerate = bool(np.any((shares == 0) | (shares == 1)))
    used, weight = shares, sizes
    if degenerate:
        used, weight = (shares * sizes + z * z / 2) / (sizes + z * z), sizes + z * z

    def interval(value: float, true: int, false: int, odds: float) -> tuple[float, Interval]:
        # odds of a right answer: odds * used[true] / (1 - used[false])
        centre = np.log(odds) + np.log(used[true]) - np.log1p(-used[false])
        variance = (1 - used[true]) / (used[true] * weight[true]) + used[false] / (
            (1 - used[false]) * weight[false]
        )
        low, high = expit(centre + np.array([-z, z]) * np.sqrt(variance))
        return value, (min(float(low), value), max(float(high), value))

    prior = prevalence / (1 - prevalence)
    hits, misses = prevalence * sensitivity, prevalence * (1 - sensitivity)
    clears, alarms = (1 - prevalence) * specificity, (1 - prevalence) * (1 - specificity)
    positive = interval(hits / (hits + alarms), 0, 1, prior) if hits + alarms > 0 else None
    negative = (
        interval(clears / (clears + misses), 1, 0, 1 / prior) if clears + misses > 0 else None
    )
    return positive, negative


def bootstrap(
    statistic: Statistic,
    clusters: ArrayLike,
    strata: ArrayLike,
    *,
    rng: np.random.Generator,
    resamples: int,
) -> NDArray[np.float64]:
    """A statistic of resampled people, [resamples]; its quantiles make intervals.

    statistic  weights [B, n] -> values [B]; a weight says how often a row was drawn
    clusters   [n] person of each row; all rows of a person come and go together
    strata     [n] booleans; people with a true row and people without are resampled apart, so
               that no resample loses a class
    source     Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13
    """
    _, person = np.unique(np.asarray(clusters), return_inverse=True)
    people = int(person.max()) + 1
    stratum = np.bincount(person, weights=np.asarray(strata, dtype=np.float64)) > 0
    values = []
    per_block = max(1, 2_000_000 // person.size)  # weights of a block stay under 16 MB
    for start in range(0, resamples, per_block):
        draws = min(per_block, resamples - start)
        counts = np.zeros((draws, people))
        for chosen in (np.flatnonzero(stratum), np.flatnonzero(~stratum)):
            if chosen.size:
                even = np.full(chosen.size, 1 / chosen.size)
                counts[:, chosen] = rng.multinomial(chosen.size, even, size=draws)
        values.append(statistic(counts[:, person]))
    return np.concatenate(values)


def _midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; tied values share their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[group], dtype=np.float64)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(brentq(function, low, high, xtol=1e-12))
