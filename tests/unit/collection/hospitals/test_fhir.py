"""The client: what it shows to whom, how long it tries, and what it takes for an answer."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from spira.collection.hospitals.fhir import START, Changed, Client, ExportFile, Gone, Place
from spira.collection.hospitals.keys import Credentials, make_key, read_credentials, variable
from spira.collection.hospitals.settings import HospitalSettings
from spira.domain.errors import InputError, TransientError

BASE = "https://fhir.hospital.example/r4"
TOKEN_URL = "https://auth.hospital.example/token"
FILE = ExportFile(type="Observation", url=f"{BASE}/files/1")
Answer = Callable[[httpx.Request], httpx.Response]


class Server:
    """What answers, in this process: a token for everybody, and the rest as a test says."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[httpx.Request] = []
        self.methods = ["private_key_jwt"]
        self.tokens = 0
        self.gives_token: Answer = self._token
        self.slept: list[float] = []
        self.time = 0.0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.path.endswith("/.well-known/smart-configuration"):
            known = {
                "token_endpoint": TOKEN_URL,
                "token_endpoint_auth_methods_supported": self.methods,
            }
            return httpx.Response(200, json=known)
        if str(request.url) == TOKEN_URL:
            return self.gives_token(request)
        return self.answer(request)

    def _token(self, _: httpx.Request) -> httpx.Response:
        self.tokens += 1
        return httpx.Response(200, json={"access_token": f"t-{self.tokens}", "expires_in": 300})

    def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.slept.append(seconds)
        self.time += seconds

    def client(self, credentials: Credentials, **settings: Any) -> Client:
        """To this server."""
        described = {"url": BASE, "client_id": "spira", "systems": {"x": "record-number"}}
        given = HospitalSettings(**{**described, "group": "g", **settings})
        return Client(
            "hc",
            given,
            credentials,
            sleep=self.sleep,
            clock=lambda: self.time,
            transport=httpx.MockTransport(self),
        )


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    """With a key of ours."""
    file = tmp_path_factory.mktemp("keys") / "hc.json"
    make_key(file, "ES384", rotate=False)
    return read_credentials("hc", "spira", file, None, {})


def found(*resources: Any, following: str | None = None) -> httpx.Response:
    """A page of a search."""
    links = [] if following is None else [{"relation": "next", "url": following}]
    entries = [{"resource": one} for one in resources]
    bundle = {"resourceType": "Bundle", "type": "searchset", "entry": entries, "link": links}
    return httpx.Response(200, json=bundle)


def lines_of(*lines: bytes) -> httpx.Response:
    """A whole file."""
    return httpx.Response(200, content=b"".join(line + b"\n" for line in lines))


def cut(*pieces: bytes) -> httpx.Response:
    """A file that is cut off behind some bytes."""

    def some() -> Iterator[bytes]:
        yield from pieces
        raise httpx.RemoteProtocolError("peer closed connection")

    return httpx.Response(200, content=some())


@pytest.mark.parametrize("algorithm", ["ES384", "RS384"])
def test_an_assertion_says_who_we_are_for_one_use(algorithm: Any, tmp_path: Path) -> None:
    """Signed by the key, for the token's address, not older than five minutes, with an id of its
    own each time."""
    public = make_key(tmp_path / "hc.json", algorithm, rotate=False)
    server = Server(lambda _: found())
    seen = []

    def gives(request: httpx.Request) -> httpx.Response:
        form = dict(httpx.QueryParams(request.content.decode()))
        seen.append((form, jwt.decode(form["client_assertion"], keys, algorithms=[algorithm])))
        return httpx.Response(200, json={"access_token": "t", "expires_in": 40})

    keys = KeySet.import_key_set({"keys": public["keys"]})
    server.gives_token = gives
    given = read_credentials("hc", "spira", tmp_path / "hc.json", None, {})
    client = server.client(given)
    for _ in range(2):
        list(client.search("Observation", []))
        server.time += 60

    assert len(seen) == 2
    now = datetime.now(UTC).timestamp()
    for form, signed in seen:
        assert form["grant_type"] == "client_credentials"
        assert form["scope"].split()[0] == "system/Patient.read"
        assert signed.claims["iss"] == signed.claims["sub"] == "spira"
        assert signed.claims["aud"] == TOKEN_URL
        assert now < signed.claims["exp"] <= now + 300
    assert len({signed.claims["jti"] for _, signed in seen}) == 2


