"""How the API listens: to who is slow, to too many, and to what is no HTTP."""

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import uvicorn
from services import wait_for
from starlette.types import Receive, Scope, Send

from spira.intake import listening
from spira.intake.listening import OPTIONS, AtMost
from spira.stores.processes import free_or_wanted

WELL = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Waits:
    """An application that answers when it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.over = 0  # requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """204, for requests."""
        if scope["type"] == "http":
            while not self.let.is_set() and scope["path"] != "/healthz":
                await asyncio.sleep(0.01)
            try:
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body"})
            finally:
                self.over += 1


@pytest.fixture
def waits() -> Waits:
    """One that answers at once, until it is told not to."""
    waits = Waits()
    waits.let.set()
    return waits


@pytest.fixture
def port(waits: Waits, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Where it listens; a head may take half a second, and three requests are in hand at most."""
    monkeypatch.setattr(listening, "_HEAD_S", 0.5)
    monkeypatch.setattr(listening, "_MOST_AT_ONCE", 3)
    port = free_or_wanted("", 0)
    server = uvicorn.Server(uvicorn.Config(AtMost(waits), port=port, lifespan="off", **OPTIONS))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield port
    server.should_exit = True
    thread.join(20)


def connected(port: int) -> socket.socket:
    """A connection."""
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def everything(line: socket.socket) -> bytes:
    """What comes until the other side hangs up."""
    return b"".join(iter(lambda: line.recv(1 << 16), b""))


@pytest.mark.parametrize(
    ("before", "beginning"), [(0, b""), (0, b"GET"), (0, WELL[:-2]), (2, b"GET"), (2, WELL[:-2])]
)
def test_who_does_not_finish_a_head_is_hung_up_on(port: int, before: int, beginning: bytes) -> None:
    """Also after requests that were answered; not before its time, and without a word."""
    with connected(port) as line:
        for _ in range(before):
            line.sendall(WELL)
            assert b" 204 " in line.recv(1000)
        began = time.monotonic()
        line.sendall(beginning)
        said = everything(line)
        took_s = time.monotonic() - began

    assert said == b""
    assert 0.4 < took_s < 4


def test_who_is_slow_and_not_too_slow_is_answered(port: int) -> None:
    """The time is that of each head alone."""
    with connected(port) as line:
        for _ in range(3):
            for part in (WELL[:10], WELL[10:]):
                line.sendall(part)
                time.sleep(0.3)
            assert b" 204 " in line.recv(1000)


def test_more_than_are_taken_at_once_are_told_to_come_again(port: int, waits: Waits) -> None:
    """In the words of every other refusal; then there is room again. Whoever asks whether the
    process lives is answered: it would be killed, with everything that it has in hand."""
    waits.let.clear()
    with ExitStack() as lines:
        held = [lines.enter_context(connected(port)) for _ in range(3)]
        for line in held:
            line.sendall(WELL)
        with connected(port) as fourth:
            fourth.sendall(WELL)
            said = fourth.recv(10_000)
        with connected(port) as watch:
            watch.sendall(WELL.replace(b"/", b"/healthz", 1))
            well = watch.recv(1000)
        waits.let.set()
        answered = [line.recv(1000) for line in held]
    with connected(port) as after:
        after.sendall(WELL)
        last = after.recv(1000)

    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 2" in head
    assert json.loads(body)["sentence"]["pt"].startswith("Muitos envios ao mesmo tempo.")
    assert all(b" 204 " in one for one in [well, *answered, last])


LONG = WELL[:-2] + b"X: " + b"y" * 20_000


@pytest.mark.parametrize(
    "said",
    [b"hello\r\n\r\n", LONG, LONG + b"\r\n\r\n"],
    ids=["no HTTP", "a head that is too long", "a whole head that is too long"],
)
def test_what_is_no_request_is_refused_as_everything_else(port: int, said: bytes) -> None:
    """With problem details, and a sentence."""
    with connected(port) as line:
        line.sendall(said)
        head, _, body = everything(line).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert json.loads(body)["sentence"]["pt"]


def test_a_head_may_have_a_long_body_right_behind_it(port: int) -> None:
    """Only what a head may have is counted."""
    with connected(port) as line:
        line.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + bytes(60_000))
        assert b" 204 " in line.recv(1000)


def test_a_body_that_turns_out_to_be_none_is_refused_once(
    port: int, waits: Waits, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever was about to answer it is not heard, and that is no defect."""
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)
    with connected(port) as line:
        line.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        said = everything(line)
    wait_for(lambda: waits.over, 10, "it was answered to nobody")

    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.count(b"HTTP/1.1 ") == 1
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
