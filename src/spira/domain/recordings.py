"""What a recording is, who it is of, and what is known about it."""

from typing import Literal, get_args

from spira.domain.frozen import Frozen

Utterance = Literal[
    "consent", "vowel", "rhyme", "sentence", "ambient_before", "ambient_after", "other"
]
Label = Literal["present", "absent", "unknown"]
Side = Literal["train", "validation", "test"]
Sex = Literal["female", "male"]
Finding = Literal["short", "quiet", "clipped", "noisy", "little_speech"]
EvidenceLevel = Literal["synthetic", "research", "clinical-study", "cleared"]

UTTERANCES: tuple[Utterance, ...] = get_args(Utterance)
LABELS: tuple[Label, ...] = get_args(Label)
SIDES: tuple[Side, ...] = get_args(Side)
FINDINGS: tuple[Finding, ...] = get_args(Finding)

# Where a dataset does not say; and ages in years, the first included, the last not. Under 18 is
# outside the intended use; from 60 on Brazilian law speaks of older people.
NOT_AVAILABLE = "not available"
AGE_BANDS = ((0, 18, "under 18"), (18, 40, "18-39"), (40, 60, "40-59"), (60, 75, "60-74"))
OLDEST_BAND = "75 and over"

# Shorter audio holds no breath group. A dataset and a prediction refuse it; a submission does not:
# when it arrives, the patient may have gone.
MINIMUM_DURATION_S = 0.5
# A stretch of speech that is shorter than a syllable is a click or a gasp.
SHORTEST_SPEECH_S = 0.1
# Full scale is 1, and audio with a larger sample than this is refused everywhere. Float files may
# rightly stand some dB above full scale, 20 dB after careless mixing; this is 30. Above it the
# numbers are no longer a sound pressure that anybody set: most often 16-bit integers written as
# floats, of which even a whisper passes 32. They could be computed, but a level in dBFS, ward noise
# at a declared level and the loudness of one class against the other would all mean nothing; which
# factor is missing only their owner knows. From about 1e17 on the signal path cannot compute at
# all: the power of a frame overflows float32.
LARGEST_SAMPLE = 32.0


class Measurements(Frozen):
    """What was measured on one decoded recording. Levels in dB relative to full scale (dBFS)."""

    duration_s: float
    peak: float  # largest absolute sample, 0..1 (up to 32 where a float file exceeds full scale)
    level_dbfs: float  # RMS of the whole recording
    speech_level_dbfs: float  # 95th percentile of the 25 ms frame levels
    noise_floor_dbfs: float  # 10th percentile of the 25 ms frame levels
    clipped_fraction: float  # samples at the largest absolute value, in runs of 3 or more
    speech_s: float  # speech found by the voice activity detector


class SourceFormat(Frozen):
    """What the file was before anything was done to it: part of its capture provenance."""

    container: str  # "wav", "flac", "ogg", "webm", "mp4", "mp3", ...
    codec: str  # "pcm_s16le", "opus", "aac", ...
    rate_hz: int
    channels: int


class Described(Frozen):
    """What is known about a recording once it has been decoded and measured."""

    format: SourceFormat
    measurements: Measurements
    findings: tuple[Finding, ...]
    thresholds: str | None = None  # the version of those that the findings come from


class LabelCounts(Frozen):
    """How many people, or recordings, of each label."""

    present: int = 0
    absent: int = 0
    unknown: int = 0

    @property
    def total(self) -> int:
        """All labels together."""
        return self.present + self.absent + self.unknown


def age_band(age: int | None) -> str:
    """The band of an age in years: under 18, 18-39, 40-59, 60-74, 75 and over, not available."""
    if age is None:
        return NOT_AVAILABLE
    return next((name for low, high, name in AGE_BANDS if low <= age < high), OLDEST_BAND)
