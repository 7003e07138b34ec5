"""Files of any kind become mono float32 at one rate, whole, or are refused with a reason."""

import io
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spira.audio.decode import decode, decode_blocks, opened, resampled
from spira.domain.errors import RecordingRefused

Floats = NDArray[Any]

# One step of each kind of sample, full scale 1 (libsndfile writes integers a step short of it), and
# what float32 loses in the mean of seven channels.
STEPS = {
    kind: step + 2.0**-22
    for kind, step in {
        "PCM_U8": 2**-7,
        "PCM_16": 2**-15,
        "PCM_24": 2**-23,
        "PCM_32": 2**-31,
        "FLOAT": 2**-24,
        "DOUBLE": 2**-24,
    }.items()
}


def _noise(frames: int, channels: int = 1) -> Floats:
    return np.random.default_rng(frames).uniform(-0.9, 0.9, (frames, channels))


def _wav(path: Path, samples: Floats, rate_hz: int = 16_000, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate_hz, format="WAV", subtype=subtype)
    return path


def _refusal(path: Path) -> RecordingRefused:
    with pytest.raises(RecordingRefused) as caught:
        decode(path)
    assert str(path) in str(caught.value)
    return caught.value


@given(
    rate_hz=st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000])
    | st.integers(4000, 200_000),
    channels=st.integers(1, 7),
    subtype=st.sampled_from(sorted(STEPS)),
    frames=st.integers(200, 20_000),
)
@settings(max_examples=60, deadline=None)
def test_any_wav_keeps_its_length_and_samples(
    rate_hz: int, channels: int, subtype: str, frames: int
) -> None:
    """Whatever rate, channels and samples: the mean of the channels, to one step, and all of
    its duration after resampling."""
    samples = _noise(frames, channels)
    with tempfile.TemporaryDirectory() as folder:
        path = _wav(Path(folder) / "a.wav", samples, rate_hz, subtype)

        native = decode(path, rate_hz=rate_hz)
        resampled_length = len(decode(path))

    assert native.dtype == np.float32
    assert len(native) == frames
    assert np.abs(native - samples.mean(axis=1)).max() <= STEPS[subtype]
    assert abs(resampled_length - frames * 16_000 / rate_hz) <= 0.5 + 1e-6


@pytest.mark.parametrize("rate_hz", [8000, 44_100, 48_000, 192_000])
def test_resampling_keeps_speech_and_removes_what_would_alias(tmp_path: Path, rate_hz: int) -> None:
    """A tone of 1 kHz comes through as it was; one of 11 kHz, where the rate holds it, is gone."""
    t = np.arange(rate_hz) / rate_hz
    tone, expected = (
        np.sin(2 * np.pi * 1000 * t),
        np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16e3),
    )
    above = 0.5 * np.sin(2 * np.pi * 11_000 * t) if rate_hz > 22_000 else 0

    decoded = decode(_wav(tmp_path / "a.wav", 0.4 * (tone + above), rate_hz, "FLOAT"))

    inside = slice(800, -800)  # the filter rings at the edges
    assert np.abs(decoded - 0.4 * expected)[inside].max() < 1e-4


def test_resampling_agrees_with_scipy(tmp_path: Path) -> None:
    """Band-limited noise at 48 kHz comes down to 16 kHz as scipy's polyphase filter brings it."""
    low = scipy.signal.firwin(801, 6000, fs=48_000)
    samples = scipy.signal.lfilter(low, 1, _noise(48_000)[:, 0])

    decoded = decode(_wav(tmp_path / "a.wav", samples, 48_000, "FLOAT"))

    expected = scipy.signal.resample_poly(samples, 1, 3, window=("kaiser", 12.0))
    assert np.abs(decoded - expected)[200:-200].max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 44_100])