def test_a_hospital_that_takes_no_keys_is_shown_the_secret(tmp_path: Path) -> None:
    """In the head of the request for a token and nowhere else."""
    (tmp_path / "secret").write_text("open-sesame\n")
    (tmp_path / "secret").chmod(0o600)
    server = Server(lambda _: found())
    server.methods = ["client_secret_basic"]

    given = read_credentials("hc", "spira", tmp_path / "none.json", tmp_path / "secret", {})
    list(server.client(given).search("Observation", []))

    _, token, search = server.requests
    assert httpx.BasicAuth("spira", "open-sesame")._auth_header == token.headers["Authorization"]
    assert search.headers["Authorization"] == "Bearer t-1"
    assert b"open-sesame" not in token.content


def test_a_hospital_that_takes_no_keys_where_there_is_no_secret_is_told(
    credentials: Credentials,
) -> None:
    """With the setting that is missing."""
    server = Server(lambda _: found())
    server.methods = ["client_secret_basic"]

    with pytest.raises(InputError, match=r"hospital hc: takes no signed keys .* setting secret"):
        list(server.client(credentials).search("Observation", []))


def test_until_the_hospital_knows_a_new_key_the_old_one_signs(tmp_path: Path) -> None:
    """A rotation needs nobody to be quick."""
    old = make_key(tmp_path / "hc.json", "ES384", rotate=False)
    new = make_key(tmp_path / "hc.json", "ES384", rotate=True)
    assert [key["kid"] for key in new["keys"][1:]] == [key["kid"] for key in old["keys"]]
    server = Server(lambda _: found())

    def gives(request: httpx.Request) -> httpx.Response:
        form = dict(httpx.QueryParams(request.content.decode()))
        try:
            jwt.decode(form["client_assertion"], keys, algorithms=["ES384"])
        except JoseError:
            return httpx.Response(401, json={"error": "invalid_client"})
        return httpx.Response(200, json={"access_token": "t"})

    keys = KeySet.import_key_set({"keys": old["keys"]})
    server.gives_token = gives
    given = read_credentials("hc", "spira", tmp_path / "hc.json", None, {})

    assert list(server.client(given).search("Observation", [])) == [[]]


def test_keys_and_secrets_of_the_environment_go_before_files(tmp_path: Path) -> None:
    """Under a name made of the hospital's."""
    make_key(tmp_path / "hc.json", "ES384", rotate=False)
    other = tmp_path / "other.json"
    make_key(other, "ES384", rotate=False)
    environment = {
        "SPIRA_HOSPITAL_KEY_HC_2": other.read_text(),
        "SPIRA_HOSPITAL_SECRET_HC_2": "open-sesame",
    }

    given = read_credentials("hc-2", "spira", tmp_path / "hc.json", None, environment)

    assert variable("KEY", "hc-2") == "SPIRA_HOSPITAL_KEY_HC_2"
    assert given.keys[0].kid == json.loads(other.read_text())["keys"][0]["kid"]
    assert given.secret == "open-sesame"
    assert "open-sesame" not in repr(given)


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (None, 0o600, "there is no key to show it; `spira hospital key hc` makes one"),
        ("{}", 0o644, "others may read it, and it is a secret; chmod 600 it"),
        ("no json", 0o600, "is not a JWK Set of private RSA or P-384 keys"),
        ("[]", 0o600, "is not a JWK Set of private RSA or P-384 keys"),
        (
            '{"keys": [{"kty": "oct", "k": "YWJjYWJjYWJjYWJjYWJjYWJjYWJjYWJj"}]}',
            0o600,
            "is not a JWK Set of private RSA",
        ),
    ],
    ids=["none", "open", "text", "list", "symmetric"],
)
def test_a_key_that_cannot_be_used_is_told(
    text: str | None, mode: int, says: str, tmp_path: Path
) -> None:
    """With what to do; the key is in no message."""
    file = tmp_path / "hc.json"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)

    with pytest.raises(InputError, match=says):
        read_credentials("hc", "spira", file, None, {})


