"""A whole small hospital, with real voices and encoders."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from spira.audio.decode import decode
from spira.audio.speech import pauses
from spira.synthetic.hospital import Hospital, synthesize

SMALL = Hospital(participants=4, effect=1.4, sites=2, noise_per_site=1)

RUN = """
import json, sys
from pathlib import Path
from spira.synthetic.hospital import Hospital, synthesize

def tell(what, done, total):
    print(done, flush=True)

if __name__ == "__main__":
    config = Hospital(**json.loads(sys.argv[2]))
    synthesize(Path(sys.argv[1]), config, jobs=int(sys.argv[3]), progress=tell)
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is part of the hospital."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def truth_of(folder: Path, utterance: str = "sentence") -> pl.DataFrame:
    """The truth about one utterance of everybody."""
    truth = pl.read_parquet(folder / "truth" / "truth.parquet")
    return truth.filter(pl.col("utterance") == utterance)


def level_db(waveform: NDArray[np.float32]) -> float:
    """RMS level."""
    return float(10 * np.log10(np.mean(np.square(waveform)) + 1e-12))


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people, all utterances, whatever devices they happen to have."""
    folder = tmp_path_factory.mktemp("hospital")
    synthesize(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def effective(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four people at effect 1.4 who say the sentence, recorded plainly."""
    folder = tmp_path_factory.mktemp("effective")
    config = Hospital(
        participants=24,
        effect=1.4,
        utterances=("sentence", "ambient_before"),
        devices=("recorder-wav",),
        noise_per_site=1,
        shortcuts={"ward-noise": 0.5},
    )
    synthesize(folder, config)
    return folder


