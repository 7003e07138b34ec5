"""Artifacts: whole or not at all, and damage is seen."""

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest

from spira.domain.errors import InputError, IntegrityError, TransientError
from spira.stores.artifacts import ArtifactStore

NAME = "a" * 64


def reopened(tmp_path: Path) -> ArtifactStore:
    """The store as another process finds it, with nothing verified yet."""
    return ArtifactStore.open(str(tmp_path / "store"), cache=tmp_path / "cache")


def test_what_is_committed_is_read_back(store: ArtifactStore, tmp_path: Path) -> None:
    """Bytes and files, with what is said about them."""
    (tmp_path / "big").write_bytes(b"from a file")

    store.commit("split", NAME, {"a": b"bytes", "b": tmp_path / "big"}, {"n": 1})

    found = reopened(tmp_path).find("split", NAME)
    assert found is not None
    assert (found.read("a"), found.read("b"), found.about) == (b"bytes", b"from a file", {"n": 1})


def test_the_first_commit_wins(store: ArtifactStore, tmp_path: Path) -> None:
    """A second writer of the same name gets what is there; nothing committed ever changes."""
    store.commit("split", NAME, {"a": b"first"}, {})

    second = reopened(tmp_path).commit("split", NAME, {"a": b"second"}, {})

    assert second.read("a") == b"first"


def test_many_writers_at_once_leave_one_whole_artifact(tmp_path: Path) -> None:
    """Eight threads commit different bytes under one name; every one reads the same result."""
    results: list[bytes] = []

    def write(number: int) -> None:
        artifact = reopened(tmp_path).commit("split", NAME, {"a": b"%d" % number * 1000}, {})
        results.append(artifact.read("a"))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(results) == 8
    assert len(set(results)) == 1


def test_damaged_bytes_are_seen_and_can_be_made_again(store: ArtifactStore, tmp_path: Path) -> None:
    """A flipped byte is an IntegrityError; after discarding, the same commit is whole again."""
    path = store.commit("split", NAME, {"a": b"hello"}, {}).path("a")
    path.write_bytes(b"hallo")

    later = reopened(tmp_path)
    damaged = later.find("split", NAME)
    assert damaged is not None
    assert not later.intact(damaged)
    with pytest.raises(IntegrityError, match="split aaaaaaaaaaaa/a"):
        damaged.path("a")

    later.discard(damaged)
    assert later.find("split", NAME) is None
    assert later.commit("split", NAME, {"a": b"hello"}, {}).read("a") == b"hello"


def test_missing_bytes_are_seen(store: ArtifactStore, tmp_path: Path) -> None:
    """A manifest whose file is gone is not intact."""
    store.commit("split", NAME, {"a": b"hello"}, {}).path("a").unlink()

    later = reopened(tmp_path)
    found = later.find("split", NAME)

    assert found is not None
    assert not later.intact(found)


def test_a_torn_manifest_is_no_manifest(store: ArtifactStore, tmp_path: Path) -> None:
    """A manifest cut short is as if it had never been written, and can be committed again."""
    store.commit("split", NAME, {"a": b"hello"}, {})
    manifest = tmp_path / "store" / "manifests" / "split" / f"{NAME}.json"
    manifest.write_bytes(manifest.read_bytes()[:-3])

    later = reopened(tmp_path)

    assert later.find("split", NAME) is None
    assert later.commit("split", NAME, {"a": b"hello"}, {}).read("a") == b"hello"


def test_sweep_removes_only_what_nothing_names(store: ArtifactStore) -> None:
    """Files of a forgotten artifact go; those another artifact shares stay."""
    store.commit("split", NAME, {"a": b"shared", "b": b"alone"}, {})
    other = store.commit("split", "b" * 64, {"a": b"shared"}, {})
    first = store.find("split", NAME)
    assert first is not None

    store.forget(first)
    freed = store.sweep()

    assert freed == len(b"alone")
    assert other.read("a") == b"shared"


def test_sweep_deletes_nothing_where_a_manifest_is_damaged(
    store: ArtifactStore, tmp_path: Path
) -> None:
    """What a damaged manifest named may be the only copy of imported audio."""
    audio = store.commit("dataset", NAME, {"audio": b"precious"}, {}).path("audio")
    manifest = tmp_path / "store" / "manifests" / "dataset" / f"{NAME}.json"
    manifest.write_bytes(manifest.read_bytes()[:-3])

    unnamed = tmp_path / "store" / "blobs" / "00" / ("00" * 32)
    unnamed.parent.mkdir()
    unnamed.write_bytes(b"x")

    with pytest.raises(
        IntegrityError, match=r"dataset aaaaaaaaaaaa: .* nothing was deleted"
    ) as told:
        reopened(tmp_path).sweep()

    assert "import that dataset again" in str(told.value)
    assert str(manifest) in str(told.value)
    assert audio.read_bytes() == b"precious"
    assert unnamed.exists()


