"""Importing real files in real processes: one bad file is one row, and nothing is half done."""

import csv
import errno
import io
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import polars as pl
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spira.audio.quality import QualityThresholds
from spira.datasets import importing as importing_module
from spira.datasets.examining import examine
from spira.datasets.importing import ImportReport
from spira.datasets.names import list_versions
from spira.datasets.sources import Listed, Source, read_folder
from spira.datasets.versions import load, verify
from spira.domain.errors import InputError, TransientError
from spira.domain.recordings import Utterance
from spira.stores.artifacts import Artifact, ArtifactStore


def rejected(report: ImportReport) -> dict[str, str]:
    """file -> reason."""
    rows = csv.DictReader(io.StringIO(report.artifact.read("rejected.csv").decode()))
    assert rows.fieldnames == ["file", "participant", "label", "sex", "reason", "message"]
    return {row["file"]: row["reason"] for row in rows}


def accepted(store: ArtifactStore) -> pl.DataFrame:
    """The recordings of the version called mine."""
    return load(store, "mine").recordings


def test_what_can_be_used_is_kept_as_it_is_and_the_rest_has_reasons(
    tmp_path: Path, table: Any, importing: Any, store: ArtifactStore, write_sound: Any
) -> None:
    """Every kind of bad file in one batch: each is one row, and the good bytes are untouched."""
    data = tmp_path / "data"
    write_sound(data / "á b" / "8 bit.wav", 1, subtype="PCM_U8")
    write_sound(data / "float, 192 kHz.wav", 2, subtype="FLOAT", rate_hz=192_000)
    write_sound(data / "seven.wav", 3, channels=7)
    write_sound(data / "plain.flac", 4)
    write_sound(data / "opus.ogg", 5, seconds=1, format="OGG", subtype="OPUS")
    write_sound(data / "short.wav", 6, seconds=0.2)
    (data / "empty.wav").write_bytes(b"")
    (data / "no samples.wav").write_bytes((data / "short.wav").read_bytes()[:40] + bytes(4))
    (data / "text.wav").write_text("not audio at all")
    (data / "list.wav").write_text("ffconcat version 1.0\nfile plain.flac\n")
    (data / "cut.wav").write_bytes((data / "seven.wav").read_bytes()[:-3000])
    soundfile.write(data / "zeros.wav", np.zeros(8000), 8000)
    soundfile.write(data / "nan.wav", np.full(8000, np.nan), 8000, subtype="FLOAT")
    os.mkfifo(data / "pipe.wav")
    (data / "folder.wav").mkdir()
    good = ["á b/8 bit.wav", "float, 192 kHz.wav", "seven.wav", "plain.flac", "opus.ogg"]
    bad = {
        "short.wav": "too_short",
        "empty.wav": "empty",
        "text.wav": "not_audio",
        "list.wav": "not_audio",
        "cut.wav": "truncated",
        "zeros.wav": "zeros",
        "nan.wav": "not_finite",
        "pipe.wav": "missing",
        "folder.wav": "missing",
        "nowhere.wav": "missing",
    }
    rows = [
        {"path": file, "participant": f"p{n}", "label": str(n % 2), "sex": "f"}
        for n, file in enumerate([*good, *bad, "no samples.wav"])
    ]

    report = importing(table(rows))

    reasons = rejected(report)
    assert reasons.pop("no samples.wav") in ("empty", "truncated")
    assert reasons == bad
    kept = accepted(store)
    for sha256, audio in zip(kept["sha256"], kept["participant_id"], strict=True):
        original = data / good[int(audio[1:])]
        assert load(store, "mine").audio_path(sha256).read_bytes() == original.read_bytes()
    assert sorted(kept["channels"]) == [1, 1, 1, 1, 7]
    assert report.summary.refused.total == 11
    assert {q.name: q.by["sex"]["female"].total for q in report.summary.refusals}["missing"] == 3
    text = report.artifact.read("rejected.csv").decode()
    assert str(tmp_path) not in text  # nobody's folders in a dataset


