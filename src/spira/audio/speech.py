"""Where there is speech, and how its pauses are spread.

The voice activity detector is silero-vad's recurrent network, run by ONNX Runtime out of its
wheel. It knows speech: a sustained vowel or a cough scores as none, so it is not asked about them.
"""

import functools
import importlib.util
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spira.domain.recordings import SHORTEST_SPEECH_S

Float = NDArray[np.float32]

RATE_HZ = 16_000
FRAME_S = 0.032

_FRAME = round(FRAME_S * RATE_HZ)  # 512 samples, fixed by the network
_CONTEXT = 64  # samples before each frame that the network sees too; without them all is silence
_SLICE = 512 * _FRAME  # 16 s go through the network at once; its memory does not grow beyond that

# The network misses soft voices: in recordings of one man with a speech level of -32 dBFS it finds
# 19 % of the time to be speech, raised by 12 dB 63 %; so all are brought to one level first. Where
# there is only noise it finds no speech at any level.
_LEVEL_DBFS = -20.0  # of the loudest 5 % of frames
_LOUDEST_GAIN_DB = 30.0
_LEVEL_PIECES = 4  # the first minute decides, so that nothing has to be heard twice

# Hysteresis of silero-vad itself: speech begins at 0.5 and lasts until the probability is 0.15
# lower, so that one unsure frame does not cut a word in two.
_BEGIN = 0.5
_END = 0.35
# Stops like /p/ and /t/ are silent for up to 0.15 s; above 0.2 s a gap is heard as a pause
# (Goldman-Eisler's classical limit is 0.25 s; the frames here are 0.032 s long).
_MINIMUM_PAUSE_S = 0.2

# Between words, quiet parts leave out what is still voice and what may be breath.
_GUARD_FRAMES = 2  # 64 ms on each side of speech: onsets and tails below the detector's threshold
_BREATH_DB = 3.0  # above the room's own level; a steady room varies by about 1 dB a frame
_MINIMUM_QUIET_FRAMES = 3
_FADE = 128  # samples (8 ms) of cross-fade where two quiet parts meet, so that nothing clicks


@dataclass(frozen=True)
class PauseTiming:
    """Timing of one spoken recording. Pauses lie inside the speech: between its first and last
    sound. All zeros where there is no speech."""

    speech_s: float  # speech without pauses
    span_s: float  # from the first speech to the last, pauses included
    group_count: int  # stretches of speech between pauses: breath groups, mostly
    group_mean_s: float
    group_longest_s: float
    pause_count: int
    pause_total_s: float
    pause_mean_s: float
    pause_longest_s: float
    pause_share: float  # of the span, 0..1
    speech_rate_groups_per_s: float  # groups a second of the span


def speech_probability(waveform: Float) -> Float:
    """Probability of speech in each frame of 32 ms.

    waveform  [T], float32 in -1..1, 16 kHz
    returns   [ceil(T / 512)], 0..1; the last frame is filled up with zeros
    source    silero-vad 6 (MIT), `silero_vad_16k_sequence.onnx`
    """
    return np.concatenate([np.zeros(0, np.float32), *stream_speech_probability([waveform])])


def stream_speech_probability(blocks: Iterable[Float]) -> Iterator[Float]:
    """`speech_probability` of a long recording given in blocks: the same values, bounded memory."""
    session = _session()
    state = np.zeros((2, 1, 1, 128), np.float32)  # h and c of the recurrent layer
    context = np.zeros(_CONTEXT, np.float32)
    pieces = _pieces(blocks)
    first = list(itertools.islice(pieces, _LEVEL_PIECES))
    gain = _gain(first)
    for piece in itertools.chain(first, pieces):
        filled = np.pad(piece * gain, (0, -len(piece) % _FRAME)).reshape(-1, _FRAME)
        frames = np.zeros((len(filled), _CONTEXT + _FRAME), np.float32)
        frames[:, _CONTEXT:] = filled
        frames[0, :_CONTEXT] = context
        frames[1:, :_CONTEXT] = frames[:-1, -_CONTEXT:]
        context = frames[-1, -_CONTEXT:]
        probability, *state = session.run(None, {"input": frames, "h": state[0], "c": state[1]})
        yield probability


def speech_segments(probability: Float) -> NDArray[np.float64]:
    """Stretches of speech, from the probabilities of consecutive frames.

    returns   [n, 2]: begin and end in seconds, rising; gaps are at least 0.2 s long and
              stretches at least 0.1 s
    """
    segments = np.multiply(_runs(_active(probability)), FRAME_S, dtype=np.float64)
    if not len(segments):
        return segments
    joined = _without_short_gaps(segments)
    return joined[joined[:, 1] - joined[:, 0] >= SHORTEST_SPEECH_S]


def speech_seconds(probability: Float) -> float:
    """Seconds of speech, pauses left out."""
    segments = speech_segments(probability)
    return float((segments[:, 1] - segments[:, 0]).sum())


def pauses(waveform: Float) -> PauseTiming:
    """Timing of the pauses of a spoken recording.

    waveform  [T], float32 in -1..1, 16 kHz
    """
    return pause_timing(speech_segments(speech_probability(waveform)))