@pytest.mark.parametrize("stage", ["split", "features-shard", "dataset-name"])
def test_sweep_deletes_the_damaged_manifest_of_what_is_made_again(
    store: ArtifactStore, tmp_path: Path, stage: str
) -> None:
    """It is told before, it stops nothing, and what it named goes too."""
    blob = store.commit(stage, NAME, {"a": b"made"}, {}).path("a")
    other = store.commit("split", "b" * 64, {"a": b"other"}, {})
    manifest = tmp_path / "store" / "manifests" / stage / f"{NAME}.json"
    manifest.write_bytes(manifest.read_bytes()[:-3])
    assert store.damaged(stage) == [NAME]
    assert store.damaged("dataset") == []

    assert reopened(tmp_path).sweep() == len(b"made")

    assert store.damaged(stage) == []
    assert not blob.exists()
    assert other.read("a") == b"other"


def test_sweep_keeps_damaged_audio_until_it_is_imported_again(
    store: ArtifactStore, tmp_path: Path
) -> None:
    """It may be the only copy; once the right bytes are back, or nothing names it, it goes."""
    audio = store.commit("dataset", NAME, {"audio/x": b"precious"}, {}).path("audio/x")
    audio.write_bytes(b"pretious")
    damaged = reopened(tmp_path).find("dataset", NAME)
    assert damaged is not None
    with pytest.raises(IntegrityError, match="import that dataset again"):
        damaged.path("audio/x")

    kept = reopened(tmp_path).sweep()
    (aside,) = (tmp_path / "store" / "damaged").iterdir()
    assert aside.read_bytes() == b"pretious"
    store.commit("dataset", NAME, {"audio/x": b"precious"}, {})
    freed = reopened(tmp_path).sweep()

    assert (kept, freed) == (0, len(b"pretious"))
    assert damaged.read("audio/x") == b"precious"


def test_sweep_empties_the_cache_of_what_nothing_names(
    store: ArtifactStore, tmp_path: Path
) -> None:
    """Copies of artifacts that are gone do not fill the disk for ever."""
    named = store.commit("split", NAME, {"a": b"named"}, {}).files["a"].sha256
    for digest in (named, "00" * 32):
        copy = tmp_path / "cache" / "blobs" / digest[:2] / digest
        copy.parent.mkdir(parents=True)
        copy.write_bytes(b"copy")

    assert store.sweep() == len(b"copy")

    assert [path.name for path in (tmp_path / "cache").glob("blobs/*/*")] == [named]


