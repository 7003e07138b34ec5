"""From a file of any kind that phones, browsers and researchers write, to mono float32 samples.

Everything streams: memory does not grow with the length of a recording.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from spira.audio.containers import Container, announced_length, fault, sniff
from spira.domain.errors import RecordingRefused
from spira.domain.recordings import LARGEST_SAMPLE, SourceFormat

# av, soundfile and soxr are imported where they are used: the settings tree imports this module,
# and `spira --help` should not wait for FFmpeg.
if TYPE_CHECKING:
    import av

Mono = NDArray[np.float32]
Source = Path | BinaryIO  # of a recording: its path, or its bytes in an open file that can seek

__all__ = ["Native", "Source", "decode", "decode_blocks", "opened", "resampled", "sniff"]

_HEAD_BYTES = 4096
_BLOCK_SAMPLES = 2**18  # of all channels together: 1 MB, 16 s of mono at 16 kHz
_RATES_HZ = range(1_000, 1_000_001)  # outside, a header is wrong; the resampler would need GBs
_LOST_S = 0.25  # of what an Ogg file announces; less is encoder delay

_CODECS = {  # libsndfile's word -> FFmpeg's, so that a codec has one name
    "PCM_U8": "pcm_u8",
    "PCM_16": "pcm_s16le",
    "PCM_24": "pcm_s24le",
    "PCM_32": "pcm_s32le",
    "FLOAT": "pcm_f32le",
    "DOUBLE": "pcm_f64le",
    "ULAW": "pcm_mulaw",
    "ALAW": "pcm_alaw",
    "IMA_ADPCM": "adpcm_ima_wav",
    "MS_ADPCM": "adpcm_ms",
}


@dataclass(frozen=True)
class Native:
    """An opened recording: what it is, and its samples at its own rate, as mono blocks."""

    format: SourceFormat
    blocks: Iterator[Mono]  # mean of the channels, full scale is 1; never an empty block
    announced_s: float | None  # duration by the container, where its word can be relied on
    bytes_read: Callable[[], int]  # of the file, so far


def decode(source: Source, *, rate_hz: int = 16_000) -> Mono:
    """A whole recording in memory; see `decode_blocks`.

    returns   [T], T = round(duration * rate_hz)
    """
    return np.concatenate([np.zeros(0, np.float32), *decode_blocks(source, rate_hz=rate_hz)])


def decode_blocks(source: Source, *, rate_hz: int = 16_000) -> Iterator[Mono]:
    """A recording as mono blocks (mean of the channels) at `rate_hz`, in bounded memory.

    returns   blocks [n] of up to some seconds; joined they are the same samples whatever the
              sizes of the blocks
    raises    RecordingRefused, at the first block or later: missing, not_audio, undecodable,
              truncated (by what the container says), empty, not_finite,
              out_of_scale (a sample above LARGEST_SAMPLE)
    """
    with opened(source) as native:
        yield from resampled(native.blocks, native.format.rate_hz, rate_hz)


@contextmanager
def opened(source: Source) -> Iterator[Native]:
    """Open a recording to read its blocks once, while the context lasts.

    The container is known by its first bytes, never by its name, and decided before any decoder
    sees the file: FFmpeg left to guess follows playlists to other files.

    source    of an open file everything is read, wherever it stands; it stays open
    raises    RecordingRefused as `decode_blocks`; its message begins with the path, if there is one
    """
    if not isinstance(source, Path):
        with _opened("", source) as native:
            yield native
        return
    try:
        file = source.open("rb")
    except OSError as error:
        cause = (error.strerror or "cannot be opened").lower()
        message = f"{source}: {cause}; a readable file is needed"
        raise RecordingRefused("missing", message) from error
    with file, _opened(f"{source}: ", file) as native:
        yield native


@contextmanager
def _opened(where: str, file: BinaryIO) -> Iterator[Native]:
    """`opened`; here and below `where` is what a message begins with: "path: ", or nothing."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    if not head:
        raise RecordingRefused("empty", f"{where}the file has no bytes; record again")
    container = sniff(head)
    if container is None:
        message = f"{where}not audio; wav, flac, ogg, webm, mp4 (m4a) and mp3 are read"
        raise RecordingRefused("not_audio", message)
    found = fault(file, container)
    if found is not None and found.reason == "truncated":
        raise RecordingRefused("truncated", f"{where}{found.found}")
    if found is not None:
        raise _undecodable(where, found.found)
    with _decoder(where, file, container) as native:
        if native.format.rate_hz not in _RATES_HZ:
            raise _undecodable(where, f"a sampling rate of {native.format.rate_hz} Hz")
        yield replace(native, blocks=_sound(where, native))


