"""Whatever anybody sends to the Client API or the Data Collection API: each is refused with words,
and nothing falls over. Both are sent the same, where it fits."""

import base64
import hashlib
import io
import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import uuid_utils
from encoding import LIVE, encode
from served import Api, Assessment, Collection, announced, clock, voice
from services import wait_for

from spira.collection.studies import default_study

NUMBER = "31415926535"  # a record number, which no answer may repeat
UNKNOWN = "01938f00-0000-7000-8000-000000000000"
TUS = {
    "Tus-Resumable": "1.0.0",
    "Upload-Offset": "0",
    "Content-Type": "application/offset+octet-stream",
}


def raw(api: Api, *parts: bytes, ends: bool = False) -> bytes:
    """Send bytes on a connection, and read until the other side hangs up.

    ends      say then that nothing more comes
    """
    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as line:
        for part in parts:
            line.sendall(part)
        if ends:
            line.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: line.recv(1 << 16), b""))


KINDS: dict[str, type[Api]] = {"client": Api, "collection": Collection}
SLOW = pytest.mark.slow


def of(*kinds: str) -> list[Any]:
    """APIs of these kinds on SQLite, and on PostgreSQL where tests may be slow."""
    return [*kinds, *(pytest.param(f"{kind} on postgres", marks=SLOW) for kind in kinds)]


CLIENT = pytest.mark.parametrize("api", of("client"), indirect=True)
COLLECTION = pytest.mark.parametrize("api", of("collection"), indirect=True)


@pytest.fixture(scope="module", params=of(*KINDS))
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API; in the end nothing it said is a defect, or anybody's record number."""
    kind, *database = request.param.split(" on ")
    api = KINDS[kind](tmp_path_factory.mktemp("hostile") / "home")
    if database:
        url = request.getfixturevalue("postgres").empty(uuid.uuid4().hex)
        api.settings["SPIRA_SERVING__DATABASE"] = url
    api.home.mkdir()
    api.token = api.make_token()
    api.start()
    yield api
    api.kill("everything")
    assert "Traceback" not in api.said
    assert NUMBER not in api.said


@pytest.fixture(scope="module")
def accepted(api: Api) -> Assessment:
    """One that has its receipt."""
    one = made(api)
    api.sent(one)
    return one


@pytest.fixture(scope="module")
def elsewhere(api: Api) -> str:
    """The token of another site."""
    return api.make_token(api.sites[1])


def made(api: Api, sound: bytes | None = None, **change: Any) -> Assessment:
    """What this API takes, of the record number."""
    one = api.make((voice(1, seconds=2.0) if sound is None else sound,))
    one.manifest["form"]["values"]["record_number"] = NUMBER
    one.manifest["recordings"][0] |= change
    return one


def text_of(manifest: dict[str, Any], **instead: str) -> bytes:
    """A manifest as JSON, some of its values replaced by texts that Python would not write."""
    text = json.dumps(manifest)
    for name, value in instead.items():
        found = json.dumps(f"@{name}")
        assert found in text
        text = text.replace(found, value)
    return text.encode()


