"""What browsers, phones and FFmpeg write is decoded whole, and refused when cut or damaged."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from encoding import CASES, encode
from numpy.typing import NDArray

from spira.audio.containers import fault
from spira.audio.decode import decode, opened
from spira.audio.quality import QualityThresholds, check
from spira.domain.errors import RecordingRefused

VOICES = Path(__file__).parents[2] / "data" / "fsdd"
SECONDS = 3.0


def _signal(rate_hz: int) -> NDArray[np.float32]:
    """A melody: each 0.25 s has a pitch of its own, so that lost or moved parts are heard."""
    t = np.arange(round(SECONDS * rate_hz)) / rate_hz
    pitch = 300 + 100 * np.floor(t / 0.25)
    return (0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / rate_hz)).astype(np.float32)


@pytest.fixture(scope="module")
def encoded() -> Callable[[str], bytes]:
    """The melody in each case's container and codec."""
    made: dict[str, bytes] = {}

    def get(case: str) -> bytes:
        if case not in made:
            made[case] = encode(_signal(CASES[case]["rate_hz"]), **CASES[case])
        return made[case]

    return get


def _reason(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(RecordingRefused) as caught:
        decode(path)
    assert str(path) in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("case", CASES)
def test_every_codec_is_decoded_whole(
    tmp_path: Path, encoded: Callable[[str], bytes], case: str
) -> None:
    """Each container and codec gives the melody back at 16 kHz: all of it, at its level."""
    path = tmp_path / "recording"
    path.write_bytes(encoded(case))

    with opened(path) as native:
        source = native.format
    found = decode(path)

    assert source.channels == CASES[case].get("channels", 1)
    assert source.rate_hz == CASES[case]["rate_hz"]
    assert source.container == {"ipod": "mp4"}.get(CASES[case]["format_"], CASES[case]["format_"])
    assert source.codec == {"libopus": "opus", "libmp3lame": "mp3"}.get(
        CASES[case]["codec"], CASES[case]["codec"]
    )
    assert len(found) / 16_000 == pytest.approx(SECONDS, abs=0.15)  # encoders fill a last frame
    expected = _signal(16_000)
    span = 40_000
    lags = [np.dot(found[lag : lag + span], expected[:span]) for lag in range(2400)]
    lag = int(np.argmax(lags))
    explained = lags[lag] / np.dot(expected[:span], expected[:span])
    assert explained == pytest.approx(1, abs=0.1)  # mp3 smears where the pitch changes


ANNOUNCING = [case for case in CASES if case not in ("wav-piped", "flac-piped")]


@pytest.mark.parametrize("case", ANNOUNCING)
@pytest.mark.parametrize("left", ["all but one byte", "90 %", "half"])
def test_cut_files_are_refused(
    tmp_path: Path, encoded: Callable[[str], bytes], case: str, left: str
) -> None:
    """A file that lost its end is truncated, wherever its container announces what is missing."""
    content = encoded(case)
    share = {"all but one byte": len(content) - 1, "90 %": len(content) * 9 // 10}
    cut = content[: share.get(left, len(content) // 2)]

    assert _reason(tmp_path / "recording", cut) == "truncated"


@pytest.mark.parametrize("case", ["webm", "webm-live", "ogg", "mp4", "mp3"])
def test_damaged_files_are_refused(
    tmp_path: Path, encoded: Callable[[str], bytes], case: str
) -> None:
    """Two hundred overwritten bytes in the middle are never a shorter recording."""
    content = bytearray(encoded(case))
    middle = len(content) // 2
    content[middle : middle + 200] = np.random.default_rng(1).bytes(200)

    assert _reason(tmp_path / "recording", bytes(content)) in ("undecodable", "truncated")


@pytest.mark.parametrize("case", CASES)
def test_nothing_that_is_cut_anywhere_comes_back_longer_or_breaks(
    tmp_path: Path, encoded: Callable[[str], bytes], case: str
) -> None:
    """At any cut a file is refused, or is what its stream held so far; nothing else is raised."""
    path = tmp_path / "recording"
    path.write_bytes(encoded(case))
    whole = len(decode(path))

    for cut in np.random.default_rng(0).integers(1, len(encoded(case)), 12).tolist():
        path.write_bytes(encoded(case)[:cut])
        with contextlib.suppress(RecordingRefused):
            assert len(decode(path)) <= whole


def test_piped_webm_has_no_sizes_and_is_whole(encoded: Callable[[str], bytes]) -> None:
    """What the live case stands for: its segment's size is unknown."""
    content = encoded("webm-live")

    assert b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" in content
    assert fault(io.BytesIO(content), "webm") is None


def test_video_without_sound_is_not_audio(tmp_path: Path) -> None:
    """A container that holds pictures only is refused as no audio."""
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    assert _reason(tmp_path / "recording", target.getvalue()) == "not_audio"


def test_playlist_is_not_followed(tmp_path: Path, encoded: Callable[[str], bytes]) -> None:
    """An ffconcat file, under any name, does not open the audio beside it."""
    (tmp_path / "secret.mp3").write_bytes(encoded("mp3"))
    for name in ("list.ffconcat", "list.mp3", "list.webm"):
        content = b"ffconcat version 1.0\nfile secret.mp3\n"
        assert _reason(tmp_path / name, content) == "not_audio"


def test_strange_names_are_only_names(tmp_path: Path, encoded: Callable[[str], bytes]) -> None:
    """A name that FFmpeg would take for a protocol, and one with accents, are opened as files."""
    for name in ("concat:a|b.mp3", "gravação nº 1 (cópia).mp3", "subfile,,start,0,end,9,,:x.mp3"):
        path = tmp_path / name
        path.write_bytes(encoded("mp3"))
        assert len(decode(path)) > 40_000


@pytest.mark.parametrize("case", ["webm", "ogg", "mp4", "m4a", "mp3"])
def test_real_voice_survives_every_codec(tmp_path: Path, case: str) -> None:
    """A real voice through a codec keeps its duration, level and speech, and has no finding."""
    how = {**CASES[case], "channels": 1, "rate_hz": 48_000}
    voice = VOICES / "george_3.flac"
    path = tmp_path / "voice"
    path.write_bytes(encode(decode(voice, rate_hz=48_000), **how))

    before = check(voice, thresholds=QualityThresholds())
    after = check(path, thresholds=QualityThresholds())

    assert after.findings == before.findings == ()
    was, found = before.measurements, after.measurements
    assert found.duration_s == pytest.approx(was.duration_s, abs=0.1)
    assert found.speech_level_dbfs == pytest.approx(was.speech_level_dbfs, abs=0.5)
    assert found.speech_s == pytest.approx(was.speech_s, abs=0.4)
