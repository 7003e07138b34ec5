"""The predictor on a real queue: every ask ends in one reply, whatever is killed or away."""

import asyncio
import contextlib
import hashlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nats.aio.msg import Msg

from spira.domain.errors import InputError, PolicyRefused, TransientError
from spira.model.bundle import load
from spira.model.scoring import Score
from spira.serving import predictor as predictor_module
from spira.serving.messages import ASKS, Ask, Reply, read_message, write_message
from spira.serving.predictor import Breaker, Model, Predictor, load_champion
from spira.stores import queue as queue_module
from spira.stores.objects import Objects
from spira.stores.queue import Queue
from spira.stores.registry import ChampionChange, Registry

Bundles = Callable[..., Path]
Asks = Callable[..., Ask]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not acknowledged comes again after a second."""
    monkeypatch.setattr(queue_module, "ACKNOWLEDGE_WITHIN_S", 1.0)
    monkeypatch.setattr(predictor_module, "ACKNOWLEDGE_WITHIN_S", 1.0)


def model_of(bundle: Path) -> Model:
    """The model in a bundle, without a registry."""
    manifest, scorer = load(bundle)
    return Model("spira/1@tiny", manifest, scorer)


@asynccontextmanager
async def connected(local_queue: Any, kind: type[Queue] = Queue) -> AsyncIterator[Queue]:
    """A connection that is closed in the end."""
    queue = await kind.connect(local_queue.url, token=local_queue.server.token)
    try:
        yield queue
    finally:
        await queue.close()


@asynccontextmanager
async def predicting(
    queue: Queue, objects: Objects, load_model: Callable[[], Model], **how: Any
) -> AsyncIterator[Predictor]:
    """A predictor at work; told to stop in the end."""
    predictor, stop = Predictor(queue, objects, load_model, **how), asyncio.Event()
    working = asyncio.create_task(predictor.run(stop))
    try:
        yield predictor
    finally:
        stop.set()
        await working


async def ask_all(queue: Queue, asks: Iterable[Ask]) -> None:
    """Publish as the relay does."""
    for ask in asks:
        await queue.publish(ASKS, ask.identity, write_message(ask), within_s=60)


async def replies(queue: Queue, n: int, *, within_s: float = 30) -> list[Reply]:
    """Every reply until so many ended an ask, and nothing more for a moment."""
    found: list[Reply] = []
    deadline = time.monotonic() + within_s
    while True:
        enough = len({one.assessment for one in found if one.kind != "tried"}) >= n
        try:
            fetched = await queue.fetch("replies", "test", 50, within_s=0.3 if enough else 1)
        except TransientError:
            continue
        for message in fetched:
            found.append(read_message(Reply, message.data))
            with contextlib.suppress(TransientError):
                await queue.ack_sync(message)
        if enough and not fetched:
            return found
        assert time.monotonic() < deadline, f"{len(found)} replies of {n}"


def ended(found: Iterable[Reply]) -> dict[str, Reply]:
    """Replies that end an ask; never two different ones for one."""
    by_assessment: dict[str, Reply] = {}
    for reply in found:
        if reply.kind != "tried":
            assert by_assessment.setdefault(reply.assessment, reply) == reply
    return by_assessment


async def until(condition: Callable[[], bool], within_s: float = 20) -> None:
    """Wait for it."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def value(predictor: Predictor, name: str, **labels: str) -> float:
    """A figure that Prometheus would be told."""
    return predictor.metrics.registry.get_sample_value(f"spira_predictor_{name}", labels) or 0.0


async def left(queue: Queue) -> int:
    """How many asks are still in the stream."""
    client = await queue._joined()
    info = await client.jetstream().stream_info("asks")
    return int(info.state.messages)