def assert_refused(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    """With one of these statuses, as problem details, to a program and to a person."""
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["detail"]
    assert problem["sentence"]["pt"]
    assert problem["sentence"]["en"]
    assert NUMBER not in answer.text + str(answer.headers)
    return problem


def assert_each_refused(answered: bytes, *statuses: int) -> None:
    """Every answer on a connection is one of these; the last may be cut off."""
    heads = [part.split(b"\r\n\r\n")[0] for part in answered.split(b"HTTP/1.1 ")[1:]]
    assert heads, answered
    for head in heads:
        assert int(head[:3]) in statuses, head
        assert int(head[:3]) < 300 or b"application/problem+json" in head, head


# ---- manifests


def replaced(where: str, value: Any) -> Callable[[dict[str, Any]], bytes]:
    """A manifest with another value at a place (`recordings.0.id`); `@x` is a raw text."""

    def change(manifest: dict[str, Any]) -> bytes:
        *path, last = where.split(".")
        place: Any = manifest
        for name in path:
            place = place[int(name)] if isinstance(place, list) else place[name]
        raw = isinstance(value, str) and value.startswith("@")
        place[int(last) if isinstance(place, list) else last] = "@raw" if raw else value
        return text_of(manifest, **({"raw": value[1:]} if raw else {}))

    return change


def whole(text: bytes) -> Callable[[dict[str, Any]], bytes]:
    """Something else instead."""
    return lambda _: text


def recoded(encoding: str, errors: str = "strict") -> Callable[[dict[str, Any]], bytes]:
    """A manifest in another encoding."""
    return lambda manifest: json.dumps(manifest).encode(encoding, errors)


def twice(manifest: dict[str, Any]) -> bytes:
    """A manifest whose second recording has the first one's id."""
    manifest["recordings"] *= 2
    return text_of(manifest)


def padded(n_bytes: int) -> Callable[[dict[str, Any]], bytes]:
    """A manifest of exactly so many bytes."""

    def change(manifest: dict[str, Any]) -> bytes:
        text = text_of(manifest)
        return text + b" " * (n_bytes - len(text))

    return change


FIRST = "recordings.0."
SURROGATE = '@"\\ud800"'
NO_MANIFEST: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "nothing": whole(b""),
    "null": whole(b"null"),
    "a list": whole(b"[]"),
    "a number": whole(b"1"),
    "half": lambda manifest: text_of(manifest)[:100],
    "10,000 brackets": whole(b"[" * 10_000),
    "10,000 objects": whole(b'{"form":' * 10_000),
    "10,000 brackets in a field": replaced("form.values.age", "@" + "[" * 10_000 + "]" * 10_000),
    "256 kB and 1": padded((256 << 10) + 1),
    "no UTF-8": lambda manifest: text_of(manifest).replace(b"pt-BR", b"pt\xff\xfeBR"),
    "overlong UTF-8": lambda manifest: text_of(manifest).replace(b"pt-BR", b"\xc0\xaf"),
    "a surrogate in UTF-8": lambda manifest: text_of(manifest).replace(b"pt-BR", b"\xed\xa0\x80"),
    "a byte order mark": recoded("utf-8-sig"),
    "UTF-16": recoded("utf-16"),
    "UTF-32": recoded("utf-32-le"),
    "a key twice": lambda manifest: b'{"revision": 7, ' + text_of(manifest)[1:],
    "revision 1e400": replaced("revision", "@1e400"),
    "revision NaN": replaced("revision", "@NaN"),
    "revision 2**63": replaced("revision", 2**63),
    "revision of 5,000 digits": replaced("revision", "@" + "9" * 5000),
    "revision 0": replaced("revision", 0),
    "revision 1.5": replaced("revision", 1.5),
    "replaces no id": replaced("replaces", "../1"),
    "form id with a new line": replaced("form.id", "assessment\n"),
    "form of nobody": replaced("form.id", "diary"),
    "form of another version": replaced("form.version", 9),
    "form version 2**70": replaced("form.version", 2**70),
    "form values a list": replaced("form.values", []),
    "a lone surrogate": replaced("form.values.record_number", SURROGATE),
    "a lone surrogate as a name": replaced("form.values", '@{"\\udfff": 1}'),
    "a lone surrogate in a device": replaced(FIRST + "capture.device", SURROGATE),
    "the record number in a wrong place": replaced("record_number", NUMBER),
    "the record number as an id": replaced(FIRST + "id", NUMBER),
    "no recordings": replaced("recordings", []),
    "17 recordings": replaced("recordings", [{}] * 17),
    "one recording twice": twice,
    "id in upper case": replaced(FIRST + "id", str(uuid_utils.uuid7()).upper()),
    "id in braces": replaced(FIRST + "id", "{" + str(uuid_utils.uuid7()) + "}"),
    "id with a new line": replaced(FIRST + "id", f"{uuid_utils.uuid7()}\n"),
    "id a UUIDv4": replaced(FIRST + "id", str(uuid_utils.uuid4())),
    "year 0": replaced(FIRST + "recorded_at", "0000-01-01T00:00:00Z"),
    "year 1": replaced(FIRST + "recorded_at", "0001-01-01T00:00:00+14:00"),
    "year 1969": replaced(FIRST + "recorded_at", "1969-12-31T20:59:59-03:00"),
    "the end of time": replaced(FIRST + "recorded_at", "9999-12-31T23:59:59-12:00"),
    "year 10000": replaced(FIRST + "recorded_at", "10000-01-01T00:00:00Z"),
    "30 February": replaced(FIRST + "recorded_at", "2026-02-30T00:00:00Z"),
    "no zone": replaced(FIRST + "recorded_at", "2026-02-20T00:00:00"),
    "a time of 1e400": replaced(FIRST + "recorded_at", "@1e400"),
    "no length": replaced(FIRST + "n_bytes", 0),
    "length -1": replaced(FIRST + "n_bytes", -1),
    "2 GB": replaced(FIRST + "n_bytes", 1 << 31),
    "length 2**63": replaced(FIRST + "n_bytes", 2**63),
    "duration 0": replaced(FIRST + "duration_s", 0),
    "duration -1": replaced(FIRST + "duration_s", -1),
    "duration NaN": replaced(FIRST + "duration_s", "@NaN"),
    "duration 1e400": replaced(FIRST + "duration_s", "@1e400"),
    "ten hours": replaced(FIRST + "duration_s", 36_000),
    "digest in upper case": replaced(FIRST + "sha256", "AB" * 32),
    "digest too short": replaced(FIRST + "sha256", "ab" * 31),
    "another utterance": replaced(FIRST + "utterance", "song"),
    "a device of 201 characters": replaced(FIRST + "capture.device", "x" * 201),
    "rate 0": replaced(FIRST + "capture.rate_hz", 0),
}


@pytest.mark.parametrize("case", NO_MANIFEST)
def test_what_is_no_manifest_is_refused(api: Api, case: str) -> None:
    """With every place where it is wrong, and without what stands there."""
    one = made(api)
    headers = {"Spira-Device-Secret": one.secret}
    content = NO_MANIFEST[case](one.manifest)

    answer = api.http("PUT", f"{api.submissions}/{one.id}", content=content, headers=headers)

    assert_refused(answer, 413 if case.startswith("256 kB") else 400)


def test_what_replaces_itself_is_refused(api: Api) -> None:
    """By its place."""
    one = made(api)
    one.manifest["replaces"] = one.id

    assert assert_refused(api.put(one), 400)["places"][0]["where"] == "replaces"


