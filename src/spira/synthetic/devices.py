"""Capture devices: what stands between a voice in a room and the bytes of a file.

Band limit, automatic gain control, sample rate, the device's own noise, and a real encoder.
The same waveform and draws give the same bytes: no time, no random serial number in any of them.
"""

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from spira.synthetic.voices import RATE_HZ

Float = NDArray[np.float32]
DeviceName = Literal[
    "recorder-wav", "laptop-wav", "headset-flac", "tablet-ogg", "phone-webm", "phone-mp4"
]
DEVICE_NAMES: tuple[DeviceName, ...] = get_args(DeviceName)


@dataclass(frozen=True)
class Device:
    """One kind of capture device."""

    suffix: str  # of its files
    rate_hz: int
    low_hz: float  # band of its microphone
    high_hz: float
    gain_control: bool
    encoder: str  # "" for plain PCM
    bit_rate: int = 0


DEVICES: dict[DeviceName, Device] = {
    "recorder-wav": Device("wav", 48_000, 40, 10_500, False, ""),
    "laptop-wav": Device("wav", 16_000, 90, 7_500, True, ""),
    "headset-flac": Device("flac", 44_100, 120, 9_000, False, ""),
    # Browsers' MediaRecorder: Firefox, Chrome, Safari.
    "tablet-ogg": Device("ogg", 48_000, 70, 10_000, True, "libopus", 48_000),
    "phone-webm": Device("webm", 48_000, 100, 10_000, True, "libopus", 32_000),
    "phone-mp4": Device("m4a", 44_100, 80, 10_500, True, "aac", 64_000),
}
_CONTAINERS = {"ogg": "ogg", "webm": "webm", "m4a": "mp4"}
_ENCODER_OPTIONS = {"libopus": {"compression_level": "0"}, "aac": {"aac_coder": "fast"}}  # speed

_OWN_NOISE = 10 ** (-75 / 20)  # RMS of the microphone's own noise, full scale 1
_HEADROOM = 0.95
_GAIN_AIM = 0.5  # peak that the gain control works towards
_GAIN_MOST = 2.0  # 6 dB up or down
_GAIN_BLOCK_S = 0.02
_GAIN_RELEASE_S = 6.0  # slower than any pause, so that pauses are not pumped up


def capture(waveform: Float, device: Device, rng: np.random.Generator) -> bytes:
    """Record a waveform with a device.

    waveform  [T] float32 at `RATE_HZ`, 1 is the device's full scale
    returns   the bytes of a file in the device's container, mono
    """
    heard = sosfilt(_band(device.low_hz, device.high_hz), waveform)
    if device.gain_control:
        heard = _controlled(heard)
    heard = heard + np.float32(_OWN_NOISE) * rng.standard_normal(len(heard), dtype=np.float32)
    heard = soxr.resample(heard, RATE_HZ, device.rate_hz)
    heard *= np.float32(min(1.0, _HEADROOM / max(float(np.abs(heard).max(initial=0)), 1e-9)))
    return _encode(heard, device)


def _encode(samples: Float, device: Device) -> bytes:
    """Encode mono samples at the device's rate."""
    file = io.BytesIO()
    if not device.encoder:
        soundfile.write(
            file, samples, device.rate_hz, format=device.suffix.upper(), subtype="PCM_16"
        )
        return file.getvalue()
    # Bit-exact: else Ogg's serial and Matroska's UIDs are random and headers name the library.
    with av.open(
        file,
        "w",
        format=_CONTAINERS[device.suffix],
        container_options={"fflags": "+bitexact"},
    ) as container:
        stream: Any = container.add_stream(
            device.encoder,
            rate=device.rate_hz,
            layout="mono",
            options={**_ENCODER_OPTIONS[device.encoder], "flags": "+bitexact"},
        )
        stream.bit_rate = device.bit_rate
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="fltp", layout="mono")
        frame.sample_rate = device.rate_hz
        frame.pts = 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return file.getvalue()


def _controlled(waveform: Float) -> Float:
    """A slow gain control: half of the distance (in dB) between the recent peak and the aim."""
    block = round(_GAIN_BLOCK_S * RATE_HZ)
    padded = np.pad(np.abs(waveform), (0, -len(waveform) % block))
    release = np.exp(-_GAIN_BLOCK_S / _GAIN_RELEASE_S)
    peak, peaks = _GAIN_AIM, []
    for loudest in padded.reshape(-1, block).max(axis=1):
        peak = max(float(loudest), peak * release)
        peaks.append(peak)
    gains = np.clip(np.sqrt(_GAIN_AIM / np.array(peaks)), 1 / _GAIN_MOST, _GAIN_MOST)
    middles = (np.arange(len(gains)) + 0.5) * block
    gain = np.interp(np.arange(len(waveform)), middles, gains)
    return np.asarray(waveform * gain, dtype=np.float32)


@lru_cache
def _band(low_hz: float, high_hz: float) -> Float:
    sos = np.vstack(
        [
            butter(2, low_hz, "highpass", fs=RATE_HZ, output="sos"),
            butter(4, high_hz, "lowpass", fs=RATE_HZ, output="sos"),
        ]
    )
    return np.asarray(sos, dtype=np.float32)
