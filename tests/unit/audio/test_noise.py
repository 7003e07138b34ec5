"""Ward noise, mixed into speech."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from spira.audio.noise import PeakNoise, SnrNoise, active_power, excerpt, mix
from spira.domain.draws import draws
from spira.domain.errors import InputError

Float = NDArray[np.float32]

RATE_HZ = 16_000


def wards(count: int = 5, seconds: float = 6) -> list[Float]:
    """Noises that lean to the negative: their largest sample is not their largest absolute one."""
    rng = draws(1, "test wards")
    gusts = [rng.standard_normal(round(seconds * RATE_HZ)) for _ in range(count)]
    return [(0.1 * np.where(gust < 0, 2 * gust, gust)).astype(np.float32) for gust in gusts]


def speech(pause_s: float = 1.0) -> Float:
    """Two seconds of sound on either side of a pause."""
    rng = draws(2, "test speech")
    loud = 0.1 * rng.standard_normal(2 * RATE_HZ)
    return np.concatenate([loud, np.zeros(round(pause_s * RATE_HZ)), loud]).astype(np.float32)


def test_published_noise_has_a_peak_in_the_published_range() -> None:
    """Uniform between 0.033474047 and 0.19233719, and both ends of it are reached."""
    silence = np.zeros(2 * RATE_HZ, np.float32)
    config = PeakNoise()

    peaks = [
        float(np.abs(mix(silence, wards(), config, count=1, rng=draws(3, "peak", n))).max())
        for n in range(200)
    ]

    assert min(peaks) >= 0.033474047 * 0.999999
    assert max(peaks) <= 0.19233719 * 1.000001
    assert np.mean(peaks) == pytest.approx((0.033474047 + 0.19233719) / 2, abs=0.01)
    assert np.std(peaks) == pytest.approx((0.19233719 - 0.033474047) / np.sqrt(12), abs=0.006)


def test_signed_is_the_published_scale_by_the_largest_sample() -> None:
    """Noise that leans to the negative is then louder than the range says."""
    silence = np.zeros(2 * RATE_HZ, np.float32)

    mixed = mix(silence, wards(), PeakNoise(scale="signed"), count=1, rng=draws(4, "signed"))

    assert 0.033474047 * 0.999999 <= mixed.max() <= 0.19233719 * 1.000001
    assert -mixed.min() > 1.3 * mixed.max()


def test_every_excerpt_has_a_peak_of_its_own() -> None:
    """Three excerpts are three noises added, not one scaled after the sum."""
    pulses = [np.zeros(RATE_HZ, np.float32) for _ in range(3)]
    for number, pulse in enumerate(pulses):
        pulse[100 + 1000 * number] = 0.5
    silence = np.zeros(RATE_HZ, np.float32)

    mixed = mix(silence, pulses, PeakNoise(), count=3, rng=draws(5, "three"))

    heights = mixed[[100, 1100, 2100]]
    assert np.count_nonzero(mixed) == 3
    assert len(set(heights.tolist())) == 3
    assert ((heights > 0.0334) & (heights < 0.1924)).all()


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 25.0])
@pytest.mark.parametrize("count", [1, 3])
def test_snr_is_the_ratio_of_active_speech_to_the_sum_of_the_excerpts(
    snr_db: float, count: int
) -> None:
    """Measured on the result: what was added, against the speech without its pause."""
    config = SnrNoise(snr_db_low=snr_db, snr_db_high=snr_db)
    waveform = speech()

    mixed = mix(waveform, wards(), config, count=count, rng=draws(6, "snr"))

    added = float(np.mean((mixed.astype(np.float64) - waveform) ** 2))
    spoken = float(np.mean(waveform[: 2 * RATE_HZ].astype(np.float64) ** 2))
    assert 10 * np.log10(spoken / added) == pytest.approx(snr_db, abs=0.05)


def test_longer_pauses_do_not_mean_less_noise() -> None:
    """The label changes the pauses: noise must not tell it."""
    config = SnrNoise(snr_db_low=10, snr_db_high=10)

    levels = [
        np.std(mix(speech(pause), wards(), config, count=1, rng=draws(7, "pause")) - speech(pause))
        for pause in (0.5, 4.0)
    ]

    assert levels[0] == pytest.approx(levels[1], rel=0.01)


def test_snr_is_drawn_evenly_from_its_range() -> None:
    """Every recording and epoch another one, between the two ends."""
    waveform, power = speech(), active_power(speech())

    found = [
        10 * np.log10(power / np.mean((mixed.astype(np.float64) - waveform) ** 2))
        for mixed in (
            mix(waveform, wards(), SnrNoise(), count=1, rng=draws(8, "range", n))
            for n in range(150)
        )
    ]

    assert min(found) > 9.9
    assert max(found) < 25.1
    assert np.mean(found) == pytest.approx(17.5, abs=1.2)


@pytest.mark.parametrize("config", [PeakNoise(), SnrNoise()])
def test_the_same_draw_mixes_the_same_bytes(config: PeakNoise | SnrNoise) -> None:
    """Noise is a pure function of its generator, and leaves speech and noise as they were."""
    waveform, noises = speech(), wards()
    before = [waveform.copy(), *(noise.copy() for noise in noises)]

    first, again, other = (
        mix(waveform, noises, config, count=3, rng=draws(9, "epoch", epoch)) for epoch in (1, 1, 2)
    )

    assert first.dtype == np.float32
    assert first.shape == waveform.shape
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()
    for untouched, now in zip(before, [waveform, *noises], strict=True):
        assert np.array_equal(untouched, now)


def test_excerpts_are_of_different_recordings_while_there_are_so_many() -> None:
    """Five of five noises: each is heard once."""
    clicks = list(np.eye(5, dtype=np.float32))  # each clicks at another sample
    silence = np.zeros(5, np.float32)
    config = PeakNoise(peak_low=0.1, peak_high=0.1)

    once = mix(silence, clicks, config, count=5, rng=draws(10, "five"))
    more = mix(silence, clicks[:2], config, count=5, rng=draws(10, "two"))

    assert once == pytest.approx(0.1)
    assert more.sum() == pytest.approx(0.5)
    assert not more[2:].any()


@given(n=st.integers(1, 50), length=st.integers(1, 300), seed=st.integers(0, 1000))
def test_an_excerpt_is_a_stretch_of_the_noise_looped_where_it_is_short(
    n: int, length: int, seed: int
) -> None:
    """Sample follows sample, and after the last comes the first."""
    noise = np.arange(n, dtype=np.float32)

    found = excerpt(noise, length, draws(seed, "excerpt"))

    assert len(found) == length
    assert found.tolist() == [(found[0] + i) % n for i in range(length)]


def test_every_place_of_a_noise_is_heard() -> None:
    """The first excerpt and the last one too, and a short noise from anywhere in it."""
    noise = np.arange(6, dtype=np.float32)

    begun = {float(excerpt(noise, 4, draws(n, "place"))[0]) for n in range(60)}
    looped = {float(excerpt(noise, 8, draws(n, "place"))[0]) for n in range(60)}

    assert begun == {0, 1, 2}
    assert looped == {0, 1, 2, 3, 4, 5}


def test_sums_above_full_scale_are_not_clipped() -> None:
    """Nothing in the signal path depends on full scale, and clipping would be a shortcut."""
    loud = np.full(RATE_HZ, 0.99, np.float32)
    loud[::2] *= -1

    mixed = mix(
        loud, wards(), PeakNoise(peak_low=0.19, peak_high=0.19), count=3, rng=draws(11, "c")
    )

    assert np.abs(mixed).max() > 1


@pytest.mark.parametrize("config", [PeakNoise(), SnrNoise()])
def test_silent_noise_and_no_noise_leave_the_speech_as_it_is(config: PeakNoise | SnrNoise) -> None:
    """No division by a peak or a power of zero."""
    waveform = speech()
    zeros = [np.zeros(RATE_HZ, np.float32)]

    assert np.array_equal(mix(waveform, zeros, config, count=2, rng=draws(12, "z")), waveform)
    assert np.array_equal(mix(waveform, [], config, count=0, rng=draws(12, "z")), waveform)


def test_silence_stays_silent_under_noise_by_snr() -> None:
    """There is no speech for the noise to be in proportion to."""
    silence = np.zeros(RATE_HZ, np.float32)

    assert not mix(silence, wards(), SnrNoise(), count=3, rng=draws(13, "s")).any()


def test_missing_noise_is_said() -> None:
    """Not an index error."""
    with pytest.raises(InputError, match="no noise recording"):
        mix(speech(), [], PeakNoise(), count=1, rng=draws(14, "m"))
    with pytest.raises(InputError, match="no samples"):
        excerpt(np.zeros(0, np.float32), 10, draws(14, "e"))


def test_ranges_upside_down_are_refused() -> None:
    """By the experiment's model."""
    with pytest.raises(ValidationError, match="peak_low"):
        PeakNoise(peak_low=0.3)
    with pytest.raises(ValidationError, match="snr_db_low"):
        SnrNoise(snr_db_low=30)
