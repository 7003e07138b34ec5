"""The front of an HTTP API that takes submissions in: who asks, what is read, how it is answered.

The Client API (6) and the Data Collection API (2) have it in common. `Front.take` is the whole
conversation about a submission: it always answers the present state, and the client repeats it
until it holds a receipt. Bytes travel by tus (spira.intake.tus).
"""

import asyncio
import base64
import hmac
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar, cast

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import Histogram
from pydantic import AfterValidator, StringConstraints, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from spira.domain.errors import SpiraError
from spira.domain.fingerprint import fingerprint
from spira.domain.forms import Filled, Remark
from spira.domain.frozen import Frozen
from spira.domain.submissions import FormValues, Id, Moment, Submission
from spira.intake.audit import is_plain
from spira.intake.keys import KeyRing
from spira.intake.problems import Said, problem, problem_of
from spira.intake.settings import IntakeThresholds
from spira.intake.submissions import (
    Conflict,
    Intake,
    OnAccept,
    Owner,
    Progress,
    SendAgain,
    Standing,
    Unknown,
)
from spira.intake.tokens import Site, Tokens
from spira.intake.tus import Tus, Upload
from spira.intake.words import REFUSALS, STATES, Problem, Refusal, said

RECORD_NUMBER = "record_number"  # the field of a form

_LARGEST_BODY_BYTES = 256 << 10
_BODY_S = 60.0  # that a body may take: 256 kB at 35 kbit/s
_COMMITS_AT_ONCE = 16
_MOST_OF_A_SITE = (
    100  # commits at work and in line: of many phones at once, or of one that is broken
)
_UPLOAD = re.compile(r"[0-9a-f]{40}")
_LONGEST_PLACE = 64  # characters of a name that the client made
_TAGS = re.compile(r'(?:W/)?"([^"]*)"')  # of If-None-Match (RFC 9110, 8.8.3), weakly compared
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
_bearer = HTTPBearer(auto_error=False)
_Model = TypeVar("_Model", bound=Frozen)

IdInPath = Annotated[Id, PathParameter()]
DeviceSecret = Annotated[
    str,
    Header(alias="Spira-Device-Secret", json_schema_extra={"pattern": f"^{_SECRET.pattern}$"}),
]
DeviceTime = Annotated[
    str | None, Header(alias="Spira-Device-Time", json_schema_extra={"format": "date-time"})
]


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


