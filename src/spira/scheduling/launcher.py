"""One detached process a run, and a lock that tells whether it lives.

    scheduler/workers/RUN.lock   held by the worker of the run as long as it lives; its process id
    scheduler/workers/RUN.log    what the worker said

The worker inherits an open `flock`: whoever finds the lock free knows that the worker is dead, be
it by a kill or a reboot. A worker outlives the service that started it, and never has a twin.
"""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from dagster import DagsterRun
from dagster import Field as ConfigField
from dagster._core.launcher.base import (
    CheckRunHealthResult,
    LaunchRunContext,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from spira.stores.locks import is_held

_GRACE_S = 7.0  # for a worker that was asked to stop: it stops its stage first


class DetachedRunLauncher(RunLauncher, ConfigurableClass):
    """Starts workers, tells whether they live, and starts another one for a run whose died.

    folder    of locks and logs
    """

    def __init__(self, folder: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._folder = Path(folder)
        self._inst_data = inst_data

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """As Dagster asks for it."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """What dagster.yaml says."""
        return {"folder": ConfigField(str)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> "DetachedRunLauncher":
        """As dagster.yaml says."""
        return cls(config_value["folder"], inst_data=inst_data)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """It does."""
        return True

    @property
    def supports_resume_run(self) -> bool:
        """It does."""
        return True

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start a worker, unless the run has one."""
        self._start(context.dagster_run, ExecuteRunArgs)

    def resume_run(self, context: ResumeRunContext) -> None:
        """Start another worker for a run whose worker died, unless it has one."""
        self._start(context.dagster_run, ResumeRunArgs)

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the worker lives."""
        if self.has_worker(run.run_id):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, "its worker process is gone")

    def has_worker(self, run_id: str) -> bool:
        """Whether the run has a living worker."""
        return is_held(self._lock(run_id))

    def terminate(self, run_id: str) -> bool:
        """Stop a run: its worker is asked, and killed with its stage when it does not end.

        returns   False when there was nothing to stop
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        process = self._process(run_id)
        if process is not None:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
            deadline = time.monotonic() + _GRACE_S
            while self.has_worker(run_id) and time.monotonic() < deadline:
                time.sleep(0.1)
            if self.has_worker(run_id):
                with suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)  # of a session of its own
        run = self._instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            self._instance.report_run_canceled(run)
        return True

    def _start(
        self, run: DagsterRun, arguments: type[ExecuteRunArgs] | type[ResumeRunArgs]
    ) -> None:
        origin = run.job_code_origin
        assert origin is not None
        words = arguments(
            job_origin=origin,
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=None,
        ).get_command_args()
        self._folder.mkdir(parents=True, exist_ok=True)
        with (
            self._lock(run.run_id).open("a+") as lock,
            self._lock(run.run_id).with_suffix(".log").open("ab") as log,
        ):
            if not _taken(lock):
                return
            lock.truncate(0)  # whose number it held is dead
            # A worker that was killed at a stage holds the slot of it in the name of this run; the
            # next one begins with the first stage, and would wait for itself for ever.
            self._instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            subprocess.Popen(
                words,
                pass_fds=[lock.fileno()],  # and with it the lock
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # The worker itself: its starter may be killed in the next moment.
                preexec_fn=lambda: os.write(lock.fileno(), str(os.getpid()).encode()),
            )

    def _process(self, run_id: str) -> int | None:
        """The worker's process, also when it was started a moment ago; None where none lives."""
        deadline = time.monotonic() + _GRACE_S
        while self.has_worker(run_id) and time.monotonic() < deadline:
            written = self._lock(run_id).read_text()
            if written:
                return int(written)
            time.sleep(0.01)
        return None

    def _lock(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.lock"


def _taken(lock: IO[str]) -> bool:
    """Take the lock; who only looks whether it is held holds it for a moment too."""
    for _ in range(10):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False
