"""The reconciler: every two seconds, requests and runs are brought to agree.

    a run without a request          is given one (it was started from the web page)
    a run of a cancelled request     is stopped
    a run left in STARTING           is started again: its worker, or the daemon, died on the way
    a run that ended                 ends its request, or makes the next attempt due
    a request that failed            is told about, once

Each step can be repeated, by two at once or after a kill: the table takes the first one.
"""

import random
import time
from collections.abc import Iterable
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
from spira.scheduling.notices import tell
from spira.scheduling.requests import Request, State
from spira.scheduling.runs import ATTEMPT, REQUEST, adopt
from spira.scheduling.stages import Cause, Trouble

EVERY_S = 2.0
# Passes after which a run that is still starting, without a worker, is started again: soon, and
# then more and more seldom, as whatever keeps it from starting may last.
_STARTED_AGAIN_AT = frozenset(2**n for n in range(1, 12))
_LONGEST_WAIT_S = 600.0  # between two attempts
_TELL_AGAIN_AFTER_S = 60.0
_LOOK_BACK = timedelta(minutes=1)  # for a run whose end was written while the last pass looked
# A run that fails without a stage's word met a defect of ours, or a database that was away.
_UNEXPLAINED_ATTEMPTS = 5

_log = structlog.get_logger()


@dataclass
class Reconciler:
    """Brings requests and runs to agree, a pass at a time."""

    instance: dg.DagsterInstance
    desk: Desk
    _starting: dict[str, int] = field(default_factory=dict)  # runs -> passes that saw them so
    _since: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(days=1))
    _tell_at: float = 0.0

    def reconcile(self) -> None:
        """One pass.

        raises    TransientError, or Dagster's errors, when a database is away; the next pass sees
                  to what this one left
        """
        began = datetime.now(UTC)
        runs = list(self.instance.get_runs(RunsFilter(statuses=NOT_FINISHED_STATUSES)))
        self._starting = {
            run.run_id: self._starting.get(run.run_id, 0) + 1
            for run in runs
            if run.status == DagsterRunStatus.STARTING
        }
        for run in runs:
            request = self._request_of(run)
            if request is not None and request.state == "cancelled":
                self.instance.run_coordinator.cancel_run(run.run_id)
            elif self._starting.get(run.run_id, 0) in _STARTED_AGAIN_AT:
                self._start_again(run)
        ended = RunsFilter(statuses=FINISHED_STATUSES, updated_after=self._since)
        for run in self.instance.get_runs(ended):
            if REQUEST not in run.tags or run.parent_run_id is not None:
                self._request_of(run)
        self._settle({run.run_id for run in runs})
        self._tell()
        self._since = began - _LOOK_BACK

    def _request_of(self, run: dg.DagsterRun) -> Request | None:
        """The request of a run, which learns that the run is there."""
        try:
            request = adopt(run, self.instance, self.desk)
        except InputError as error:
            if REQUEST not in run.tags:
                self.instance.add_run_tags(run.run_id, {REQUEST: "none"})
                _log.warning("a run without a request", run=run.run_id, reason=str(error))
            return None
        attempt = run.tags.get(ATTEMPT)
        if request.run_id is None and attempt == str(request.attempt):
            self.desk.requests.on_its_way(request.id, request.attempt, run.run_id)
        return request

    def _start_again(self, run: dg.DagsterRun) -> None:
        launcher = self.instance.run_launcher
        if isinstance(launcher, DetachedRunLauncher) and not launcher.has_worker(run.run_id):
            _log.info("a run left on its way is started again", run=run.run_id)
            launcher.launch_run(LaunchRunContext(run, workspace=None))

    def _settle(self, unfinished: Iterable[str]) -> None:
        unfinished = set(unfinished)
        for request in self.desk.requests.list(state="open"):
            if request.run_id is None or request.run_id in unfinished:
                continue
            run = self.instance.get_run_by_id(request.run_id)
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
        if trouble.cause == "damaged":  # its stages make again what is damaged, but not a dataset
            return not any(
                event.what == "next attempt" and event.detail.startswith("damaged")
                for event in self.desk.requests.events(request.id)
            )
        if trouble.cause == "unexplained":
            return request.attempt < _UNEXPLAINED_ATTEMPTS
        return trouble.cause == "transient"

    def _again(self, request: Request, why: str, stage: str | None = None) -> None:
        """The next attempt, later and later; after too many the request has failed."""
        settings = self.desk.settings
        if request.attempt >= settings.attempts:
            self.desk.requests.end(
                request.id,
                request.attempt,
                "failed",
                f"{why} ({request.attempt} attempts)",
                stage=stage,
            )
            return
        wait_s = min(_LONGEST_WAIT_S, settings.retry_delay_s * 2.0 ** min(request.attempt - 1, 10))
        jitter = random.uniform(0.75, 1.25)
        self.desk.requests.again(request.id, request.attempt, why, after_s=wait_s * jitter)

    def _trouble(self, run: dg.DagsterRun) -> tuple[str | None, Trouble]:
        """At which stage a run failed, and why."""
        said = None
        for event in self._events(run, DagsterEventType.STEP_FAILURE):
            failure = event.step_failure_data
            told = failure.user_failure_data
            if told is not None and "cause" in told.metadata:
                facts = {name: str(value.value) for name, value in told.metadata.items()}
                cause = cast(Cause, facts["cause"])
                return facts["stage"], Trouble(cause, facts["reason"])
            said = failure.error
        reason = said.message.strip().splitlines()[0] if said else "the run ended without a word"
        return None, Trouble("unexplained", reason)

    def _events(self, run: dg.DagsterRun, kind: DagsterEventType) -> list[dg.DagsterEvent]:
        entries = self.instance.all_logs(run.run_id, of_type=kind)
        return [entry.dagster_event for entry in entries if entry.dagster_event is not None]

    def _tell(self) -> None:
        if time.monotonic() < self._tell_at:
            return
        for request in self.desk.requests.untold():
            if tell(request, self.desk.settings.webhook):
                self.desk.requests.told(request.id)
            else:
                self._tell_at = time.monotonic() + _TELL_AGAIN_AFTER_S


def _whole(run: dg.DagsterRun) -> bool:
    """Whether the run went to the end of the pipeline."""
    return run.asset_selection is None or dg.AssetKey("publish") in run.asset_selection


def _selected(run: dg.DagsterRun) -> str:
    return ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ()))
