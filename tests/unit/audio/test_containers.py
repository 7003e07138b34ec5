"""Containers are known by their bytes and say themselves whether all of a file is there."""

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from spira.audio.containers import Container, announced_length, fault, sniff


def _encoded(format_: str, subtype: str | None = None, seconds: float = 2.0) -> bytes:
    """Two seconds of noise at 16 kHz as libsndfile writes them."""
    noise = np.random.default_rng(0).standard_normal(round(16_000 * seconds)) * 0.1
    file = io.BytesIO()
    soundfile.write(file, noise, 16_000, format=format_, subtype=subtype)
    return file.getvalue()


def _reason(content: bytes, container: Container) -> str | None:
    found = fault(io.BytesIO(content), container)
    return found and found.reason


WAV = _encoded("WAV", "PCM_16")
FLAC = _encoded("FLAC")
OGG = _encoded("OGG", "OPUS")
MP3 = _encoded("MP3")


@pytest.mark.parametrize(
    ("content", "container"),
    [
        (WAV, "wav"),
        (_encoded("RF64"), "wav"),
        (FLAC, "flac"),
        (OGG, "ogg"),
        (MP3, "mp3"),
        (b"ID3\x04" + bytes(60), "mp3"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\x82\x84webm", "webm"),
        (b"\x1a\x45\xdf\xa3\xa3B\x86\x81\x01B\x82\x88matroska", "matroska"),
        (b"\x00\x00\x00\x20ftypM4A ", "mp4"),
    ],
)
def test_container_is_known_by_its_first_bytes(content: bytes, container: str) -> None:
    """Every container that is read is recognised, by 64 bytes as by 4 kB."""
    assert sniff(content[:64]) == sniff(content[:4096]) == container


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
        b"file_path,class\na.wav,0\n",
        "texto com acentuação, em UTF-16".encode("utf-16"),
        b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\x00\x00\x00\x00AVI LIST",
        b"\xff\xf1\x50\x80\x00\x1f\xfc",  # AAC without a container
        b"\xff\xfb\x90\x00" + bytes(2000),  # one mp3 frame header and nothing where the next is due
        bytes(4096),
    ],
)
def test_anything_else_is_not_audio(content: bytes) -> None:
    """Playlists, text, pictures and unknown bytes have no container."""
    assert sniff(content) is None


@given(st.binary(max_size=200), st.sampled_from(["wav", "ogg", "webm", "mp4", "mp3"]))
def test_any_bytes_get_an_answer(content: bytes, container: Container) -> None:
    """Whatever follows a sound beginning, the walk over it ends in an answer."""
    beginnings = {
        "wav": b"RIFF\x10\0\0\0WAVE",
        "ogg": b"OggS",
        "webm": b"\x1a\x45\xdf\xa3",
        "mp4": b"\0\0\0\x10ftypM4A \0\0\0\0",
        "mp3": b"ID3\x04\0\0\0\0\0\0",
    }

    assert _reason(beginnings[container] + content, container) in (None, "truncated", "undecodable")


@pytest.mark.parametrize(
    ("content", "container"),
    [(WAV, "wav"), (OGG, "ogg"), (MP3, "mp3"), (_encoded("RF64", "PCM_24"), "wav")],
)
def test_whole_file_is_whole_and_every_cut_is_seen(content: bytes, container: Container) -> None:
    """A whole file has no fault; cut anywhere behind its header it is truncated."""
    cuts = [len(content) - 1, len(content) - 2, *range(len(content) - 40, 4000, -997)]

    assert fault(io.BytesIO(content), container) is None
    assert {_reason(content[:cut], container) for cut in cuts} == {"truncated"}


def _wav_with_sizes(riff: int, data: int) -> bytes:
    content = bytearray(WAV)
    content[4:8] = struct.pack("<I", riff)
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", data)
    return bytes(content)


