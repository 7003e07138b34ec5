"""The client of a hospital's FHIR R4 server: who we are, Bulk Data exports, and searches.

Between us and the server may be an outage at any moment. Whatever may pass is tried again, as the
server asks (`Retry-After`) or with pauses that double, for as long as the setting `patience_s`
says; a server that asks for more is told of, and left alone. A file that was cut off goes on behind
the last line that came.

Nobody's data is in an error or a log: neither what the server said, nor the query of an address.

source    SMART Backend Services (App Launch 2.2), Bulk Data Access 2.0, FHIR R4 search
"""

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from spira.collection.hospitals.keys import Credentials
from spira.collection.hospitals.settings import HospitalSettings
from spira.domain.errors import InputError, TransientError

TYPES = ("Patient", "Observation", "Condition")

_JSON = "application/fhir+json"
_NDJSON = "application/fhir+ndjson"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_LIVES = timedelta(minutes=4)  # 5 at most, and clocks differ
_LARGEST_ANSWER_BYTES = 64 << 20
_LONGEST_LINE_BYTES = 4 << 20
_SILENT_S = 60.0  # then a connection is dead
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_LONGEST_POLL_S = 300.0  # between two looks at an export, where the server does not say
_PASSES = frozenset({429, 500, 502, 503, 504})
_GONE = frozenset({401, 403, 404, 410})  # of a file or an export that was there
_PAGE = 200
_TRIES_AT_AN_END = 3  # of a file whose last line is not whole, or that lacks lines

Model = TypeVar("Model", bound=BaseModel)


class Gone(Exception):
    """An export, or a file of it, is no longer there: another one has to be asked for."""


class Changed(Exception):
    """A file is not the one that was begun: it has to be read from its beginning."""


class ExportFile(BaseModel):
    """One file of an export."""

    type: str
    url: str
    count: int | None = Field(default=None, ge=0)


class Manifest(BaseModel):
    """What an export came to."""

    transaction_time: AwareDatetime = Field(alias="transactionTime")
    requires_token: bool = Field(alias="requiresAccessToken")
    output: tuple[ExportFile, ...]
    error: tuple[ExportFile, ...] = ()
    deleted: tuple[ExportFile, ...] = ()


class Place(NamedTuple):
    """How far a file was read: so many lines, and a digest of all of them."""

    line: int
    digest: str

    def after(self, data: bytes) -> "Place":
        """Behind one more line."""
        digest = hashlib.sha256(self.digest.encode() + data).hexdigest()
        return Place(self.line + 1, digest[:32])


START = Place(0, "")


class Line(NamedTuple):
    """A line of a file that is not empty."""

    place: Place  # behind it
    data: bytes | None  # None: too long to be one resource


class _Answer(NamedTuple):
    status: int
    headers: httpx.Headers
    body: bytes


class _Configuration(BaseModel):
    token_endpoint: str
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("private_key_jwt",)


class _Token(BaseModel):
    access_token: str = Field(min_length=1, repr=False)
    expires_in: float = Field(default=300.0, gt=0)


