"""Notices of permanent failures: a line in the log, and a webhook where one is set."""

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


def tell(request: Request, webhook: str | None) -> bool:
    """Send the notice; False when the webhook did not take it and it is to be sent again."""
    told = notice(request)
    if webhook is not None:
        try:
            http.post(webhook, json=told, timeout=_ANSWER_WITHIN_S).raise_for_status()
        except http.RequestException as error:
            _log.warning(
                "the webhook took no notice", request=request.id, error=type(error).__name__
            )
            return False
    _log.error("request ended without a model", **told)
    return True
