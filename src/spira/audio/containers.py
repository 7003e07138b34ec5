"""What an audio file says of itself: its container, and whether all of it is there.

Decoders read a file that was cut short without an error and return less audio. So the container is
asked here, before anything is decoded. Names and endings of files are never looked at.
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

Container = Literal["wav", "flac", "ogg", "webm", "matroska", "mp4", "mp3"]


class Fault(NamedTuple):
    """Why a container is not whole: the reason it is refused for, and what was found."""

    reason: Literal["truncated", "undecodable"]
    found: str


def sniff(head: bytes) -> Container | None:
    """The container, from the first bytes of a file; None when it is not audio that SPIRA reads.

    head      the first 4 kB are plenty, 64 bytes are enough (mp3 frames are then checked singly)
    """
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    if head[:4] == b"\x1a\x45\xdf\xa3":  # EBML; its DocType says which of the two
        return "webm" if b"\x42\x82\x84webm" in head[:64] else "matroska"
    if head[4:8] == b"ftyp":
        return "mp4"
    if head[:3] == b"ID3":
        return "mp3"
    length = _mp3_frame_length(head[:4])
    # Eleven set bits begin other things too: where the second frame can be seen, it must be there.
    if length and (len(head) < length + 4 or _mp3_frame_length(head[length : length + 4])):
        return "mp3"
    return None


def fault(file: BinaryIO, container: Container) -> Fault | None:
    """How the file falls short of what its container announces; None when it does not.

    A writer that could not seek (a browser's MediaRecorder, a pipe) announces no sizes; such a
    file is whole. What only decoding shows (flac's number of samples) is for the decoder.
    """
    length = file.seek(0, os.SEEK_END)
    match container:
        case "wav":
            return _wav_data(file, length).fault
        case "flac":
            return None
        case "ogg":
            return _ogg_fault(file, length)
        case "webm" | "matroska":
            return _matroska_fault(file, length)
        case "mp4":
            return _mp4_fault(file, length)
        case "mp3":
            return _mp3_fault(file, length)


def announced_length(file: BinaryIO, container: Literal["wav", "flac"]) -> int | None:
    """Bytes of samples (wav) or samples (flac) that the header announces; None when it does not."""
    if container == "flac":
        return int.from_bytes(_at(file, 18, 8), "big") & (2**36 - 1) or None
    return _wav_data(file, file.seek(0, os.SEEK_END)).size


def _at(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


# ---- wav (RIFF, and RF64 of EBU Tech 3306 for more than 4 GB)


class _WavData(NamedTuple):
    size: int | None = None  # None: not announced
    fault: Fault | None = None


# Written by programs that stream and cannot know the size: most, and SoX.
_UNKNOWN_SIZES = (0xFFFFFFFF, 0x7FFFF000)


def _wav_data(file: BinaryIO, length: int) -> _WavData:
    riff_size = struct.unpack("<I", _at(file, 4, 4))[0]
    wide_size = None
    position = 12
    while len(header := _at(file, position, 8)) == 8:
        name, size = struct.unpack("<4sI", header)
        position += 8
        if name == b"ds64":
            wide_size = int.from_bytes(_at(file, position + 8, 8), "little")
        if name == b"data":
            if wide_size is not None and size == 0xFFFFFFFF:
                size = wide_size
            # Zero means "no samples" in a closed file, "still writing" in one never closed.
            if size in _UNKNOWN_SIZES or (size == 0 and riff_size + 8 != length):
                return _WavData()
            if position + size > length:
                found = f"its data chunk announces {size} bytes, {length - position} are there"
                return _WavData(size, Fault("truncated", found))
            return _WavData(size)
        if name == bytes(4):  # a hole full of zeros, not a list of empty chunks
            return _WavData(fault=Fault("undecodable", "zeros where a chunk of the wav was due"))
        position += size + size % 2  # chunks begin at even positions
    if position > length or riff_size + 8 > length:
        return _WavData(fault=Fault("truncated", "it ends before its data chunk"))
    return _WavData(fault=Fault("undecodable", "a wav without a data chunk"))


# ---- ogg (RFC 3533)

_OGG_LONGEST_PAGE = 27 + 255 + 255 * 255
_OGG_END_OF_STREAM = 4


def _ogg_fault(file: BinaryIO, length: int) -> Fault | None:
    tail = _at(file, max(0, length - _OGG_LONGEST_PAGE), _OGG_LONGEST_PAGE)
    start = tail.rfind(b"OggS\0")  # the zero is the version
    if start < 0:
        return Fault("undecodable", "no Ogg page near its end")
    page = tail[start:]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return Fault("truncated", "its last Ogg page is cut")
    end = 27 + page[26] + sum(page[27 : 27 + page[26]])
    if len(page) < end:
        return Fault("truncated", f"its last Ogg page announces {end} bytes, {len(page)} are there")
    if not page[5] & _OGG_END_OF_STREAM:
        return Fault("truncated", "its last Ogg page is not marked as the end of the stream")
    return None


# ---- webm, matroska (RFC 8794, RFC 9559)

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675


def _matroska_fault(file: BinaryIO, length: int) -> Fault | None:
    """Walk over the elements, into segments and clusters only; each must lie in its parent."""
    parents = [length]  # where the elements that we are in end
    position = 0
    while position < length:
        while position >= parents[-1]:
            parents.pop()
        name, size, position_of_data = _ebml_header(_at(file, position, 12), position)
        if name is None:
            if length - position < 12:
                return Fault("truncated", "it ends inside the header of a Matroska element")
            return Fault("undecodable", f"no Matroska element at byte {position}")
        if size is None:
            if name not in (_SEGMENT, _CLUSTER):
                return Fault("undecodable", f"a Matroska element without a size at byte {position}")
            end = parents[-1]
        else:
            end = position_of_data + size
        if end > parents[-1]:
            if parents[-1] < length:
                return Fault("undecodable", f"a Matroska element at byte {position} is damaged")
            found = f"an element announces {end - position_of_data} bytes"
            return Fault("truncated", f"{found}, {length - position_of_data} are there")
        if name in (_SEGMENT, _CLUSTER):
            parents.append(end)
            position = position_of_data
        else:
            position = end
    return None


def _ebml_header(header: bytes, position: int) -> tuple[int | None, int | None, int]:
    """Identifier (None: not one), size (None: unknown) and where the data begins."""
    width = 9 - header[0].bit_length() if header else 9
    if not 1 <= width <= 4 or len(header) <= width:
        return None, None, position
    name = int.from_bytes(header[:width], "big")
    size_width = 9 - header[width].bit_length()
    field = header[width : width + size_width]
    if size_width > 8 or len(field) < size_width:
        return None, None, position
    ones = (1 << 7 * size_width) - 1
    size = int.from_bytes(field, "big") & ones
    return name, None if size == ones else size, position + width + size_width


# ---- mp4, m4a (ISO/IEC 14496-12)


def _mp4_fault(file: BinaryIO, length: int) -> Fault | None:
    names = set()
    position = 0
    while position < length:
        header = _at(file, position, 16)
        if len(header) < 8:
            return Fault("truncated", "it ends inside the header of an MP4 box")
        size, name = struct.unpack(">I4s", header[:8])
        if size == 1 and len(header) == 16:
            size = int.from_bytes(header[8:], "big")
        if size == 0:  # to the end of the file
            size = length - position
        if size < 8:
            return Fault("undecodable", f"an MP4 box of {size} bytes at byte {position}")
        if position + size > length:
            found = f"an MP4 box announces {size} bytes, {length - position} are there"
            return Fault("truncated", found)
        names.add(name)
        position += size
    for needed, what in ((b"moov", "its index (moov)"), (b"mdat", "its samples (mdat)")):
        if needed not in names:
            return Fault("truncated", f"it ends before {what}")
    return None


# ---- mp3 (ISO/IEC 11172-3 and 13818-3, layer III; ID3v2; the Xing/Info header of encoders)

_MP3_KBPS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_RATES_HZ = (44_100, 48_000, 32_000)


def _mp3_frame_length(header: bytes) -> int | None:
    """Bytes of the layer III frame with this header of 4 bytes; None when it is not one."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:  # sync, layer III
        return None
    version, bit_rate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bit_rate in (0, 15) or rate == 3:  # reserved, or of no announced length
        return None
    kbps = _MP3_KBPS[1 if version == 3 else 2][bit_rate]
    rate_hz = _MP3_RATES_HZ[rate] >> {3: 0, 2: 1, 0: 2}[version]  # MPEG 1, 2, 2.5
    return (144_000 if version == 3 else 72_000) * kbps // rate_hz + (header[2] >> 1 & 1)


def _mp3_fault(file: BinaryIO, length: int) -> Fault | None:
    start = _mp3_start(file)
    if start is None:
        return Fault("undecodable", "no mp3 frame at its beginning")
    frames, bytes_ = _mp3_announced(_at(file, start, 64))
    count, end = 0, start
    for end in _mp3_frame_ends(file, start):
        count += end <= length
    walked = end >= length or _is_tag(_at(file, end, 8))  # no junk between the frames
    if frames is not None and walked:
        if count - 1 < frames:  # the header is a frame of its own
            return Fault(
                "truncated", f"its header announces {frames} frames, {count - 1} are there"
            )
    elif bytes_ is not None:
        if start + bytes_ > length:
            found = f"its header announces {bytes_} bytes, {length - start} are there"
            return Fault("truncated", found)
    elif end > length:
        return Fault("truncated", "its last mp3 frame is cut")
    return None


def _mp3_start(file: BinaryIO) -> int | None:
    """Where the first frame begins: after tags and padding, and with a second frame after it."""
    position = 0
    while (tag := _at(file, position, 10))[:3] == b"ID3" and len(tag) == 10:
        size = 0
        for byte in tag[6:]:
            size = size << 7 | byte & 0x7F
        position += 10 + size + (10 if tag[5] & 0x10 else 0)  # with or without a footer
    head = _at(file, position, 2**16)
    offset = head.find(b"\xff")
    while offset >= 0:
        size_of_frame = _mp3_frame_length(head[offset : offset + 4])
        if size_of_frame:
            following = _at(file, position + offset + size_of_frame, 4)
            if len(following) < 4 or _mp3_frame_length(following):
                return position + offset
        offset = head.find(b"\xff", offset + 1)
    return None


def _mp3_frame_ends(file: BinaryIO, position: int) -> Iterator[int]:
    while size := _mp3_frame_length(_at(file, position, 4)):
        position += size
        yield position


def _mp3_announced(frame: bytes) -> tuple[int | None, int | None]:
    """Frames and bytes in the Xing or Info header of the first frame, where it has one."""
    mono = frame[3] >> 6 == 3
    side_information = (17 if mono else 32) if frame[1] >> 3 & 3 == 3 else (9 if mono else 17)
    header = frame[4 + side_information :]
    if header[:4] not in (b"Xing", b"Info") or len(header) < 16:
        return None, None
    flags, first, second = struct.unpack(">III", header[4:16])
    frames = first if flags & 1 else None
    bytes_ = (second if flags & 1 else first) if flags & 2 else None
    return frames, bytes_


def _is_tag(head: bytes) -> bool:
    return head[:3] == b"TAG" or head == b"APETAGEX"
