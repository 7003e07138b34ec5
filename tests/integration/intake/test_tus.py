"""Uploads piece by piece: what a kill may cost, and how many objects one may become."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from spira.intake import tus
from spira.intake.tus import Tus, Upload
from spira.intake.uploads import Uploads
from spira.stores.objects import Objects

N_BYTES = 3000


class Slow:
    """A request whose body comes in drops, as from the end of a corridor."""

    def __init__(self, drops: int, every_s: float, drop: bytes = b"drop") -> None:
        self._left = drops
        self._every_s = every_s
        self._drop = drop

    async def receive(self) -> dict[str, Any]:
        """The next drop."""
        await asyncio.sleep(self._every_s)
        self._left -= 1
        return {"type": "http.request", "body": self._drop, "more_body": self._left > 0}


def test_what_comes_slowly_and_steadily_is_put_down_every_second(monkeypatch: Any) -> None:
    """Not only when a piece is full: at 4 kB a second that takes a minute."""
    monkeypatch.setattr(tus, "_FLUSH_S", 0.1)
    flushed: list[int] = []

    def append(at: int, data: bytes) -> int:
        flushed.append(len(data))
        return at + len(data)

    taking = tus._Taking(Slow(40, 0.02), append, 0, 0, 10_000)  # type: ignore[arg-type]

    assert asyncio.run(taking.all())
    assert sum(flushed) == 160
    assert len(flushed) > 4


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    """A folder."""
    return Objects.open(str(tmp_path / "objects"), setting="a test")


@pytest.fixture
def client(objects: Objects) -> httpx.AsyncClient:
    """Of an API with one upload, at /."""

    async def find(_: Request) -> Upload:
        return Upload("u", N_BYTES)

    respond = Tus(Uploads(objects), find, lambda _: {}).respond
    app = Starlette(routes=[Route("/", respond, methods=["HEAD", "PATCH"])])
    headers = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://api.test", headers=headers
    )


def test_an_upload_that_comes_byte_by_byte_begins_anew_instead_of_filling_the_store(
    client: httpx.AsyncClient, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody else was first: whoever asks how far it is goes on from there."""
    monkeypatch.setattr(tus, "_SPARE_PIECES", 5)
    most = 5 + N_BYTES // 1024

    async def patch(at: int, data: bytes) -> httpx.Response:
        return await client.patch("/", content=data, headers={"Upload-Offset": str(at)})

    async def send() -> None:
        for at in range(most):
            assert (await patch(at, b"x")).status_code == 204
        refused = await patch(most, b"x")
        asked = await client.head("/")
        left = [item.key for item in objects.list("staging/")]
        again = await patch(0, bytes(N_BYTES))

        assert (refused.status_code, refused.headers["Upload-Offset"]) == (409, "0")
        assert f"{most} pieces" in refused.json()["detail"]
        assert asked.headers["Upload-Offset"] == "0"
        assert left == []
        assert again.headers["Upload-Offset"] == str(N_BYTES)

    asyncio.run(send())


def test_a_slow_network_is_no_drip(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 MB over 8 kbit/s, a piece a second, are taken whole; a byte a second is not."""
    monkeypatch.setattr(tus, "_FLUSH_S", 0.0)
    n_bytes = 3 << 20
    flushed: list[int] = []

    def append(at: int, data: bytes) -> int:
        flushed.append(len(data))
        return at + len(data)

    slow = tus._Taking(Slow(3 << 10, 0.0, bytes(1024)), append, 0, 0, n_bytes)  # type: ignore[arg-type]
    assert asyncio.run(slow.all())
    assert (sum(flushed), len(flushed)) == (n_bytes, 3 << 10)

    flushed.clear()
    drip = tus._Taking(Slow(5000, 0.0, b"x"), append, 0, 0, n_bytes)  # type: ignore[arg-type]
    with pytest.raises(tus._TooManyPieces):
        asyncio.run(drip.all())
    assert len(flushed) == drip.most
