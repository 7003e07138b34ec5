"""Artifacts: whole or not at all, and damage is seen."""

import subprocess
import sys
import threading
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

    with pytest.raises(IntegrityError, match="manifest dataset aaaaaaaaaaaa: damaged"):
        reopened(tmp_path).sweep()

    assert audio.read_bytes() == b"precious"


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