def test_a_token_is_renewed_before_it_ends_and_where_it_is_refused(
    credentials: Credentials,
) -> None:
    """One that was revoked is asked for once more, and then it is told."""
    server = Server(lambda _: found())
    client = server.client(credentials)
    list(client.search("Observation", []))
    server.time += 280
    list(client.search("Observation", []))
    assert server.tokens == 2

    server.answer = lambda request: (
        found()
        if request.headers["Authorization"] == "Bearer t-3"
        else httpx.Response(401, json={})
    )
    list(client.search("Observation", []))
    assert server.tokens == 3

    server.answer = lambda _: httpx.Response(401, json={})
    with pytest.raises(InputError, match=r"answers 401 .* see that it knows us"):
        list(client.search("Observation", []))
    assert server.tokens == 4


def test_an_export_is_asked_for_as_bulk_data_has_it(credentials: Credentials) -> None:
    """Of the group, asynchronously, since the last one; until it is ready, as the server asks."""
    answers = iter(
        [
            httpx.Response(202, headers={"Content-Location": f"{BASE}/jobs/1"}),
            httpx.Response(202, headers={"Retry-After": "7"}),
            httpx.Response(429, headers={"Retry-After": "90"}),
            httpx.Response(
                200,
                json={
                    "transactionTime": "2026-03-01T12:00:00.000Z",
                    "requiresAccessToken": True,
                    "output": [{"type": "Patient", "url": f"{BASE}/files/1", "count": 2}],
                    "error": [],
                },
            ),
        ]
    )
    server = Server(lambda _: next(answers))
    client = server.client(credentials)

    job = client.start_export("2026-02-01T00:00:00+00:00")
    manifest = client.export(job)

    asked = server.requests[2]
    assert asked.method == "GET"
    assert asked.url.path == "/r4/Group/g/$export"
    assert asked.headers["Prefer"] == "respond-async"
    assert dict(asked.url.params) == {
        "_type": "Patient,Observation,Condition",
        "_outputFormat": "application/fhir+ndjson",
        "_since": "2026-02-01T00:00:00+00:00",
    }
    assert server.slept == [7.0, 90.0]
    assert manifest.transaction_time == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert [file.count for file in manifest.output] == [2]


@pytest.mark.parametrize("status", [404, 410, 500])
def test_an_export_that_is_gone_or_failed_is_to_be_asked_for_again(
    status: int, credentials: Credentials
) -> None:
    """Which is for whoever knows since when."""
    server = Server(lambda _: httpx.Response(status))

    with pytest.raises(Gone):
        server.client(credentials).export(f"{BASE}/jobs/1")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (httpx.Response(202), "says nothing of where the export will be"),
        (
            httpx.Response(202, headers={"Content-Location": "https://evil.example/1"}),
            "names another server for the export; our token is not shown there",
        ),
        (httpx.Response(200, text="<html>"), r"answers 200 to GET …/\$export; ask the hospital"),
        (httpx.Response(302, headers={"Location": "https://evil.example"}), "answers 302"),
    ],
    ids=["nowhere", "elsewhere", "at once", "redirected"],
)
def test_an_export_that_is_begun_in_another_way_is_told(
    answer: httpx.Response, says: str, credentials: Credentials
) -> None:
    """And nothing is asked of any other server."""
    server = Server(lambda _: answer)

    with pytest.raises(InputError, match=f"hospital hc: .*{says}"):
        server.client(credentials).start_export(None)
    assert {request.url.host for request in server.requests} == {
        "fhir.hospital.example",
        "auth.hospital.example",
    }