def test_every_ask_has_the_answer_of_its_own_recording(
    local_queue: Any, objects: Objects, make_bundle: Bundles, ask_for: Asks
) -> None:
    """The figures of `score()`, with the model that they are from; nothing is left in the queue."""
    model = model_of(make_bundle())
    asks = [ask_for(number) for number in range(20)]

    async def scenario() -> list[Reply]:
        async with connected(local_queue) as queue:
            await ask_all(queue, asks)
            async with predicting(queue, objects, lambda: model) as predictor:
                found = await replies(queue, 20)
            assert await left(queue) == 0
            assert value(predictor, "windows_total") == sum(one.windows or 0 for one in found)
            answers = ("positive", "negative", "inconclusive")
            assert sum(value(predictor, "answers_total", outcome=one) for one in answers) == 20
            return found

    found = ended(asyncio.run(scenario()))

    assert len({reply.probability for reply in found.values()}) == 20
    for ask in asks:
        stored = objects.read(ask.audio)
        assert stored is not None
        score = model.scorer.score(np.frombuffer(stored, np.float32))
        reply = found[ask.assessment]
        assert (reply.probability, reply.calibrated) == (score.probability, score.calibrated)
        assert (reply.outcome, reply.windows) == (score.outcome, len(score.window_logits))
        assert (reply.model, reply.attempt) == ("spira/1@tiny", 1)
        assert reply.manifest == model.manifest.model_dump(mode="json")


def test_an_ask_that_comes_again_has_no_second_reply(
    local_queue: Any, objects: Objects, make_bundle: Bundles, ask_for: Asks
) -> None:
    """Though the model is another one by then: the reply's acknowledgement was lost, not it."""
    models = [model_of(make_bundle("one")), model_of(make_bundle("other", shift=1.0))]

    class Forgetful(Queue):
        async def ack_sync(self, message: Msg) -> None:
            if message.metadata.num_delivered == 1:
                predictor._model = models[1]
                raise TransientError("the predictor is killed here")
            await super().ack_sync(message)

    async def scenario() -> list[Reply]:
        nonlocal predictor
        async with connected(local_queue) as queue, connected(local_queue, Forgetful) as forgetful:
            await ask_all(queue, [ask_for(1)])
            async with predicting(forgetful, objects, lambda: models[0]) as predictor:
                await until(lambda: value(predictor, "answers_total", outcome="positive") >= 1)
                while await left(queue):
                    await asyncio.sleep(0.02)
            return await replies(queue, 1)

    predictor: Predictor
    found = asyncio.run(scenario())

    assert [reply.kind for reply in found] == ["scored", "tried"]
    score = models[0].scorer.score(np.frombuffer(objects.read(ask_for(1).audio) or b"", np.float32))
    assert found[0].probability == score.probability


def test_an_ask_is_not_done_with_before_its_reply_is_taken(
    local_queue: Any, objects: Objects, make_bundle: Bundles, ask_for: Asks
) -> None:
    """A queue that takes no reply, or a kill at that moment, makes the ask come again."""
    bundle = make_bundle()

    class Full(Queue):
        full = True

        async def publish(self, *what: Any, **how: Any) -> None:
            if self.full:
                assert await left(self) == 1
                self.full = False
                raise TransientError("the stream is full")
            await super().publish(*what, **how)

    async def scenario() -> list[Reply]:
        async with connected(local_queue) as queue, connected(local_queue, Full) as full:
            await ask_all(queue, [ask_for(1)])
            async with predicting(full, objects, lambda: model_of(bundle)):
                return await replies(queue, 1)

    assert len(ended(asyncio.run(scenario()))) == 1


GARBAGE = [
    b"",
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b"{}",
    b"[" * 50_000,
    b'{"version": 1, "assessment": "' + b"x" * 300_000 + b'"}',
    b'{"version": 1, "assessment": "../../etc/passwd", "attempt": 1, "audio": "a", "sha256": "b"}',
    b'{"version": "1", "attempt": 1e400}',
]


