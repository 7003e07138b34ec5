"""`spira schedule up`: the processes of the service, started in order, watched, started again.

    code      serves the definitions                dagster api grpc
    daemon    sensors, schedules, queue, monitoring dagster-daemon run
    web       the page, on 127.0.0.1 only           spira.scheduling.web
    endpoint  POST /v1/runs, and the reconciler     spira schedule endpoint

They end with this process, however it ends; the workers of runs do not: they go on, and the next
service finds them by their locks.
"""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import yaml

from spira.domain.errors import InputError, TransientError
from spira.scheduling.holding import HeldDatabase, held_folder, hold_database
from spira.scheduling.instance import folder, open_instance, prepare
from spira.scheduling.tokens import in_address
from spira.stores.processes import end_with_starter

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from spira.wiring import Application

_LOCAL = "127.0.0.1"
_LOOK_EVERY_S = 1.0
_FIRST_ANSWER_S = 120.0  # a start on a busy machine
_ANSWER_WITHIN_S = 5.0
_SILENT_S = 20.0  # without an answer, once it has answered: it hangs
_DAEMON_SILENT_S = 150.0  # its heartbeats come every 30 s
_STOPPED_WITHIN_S = 8.0
_PAUSE_S = (
    1.0  # before one that ended is started again, doubled each time it ends without an answer
)
_LONGEST_PAUSE_S = 30.0

_OF_A_PORT = {errno.EADDRINUSE: "is taken", errno.EACCES: "is not for this account"}
_directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_log = structlog.get_logger()


@dataclass
class Process:
    """One process of the service."""

    name: str
    words: Sequence[str]
    answers: Callable[[], bool]
    environment: Mapping[str, str]
    log: Path
    silent_s: float = _SILENT_S
    pause_s: float = _PAUSE_S
    needs_database: bool = False  # may only run while the lock on the database is held
    _running: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0.0  # by the wall clock
    _started: float = 0.0
    _answered: float | None = None
    _not_before: float = 0.0
    _ends_at_once: int = 0  # times in a row

    def watch(self) -> None:
        """Start it when it is not there; kill it when it does not answer."""
        now = time.monotonic()
        if self._running is not None and self._running.poll() is not None:
            code, log = self._running.returncode, str(self.log)
            _log.warning("a process of the service ended", process=self.name, code=code, log=log)
            self._running = None
            self._ends_at_once = 0 if self._answered else self._ends_at_once + 1
            if self._ends_at_once:
                pause_s = min(self.pause_s * 2.0**self._ends_at_once, _LONGEST_PAUSE_S)
                self._not_before = now + pause_s
        if self._running is None:
            if now >= self._not_before:
                self._start()
            return
        if self.answers():
            self._answered = time.monotonic()
            return
        silent_s = now - (self._started if self._answered is None else self._answered)
        if silent_s > (_FIRST_ANSWER_S if self._answered is None else self.silent_s):
            _log.warning("a process of the service hangs", process=self.name)
            self._running.kill()

    @property
    def well(self) -> bool:
        """Whether it has answered since it was started."""
        return self._running is not None and self._answered is not None

    @property
    def pid(self) -> int | None:
        """Its process."""
        return None if self._running is None else self._running.pid

    def stop(self) -> None:
        """Ask it to end."""
        if self._running is not None:
            with suppress(ProcessLookupError):
                self._running.terminate()

    def wait(self, deadline: float) -> None:
        """Wait for its end until a moment of the monotonic clock, then kill it."""
        if self._running is None:
            return
        try:
            self._running.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
        self._running = None
        self._answered = None

    def _start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as said:
            self._running = subprocess.Popen(
                self.words,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                preexec_fn=end_with_starter,
            )
        self._started, self.started_at = time.monotonic(), time.time()
        self._answered = None


