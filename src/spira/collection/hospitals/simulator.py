"""A hospital's FHIR server to pull from, with nobody's data: strict, and troubled on a schedule.

It takes nothing on trust that a hospital's server would not: the signature, audience, age and
single use of an assertion, scopes, the headers of an export, numbers only in the body of a POST.
Its data is a `Truth`; what it says of it goes by `clock`, the hospital's time, which may be moved.

    GET           /fhir/.well-known/smart-configuration
    POST          /token
    GET           /fhir/Group/ID/$export    begins an export: a job
    GET, DELETE   /fhir/exports/JOB         how it stands, its manifest; the end of it
    GET           /fhir/exports/JOB/N       a file of it
    GET           /fhir/Observation?…       date, code, performer, _include=Observation:subject
    GET           /fhir/KIND/ID             one Patient, Observation or Condition
    POST          /fhir/KIND/_search        Patient by identifier, the others by patient
"""

import base64
import json
import math
import secrets
import socket
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal, get_args
from urllib.parse import parse_qs, parse_qsl

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from starlette.types import ASGIApp, Receive, Scope, Send

from spira.collection.hospitals.reading import LOINC
from spira.collection.hospitals.truth import (
    SYSTEM,
    Patient,
    Thing,
    Truth,
    Version,
    admitted_at,
    changed_at,
    patient_to_fhir,
    to_fhir,
)
from spira.domain.draws import draws

Trouble = Literal["away", "unavailable", "busy", "cut", "token", "files"]

_FILE = 5000  # resources in one
_LINES = 20  # that are sent at once
_LONGEST_ASSERTION_S = 300
_SKEW_S = 5


@dataclass(frozen=True)
class Outage:
    """What happens from a request on, by its number.

    away          connections end without an answer
    unavailable   503
    busy          429, with Retry-After
    cut           files end in their middle
    token         every token is void, once
    files         every export has expired, once
    """

    at: int
    what: Trouble
    lasts: int = 1  # requests


def draw_outages(seed: int, n: int) -> tuple[Outage, ...]:
    """So many, of every kind, between requests 5 and 20 * n of a pull."""
    rng = draws(seed, "outages")
    kinds = get_args(Trouble)
    return tuple(
        Outage(5 + int(rng.integers(20 * n)), kinds[number % len(kinds)], int(rng.integers(1, 5)))
        for number in range(n)
    )


@dataclass
class _Job:
    at: datetime
    since: datetime | None
    polls: int = 0
    files: list[tuple[str, list[tuple[Thing, Version]] | list[Patient]]] = field(
        default_factory=list
    )


