"""The client library against an honest server in memory, over networks as bad as they come.

SPIRA_CLIENT_SEED replays a series; each test that draws prints the one it used.
"""

import hashlib
import inspect
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from dying_disk import Disk, Killed
from faulty_network import FaultyNetwork
from joserfc import jws
from joserfc.jwk import OKPKey
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from spira.device.line import Pace
from spira.domain.errors import InputError, IntegrityError, StorageFull, TransientError
from spira.domain.fingerprint import canonical_json
from spira.serving.client import Device, Recorded, Report

TOKEN = "the site's token"
NOW = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)
SWIFT = Pace(
    tries=4, first_pause_s=0.02, longest_pause_s=0.2, longest_retry_after_s=0.2, silence_s=1
)
SENTENCE = {"pt": "Uma frase.", "en": "A sentence."}


def a_seed() -> int:
    """Of whatever a test draws."""
    seed = int(os.environ.get("SPIRA_CLIENT_SEED", random.randrange(10_000)))
    print(f"SPIRA_CLIENT_SEED={seed}")
    return seed


def audio_of(number: int, utterance: str = "sentence") -> bytes:
    """Bytes that tell whose they are; of many lengths, the longest of several pieces."""
    rng = random.Random(f"{number}/{utterance}")
    return f"{number}/{utterance}/".encode() + rng.randbytes(rng.randrange(1, 200_000))


def recorded(number: int) -> list[Recorded]:
    """What is recorded in one assessment."""
    utterances = ("sentence", "vowel")[: 1 + number % 2]
    return [Recorded(each, audio_of(number, each), 2.5, NOW) for each in utterances]  # type: ignore[arg-type]


# --- an honest server -----------------------------------------------------------------------


@dataclass
class Held:
    """An assessment as the server has it."""

    secret: str
    manifest: dict[str, Any]
    files: dict[str, bytearray] = field(default_factory=dict)  # by recording
    receipt: str | None = None


def new_key(kid: str) -> OKPKey:
    """A key that signs receipts."""
    return OKPKey.generate_key("Ed25519", {"kid": kid, "use": "sig", "alg": "Ed25519"})