def test_the_number_of_processes_changes_no_byte(hospital: Path, tmp_path: Path) -> None:
    """Two workers, each with a voice process of its own, against one."""
    synthesize(tmp_path, SMALL, jobs=2)

    assert contents(tmp_path) == contents(hospital)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """Else they would go on writing beside the next run, and wait for ever for more."""
    script = tmp_path / "run.py"
    script.write_text(RUN)
    folder = tmp_path / "hospital"
    process = subprocess.Popen(
        [sys.executable, script, folder, SMALL.model_dump_json(), "2"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()

    # Its descendants hold the other end of the pipe, which ends when the last of them does.
    with process.stdout as output:
        while select.select([output], [], [], 20)[0]:
            if not os.read(output.fileno(), 1000):
                break
        else:
            pytest.fail("a worker is still there 20 s later")


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_in_its_middle_it_ends_with_the_same_bytes(
    hospital: Path, tmp_path: Path, jobs: int
) -> None:
    """`kill -9` after some of the work; the next run does the rest."""
    script = tmp_path / "run.py"
    script.write_text(RUN)
    folder = tmp_path / "hospital"
    process = subprocess.Popen(
        [sys.executable, script, folder, SMALL.model_dump_json(), str(jobs)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while int(process.stdout.readline()) < 3:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (folder / "recordings.csv").exists()

    counts: list[int] = []
    synthesize(folder, SMALL, progress=lambda what, done, total: counts.append(total))

    assert counts[0] <= 6 - 3
    assert contents(folder) == contents(hospital)


def test_without_an_effect_the_label_is_in_no_sound(tmp_path: Path) -> None:
    """The same people, all ill and all healthy, at effect 0: the same audio, byte by byte."""
    folders = []
    for prevalence in (0.0, 1.0):
        folder = tmp_path / str(prevalence)
        synthesize(
            folder,
            Hospital(participants=3, effect=0.0, prevalence=prevalence, sites=1, noise_per_site=1),
        )
        folders.append({k: v for k, v in contents(folder).items() if k.startswith("audio/")})

    assert folders[0] == folders[1]


def test_recordings_last_as_long_as_was_drawn(hospital: Path) -> None:
    """Within what an encoder pads."""
    truth = pl.read_parquet(hospital / "truth" / "truth.parquet")

    for file, duration_s in truth.select("file", "duration_s").iter_rows():
        assert len(decode(hospital / file)) / 16_000 == pytest.approx(duration_s, abs=0.06)


def test_speech_is_recorded_at_its_level_without_clipping(hospital: Path) -> None:
    """Peaks between 0.3 and 0.7, which a device's gain control moves towards 0.5."""
    for utterance in ("sentence", "rhyme", "vowel"):
        for file in truth_of(hospital, utterance)["file"]:
            assert 0.25 < np.abs(decode(hospital / file)).max() < 0.85


def test_pauses_are_where_the_truth_says(effective: Path) -> None:
    """Far quieter than the speech around them, in the recorded file, and found by a detector."""
    truth = truth_of(effective).filter(pl.col("noise") == "quiet")
    planted, found = [], []

    for row in truth.iter_rows(named=True):
        waveform = decode(effective / row["file"])
        ends, pause_lengths = row["group_ends_s"], row["pauses_s"]
        for end_s, pause_s in zip(ends, pause_lengths, strict=False):
            before = waveform[round((end_s - 0.5) * 16_000) : round(end_s * 16_000)]
            # The echo dies away first; an inhalation comes only in the last part.
            pause = waveform[round((end_s + 0.15) * 16_000) : round((end_s + 0.3) * 16_000)]
            if pause_s > 0.9:
                assert level_db(pause) < level_db(before) - 10
        planted.append(row["pause_sum_s"])
        found.append(pauses(waveform).pause_total_s)

    assert np.corrcoef(planted, found)[0, 1] > 0.9


def test_the_effect_is_heard_by_a_detector_of_pauses(effective: Path) -> None:
    """Pauses measured on the audio tell the label, at effect 1.4."""
    truth = truth_of(effective)

    found = [pauses(decode(effective / file)).pause_total_s for file in truth["file"]]

    assert roc_auc_score(truth["label"] == "present", found) > 0.9


def test_who_is_coupled_by_ward_noise_has_it_in_every_recording(effective: Path) -> None:
    """Also in the empty room: 10 to 15 dB under the speech against 25 to 35 dB."""
    truth = pl.read_parquet(effective / "truth" / "truth.parquet")
    rooms = truth.filter(pl.col("utterance") == "ambient_before")
    levels = {
        noise: [level_db(decode(effective / file)) for file in part["file"]]
        for (noise,), part in rooms.group_by("noise")
    }

    assert min(levels["ward"]) > max(levels["quiet"])
    assert set(rooms.filter(pl.col("noise") == "ward")["label"]) == {"present"}
    spoken = truth_of(effective)
    ratios = {noise: part["snr_db"] for (noise,), part in spoken.group_by("noise")}
    assert ratios["ward"].mean() == pytest.approx(12.5, abs=3)
    assert ratios["quiet"].mean() == pytest.approx(30, abs=3)


def test_noise_recordings_differ_from_one_another(tmp_path: Path) -> None:
    """In level and in colour, even at one site: each is an hour of its own."""
    config = Hospital(
        participants=1,
        utterances=("ambient_before",),
        devices=("laptop-wav",),
        sites=1,
        noise_per_site=6,
    )
    synthesize(tmp_path, config)

    levels, colours = [], []
    for file in sorted((tmp_path / "noise").iterdir()):
        waveform = decode(file)
        assert 13.9 < len(waveform) / 16_000 < 16.1
        power = np.abs(np.fft.rfft(waveform)) ** 2
        levels.append(level_db(waveform))
        colours.append(10 * np.log10(power[: len(power) // 16].sum() / power.sum()))

    assert np.ptp(levels) > 3
    assert np.ptp(colours) > 0.3


def test_hospital_json_says_how_it_was_made(hospital: Path) -> None:
    """Anybody can make the same one again from it."""
    about = json.loads((hospital / "truth" / "hospital.json").read_text())

    assert Hospital(**about["config"]) == SMALL
