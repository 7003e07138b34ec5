"""The relay: publishes what waits, writes what comes back, sweeps what nobody finished.

Any number of them may run; the database decides who publishes what.
"""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from anyio import to_thread
from nats.aio.msg import Msg

from spira.domain.errors import InputError, SpiraError, TransientError
from spira.serving.assessments import Assessments
from spira.serving.messages import ASKS, Ask, Reply, read_message, write_message
from spira.serving.results import Results
from spira.serving.settings import ServingSettings
from spira.stores.queue import Queue

_EVERY_S = 0.2  # a look at what waits
_AT_ONCE = 32  # replies fetched together
_FETCH_S = 2.0  # a fetch is blind while the queue's server starts again
_AFTER_TROUBLE_S = 1.0
_LOOK_FOR_MODEL_S = 10.0
_HANGS_S = 300.0  # a look at what waits, or a reply: some statements of a minute at most
_HANGS_ASIDE_S = 3600.0  # a sweep, of many objects; or a look into a registry that is far away
_REPLY_AGAIN_S = 5.0  # after one that could not be written down, or is of a later version

_log = structlog.get_logger()


class Relay:
    """Between the database and the queue.

    sweep       clears away what is not needed at a moment; how much that was
    champion    the model that predictors answer with; None where there is none
    """

    def __init__(
        self,
        assessments: Assessments,
        sweep: Callable[[datetime], int],
        champion: Callable[[], str | None],
        queue: Queue,
        settings: ServingSettings,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._assessments = assessments
        self._results = Results(assessments, now=now)
        self._sweep_once = sweep
        self._champion = champion
        self._queue = queue
        self._settings = settings
        self._now = now
        self._due: dict[str, float] = {}  # of each work: when it has to go on, else it hangs

    @property
    def is_well(self) -> bool:
        """Whether each of its works goes on; in trouble it does, and waits that out."""
        return all(time.monotonic() < due for due in list(self._due.values()))

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; trouble is logged and waited out, whatever it is."""
        sweep_s = self._settings.sweep_every_s
        await asyncio.gather(
            self._keep(self._publish, stop, _EVERY_S, _HANGS_S),
            self._keep(self._take_replies, stop, 0.0, _HANGS_S),
            self._keep(self._sweep, stop, sweep_s, _HANGS_ASIDE_S),
            self._keep(self._look_for_model, stop, _LOOK_FOR_MODEL_S, _HANGS_ASIDE_S),
        )

    async def _keep(
        self,
        work: Callable[[], Awaitable[None]],
        stop: asyncio.Event,
        every_s: float,
        hangs_s: float,
    ) -> None:
        doing = getattr(work, "__name__", "")[1:]
        while not stop.is_set():
            self._due[doing] = time.monotonic() + every_s + hangs_s
            pause_s = every_s
            try:
                await work()
            except Exception as error:  # it must not end, nor end the other three
                _log.warning("the relay waits", doing=doing, error=_said(error))
                pause_s = max(every_s, _AFTER_TROUBLE_S)
            try:
                await asyncio.wait_for(stop.wait(), pause_s)
            except TimeoutError:
                continue

    async def _publish(self) -> None:
        if await to_thread.run_sync(self._assessments.model) is None:
            return  # nobody would answer; what waits is chosen when there is one
        asks = await to_thread.run_sync(
            lambda: self._assessments.lease(
                in_flight=self._settings.in_flight,
                lease=timedelta(seconds=self._settings.lease_s),
                now=self._now(),
            )
        )
        unpublished: list[Ask] = []
        for done, ask in zip(
            await asyncio.gather(*map(self._ask, asks), return_exceptions=True),
            asks,
            strict=True,
        ):
            if isinstance(done, TransientError):
                unpublished.append(ask)
            elif isinstance(done, BaseException):
                raise done
        if unpublished:
            await to_thread.run_sync(self._assessments.release, unpublished)
            raise TransientError(f"queue: {len(unpublished)} could not be published")

    async def _ask(self, ask: Ask) -> None:
        # It dies with its lease; else whatever nobody fetches would be there once for each lease.
        await self._queue.publish(
            ASKS, ask.identity, write_message(ask), keep_s=self._settings.lease_s
        )

    async def _take_replies(self) -> None:
        for message in await self._queue.fetch("replies", "results", _AT_ONCE, within_s=_FETCH_S):
            self._due["take_replies"] = time.monotonic() + _HANGS_S
            try:
                await self._take(message)
            except Exception as error:  # of this one: those beside it are not held up
                _log.error("a reply is given back", error=_said(error))
                await self._queue.nak(message, _REPLY_AGAIN_S)
            else:
                await self._queue.ack_sync(message)

    async def _take(self, message: Msg) -> None:
        try:
            reply = read_message(Reply, message.data)
        except InputError as error:
            _log.error("a reply that cannot be read", error=str(error))
        else:
            await to_thread.run_sync(self._results.write, reply)

    async def _look_for_model(self) -> None:
        """So that whoever waits is told that there is none."""
        await to_thread.run_sync(lambda: self._assessments.note_model(self._champion()))

    async def _sweep(self) -> None:
        cleared = await to_thread.run_sync(self._sweep_once, self._now())
        if cleared:
            _log.info("swept", cleared=cleared)


def _said(error: Exception) -> str:
    """What went wrong: our own words, or the kind and the place; never a value."""
    if isinstance(error, SpiraError):
        return str(error)
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} in {last.name}, {Path(last.filename).name}:{last.lineno}"
