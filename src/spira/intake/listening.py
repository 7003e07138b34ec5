"""How the API listens, to clients that are slow, many, or do not speak HTTP.

uvicorn alone waits for ever for the head of a request, and what it refuses it answers in plain
text. The parser is h11, the same wherever this runs: it bounds a head, and takes nothing odd.
"""

import asyncio
import resource
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from spira.intake.problems import problem
from spira.intake.words import PROBLEMS

_HEAD_S = 20.0  # that the head of a request may take
_HEAD_BYTES = 16 << 10
_MOST_AT_ONCE = 500  # requests in hand; a phone that is told so comes again
_WATCHED = ("/healthz", "/metrics")  # busy is not dead: a supervisor would kill all in hand
_OPEN_FILES = 4096  # a connection is one, and the usual 1024 are soon held by who says nothing


def listen(app: ASGIApp, host: str, port: int, *, drained_within_s: int) -> None:
    """Serve an application until SIGTERM; then requests in hand have so long to be finished."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    uvicorn.run(
        AtMost(app), host=host, port=port, timeout_graceful_shutdown=drained_within_s, **OPTIONS
    )


class AtMost:
    """Answers 503 while too many requests are in hand; whoever watches over us is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._in_hand = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        counts = scope["type"] == "http" and scope["path"] not in _WATCHED
        if counts and self._in_hand >= _MOST_AT_ONCE:
            detail = f"{self._in_hand} requests are in hand; try again"
            after = {"Retry-After": "2"}
            said = PROBLEMS["too_many"]
            answer = problem(503, detail, headers=after, code="too_many", sentence=said)
            await answer(scope, receive, send)
            return
        self._in_hand += counts
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_hand -= counts


class Impatient(H11Protocol):
    """Hangs up on whoever does not come to the end of a request's head in time."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Go on waiting, or no longer."""
        if self.conn.their_state is h11.IDLE and len(data) > _HEAD_BYTES:
            # h11 bounds what is not whole yet: a head that comes in one read would be of any size.
            super().data_received(data[: _HEAD_BYTES + 1])
            data = data[_HEAD_BYTES + 1 :]
            if self.transport.is_closing():
                return
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._wait_no_longer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Say what every other refusal says, where no answer has begun.

        It may be the body of a request that turned out to be none: who answers it is not heard.
        """
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = bytes(problem(400, msg, code="bad_request", sentence=PROBLEMS["bad_request"]).body)
        headers = [
            (b"content-type", b"application/problem+json; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        with suppress(h11.LocalProtocolError):
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _wait_for_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._wait_no_longer()
        elif self._late is None:
            self._late = self.loop.call_later(_HEAD_S, self.transport.close)

    def _wait_no_longer(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


OPTIONS: Mapping[str, Any] = {
    "http": Impatient,
    "h11_max_incomplete_event_size": _HEAD_BYTES,
    "ws": "none",
    "log_level": "warning",
    "access_log": False,
}