@dataclass
class Honest:
    """The protocol, in memory. What a test changes makes it refuse, wait or lie."""

    held: dict[str, Held] = field(default_factory=dict)
    keys: list[OKPKey] = field(default_factory=lambda: [new_key("receipts-1")])
    lie: Callable[[dict[str, Any]], None] = lambda payload: None  # about what is received
    typ: str = "spira-receipt+jws"
    token: str = TOKEN
    refuses: dict[str, str] = field(default_factory=dict)  # utterance -> reason
    answers_first: list[Response] = field(default_factory=list)
    wrong_bytes: int = 0  # uploads that are ruined on their way
    upload_url: str = "/v1/uploads/"
    device_times: list[str] = field(default_factory=list)
    asked_at: list[float] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def accepted(self) -> dict[str, Held]:
        """What holds a receipt."""
        return {id: one for id, one in self.held.items() if one.receipt is not None}

    def numbers(self) -> Counter[int]:
        """How many accepted assessments there are of each number."""
        return Counter(one.manifest["form"]["values"]["n"] for one in self.accepted.values())

    def assert_every_byte(self) -> None:
        """What was accepted is what was recorded."""
        for one in self.accepted.values():
            for file in one.manifest["recordings"]:
                number = one.manifest["form"]["values"]["n"]
                assert bytes(one.files[file["id"]]) == audio_of(number, file["utterance"])

    def app(self) -> Starlette:
        """Its application."""
        return Starlette(
            routes=[
                Route("/v1/assessments/{id}", self.put, methods=["PUT"]),
                Route("/v1/assessments", self.changes),
                Route("/v1/uploads/{id}/{recording}", self.patch, methods=["PATCH"]),
                Route("/v1/keys", self.published),
            ]
        )

    async def published(self, _: Request) -> Response:
        """The public keys."""
        return JSONResponse({"keys": [key.as_dict(private=False) for key in self.keys]})

    async def changes(self, request: Request) -> Response:
        """Pages of two, in the order in which they were accepted."""
        after = int(request.query_params["after"])
        page = list(self.accepted)[after : after + 2]
        found = [{"id": id, "state": "received"} for id in page]
        return JSONResponse({"assessments": found, "next": after + len(page)})

    async def put(self, request: Request) -> Response:
        """How an assessment stands."""
        body = await request.body()
        self.asked_at.append(time.monotonic())
        self.device_times.append(request.headers["Spira-Device-Time"])
        if request.headers["Authorization"] != f"Bearer {self.token}":
            return problem(401)
        if self.answers_first:
            return self.answers_first.pop(0)
        id, secret = request.path_params["id"], request.headers["Spira-Device-Secret"]
        manifest = json.loads(body)
        one = self.held.setdefault(id, Held(secret, manifest))
        if one.secret != secret:
            return problem(404, code="not_found")
        if one.manifest != manifest:
            if one.receipt or manifest["revision"] <= one.manifest["revision"]:
                return problem(409, code="conflict", differs=["form"])
            one.manifest = manifest
        if one.receipt is None:
            told = [self.stands(id, one, file) for file in manifest["recordings"]]
            values = manifest["form"]["values"]
            fields = [
                {"name": name, "reason": "wrong_type", "sentence": SENTENCE}
                for name in values
                if name == "wrong"
            ]
            if fields or any(each["state"] != "complete" for each in told):
                answer = {"state": "incomplete", "revision": manifest["revision"]}
                return JSONResponse(answer | {"recordings": told, "fields": fields})
            one.receipt = self.sign(id, manifest)
        return JSONResponse({"state": "accepted", "receipt": one.receipt})

    def stands(self, id: str, one: Held, file: dict[str, Any]) -> dict[str, Any]:
        """How a recording stands."""
        there = one.files.setdefault(file["id"], bytearray())
        if len(there) == file["n_bytes"]:
            if reason := self.refuses.get(file["utterance"]):
                about = {"reason": reason, "sentence": SENTENCE}
                return {"id": file["id"], "state": "refused"} | about
            if hashlib.sha256(there).hexdigest() == file["sha256"]:
                return {"id": file["id"], "state": "complete"}
            there = one.files[file["id"]] = bytearray()
        where = {"upload_url": f"{self.upload_url}{id}/{file['id']}", "offset": len(there)}
        return {"id": file["id"], "state": "needed", "n_bytes": file["n_bytes"]} | where

    def sign(self, id: str, manifest: dict[str, Any]) -> str:
        """A receipt."""
        names = ("id", "sha256", "n_bytes")
        payload = {
            "kind": "assessment",
            "id": id,
            "revision": manifest["revision"],
            "recordings": [
                {name: file[name] for name in names} | {"what": "taken"}
                for file in manifest["recordings"]
            ],
        }
        self.lie(payload)
        key = self.keys[-1]
        head = {"alg": "Ed25519", "kid": key.kid, "typ": self.typ}
        return jws.serialize_compact(head, canonical_json(payload), key, ["Ed25519"])

    async def patch(self, request: Request) -> Response:
        """Take bytes as they come, and keep what came of a request that breaks off."""
        tus = {"Tus-Resumable": "1.0.0"}
        one = self.held.get(request.path_params["id"])
        if one is None:
            return problem(404, tus)
        there = one.files[request.path_params["recording"]]
        at = int(request.headers["Upload-Offset"])
        try:
            async for piece in request.stream():
                if len(there) != at:
                    return problem(409, tus)
                there += piece
                at = len(there)
        except ClientDisconnect:
            pass
        if self.wrong_bytes and there:
            self.wrong_bytes -= 1
            there[0] ^= 1
        return Response(status_code=204, headers=tus | {"Upload-Offset": str(at)})


def problem(status: int, headers: dict[str, str] | None = None, **more: Any) -> Response:
    """An error of the API."""
    body = {"status": status, "detail": "a detail", "sentence": SENTENCE, **more}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


@contextmanager
def listening(server: Honest) -> Iterator[Honest]:
    """It listens on a port of its own."""
    config = uvicorn.Config(server.app(), port=0, log_level="critical", lifespan="off")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.01)
    server.port = running.servers[0].sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        running.force_exit = running.should_exit = True
        thread.join(30)


@pytest.fixture
def server() -> Iterator[Honest]:
    """An honest server."""
    with listening(Honest()) as one:
        yield one


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """A device."""
    with Device(tmp_path / "phone", pace=SWIFT) as one:
        yield one


def sync_until_complete(device: Device, url: str, within_s: float = 120) -> Report:
    """What a device does that finds a network now and then."""
    deadline = time.monotonic() + within_s
    while not (report := device.sync(url, TOKEN)).complete:
        assert time.monotonic() < deadline, report
    return report


# --- bad networks ---------------------------------------------------------------------------


