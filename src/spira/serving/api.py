"""The Client API (6): assessments in, receipts and answers out.

`PUT /v1/assessments/{id}` is the whole conversation: it always answers the present state, and the
client repeats it until it holds a receipt. Bytes travel by tus (spira.intake.tus).
"""

import asyncio
import base64
import hmac
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar, cast

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from spira import __version__
from spira.audio.quality import QualityThresholds
from spira.delivery.about import ABOUT
from spira.domain.answers import Sentence
from spira.domain.errors import InputError, SpiraError
from spira.domain.fingerprint import fingerprint
from spira.domain.forms import Filled, check, json_schema
from spira.domain.frozen import Frozen
from spira.domain.submissions import Files, FormValues, Id, Moment, Submission
from spira.intake.audit import is_plain
from spira.intake.keys import KeyRing
from spira.intake.problems import problem, problem_of
from spira.intake.submissions import Conflict, Intake, Owner, Progress, Standing, Unknown
from spira.intake.tus import Tus, Upload
from spira.serving.assessments import Assessments
from spira.serving.forms import FORMS
from spira.serving.metrics import CountRefusals, Metrics
from spira.serving.openapi import describe
from spira.serving.settings import ServingSettings
from spira.serving.taking import taken
from spira.serving.tokens import Site, Tokens
from spira.serving.words import PROBLEMS, REFUSALS, STATES, Problem, Refusal, stale

_LARGEST_BODY_BYTES = 256 << 10
_BODY_S = 60.0  # that a body may take: 256 kB at 35 kbit/s
_LARGEST_PAGE = 200
_COMMITS_AT_ONCE = 16
_MOST_OF_A_SITE = (
    100  # commits at work and in line: of many phones at once, or of one that is broken
)
_UPLOAD = re.compile(r"[0-9a-f]{40}")
_LONGEST_PLACE = 64  # characters of a name that the client made
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}=?")  # 32 bytes as base64url
_WORDS_OF: dict[int, Problem] = {
    400: "bad_request",
    404: "not_allowed",  # of addresses; where something is not found, it says so itself
    405: "not_allowed",
    409: "wrong_offset",
    412: "tus_version",
    413: "too_large",
    415: "wrong_type",
    500: "broken",
    503: "unavailable",
    507: "storage_full",
}

_log = structlog.get_logger()
_Model = TypeVar("_Model", bound=Frozen)


class Manifest(Frozen):
    """What a device sends of an assessment."""

    revision: int = Field(ge=1, le=1_000_000)
    form: FormValues
    recordings: Files = Field(min_length=1, max_length=4)
    replaces: Id | None = None


class Search(Frozen):
    """A record number, in a body so that it stands in no address or log."""

    record_number: str = Field(min_length=1, max_length=100, repr=False)


def _plain(text: str) -> str:
    if not is_plain(text):
        raise ValueError("has control characters; write plain text")
    return text


class Reason(Frozen):
    """Why, as the audit can keep it."""

    reason: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=500),
        AfterValidator(_plain),
    ]