class Simulator:
    """A hospital. `app` is the server; `running` runs it beside a test."""

    def __init__(
        self,
        truth: Truth,
        *,
        client_id: str,
        keys: Mapping[str, Any] | None = None,
        secret: str | None = None,
        group: str = "cohort",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        outages: Sequence[Outage] = (),
        duplicates: float = 0.05,
        page: int = 50,
        token_s: float = 300.0,
        polls: int = 1,
        count: bool = True,
        missing: int = 0,
        litter: Sequence[bytes] = (),
    ) -> None:
        """A hospital with this truth.

        keys         public keys of the client (a JWK Set); None: it shows the secret
        duplicates   share of the lines of an export that are there twice
        page         most resources of a search in one answer
        polls        how often an export is not ready yet
        count        whether a manifest says how long its files are
        missing      lines of Observations that it says there are, and that no file has
        litter       lines that stand among the Observations of an export
        """
        self.truth = truth
        self.clock = clock
        self.outages = list(outages)
        self.missing = missing
        self.asked: list[str] = []  # every request: method and address
        self._client_id = client_id
        self._keys = None if keys is None else KeySet.import_key_set({"keys": list(keys["keys"])})
        self._secret = secret
        self._group = group
        self._duplicates = duplicates
        self._page = page
        self._token_s = token_s
        self._polls = polls
        self._count = count
        self._litter = list(litter)
        self._used: set[str] = set()  # jti
        self._tokens: dict[str, tuple[float, frozenset[str]]] = {}
        self._jobs: dict[str, _Job] = {}
        self._pages: dict[str, list[dict[str, Any]]] = {}
        self._of_patient: dict[str, list[Thing]] = defaultdict(list)
        for thing in truth.things:
            for patient in {version.patient.id for version in thing.versions}:
                self._of_patient[patient].append(thing)
        self.app: ASGIApp = _Troubled(self._routes(), self)

    @contextmanager
    def running(self, port: int = 0) -> Iterator[str]:
        """Serve in a thread; the FHIR base."""
        listener = socket.create_server(("127.0.0.1", port))
        config = uvicorn.Config(self.app, log_level="critical", access_log=False, ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/fhir"
        finally:
            server.should_exit = True
            server.force_exit = True
            thread.join(10)
            listener.close()

    def expire_tokens(self) -> None:
        """Make every token void."""
        self._tokens.clear()

    def expire_files(self) -> None:
        """Forget every export."""
        self._jobs.clear()

    def trouble(self, number: int) -> set[Trouble]:
        """What happens to a request."""
        return {
            outage.what for outage in self.outages if outage.at <= number < outage.at + outage.lasts
        }

    # The API

    def _routes(self) -> FastAPI:
        app = FastAPI(openapi_url=None)
        app.add_exception_handler(_Refusal, _refused)

        @app.get("/fhir/.well-known/smart-configuration")
        def configuration(request: Request) -> dict[str, Any]:
            methods = ["client_secret_basic"] if self._keys is None else ["private_key_jwt"]
            return {
                "token_endpoint": str(request.base_url) + "token",
                "token_endpoint_auth_methods_supported": methods,
                "token_endpoint_auth_signing_alg_values_supported": ["RS384", "ES384"],
                "grant_types_supported": ["client_credentials"],
                "capabilities": ["client-confidential-asymmetric", "permission-v1"],
            }

        @app.post("/token")
        async def token(request: Request) -> JSONResponse:
            form = {key: values[0] for key, values in parse_qs(await _text(request)).items()}
            return self._give_token(request, form)

        @app.get("/fhir/Group/{group}/$export")
        def export(group: str, request: Request) -> Response:
            for kind in ("Patient", "Observation", "Condition"):
                self._require(request, kind)
            if "respond-async" not in request.headers.get("prefer", ""):
                raise _Refusal(400, "an export needs Prefer: respond-async")
            if group != self._group:
                raise _Refusal(404, "no such group")
            return self._begin(request)

        @app.get("/fhir/exports/{job}")
        def status(job: str, request: Request) -> Response:
            self._require(request, None)
            return self._status(self._job(job), job, request)

        @app.delete("/fhir/exports/{job}")
        def forget(job: str, request: Request) -> Response:
            self._require(request, None)
            self._job(job)
            del self._jobs[job]
            return Response(status_code=202)

        @app.get("/fhir/exports/{job}/{number}")
        def file(job: str, number: int, request: Request) -> Response:
            self._require(request, None)
            kind, rows = self._job(job).files[number]
            return _File(self._lines(kind, rows))

        @app.get("/fhir/page/{page}")
        def following(page: str, request: Request) -> JSONResponse:
            self._require(request, "Observation")
            if page not in self._pages:
                raise _Refusal(410, "this page has expired")
            return self._bundle(self._pages[page], request)

        @app.get("/fhir/{kind}")
        def search(kind: str, request: Request) -> JSONResponse:
            self._require(request, kind)
            return self._bundle(self._found(kind, parse_qsl(request.url.query)), request)

        @app.get("/fhir/{kind}/{id}")
        def one(kind: str, id: str, request: Request) -> JSONResponse:
            self._require(request, kind)
            now, name = self.clock(), f"{kind}/{id}"
            if kind == "Patient" and (patient := self._patient(id)) is not None:
                return JSONResponse(patient_to_fhir(patient))
            thing = next((thing for thing in self.truth.things if thing.name == name), None)
            version = None if thing is None else thing.at(now)
            if thing is None or version is None:
                raise _Refusal(404, "no such resource")
            if version.status == "deleted":
                raise _Refusal(410, "it was deleted")
            return JSONResponse(to_fhir(thing, version))

        @app.post("/fhir/{kind}/_search")
        async def post_search(kind: str, request: Request) -> JSONResponse:
            self._require(request, kind)
            return self._bundle(self._found(kind, parse_qsl(await _text(request))), request)

        return app

    # Who asks

    def _give_token(self, request: Request, form: Mapping[str, str]) -> JSONResponse:
        if form.get("grant_type") != "client_credentials":
            return _oauth_error("unsupported_grant_type")
        if not (self._shows_secret(request) if self._keys is None else self._proves(request, form)):
            return _oauth_error("invalid_client", 401)
        scopes = frozenset(
            scope for scope in form.get("scope", "").split() if scope.startswith("system/")
        )
        if not scopes or len(scopes) != len(form["scope"].split()):
            return _oauth_error("invalid_scope")
        token = secrets.token_urlsafe(24)
        self._tokens[token] = (time.monotonic() + self._token_s, scopes)
        return JSONResponse(
            {
                "access_token": token,
                "token_type": "bearer",
                "expires_in": math.ceil(self._token_s),
                "scope": " ".join(sorted(scopes)),
            }
        )

    def _proves(self, request: Request, form: Mapping[str, str]) -> bool:
        """Whether an assertion is the client's, for here, young, and new."""
        assert self._keys is not None
        try:
            signed = jwt.decode(
                form.get("client_assertion", ""), self._keys, algorithms=["RS384", "ES384"]
            )
        except (JoseError, ValueError):
            return False
        claims, now = signed.claims, time.time()
        jti, ends = claims.get("jti"), claims.get("exp")
        good = (
            form.get("client_assertion_type")
            == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            and claims.get("iss") == claims.get("sub") == self._client_id
            and claims.get("aud") == str(request.base_url) + "token"
            and isinstance(ends, int)
            and now - _SKEW_S < ends <= now + _LONGEST_ASSERTION_S + _SKEW_S
            and isinstance(jti, str)
            and jti not in self._used
        )
        self._used.add(str(jti))
        return good

    def _shows_secret(self, request: Request) -> bool:
        account = f"{self._client_id}:{self._secret}".encode()
        expected = f"Basic {base64.b64encode(account).decode()}"
        return secrets.compare_digest(request.headers.get("authorization", ""), expected)

    def _require(self, request: Request, kind: str | None) -> None:
        """Refuse whoever has no token for a kind of resource, or has a number in an address."""
        if any("identifier" in name for name, _ in parse_qsl(request.url.query)):
            raise _Refusal(400, "an identifier belongs into the body of a POST")
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        ends, scopes = self._tokens.get(token, (0.0, frozenset()))
        if time.monotonic() >= ends:
            raise _Refusal(401, "no token, or one that has expired")
        granted = {f"system/{kind}.{end}" for end in ("read", "r", "rs", "*")}
        if kind is not None and scopes.isdisjoint(granted):
            raise _Refusal(403, "the token's scopes do not have this")

    # Exports

    def _begin(self, request: Request) -> Response:
        since = request.query_params.get("_since")
        moment = None if since is None else datetime.fromisoformat(since)
        job = _Job(self.clock(), moment)
        changed = [
            (thing, version)
            for thing in self.truth.things
            if (version := thing.at(job.at)) is not None
            and (moment is None or version.known_at > moment)
        ]
        patients = [
            patient
            for patient in self.truth.patients
            if changed_at(patient) <= job.at and (moment is None or changed_at(patient) > moment)
        ]
        job.files = [("Observation", []), ("Patient", patients)]  # in no helpful order
        for kind in ("Observation", "Condition"):
            rows = [
                one
                for one in changed
                if one[0].name.startswith(kind) and one[1].status != "deleted"
            ]
            rows += [one for one in rows if self._twice(one[0].name)]
            job.files += [(kind, rows[at : at + _FILE]) for at in range(0, len(rows), _FILE)]
        if moment is not None:
            deleted = [one for one in changed if one[1].status == "deleted"]
            job.files.append(("deleted", deleted))
        id = secrets.token_hex(8)
        self._jobs[id] = job
        where = f"{request.base_url}fhir/exports/{id}"
        return Response(status_code=202, headers={"Content-Location": where})

    def _status(self, job: _Job, id: str, request: Request) -> Response:
        job.polls += 1
        if job.polls <= self._polls:
            headers = {"Retry-After": "1", "X-Progress": "under way"}
            return Response(status_code=202, headers=headers)
        listed: dict[str, list[dict[str, Any]]] = {"output": [], "deleted": [], "error": []}
        for number, (kind, rows) in enumerate(job.files):
            entry: dict[str, Any] = {
                "type": "Bundle" if kind == "deleted" else kind,
                "url": f"{request.base_url}fhir/exports/{id}/{number}",
            }
            if self._count:
                more = len(self._litter) + self.missing
                entry["count"] = len(rows) + more * (kind == "Observation")
            listed["deleted" if kind == "deleted" else "output"].append(entry)
        return JSONResponse(
            {
                "transactionTime": job.at.isoformat(),
                "request": f"{request.base_url}fhir/Group/{self._group}/$export",
                "requiresAccessToken": True,
                **listed,
            }
        )

    def _job(self, id: str) -> _Job:
        if id not in self._jobs:
            raise _Refusal(404, "no such export")
        return self._jobs[id]

    def _lines(self, kind: str, rows: Sequence[Any]) -> Iterator[bytes]:
        if kind == "Observation":
            yield from (line + b"\n" for line in self._litter)
        for row in rows:
            if kind == "Patient":
                document = patient_to_fhir(row)
            elif kind == "deleted":
                request = {"method": "DELETE", "url": row[0].name}
                document = {
                    "resourceType": "Bundle",
                    "type": "transaction",
                    "entry": [{"request": request}],
                }
            else:
                document = to_fhir(*row)
            yield json.dumps(document).encode() + b"\n"

    def _twice(self, name: str) -> bool:
        return zlib.crc32(name.encode()) % 1000 < 1000 * self._duplicates

    # Searches

    def _found(self, kind: str, query: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        now = self.clock()
        if kind == "Patient":
            wanted = {value for name, value in query if name == "identifier"}
            return [
                patient_to_fhir(patient)
                for patient in self.truth.patients
                if f"{SYSTEM}|{patient.record_number}" in wanted and admitted_at(patient) <= now
            ]
        by_patient = [value for name, value in query if name == "patient"]
        things: Sequence[Thing] = self.truth.things
        if by_patient:
            things = [thing for id in by_patient for thing in self._of_patient.get(id, ())]
        found, patients = [], {}
        for thing in things:
            version = thing.at(now)
            if version is None or version.status == "deleted":
                continue
            if by_patient and version.patient.id not in by_patient:
                continue
            document = to_fhir(thing, version)
            if document["resourceType"] == kind and _matches(document, query):
                found.append(document)
                patients[version.patient.id] = self._patient(version.patient.id) or version.patient
        if ("_include", "Observation:subject") in query:
            found += [patient_to_fhir(patient) for patient in patients.values()]
        return found

    def _patient(self, id: str) -> Patient | None:
        return next((one for one in self.truth.patients if one.id == id), None)

    def _bundle(self, found: Sequence[dict[str, Any]], request: Request) -> JSONResponse:
        these, rest = found[: self._page], found[self._page :]
        links = []
        if rest:
            page = secrets.token_hex(8)
            self._pages[page] = list(rest)
            links.append({"relation": "next", "url": f"{request.base_url}fhir/page/{page}"})
        entries = [{"resource": one} for one in these]
        return JSONResponse(
            {"resourceType": "Bundle", "type": "searchset", "link": links, "entry": entries}
        )


def _matches(document: Mapping[str, Any], query: Sequence[tuple[str, str]]) -> bool:
    parts = [document, *document.get("component", ())]
    codes = {f"{LOINC}|{coding['code']}" for part in parts for coding in part["code"]["coding"]}
    for name, value in query:
        if name == "date":
            at = datetime.fromisoformat(document["effectiveDateTime"])
            limit = datetime.fromisoformat(value[2:])
            if at < limit if value.startswith("ge") else at > limit:
                return False
        elif name == "code":
            if codes.isdisjoint(value.split(",")):
                return False
        elif name == "performer" and {"reference": value} not in document.get("performer", ()):
            return False
    return True


class _Refusal(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


async def _refused(_: Request, refusal: Exception) -> JSONResponse:
    assert isinstance(refusal, _Refusal)
    issue = {"severity": "error", "code": "processing", "diagnostics": str(refusal)}
    outcome = {"resourceType": "OperationOutcome", "issue": [issue]}
    return JSONResponse(outcome, refusal.status)


def _oauth_error(code: str, status: int = 400) -> JSONResponse:
    return JSONResponse({"error": code}, status)


async def _text(request: Request) -> str:
    return (await request.body()).decode()


class _Troubled:
    """Around the API: what happens to a request by its number."""

    def __init__(self, app: ASGIApp, simulator: Simulator) -> None:
        self._app = app
        self._simulator = simulator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or do something else."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = self._simulator.asked
        query = scope["query_string"].decode()
        asked.append(f"{scope['method']} {scope['path']}{'?' if query else ''}{query}")
        troubles = self._simulator.trouble(len(asked))
        if "token" in troubles:
            self._simulator.expire_tokens()
        if "files" in troubles:
            self._simulator.expire_files()
        scope["cut"] = "cut" in troubles
        # uvicorn's `send` is a method of what holds the connection; it has no other way to hang up.
        scope["hang_up"] = send.__self__.transport.abort  # type: ignore[attr-defined]
        if "away" in troubles:
            scope["hang_up"]()
        elif "unavailable" in troubles:
            await Response(status_code=503)(scope, receive, send)
        elif "busy" in troubles:
            await Response(status_code=429, headers={"Retry-After": "1"})(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class _File(Response):
    """Lines, as they are made; or some of them, and then nothing."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        super().__init__(media_type="application/fhir+ndjson")
        del self.headers["content-length"]
        self._lines_left = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        sent = 0
        while lines := list(islice(self._lines_left, _LINES)):
            data = b"".join(lines)
            if scope["cut"] and sent:
                await send({"type": "http.response.body", "body": data[:-30], "more_body": True})
                scope["hang_up"]()
                return
            await send({"type": "http.response.body", "body": data, "more_body": True})
            sent += len(data)
        await send({"type": "http.response.body", "body": b""})