class Refused(Exception):
    """What a request is answered with instead."""

    def __init__(self, what: Problem, status: int, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.answer = problem(status, detail, **said(what), **more)
        if status == 401:
            self.answer.headers["WWW-Authenticate"] = "Bearer"


class Front:
    """What is the same wherever submissions are taken in, of one application."""

    def __init__(
        self,
        app: FastAPI,
        intake: Intake,
        tokens: Tokens,
        keys: KeyRing,
        thresholds: IntakeThresholds,
        *,
        answer_within_s: float,
        accepted: Histogram,
    ) -> None:
        """Mount uploads, thresholds, keys and health, and translate errors.

        answer_within_s   then a commit that goes on is answered `checking`
        accepted          how long acceptance took, in seconds
        """
        self._intake = intake
        self._tokens = tokens
        self._keys = keys
        self._answer_within_s = answer_within_s
        self._accepted = accepted
        # What is being committed now, by who sent it and what it is: a repeated manifest waits.
        self._checking: dict[tuple[Owner, bytes], asyncio.Task[Standing]] = {}
        # So many commits at once, waiting for a child that checks: others are still uploaded and
        # asked.
        self._committing = CapacityLimiter(_COMMITS_AT_ONCE)
        # A site has half of them at most, and stands in a line of its own for them: whoever else
        # comes has a few in front of it, never all that one site sends.
        self._of_site: dict[str, CapacityLimiter] = defaultdict(
            lambda: CapacityLimiter(_COMMITS_AT_ONCE // 2)
        )
        tus = Tus(
            intake.uploads,
            self._find,
            lambda status: (
                Said(code="not_found", sentence=STATES["incomplete"])
                if status == 404
                else _said_of(status)
            ),
        )
        app.add_route("/v1/uploads/{upload}", tus.respond, methods=["HEAD", "PATCH", "OPTIONS"])

        @app.get("/v1/thresholds")
        def thresholds_(request: Request) -> Response:
            """Where a measurement becomes a finding, so that an app can check at the bedside."""
            version, told = thresholds.version, thresholds.model_dump()
            return tagged(request, {"version": version, "thresholds": told})

        @app.get("/v1/keys")
        def keys_(request: Request) -> Response:
            """The keys that receipts are signed with, old ones too (RFC 7517)."""
            return tagged(request, keys.public())

        @app.get("/healthz")
        async def healthz() -> JSONResponse:
            """The process answers, also while every thread waits for a database."""
            return JSONResponse({"well": True})

        _translate_errors(app)

    async def site(
        self, shown: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Site:
        """Whose token was shown; a dependency of routes.

        raises    Refused
        """
        site = None
        if shown is not None:
            site = await to_thread.run_sync(self._tokens.site_of, shown.credentials)
        if site is None:
            raise Refused("no_token", 401, "header Authorization: Bearer with a site's token")
        return site

    async def take(
        self,
        submission: Submission,
        owner: Owner,
        filled: Filled,
        on_accept: Callable[[Sequence[str]], OnAccept],
        *,
        device_ahead: timedelta | None,
        hospital: str,
    ) -> JSONResponse:
        """Take a submission, or say how it stands; at last, its receipt.

        on_accept  what is done when it is accepted, by the hashes of its record number
        hospital   whose record number it is
        """
        number = filled.identifying.get(RECORD_NUMBER)
        began = time.monotonic()

        def commit() -> Standing:
            # It reads the folder of keys, and may make one.
            records = () if number is None else self._keys.record_hashes(hospital, number)
            standing = self._intake.commit(
                submission,
                owner,
                on_accept(records),
                ready=not filled.refused,
                unfinished=filled.values.get("unfinished", False) is True,
                device_ahead=device_ahead,
            )
            if standing.now_accepted:  # whoever asks meanwhile waits for this call
                self._accepted.observe(time.monotonic() - began)
            return standing

        try:
            standing = await self._in_time((owner, submission.canonical()), commit)
        except Conflict as error:
            # What a submission calls its files are the recordings of a manifest.
            differs = [re.sub("^files", "recordings", place) for place in error.differs]
            more = {"differs": differs, "revision": error.revision}
            raise Refused("conflict", 409, str(error), **more) from None
        except SendAgain as error:
            after = {"Retry-After": "2"}
            raise Refused("send_again", 503, str(error), headers=after) from None
        if standing is None:
            body = {"state": "checking", "sentence": STATES["checking"].model_dump()}
            return JSONResponse(body, 202, headers={"Retry-After": "1"})
        return _told(standing, filled)

    async def _find(self, request: Request) -> Upload | None:
        site = await self.site(await _bearer(request))
        upload = request.path_params["upload"]
        if not _UPLOAD.fullmatch(upload):
            return None
        n_bytes = await to_thread.run_sync(self._intake.upload, upload, site.name)
        return None if n_bytes is None else Upload(upload, n_bytes)

    async def _in_time(
        self, key: tuple[Owner, bytes], commit: Callable[[], Standing]
    ) -> Standing | None:
        """What committing comes to; None when it takes longer, and goes on meanwhile."""
        task = self._checking.get(key)
        if task is None:
            site = key[0].site
            if sum(owner.site == site for owner, _ in self._checking) >= _MOST_OF_A_SITE:
                detail = f"{_MOST_OF_A_SITE} submissions of this site are being checked; try again"
                raise Refused("too_many", 429, detail, headers={"Retry-After": "2"})
            task = asyncio.create_task(self._in_turn(site, commit))
            self._checking[key] = task
            task.add_done_callback(lambda ended: self._forget(key, ended))
        done, _ = await asyncio.wait({task}, timeout=self._answer_within_s)
        return task.result() if done else None

    async def _in_turn(self, site: str, commit: Callable[[], Standing]) -> Standing:
        async with self._of_site[site]:
            return await to_thread.run_sync(commit, limiter=self._committing)

    def _forget(self, key: tuple[Owner, bytes], ended: "asyncio.Task[Standing]") -> None:
        self._checking.pop(key, None)
        if not ended.cancelled():
            ended.exception()  # whoever asks again runs into the same; nobody may be here to hear


def sealed(form: FormValues, filled: Filled, owner: Owner) -> FormValues:
    """A form as it is stored in a manifest, without what identifies a person.

    In its place stands a hash that only the device's secret can make, and the server does not keep
    that: whether another number was sent can be told, and the number cannot, now or with whatever
    key is in use later.
    """
    hashes = {
        name: hmac.digest(owner.secret.encode(), f"{name}|{value}".encode(), "sha256").hex()
        for name, value in filled.identifying.items()
    }
    return form.model_copy(update={"values": {**filled.kept, **hashes}})


def tagged(
    request: Request, body: dict[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    """200 with an ETag; 304 where whoever asks has it, also with a proxy's W/ before the tag."""
    tag = fingerprint(body)[:32]
    headers = {"ETag": f'"{tag}"', **(headers or {})}
    known = ",".join(request.headers.getlist("If-None-Match"))
    if known.strip() == "*" or tag in _TAGS.findall(known):
        return Response(status_code=304, headers=headers)
    return JSONResponse(body, headers=headers)


def _told(standing: Standing, filled: Filled) -> JSONResponse:
    if standing.receipt is not None:
        accepted = {"state": "accepted", "sentence": STATES["accepted"].model_dump()}
        more = {"receipt": standing.receipt, "marks": remarks(filled.marks)}
        return JSONResponse(accepted | more)
    stuck = filled.refused or any(one.state == "refused" for one in standing.recordings)
    return JSONResponse(
        {
            "state": "incomplete",
            "revision": standing.revision,
            "sentence": STATES["to_correct" if stuck else "incomplete"].model_dump(),
            "recordings": [_progress(one) for one in standing.recordings],
            "fields": remarks(filled.refused),
            "marks": remarks(filled.marks),
        }
    )


def remarks(of: Mapping[str, Remark]) -> list[dict[str, Any]]:
    """What is said about fields, by their names."""
    return [
        {"name": name, "reason": one.reason, "sentence": {"pt": one.pt, "en": one.en}}
        for name, one in of.items()
    ]


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


def owner_of(site: Site, secret: str) -> Owner:
    """Who sends, by token and header.

    raises    Refused
    """
    if not _SECRET.fullmatch(secret):
        detail = "header Spira-Device-Secret: 32 bytes as base64url are needed"
        raise Refused("bad_header", 400, detail)
    raw = base64.urlsafe_b64decode(secret[:43] + "=")
    return Owner(site.name, base64.urlsafe_b64encode(raw).decode())


def device_ahead(text: str | None) -> timedelta | None:
    """How far a device's clock is ahead, by its header; ask at once: a commit may have to wait.

    raises    Refused
    """
    if text is None:
        return None
    try:
        return TypeAdapter(Moment).validate_python(text) - datetime.now(UTC)
    except ValidationError:
        detail = "header Spira-Device-Time: a time with its zone is needed (RFC 3339)"
        raise Refused("bad_header", 400, detail) from None


async def _limited(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > _LARGEST_BODY_BYTES:
                    what = f"the body has over {_LARGEST_BODY_BYTES} bytes"
                    raise Refused("too_large", 413, what)
    except TimeoutError:
        what = f"the body did not come within {_BODY_S:g} s; send it again"
        raise Refused("unavailable", 408, what) from None
    return bytes(body)


async def read(request: Request, model: type[_Model], *, blank: Problem = "bad_manifest") -> _Model:
    """A body.

    blank     what is told where all that is wrong is a text that is not there
    raises    Refused, with every place
    """
    text = await _limited(request)
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
    raise Refused(what, 400, detail, places=places)


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


def _said_of(status: int) -> Said:
    what = _WORDS_OF.get(status)
    return {} if what is None else said(what)


def _translate_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return error.answer

    @app.exception_handler(Unknown)
    async def unknown(_: Request, error: Unknown) -> JSONResponse:
        return problem(404, str(error), **said("not_found"))

    @app.exception_handler(SpiraError)
    async def translated(request: Request, error: SpiraError) -> JSONResponse:
        return problem_of(error, request.url.path, _said_of)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return problem(
            error.status_code,
            str(error.detail),
            headers=dict(error.headers or {}),
            **_said_of(error.status_code),
        )

    @app.exception_handler(ClientDisconnect)
    async def cut_off(_: Request, error: ClientDisconnect) -> JSONResponse:
        return problem(400, "the request broke off")  # that nobody hears

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        places = [".".join(map(str, fault["loc"])) for fault in error.errors()]
        return problem(400, f"not as it should be: {', '.join(places)}", **said("bad_request"))

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> JSONResponse:
        _log.exception("a defect", exc_info=error)
        return problem(500, "a defect; it is in the log", **said("broken"))
