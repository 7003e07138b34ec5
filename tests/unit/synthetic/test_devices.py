"""What a device does to a waveform, seen on those that write plain samples."""

import io

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from spira.domain.draws import draws
from spira.synthetic.devices import DEVICES, DeviceName, capture

RATE_HZ = 22_050
PLAIN: tuple[DeviceName, ...] = ("recorder-wav", "laptop-wav", "headset-flac")


def tone(hertz: float, peak: float, seconds: float = 3.0) -> NDArray[np.float32]:
    """A tone."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (peak * np.sin(2 * np.pi * hertz * time_s)).astype(np.float32)


def recorded(waveform: NDArray[np.float32], name: DeviceName) -> NDArray[np.float32]:
    """What a reader of the file finds."""
    samples, rate = soundfile.read(
        io.BytesIO(capture(waveform, DEVICES[name], draws(1, "test"))), dtype="float32"
    )
    assert rate == DEVICES[name].rate_hz
    return np.asarray(samples)


@pytest.mark.parametrize("name", PLAIN)
def test_a_recording_lasts_as_long_as_the_sound(name: DeviceName) -> None:
    """At the device's rate, to a sample."""
    samples = recorded(tone(300, 0.5), name)

    assert len(samples) == pytest.approx(3 * DEVICES[name].rate_hz, abs=1)


@pytest.mark.parametrize("name", PLAIN)
def test_digital_silence_is_never_recorded(name: DeviceName) -> None:
    """A microphone has a noise of its own, far under any speech."""
    samples = recorded(np.zeros(RATE_HZ, dtype=np.float32), name)

    assert -85 < 10 * np.log10(np.mean(samples**2)) < -65


def test_a_loud_sound_does_not_clip() -> None:
    """It is scaled down instead."""
    samples = recorded(tone(300, 1.7), "recorder-wav")

    assert 0.9 < np.abs(samples).max() < 0.97


def test_the_band_is_limited() -> None:
    """A hum below the headset's band nearly vanishes, a voice stays."""
    hum, voice = recorded(tone(40, 0.5), "headset-flac"), recorded(tone(800, 0.5), "headset-flac")

    assert np.abs(hum[44_100:]).max() < 0.1
    assert np.abs(voice[44_100:]).max() == pytest.approx(0.5, abs=0.02)


def test_gain_control_brings_levels_together() -> None:
    """Half of the distance in dB to the aim, on devices that have it; others leave levels alone."""
    ratios = {}
    for name in ("laptop-wav", "recorder-wav"):
        soft, loud = recorded(tone(300, 0.2), name), recorded(tone(300, 0.7), name)
        ratios[name] = np.abs(loud[-2000:]).max() / np.abs(soft[-2000:]).max()

    assert ratios["recorder-wav"] == pytest.approx(3.5, rel=0.02)
    assert ratios["laptop-wav"] < 2.7


def test_gain_control_does_not_pump_pauses_up() -> None:
    """A pause of a second rises by less than a decibel: it must not give the label away."""
    noise = (0.002 * draws(1, "noise").standard_normal(3 * RATE_HZ)).astype(np.float32)
    sound = noise + np.concatenate([tone(300, 0.5, 1.0), np.zeros(2 * RATE_HZ, np.float32)])

    pause = recorded(sound, "laptop-wav")[int(1.1 * 16_000) :]

    first, last = pause[:1600], pause[14_400:16_000]
    assert 10 * np.log10(np.mean(last**2) / np.mean(first**2)) < 1.0