def test_blocks_are_the_whole(tmp_path: Path, rate_hz: int) -> None:
    """A recording of several blocks is, joined, bit for bit what one call of the resampler makes
    of it at once."""
    path = _wav(tmp_path / "a.wav", _noise(rate_hz * 40, 2), rate_hz)
    native = decode(path, rate_hz=rate_hz)

    blocks = list(decode_blocks(path))

    assert len(blocks) > 1
    assert np.array_equal(np.concatenate(blocks), soxr.resample(native, rate_hz, 16_000))
    assert max(map(len, blocks)) < 16_000 * 35


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_resampling_does_not_depend_on_blocks(sizes: list[int]) -> None:
    """However a signal is cut into blocks, the resampled samples are the same bits."""
    signal = _noise(sum(sizes))[:, 0].astype(np.float32)
    cuts = np.split(signal, np.cumsum(sizes)[:-1])

    streamed = np.concatenate([signal[:0], *resampled(cuts, 44_100, 16_000)])

    assert np.array_equal(streamed, soxr.resample(signal, 44_100, 16_000))


@pytest.mark.parametrize(
    ("format_", "subtype", "container", "codec"),
    [
        ("WAV", "PCM_U8", "wav", "pcm_u8"),
        ("WAV", "FLOAT", "wav", "pcm_f32le"),
        ("WAV", "ULAW", "wav", "pcm_mulaw"),
        ("RF64", "PCM_24", "wav", "pcm_s24le"),
        ("WAVEX", "PCM_16", "wav", "pcm_s16le"),
        ("FLAC", "PCM_24", "flac", "flac"),
        ("OGG", "VORBIS", "ogg", "vorbis"),
        ("OGG", "OPUS", "ogg", "opus"),
        ("MP3", "MPEG_LAYER_III", "mp3", "mp3"),
    ],
)
def test_source_format_says_what_a_file_is(
    tmp_path: Path, format_: str, subtype: str, container: str, codec: str
) -> None:
    """Container, codec, rate and channels come from the bytes, whatever the file is called."""
    path = tmp_path / "recording.txt"
    samples = 0.2 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)
    soundfile.write(path, np.stack([samples, samples], axis=1), 48_000, subtype, format=format_)

    with opened(path) as native:
        decoded = np.concatenate(list(native.blocks))

    found = native.format
    assert (found.container, found.codec, found.rate_hz, found.channels) == (
        container,
        codec,
        48_000,
        2,
    )
    assert abs(len(decoded) / 48_000 - 1) < 0.03
    assert np.abs(decoded[2000:40_000] - samples[2000:40_000]).max() < 0.02


def test_flac_and_wav_of_the_same_samples_decode_alike(tmp_path: Path) -> None:
    """Lossless is lossless: a wav and a flac of one signal are the same numbers."""
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, (20_000, 2), dtype=np.int16)
    soundfile.write(tmp_path / "a.flac", samples, 44_100)

    wav, flac = decode(_wav(tmp_path / "a.wav", samples, 44_100)), decode(tmp_path / "a.flac")

    assert np.array_equal(wav, flac)


@pytest.mark.parametrize("sizes", [(0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000)])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
def test_streamed_wav_is_read_to_its_end(
    tmp_path: Path, sizes: tuple[int, int], subtype: str
) -> None:
    """A wav whose header never learned its size holds the same samples as the closed one."""
    path = _wav(tmp_path / "a.wav", _noise(20_000, 2), 22_050, subtype)
    closed = decode(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[4:8], content[at : at + 4] = (struct.pack("<I", size) for size in sizes)
    path.write_bytes(content)

    assert np.array_equal(decode(path), closed)


def test_streamed_flac_is_read_to_its_end(tmp_path: Path) -> None:
    """A flac that does not announce its samples holds the same as the one that does."""
    path = tmp_path / "a.flac"
    soundfile.write(path, _noise(40_000, 2), 22_050)
    closed = decode(path)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)

    assert np.array_equal(decode(path), closed)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    """What cannot be opened is missing, and the sentence says why."""
    assert _refusal(tmp_path / "none.wav").reason == "missing"
    assert "no such file" in str(_refusal(tmp_path / "none.wav"))
    assert "directory" in str(_refusal(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"ffconcat version 1.0\nfile secret.wav\n",
        b"#EXTM3U\nsecret.wav\n",
        b"file_path,class\nsecret.wav,0\n" * 100,
        np.random.default_rng(1).bytes(5000),
    ],
)
def test_what_is_not_audio_is_refused(tmp_path: Path, content: bytes) -> None:
    """Playlists are not followed to the audio that they name, and text is not audio."""
    _wav(tmp_path / "secret.wav", _noise(16_000))
    path = tmp_path / "a.wav"
    path.write_bytes(content)

    assert _refusal(path).reason == "not_audio"