def test_garbage_is_dropped_and_what_comes_after_it_is_answered(
    local_queue: Any, objects: Objects, make_bundle: Bundles, ask_for: Asks
) -> None:
    """Whoever put it there; it does not come again and again."""
    good = ask_for(1)
    outside = good.model_dump() | {"audio": "../secret"}
    garbage = [*GARBAGE, json.dumps(outside).encode()]

    async def scenario() -> list[Reply]:
        async with connected(local_queue) as queue:
            for number, body in enumerate(garbage):
                await queue.publish(ASKS, f"garbage:{number}", body)
            await ask_all(queue, [good])
            async with predicting(queue, objects, lambda: model_of(bundle)) as predictor:
                found = await replies(queue, 1)
                assert await left(queue) == 0
            assert value(predictor, "setbacks_total", kind="message") == len(garbage)
            return found

    bundle = make_bundle()
    assert list(ended(asyncio.run(scenario()))) == [good.assessment]


def test_an_ask_of_a_later_version_is_left_for_who_can_read_it(
    local_queue: Any, objects: Objects, make_bundle: Bundles, ask_for: Asks
) -> None:
    """While predictors are upgraded one after the other, both kinds are there."""
    later = ask_for(1).model_dump() | {"version": 2, "something": "new"}
    bundle = make_bundle()

    async def scenario() -> None:
        async with connected(local_queue) as queue:
            await queue.publish(ASKS, "later", json.dumps(later).encode())
            async with predicting(queue, objects, lambda: model_of(bundle)) as predictor:
                await until(lambda: value(predictor, "setbacks_total", kind="infrastructure") >= 1)
            assert await left(queue) == 1

    asyncio.run(scenario())


def test_a_store_that_is_away_delays_and_never_fails_a_recording(
    local_queue: Any, objects: Objects, make_bundle: Bundles, ask_for: Asks
) -> None:
    """Audio that is missing, damaged or unreadable is not the recording's fault."""
    missing, damaged, away = ask_for(1, stored=False), ask_for(2), ask_for(3)
    real = objects.read(damaged.audio)
    objects.delete([damaged.audio])
    objects.create(damaged.audio, b"other bytes.")
    bundle = make_bundle()

    class Away(Objects):
        failing = True

        def read(self, key: str) -> bytes | None:
            if self.failing and key == away.audio:
                raise TransientError("the store is away")
            return super().read(key)

    store = Away(objects._store, objects._folder)

    async def scenario() -> list[Reply]:
        async with connected(local_queue) as queue:
            await ask_all(queue, [missing, damaged, away])
            async with predicting(queue, store, lambda: model_of(bundle)) as predictor:
                await until(lambda: value(predictor, "setbacks_total", kind="infrastructure") >= 3)
                assert await queue.fetch("replies", "test", 1, within_s=0.2) == []
                assert real is not None
                objects.delete([damaged.audio])
                objects.create(damaged.audio, real)
                ask_for(1)
                store.failing = False
                return await replies(queue, 3)

    found = ended(asyncio.run(scenario()))
    assert {reply.kind for reply in found.values()} == {"scored"}


