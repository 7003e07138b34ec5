"""A collector's device and the real Data Collection API, over HTTP on this machine."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dying_disk import Disk, Killed
from found import found
from listening import listening
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from spira.collection.api import Parts, create_api
from spira.collection.client import Device, Outcome, Recorded, new_participant
from spira.collection.settings import CollectionSettings
from spira.collection.studies import Studies, default_study
from spira.collection.visits import Visits, Withdrawn
from spira.device.line import Pace
from spira.documents import parse_document
from spira.domain.errors import InputError
from spira.domain.recordings import UTTERANCES
from spira.domain.studies import Approval, Study
from spira.domain.submissions import RecordingFile
from spira.intake.checking import Found, Refused
from spira.intake.keys import KeyRing
from spira.intake.receipts import read_receipt
from spira.intake.settings import IntakeSettings, IntakeThresholds
from spira.intake.submissions import Intake
from spira.intake.tokens import Tokens
from spira.labels.store import Labels
from spira.stores.database import Database
from spira.stores.objects import Objects
from spira.wiring import ROOMS

NOW = datetime.now(UTC)
FORM = {
    "record_number": "123.456-7",
    "age": 63,
    "sex": "female",
    "language": "pt-BR",
    "mask": "none",
    "tracheostomy": False,
    "research_consent": True,
    "consent_form_version": "1",
    "consent_given_by": "participant",
    "consent_how": "paper",
}
SENTENCE = Recorded("sentence", b"spoken", 6, NOW)
PACE = Pace(tries=2, first_pause_s=0.01)


class Takes:
    """Finds every recording as it was announced."""

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, *, unfinished: bool = False
    ) -> Found | Refused:
        data = b"".join(pieces)
        assert hashlib.sha256(data).hexdigest() == file.sha256
        return found(data)


@pytest.fixture
def study() -> Study:
    """The one that ships."""
    return parse_document(default_study(), Study, where="the default", words=True)


@pytest.fixture
def parts(tmp_path: Path, study: Study) -> Parts:
    """The API's parts, on SQLite and a folder."""
    database = Database.open(f"sqlite:///{tmp_path / 'spira.db'}", what="away")
    database.migrate(ROOMS)
    keys = KeyRing.open(tmp_path / "keys")
    objects = Objects.open(str(tmp_path / "collected"), setting="a test")
    studies = Studies(database)
    studies.apply(study, by="a test")
    return Parts(
        intake=Intake(database, objects, Takes(), keys, IntakeSettings(), consents=objects),
        studies=studies,
        visits=Visits(database, keys.wrapped),
        labels=Labels(database, lambda subject: subject),
        tokens=Tokens(database),
        keys=keys,
        settings=CollectionSettings(),
        thresholds=IntakeThresholds(),
    )


@pytest.fixture
def url(parts: Parts) -> Iterator[str]:
    """Where the API listens."""
    with listening(create_api(parts)) as where:
        yield where


@pytest.fixture
def token(parts: Parts) -> str:
    """The site's."""
    return parts.tokens.create("site-1")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """A device."""
    with Device(tmp_path / "phone", pace=PACE) as one:
        yield one


def record(device: Device, participant: str, *more: Recorded, **how: Any) -> str:
    """A synthetic visit."""
    how = {"form_values": FORM, "synthetic": True} | how
    return device.record("spira", 1, participant, recordings=[SENTENCE, *more], **how)


def sync(device: Device, url: str, token: str) -> Outcome:
    """What a sync comes to for the one visit that has no receipt."""
    (outcome,) = device.sync(url, token).outcomes
    return outcome


def withdraw(parts: Parts, participant: str) -> None:
    """The participant asks to."""
    parts.visits.withdraw("spira", participant, why="asked to", by="a test", role="site")


