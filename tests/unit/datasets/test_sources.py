"""Sources: what a folder or a table lists, and every fault of it, before any audio is read."""

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spira.datasets.sources import Listed, ListedNoise, read_acl2021, read_csv, read_folder
from spira.domain.errors import InputError

COLUMNS = (
    *("path", "participant", "visit", "label", "sex", "age", "spo2"),
    *("split", "site", "device", "utterance", "time"),
)
GOOD = {"path": "a.wav", "participant": "p1", "label": "present"}
OTHER = {"path": "b.wav", "participant": "p2", "label": "absent"}
WAV = b"RIFF\0\0\0\0WAVE"


def write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """A CSV with a column for each key that any row has."""
    header = [name for name in COLUMNS if any(name in row for row in rows)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(rows)
    return path


def faults_of(folder: Path, *rows: Mapping[str, str], mapping: str = "") -> tuple[str, ...]:
    """Every fault that importing these rows reports."""
    if mapping:
        (folder / "mapping.yaml").write_text(mapping)
    with pytest.raises(InputError) as caught:
        read_csv(write_table(folder / "t.csv", rows))
    return caught.value.mistakes


# The published corpus


def write_acl2021(root: Path) -> Path:
    """The tables of the published layout."""
    root.mkdir(exist_ok=True)
    for part in ("train", "eval", "test"):
        rows = f"pacientes/{part}.wav,1\ncontrole/{part}.wav,0\n"
        (root / f"metadata_{part}.csv").write_text("file_path,class\n" + rows)
    (root / "noise_data.csv").write_text("file_path\nruido/1.wav\nruido/2.wav\n")
    return root


def test_the_published_corpus_keeps_its_splits_and_names_nobody(tmp_path: Path) -> None:
    """1 is a patient, eval is validation, and each file will count as its own participant."""
    source = read_acl2021(write_acl2021(tmp_path))

    assert source.recordings == tuple(
        Listed(f"{folder}/{part}.wav", label, side=side)  # type: ignore[arg-type]
        for part, side in (("train", "train"), ("eval", "validation"), ("test", "test"))
        for folder, label in (("pacientes", "present"), ("controle", "absent"))
    )
    assert source.noise == (ListedNoise("ruido/1.wav"), ListedNoise("ruido/2.wav"))
    assert source.participants == "per-file"


def test_every_fault_of_the_published_corpus_comes_at_once(tmp_path: Path) -> None:
    """A table that is missing, a column, a class, a file in two splits, a path out of the root."""
    write_acl2021(tmp_path)
    (tmp_path / "metadata_train.csv").write_text("file,class\na.wav,1\n")
    (tmp_path / "metadata_eval.csv").unlink()
    (tmp_path / "metadata_test.csv").write_text(
        "file_path,class\nruido/1.wav,2\n../out.wav,0\nruido/2.wav,1\n"
    )

    with pytest.raises(InputError) as caught:
        read_acl2021(tmp_path)

    text = str(caught.value)
    assert "metadata_train.csv: no column 'file_path' (for path)" in text
    assert "metadata_eval.csv: cannot be read (no such file or directory)" in text
    assert "metadata_test.csv, row 2: unrecognised class '2'" in text
    assert "metadata_test.csv, row 3: '../out.wav' lies outside" in text
    assert "metadata_test.csv, row 4: 'ruido/2.wav' is listed 2 times" in text
    assert "noise_data.csv, row 3: 'ruido/2.wav' is listed 2 times" in text


# A folder for each class


def write_folders(root: Path, *files: str) -> Path:
    """Files that begin like audio."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(WAV)
    return root


@pytest.mark.parametrize(
    ("present", "absent"),
    [("present", "absent"), ("Pacientes", "Controles"), ("1", "0"), ("patient", "CONTROL")],
)
def test_class_folders_are_recognised_by_common_words(
    tmp_path: Path, present: str, absent: str
) -> None:
    """In Portuguese and English; files lie as deep as they like; hidden ones are nothing."""
    write_folders(
        tmp_path,
        f"{present}/a b/ção.wav",
        f"{present}/.DS_Store",
        f"{absent}/x.wav",
        "unknown/u.wav",
        "Ruído/r.wav",
        ".git/config",
    )

    source = read_folder(tmp_path)

    assert Counter(source.recordings) == Counter(
        [
            Listed(f"{present}/a b/ção.wav", "present"),
            Listed(f"{absent}/x.wav", "absent"),
            Listed("unknown/u.wav", "unknown"),
        ]
    )
    assert source.noise == (ListedNoise("Ruído/r.wav"),)
    assert source.participants == "per-file"


def test_class_folders_can_be_named(tmp_path: Path) -> None:
    """Any name, and more than one folder for a class."""
    write_folders(tmp_path, "uti/a.wav", "enfermaria/b.wav", "alunos/c.wav")

    source = read_folder(tmp_path, present=["uti", "enfermaria/"], absent=["alunos"], language="en")

    labels = {row.file: row.label for row in source.recordings}
    assert labels == {
        "uti/a.wav": "present",
        "enfermaria/b.wav": "present",
        "alunos/c.wav": "absent",
    }
    assert source.language == "en"


def test_folders_that_mean_nothing_are_listed(tmp_path: Path) -> None:
    """Nothing is left out in silence: unknown folders, loose recordings, a name that is not there,
    links to folders.
    """
    write_folders(tmp_path, "present/a.wav", "absent/b.wav", "grupo A/c.wav", "loose.wav")
    (tmp_path / "README.txt").write_text("not audio, not a fault")
    (tmp_path / "present" / "more").symlink_to(tmp_path / "absent")

    with pytest.raises(InputError) as caught:
        read_folder(tmp_path, present=["pressent"])

    text = str(caught.value)
    assert "no folder named 'pressent'; did you mean present?" in text
    assert "folders that are no class: 'grupo A'; name the classes with --present" in text
    assert "1 recordings outside the class folders: loose.wav" in text
    assert "'present/more' is a link to a folder" in text
    assert "README" not in text


def test_a_class_folder_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    """A link must not bring in files from outside the dataset."""
    outside = write_folders(tmp_path / "outside", "secret.wav")
    root = write_folders(tmp_path / "root", "present/a.wav", "absent/b.wav")
    (root / "paciente").symlink_to(outside)
    (root / "absent" / "c.wav").symlink_to(outside / "secret.wav")

    with pytest.raises(InputError) as caught:
        read_folder(root)

    assert "'paciente/secret.wav' is a link out of the folder" in str(caught.value)
    assert "'absent/c.wav' is a link out of the folder" in str(caught.value)


def test_one_class_only_is_an_input_error(tmp_path: Path) -> None:
    """Nothing can be learned of one class."""
    write_folders(tmp_path, "present/a.wav", "unknown/b.wav")

    with pytest.raises(InputError, match="no recording with RI absent"):
        read_folder(tmp_path)


def test_a_root_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    """Or that is a file."""
    (tmp_path / "file").write_text("")

    with pytest.raises(InputError, match="no such folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="not a folder"):
        read_acl2021(tmp_path / "file")


# Tables


def test_a_table_under_our_own_names_needs_no_mapping(tmp_path: Path) -> None:
    """Everything a row may say; columns that mean nothing to us are told of."""
    row = {
        **{"path": "á b/ü.wav", "participant": "p-1", "visit": "v.1", "label": "Paciente"},
        **{
            "sex": "F",
            "age": "65",
            "spo2": "88,5",
            "split": "eval",
            "site": "Hospital das Clínicas",
        },
        **{"device": "phone", "utterance": "Frase", "time": "2024-03-01T14:20-03:00"},
    }
    table = write_table(tmp_path / "t.csv", [row, OTHER])
    table.write_text(
        table.read_text()
        .replace("path,", "extra,path,", 1)
        .replace("\ná", "\n?,á")
        .replace("\nb.wav", "\n?,b.wav")
    )

    source = read_csv(table)

    assert source.recordings[0] == Listed(
        file="á b/ü.wav",
        label="present",
        participant="p-1",
        visit="v.1",
        utterance="sentence",
        side="validation",
        site="Hospital das Clínicas",
        device="phone",
        sex="female",
        age=65,
        spo2_percent=88.5,
        recorded_at="2024-03-01T14:20:00-03:00",
    )
    assert source.recordings[1] == Listed("b.wav", "absent", "p2")
    assert source.unread == ("extra",)
    assert source.participants == "given"


def test_a_mapping_names_columns_words_noise_origin_and_language(tmp_path: Path) -> None:
    """What it does not name is not read, whatever the column is called."""
    (tmp_path / "mapping.yaml").write_text(
        "columns: {path: arquivo, label: ri, site: local}\n"
        "labels: {present: [S], absent: [N], unknown: ['']}\n"
        "noise: ruido.csv\norigin: synthetic\nlanguage: en\n"
    )
    (tmp_path / "t.csv").write_text("arquivo,ri,local,age\na.wav,s,A,999\nb.wav,n,,\nc.wav,,,\n")
    (tmp_path / "ruido.csv").write_text("arquivo,local\nr.wav,A\n")

    source = read_csv(tmp_path / "t.csv")

    assert [(row.label, row.site, row.age) for row in source.recordings] == [
        ("present", "A", None),
        ("absent", None, None),
        ("unknown", None, None),
    ]
    assert source.noise == (ListedNoise("r.wav", "A"),)
    assert (source.origin, source.language, source.unread) == ("synthetic", "en", ("age",))
    assert source.participants == "per-file"


def test_the_mapping_beside_the_table_is_taken_unless_another_is_named(tmp_path: Path) -> None:
    """The named one wins, wherever it lies."""
    (tmp_path / "mapping.yaml").write_text("origin: synthetic\n")
    (tmp_path / "other.yaml").write_text("origin: import\n")
    table = write_table(tmp_path / "t.csv", [GOOD, OTHER])

    assert read_csv(table).origin == "synthetic"
    assert read_csv(table, mapping_path=tmp_path / "other.yaml").origin == "import"


def test_missing_columns_are_named_with_the_nearest_one(tmp_path: Path) -> None:
    """All of them at once."""
    mapping = "columns: {path: arquivo, label: desfecho, age: idade}\n"

    faults = faults_of(tmp_path, {"path": "a.wav", "label": "1", "age": "3"}, mapping=mapping)

    assert len(faults) == 3
    assert faults[0] == "t.csv: no column 'arquivo' (for path); columns: path, label, age"


def test_every_fault_of_a_table_comes_at_once_with_its_rows(tmp_path: Path) -> None:
    """Labels, doubles, document numbers, names, ages, a person in two splits and more."""
    faults = faults_of(
        tmp_path,
        {"path": "1.wav", "participant": "p1", "label": "maybe", "split": "train"},
        {"path": "2.wav", "participant": "p1", "label": "present", "split": "train", "age": "150"},
        {"path": "3.wav", "participant": "p1", "label": "present", "split": "test", "sex": "f"},
        {"path": "./3.wav", "participant": "p1", "label": "absent", "sex": "m", "spo2": "0.9"},
        {"path": "5.wav", "participant": "529.982.247-25", "label": "absent"},
        {"path": "6.wav", "participant": "Maria da Silva", "label": "absent"},
        {"path": "", "participant": "p3", "label": "", "utterance": "consent"},
        {"path": "/etc/passwd", "participant": "", "label": "absent", "time": "ontem"},
    )

    for expected in (
        "t.csv, row 2: unrecognised label 'maybe'; recognised: 0, 1, absent",
        "t.csv, row 3: age is not a whole number of years from 0 to 120",
        "t.csv, row 5: spo2 is not a percentage from 30 to 100",
        "t.csv, rows 4, 5: '3.wav' is listed 2 times",
        "t.csv, row 6: participant looks like a person's document number; use a pseudonym",
        "t.csv, row 7: participant is not a pseudonym",
        "t.csv, row 8: no path",
        "t.csv, row 8: no label; write unknown",
        "t.csv, row 8: a spoken consent holds a name",
        "t.csv, row 9: '/etc/passwd' lies outside",
        "t.csv, row 9: no participant",
        "t.csv, row 9: time is not ISO 8601",
        "t.csv, rows 3, 4, 5: participant p1 is in two splits",
        "t.csv, rows 3, 4, 5: participant p1 has two sexes",
        "t.csv, rows 3, 4, 5: participant p1 has two labels; recordings of several days",
    ):
        assert [fault for fault in faults if fault.startswith(expected)], expected
    assert len(faults) == 15
    text = "\n".join(faults)
    assert "529" not in text
    assert "Maria" not in text
    assert "150" not in text.replace("row 150", "")


def test_a_person_may_change_label_and_age_between_visits(tmp_path: Path) -> None:
    """Who was ill in March may be well in May, and a year older."""
    rows = [
        {**GOOD, "visit": "1", "age": "64"},
        {**GOOD, "path": "b.wav", "visit": "2", "age": "65", "label": "absent"},
    ]

    assert len(read_csv(write_table(tmp_path / "t.csv", rows)).recordings) == 2

    within = [{**row, "visit": "1"} for row in rows]
    faults = faults_of(tmp_path, *within)
    assert faults == (
        "t.csv, rows 2, 3: participant p1, visit 1 has two labels",
        "t.csv, rows 2, 3: participant p1, visit 1 has two ages",
    )


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("../b.wav", "lies outside"),
        ("x/../../b.wav", "lies outside"),
        ("..\\b.wav", "lies outside"),
        ("/etc/passwd", "lies outside"),
        (".", "lies outside"),
        ("linked/passwd", "is a link out of"),
        ("link.wav", "is a link out of"),
        ("loop/a.wav", None),
    ],
)
def test_paths_stay_inside_the_folder(tmp_path: Path, path: str, says: str | None) -> None:
    """No way up, no absolute path elsewhere, no link out; what leads nowhere is refused later."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to("/etc")
    (root / "link.wav").symlink_to("/etc/passwd")
    (root / "loop").symlink_to("loop")
    rows = [GOOD, {**OTHER, "path": path}]

    if says is None:
        assert len(read_csv(write_table(root / "t.csv", rows)).recordings) == 2
    else:
        assert says in faults_of(root, *rows)[0]


def test_absolute_paths_and_links_inside_the_folder_are_fine(tmp_path: Path) -> None:
    """They come back relative; Windows separators too."""
    (tmp_path / "a.wav").write_bytes(WAV)
    (tmp_path / "c.wav").symlink_to("a.wav")
    absolute = os.path.realpath(tmp_path) + "/sub/x.wav"
    rows = [
        GOOD,
        {**OTHER, "path": absolute},
        {**OTHER, "path": "sub\\y.wav"},
        {**OTHER, "path": "c.wav"},
    ]

    source = read_csv(write_table(tmp_path / "t.csv", rows))

    assert [row.file for row in source.recordings] == ["a.wav", "sub/x.wav", "sub/y.wav", "c.wav"]


def test_a_folder_instead_of_a_table_is_an_input_error(tmp_path: Path) -> None:
    """It says what to give."""
    with pytest.raises(InputError, match=r"give a table in it, such as recordings\.csv"):
        read_csv(tmp_path)


def test_faults_of_the_noise_table_come_with_the_others(tmp_path: Path) -> None:
    """A table that is not there, outside, or without the column of paths; noise listed twice."""
    outside = faults_of(tmp_path, GOOD, OTHER, mapping="noise: ../noise.csv")
    assert "mapping, key noise: '../noise.csv' lies outside" in outside[0]

    missing = faults_of(tmp_path, GOOD, OTHER, mapping="noise: noise.csv")
    assert missing[0] == (
        f"table {tmp_path / 'noise.csv'}: cannot be read (no such file or directory)"
    )
    (tmp_path / "noise.csv").write_text("path,split\nr.wav\n")
    assert faults_of(tmp_path, GOOD, OTHER) == ("noise.csv, row 2: 1 cells where the header has 2",)

    (tmp_path / "noise.csv").write_text("file\nr.wav\n")
    assert "noise.csv: no column 'path'" in faults_of(tmp_path, GOOD, OTHER)[0]

    (tmp_path / "noise.csv").write_text("path,split\na.wav,train\nr.wav,never\n")
    text = "\n".join(faults_of(tmp_path, GOOD, OTHER))
    assert "noise.csv, row 2: 'a.wav' is listed 2 times" in text
    assert "noise.csv, row 3: unrecognised split 'never'" in text


def mostly(*usual: str) -> st.SearchStrategy[str]:
    """Usual values of a column, and now and then what nobody expects."""
    odd = st.sampled_from(["", "nan", "../c.wav", "/x", "52998224725", "0.97", "ontem", "ß\0"])
    return st.integers(0, 39).flatmap(
        lambda n: st.sampled_from(usual) if n else odd | st.text(max_size=8)
    )


in_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100
)


