"""The way from a device to one server: what is asked, and what is an answer.

Between the two may be anything: a captive portal, a proxy that cuts, nothing at all. Whatever is
not recognisably our API's answer is as good as no network.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Literal, NamedTuple, TypeVar

import httpx
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from pydantic import BaseModel, Field

from spira.domain.answers import Sentence
from spira.domain.errors import InputError
from spira.domain.frozen import Frozen
from spira.serving.bedside import read_form

_LARGEST_ANSWER_BYTES = 4 << 20
_LONGEST_ANSWER_S = 300.0  # for a portal that drips for ever; each part of one has its own limit
_PAGE = 200
_JSON = "application/json"
_PROBLEM = "application/problem+json"
_TUS = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
_T = TypeVar("_T")


class Pace(Frozen):
    """How hard a device tries. Pauses double, and are drawn anew each time (full jitter)."""

    at_once: int = Field(default=4, ge=1, le=32)  # assessments
    tries: int = Field(default=6, ge=1)  # in a row without progress; then the next sync goes on
    first_pause_s: float = Field(default=0.5, gt=0)
    longest_pause_s: float = Field(default=30.0, gt=0)
    longest_retry_after_s: float = Field(default=120.0, ge=0)  # a server may ask for no more
    silence_s: float = Field(default=30.0, gt=0)  # then a connection is dead


class NoAnswer(Exception):
    """Nothing came back, or not from our API: as good as no network."""

    at_least_s = 0.0


class NotNow(Exception):
    """Our API says: later."""

    def __init__(self, why: str, at_least_s: float = 0.0) -> None:
        super().__init__(why)
        self.at_least_s = at_least_s


class TokenRefused(Exception):
    """Our API does not know the token."""


class KnownOtherwise(Exception):
    """Our API knows the id as another assessment: of another device, or ours with other content."""

    def __init__(self, *, ours: bool) -> None:
        super().__init__("the server knows this id as another assessment")
        self.ours = ours


class Rejected(Exception):
    """Our API does not take it, and never will as it is."""

    def __init__(self, detail: str, sentence: Sentence) -> None:
        super().__init__(detail)
        self.detail = detail
        self.sentence = sentence


class Part(BaseModel):
    """How one recording or field stands; more than we know may be in it."""

    state: str = ""
    id: str = ""
    name: str = ""
    upload_url: str = ""
    n_bytes: int = 0
    offset: int = Field(default=0, ge=0)
    reason: str = ""
    sentence: Sentence = Sentence(pt="", en="")


class Told(BaseModel):
    """The answer to a manifest."""

    state: Literal["incomplete", "checking", "accepted"]
    receipt: str | None = None
    recordings: tuple[Part, ...] = ()
    fields: tuple[Part, ...] = ()
    at_least_s: float = 0.0
    progress: int = 0


class Page(BaseModel):
    """Assessments of the site, and where to go on."""

    assessments: tuple[dict[str, Any], ...]
    next: int


class _Answer(NamedTuple):
    status: int
    headers: httpx.Headers
    document: dict[str, Any]


class Line:
    """The way to one server, shared by the threads of a sync."""

    def __init__(self, server: str, token: str, pace: Pace, at_once: int = 1) -> None:
        self.base = _base(server)
        self.stopped: Literal["no network", "token refused"] | None = None
        self.ended = threading.Event()
        self._pace = pace
        self._at_once = at_once
        self._unheard = 0  # tries in a row, of all threads, that brought no answer
        self._counting = threading.Lock()
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"},
            timeout=pace.silence_s,
            follow_redirects=False,
            # What a portal wants remembered goes to nobody.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def put(self, id: str, secret: str, manifest: Mapping[str, Any], now: datetime) -> Told:
        """Send a manifest; how it stands.

        raises    NoAnswer, NotNow, TokenRefused, KnownOtherwise, Rejected
        """
        headers = {
            "Content-Type": _JSON,
            "Spira-Device-Secret": secret,
            "Spira-Device-Time": now.isoformat(timespec="milliseconds"),
        }
        sizes = {one["id"]: one["n_bytes"] for one in manifest["recordings"]}

        def read(answer: _Answer) -> Told:
            if answer.status >= 400:
                raise _refusal(answer)
            told = Told.model_validate(answer.document)
            done = 0
            for one in told.recordings:
                size = sizes[one.id]
                if one.state == "needed" and (
                    one.n_bytes != size
                    or one.offset > size
                    or not one.upload_url.startswith("/v1/uploads/")
                ):
                    raise ValueError("an upload that is not of this assessment")
                done += one.offset if one.state == "needed" else size + 1
            after_s = self._retry_after(answer) or self._pace.first_pause_s
            return told.model_copy(update={"progress": done, "at_least_s": after_s})

        body = json.dumps(manifest, ensure_ascii=False).encode()
        return self._ask("PUT", f"/v1/assessments/{id}", read, headers=headers, content=body)

    def patch(self, part: Part, data: bytes) -> None:
        """Send the bytes from an upload's offset on; the next `put` tells what came of it.

        raises    NoAnswer, NotNow, TokenRefused
        """

        def read(answer: _Answer) -> None:
            if "Tus-Resumable" not in answer.headers:
                raise ValueError("no answer of tus")
            if answer.status >= 400:
                detail = str(answer.document.get("detail"))
                raise NotNow(f"upload: {answer.status} {detail}", self._retry_after(answer))
            int(answer.headers["Upload-Offset"])

        headers = _TUS | {"Upload-Offset": str(part.offset)}
        self._ask("PATCH", part.upload_url, read, headers=headers, content=data[part.offset :])

    def keys(self) -> dict[str, Mapping[str, Any]]:
        """The server's public keys by their ids.

        raises    NoAnswer, NotNow, TokenRefused
        """

        def read(answer: _Answer) -> dict[str, Mapping[str, Any]]:
            if answer.status >= 400:
                raise NotNow(f"keys: {answer.status}", self._retry_after(answer))
            found = {str(key["kid"]): key for key in answer.document["keys"]}
            for key in found.values():
                OKPKey.import_key(dict(key))
            return found

        return self._ask("GET", "/v1/keys", read)

    def changes(self, after: int) -> Page:
        """The next assessments in the order of their last change.

        raises    NoAnswer, NotNow, TokenRefused
        """

        def read(answer: _Answer) -> Page:
            if answer.status >= 400:
                raise NotNow(f"answered {answer.status}", self._retry_after(answer))
            page = Page.model_validate(answer.document)
            if not all(isinstance(one["id"], str) for one in page.assessments):
                raise ValueError("an assessment without an id")
            return page

        return self._ask("GET", f"/v1/assessments?after={after}&limit={_PAGE}", read)

    def void(self, id: str, reason: str) -> None:
        """Strike an assessment through; once or several times is the same.

        raises    NoAnswer, NotNow, TokenRefused, Rejected
        """

        def read(answer: _Answer) -> None:
            if answer.status >= 400:
                raise _rejected(answer)
            if answer.document["id"] != id or not answer.document["voided"]:
                raise ValueError("another assessment, or one that is not void")

        self._post(f"/v1/assessments/{id}/void", read, {"reason": reason})

    def search(self, record_number: str) -> tuple[dict[str, Any], ...]:
        """The site's assessments of a record number, the latest first.

        raises    NoAnswer, NotNow, TokenRefused, Rejected
        """

        def read(answer: _Answer) -> tuple[dict[str, Any], ...]:
            if answer.status >= 400:
                raise _rejected(answer)
            return Page.model_validate(answer.document | {"next": 0}).assessments

        return self._post("/v1/assessments/search", read, {"record_number": record_number})

    def form(self, tag: str) -> tuple[str, dict[str, Any]] | None:
        """The form in force and its ETag; None where it is the one of this tag.

        raises    NoAnswer, NotNow, TokenRefused
        """

        def read(answer: _Answer) -> tuple[str, dict[str, Any]] | None:
            if answer.status >= 400:
                raise NotNow(f"form: {answer.status}", self._retry_after(answer))
            if answer.status == 304:
                return None
            read_form(answer.document)
            return answer.headers.get("ETag", ""), answer.document

        headers = {"If-None-Match": tag} if tag else {}
        return self._ask("GET", "/v1/forms/assessment", read, headers=headers)

    def pause(self, failures: int, at_least_s: float = 0.0) -> None:
        """Wait before the next try, less when everything ends meanwhile."""
        longest = min(self._pace.longest_pause_s, self._pace.first_pause_s * 2.0 ** (failures - 1))
        self.wait(at_least_s + random.uniform(0, longest))

    def wait(self, seconds: float) -> None:
        """Wait, less when everything ends meanwhile."""
        self.ended.wait(seconds)

    def stop(self, why: Literal["no network", "token refused"]) -> None:
        """Everything ends."""
        self.stopped = self.stopped or why
        self.ended.set()

    def _post(self, path: str, read: Callable[[_Answer], _T], document: Mapping[str, str]) -> _T:
        body = json.dumps(document).encode()
        return self._ask("POST", path, read, headers={"Content-Type": _JSON}, content=body)

    def _ask(self, method: str, path: str, read: Callable[[_Answer], _T], **how: Any) -> _T:
        """Ask, and read the answer; whatever cannot be read is none of our API."""
        try:
            found = read(self._answer(method, path, **how))
        except (NotNow, TokenRefused, KnownOtherwise, Rejected):
            self._heard()
            raise
        except (NoAnswer, httpx.HTTPError, httpx.StreamError, OSError) as error:
            self._not_heard()
            raise NoAnswer(f"no network ({type(error).__name__}: {error})") from error
        except (JoseError, ValueError, TypeError, KeyError) as error:
            self._not_heard()
            raise NoAnswer(
                f"no network: not an answer of SPIRA ({type(error).__name__})"
            ) from error
        self._heard()
        return found

    def _answer(self, method: str, path: str, **how: Any) -> _Answer:
        """What came back, if it can be our API's.

        raises    TokenRefused, NotNow; NoAnswer, ValueError, KeyError and what httpx raises
        """
        until = time.monotonic() + _LONGEST_ANSWER_S
        with self._http.stream(method, self.base + path, **how) as answer:
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            status = answer.status_code
            empty = status in (204, 304)
            ours = kind == _JSON if status in (200, 202) else empty or kind == _PROBLEM
            if not ours:
                raise NoAnswer(f"{status} {kind}, as a captive portal answers")
            body = bytearray()
            for part in answer.iter_raw():
                body += part
                if len(body) > _LARGEST_ANSWER_BYTES or time.monotonic() > until:
                    raise NoAnswer("an answer without end")
        document = {} if empty else json.loads(body)
        if not isinstance(document, dict) or (status >= 400 and document["status"] != status):
            raise NoAnswer(f"{status} with another document")
        found = _Answer(status, answer.headers, document)
        if status == 401:
            raise TokenRefused("the server does not know this token; ask for another one")
        if status in (408, 429) or status >= 500:
            raise NotNow(f"{status} {document.get('detail')}", self._retry_after(found))
        return found

    def _retry_after(self, answer: _Answer) -> float:
        """In seconds, as our API says it."""
        said = answer.headers.get("Retry-After", "")
        seconds = float(said) if said.isascii() and said.isdecimal() else 0.0
        return min(seconds, self._pace.longest_retry_after_s)

    def _heard(self) -> None:
        with self._counting:
            self._unheard = 0

    def _not_heard(self) -> None:
        with self._counting:
            self._unheard += 1
            gone = self._unheard >= self._pace.tries * self._at_once
        if gone:
            self.stop("no network")


def _refusal(answer: _Answer) -> Exception:
    """What an error of our API means for a manifest.

    raises    ValidationError, KeyError without its sentence: then it is somebody else's
    """
    refusal = _rejected(answer)
    code = answer.document.get("code")  # a wrong address is a 404 as well
    return KnownOtherwise(ours=code == "conflict") if code in ("not_found", "conflict") else refusal


def _rejected(answer: _Answer) -> Rejected:
    sentence = Sentence.model_validate(answer.document["sentence"])
    return Rejected(f"{answer.status} {answer.document.get('detail')}", sentence)


def _base(server: str) -> str:
    try:
        url = httpx.URL(server)
    except (httpx.InvalidURL, TypeError):
        url = httpx.URL("")
    near = url.host in ("localhost", "127.0.0.1", "::1")
    if not url.host or url.scheme not in ("https", "http") or url.query or url.fragment:
        raise InputError(f"server {server!r}: write https://host, with a port where it needs one")
    if url.scheme == "http" and not near:
        raise InputError(
            f"server {server!r}: http:// would send voices and the token readable to everybody; "
            "write https://"
        )
    return str(url).rstrip("/")
