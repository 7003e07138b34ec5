"""A device and the real Client API, over HTTP on this machine."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import uvicorn
from found import found

from spira.audio.quality import QualityThresholds
from spira.device.line import Pace
from spira.domain.errors import InputError, TransientError
from spira.domain.forms import Form
from spira.domain.submissions import RecordingFile
from spira.intake.checking import Found, Refused
from spira.intake.keys import KeyRing
from spira.intake.listening import OPTIONS
from spira.intake.settings import IntakeSettings
from spira.intake.submissions import Intake
from spira.intake.tokens import Tokens
from spira.serving import api
from spira.serving.api import Parts, create_api
from spira.serving.assessments import Assessments
from spira.serving.client import Device, Outcome, Recorded
from spira.serving.forms import ASSESSMENT_1
from spira.serving.settings import ServingSettings
from spira.stores.database import Database
from spira.stores.objects import Objects
from spira.wiring import ROOMS

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
HOUR = timedelta(hours=1)
PACE = Pace(tries=2, first_pause_s=0.01)


class Content:
    """A check that every recording passes."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], object] = lambda: None

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, *, unfinished: bool = False
    ) -> Found | Refused:
        """Six seconds of speech, whatever came."""
        self.meanwhile()
        return found(b"".join(pieces))


def away() -> None:
    """Nobody is there to check."""
    raise TransientError("a test")


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
    device: Device, tmp_path: Path, parts: Parts, url: str, token: str
) -> None:
    """Told by the real API's words for it; and what is voided then is ours, not theirs."""
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
    device.void(id, "the wrong patient")
    assert device.sync(url, token).complete
    assert voided(parts) == {id: None, outcome.id: "the wrong patient"}


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
        checker.meanwhile = away
        waits = sync(device, url, token)
        checker.meanwhile = lambda: None
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


# --- at the bed -----------------------------------------------------------------------------


def test_a_form_that_was_served_is_checked_at_the_bed(tmp_path: Path, url: str, token: str) -> None:
    """From the first sync on, without a network: what the server would refuse is not recorded, and
    what is odd only once it has been confirmed."""
    missing = {name: value for name, value in FORM.items() if name != "age"}
    odd = FORM | {"spo2": 8.8}
    with Device(tmp_path / "phone", pace=PACE) as device:
        assert device.form() is None
        assert device.remarks(missing).refused == {}
        before = device.record(missing, [SENTENCE])
        device.sync(url, token)
    with Device(tmp_path / "phone", pace=PACE) as device:
        remarks = device.remarks(odd | {"age": "63"})
        assert {name: one.reason for name, one in remarks.refused.items()} == {"age": "wrong_type"}
        assert {name: one.reason for name, one in remarks.to_confirm.items()} == {
            "spo2": "impossible"
        }
        with pytest.raises(InputError, match=r"'age': Not filled in: Age"):
            device.record(missing, [SENTENCE])
        with pytest.raises(InputError, match=r"'spo2': .* Name it in `confirmed`"):
            device.record(odd, [SENTENCE], confirmed=["age"])
        with pytest.raises(InputError, match="'spo2'"):
            device.revise(before, odd)
        assert device.ids() == (before,)

        after = device.record(odd, [SENTENCE], confirmed=["spo2"])
        device.revise(before, FORM)

        assert device.sync(url, token).complete
        assert device.ids() == (before, after)


