"""Encoding, as browsers, phones and FFmpeg do, for tests of what is decoded."""

import io
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray


class _Pipe(io.RawIOBase):
    """A target that cannot seek, like MediaRecorder's: sizes and durations stay unknown."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content += bytes(data)
        return len(data)


def encode(
    samples: NDArray[np.float32],
    format_: str,
    codec: str,
    rate_hz: int,
    *,
    channels: int = 1,
    piped: bool = False,
    options: dict[str, str] | None = None,
) -> bytes:
    """A file of these samples [T]: in a container, by a codec, both by FFmpeg's names."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "encoded"
        target = _Pipe() if piped else file
        _write(target, samples, format_, codec, rate_hz, channels, options or {})
        return bytes(target.content) if isinstance(target, _Pipe) else file.read_bytes()


def _write(
    target: Path | _Pipe,
    samples: NDArray[np.float32],
    format_: str,
    codec: str,
    rate_hz: int,
    channels: int,
    options: dict[str, str],
) -> None:
    layout = {1: "mono", 2: "stereo"}[channels]
    with av.open(target, "w", format=format_, options=options) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        assert isinstance(stream, av.AudioStream)
        for start in range(0, len(samples), 960):
            piece = np.tile(samples[start : start + 960], (channels, 1))
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate_hz, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


LIVE = {"live": "1"}  # clusters without a size, as Chrome writes them
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}  # as Safari does

CASES: dict[str, dict[str, Any]] = {
    "webm": {"format_": "webm", "codec": "libopus", "rate_hz": 48_000},
    "webm-stereo": {"format_": "webm", "codec": "libopus", "rate_hz": 48_000, "channels": 2},
    "webm-live": {
        "format_": "webm",
        "codec": "libopus",
        "rate_hz": 48_000,
        "piped": True,
        "options": LIVE,
    },
    "ogg": {"format_": "ogg", "codec": "libopus", "rate_hz": 48_000},
    "ogg-piped": {"format_": "ogg", "codec": "libopus", "rate_hz": 48_000, "piped": True},
    "ogg-flac": {"format_": "ogg", "codec": "flac", "rate_hz": 16_000},
    "mp4": {"format_": "mp4", "codec": "aac", "rate_hz": 44_100},
    "mp4-faststart": {
        "format_": "mp4",
        "codec": "aac",
        "rate_hz": 48_000,
        "options": {"movflags": "faststart"},
    },
    "mp4-fragmented": {
        "format_": "mp4",
        "codec": "aac",
        "rate_hz": 48_000,
        "piped": True,
        "options": FRAGMENTED,
    },
    "m4a": {"format_": "ipod", "codec": "aac", "rate_hz": 22_050, "channels": 2},
    "mp3": {"format_": "mp3", "codec": "libmp3lame", "rate_hz": 44_100},
    "mp3-22k": {"format_": "mp3", "codec": "libmp3lame", "rate_hz": 22_050, "channels": 2},
    "mp3-8k": {"format_": "mp3", "codec": "libmp3lame", "rate_hz": 8_000},
    "mp3-piped": {"format_": "mp3", "codec": "libmp3lame", "rate_hz": 44_100, "piped": True},
    "matroska-flac": {"format_": "matroska", "codec": "flac", "rate_hz": 48_000},
    "matroska-pcm": {"format_": "matroska", "codec": "pcm_s16le", "rate_hz": 16_000},
    "wav-piped": {"format_": "wav", "codec": "pcm_s16le", "rate_hz": 16_000, "piped": True},
    "flac-piped": {"format_": "flac", "codec": "flac", "rate_hz": 16_000, "piped": True},
}