ODD_BUT_KEPT: dict[str, tuple[Callable[[dict[str, Any]], bytes], dict[str, str]]] = {
    "exactly 256 kB": (padded(256 << 10), {}),
    "a duration of 1e-9 s": (replaced(FIRST + "duration_s", 1e-9), {}),
    "2 GB but 1": (replaced(FIRST + "n_bytes", (1 << 31) - 1), {}),
    "NUL in a device": (replaced(FIRST + "capture.device", "a\0b"), {}),
    "recorded at the epoch": (replaced(FIRST + "recorded_at", "1970-01-01T00:00:00Z"), {}),
    "recorded in 2199": (replaced(FIRST + "recorded_at", "2199-12-31T11:59:59-12:00"), {}),
    "age 1e400": (replaced("form.values.age", "@1e400"), {"age": "not_finite"}),
    "age NaN": (replaced("form.values.age", "@NaN"), {"age": "not_finite"}),
    "age of 4,000 digits": (replaced("form.values.age", "@" + "9" * 4000), {"age": "not_finite"}),
    "age a list in a list": (replaced("form.values.age", [[[]]]), {"age": "wrong_type"}),
    "NUL in a number": (
        replaced("form.values.record_number", f"{NUMBER}\0"),
        {"record_number": "unusable_text"},
    ),
    "a number of emoji": (
        replaced("form.values.record_number", "😀🫁"),
        {"record_number": "unusable_text"},
    ),
    "a number of points": (
        replaced("form.values.record_number", "-./·"),
        {"record_number": "unusable_text"},
    ),
    "a number of 33 characters": (
        replaced("form.values.record_number", NUMBER * 3),
        {"record_number": "too_long"},
    ),
    "a number that is a number": (
        replaced("form.values.record_number", int(NUMBER)),
        {"record_number": "wrong_type"},
    ),
}


@pytest.mark.parametrize("case", ODD_BUT_KEPT)
def test_what_is_odd_in_a_manifest_loses_nothing(api: Api, case: str) -> None:
    """It is announced; what cannot be used of its form is named, and can be corrected."""
    one = made(api)
    change, refused = ODD_BUT_KEPT[case]
    headers = {"Spira-Device-Secret": one.secret}

    answer = api.http(
        "PUT", f"{api.submissions}/{one.id}", content=change(one.manifest), headers=headers
    )

    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "incomplete"
    assert {field["name"]: field["reason"] for field in answer.json()["fields"]} == refused
    assert NUMBER not in answer.text


def test_an_id_of_a_recording_may_be_in_two_submissions(api: Api) -> None:
    """Of a cloned phone; each has its own bytes."""
    one, other = made(api), made(api)
    other.manifest["recordings"] = one.manifest["recordings"]

    urls = {api.put(each).json()["recordings"][0]["upload_url"] for each in (one, other)}

    assert len(urls) == 2
    assert api.sent(one) != api.sent(other)


ACT = {Api: "void", Collection: "form"}
LISTS = {
    Api: ["/v1/assessments?limit=200"],
    Collection: ["/v1/collection/studies/spira/today", "/v1/collection/studies"],
}


@pytest.mark.parametrize(
    ("recorded_at", "device_time"),
    [
        ("1970-01-01T00:00:00Z", "2199-12-31T23:59:59Z"),
        ("2199-12-31T23:59:59Z", "1970-01-01T00:00:00Z"),
    ],
)
def test_clocks_that_are_wrong_by_centuries_lose_nothing(
    api: Api, recorded_at: str, device_time: str
) -> None:
    """It is accepted, and can be asked about."""
    one = made(api, recorded_at=recorded_at)
    api.upload(one)

    receipt = api.put(one, **{"Spira-Device-Time": device_time}).json()

    assert receipt["state"] == "accepted"
    assert api.http("GET", f"{api.submissions}/{one.id}").status_code == 200
    for path in LISTS[type(api)]:
        assert api.http("GET", path).status_code == 200


@pytest.mark.parametrize(
    "id", ["{}", UNKNOWN.upper(), f"{{{UNKNOWN}}}", "e7ad1345-9888-4056-b313-35cc86ea2b4d"]
)
def test_an_address_without_an_id_of_ours_is_refused(api: Api, id: str) -> None:
    """Whatever is asked there."""
    headers = {"Spira-Device-Secret": made(api).secret}
    for method, path in (("PUT", ""), ("GET", ""), ("POST", f"/{ACT[type(api)]}")):
        answer = api.http(method, f"{api.submissions}/{id}{path}", json={}, headers=headers)

        assert_refused(answer, 400)


# ---- headers, parameters, other bodies

SECRET = base64.urlsafe_b64encode(bytes(range(200, 232))).decode()
WRONG_HEADERS: dict[str, tuple[str, str | bytes]] = {
    "secret empty": ("Spira-Device-Secret", ""),
    "secret too short": ("Spira-Device-Secret", SECRET[:-2]),
    "secret too long": ("Spira-Device-Secret", SECRET + "AAAA"),
    "secret not base64": ("Spira-Device-Secret", "!" * 43),
    "secret with a blank": ("Spira-Device-Secret", SECRET[:20] + " " + SECRET[20:]),
    "secret in plain base64": ("Spira-Device-Secret", "+" + SECRET[1:]),
    "secret not ASCII": ("Spira-Device-Secret", "é".encode() * 43),
    "time of words": ("Spira-Device-Time", "yesterday"),
    "time without zone": ("Spira-Device-Time", "2026-03-01T12:00:00"),
    "time in year 1": ("Spira-Device-Time", "0001-01-01T00:00:00+14:00"),
    "time in year 9999": ("Spira-Device-Time", "9999-12-31T23:59:59-12:00"),
    "time in year 10000": ("Spira-Device-Time", "10000-01-01T00:00:00Z"),
    "time in other digits": ("Spira-Device-Time", "２０２６-03-01T12:00:00Z".encode()),
    "time NaN": ("Spira-Device-Time", "NaN"),
    "time 1e400": ("Spira-Device-Time", "1e400"),
}


