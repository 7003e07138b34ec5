"""The relay between real databases and a real queue, with a real predictor at the other end."""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats.errors
import numpy as np
import pytest

from spira.console import Console
from spira.domain.draws import draws
from spira.domain.errors import TransientError
from spira.model.bundle import load
from spira.model.scoring import Scorer
from spira.serving import relay as relay_module
from spira.serving import results as results_module
from spira.serving import service
from spira.serving.assessments import Assessments
from spira.serving.messages import REPLIES, Reply, write_message
from spira.serving.predictor import Model, Predictor
from spira.serving.relay import Relay
from spira.serving.results import Results
from spira.serving.settings import ServingSettings
from spira.settings import Settings
from spira.stores import queue as queue_module
from spira.stores.database import Database
from spira.stores.objects import Objects
from spira.stores.processes import stop_all
from spira.stores.queue import Queue
from spira.wiring import Application

Waits = Callable[..., str]
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # it matters little


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not acknowledged comes again after a second."""
    monkeypatch.setattr(queue_module, "ACKNOWLEDGE_WITHIN_S", 1.0)


@pytest.fixture
def assessments(database: Database) -> Assessments:
    """None yet."""
    return Assessments(database)


@pytest.fixture
def model(make_bundle: Callable[..., Path]) -> Model:
    """Another answer for every recording."""
    return Model("spira/1@tiny", *load(make_bundle()))


@pytest.fixture
def recorded(objects: Objects, wait_for_answer: Waits) -> Callable[[int], str]:
    """`recorded(3)`: assessment 3 waits, and its recording, which sounds like no other, is there;
    its id."""

    def record(number: int) -> str:
        data = samples(number)
        key = f"recordings/{number}.f32"
        objects.create(key, data)
        digest = hashlib.sha256(data).hexdigest()
        return wait_for_answer(number, minutes=100 - number, audio=key, audio_sha256=digest)

    return record


def samples(number: int) -> bytes:
    """Noise of a loudness of its own."""
    noise = draws(number, "test relay").standard_normal(4 * 16_000)
    return bytes((0.01 * (1 + number) * noise).astype("<f4").tobytes())


@asynccontextmanager
async def working(
    local_queue: Any,
    assessments: Assessments,
    *,
    relays: int = 1,
    lease_s: float = 60,
    champion: Callable[[], str | None] = lambda: "spira/1",
    **more: Any,
) -> AsyncIterator[Queue]:
    """So many relays at work, each with its own connection; the first one's is given."""
    stop = asyncio.Event()
    settings = ServingSettings(lease_s=lease_s, **more)
    queues = [await connected(local_queue) for _ in range(relays)]
    tasks = [
        asyncio.create_task(Relay(assessments, lambda now: 0, champion, queue, settings).run(stop))
        for queue in queues
    ]
    try:
        yield queues[0]
    finally:
        stop.set()
        await asyncio.gather(*tasks)
        for queue in queues:
            await queue.close()


async def connected(local_queue: Any) -> Queue:
    """A connection."""
    return await Queue.connect(local_queue.url, token=local_queue.server.token)


@asynccontextmanager
async def predicting(queue: Queue, objects: Objects, model: Model) -> AsyncIterator[None]:
    """A predictor at work."""
    stop = asyncio.Event()
    predictor = asyncio.create_task(Predictor(queue, objects, lambda: model).run(stop))
    try:
        yield
    finally:
        stop.set()
        await predictor