def test_of_the_same_audio_one_copy_is_kept_or_none(
    tmp_path: Path, table: Any, importing: Any, store: ArtifactStore, write_sound: Any
) -> None:
    """Within a participant one; across participants, labels or utterances none; as noise not at
    all."""
    data = tmp_path / "data"
    write_sound(data / "own 1.wav", 1)
    shutil.copy(data / "own 1.wav", data / "own 2.wav")
    sound, rate = soundfile.read(data / "own 1.wav", dtype="int16")
    soundfile.write(data / "own 3.flac", sound, rate)
    write_sound(data / "shared 1.wav", 2)
    shutil.copy(data / "shared 1.wav", data / "shared 2.wav")
    write_sound(data / "healed 1.wav", 3)
    shutil.copy(data / "healed 1.wav", data / "healed 2.wav")
    write_sound(data / "room 1.wav", 6)
    shutil.copy(data / "room 1.wav", data / "room 2.wav")
    write_sound(data / "other.wav", 4)
    shutil.copy(data / "other.wav", data / "noise 1.wav")
    write_sound(data / "noise 2.wav", 5)
    shutil.copy(data / "noise 2.wav", data / "noise 3.wav")
    rows = [
        *({"path": f"own {n}", "participant": "p1", "label": "1"} for n in ("1.wav", "2.wav")),
        {"path": "own 3.flac", "participant": "p1", "label": "1"},
        {"path": "shared 1.wav", "participant": "p2", "label": "1"},
        {"path": "shared 2.wav", "participant": "p3", "label": "1"},
        {"path": "healed 1.wav", "participant": "p4", "label": "1", "visit": "1"},
        {"path": "healed 2.wav", "participant": "p4", "label": "0", "visit": "2"},
        {"path": "room 1.wav", "participant": "p6", "label": "0", "utterance": "ambient_before"},
        {"path": "room 2.wav", "participant": "p6", "label": "0", "utterance": "sentence"},
        {"path": "other.wav", "participant": "p5", "label": "0"},
    ]

    report = importing(table(rows, noise=["noise 1.wav", "noise 2.wav", "noise 3.wav"]))

    assert accepted(store)["participant_id"].to_list() == ["p1", "p5"]
    reasons = rejected(report)
    assert set(reasons.values()) == {"duplicate"}
    assert len([file for file in reasons if file.startswith("own")]) == 2
    assert {file for file in reasons if file[:4] in ("shar", "heal", "room")} == {
        "shared 1.wav",
        "shared 2.wav",
        "healed 1.wav",
        "healed 2.wav",
        "room 1.wav",
        "room 2.wav",
    }
    assert "noise 1.wav" in reasons
    assert load(store, "mine").noise.height == 1


def test_files_without_a_participant_count_as_their_own(
    tmp_path: Path, importing: Any, store: ArtifactStore, write_sound: Any
) -> None:
    """The pseudonym comes from the audio: it says nothing, and does not change with the name."""
    root = tmp_path / "corpus"
    for number, folder in enumerate(("present", "present", "absent")):
        write_sound(root / folder / f"Maria {number}.wav", number)
    shutil.copy(root / "present" / "Maria 0.wav", root / "present" / "again.wav")

    importing(read_folder(root))

    people = accepted(store)["participant_id"].to_list()
    assert len(set(people)) == 3
    assert all(person.startswith("file-") and len(person) == 21 for person in people)
    assert load(store, "mine").artifact.about["participants"] == "per-file"


def test_the_same_bytes_and_attributes_are_the_same_version(
    tmp_path: Path, small: Source, importing: Any, store: ArtifactStore
) -> None:
    """Whatever files, folders and the version are called, in any order, with any number of
    processes.
    """
    first = importing(small)
    assert not first.already_there

    moved = tmp_path / "moved"
    shutil.copytree(small.root, moved)
    (moved / "0.wav").rename(moved / "zero.wav")
    rows = [replace(row, file=row.file.replace("0.wav", "zero.wav", 1)) for row in small.recordings]
    again = importing(
        replace(small, root=moved, recordings=tuple(reversed(rows))), name="other", jobs=2
    )

    assert again.already_there
    assert again.digest == first.digest
    assert [line.names for line in list_versions(store)] == [("mine", "other")]


