"""The reconciler: every two seconds, requests and runs are brought to agree.

    a run without a request          is given one (it was started from the web page)
    a run of a cancelled request     is stopped
    a run left in STARTING           is started again: its worker, or the daemon, died on the way
    a run left in NOT_STARTED        has failed: web page or daemon died before it was queued
    a run that ended                 ends its request, or makes the next attempt due
    a request that failed            is told about, once

Each step can be repeated, by two at once or after a kill: the table takes the first one.
"""

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import cast

import dagster as dg
import structlog
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.storage.dagster_run import FINISHED_STATUSES, NOT_FINISHED_STATUSES

from spira.domain.errors import InputError
from spira.scheduling.asking import Desk
from spira.scheduling.launcher import DetachedRunLauncher
from spira.scheduling.notices import log_notice, tell
from spira.scheduling.requests import Request, State
from spira.scheduling.runs import ATTEMPT, REQUEST, RUN, UNKNOWN, adopt
from spira.scheduling.stages import Cause, Trouble

EVERY_S = 2.0
# Passes after which a run that is still starting, without a worker, is started again: soon, and
# then more and more seldom, as whatever keeps it from starting may last.
_STARTED_AGAIN_AT = frozenset(2**n for n in range(1, 12))
_NEVER_QUEUED_AT = 15  # passes; the daemon, started again, still queues what it had written down
_LONGEST_WAIT_S = 600.0  # between two attempts
_TELL_AGAIN_AFTER_S = 60.0
_LOOK_BACK = timedelta(minutes=1)  # for a run whose end was written while the last pass looked
# Of what may help and may not: what is damaged is made again, but not a dataset; a stage that is
# killed may want more memory than there is; a run that fails without a stage's word met a defect of
# ours, or a database that was away.
_FEW_TRIES = 5
_MOST_OPEN = 100_000

_log = structlog.get_logger()


