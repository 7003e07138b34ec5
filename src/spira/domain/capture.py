"""Whether a recording was made as its device says it was."""

from typing import Literal

from spira.domain.recordings import Described
from spira.domain.submissions import Capture

Mismatch = Literal["codec", "rate", "noise_suppression"]

# Quieter than this between words, in dBFS, no room is that a phone records as it is: below it the
# noise was gated away. A quiet room through a phone's microphone is at -60 to -75.
_GATED_DBFS = -85.0


def mismatches(capture: Capture, found: Described) -> tuple[Mismatch, ...]:
    """What the audio shows otherwise than the device said; nothing is said of what it left out.

    codec               another one than it named (opus, aac, pcm…)
    rate                lower than the rate that it said it captured at
    noise_suppression   it said there was none, and pauses hold less noise than any room
    """
    said: list[Mismatch] = []
    if capture.codec is not None and not _same_codec(capture.codec, found.format.codec):
        said.append("codec")
    if capture.rate_hz is not None and found.format.rate_hz < capture.rate_hz:
        said.append("rate")
    if capture.noise_suppression is False and (
        found.measurements.noise_floor_dbfs < _GATED_DBFS < found.measurements.speech_level_dbfs
    ):
        said.append("noise_suppression")
    return tuple(said)


def _same_codec(said: str, found: str) -> bool:
    """A browser says `audio/webm;codecs=opus`, `mp4a.40.2` or `pcm`; FFmpeg says what it is."""
    words = said.lower().replace("mp4a.40.2", "aac")
    return found.partition("_")[0] in words