@pytest.mark.parametrize("case", WRONG_HEADERS)
def test_a_wrong_header_of_a_device_is_refused(api: Api, case: str) -> None:
    """Before anything is kept."""
    one = made(api)
    name, value = WRONG_HEADERS[case]
    sent: dict[str, Any] = {"Spira-Device-Secret": one.secret, name: value}

    answer = api.http("PUT", f"{api.submissions}/{one.id}", json=one.manifest, headers=sent)

    assert_refused(answer, 400)


POSTS = {
    Api: ["/v1/assessments/search", f"/v1/assessments/{UNKNOWN}/void"],
    Collection: [
        f"/v1/collection/visits/{UNKNOWN}/form",
        f"/v1/collection/participants/{UNKNOWN}/withdraw",
        "/v1/collection/labels",
    ],
}
NO_BODY: dict[str, bytes] = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "a text": b'"31415926535"',
    "half": b'{"study": "sp',
    "50,000 brackets": b'{"reason": ' + b"[" * 50_000,
    "50,000 objects": b'{"reason":' * 50_000,
    "a number of 5,000 digits": b'{"value": ' + b"9" * 5000 + b"}",
    "NaN": b'{"value": NaN}',
    "no UTF-8": b'{"reason": "\xff\xfe"}',
    "overlong UTF-8": b'{"reason": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"reason": "\xed\xa0\x80"}',
    "a lone surrogate": b'{"reason": "\\ud800", "study": "\\udfff"}',
    "UTF-16": '{"reason": "x", "study": "spira"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"reason": "x", "study": "spira"}',
    "a key twice": b'{"reason": "x", "reason": "y", "study": "spira"}',
    "what nobody asked for": b'{"reason": "x", "study": "spira", "number": "31415926535"}',
    "too much": b'{"reason": "' + b"x" * 300_000 + b'"}',
}


@pytest.mark.parametrize("case", NO_BODY)
def test_a_body_that_is_none_is_refused_wherever_one_is_read(api: Api, case: str) -> None:
    """And nothing of it is repeated, or kept."""
    for path in POSTS[type(api)]:
        answer = api.http("POST", path, content=NO_BODY[case], headers=clock())

        assert_refused(answer, 413 if case in ("too much", "50,000 objects") else 400)


@pytest.mark.parametrize(
    "shown",
    [
        "",
        "Bearer",
        "Bearer wrong",
        "Basic d2FyZDpwYXNz",
        f"Bearer {'x' * 8000}",
        "Bearer é".encode(),
        b"Bearer \xf0\x9f\xab\x81",
        "Token {token}",
        "Bearer {token}x",
        "Bearer Bearer {token}",
    ],
)
def test_without_a_token_nothing_is_told(api: Api, shown: str | bytes) -> None:
    """Anywhere that tells of a site."""
    value = shown if isinstance(shown, bytes) else shown.replace("{token}", api.token)
    posts = [("POST", path) for path in POSTS[type(api)]]
    for method, path in (
        *posts,
        *(("GET", path) for path in LISTS[type(api)]),
        ("GET", f"{api.submissions}/{UNKNOWN}"),
        ("PATCH", f"/v1/uploads/{'a' * 40}"),
    ):
        headers: dict[Any, Any] = {**TUS, "Authorization": value}
        answer = httpx.request(method, api.address + path, headers=headers, json={}, verify=False)

        assert_refused(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"


@CLIENT
@pytest.mark.parametrize(
    "query",
    [
        "after=-1",
        f"after={2**63}",
        f"after={'9' * 5000}",
        "after=abc",
        "after=",
        "after=1.5",
        "after=%00",
        "after=%ff",
        "after=NaN",
        "limit=0",
        "limit=-1",
        "limit=201",
        "limit=1000",
        "limit=abc",
        "limit=1e400",
    ],
)
def test_a_wrong_parameter_is_refused(api: Api, query: str) -> None:
    """With its name."""
    problem = assert_refused(api.http("GET", f"/v1/assessments?{query}"), 400)

    assert query.partition("=")[0] in problem["detail"]


@CLIENT
def test_a_cursor_of_another_site_tells_nothing_of_it(
    api: Api, accepted: Assessment, elsewhere: str
) -> None:
    """Neither what is before it nor what is after."""
    mine = api.http("GET", "/v1/assessments").json()
    other = {"Authorization": f"Bearer {elsewhere}"}

    for after in (0, mine["next"], mine["next"] - 1, 2**62):
        told = api.http("GET", f"/v1/assessments?after={after}", headers=other).json()

        assert told == {"assessments": [], "next": after}
    assert [one["id"] for one in mine["assessments"]].count(accepted.id) == 1


@CLIENT
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"null",
        b'{"record_number": ""}',
        b'{"record_number": "\\u0000"}',
        b'{"record_number": "\\ud800"}',
        b'{"record_number": "---"}',
        '{"record_number": "😀"}'.encode(),
        b'{"record_number": ["1"]}',
        b'{"record_number": 31415926535}',
        b'{"record_number": "1", "site": "elsewhere"}',
        b'{"record_number": "' + b"1" * 100_000 + b'"}',
        b'{"record_number": "' + b"1" * 300_000 + b'"}',
        b'{"record_number": ' + b"[" * 50_000,
    ],
)
def test_a_search_for_no_number_is_refused(api: Api, body: bytes) -> None:
    """And is not audited."""
    answer = api.http("POST", "/v1/assessments/search", content=body)

    assert_refused(answer, 413 if len(body) > 256 << 10 else 400)


