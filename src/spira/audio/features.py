"""Features of windows: MFCC, spectrogram, mel spectrogram, exactly as published, and fast.

Frame i of a window is centred on its sample 160 i: a Hann window of 400 samples, zero-padded to
1200. Windows overlap, and so do their frames. Only the frames near a window's edge see the
reflected edge instead of the neighbouring audio:

        samples of a window   0 ... 160 ... 320 ...            ... 63680 ... 63840 ... 64000
        frame 0   reflects   [-200, 200)
        frame 1   reflects    [-40, 360)
        frame 2 .. 398        the audio itself: computed once, shared among windows
        frame 399, 400        reflect the end

So frames are computed once for the whole recording, and a few a window are patched. The largest
value of a window, under which its levels are clamped, is the window's own.

No product here goes through BLAS: its results depend on how many threads it takes, which is as
many as the machine has cores, and two processes that share the cores wait for each other. The mel
filters are sparse (5 % of the matrix) and the DCT is a fast one, so that nothing is lost.
"""

# scipy is imported where it is used: experiments import this module for its options alone.

from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from spira.audio.windows import Windows, cut, starts
from spira.domain.frozen import Frozen

Float = NDArray[np.float32]

_FFT_BLOCK = 256  # frames at a time: their spectra stay in the processor's cache
_FLOOR = 1e-10


class _Spectral(Frozen):
    """What all features share. Sizes in samples."""

    rate_hz: Literal[16_000] = 16_000  # what the detector of speech and the noise frames know
    n_fft: int = Field(default=1200, ge=64)
    window: int = Field(default=400, ge=16, multiple_of=2)  # Hann, in the middle of n_fft samples
    hop: int = Field(default=160, ge=1)

    @model_validator(mode="after")
    def _window_fits(self) -> "_Spectral":
        if self.window > self.n_fft:
            raise ValueError(f"window ({self.window}) must not be longer than n_fft ({self.n_fft})")
        return self


class Mfcc(_Spectral):
    """Mel-frequency cepstral coefficients: 10 log10 of the mel spectrum, 80 dB deep, DCT-II."""

    kind: Literal["mfcc"] = "mfcc"
    n_mels: int = Field(default=40, ge=4)
    n_mfcc: int = Field(default=40, ge=1)
    top_db: float = Field(default=80.0, gt=0)  # levels are clamped this far under the window's max

    @model_validator(mode="after")
    def _enough_mels(self) -> "Mfcc":
        if self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc ({self.n_mfcc}) must not be above n_mels ({self.n_mels})")
        return self


class MelSpectrogram(_Spectral):
    """Power in mel bands, no logarithm."""

    kind: Literal["melspectrogram"] = "melspectrogram"
    n_mels: int = Field(default=40, ge=4)


class Spectrogram(_Spectral):
    """Power at each frequency."""

    kind: Literal["spectrogram"] = "spectrogram"


Features = Annotated[Mfcc | Spectrogram | MelSpectrogram, Field(discriminator="kind")]


def extract(waveform: Float, windows: Windows, features: Features, *, offset: int = 0) -> Float:
    """Features of every window of a recording.

    waveform  [T], float32 in -1..1 at the features' rate
    offset    first sample of the first window
    returns   [N, frames, coefficients], float32
    raises    InputError for an empty recording
    """
    length, step = windows.samples(features.rate_hz)
    begin = starts(len(waveform), windows, features.rate_hz, offset)
    shareable = (
        step % features.hop == 0 and length % features.hop == 0 and length >= features.window
    )
    if len(begin) == 1 or not shareable:
        each = cut(waveform, windows, features.rate_hz, offset)
        return np.stack([extract_single(window, features) for window in each])
    body = np.ascontiguousarray(
        waveform[begin[0] : begin[-1] + length], dtype=np.float32
    )  # exactly what the windows cover
    frames, per_step = length // features.hop + 1, step // features.hop
    shared = _spectrum(_frames(_reflected(body, features), features), features)
    picked = np.lib.stride_tricks.sliding_window_view(shared, frames, axis=0)[::per_step]
    result = np.ascontiguousarray(picked.transpose(0, 2, 1))  # [N, frames, bands]
    edge = features.window // 2 // features.hop + 1  # frames whose samples reach over the edge
    whole = np.lib.stride_tricks.sliding_window_view(body, length)[::step]
    result[:, :edge], result[:, -edge:] = _edges(whole, features, edge)
    return _finished(result, features)


