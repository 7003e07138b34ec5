"""Recordings are measured in one pass; what cannot be used is refused, what is odd is found."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from spira.audio.decode import decode, opened
from spira.audio.quality import QualityThresholds, check, findings, measure
from spira.domain.errors import RecordingRefused
from spira.domain.recordings import UTTERANCES, Finding, Measurements, Utterance

VOICES = Path(__file__).parents[2] / "data" / "fsdd"
THRESHOLDS = QualityThresholds()
SPOKEN = ("sentence", "rhyme")
Floats = NDArray[Any]


def _noise(seconds: float, rate_hz: int = 16_000, level_dbfs: float = -20.0) -> Floats:
    """White noise, its level wandering by some dB."""
    rng = np.random.default_rng(5)
    samples = rng.standard_normal(round(seconds * rate_hz)) * 10 ** (level_dbfs / 20)
    wander = np.sin(np.arange(len(samples)) * 7 / rate_hz)
    return (samples * 10 ** (wander / 5)).astype(np.float32)


def _write(path: Path, samples: Floats, rate_hz: int = 16_000, **how: str) -> Path:
    soundfile.write(path, samples, rate_hz, **how)
    return path


def _levels(samples: Floats, frame: int) -> Floats:
    """The plain way: one frame after another, in float64."""
    starts = range(0, len(samples) - frame + 1, frame)
    power = [np.mean(samples[a : a + frame].astype(float) ** 2) for a in starts]
    return 10 * np.log10(np.maximum(power, 1e-12))


def _clipped(samples: Floats) -> int:
    """Count runs of three and more at the extremes, sample after sample."""
    peak, count = np.abs(samples).max(), 0
    for side in (samples, -samples):
        top, run = side.max(), 0
        if top < 0.99 * peak or top <= 0:
            continue
        for value in [*side, None]:
            if value == top:
                run += 1
            else:
                count += run if run >= 3 else 0
                run = 0
    return count


@pytest.mark.parametrize("rate_hz", [8000, 11_025, 44_100])
def test_measurements_agree_with_the_plain_way(rate_hz: int) -> None:
    """Duration, peak, levels and percentiles equal those computed from the whole signal."""
    samples = _noise(3.3, rate_hz)
    levels = _levels(samples, round(0.025 * rate_hz))

    found = measure([samples], rate_hz)

    assert found.duration_s == len(samples) / rate_hz
    assert found.peak == np.abs(samples).max()
    assert found.level_dbfs == pytest.approx(10 * np.log10(np.mean(samples.astype(float) ** 2)))
    assert found.speech_level_dbfs == pytest.approx(np.percentile(levels, 95), abs=1e-4)
    assert found.noise_floor_dbfs == pytest.approx(np.percentile(levels, 10), abs=1e-4)
    assert found.clipped_fraction == 0


def test_levels_are_relative_to_full_scale() -> None:
    """A square wave of full scale has 0 dBFS, a sine 3.01 dB less, digital silence -120."""
    sine = np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000).astype(np.float32)

    assert measure([np.sign(sine + 1e-9)], 16_000).level_dbfs == pytest.approx(0, abs=1e-6)
    assert measure([sine], 16_000).speech_level_dbfs == pytest.approx(-3.0103, abs=1e-3)
    silence = measure([np.zeros(16_000, np.float32)], 16_000)
    assert (silence.level_dbfs, silence.noise_floor_dbfs, silence.peak) == (-120, -120, 0)


@given(
    runs=st.lists(
        st.tuples(st.sampled_from([-1.0, -0.995, 0.0, 0.5, 1.0]), st.integers(1, 7)),
        min_size=1,
        max_size=12,
    ),
    cuts=st.lists(st.integers(1, 40), max_size=12),
)
@example(runs=[(1.0, 4), (0.5, 2), (1.0, 2)], cuts=[2, 5])
@example(runs=[(0.5, 9), (1.0, 6), (0.0, 1)], cuts=[1, 10, 11, 12, 13, 15])
@settings(max_examples=150, deadline=None)
def test_clipped_runs_are_counted_across_blocks(
    runs: list[tuple[float, int]], cuts: list[int]
) -> None:
    """However a signal comes in blocks, runs of three or more at its extremes are all counted."""
    samples = np.concatenate([np.full(length, value, np.float32) for value, length in runs])
    inner = sorted({cut for cut in cuts if cut < len(samples)})

    found = measure(np.split(samples, inner), 16_000)

    assert found.clipped_fraction * len(samples) == pytest.approx(_clipped(samples))


@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_measurements_do_not_depend_on_blocks(sizes: list[int]) -> None:
    """One block or many: the same measurements."""
    samples = _noise(sum(sizes) / 22_050, 22_050)
    cuts = np.split(samples, np.cumsum(sizes)[:-1])

    whole, streamed = measure([samples], 22_050), measure(cuts, 22_050)

    assert streamed.model_dump() == pytest.approx(whole.model_dump(), abs=1e-9)


def test_measuring_nothing_is_refused() -> None:
    """No block has no level."""
    with pytest.raises(RecordingRefused, match="without samples"):
        measure([], 16_000)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
def test_distorted_recording_is_clipped(tmp_path: Path, subtype: str) -> None:
    """A sine driven 6 dB into the limit is clipped on both sides, whatever its samples are; the
    undistorted one is not."""
    t = np.arange(64_000) / 16_000
    sine = np.sin(2 * np.pi * 211 * t) * (0.8 + 0.2 * np.sin(2 * np.pi * 3 * t))

    clean = check(_write(tmp_path / "a.wav", 0.9 * sine, subtype="PCM_24"), thresholds=THRESHOLDS)
    driven = np.clip(2 * sine, -1, 1)
    distorted = check(_write(tmp_path / "b.wav", driven, subtype=subtype), thresholds=THRESHOLDS)

    assert "clipped" not in clean.findings
    assert "clipped" in distorted.findings
    assert distorted.measurements.clipped_fraction == pytest.approx(
        np.mean(np.abs(driven) == 1), rel=0.1
    )


GOOD = Measurements(
    duration_s=8.0,
    peak=0.5,
    level_dbfs=-25.0,
    speech_level_dbfs=-20.0,
    noise_floor_dbfs=-50.0,
    clipped_fraction=0.0,
    speech_s=6.0,
)


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({"duration_s": 3.99}, "short"),
        ({"speech_level_dbfs": -45.1, "noise_floor_dbfs": -70.0}, "quiet"),
        ({"clipped_fraction": 0.0011}, "clipped"),
        ({"noise_floor_dbfs": -34.9}, "noisy"),
        ({"speech_s": 0.99}, "little_speech"),
    ],
)
def test_each_finding_has_its_measurement(changed: dict[str, float], finding: Finding) -> None:
    """A good sentence has no finding; one measurement beyond its threshold gives one."""
    assert findings(GOOD, THRESHOLDS) == ()
    assert findings(GOOD.model_copy(update=changed), THRESHOLDS, "sentence") == (finding,)
    assert findings(GOOD.model_copy(update=changed), THRESHOLDS, "rhyme") == (finding,)


@pytest.mark.parametrize("utterance", [name for name in UTTERANCES if name not in SPOKEN])
def test_what_needs_words_is_asked_of_sentences_only(utterance: Utterance) -> None:
    """A vowel, a room and a consent may be short, without gaps and without detected speech."""
    odd = {"duration_s": 1.0, "noise_floor_dbfs": -20.0, "speech_s": 0.0}

    assert findings(GOOD.model_copy(update=odd), THRESHOLDS, utterance) == ()


def test_a_room_may_be_quiet_and_a_vowel_may_not() -> None:
    """A silent ward is a good ambient recording."""
    soft = GOOD.model_copy(update={"speech_level_dbfs": -60.0})

    assert findings(soft, THRESHOLDS, "vowel") == ("quiet",)
    assert findings(soft, THRESHOLDS, "ambient_before") == ()
    assert findings(soft, THRESHOLDS, "ambient_after") == ()


def test_thresholds_are_settings() -> None:
    """A site sets its own; a threshold that makes no sense is refused."""
    assert findings(GOOD, QualityThresholds(short_s=9.0, noisy_db=31.0)) == ("short", "noisy")
    with pytest.raises(ValidationError):
        QualityThresholds(short_s=0)


@pytest.mark.parametrize("name", ["george_3", "jackson_3", "lucas_0", "nicolas_3", "yweweler_0"])
def test_real_voices_pass_without_findings(name: str) -> None:
    """Ordinary recordings of real people are not called odd."""
    path = VOICES / f"{name}.flac"

    found = check(path, thresholds=THRESHOLDS)

    assert found.findings == ()
    assert found.format.model_dump() == {
        "container": "flac",
        "codec": "flac",
        "rate_hz": 8000,
        "channels": 1,
    }
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.n_bytes == path.stat().st_size
    assert found.measurements.speech_s > 3


def test_real_voice_with_real_faults_has_findings(tmp_path: Path) -> None:
    """The same voice too soft, cut short, drowned in noise or driven into the limit."""
    voice = decode(VOICES / "george_3.flac")
    noise = np.random.default_rng(0).standard_normal(len(voice)) * 0.1
    made = {
        "quiet": voice * 0.02,
        "short": voice[: 3 * 16_000],
        "noisy": voice + noise,
        "clipped": np.clip(voice * 20, -1, 1),
    }

    for finding, samples in made.items():
        path = _write(tmp_path / f"{finding}.wav", samples, subtype="FLOAT")
        assert finding in check(path, thresholds=THRESHOLDS).findings


def test_audio_digest_is_of_the_samples_not_of_the_file(tmp_path: Path) -> None:
    """A wav, its flac, its 24-bit copy and its stereo copy are the same audio in other files."""
    samples = np.random.default_rng(1).integers(-(2**15), 2**15, 30_000, dtype=np.int16)
    stereo = np.stack([samples, samples], axis=1)
    paths = [
        _write(tmp_path / "a.wav", samples),
        _write(tmp_path / "a.flac", samples),
        _write(tmp_path / "b.wav", samples.astype(np.int32) << 16, subtype="PCM_24"),
        _write(tmp_path / "c.wav", stereo),
    ]

    found = [check(path, thresholds=THRESHOLDS) for path in paths]

    expected = hashlib.sha256((samples / np.float32(2**15)).astype("<f4").tobytes()).hexdigest()
    assert {one.audio_sha256 for one in found} == {expected}
    assert len({one.sha256 for one in found}) == 4


def test_one_changed_sample_is_other_audio(tmp_path: Path) -> None:
    """The last bit of one sample changes the digest."""
    samples = np.random.default_rng(1).integers(-(2**15), 2**14, 30_000, dtype=np.int16)
    first = check(_write(tmp_path / "a.wav", samples), thresholds=THRESHOLDS)
    samples[20_000] += 1

    second = check(_write(tmp_path / "b.wav", samples), thresholds=THRESHOLDS)

    assert first.audio_sha256 != second.audio_sha256


@pytest.mark.parametrize(
    ("seconds", "reason"), [(0.0, "empty"), (0.2, "too_short"), (0.4999, "too_short"), (0.5, None)]
)
def test_half_a_second_is_the_least(tmp_path: Path, seconds: float, reason: str | None) -> None:
    """0.5 s is accepted and less refused, with its length in the sentence."""
    path = _write(tmp_path / "a.wav", _noise(seconds, 48_000), 48_000)

    if reason is None:
        assert check(path, thresholds=THRESHOLDS).measurements.duration_s == 0.5
        return
    with pytest.raises(RecordingRefused) as caught:
        check(path, thresholds=THRESHOLDS)
    assert caught.value.reason == reason
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "FLOAT"])
def test_digital_zeros_are_refused_and_one_sample_is_not(tmp_path: Path, subtype: str) -> None:
    """A muted microphone gives zeros only; the smallest sound is something, if quiet."""
    samples = np.zeros(16_000)
    silent = _write(tmp_path / "a.wav", samples, subtype=subtype)
    samples[9000] = 0.01
    almost = _write(tmp_path / "b.wav", samples, subtype=subtype)

    with pytest.raises(RecordingRefused, match="every sample is zero") as caught:
        check(silent, thresholds=THRESHOLDS)

    assert caught.value.reason == "zeros"
    assert "quiet" in check(almost, thresholds=THRESHOLDS).findings


@pytest.mark.parametrize(
    ("largest", "refused"),
    [(1.5, False), (32.0, False), (33.0, True), (32_768.0, True), (1e20, True)],
)
def test_samples_that_are_no_sound_are_refused(
    tmp_path: Path, largest: float, refused: bool
) -> None:
    """A float file may stand above full scale; 16-bit integers written as floats, and numbers whose
    power overflows, are refused with the value and what would be right."""
    samples = _noise(2.0)
    path = _write(tmp_path / "a.wav", samples * largest / np.abs(samples).max(), subtype="FLOAT")

    if not refused:
        assert check(path, thresholds=THRESHOLDS).measurements.peak == pytest.approx(largest)
        return
    with pytest.raises(RecordingRefused, match="full scale is 1 and at most 32") as caught:
        check(path, thresholds=THRESHOLDS)
    assert caught.value.reason == "out_of_scale"
    assert "divide 16-bit integers" in str(caught.value)


def test_three_hours_are_not_too_long() -> None:
    """They are promised to be read; half a day is not."""
    assert 3 * 3600 < THRESHOLDS.longest_s < 12 * 3600


@pytest.mark.parametrize("format_", ["WAV", "FLAC", "OGG"])
def test_an_announced_length_over_the_limit_is_refused_before_decoding(
    tmp_path: Path, format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container says how long it is; not one block is measured. At the limit it is read."""
    path = tmp_path / "a"
    soundfile.write(path, _noise(3.0), 16_000, format=format_)
    limit = QualityThresholds(longest_s=2.9)

    assert check(path, thresholds=QualityThresholds(longest_s=3.0))
    monkeypatch.setattr("spira.audio.quality.measure", None)
    with pytest.raises(RecordingRefused, match=r"at most .* h is read") as caught:
        check(path, thresholds=limit)
    assert caught.value.reason == "too_long"


