"""What the real Client API, in this process, tells of assessments that were really accepted."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from found import found
from listening import listening
from starlette.types import Message, Receive, Scope, Send

from spira.audio.quality import QualityThresholds
from spira.device.line import Pace
from spira.domain.submissions import RecordingFile
from spira.intake import audit
from spira.intake.checking import Found, Refused
from spira.intake.keys import KeyRing
from spira.intake.settings import IntakeSettings
from spira.intake.submissions import Intake, SendAgain
from spira.intake.tokens import Tokens
from spira.serving.api import Parts, create_api
from spira.serving.assessments import Assessments
from spira.serving.client import Device, Recorded
from spira.serving.messages import Reply
from spira.serving.results import Results
from spira.serving.settings import ServingSettings
from spira.stores.database import Database
from spira.stores.objects import Objects

SOUND = b"the bytes of a recording"
FORM = {
    "record_number": "111",
    "age": 63,
    "language": "pt-BR",
    "tracheostomy": False,
    "intubated": False,
    "patient_informed": True,
    "research_consent": False,
}
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # it matters little


def identity(number: int) -> str:
    """An id that a device may have made."""
    return f"01938f00-0000-7000-8000-{number:012d}"


class Good:
    """Finds every recording good."""

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, *, unfinished: bool = False
    ) -> Found | Refused:
        assert type(file) is RecordingFile  # a child that checks knows no other
        return found(SOUND)


class Ward:
    """A device of a site, and what it is told."""

    def __init__(self, parts: Parts, site: str) -> None:
        self.api = create_api(parts)
        self.token = parts.tokens.create(site)
        self._headers = {
            "Authorization": f"Bearer {self.token}",
            "Spira-Device-Secret": "A" * 43,
        }

    def ask(self, method: str, path: str, **how: Any) -> httpx.Response:
        """One request."""

        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.api)
            headers = self._headers | how.pop("headers", {})
            async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
                return await client.request(method, path, headers=headers, **how)

        return asyncio.run(asked())

    def put(
        self,
        number: int,
        values: dict[str, Any] | None = None,
        *,
        utterance: str = "sentence",
        recorded_at: str = "2026-03-01T12:00:00Z",
        **more: Any,
    ) -> httpx.Response:
        """Send the manifest of an assessment."""
        recording = {
            "id": identity(number + 1000),
            "utterance": utterance,
            "sha256": hashlib.sha256(SOUND).hexdigest(),
            "n_bytes": len(SOUND),
            "duration_s": 6.0,
            "recorded_at": recorded_at,
        }
        form = {"id": "assessment", "version": 1, "values": {**FORM, **(values or {})}}
        manifest = {"revision": 1, "form": form, "recordings": [recording], **more}
        return self.ask("PUT", f"/v1/assessments/{identity(number)}", json=manifest)

    def send(self, number: int, *about: Any, **more: Any) -> dict[str, Any]:
        """Send an assessment to its receipt; the last answer."""
        for one in self.put(number, *about, **more).json()["recordings"]:
            tus = {
                "Tus-Resumable": "1.0.0",
                "Upload-Offset": "0",
                "Content-Type": "application/offset+octet-stream",
            }
            self.ask("PATCH", one["upload_url"], content=SOUND, headers=tus)
        told: dict[str, Any] = self.put(number, *about, **more).json()
        assert told["state"] == "accepted", told
        return told

    def get(self, number: int) -> dict[str, Any]:
        """What is told of an assessment."""
        told: dict[str, Any] = self.ask("GET", f"/v1/assessments/{identity(number)}").json()
        return told

    def search(self, record_number: str) -> list[dict[str, Any]]:
        """What is told of a patient's."""
        body = {"record_number": record_number}
        answer = self.ask("POST", "/v1/assessments/search", json=body)
        told: list[dict[str, Any]] = answer.json()["assessments"]
        return told