def resampled(blocks: Iterable[Mono], from_hz: int, to_hz: int) -> Iterator[Mono]:
    """Blocks at another sampling rate: the same samples however the signal was cut into blocks.

    source    libsoxr, quality HQ (20 bit); round(T * to_hz / from_hz) samples in all
    """
    if from_hz == to_hz:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32")
    for block in blocks:
        if len(out := stream.resample_chunk(block)):
            yield out
    if len(out := stream.resample_chunk(np.zeros(0, np.float32), last=True)):
        yield out


def _undecodable(where: str, found: str) -> RecordingRefused:
    return RecordingRefused("undecodable", f"{where}cannot be decoded: {found}")


def _no_sample(where: str, value: float, at_s: float) -> RecordingRefused:
    if not np.isfinite(value):
        message = f"{where}a sample at {at_s:.3f} s is not a finite number"
        return RecordingRefused("not_finite", message)
    message = (
        f"{where}a sample at {at_s:.3f} s is {value:.6g}, full scale is 1 and at most "
        f"{LARGEST_SAMPLE:g} is read; divide 16-bit integers that were written as floats by 32768"
    )
    return RecordingRefused("out_of_scale", message)


def _sound(where: str, native: Native) -> Iterator[Mono]:
    """The blocks, once something is in them and all of it are numbers that can be a sound's."""
    samples = 0
    for block in native.blocks:
        wrong = ~(np.abs(block) <= LARGEST_SAMPLE)  # NaN too
        if wrong.any():
            first = int(np.argmax(wrong))
            at_s = (samples + first) / native.format.rate_hz
            raise _no_sample(where, float(block[first]), at_s)
        samples += len(block)
        yield block
    if not samples:
        raise RecordingRefused("empty", f"{where}no samples in it; record again")


def _decoder(where: str, file: BinaryIO, container: Container) -> AbstractContextManager[Native]:
    """The decoder for a container: libsndfile for plain files, FFmpeg for the others.

    libsndfile reads nothing of a wav or flac whose writer could not announce its length (a pipe,
    a recorder that was stopped); FFmpeg reads those too.
    """
    plain = container in ("wav", "flac") and announced_length(file, container) is not None
    file.seek(0)
    return (_plain if plain else _coded)(where, file, container)


