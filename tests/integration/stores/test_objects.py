"""Objects in a folder and on a real S3 server: the same contract."""

import itertools
import os
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spira.domain.errors import StorageFull
from spira.stores.objects import Objects


@pytest.fixture(params=["folder", "s3"])
def objects(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Objects:
    """An empty store."""
    if request.param == "folder":
        return Objects.open(str(tmp_path / "objects"), setting="a test")
    for name, value in request.getfixturevalue("s3").items():
        monkeypatch.setenv(name, value)
    return Objects.open(f"s3://spira/{tmp_path.name}", setting="a test")


def test_what_is_created_first_stays(objects: Objects) -> None:
    """And whoever comes second is told."""
    assert objects.create("a/b/1", b"first")
    assert not objects.create("a/b/1", b"second")
    assert objects.read("a/b/1") == b"first"
    assert objects.read("a/b/2") is None


def test_what_is_kept_is_there_whatever_was_there_before(objects: Objects) -> None:
    """A power cut may leave a name whose bytes never reached the disk."""
    assert objects.create("a/torn", b"")
    objects.keep("a/torn", b"whole")
    objects.keep("a/torn", b"whole")
    assert objects.read("a/torn") == b"whole"


def test_a_listing_has_sizes_and_only_what_is_below(objects: Objects) -> None:
    """Deleting twice is deleting."""
    for key in ("a/x/1", "a/x/2", "a/xy/3"):
        objects.create(key, b"four")
    found = sorted((item.key, item.n_bytes) for item in objects.list("a/x/"))
    assert found == [("a/x/1", 4), ("a/x/2", 4)]
    objects.delete(["a/x/1", "a/x/1"])
    assert [item.key for item in objects.list("a/x/")] == ["a/x/2"]


def test_a_listing_of_a_part_has_what_is_between_two_names(objects: Objects) -> None:
    """The first of them is in it, the last is not; a part that nobody has is empty."""
    keys = [f"a/{name}/{number}" for name in ("01", "02", "2a", "b0") for number in (1, 2)]
    for key in [*keys, "aa/02/1"]:
        objects.create(key, b"four")

    def between(first: str, end: str | None) -> list[str]:
        return sorted(item.key for item in objects.list_between("a/", first, end))

    assert between("", None) == keys
    assert between("", "02") == keys[:2]
    assert between("02", "b0") == keys[2:6]
    assert between("2a", None) == keys[4:]
    assert between("03", "2a") == between("c0", None) == []
    assert list(objects.list_between("b/", "", None)) == []


def test_objects_are_files_for_a_while(objects: Objects, tmp_path: Path) -> None:
    """Whole, under their keys; what is not there is no file, and what was fetched is gone after."""
    large = bytes(range(256)) * 100_000
    objects.create("a/b/large", large)
    objects.create("a/c", b"small")
    scratch = tmp_path / "scratch"

    with objects.files(["a/b/large", "a/c", "a/none"], scratch) as folder:
        found = [(folder / key).read_bytes() for key in ("a/b/large", "a/c")]
        missing = (folder / "a/none").exists()

    assert (found, missing) == ([large, b"small"], False)
    assert [*scratch.glob("*")] == []
    assert objects.read("a/c") == b"small"


def test_what_a_killed_put_has_left_is_deleted_when_it_is_old(tmp_path: Path) -> None:
    """Below the names that are asked about; objects stay, and what may still be on its way."""
    objects = Objects.open(str(tmp_path), setting="a test")
    for key in ("a/1/x", "a/2/x", "a/y"):
        objects.create(key, b"whole")
    torn = [tmp_path / name for name in ("a/1/x#1", "a/1/z#2", "a/2/x#1", "a/y#1")]
    for path in torn:
        path.write_bytes(b"ha")
        os.utime(path, (0, 0))
    (tmp_path / "a/1/w#1").write_bytes(b"ha")
    before = datetime(2020, 1, 1, tzinfo=UTC)

    assert objects.tidy("a/", before, "1", "2") == 2
    assert [path.exists() for path in torn] == [False, False, True, True]
    assert objects.tidy("a/", before) == 2
    assert objects.tidy("b/", before) == 0

    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["a/1/w#1", "a/1/x", "a/2/x", "a/y"]


def test_bytes_and_names_are_synced_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file, its folder, and every folder above, of which any may be new."""
    synced: list[str] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    root = tmp_path / "objects"
    objects = Objects.open(str(root), setting="a test")

    objects.create("a/b/1", b"x")
    new = (root / "a/b/1", root / "a/b", root / "a", root)
    assert synced == [str(path) for path in (*new, *root.parents)]
    synced.clear()
    objects.create("a/b/2", b"x")
    assert synced == [str(root / "a/b/2"), str(root / "a/b")]
    synced.clear()
    assert not objects.create("a/b/2", b"x")
    objects.keep("a/b/2", b"x")  # whoever put it may not have come to syncing it
    assert synced == [str(root / "a/b/2"), str(root / "a/b")]


def test_a_full_disk_is_told_as_one(tmp_path: Path, mount: Any) -> None:
    """And nothing of the object is there."""
    place = mount(tmp_path / "small", "-t", "tmpfs", "-o", "size=1m", "none")
    objects = Objects.open(str(place / "objects"), setting="a test")
    with pytest.raises(StorageFull, match="the disk is full"):
        objects.create("big", b"x" * 2_000_000)
    assert objects.read("big") is None
    assert objects.create("small", b"x")


def test_memory_stays_the_same_however_many_folders_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service makes three folders for every assessment, for years."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    objects = Objects.open(str(tmp_path / "objects"), setting="a test")
    numbers = iter(range(3_000))

    def grown_by(n: int) -> int:
        before, _ = tracemalloc.get_traced_memory()
        for number in itertools.islice(numbers, n):
            objects.create(f"{number}/1", b"x")
        return tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    try:
        first = grown_by(900)
        rest = grown_by(2_100)
    finally:
        tracemalloc.stop()

    assert rest < first / 2, (first, rest)


def test_a_folder_counts_as_synced_only_with_all_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes into a new folder while another thread is still syncing the way to it does not
    rely on that thread."""
    root = tmp_path / "objects"
    objects = Objects.open(str(root), setting="a test")
    synced: list[Path] = []
    by_the_second: list[Path] = []

    def recorded(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        if synced[-1] == root and synced.count(root) == 1:  # the first is half-way up
            begun = len(synced)
            objects.create("a/b/2", b"x")
            by_the_second.extend(synced[begun:])

    monkeypatch.setattr(os, "fsync", recorded)

    objects.create("a/b/1", b"x")

    assert {root / "a", root, tmp_path} <= set(by_the_second)
