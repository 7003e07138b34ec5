"""Features against librosa, one window at a time; and the fast way against the plain one."""

from typing import Any

import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy.signal import get_window
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from spira.audio.features import (
    Features,
    MelSpectrogram,
    Mfcc,
    Spectrogram,
    extract,
    extract_single,
)
from spira.audio.windows import Windows, cut
from spira.domain.draws import draws
from spira.domain.errors import InputError

Float = NDArray[np.float32]

RATE_HZ = 16_000
TOLERANCE = 1e-3  # dB-like units of an MFCC; float32 through an FFT of 1200 points


def voice(seconds: float, *, key: str = "voice") -> Float:
    """A gliding harmonic tone in syllables, some noise, and a pause of digital silence."""
    rng = draws(7, "test features", key)
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * 0.7 * t)) / RATE_HZ
    tone = sum(np.sin(k * phase) / k for k in range(1, 20))
    sound = 0.2 * tone * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * t)) + 0.003 * rng.standard_normal(
        len(t)
    )
    sound[(t > 1.2) & (t < 1.7)] = 0
    return sound.astype(np.float32)


def oracle_power(window: Float) -> NDArray[np.float64]:
    """[frames, 601] by librosa in double precision."""
    spectra = librosa.stft(
        window.astype(np.float64),
        n_fft=1200,
        hop_length=160,
        win_length=400,
        window=get_window("hann", 400, fftbins=True),
        center=True,
        pad_mode="reflect",
    )
    return np.asarray(np.abs(spectra.T) ** 2)


def oracle_mel(window: Float) -> NDArray[np.float64]:
    """[frames, 40] by librosa's filters."""
    filters = librosa.filters.mel(
        sr=RATE_HZ, n_fft=1200, n_mels=40, fmin=0, fmax=8000, htk=True, norm=None, dtype=np.float64
    )
    return np.asarray(oracle_power(window) @ filters.T)


def oracle_mfcc(window: Float) -> NDArray[np.float64]:
    """[frames, 40] by librosa's decibels and DCT."""
    levels = librosa.power_to_db(oracle_mel(window).T, ref=1.0, amin=1e-10, top_db=80.0)
    return np.asarray(librosa.feature.mfcc(S=levels, n_mfcc=40, dct_type=2, norm="ortho").T)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
def test_mfcc_are_librosas_within_a_thousandth(scale: float) -> None:
    """Shared and single frames, loud and so quiet that the floor of 1e-10 is felt."""
    waveform = voice(7.3) * np.float32(scale)

    shared = extract(waveform, Windows(), Mfcc())

    assert shared.shape == (4, 401, 40)
    assert shared.dtype == np.float32
    for window, found in zip(cut(waveform, Windows()), shared, strict=True):
        expected = oracle_mfcc(window)
        assert np.abs(found - expected).max() < TOLERANCE
        assert np.abs(extract_single(window, Mfcc()) - expected).max() < TOLERANCE


def test_levels_are_clamped_under_the_maximum_of_the_windows_own() -> None:
    """A loud sound in another window of the recording changes nothing in a quiet one."""
    quiet = np.float32(1e-4) * voice(10)
    with_loud = quiet.copy()
    with_loud[-RATE_HZ:] += voice(1, key="loud")

    before, after = (extract(sound, Windows(), Mfcc()) for sound in (quiet, with_loud))

    assert np.abs(before[:5] - after[:5]).max() < TOLERANCE
    assert np.abs(before[-1] - after[-1]).max() > 1