def test_audio_without_samples_is_refused(tmp_path: Path) -> None:
    """A file of no bytes and a file of no samples are empty."""
    nothing = tmp_path / "nothing.wav"
    nothing.touch()

    assert _refusal(nothing).reason == "empty"
    assert _refusal(_wav(tmp_path / "a.wav", _noise(0))).reason == "empty"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_samples_that_are_no_numbers_are_refused(
    tmp_path: Path, value: float, subtype: str
) -> None:
    """One sample that is not finite refuses a file, and the sentence says where it is."""
    samples = _noise(400_000)
    samples[320_000] = value

    refusal = _refusal(_wav(tmp_path / "a.wav", samples, subtype=subtype))

    assert refusal.reason == "not_finite"
    assert "20.000 s" in str(refusal)


def test_float64_beyond_float32_is_not_finite(tmp_path: Path) -> None:
    """A finite number that float32 cannot hold would become an infinity."""
    assert _refusal(_wav(tmp_path / "a.wav", np.full(9000, 1e300), subtype="DOUBLE")).reason == (
        "not_finite"
    )


@pytest.mark.parametrize("format_", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("lost", [1, 300, 4000])
def test_cut_file_is_truncated(tmp_path: Path, format_: str, lost: int) -> None:
    """A file that lost its end is refused, although every decoder would read what is left."""
    file = io.BytesIO()
    soundfile.write(file, 0.3 * _noise(48_000), 16_000, format=format_)
    path = tmp_path / "a"
    path.write_bytes(file.getvalue()[:-lost])

    assert _refusal(path).reason == "truncated"


def _flip(content: bytearray) -> None:
    """Overwrite 100 bytes in the middle."""
    middle = len(content) // 2
    content[middle : middle + 100] = np.random.default_rng(2).bytes(100)


def _bad_rate(content: bytearray) -> None:
    """A sampling rate of 3 Hz."""
    content[24:28] = struct.pack("<I", 3)


def _bad_codec(content: bytearray) -> None:
    """A format tag that nobody knows."""
    content[20:22] = b"\x99\x99"


@pytest.mark.parametrize(
    ("format_", "damage"),
    [
        ("FLAC", _flip),
        ("OGG", _flip),
        ("MP3", _flip),
        ("WAV", _bad_rate),
        ("WAV", _bad_codec),
    ],
)
def test_damaged_file_is_undecodable(
    tmp_path: Path, format_: str, damage: Callable[[bytearray], None]
) -> None:
    """A whole file with damage inside is refused as damaged, not as cut."""
    file = io.BytesIO()
    soundfile.write(file, 0.3 * _noise(160_000), 16_000, format=format_)
    content = bytearray(file.getvalue())
    damage(content)
    path = tmp_path / "a"
    path.write_bytes(content)

    assert _refusal(path).reason == "undecodable"


def test_refusal_comes_even_where_the_damage_is_late(tmp_path: Path) -> None:
    """Blocks before the damage may have been used; the end of the recording is never silent."""
    path = tmp_path / "a.flac"
    soundfile.write(path, _noise(900_000), 16_000)
    path.write_bytes(path.read_bytes()[:-500])
    blocks = decode_blocks(path)

    assert len(next(blocks)) > 16_000
    with pytest.raises(RecordingRefused, match="not all are there"):
        list(blocks)


def test_an_open_file_gives_the_samples_of_its_path(tmp_path: Path) -> None:
    """Bytes in memory are decoded as their file is, wherever they stand, and stay open."""
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(48_000), 48_000)
    memory = io.BytesIO(path.read_bytes())
    memory.seek(100)

    found = decode(memory)

    assert np.array_equal(found, decode(path))
    assert not memory.closed


def test_what_is_refused_of_an_open_file_names_none(tmp_path: Path) -> None:
    """Without a path the message begins with what was found."""
    with pytest.raises(RecordingRefused) as caught:
        decode(io.BytesIO(b"no audio at all"))

    assert str(caught.value).startswith("not audio; wav, ")