def test_an_ask_that_came_too_often_is_dropped_until_it_is_asked_anew(
    local_queue: Any,
    objects: Objects,
    make_bundle: Bundles,
    ask_for: Asks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A message is no truth: the request is the relay's, and stays open."""
    monkeypatch.setattr(predictor_module, "_MOST_DELIVERIES", 1)
    lost = ask_for(1, stored=False)
    bundle = make_bundle()

    async def scenario() -> list[Reply]:
        async with connected(local_queue) as queue:
            await ask_all(queue, [lost])
            async with predicting(queue, objects, lambda: model_of(bundle)):
                deadline = time.monotonic() + 20
                while await left(queue):
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
                ask_for(1)
                await ask_all(queue, [lost.model_copy(update={"attempt": 2})])
                return await replies(queue, 1)

    found = asyncio.run(scenario())
    assert [(reply.kind, reply.attempt) for reply in found] == [("tried", 2), ("scored", 2)]


def test_a_recording_that_can_never_be_scored_fails_with_its_reason(
    local_queue: Any, objects: Objects, make_bundle: Bundles, ask_for: Asks
) -> None:
    """And says nothing about the model."""
    wrong = np.full(80_000, np.nan, np.float32)
    asks = [ask_for(1, wrong), ask_for(2, wrong[:0]), *(ask_for(n, wrong) for n in (3, 4, 5))]
    bundle = make_bundle()

    async def scenario() -> list[Reply]:
        async with connected(local_queue) as queue:
            await ask_all(queue, asks)
            async with predicting(queue, objects, lambda: model_of(bundle)) as predictor:
                found = await replies(queue, 5)
            assert value(predictor, "breaker_open") == 0
            assert value(predictor, "answers_total", outcome="failed") == 5
            return found

    found = ended(asyncio.run(scenario()))
    assert [found[ask.assessment].reason for ask in asks[:3]] == [
        "not_finite",
        "empty",
        "not_finite",
    ]


def test_a_bad_model_answers_nothing_and_stops_consumption_until_it_is_mended(
    local_queue: Any, objects: Objects, make_bundle: Bundles, ask_for: Asks
) -> None:
    """It must not turn a queue into failures."""
    bad, good = model_of(make_bundle("bad", shift=math.nan)), model_of(make_bundle("good"))
    models = [bad]
    asks = [ask_for(number) for number in range(12)]

    async def scenario() -> list[Reply]:
        async with connected(local_queue) as queue:
            await ask_all(queue, asks)
            breaker = Breaker(rest_s=3)
            async with predicting(queue, objects, lambda: models[-1], breaker=breaker) as predictor:
                await until(lambda: value(predictor, "breaker_open") == 1)
                assert breaker.is_resting()
                assert value(predictor, "setbacks_total", kind="model") <= 5  # two more in hand
                assert await left(queue) == 12
                assert value(predictor, "has_model") == 0
                models.append(good)
                found = await replies(queue, 12)
                assert value(predictor, "breaker_open") == 0
            return found

    found = ended(asyncio.run(scenario()))
    assert {reply.kind for reply in found.values()} == {"scored"}


def test_one_recording_without_an_answer_does_not_stop_the_others(
    local_queue: Any, objects: Objects, make_bundle: Bundles, ask_for: Asks
) -> None:
    """It is tried again, each time is told, and the model is held to be well."""
    asks = [ask_for(number) for number in range(8)]
    model = model_of(make_bundle())
    poison = np.frombuffer(objects.read(asks[0].audio) or b"", np.float32)

    class Choosy:
        def score(self, waveform: Any) -> Score:
            if np.array_equal(waveform, poison):
                raise RuntimeError("no answer to this one")
            return model.scorer.score(waveform)

    choosy = Model(model.name, model.manifest, Choosy())  # type: ignore[arg-type]

    async def scenario() -> list[Reply]:
        async with connected(local_queue) as queue:
            await ask_all(queue, asks)
            async with predicting(queue, objects, lambda: choosy) as predictor:
                await until(lambda: value(predictor, "setbacks_total", kind="model") >= 3)
                assert value(predictor, "breaker_open") == 0
            return await replies(queue, 7)

    found = asyncio.run(scenario())
    assert set(ended(found)) == {ask.assessment for ask in asks[1:]}
    tried = [(one.assessment, one.delivery) for one in found if one.kind == "tried"]
    assert tried == [(asks[0].assessment, 2), (asks[0].assessment, 3)]


def test_a_predictor_whose_model_hangs_is_not_well(
    local_queue: Any,
    objects: Objects,
    make_bundle: Bundles,
    ask_for: Asks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its loop goes round meanwhile, and holds the message; after the answer it is well again."""
    monkeypatch.setattr(predictor_module, "_LONGEST_SCORE_S", 0.5)
    model, answers = model_of(make_bundle()), threading.Event()

    class Hangs:
        def score(self, waveform: Any) -> Score:
            answers.wait(60)
            return model.scorer.score(waveform)

    hangs = Model(model.name, model.manifest, Hangs())  # type: ignore[arg-type]

    async def scenario() -> None:
        async with connected(local_queue) as queue:
            await ask_all(queue, [ask_for(1)])
            async with predicting(queue, objects, lambda: hangs) as predictor:
                assert predictor.is_well
                await until(lambda: not predictor.is_well)
                answers.set()
                await until(lambda: predictor.is_well)
                assert len(await replies(queue, 1)) == 1

    try:
        asyncio.run(scenario())
    finally:
        answers.set()


def test_a_recording_that_takes_long_is_not_given_to_another(
    local_queue: Any, objects: Objects, make_bundle: Bundles, ask_for: Asks
) -> None:
    """While it is being scored, the queue is told so."""
    model = model_of(make_bundle())
    begun: list[float] = []

    class Slow:
        def score(self, waveform: Any) -> Score:
            begun.append(time.monotonic())
            time.sleep(2.5)
            return model.scorer.score(waveform)

    slow = Model(model.name, model.manifest, Slow())  # type: ignore[arg-type]

    async def scenario() -> list[Reply]:
        async with connected(local_queue) as queue, connected(local_queue) as other:
            await ask_all(queue, [ask_for(1)])
            async with (
                predicting(queue, objects, lambda: slow),
                predicting(other, objects, lambda: slow),
            ):
                return await replies(queue, 1)

    assert [reply.kind for reply in asyncio.run(scenario())] == ["scored"]
    assert len(begun) == 1


def test_the_champion_answers_as_soon_as_there_is_one_that_may(
    local_queue: Any, tmp_path: Path, objects: Objects, make_bundle: Bundles, ask_for: Asks
) -> None:
    """From a real registry; one that learned from synthetic voices only in a demonstration."""
    registry = Registry(
        f"sqlite:///{tmp_path / 'mlflow.db'}",
        artifacts=tmp_path / "artifacts",
        lock=tmp_path / "lock",
    )

    def champion(*, demo: bool = False) -> Model:
        return load_champion(registry, tmp_path / "cache", demo=demo)

    def promote(bundle: Path, level: Any, previous: int | None) -> int:
        published = registry.register(
            hashlib.sha256(bundle.name.encode()).hexdigest(),
            bundle,
            evidence_level=level,
            metrics={},
            parameters={},
        )
        change = ChampionChange(
            action="promoted",
            version=published.version,
            previous=previous,
            by=("somebody",),
            reason="a test",
            policy="none",
            at=datetime(2026, 3, 1, tzinfo=UTC),
        )
        registry.move_champion(change)
        return published.version

    async def scenario() -> list[Reply]:
        async with connected(local_queue) as queue:
            await ask_all(queue, [ask_for(1)])
            with pytest.raises(InputError, match="no model is registered"):
                champion()
            async with predicting(queue, objects, champion, look_again_s=0.5) as predictor:
                first = await asyncio.to_thread(
                    promote, make_bundle("aa", evidence_level="synthetic"), "synthetic", None
                )
                with pytest.raises(PolicyRefused, match="synthetic voices"):
                    await asyncio.to_thread(champion)
                assert (await asyncio.to_thread(champion, demo=True)).name.startswith("spira/1@")
                assert value(predictor, "has_model") == 0
                assert await left(queue) == 1
                await asyncio.to_thread(promote, make_bundle("bb"), "research", first)
                return await replies(queue, 1)

    (reply,) = ended(asyncio.run(scenario())).values()
    digest = json.loads((tmp_path / "bb/model.json").read_text())["sha256"]
    assert reply.model == f"spira/2@{digest}"


_PROCESS = """
import sys, time
from pathlib import Path
from spira.logs import configure_logs
from spira.model.bundle import load
from spira.serving import predictor
from spira.serving.predictor import Model, run
from spira.stores import queue
from spira.stores.objects import Objects
url, token, objects, bundle, port, slow_s = sys.argv[1:]
configure_logs("info")
queue.ACKNOWLEDGE_WITHIN_S = predictor.ACKNOWLEDGE_WITHIN_S = 1.0
def model():
    manifest, scorer = load(Path(bundle))
    if float(slow_s):
        score = scorer.score
        def slowly(waveform):
            print("scoring", flush=True)
            time.sleep(float(slow_s))
            return score(waveform)
        scorer.score = slowly
    return Model("spira/1@tiny", manifest, scorer)
run(url, token=Path(token), objects=Objects.open(objects, setting="a test"), load_model=model,
    host="127.0.0.2", port=int(port) or None)
assert "torch" not in sys.modules and "mlflow" not in sys.modules
"""


@pytest.fixture
def start(
    local_queue: Any, tmp_path: Path, make_bundle: Bundles
) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a predictor as a process of its own."""
    started: list[subprocess.Popen[str]] = []
    bundle = make_bundle("process")

    def process(*, port: int = 0, slow_s: float = 0) -> "subprocess.Popen[str]":
        with (tmp_path / "predictor.log").open("a") as log:
            one = subprocess.Popen(
                [
                    *(sys.executable, "-c", _PROCESS, local_queue.url),
                    *(local_queue.server.token, tmp_path / "objects", bundle, str(port)),
                    str(slow_s),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        started.append(one)
        return one

    yield process
    for one in started:
        one.kill()
        one.wait()
        assert one.stdout is not None
        one.stdout.close()


def test_whatever_is_killed_every_ask_ends_in_one_reply(
    local_queue: Any, objects: Objects, start: Any, ask_for: Asks
) -> None:
    """The queue's server and two predictors, at random moments, while asks come in."""
    chance = random.Random(11)
    asks = [ask_for(number) for number in range(200)]
    processes = [start(), start()]

    async def kill(done: asyncio.Event) -> int:
        kills = 0
        while not done.is_set() and kills < 8:
            await asyncio.sleep(chance.uniform(0.2, 1.0))
            if chance.random() < 0.4:
                local_queue.kill()
                local_queue.up()
            else:
                number = chance.randrange(2)
                os.kill(processes[number].pid, signal.SIGKILL)
                processes[number] = start()
            kills += 1
        return kills

    async def publish(queue: Queue) -> None:
        for ask in asks:
            await ask_all(queue, [ask])
            await asyncio.sleep(0.01)

    async def scenario() -> list[Reply]:
        done = asyncio.Event()
        async with connected(local_queue) as queue, connected(local_queue) as other:
            killing = asyncio.create_task(kill(done))
            _, found = await asyncio.gather(publish(queue), replies(other, 200, within_s=90))
            done.set()
            assert await killing > 2
            return found

    found = ended(asyncio.run(scenario()))
    assert set(found) == {ask.assessment for ask in asks}
    assert len({reply.probability for reply in found.values()}) == 200


def test_when_the_queues_folder_is_wiped_what_is_asked_again_is_answered(
    local_queue: Any, objects: Objects, start: Any, ask_for: Asks
) -> None:
    """The relay asks again what has no result; the predictor needs no help."""
    start()

    async def scenario() -> None:
        async with connected(local_queue) as queue:
            await ask_all(queue, [ask_for(1)])
            await replies(queue, 1)
            shutil.rmtree(local_queue.folder / "jetstream")
            local_queue.kill()
            local_queue.up()
            await ask_all(queue, [ask_for(2)])
            found = ended(await replies(queue, 1))
            assert list(found) == [ask_for(2).assessment]

    asyncio.run(scenario())


def test_told_to_stop_it_finishes_what_is_in_hand(
    local_queue: Any, objects: Objects, start: Any, ask_for: Asks
) -> None:
    """And takes nothing more; what is left is for the next one."""
    process = start(slow_s=0.5)

    async def scenario() -> None:
        async with connected(local_queue) as queue:
            await ask_all(queue, [ask_for(number) for number in range(10)])
            assert await asyncio.to_thread(process.stdout.readline) == "scoring\n"
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) == 0
            n_left = await left(queue)
            assert 1 <= len(ended(await replies(queue, 1))) == 10 - n_left <= 4

    asyncio.run(scenario())


def test_prometheus_and_a_watcher_are_told(
    local_queue: Any, start: Any, free_port_number: int
) -> None:
    """At the address and the port that it is told, and there alone."""
    start(port=free_port_number)
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.2:{free_port_number}/healthz") as page:
                assert page.status == 200
            break
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with urllib.request.urlopen(f"http://127.0.0.2:{free_port_number}/metrics") as page:
        assert "spira_predictor_windows_total" in page.read().decode()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{free_port_number}/healthz")


@pytest.fixture
def free_port_number() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
