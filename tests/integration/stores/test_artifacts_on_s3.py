"""The artifact store against a real S3 server (SeaweedFS), with the promises of the folder."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest

from spira.domain.errors import IntegrityError, TransientError
from spira.stores.artifacts import ArtifactStore, _blob_key

NAME = "a" * 64


@pytest.fixture
def open_store(
    s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ArtifactStore:
    """A store below a prefix of its own."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    return reopened(tmp_path)


def reopened(tmp_path: Path) -> ArtifactStore:
    """The store as another process of this machine finds it."""
    return ArtifactStore.open(f"s3://spira/{tmp_path.name}", cache=tmp_path / "cache")


def test_s3_keeps_the_promises_of_the_folder(open_store: ArtifactStore, tmp_path: Path) -> None:
    """Commit once, first wins, read through the cache, list, checkpoints, sweep."""
    first = open_store.commit("split", NAME, {"a": b"one", "b": b"two"}, {"n": 1})
    second = open_store.commit("split", NAME, {"a": b"other"}, {})
    open_store.save_scratch(NAME, "checkpoint", b"x")

    assert second.read("a") == first.read("a") == b"one"
    assert first.path("a").is_relative_to(tmp_path / "cache")
    assert [artifact.fingerprint for artifact in open_store.list("split")] == [NAME]
    assert open_store.load_scratch(NAME, "checkpoint") == b"x"
    assert open_store.scratch() == {NAME}

    open_store.forget(first)
    assert open_store.sweep() == len(b"one")  # the copy in the cache
    left = obstore.list(open_store._objects, prefix="blobs/").collect()
    assert len(left) == 3  # younger than a day: another machine may be at work with them
    assert open_store.scratch(settled=True) == set()  # another machine may be training


def test_damage_in_the_store_is_set_aside_by_its_reader(
    open_store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any size: the reader is told, the next check misses it, and it is made again."""
    monkeypatch.setattr("spira.stores.artifacts._DIGESTS_CHECKED_UP_TO_BYTES", 0)
    artifact = open_store.commit("features", NAME, {"a": b"hello"}, {})
    blob = _blob_key(artifact.files["a"].sha256)
    obstore.put(open_store._objects, blob, b"hallo")
    assert open_store.intact(artifact)

    with pytest.raises(IntegrityError, match="`spira stage features`"):
        artifact.path("a")

    assert not open_store.intact(artifact)
    open_store.discard(artifact)
    assert reopened(tmp_path).commit("features", NAME, {"a": b"hello"}, {}).read("a") == b"hello"
    assert open_store.sweep() == len(b"hallo")


def test_another_content_of_the_same_size_is_replaced_by_a_commit(
    open_store: ArtifactStore, tmp_path: Path
) -> None:
    """A process believes the blobs that it put or fetched itself, and no others."""
    artifact = open_store.commit("split", NAME, {"a": b"hello"}, {})
    obstore.put(open_store._objects, _blob_key(artifact.files["a"].sha256), b"hallo")

    other = reopened(tmp_path).commit("split", "b" * 64, {"a": b"hello"}, {})

    assert other.read("a") == b"hello"


def test_an_import_of_a_changing_file_leaves_the_audio_of_other_datasets(
    open_store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both hold the same recording, which somebody edits while the second one is stored."""
    source = tmp_path / "source"
    source.write_bytes(b"a recording")
    open_store.commit("dataset", NAME, {"a": source}, {})
    put = obstore.put

    def put_after_a_change(objects: object, key: str, data: object, **options: object) -> object:
        source.write_bytes(b"edited")
        return put(objects, key, data, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as context:
        context.setattr(obstore, "put", put_after_a_change)
        with pytest.raises(TransientError, match="a file changed"):
            reopened(tmp_path).commit("dataset", "b" * 64, {"a": source}, {})

    found = reopened(tmp_path).find("dataset", NAME)
    assert found is not None
    assert found.read("a") == b"a recording"


def test_a_fetch_that_fails_leaves_nothing_in_the_cache(
    open_store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks half-way: try again, and no half file stays."""

    class Broken:
        def stream(self) -> Iterator[bytes]:
            yield b"hal"
            raise obstore.exceptions.GenericError("connection reset")

    artifact = open_store.commit("split", NAME, {"a": b"hello"}, {})
    with monkeypatch.context() as context:
        context.setattr(obstore, "get", lambda *arguments: Broken())
        with pytest.raises(TransientError, match="store failed"):
            artifact.path("a")

    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not list((tmp_path / "cache").glob("fetching-*"))
    assert artifact.read("a") == b"hello"


def test_a_damaged_cache_is_fetched_again(open_store: ArtifactStore, tmp_path: Path) -> None:
    """The cache is verified on every reading process; the store has the truth."""
    open_store.commit("split", NAME, {"a": b"one"}, {}).path("a").write_bytes(b"eno")

    found = reopened(tmp_path).find("split", NAME)

    assert found is not None
    assert found.read("a") == b"one"


def test_a_store_that_is_away_is_a_reason_to_try_again(
    open_store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No server at the endpoint: TransientError, so that a scheduler retries."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the discard port: nobody there
    away = ArtifactStore.open(
        f"s3://spira/{tmp_path.name}", cache=tmp_path / "cache", retry_for_s=1
    )

    with pytest.raises(TransientError, match="store failed"):
        away.find("split", NAME)


HOLDER = """
import sys, time
from pathlib import Path
from spira.stores.artifacts import ArtifactStore
url, cache, name = sys.argv[1:]
store = ArtifactStore.open(url, cache=Path(cache), lease_s=1)
with store.claimed("train", name):
    print("held", flush=True)
    time.sleep(60)
"""


def test_of_two_machines_one_works_and_the_other_waits(
    open_store: ArtifactStore, tmp_path: Path
) -> None:
    """As long as the first is at work, though that takes longer than a lease."""
    url = f"s3://spira/{tmp_path.name}"
    first, second = (ArtifactStore.open(url, cache=tmp_path / "cache", lease_s=1) for _ in range(2))
    done: list[str] = []
    waited = threading.Event()

    def work_second() -> None:
        with second.claimed("train", NAME, waiting=waited.set):
            done.append("second")

    other = threading.Thread(target=work_second)
    with first.claimed("train", NAME):
        other.start()
        assert waited.wait(10)
        other.join(2.5)
        done.append("first")
    other.join()

    assert done == ["first", "second"]
    assert not obstore.list(open_store._objects, prefix="claims/").collect()


def test_a_machine_that_was_killed_is_replaced_by_one_of_those_that_wait(
    open_store: ArtifactStore, tmp_path: Path
) -> None:
    """`kill -9` of the holder: after its lease one goes on, and the next one after that."""
    url, cache = f"s3://spira/{tmp_path.name}", tmp_path / "cache"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url, str(cache), NAME], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    at_work, most = [], []

    def work() -> None:
        store = ArtifactStore.open(url, cache=cache, lease_s=1)
        with store.claimed("train", NAME):
            at_work.append(1)
            most.append(len(at_work))
            time.sleep(0.3)  # long enough for another one to come in, if it could
            at_work.pop()

    waiters = [threading.Thread(target=work) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    holder.kill()
    holder.wait()
    for waiter in waiters:
        waiter.join(30)

    assert most == [1, 1, 1]