def test_damage_that_a_reader_finds_in_a_large_file_is_seen_by_the_next_check(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No check reads large files; a reader sets the damaged one aside, and says what mends it."""
    monkeypatch.setattr("spira.stores.artifacts._DIGESTS_CHECKED_UP_TO_BYTES", 3)
    path = store.commit("features-shard", NAME, {"large": b"hello"}, {}).path("large")
    path.write_bytes(b"hallo")
    later = reopened(tmp_path)
    found = later.find("features-shard", NAME)
    assert found is not None
    assert later.intact(found)
    assert not later.intact(found, thorough=True)  # reads it

    for _ in range(2):  # the second reader is told the same: damaged, not only missing
        with pytest.raises(IntegrityError, match=r"do not match .*`spira stage features`"):
            found.path("large")
    assert not reopened(tmp_path).intact(found)

    later.discard(found)
    assert later.commit("features-shard", NAME, {"large": b"hello"}, {}).read("large") == b"hello"
    assert reopened(tmp_path).intact(found, thorough=True)


def test_no_commit_names_a_blob_that_is_damaged(store: ArtifactStore, tmp_path: Path) -> None:
    """A blob of the right size and another content is replaced, whoever left it there."""
    path = store.commit("split", NAME, {"a": b"hello"}, {}).path("a")
    path.write_bytes(b"hallo")

    other = reopened(tmp_path).commit("split", "b" * 64, {"a": b"hello"}, {})

    assert other.read("a") == path.read_bytes() == b"hello"


def changing(source: Path) -> Callable[..., object]:
    """A put before which somebody writes to the file."""
    put = obstore.put

    def put_after_a_change(objects: object, key: str, data: object, **options: object) -> object:
        source.write_bytes(b"after it was hashed")
        return put(objects, key, data, **options)  # type: ignore[arg-type]

    return put_after_a_change


def test_a_recording_that_changes_while_it_is_stored_is_not_stored(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name would be the digest of other bytes: no blob and no artifact, try again."""
    source = tmp_path / "source"
    source.write_bytes(b"before")

    with monkeypatch.context() as context:
        context.setattr(obstore, "put", changing(source))
        with pytest.raises(TransientError, match="a file changed while it was stored"):
            store.commit("dataset", NAME, {"a": source}, {})

    assert store.find("dataset", NAME) is None
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_an_artifact_of_a_newer_format_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    """One sentence that says to upgrade; nothing is taken for damaged, nothing is deleted."""
    blob = store.commit("split", NAME, {"a": b"hello"}, {}).path("a")
    body = b'{"about":{},"files":{"a":{"new":"shape"}},"format":2}'
    manifest = tmp_path / "store" / "manifests" / "split" / f"{NAME}.json"
    manifest.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    for use in (
        lambda: store.find("split", NAME),
        lambda: store.list("split"),
        lambda: store.damaged("split"),
        store.sweep,
    ):
        with pytest.raises(
            InputError, match=r"split aaaaaaaaaaaa: made by a newer SPIRA .*upgrade"
        ):
            use()
    assert blob.exists()


def test_a_store_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """An address of another kind is wrong input, not a reason to try again."""
    with pytest.raises(InputError, match=r"stores\.artifacts: ftp://"):
        ArtifactStore.open("ftp://host/folder", cache=tmp_path)


def test_checkpoints_are_replaced_whole_and_damage_is_forgotten(
    store: ArtifactStore, tmp_path: Path
) -> None:
    """The last save is what is loaded; a damaged one counts as none."""
    store.save_scratch(NAME, "checkpoint", b"one")
    store.save_scratch(NAME, "checkpoint", b"two")
    assert store.load_scratch(NAME, "checkpoint") == b"two"

    path = tmp_path / "store" / "scratch" / NAME / "checkpoint"
    path.write_bytes(path.read_bytes()[:-1])

    assert store.load_scratch(NAME, "checkpoint") is None
    store.clear_scratch(NAME)
    assert store.scratch() == set()


@pytest.mark.parametrize("failing_put", [1, 2, 3])
def test_a_full_disk_leaves_nothing_half_visible(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, failing_put: int
) -> None:
    """Whichever write meets ENOSPC, there is no artifact, and the same commit succeeds later."""
    real, count = obstore.put, 0

    def put(*arguments: object, **options: object) -> object:
        nonlocal count
        count += 1
        if count == failing_put:
            raise obstore.exceptions.GenericError("write: No space left on device (os error 28)")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(obstore, "put", put)
    with pytest.raises(TransientError, match="disk is full"):
        store.commit("split", NAME, {"a": b"1", "b": b"2"}, {})
    assert store.find("split", NAME) is None

    monkeypatch.setattr(obstore, "put", real)
    assert store.commit("split", NAME, {"a": b"1", "b": b"2"}, {}).read("b") == b"2"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """A data folder below a file is named with what to do."""
    (tmp_path / "file").write_text("")

    with pytest.raises(InputError, match="cannot be made"):
        ArtifactStore.open(str(tmp_path / "file" / "store"), cache=tmp_path)


def test_a_killed_commit_leaves_no_artifact(tmp_path: Path) -> None:
    """Killed before its manifest, a commit is not there; done again, it is."""
    script = (
        "import os, signal, obstore, sys\n"
        "from pathlib import Path\n"
        "from spira.stores.artifacts import ArtifactStore\n"
        "real = obstore.put\n"
        "def put(store, key, *a, **k):\n"
        "    if key.startswith('manifests/'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(store, key, *a, **k)\n"
        "obstore.put = put\n"
        "s = ArtifactStore.open(sys.argv[1], cache=Path(sys.argv[1]) / 'cache')\n"
        f"s.commit('split', '{NAME}', {{'a': b'1'}}, {{}})\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path / "store")], check=False)
    assert ended.returncode == -9

    store = reopened(tmp_path)
    assert store.find("split", NAME) is None
    assert store.commit("split", NAME, {"a": b"1"}, {}).read("a") == b"1"
