"""Notices of what failed for good: a line in the log, and one to a webhook where that is set."""

from collections.abc import Mapping
from typing import Any

import requests as http
import structlog

from spira.scheduling.requests import Request

_ANSWER_WITHIN_S = 5.0

_log = structlog.get_logger()


def notice(request: Request) -> dict[str, Any]:
    """What is told of a request that failed: which, where, why, and what to do."""
    told: dict[str, Any] = {
        "request": request.id,
        "experiment": request.experiment,
        "seed": request.seed,
        "dataset": request.dataset,
        "state": request.state,
        "stage": request.stage,
        "reason": request.outcome,
        "attempts": request.attempt,
    }
    if request.state == "failed":
        told["resume"] = f"spira schedule resume {request.id}"
    return told


def log_notice(request: Request) -> None:
    """Write the notice to the log."""
    _log.error("request ended without a model", **notice(request))


def tell(request: Request, webhook: str | None) -> bool:
    """Send the notice; False when the webhook did not take it and it is to be sent again."""
    return _sent(notice(request), webhook)


def tell_not_asked(by: str, reason: str, webhook: str | None) -> None:
    """Send a notice that a request could not be made, of which nobody would hear otherwise.

    by        what wanted to ask: `cron`, `new data`
    """
    told = {"request": None, "state": "not asked", "by": by, "reason": reason}
    _log.error("a request could not be made", **told)
    _sent(told, webhook)


def _sent(told: Mapping[str, Any], webhook: str | None) -> bool:
    if webhook is None:
        return True
    try:
        http.post(webhook, json=told, timeout=_ANSWER_WITHIN_S).raise_for_status()
    except http.RequestException as error:
        _log.warning(
            "the webhook took no notice", request=told["request"], error=type(error).__name__
        )
        return False
    return True
