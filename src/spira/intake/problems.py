"""Errors of an HTTP API as problem details.

source    RFC 9457
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypedDict

import structlog
from starlette.responses import JSONResponse

from spira.domain.answers import Sentence
from spira.domain.errors import InputError, SpiraError, StorageFull, TransientError

_log = structlog.get_logger()


class Said(TypedDict, total=False):
    """What a problem is called, for programs, and what a person is told."""

    code: str
    sentence: Sentence


SaidOf = Callable[[int], Said]
"""What is said about a problem of this status, beside what HTTP says."""


def problem(
    status: int,
    detail: str,
    *,
    code: str | None = None,
    sentence: Sentence | None = None,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> JSONResponse:
    """A response that says what was wrong, to a program and, where there is one, to a person."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **more,
    }
    if code is not None:
        body["code"] = code
    if sentence is not None:
        body["sentence"] = sentence.model_dump()
    return JSONResponse(
        body, status, headers=headers, media_type="application/problem+json; charset=utf-8"
    )


def problem_of(error: SpiraError, path: str, said_of: SaidOf) -> JSONResponse:
    """Trouble of the server: 507 no space left, 503 try again, 500 a defect; the rest in the log.

    Wrong input is the server's own here, a folder that may not be written, keys that are being
    restored: what a client sends wrongly is refused where it is read, with `problem`.
    path      that was asked for, for the log
    """
    _log.warning("a request failed", path=path, error=str(error))
    match error:
        case StorageFull():
            status, detail, headers = 507, "no space left", {"Retry-After": "60"}
        case InputError() | TransientError():
            status, detail, headers = 503, "not now; try again", {"Retry-After": "2"}
        case _:
            status, detail, headers = 500, "a defect; it is in the log", {}
    return problem(status, detail, headers=headers, **said_of(status))