@CLIENT
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{}", "Falta o motivo."),
        (b'{"reason": ""}', "Falta o motivo."),
        (b'{"reason": " \\n "}', "Falta o motivo."),
        (b"", "Envio com dados inválidos."),
        (b'{"reason": 7}', "Envio com dados inválidos."),
        (b'{"reason": "' + b"x" * 501 + b'"}', "Envio com dados inválidos."),
        (b'{"reason": "a\\u0000b"}', "Envio com dados inválidos."),
        (b'{"reason": "a\\tb"}', "Envio com dados inválidos."),
        (b'{"reason": "a\\u009bb"}', "Envio com dados inválidos."),
        (b'{"reason": "\\ud800"}', "Envio com dados inválidos."),
        (b'{"reason": "wrong", "by": "me"}', "Envio com dados inválidos."),
    ],
)
def test_a_void_without_a_reason_that_can_be_kept_is_refused(
    api: Api, accepted: Assessment, body: bytes, sentence: str
) -> None:
    """And voids nothing."""
    answer = api.http("POST", f"/v1/assessments/{accepted.id}/void", content=body)

    assert assert_refused(answer, 400)["sentence"]["pt"].startswith(sentence)
    assert api.http("GET", f"/v1/assessments/{accepted.id}").json()["voided"] is None


@CLIENT
def test_nobody_voids_what_is_not_of_the_site(
    api: Api, accepted: Assessment, elsewhere: str
) -> None:
    """Nor what is not there."""
    for id, token in ((accepted.id, elsewhere), (UNKNOWN, api.token)):
        headers = {"Authorization": f"Bearer {token}"}
        path = f"/v1/assessments/{id}/void"

        assert_refused(api.http("POST", path, json={"reason": "x"}, headers=headers), 404)


# ---- visits


def visit_with(**change: Any) -> Callable[[dict[str, Any]], bytes]:
    """A manifest of which the visit says something else."""

    def changed(manifest: dict[str, Any]) -> bytes:
        manifest["visit"] |= change
        raw = {name: value[1:] for name, value in change.items() if str(value).startswith("@")}
        manifest["visit"] |= {name: f"@{name}" for name in raw}
        return text_of(manifest, **raw)

    return changed


NO_VISIT: dict[str, tuple[Callable[[dict[str, Any]], bytes], int, str]] = {
    "no visit": (replaced("visit", None), 400, "bad_manifest"),
    "a list": (replaced("visit", []), 400, "bad_manifest"),
    "another study": (visit_with(study="nobody"), 404, "unknown_study"),
    "the record number as a study": (visit_with(study=NUMBER), 404, "unknown_study"),
    "a study with NUL": (visit_with(study="spira\0"), 400, "bad_manifest"),
    "a study of a surrogate": (visit_with(study=SURROGATE), 400, "bad_manifest"),
    "a study of two lines": (visit_with(study="spira\n"), 400, "bad_manifest"),
    "version 9": (visit_with(study_version=9), 404, "unknown_study"),
    "version 2**70": (visit_with(study_version=2**70), 400, "bad_manifest"),
    "version 1e400": (visit_with(study_version="@1e400"), 400, "bad_manifest"),
    "version of 5,000 digits": (visit_with(study_version="@" + "9" * 5000), 400, "bad_manifest"),
    "the record number as a participant": (visit_with(participant=NUMBER), 400, "bad_manifest"),
    "a participant in upper case": (
        visit_with(participant=UNKNOWN.upper()),
        400,
        "bad_manifest",
    ),
    "a participant of two lines": (visit_with(participant=f"{UNKNOWN}\n"), 400, "bad_manifest"),
    "synthetic by a word": (visit_with(synthetic="yes"), 400, "bad_manifest"),
    "synthetic by a number": (visit_with(synthetic=1), 400, "bad_manifest"),
    "of a person, without an approval": (visit_with(synthetic=False), 403, "not_approved"),
}


@COLLECTION
@pytest.mark.parametrize("case", NO_VISIT)
def test_what_is_no_visit_is_refused(api: Api, case: str) -> None:
    """By its code; and no such visit is there."""
    one = made(api)
    change, status, code = NO_VISIT[case]
    headers = {"Spira-Device-Secret": one.secret}

    answer = api.http(
        "PUT", f"{api.submissions}/{one.id}", content=change(one.manifest), headers=headers
    )

    assert assert_refused(answer, status)["code"] == code
    assert_refused(api.http("GET", f"{api.submissions}/{one.id}"), 404)


@COLLECTION
def test_a_visit_has_up_to_sixteen_recordings_of_any_kind(api: Api) -> None:
    """Two spoken consents too: the first may be one that nobody understands."""
    utterances = ["consent"] * 2 + ["sentence"] * 14
    sounds = [voice(number, seconds=1.0) for number in range(16)]
    one = api.make(tuple(sounds))
    for recording, utterance in zip(one.manifest["recordings"], utterances, strict=True):
        recording["utterance"] = utterance

    api.sent(one)

    told = api.http("GET", f"{api.submissions}/{one.id}").json()
    assert sorted(each["utterance"] for each in told["recordings"]) == utterances
    more = api.make((*sounds, voice(16)))
    assert assert_refused(api.put(more), 400)["places"][0]["where"] == "recordings"


@COLLECTION
def test_a_participant_of_another_study_is_another_one(api: Api) -> None:
    """Withdrawing from one study says nothing of the other."""
    file = api.home / "other.yaml"
    file.write_text(default_study().replace("id: spira\n", "id: other\n", 1), encoding="utf-8")
    assert api.spira("study", "apply", str(file)).returncode == 0
    one, other = made(api), made(api)
    other.manifest["visit"] = one.manifest["visit"] | {"study": "other"}
    participant = one.manifest["visit"]["participant"]
    for each in (one, other):
        each.manifest["form"]["values"]["record_number"] = f"{NUMBER}-7"
        api.sent(each)

    path = f"/v1/collection/participants/{participant}/withdraw"
    withdrawn = api.http("POST", path, json={"study": "spira", "reason": "asked to"})

    assert withdrawn.json() == {"participants": [participant]}
    assert assert_refused(api.put(one), 410)["erase"] is True
    assert api.put(other).json()["state"] == "accepted"


