"""Rooms: noise of a site's own character, never twice the same, and an echo."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from spira.domain.draws import draws
from spira.synthetic.rooms import NoiseKind, background, reverberate, room_of

RATE_HZ = 22_050


def spectrum_db(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """Level in 40 bands up to 8 kHz."""
    power = np.abs(np.fft.rfft(waveform)) ** 2
    hertz = np.fft.rfftfreq(len(waveform), 1 / RATE_HZ)
    edges = np.geomspace(50, 8000, 41)
    bands = [power[(hertz >= a) & (hertz < b)].mean() for a, b in pairwise(edges)]
    return np.asarray(10 * np.log10(bands))


def heard(site: str, number: int, kind: NoiseKind = "ward") -> NDArray[np.float32]:
    """Eight seconds of a site's noise."""
    return background(room_of(1, site), 8 * RATE_HZ, kind, draws(number, "test"))


@pytest.mark.parametrize("kind", ["quiet", "ward"])
def test_background_has_unit_level(kind: NoiseKind) -> None:
    """RMS 1, so that its level is set by whoever mixes it."""
    noise = heard("site-1", 1, kind)

    assert noise.dtype == np.float32
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(1, rel=1e-4)


def test_background_is_repeated_for_one_draw_only() -> None:
    """The same draw gives the same samples; another, or another hospital, does not."""
    np.testing.assert_array_equal(heard("site-1", 1), heard("site-1", 1))

    assert not np.array_equal(heard("site-1", 1), heard("site-1", 2))
    assert not np.array_equal(room_of(1, "site-1").response, room_of(2, "site-1").response)


def test_a_site_sounds_like_itself() -> None:
    """Two visits to one site differ less, in their spectra, than visits to two sites do."""
    spectra = {s: [spectrum_db(heard(s, n)) for n in range(4)] for s in ("site-1", "site-2")}

    def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float(np.sqrt(np.mean((a - b) ** 2)))

    within = [distance(v[0], other) for v in spectra.values() for other in v[1:]]
    between = [distance(a, b) for a in spectra["site-1"] for b in spectra["site-2"]]
    assert np.mean(between) > 1.5 * np.mean(within)


def test_a_ward_has_events_and_quiet_has_none() -> None:
    """Beeps and impacts stand out of the ward's noise; a quiet room's level hardly moves."""

    def restlessness(kind: NoiseKind) -> float:
        frames = heard("site-2", 3, kind).reshape(-1, RATE_HZ // 50)
        return float(np.std(10 * np.log10(np.mean(frames**2, axis=1))))

    assert restlessness("ward") > 1.5 * restlessness("quiet")


def test_an_echo_keeps_the_length_and_the_direct_sound() -> None:
    """A click stays where it was, followed by a tail that dies away."""
    click = np.zeros(RATE_HZ, dtype=np.float32)
    click[1000] = 1.0

    echo = reverberate(click, room_of(1, "site-1"))

    assert len(echo) == len(click)
    assert np.argmax(np.abs(echo)) == 1000
    assert echo[1000] == pytest.approx(1, abs=1e-3)
    assert np.abs(echo[:1000]).max() < 1e-5
    tail = echo[1001:] ** 2
    assert 0.01 < tail.sum() < 0.3  # 8 to 14 dB under the direct sound, in a room
    assert tail[: RATE_HZ // 10].sum() > 10 * tail[RATE_HZ // 10 :].sum()
