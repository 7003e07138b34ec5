"""What is wrong with a recording: reasons to refuse it, and findings that only describe it.

Integrity decides what is refused: audio that cannot be used at all. Quality never does. Whoever
is too breathless to finish a sentence gives a short recording, and must not be filtered away.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from spira.audio.decode import Mono, Native, opened, resampled
from spira.audio.speech import RATE_HZ, speech_seconds, stream_speech_probability
from spira.domain.errors import RecordingRefused
from spira.domain.fingerprint import fingerprint
from spira.domain.frozen import Frozen
from spira.domain.recordings import (
    MINIMUM_DURATION_S,
    SHORTEST_SPEECH_S,
    Finding,
    Measurements,
    SourceFormat,
    Utterance,
)

FRAME_S = 0.025  # one level a frame: a few pitch periods of the deepest voice
SILENCE_DBFS = -120.0  # the level of digital zeros; 24 dB under the last bit of 16

AMBIENT: tuple[Utterance, ...] = ("ambient_before", "ambient_after")  # of an empty room
_SPOKEN: tuple[Utterance, ...] = ("sentence", "rhyme")
_CLIPPED_RUN = 3  # samples at one extreme; a peak of unclipped speech rarely has three
_AT_PEAK = 0.99  # the other polarity clips too when its extreme is as large (8 bit: 127 and 128)


class QualityThresholds(Frozen):
    """Where a measurement becomes a finding. Findings describe; they refuse nothing. Only
    `longest_s` refuses.

    Ours, not from a standard; a site may set its own.
    """

    short_s: float = Field(default=4.0, gt=0)
    """Duration under this, in s, is `short`. One window of the default experiment: less is filled
    up with silence."""

    quiet_dbfs: float = Field(default=-45.0, lt=0)
    """Speech level under this, in dBFS, is `quiet`. A phone at a hand's width gives -30 to -15;
    20 dB less is near the noise of cheap microphones (about -60)."""

    clipped_fraction: float = Field(default=0.001, gt=0, lt=1)
    """More than this share of samples in clipped runs is `clipped`: 16 a second at 16 kHz, which
    one hears. A loud plosive alone gives less."""

    noisy_db: float = Field(default=15.0, gt=0)
    """Speech level less than this above the noise floor, in dB, is `noisy`. Both are percentiles
    of 25 ms levels; 15 dB between them is a signal-to-noise ratio of about 10 dB."""

    little_speech_s: float = Field(default=1.0, gt=0)
    """Speech under this, in s, is `little_speech`: the least that a model answers about."""

    longest_s: float = Field(default=4 * 3600.0, gt=MINIMUM_DURATION_S)
    """A recording longer than this, in s, is refused as `too_long`. Four hours hold the longest
    session that somebody forgot to stop. A few hundred kB of flac can announce days of silence,
    and every later stage would have to go through them."""

    @property
    def version(self) -> str:
        """Of exactly these values; kept with what was found by them."""
        return fingerprint(self.model_dump())[:12]


@dataclass(frozen=True, slots=True)
class Checked:
    """A recording that can be used, and what is known about it."""

    format: SourceFormat
    measurements: Measurements
    findings: tuple[Finding, ...]
    sha256: str  # of the file
    n_bytes: int
    audio_sha256: str  # of the decoded samples: mono float32 at the file's own rate


def check(
    path: Path,
    *,
    thresholds: QualityThresholds,
    utterance: Utterance = "sentence",
    unfinished: bool = False,
    reading: Callable[[int], None] = lambda n_bytes: None,
) -> Checked:
    """Decode a file once, in bounded memory, and say what it is and what is odd about it.

    utterance what was recorded: findings that make no sense for it are left out
    unfinished the patient could not finish: no length is `short`
    reading   told now and then how many bytes of the file have been read
    returns   two files with the same samples (a wav and its flac, a mono file and its stereo
              copy) have the same `audio_sha256`
    raises    RecordingRefused: what `decode_blocks` refuses, and "too_short" (under 0.5 s),
              "zeros" (every sample is a digital zero), "too_long" (over `longest_s`; as soon as
              that is known)
    """
    samples = hashlib.sha256()

    def digested(native: Native) -> Iterator[Mono]:
        length = 0
        for block in native.blocks:
            length += len(block)
            if length > thresholds.longest_s * native.format.rate_hz:
                raise _too_long(path, "more", thresholds)
            reading(native.bytes_read())
            samples.update(block.astype("<f4", copy=False).tobytes())
            yield block

    with opened(path) as native:
        if native.announced_s is not None and native.announced_s > thresholds.longest_s:
            raise _too_long(path, f"{native.announced_s / 3600:.1f} h", thresholds)
        measured = measure(digested(native), native.format.rate_hz)
        source = native.format
    if measured.duration_s < MINIMUM_DURATION_S:
        message = (
            f"{path}: {measured.duration_s:.2f} s of audio, at least {MINIMUM_DURATION_S} s "
            "is needed; record again"
        )
        raise RecordingRefused("too_short", message)
    if measured.peak == 0:
        message = f"{path}: every sample is zero; was the microphone allowed and uncovered?"
        raise RecordingRefused("zeros", message)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        n_bytes = file.tell()
    return Checked(
        format=source,
        measurements=measured,
        findings=findings(measured, thresholds, utterance, unfinished=unfinished),
        sha256=digest,
        n_bytes=n_bytes,
        audio_sha256=samples.hexdigest(),
    )


def _too_long(path: Path, found: str, thresholds: QualityThresholds) -> RecordingRefused:
    message = (
        f"{path}: {found} of audio, at most {thresholds.longest_s / 3600:.4g} h is read "
        "(setting datasets.quality.longest_s); cut out what is needed"
    )
    return RecordingRefused("too_long", message)


def measure(
    blocks: Iterable[Mono],
    rate_hz: int,
    *,
    hearing: Callable[[Mono], None] = lambda block: None,
) -> Measurements:
    """Measure a recording given in mono blocks, in one pass; one number is kept a frame of 25 ms.

    Levels are dBFS of the root mean square: 0 is a square wave of full scale, silence is -120.
    A last frame that is not full is left out of the percentiles. `speech_s` is what the voice
    activity detector finds in anything; for vowels and rooms it means nothing.

    hearing   told the same recording at 16 kHz, block by block, as it passes
    raises    RecordingRefused("empty") where there is no sample
    """
    meter = _Meter(rate_hz)
    heard = resampled(meter.listening(blocks), rate_hz, RATE_HZ)
    probability = list(stream_speech_probability(_told(heard, hearing)))
    if not meter.samples:
        raise RecordingRefused("empty", "a recording without samples; record again")
    levels = np.concatenate(meter.levels)
    return Measurements(
        duration_s=meter.samples / rate_hz,
        peak=max(meter.highest.extreme, meter.lowest.extreme),
        level_dbfs=float(_dbfs(meter.energy / meter.samples)),
        speech_level_dbfs=float(np.percentile(levels, 95)),
        noise_floor_dbfs=float(np.percentile(levels, 10)),
        clipped_fraction=meter.clipped() / meter.samples,
        speech_s=speech_seconds(np.concatenate([np.zeros(0, np.float32), *probability])),
    )


def _told(blocks: Iterable[Mono], hearing: Callable[[Mono], None]) -> Iterator[Mono]:
    for block in blocks:
        hearing(block)
        yield block


def findings(
    measured: Measurements,
    thresholds: QualityThresholds,
    utterance: Utterance = "sentence",
    *,
    unfinished: bool = False,
) -> tuple[Finding, ...]:
    """What is odd about a recording. Short, noisy and little speech are asked of sentences and
    rhymes only: a sustained vowel has no gaps and no words, and a room has no voice to be quiet.

    unfinished the patient could not finish: that says something of the patient, so nothing is
              `short`, and it is `little_speech` only where there is none
    """
    m, spoken = measured, utterance in _SPOKEN
    least_speech_s = SHORTEST_SPEECH_S if unfinished else thresholds.little_speech_s
    found: dict[Finding, bool] = {
        "short": spoken and not unfinished and m.duration_s < thresholds.short_s,
        "quiet": utterance not in AMBIENT and m.speech_level_dbfs < thresholds.quiet_dbfs,
        "clipped": m.clipped_fraction > thresholds.clipped_fraction,
        "noisy": spoken and m.speech_level_dbfs - m.noise_floor_dbfs < thresholds.noisy_db,
        "little_speech": spoken and m.speech_s < least_speech_s,
    }
    return tuple(name for name, is_so in found.items() if is_so)


def _dbfs(mean_square: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(10 * np.log10(np.maximum(mean_square, 10 ** (SILENCE_DBFS / 10))))


class _Meter:
    """Listens to blocks as they pass."""

    def __init__(self, rate_hz: int) -> None:
        self.samples = 0
        self.energy = 0.0
        self.levels: list[NDArray[np.float32]] = []
        self.highest, self.lowest = _Extreme(), _Extreme()
        self._frame = max(1, round(FRAME_S * rate_hz))
        self._rest = np.zeros(0)

    def listening(self, blocks: Iterable[Mono]) -> Iterator[Mono]:
        for block in blocks:
            self._hear(block)
            yield block
        if not self.levels and self.samples:  # shorter than one frame
            self.levels.append(_dbfs([self.energy / self.samples]).astype(np.float32))

    def clipped(self) -> int:
        """Samples in runs at the extremes, of the polarities that reach the peak."""
        peak = max(self.highest.extreme, self.lowest.extreme)
        return sum(
            side.clipped()
            for side in (self.highest, self.lowest)
            if side.extreme >= _AT_PEAK * peak
        )

    def _hear(self, block: Mono) -> None:
        self.highest.hear(block)
        self.lowest.hear(-block)
        power = np.square(block, dtype=np.float64)
        self.samples += len(block)
        self.energy += float(power.sum())
        power = np.concatenate([self._rest, power])
        whole = len(power) // self._frame * self._frame
        frames = power[:whole].reshape(-1, self._frame)
        if len(frames):
            self.levels.append(_dbfs(frames.mean(axis=1)).astype(np.float32))
        self._rest = power[whole:]


class _Extreme:
    """The largest value of a signal, and the samples at it in runs of three or more."""

    def __init__(self) -> None:
        self.extreme = 0.0
        self._in_closed_runs = 0
        self._open_run = 0  # at the end of what was heard so far

    def hear(self, block: Mono) -> None:
        largest = float(block.max())
        if largest > self.extreme:
            self.extreme, self._in_closed_runs, self._open_run = largest, 0, 0
        at_extreme = (block == self.extreme) & (self.extreme > 0)  # silence is not clipped
        runs = np.flatnonzero(np.diff(at_extreme, prepend=False, append=False)).reshape(-1, 2)
        lengths = runs[:, 1] - runs[:, 0]
        if len(runs) and runs[0, 0] == 0:
            lengths[0] += self._open_run
        else:
            self._in_closed_runs = self.clipped()
        self._open_run = 0
        if len(runs) and runs[-1, 1] == len(block):
            self._open_run = int(lengths[-1])
            lengths = lengths[:-1]
        self._in_closed_runs += int(lengths[lengths >= _CLIPPED_RUN].sum())

    def clipped(self) -> int:
        """Samples in runs of three or more, the open one counted as it stands."""
        return self._in_closed_runs + (self._open_run if self._open_run >= _CLIPPED_RUN else 0)