def left_on(folder: Path) -> bytes:
    """Every byte that a device has on its disk."""
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_a_visit_arrives_as_it_was_recorded(
    device: Device, parts: Parts, url: str, token: str
) -> None:
    """Participant, form and every recording, of any utterance and up to sixteen; its receipt is a
    visit's, and lets go of the audio."""
    participant = new_participant()
    more = [
        Recorded(UTTERANCES[number % len(UTTERANCES)], f"sound {number}".encode(), 6, NOW)
        for number in range(15)
    ]
    id = record(device, participant, *more)
    sent = device.get(id)

    assert sync(device, url, token).state == "accepted"

    receipt = device.receipt(id)
    assert receipt is not None
    assert read_receipt(receipt, parts.keys.public()).kind == "visit"
    visit = parts.visits.about(id, "site-1")
    assert visit is not None
    assert (visit["study"], visit["participant"]) == ("spira", participant)
    assert json.loads(visit["forms"][0]["kept"])["age"] == 63
    assert {one["id"]: one["utterance"] for one in visit["recordings"]} == {
        one.id: one.utterance for one in sent.recordings
    }
    assert {device.audio(id, one.id) for one in sent.recordings} == {None}


def test_a_recording_again_names_the_visit_that_it_replaces(
    device: Device, parts: Parts, url: str, token: str
) -> None:
    """Both are the participant's, beside each other."""
    participant = new_participant()
    first = record(device, participant)
    again = record(device, participant, replaces=first)

    assert device.sync(url, token).complete

    visits = {one["id"]: one["replaces"] for one in parts.visits.of_study("spira")}
    assert visits == {first: None, again: first}


@pytest.mark.parametrize(
    ("participant", "recordings", "said"),
    [
        ("me", [SENTENCE], "visit.participant"),
        (new_participant(), [], "0 recordings"),
        (new_participant(), [SENTENCE] * 17, "17 recordings"),
        (new_participant(), [SENTENCE._replace(utterance="song")], "utterance 'song'"),  # type: ignore[arg-type]
    ],
    ids=["no pseudonym", "none", "too many", "no utterance"],
)
def test_what_no_server_takes_is_refused_at_once(
    device: Device, participant: str, recordings: list[Recorded], said: str
) -> None:
    """While the participant is still there, and without leaving anything."""
    with pytest.raises(InputError, match=said):
        device.record("spira", 1, participant, FORM, recordings)

    assert device.ids() == ()


def test_what_a_study_may_not_take_is_kept_and_told(
    device: Device, parts: Parts, study: Study, url: str, token: str
) -> None:
    """With the sentence for people; once the study is approved it is sent."""
    id = record(device, new_participant(), synthetic=False)

    refused = sync(device, url, token)

    assert refused.state == "refused"
    assert "without an ethics approval" in refused.detail
    (refusal,) = refused.refusals
    assert (refusal.what, refusal.name) == ("visit", id)
    assert refusal.sentence.pt.startswith("O estudo não pode receber esta gravação.")
    assert device.audio(id, device.get(id).recordings[0].id) == SENTENCE.audio
    approval = Approval(
        caae="12345678.9.0000.1234",
        valid_from=(NOW - timedelta(days=9)).date(),
        valid_until=(NOW + timedelta(days=9)).date(),
        consent_versions=("1",),
    )
    parts.studies.apply(study.model_copy(update={"version": 2, "ethics": approval}), by="a test")
    assert sync(device, url, token).state == "accepted"


# --- who has withdrawn ------------------------------------------------------------------------


def test_the_visit_of_somebody_who_withdrew_is_erased_for_good(
    device: Device, tmp_path: Path, parts: Parts, url: str, token: str
) -> None:
    """Audio, form and all; nobody else's."""
    gone, stays = new_participant(), new_participant()
    audio = SENTENCE._replace(audio=b"the voice of who withdrew")
    late = record(device, gone, audio, form_values=FORM | {"record_number": "of who withdrew"})
    other = record(device, stays)
    withdraw(parts, gone)

    report = device.sync(url, token)

    assert report.complete
    states = {one.id: one.state for one in report.outcomes}
    assert states == {late: "erased", other: "accepted"}
    assert device.ids() == (other,)
    assert b"who withdrew" not in left_on(tmp_path / "phone")
    assert device.sync(url, token).outcomes == ()