def test_another_version_of_the_form_comes_with_the_next_sync(
    device: Device, tmp_path: Path, url: str, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is filled in then; the same one is not sent again, and none takes its place where there
    is no network, or one comes that cannot be read here."""

    def serve(form: Form) -> None:
        monkeypatch.setattr(api, "FORMS", {(form.id, form.version): form})

    place = tmp_path / "phone/form.json"
    device.sync(url, token)
    first = place.stat().st_ino
    device.sync(url, token)
    assert place.stat().st_ino == first
    serve(ASSESSMENT_1.model_copy(update={"version": 2}))
    device.sync(url, token)
    monkeypatch.setattr(api, "json_schema", lambda form: {"x-form": "of a later day"})
    device.sync(url, token)
    device.sync("http://127.0.0.1:1", token)

    new = device.record(FORM, [SENTENCE])
    old = device.record({}, [SENTENCE], form=("assessment", 1))  # nothing here can say of it

    assert [device.get(one).form.version for one in (new, old)] == [2, 1]


def test_what_the_disk_lost_of_a_form_is_fetched_again(
    device: Device, tmp_path: Path, url: str, token: str
) -> None:
    """Until then it counts as none."""
    device.sync(url, token)
    (tmp_path / "phone/form.json").write_text('{"tag": "')

    assert device.form() is None
    device.sync(url, token)
    assert device.form() is not None


# --- the wrong patient ----------------------------------------------------------------------


def voided(parts: Parts) -> dict[str, str | None]:
    """Why each assessment of the site is void; None: it is not."""
    return {row.id: row.void_reason for row in parts.assessments.changed_after("ward", 0, 9)}


def test_what_is_to_be_voided_is_kept_until_the_server_has_done_it(
    tmp_path: Path, parts: Parts, url: str, token: str
) -> None:
    """Over a restart and without a network; before it was sent, and when another device did."""
    with Device(tmp_path / "other", pace=PACE) as other:
        theirs = other.record(FORM, [SENTENCE])
        assert sync(other, url, token).state == "accepted"
    with Device(tmp_path / "phone", pace=PACE) as device:
        ours, right = (device.record(FORM, [SENTENCE]) for _ in range(2))
        assert device.sync(url, token).complete
        unsent = device.record(FORM, [SENTENCE])
        for id in (ours, unsent, theirs):
            device.void(id, "the patient of bed 2\nnot of bed 3")
        report = device.sync("http://127.0.0.1:1", token)
        assert {one.state for one in report.voids} == {"waiting"}
        assert not report.complete
    with Device(tmp_path / "phone", pace=PACE) as device:
        report = device.sync(url, token)

        assert report.complete
        assert {one.id for one in report.voids} == {ours, unsent, theirs}
        assert device.sync(url, token).voids == ()
    why = "the patient of bed 2\nnot of bed 3"
    assert voided(parts) == {theirs: why, ours: why, right: None, unsent: why}


def test_what_is_on_the_wrong_patient_comes_before_everything_else(
    device: Device, checker: Content, parts: Parts, url: str, token: str
) -> None:
    """It may be acted on; what was not sent yet is on nobody, and waits for its own receipt."""
    ours = device.record(FORM, [SENTENCE])
    assert sync(device, url, token).state == "accepted"
    unsent = device.record(FORM, [SENTENCE])
    device.void(ours, "the wrong patient")
    device.void(unsent, "the wrong patient")
    seen: list[dict[str, str | None]] = []

    def look() -> None:
        seen.append(voided(parts))
        away()

    checker.meanwhile = look
    report = device.sync(url, token)

    assert seen[0] == {ours: "the wrong patient"}
    assert {one.id: one.state for one in report.voids} == {ours: "voided", unsent: "waiting"}


def test_what_somebody_else_has_voided_stays_as_they_did(
    device: Device, parts: Parts, url: str, token: str
) -> None:
    """Also when it was we, and the answer was lost."""
    id = device.record(FORM, [SENTENCE])
    assert sync(device, url, token).state == "accepted"
    parts.assessments.void(id, "ward", "first", "a test")
    device.void(id, "second")

    (told,) = device.sync(url, token).voids

    assert told.state == "voided"
    assert voided(parts) == {id: "first"}


def test_what_the_server_does_not_void_is_told_and_kept(
    device: Device, parts: Parts, url: str, token: str
) -> None:
    """As what another site has: with a token of that one it is done."""
    id = device.record(FORM, [SENTENCE])
    assert sync(device, url, token).state == "accepted"
    device.void(id, "the wrong patient")

    report = device.sync(url, parts.tokens.create("another site"))

    assert [one.state for one in report.voids] == ["refused"]
    assert report.voids[0].detail.startswith("404 there is no such assessment")
    assert voided(parts) == {id: None}
    assert device.sync(url, token).complete
    assert voided(parts) == {id: "the wrong patient"}


@pytest.mark.parametrize(
    ("id", "reason", "said"),
    [
        ("../../receipt", "the wrong patient", "id"),
        ("01938f00-0000-7000-8000-000000000001", " ", "reason"),
        ("01938f00-0000-7000-8000-000000000001", "x" * 501, "reason"),
        ("01938f00-0000-7000-8000-000000000001", "bell \x07", "reason"),
    ],
    ids=["no id", "blank", "too long", "control character"],
)
def test_what_no_server_voids_is_refused_at_once(
    device: Device, tmp_path: Path, id: str, reason: str, said: str
) -> None:
    """Nothing is kept of it."""
    with pytest.raises(InputError, match=f"^{said}: "):
        device.void(id, reason)

    assert list((tmp_path / "phone/voids").iterdir()) == []


def test_a_patients_assessments_are_found_by_the_record_number(
    device: Device, url: str, token: str
) -> None:
    """However it is written, the latest first; a wrong number and a dead network are told apart."""
    first, _, last = (
        device.record(
            FORM | {"record_number": number}, [SENTENCE._replace(recorded_at=SENTENCE[3] + later)]
        )
        for number, later in (("a77", timedelta()), ("a78", HOUR), ("A77", 2 * HOUR))
    )
    assert device.sync(url, token).complete

    found = device.search(url, token, "A77")

    assert [one["id"] for one in found] == [last, first]
    assert device.search(url, token, "a79") == ()
    with pytest.raises(InputError, match="no letter or digit"):
        device.search(url, token, "-")
    with pytest.raises(InputError, match="token"):
        device.search(url, "another", "A77")
    with pytest.raises(TransientError, match="no network") as dead:
        device.search("http://127.0.0.1:1", token, "A77")
    assert "A77" not in str(dead.value)