def test_files_on_other_servers_are_read_where_a_setting_names_them(
    credentials: Credentials,
) -> None:
    """Else the setting is named; a file that needs no token is shown none."""
    manifest = {
        "transactionTime": "2026-03-01T12:00:00Z",
        "requiresAccessToken": False,
        "output": [{"type": "Patient", "url": "https://files.example/1"}],
    }
    server = Server(
        lambda request: (
            lines_of(b"{}")
            if request.url.host == "files.example"
            else httpx.Response(200, json=manifest)
        )
    )

    with pytest.raises(InputError, match="name it in the setting files_from"):
        server.client(credentials).export(f"{BASE}/jobs/1")

    client = server.client(credentials, files_from=["https://files.example"])
    (file,) = client.export(f"{BASE}/jobs/1").output
    assert [line.data for line in client.lines(file, token=False)] == [b"{}"]
    assert "Authorization" not in server.requests[-1].headers


def test_a_manifest_that_is_none_names_what_is_missing(credentials: Credentials) -> None:
    """And no value of it."""
    server = Server(lambda _: httpx.Response(200, json={"transactionTime": "Maria", "output": 1}))

    with pytest.raises(InputError, match="the export's manifest is not as it must be: ") as caught:
        server.client(credentials).export(f"{BASE}/jobs/1")
    assert "requiresAccessToken" in str(caught.value)
    assert "Maria" not in str(caught.value)


def test_lines_end_at_line_feeds_alone(credentials: Credentials) -> None:
    """Other ends of lines are letters in a text; empty lines are none."""
    first = '{"a": "one\u2028two\u0085three"}'.encode()
    server = Server(lambda _: httpx.Response(200, content=first + b"\r\n\n{}\n\n  \n[]"))

    read = list(server.client(credentials).lines(FILE, token=True))

    assert [line.data for line in read] == [first + b"\r", b"{}", b"[]"]
    assert [line.place.line for line in read] == [1, 2, 3]


def test_a_file_that_is_cut_off_goes_on_behind_the_last_line(credentials: Credentials) -> None:
    """However often: each line comes once."""
    whole = [json.dumps({"id": str(number)}).encode() for number in range(6)]
    data = b"".join(line + b"\n" for line in whole)
    answers = iter([cut(data[:20]), cut(data[:40]), cut(b""), lines_of(*whole)])
    server = Server(lambda _: next(answers))

    read = list(server.client(credentials).lines(FILE, token=True))

    assert [line.data for line in read] == whole
    assert len(server.slept) == 3


def test_a_cut_that_looks_like_an_end_is_seen_by_half_a_line_or_by_the_count(
    credentials: Credentials,
) -> None:
    """A proxy may close as if that were all."""
    half = iter([httpx.Response(200, content=b'{"id": 1}\n{"id'), lines_of(b'{"id": 1}', b"{}")])
    server = Server(lambda _: next(half))
    read = list(server.client(credentials).lines(FILE, token=True))
    assert [line.data for line in read] == [b'{"id": 1}', b"{}"]

    short = iter([lines_of(b"{}"), lines_of(b"{}", b"[]")])
    server = Server(lambda _: next(short))
    counted = FILE.model_copy(update={"count": 2})
    read = list(server.client(credentials).lines(counted, token=True))
    assert [line.data for line in read] == [b"{}", b"[]"]


def test_a_file_that_stays_shorter_than_its_count_has_an_end(credentials: Credentials) -> None:
    """After some tries; whoever reads it counts."""
    server = Server(lambda _: lines_of(b"{}", b"[]"))
    counted = FILE.model_copy(update={"count": 9})

    read = list(server.client(credentials).lines(counted, token=True))

    assert [line.data for line in read] == [b"{}", b"[]"]
    assert len(server.slept) == 3


def test_half_a_line_that_stays_one_is_handed_on(credentials: Credentials) -> None:
    """Whoever reads it tells that it is no FHIR; a file of a hospital may end so for ever."""
    server = Server(lambda _: httpx.Response(200, content=b'{}\n{"id'))

    read = list(server.client(credentials).lines(FILE, token=True))

    assert [line.data for line in read] == [b"{}", b'{"id']


