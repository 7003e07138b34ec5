"""Speech is found where it is, and pauses are timed inside it."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spira.audio.decode import decode
from spira.audio.speech import (
    PauseTiming,
    pause_timing,
    pauses,
    quiet_parts,
    speech_probability,
    speech_seconds,
    speech_segments,
    stream_speech_probability,
)

VOICES = Path(__file__).parents[2] / "data" / "fsdd"
RATE_HZ = 16_000
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def voice() -> Floats:
    """A real voice reading eleven digits, raised to the level that the detector works at."""
    waveform = decode(VOICES / "george_3.flac")
    return waveform * _gain_to(-20.0, waveform)


def _levels(waveform: Floats) -> NDArray[Any]:
    frames = waveform[: len(waveform) // 512 * 512].astype(float).reshape(-1, 512)
    return np.asarray(10 * np.log10((frames**2).mean(axis=1) + 1e-12))


def _gain_to(level_dbfs: float, waveform: Floats) -> np.float32:
    return np.float32(10 ** ((level_dbfs - np.percentile(_levels(waveform), 95)) / 20))


def _noise(seconds: float, level_dbfs: float) -> Floats:
    samples = np.random.default_rng(3).standard_normal(round(seconds * RATE_HZ))
    return (samples * 10 ** (level_dbfs / 20)).astype(np.float32)


def _step_by_step(waveform: Floats) -> NDArray[Any]:
    """The other network of the wheel, which takes one frame a call and keeps its own state."""
    wheel = importlib.metadata.distribution("silero-vad")
    session = onnxruntime.InferenceSession(
        str(wheel.locate_file("silero_vad/data/silero_vad.onnx"))
    )
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros((1, 64), np.float32)
    found = []
    for start in range(0, len(waveform), 512):
        frame = np.zeros((1, 512), np.float32)
        piece = waveform[start : start + 512]
        frame[0, : len(piece)] = piece
        seen = np.concatenate([context, frame], axis=1)
        answer, state = session.run(None, {"input": seen, "state": state, "sr": np.array(RATE_HZ)})
        context = frame[:, -64:]
        found.append(answer[0, 0])
    return np.array(found)


def test_probability_agrees_with_the_frame_by_frame_network(voice: Floats) -> None:
    """Whole sequences score as the published one-frame-a-call model scores them, last frame
    included."""
    waveform = voice[: 5 * RATE_HZ + 100]
    waveform = waveform * _gain_to(-20.0, waveform)

    found = speech_probability(waveform)

    assert len(found) == 157
    assert np.abs(found - _step_by_step(waveform)).max() < 1e-3
    assert found.max() > 0.95
    assert found.min() < 0.05


def test_long_audio_is_the_same_in_blocks_of_any_size(voice: Floats) -> None:
    """Half a minute given at once, or in uneven blocks, has the same probabilities; state and
    context are carried over the seams of the inner slices, here in the middle of a word."""
    spoken = int(speech_probability(voice)[:200].argmax()) * 512
    waveform = np.roll(np.concatenate([voice] * 4), 512 * 512 - spoken)
    cuts = np.split(waveform, [1, 700, 5000, 200_000, 262_144, 262_145, 500_000])

    whole = speech_probability(waveform)
    streamed = np.concatenate(list(stream_speech_probability(cuts)))

    assert len(whole) == -(-len(waveform) // 512)
    assert np.array_equal(whole, streamed)
    expected = _step_by_step(waveform * _gain_to(-20.0, waveform))
    assert expected[512] > 0.9
    assert np.abs(whole - expected).max() < 1e-3


@pytest.mark.parametrize("name", ["george_3", "jackson_3", "theo_0", "yweweler_0"])
@pytest.mark.parametrize("gain_db", [-10.0, 5.0])
def test_pauses_do_not_depend_on_level(name: str, gain_db: float) -> None:
    """A soft voice has the pauses of the same voice louder."""
    waveform = decode(VOICES / f"{name}.flac")

    found, softer = pauses(waveform), pauses(waveform * np.float32(10 ** (gain_db / 20)))

    assert found.speech_s > 0.5 * found.span_s
    assert softer.speech_s == pytest.approx(found.speech_s, abs=0.1)
    assert softer.pause_total_s == pytest.approx(found.pause_total_s, abs=0.1)


@pytest.mark.parametrize("level_dbfs", [-90.0, -60.0, -40.0, -15.0])
def test_noise_is_no_speech(level_dbfs: float) -> None:
    """Noise alone holds no speech, however loud it is."""
    assert pauses(_noise(6.0, level_dbfs)) == PauseTiming(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("samples", [0, 1, 511, 512, 16_000])
def test_digital_silence_of_any_length_is_no_speech(samples: int) -> None:
    """No samples, less than a frame and zeros are answered with zeros."""
    silence = np.zeros(samples, np.float32)

    assert len(speech_probability(silence)) == -(-samples // 512)
    assert pauses(silence).speech_s == 0
    assert len(quiet_parts(silence)) in (0, samples // 512 * 512)


def test_only_pauses_inside_the_speech_count(voice: Floats) -> None:
    """Silence before and after is no pause; a second of room inside is one of a second."""
    room = _noise(2.0, -65.0)
    halves = np.split(voice, [round(4.0 * RATE_HZ)])
    gap = _noise(1.0, -65.0)

    plain = pauses(voice)
    framed = pauses(np.concatenate([room, voice, room]))
    parted = pauses(np.concatenate([halves[0], gap, halves[1]]))

    assert framed.pause_total_s == pytest.approx(plain.pause_total_s, abs=0.3)
    assert framed.span_s == pytest.approx(plain.span_s, abs=0.2)
    assert parted.pause_longest_s >= 0.85
    assert parted.span_s == pytest.approx(plain.span_s + 1, abs=0.15)


def _spoken(*lengths: int) -> Floats:
    """Probabilities of frames that are silent and spoken in turn, so many of each."""
    values = [[0.1, 0.9][index % 2] for index in range(len(lengths))]
    return np.repeat(np.array(values, np.float32), lengths)


def test_segments_of_known_frames() -> None:
    """Gaps under 0.2 s are closed, then stretches under 0.1 s are dropped."""
    probability = _spoken(10, 20, 6, 20, 7, 3, 7, 20, 5)  # 6 frames are 0.19 s, 3 are 0.096 s

    segments = speech_segments(probability)

    assert segments == pytest.approx(np.array([[10, 56], [73, 93]]) * 0.032)
    assert speech_seconds(probability) == pytest.approx(66 * 0.032)


def test_unsure_frames_continue_what_was() -> None:
    """Between 0.35 and 0.5 speech goes on, and silence too."""
    unsure = np.full(10, 0.4, np.float32)
    probability = np.concatenate([unsure, _spoken(10, 10), unsure, _spoken(10)])

    assert speech_segments(probability) == pytest.approx(np.array([[20, 40]]) * 0.032)


def test_timing_of_known_segments() -> None:
    """Every figure of three groups with pauses of 0.5 s and 1.5 s, by hand."""
    segments = np.array([[1.0, 3.0], [3.5, 4.5], [6.0, 7.0]])

    assert pause_timing(segments) == PauseTiming(
        speech_s=4.0,
        span_s=6.0,
        group_count=3,
        group_mean_s=4 / 3,
        group_longest_s=2.0,
        pause_count=2,
        pause_total_s=2.0,
        pause_mean_s=1.0,
        pause_longest_s=1.5,
        pause_share=1 / 3,
        speech_rate_groups_per_s=0.5,
    )


@given(st.lists(st.floats(0, 1, width=32), max_size=300))
@settings(deadline=None)
def test_segments_are_ordered_and_long_enough(values: list[float]) -> None:
    """Whatever the probabilities: segments rise, lie inside, and keep their least lengths."""
    probability = np.array(values, np.float32)

    segments = speech_segments(probability)

    edges = segments.ravel()
    assert (np.diff(edges) > 0).all()
    assert not len(edges) or (edges[0] >= 0 and edges[-1] <= len(values) * 0.032 + 1e-9)
    assert (segments[:, 1] - segments[:, 0] >= 0.1).all()
    assert (segments[1:, 0] - segments[:-1, 1] >= 0.2).all()


def test_quiet_parts_hold_the_room_and_neither_voice_nor_breath(voice: Floats) -> None:
    """Of speech in a room with an audible breath in a gap, what is left is the room alone."""
    room, breath = _noise(3.0, -60.0), _noise(0.4, -45.0)
    speech = np.concatenate([voice[: 3 * RATE_HZ], np.zeros(3 * RATE_HZ, np.float32)])
    heard = np.concatenate([speech, voice[: 3 * RATE_HZ]])
    heard = heard + np.resize(room, len(heard))
    heard[4 * RATE_HZ : 4 * RATE_HZ + len(breath)] += breath

    quiet = quiet_parts(heard)

    assert quiet.dtype == np.float32
    assert 1.8 * RATE_HZ < len(quiet) < 3.2 * RATE_HZ
    assert np.median(_levels(quiet)) == pytest.approx(-60, abs=1)
    assert _levels(quiet).max() < -56


def test_quiet_parts_meet_without_a_click() -> None:
    """Where two parts of a hum are joined, no step is larger than the hum's own."""
    t = np.arange(3 * RATE_HZ)
    hum = (0.01 * np.sin(2 * np.pi * 55 * t / RATE_HZ)).astype(np.float32)
    hum[RATE_HZ : 2 * RATE_HZ] += _noise(1.0, -20.0)

    quiet = quiet_parts(hum)

    assert len(quiet) > 1.5 * RATE_HZ
    assert np.abs(np.diff(quiet)).max() < 3 * np.abs(np.diff(hum[:RATE_HZ])).max()


def test_speech_without_a_gap_has_no_quiet_parts(voice: Floats) -> None:
    """Where nothing is quiet there is nothing to give, rather than something that is voice."""
    probability = speech_probability(voice)
    first, last = speech_segments(probability)[0]
    inside = voice[round(first * RATE_HZ) + 4000 : round(last * RATE_HZ) - 4000]

    assert len(quiet_parts(inside)) < 0.1 * RATE_HZ


def test_the_network_keeps_and_tells_nothing(tmp_path: Path) -> None:
    """Listening leaves nothing in the user's folders: ONNX Runtime's telemetry, which collects
    there what it sends, is off, whatever the environment says."""
    listen = (
        "import numpy as np; from spira.audio.speech import speech_probability; "
        "speech_probability(np.zeros(16_000, np.float32))"
    )
    quiet = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")  # would switch it off, or move it
    environment = {name: value for name, value in os.environ.items() if name not in quiet}

    subprocess.run(
        [sys.executable, "-c", listen], check=True, env=environment | {"HOME": str(tmp_path)}
    )

    assert list(tmp_path.rglob("*")) == []
