"""`spira collect`: the Data Collection API, in the foreground. Any number of them may run."""

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from spira.domain.errors import SpiraError

if TYPE_CHECKING:
    from spira.wiring import Application

_DRAINED_WITHIN_S = 20  # requests in hand when it is told to end

_log = structlog.get_logger()


def run_api(app: "Application", port: int) -> None:
    """The Data Collection API and its sweeper, until SIGTERM; requests in hand are finished."""
    from spira.collection.api import Parts, create_api
    from spira.collection.studies import Studies
    from spira.collection.visits import Visits
    from spira.intake.checking import Checker
    from spira.intake.listening import listen
    from spira.intake.submissions import Intake
    from spira.intake.tokens import Tokens

    settings = app.settings
    app.prepare()
    app.check_keys()
    checker = Checker(settings.intake.checking)
    stop = threading.Event()
    sweeper = threading.Thread(target=_sweep, args=(app, stop), name="sweeper", daemon=True)
    try:
        parts = Parts(
            intake=Intake(
                app.database,
                app.collected,
                checker,
                app.keys,
                settings.intake,
                consents=app.consents,
            ),
            studies=Studies(app.database),
            visits=Visits(app.database, app.keys.wrapped),
            labels=app.labels,
            tokens=Tokens(app.database),
            keys=app.keys,
            settings=settings.collection,
            thresholds=settings.intake.checking.quality,
        )
        sweeper.start()
        listen(
            create_api(parts), settings.collection.host, port, drained_within_s=_DRAINED_WITHIN_S
        )
    finally:
        stop.set()
        checker.close()


def _sweep(app: "Application", stop: threading.Event) -> None:
    """Clear away what nobody finished to send, and what is not needed any more."""
    from spira.intake.sweeping import sweep

    while not stop.is_set():
        try:
            cleared = sweep(
                app.database,
                app.collected,
                datetime.now(UTC),
                kind="visit",
                consents=app.consents,
            )
            if cleared:
                _log.info("swept", cleared=cleared)
        except SpiraError as error:
            _log.warning("the sweeper waits", error=str(error))
        stop.wait(app.settings.collection.sweep_every_s)