def test_a_file_is_gone_on_with_only_where_it_is_the_same(credentials: Credentials) -> None:
    """What was read before has to be what the file has now."""
    place = START.after(b"{}").after(b"[]")
    server = Server(lambda _: lines_of(b"{}", b"[]", b"1"))
    read = list(server.client(credentials).lines(FILE, token=True, after=place))
    assert [line.data for line in read] == [b"1"]

    for other in (lines_of(b"[]", b"{}", b"1"), lines_of(b"{}")):
        server = Server(lambda _, other=other: other)
        with pytest.raises(Changed):
            list(server.client(credentials).lines(FILE, token=True, after=place))
    assert Place(2, place.digest) == place


def test_a_line_without_an_end_takes_no_memory(credentials: Credentials) -> None:
    """It is told as such, and the next one comes."""
    endless = [b"x" * (1 << 20)] * 9
    server = Server(lambda _: httpx.Response(200, content=iter([b"{}\n", *endless, b"\n[]\n"])))

    read = list(server.client(credentials).lines(FILE, token=True))

    assert [line.data for line in read] == [b"{}", None, b"[]"]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_file_that_has_expired_is_gone(status: int, credentials: Credentials) -> None:
    """Whatever a server says then; a token that had ended was renewed before."""
    server = Server(lambda _: httpx.Response(status))

    with pytest.raises(Gone):
        list(server.client(credentials).lines(FILE, token=True))
    assert server.tokens == (2 if status == 401 else 1)


def test_a_search_follows_its_pages_on_the_same_server(credentials: Credentials) -> None:
    """And no link to any other one."""
    pages = {
        "/r4/Observation": found({"id": "1"}, following="page/2"),
        "/r4/page/2": found({"id": "2"}, "no resource", following=f"{BASE}/page/3"),
        "/r4/page/3": found({"id": "3"}),
    }
    server = Server(lambda request: pages[request.url.path])
    read = list(server.client(credentials).search("Observation", [("date", "ge2026-03-01")]))
    assert read == [[{"id": "1"}], [{"id": "2"}], [{"id": "3"}]]

    for elsewhere in ("https://evil.example/r4/page/2", "http://fhir.hospital.example/r4/page/2"):
        pages["/r4/Observation"] = found(following=elsewhere)
        with pytest.raises(InputError, match="names another server for the next page"):
            list(server.client(credentials).search("Observation", []))
    assert not any(request.url.host == "evil.example" for request in server.requests)
    assert all(request.url.scheme == "https" for request in server.requests)


def test_a_page_that_has_expired_is_searched_for_again(credentials: Credentials) -> None:
    """By the next pull: what was taken of the earlier pages does no harm."""
    pages = {"/r4/Observation": found(following="page/2"), "/r4/page/2": httpx.Response(410)}
    server = Server(lambda request: pages[request.url.path])

    with pytest.raises(TransientError, match="a page of a search has expired"):
        list(server.client(credentials).search("Observation", []))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda: httpx.Response(200, text="<html>Entrar</html>"), "something that is no JSON"),
        (lambda: httpx.Response(200, json={"resourceType": "Patient"}), "no Bundle"),
        (lambda: httpx.Response(200, json=[]), "no Bundle"),
        (lambda: found(following=f"{BASE}/page/1"), "round in a circle"),
        (lambda: httpx.Response(400, json={"issue": "Maria"}), "answers 400 to GET"),
        (
            lambda: httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=b"not gzip"),
            "sends an answer, or an address, that is none",
        ),
    ],
    ids=["html", "resource", "list", "circle", "refused", "packed"],
)
def test_an_answer_to_a_search_that_is_none_is_told(
    answer: Callable[[], httpx.Response], says: str, credentials: Credentials
) -> None:
    """In our words alone."""
    server = Server(lambda _: answer())

    with pytest.raises(InputError, match=f"hospital hc: .*{says}") as caught:
        list(server.client(credentials).search("Observation", []))
    assert "Maria" not in str(caught.value)


