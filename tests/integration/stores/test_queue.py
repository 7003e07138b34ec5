"""The queue on a real nats-server: kills, a wiped folder, a full stream, two on one folder."""

import asyncio
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from spira.domain.errors import InputError, StorageFull, TransientError
from spira.stores import queue as queue_module
from spira.stores.queue import Queue, nats_server

ASKS = "spira.asks"


@asynccontextmanager
async def connected(local_queue: Any) -> AsyncIterator[Queue]:
    """A connection that is closed in the end."""
    queue = await Queue.connect(local_queue.url, token=local_queue.server.token)
    try:
        yield queue
    finally:
        await queue.close()


async def until(ask: Callable[[], Awaitable[Any]], within_s: float = 20) -> Any:
    """The first answer that is something; TransientErrors mean: ask again."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            answer = await ask()
        except TransientError:
            answer = None
        if answer:
            return answer
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def all_of(queue: Queue, n: int) -> list[Msg]:
    """Fetch and acknowledge until so many different messages came, and then no more."""
    found: dict[bytes, Msg] = {}
    while len(found) < n:
        for message in await until(lambda: queue.fetch("asks", "some", 50)):
            found[message.data] = message
            await queue.ack_sync(message)
    assert await queue.fetch("asks", "some", 1, within_s=0.2) == []
    return list(found.values())


def test_a_message_comes_once_however_often_it_is_published(local_queue: Any) -> None:
    """Also when it has been acknowledged away by then."""

    async def scenario() -> None:
        async with connected(local_queue) as queue:
            for _ in range(2):
                await queue.publish(ASKS, "a:1", b"first")
            (message,) = await queue.fetch("asks", "some", 10)
            assert message.data == b"first"
            await queue.ack_sync(message)
            await queue.publish(ASKS, "a:1", b"first")
            assert await queue.fetch("asks", "some", 10, within_s=0.2) == []

    asyncio.run(scenario())


def test_what_was_published_survives_a_kill_and_the_address_stays(local_queue: Any) -> None:
    """The connection finds the server again by itself."""

    async def scenario() -> None:
        async with connected(local_queue) as queue:
            await queue.publish(ASKS, "a:1", b"before")
            url = local_queue.url
            local_queue.kill()
            local_queue.up()
            assert local_queue.url == url
            await queue.publish(ASKS, "a:2", b"after")
            assert [one.data for one in await all_of(queue, 2)] == [b"before", b"after"]

    asyncio.run(scenario())


def test_a_server_that_is_away_at_first_is_told_and_found_later(
    local_queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for ever, and nothing has to be made anew by whoever asks."""
    monkeypatch.setattr(queue_module, "_JOIN_WITHIN_S", 0.5)

    async def scenario() -> None:
        local_queue.kill()
        began = time.monotonic()
        async with connected(local_queue) as queue:
            with pytest.raises(TransientError, match="does not answer"):
                await queue.publish(ASKS, "a:1", b"x", within_s=0.1)
            with pytest.raises(TransientError):
                await queue.fetch("asks", "some", 1)
            assert time.monotonic() - began < 5
            local_queue.up()
            await queue.publish(ASKS, "a:1", b"x")
            assert len(await all_of(queue, 1)) == 1

    asyncio.run(scenario())


