"""The two honest baselines."""

import numpy as np
import pytest
from numpy.typing import NDArray

from spira.domain.errors import InputError
from spira.evaluation.baselines import Sample, baseline_scores, compare_baseline, fit_baseline
from spira.evaluation.results import Estimate


def pauses(
    n: int = 80, *, effect: float = 2.0, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Features of which the first tells the classes apart."""
    rng = np.random.default_rng(seed)
    present = np.arange(n) < n // 2
    features = rng.normal(size=(n, 3))
    features[:, 0] += effect * present
    return features, present


def sample(*, effect: float = 2.0, seed: int = 1) -> Sample:
    """Unseen people, one recording each."""
    features, present = pauses(effect=effect, seed=seed)
    return Sample(features, present, [f"p{i}" for i in range(len(present))])


def figure(value: float | None) -> Estimate:
    """The model's AUROC."""
    return Estimate(value=value, n=80)


def test_baseline_learns_what_is_there() -> None:
    """Trained on some people it ranks others, and the same training gives the same scores."""
    features, present = pauses()
    unseen, _ = pauses(seed=1)

    scores = baseline_scores(fit_baseline(features, present), unseen)

    assert scores[:40].mean() > scores[40:].mean() + 0.3
    assert np.array_equal(scores, baseline_scores(fit_baseline(features, present), unseen))


def test_baseline_goes_on_with_holes() -> None:
    """Missing and infinite values, an empty column and a constant one are no reason to stop."""
    features, present = pauses()
    features[::5, 0] = np.nan
    features[1, 1] = -np.inf
    features = np.column_stack([features, np.full(80, np.nan), np.ones(80)])

    scores = baseline_scores(fit_baseline(features, present), features)

    assert np.isfinite(scores).all()
    assert scores[:40].mean() > scores[40:].mean()


@pytest.mark.parametrize("label", [True, False])
def test_baseline_needs_both_labels(label: bool) -> None:
    """One class to train on is the user's mistake and says so."""
    with pytest.raises(InputError, match="both labels"):
        fit_baseline(np.zeros((4, 2)), [label] * 4)


@pytest.mark.parametrize(("model", "better"), [(0.70, True), (0.999, False)])
def test_baseline_says_when_it_is_better_than_the_model(model: float, better: bool) -> None:
    """The comparison is the one under noise, and the sentence tells it in both languages."""
    fitted = fit_baseline(*pauses())

    found = compare_baseline(
        "timing",
        fitted,
        clean=sample(),
        noise=sample(effect=1.5, seed=2),
        model_clean=figure(1.0 - model),
        model_noise=figure(model),
    )

    assert found.better_than_model is better
    assert (found.auroc_clean.value or 0) > 0.85
    assert found.auroc_noise.n == 80
    assert ("melhor que o modelo" in found.explanation.pt) is better
    assert ("better than the model" in found.explanation.en) is better
    assert str(round(model, 3)).replace(".", ",") in found.explanation.pt


def test_baseline_without_noise_is_compared_clean() -> None:
    """Where the evaluation knows no noise, the clean figures decide."""
    found = compare_baseline(
        "summary",
        fit_baseline(*pauses()),
        clean=sample(),
        noise=None,
        model_clean=figure(0.6),
        model_noise=None,
    )

    assert found.better_than_model
    assert found.auroc_noise.value is None


def test_baseline_counts_people() -> None:
    """A person recorded nine times has one score, like everybody else."""
    features, present = pauses()
    people = [f"p{i}" for i in range(80)]
    often = np.repeat(np.arange(80), 1 + 8 * (np.arange(80) % 3 == 0))
    fitted = fit_baseline(features, present)

    repeated = compare_baseline(
        "timing",
        fitted,
        clean=Sample(features[often], present[often], [people[i] for i in often]),
        noise=None,
        model_clean=figure(None),
        model_noise=None,
    )
    once = compare_baseline(
        "timing",
        fitted,
        clean=Sample(features, present, people),
        noise=None,
        model_clean=figure(None),
        model_noise=None,
    )

    assert repeated == once
    assert once.auroc_clean.n == 80
    assert not once.better_than_model
