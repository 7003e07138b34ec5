"""The endpoint: POST /v1/runs asks for a run, GET /v1/runs/{id} follows it to its end."""

import hmac
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

import structlog
from dagster import DagsterInstance
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi import Path as PathParameter
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from spira.domain.errors import InputError, SpiraError, TransientError
from spira.domain.suggestions import nearest
from spira.scheduling.asking import Body, Desk
from spira.scheduling.reconciler import EVERY_S, Reconciler
from spira.scheduling.requests import KeyUsed, State
from spira.scheduling.requests import Request as Asked
from spira.scheduling.tokens import TOKEN, signature

_LARGEST_BODY_BYTES = 16_384
_OF_A_REPORT = {  # it shows itself and fetches nothing, whatever got into it
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",  # the address holds the key
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_LATE_S = 60.0  # a reconciler that has not come round for so long hangs

_log = structlog.get_logger()


def create_endpoint(desk: Desk, token: str, reconciler: Reconciler) -> FastAPI:
    """The ASGI application; its reconciler works as long as it is served."""
    came_round = [time.monotonic()]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        thread = threading.Thread(
            target=_keep_reconciling, args=(reconciler, stop, came_round), daemon=True
        )
        thread.start()
        yield
        stop.set()

    app = FastAPI(
        title="SPIRA Scheduler Service",
        description="Asks for runs of the pipeline, and follows them to their end.",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    bearer = HTTPBearer(auto_error=False)

    def authorised(
        shown: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> None:
        if shown is None or not hmac.compare_digest(shown.credentials.encode(), token.encode()):
            raise HTTPException(401, f"a token is needed: Authorization: Bearer, of {TOKEN}")

    @app.exception_handler(SpiraError)
    async def translate(_: Request, error: SpiraError) -> JSONResponse:
        return _problem(_status(error), *str(error).splitlines())

    @app.get("/healthz")
    def healthz() -> JSONResponse:
        """Whether requests and runs are looked after."""
        since_s = time.monotonic() - came_round[0]
        well = since_s < _LATE_S
        return JSONResponse(
            {"well": well, "reconciled_s_ago": round(since_s, 1)}, 200 if well else 503
        )

    @app.post(
        "/v1/runs",
        status_code=202,
        dependencies=[Depends(authorised)],
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": Body.model_json_schema()}},
            }
        },
    )
    async def ask(
        request: Request, idempotency_key: Annotated[str | None, Header(max_length=200)] = None
    ) -> JSONResponse:
        """Ask for a run; 202 with the id of the request, which may have been open already."""
        body = _read(await _limited(request))

        def written() -> tuple[str, dict[str, Any]]:
            asked = desk.ask(body, key=idempotency_key)
            told = _told(desk, asked.request, reconciler.instance)
            return asked.request.id, told | {"joined": asked.joined}

        request_id, found = await run_in_threadpool(written)
        return JSONResponse(found, 202, headers={"Location": f"/v1/runs/{request_id}"})

    @app.get("/v1/runs", dependencies=[Depends(authorised)])
    def runs(
        state: State | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> list[dict[str, Any]]:
        """Requests, the latest first."""
        return [_summary(request) for request in desk.requests.list(state=state, limit=limit)]

    @app.get("/v1/runs/{request_id}", dependencies=[Depends(authorised)])
    def run(request_id: str) -> dict[str, Any]:
        """One request: what it asks for, what has happened, how it ended."""
        try:
            return _told(desk, desk.requests.get(request_id), reconciler.instance)
        except InputError as error:
            raise HTTPException(404, str(error)) from error

    @app.get("/v1/reports/{fingerprint}", response_class=HTMLResponse)
    def report(
        fingerprint: Annotated[str, PathParameter(pattern="^[0-9a-f]{64}$")],
        key: Annotated[str, Query(description="The signature in a link of the web page.")] = "",
        shown: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None,
    ) -> HTMLResponse:
        """The report of an evaluation or of a published model, its bytes verified."""
        if not hmac.compare_digest(key.encode(), signature(token, fingerprint).encode()):
            if key:
                raise HTTPException(
                    403,
                    "this link is not of this service, or its token has changed since; "
                    "materialize the asset again in the web page for a new one",
                )
            authorised(shown)
        found = (desk.store.find(stage, fingerprint) for stage in ("evaluate", "publish"))
        artifact = next((artifact for artifact in found if artifact is not None), None)
        if artifact is None:
            raise HTTPException(404, f"report {fingerprint[:12]}: there is none, or none any more")
        return HTMLResponse(artifact.read("report.html"), headers=_OF_A_REPORT)

    @app.exception_handler(StarletteHTTPException)
    async def refuse(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return _problem(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def correct(_: Request, error: RequestValidationError) -> JSONResponse:
        return _problem(422, *(_mistake(fault) for fault in error.errors()))

    return app


def _keep_reconciling(
    reconciler: Reconciler, stop: threading.Event, came_round: list[float]
) -> None:
    while not stop.wait(EVERY_S):
        try:
            reconciler.reconcile()
        except Exception as error:  # a database that is away comes back; nothing may end this loop
            _log.warning(
                "a pass of the reconciler failed", error=f"{type(error).__name__}: {error}"
            )
        came_round[0] = time.monotonic()


async def _limited(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST_BODY_BYTES:
            raise HTTPException(413, f"the body has over {_LARGEST_BODY_BYTES} bytes")
    return body


def _read(text: bytes) -> Body:
    try:
        return Body.model_validate_json(text)
    except ValidationError as error:
        raise InputError(*(_mistake(fault) for fault in error.errors())) from error


def _mistake(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"]) or "body"
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown{nearest(where, Body.model_fields)}"
    return f"{where}: {fault['msg'].lower()}"


def _summary(request: Asked) -> dict[str, Any]:
    names = ("id", "experiment", "seed", "dataset", "kind", "state", "attempt", "run_id")
    times = ("asked_at", "ended_at", "stage", "outcome")
    whole = asdict(request)
    return {name: whole[name] for name in (*names, *times)}


def _told(desk: Desk, request: Asked, instance: DagsterInstance) -> dict[str, Any]:
    stages = instance.get_run_step_stats(request.run_id) if request.run_id else []
    return _summary(request) | {
        "stages": {one.step_key: one.status.value.lower() for one in stages if one.status},
        **desk.requests.history(request.id),
    }


def _status(error: SpiraError) -> int:
    if isinstance(error, KeyUsed):
        return 409
    if isinstance(error, InputError):
        return 422
    return 503 if isinstance(error, TransientError) else 500


def _problem(status: int, *mistakes: str) -> JSONResponse:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "5"}}
    return JSONResponse(
        {"status": status, "detail": "\n".join(mistakes), "mistakes": list(mistakes)},
        status,
        headers=headers.get(status),
        media_type="application/problem+json",
    )