def test_what_was_refused_is_told_by_the_names_of_this_import(
    tmp_path: Path, table: Any, importing: Any, write_sound: Any
) -> None:
    """The same bytes are the same version under other names; the list is of the files at hand."""
    for number in range(2):
        write_sound(tmp_path / "data" / f"{number}.wav", number)
    short = write_sound(tmp_path / "data" / "before.wav", 9, seconds=0.2)
    rows = [{"path": f"{n}.wav", "participant": f"p{n}", "label": str(n)} for n in range(2)]

    first = importing(table([*rows, {"path": "before.wav", "participant": "p3", "label": "1"}]))
    short.rename(short.with_name("after.wav"))
    again = importing(table([*rows, {"path": "after.wav", "participant": "p3", "label": "1"}]))

    assert (again.digest, again.already_there) == (first.digest, True)
    assert again.rejected == first.rejected.replace(b"before.wav", b"after.wav")


def test_another_attribute_is_another_version(
    small: Source, importing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever an experiment could use decides what a version is called."""
    two_of_each = small.recordings[:4]
    source = replace(small, recordings=two_of_each)
    versions = {importing(source).digest}
    files: list[tuple[Path, Utterance]] = [
        *((small.root / row.file, row.utterance) for row in two_of_each),
        *((small.root / row.file, "ambient_before") for row in small.noise),
    ]
    outcomes = examine(files, thresholds=QualityThresholds(), jobs=1)
    monkeypatch.setattr(importing_module, "examine", lambda files, **options: outcomes)
    changes: list[dict[str, Any]] = [
        *({"label": "unknown"}, {"participant": "p-9"}, {"age": 64}, {"sex": "male"}),
        *({"utterance": "rhyme"}, {"spo2_percent": 91.0}, {"side": "test"}, {"site": "A"}),
        *({"device": "phone"}, {"visit": "v1"}, {"recorded_at": "2024-03-01"}),
    ]

    for change in changes:
        first = replace(two_of_each[0], **change)
        versions.add(importing(replace(source, recordings=(first, *two_of_each[1:]))).digest)

    assert len(versions) == 1 + len(changes)


def test_a_missing_file_is_part_of_a_version(small: Source, importing: Any) -> None:
    """It has no bytes to be named by, so its name is; and each import tells of its own."""
    rows = small.recordings

    def without(file: str) -> ImportReport:
        report: ImportReport = importing(
            replace(small, recordings=(replace(rows[0], file=file), *rows[1:]))
        )
        return report

    first, second, again = without("lost.wav"), without("gone.wav"), without("lost.wav")

    assert first.digest != second.digest
    assert (again.digest, again.already_there) == (first.digest, True)
    assert b"gone.wav" in second.rejected
    assert second.rejected == second.artifact.read("rejected.csv")


def test_thresholds_and_origin_are_part_of_a_version(small: Source, importing: Any) -> None:
    """Findings follow from thresholds, the evidence level of a model from the origin."""
    usual = importing(small).digest

    strict = importing(small, thresholds=QualityThresholds(quiet_dbfs=-10)).digest
    synthetic = importing(replace(small, origin="synthetic")).digest

    assert len({usual, strict, synthetic}) == 3


def test_rows_are_sorted_and_typed(small: Source, importing: Any, store: ArtifactStore) -> None:
    """What a version holds does not depend on the order of listing."""
    importing(small)

    table = accepted(store)

    assert table["participant_id"].is_sorted()
    assert table["recording_id"].to_list() == [digest[:16] for digest in table["sha256"]]
    assert table.schema["age"] == pl.Int64
    assert table.schema["findings"] == pl.List(pl.String)
    assert table["findings"].to_list() == [["short", "noisy", "little_speech"]] * 6
    noise = load(store, "mine").noise
    assert noise["sha256"].is_sorted()
    assert noise.height == 2


def test_progress_moves_inside_a_long_file(
    small: Source, importing: Any, write_sound: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file is nearly all of the work: it is told of in MB while it is decoded, and to the end;
    so is the storing."""
    long = write_sound(small.root / "0.wav", 1, seconds=375)
    monkeypatch.setattr("spira.datasets.examining._TOLD_EVERY_S", 0.02)
    told: dict[str, list[tuple[int, int]]] = {}

    importing(
        small,
        progress=lambda what, done, total: told.setdefault(what, []).append((done, total)),
    )

    checked, stored = told["checking recordings, MB"], told["storing files"]
    assert checked[0] == (0, 7)
    assert checked[-1] == (7, 7)
    assert long.stat().st_size / 1e6 == pytest.approx(6, abs=0.1)
    assert len({done for done, _ in checked if 0 < done < 6}) >= 3
    assert checked == sorted(checked)
    assert stored == [(0, 12), (12, 12)]


class _Deadly(str):
    """An utterance that kills the process it is handed to, as a crashing decoder would."""

    def __reduce__(self) -> Any:
        return os._exit, (139,)

    def __deepcopy__(self, memo: object) -> str:
        return str(self)


def test_a_crashing_decoder_costs_its_own_file_only(
    small: Source, importing: Any, store: ArtifactStore
) -> None:
    """Two files kill their process; they are undecodable, and every other file is imported."""
    deadly = [
        replace(row, utterance=_Deadly("sentence")) if number in (1, 4) else row  # type: ignore[arg-type]
        for number, row in enumerate(small.recordings)
    ]

    report = importing(replace(small, recordings=tuple(deadly)), jobs=2)

    assert rejected(report) == {"1.wav": "undecodable", "4.wav": "undecodable"}
    assert accepted(store).height == 4
    assert load(store, "mine").noise.height == 2


def test_nothing_usable_is_an_input_error_that_says_why(
    tmp_path: Path, table: Any, importing: Any, store: ArtifactStore, write_sound: Any
) -> None:
    """With a count and an example of each reason, and nothing is left behind."""
    data = tmp_path / "data"
    for number in range(3):
        write_sound(data / f"{number}.wav", number, seconds=0.2)
    rows = [{"path": f"{n}.wav", "participant": f"p{n}", "label": str(n % 2)} for n in range(4)]

    with pytest.raises(InputError) as caught:
        importing(table(rows))

    text = str(caught.value)
    assert "no usable recording; 4 of 4 were refused" in text
    assert "missing: 1, such as 3.wav: no such file" in text
    assert "too_short: 3, such as 0.wav: 0.20 s of audio" in text
    assert list_versions(store) == []


def test_one_class_left_is_an_input_error(
    tmp_path: Path, table: Any, importing: Any, write_sound: Any
) -> None:
    """A check that refused every patient must not go unnoticed."""
    data = tmp_path / "data"
    write_sound(data / "0.wav", 0)
    write_sound(data / "1.wav", 1, seconds=0.2)
    rows = [{"path": f"{n}.wav", "participant": f"p{n}", "label": str(n)} for n in range(2)]

    with pytest.raises(InputError, match="no usable recording with RI present; 1 of 2"):
        importing(table(rows))


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path,
    small: Source,
    importing: Any,
    store: ArtifactStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever the disk fills up: no version is there; with space the same import completes."""
    put = obstore.put
    for full_after in (0, 5, 11, 12):  # 8 audio files and 4 tables, then the manifest
        calls = iter(range(100))

        def filling(*arguments: Any, after: int = full_after, n: Any = calls, **o: Any) -> Any:
            if next(n) >= after:
                raise OSError(errno.ENOSPC, "No space left on device")
            return put(*arguments, **o)

        with monkeypatch.context() as patch:
            patch.setattr(obstore, "put", filling)
            with pytest.raises(TransientError, match="the disk is full"):
                importing(small)
        with pytest.raises(InputError, match="unknown"):
            load(store, "mine")
        shutil.rmtree(tmp_path / "store")

    assert not importing(small).already_there
    assert verify(store, "mine").files == 12


def test_a_file_that_changes_during_the_import_commits_nothing(
    small: Source,
    importing: Any,
    store: ArtifactStore,
    monkeypatch: pytest.MonkeyPatch,
    write_sound: Any,
) -> None:
    """What was examined is what is stored, or nothing is."""
    commit = ArtifactStore.commit

    def late(self: ArtifactStore, stage: str, *arguments: Any) -> Artifact:
        if stage == "dataset":
            write_sound(small.root / "0.wav", 99)
        return commit(self, stage, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactStore, "commit", late)
        with pytest.raises(TransientError, match="a file changed during the import"):
            importing(small)
    assert list_versions(store) == []

    def gone(self: ArtifactStore, stage: str, *arguments: Any) -> Artifact:
        (small.root / "0.wav").unlink(missing_ok=True)
        return commit(self, stage, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactStore, "commit", gone)
        with pytest.raises(TransientError, match="a file changed during the import"):
            importing(small)
    assert list_versions(store) == []


def test_importing_again_mends_a_damaged_version(
    tmp_path: Path, small: Source, importing: Any, store: ArtifactStore
) -> None:
    """The files are at hand: the version is whole again under the same digest."""
    digest = importing(small).digest
    sha256 = accepted(store)["sha256"][0]
    load(store, "mine").audio_path(sha256).write_bytes(b"damaged")
    reopened = ArtifactStore.open(str(tmp_path / "store"), cache=tmp_path / "cache")

    mended = importing(small, store=reopened)

    assert (mended.digest, mended.already_there) == (digest, False)
    assert verify(ArtifactStore.open(str(tmp_path / "store"), cache=tmp_path / "c"), digest)


@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    garbage=st.lists(
        st.sampled_from([b"RIFF", b"fLaC", b"OggS", b"ID3", b"\x1aE\xdf\xa3", b"\0\0\0 ftyp"])
        .flatmap(lambda head: st.binary(max_size=400).map(lambda tail: head + tail)),
        min_size=20,
        max_size=40,
        unique=True,
    )
)  # fmt: skip
def test_garbage_that_looks_like_audio_is_refused_file_by_file(
    tmp_path: Path, importing: Any, garbage: list[bytes], write_sound: Any
) -> None:
    """No bytes stop an import: each is a row with a reason."""
    root = tmp_path / "garbage"
    shutil.rmtree(root, ignore_errors=True)
    rows = []
    for number, data in enumerate([*garbage, b"", b""]):
        file = root / f"{number}.wav"
        file.parent.mkdir(exist_ok=True)
        if data:
            file.write_bytes(data)
        else:
            write_sound(file, number)
        label = ("present", "absent")[number % 2]
        rows.append(Listed(file.name, label, f"p{number}"))  # type: ignore[arg-type]

    report = importing(Source(root, tuple(rows)), jobs=2)

    assert len(rejected(report)) == len(garbage)


def test_file_names_that_are_no_text_are_imported_and_told_of(
    tmp_path: Path, importing: Any, store: ArtifactStore, write_sound: Any
) -> None:
    """Bytes of another encoding, line ends and escape sequences in names break nothing."""
    root = tmp_path / "corpus"
    write_sound(root / "present" / "a.wav", 1)
    write_sound(root / "absent" / "b.wav", 2)
    for number, name in enumerate((b"\xe9\xff.wav", b"line\nend.wav", b"\x1b[31mred.wav")):
        file = root / "present" / os.fsdecode(name)
        write_sound(tmp_path / "x.wav", 10 + number).rename(file)
        write_sound(tmp_path / "y.wav", 10 + number, seconds=0.1).rename(f"{file}.short")

    report = importing(read_folder(root))

    assert accepted(store).height == 5
    assert all(name.isprintable() for name in rejected(report))
    assert len(rejected(report)) == 3
