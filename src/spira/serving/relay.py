"""The relay: publishes what waits, writes what comes back, sweeps what nobody finished.

Any number of them may run; the database decides who publishes what.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import structlog
from anyio import to_thread

from spira.domain.errors import InputError, SpiraError, TransientError
from spira.serving.assessments import Ask as Lease
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

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; trouble of a store is logged and waited out."""
        await asyncio.gather(
            self._keep(self._publish, stop, _EVERY_S),
            self._keep(self._take_replies, stop, 0.0),
            self._keep(self._sweep, stop, self._settings.sweep_every_s),
            self._keep(self._look_for_model, stop, _LOOK_FOR_MODEL_S),
        )

    async def _keep(
        self, work: Callable[[], Awaitable[None]], stop: asyncio.Event, every_s: float
    ) -> None:
        while not stop.is_set():
            pause_s = every_s
            try:
                await work()
            except SpiraError as error:
                _log.warning(
                    "the relay waits", doing=getattr(work, "__name__", "")[1:], error=str(error)
                )
                pause_s = max(every_s, _AFTER_TROUBLE_S)
            try:
                await asyncio.wait_for(stop.wait(), pause_s)
            except TimeoutError:
                continue

    async def _publish(self) -> None:
        leases = await to_thread.run_sync(
            lambda: self._assessments.lease(
                in_flight=self._settings.in_flight,
                lease=timedelta(seconds=self._settings.lease_s),
                now=self._now(),
            )
        )
        unpublished: list[Lease] = []
        for done, lease in zip(
            await asyncio.gather(*map(self._ask, leases), return_exceptions=True),
            leases,
            strict=True,
        ):
            if isinstance(done, TransientError):
                unpublished.append(lease)
            elif isinstance(done, BaseException):
                raise done
        if unpublished:
            await to_thread.run_sync(self._assessments.release, unpublished)
            raise TransientError(f"queue: {len(unpublished)} could not be published")

    async def _ask(self, lease: Lease) -> None:
        ask = Ask(
            assessment=lease.assessment,
            attempt=lease.attempt,
            audio=lease.audio,
            sha256=lease.audio_sha256,
        )
        await self._queue.publish(ASKS, ask.identity, write_message(ask))

    async def _take_replies(self) -> None:
        for message in await self._queue.fetch("replies", "results", _AT_ONCE, within_s=_FETCH_S):
            try:
                reply = read_message(Reply, message.data)
            except InputError as error:
                _log.error("a reply that cannot be read", error=str(error))
            else:
                await to_thread.run_sync(self._results.write, reply)
            await self._queue.ack_sync(message)

    async def _look_for_model(self) -> None:
        """So that whoever waits is told that there is none."""
        await to_thread.run_sync(lambda: self._assessments.note_model(self._champion()))

    async def _sweep(self) -> None:
        cleared = await to_thread.run_sync(self._sweep_once, self._now())
        if cleared:
            _log.info("swept", cleared=cleared)
