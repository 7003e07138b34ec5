"""What the network is asked under noise: whose noise, how much, and that no experiment decides it.

Every sound is a tone of its own, so that what the scorer is given says which went in.
"""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from spira.audio.noise import active_power
from spira.evaluation.settings import EvaluationSettings
from spira.model.scoring import Score, Scorer
from spira.stores.artifacts import ArtifactStore
from spira.training.evaluating import Asking, _Asked
from spira.training.experiments import parse_experiment
from spira.training.features import FeatureSet
from spira.training.plan import Work, make_plan
from spira.training.settings import TrainingSettings

Float = NDArray[np.float32]
NOISES = {
    "train": ["1600", "2000", "2400"],
    "validation": ["3200", "3600", "4000"],
    "test": ["4800", "5200", "5600"],
}
AUDIT = EvaluationSettings(noise_excerpts=2, noise_snr_db_low=5, noise_snr_db_high=5)
PEOPLE = [
    {"recording_id": f"{side}-{label}-{n}", "sha256": "400", "placed": side, "label": label}
    for side in ("validation", "test")
    for label in ("present", "absent")
    for n in range(6)
]


class Sounds:
    """A feature set whose digests are frequencies in Hz."""

    def waveform(self, sha256: str) -> Float:
        """Two seconds of speech, three of noise that swells, so that no two stretches are alike."""
        time = np.arange(32_000 if sha256 == "400" else 48_000) / 16_000
        return ((1 + time) * np.sin(2 * np.pi * int(sha256) * time)).astype(np.float32)


def added(noise: str, condition: Asking, *, seed: int = 42) -> list[Float]:
    """What each of PEOPLE is asked about under a condition, less the recording itself.

    noise  of the experiment, in YAML
    """
    experiment = parse_experiment(f"name: x\nseed: {seed}\n{noise}", where="test")
    plan = make_plan(experiment, "d" * 64, training=TrainingSettings(jobs=1), evaluation=AUDIT)
    work = Work(plan, "evaluate", cast(ArtifactStore, None), Path())
    given: list[Float] = []

    class Listening:
        def score(self, waveform: Float) -> Score:
            """Keeps what it is given."""
            given.append(waveform)
            return Score(0.5, np.zeros(1, np.float32), 0.5, "inconclusive")

    asked = _Asked(work, cast(FeatureSet, Sounds()), cast(Any, NOISES), cast(Scorer, Listening()))
    asked.predict([{**row, "utterance": "sentence"} for row in PEOPLE], condition)
    return [waveform - Sounds().waveform("400") for waveform in given]


def tones(noise: Float) -> set[str]:
    """The noises in a sum of them: those with a hundredth of the loudest's power."""
    power = np.abs(np.fft.rfft(noise)) ** 2  # two seconds: a bin every half hertz
    loud = power.max() / 100
    return {tone for side in NOISES.values() for tone in side if power[2 * int(tone)] > loud > 0}


@pytest.mark.parametrize(
    "noise",
    [
        "noise: {kind: snr, present: 1, absent: 3}",
        "noise: {kind: peak, present: 1, absent: 3}",
        "noise: {kind: none}\nevaluation: {noise: {kind: snr, present: 1, absent: 3}}",
    ],
    ids=["snr", "peak", "of the evaluation"],
)
def test_the_noisy_test_hears_the_declared_noise_of_its_own_side(noise: str) -> None:
    """Never what was heard in training or on the other side, as many excerpts as declared."""
    for person, sound in zip(PEOPLE, added(noise, "noise"), strict=True):
        assert tones(sound) <= set(NOISES[person["placed"]])
        assert len(tones(sound)) == (1 if person["label"] == "present" else 3)


@pytest.mark.parametrize(
    "noise",
    [
        "noise: {kind: snr, present: 1, absent: 3, snr_db_low: 40, snr_db_high: 60}",
        "noise: {kind: peak, present: 0, absent: 1, peak_low: 0.001, peak_high: 0.001}",
        "noise: {kind: none}\nevaluation: {noise: {kind: snr, snr_db_low: 60, snr_db_high: 60}}",
    ],
    ids=["faint", "of one class", "of the evaluation"],
)
def test_no_experiment_makes_the_noise_audit_easier(noise: str) -> None:
    """Its noise is the settings', the same for both classes, of the side of who is asked."""
    wanted = active_power(Sounds().waveform("400")) / 10 ** (AUDIT.noise_snr_db_low / 10)

    for person, sound in zip(PEOPLE, added(noise, "audit noise"), strict=True):
        assert tones(sound) <= set(NOISES[person["placed"]])
        assert len(tones(sound)) == AUDIT.noise_excerpts
        assert np.mean(sound**2) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("condition", ["noise", "audit noise"])
def test_noise_of_a_test_is_drawn_once_for_each_recording(condition: Asking) -> None:
    """Asked again, the same noise to the last bit; another seed, or recording, has another."""
    noise = "noise: {kind: snr, present: 2, absent: 2}"
    once, again, other = (added(noise, condition, seed=seed) for seed in (42, 42, 43))

    assert all(map(np.array_equal, once, again))
    assert len({sound.tobytes() for sound in [*once, *other]}) == 2 * len(PEOPLE)


def test_the_clean_test_hears_the_recording_as_it_is() -> None:
    """Nothing is added."""
    assert all(not sound.any() for sound in added("noise: {kind: peak}", "clean"))
