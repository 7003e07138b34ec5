"""Streaming Prediction Service 7: from an ask to a reply, without a database.

    fetch an ask -> read its audio, verify its digest -> score -> publish the reply -> acknowledge

A reply is published, and its acknowledgement awaited, before the ask is acknowledged: a kill in
between makes the ask come again, and its second reply has the first one's id. One thread scores;
meanwhile the next audio is read and the last reply is published.

Failures are classified, because only one kind of them says anything about the recording:

    infrastructure   the store, the queue, the registry, this process: the ask is given back and
                     comes again after a growing while; never a reply
    model            no number, or an exception: given back too; on several recordings in a row the
                     breaker opens, and nothing is consumed until it is tried again
    input            the recording can never be scored: a reply `failed`
"""

import asyncio
import hashlib
import math
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from spira.domain.answers import Outcome
from spira.domain.errors import (
    InputError,
    PolicyRefused,
    RecordingRefused,
    SpiraError,
    TransientError,
)
from spira.domain.fingerprint import fingerprint
from spira.evaluation.shares import present_shares
from spira.model.bundle import ModelManifest, load
from spira.model.prediction import PresentShare
from spira.model.scoring import Score, Scorer
from spira.serving.messages import REPLIES, Ask, Reply, read_message, write_message
from spira.serving.watched import tell
from spira.stores.objects import Objects
from spira.stores.queue import ACKNOWLEDGE_WITHIN_S, Queue
from spira.stores.registry import Registry

DURABLE = "predictors"  # the name that all predictors share

_AT_ONCE = 3  # one is scored, one is read, one is published
_MOST_DELIVERIES = 40  # of one message; whoever published it publishes another one
_LOOK_AGAIN_S = 5.0  # for a model
_LONGEST_DELAY_S = 60.0  # before an ask that was given back comes again
_SEVERAL = 3  # different recordings in a row that the model has no number for
_REST_S = 15.0  # of the breaker, doubled each time that the model fails again
_LONGEST_REST_S = 300.0
_SILENT_S = 120.0  # a turn of the loop takes 2 s, and more while a model is fetched
_LONGEST_SCORE_S = 120.0  # ten minutes of audio take some seconds

_log = structlog.get_logger()


@dataclass(frozen=True)
class Model:
    """What answers."""

    name: str  # name/version@digest of the manifest
    manifest: ModelManifest
    scorer: Scorer
    shares: Mapping[Outcome, PresentShare] = field(default_factory=dict)  # how sure it may be


def load_champion(registry: Registry, cache: Path, *, demo: bool) -> Model:
    """The model that the alias `champion` points at.

    demo      whether a model that was trained on synthetic voices may answer
    raises    InputError when there is none, PolicyRefused for a synthetic one, TransientError when
              the registry does not answer, IntegrityError for damaged files
    """
    version = registry.get("champion")
    folder = registry.download(version, cache)
    manifest, scorer = load(folder)
    if "synthetic" in (version.evidence_level, manifest.evidence_level) and not demo:
        raise PolicyRefused(
            f"model {version.version}: trained on synthetic voices, it has no clinical meaning; "
            "promote another one, or set serving.demo"
        )
    digest = fingerprint(manifest.model_dump(mode="json"))
    return Model(f"spira/{version.version}@{digest}", manifest, scorer, present_shares(folder))


class ModelFailed(Exception):
    """The model has no number for a recording that has samples."""