def up(app: "Application") -> None:
    """Run the service until it is told to stop.

    raises    InputError naming the holder when another service has the folder or the database,
              or a port is taken; TransientError when the database does not answer
    """
    signal.signal(signal.SIGTERM, _interrupt)
    os.environ.update(without_proxy(os.environ, app.settings.scheduling.host))
    place = folder(app.home)
    with held_folder(place):
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
                _stop(processes)
                (place / "addresses.json").unlink(missing_ok=True)


def _watch(app: "Application", processes: Sequence[Process], database: HeldDatabase | None) -> None:
    told = False
    while True:
        held = database is None or _held(database, processes)
        for process in processes:
            if held or not process.needs_database:
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
    bound = [process for process in processes if process.needs_database and process.pid]
    if bound:
        _log.error("the lock on the database is lost; the daemon stops until it is back")
        _stop(bound)
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
        free_or_wanted("web_port", settings.web_port),
        free_or_wanted("port", settings.port, settings.host),
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
            lambda: is_up(f"http://{_LOCAL}:{web}/server_info"),
        ),
        process(
            "endpoint",
            [
                *(python, "-m", "spira.cli", "--log-level", "info"),
                *("schedule", "endpoint", "--port", endpoint),
            ],
            lambda: is_up(f"{addresses['endpoint']}/healthz"),
        ),
    ]
    found[1].silent_s, found[1].needs_database = _DAEMON_SILENT_S, True
    return found


def _environment(app: "Application") -> dict[str, str]:
    """What every process of the service, and every worker of a run, is started with."""
    values = app.settings.model_dump(mode="json")
    values["scheduling"]["experiments"] = str(app.settings.scheduling.experiments.resolve())
    rooms = {
        f"SPIRA_{room.upper()}": json.dumps(value) if isinstance(value, dict) else str(value)
        for room, value in values.items()
    }
    flat = {key: text for key, text in os.environ.items() if not key.startswith("SPIRA_")}
    kept = {key: os.environ[key] for key in ("SPIRA_SCHEDULER_TOKEN",) if key in os.environ}
    return {
        **flat,
        **kept,
        **rooms,
        "DAGSTER_HOME": str(folder(app.home) / "dagster"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "PYTHONSAFEPATH": "1",  # a click.py in the working folder is not ours
    }


def free_or_wanted(name: str, wanted: int, host: str = _LOCAL) -> int:
    """A port that can be listened on: the wanted one, or any free one for 0.

    raises    InputError naming the setting when it is taken, or the host is not this machine
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, wanted, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            return int(listener.getsockname()[1])
    except (OSError, UnicodeError) as error:  # a name that cannot be one is the latter
        code = getattr(error, "errno", None)
        if code in _OF_A_PORT:
            raise InputError(
                f"setting scheduling.{name}: port {wanted} {_OF_A_PORT[code]}; "
                "choose another, or 0 for any"
            ) from error
        why = str(getattr(error, "strerror", None) or error).lower()
        raise InputError(
            f"setting scheduling.host: {host}: nothing can listen there ({why}); "
            f"write an address of this machine, such as {_LOCAL}"
        ) from error


def without_proxy(environment: Mapping[str, str], host: str) -> dict[str, str]:
    """Variables by which what is on this machine is asked directly, beside what was so before.

    gRPC and Python would ask an `http_proxy` for 127.0.0.1 as well. Both spellings say the same:
    some programs read only one, for others the small one counts.
    """
    kept = environment.get("no_proxy") or environment.get("NO_PROXY")
    direct = ",".join([*filter(None, [kept]), _LOCAL, "localhost", host])
    return {"no_proxy": direct, "NO_PROXY": direct}


def is_up(url: str) -> bool:
    """Whether an address of this machine answers with 200."""
    try:
        with _directly.open(url, timeout=_ANSWER_WITHIN_S) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


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


def _stop(processes: Sequence[Process]) -> None:
    for process in processes:
        process.stop()
    deadline = time.monotonic() + _STOPPED_WITHIN_S
    for process in processes:
        process.wait(deadline)


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
