"""What the illness does to speech: of the size that was asked for, and nothing at size 0."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from spira.domain.draws import draws
from spira.domain.recordings import Label
from spira.synthetic.physiology import (
    Breathing,
    draw_breathing,
    draw_group_sizes,
    draw_pause_sum,
    inhalation,
    share_pauses,
    sustained_a,
    tire,
    typical_breathing,
)

RATE_HZ = 22_050


def tone(pitch_hz: float = 100.0, seconds: float = 2.0) -> NDArray[np.float32]:
    """A voice as plain as can be."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return np.sin(2 * np.pi * pitch_hz * time_s).astype(np.float32)


def tired(
    speech: NDArray[np.float32], *, decay_db: float = 0.0, effect: float = 0.0
) -> NDArray[np.float32]:
    """The end of a breath group, for a voice of 100 Hz."""
    breathing = typical_breathing("present", effect)
    period = RATE_HZ / 100
    return tire(speech, period=period, decay_db=decay_db, breathing=breathing, rng=draws(1, "test"))


def periods(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """Lengths of the cycles in samples, from interpolated rising zero crossings."""
    rising = np.flatnonzero((waveform[:-1] < 0) & (waveform[1:] >= 0))
    below, above = waveform[rising], waveform[rising + 1]
    return np.diff(rising + below / (below - above)).astype(np.float64)


def level_db(waveform: NDArray[np.float32]) -> float:
    """RMS level."""
    return float(10 * np.log10(np.mean(np.square(waveform))))


@pytest.mark.parametrize("seed", range(5))
def test_no_effect_is_no_difference(seed: int) -> None:
    """At effect 0 the same draws give an ill and a healthy person the same breathing."""
    ill = draw_breathing("present", 0.0, draws(seed, "test"))

    assert ill == draw_breathing("absent", 0.0, draws(seed, "test"))


def test_the_effect_does_not_touch_the_healthy() -> None:
    """However large it is."""
    assert typical_breathing("absent", 2.0) == typical_breathing("absent", 0.0)


@pytest.mark.parametrize(
    ("effect", "pause_s", "words", "share", "inhalations_db", "decays_db"),
    [
        (0.0, 0.85, 8.0, 0.35, (32, 40), (0, 3)),
        (1.0, 3.20, 4.5, 0.81, (24, 34), (3, 8)),
        (1.4, 4.14, 3.1, 1.00, (21, 32), (4, 10)),
    ],
)
def test_the_effect_has_the_size_that_is_documented(
    effect: float,
    pause_s: float,
    words: float,
    share: float,
    inhalations_db: tuple[float, float],
    decays_db: tuple[float, float],
) -> None:
    """The published sum of pauses at 1, the figures of EXPERIMENTS.md at 1.4."""
    ill = typical_breathing("present", effect)

    assert ill.pause_s == pytest.approx(pause_s)
    assert ill.words_per_group == pytest.approx(words)
    assert ill.inhalation_share == pytest.approx(share, abs=0.01)
    assert (ill.inhalation_low_db, ill.inhalation_high_db) == pytest.approx(inhalations_db, abs=0.4)
    assert (ill.decay_low_db, ill.decay_high_db) == pytest.approx(decays_db, abs=0.2)


@pytest.mark.parametrize(
    ("label", "median_s", "log_sd"), [("absent", 0.85, 0.4), ("present", 3.2, 0.3)]
)
def test_pause_sums_are_distributed_as_published(
    label: Label, median_s: float, log_sd: float
) -> None:
    """Log-normal, per 10 s of recording."""
    breathing = typical_breathing(label, 1.0)
    sums = [draw_pause_sum(breathing, 10.0, draws(1, "test", n)) for n in range(2000)]

    assert np.median(sums) == pytest.approx(median_s, rel=0.04)
    assert np.std(np.log(sums)) == pytest.approx(log_sd, rel=0.08)


def test_pauses_leave_time_to_speak() -> None:
    """Even the illest patient says something."""
    breathing = typical_breathing("present", 2.0)

    assert max(draw_pause_sum(breathing, 10.0, draws(1, "test", n)) for n in range(2000)) <= 5.5


def test_breath_groups_hold_the_words_that_they_should() -> None:
    """On average, and none is longer than allowed."""
    sizes = draw_group_sizes(typical_breathing("present", 1.4), 30_000, 16, draws(1, "test"))

    assert np.mean(sizes) == pytest.approx(3.1, rel=0.03)
    assert (min(sizes), max(sizes) <= 16) == (1, True)
    assert max(draw_group_sizes(typical_breathing("absent", 0), 3000, 9, draws(1, "test"))) == 9


@pytest.mark.parametrize(("total_s", "n"), [(4.0, 4), (0.3, 5), (1.0, 1), (0.0, 2)])
def test_shared_pauses_sum_to_their_sum(total_s: float, n: int) -> None:
    """However many there are, and however little there is to share."""
    pauses = share_pauses(total_s, n, draws(1, "test"))

    assert len(pauses) == n
    assert sum(pauses) == pytest.approx(total_s)
    assert min(pauses) >= min(0.15, 0.79 * total_s / n)


@pytest.mark.parametrize("decay_db", [0.0, 5.0, 10.0])
def test_the_level_falls_by_the_end_of_a_group(decay_db: float) -> None:
    """By as many decibels as were planted, and not at the beginning."""
    speech = tone()

    end = tired(speech, decay_db=decay_db)

    edge = RATE_HZ // 20
    assert level_db(end[-edge:]) - level_db(speech[-edge:]) == pytest.approx(-decay_db, abs=0.8)
    assert level_db(end[:edge]) - level_db(speech[:edge]) == pytest.approx(0, abs=0.3)


def test_jitter_grows_with_the_effect_and_towards_the_end() -> None:
    """Relative change from one period to the next, as phoneticians measure it."""

    def jitter(cycles: NDArray[np.float64]) -> float:
        return float(np.mean(np.abs(np.diff(cycles))) / np.mean(cycles))

    healthy, ill = periods(tired(tone(), effect=0)), periods(tired(tone(), effect=1.4))

    assert jitter(ill[100:]) > 2.5 * jitter(healthy[100:])
    assert jitter(ill[150:]) > 1.5 * jitter(ill[:50])
    assert jitter(periods(tone())) < 0.1 * jitter(healthy)


def test_an_inhalation_has_the_level_that_it_is_given() -> None:
    """RMS 1, soft at both ends, noise that is never the same."""
    breath = inhalation(6000, RATE_HZ, draws(1, "test"))

    assert np.sqrt(np.mean(breath**2)) == pytest.approx(1, rel=1e-4)
    assert np.abs(breath[:20]).max() < 1 > np.abs(breath[-20:]).max()
    assert not np.array_equal(breath, inhalation(6000, RATE_HZ, draws(2, "test")))


@pytest.mark.parametrize("pitch_hz", [100.0, 220.0])
def test_a_sustained_vowel_is_an_a_at_its_pitch(pitch_hz: float) -> None:
    """Pitch by autocorrelation; most energy around the first two formants of /a/."""
    vowel = sustained_a(2 * RATE_HZ, RATE_HZ, pitch_hz=pitch_hz, tract=1.0, rng=draws(1, "test"))

    middle = vowel[RATE_HZ // 2 : RATE_HZ // 2 + 4096]
    correlation = np.correlate(middle, middle, "full")[4096:]
    lag = 50 + int(np.argmax(correlation[50:300]))
    assert RATE_HZ / lag == pytest.approx(pitch_hz, rel=0.05)
    power = np.abs(np.fft.rfft(vowel)) ** 2
    hertz = np.fft.rfftfreq(len(vowel), 1 / RATE_HZ)
    assert power[(hertz > 500) & (hertz < 1500)].sum() > 0.6 * power.sum()
    assert np.abs(vowel).max() == pytest.approx(1)


def timing(breathing: Breathing, *keys: str | int) -> list[float]:
    """What a person with a stop watch would note down about one recording."""
    rng = draws(1, "test", *keys)
    total_s = draw_pause_sum(breathing, 10.0, rng)
    sizes = draw_group_sizes(breathing, int((9 - total_s) * 2.8), 13, rng)
    pauses = share_pauses(total_s, len(sizes) - 1, rng)
    return [total_s, float(len(pauses)), max(pauses, default=0.0)]


@pytest.mark.parametrize(("effect", "low", "high"), [(0.0, 0.40, 0.60), (1.4, 0.98, 1.0)])
def test_planted_pauses_tell_the_label_only_where_there_is_an_effect(
    effect: float, low: float, high: float
) -> None:
    """A cross-validated logistic regression on the timing of 200 + 200 people."""
    labels: list[Label] = ["present", "absent"]
    rows = [
        timing(draw_breathing(label, effect, draws(1, "person", label, n)), label, n)
        for label in labels
        for n in range(200)
    ]
    present = np.repeat([1, 0], 200)

    guess = cross_val_predict(LogisticRegression(), rows, present, cv=5, method="predict_proba")[
        :, 1
    ]

    assert low <= roc_auc_score(present, guess) <= high