@dataclass
class Breaker:
    """Opens when several different recordings in a row get no number from the model."""

    rest_s: float = _REST_S
    _failed: set[str] = field(default_factory=set)  # digests of recordings, since the last number
    _rests: int = 0  # since the last number
    _until: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the model is held to be bad; then it is asked about one recording at a time."""
        return self._rests > 0

    def is_resting(self) -> bool:
        """Whether it is not to be asked at all now."""
        return time.monotonic() < self._until

    def failed(self, recording: str) -> bool:
        """Note a failure; True when the breaker opens, or opens again."""
        self._failed.add(recording)
        if self.is_resting() or (not self.is_open and len(self._failed) < _SEVERAL):
            return False
        self._rests += 1
        self._until = time.monotonic() + min(
            self.rest_s * 2.0 ** (self._rests - 1), _LONGEST_REST_S
        )
        return True

    def answered(self) -> None:
        """Note a number."""
        self._failed.clear()
        self._rests, self._until = 0, 0.0


class Metrics:
    """What Prometheus is told; in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.windows = Counter("spira_predictor_windows", "Windows scored", registry=self.registry)
        self.answers = Counter(
            "spira_predictor_answers",
            "Replies by what they say: positive, negative, inconclusive, failed",
            ["outcome"],
            registry=self.registry,
        )
        self.setbacks = Counter(
            "spira_predictor_setbacks",
            "Asks without a reply, by what failed: infrastructure, model, message",
            ["kind"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "spira_predictor_seconds",
            "From fetching an ask to its acknowledgement",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.breaker = Gauge(
            "spira_predictor_breaker_open",
            "1 while the model is held to be bad and nothing is consumed",
            registry=self.registry,
        )
        self.model = Gauge(
            "spira_predictor_has_model", "1 while a model is loaded", registry=self.registry
        )


class Predictor:
    """One process of the service.

    load_model   gives the model; called again when there was none, or when it was bad
    """

    def __init__(
        self,
        queue: Queue,
        objects: Objects,
        load_model: Callable[[], Model],
        *,
        breaker: Breaker | None = None,
        look_again_s: float = _LOOK_AGAIN_S,
    ) -> None:
        self._queue = queue
        self._objects = objects
        self._load_model = load_model
        self._breaker = breaker or Breaker()
        self._look_again_s = look_again_s
        self._model: Model | None = None
        self._scoring = ThreadPoolExecutor(1, "scoring")  # its queue is the order of arrival
        self._said = ""
        self._turned = time.monotonic()
        self._scores_since = math.inf  # while no recording is with the model
        self.metrics = Metrics()

    @property
    def is_well(self) -> bool:
        """Whether the loop goes round, and no recording is with the model for too long: its
        message would be held for ever, and nobody else be asked."""
        now = time.monotonic()
        return now - self._turned < _SILENT_S and now - self._scores_since < _LONGEST_SCORE_S

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until told to stop; then finish what is in hand."""
        hands: set[asyncio.Task[None]] = set()
        while not stop.is_set():
            self._turned = time.monotonic()
            hands = {hand for hand in hands if not hand.done()}
            room = (1 if self._breaker.is_open else _AT_ONCE) - len(hands)
            if self._breaker.is_resting():
                await _pause(stop, 0.2)
            elif room <= 0:
                await asyncio.wait(hands, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            elif self._model is None:
                if not await self._find_model():
                    await _pause(stop, self._look_again_s)
            else:
                for message in await self._fetch(room, stop):
                    hands.add(asyncio.create_task(self._handle(message)))
        if hands:
            await asyncio.wait(hands)
        self._scoring.shutdown()

    async def _find_model(self) -> bool:
        try:
            self._model = await asyncio.to_thread(self._load_model)
        except SpiraError as error:
            self._say_once(f"no model: {error}")
        else:
            self._say_once(f"has model {self._model.name}")
        self.metrics.model.set(self._model is not None)
        return self._model is not None

    async def _fetch(self, room: int, stop: asyncio.Event) -> list[Msg]:
        try:
            messages = await self._queue.fetch("asks", DURABLE, room)
        except TransientError as error:
            self._say_once(str(error))
            await _pause(stop, 0.5)
            return []
        self._say_once("answers asks")
        return messages

    async def _handle(self, message: Msg) -> None:
        """See one message through; never raises."""
        began = time.monotonic()
        tries = message.metadata.num_delivered
        log = _log.bind(delivery=tries)
        try:
            async with self._holding(message):
                try:
                    ask = read_message(Ask, message.data)
                except InputError as error:
                    self.metrics.setbacks.labels("message").inc()
                    log.warning("an ask is refused and dropped", why=str(error))
                    await self._queue.ack_sync(message)
                    return
                log = log.bind(assessment=ask.assessment, attempt=ask.attempt)
                if tries > _MOST_DELIVERIES:
                    log.warning("an ask came too often; it is dropped until it is asked anew")
                    await self._queue.ack_sync(message)
                    return
                reply = await self._reply(ask, tries)
                await self._queue.publish(REPLIES, ask.identity, write_message(reply))
                self.metrics.answers.labels(reply.outcome or reply.kind).inc()
                self.metrics.seconds.observe(time.monotonic() - began)
                log.info("replied", outcome=reply.outcome or reply.kind, reason=reply.reason)
                await self._queue.ack_sync(message)
        except ModelFailed as error:
            self.metrics.setbacks.labels("model").inc()
            log.warning("the model has no answer", why=str(error))
            await self._give_back(message, tries)
        except SpiraError as error:
            self.metrics.setbacks.labels("infrastructure").inc()
            log.warning("an ask is given back", why=str(error))
            await self._give_back(message, tries)
        except Exception:  # of this process: it says nothing about the recording
            self.metrics.setbacks.labels("infrastructure").inc()
            log.exception("an ask is given back")
            await self._give_back(message, tries)

    async def _reply(self, ask: Ask, tries: int) -> Reply:
        """What came of an ask.

        raises    ModelFailed; any other error is one of the infrastructure
        """
        waveform = await asyncio.to_thread(self._waveform, ask)
        model = self._model
        if model is None:
            raise TransientError("the model was put away; it is loaded again")
        about = {"assessment": ask.assessment, "attempt": ask.attempt, "model": model.name}
        # A lease may end before its message has come twice: then only the attempt tells.
        if (tries > 1 or ask.attempt > 1) and not self._breaker.is_open:
            tried = Reply(kind="tried", delivery=tries, **about)
            await self._queue.publish(REPLIES, f"{ask.identity}:{tries}", write_message(tried))
        try:
            score = await self._score(model, waveform, ask)
        except RecordingRefused as error:
            return Reply(kind="failed", reason=error.reason, detail=str(error)[:1000], **about)
        except InputError as error:
            reason = "too_short" if len(waveform) else "empty"
            return Reply(kind="failed", reason=reason, detail=str(error)[:1000], **about)
        self.metrics.windows.inc(len(score.window_logits))
        return Reply(
            kind="scored",
            probability=score.probability,
            calibrated=score.calibrated,
            outcome=score.outcome,
            windows=len(score.window_logits),
            manifest=model.manifest.model_dump(mode="json"),
            shares=model.shares,
            **about,
        )

    def _waveform(self, ask: Ask) -> "np.ndarray[Any, np.dtype[np.float32]]":
        data = self._objects.read(ask.audio)
        if data is None:
            raise TransientError(
                "the audio is not in the store; see to it that it is the one that the API writes to"
            )
        if hashlib.sha256(data).hexdigest() != ask.sha256 or len(data) % 4:
            raise TransientError("the audio in the store is not what was stored; restore it")
        return np.frombuffer(data, "<f4").astype(np.float32, copy=False)

    async def _score(self, model: Model, waveform: Any, ask: Ask) -> Score:
        def scored() -> Score:
            self._scores_since = time.monotonic()
            try:
                return model.scorer.score(waveform)
            finally:
                self._scores_since = math.inf

        loop = asyncio.get_running_loop()
        try:
            score = await loop.run_in_executor(self._scoring, scored)
        except (InputError, MemoryError):
            raise
        except Exception as error:
            if self._breaker.failed(ask.sha256):
                _log.critical(
                    "the model has no answer to several recordings in a row; nothing is consumed "
                    "until it is tried again",
                    model=model.name,
                )
                self._model = None  # another champion may be there by then
                self.metrics.model.set(0)
            self.metrics.breaker.set(self._breaker.is_open)
            raise ModelFailed(f"{type(error).__name__}: {error}") from error
        self._breaker.answered()
        self.metrics.breaker.set(0)
        return score

    @asynccontextmanager
    async def _holding(self, message: Msg) -> AsyncIterator[None]:
        """Keep a message from being delivered again while it is worked on."""

        async def beat() -> None:
            while True:
                await asyncio.sleep(ACKNOWLEDGE_WITHIN_S / 3)
                with suppress(TransientError):
                    await self._queue.in_progress(message)

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()

    async def _give_back(self, message: Msg, tries: int) -> None:
        with suppress(TransientError):  # then it comes again by itself
            await self._queue.nak(message, min(2.0 ** min(tries - 1, 10), _LONGEST_DELAY_S))

    def _say_once(self, what: str) -> None:
        """A state that lasts is logged when it begins."""
        if what != self._said:
            self._said = what
            _log.warning("predictor", state=what)


def run(
    url: str,
    *,
    token: Path | str | None,
    objects: Objects,
    load_model: Callable[[], Model],
    host: str = "127.0.0.1",
    port: int | None = None,
) -> None:
    """Answer asks until SIGTERM or SIGINT; then finish what is in hand.

    port      serves /metrics and /healthz at this address; None: neither
    """

    async def serve() -> None:
        stop = asyncio.Event()
        for kind in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(kind, stop.set)
        queue = await Queue.connect(url, token=token)
        predictor = Predictor(queue, objects, load_model)
        if port is not None:
            tell(lambda: predictor.is_well, host, port, counted=predictor.metrics.registry)
        try:
            await predictor.run(stop)
        finally:
            await queue.close()

    asyncio.run(serve())


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait, but not for longer than until it is told to stop."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
