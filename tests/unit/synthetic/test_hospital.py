"""The folder: tables that an import reads, the truth beside them, and work never done twice.

Here nobody speaks (no voice process) and devices write plain samples; see tests/integration.
"""

import csv
import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import soundfile
import yaml

from spira.domain.errors import InputError, TransientError
from spira.synthetic.hospital import Hospital, synthesize

EMPTY_ROOMS: Mapping[str, Any] = {
    "participants": 6,
    "utterances": ("ambient_before", "ambient_after"),
    "devices": ("laptop-wav", "headset-flac"),
    "sites": 2,
    "noise_per_site": 2,
}
CONFIG = Hospital(**EMPTY_ROOMS)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is part of the hospital."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def rows(table: Path) -> list[dict[str, str]]:
    """A CSV's rows."""
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole one."""
    folder = tmp_path_factory.mktemp("hospital")
    synthesize(folder, CONFIG)
    return folder


def test_tables_name_every_file_and_no_other(hospital: Path) -> None:
    """Each recording and noise file of the folder has one row."""
    table, noise = rows(hospital / "recordings.csv"), rows(hospital / "noise.csv")

    assert ",".join(table[0]) == (
        "file,participant,visit,utterance,label,sex,age,site,device,spo2_percent,recorded_at"
    )
    audio = {name for name in contents(hospital) if name.startswith(("audio/", "noise/"))}
    assert sorted(row["file"] for row in table + noise) == sorted(audio)
    assert (len(table), len(noise)) == (12, 4)
    assert {row["site"] for row in noise} == {"site-1", "site-2"}


def test_mapping_names_columns_that_the_table_has(hospital: Path) -> None:
    """What `import --format csv` is told about the table."""
    mapping = yaml.safe_load((hospital / "mapping.yaml").read_text())

    assert set(mapping["columns"].values()) <= set(rows(hospital / "recordings.csv")[0])
    assert mapping["labels"] == {"present": ["present"], "absent": ["absent"]}
    assert (hospital / mapping["noise"]).exists()
    assert (mapping["origin"], mapping["language"]) == ("synthetic", "pt-BR")


def test_times_and_levels_of_a_visit_are_in_order(hospital: Path) -> None:
    """Ambient before, then ambient after, at one site, with one device, on one day."""
    first, second = rows(hospital / "recordings.csv")[:2]

    assert (first["utterance"], second["utterance"]) == ("ambient_before", "ambient_after")
    assert first["recorded_at"] < second["recorded_at"]
    assert first["recorded_at"].endswith("-03:00")
    assert {first[k] == second[k] for k in ("visit", "site", "device", "label")} == {True}


def test_truth_stands_beside_the_data(hospital: Path) -> None:
    """Per recording what was planted, and the configuration with its rules."""
    truth = pl.read_parquet(hospital / "truth" / "truth.parquet")
    about = json.loads((hospital / "truth" / "hospital.json").read_text())

    assert truth["file"].to_list() == [row["file"] for row in rows(hospital / "recordings.csv")]
    for file, duration_s in truth.select("file", "duration_s").iter_rows():
        assert soundfile.info(hospital / file).duration == pytest.approx(duration_s, abs=1e-3)
    assert Hospital(**about["config"]) == CONFIG
    assert about["rules"]["breathing"]["present"]["pause_s"] == pytest.approx(3.2)


def test_the_seed_decides_every_byte(hospital: Path, tmp_path: Path) -> None:
    """The same seed gives the same folder, another seed another one."""
    synthesize(tmp_path / "again", CONFIG)
    synthesize(tmp_path / "other", Hospital(**EMPTY_ROOMS, seed=43))

    assert contents(tmp_path / "again") == contents(hospital)
    ours, others = contents(hospital), contents(tmp_path / "other")
    assert not any(others.get(name) == data for name, data in ours.items() if "audio/" in name)


def test_what_was_interrupted_is_completed_and_not_begun_again(
    hospital: Path, tmp_path: Path
) -> None:
    """Stopped after five pieces of work: they are kept, and the bytes are the same in the end."""

    def stop(what: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path, CONFIG, progress=stop)
    assert not (tmp_path / "recordings.csv").exists()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("noise/*.flac")}
    counts: list[int] = []

    synthesize(tmp_path, CONFIG, progress=lambda what, done, total: counts.append(total))

    assert counts[0] == 10 - 5
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(tmp_path) == contents(hospital)


def test_a_finished_folder_is_left_alone_and_a_lost_file_is_made_again(tmp_path: Path) -> None:
    """A second run does nothing; a deleted recording comes back with the same bytes."""
    synthesize(tmp_path, CONFIG)
    before = contents(tmp_path)
    worked: list[int] = []

    synthesize(tmp_path, CONFIG, progress=lambda what, done, total: worked.append(done))
    assert worked == []
    next(tmp_path.glob("audio/*/ambient_after.*")).unlink()
    next(tmp_path.glob("noise/*")).unlink()
    synthesize(tmp_path, CONFIG)

    assert contents(tmp_path) == before


def test_another_configuration_needs_another_folder(hospital: Path) -> None:
    """Nothing of it is mixed into what is there."""
    before = contents(hospital)

    with pytest.raises(InputError, match="another configuration"):
        synthesize(hospital, Hospital(**EMPTY_ROOMS, seed=1))

    assert contents(hospital) == before


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    """Somebody's files are not written among."""
    (tmp_path / "thesis.txt").write_text("mine")

    with pytest.raises(InputError, match="not empty"):
        synthesize(tmp_path, CONFIG)

    assert list(contents(tmp_path)) == ["thesis.txt"]


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """Here because a file is in its way."""
    (tmp_path / "file").write_text("")

    with pytest.raises(InputError, match="cannot be written"):
        synthesize(tmp_path / "file" / "hospital", CONFIG)


@pytest.mark.parametrize(
    "victim", ["site-2-01", "ambient_after", "p-00003.json", "hospital.json", "recordings.csv"]
)
def test_a_full_disk_says_so_and_the_next_run_completes(
    hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    """Whatever file it hits, nothing half-written is taken for whole."""
    write_bytes = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if victim in path.name:
            write_bytes(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TransientError, match="disk is full"):
        synthesize(tmp_path, CONFIG)
    monkeypatch.undo()

    synthesize(tmp_path, CONFIG)

    assert contents(tmp_path) == contents(hospital)
