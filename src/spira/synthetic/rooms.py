"""Rooms of the synthetic hospital: how each site sounds, empty and around a voice.

A site has one room: an impulse response, and a character of its noise (mains hum, ventilation,
a murmur of far talk, a monitor's beeps, impacts). Nobody's words are in any of it.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, oaconvolve, sosfilt

from spira.domain.draws import draws
from spira.synthetic.voices import RATE_HZ

Float = NDArray[np.float32]
NoiseKind = Literal["quiet", "ward"]

_MAINS_HZ = 60  # Brazil
_MAINS_PERIODS = 2  # 735 samples at 22,050 Hz hold two periods exactly


@dataclass(frozen=True, eq=False)
class Room:
    """One site's room."""

    response: Float  # impulse response, the direct sound (1) first
    hum: Float  # whole periods of the mains hum, RMS 1
    air: Float  # second-order sections of the ventilation's spectrum
    murmur: Float  # second-order sections of the far talk's spectrum
    levels_db: dict[str, float]  # of each part of the noise against the ventilation
    beep_hz: float
    beep_period_s: float
    beep_length_s: float
    impacts_per_s: float


@lru_cache(maxsize=64)
def room_of(seed: int, site: str) -> Room:
    """The room of a site: always the same one for a seed."""
    rng = draws(seed, "room", site)
    low, high = rng.uniform(60, 140), rng.uniform(300, 1200)
    talk = rng.uniform(350, 700)
    return Room(
        response=_impulse_response(rng),
        hum=_hum(rng),
        air=_bandpass(low, high),
        murmur=_bandpass(talk, talk * rng.uniform(2.5, 4.5)),
        levels_db={
            "hum": float(rng.uniform(-18, -6)),
            "murmur": float(rng.uniform(-4, 4)),
            "beeps": float(rng.uniform(-2, 5)),
            "impacts": float(rng.uniform(-2, 4)),
            "hiss": float(rng.uniform(-24, -14)),
        },
        beep_hz=float(rng.uniform(650, 1500)),
        beep_period_s=float(rng.uniform(0.7, 2.2)),
        beep_length_s=float(rng.uniform(0.08, 0.22)),
        impacts_per_s=float(rng.uniform(0.2, 0.8)),
    )


def reverberate(waveform: Float, room: Room) -> Float:
    """The waveform as heard in the room, as long as before: what rings on after it is cut."""
    return np.asarray(oaconvolve(waveform, room.response)[: len(waveform)], dtype=np.float32)


def background(
    room: Room, length: int, kind: NoiseKind, rng: np.random.Generator, *, spread_db: float = 2.0
) -> Float:
    """The room's noise, never twice the same.

    kind       "quiet": ventilation, hum and a distant murmur; "ward": everything
    spread_db  how far the parts' levels stray from the room's own (standard deviation)
    returns    [length] float32 at `RATE_HZ`, RMS 1
    """

    def level(part: str, offset_db: float = 0.0) -> np.float32:
        db = room.levels_db[part] + offset_db + rng.normal(0.0, spread_db)
        return np.float32(10 ** (db / 20))

    white = rng.standard_normal(length, dtype=np.float32)
    noise = _unit(sosfilt(room.air, white)) + level("hiss") * white
    phase = int(rng.integers(len(room.hum)))
    noise += level("hum") * np.resize(np.roll(room.hum, phase), length)
    far = 0.0 if kind == "ward" else -12.0
    noise += level("murmur", far) * _murmur(room, length, rng)
    if kind == "ward":
        noise += level("beeps") * _beeps(room, length, rng)
        noise += level("impacts") * _impacts(room, length, rng)
    return _unit(noise)


def _impulse_response(rng: np.random.Generator) -> Float:
    """Direct sound, then noise that decays by 60 dB in the reverberation time."""
    decay_s, direct_db = rng.uniform(0.20, 0.50), rng.uniform(8, 14)
    length = round(0.6 * decay_s * RATE_HZ)  # to -36 dB
    time_s = np.arange(length) / RATE_HZ
    tail = rng.standard_normal(length) * 10 ** (-3 * time_s / decay_s)
    tail[: round(0.004 * RATE_HZ)] = 0  # the first wall is a while away
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return np.asarray(tail, dtype=np.float32)


def _hum(rng: np.random.Generator) -> Float:
    length = RATE_HZ * _MAINS_PERIODS // _MAINS_HZ
    time_s = np.arange(length) / RATE_HZ
    parts = [
        rng.uniform(0.2, 1) / k * np.sin(2 * np.pi * (k * _MAINS_HZ * time_s + rng.uniform()))
        for k in (1, 2, 3, 4, 6, 8)
    ]
    return _unit(np.sum(parts, axis=0))


def _murmur(room: Room, length: int, rng: np.random.Generator) -> Float:
    """Far talk without words: speech-like bands that swell and sink at the pace of syllables."""
    knots = 2 + int(length / RATE_HZ * 5)  # five syllables a second
    swell = np.interp(
        np.linspace(0, knots - 1, length), np.arange(knots), rng.gamma(1.2, 1.0, knots)
    )
    carrier = sosfilt(room.murmur, rng.standard_normal(length, dtype=np.float32))
    return _unit(carrier * swell.astype(np.float32))


def _beeps(room: Room, length: int, rng: np.random.Generator) -> Float:
    """A patient monitor: one beep a heart beat, each a tone with soft edges."""
    n = round(room.beep_length_s * RATE_HZ)
    beep = np.sin(2 * np.pi * room.beep_hz * np.arange(n) / RATE_HZ) * np.hanning(n)
    beeps = np.zeros(length, dtype=np.float32)
    at = rng.uniform(0, room.beep_period_s)
    while (first := round(at * RATE_HZ)) < length:
        beeps[first : first + n] += beep[: length - first]
        at += room.beep_period_s * rng.uniform(0.97, 1.03)
    return _unit(beeps)


def _impacts(room: Room, length: int, rng: np.random.Generator) -> Float:
    """Doors, trays, steps: short bursts that ring for a moment."""
    impacts = np.zeros(length, dtype=np.float32)
    for _ in range(1 + rng.poisson(room.impacts_per_s * length / RATE_HZ)):
        first = int(rng.integers(length))
        n = min(length - first, round(rng.uniform(0.05, 0.25) * RATE_HZ))
        ringing = rng.standard_normal(n) * np.exp(-np.linspace(0, 6, n)) * rng.uniform(0.3, 1)
        impacts[first : first + n] += ringing.astype(np.float32)
    return _unit(impacts)


def _bandpass(low_hz: float, high_hz: float) -> Float:
    sos = butter(1, (low_hz, high_hz), "bandpass", fs=RATE_HZ, output="sos")
    return np.asarray(sos, dtype=np.float32)


def _unit(waveform: NDArray[np.floating]) -> Float:
    rms = max(float(np.sqrt(np.mean(np.square(waveform)))), 1e-9)
    return np.asarray(waveform / np.float32(rms), dtype=np.float32)