SAID = {
    "id": UNKNOWN,
    "study": "spira",
    "participant": "01938f00-0000-7000-8000-00000000000a",
    "at": "2026-03-01T12:00:00Z",
    "kind": "spo2",
    "value": 88,
}


@COLLECTION
@pytest.mark.parametrize(
    ("where", "raw"),
    [
        ("id", f'"{NUMBER}"'),
        ("study", '"spira\\u0000"'),
        ("participant", f'"{NUMBER}"'),
        ("at", '"9999-12-31T23:59:59-12:00"'),
        ("at", '"0001-01-01T00:00:00+14:00"'),
        ("at", '"10000-01-01T00:00:00Z"'),
        ("at", '"2026-03-01T12:00:00"'),
        ("at", "1e400"),
        ("kind", '"mood"'),
        ("value", '"88"'),
        ("value", "true"),
        ("value", "1e400"),
        ("value", "NaN"),
        ("value", "0.93"),
        ("value", "-88"),
        ("value", "[[[88]]]"),
        ("breathing", '"helium"'),
        ("method", '"thumb"'),
        ("code", '"J96.01"'),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_label_that_cannot_be_is_refused(api: Api, where: str, raw: str) -> None:
    """By its place, or that of its kind; the same participant's next word is taken."""
    body = json.dumps(SAID | {where: "@"}).replace('"@"', raw)

    answer = api.http("POST", "/v1/collection/labels", content=body, headers=clock())
    refused = assert_refused(answer, 400)

    assert refused["places"][0]["where"].split(".")[0] in (where, "kind")


@COLLECTION
def test_a_label_of_nobody_who_came_is_kept_and_says_so(api: Api) -> None:
    """They may come later: a phone was offline."""
    told = api.http("POST", "/v1/collection/labels", json=SAID, headers=clock()).json()

    assert (told["added"], told["known"]) == (True, False)
    assert told["sentence"]["pt"].startswith("Guardado.")


@COLLECTION
@pytest.mark.parametrize("study", ["%00", "%ff", "SPIRA", "a" * 33, "..", "spira%0a", NUMBER])
def test_a_study_of_an_address_that_is_none_is_refused(api: Api, study: str) -> None:
    """Without its name."""
    for what in ("today", "balance"):
        token = {"Authorization": f"Bearer {api.make_token(role='lead')}"}
        answer = api.http("GET", f"/v1/collection/studies/{study}/{what}", headers=token)

        assert_refused(answer, 400, 404)


# ---- addresses and methods


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", f"/{UNKNOWN}"),
        ("POST", f"/{UNKNOWN}"),
        ("PATCH", f"/{UNKNOWN}"),
        ("GET", f"/{UNKNOWN}/@"),
        ("PUT", "/v1/keys"),
        ("GET", f"/v1/uploads/{'a' * 40}"),
        ("DELETE", f"/v1/uploads/{'a' * 40}"),
        ("POST", f"/v1/uploads/{'a' * 40}"),
        ("TRACE", "/healthz"),
        ("SPIRA", "/healthz"),
    ],
)
def test_another_method_is_not_allowed(api: Api, method: str, path: str) -> None:
    """The header says which are."""
    below = api.submissions if path.startswith(f"/{UNKNOWN}") else ""

    answer = api.http(method, below + path.replace("@", ACT[type(api)]), headers=TUS)

    assert_refused(answer, 405)
    assert answer.headers["allow"]


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"//",
        b"//v1//@",
        b"@/",
        b"/v1/uploads/",
        b"@/..",
        b"@/../../etc/passwd",
        b"@/%2e%2e%2f%2e%2e%2fspira.db",
        b"@/%00",
        b"@/%ff%fe",
        b"@/%",
        b"@/%zz",
        b"@/" + b"a" * 8000,
        b"@/31415926535",
        b"/v1/uploads/..",
        b"/v1/uploads/%00",
        b"/v1/uploads/%2e%2e%2f%2e%2e",
        b"/v1/uploads/%ed%a0%80",
        b"/v1/uploads/" + b"a" * 8000,
        b"/v1/uploads/" + b"A" * 40,
        b"*",
        b"http://elsewhere.test@/x",
    ],
)
def test_an_address_that_is_none_is_refused(api: Api, path: bytes) -> None:
    """No file, no redirection, no defect."""
    path = path.replace(b"@", api.submissions.encode())
    head = b"GET" if b"uploads" not in path else b"HEAD"
    token = api.token.encode()

    answered = raw(
        api,
        head + b" " + path + b" HTTP/1.1\r\nHost: api.test\r\nTus-Resumable: 1.0.0\r\n"
        b"Authorization: Bearer " + token + b"\r\nConnection: close\r\n\r\n",
    )

    assert_each_refused(answered, 400, 404, 405)
    assert b"location:" not in answered.lower()
    assert NUMBER.encode() not in answered


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n\r\n",
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS, to a port without it
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET /healthz\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nbad header: y\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"PUT /v1/keys HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"PUT /v1/keys HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"PUT /v1/keys HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"PUT /v1/keys HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\nab",
        b"PUT /v1/keys HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\nab",
        b"PUT /v1/keys HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PUT /v1/keys HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    ],
)
def test_what_is_no_request_is_refused(api: Api, request_: bytes) -> None:
    """Or the connection ends; the next one is served."""
    answered = raw(api, request_, ends=True)

    assert answered == b"" or b"HTTP/1.1 4" in answered.split(b"\r\n")[0]
    assert b"text/plain" not in answered
    assert api.http("GET", "/healthz").status_code == 200


