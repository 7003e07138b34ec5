"""Dagster's own home in the data folder: how it is set, and where everything of it lies.

scheduler/dagster/dagster.yaml   written anew from SPIRA's settings at each start
scheduler/workers/               locks and logs of run workers (spira.scheduling.launcher)
scheduler/stages/RUN/STAGE.log   what a stage said
scheduler/experiments/           documents that runs were given
scheduler/services/              logs of the service's processes
scheduler/requests.db            requests, where they are not on PostgreSQL
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from spira.domain.errors import InputError
from spira.scheduling.requests import Requests
from spira.scheduling.settings import SchedulingSettings

if TYPE_CHECKING:
    from dagster import DagsterInstance

# Tried on two cores under random kills: with these nothing is lost and a run keeps its id.
# Dagster's own `run_retries` give up while the code server is down; the table of requests does not.
_TRIED: dict[str, Any] = {
    "run_monitoring": {
        "enabled": True,
        "poll_interval_seconds": 2,
        "start_timeout_seconds": 3600,  # until then, whoever is left in STARTING is started again
        "cancel_timeout_seconds": 10,
        "max_resume_run_attempts": 100,
        "free_slots_after_run_end_seconds": 5,
    },
    # A sensor that found nothing to do is written down every second.
    "retention": {"sensor": {"purge_after_days": {"skipped": 1, "failure": 30, "success": 30}}},
    "scheduler": {  # a tick of cron that met trouble is tried again; its key makes it one request
        "module": "dagster._core.scheduler",
        "class": "DagsterDaemonScheduler",
        "config": {"max_tick_retries": 5},
    },
    "telemetry": {"enabled": False},
    "nux": {"enabled": False},
}
_QUEUE = {"dequeue_interval_seconds": 1, "max_user_code_failure_retries": 20}


def folder(home: Path) -> Path:
    """The scheduler's folder in a data folder."""
    return home / "scheduler"


def open_requests(home: Path, settings: SchedulingSettings) -> Requests:
    """The table of requests that the settings name."""
    return Requests.open(settings.database or f"sqlite:///{folder(home) / 'requests.db'}")


def prepare(home: Path, settings: SchedulingSettings) -> None:
    """Write Dagster's settings and create every table, in this one process.

    Three processes that meet a fresh SQLite home at once can ruin its schema.

    raises    InputError for the executor of a cluster, which has no use for this launcher, and
              for a timetable that is none
    """
    if settings.executor == "kubernetes":
        raise InputError(
            "setting scheduling.executor: kubernetes is for the pods of deploy/kubernetes; "
            "on one machine write 'in process', or 'process'"
        )
    check_cron(settings)
    place = folder(home)
    dagster_home = place / "dagster"
    dagster_home.mkdir(parents=True, exist_ok=True)
    written = dagster_home / "dagster.yaml.new"
    written.write_text(yaml.safe_dump(configuration(place, settings)), encoding="utf-8")
    written.replace(dagster_home / "dagster.yaml")
    create_tables(home, settings)


def check_cron(settings: SchedulingSettings) -> None:
    """Refuse a timetable that is none: the code server would die of it each time it is started."""
    from dagster._utils.schedules import is_valid_cron_schedule

    if settings.cron is not None and not is_valid_cron_schedule(settings.cron):
        raise InputError(
            f"setting scheduling.cron: {settings.cron!r} is no cron expression; write five fields, "
            "such as '0 3 * * 0' for Sundays at three, UTC"
        )


def create_tables(home: Path, settings: SchedulingSettings) -> None:
    """Create every table, and give the pools their slots, by the dagster.yaml that is there.

    On Kubernetes that file is not ours to write; an init container does the rest.
    """
    open_requests(home, settings).create()
    with open_instance(home) as instance:
        instance.get_runs(limit=1)
        instance.all_instigator_state()
        for pool, slots in (("cpu", settings.cpu_slots), ("gpu", settings.gpu_slots)):
            instance.event_log_storage.set_concurrency_slots(pool, slots)


def open_instance(home: Path) -> "DagsterInstance":
    """Dagster's instance in a data folder that is prepared."""
    from dagster import DagsterInstance

    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
    return DagsterInstance.from_config(str(folder(home) / "dagster"))


def configuration(place: Path, settings: SchedulingSettings) -> dict[str, Any]:
    """What dagster.yaml says on one machine, for the scheduler's folder."""
    dagster_home = place / "dagster"
    storage: dict[str, Any] = {"sqlite": {"base_dir": str(dagster_home)}}
    if settings.database is not None:
        storage = {"postgres": {"postgres_url": settings.database}}
    return {
        **_TRIED,
        "storage": storage,
        "compute_logs": {
            "module": "dagster._core.storage.local_compute_log_manager",
            "class": "LocalComputeLogManager",
            "config": {"base_dir": str(dagster_home / "logs")},
        },
        "local_artifact_storage": {
            "module": "dagster._core.storage.root",
            "class": "LocalArtifactStorage",
            "config": {"base_dir": str(dagster_home)},
        },
        "run_coordinator": {
            "module": "dagster._core.run_coordinator.queued_run_coordinator",
            "class": "QueuedRunCoordinator",
            "config": _QUEUE,
        },
        "run_launcher": {
            "module": "spira.scheduling.launcher",
            "class": "DetachedRunLauncher",
            "config": {"folder": str(place / "workers")},
        },
        "concurrency": {
            "runs": {"max_concurrent_runs": settings.concurrent_runs},
            "pools": {"granularity": "op", "default_limit": 1},
        },
    }


if __name__ == "__main__":
    from spira.settings import read_settings

    read = read_settings()
    check_cron(read.scheduling)
    create_tables(read.home, read.scheduling)