async def until(condition: Callable[[], Any], within_s: float = 60) -> None:
    """Wait for it."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def in_stream(queue: Queue, stream: str) -> int:
    """How many messages are in the queue."""
    client = await queue._joined()
    info = await client.jetstream().stream_info(stream)
    return int(info.state.messages)


async def until_in_stream(queue: Queue, stream: str, fit: Callable[[int], bool]) -> None:
    """Wait until the number of messages in the queue fits, and for a server that is away."""
    async with asyncio.timeout(60):
        while True:
            with suppress(TransientError, nats.errors.Error):
                if fit(await in_stream(queue, stream)):
                    return
            await asyncio.sleep(0.05)


def open_ones(assessments: Assessments) -> list[str]:
    """What has no answer."""
    rows = assessments.changed_after("ward", 0, 1000)
    return [row.id for row in rows if row.state == "queued"]


def assert_right(assessments: Assessments, scorer: Scorer, numbers: dict[str, int]) -> None:
    """Every answer is what the model says of exactly these samples; nothing has failed."""
    for assessment, number in numbers.items():
        row = assessments.about(assessment)
        assert row is not None
        scored = json.loads(row.answer)["scored"]
        expected = scorer.score(np.frombuffer(samples(number), np.float32)).probability
        assert (row.state, scored["probability"]) == (
            "completed",
            pytest.approx(expected, abs=1e-6),
        )
    assert assessments.dead_letters() == []


@on_sqlite
def test_the_folder_of_the_queue_is_wiped_while_fifty_wait(
    local_queue: Any,
    assessments: Assessments,
    objects: Objects,
    model: Model,
    recorded: Callable[[int], str],
) -> None:
    """They are asked again when their leases have run out, and each has its own answer."""
    numbers = {recorded(number): number for number in range(50)}

    async def scenario() -> None:
        async with working(local_queue, assessments, lease_s=2) as queue:
            await until_in_stream(queue, "asks", lambda n: n >= 50)
            local_queue.kill()
            shutil.rmtree(local_queue.folder / "jetstream")
            local_queue.up()
            other = await connected(local_queue)
            async with predicting(other, objects, model):
                await until(lambda: not open_ones(assessments))
            await other.close()

    asyncio.run(scenario())

    assert_right(assessments, model.scorer, numbers)


def test_two_relays_ask_once_about_each(
    local_queue: Any,
    assessments: Assessments,
    objects: Objects,
    model: Model,
    recorded: Callable[[int], str],
) -> None:
    """Never more than may be under way; replies are taken by either."""
    numbers = {recorded(number): number for number in range(30)}
    most = 0

    async def scenario() -> None:
        nonlocal most
        async with working(local_queue, assessments, relays=2, in_flight=6) as queue:
            await until(lambda: sum(row.attempt for row in rows()) == 6)
            await asyncio.sleep(1)  # several looks at what waits
            most = sum(row.attempt for row in rows())
            async with predicting(queue, objects, model):
                await until(lambda: not open_ones(assessments))

    def rows() -> Any:
        return assessments.changed_after("ward", 0, 99)

    asyncio.run(scenario())

    assert most == 6
    assert {row.attempt for row in rows()} == {1}
    assert_right(assessments, model.scorer, numbers)


@on_sqlite
def test_what_nobody_fetches_leaves_the_queue_with_its_lease(
    local_queue: Any,
    assessments: Assessments,
    objects: Objects,
    model: Model,
    recorded: Callable[[int], str],
) -> None:
    """Without a predictor leases run out, and no more than may be under way are in the queue; with
    one all are answered."""
    numbers = {recorded(number): number for number in range(6)}

    async def scenario() -> None:
        async with working(local_queue, assessments, lease_s=2, in_flight=3) as queue:
            await until(lambda: sum(_attempts(assessments, [*numbers])) >= 4 * 3)
            await until_in_stream(queue, "asks", lambda n: n <= 3)
            async with predicting(queue, objects, model):
                await until(lambda: not open_ones(assessments))

    asyncio.run(scenario())

    assert_right(assessments, model.scorer, numbers)


@on_sqlite
def test_a_recording_that_kills_predictors_ends_however_short_its_leases(
    local_queue: Any,
    assessments: Assessments,
    objects: Objects,
    model: Model,
    recorded: Callable[[int], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No message of it ever comes a second time: each has left the queue by then."""
    monkeypatch.setattr(queue_module, "ACKNOWLEDGE_WITHIN_S", 10.0)
    monkeypatch.setattr(results_module, "_MOST_REACHED", 3)
    one = recorded(1)

    class Killed(Queue):
        async def nak(self, message: Any, delay_s: float) -> None:
            """Whoever is killed gives nothing back."""

    class Deadly:
        def score(self, waveform: Any) -> Any:
            raise RuntimeError

    deadly = Model(model.name, model.manifest, Deadly())  # type: ignore[arg-type]

    async def scenario() -> None:
        killed = await Killed.connect(local_queue.url, token=local_queue.server.token)
        async with (
            working(local_queue, assessments, lease_s=1),
            predicting(killed, objects, deadly),
        ):
            await until(assessments.dead_letters)
        await killed.close()

    asyncio.run(scenario())

    (letter,) = assessments.dead_letters()
    assert (letter.assessment, letter.kind) == (one, "unknown")