def test_a_recording_that_announces_no_length_is_refused_when_it_is_too_long(
    tmp_path: Path,
) -> None:
    """As a pipe writes it: what is over the limit is not decoded."""
    path = _write(tmp_path / "a.wav", _noise(120.0))
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4
    path.write_bytes(data)
    heard: list[int] = []

    with pytest.raises(RecordingRefused, match=r"datasets\.quality\.longest_s") as caught:
        check(path, thresholds=QualityThresholds(longest_s=20.0), reading=heard.append)

    assert caught.value.reason == "too_long"
    assert heard
    assert heard[-1] < len(data) / 2
    assert check(path, thresholds=QualityThresholds(longest_s=120.0)).measurements.duration_s == 120


def test_refusals_of_decoding_come_through(tmp_path: Path) -> None:
    """What decoding refuses, a check refuses for the same reason."""
    samples = _noise(2.0)
    samples[100] = np.nan
    file = io.BytesIO()
    soundfile.write(file, _noise(2.0), 16_000, format="WAV")
    cut, text = tmp_path / "cut.wav", tmp_path / "text.wav"
    cut.write_bytes(file.getvalue()[:-1])
    text.write_text("ffconcat version 1.0")
    cases = {
        "not_finite": _write(tmp_path / "a.wav", samples, subtype="FLOAT"),
        "truncated": cut,
        "not_audio": text,
        "missing": tmp_path / "none.wav",
    }

    for reason, path in cases.items():
        with pytest.raises(RecordingRefused) as caught:
            check(path, thresholds=THRESHOLDS)
        assert caught.value.reason == reason