class Client:
    """The way to one hospital, for one thread at a time."""

    def __init__(
        self,
        hospital: str,
        settings: HospitalSettings,
        credentials: Credentials,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._name = hospital
        self._settings = settings
        self._credentials = credentials
        self._sleep = sleep
        self._clock = clock
        # That a new token came says nothing of what it is for.
        self._patience = _Patience(hospital, settings.patience_s, sleep, clock)
        self._patience_for_tokens = _Patience(hospital, settings.patience_s, sleep, clock)
        self._token: str | None = None
        self._token_ends = 0.0
        self._configuration: _Configuration | None = None
        self._http = httpx.Client(timeout=_SILENT_S, follow_redirects=False, transport=transport)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    # Bulk Data

    def start_export(self, since: str | None) -> str:
        """Ask for everything of the group that changed after a moment; where to ask for it.

        since     the `transactionTime` of the export before; None for everything
        """
        parameters = {"_type": ",".join(TYPES), "_outputFormat": _NDJSON}
        if since is not None:
            parameters["_since"] = since
        answer = self._ask(
            "GET",
            f"{self._settings.url}/Group/{self._settings.group}/$export",
            ok=(202,),
            headers={"Accept": _JSON, "Prefer": "respond-async"},
            params=parameters,
        )
        where = answer.headers.get("Content-Location")
        if where is None:
            raise self._unusable("says nothing of where the export will be (Content-Location)")
        return self._ours(urljoin(self._settings.url, where), "the export")

    def export(self, status_url: str) -> Manifest:
        """Wait for an export.

        raises    Gone when there is none; TransientError when it is not ready for the time that
                  the setting `wait_s` gives it
        """
        if not self._is_ours(status_url):
            raise Gone  # of the server that the setting url named before
        ends = self._clock() + self._settings.wait_s
        pause_s = 2 * _FIRST_PAUSE_S
        while True:
            answer = self._ask("GET", status_url, ok=(200, 202, 404, 410, 500))
            if answer.status == 200:
                break
            if answer.status != 202:
                raise Gone
            asked_s = _retry_after_s(answer.headers)
            pause_s = asked_s or min(2 * pause_s, _LONGEST_POLL_S)
            if self._clock() + pause_s > ends:
                raise TransientError(
                    f"hospital {self._name}: the export is not ready yet{_when(asked_s)}; the next "
                    "`spira hospital pull` goes on with it"
                )
            self._sleep(pause_s)
        manifest = self._read(Manifest, answer, "the export's manifest")
        for file in (*manifest.output, *manifest.error, *manifest.deleted):
            if not self._may_be_read(file):
                raise self._unusable(
                    "has files of the export on another server; where that is right, name it in "
                    "the setting files_from"
                )
        return manifest

    def lines(self, file: ExportFile, *, token: bool, after: Place = START) -> Iterator[Line]:
        """The lines behind a place. However often the answer is cut off, each comes once. Fewer
        than `file.count` says, where the file ends before that however often it is read.

        token     whether the manifest says that files need one
        raises    Gone when the file has expired; Changed when what was read before is not what
                  the file has now
        """
        if not self._may_be_read(file):
            raise Gone
        place, tries_at_end = after, 0
        while True:
            try:
                here, whole = START, True
                with self._streamed(file.url, token=token) as pieces:
                    for data, whole in _split(pieces):
                        here = here.after(data or b"")
                        if here.line == place.line and here != place:
                            raise Changed
                        if here.line <= place.line:
                            continue
                        if not whole and tries_at_end < _TRIES_AT_AN_END and not _is_json(data):
                            break  # cut off, by somebody who made it look like an end
                        place, tries_at_end = here, 0
                        self._patience.heard()
                        yield Line(place, data)
                    else:
                        if here.line < place.line:
                            raise Changed
                        if place.line >= (file.count or 0) or tries_at_end >= _TRIES_AT_AN_END:
                            return
                tries_at_end += 1
            except httpx.TransportError:
                pass
            self._patience.failed("cut off a file of the export")

    def end_export(self, status_url: str) -> None:
        """Let the server forget the export; one that has no way to is left to it. One that the
        setting url names no more may be gone, and is not shown our token."""
        if self._is_ours(status_url):
            self._ask("DELETE", status_url, ok=(200, 202, 204, 400, 404, 405, 410, 501))

    # Searches

    def search(
        self, kind: str, query: Sequence[tuple[str, str]], *, post: bool = False, pages: int = 0
    ) -> Iterator[list[Mapping[str, Any]]]:
        """What is found, page by page.

        post      send the query in a body: what is in an address is in the logs of servers
        pages     how many at most; 0: all
        """
        query = [*query, ("_count", str(_PAGE))]
        base = f"{self._settings.url}/{kind}"
        if post:
            body = dict(query)
            answer = self._ask("POST", f"{base}/_search", ok=(200,), data=body)
        else:
            answer = self._ask("GET", base, ok=(200,), params=query)
        seen: set[str] = set()
        while True:
            bundle = self._json(answer, "a page of a search")
            if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle":
                raise self._unusable("answers a search with something that is no Bundle")
            yield [
                entry["resource"]
                for entry in _list(bundle.get("entry"))
                if isinstance(entry, dict) and isinstance(entry.get("resource"), dict)
            ]
            links = [link for link in _list(bundle.get("link")) if isinstance(link, dict)]
            following = [link.get("url") for link in links if link.get("relation") == "next"]
            if not following or len(seen) + 1 == pages:
                return
            url = self._ours(urljoin(self._settings.url + "/", str(following[0])), "the next page")
            if url in seen:
                raise self._unusable("sends a search round in a circle")
            seen.add(url)
            answer = self._ask("GET", url, ok=(200, 404, 410))
            if answer.status != 200:
                raise TransientError(
                    f"hospital {self._name}: a page of a search has expired; the next "
                    "`spira hospital pull` searches again"
                )

    def patients_with(self, system: str, number: str) -> list[Mapping[str, Any]]:
        """The patients of an identifier, by POST: the number is in no address.

        system    as the hospital names it
        """
        query = [("identifier", f"{system}|{number}")]
        return [one for page in self.search("Patient", query, post=True, pages=1) for one in page]

    def resource(self, name: str) -> tuple[int, Any]:
        """A resource by its name, `Observation/ID`: the status 200 and what it says; 410 where it
        was deleted, another one where nobody knows of it, and nothing."""
        answer = self._ask("GET", f"{self._settings.url}/{name}", ok=(200, 404, 405, 410, 501))
        found = self._json(answer, "a resource") if answer.status == 200 else None
        return answer.status, found

    # Asking

    def _ask(
        self,
        method: str,
        url: str,
        *,
        ok: Collection[int],
        headers: Mapping[str, str] | None = None,
        params: Any = None,
        data: Mapping[str, str] | None = None,
    ) -> _Answer:
        """One of the statuses in `ok`, whatever it takes.

        raises    InputError for another one that will not pass; TransientError when patience ends
        """
        renewed = False
        while True:
            sent = {"Accept": _JSON, **(headers or {}), "Authorization": f"Bearer {self._access()}"}
            how = {"headers": sent, "params": params, "data": data}
            answer = self._once(self._patience, method, url, **how)
            if answer.status in ok:
                self._patience.heard()
                return answer
            if answer.status == 401 and not renewed:
                renewed, self._token = True, None
            elif answer.status in _PASSES:
                self._patience.failed(f"answers {answer.status}", _retry_after_s(answer.headers))
            else:
                raise self._refused(method, url, answer.status)

    def _once(self, patience: "_Patience", method: str, url: str, **how: Any) -> _Answer:
        """Any answer; until one comes whole."""
        while True:
            try:
                with self._http.stream(method, url, **how) as response:
                    body = bytearray()
                    for piece in response.iter_bytes():
                        body += piece
                        if len(body) > _LARGEST_ANSWER_BYTES:
                            raise self._unusable(
                                f"sends an answer of more than {_LARGEST_ANSWER_BYTES >> 20} MB"
                            )
                    return _Answer(response.status_code, response.headers, bytes(body))
            except httpx.TransportError:
                patience.failed("does not answer")
            except (httpx.DecodingError, httpx.InvalidURL) as error:
                raise self._unusable("sends an answer, or an address, that is none") from error

    @contextmanager
    def _streamed(self, url: str, *, token: bool) -> Iterator[Iterator[bytes]]:
        """The pieces of a file.

        raises    Gone, httpx.TransportError
        """
        renewed = False
        while True:
            headers = {"Accept": _NDJSON}
            if token:
                headers["Authorization"] = f"Bearer {self._access()}"
            with self._http.stream("GET", url, headers=headers) as response:
                status = response.status_code
                if status == 200:
                    try:
                        yield response.iter_bytes()
                    except httpx.DecodingError as error:
                        raise self._unusable("sends a file that cannot be unpacked") from error
                    return
            if status == 401 and token and not renewed:
                renewed, self._token = True, None
            elif status in _GONE:
                raise Gone
            elif status in _PASSES:
                self._patience.failed(f"answers {status}", _retry_after_s(response.headers))
            else:
                raise self._refused("GET", url, status)

    # Who we are

    def _access(self) -> str:
        """A token that is good for a while."""
        if self._token is None or self._clock() >= self._token_ends:
            asked_at = self._clock()
            token = self._new_token()
            self._token = token.access_token
            self._token_ends = asked_at + max(token.expires_in - 30.0, token.expires_in / 2)
        return self._token

    def _new_token(self) -> _Token:
        """By each of our keys, the newest first: the hospital may not know it yet."""
        configuration = self._discovered()
        url = configuration.token_endpoint
        methods = configuration.token_endpoint_auth_methods_supported
        grant = {"grant_type": "client_credentials", "scope": self._settings.scopes}
        tries: list[Callable[[], dict[str, Any]]] = []
        if "private_key_jwt" in methods:
            tries += [
                lambda key=key: {"data": grant | self._assertion(key, url)}  # type: ignore[misc]
                for key in self._credentials.keys
            ]
        if self._credentials.secret is not None:
            account = (self._credentials.client_id, self._credentials.secret)
            tries.append(lambda: {"data": grant, "auth": account})
        if not tries:
            raise self._unusable(
                f"takes no signed keys ({', '.join(methods)}), and we have no secret for it; name "
                "its file in the setting secret"
            )
        while True:
            for shown in tries:
                answer = self._once(
                    self._patience_for_tokens,
                    "POST",
                    url,
                    headers={"Accept": "application/json"},
                    **shown(),
                )
                if answer.status == 200:
                    self._patience_for_tokens.heard()
                    return self._read(_Token, answer, "a token")
                if answer.status in _PASSES:
                    break
            if answer.status not in _PASSES:
                raise InputError(
                    f"hospital {self._name}: gives us no token ({answer.status}); see that it "
                    f"knows client {self._credentials.client_id}, its scopes, and the key that "
                    f"`spira hospital key {self._name}` prints"
                )
            retry_after_s = _retry_after_s(answer.headers)
            self._patience_for_tokens.failed(f"answers {answer.status} to a token", retry_after_s)

    def _assertion(self, key: ECKey | RSAKey, url: str) -> dict[str, str]:
        """Who we are, signed, for one use."""
        algorithm = "ES384" if isinstance(key, ECKey) else "RS384"
        now = datetime.now(UTC)
        claims = {
            "iss": self._credentials.client_id,
            "sub": self._credentials.client_id,
            "aud": url,
            "jti": secrets.token_urlsafe(24),
            "iat": int(now.timestamp()),
            "exp": int((now + _ASSERTION_LIVES).timestamp()),
        }
        header = {"alg": algorithm, "kid": key.kid, "typ": "JWT"}
        try:
            signed = jwt.encode(header, claims, key, algorithms=[algorithm])
        except JoseError as error:
            raise InputError(
                f"hospital {self._name}: its key cannot sign with {algorithm}; an RSA key or one "
                "on P-384 is needed"
            ) from error
        return {"client_assertion_type": _ASSERTION, "client_assertion": signed}

    def _discovered(self) -> _Configuration:
        if self._configuration is None:
            url = f"{self._settings.url}/.well-known/smart-configuration"
            while True:
                answer = self._once(
                    self._patience_for_tokens, "GET", url, headers={"Accept": "application/json"}
                )
                if answer.status == 200:
                    break
                if answer.status not in _PASSES:
                    raise self._refused("GET", url, answer.status)
                retry_after_s = _retry_after_s(answer.headers)
                self._patience_for_tokens.failed(f"answers {answer.status}", retry_after_s)
            self._patience_for_tokens.heard()
            found = self._read(_Configuration, answer, "its smart-configuration")
            schemes = {"https", urlsplit(self._settings.url).scheme}
            if urlsplit(found.token_endpoint).scheme not in schemes:
                raise self._unusable("gives out tokens at no address that is encrypted")
            self._configuration = found
        return self._configuration

    # Answers

    def _json(self, answer: _Answer, what: str) -> Any:
        try:
            return read_json(answer.body)
        except ValueError as error:
            raise self._unusable(f"answers with something that is no JSON: {what}") from error

    def _read(self, model: type[Model], answer: _Answer, what: str) -> Model:
        try:
            return model.model_validate(self._json(answer, what))
        except ValidationError as error:
            names = {".".join(map(str, fault["loc"])) for fault in error.errors()}
            places = ", ".join(sorted(names))
            raise self._unusable(f"{what} is not as it must be: {places}") from None

    def _ours(self, url: str, what: str) -> str:
        """An address that is shown our token: of the same server and no other.

        raises    InputError for any other
        """
        if not self._is_ours(url):
            raise self._unusable(f"names another server for {what}; our token is not shown there")
        return url

    def _is_ours(self, url: str) -> bool:
        return _server_of(url) == _server_of(self._settings.url)

    def _may_be_read(self, file: ExportFile) -> bool:
        servers = (self._settings.url, *self._settings.files_from)
        return _server_of(file.url) in map(_server_of, servers)

    def _refused(self, method: str, url: str, status: int) -> InputError:
        path = urlsplit(url).path.rpartition("/")[2]
        why = {
            401: "see that it knows us, and that its clock and ours are right",
            403: "see that it grants the scopes of the setting scopes",
            404: "see the settings url and group",
        }.get(status, "ask the hospital")
        return self._unusable(f"answers {status} to {method} …/{path}; {why}")

    def _unusable(self, what: str) -> InputError:
        return InputError(f"hospital {self._name}: {what}")


class _Patience:
    """How long a server that is away is waited for."""

    def __init__(
        self,
        hospital: str,
        patience_s: float,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        self._hospital = hospital
        self._patience_s = patience_s
        self._sleep = sleep
        self._clock = clock
        self.heard()

    def heard(self) -> None:
        """Something came of it."""
        self._since: float | None = None
        self._pause_s = _FIRST_PAUSE_S

    def failed(self, what: str, retry_after_s: float | None = None) -> None:
        """Wait before the next try.

        raises    TransientError when it has been long enough
        """
        now = self._clock()
        self._since = now if self._since is None else self._since
        pause_s = self._pause_s
        if retry_after_s is not None:
            pause_s = retry_after_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        if now + pause_s - self._since > self._patience_s:
            raise TransientError(
                f"hospital {self._hospital}: {what}, for {now - self._since:.0f} s"
                f"{_when(retry_after_s)}; the next `spira hospital pull` goes on from where this "
                "one stands"
            )
        self._sleep(pause_s)


def _server_of(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", "", None
    return parts.scheme, parts.hostname or "", port


def read_json(data: bytes) -> Any:
    """JSON as RFC 8259 has it, with each key once: of two values for one thing, neither counts.

    raises    ValueError
    """
    try:
        return json.loads(data, object_pairs_hook=_each_once, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_number(_: str) -> Any:
    raise ValueError("not a number")


def _is_json(data: bytes | None) -> bool:
    try:
        read_json(data or b"")
    except ValueError:
        return False
    return True


def _split(pieces: Iterable[bytes]) -> Iterator[tuple[bytes | None, bool]]:
    """(line, whether it has its end), without lines that are empty; None for one that is too long.

    At line feeds alone: other ends of lines are letters in a JSON text.
    """
    held: list[bytes] = []
    n_bytes = 0

    def line() -> bytes | None:
        whole = None if n_bytes > _LONGEST_LINE_BYTES else b"".join(held)
        held.clear()
        return whole

    for piece in pieces:
        *ended, rest = piece.split(b"\n")
        for part in ended:
            n_bytes += len(part)
            held.append(part)
            data = line()
            n_bytes = 0
            if data is None or data.strip():
                yield data, True
        n_bytes += len(rest)
        if n_bytes > _LONGEST_LINE_BYTES:
            held.clear()
        else:
            held.append(rest)
    data = line()
    if data is None or data.strip():
        yield data, False


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """Seconds, from seconds or a date."""
    given = headers.get("Retry-After", "")
    if given.strip().isdecimal():
        return float(given)
    try:
        wait = parsedate_to_datetime(given) - datetime.now(UTC)
    except (ValueError, TypeError):
        return None
    return max(0.0, wait.total_seconds())


def _when(retry_after_s: float | None) -> str:
    """When a server wants to be asked again, in words; nothing where it does not say."""
    if retry_after_s is None:
        return ""
    try:
        moment = datetime.now(UTC) + timedelta(seconds=retry_after_s)
    except OverflowError:
        return ", and asks not to come again"
    return f", and asks to come again after {moment:%Y-%m-%d %H:%M} UTC"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
