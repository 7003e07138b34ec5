"""What a check finds of a recording, for tests that are not about audio."""

from collections.abc import Sequence

from spira.domain.recordings import Finding, Measurements, SourceFormat
from spira.intake.checking import Found


def found(audio: bytes, findings: Sequence[Finding] = ()) -> Found:
    """Six seconds of somebody speaking in a quiet room, with these samples."""
    return Found(
        format=SourceFormat(container="wav", codec="pcm_s16le", rate_hz=16_000, channels=1),
        measurements=Measurements(
            duration_s=6,
            peak=0.5,
            level_dbfs=-20,
            speech_level_dbfs=-18,
            noise_floor_dbfs=-60,
            clipped_fraction=0,
            speech_s=5,
        ),
        findings=tuple(findings),
        audio=audio,
    )