def test_a_visit_that_was_on_its_way_is_erased_too(
    device: Device, tmp_path: Path, parts: Parts, url: str, token: str
) -> None:
    """Under another pseudonym of the same record number, and after the server has some of it."""
    first, second = new_participant(), new_participant()
    record(device, first)
    assert sync(device, url, token).state == "accepted"
    wrong = {"form_values": FORM | {"age": "63"}}  # it has to be corrected before it is accepted
    late = record(device, second, SENTENCE._replace(audio=b"of the second"), **wrong)
    assert sync(device, url, token).state == "refused"
    withdraw(parts, first)

    assert sync(device, url, token).state == "erased"

    assert late not in device.ids()
    assert b"of the second" not in left_on(tmp_path / "phone")


def test_what_was_corrected_while_the_server_answered_is_not_erased(
    device: Device, parts: Parts, url: str, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record number was somebody else's, who withdrew; the right one is sent."""
    id = record(device, new_participant())

    def correct(*_: Any) -> None:
        monkeypatch.undo()
        device.revise(id, FORM | {"record_number": "999"})
        raise Withdrawn("the participant has withdrawn from the study")

    monkeypatch.setattr(parts.visits, "require_present", correct)
    states = [sync(device, url, token).state for _ in range(2)]

    assert states == ["waiting", "accepted"]
    assert device.ids() == (id,)


SENTENCES = {"pt": "Uma frase.", "en": "A sentence."}
GONE = {
    "status": 410,
    "detail": "gone",
    "code": "withdrawn",
    "erase": True,
    "sentence": SENTENCES,
}


@contextmanager
def answering(status: int, body: dict[str, Any]) -> Iterator[str]:
    """Something that answers every visit with this; where."""

    def answer(_: Request) -> Response:
        return JSONResponse(body, status, media_type="application/problem+json")

    app = Starlette(routes=[Route("/v1/collection/visits/{id}", answer, methods=["PUT"])])
    with listening(app) as url:
        yield url


def test_killed_at_any_step_of_erasing_it_is_there_or_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, to be erased at the next sync; or gone at the next start. Once it is told that it is
    erased, no power cut brings it back."""
    disk = Disk(monkeypatch)
    with Device(tmp_path / "phone") as device:
        id = record(device, new_participant())
    state = ""
    steps = 0
    found = set()
    with answering(410, GONE) as url:
        while state != "erased":
            folder = tmp_path / f"phone-{steps}"
            shutil.copytree(tmp_path / "phone", folder)
            with Device(folder, pace=PACE) as device:
                sent = device.get(id)
                disk.synced |= {device._at(id), *device._at(id).iterdir()}
                disk.calls, disk.dies_at = 0, steps
                with suppress(Killed):
                    state = sync(device, url, "a token").state
                    assert {folder / "visits", folder / "making"} <= disk.synced
                disk.dies_at = -1
            with Device(folder, pace=PACE) as again:
                found.add(again.ids())
                if again.ids():
                    assert again.get(id) == sent
                    assert again.audio(id, sent.recordings[0].id) == SENTENCE.audio
                    assert sync(again, url, "a token").state == "erased"
                assert again.ids() == ()
                assert SENTENCE.audio not in left_on(folder)
            steps += 1
    assert found == {(id,), ()}
    assert steps > 5


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (410, GONE, "erased"),
        (410, GONE | {"erase": False}, "refused"),
        (410, GONE | {"code": "gone"}, "refused"),
        (403, GONE | {"status": 403}, "refused"),
        (410, GONE | {"sentence": None}, "waiting"),
        (410, GONE | {"status": 200}, "waiting"),
    ],
    ids=["ours", "not to erase", "another code", "another status", "no sentence", "no status"],
)
def test_only_the_servers_own_word_erases(
    device: Device, status: int, body: dict[str, Any], state: str
) -> None:
    """A captive portal, another API or another error of ours costs nobody a recording."""
    id = record(device, new_participant())

    with answering(status, body) as url:
        assert sync(device, url, "a token").state == state

    assert (id in device.ids()) == (state != "erased")
