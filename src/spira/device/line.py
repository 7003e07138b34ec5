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

_LARGEST_ANSWER_BYTES = 4 << 20
_LONGEST_ANSWER_S = 300.0  # for a portal that drips for ever; each part of one has its own limit
_JSON = "application/json"
_PROBLEM = "application/problem+json"
_TUS = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
_T = TypeVar("_T")


class Pace(Frozen):
    """How hard a device tries. Pauses double, and are drawn anew each time (full jitter)."""

    at_once: int = Field(default=4, ge=1, le=32)  # submissions
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
    """Our API knows the id as something else: of another device, or ours with other content."""

    def __init__(self, *, ours: bool) -> None:
        super().__init__("the server knows this id as something else")
        self.ours = ours


class Rejected(Exception):
    """Our API does not take it, and never will as it is."""

    def __init__(self, detail: str, sentence: Sentence) -> None:
        super().__init__(detail)
        self.detail = detail
        self.sentence = sentence


class Withdrawn(Rejected):
    """Our API says that whom it is of has withdrawn, and to erase it."""


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


class Answer(NamedTuple):
    """What our API has answered."""

    status: int
    headers: httpx.Headers
    document: dict[str, Any]
    after_s: float  # it asks to be left alone for so long


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

    def put(self, path: str, secret: str, manifest: Mapping[str, Any], now: datetime) -> Told:
        """Send a manifest; how it stands.

        path      of the submission
        raises    NoAnswer, NotNow, TokenRefused, KnownOtherwise, Rejected
        """
        headers = {
            "Content-Type": _JSON,
            "Spira-Device-Secret": secret,
            "Spira-Device-Time": now.isoformat(timespec="milliseconds"),
        }
        sizes = {one["id"]: one["n_bytes"] for one in manifest["recordings"]}

        def read(answer: Answer) -> Told:
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
                    raise ValueError("an upload that is not of this submission")
                done += one.offset if one.state == "needed" else size + 1
            after_s = answer.after_s or self._pace.first_pause_s
            return told.model_copy(update={"progress": done, "at_least_s": after_s})

        body = json.dumps(manifest, ensure_ascii=False).encode()
        return self.ask("PUT", path, read, headers=headers, content=body)

    def patch(self, part: Part, data: bytes) -> None:
        """Send the bytes from an upload's offset on; the next `put` tells what came of it.

        raises    NoAnswer, NotNow, TokenRefused
        """

        def read(answer: Answer) -> None:
            if "Tus-Resumable" not in answer.headers:
                raise ValueError("no answer of tus")
            if answer.status >= 400:
                detail = str(answer.document.get("detail"))
                raise NotNow(f"upload: {answer.status} {detail}", answer.after_s)
            int(answer.headers["Upload-Offset"])

        headers = _TUS | {"Upload-Offset": str(part.offset)}
        self.ask("PATCH", part.upload_url, read, headers=headers, content=data[part.offset :])

    def keys(self) -> dict[str, Mapping[str, Any]]:
        """The server's public keys by their ids.

        raises    NoAnswer, NotNow, TokenRefused
        """

        def read(answer: Answer) -> dict[str, Mapping[str, Any]]:
            if answer.status >= 400:
                raise NotNow(f"keys: {answer.status}", answer.after_s)
            found = {str(key["kid"]): key for key in answer.document["keys"]}
            for key in found.values():
                OKPKey.import_key(dict(key))
            return found

        return self.ask("GET", "/v1/keys", read)

    def ask(self, method: str, path: str, read: Callable[[Answer], _T], **how: Any) -> _T:
        """Ask, and read the answer; whatever cannot be read is none of our API.

        raises    NoAnswer, NotNow, TokenRefused, and what `read` makes of an answer
        """
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

    def _answer(self, method: str, path: str, **how: Any) -> Answer:
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
        found = Answer(status, answer.headers, document, self._after_s(answer.headers))
        if status == 401:
            raise TokenRefused("the server does not know this token; ask for another one")
        if status in (408, 429) or status >= 500:
            raise NotNow(f"{status} {document.get('detail')}", found.after_s)
        return found

    def _after_s(self, headers: httpx.Headers) -> float:
        """In seconds, as our API says it."""
        said = headers.get("Retry-After", "")
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


def _refusal(answer: Answer) -> Exception:
    """What an error of our API means for a manifest.

    raises    ValidationError, KeyError without its sentence: then it is somebody else's
    """
    refusal = rejected(answer)
    code = answer.document.get("code")  # a wrong address is a 404 as well
    if (answer.status, code, answer.document.get("erase")) == (410, "withdrawn", True):
        return Withdrawn(refusal.detail, refusal.sentence)
    return KnownOtherwise(ours=code == "conflict") if code in ("not_found", "conflict") else refusal


def rejected(answer: Answer) -> Rejected:
    """What an error of our API means elsewhere.

    raises    ValidationError, KeyError without its sentence: then it is somebody else's
    """
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
