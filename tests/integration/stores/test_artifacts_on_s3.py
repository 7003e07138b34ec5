"""The artifact store against a real S3 server (SeaweedFS), with the promises of the folder."""

from pathlib import Path

import pytest

from spira.domain.errors import TransientError
from spira.stores.artifacts import ArtifactStore

NAME = "a" * 64


@pytest.fixture
def open_store(
    s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ArtifactStore:
    """A store below a prefix of its own."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
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
    assert open_store.sweep() == 0  # younger than a day: another machine may be writing them


def test_a_damaged_cache_is_fetched_again(open_store: ArtifactStore, tmp_path: Path) -> None:
    """The cache is verified on every reading process; the store has the truth."""
    open_store.commit("split", NAME, {"a": b"one"}, {}).path("a").write_bytes(b"eno")

    later = ArtifactStore.open(f"s3://spira/{tmp_path.name}", cache=tmp_path / "cache")
    found = later.find("split", NAME)

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