def extract_single(window: Float, features: Features) -> Float:
    """Features of one window (or of a whole recording taken as one): the plain definition.

    window    [L], float32
    returns   [L // hop + 1, coefficients], float32
    """
    padded = _reflected(np.asarray(window, dtype=np.float32), features)
    bands = _spectrum(_frames(padded, features), features)
    return np.asarray(_finished(bands[None], features)[0])


def window_shape(windows: Windows, features: Features) -> tuple[int, int]:
    """Frames and coefficients of one window."""
    length, _ = windows.samples(features.rate_hz)
    frames, coefficients = extract_single(np.zeros(length, np.float32), features).shape
    return frames, coefficients


def _reflected(window: Float, features: _Spectral) -> Float:
    """The window with half an analysis window mirrored at both ends."""
    reach = features.window // 2
    if len(window) > reach:
        return np.pad(window, reach, mode="reflect")
    return np.pad(np.pad(window, (0, reach + 1 - len(window))), reach, mode="reflect")


def _frames(padded: Float, features: _Spectral) -> Float:
    """[frames, window]: every hop, a stretch of one analysis window (a view)."""
    return np.lib.stride_tricks.sliding_window_view(padded, features.window)[:: features.hop]


def _edges(windows: Float, features: Features, edge: int) -> tuple[Float, Float]:
    """The first and the last `edge` frames of each window [N, L], with its own ends mirrored.

    returns   twice [N, edge, bands]
    """
    reach = features.window // 2
    span = (edge - 1) * features.hop + reach
    heads = np.hstack([windows[:, reach:0:-1], windows[:, :span]])
    tails = np.hstack([windows[:, -span:], windows[:, -2 : -reach - 2 : -1]])
    stretches = np.concatenate([heads, tails])
    frames = np.lib.stride_tricks.sliding_window_view(stretches, features.window, axis=1)
    spectra = _spectrum(frames[:, :: features.hop].reshape(-1, features.window), features)
    both = spectra.reshape(2, len(windows), edge, -1)
    return both[0], both[1]


def _spectrum(frames: Float, features: Features) -> Float:
    """[frames, bands]: power at each frequency, or in each mel band."""
    from scipy.fft import rfft

    hann = _hann(features.window)
    filters = None if isinstance(features, Spectrogram) else _mel_filters(features)
    bands = features.n_fft // 2 + 1 if filters is None else filters.shape[0]
    result = np.empty((len(frames), bands), np.float32)
    for first in range(0, len(frames), _FFT_BLOCK):
        block = slice(first, first + _FFT_BLOCK)
        spectra = rfft(frames[block] * hann, n=features.n_fft)
        power = spectra.real**2 + spectra.imag**2
        result[block] = power if filters is None else (filters @ power.T).T
    return result


def _finished(bands: Float, features: Features) -> Float:
    """From [N, frames, bands] to what the network is given."""
    if not isinstance(features, Mfcc):
        return bands
    from scipy.fft import dct

    level = 10 * np.log10(np.maximum(bands, np.float32(_FLOOR)))
    deepest = level.max(axis=(1, 2), keepdims=True) - np.float32(features.top_db)
    cepstrum = dct(np.maximum(level, deepest), type=2, norm="ortho", axis=-1)
    return np.ascontiguousarray(cepstrum[..., : features.n_mfcc])


@cache
def _hann(length: int) -> Float:
    """Periodic Hann window."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


@cache
def _mel_filters(features: Any) -> Any:
    """[n_mels, n_fft / 2 + 1]: triangles on the HTK mel scale, 0 Hz to half the rate, height 1.

    returns   a sparse array, float32
    """
    import scipy.sparse

    def mel(frequency_hz: float) -> float:
        return 2595 * float(np.log10(1 + frequency_hz / 700))

    edges_mel = np.linspace(mel(0), mel(features.rate_hz / 2), features.n_mels + 2)
    edges = 700 * (10 ** (edges_mel / 2595) - 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    frequencies = np.linspace(0, features.rate_hz / 2, features.n_fft // 2 + 1)
    triangles = np.minimum(
        (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    )
    return scipy.sparse.csr_array(np.maximum(0, triangles).astype(np.float32))
