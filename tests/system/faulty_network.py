"""A network as bad as a hospital's: a proxy for tests between clients and one HTTP server.

Each connection carries one request and has a fate, drawn from the seed and the connection's
number: the same seed deals the same fates.

    clean       passes on
    slow        passes on, and every piece waits
    twice       the request arrives twice; its second answer comes back
    cut up      the connection ends while the request is on its way; the server got some of it
    cut down    it is reset while the answer is on its way; the server did it all
    truncate    it ends while the answer is on its way, as if that were all
    half-open   some of the request passes, then silence in both directions
    silent      the request passes, its answer never comes
    portal      200 and a page of HTML, whatever was asked
    login       302 to a page to log in
    other       200 and JSON, of something else
    gateway     502 and a page of HTML
"""

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

FATES = (
    "slow",
    "twice",
    "cut up",
    "cut down",
    "truncate",
    "half-open",
    "silent",
    "portal",
    "login",
    "other",
    "gateway",
)
Mode = Literal["faulty", "clean", "off", "portal"]

_INSTEAD = {  # what comes back, and nothing reaches the server
    "portal": ("200 OK", "text/html", ""),
    "login": ("302 Found", "text/html", "Location: http://portal.test/login\r\n"),
    "other": ("200 OK", "application/json", ""),
    "gateway": ("502 Bad Gateway", "text/html", "Retry-After: 3600\r\n"),
}
_PAGES = {
    "text/html": b"<html><body>Wi-Fi do hospital: aceite os termos para navegar</body></html>",
    "application/json": b'{"success": true}',
}
_CHUNK = 16 << 10
_SHORT_ANSWER = 600  # bytes: where an answer is cut


@dataclass
class FaultyNetwork:
    """The proxy; run it with `running`.

    upstream  port of the server, on this machine
    rate      how many connections in one meet a fate that is not clean
    hang_s    how long silence lasts
    mode      may be changed at any moment, and holds for new connections
    dealt     how many connections met which fate
    """

    seed: int
    upstream: int
    rate: float = 0.5
    fates: Sequence[str] = FATES
    hang_s: float = 3.0
    mode: Mode = "faulty"
    port: int = 0
    dealt: Counter[str] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        """Where clients find the server."""
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator["FaultyNetwork"]:
        """Listen in a thread of its own, at one port."""
        loop, listens = asyncio.new_event_loop(), threading.Event()
        end = asyncio.Event()

        async def serve() -> None:
            server = await asyncio.start_server(self._meet, "127.0.0.1", self.port, backlog=500)
            self.port = server.sockets[0].getsockname()[1]
            listens.set()
            await end.wait()
            server.close()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
        thread.start()
        assert listens.wait(30)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(end.set)
            thread.join(30)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _End(reader, writer)
        number = self.dealt.total()
        rng = random.Random(f"{self.seed}/{number}")
        fate = rng.choice(self.fates) if rng.random() < self.rate else "clean"
        if self.mode != "faulty":
            fate = self.mode
        self.dealt[fate] += 1
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            if fate in _INSTEAD:
                await client.request()
                await client.say(*_INSTEAD[fate])
            elif fate != "off":
                await self._pass_on(client, fate, rng)
        client.reset()

    async def _pass_on(self, client: "_End", fate: str, rng: random.Random) -> None:
        request = await client.request(rng if fate in ("cut up", "half-open") else None)
        server = _End(*await asyncio.open_connection("127.0.0.1", self.upstream))
        wait_s = rng.uniform(0.0, 0.1) if fate == "slow" else 0.0
        try:
            if fate == "twice":
                earlier = _End(*await asyncio.open_connection("127.0.0.1", self.upstream))
                await earlier.write(request)
                await server.write(request)
                await client.write(await server.all())
                await client.close()
                with suppress(TimeoutError):
                    await asyncio.wait_for(earlier.all(), self.hang_s)
                await earlier.close()
                return
            await server.write(request, wait_s)
            if fate in ("half-open", "silent"):
                await asyncio.sleep(self.hang_s)
            elif fate in ("cut down", "truncate"):
                answer = await server.all()
                await client.write(answer[: rng.randrange(min(len(answer), _SHORT_ANSWER))])
                if fate == "truncate":
                    await client.close()
            elif fate != "cut up":
                await client.write(await server.all(), wait_s)
                await client.close()
        finally:
            await server.close()


@dataclass
class _End:
    """One end of a connection that carries one request."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def request(self, rng: random.Random | None = None) -> bytes:
        """The request, or some of its first bytes; the server is told to hang up after it."""
        line, _, rest = (await self.reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
        head = line + b"\r\nConnection: close\r\n" + rest
        found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        length = int(found[1]) if found else 0
        n_bytes = len(head) + length if rng is None else rng.randrange(len(head) + length)
        return (head + await self.reader.readexactly(max(0, n_bytes - len(head))))[:n_bytes]

    async def all(self) -> bytes:
        """Everything until the other side hangs up."""
        return await self.reader.read(-1)

    async def write(self, data: bytes, wait_s: float = 0.0) -> None:
        """Send, in pieces with pauses."""
        for at in range(0, len(data), _CHUNK):
            await asyncio.sleep(wait_s)
            self.writer.write(data[at : at + _CHUNK])
            await self.writer.drain()

    async def say(self, status: str, kind: str, headers: str) -> None:
        """Answer in the server's place."""
        page = _PAGES[kind]
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(page)}\r\n"
            f"{headers}Connection: close\r\n\r\n"
        )
        await self.write(head.encode() + page)
        await self.close()

    async def close(self) -> None:
        """Hang up once everything is sent."""
        with suppress(OSError):
            self.writer.close()
            await self.writer.wait_closed()

    def reset(self) -> None:
        """Hang up at once."""
        connection = self.writer.get_extra_info("socket")
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