@dataclass(frozen=True)
class Parts:
    """What the API is made of."""

    intake: Intake
    assessments: Assessments
    tokens: Tokens
    keys: KeyRing
    settings: ServingSettings
    thresholds: QualityThresholds
    # What is being committed now, by who sent it and what it is: a repeated manifest waits for it.
    checking: dict[tuple[Owner, bytes], "asyncio.Task[Standing]"] = field(default_factory=dict)
    # So many commits at once, waiting for a child that checks: others are still uploaded and asked.
    committing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_COMMITS_AT_ONCE))
    # A site has half of them at most, and stands in a line of its own for them: whoever else comes
    # has a few in front of it, never all that one site sends.
    of_site: dict[str, CapacityLimiter] = field(
        default_factory=lambda: defaultdict(lambda: CapacityLimiter(_COMMITS_AT_ONCE // 2))
    )


def create_api(parts: Parts) -> FastAPI:
    """The ASGI application."""
    app = FastAPI(
        title="SPIRA Client API",
        description="Assessments in, receipts and answers out.",
        version="1",
        redirect_slashes=False,  # a client that followed would show its token elsewhere
        docs_url=None,
        redoc_url=None,
    )
    bearer = HTTPBearer(auto_error=False)
    metrics = Metrics(parts.assessments)

    app.add_middleware(CountRefusals, refused=metrics.refused)

    async def authorised(
        shown: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> Site:
        site = None
        if shown is not None:
            site = await to_thread.run_sync(parts.tokens.site_of, shown.credentials)
        if site is None:
            raise _Refused("no_token", 401, "header Authorization: Bearer with a site's token")
        return site

    Of = Annotated[Site, Depends(authorised)]  # a type
    Of_id = Annotated[Id, PathParameter()]

    async def told(rows: Sequence[Any]) -> list[dict[str, Any]]:
        model = await to_thread.run_sync(parts.assessments.model)
        fresh_for = timedelta(hours=parts.settings.stale_after_h)
        return [shown(row, model, fresh_for, datetime.now(UTC)) for row in rows]

    async def find(request: Request) -> Upload | None:
        site = await authorised(await bearer(request))
        upload = request.path_params["upload"]
        if not _UPLOAD.fullmatch(upload):
            return None
        n_bytes = await to_thread.run_sync(parts.intake.upload, upload, site.name)
        return None if n_bytes is None else Upload(upload, n_bytes)

    tus = Tus(
        parts.intake.uploads,
        find,
        lambda status: STATES["incomplete"] if status == 404 else _sentence_of(status),
    )
    app.add_route("/v1/uploads/{upload}", tus.respond, methods=["HEAD", "PATCH", "OPTIONS"])

    @app.put("/v1/assessments/{id}")
    async def put(
        id: Of_id,
        request: Request,
        site: Of,
        spira_device_secret: Annotated[
            str, Header(json_schema_extra={"pattern": f"^{_SECRET.pattern}$"})
        ],
        spira_device_time: Annotated[
            str | None, Header(json_schema_extra={"format": "date-time"})
        ] = None,
    ) -> Response:
        """Announce an assessment, or hear how it stands; at last, its receipt."""
        owner = Owner(site.name, _secret(spira_device_secret))
        device_ahead = _device_ahead(spira_device_time)  # at once: a commit may have to wait
        manifest = _read(Manifest, await _limited(request))
        filled = _filled(manifest.form)
        submission = _submission(id, manifest, filled, owner)
        number = filled.identifying.get("record_number")
        by = f"token {site.token_id}"
        began = time.monotonic()

        def commit() -> Standing:
            # It reads the folder of keys, and may make one.
            record = None if number is None else parts.keys.hash_record(site.name, number)
            standing = parts.intake.commit(
                submission,
                owner,
                taken(parts.settings.vital_rules, filled.values, record, by),
                ready=not filled.refused,
                unfinished=filled.values.get("unfinished", False) is True,
                device_ahead=device_ahead,
            )
            if standing.now_accepted:  # whoever asks meanwhile waits for this call
                metrics.accepted.observe(time.monotonic() - began)
            return standing

        standing = await _in_time(parts, (owner, submission.canonical()), commit)
        if standing is None:
            body = {"state": "checking", "sentence": STATES["checking"].model_dump()}
            return JSONResponse(body, 202, headers={"Retry-After": "1"})
        return _told(standing, filled)

    @app.get("/v1/assessments/{id}")
    async def get(id: Of_id, request: Request, site: Of) -> Response:
        """One assessment: its state, and its answer once there is one."""
        row = await to_thread.run_sync(parts.assessments.about, id)
        if row is None or row.site != site.name:
            raise _Refused("not_found", 404, "there is no such assessment at this site")
        (found,) = await told([row])
        tag = '"' + fingerprint(found)[:32] + '"'
        if request.headers.get("If-None-Match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return JSONResponse(found, headers={"ETag": tag, "Cache-Control": "private, no-cache"})

    @app.get("/v1/assessments")
    async def changes(
        site: Of,
        after: Annotated[int, Query(ge=0, le=2**62)] = 0,
        limit: Annotated[int, Query(ge=1, le=_LARGEST_PAGE)] = 100,
    ) -> JSONResponse:
        """The site's assessments in the order of their last change; go on from `next`."""
        rows = await to_thread.run_sync(parts.assessments.changed_after, site.name, after, limit)
        following = rows[-1].change if rows else after
        body = {"assessments": await told(rows), "next": following}
        return JSONResponse(body, headers={"Cache-Control": "private, no-cache"})

    @app.post("/v1/assessments/search")
    async def search(request: Request, site: Of) -> JSONResponse:
        """The site's assessments of a record number, the latest first; audited."""
        wanted = _read(Search, await _limited(request))

        def found() -> Sequence[Any]:
            try:
                records = parts.keys.record_hashes(site.name, wanted.record_number)
            except InputError as error:
                raise _Refused("bad_manifest", 400, str(error)) from None
            by = f"token {site.token_id}"
            return parts.assessments.search(site.name, records, by, _LARGEST_PAGE)

        rows = await to_thread.run_sync(found)
        return JSONResponse({"assessments": await told(rows)})

    @app.post("/v1/assessments/{id}/void")
    async def void(id: Of_id, request: Request, site: Of) -> JSONResponse:
        """It was recorded on the wrong patient: never to be used, and still there to be seen."""
        why = _read(Reason, await _limited(request), blank="no_reason").reason
        by = f"token {site.token_id}"
        row = await to_thread.run_sync(parts.assessments.void, id, site.name, why, by)
        if row is None:
            raise _Refused("not_found", 404, "there is no such assessment at this site")
        return JSONResponse((await told([row]))[0])

    @app.get("/v1/forms/assessment")
    def form() -> JSONResponse:
        """The form in force, as JSON Schema with both languages."""
        latest = max((key for key in FORMS if key[0] == "assessment"), key=lambda key: key[1])
        return JSONResponse(json_schema(FORMS[latest]))

    @app.get("/v1/thresholds")
    def thresholds() -> JSONResponse:
        """Where a measurement becomes a finding, so that an app can check at the bedside."""
        told = parts.thresholds.model_dump()
        return JSONResponse({"version": fingerprint(told)[:12], "thresholds": told})

    @app.get("/v1/keys")
    def keys() -> JSONResponse:
        """The keys that receipts are signed with, old ones too (RFC 7517)."""
        return JSONResponse(parts.keys.public())

    @app.get("/v1/about")
    async def about() -> JSONResponse:
        """What it is for, what it must not be used for, and which model answers."""
        return JSONResponse(
            {
                "version": __version__,
                "model": await to_thread.run_sync(parts.assessments.model),
                "sections": [section.model_dump() for section in ABOUT],
            }
        )

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """The process answers, also while every thread waits for a database."""
        return JSONResponse({"well": True})

    @app.get("/metrics")
    async def scrape() -> Response:
        """For Prometheus."""
        return Response(await to_thread.run_sync(metrics.text), media_type=CONTENT_TYPE_LATEST)

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Database and objects answer too."""
        await to_thread.run_sync(parts.assessments.oldest_open)
        await to_thread.run_sync(parts.intake.uploads.offset, "readyz")
        return JSONResponse({"ready": True})

    bodies: dict[str, type[Frozen]] = {
        "PUT /v1/assessments/{id}": Manifest,
        "POST /v1/assessments/search": Search,
        "POST /v1/assessments/{id}/void": Reason,
    }
    app.openapi = lambda: describe(app, bodies)  # type: ignore[method-assign]
    _translate_errors(app)
    return app


class _Refused(Exception):  # what is answered instead
    def __init__(self, what: Problem, status: int, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.answer = problem(status, detail, sentence=PROBLEMS[what], **more)
        if status == 401:
            self.answer.headers["WWW-Authenticate"] = "Bearer"


def shown(row: Any, model: str | None, fresh_for: timedelta, now: datetime) -> dict[str, Any]:
    """An assessment as its site sees it.

    model      that answers; None where there is none
    fresh_for  how long after its recording an answer is not old
    """
    about = json.loads(row.about)
    recorded_at = datetime.fromisoformat(row.recorded_at)
    state = "received" if row.state == "queued" and row.attempt == 0 else row.state
    old = stale(recorded_at, now, after=fresh_for)
    waiting = STATES["no_model" if model is None else "queued"]
    answer = None if row.answer is None else json.loads(row.answer)
    if answer is not None:
        answer.pop("scored", None)  # never a bare probability
    return {
        "id": row.id,
        "state": state,
        "sentence": waiting.model_dump() if answer is None else answer["sentence"],
        "why": "no model" if answer is None and model is None else None,
        "banner": about.get("banner"),
        "answer": answer,
        "recorded_at": row.recorded_at,
        "answered_at": row.answered_at,
        "stale_after": (recorded_at + fresh_for).isoformat(timespec="seconds"),
        "stale": None if old is None else old.model_dump(),
        "voided": None
        if row.voided_at is None
        else {"at": row.voided_at, "sentence": STATES["voided"].model_dump()},
        "replaces": row.replaces,
    }


def _told(standing: Standing, filled: Filled) -> JSONResponse:
    if standing.receipt is not None:
        return JSONResponse({"state": "accepted", "receipt": standing.receipt})
    return JSONResponse(
        {
            "state": "incomplete",
            "revision": standing.revision,
            "sentence": STATES["incomplete"].model_dump(),
            "recordings": [_progress(one) for one in standing.recordings],
            "fields": [
                {
                    "name": name,
                    "reason": remark.reason,
                    "sentence": {"pt": remark.pt, "en": remark.en},
                }
                for name, remark in filled.refused.items()
            ],
        }
    )


def _progress(one: Progress) -> dict[str, Any]:
    if one.state in ("refused", "dropped"):
        assert one.reason is not None
        sentence = REFUSALS[cast(Refusal, one.reason)].model_dump()
        return {"id": one.id, "state": one.state, "reason": one.reason, "sentence": sentence}
    if one.state == "stored":
        return {"id": one.id, "state": "complete"}
    return {
        "id": one.id,
        "state": "needed",
        "upload_url": f"/v1/uploads/{one.upload}",
        "n_bytes": one.n_bytes,
        "offset": one.offset,
    }


async def _in_time(
    parts: Parts, key: tuple[Owner, bytes], commit: Callable[[], Standing]
) -> Standing | None:
    """What committing comes to; None when it takes longer, and goes on meanwhile."""
    task = parts.checking.get(key)
    if task is None:
        site = key[0].site
        if sum(owner.site == site for owner, _ in parts.checking) >= _MOST_OF_A_SITE:
            detail = f"{_MOST_OF_A_SITE} assessments of this site are being checked; try again"
            raise _Refused("too_many", 429, detail, headers={"Retry-After": "2"})
        task = asyncio.create_task(_in_turn(parts, site, commit))
        parts.checking[key] = task
        task.add_done_callback(lambda ended: _forget(parts, key, ended))
    done, _ = await asyncio.wait({task}, timeout=parts.settings.checking_answer_s)
    return task.result() if done else None


async def _in_turn(parts: Parts, site: str, commit: Callable[[], Standing]) -> Standing:
    async with parts.of_site[site]:
        return await to_thread.run_sync(commit, limiter=parts.committing)


def _forget(parts: Parts, key: tuple[Owner, bytes], ended: "asyncio.Task[Standing]") -> None:
    parts.checking.pop(key, None)
    if not ended.cancelled():
        ended.exception()  # whoever asks again runs into the same; nobody may be here to hear it


def _filled(form: FormValues) -> Filled:
    known = FORMS.get((form.id, form.version))
    if known is None:
        raise _Refused("unknown_form", 400, f"form {form.id} {form.version}: unknown")
    return check(known, form.values)


def _submission(id: str, manifest: Manifest, filled: Filled, owner: Owner) -> Submission:
    """The submission as it is stored, without what identifies a person.

    In its place stands a hash that only the device's secret can make, and the server does not keep
    that: whether another number was sent can be told, and the number cannot, now or with whatever
    key is in use later.
    """
    sealed = {
        name: hmac.digest(owner.secret.encode(), f"{name}|{value}".encode(), "sha256").hex()
        for name, value in filled.identifying.items()
    }
    return Submission(
        kind="assessment",
        id=id,
        revision=manifest.revision,
        form=manifest.form.model_copy(update={"values": {**filled.kept, **sealed}}),
        files=manifest.recordings,
        replaces=manifest.replaces,
    )


def _secret(text: str) -> str:
    if not _SECRET.fullmatch(text):
        detail = "header Spira-Device-Secret: 32 bytes as base64url are needed"
        raise _Refused("bad_header", 400, detail)
    raw = base64.urlsafe_b64decode(text[:43] + "=")
    return base64.urlsafe_b64encode(raw).decode()


def _device_ahead(text: str | None) -> timedelta | None:
    if text is None:
        return None
    try:
        return TypeAdapter(Moment).validate_python(text) - datetime.now(UTC)
    except ValidationError:
        detail = "header Spira-Device-Time: a time with its zone is needed (RFC 3339)"
        raise _Refused("bad_header", 400, detail) from None


async def _limited(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > _LARGEST_BODY_BYTES:
                    what = f"the body has over {_LARGEST_BODY_BYTES} bytes"
                    raise _Refused("too_large", 413, what)
    except TimeoutError:
        what = f"the body did not come within {_BODY_S:g} s; send it again"
        raise _Refused("unavailable", 408, what) from None
    return bytes(body)


def _read(model: type[_Model], text: bytes, *, blank: Problem = "bad_manifest") -> _Model:
    """A body; `blank` is what is told where all that is wrong is a text that is not there."""
    faults = _said_twice(text)
    try:
        found = model.model_validate_json(text)
    except ValidationError as error:
        faults += error.errors(include_input=False, include_url=False)
    if not faults:
        return found
    places = [{"where": _place(fault["loc"]), "what": fault["msg"]} for fault in faults[:50]]
    detail = "; ".join(f"{one['where']}: {one['what']}" for one in places)
    kinds = {fault["type"] for fault in faults}
    what: Problem = blank if kinds <= {"missing", "string_too_short"} else "bad_manifest"
    raise _Refused(what, 400, detail, places=places)


def _said_twice(text: bytes) -> list[Any]:
    """Keys that are in one object twice, as faults of pydantic, which would take the last."""
    faults: list[Any] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        for key, times in Counter(key for key, _ in pairs).items():
            if times > 1:
                what = f"is there {times} times; say it once"
                faults.append({"loc": (key,), "msg": what, "type": "said_twice"})

    with suppress(ValueError, RecursionError):  # no JSON: that is told as it is
        json.loads(text.decode(), object_pairs_hook=look, parse_int=str)  # of any length
    return faults


def _place(loc: Sequence[int | str]) -> str:
    """Where in a body; a name that is not ours is escaped and cut."""
    names = (ascii(name)[1:-1][:_LONGEST_PLACE] if isinstance(name, str) else name for name in loc)
    return ".".join(map(str, names)) or "body"


def _sentence_of(status: int) -> Sentence | None:
    what = _WORDS_OF.get(status)
    return None if what is None else PROBLEMS[what]


def _translate_errors(app: FastAPI) -> None:
    @app.exception_handler(_Refused)
    async def refused(_: Request, error: _Refused) -> JSONResponse:
        return error.answer

    @app.exception_handler(Unknown)
    async def unknown(_: Request, error: Unknown) -> JSONResponse:
        return problem(404, str(error), sentence=PROBLEMS["not_found"])

    @app.exception_handler(Conflict)
    async def conflict(_: Request, error: Conflict) -> JSONResponse:
        return problem(
            409,
            str(error),
            sentence=PROBLEMS["conflict"],
            differs=list(error.differs),
            revision=error.revision,
        )

    @app.exception_handler(SpiraError)
    async def translated(request: Request, error: SpiraError) -> JSONResponse:
        _log.warning("a request failed", path=request.url.path, error=str(error))
        return problem_of(error, _sentence_of)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return problem(
            error.status_code,
            str(error.detail),
            sentence=_sentence_of(error.status_code),
            headers=dict(error.headers or {}),
        )

    @app.exception_handler(ClientDisconnect)
    async def cut_off(_: Request, error: ClientDisconnect) -> JSONResponse:
        return problem(400, "the request broke off")  # that nobody hears

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        places = [".".join(map(str, fault["loc"])) for fault in error.errors()]
        return problem(
            400, f"not as it should be: {', '.join(places)}", sentence=PROBLEMS["bad_request"]
        )

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> JSONResponse:
        _log.exception("a defect", exc_info=error)
        return problem(500, "a defect; it is in the log", sentence=PROBLEMS["broken"])
