"""The pipeline from wave files to the registry, on a small corpus whose sides are given."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
from numpy.typing import NDArray

from spira.audio.features import extract
from spira.console import Console
from spira.datasets import versions
from spira.datasets.importing import import_dataset
from spira.datasets.sources import Listed, ListedNoise, Source
from spira.domain.recordings import SIDES, Label, Side
from spira.model.bundle import load
from spira.model.scoring import Score, Scorer
from spira.settings import read_settings
from spira.training import evaluating
from spira.training.examples import Example, Examples
from spira.training.experiments import parse_experiment
from spira.training.features import FeatureSet
from spira.training.loop import fit, launch
from spira.training.plan import STAGES, Work
from spira.wiring import Application

EXPERIMENT = """
name: stored
noise: {kind: none}
features: {kind: spectrogram, window: 256, n_fft: 256}
windows: {length_s: 0.8, step_s: 0.4}
network: {kind: spira_conv_v2}
optimisation: {epochs: 1, batch_recordings: 2}
evaluation: {noise: {kind: snr, present: 1, absent: 1, snr_db_low: 40, snr_db_high: 40}}
"""
TONES_HZ: dict[Side, list[int]] = {  # the noise recordings of each side
    "train": [1500, 2000, 2500],
    "validation": [3000, 3500, 4000],
    "test": [4500, 5000, 5500],
}
_LABELS: tuple[Label, Label] = ("absent", "present")
PEOPLE = [side for side in SIDES for _ in range(4)]


class Listening(Scorer):
    """Keeps what it is asked about, by number of samples; no two recordings have the same."""

    heard: dict[int, list[NDArray[np.float32]]]

    def score(self, waveform: NDArray[np.float32]) -> Score:  # type: ignore[override]
        """See `Scorer`."""
        self.heard[len(waveform)].append(waveform)
        return super().score(waveform)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Application:
    """A data folder with the dataset "small"."""
    folder = tmp_path_factory.mktemp("small")
    quick = ["evaluation.resamples=200", "training.jobs=1"]
    made = Application(read_settings(home=folder / "home", overrides=quick), Console())
    thresholds = made.settings.datasets.quality
    import_dataset(
        write_corpus(folder), made.artifacts, name="small", thresholds=thresholds, jobs=1
    )
    return made


def test_stored_spectrograms_train_the_published_network_to_a_model(
    app: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the registry answers as evaluation said, which heard no noise of another side."""
    monkeypatch.setattr(Listening, "heard", defaultdict(list), raising=False)
    monkeypatch.setattr(evaluating, "Scorer", Listening)
    experiment = parse_experiment(EXPERIMENT, where="test")

    run = app.run_pipeline(experiment, "small")

    made = Work(app.plan(experiment, "small"), "publish", app.artifacts, tmp_path)
    stored = FeatureSet(made.input("features"))
    said = pl.read_parquet(made.input("evaluate").path("predictions.parquet"))
    folder = app.registry.download(app.registry.get("challenger"), tmp_path / "cache")
    manifest, published = load(folder)
    assert manifest.fingerprints["train"] == run.fingerprints["train"]
    recordings = versions.load(app.artifacts, "small").recordings
    for identity, digest in recordings.select("recording_id", "sha256").iter_rows():
        waveform = stored.waveform(digest)
        asked = extract(waveform, experiment.windows, experiment.features)
        assert asked.shape[1:] == (81, 129)
        assert np.array_equal(stored.windows(digest), asked)
        answer = said.filter(recording_id=identity, condition="clean")["probability"].to_list()
        assert answer in ([], [pytest.approx(published.score(waveform).probability)])
    assert said.filter(condition="clean").height == 8  # validation and test
    _heard_noise_of_their_own_side(Listening.heard)


def test_training_learns_from_its_side_and_chooses_by_validation(
    app: Application, tmp_path: Path
) -> None:
    """The stage leaves the losses of `fit` on the dataset's own sides, of people and of noise."""
    changes = ["noise={kind: peak, present: 1, absent: 2}", "network={kind: compact}"]
    experiment = parse_experiment(EXPERIMENT, where="test", overrides=changes)

    for stage in STAGES[: STAGES.index("evaluate")]:
        app.run_stage(stage, experiment, "small")

    made = Work(app.plan(experiment, "small"), "evaluate", app.artifacts, tmp_path)
    dataset = versions.load(app.artifacts, "small")
    sides = {
        side: [
            Example(row["recording_id"], row["sha256"], row["label"] == "present")
            for row in dataset.recordings.filter(side=side).to_dicts()
        ]
        for side in SIDES
    }
    noises = {side: dataset.noise.filter(side=side)["sha256"].to_list() for side in SIDES}
    examples = Examples(experiment, FeatureSet(made.input("features")), sides, noises)
    state = fit(examples, fabric=launch(app.settings.training))
    assert made.input("train").read_json("history.json") == state.history


def _heard_noise_of_their_own_side(heard: dict[int, list[NDArray[np.float32]]]) -> None:
    """Clean first, then under the declared noise; of the test side under the audit's last."""
    excerpts: dict[Side, list[int]] = {"train": [], "validation": [0, 1], "test": [0, 1, 3]}
    for number, side in enumerate(PEOPLE):
        given = heard[_samples(number)]
        added = [_tones_hz(sound - given[0]) for sound in given]
        assert [len(tones) for tones in added] == excerpts[side]
        assert set().union(*added) <= set(TONES_HZ[side])


def _tones_hz(sound: NDArray[np.float32]) -> set[int]:
    """The noise recordings in a sum of them: each within a hundredth of the loudest's power."""
    power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    hz = np.fft.rfftfreq(len(sound), 1 / 16_000)
    every = [tone for tones in TONES_HZ.values() for tone in tones]
    return {tone for tone in every if power[np.abs(hz - tone) < 10].max() > power.max() / 100 > 0}


def _samples(number: int) -> int:
    """The length of a person's recording, by which it is known again."""
    return 32_000 + 400 * number


def write_corpus(folder: Path) -> Source:
    """Four people on each side, half with pauses, and three hums for each side as ward noise."""
    rng = np.random.default_rng(7)

    def write(name: str, sound: NDArray[np.float64]) -> str:
        soundfile.write(folder / name, sound.astype(np.float32), 16_000, subtype="PCM_16")
        return name

    recordings, noises = [], []
    for number, side in enumerate(PEOPLE):
        time = np.arange(_samples(number)) / 16_000
        hiss = rng.standard_normal(len(time))
        voice = np.sin(2 * np.pi * rng.uniform(100, 220) * time) + 0.4 * hiss
        speaking = time % 1 < (0.6 if number % 2 else 1)
        sound = 0.1 * voice * speaking * (1 + np.sin(25 * time)) + 1e-3 * hiss
        file, label = write(f"p{number}.wav", sound), _LABELS[number % 2]
        recordings.append(Listed(file, label, participant=f"p{number}", side=side))
    for side, tones in TONES_HZ.items():
        for hz in tones:
            hum = 0.1 * np.sin(2 * np.pi * hz * np.arange(80_000) / 16_000)
            noises.append(ListedNoise(write(f"n{hz}.wav", hum), side=side))
    return Source(folder, tuple(recordings), tuple(noises), origin="synthetic")