@on_sqlite
def test_nothing_is_asked_while_there_is_no_model(
    local_queue: Any,
    assessments: Assessments,
    recorded: Callable[[int], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waits is chosen when there is one: by then others may be more urgent."""
    monkeypatch.setattr(relay_module, "_LOOK_FOR_MODEL_S", 0.2)
    one = recorded(1)
    looks: list[str | None] = []
    name: str | None = None

    def champion() -> str | None:
        looks.append(name)
        return name

    async def scenario() -> None:
        nonlocal name
        async with working(local_queue, assessments, champion=champion) as queue:
            await until(lambda: len(looks) >= 8)  # what waits is looked at as often
            assert _attempts(assessments, [one]) == [0]
            assert await in_stream(queue, "asks") == 0
            name = "spira/1"
            await until(lambda: _attempts(assessments, [one]) == [1])

    asyncio.run(scenario())


@on_sqlite
def test_what_cannot_be_published_is_free_at_once(
    local_queue: Any,
    assessments: Assessments,
    recorded: Callable[[int], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the queue is away no lease of an hour is wasted: when it is back, all are asked."""

    async def soon(self: Queue, *words: Any, **more: Any) -> None:
        await publish(self, *words, within_s=0.5 if away else 10.0, **more)

    publish, away = Queue.publish, False
    monkeypatch.setattr(Queue, "publish", soon)
    waiting = [recorded(number) for number in range(8)]

    async def scenario() -> None:
        nonlocal away
        async with working(local_queue, assessments, lease_s=3600) as queue:
            await until_in_stream(queue, "asks", lambda n: n >= 8)
            away = True
            local_queue.kill()
            more = recorded(9)
            await until(lambda: _attempts(assessments, [more])[0] >= 2)  # tried, and given back
            away = False
            local_queue.up()
            await until_in_stream(queue, "asks", lambda n: n >= 9)

    asyncio.run(scenario())

    assert _attempts(assessments, waiting) == [1] * 8


def _attempts(assessments: Assessments, waiting: list[str]) -> list[int]:
    rows = [assessments.about(one) for one in waiting]
    return [row.attempt for row in rows if row is not None]


@on_sqlite
def test_a_strange_reply_holds_up_no_other(
    local_queue: Any,
    assessments: Assessments,
    recorded: Callable[[int], str],
    reply_to: Callable[..., Reply],
) -> None:
    """One that is none, one whose model cannot be read, one about nothing: they are dropped."""
    one, other = recorded(1), recorded(2)
    strange = [
        b"\xff not one",
        write_message(reply_to(one).model_copy(update={"manifest": {"of": "another version"}})),
        write_message(reply_to("01938f00-0000-7000-8000-00000000dead")),
    ]

    async def scenario() -> None:
        async with working(local_queue, assessments) as queue:
            for number, body in enumerate([*strange, write_message(reply_to(other))]):
                await queue.publish(REPLIES, f"reply {number}", body)
            await until(lambda: open_ones(assessments) == [one])
            await until_in_stream(queue, "replies", lambda n: n == 0)

    asyncio.run(scenario())


def test_a_reply_that_cannot_be_written_down_holds_up_no_other(
    local_queue: Any,
    assessments: Assessments,
    recorded: Callable[[int], str],
    reply_to: Callable[..., Reply],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of a later version, one that the writer fails at: each comes again until somebody can,
    and those beside it are taken meanwhile."""
    later, hard, other = recorded(1), recorded(2), recorded(3)
    of_later = {**json.loads(write_message(reply_to(later))), "version": 2}
    write, failed = Results.write, 0

    def fail_at_first(self: Results, reply: Reply) -> bool:
        nonlocal failed
        if reply.assessment == hard and failed < 2:
            failed += 1
            raise KeyError("a fault of ours")
        return write(self, reply)

    monkeypatch.setattr(Results, "write", fail_at_first)
    monkeypatch.setattr(relay_module, "_REPLY_AGAIN_S", 0.5)

    async def scenario() -> None:
        queue = await connected(local_queue)
        bodies = [json.dumps(of_later).encode(), *map(write_message, map(reply_to, (hard, other)))]
        for number, body in enumerate(bodies):
            await queue.publish(REPLIES, f"reply {number}", body)
        async with working(local_queue, assessments):
            await until(lambda: open_ones(assessments) == [later], within_s=20)
            await until_in_stream(queue, "replies", lambda left: left == 1)
        await queue.close()

    asyncio.run(scenario())

    assert failed == 2


@on_sqlite
def test_a_fault_of_ours_ends_no_relay(
    local_queue: Any,
    assessments: Assessments,
    objects: Objects,
    model: Model,
    recorded: Callable[[int], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it did is done again, and everything is answered."""
    monkeypatch.setattr(relay_module, "_AFTER_TROUBLE_S", 0.1)
    lease, failed = Assessments.lease, 0

    def fail_at_first(self: Assessments, **how: Any) -> Any:
        nonlocal failed
        if failed < 3:
            failed += 1
            raise ZeroDivisionError
        return lease(self, **how)

    monkeypatch.setattr(Assessments, "lease", fail_at_first)
    numbers = {recorded(1): 1}

    async def scenario() -> None:
        async with (
            working(local_queue, assessments) as queue,
            predicting(queue, objects, model),
        ):
            await until(lambda: not open_ones(assessments), within_s=20)

    asyncio.run(scenario())

    assert failed == 3
    assert_right(assessments, model.scorer, numbers)


@on_sqlite
def test_a_relay_that_hangs_is_not_well_and_one_in_trouble_is(
    local_queue: Any, assessments: Assessments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is away is waited for; one that never answers is left by starting again."""
    monkeypatch.setattr(relay_module, "_AFTER_TROUBLE_S", 0.1)
    monkeypatch.setattr(relay_module, "_FETCH_S", 0.2)
    monkeypatch.setattr(relay_module, "_HANGS_S", 1.0)
    answers, hangs = threading.Event(), False

    def lease(self: Assessments, **_: Any) -> Any:
        if not hangs:
            raise TransientError("away")
        answers.wait(60)
        return []

    monkeypatch.setattr(Assessments, "lease", lease)

    async def scenario() -> None:
        nonlocal hangs
        stop, queue = asyncio.Event(), await connected(local_queue)
        relay = Relay(assessments, lambda now: 0, lambda: "spira/1", queue, ServingSettings())
        working = asyncio.create_task(relay.run(stop))
        try:
            for _ in range(20):
                assert relay.is_well
                await asyncio.sleep(0.1)
            hangs = True
            await until(lambda: not relay.is_well)
            answers.set()
            await until(lambda: relay.is_well)
        finally:
            answers.set()
            stop.set()
            await working
            await queue.close()

    asyncio.run(scenario())


def test_the_supervisor_starts_a_relay_again_that_hangs(
    local_queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suspended one, as one whose loop is stuck, says nothing where it is asked."""
    monkeypatch.setenv(service.TOKEN, local_queue.server.token.read_text())
    serving = ServingSettings(queue=local_queue.url, predictors=0, port=0)
    app = Application(Settings(home=tmp_path / "home", serving=serving), Console())
    app.prepare()
    (app.home / "serving").mkdir()
    _, relay = service._processes(app, app.home / "serving", None)
    relay.silent_s = 1.0

    def watched(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            relay.watch()
            time.sleep(0.05)

    try:
        watched(lambda: relay.well)
        first = relay.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        watched(lambda: relay.pid not in (None, first))
    finally:
        stop_all([relay], within_s=0)


@on_sqlite
def test_the_sweeper_is_told_the_time_and_its_trouble_stops_nothing_else(
    local_queue: Any, assessments: Assessments, recorded: Callable[[int], str]
) -> None:
    """A store that is away while it sweeps: what waits is asked all the same."""
    then = datetime(2031, 1, 1, tzinfo=UTC)
    told: list[datetime] = []

    def sweep(now: datetime) -> int:
        told.append(now)
        raise TransientError("the store is away")

    one = recorded(1)

    async def scenario() -> None:
        stop = asyncio.Event()
        queue = await connected(local_queue)
        settings = ServingSettings(sweep_every_s=1.0)
        relay = Relay(assessments, sweep, lambda: "spira/1", queue, settings, now=lambda: then)
        task = asyncio.create_task(relay.run(stop))
        await until(lambda: len(told) >= 2 and _attempts(assessments, [one]) == [1])
        stop.set()
        await task
        await queue.close()

    asyncio.run(scenario())

    assert set(told) == {then}
    row = assessments.about(one)
    assert row is not None
    assert datetime.fromisoformat(row.lease_until) == then + timedelta(minutes=1)
