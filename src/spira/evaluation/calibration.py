"""From validation people to an operating point: temperature, threshold and inconclusive band.

Test people have no part in it. An operating point belongs to the model and to the condition that
it was chosen in.
"""

import math
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, logit

from spira.domain.answers import OperatingPoint
from spira.domain.errors import InputError

TEMPERATURE_BOUNDS = (0.1, 10.0)


def choose_operating_point(
    probabilities: ArrayLike,
    present: ArrayLike,
    *,
    sensitivity_aim: float,
    inconclusive_share: float,
    condition: str = "clean",
) -> OperatingPoint:
    """The operating point of a model, from its answers to validation recordings.

    probabilities       [n] mean window probabilities, not calibrated, 0..1
    present             [n] booleans; both labels occur
    sensitivity_aim     share of present recordings that must be positive, above 0 and at most 1
    inconclusive_share  share of the recordings that the band must hold, 0 (no band) and below 1

    threshold  of all thresholds that reach the aim those of highest specificity, of these the
               most sensitive; it lies midway, in calibrated logit, in the gap between the two
               neighbouring scores (below the lowest score: at half of it)
    band       the smallest interval around the threshold, symmetric in calibrated logit, that
               holds the share. Where validation left a wide gap the band covers it: an answer
               there would rest on nothing seen

    raises     InputError when one label is missing
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    labels = np.asarray(present, dtype=bool)
    if labels.all() or not labels.any():
        raise InputError(
            f"validation has {int(labels.sum())} recordings labelled present and "
            f"{int((~labels).sum())} labelled absent; an operating point needs both"
        )
    temperature = fit_temperature(scores, labels)
    prevalence = float(labels.mean())
    neutral = OperatingPoint(
        threshold=0.5, band_low=0.5, band_high=0.5, temperature=temperature, prevalence=prevalence
    )
    calibrated = np.array([neutral.calibrate(score) for score in scores.tolist()])
    threshold = _threshold(calibrated, labels, sensitivity_aim)
    low, high = _band(calibrated, threshold, inconclusive_share)
    return OperatingPoint(
        threshold=threshold,
        band_low=low,
        band_high=high,
        temperature=temperature,
        prevalence=prevalence,
        aim=f"sensitivity >= {sensitivity_aim:.2f}",
        condition=condition,
    )


def fit_temperature(probabilities: ArrayLike, present: ArrayLike) -> float:
    """The temperature that makes calibrated probabilities most likely, in TEMPERATURE_BOUNDS.

    Plain likelihood drives the temperature to 0 when the classes separate perfectly, as they do
    by luck among 40 people. Platt's targets, (n₁+1)/(n₁+2) for present and 1/(n₀+2) for absent,
    say how sure so many people allow one to be; with many people they are 1 and 0. The bounds
    hold where the scores say nothing, or the opposite (then the upper one).

    source    Guo et al., ICML 2017; targets: Platt, Advances in Large Margin Classifiers, 1999
    """
    logits = logit(np.clip(np.asarray(probabilities, dtype=np.float64), 1e-7, 1 - 1e-7))
    labels = np.asarray(present, dtype=bool)
    n_present, n_absent = int(labels.sum()), int((~labels).sum())
    targets = np.where(labels, (n_present + 1) / (n_present + 2), 1 / (n_absent + 2))

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return float(-np.mean(targets * log_expit(scaled) + (1 - targets) * log_expit(-scaled)))

    bounds = (math.log(TEMPERATURE_BOUNDS[0]), math.log(TEMPERATURE_BOUNDS[1]))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    # The loss is convex in 1 / temperature; the search never evaluates its own ends.
    best = min((float(found.x), *bounds), key=loss)
    return float(np.clip(math.exp(best), *TEMPERATURE_BOUNDS))


def _threshold(calibrated: NDArray[np.float64], labels: NDArray[np.bool_], aim: float) -> float:
    distinct = np.unique(calibrated)
    candidates = [_between(0.0, float(distinct[0]))]
    candidates += [_between(low, high) for low, high in pairwise(distinct.tolist())]
    n_present, n_absent = labels.sum(), (~labels).sum()

    def merit(threshold: float) -> tuple[float, float]:
        positive = calibrated >= threshold
        return float((~positive & ~labels).sum() / n_absent), float(
            (positive & labels).sum() / n_present
        )

    reaching = [t for t in candidates if merit(t)[1] >= aim - 1e-12]
    return max(reaching, key=merit)


def _between(low: float, high: float) -> float:
    """A threshold in (low, high], midway in logit; never 0 or 1."""
    middle = (low + high) / 2
    if low > 0 and high < 1:
        in_logit = float(expit((logit(low) + logit(high)) / 2))
        middle = in_logit if low < in_logit <= high else high  # neighbours in the last bit
    return min(max(middle, math.nextafter(0, 1)), math.nextafter(1, 0))


def _band(calibrated: NDArray[np.float64], threshold: float, share: float) -> tuple[float, float]:
    held = math.ceil(share * calibrated.size - 1e-9)
    if held == 0:
        return threshold, threshold
    centre = logit(threshold)
    distances = np.sort(np.abs(logit(np.clip(calibrated, 1e-300, 1 - 1e-16)) - centre))
    half = float(distances[held - 1]) + 1e-9  # the end above belongs to the positives
    return float(expit(centre - half)), float(expit(centre + half))