@pytest.fixture
def parts(database: Database, tmp_path: Path) -> Parts:
    """The API's parts."""
    keys = KeyRing.open(tmp_path / "keys")
    objects = Objects.open(str(tmp_path / "recordings"), setting="a test")
    return Parts(
        intake=Intake(database, objects, Good(), keys, IntakeSettings()),
        assessments=Assessments(database),
        tokens=Tokens(database),
        keys=keys,
        settings=ServingSettings(),
        thresholds=QualityThresholds(),
    )


@pytest.fixture
def ward(parts: Parts) -> Ward:
    """Of the site `ward`."""
    return Ward(parts, "ward")


@on_sqlite
@pytest.mark.parametrize("utterance", ["consent", "other"])
def test_spoken_consent_is_no_recording_of_an_assessment(ward: Ward, utterance: str) -> None:
    """It holds a name, and belongs elsewhere: it is refused before a byte of it is sent."""
    answer = ward.put(1, utterance=utterance)

    assert answer.status_code == 400
    place = answer.json()["places"][0]
    assert place["where"] == "recordings.0.utterance"
    assert "'sentence', 'rhyme', 'vowel', 'ambient_before' or 'ambient_after'" in place["what"]


@on_sqlite
def test_what_somebody_must_correct_is_the_headline(ward: Ward) -> None:
    """It is not sent by itself when there is a network; what is only on its way is."""
    on_its_way = ward.put(1).json()
    refused = ward.put(2, {"age": "sixty"}).json()

    assert on_its_way["sentence"]["pt"].startswith("Envio incompleto. O resto será enviado")
    assert refused["sentence"]["pt"].startswith("Corrija o que está indicado.")
    assert [field["name"] for field in refused["fields"]] == ["age"]


