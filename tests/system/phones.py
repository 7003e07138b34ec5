"""Voices as phones send them, and how far what arrives is from what was said."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
import uuid_utils
from encoding import CASES, encode
from numpy.typing import NDArray

from spira.audio.decode import opened
from spira.domain.submissions import RecordingFile
from spira.intake.checking import Checker, Found

Float = NDArray[np.float32]

VOICES = Path(__file__).parents[1] / "data" / "fsdd"  # six speakers, 8 kHz
CODECS: Mapping[str, str | None] = {  # cases of `encoding`
    "wav 48 kHz": None,
    "webm/opus, no duration": "webm-live",
    "ogg/opus": "ogg-piped",
    "fragmented mp4/aac": "mp4-fragmented",
}
VOICE_HZ = (50.0, 3_500.0)  # what was said; the source ends at 4 kHz, and has a hum below 30 Hz
_RATE_HZ, _PHONE_HZ = 16_000, 48_000
_SILENT_FROM_HZ = 4_200.0
_MOST_LATE_S = 0.1


def voices() -> Iterator[tuple[str, Float, Float]]:
    """(speaker, what was said at 16 kHz, the same at 48 kHz as a phone records it)."""
    for path in sorted(VOICES.glob("*.flac")):
        samples, rate_hz = soundfile.read(path, dtype="float32")
        said = soxr.resample(samples, rate_hz, _RATE_HZ).astype(np.float32)
        recorded = soxr.resample(samples, rate_hz, _PHONE_HZ).astype(np.float32)
        yield path.stem.partition("_")[0], said, recorded


def encoded(recorded: Float, codec: str) -> bytes:
    """A voice [T] at 48 kHz as a phone sends it."""
    case = CODECS[codec]
    if case is None:
        return encode(recorded, "wav", "pcm_s16le", _PHONE_HZ)
    return encode(recorded, **CASES[case])


def arrived(checker: Checker, data: bytes) -> Float:
    """What the check of a recording gives on to the model: mono, 16 kHz."""
    with opened(io.BytesIO(data)) as native:
        duration_s = sum(len(block) for block in native.blocks) / native.format.rate_hz
    file = RecordingFile(
        id=str(uuid_utils.uuid7()),
        utterance="sentence",
        sha256=hashlib.sha256(data).hexdigest(),
        n_bytes=len(data),
        duration_s=duration_s,
        recorded_at=datetime.now(UTC),
    )
    found = checker.check([data], file)
    assert isinstance(found, Found), found
    return np.frombuffer(found.audio, "<f4").astype(np.float32)


class Distance(NamedTuple):
    """Of what arrived from what was said; decibels against the level of what was said."""

    longer_ms: float
    later_ms: float
    error_db: float  # from 50 Hz to 3.5 kHz, once it is moved back to its place
    above_db: float  # all that is above 4.2 kHz, where nothing was said


def distance(one: Float, said: Float) -> Distance:
    """How far it is."""
    there = aligned(one, said)
    error = band(there, *VOICE_HZ) - band(said, *VOICE_HZ)
    level = np.mean(said**2)
    return Distance(
        longer_ms=1000 * (len(one) - len(said)) / _RATE_HZ,
        later_ms=1000 * _late_s(one, said),
        error_db=float(10 * np.log10(np.mean(error**2) / level)),
        above_db=float(10 * np.log10(np.mean(band(there, _SILENT_FROM_HZ) ** 2) / level)),
    )


def aligned(one: Float, said: Float) -> Float:
    """What arrived, moved to where it was said, and as long."""
    n = _length(one, said)
    turned = np.exp(2j * np.pi * np.fft.rfftfreq(n, 1 / _RATE_HZ) * _late_s(one, said))
    return np.fft.irfft(np.fft.rfft(one, n) * turned, n)[: len(said)].astype(np.float32)


def band(one: Float, low_hz: float, high_hz: float = _RATE_HZ / 2) -> Float:
    """Of it what is between two frequencies."""
    n = _length(one)
    hz = np.fft.rfftfreq(n, 1 / _RATE_HZ)
    spectrum = np.fft.rfft(one, n) * ((hz >= low_hz) & (hz <= high_hz))
    return np.fft.irfft(spectrum, n)[: len(one)].astype(np.float32)


def _late_s(one: Float, said: Float) -> float:
    """By how much it is later; to a sample of 48 kHz."""
    n, finer = _length(one, said), _PHONE_HZ // _RATE_HZ
    product = np.fft.rfft(one, n) * np.conj(np.fft.rfft(said, n))
    likeness = np.fft.irfft(product, finer * n)
    most = round(_MOST_LATE_S * _PHONE_HZ)
    near = np.concatenate([likeness[-most:], likeness[: most + 1]])
    return (int(np.argmax(near)) - most) / _PHONE_HZ


def _length(*sounds: Float) -> int:
    """That the Fourier transform is quick with, and that leaves room between them."""
    return 1 << int(np.ceil(np.log2(sum(map(len, sounds)))))
