"""A device and the real Client API, over HTTP on this machine."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import uvicorn
from found import found

from spira.audio.quality import QualityThresholds
from spira.domain.errors import TransientError
from spira.domain.submissions import RecordingFile
from spira.intake.checking import Found, Refused
from spira.intake.keys import KeyRing
from spira.intake.settings import IntakeSettings
from spira.intake.submissions import Intake
from spira.serving.api import Parts, create_api
from spira.serving.assessments import Assessments
from spira.serving.client import Device, Outcome, Recorded
from spira.serving.line import Pace
from spira.serving.listening import OPTIONS
from spira.serving.service import ROOMS
from spira.serving.settings import ServingSettings
from spira.serving.tokens import Tokens
from spira.stores.database import Database
from spira.stores.objects import Objects

FORM = {
    "record_number": "123.456-7",
    "age": 63,
    "language": "pt-BR",
    "tracheostomy": False,
    "intubated": False,
    "patient_informed": True,
    "research_consent": False,
}
SENTENCE = Recorded("sentence", b"recorded", 6, datetime(2026, 3, 1, 12, tzinfo=UTC))
PACE = Pace(tries=2, first_pause_s=0.01)


class Content:
    """A check that every recording passes, while anybody is there to make it."""

    away = False

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, *, unfinished: bool = False
    ) -> Found | Refused:
        """Six seconds of speech, whatever came."""
        if self.away:
            raise TransientError("a test")
        return found(b"".join(pieces))


@pytest.fixture
def checker() -> Content:
    """Whoever checks recordings."""
    return Content()


@pytest.fixture
def parts(tmp_path: Path, checker: Content) -> Parts:
    """The API's parts, on SQLite and a folder."""
    database = Database.open(f"sqlite:///{tmp_path / 'spira.db'}", what="away")
    database.migrate(ROOMS)
    keys = KeyRing.open(tmp_path / "keys")
    objects = Objects.open(str(tmp_path / "recordings"), setting="a test")
    return Parts(
        intake=Intake(database, objects, checker, keys, IntakeSettings()),
        assessments=Assessments(database),
        tokens=Tokens(database),
        keys=keys,
        settings=ServingSettings(),
        thresholds=QualityThresholds(),
    )


@pytest.fixture
def url(parts: Parts) -> Iterator[str]:
    """Where the API listens."""
    config = uvicorn.Config(create_api(parts), port=0, **OPTIONS)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


@pytest.fixture
def token(parts: Parts) -> str:
    """The site's."""
    return parts.tokens.create("ward")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """A device."""
    with Device(tmp_path / "phone", pace=PACE) as one:
        yield one


def sync(device: Device, url: str, token: str) -> Outcome:
    """What a sync comes to for the one assessment that has no receipt."""
    (outcome,) = device.sync(url, token).outcomes
    return outcome


def test_a_wrong_address_gives_nothing_a_new_id(
    device: Device, parts: Parts, url: str, token: str
) -> None:
    """Our API's 404 of an address that is none says nothing about the assessment."""
    id = device.record(FORM, [SENTENCE])

    wrong = [sync(device, f"{url}/spira", token) for _ in range(2)]

    assert {one.state for one in wrong} == {"refused"}
    assert wrong[0].detail.startswith("404 ")
    assert device.get(id).id == id
    assert sync(device, url, token).state == "accepted"
    assert [row.id for row in parts.assessments.changed_after("ward", 0, 9)] == [id]


def test_what_the_server_knows_as_another_devices_gets_a_new_id(
    device: Device, tmp_path: Path, url: str, token: str
) -> None:
    """Told by the real API's words for it."""
    id = device.record(FORM, [SENTENCE])
    with Device(tmp_path / "other", pace=PACE) as other:
        theirs = other.get(other.record(FORM, [SENTENCE]))
        place = tmp_path / "other/assessments" / theirs.id / "assessment.json"
        place.write_text(theirs.model_copy(update={"id": id}).model_dump_json())
        assert sync(other, url, token).state == "accepted"

    outcome = sync(device, url, token)

    assert outcome.state == "accepted"
    assert outcome.id != id
    assert device.get(id).replaces is None