@pytest.mark.parametrize(
    ("riff", "data"),
    [
        (0, 0),
        (0xFFFFFFFF, 0),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x7FFFF024, 0x7FFFF000),
    ],
)
def test_streamed_wav_announces_nothing_and_is_whole(riff: int, data: int) -> None:
    """The sizes that pipes leave in a header mean 'unknown', not 'truncated'."""
    file = io.BytesIO(_wav_with_sizes(riff, data))

    assert fault(file, "wav") is None
    assert announced_length(file, "wav") is None


def test_closed_wav_without_samples_announces_zero() -> None:
    """A size of zero in a file whose other sizes are right means that there are no samples."""
    content = _encoded("WAV", seconds=0)

    assert announced_length(io.BytesIO(content), "wav") == 0


def test_chunks_around_the_samples_are_stepped_over() -> None:
    """A chunk of odd size before the data chunk and a cut one behind it change nothing."""
    at = WAV.index(b"data")
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    content = WAV[:at] + odd + WAV[at:] + b"LIST" + struct.pack("<I", 100) + b"a"

    assert fault(io.BytesIO(content), "wav") is None
    assert announced_length(io.BytesIO(content), "wav") == 64_000


def test_wav_that_ends_before_its_samples_is_truncated() -> None:
    """Cut inside the header, before the data chunk is announced, a wav is truncated."""
    assert _reason(WAV[:30], "wav") == "truncated"
    assert _reason(b"RIFF" + struct.pack("<I", 4) + b"WAVE", "wav") == "undecodable"
    assert _reason(WAV[:12] + bytes(len(WAV) - 12), "wav") == "undecodable"


def test_flac_announces_its_samples_or_nothing() -> None:
    """STREAMINFO holds the number of samples; zero there means unknown."""
    unknown = bytearray(FLAC)
    unknown[21] &= 0xF0
    unknown[22:26] = bytes(4)

    assert announced_length(io.BytesIO(FLAC), "flac") == 32_000
    assert announced_length(io.BytesIO(unknown), "flac") is None


def test_ogg_needs_a_last_page_that_says_so() -> None:
    """Without its last page, the one marked as the end of the stream, an Ogg is truncated."""
    last = OGG.rindex(b"OggS")

    assert _reason(OGG[:last], "ogg") == "truncated"
    assert _reason(OGG[: last + 20], "ogg") == "truncated"
    assert _reason(OGG + b"TAG" + bytes(125), "ogg") is None


def _element(name: int, content: bytes, *, known: bool = True) -> bytes:
    size = (len(content) | 1 << 28).to_bytes(4, "big") if known else b"\x01" + b"\xff" * 7
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + size + content


def _matroska(*, segment_known: bool, clusters_known: bool) -> bytes:
    blocks = b"".join(_element(0xA3, bytes([0x81, 0, n, 0x80]) + bytes(100)) for n in range(5))
    clusters = b"".join(
        _element(0x1F43B675, _element(0xE7, b"\0") + blocks, known=clusters_known) for _ in range(3)
    )
    information = _element(0x1549A966, _element(0x2AD7B1, b"\x0f\x42\x40"))
    head = _element(0x1A45DFA3, _element(0x4282, b"webm"))
    return head + _element(0x18538067, information + clusters, known=segment_known)


