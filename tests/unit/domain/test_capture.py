"""What a device says of a recording, and what the recording says."""

import pytest

from spira.domain.capture import mismatches
from spira.domain.recordings import Described, Measurements, SourceFormat
from spira.domain.submissions import Capture


def described(codec: str = "opus", rate_hz: int = 48_000, floor_dbfs: float = -65.0) -> Described:
    """A recording."""
    return Described(
        format=SourceFormat(container="webm", codec=codec, rate_hz=rate_hz, channels=1),
        measurements=Measurements(
            duration_s=6.0,
            peak=0.5,
            level_dbfs=-25.0,
            speech_level_dbfs=-20.0,
            noise_floor_dbfs=floor_dbfs,
            clipped_fraction=0.0,
            speech_s=4.0,
        ),
        findings=(),
    )


@pytest.mark.parametrize(
    ("said", "codec"),
    [
        ("audio/webm;codecs=opus", "opus"),
        ("opus", "opus"),
        ("mp4a.40.2", "aac"),
        ("audio/mp4; codecs=mp4a.40.2", "aac"),
        ("audio/mp4", "aac"),
        ("audio/webm", "opus"),
        ("pcm", "pcm_s16le"),
        (None, "opus"),
    ],
)
def test_a_codec_may_be_named_as_a_browser_does(said: str | None, codec: str) -> None:
    """What was not said at all is no mismatch."""
    assert mismatches(Capture(codec=said), described(codec)) == ()


def test_what_the_audio_shows_otherwise_is_told() -> None:
    """Another codec, a lower rate, pauses without any noise where it said nothing suppresses it."""
    honest = Capture(codec="opus", rate_hz=48_000, noise_suppression=False)

    assert mismatches(honest, described()) == ()
    assert mismatches(honest, described("aac")) == ("codec",)
    assert mismatches(honest, described(rate_hz=16_000)) == ("rate",)
    assert mismatches(honest, described(floor_dbfs=-100.0)) == ("noise_suppression",)
    suppressing = Capture(noise_suppression=True)
    assert mismatches(suppressing, described(floor_dbfs=-100.0)) == ()