def test_every_message_that_was_taken_is_delivered_whatever_is_killed(
    local_queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is killed at random moments while one side publishes and the other fetches."""
    monkeypatch.setattr(queue_module, "ACKNOWLEDGE_WITHIN_S", 1.0)
    monkeypatch.setattr(queue_module, "_ANSWER_WITHIN_S", 0.5)
    chance = random.Random(7)

    async def publish(queue: Queue, done: asyncio.Event) -> None:
        for number in range(1500):
            await until(lambda n=number: _published(queue, n), within_s=60)  # type: ignore[misc]
        done.set()

    async def fetch(queue: Queue) -> set[bytes]:
        found: set[bytes] = set()
        while len(found) < 1500:
            for message in await until(lambda: queue.fetch("asks", "some", 10), within_s=60):
                found.add(message.data)
                try:
                    await queue.ack_sync(message)
                except TransientError:
                    continue  # it comes again
        return found

    async def kill(done: asyncio.Event) -> int:
        kills = 0
        while not done.is_set() and kills < 6:
            await asyncio.sleep(chance.uniform(0.05, 0.3))
            local_queue.kill()
            local_queue.up()
            kills += 1
        return kills

    async def scenario() -> None:
        done = asyncio.Event()
        async with connected(local_queue) as one, connected(local_queue) as other:
            _, found, kills = await asyncio.gather(publish(one, done), fetch(other), kill(done))
        assert found == {b"%d" % number for number in range(1500)}
        assert kills > 1

    asyncio.run(scenario())


async def _published(queue: Queue, number: int) -> bool:
    await queue.publish(ASKS, f"a:{number}", b"%d" % number)
    return True


@pytest.mark.parametrize("killed", [True, False])
def test_streams_are_made_again_where_the_folder_was_wiped(local_queue: Any, killed: bool) -> None:
    """Under the server, or while it was away; connections from before go on."""

    async def scenario() -> None:
        async with connected(local_queue) as queue, connected(local_queue) as other:
            await queue.publish(ASKS, "a:1", b"lost")
            assert await other.fetch("asks", "some", 1)
            shutil.rmtree(local_queue.folder / "jetstream")
            if killed:
                local_queue.kill()
                local_queue.up()
                assert await until(lambda: _published(queue, 2))
                found = await until(lambda: other.fetch("asks", "some", 1))
                assert [one.data for one in found] == [b"2"]
            else:
                assert await until(lambda: _published(queue, 2))
                assert await until(lambda: other.fetch("asks", "some", 1))

    asyncio.run(scenario())


def test_a_full_stream_says_so_and_takes_more_when_there_is_room(
    local_queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is dropped to make room."""
    small = queue_module.STREAMS["asks"].evolve(max_msgs=2)
    monkeypatch.setitem(queue_module.STREAMS, "asks", small)

    async def scenario() -> None:
        async with connected(local_queue) as queue:
            for number in range(2):
                await _published(queue, number)
            with pytest.raises(StorageFull, match="it is full"):
                await _published(queue, 2)
            (first,) = await queue.fetch("asks", "some", 1)
            await queue.ack_sync(first)
            await _published(queue, 2)
            assert [one.data for one in await all_of(queue, 2)] == [b"1", b"2"]

    asyncio.run(scenario())


def test_streams_with_other_limits_get_ours(local_queue: Any) -> None:
    """Of an earlier version; what is in them stays."""

    async def scenario() -> None:
        async with connected(local_queue) as queue:
            await _published(queue, 1)
            before = dict(queue_module.STREAMS)
            changed: StreamConfig = before["asks"].evolve(max_bytes=1 << 20)
            queue_module.STREAMS["asks"] = changed
            try:
                await queue.ensure()
            finally:
                queue_module.STREAMS.update(before)
            await queue.ensure()
            assert len(await all_of(queue, 1)) == 1

    asyncio.run(scenario())


def test_a_message_that_is_given_back_comes_again_after_its_delay(local_queue: Any) -> None:
    """Not before."""

    async def scenario() -> None:
        async with connected(local_queue) as queue:
            await _published(queue, 1)
            (message,) = await queue.fetch("asks", "some", 1)
            given_back = time.monotonic()
            await queue.nak(message, 0.7)
            (again,) = await until(lambda: queue.fetch("asks", "some", 1))
            assert time.monotonic() - given_back > 0.6
            assert (again.data, again.metadata.num_delivered) == (b"1", 2)

    asyncio.run(scenario())


def test_a_message_is_dropped_when_its_time_is_over(local_queue: Any) -> None:
    """Fetched or not; whoever has it may acknowledge it all the same. Others stay."""

    async def scenario() -> None:
        async with connected(local_queue) as queue:
            for number in range(2):
                await queue.publish(ASKS, f"a:{number}", b"%d" % number, keep_s=1)
            await _published(queue, 2)
            (message,) = await queue.fetch("asks", "some", 1)
            await until(lambda: _only_one_left(queue))
            await queue.ack_sync(message)
            assert [one.data for one in await all_of(queue, 1)] == [b"2"]

    asyncio.run(scenario())


async def _only_one_left(queue: Queue) -> bool:
    info = await (await queue._joined()).jetstream().stream_info("asks")
    return info.state.messages == 1


def test_a_server_that_hangs_is_noticed(local_queue: Any) -> None:
    """It has the connection, and says nothing."""

    async def scenario() -> None:
        async with connected(local_queue) as queue:
            os.kill(local_queue.pid, signal.SIGSTOP)
            try:
                began = time.monotonic()
                with pytest.raises(TransientError):
                    await queue.publish(ASKS, "a:1", b"1", within_s=1)
                assert time.monotonic() - began < 15
            finally:
                os.kill(local_queue.pid, signal.SIGCONT)
            await until(lambda: _published(queue, 1))
            assert len(await all_of(queue, 1)) >= 1

    asyncio.run(scenario())


def test_who_stops_waiting_for_messages_is_stopped(local_queue: Any) -> None:
    """nats-py's own cancellations are failures; a real one is none."""

    async def scenario() -> None:
        async with connected(local_queue) as queue:
            waiting = asyncio.create_task(queue.fetch("asks", "some", 1))
            await asyncio.sleep(0.1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            lost = asyncio.create_task(queue.fetch("asks", "some", 1))
            await asyncio.sleep(0.1)
            await queue.close()
            with pytest.raises(TransientError):
                await lost

    asyncio.run(scenario())


def test_only_this_machine_and_only_with_the_secret(local_queue: Any, tmp_path: Path) -> None:
    """And only this user reads the secret."""
    for name in ("token", "server.conf"):
        mode = (local_queue.folder / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
    listening = subprocess.run(["cat", "/proc/net/tcp"], capture_output=True, text=True, check=True)
    port = f":{int(local_queue.url.rpartition(':')[2]):04X}"
    places = [line.split()[1] for line in listening.stdout.splitlines() if " 0A " in line]
    assert [place for place in places if place.endswith(port)] == ["0100007F" + port]

    async def scenario(token: Path | None) -> None:
        queue = await Queue.connect(local_queue.url, token=token)
        try:
            await queue.ensure()
        finally:
            await queue.close()

    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    for token in (wrong, None, tmp_path / "nowhere"):
        with pytest.raises(TransientError, match=r"token|not there"):
            asyncio.run(scenario(token))
    asyncio.run(scenario(local_queue.server.token))


def test_a_second_server_on_one_folder_is_refused(local_queue: Any) -> None:
    """Two would lose each other's messages without a word; the server itself holds the lock."""
    held = [path.readlink() for path in Path(f"/proc/{local_queue.pid}/fd").iterdir()]
    assert local_queue.folder / "lock" in held
    with (
        pytest.raises(InputError, match="another queue server is running"),
        nats_server(local_queue.folder),
    ):
        pytest.fail("it was started")


def test_a_port_that_somebody_took_meanwhile_is_chosen_anew(tmp_path: Path) -> None:
    """Between two starts, for example over a reboot."""
    folder = tmp_path / "queue"
    with nats_server(folder) as server:
        _watch(server)
        first = server.url
    assert first is not None
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(first.rpartition(":")[2])))
        other.listen()
        with nats_server(folder) as server:
            _watch(server)
            assert server.url not in (first, None)


def test_the_server_ends_with_a_killed_supervisor_and_the_next_one_may_start(
    tmp_path: Path,
) -> None:
    """At once: whoever starts it again does not have to wait."""
    folder = tmp_path / "queue"
    supervisor = subprocess.Popen([sys.executable, "-c", _SUPERVISOR, str(folder)], stdout=-1)
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())

    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    with nats_server(folder) as server:
        assert not Path(f"/proc/{pid}").exists() or _is_dead(pid)
        _watch(server)


def _is_dead(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"


def _watch(server: queue_module.NatsServer) -> None:
    deadline = time.monotonic() + 30
    while not server.process.well:
        assert time.monotonic() < deadline
        server.process.watch()
        time.sleep(0.01)


_SUPERVISOR = """
import sys, time
from pathlib import Path
from spira.stores.queue import nats_server
with nats_server(Path(sys.argv[1])) as server:
    while not server.process.well:
        server.process.watch()
        time.sleep(0.01)
    print(server.process.pid, flush=True)
    time.sleep(60)
"""