def test_a_number_is_looked_up_in_the_body_of_a_post(credentials: Credentials) -> None:
    """Of the first page: more than that many patients have no number in common."""
    server = Server(lambda _: found({"id": "1"}, following=f"{BASE}/page?identifier=123"))

    patients = server.client(credentials).patients_with("https://hc.example/n", "12.345-6")

    assert patients == [{"id": "1"}]
    asked = server.requests[-1]
    assert (asked.method, asked.url.path) == ("POST", "/r4/Patient/_search")
    assert dict(httpx.QueryParams(asked.content.decode()))["identifier"] == (
        "https://hc.example/n|12.345-6"
    )
    assert not any("12.345-6" in str(request.url) for request in server.requests)


def test_patience_has_an_end_and_grows_between_tries(credentials: Credentials) -> None:
    """Pauses double; after the time that the setting gives, it is told what to do."""
    server = Server(lambda _: httpx.Response(503))

    with pytest.raises(TransientError, match="hospital hc: answers 503, for 9"):
        list(server.client(credentials, patience_s=100).search("Observation", []))

    assert server.slept == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_a_server_that_asks_for_a_time_is_given_it(credentials: Credentials) -> None:
    """In seconds or by a date, for as long as patience goes."""
    later = (datetime.now(UTC) + timedelta(seconds=60)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    answers = iter(
        [
            httpx.Response(503, headers={"Retry-After": "12"}),
            httpx.Response(503, headers={"Retry-After": later}),
            httpx.Response(503, headers={"Retry-After": "600"}),
            httpx.Response(503, headers={"Retry-After": "soon"}),
            found(),
        ]
    )
    server = Server(lambda _: next(answers))

    list(server.client(credentials, patience_s=1000).search("Observation", []))

    first, second, third, fourth = server.slept
    assert first == 12
    assert 50 < second <= 60
    assert third == 600
    assert fourth == 4.0  # by our own pauses, though a new token came meanwhile


@pytest.mark.parametrize("retry_after", ["86400", "9" * 30], ids=["a day", "for ever"])
def test_a_server_that_asks_for_more_than_there_is_patience_is_left_alone(
    retry_after: str, credentials: Credentials
) -> None:
    """At once, with when to come again; whether it is busy, or makes an export."""
    asked = {"Retry-After": retry_after}
    says = "not to come again" if len(retry_after) > 5 else r"after \d{4}-\d\d-\d\d \d\d:\d\d UTC;"
    busy, waiting = (Server(lambda _, n=n: httpx.Response(n, headers=asked)) for n in (429, 202))

    with pytest.raises(TransientError, match=says):
        list(busy.client(credentials).search("Observation", []))
    with pytest.raises(TransientError, match=f"not ready yet, and asks .*{says}"):
        waiting.client(credentials).export(f"{BASE}/jobs/1")

    assert busy.slept == waiting.slept == []


def test_an_export_is_ended_whatever_the_server_makes_of_it(credentials: Credentials) -> None:
    """One that knows no DELETE forgets by itself."""
    for status in (202, 404, 405, 501):
        server = Server(lambda _, status=status: httpx.Response(status))
        server.client(credentials).end_export(f"{BASE}/jobs/1")
        assert server.requests[-1].method == "DELETE"


def test_an_export_of_a_server_that_is_no_longer_ours_is_left_to_it(
    credentials: Credentials,
) -> None:
    """Read whole, and cut off before its end: that server may be gone, and is shown no token."""
    server = Server(lambda _: httpx.Response(202))

    server.client(credentials).end_export("https://before.example/jobs/1")

    assert server.requests == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"url": "fhir.hospital.example"}, "write it as https://"),
        ({"url": "https://user:word@fhir.example"}, "secrets have settings of their own"),
        ({"url": "https://fhir.example?key=1"}, "secrets have settings of their own"),
        ({"zone": "Brasilia"}, "is no time zone"),
        ({"systems": {}}, "at least 1 item"),
    ],
    ids=["no scheme", "secret", "query", "zone", "no systems"],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], says: str) -> None:
    """Each with what would be right."""
    given = {"url": BASE, "client_id": "spira", "systems": {"x": "record-number"}, **change}

    with pytest.raises(ValueError, match=says):
        HospitalSettings(**given)
