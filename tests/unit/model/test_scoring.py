"""`score()`: the one function that turns a waveform into an answer."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from spira.audio.features import Mfcc, extract
from spira.audio.windows import Windows
from spira.domain.answers import OperatingPoint
from spira.domain.draws import draws
from spira.domain.errors import InputError, IntegrityError, RecordingRefused
from spira.model.scoring import Scorer, ScoringSpec

Float = NDArray[np.float32]
Networks = Callable[..., bytes]

RATE_HZ = 16_000
SPEC = ScoringSpec(features=Mfcc(), windows=Windows())
POINT = OperatingPoint(threshold=0.4, band_low=0.3, band_high=0.6, temperature=2.0, prevalence=0.5)


def fading(seconds: float, *, loudness: float = 0.3) -> Float:
    """Noise that gets quieter by the second: every window has a logit of its own."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    noise = draws(1, "test scoring").standard_normal(len(t))
    return (loudness * np.exp(-t / 4) * noise).astype(np.float32)


def test_a_score_is_the_mean_of_the_windows_probabilities(level_network: Networks) -> None:
    """Not the probability of their mean logit; and the logits come in order of time."""
    waveform = fading(9)
    means = extract(waveform, Windows(), Mfcc()).mean(axis=(1, 2))

    score = Scorer(level_network(scale=6.0, shift=-6.0), SPEC).score(waveform)

    logits = [6.0 * float(mean) - 6.0 for mean in means]
    expected = sum(1 / (1 + math.exp(-logit)) for logit in logits) / 6
    assert score.window_logits == pytest.approx(logits, abs=1e-4)
    assert score.probability == pytest.approx(expected, abs=1e-5)
    assert abs(expected - 1 / (1 + math.exp(-sum(logits) / 6))) > 0.01


def test_the_operating_point_decides_after_its_temperature(level_network: Networks) -> None:
    """The logit of the mean is divided by the temperature, and the band is applied to that."""
    waveform = fading(4)
    mean = float(extract(waveform, Windows(), Mfcc()).mean())
    outcomes = []

    for logit in (-3.0, -1.2, 3.0):  # the second is negative before its temperature
        network = level_network(scale=1.0, shift=logit - mean)
        score = Scorer(network, SPEC, POINT).score(waveform)
        assert score.calibrated == pytest.approx(1 / (1 + math.exp(-logit / 2)), abs=1e-5)
        outcomes.append(score.outcome)

    assert outcomes == ["negative", "inconclusive", "positive"]


def test_without_an_operating_point_the_probability_stands_as_it_is(
    level_network: Networks,
) -> None:
    """While one is being chosen, nothing is calibrated."""
    score = Scorer(level_network(scale=0.3), SPEC).score(fading(5))

    assert score.calibrated == pytest.approx(score.probability, abs=1e-9)
    assert score.outcome == ("positive" if score.probability >= 0.5 else "negative")


def test_a_long_recording_in_blocks_has_the_answer_of_the_whole(level_network: Networks) -> None:
    """To the last bit, whatever the blocks: two minutes are several slices."""
    waveform = fading(120, loudness=1.0)
    scorer = Scorer(level_network(), SPEC)

    def blocks(size: int) -> Iterator[Float]:
        for first in range(0, len(waveform), size):
            yield waveform[first : first + size]

    whole = scorer.score(waveform)

    assert len(whole.window_logits) == 117
    for size in (1_000, 77_777, 500_000):
        score = scorer.score(blocks(size))
        assert score.probability == whole.probability
        assert score.window_logits.tobytes() == whole.window_logits.tobytes()
    means = extract(waveform, Windows(), Mfcc()).mean(axis=(1, 2))
    assert np.abs(whole.window_logits - (0.1 * means + 4)).max() < 1e-4


def test_the_same_recording_has_the_same_bytes_from_any_thread(level_network: Networks) -> None:
    """A scorer may be shared."""
    scorer, recordings = Scorer(level_network(), SPEC), [fading(s) for s in (3, 4, 6, 8)] * 3
    expected = [scorer.score(one).window_logits.tobytes() for one in recordings]

    with ThreadPoolExecutor(4) as pool:
        scores = list(pool.map(scorer.score, recordings))

    assert [score.window_logits.tobytes() for score in scores] == expected


@pytest.mark.parametrize("seconds", [0.5, 3.99, 4.0])
def test_a_short_recording_is_one_window(seconds: float, level_network: Networks) -> None:
    """It is padded, not refused."""
    assert len(Scorer(level_network(), SPEC).score(fading(seconds)).window_logits) == 1


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e30])
def test_samples_that_are_no_sound_are_refused(wrong: float, level_network: Networks) -> None:
    """A single one of them would make the whole answer a number that is none."""
    waveform = fading(6)
    waveform[50_000] = wrong

    with pytest.raises(RecordingRefused, match="not finite") as refusal:
        Scorer(level_network(), SPEC).score(waveform)

    assert refusal.value.reason == "not_finite"


def test_a_network_that_answers_no_number_gives_no_answer(level_network: Networks) -> None:
    """Damaged weights must not read as a negative."""
    with pytest.raises(IntegrityError, match="not a finite number"):
        Scorer(level_network(shift=math.nan), SPEC).score(fading(6))


def test_what_is_not_a_number_is_never_negative() -> None:
    """Wherever else a probability comes from."""
    assert POINT.outcome(math.nan) == "inconclusive"


def test_an_empty_recording_is_refused(level_network: Networks) -> None:
    """As an array, and as blocks that never come."""
    scorer = Scorer(level_network(), SPEC)

    for nothing in (np.zeros(0, np.float32), iter(())):
        with pytest.raises(InputError, match="no samples"):
            scorer.score(nothing)


def test_bytes_that_are_no_network_are_refused() -> None:
    """With a sentence, not an exception of ONNX Runtime."""
    with pytest.raises(InputError, match="ONNX Runtime cannot open it"):
        Scorer(b"not a network", SPEC)


def test_features_and_waveforms_have_one_rate() -> None:
    """Otherwise windows would be cut at one rate and computed at another."""
    with pytest.raises(ValidationError, match="features are made for 16000 Hz"):
        ScoringSpec(features=Mfcc(), windows=Windows(), rate_hz=8_000)