@dataclass
class Reconciler:
    """Brings requests and runs to agree, a pass at a time."""

    instance: dg.DagsterInstance
    desk: Desk
    # Runs on their way, and how they stand -> passes that saw them so.
    _on_their_way: dict[tuple[str, DagsterRunStatus], int] = field(default_factory=dict)
    _since: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(days=1))
    _stopping: dict[str, threading.Thread] = field(default_factory=dict)
    # Endings (request, attempt) that stand in the log -> when to tell the webhook of them.
    _tell_at: dict[tuple[str, int], float] = field(default_factory=dict)

    def reconcile(self) -> None:
        """One pass. What is wrong with one run or request keeps no other from its end.

        raises    TransientError, or Dagster's errors, when a database is away; the next pass sees
                  to what this one left
        """
        began = datetime.now(UTC)
        runs = list(self.instance.get_runs(RunsFilter(statuses=NOT_FINISHED_STATUSES)))
        ended = RunsFilter(statuses=FINISHED_STATUSES, updated_after=self._since)
        strangers = [
            run
            for run in self.instance.get_runs(ended)
            if REQUEST not in run.tags or run.parent_run_id is not None
        ]
        self._on_their_way = {
            (run.run_id, run.status): self._on_their_way.get((run.run_id, run.status), 0) + 1
            for run in runs
            if run.status in (DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING)
        }
        opened = self.desk.requests.list(state="open", limit=_MOST_OPEN)
        by_id = {request.id: request for request in opened}
        for run in [*runs, *strangers]:
            with _alone(run=run.run_id):
                self._look_after(run, by_id)
        self._note_runs([request for request in opened if request.run_id is None])
        unfinished = {run.run_id for run in runs}
        for request in self.desk.requests.list(state="open", limit=_MOST_OPEN):
            if request.run_id is not None and request.run_id not in unfinished:
                with _alone(request=request.id):
                    self._settle(request, request.run_id)
        self._tell()
        self._since = began - _LOOK_BACK

    def _look_after(self, run: dg.DagsterRun, opened: Mapping[str, Request]) -> None:
        """Give a run its request, stop it with its request, start it again or give it up."""
        named = run.tags.get(REQUEST, "")
        if named in opened and run.parent_run_id is None:
            request: Request | None = opened[named]
        else:
            request = self._request_of(run)
        if run.is_finished:
            return
        if request is not None and request.state == "cancelled":
            self._stop(run.run_id)
            return
        passes = self._on_their_way.get((run.run_id, run.status), 0)
        if run.status == DagsterRunStatus.STARTING and passes in _STARTED_AGAIN_AT:
            self._start_again(run)
        elif run.status == DagsterRunStatus.NOT_STARTED and passes >= _NEVER_QUEUED_AT:
            _log.info("a run that was never queued is given up", run=run.run_id)
            self.instance.report_run_failed(run, "it was never queued: what made it was killed")

    def _request_of(self, run: dg.DagsterRun) -> Request | None:
        named = run.tags.get(REQUEST, UNKNOWN)
        if named == UNKNOWN and run.tags.get(RUN) == run.run_id:  # not its parent's tags
            return None
        try:
            return adopt(run, self.instance, self.desk)
        except InputError as error:
            if named == UNKNOWN:
                self.instance.add_run_tags(run.run_id, {REQUEST: UNKNOWN, RUN: run.run_id})
                _log.warning("a run without a request", run=run.run_id, reason=str(error))
            return None

    def _note_runs(self, waiting: Sequence[Request]) -> None:
        """Let requests that wait know the runs that were made for them, ended or not."""
        if not waiting:
            return
        made_for = RunsFilter(tags={REQUEST: [request.id for request in waiting]})
        made = {
            (run.tags[REQUEST], run.tags.get(ATTEMPT)): run.run_id
            for run in self.instance.get_runs(made_for)
        }
        for request in waiting:
            run_id = made.get((request.id, str(request.attempt)))
            if run_id is not None:
                self.desk.requests.on_its_way(request.id, request.attempt, run_id)

    def _stop(self, run_id: str) -> None:
        """Stop a run beside the others: it may take seconds."""
        thread = self._stopping.get(run_id)
        if thread is None or not thread.is_alive():
            stop = self.instance.run_coordinator.cancel_run
            thread = threading.Thread(target=stop, args=(run_id,), daemon=True)
            self._stopping[run_id] = thread
            thread.start()

    def _start_again(self, run: dg.DagsterRun) -> None:
        launcher = self.instance.run_launcher
        if isinstance(launcher, DetachedRunLauncher) and not launcher.has_worker(run.run_id):
            _log.info("a run left on its way is started again", run=run.run_id)
            launcher.launch_run(LaunchRunContext(run, workspace=None))

    def _settle(self, request: Request, run_id: str) -> None:
        run = self.instance.get_run_by_id(run_id)
        if run is None:
            self._again(request, "its run is not there any more")
        elif run.is_finished:
            self._settle_one(request, run)

    def _settle_one(self, request: Request, run: dg.DagsterRun) -> None:
        requests = self.desk.requests
        if run.status == DagsterRunStatus.SUCCESS:
            if not _whole(run) and len(requests.askings(request.id)) > 1:
                requests.again(request.id, request.attempt, "others wait for the whole pipeline")
                return
            asked_for = "complete" if _whole(run) else f"complete: {_selected(run)}, as asked"
            requests.end(request.id, request.attempt, "complete", asked_for)
        elif run.status == DagsterRunStatus.CANCELED:
            if self._events(run, DagsterEventType.RUN_CANCELING):
                requests.end(request.id, request.attempt, "cancelled", "cancelled: web page")
            else:
                requests.again(request.id, request.attempt, "its worker was told to stop")
        else:
            stage, trouble = self._trouble(run)
            if self._is_worth_another(request, trouble):
                self._again(request, f"{trouble.cause}: {trouble.reason}", stage)
                return
            state: State = "refused" if trouble.cause == "refused" else "failed"
            requests.end(request.id, request.attempt, state, trouble.reason, stage=stage)

    def _is_worth_another(self, request: Request, trouble: Trouble) -> bool:
        """Whether another attempt may end otherwise."""
        if trouble.cause in ("damaged", "killed", "unexplained"):
            return request.tries < _FEW_TRIES
        return trouble.cause == "transient"

    def _again(self, request: Request, why: str, stage: str | None = None) -> None:
        """The next attempt, later and later; after too many the request has failed."""
        settings = self.desk.settings
        if request.tries >= settings.attempts:
            self.desk.requests.end(
                request.id,
                request.attempt,
                "failed",
                f"{why} ({request.tries} attempts)",
                stage=stage,
            )
            return
        wait_s = min(_LONGEST_WAIT_S, settings.retry_delay_s * 2.0 ** min(request.tries - 1, 10))
        jitter = random.uniform(0.75, 1.25)
        self.desk.requests.again(request.id, request.attempt, why, after_s=wait_s * jitter)

    def _trouble(self, run: dg.DagsterRun) -> tuple[str | None, Trouble]:
        """At which stage a run failed, and why."""
        said = None
        for event in reversed(self._events(run, DagsterEventType.STEP_FAILURE)):
            failure = event.step_failure_data
            told = failure.user_failure_data
            if told is not None and "cause" in told.metadata:
                facts = {name: str(value.value) for name, value in told.metadata.items()}
                cause = cast(Cause, facts["cause"])
                return facts["stage"], Trouble(cause, facts["reason"])
            said = said or failure.error
        reason = said.message.strip().splitlines()[0] if said else "the run ended without a word"
        return None, Trouble("unexplained", reason)

    def _events(self, run: dg.DagsterRun, kind: DagsterEventType) -> list[dg.DagsterEvent]:
        entries = self.instance.all_logs(run.run_id, of_type=kind)
        return [entry.dagster_event for entry in entries if entry.dagster_event is not None]

    def _tell(self) -> None:
        untold = {(one.id, one.attempt): one for one in self.desk.requests.untold()}
        for ending, request in untold.items():
            if ending not in self._tell_at:
                log_notice(request)
        self._tell_at = {ending: self._tell_at.get(ending, 0.0) for ending in untold}
        for ending, request in untold.items():
            if time.monotonic() < self._tell_at[ending]:
                continue
            if not tell(request, self.desk.settings.webhook):
                self._tell_at[ending] = time.monotonic() + _TELL_AGAIN_AFTER_S
                return  # the next pass tells the next one: a webhook that hangs holds each up once
            self.desk.requests.told(request.id)


def _whole(run: dg.DagsterRun) -> bool:
    """Whether the run went to the end of the pipeline."""
    return run.asset_selection is None or dg.AssetKey("publish") in run.asset_selection


def _selected(run: dg.DagsterRun) -> str:
    return ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ()))


@contextmanager
def _alone(**which: str) -> Iterator[None]:
    """Whatever happens in here is told and happens to this one only."""
    try:
        yield
    except Exception as error:
        _log.warning("not reconciled", error=f"{type(error).__name__}: {error}", **which)
