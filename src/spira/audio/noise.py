"""Ward noise, mixed into speech: as published (by peak), or by signal-to-noise ratio."""

from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from spira.domain.errors import InputError
from spira.domain.frozen import Frozen

Float = NDArray[np.float32]
AnyNoise = TypeVar("AnyNoise", "PeakNoise", "SnrNoise")

_FRAME_SAMPLES = 400  # 25 ms at 16 kHz
_ACTIVE_DB = 30.0  # frames this far under the loudest are pauses, not speech


class NoNoise(Frozen):
    """Recordings as they are."""

    kind: Literal["none"] = "none"


class PeakNoise(Frozen):
    """Excerpts scaled so that their largest sample is uniform in a range, and added.

    source    Casanova et al., Findings of ACL 2021: the range is that of their ward recordings.
              Published as `signed` (the largest, not the largest absolute sample)
    """

    kind: Literal["peak"] = "peak"
    present: int = Field(default=3, ge=0)  # excerpts for recordings with RI
    absent: int = Field(default=3, ge=0)  # excerpts for recordings without
    peak_low: float = Field(default=0.033474047, gt=0)
    peak_high: float = Field(default=0.19233719, gt=0)
    scale: Literal["absolute", "signed"] = "absolute"

    @model_validator(mode="after")
    def _ordered(self) -> "PeakNoise":
        if self.peak_low > self.peak_high:
            raise ValueError("peak_low must not be above peak_high")
        return _adding(self)


class SnrNoise(Frozen):
    """The sum of the excerpts scaled to a ratio to the active speech, uniform in dB."""

    kind: Literal["snr"] = "snr"
    present: int = Field(default=3, ge=0)
    absent: int = Field(default=3, ge=0)
    snr_db_low: float = 10.0
    snr_db_high: float = 25.0
    clean_share: float = Field(default=0.0, ge=0, le=1)  # of training recordings, left as they are

    @model_validator(mode="after")
    def _ordered(self) -> "SnrNoise":
        if self.snr_db_low > self.snr_db_high:
            raise ValueError("snr_db_low must not be above snr_db_high")
        return _adding(self)


def _adding(noise: "AnyNoise") -> "AnyNoise":
    if noise.present == noise.absent == 0:
        raise ValueError("present and absent are both 0; write kind: none for no noise")
    return noise


Noise = Annotated[NoNoise | PeakNoise | SnrNoise, Field(discriminator="kind")]


def mix(
    speech: Float,
    noises: Sequence[Float],
    config: PeakNoise | SnrNoise,
    *,
    count: int,
    rng: np.random.Generator,
) -> Float:
    """Speech with `count` noise excerpts added, each of another recording if there are so many.

    speech    [T], float32
    noises    noise recordings to draw from, of any length
    returns   [T], float32; a sum may exceed 1 and is not clipped, as nothing in the signal path
              depends on full scale
    raises    InputError when there is no noise to draw from
    """
    if count and not noises:
        raise InputError("noise is to be added, but the dataset has no noise recording for it")
    chosen = rng.choice(len(noises), size=count, replace=count > len(noises))
    excerpts = [excerpt(noises[number], len(speech), rng) for number in chosen]
    if isinstance(config, PeakNoise):
        mixed = speech.astype(np.float32)
        for noise in excerpts:
            peak = float(np.max(np.abs(noise) if config.scale == "absolute" else noise))
            if peak > 0:
                mixed += noise * np.float32(rng.uniform(config.peak_low, config.peak_high) / peak)
        return mixed
    noise = np.sum(excerpts, axis=0, dtype=np.float32)
    snr_db = rng.uniform(config.snr_db_low, config.snr_db_high)
    power = float(np.mean(noise**2, dtype=np.float64))
    if power == 0:
        return speech.astype(np.float32)
    wanted = active_power(speech) / 10 ** (snr_db / 10)
    return np.asarray(speech + noise * np.float32(np.sqrt(wanted / power)), dtype=np.float32)


def excerpt(noise: Float, length: int, rng: np.random.Generator) -> Float:
    """A random stretch of `length` samples; a shorter noise is looped from a random place.

    raises    InputError for a noise recording without samples
    """
    if len(noise) == 0:
        raise InputError("a noise recording has no samples")
    if len(noise) >= length:
        start = int(rng.integers(0, len(noise) - length + 1))
        return np.asarray(noise[start : start + length])
    start = int(rng.integers(0, len(noise)))
    return np.resize(np.roll(noise, -start), length)


def active_power(speech: Float) -> float:
    """Mean power of the 25 ms frames within 30 dB of the loudest: the speech without its pauses.

    Pauses are what the label changes: a ratio to the mean of the whole recording would add less
    noise to those who pause more.
    """
    n = max(1, len(speech) // _FRAME_SAMPLES)
    frames = speech[: n * _FRAME_SAMPLES].reshape(n, -1) if n > 1 else speech.reshape(1, -1)
    powers = np.mean(frames.astype(np.float64) ** 2, axis=1)
    return float(np.mean(powers[powers >= powers.max() / 10 ** (_ACTIVE_DB / 10)]))