def _mono(samples: NDArray[np.float32]) -> Mono:
    """[T, channels] -> [T]."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    return np.asarray(samples.mean(axis=1, dtype=np.float32))


# ---- plain files


@contextmanager
def _plain(where: str, file: BinaryIO, container: Container) -> Iterator[Native]:
    import soundfile

    try:
        sound = soundfile.SoundFile(file)
    except soundfile.LibsndfileError as error:
        raise _undecodable(where, error.error_string) from error
    with sound:
        codec = "flac" if container == "flac" else _CODECS.get(sound.subtype, sound.subtype.lower())
        source = SourceFormat(
            container=container, codec=codec, rate_hz=sound.samplerate, channels=sound.channels
        )
        announced_s = sound.frames / sound.samplerate
        yield Native(source, _plain_blocks(where, file, sound), announced_s, file.tell)


def _plain_blocks(where: str, file: BinaryIO, sound: Any) -> Iterator[Mono]:
    import soundfile

    frames = max(1, _BLOCK_SAMPLES // sound.channels)
    decoded = 0
    try:
        while len(block := sound.read(frames, dtype="float32", always_2d=True)):
            decoded += len(block)
            yield _mono(block)
    except soundfile.LibsndfileError as error:
        if _last_sample_decodes(file):
            raise _undecodable(where, error.error_string) from error
    if decoded < sound.frames:
        message = f"{where}{sound.frames} samples are announced, not all are there"
        raise RecordingRefused("truncated", message)


def _last_sample_decodes(file: BinaryIO) -> bool:
    """Whether the end of a flac file is there: if so, what does not decode is damaged, not cut."""
    import soundfile

    file.seek(0)
    try:
        with soundfile.SoundFile(file) as sound:
            sound.seek(sound.frames - 1)
            return len(sound.read(1)) == 1
    except soundfile.LibsndfileError:
        return False


# ---- everything else


@contextmanager
def _coded(where: str, file: BinaryIO, container: Container) -> Iterator[Native]:
    import av

    demuxer = "matroska" if container == "webm" else container
    try:
        opened_file = av.open(file, mode="r", format=demuxer, metadata_errors="replace")
    except MemoryError:  # FFmpeg's is both; it tells of this process, not of the file
        raise
    except av.FFmpegError as error:
        raise _undecodable(where, str(error.strerror)) from error
    with opened_file:
        if not opened_file.streams.audio:
            raise RecordingRefused("not_audio", f"{where}a {container} file without sound")
        stream = opened_file.streams.audio[0]
        frames = _frames(where, opened_file, stream, announces_end=container == "ogg")
        # The rate stands in the first frame: HE-AAC doubles the one that its container states.
        first = next(frames, None)
        if first is None:
            raise RecordingRefused("empty", f"{where}no samples in it; record again")
        source = SourceFormat(
            container=container,
            codec=stream.codec_context.codec.canonical_name,
            rate_hz=first.sample_rate,
            channels=first.layout.nb_channels,
        )
        # Of a wav, flac or mp3 FFmpeg guesses by size and bit rate, and can be wrong by hours.
        announced = None if container in ("wav", "flac", "mp3") else opened_file.duration
        announced_s = None if announced is None else announced / av.time_base
        yield Native(source, _coded_blocks(first, frames), announced_s, file.tell)


def _frames(
    where: str,
    container: "av.container.InputContainer",
    stream: "av.AudioStream",
    *,
    announces_end: bool,
) -> Iterator["av.AudioFrame"]:
    import av

    samples, rate_hz = 0, None
    try:
        for frame in container.decode(stream):
            if frame.sample_rate != (rate_hz := rate_hz or frame.sample_rate):
                found = f"the sampling rate changes from {rate_hz} to {frame.sample_rate} Hz"
                raise _undecodable(where, found)
            samples += frame.samples
            yield frame
    except MemoryError:  # FFmpeg's is both; it tells of this process, not of the file
        raise
    except av.FFmpegError as error:
        raise _undecodable(where, str(error.strerror)) from error
    # An Ogg page that fails its checksum is left out without a word.
    if announces_end and rate_hz and stream.duration and stream.time_base:
        announced_s = float(stream.duration * stream.time_base)
        if samples / rate_hz < announced_s - _LOST_S:
            found = f"of {announced_s:.1f} s announced, {samples / rate_hz:.1f} s could be read"
            raise _undecodable(where, found)


def _coded_blocks(first: "av.AudioFrame", rest: Iterable["av.AudioFrame"]) -> Iterator[Mono]:
    """Frames of some 20 ms, gathered: each step of the signal path has a price per block."""
    gathered, samples = [], 0
    for frame in itertools.chain([first], rest):
        gathered.append(_mono(_frame_samples(frame)))
        samples += frame.samples
        if samples >= _BLOCK_SAMPLES:
            yield np.concatenate(gathered)
            gathered, samples = [], 0
    if samples:
        yield np.concatenate(gathered)


def _frame_samples(frame: "av.AudioFrame") -> NDArray[np.float32]:
    """[T, channels], full scale 1."""
    data: NDArray[Any] = frame.to_ndarray()  # planar: [channels, T]; packed: [1, T * channels]
    data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
    if data.dtype.kind == "u":  # 8 bit
        return (data / 128.0 - 1.0).astype(np.float32)
    if data.dtype.kind == "i":
        return (data / 2.0 ** (8 * data.dtype.itemsize - 1)).astype(np.float32)
    return data.astype(np.float32, copy=False)