@on_sqlite
def test_a_refused_recording_is_the_headline_too(
    ward: Ward, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody sends another one by itself."""
    monkeypatch.setattr(parts.intake, "_settings", IntakeSettings(largest_file_bytes=3))

    told = ward.put(1).json()

    assert told["recordings"][0]["reason"] == "too_large"
    assert told["sentence"]["pt"].startswith("Corrija o que está indicado.")


@on_sqlite
def test_whoever_is_accepted_may_go_on(ward: Ward) -> None:
    """In the words of the ward, each time."""
    told = ward.send(1)

    assert told["sentence"]["pt"] == "Recebido pelo servidor. Pode seguir."
    assert ward.put(1).json() == told


@on_sqlite
def test_another_manifest_is_told_in_the_words_of_a_manifest(ward: Ward) -> None:
    """Before the receipt and after it: where it differs, and what a person can do."""
    changed = {"recorded_at": "2026-03-01T13:00:00Z"}
    ward.put(1)
    before = ward.put(1, **changed)
    ward.send(1)
    after = ward.put(1, **changed)

    for answer in (before, after):
        assert answer.status_code == 409
        assert answer.json()["differs"] == ["recordings[0].recorded_at"]
        assert answer.json()["sentence"]["pt"].startswith("O servidor tem outra versão")
    assert "higher revision" in before.json()["detail"]


@on_sqlite
def test_what_changed_while_it_was_sent_is_not_a_server_that_is_away(
    ward: Ward, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent again by itself, and nothing is lost."""

    def changed(*_: Any, **__: Any) -> None:
        raise SendAgain("it changed meanwhile; send the manifest again")

    monkeypatch.setattr(parts.intake, "commit", changed)
    answer = ward.put(1)

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json()["sentence"]["pt"].startswith("A avaliação mudou durante o envio.")


@on_sqlite
def test_what_is_not_there_is_looked_for_by_its_record_number(ward: Ward) -> None:
    """The id that was asked for is nothing that a person could check."""
    assert ward.get(1)["sentence"]["pt"].endswith("Busque pelo prontuário.")


@on_sqlite
def test_an_impossible_value_is_told_wherever_its_assessment_is(ward: Ward) -> None:
    """A mistyped SpO2 silences the banner: whoever sends, reads or searches sees that."""
    values = {"spo2": 8.8, "heart_rate": 45, "cid10": "what he had"}

    incomplete, accepted = ward.put(1, values).json(), ward.send(1, values)
    read, (searched,) = ward.get(1), ward.search("111")

    marks = {mark["name"]: mark["reason"] for mark in read["marks"]}
    assert marks == {"spo2": "impossible", "cid10": "wrong_format"}
    said = {mark["name"]: mark["sentence"]["pt"] for mark in read["marks"]}
    assert said["spo2"].endswith("valor impossível (vai de 30 a 100 %). Guardado e não usado.")
    assert (read["banner"], "8.8" in str(read)) == (None, False)
    for told in (incomplete, accepted, searched):
        assert told["marks"] == read["marks"]
    ward.send(2)
    assert ward.get(2)["marks"] == []


@on_sqlite
@pytest.mark.parametrize(
    ("age", "said"),
    [
        (63, "Não declarado, suposto como no teste: aparelho."),
        (
            170,
            "Não declarado, suposto como no teste: aparelho. Idade: valor impossível "
            "(vai de 0 a 125 anos). Guardado e não usado. Suposto como no teste.",
        ),
    ],
)
def test_an_impossible_value_is_not_told_as_one_that_nobody_declared(
    ward: Ward, parts: Parts, reply_to: Callable[..., Reply], age: int, said: str
) -> None:
    """170 may stand for 17: whoever reads the answer hears that the age was not used."""
    ward.send(1, {"age": age})

    assert Results(parts.assessments).write(reply_to(identity(1)))

    assert ward.get(1)["answer"]["assumed"]["pt"] == said


@on_sqlite
def test_what_failed_says_why_to_an_app_and_what_to_do_to_a_person(
    ward: Ward, parts: Parts, reply_to: Callable[..., Reply]
) -> None:
    """The kind of its dead letter."""
    ward.send(1)

    assert Results(parts.assessments).write(reply_to(identity(1), 1, "failed"))

    told = ward.get(1)
    assert (told["state"], told["answer"]["failure"]) == ("failed", "input")
    assert told["sentence"]["pt"].endswith("Grave de novo.")


# --- what replaces another ----------------------------------------------------------------------


def struck(told: dict[str, Any]) -> tuple[str | None, bool]:
    """By which it is replaced, and whether it is voided."""
    by = told["replaced_by"]
    return by and by["id"], told["voided"] is not None


def voids(database: Database) -> list[tuple[str, str | None]]:
    """(which, why) of what was voided, from an audit that is whole."""
    with database.reading() as tables:
        audit.verify(tables)
        rows = [json.loads(line) for line in audit.export(tables)]
    return [(row["which"], row["why"]) for row in rows if row["what"] == "assessment voided"]


@pytest.mark.parametrize("first", [1, 2], ids=["in order", "newest first"])
def test_a_corrected_record_number_voids_what_was_recorded_on_the_wrong_patient(
    ward: Ward, database: Database, first: int
) -> None:
    """In whichever order the two arrive: whoever searches the wrong patient sees that it is not
    theirs, and the audit says why."""
    about = {
        1: partial(ward.send, 1, {"record_number": "111"}),
        2: partial(ward.send, 2, {"record_number": "222"}, replaces=identity(1)),
    }
    about[first]()
    about[3 - first]()

    (wrong,), (right,) = ward.search("111"), ward.search("222")
    assert struck(wrong) == (identity(2), True)
    assert wrong["replaced_by"]["sentence"]["pt"].endswith("Não use este resultado.")
    assert struck(right) == (None, False)
    assert voids(database) == [(identity(1), f"record number corrected in {identity(2)}")]


@pytest.mark.parametrize("first", [1, 2], ids=["in order", "newest first"])
def test_a_re_recording_of_the_same_patient_is_only_marked(
    ward: Ward, parts: Parts, database: Database, first: int
) -> None:
    """However the number is written, and under whichever key it was hashed; whoever follows the
    site's changes hears of it."""
    about = {
        1: partial(ward.send, 1, {"record_number": "12.345-a"}),
        2: partial(ward.send, 2, {"record_number": "12345A"}, replaces=identity(1)),
    }
    about[first]()
    parts.keys.rotate("records", "ward")
    before = ward.ask("GET", "/v1/assessments").json()["next"]
    about[3 - first]()

    page = ward.ask("GET", "/v1/assessments", params={"after": before}).json()
    assert identity(1) in [one["id"] for one in page["assessments"]]
    assert struck(ward.get(1)) == (identity(2), False)
    assert struck(ward.get(2)) == (None, False)
    assert voids(database) == []


@on_sqlite
def test_of_several_re_recordings_the_last_one_recorded_is_named(ward: Ward) -> None:
    """Not the last that arrived."""
    ward.send(1)
    ward.send(3, replaces=identity(1), recorded_at="2026-03-01T14:00:00Z")
    ward.send(2, replaces=identity(1), recorded_at="2026-03-01T13:00:00Z")

    assert struck(ward.get(1)) == (identity(3), False)


@on_sqlite
def test_nothing_is_voided_by_a_number_that_cannot_be_compared(
    ward: Ward, parts: Parts, wait_for_answer: Callable[..., str]
) -> None:
    """Its hash is under a key that is not here, as where a copy of the keys lags behind."""
    wait_for_answer(1, record=f"records-{'0' * 16}:{'0' * 64}")

    ward.send(2, replaces=identity(1))

    assert struck(ward.get(1)) == (identity(2), False)


@on_sqlite
def test_what_is_voided_stays_as_it_was_when_it_is_replaced_too(
    ward: Ward, database: Database
) -> None:
    """With the reason that somebody gave."""
    ward.send(1)
    ward.ask("POST", f"/v1/assessments/{identity(1)}/void", json={"reason": "wrong bed"})
    ward.send(2, {"record_number": "222"}, replaces=identity(1))

    assert struck(ward.get(1)) == (identity(2), True)
    assert voids(database) == [(identity(1), "wrong bed")]


def test_what_is_replaced_elsewhere_is_neither_told_nor_touched(ward: Ward, parts: Parts) -> None:
    """An unknown id and one of another site: both are taken as anything else, and alike."""
    clinic = Ward(parts, "clinic")
    clinic.send(1, {"record_number": "111"})

    elsewhere = ward.send(2, {"record_number": "222"}, replaces=identity(1))
    unknown = ward.send(3, {"record_number": "222"}, replaces=identity(99))

    assert {*elsewhere} == {*unknown}
    assert struck(clinic.get(1)) == (None, False)
    ward.send(99, {"record_number": "222"})
    clinic.send(98, {"record_number": "222"}, replaces=identity(99))
    assert struck(ward.get(99)) == (identity(3), False)


@on_sqlite
def test_nothing_replaces_itself(ward: Ward) -> None:
    """It would strike itself through."""
    answer = ward.put(1, replaces=identity(1))

    assert answer.status_code == 400
    assert [place["where"] for place in answer.json()["places"]] == ["replaces"]


@on_sqlite
def test_a_patient_corrected_after_a_lost_answer_is_not_left_on_the_wrong_one(
    ward: Ward, tmp_path: Path
) -> None:
    """The phone never heard that the first was accepted, and the clinician corrected the number:
    the real library, the real API, and a network between them that loses one answer."""
    lost = []

    async def losing(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if not lost and b'"accepted"' in message.get("body", b""):
                lost.append(message)
                raise OSError("the network")
            await send(message)

        await ward.api(scope, receive, sent)

    with listening(losing) as url, Device(tmp_path / "phone", pace=Pace(tries=1)) as phone:
        recorded = Recorded("sentence", SOUND, 6.0, datetime.now(UTC))
        name = phone.record({**FORM, "record_number": "111"}, [recorded])
        assert not phone.sync(url, ward.token).complete
        phone.revise(name, {**FORM, "record_number": "222"})
        assert any(phone.sync(url, ward.token).complete for _ in range(5))

    (wrong,), (right,) = ward.search("111"), ward.search("222")
    assert struck(wrong) == (right["id"], True)
    assert struck(right) == (None, False)
