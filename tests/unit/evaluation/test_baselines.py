"""The two honest baselines."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from spira.domain.errors import InputError
from spira.evaluation.baselines import Sample, baseline_scores, compare_baseline, fit_baseline


def pauses(
    n: int = 80, *, effect: float = 2.0, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Features of which the first tells the classes apart."""
    rng = np.random.default_rng(seed)
    present = np.arange(n) < n // 2
    features = rng.normal(size=(n, 3))
    features[:, 0] += effect * present
    return features, present


def sample(*, effect: float = 2.0, seed: int = 1, model: float = 2.0) -> Sample:
    """Unseen people, one recording each; `model`: how far the model's scores are apart."""
    features, present = pauses(effect=effect, seed=seed)
    scores = np.random.default_rng(9).normal(size=80) + model * present
    return Sample(features, present, [f"p{i}" for i in range(len(present))], expit(scores))


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


@pytest.mark.parametrize(
    ("clean", "noise", "standing", "said"),
    [
        (3.5, 3.5, "behind", "o modelo é melhor"),
        (1.2, 3.5, "no difference shown", "nenhuma diferença demonstrada"),
        (3.5, 1.2, "no difference shown", "nenhuma diferença demonstrada"),
        (3.5, -1.0, "better", "melhor que o modelo"),
        (-1.0, 3.5, "better", "melhor que o modelo"),
    ],
)
def test_a_baseline_is_compared_under_both_conditions(
    clean: float, noise: float, standing: str, said: str
) -> None:
    """No difference is shown where its interval holds 0; the worse condition counts."""
    fitted = fit_baseline(*pauses())

    found = compare_baseline(
        "timing",
        fitted,
        clean=sample(effect=1.2, model=clean),
        noise=sample(effect=1.2, model=noise, seed=2),
    )

    assert found.standing == standing
    assert said in found.explanation.pt
    assert found.explanation.pt.startswith("Sem ruído: AUROC")
    assert "Com ruído: AUROC" in found.explanation.pt
    assert "With noise: AUROC" in found.explanation.en


def test_the_model_itself_is_no_better_than_itself() -> None:
    """A rule with the model's own scores: a difference of nothing, and no winner."""
    fitted = fit_baseline(*pauses())
    people = sample()
    same = Sample(
        people.features,
        people.present,
        people.participants,
        baseline_scores(fitted, people.features),
    )

    found = compare_baseline("timing", fitted, clean=same, noise=None)

    assert found.difference_clean.value == 0
    assert found.standing == "no difference shown"
    assert "melhor" not in found.explanation.pt


def test_baseline_without_noise_is_compared_clean() -> None:
    """Where the evaluation knows no noise, the clean figures decide."""
    found = compare_baseline("summary", fit_baseline(*pauses()), clean=sample(model=0), noise=None)

    assert found.standing == "better"
    assert found.auroc_noise.value is None
    assert found.difference_noise.value is None
    assert "Com ruído" not in found.explanation.pt


def test_baseline_counts_people() -> None:
    """A person recorded nine times has one score, like everybody else."""
    features, present = pauses()
    people = [f"p{i}" for i in range(80)]
    model = np.random.default_rng(3).uniform(size=80)
    often = np.repeat(np.arange(80), 1 + 8 * (np.arange(80) % 3 == 0))
    fitted = fit_baseline(features, present)

    repeated = compare_baseline(
        "timing",
        fitted,
        clean=Sample(features[often], present[often], [people[i] for i in often], model[often]),
        noise=None,
    )
    once = compare_baseline(
        "timing", fitted, clean=Sample(features, present, people, model), noise=None
    )

    assert repeated.auroc_clean.value == pytest.approx(once.auroc_clean.value)
    assert repeated.difference_clean.low == pytest.approx(once.difference_clean.low)
    assert repeated.auroc_clean.n == once.auroc_clean.n == 80


def test_nobody_of_a_class_is_no_comparison() -> None:
    """Words, and no winner."""
    people = sample()
    one = Sample(
        np.asarray(people.features)[:40],
        np.asarray(people.present)[:40],
        list(people.participants)[:40],  # type: ignore[arg-type, call-overload]
        np.asarray(people.model)[:40],
    )

    found = compare_baseline("timing", fit_baseline(*pauses()), clean=one, noise=None)

    assert found.standing == "not available"
    assert "para comparar" in found.explanation.pt
