"""The experiments that can be asked for."""

import re
from pathlib import Path

import pytest

from spira.domain.errors import InputError
from spira.scheduling.catalogue import read_catalogue


def write(folder: Path, **files: str) -> Path:
    """A folder with these experiment files."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def test_files_that_can_be_read_are_found_by_name_and_broken_ones_are_listed(
    tmp_path: Path,
) -> None:
    """Below sub-folders too; of two with one name the second is broken; each says why."""
    folder = write(
        tmp_path,
        a="name: one\n",
        inner__b="name: two\nseed: 3\n",
        c="name: one\n",
        d="name: bad\nsede: 3\n",
        e="name: ../up\n",
        f="{",
        **{".hidden__g": "name: three\n"},
    )

    catalogue = read_catalogue(folder)

    assert dict(catalogue.files) == {"one": "a.yaml", "two": "inner/b.yaml"}
    assert catalogue.experiments["two"].seed == 3
    assert set(catalogue.broken) == {"c.yaml", "d.yaml", "e.yaml", "f.yaml"}
    assert catalogue.broken["c.yaml"] == "its name, one, is that of a.yaml already"
    assert "unknown key sede; did you mean seed?" in catalogue.broken["d.yaml"]


def test_a_name_that_is_not_there_is_told_with_what_may_be_meant(tmp_path: Path) -> None:
    """With the nearest known name, and the files that cannot be read."""
    catalogue = read_catalogue(write(tmp_path, a="name: tiny\n", b="name: x\nsede: 1\n"))

    with pytest.raises(InputError, match=r"did you mean tiny\?; known: tiny; 1 .*b.yaml \(.*sede"):
        catalogue.find("tny")


def test_an_unknown_name_is_told_with_the_folder_that_was_looked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, as a relative one depends on where the command is started; and if it is not there."""
    monkeypatch.chdir(tmp_path)
    place = re.escape(str(tmp_path / "experiments"))

    with pytest.raises(InputError, match=f"'tiny': unknown; the folder {place} is not there"):
        read_catalogue(Path("experiments")).find("tiny")
    (tmp_path / "experiments").mkdir()
    with pytest.raises(InputError, match=f"'tiny': unknown in {place}$"):
        read_catalogue(Path("experiments")).find("tiny")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """Although files that have not changed are not."""
    folder = write(tmp_path, a="name: one\n")
    assert read_catalogue(folder).find("one").seed == 42

    write(folder, a="name: one\nseed: 7\n")

    assert read_catalogue(folder).find("one").seed == 7


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    """And a file that is far too large is not read."""
    assert read_catalogue(tmp_path / "none").experiments == {}
    (tmp_path / "large.yaml").write_text("#" * (1 << 21))
    assert "an experiment has at most" in read_catalogue(tmp_path).broken["large.yaml"]
