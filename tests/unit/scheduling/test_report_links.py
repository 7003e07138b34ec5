"""Links of the web page to reports: who may follow them, and what the endpoint answers."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import pytest

from spira.scheduling.asking import Desk
from spira.scheduling.endpoint import create_endpoint
from spira.scheduling.settings import SchedulingSettings
from spira.scheduling.tokens import TOKEN, read_token, report_address
from spira.stores.artifacts import Artifact, ArtifactStore

Get = Callable[..., httpx.Response]
SETTINGS = SchedulingSettings(port=8700)


@pytest.fixture(autouse=True)
def _no_token_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)


@pytest.fixture
def get(store: ArtifactStore, tmp_path: Path) -> Get:
    """Ask the endpoint over the store, its token in the data folder; no reconciler at work."""
    nobody = cast(Any, None)
    app = create_endpoint(Desk(store, nobody, SETTINGS), read_token(tmp_path), nobody)

    async def ask(path: str, token: str | None) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://spira") as client:
            return await client.get(path, headers=headers)

    return lambda path, token=None: asyncio.run(ask(path, token))


def committed(store: ArtifactStore, stage: str, number: int = 1) -> Artifact:
    """An artifact that has a report."""
    report = f"<!doctype html><h1>report {number}</h1>".encode()
    return store.commit(stage, f"{number:064x}", {"report.html": report}, {})


def link(home: Path, artifact: Artifact, settings: SchedulingSettings = SETTINGS) -> str:
    """The address of its report, without the host."""
    address = report_address(home, settings, artifact.fingerprint)
    assert address is not None
    return address.removeprefix("http://127.0.0.1:8700")


@pytest.mark.parametrize("stage", ["evaluate", "publish"])
def test_a_link_opens_its_report_and_holds_no_secret(
    get: Get, store: ArtifactStore, tmp_path: Path, stage: str
) -> None:
    """The page as it was stored, which may fetch nothing; no token is in the address."""
    artifact = committed(store, stage)

    answer = get(link(tmp_path, artifact))

    assert answer.status_code == 200
    assert answer.content == artifact.read("report.html")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';")
    assert "http" not in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert read_token(tmp_path) not in link(tmp_path, artifact)


def test_a_link_opens_no_other_report(get: Get, store: ArtifactStore, tmp_path: Path) -> None:
    """Neither does one of another token; without any, a token is asked for."""
    mine, other = committed(store, "evaluate", 1), committed(store, "evaluate", 2)
    path = urlsplit(link(tmp_path, other)).path

    assert get(f"{path}?{urlsplit(link(tmp_path, mine)).query}").status_code == 403
    assert get(path).status_code == 401
    assert get(path, "wrong").status_code == 401
    assert get(path, read_token(tmp_path)).text.endswith("report 2</h1>")
    (tmp_path / "scheduler" / "token").write_text("another")
    assert get(link(tmp_path, other)).status_code == 403


def test_a_report_that_is_gone_or_damaged_is_not_shown(
    get: Get, store: ArtifactStore, tmp_path: Path
) -> None:
    """Never bytes that nobody wrote; the answer says what is wrong."""
    gone, damaged = committed(store, "evaluate", 1), committed(store, "evaluate", 2)
    store.forget(gone)
    (blob,) = (tmp_path / "store" / "blobs").glob(f"*/{damaged.files['report.html'].sha256}")
    blob.write_bytes(b"<h1>report 3</h1>")

    assert get(link(tmp_path, gone)).status_code == 404
    answer = get(link(tmp_path, damaged))

    assert answer.status_code == 500
    assert "do not match their digest" in answer.json()["detail"]


def test_a_link_names_where_the_endpoint_listens(store: ArtifactStore, tmp_path: Path) -> None:
    """The port in use; this machine where it listens everywhere; none where nobody knows."""
    artifact = committed(store, "evaluate")
    everywhere = SchedulingSettings(host="0.0.0.0", port=0)

    assert report_address(tmp_path, SETTINGS, artifact.fingerprint) is None  # no token yet
    read_token(tmp_path)
    assert report_address(tmp_path, everywhere, artifact.fingerprint) is None  # no port yet
    (tmp_path / "scheduler" / "addresses.json").write_text('{"endpoint": "http://0.0.0.0:41234"}')
    address = report_address(tmp_path, everywhere, artifact.fingerprint)

    assert address is not None
    assert address.startswith(f"http://127.0.0.1:41234/v1/reports/{artifact.fingerprint}?key=")
    address = report_address(tmp_path, SchedulingSettings(host="::1"), artifact.fingerprint)
    assert address is not None
    assert address.startswith("http://[::1]:41234/v1/reports/")