# ---- uploads


@dataclass
class Upload:
    """An upload of 1000 bytes, of which none is here."""

    url: str
    one: Assessment


@pytest.fixture
def upload(api: Api) -> Upload:
    """A new one."""
    one = made(api, voice(1, seconds=2.0), n_bytes=1000)
    (needed,) = api.put(one).json()["recordings"]
    return Upload(needed["upload_url"], one)


def offset(api: Api, upload: Upload) -> int:
    """How much is here."""
    answer = api.http("HEAD", upload.url, headers=TUS)
    assert answer.status_code == 200
    return int(answer.headers["upload-offset"])


WRONG_PATCHES: dict[str, tuple[dict[str, Any], int, int]] = {
    "no version": ({"Tus-Resumable": ""}, 10, 412),
    "version 0.2": ({"Tus-Resumable": "0.2.0"}, 10, 412),
    "no type": ({"Content-Type": ""}, 10, 415),
    "JSON": ({"Content-Type": "application/json"}, 10, 415),
    "no offset": ({"Upload-Offset": ""}, 10, 400),
    "offset -1": ({"Upload-Offset": "-1"}, 10, 400),
    "offset +0": ({"Upload-Offset": "+0"}, 10, 400),
    "offset 0.0": ({"Upload-Offset": "0.0"}, 10, 400),
    "offset 0x0": ({"Upload-Offset": "0x0"}, 10, 400),
    "offset of 5,000 digits": ({"Upload-Offset": "9" * 5000}, 10, 400),
    "offset in Arabic digits": ({"Upload-Offset": "٠".encode()}, 10, 400),
    "offset in superscript": ({"Upload-Offset": "²".encode("latin-1")}, 10, 400),
    "offset twice": ({"Upload-Offset": "0, 0"}, 10, 400),
    "offset ahead": ({"Upload-Offset": "500"}, 10, 409),
    "offset at the end": ({"Upload-Offset": "1000"}, 10, 409),
    "offset beyond the end": ({"Upload-Offset": "1001"}, 10, 409),
    "longer than announced": ({}, 1001, 413),
    "much longer than announced": ({}, 1 << 20, 413),
}


@pytest.mark.parametrize("case", WRONG_PATCHES)
def test_a_patch_that_is_not_right_adds_nothing(api: Api, upload: Upload, case: str) -> None:
    """And says why, with the headers of tus."""
    headers, n_bytes, status = WRONG_PATCHES[case]

    answer = api.http("PATCH", upload.url, content=bytes(n_bytes), headers=TUS | headers)

    assert_refused(answer, status)
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert offset(api, upload) == 0


def test_an_upload_that_is_not_ours_is_unknown(
    api: Api, upload: Upload, accepted: Assessment, elsewhere: str
) -> None:
    """Of another site, of a submission that has its receipt, of nobody."""
    one = made(api)
    api.upload(one)
    used = api.put(made(api)).json()["recordings"][0]["upload_url"]
    done = [upload.url, "/v1/uploads/" + "a" * 40, "/v1/uploads/" + accepted.id, used + "0"]
    tokens = [elsewhere, api.token, api.token, api.token]

    for url, token in zip(done, tokens, strict=True):
        headers = TUS | {"Authorization": f"Bearer {token}"}

        assert api.http("HEAD", url, headers=headers).status_code == 404
        assert_refused(api.http("PATCH", url, content=b"x", headers=headers), 404)
    assert offset(api, upload) == 0


def test_an_upload_of_what_was_accepted_takes_nothing_more(api: Api) -> None:
    """It is unknown."""
    one = made(api)
    url = api.put(one).json()["recordings"][0]["upload_url"]
    api.sent(one)

    assert_refused(api.patch(url, 0, b"x"), 404)
    assert_refused(api.patch(url, len(one.sounds[0]), b"x"), 404)


def test_nothing_of_what_was_announced_as_a_byte_leaves_it_needed(api: Api) -> None:
    """An empty PATCH is taken, and adds nothing."""
    one = made(api, n_bytes=1)
    (needed,) = api.put(one).json()["recordings"]

    answer = api.patch(needed["upload_url"], 0, b"")

    assert (answer.status_code, answer.headers["upload-offset"]) == (204, "0")
    assert api.put(one).json()["recordings"][0] == needed


def test_a_body_in_chunks_and_without_a_length_is_taken(api: Api, upload: Upload) -> None:
    """Piece by piece."""
    chunks = iter([b"a" * 300, b"b", b"c" * 99])

    answer = api.http("PATCH", upload.url, content=chunks, headers=TUS)

    assert (answer.status_code, answer.headers["upload-offset"]) == (204, "400")
    assert offset(api, upload) == 400


def head_of(api: Api, upload: Upload, length: bytes) -> bytes:
    """The head of a PATCH, by hand."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in TUS.items())
    return (
        f"PATCH {upload.url} HTTP/1.1\r\nHost: x\r\n{lines}Authorization: Bearer {api.token}\r\n"
    ).encode() + (length + b"\r\n\r\n")


def test_a_length_that_lies_costs_nothing_but_the_lie(api: Api, upload: Upload) -> None:
    """What came of a longer one is kept; what follows a shorter one is no request."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as line:
        line.sendall(head_of(api, upload, b"Content-Length: 100") + b"x" * 60)
        wait_for(lambda: offset(api, upload) == 60, 10, "what came is kept")
    at_60 = head_of(api, upload, b"Content-Length: 10").replace(b"Offset: 0", b"Offset: 60")
    shorter = raw(api, at_60, b"y" * 40 + b"\r\n\r\n")

    assert_each_refused(shorter, 204, 400)
    assert offset(api, upload) == 70


