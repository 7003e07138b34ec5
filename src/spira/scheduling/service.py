"""`spira schedule up`: the processes of the service, started in order, watched, started again.

    code      serves the definitions                dagster api grpc
    daemon    sensors, schedules, queue, monitoring dagster-daemon run
    web       the page, on 127.0.0.1 only           spira.scheduling.web
    endpoint  POST /v1/runs, and the reconciler     spira schedule endpoint

They end with this process, however it ends; the workers of runs do not: they go on, and the next
service finds them by their locks.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog
import yaml

from spira.domain.errors import TransientError
from spira.scheduling.holding import HeldDatabase, hold_database
from spira.scheduling.instance import folder, open_instance, prepare
from spira.scheduling.tokens import in_address
from spira.stores.locks import held_folder
from spira.stores.processes import Process, answers, free_or_wanted, stop_all, without_proxy

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from spira.wiring import Application

_LOCAL = "127.0.0.1"
_LOOK_EVERY_S = 1.0
_DAEMON_SILENT_S = 150.0  # its heartbeats come every 30 s
_NEED_DATABASE = ("daemon",)  # may only run while the lock on the database is held

_log = structlog.get_logger()


def up(app: "Application") -> None:
    """Run the service until it is told to stop.

    raises    InputError naming the holder when another service has the folder or the database,
              or a port is taken; TransientError when the database does not answer
    """
    signal.signal(signal.SIGTERM, _interrupt)
    os.environ.update(without_proxy(os.environ, app.settings.scheduling.host))
    place = folder(app.home)
    with held_folder(place, "the scheduler of this data folder is running already"):
        database = hold_database(app.settings.scheduling)
        prepare(app.home, app.settings.scheduling)
        with open_instance(app.home) as instance:
            processes = _processes(app, instance)
            try:
                _watch(app, processes, database)
            except KeyboardInterrupt:
                try:
                    app.say(_farewell(app, instance))
                except Exception:  # the database is away: then there is nothing more to say
                    app.say("Stopped; runs under way go on in processes of their own.")
            finally:
                stop_all(processes)
                (place / "addresses.json").unlink(missing_ok=True)


def _watch(app: "Application", processes: Sequence[Process], database: HeldDatabase | None) -> None:
    told = False
    while True:
        held = database is None or _held(database, processes)
        for process in processes:
            if held or process.name not in _NEED_DATABASE:
                process.watch()
        if not told and all(process.well for process in processes):
            told = True
            app.say("The service is up.")
        time.sleep(_LOOK_EVERY_S)


def _held(database: HeldDatabase, processes: Sequence[Process]) -> bool:
    """Whether the lock on the database is ours; what needs it stops until it is again.

    raises    InputError when another service has it by now
    """
    if database.is_held():
        return True
    bound = [one for one in processes if one.name in _NEED_DATABASE and one.pid]
    if bound:
        _log.error("the lock on the database is lost; the daemon stops until it is back")
        stop_all(bound)
    try:
        database.take()
    except TransientError:
        return False
    return True


def _processes(app: "Application", instance: "DagsterInstance") -> list[Process]:
    settings = app.settings.scheduling
    place = folder(app.home)
    code, web, endpoint = (
        free_or_wanted("", 0),
        free_or_wanted("scheduling.web_port", settings.web_port),
        free_or_wanted("scheduling.port", settings.port, settings.host),
    )
    workspace = place / "workspace.yaml"
    server = {"host": _LOCAL, "port": code, "location_name": "spira"}
    workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
    addresses = {
        "endpoint": f"http://{in_address(settings.host)}:{endpoint}",
        "web": f"http://{_LOCAL}:{web}",
    }
    (place / "addresses.json").write_text(json.dumps(addresses))
    app.say(f"Web page: {addresses['web']} (on this machine only; it asks for no password)")
    app.say(f"Endpoint: {addresses['endpoint']}/v1/runs (token: SPIRA_SCHEDULER_TOKEN, or the file")
    app.say(f"          {place / 'token'})")
    python, environment = sys.executable, _environment(app)

    def process(name: str, words: Sequence[object], answers: Callable[[], bool]) -> Process:
        log = place / "services" / f"{name}.log"
        return Process(name, [str(word) for word in words], answers, environment, log)

    found = [
        process(
            "code",
            [
                *(python, "-m", "dagster", "api", "grpc", "-m", "spira.scheduling.definitions"),
                *("--host", _LOCAL, "--port", code, "--location-name", "spira"),
                "--use-python-environment-entry-point",
            ],
            lambda: _code_answers(code),
        ),
        process(
            "daemon",
            [
                python,
                "-m",
                "spira.scheduling.daemon",
                "run",
                "-w",
                workspace,
                "--log-level",
                "warning",
            ],
            lambda: _daemon_beats(instance, since=found[1].started_at),
        ),
        process(
            "web",
            [python, "-m", "spira.scheduling.web", "-h", _LOCAL, "-p", web, "-w", workspace],
            lambda: answers(f"http://{_LOCAL}:{web}/server_info"),
        ),
        process(
            "endpoint",
            [
                *(python, "-m", "spira.cli", "--log-level", "info"),
                *("schedule", "endpoint", "--port", endpoint),
            ],
            lambda: answers(f"{addresses['endpoint']}/healthz"),
        ),
    ]
    found[1].silent_s = _DAEMON_SILENT_S
    return found


def _environment(app: "Application") -> dict[str, str]:
    """What every process of the service, and every worker of a run, is started with."""
    ours = app.settings.scheduling.model_dump(mode="json")
    ours["experiments"] = str(app.settings.scheduling.experiments.resolve())
    kept = {key: os.environ[key] for key in ("SPIRA_SCHEDULER_TOKEN",) if key in os.environ}
    return {
        **app.environment(),
        **kept,
        "SPIRA_SCHEDULING": json.dumps(ours),
        "DAGSTER_HOME": str(folder(app.home) / "dagster"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }


def _code_answers(port: int) -> bool:
    from dagster._core.errors import DagsterUserCodeUnreachableError
    from dagster._grpc.client import DagsterGrpcClient

    try:
        answer = DagsterGrpcClient(host=_LOCAL, port=port).ping("well")
    except DagsterUserCodeUnreachableError:
        return False
    return bool(answer["echo"] == "well")


def _daemon_beats(instance: "DagsterInstance", *, since: float) -> bool:
    """Whether the daemon, started then, has written a heartbeat lately; a database that is away
    says nothing."""
    try:
        beats = instance.get_daemon_heartbeats().values()
    except Exception:  # whatever the database raises: it is not the daemon that hangs
        return True
    newest = max((beat.timestamp for beat in beats), default=0.0)
    return newest > since and time.time() - newest < _DAEMON_SILENT_S


def _farewell(app: "Application", instance: "DagsterInstance") -> str:
    """What becomes of the runs that are under way."""
    from dagster import DagsterRunStatus, RunsFilter

    active = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED]
    running = instance.get_runs_count(RunsFilter(statuses=active))
    waiting = app.requests.counts().get("open", 0) - running
    if not running and waiting <= 0:
        return "Stopped; no run was under way."
    return (
        f"Stopped. {running} runs go on in processes of their own, and their stages with them; "
        f"{max(waiting, 0)} requests wait. The next `spira schedule up` finds them all; "
        "`spira schedule cancel REQUEST` ends one."
    )


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
