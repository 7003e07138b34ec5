"""Whether a recording was made as its device says it was."""

from typing import Literal

from spira.domain.recordings import Described
from spira.domain.submissions import Capture

Mismatch = Literal["codec", "rate", "noise_suppression"]

_CODECS = ("opus", "vorbis", "aac", "mp3", "flac", "alac", "pcm")  # as FFmpeg names them

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
    named = _codecs(capture.codec or "")
    if named and found.format.codec.partition("_")[0] not in named:
        said.append("codec")
    if capture.rate_hz is not None and found.format.rate_hz < capture.rate_hz:
        said.append("rate")
    if capture.noise_suppression is False and (
        found.measurements.noise_floor_dbfs < _GATED_DBFS < found.measurements.speech_level_dbfs
    ):
        said.append("noise_suppression")
    return tuple(said)


def _codecs(said: str) -> set[str]:
    """Those that a browser names: `audio/webm;codecs=opus`, `mp4a.40.2`, `pcm`. Many name the
    container alone (`audio/mp4`), and by that no codec."""
    words = said.lower().replace("mp4a", "aac")
    return {codec for codec in _CODECS if codec in words}