def test_a_length_and_chunks_together_smuggle_nothing(api: Api, upload: Upload) -> None:
    """One of the two counts, or none; the rest is no request of somebody else."""
    both = head_of(api, upload, b"Content-Length: 5\r\nTransfer-Encoding: chunked")

    answered = raw(
        api, both, b"0\r\n\r\nGET /v1/keys HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )

    assert answered.count(b'"keys"') <= 1
    assert b"HTTP/1.1 5" not in answered
    assert offset(api, upload) == 0


# ---- sounds


def floats(seconds: float = 2.0) -> Any:
    """Somebody's voice, as samples at 48 kHz."""
    sound, rate = soundfile.read(io.BytesIO(voice(3, seconds)), dtype="float32")
    return np.repeat(sound, 48_000 // rate).astype(np.float32)


def not_a_number() -> bytes:
    """A wav file of floats with NaN among them."""
    sound = floats()
    sound[1000] = np.nan
    file = io.BytesIO()
    soundfile.write(file, sound, 48_000, format="WAV", subtype="FLOAT")
    return file.getvalue()


def webm() -> bytes:
    """As Chrome writes it."""
    return encode(floats(), "webm", "libopus", 48_000, piped=True, options=LIVE)


SOUNDS: dict[str, tuple[Callable[[], bytes], dict[str, Any], str]] = {
    "a byte": (lambda: b"x", {}, "refused not_audio"),
    "a zip called wav": (
        lambda: b"PK\x03\x04" + bytes(2000),
        {"capture": {"codec": "audio/wav"}},
        "refused not_audio",
    ),
    "a playlist": (lambda: b"#EXTM3U\n#EXTINF:2,\n/etc/passwd\n", {}, "refused not_audio"),
    "a list of files": (
        lambda: b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        {},
        "refused not_audio",
    ),
    "a page of HTML": (lambda: b"<!DOCTYPE html><html></html>", {}, "refused not_audio"),
    "an SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", {}, "refused not_audio"),
    "NaN": (not_a_number, {}, "refused not_finite"),
    "half a webm": (lambda: webm()[: len(webm()) // 2], {}, "refused truncated"),
    "another codec than announced": (webm, {"capture": {"codec": "audio/mp4"}}, "accepted"),
    "a duration of 1e-9 s": (webm, {"duration_s": 1e-9}, "refused wrong_duration"),
    "four hours": (webm, {"duration_s": 14_400}, "refused too_long"),
    "another digest": (webm, {"sha256": "0" * 64}, "needed 0"),
}


@pytest.mark.parametrize("case", SOUNDS)
def test_what_is_sent_as_a_sound_is_told_what_it_is(api: Api, case: str) -> None:
    """By name, to a program and to a person; the submission is kept."""
    make, change, expected = SOUNDS[case]
    sound = make()
    one = made(api)
    one.sounds = (sound,)
    digest = announced(voice(1)) | {"n_bytes": len(sound), "duration_s": 2.0}
    digest["sha256"] = hashlib.sha256(sound).hexdigest()
    one.manifest["recordings"] = [digest | change]
    api.upload(one)

    told = api.put(one).json()

    if told["state"] == "accepted":
        found = "accepted"
    else:
        (recording,) = told["recordings"]
        found = f"{recording['state']} {recording.get('reason', recording.get('offset'))}"
        assert recording["state"] != "refused" or recording["sentence"]["pt"]
    assert found == expected


# ---- connections


def test_requests_that_come_together_are_answered_in_order(api: Api) -> None:
    """On one connection, without waiting for an answer."""
    paths = (b"/healthz", b"/v1/keys", b"/nowhere", b"/v1/thresholds")
    requests = b"".join(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths)
    requests = requests[:-2] + b"Connection: close\r\n\r\n"

    answered = raw(api, requests)

    statuses = [part[:3] for part in answered.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"200", b"404", b"200"]
    assert answered.index(b'"well"') < answered.index(b'"keys"') < answered.index(b'"thresholds"')


def test_who_sends_a_byte_a_second_holds_nobody_up(api: Api, upload: Upload) -> None:
    """Hundreds of heads and bodies that do not end; everybody else is answered."""
    one = made(api)
    put = f"PUT {api.submissions}/{one.id} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
    of_device = f"Authorization: Bearer {api.token}\r\nSpira-Device-Secret: {one.secret}\r\n\r\n{{"
    beginnings = [b"GET /hea", b"", (put + of_device).encode()] * 80
    beginnings += [head_of(api, upload, b"Content-Length: 900") + b"x"]
    with ExitStack() as lines:
        slow = [
            lines.enter_context(socket.create_connection(("127.0.0.1", api.port), timeout=20))
            for _ in beginnings
        ]
        for line, beginning in zip(slow, beginnings, strict=True):
            line.sendall(beginning)

        began = time.monotonic()
        receipt = api.sent(made(api))
        took_s = time.monotonic() - began

        for line in slow[::3]:
            line.sendall(b"l")
    assert receipt
    assert took_s < 10
    wait_for(lambda: offset(api, upload) == 2, 10, "what came of the slow one is kept")