def test_what_was_corrected_after_it_had_been_accepted_names_the_earlier_one(
    tmp_path: Path, checker: Content, parts: Parts, url: str, token: str
) -> None:
    """Whoever corrects the patient on the phone hears that the wrong one is at the server, however
    long the correction takes to arrive."""
    phone, before = tmp_path / "phone", tmp_path / "before"
    with Device(phone, pace=PACE) as device:
        id = device.record(FORM, [SENTENCE])
    shutil.copytree(phone, before)
    with Device(phone, pace=PACE) as device:
        assert sync(device, url, token).detail == ""

    with Device(before, pace=PACE) as device:  # as if the answer had never come
        device.revise(id, FORM | {"record_number": "222"})
        checker.away = True
        waits = sync(device, url, token)
        checker.away = False
        accepted = sync(device, url, token)
        new = device.get(id)

    assert (waits.state, accepted.state) == ("waiting", "accepted")
    assert {one.id for one in (waits, accepted)} == {new.id}
    for one in (waits, accepted):
        assert f"an earlier version of it is at the server already, as {id}" in one.detail
    there = {row.id: row.replaces for row in parts.assessments.changed_after("ward", 0, 9)}
    assert there == {id: None, new.id: id}


def restoring(home: Path, mount: Callable[..., Path]) -> None:
    """The keys are being restored."""
    (home / "keys/restoring").touch()


def readable(home: Path, mount: Callable[..., Path]) -> None:
    """Others may read the keys."""
    (home / "keys").chmod(0o755)


def read_only(home: Path, mount: Callable[..., Path]) -> None:
    """The object store cannot be written, as after an error of its disk."""
    mount(home / "recordings", "--bind", "-o", "ro", str(home / "recordings"))


@pytest.mark.parametrize("trouble", [restoring, readable, read_only])
def test_trouble_of_the_server_is_no_fault_of_the_phone(
    trouble: Callable[..., None],
    device: Device,
    tmp_path: Path,
    mount: Callable[..., Path],
    url: str,
    token: str,
) -> None:
    """It is told to come again, nothing of where the server keeps what, and the log has it all."""
    device.record(FORM, [SENTENCE])
    trouble(tmp_path, mount)

    with structlog.testing.capture_logs() as logged:
        outcome = sync(device, url, token)

    assert (outcome.state, outcome.detail) == ("waiting", "503 not now; try again")
    (told, *_) = [one for one in logged if one["event"] == "a request failed"]
    assert str(tmp_path) in told["error"]
    assert told["path"].startswith("/v1/")


def test_a_search_tells_a_wrong_number_from_trouble_of_the_server(
    url: str, token: str, tmp_path: Path
) -> None:
    """The one is refused, the other is to come again."""

    def search(number: str) -> dict[str, Any]:
        where, who = f"{url}/v1/assessments/search", {"Authorization": f"Bearer {token}"}
        found: dict[str, Any] = httpx.post(
            where, json={"record_number": number}, headers=who
        ).json()
        return found

    wrong = search("-./")
    (tmp_path / "keys/restoring").touch()
    trouble = search("123")

    assert (wrong["status"], wrong["code"]) == (400, "bad_manifest")
    assert "no letter or digit" in wrong["detail"]
    assert (trouble["status"], trouble["code"]) == (503, "unavailable")
    assert str(tmp_path) not in str(trouble)


@pytest.mark.parametrize("path", ["assessments/{id}", "forms/assessment", "thresholds", "keys"])
def test_what_somebody_has_already_is_not_sent_again(
    path: str, device: Device, url: str, token: str
) -> None:
    """By its ETag: one of several, marked as weak by a proxy, or `*`; another one is no match."""
    id = device.record(FORM, [SENTENCE])
    assert sync(device, url, token).state == "accepted"

    def ask(*known: str) -> httpx.Response:
        headers = [("If-None-Match", one) for one in known]
        who = ("Authorization", f"Bearer {token}")
        return httpx.get(f"{url}/v1/{path.format(id=id)}", headers=[who, *headers])

    tag = ask().headers["ETag"]

    for known in ([tag], [f"W/{tag}"], [f'"other", {tag}'], ['"other"', tag], ["*"]):
        answer = ask(*known)
        assert (answer.status_code, answer.headers["ETag"], answer.content) == (304, tag, b"")
    for unknown in ('"other"', tag.strip('"'), f'"x{tag[1:]}', '"*"'):
        assert ask(unknown).status_code == 200