def test_faulty_network_loses_and_doubles_nothing(server: Honest, tmp_path: Path) -> None:
    """Cut, delayed, doubled, silent, captive: in the end one receipt each, and every byte."""
    seed = a_seed()
    devices = [Device(tmp_path / f"phone-{number}", pace=SWIFT) for number in range(2)]
    for number in range(24):
        devices[number % 2].record({"n": number}, recorded(number))

    with FaultyNetwork(seed, server.port, rate=0.6, hang_s=1.5).running() as network:
        threads = [
            threading.Thread(target=sync_until_complete, args=(one, network.url)) for one in devices
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(dict(network.dealt))

    assert server.numbers() == Counter(range(24))
    server.assert_every_byte()
    for one in devices:
        assert all(one.receipt(id) == server.held[id].receipt for id in one.ids())
        one.close()


@pytest.mark.parametrize("fate", ["portal", "login", "other", "gateway", "truncate", "silent"])
def test_what_is_no_answer_of_ours_is_no_network(server: Honest, device: Device, fate: str) -> None:
    """A captive portal's pages and broken answers change nothing; everything is sent later."""
    ids = [device.record({"n": number}, recorded(number)) for number in range(3)]

    with FaultyNetwork(1, server.port, rate=1.0, fates=(fate,), hang_s=1.5).running() as network:
        report = device.sync(network.url, TOKEN)
        assert report.stopped == "no network"
        assert {one.state for one in report.outcomes} == {"waiting"}
        assert all(device.receipt(id) is None for id in ids)

        network.mode = "clean"
        assert device.sync(network.url, TOKEN).complete
    server.assert_every_byte()


@pytest.mark.parametrize(
    "answer",
    [
        JSONResponse({"state": "checking"}, media_type="text/html"),
        JSONResponse({"state": "checking"}, 201),
        JSONResponse({"state": "checking"}, 503),
        JSONResponse({"state": "fine"}),
        JSONResponse([]),
        Response(status_code=204),
        Response('{"state": "accep', media_type="application/json"),
        Response(b"\xff", media_type="application/json"),
        JSONResponse({"status": 409, "sentence": SENTENCE}, 409),
        JSONResponse({"status": 401}, 401),
    ],
)
def test_what_only_resembles_an_answer_is_none(
    server: Honest, device: Device, answer: Response
) -> None:
    """Another type, another status, another document: nothing is concluded from it."""
    id = device.record({"n": 0}, recorded(0))
    server.answers_first = [answer] * SWIFT.tries

    assert device.sync(server.url, TOKEN).stopped == "no network"

    assert device.get(id).id == id
    assert device.sync(server.url, TOKEN).complete


def test_no_server_at_all_ends_soon(device: Device, free_port: int) -> None:
    """Where nobody listens a sync ends and says so."""
    device.record({"n": 0}, recorded(0))

    assert device.sync(f"http://127.0.0.1:{free_port}", TOKEN).stopped == "no network"


def test_broken_tls_is_no_network(server: Honest, device: Device) -> None:
    """Where TLS does not come about, nothing is sent and nothing is lost."""
    device.record({"n": 0}, recorded(0))

    assert device.sync(f"https://127.0.0.1:{server.port}", TOKEN).stopped == "no network"
    assert server.held == {}


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_redirects_are_never_followed(server: Honest, device: Device) -> None:
    """Neither voice nor token goes where a redirect points."""
    device.record({"n": 0}, recorded(0))
    with listening(Honest()) as other:
        to = f"{other.url}/v1/assessments/{device.ids()[0]}"
        server.answers_first = [RedirectResponse(to, 307)] * 4

        report = device.sync(server.url, TOKEN)

        assert report.stopped == "no network"
        assert other.asked_at == []


def test_uploads_go_to_the_server_alone(server: Honest, device: Device) -> None:
    """An upload's address on another host is no answer of ours."""
    device.record({"n": 0}, recorded(0))
    with listening(Honest()) as other:
        server.upload_url = f"{other.url}/v1/uploads/"

        assert device.sync(server.url, TOKEN).stopped == "no network"


@pytest.mark.parametrize("status", [503, 429])
def test_retry_after_is_honoured_up_to_a_limit(server: Honest, device: Device, status: int) -> None:
    """A busy server is left alone as long as it asks for, and not for hours."""
    device.record({"n": 0}, recorded(0))
    server.answers_first = [problem(status, {"Retry-After": "3600"})]
    began = time.monotonic()

    assert device.sync(server.url, TOKEN).complete

    assert server.asked_at[1] - server.asked_at[0] >= SWIFT.longest_retry_after_s
    assert time.monotonic() - began < 60


def test_checking_is_waited_for(server: Honest, device: Device) -> None:
    """While the server checks, the same manifest is sent again until the receipt is there."""
    device.record({"n": 0}, recorded(0))
    checking = JSONResponse({"state": "checking"}, 202, {"Retry-After": "0"})
    server.answers_first = [checking] * (2 * SWIFT.tries)

    assert device.sync(server.url, TOKEN).complete


def test_bytes_ruined_on_their_way_are_sent_again(server: Honest, device: Device) -> None:
    """An upload whose digest is wrong is sent again from its first byte."""
    device.record({"n": 1}, recorded(1))
    server.wrong_bytes = 2

    sync_until_complete(device, server.url)

    server.assert_every_byte()


# --- what a person has to see ----------------------------------------------------------------


def test_refused_is_told_and_kept_until_it_is_revised(server: Honest, device: Device) -> None:
    """What the server does not take is kept here, told in both languages, and mended."""
    id = device.record({"n": 1, "wrong": "x"}, recorded(1))
    server.refuses = {"vowel": "undecodable"}
    vowel = device.get(id).recordings[1].id

    (outcome,) = device.sync(server.url, TOKEN).outcomes

    assert outcome.state == "refused"
    assert {(one.what, one.name, one.reason) for one in outcome.refusals} == {
        ("recording", vowel, "undecodable"),
        ("field", "wrong", "wrong_type"),
    }
    assert {one.sentence.pt for one in outcome.refusals} == {"Uma frase."}
    assert all(f"{one.what} {one.name}: A sentence." in outcome.detail for one in outcome.refusals)
    device.revise(id, {"n": 1}, leave_out=[vowel])
    assert device.sync(server.url, TOKEN).complete
    assert device.audio(id, vowel) == audio_of(1, "vowel")
    assert device.audio(id, device.get(id).recordings[0].id) is None
    with pytest.raises(InputError, match="has its receipt"):
        device.revise(id, {"n": 2})


def test_refused_manifest_is_told(server: Honest, device: Device) -> None:
    """A manifest that no repeating would mend is told once, and kept."""
    id = device.record({"n": 0}, recorded(0))
    server.answers_first = [problem(400)]

    (outcome,) = device.sync(server.url, TOKEN).outcomes

    assert (outcome.state, outcome.refusals[0].sentence.en) == ("refused", "A sentence.")
    assert len(server.asked_at) == 1
    assert device.receipt(id) is None


def test_no_server_erases_an_assessment(server: Honest, device: Device) -> None:
    """That whom it is of has withdrawn is a word of Collection's alone."""
    id = device.record({"n": 0}, recorded(0))
    server.answers_first = [problem(410, code="withdrawn", erase=True)]

    (outcome,) = device.sync(server.url, TOKEN).outcomes

    assert outcome.state == "refused"
    assert device.audio(id, device.get(id).recordings[0].id) == audio_of(0)


def test_refused_token_ends_everything(server: Honest, device: Device) -> None:
    """With a token that is not known any more nothing is lost, and nothing tried for long."""
    for number in range(9):
        device.record({"n": number}, recorded(number))
    server.token = "another"

    assert device.sync(server.url, TOKEN).stopped == "token refused"
    assert len(server.asked_at) <= SWIFT.at_once
    server.token = TOKEN
    assert device.sync(server.url, TOKEN).complete


def test_damaged_disk_is_told_and_the_others_are_sent(
    server: Honest, device: Device, tmp_path: Path
) -> None:
    """A recording that the disk has lost is never sent as if it were that recording."""
    ids = [device.record({"n": number}, recorded(number)) for number in range(3)]
    place = tmp_path / "phone/assessments" / ids[1]
    (place / device.get(ids[1]).recordings[0].id).write_bytes(b"other bytes")

    report = device.sync(server.url, TOKEN)

    states = {one.recorded_as: one.state for one in report.outcomes}
    assert states == {ids[0]: "accepted", ids[1]: "damaged", ids[2]: "accepted"}
    assert server.numbers() == Counter([0, 2])


def test_results_are_followed_to_their_end(server: Honest, device: Device) -> None:
    """Every page since the place where one stopped, and no more."""
    ids = {device.record({"n": number}, recorded(number)) for number in range(5)}
    device.sync(server.url, TOKEN)

    results = device.results(server.url, TOKEN)

    assert (set(results.assessments), results.after) == (ids, 5)
    assert device.results(server.url, TOKEN, after=5).assessments == {}


# --- receipts -------------------------------------------------------------------------------


def _another_key(server: Honest) -> None:
    server.keys = [new_key("receipts-1")]


def _other_type(server: Honest) -> None:
    server.typ = "JWT"


def _other(**changed: Any) -> Callable[[Honest], None]:
    def lying(server: Honest) -> None:
        server.lie = lambda payload: payload.update(changed)

    return lying


def _other_digest(server: Honest) -> None:
    server.lie = lambda payload: payload["recordings"][0].update(sha256="0" * 64)


def _one_less(server: Honest) -> None:
    server.lie = lambda payload: payload["recordings"].pop()


@pytest.mark.parametrize(
    "lies",
    [
        _another_key,
        _other_type,
        _other(id="01a215cb-1e03-77b7-9739-f743ab8d7d48"),
        _other(revision=2),
        _other(kind="visit"),
        _other_digest,
        _one_less,
    ],
)
def test_wrong_receipt_frees_nothing(
    server: Honest, device: Device, lies: Callable[[Honest], None]
) -> None:
    """A receipt for something else, or not signed by the server first met, is none."""
    device.record({"n": 0}, recorded(0))
    assert device.sync(server.url, TOKEN).complete  # its keys are pinned
    honest = server.keys
    id = device.record({"n": 1}, recorded(1))
    lies(server)

    (outcome,) = device.sync(server.url, TOKEN).outcomes

    assert outcome.state == "distrusted"
    assert device.receipt(id) is None
    for one in device.get(id).recordings:
        assert device.audio(id, one.id) == audio_of(1, one.utterance)
    del server.held[id]
    server.keys, server.typ, server.lie = honest, "spira-receipt+jws", lambda payload: None
    assert device.sync(server.url, TOKEN).complete
    server.assert_every_byte()


def test_what_the_server_dropped_is_not_kept_here_either(server: Honest, device: Device) -> None:
    """It was a conversation of people who did not agree to be recorded."""

    def drops(payload: dict[str, Any]) -> None:
        payload["recordings"][1] |= {"what": "dropped", "reason": "speech_in_ambient"}

    server.lie = drops
    id = device.record({"n": 1}, recorded(1))

    assert device.sync(server.url, TOKEN).complete

    assert [device.audio(id, one.id) for one in device.get(id).recordings] == [None, None]


@pytest.mark.parametrize("zeros", ["", "\0"], ids=["cut off", "zeros"])
@pytest.mark.parametrize("left", [0, 1, 60, 200, -87, -86, -1])
def test_receipt_that_the_disk_lost_a_part_of_is_asked_for_again(
    server: Honest, tmp_path: Path, left: int, zeros: str
) -> None:
    """However little of it is gone; and what it was for is not changed meanwhile."""
    with Device(tmp_path / "phone", pace=SWIFT) as device:
        id = device.record({"n": 1}, recorded(1))
        assert device.sync(server.url, TOKEN).complete
        whole = device.receipt(id)
        assert whole is not None
        (tmp_path / "phone/assessments" / id / "receipt").write_text(
            whole[:left] + zeros * len(whole[left:])
        )
    with Device(tmp_path / "phone", pace=SWIFT) as device:
        assert device.receipt(id) is None
        with pytest.raises(InputError, match="changes no more"):
            device.revise(id, {"n": 2})

        (outcome,) = device.sync(server.url, TOKEN).outcomes

        assert outcome.state == "accepted"
        assert device.receipt(id) == whole
        assert set(server.held) == {id}


def test_keys_may_rotate_and_not_be_exchanged(server: Honest, device: Device) -> None:
    """A new key beside the old ones is taken; a new key in their place is another server's."""
    device.record({"n": 0}, recorded(0))
    assert device.sync(server.url, TOKEN).complete
    server.keys = [*server.keys, new_key("receipts-2")]
    device.record({"n": 1}, recorded(1))
    assert device.sync(server.url, TOKEN).complete

    server.keys = [new_key("receipts-3")]
    device.record({"n": 2}, recorded(2))

    (outcome,) = device.sync(server.url, TOKEN).outcomes
    assert outcome.state == "distrusted"
    assert "receipts-1, receipts-2" in outcome.detail


def test_what_else_is_said_of_a_key_may_change(
    server: Honest, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key is its curve and its point: a server that says more of each is still that server."""
    device.record({"n": 0}, recorded(0))
    assert device.sync(server.url, TOKEN).complete
    server.keys = [*server.keys, new_key("receipts-2")]
    as_dict = OKPKey.as_dict
    monkeypatch.setattr(
        OKPKey, "as_dict", lambda key, **how: {**as_dict(key, **how), "key_ops": ["verify"]}
    )
    device.record({"n": 1}, recorded(1))

    assert device.sync(server.url, TOKEN).complete


# --- clones and clocks ----------------------------------------------------------------------


def test_cloned_phone_discards_nothing(server: Honest, tmp_path: Path) -> None:
    """What two copies of a phone hold in common arrives once, what differs arrives twice."""
    with Device(tmp_path / "one", pace=SWIFT) as one:
        same, differs = (one.record({"n": number}, recorded(number)) for number in (0, 1))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    with Device(tmp_path / "one", pace=SWIFT) as one, Device(tmp_path / "two", pace=SWIFT) as two:
        two.revise(differs, {"n": 1, "age": 63})

        assert one.sync(server.url, TOKEN).complete
        report = two.sync(server.url, TOKEN)

        assert report.complete
        assert two.receipt(same) == one.receipt(same)
        copy = two.get(differs)
        assert (copy.earlier_ids, copy.replaces) == ((differs,), differs)
        assert {each.id for each in report.outcomes} == {same, copy.id}
        assert server.numbers() == {0: 1, 1: 2}
        assert server.held[copy.id].manifest["form"]["values"]["age"] == 63
        server.assert_every_byte()


def test_id_of_another_device_is_left_to_it(server: Honest, device: Device) -> None:
    """Where the server knows an id as another device's, ours is sent under a new one."""
    id = device.record({"n": 1}, recorded(1))
    server.held[id] = Held(secrets.token_urlsafe(32), {"revision": 1})

    assert device.sync(server.url, TOKEN).complete

    assert device.get(id).id != id
    assert device.get(id).replaces is None
    assert server.numbers() == Counter([1])
    server.assert_every_byte()


@pytest.mark.parametrize("status", [404, 409])
@pytest.mark.parametrize("code", [{}, {"code": "not_allowed"}], ids=["no code", "another code"])
def test_only_a_word_about_the_id_gives_a_new_one(
    server: Honest, device: Device, status: int, code: dict[str, str]
) -> None:
    """A status alone is no such word, nor is that of a wrong address."""
    id = device.record({"n": 0}, recorded(0))
    server.answers_first = [problem(status, **code)]

    (outcome,) = device.sync(server.url, TOKEN).outcomes

    assert outcome.state == "refused"
    assert device.get(id).id == id
    assert device.sync(server.url, TOKEN).complete


def test_not_found_by_a_stranger_is_no_word_about_the_id(server: Honest, device: Device) -> None:
    """A 404 without our sentence is nobody's we know, and gives nothing a new id."""
    id = device.record({"n": 0}, recorded(0))
    page = {"status": 404, "code": "not_found", "detail": "Not Found"}
    kind = "application/problem+json"
    server.answers_first = [JSONResponse(page, 404, media_type=kind)] * SWIFT.tries

    assert device.sync(server.url, TOKEN).stopped == "no network"
    assert device.get(id).id == id


def test_revised_while_the_answer_was_lost(server: Honest, device: Device) -> None:
    """A revision of what was accepted unnoticed is sent as what replaces it."""
    id = device.record({"n": 0}, recorded(0))
    with FaultyNetwork(1, server.port, mode="clean").running() as network:
        device.sync(network.url, TOKEN)
    (device._at(id, "receipt")).unlink()  # as if its answer had never come
    for one in device.get(id).recordings:
        device._at(id, one.id).write_bytes(audio_of(0, one.utterance))
    device.revise(id, {"n": 0, "age": 63})

    assert device.sync(server.url, TOKEN).complete

    assert server.held[device.get(id).id].manifest["replaces"] == id
    assert set(server.accepted) == {id, device.get(id).id}


@pytest.mark.parametrize("off", [timedelta(days=-365), timedelta(days=365)])
def test_wrong_clock_does_not_matter(server: Honest, tmp_path: Path, off: timedelta) -> None:
    """A phone that is a year off sends as any other, and says at each manifest what it thinks."""
    with Device(tmp_path / "phone", pace=SWIFT, now=lambda: NOW + off) as device:
        device.record({"n": 0}, recorded(0))

        assert device.sync(server.url, TOKEN).complete

    assert {datetime.fromisoformat(each) for each in server.device_times} == {NOW + off}


# --- kills and disks ------------------------------------------------------------------------

CHILD = """
import random
from datetime import UTC, datetime
from pathlib import Path
from spira.serving.client import Device, Recorded
from spira.device.line import Pace

NOW, TOKEN = {now!r}, {token!r}
{audio_of}
{recorded}
with Device(Path({folder!r}), pace=Pace(**{pace!r})) as device:
    there = {{device.get(id).form.values["n"] for id in device.ids()}}
    for number in range({count}):
        if number not in there:
            device.record({{"n": number}}, recorded(number))
        if number % 4 == 3:
            device.sync({url!r}, TOKEN)
    while not device.sync({url!r}, TOKEN).complete:
        pass
"""


def test_killed_at_random_moments_everything_arrives_once(server: Honest, tmp_path: Path) -> None:
    """`kill -9` while it records and sends over a bad network: one receipt each, every byte."""
    seed = a_seed()
    rng = random.Random(seed)
    folder, count, kills = tmp_path / "phone", 16, 0

    with FaultyNetwork(seed, server.port, rate=0.4, hang_s=1.5).running() as network:
        script = (
            CHILD.format(
                now=NOW,
                token=TOKEN,
                audio_of=inspect.getsource(audio_of),
                recorded=inspect.getsource(recorded),
                folder=str(folder),
                pace=SWIFT.model_dump(),
                count=count,
                url=network.url,
            )
            .replace("datetime.datetime", "datetime")
            .replace("datetime.timezone.utc", "UTC")
        )
        ended = None
        while ended is None:
            child = subprocess.Popen([sys.executable, "-c", script])
            try:
                ended = child.wait(rng.uniform(0.4, 1.4) if kills < 8 else 120)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                kills += 1
                assert kills <= 8
        assert ended == 0
        print(f"{kills} kills; {dict(network.dealt)}")

    assert server.numbers() == Counter(range(count))
    server.assert_every_byte()
    with Device(folder) as device:
        for id in device.ids():
            assert device.receipt(id) == server.held[device.get(id).id].receipt
        left = {place.name for place in folder.glob("assessments/*/*")}
        assert left == {"assessment.json", "receipt"}


def test_killed_at_any_step_of_recording_leaves_a_whole_one_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step; and once `record` has returned, on stable storage in whole."""
    disk = Disk(monkeypatch)
    steps = 0
    found = set()
    while True:
        folder = tmp_path / f"phone-{steps}"
        with Device(folder) as device:
            disk.calls, disk.dies_at = 0, steps
            try:
                id = device.record({"n": 1}, recorded(1))
            except Killed:
                id = None
            disk.dies_at = -1
        with Device(folder) as again:
            found.add(len(again.ids()))
            assert list((folder / "making").iterdir()) == []
            for each in again.ids():
                assert [again.audio(each, one.id) for one in again.get(each).recordings] == [
                    audio_of(1, "sentence"),
                    audio_of(1, "vowel"),
                ]
            if id is not None:
                assert again.ids() == (id,)
                assert folder / "assessments" in disk.synced
                break
        steps += 1
    assert found == {0, 1}
    assert steps > 8


def test_killed_at_any_step_of_revising_leaves_one_revision_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step; nothing of a revision that never was is left."""
    disk = Disk(monkeypatch)
    with Device(tmp_path / "phone") as device:
        id = device.record({"n": 0}, recorded(0))
    steps = 0
    done = False
    while not done:
        folder = tmp_path / f"phone-{steps}"
        shutil.copytree(tmp_path / "phone", folder)
        with Device(folder) as device:
            disk.calls, disk.dies_at = 0, steps
            try:
                device.revise(id, {"n": 9}, add=[Recorded("vowel", audio_of(0, "vowel"), 2, NOW)])
                done = True
            except Killed:
                pass
            disk.dies_at = -1
        with Device(folder) as again:
            kept = again.get(id)
            assert (kept.revision, kept.form.values["n"], len(kept.recordings)) in {
                (1, 0, 1),
                (2, 9, 2),
            }
            assert not done or kept.revision == 2
            for one in kept.recordings:
                assert again.audio(id, one.id) == audio_of(0, one.utterance)
            files = {place.name for place in (folder / "assessments" / id).iterdir()}
            assert files == {"assessment.json", *(one.id for one in kept.recordings)}
        steps += 1
    assert steps > 4


def test_killed_at_any_step_of_a_sync_loses_no_audio_without_a_receipt(
    server: Honest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step that changes the disk; the next sync ends it."""
    disk = Disk(monkeypatch)
    with Device(tmp_path / "phone") as device:
        id = device.record({"n": 1}, recorded(1))
    steps = 0
    report = None
    while report is None:
        server.held.clear()
        folder = tmp_path / f"phone-{steps}"
        shutil.copytree(tmp_path / "phone", folder)
        with Device(folder, pace=SWIFT) as device:
            disk.calls, disk.dies_at = 0, steps
            with suppress(Killed):
                report = device.sync(server.url, TOKEN)
            disk.dies_at = -1
        with Device(folder, pace=SWIFT) as again:
            if again.receipt(id) is None:
                for one in again.get(id).recordings:
                    assert again.audio(id, one.id) == audio_of(1, one.utterance)
            assert again.sync(server.url, TOKEN).complete
            assert again.receipt(id) == server.held[id].receipt
            files = {place.name for place in (folder / "assessments" / id).iterdir()}
            assert files == {"assessment.json", "receipt"}
        steps += 1
    assert report.complete
    assert steps > 10


def test_full_device_keeps_nothing_by_halves_and_still_sends(
    server: Honest, mount: Callable[..., Path], tmp_path: Path
) -> None:
    """A device that is full says so while the patient is there; what it has, it can send."""
    place = mount(tmp_path / "full", "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    with Device(place / "phone", pace=SWIFT) as device:
        ids: list[str] = []

        def record_on() -> None:
            while True:
                ids.append(device.record({"n": len(ids)}, recorded(len(ids))))

        with pytest.raises(StorageFull, match="full"):
            record_on()
        with suppress(OSError), (place / "other").open("wb") as file:
            file.write(bytes(1 << 20))  # somebody else takes what was left

        assert device.ids() == tuple(ids)
        assert list((place / "phone/making").iterdir()) == []
        assert sync_until_complete(device, server.url).complete

    assert server.numbers() == Counter(range(len(ids)))
    server.assert_every_byte()


def test_one_process_a_folder(device: Device, tmp_path: Path) -> None:
    """A folder that is open is not opened twice."""
    with pytest.raises(TransientError, match="another"):
        Device(tmp_path / "phone")


def test_others_cannot_read_the_outbox(device: Device, tmp_path: Path) -> None:
    """Form and voices are for their owner's eyes."""
    id = device.record({"n": 0}, recorded(0))
    place = tmp_path / "phone/assessments" / id

    assert (tmp_path / "phone").stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in place.iterdir())


# --- what cannot be recorded ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "recordings", "said"),
    [
        ({}, [], "0 recordings"),
        ({}, recorded(0) * 5, "5 recordings"),
        ({}, [("sentence", b"", 1.0, NOW)], "n_bytes"),
        ({}, [("sentence", b"x", 0.0, NOW)], "duration_s"),
        ({}, [("sentence", b"x", 1.0, NOW.replace(tzinfo=None))], "recorded_at"),
        ({}, [("song", b"x", 1.0, NOW)], "utterance"),
        ({}, [("consent", b"x", 1.0, NOW)], "utterance"),
        ({}, [("other", b"x", 1.0, NOW)], "utterance"),
        ({"age": float("nan")}, recorded(0), "JSON"),
        ({"age": object()}, recorded(0), "JSON"),
        ({"cid10": "\ud800"}, recorded(0), "JSON"),
    ],
)
def test_what_no_server_takes_is_refused_at_once(
    device: Device, values: dict[str, Any], recordings: list[Any], said: str
) -> None:
    """While the patient is still there, and without leaving anything."""
    with pytest.raises(InputError, match=said):
        device.record(values, recordings)

    assert device.ids() == ()


@pytest.mark.parametrize("server", ["http://spira.example", "ftp://x", "spira.example", "https://"])
def test_address_that_is_not_safe_is_refused(device: Device, server: str) -> None:
    """Voices go over TLS, or stay on this machine."""
    with pytest.raises(InputError, match="https://"):
        device.sync(server, TOKEN)


def test_lost_file_is_an_error_that_names_it(device: Device, tmp_path: Path) -> None:
    """A description that cannot be read is told, and its folder left alone."""
    id = device.record({"n": 0}, recorded(0))
    (tmp_path / "phone/assessments" / id / "assessment.json").write_bytes(b"{")

    with pytest.raises(IntegrityError, match=id):
        device.get(id)
