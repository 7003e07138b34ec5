"""`spira dataset …` as a person and a program meet it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spira.datasets.sources import Source

Spira = Callable[..., tuple[int, str, str]]


def test_import_list_show_and_verify_agree(tmp_path: Path, small: Source, spira: Spira) -> None:
    """The same version under its name and its digest, told to people and to programs."""
    code, out, err = spira(
        "dataset",
        "import",
        "--format",
        "csv",
        small.root / "recordings.csv",
        "--name",
        "mine",
        "--jobs",
        "2",
        "--json",
    )
    assert code == 0
    imported = json.loads(out)
    assert "6 participants (3 present, 3 absent)" in err
    assert imported["summary"]["people"] == {"present": 3, "absent": 3, "unknown": 0}
    digest = imported["digest"]

    code, out, _ = spira("dataset", "list", "--json")
    assert [(line["digest"], line["names"]) for line in json.loads(out)] == [(digest, ["mine"])]

    code, out, _ = spira("dataset", "show", digest[:8], "--json")
    shown = json.loads(out)
    assert shown["summary"] == imported["summary"]
    assert shown["rejected"] == []

    code, out, _ = spira("dataset", "show", "mine", "--html", tmp_path / "page.html")
    assert code == 0
    assert "6 recordings (3 present, 3 absent), 2 of noise" in out
    assert re.search(r"sentence +present +3 +0\.0 +0\.6 \(0\.6 to 0\.6\)", out)
    assert f"Page: {tmp_path / 'page.html'}" in out
    assert "data:image/png" in (tmp_path / "page.html").read_text()

    code, out, _ = spira("dataset", "verify", "mine")
    assert (code, "12 files" in out, "every digest matches" in out) == (0, True, True)

    code, out, _ = spira("dataset", "import", "--format", "csv", small.root / "recordings.csv")
    assert (code, "already there, nothing was written" in out) == (0, True)
    assert f"Dataset recordings  {digest[:12]}" in out


def test_the_published_layout_says_that_people_are_not_known(
    tmp_path: Path, spira: Spira, write_sound: Any
) -> None:
    """Each file counts as its own participant: the import and the page say so."""
    root = tmp_path / "SPIRA corpus (ACL)"
    for number, part in enumerate(("train", "eval", "test")):
        rows = []
        for label in (0, 1):
            file = write_sound(root / "á udio" / f"{part} {label}.wav", 10 * number + label)
            rows.append(f"{file.relative_to(root)},{label}\n")
        (root / f"metadata_{part}.csv").write_text("file_path,class\n" + "".join(rows))

    code, out, _ = spira("dataset", "import", "--format", "acl2021", root)

    assert code == 0
    assert "Dataset SPIRA-corpus-ACL " in out
    assert "each file counts as its own participant" in out
    assert "No noise recordings" in out
    page = tmp_path / "page.html"
    spira("dataset", "show", "SPIRA-corpus-ACL", "--html", page)
    assert "cada arquivo conta como um participante" in page.read_text()


def test_what_was_refused_is_told_by_label_and_sex(
    tmp_path: Path, spira: Spira, write_sound: Any
) -> None:
    """In the import's summary, and file by file in what is shown."""
    root = tmp_path / "data"
    lines = ["path,participant,label,sex,odd\n"]
    for number in range(6):
        seconds = 0.2 if number < 3 else 0.6
        file = write_sound(root / f"{number}.wav", number, seconds=seconds)
        lines.append(f"{file.name},p{number},{number % 2},{'fm'[number // 2 % 2]},x\n")
    (root / "t.csv").write_text("".join(lines))

    code, out, _ = spira("dataset", "import", "--format", "csv", root / "t.csv")

    assert code == 0
    assert "3 recordings refused (1 present, 2 absent)" in out
    assert "Columns that were not read: odd" in out
    rows = [line.split() for line in out.splitlines() if line.startswith("refused")]
    assert rows == [
        ["refused", "too_short", "female", "1", "1", "0"],
        ["refused", "too_short", "male", "0", "1", "0"],
    ]
    (kept,) = (tmp_path / "home" / "rejected").iterdir()
    assert f"Refused: {kept} (3 too_short)" in out
    assert kept.read_text().splitlines()[1].startswith('0.wav,p0,absent,female,too_short,"0.20 s')
    _, out, _ = spira("dataset", "show", "t", "--rejected", tmp_path / "why.csv")
    assert re.search(r"0\.wav +absent +too_short +0\.20 s of audio", out)
    assert (tmp_path / "why.csv").read_bytes() == kept.read_bytes()