@pytest.mark.parametrize(
    ("features", "oracle", "bands"),
    [(Spectrogram(), oracle_power, 601), (MelSpectrogram(), oracle_mel, 40)],
)
def test_power_features_are_librosas(features: Features, oracle: Any, bands: int) -> None:
    """Power has a wide range: the error is measured against the window's largest value."""
    waveform = voice(5.5)

    shared = extract(waveform, Windows(), features)

    assert shared.shape == (2, 401, bands)
    for window, found in zip(cut(waveform, Windows()), shared, strict=True):
        expected = oracle(window)
        assert np.abs(found - expected).max() < 1e-5 * expected.max()
        assert np.abs(extract_single(window, features) - expected).max() < 1e-5 * expected.max()


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 8_000),
    step=st.integers(1, 30).map(lambda n: 80 * n),
    offset=st.integers(0, 500),
    n=st.integers(1, 14_000),
)
def test_shared_frames_are_the_frames_of_each_window(
    length: int, step: int, offset: int, n: int
) -> None:
    """Whatever the windows: on the grid of frames or off it, shorter than a frame, padded."""
    windows = Windows(length_s=length / RATE_HZ, step_s=step / RATE_HZ)
    waveform = voice(1)[:n] if n <= RATE_HZ else voice(1)

    shared = extract(waveform, windows, Mfcc(), offset=offset)

    single = [extract_single(one, Mfcc()) for one in cut(waveform, windows, offset=offset)]
    assert np.abs(shared - np.stack(single)).max() < TOLERANCE


@pytest.mark.parametrize("offset", [0, 160, 1600, 77])
def test_windows_on_the_grid_of_frames_share_them_at_any_offset(offset: int) -> None:
    """Four seconds every second, from wherever training starts."""
    waveform = voice(8)

    shared = extract(waveform, Windows(), Mfcc(), offset=offset)

    windows = cut(waveform, Windows(), offset=offset)
    assert len(shared) == len(windows) > 3
    for window, found in zip(windows, shared, strict=True):
        assert np.abs(found - extract_single(window, Mfcc())).max() < TOLERANCE


def test_windows_shorter_than_a_frame_have_features_too() -> None:
    """20 ms every 10 ms: on the grid of frames, but with edges that overlap."""
    windows = Windows(length_s=0.02, step_s=0.01)
    waveform = voice(0.5)

    features = extract(waveform, windows, Mfcc())

    single = [extract_single(one, Mfcc()) for one in cut(waveform, windows)]
    assert np.abs(features - np.stack(single)).max() < TOLERANCE


def test_features_are_the_same_bytes_whatever_the_number_of_threads() -> None:
    """A result must not depend on how many cores the machine has."""
    waveform = voice(9)
    answers = set()

    for threads in (1, 2):
        with threadpool_limits(threads):
            answers.add(extract(waveform, Windows(), Mfcc()).tobytes())

    assert len(answers) == 1


def test_fewer_coefficients_are_the_first_of_all() -> None:
    """n_mfcc cuts the transform short and changes none of the values before."""
    window = voice(4)

    few, every = extract_single(window, Mfcc(n_mfcc=13)), extract_single(window, Mfcc())

    assert few.shape == (401, 13)
    assert np.array_equal(few, every[:, :13])


def test_digital_silence_has_finite_features() -> None:
    """The floor of 1e-10 stands under the logarithm: -100 dB in each of 40 bands."""
    features = extract(np.zeros(5 * RATE_HZ, np.float32), Windows(), Mfcc())

    assert features[..., 0] == pytest.approx(-100 * np.sqrt(40), abs=1e-2)
    assert np.abs(features[..., 1:]).max() < 1e-3


def test_an_empty_recording_has_no_features() -> None:
    """As it has no windows."""
    with pytest.raises(InputError, match="no samples"):
        extract(np.zeros(0, np.float32), Windows(), Mfcc())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"kind": "mfcc", "n_mfcc": 41}, "n_mfcc"),
        ({"kind": "mfcc", "window": 1201}, "multiple of 2"),
        ({"kind": "spectrogram", "window": 1400}, "must not be longer than n_fft"),
        ({"kind": "cepstrum"}, "kind"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, Any], complaint: str) -> None:
    """In the experiment's file, not as an exception of the FFT an hour later."""
    with pytest.raises(ValidationError, match=complaint):
        TypeAdapter(Features).validate_python(options)