def pause_timing(segments: NDArray[np.float64]) -> PauseTiming:
    """`pauses`, from stretches of speech as `speech_segments` gives them."""
    if not len(segments):
        return PauseTiming(0.0, 0.0, 0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)
    groups = segments[:, 1] - segments[:, 0]
    gaps = segments[1:, 0] - segments[:-1, 1]
    span = float(segments[-1, 1] - segments[0, 0])
    return PauseTiming(
        speech_s=float(groups.sum()),
        span_s=span,
        group_count=len(groups),
        group_mean_s=float(groups.mean()),
        group_longest_s=float(groups.max()),
        pause_count=len(gaps),
        pause_total_s=float(gaps.sum()),
        pause_mean_s=float(gaps.mean()) if len(gaps) else 0.0,
        pause_longest_s=float(gaps.max()) if len(gaps) else 0.0,
        pause_share=float(gaps.sum()) / span,
        speech_rate_groups_per_s=len(groups) / span,
    )


def quiet_parts(waveform: Float) -> Float:
    """What a spoken recording holds beside the voice: its gaps, without speech and without breath.

    waveform  [T], float32 in -1..1, 16 kHz
    returns   [S], S <= T: the frames far from speech whose level is that of the room (within
              3 dB of the quietest tenth of them), joined with short cross-fades; often empty
    """
    if len(waveform) < _FRAME:
        return np.zeros(0, np.float32)
    active = _active(speech_probability(waveform))
    near = np.convolve(active, np.ones(2 * _GUARD_FRAMES + 1))[_GUARD_FRAMES:-_GUARD_FRAMES] > 0
    level = _levels_dbfs(waveform[: len(waveform) // _FRAME * _FRAME])
    quiet = ~near[: len(level)]
    if not quiet.any():
        return np.zeros(0, np.float32)
    quiet &= level <= np.percentile(level[quiet], 10) + _BREATH_DB
    runs = [(a, b) for a, b in _runs(quiet) if b - a >= _MINIMUM_QUIET_FRAMES]
    if not runs:
        return np.zeros(0, np.float32)
    return _crossfaded([waveform[a * _FRAME : b * _FRAME] for a, b in runs])


@functools.cache
def _session() -> Any:
    """The network, once a process, on one thread (its sessions would fight over the cores)."""
    import onnxruntime

    # Importing the package would import torch.
    package = importlib.util.find_spec("silero_vad")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("silero-vad is not installed; install spira's dependencies")
    data = Path(package.submodule_search_locations[0]) / "data"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        data / "silero_vad_16k_sequence.onnx", options, providers=["CPUExecutionProvider"]
    )


def _pieces(blocks: Iterable[Float]) -> Iterator[Float]:
    """The signal in pieces of one length, however it came: only the last one is shorter."""
    held: list[Float] = []
    samples = 0
    for block in blocks:
        held.append(block)
        samples += len(block)
        if samples >= _SLICE:
            joined = np.concatenate(held)
            whole = samples // _SLICE * _SLICE
            yield from joined[:whole].reshape(-1, _SLICE)
            held, samples = [joined[whole:]], samples - whole
    if samples:
        yield np.concatenate(held)


def _gain(pieces: list[Float]) -> np.float32:
    levels = [_levels_dbfs(piece[: len(piece) // _FRAME * _FRAME]) for piece in pieces]
    level = np.percentile(np.concatenate(levels), 95) if sum(map(len, levels)) else _LEVEL_DBFS
    return np.float32(10 ** (min(_LEVEL_DBFS - level, _LOUDEST_GAIN_DB) / 20))


def _levels_dbfs(frames: Float) -> NDArray[np.float64]:
    """Level of each whole frame of 32 ms."""
    power = np.square(frames.reshape(-1, _FRAME), dtype=np.float64).mean(axis=1)
    return np.asarray(10 * np.log10(power + 1e-12))


def _active(probability: Float) -> NDArray[np.bool_]:
    """Hysteresis: on at _BEGIN, off below _END, unchanged between the two."""
    decided = (probability >= _BEGIN) | (probability < _END)
    last_decided = np.maximum.accumulate(np.where(decided, np.arange(len(probability)), -1))
    return np.asarray((last_decided >= 0) & (probability[last_decided] >= _BEGIN))


def _runs(active: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[n, 2]: first index and the one after the last of each stretch of True."""
    edges = np.flatnonzero(np.diff(active, prepend=False, append=False))
    return edges.reshape(-1, 2)


def _without_short_gaps(segments: NDArray[np.float64]) -> NDArray[np.float64]:
    gaps = segments[1:, 0] - segments[:-1, 1]
    kept = gaps >= _MINIMUM_PAUSE_S
    begins = segments[np.concatenate([[True], kept]), 0]
    ends = segments[np.concatenate([kept, [True]]), 1]
    return np.stack([begins, ends], axis=1)


def _crossfaded(parts: list[Float]) -> Float:
    ramp = np.linspace(0, 1, _FADE, dtype=np.float32)
    joined = parts[0]
    for part in parts[1:]:
        meeting = joined[-_FADE:] * ramp[::-1] + part[:_FADE] * ramp
        joined = np.concatenate([joined[:-_FADE], meeting, part[_FADE:]])
    return joined
