"""`spira serve`: the parts of Serving, alone, or all of them under one supervisor.

    queue       nats-server, with JetStream         (unless setting serving.queue names one)
    api         the Client API                      spira serve api
    relay       outbox, result writer, sweeper      spira serve relay
    predictor   Streaming Prediction Service        spira serve predictor, one or more

They end with the supervisor, however it ends; what was accepted is in the database, and the next
start goes on with it.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from spira.domain.errors import InputError, TransientError
from spira.stores.locks import held_folder
from spira.stores.processes import Process, answers, free_or_wanted, stop_all
from spira.stores.queue import NatsServer, Queue, nats_server, noted_url

if TYPE_CHECKING:
    from spira.wiring import Application

TOKEN = "SPIRA_QUEUE_TOKEN"  # variable of the environment
_LOCAL = "127.0.0.1"
_LOOK_EVERY_S = 0.2
_DRAINED_WITHIN_S = 20  # requests in hand when the API is told to end
STOPPED_WITHIN_S = _DRAINED_WITHIN_S + 5  # API, relay and predictors; then they are killed


def serve(app: "Application") -> None:
    """Everything, in the foreground, until SIGTERM or Ctrl-C.

    raises    InputError when another one has the folder, or a port is taken
    """
    signal.signal(signal.SIGTERM, _interrupt)
    place = app.home / "serving"
    with ExitStack() as held:
        says = "`spira serve` is running on this data folder already"
        held.enter_context(held_folder(place, says))
        app.prepare()
        app.check_keys()
        server = None
        if app.settings.serving.queue is None:
            server = held.enter_context(nats_server(place / "queue"))
        processes = _processes(app, place, server)
        ours = [one for one in processes if server is None or one is not server.process]
        held.callback(stop_all, ours, within_s=STOPPED_WITHIN_S)  # the queue goes last
        try:
            _watch(app, processes, server)
        except KeyboardInterrupt:
            app.say("Stopped. What was accepted is kept, and answered after the next start.")


def run_api(app: "Application", port: int) -> None:
    """The Client API, until SIGTERM; requests in hand are finished."""
    from spira.intake.checking import Checker
    from spira.intake.listening import listen
    from spira.intake.submissions import Intake
    from spira.intake.tokens import Tokens
    from spira.serving.api import Parts, create_api
    from spira.serving.assessments import Assessments

    settings = app.settings
    app.prepare()
    app.check_keys()
    checker = Checker(settings.intake.checking)
    try:
        parts = Parts(
            intake=Intake(app.database, app.recordings, checker, app.keys, settings.intake),
            assessments=Assessments(app.database),
            tokens=Tokens(app.database),
            keys=app.keys,
            settings=settings.serving,
            thresholds=settings.intake.checking.quality,
        )
        listen(create_api(parts), settings.serving.host, port, drained_within_s=_DRAINED_WITHIN_S)
    finally:
        checker.close()


def run_relay(app: "Application", host: str, port: int | None) -> None:
    """The relay, until SIGTERM.

    port      serves /healthz at this address; None: nowhere
    """
    from spira.intake.sweeping import sweep
    from spira.serving.assessments import Assessments
    from spira.serving.relay import Relay
    from spira.serving.watched import tell

    async def run() -> None:
        stop = asyncio.Event()
        for kind in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(kind, stop.set)
        queue = await Queue.connect(_queue_url(app), token=_queue_token(app))
        relay = Relay(
            Assessments(app.database),
            lambda now: sweep(app.database, app.recordings, now),
            lambda: _champion(app),
            queue,
            app.settings.serving,
        )
        if port is not None:
            tell(lambda: relay.is_well, host, port)
        try:
            await relay.run(stop)
        finally:
            await queue.close()

    app.prepare()
    asyncio.run(run())


def _champion(app: "Application") -> str | None:
    """The model in operation; None where there is none, or it may not answer here."""
    try:
        version = app.registry.get("champion")
    except InputError:
        return None
    if version.evidence_level == "synthetic" and not app.settings.serving.demo:
        return None
    return f"spira/{version.version}"


def run_predictor(app: "Application", host: str, port: int | None) -> None:
    """One predictor, until SIGTERM; what it has in hand is finished."""
    from spira.serving.predictor import load_champion, run

    cache = app.home / "cache" / "models"
    run(
        _queue_url(app),
        token=_queue_token(app),
        objects=app.recordings,
        load_model=lambda: load_champion(app.registry, cache, demo=app.settings.serving.demo),
        host=host,
        port=port,
    )


def _processes(app: "Application", place: Path, server: NatsServer | None) -> list[Process]:
    settings = app.settings.serving
    port = free_or_wanted("serving.port", settings.port, settings.host)
    address = f"http://{settings.host}:{port}"
    (place / "addresses.json").write_text(json.dumps({"api": address}))
    app.say(f"Client API: {address}/v1 (a site's token: `spira serve token create SITE`)")
    kept = {key: os.environ[key] for key in (TOKEN,) if key in os.environ}
    environment = {**app.environment(), **kept}

    def process(name: str, words: Sequence[object], well: Callable[[], bool]) -> Process:
        spira = (sys.executable, "-m", "spira.cli", "--log-level", "info", "serve")
        log = place / "logs" / f"{name}.log"
        return Process(name, [str(word) for word in (*spira, *words)], well, environment, log)

    found = [] if server is None else [server.process]
    found.append(process("api", ("api", "--port", port), lambda: answers(f"{address}/healthz")))
    predictors = [f"predictor-{number}" for number in range(1, settings.predictors + 1)]
    for name in ("relay", *predictors):
        own = free_or_wanted("", 0)
        found.append(
            process(
                name,
                (name.partition("-")[0], "--port", own),
                lambda own=own: answers(f"http://{_LOCAL}:{own}/healthz"),  # type: ignore[misc]
            )
        )
    return found


def _watch(app: "Application", processes: Sequence[Process], server: NatsServer | None) -> None:
    told = False
    while True:
        for process in processes:
            # The others find the queue by the address that it notes when it is first there.
            if server is None or process is server.process or server.url is not None:
                process.watch()
        if not told and all(process.well for process in processes):
            told = True
            app.say("Serving is up.")
        time.sleep(_LOOK_EVERY_S)


def _queue_url(app: "Application") -> str:
    """Where the queue is: by setting, or where the server of this data folder noted it."""
    given = app.settings.serving.queue
    if given is not None:
        return given
    found = noted_url(app.home / "serving" / "queue")
    if found is None:
        raise TransientError("queue: its server has not been started here; `spira serve` does")
    return found


def _queue_token(app: "Application") -> Path | str | None:
    """What it is shown: a server by setting, the token of the environment, where there is one."""
    if app.settings.serving.queue is not None:
        return os.environ.get(TOKEN) or None
    return app.home / "serving" / "queue" / "token"


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