@pytest.mark.parametrize("segment_known", [True, False])
@pytest.mark.parametrize("clusters_known", [True, False])
def test_cut_matroska_is_truncated(segment_known: bool, clusters_known: bool) -> None:
    """Sizes of segments, clusters and blocks are held against the end of the file; a browser's
    unknown sizes are fine."""
    content = _matroska(segment_known=segment_known, clusters_known=clusters_known)

    assert fault(io.BytesIO(content), "webm") is None
    assert _reason(content[:-1], "webm") == "truncated"
    assert _reason(content[: len(content) // 2], "webm") == "truncated"


def test_matroska_cut_between_blocks_of_unknown_size_is_whole() -> None:
    """Where nothing announces an end, a cut between blocks cannot be seen."""
    content = _matroska(segment_known=False, clusters_known=False)
    block = len(_element(0xA3, bytes(104)))

    assert fault(io.BytesIO(content[:-block]), "webm") is None


def test_damaged_matroska_is_undecodable() -> None:
    """Bytes inside a cluster that are no element, or exceed it, are damage and not a cut."""
    content = _matroska(segment_known=True, clusters_known=True)
    second = content.index(b"\xa3", content.index(b"\x1f\x43\xb6\x75")) + 109
    no_element = content[:second] + b"\0\0" + content[second + 2 :]
    too_large = content[: second + 1] + b"\x10\x00\x04\x00" + content[second + 5 :]

    assert _reason(no_element, "webm") == "undecodable"
    assert _reason(too_large, "webm") == "undecodable"


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def test_mp4_boxes_must_end_inside_the_file() -> None:
    """A box beyond the end, a missing index or missing samples: truncated."""
    head, index, samples = (
        _box(b"ftyp", b"M4A "),
        _box(b"moov", bytes(50)),
        _box(b"mdat", bytes(500)),
    )
    wide = struct.pack(">I4sQ", 1, b"mdat", 516) + bytes(500)
    open_ended = struct.pack(">I4s", 0, b"mdat") + bytes(500)

    assert fault(io.BytesIO(head + samples + index), "mp4") is None
    assert fault(io.BytesIO(head + index + wide), "mp4") is None
    assert fault(io.BytesIO(head + index + open_ended), "mp4") is None
    assert _reason(head + index + samples[:-1], "mp4") == "truncated"
    assert _reason(head + index + wide[:-1], "mp4") == "truncated"
    assert _reason(head + index + samples + index[:5], "mp4") == "truncated"
    assert _reason(head + samples, "mp4") == "truncated"
    assert _reason(head + index, "mp4") == "truncated"
    assert _reason(head + struct.pack(">I4s", 3, b"moov"), "mp4") == "undecodable"


MP3_FRAME = b"\xff\xfb\x90\xc4" + bytes(413)  # MPEG 1, 128 kbit/s, 44.1 kHz, mono: 417 bytes


def _xing(*, frames: int | None = None, bytes_: int | None = None) -> bytes:
    fields = b"".join(struct.pack(">I", value) for value in (frames, bytes_) if value is not None)
    flags = (1 if frames is not None else 0) | (2 if bytes_ is not None else 0)
    header = b"Xing" + struct.pack(">I", flags) + fields
    return (MP3_FRAME[:21] + header).ljust(417, b"\0")


def test_mp3_is_held_against_its_own_header() -> None:
    """Frames, else bytes, that a Xing or Info header announces must be there."""
    frames, tag = MP3_FRAME * 9, b"TAG" + bytes(125)
    id3 = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)

    assert fault(io.BytesIO(id3 + _xing(frames=9) + frames + tag), "mp3") is None
    assert fault(io.BytesIO(_xing(bytes_=4170) + frames), "mp3") is None
    assert _reason(_xing(frames=10) + frames + tag, "mp3") == "truncated"
    assert _reason(_xing(bytes_=4171) + frames, "mp3") == "truncated"
    assert _reason(_xing(frames=9, bytes_=4170) + frames[:-1], "mp3") == "truncated"


def test_mp3_without_a_header_may_not_end_inside_a_frame() -> None:
    """Bare frames are whole; a last frame that is cut is not."""
    assert fault(io.BytesIO(MP3_FRAME * 9), "mp3") is None
    assert _reason((MP3_FRAME * 9)[:-1], "mp3") == "truncated"


def test_mp3_with_junk_between_its_frames_is_not_called_truncated() -> None:
    """Where the frames cannot be counted, the announced bytes decide."""
    content = _xing(frames=9, bytes_=4170 + 50) + MP3_FRAME * 4 + bytes(50) + MP3_FRAME * 5

    assert fault(io.BytesIO(content), "mp3") is None
    assert _reason(content[:-1], "mp3") == "truncated"