def test_who_could_not_finish_is_not_short(tmp_path: Path) -> None:
    """Two seconds of a sentence that broke off say something of the patient; all else is said."""
    path = _write(tmp_path / "a.wav", _noise(2.0) * 1e-4)

    finished = check(path, thresholds=THRESHOLDS)
    unfinished = check(path, thresholds=THRESHOLDS, unfinished=True)

    assert "short" in finished.findings
    assert set(finished.findings) - set(unfinished.findings) == {"short"}


def test_who_could_not_finish_may_have_said_little() -> None:
    """Half a second of speech is what there was breath for; none at all is still said."""

    def found(speech_s: float, *, unfinished: bool) -> set[str]:
        measured = Measurements(
            duration_s=2.0,
            peak=0.5,
            level_dbfs=-25.0,
            speech_level_dbfs=-20.0,
            noise_floor_dbfs=-60.0,
            clipped_fraction=0.0,
            speech_s=speech_s,
        )
        return set(findings(measured, THRESHOLDS, unfinished=unfinished))

    assert found(0.4, unfinished=False) == {"short", "little_speech"}
    assert found(0.4, unfinished=True) == set()
    assert found(0.0, unfinished=True) == {"little_speech"}


def test_whoever_measures_can_hear_at_16_khz(tmp_path: Path) -> None:
    """One pass gives the measurements, and the samples that decoding at 16 kHz gives."""
    path = _write(tmp_path / "a.wav", _noise(3.0, 48_000), 48_000)
    heard: list[Floats] = []

    with opened(path) as native:
        measure(native.blocks, native.format.rate_hz, hearing=heard.append)

    assert np.array_equal(np.concatenate(heard), decode(path))


def test_thresholds_that_differ_in_anything_have_another_version() -> None:
    """So that it says, beside a finding, where it came from."""
    same = QualityThresholds(noisy_db=15)

    assert same.version == QualityThresholds().version
    assert QualityThresholds(noisy_db=15.1).version != same.version