@in_one_folder
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "path": mostly("a.wav", "b.wav", "c/d e.wav", "é.wav", "f.wav", "g.wav"),
                "label": mostly("present", "absent", "0", "1", "unknown"),
                "participant": mostly("p1", "p2", "p3", "p4", "p5", "p6"),
            },
            optional={
                "visit": mostly("v1", "v2"),
                "sex": mostly("f", "M", ""),
                "age": mostly("65", "66.0", ""),
                "split": mostly("train", "test", ""),
                "time": mostly("2024-03-01", ""),
            },
        ),
        min_size=2,
        max_size=6,
        unique_by=lambda row: row["path"] if row["path"] != "a.wav" else object(),
    )
)
def test_any_table_is_a_sound_source_or_an_input_error(
    tmp_path: Path, rows: list[dict[str, str]]
) -> None:
    """Whatever stands in the cells: what comes through keeps every promise about people."""
    try:
        source = read_csv(write_table(tmp_path / "t.csv", rows))
    except InputError:
        return
    files = [row.file for row in source.recordings]
    assert len(set(files)) == len(files)
    assert {"present", "absent"} <= {row.label for row in source.recordings}
    for row in source.recordings:
        inside = os.path.normpath(tmp_path / row.file)
        assert inside.startswith(f"{tmp_path}/")
        others = [r for r in source.recordings if r.participant == row.participant]
        if source.participants == "given":
            assert row.participant is not None
            assert len({r.side for r in others} - {None}) <= 1
            assert len({r.sex for r in others} - {None}) <= 1
            assert len({r.label for r in others if r.visit == row.visit}) == 1