def test_what_was_refused_is_written_where_it_is_asked_for(
    tmp_path: Path, small: Source, spira: Spira
) -> None:
    """Also when that is nothing; without the option an import that refuses nothing leaves no
    file."""
    importing = ("dataset", "import", "--format", "csv", small.root / "recordings.csv", "--json")

    usual = json.loads(spira(*importing)[1])
    asked = json.loads(spira(*importing, "--rejected", tmp_path / "why.csv")[1])

    assert usual["rejected_file"] is None
    assert not (tmp_path / "home" / "rejected").exists()
    assert asked["rejected_file"] == str(tmp_path / "why.csv")
    assert (tmp_path / "why.csv").read_text() == "file,participant,label,sex,reason,message\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["import", "--format", "csv", "nowhere/t.csv"], "no such folder"),
        (["import", "--format", "folder", "nowhere"], "nowhere: no such folder"),
        (["import", "--format", "acl2021", "."], "metadata_train.csv: cannot be read"),
        (["import", "--format", "folder", ".", "--mapping", "m"], "--mapping is for --format csv"),
        (["import", "--format", "csv", "t.csv", "--present", "x"], "are for --format folder"),
        (["show", "nothing"], "dataset 'nothing': unknown; there is none yet"),
        (["verify", "nothing"], "dataset 'nothing': unknown"),
        (["show", "x", "--html", "nowhere/page.html"], "there is no folder nowhere"),
        (["show", "x", "--rejected", "nowhere/why.csv"], "there is no folder nowhere"),
        (["import", "--format", "csv", "t.csv", "--rejected", "no/x.csv"], "there is no folder no"),
        (["import", "--format", "csv", "t.csv", "--name", ""], "dataset name ''"),
        (["synthesize", "--name", "a b"], "dataset name 'a b'"),
        (["synthesize", "--participants", "0"], "--participants: input should be greater"),
        (["synthesize", "--shortcut", "ward"], "--shortcut ward: write it as ward-noise=0.9"),
        (["synthesize", "--shortcut", "wardnoise=1"], "did you mean ward-noise"),
        (["synthesize", "--shortcut", "level=nan"], "--shortcut level=nan: write it as"),
        (["synthesize", "--shortcut", "level=1.5"], "shortcut level: strength 1.5 is not"),
        (["synthesize", "--participants", "1"], "nobody with RI; a dataset needs both classes"),
        (["synthesize", "--prevalence", "1"], "nobody without RI; a dataset needs both classes"),
    ],
)
def test_wrong_input_is_a_sentence_and_exit_code_2(
    tmp_path: Path,
    spira: Spira,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    says: str,
) -> None:
    """On standard error, naming what and where; no traceback."""
    monkeypatch.chdir(tmp_path)

    code, _, err = spira("dataset", *arguments)

    assert code == 2
    assert says in err
    assert "Traceback" not in err
    assert not (tmp_path / "home" / "hospitals").exists()  # before any work


@pytest.mark.parametrize("option", [("--device", "phone"), ("--utterance", "vowels")])
def test_a_wrong_name_is_one_mistake(spira: Spira, option: tuple[str, str]) -> None:
    """And not also a list that is empty without it."""
    _, _, err = spira("dataset", "synthesize", *option)

    assert err.count("spira: ") == 1
    assert f"{option[0]}: input should be" in err


def test_nothing_usable_exits_2_and_says_why(
    tmp_path: Path, spira: Spira, write_sound: Any
) -> None:
    """And no dataset is there afterwards."""
    write_sound(tmp_path / "c" / "present" / "a.wav", 1, seconds=0.2)
    (tmp_path / "c" / "absent").mkdir()
    (tmp_path / "c" / "absent" / "b.wav").write_text("no audio")

    code, _, err = spira("dataset", "import", "--format", "folder", tmp_path / "c")

    assert code == 2
    assert "no usable recording; 2 of 2 were refused" in err
    assert "too_short: 1, such as present/a.wav" in err
    assert "No datasets yet" in spira("dataset", "list")[1]


def test_verify_exits_70_and_names_what_is_damaged(
    tmp_path: Path, small: Source, spira: Spira
) -> None:
    """One byte of one recording."""
    spira("dataset", "import", "--format", "csv", small.root / "recordings.csv", "--name", "mine")
    blobs = sorted((tmp_path / "home" / "store" / "blobs").glob("*/*"))
    audio = next(blob for blob in blobs if blob.read_bytes()[:4] == b"RIFF")
    audio.write_bytes(audio.read_bytes()[:-1] + b"!")

    code, _, err = spira("dataset", "verify", "mine")

    assert code == 70
    assert "1 of 12 files are damaged" in err
    assert f"/{audio.name}" in err


def test_a_hospital_is_made_once_and_imported(tmp_path: Path, spira: Spira) -> None:
    """Its truth lies beside it, below the data folder unless told; the same seed is the same
    version.
    """
    arguments = (
        "dataset",
        "synthesize",
        "--participants",
        "4",
        "--seed",
        "3",
        "--utterance",
        "ambient_before",
        "--noise-per-site",
        "1",
        "--shortcut",
        "ward-noise=0.9",
        "--name",
        "hospital-3",
        "--json",
    )

    code, out, _ = spira(*arguments, "--output", tmp_path / "here")
    first = json.loads(out)

    assert code == 0
    assert first["about"]["origin"] == "synthetic"
    assert first["summary"]["recordings"] == {"present": 2, "absent": 2, "unknown": 0}
    assert first["summary"]["noise"] == 3
    assert first["folder"] == str(tmp_path / "here")
    assert (tmp_path / "here" / "truth" / "truth.parquet").exists()

    again = json.loads(spira(*arguments)[1])
    assert (again["digest"], again["already_there"]) == (first["digest"], True)
    assert Path(again["truth"]).is_relative_to(tmp_path / "home" / "hospitals")