@st.composite
def sound_tables(draw: st.DrawFn) -> list[Listed]:
    """Tables without a fault: people with a sex, a split and visits, both labels."""
    rows: list[Listed] = []
    for person in range(draw(st.integers(2, 4))):
        sex = draw(st.sampled_from(["female", "male", None]))
        side = draw(st.sampled_from(["train", "validation", "test", None]))
        for visit in range(draw(st.integers(1, 2))):
            label = (
                ("present", "absent")[person]
                if person < 2
                else draw(st.sampled_from(["present", "absent", "unknown"]))
            )
            age = draw(st.none() | st.integers(0, 120))
            rows += [
                Listed(
                    file=f"{person}/{visit} {number} çã.wav",
                    label=label,  # type: ignore[arg-type]
                    participant=f"p{person}",
                    visit=f"v{visit}",
                    side=side,  # type: ignore[arg-type]
                    sex=sex,  # type: ignore[arg-type]
                    age=age,
                    spo2_percent=draw(st.none() | st.integers(30, 100).map(float)),
                    site=draw(st.sampled_from(["A", "Santa Casa, ala 3", None])),
                )
                for number in range(draw(st.integers(1, 3)))
            ]
    return rows


@settings(in_one_folder, max_examples=50)
@given(sound_tables())
def test_a_sound_table_comes_back_as_it_was_written(tmp_path: Path, rows: list[Listed]) -> None:
    """Nothing is dropped, changed or reordered on the way."""
    cells = [
        {
            "path": row.file,
            "participant": str(row.participant),
            "visit": str(row.visit),
            "label": row.label,
            "sex": row.sex or "",
            "age": "" if row.age is None else str(row.age),
            "spo2": "" if row.spo2_percent is None else str(row.spo2_percent),
            "split": row.side or "",
            "site": row.site or "",
        }
        for row in rows
    ]

    assert list(read_csv(write_table(tmp_path / "t.csv", cells)).recordings) == rows
