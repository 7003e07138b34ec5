"""The Data Collection API in this process, on real databases: what it takes, and what not."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from attacked import attack
from found import found

from spira.collection.api import Parts, create_api
from spira.collection.settings import CollectionSettings
from spira.collection.studies import Studies, default_study
from spira.collection.visits import DOUBTS, Visits, people_table
from spira.documents import parse_document
from spira.domain.recordings import LABELS
from spira.domain.studies import Approval, Study
from spira.domain.submissions import FormValues, RecordingFile, Submission
from spira.intake.checking import Found, Refused
from spira.intake.keys import KeyRing
from spira.intake.receipts import read_receipt
from spira.intake.settings import IntakeSettings, IntakeThresholds
from spira.intake.submissions import Intake, Owner
from spira.intake.tokens import Tokens
from spira.labels.store import Labels
from spira.stores.database import Database
from spira.stores.objects import Objects

SECRET = "A" * 43
OPERATIONS = 16
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

OTHER = FORM | {"record_number": "7"}


class Takes:
    """Finds everything as announced, but speech in a room."""

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, *, unfinished: bool = False
    ) -> Found | Refused:
        data = b"".join(pieces)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            return Refused(reason="wrong_digest", detail="other bytes")
        if data.startswith(b"people talk"):
            return Refused(reason="speech_in_ambient", detail="1 s of speech")
        return found(data)


def identity(number: int) -> str:
    """An id that a device may have made."""
    return f"01938f00-0000-7000-8000-{number:012d}"


class Ward:
    """A device at a site, and what the API is made of."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.keys = KeyRing.open(folder / "keys")
        self.objects = Objects.open(str(folder / "collected"), setting="a test")
        self.studies = Studies(database)
        self.visits = Visits(database, self.keys.wrapped)
        self.labels = Labels(database, lambda subject: subject)
        self.tokens = Tokens(database)
        self.consents = folder / "consents"
        self.intake = Intake(
            database,
            self.objects,
            Takes(),
            self.keys,
            IntakeSettings(),
            consents=Objects.open(str(self.consents), setting="a test"),
        )
        self.api = create_api(
            Parts(
                intake=self.intake,
                studies=self.studies,
                visits=self.visits,
                labels=self.labels,
                tokens=self.tokens,
                keys=self.keys,
                settings=CollectionSettings(),
                thresholds=IntakeThresholds(),
            )
        )
        self.token = self.tokens.create("site-1")

    def ask(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, **headers: str
    ) -> httpx.Response:
        """One request."""
        sent = {"Authorization": f"Bearer {token or self.token}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }

        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.api, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                return await client.request(
                    method, path, content=None if body is None else content, headers=sent
                )

        return asyncio.run(asked())

    def put(self, number: int, manifest: Mapping[str, Any], secret: str = SECRET) -> httpx.Response:
        """Send a manifest."""
        return self.ask(
            "PUT",
            f"/v1/collection/visits/{identity(number)}",
            manifest,
            Spira_Device_Secret=secret,
            Spira_Device_Time=datetime.now(UTC).isoformat(),
        )

    def send(self, number: int, manifest: Mapping[str, Any], *sounds: bytes) -> httpx.Response:
        """Send a visit to its end; the last answer."""
        answer = self.put(number, manifest)
        if answer.status_code != 200:
            return answer
        for told, sound in zip(answer.json().get("recordings", ()), sounds, strict=False):
            if told["state"] == "needed":
                patched = self.ask(
                    "PATCH",
                    told["upload_url"],
                    sound[told["offset"] :],
                    Tus_Resumable="1.0.0",
                    Upload_Offset=str(told["offset"]),
                    Content_Type="application/offset+octet-stream",
                )
                assert patched.status_code == 204
        return self.put(number, manifest)


def manifest(
    number: int,
    *sounds: bytes,
    participant: int = 1,
    utterances: Sequence[str] = ("sentence", "ambient_before"),
    synthetic: bool = True,
    values: Mapping[str, Any] = FORM,
    **more: Any,
) -> dict[str, Any]:
    """Of a visit."""
    return {
        "revision": 1,
        "visit": {
            "study": "spira",
            "study_version": 1,
            "participant": identity(participant),
            "synthetic": synthetic,
        },
        "form": {"id": "visit", "version": 1, "values": dict(values)},
        "recordings": [
            {
                "id": identity(1000 * number + place),
                "utterance": utterance,
                "sha256": hashlib.sha256(sound).hexdigest(),
                "n_bytes": len(sound),
                "duration_s": 6.0,
                "recorded_at": NOW.isoformat(),
            }
            for place, (sound, utterance) in enumerate(zip(sounds, utterances, strict=False))
        ],
        **more,
    }


@pytest.fixture
def study() -> Study:
    """The one that ships."""
    return parse_document(default_study(), Study, where="the default", words=True)


@pytest.fixture
def ward(database: Database, tmp_path: Path, study: Study) -> Ward:
    """With the study that ships."""
    ward = Ward(database, tmp_path)
    ward.studies.apply(study, by="a test")
    return ward


def test_a_visit_ends_with_a_receipt_that_names_all_it_holds(ward: Ward) -> None:
    """Sent again it is the same receipt, and it is a visit's."""
    sent = manifest(10, b"spoken", b"the room")
    accepted = ward.send(10, sent, b"spoken", b"the room").json()

    receipt = read_receipt(accepted["receipt"], ward.keys.public())

    assert accepted["state"] == "accepted"
    assert (receipt.kind, receipt.id, receipt.site) == ("visit", identity(10), "site-1")
    assert [one.what for one in receipt.recordings] == ["taken", "taken"]
    assert ward.put(10, sent).json()["receipt"] == accepted["receipt"]
    told = ward.ask("GET", f"/v1/collection/visits/{identity(10)}").json()
    assert told["participant"] == identity(1)
    assert (told["doubts"], told["missing"]) == ([], [])
    assert told["forms"][0]["values"]["age"] == 63
    assert FORM["record_number"] not in json.dumps(told)


def test_people_who_talk_in_the_room_hold_up_no_visit(ward: Ward) -> None:
    """That file is dropped, and the receipt says so by name."""
    sounds = (b"spoken", b"people talk")
    accepted = ward.send(11, manifest(11, *sounds), *sounds).json()

    said = read_receipt(accepted["receipt"], ward.keys.public()).recordings
    assert [(one.what, one.reason) for one in said] == [
        ("taken", None),
        ("dropped", "speech_in_ambient"),
    ]
    told = ward.ask("GET", f"/v1/collection/visits/{identity(11)}").json()
    assert [one["utterance"] for one in told["recordings"]] == ["sentence"]
    assert told["missing"] == ["ambient_before"]


def test_a_retry_after_a_partial_upload_attaches_nothing_twice_or_elsewhere(ward: Ward) -> None:
    """The visit goes on where it was; another visit of the same person is its own."""
    sound = b"spoken for a while" * 100
    sent = manifest(12, sound, utterances=("sentence",))
    (needed,) = ward.put(12, sent).json()["recordings"]
    ward.ask(
        "PATCH",
        needed["upload_url"],
        sound[:500],
        Tus_Resumable="1.0.0",
        Upload_Offset="0",
        Content_Type="application/offset+octet-stream",
    )
    other = manifest(13, b"another day", utterances=("sentence",))
    assert ward.send(13, other, b"another day").json()["state"] == "accepted"

    (goes_on,) = ward.put(12, sent).json()["recordings"]
    accepted = ward.send(12, sent, sound).json()

    assert (goes_on["upload_url"], goes_on["offset"]) == (needed["upload_url"], 500)
    assert accepted["state"] == "accepted"
    recordings = ward.visits.recordings([identity(12), identity(13)])
    for number, bytes_ in ((12, sound), (13, b"another day")):
        (one,) = recordings[identity(number)]
        assert ward.objects.read(one["original"]) == bytes_


def approve(ward: Ward, study: Study) -> Approval:
    """Apply a version of the study that may take people's voices for a month."""
    month = timedelta(days=30)
    approval = Approval(
        caae="12345678.9.0000.1234",
        valid_from=(NOW - month).date(),
        valid_until=(NOW + month).date(),
        consent_versions=("1",),
    )
    second = {"version": 2, "ethics": approval}
    ward.studies.apply(study.model_copy(update=second), by="a test")
    return approval


def test_without_an_approval_only_synthetic_voices_are_taken(ward: Ward, study: Study) -> None:
    """With one, those of its days and with a text that it covers; what was taken stays taken."""
    real = manifest(14, b"spoken", utterances=("sentence",), synthetic=False)
    refused = ward.send(14, real, b"spoken")
    assert (refused.status_code, refused.json()["code"]) == (403, "not_approved")
    assert "sem aprovação" in refused.json()["why"]["pt"]

    approval = approve(ward, study)
    accepted = ward.send(14, real, b"spoken").json()
    assert accepted["state"] == "accepted"
    other_text = manifest(
        15,
        b"spoken",
        utterances=("sentence",),
        synthetic=False,
        values=FORM | {"consent_form_version": "9"},
    )
    assert ward.put(15, other_text).json()["code"] == "not_approved"

    day = timedelta(days=1)
    ended = approval.model_copy(update={"valid_until": (NOW - 2 * day).date()})
    ward.studies.apply(study.model_copy(update={"version": 3, "ethics": ended}), by="a test")
    assert ward.put(14, real).json()["receipt"] == accepted["receipt"]
    late = manifest(16, b"spoken", utterances=("sentence",), synthetic=False)
    assert ward.put(16, late).json()["code"] == "not_approved"
    before = ended.valid_until - day
    for place in (0, 1):
        one_late = manifest(16, b"spoken", b"the room", synthetic=False)
        one_late["recordings"][place]["recorded_at"] = f"{before}T12:00:00-03:00"
        assert ward.put(16, one_late).json()["code"] == "not_approved"


def test_a_yes_can_be_taken_back_and_is_given_to_no_text_that_is_not_approved(
    ward: Ward, study: Study
) -> None:
    """By amending; and neither who did not agree nor a made voice is one of the people wanted."""
    approve(ward, study)
    real = manifest(17, b"spoken", utterances=("sentence",), synthetic=False)
    made = manifest(18, b"spoken", utterances=("sentence",), participant=2, values=OTHER)
    for number, one in ((17, real), (18, made)):
        assert ward.send(number, one, b"spoken").json()["state"] == "accepted"
    path = f"/v1/collection/visits/{identity(17)}/form"

    def amend(version: int, **change: Any) -> Any:
        form = {"id": "visit", "version": 1, "values": FORM | change}
        answer = ward.ask("POST", path, {"form": form, "version": version, "reason": "x"})
        return answer.json().get("code", answer.status_code)

    assert people_table(ward.visits, "spira").height == 1
    assert amend(2, consent_form_version="9") == "not_approved"
    assert amend(2, research_consent=False, consent_form_version="9") == 200
    assert people_table(ward.visits, "spira").is_empty()
    assert amend(3, consent_form_version="9") == "not_approved"
    assert amend(3) == 200
    assert people_table(ward.visits, "spira").height == 1


def test_a_device_is_told_to_erase_who_has_withdrawn(ward: Ward) -> None:
    """Also a visit that was on its way, and one under another pseudonym of the same number."""
    sounds = (b"spoken", b"the room")
    ward.send(17, manifest(17, *sounds), *sounds)
    on_its_way = manifest(18, *sounds)
    ward.put(18, on_its_way)

    answer = ward.ask(
        "POST",
        f"/v1/collection/participants/{identity(1)}/withdraw",
        {"study": "spira", "reason": "asked to"},
    )

    assert answer.json() == {"participants": [identity(1)]}
    for number, late in ((18, on_its_way), (19, manifest(19, *sounds, participant=2))):
        refused = ward.send(number, late, *sounds)
        assert (refused.status_code, refused.json()["code"]) == (410, "withdrawn")
        assert refused.json()["erase"] is True
    assert ward.visits.of_study("spira") == []


def test_a_form_is_amended_beside_what_was_sent(ward: Ward) -> None:
    """With a reason; an invalid one is refused with every field, and the other site has none."""
    sounds = (b"spoken", b"the room")
    ward.send(20, manifest(20, *sounds), *sounds)
    path = f"/v1/collection/visits/{identity(20)}/form"
    form = {"id": "visit", "version": 1, "values": FORM | {"age": 36}}

    assert ward.ask("POST", path, {"form": form, "version": 2}).json()["code"] == "no_reason"
    assert ward.ask("POST", path, {"reason": "no form"}).json()["code"] == "bad_manifest"
    wrong = {"form": form | {"values": {"age": "old"}}, "version": 2, "reason": "typed wrongly"}
    refused = ward.ask("POST", path, wrong).json()
    assert {"age", "sex"} <= {one["where"] for one in refused["places"]}
    elsewhere = ward.tokens.create("site-2")
    right = {"form": form, "version": 2, "reason": "typed wrongly"}
    assert ward.ask("POST", path, right, token=elsewhere).status_code == 404
    assert ward.ask("POST", path, right).json()["version"] == 2

    told = ward.ask("GET", f"/v1/collection/visits/{identity(20)}").json()
    assert [one["values"]["age"] for one in told["forms"]] == [63, 36]


def test_a_late_retry_of_an_amendment_reverts_nothing(ward: Ward, study: Study) -> None:
    """It is answered as before, whatever became of the approval since; whoever has not seen the
    last form is told to read it."""
    approve(ward, study)
    real = manifest(26, b"spoken", utterances=("sentence",), synthetic=False)
    assert ward.send(26, real, b"spoken").json()["state"] == "accepted"
    path = f"/v1/collection/visits/{identity(26)}"

    def amend(version: int, **change: Any) -> httpx.Response:
        form = {"id": "visit", "version": 1, "values": FORM | change}
        asked = {"form": form, "version": version, "reason": "x"}
        return ward.ask("POST", f"{path}/form", asked)

    first = amend(2, research_consent=False)
    again = amend(3, age=36)
    amend(4, research_consent=False, age=36)
    unapproved = study.model_copy(update={"version": 3, "ethics": None})
    ward.studies.apply(unapproved, by="a test")

    assert amend(2, research_consent=False).json() == first.json()
    assert amend(3, age=36).json() == again.json()
    for version in (3, 6):
        refused = amend(version, research_consent=False, age=37)
        assert (refused.status_code, refused.json()["code"]) == (409, "amended")
        assert "read the visit" in refused.json()["detail"]
    forms = ward.ask("GET", path).json()["forms"]
    assert [one["values"]["research_consent"] for one in forms] == [True, False, True, False]


def test_who_cannot_keep_a_spoken_consent_is_not_ready(ward: Ward) -> None:
    """Its store is asked too: no visit with one could be taken."""
    ready = ward.ask("GET", "/readyz").status_code
    ward.consents.rmdir()
    ward.consents.touch()

    assert (ready, ward.ask("GET", "/readyz").status_code) == (200, 503)


def word(**change: Any) -> dict[str, Any]:
    """What a clinician says of a participant."""
    said = {
        "id": identity(900),
        "study": "spira",
        "participant": identity(1),
        "at": (NOW - timedelta(minutes=5)).isoformat(),
        "kind": "spo2",
        "value": 88,
        "breathing": "room_air",
    }
    return said | change


def say(ward: Ward, said: Mapping[str, Any], **headers: str) -> httpx.Response:
    """Send it."""
    clock = {"Spira_Device_Time": datetime.now(UTC).isoformat()} | headers
    return ward.ask("POST", "/v1/collection/labels", said, **clock)


def test_a_clinicians_word_is_there_once_however_often_it_is_sent(ward: Ward) -> None:
    """And another word under its id is told; also by a clock that goes on between."""
    first = say(ward, word()).json()
    again = say(ward, word(), Spira_Device_Time=(NOW + timedelta(hours=1)).isoformat()).json()
    other = say(ward, word(value=98))

    assert (first["added"], again["added"]) == (True, False)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")


def test_a_clinicians_time_is_corrected_as_a_recordings_is(ward: Ward) -> None:
    """By what the device says its clock is, which it must: else it would be an hour from its
    recording."""
    hour = timedelta(hours=1)
    ahead = (datetime.now(UTC) + 2 * hour).isoformat()

    assert say(ward, word(at=(NOW + 2 * hour).isoformat())).json()["places"][0]["where"] == "at"
    said = say(ward, word(at=(NOW + 2 * hour).isoformat()), Spira_Device_Time=ahead)
    untold = ward.ask("POST", "/v1/collection/labels", word(id=identity(901)))

    assert untold.status_code == 400
    assert said.json()["added"]
    subject = f"participant:spira/{identity(1)}"
    (stored,) = ward.labels.versions([subject], datetime.now(UTC))
    assert stored.entry.observation is not None
    assert abs(stored.entry.observation.at - NOW) < timedelta(minutes=1)


def test_a_word_of_somebody_who_has_not_come_yet_waits_for_them(ward: Ward) -> None:
    """It is kept, and whoever says it is told so."""
    early = say(ward, word()).json()
    sounds = (b"spoken", b"the room")
    ward.send(21, manifest(21, *sounds), *sounds)
    late = say(ward, word(id=identity(901))).json()

    assert (early["added"], early["known"]) == (True, False)
    assert early["sentence"]["pt"].startswith("Guardado. Ainda não chegou visita")
    assert (late["known"], late["sentence"]) == (True, None)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"value": 0.93}, "value"),
        ({"value": 880}, "value"),
        ({"value": None}, "kind"),
        ({"kind": "diagnosis", "value": None, "code": "J96.01"}, "code"),
        ({"kind": "judgement", "value": None, "code": "maybe"}, "code"),
        ({"kind": "support", "code": "none"}, "kind"),
        ({"kind": "mood"}, "kind"),
        ({"at": "2199-01-01T00:00:00Z"}, "at"),
        ({"at": "9999-12-31T23:59:59-12:00"}, "at"),
        ({"at": "0001-01-01T00:00:00+14:00"}, "at"),
        ({"study": "31415926535\x00"}, "study"),
        ({"participant": "31415926535"}, "participant"),
    ],
    ids=lambda one: str(one)[:40],
)
def test_a_word_that_cannot_be_true_is_refused_by_its_place(
    ward: Ward, change: Mapping[str, Any], where: str
) -> None:
    """Without what stands there."""
    refused = say(ward, word(**change))

    assert (refused.status_code, refused.json()["code"]) == (400, "bad_manifest")
    assert [one["where"] for one in refused.json()["places"]] == [where]
    for typed in ("0.93", "880", "J96.01", "maybe", "mood", "9999", "31415926535"):
        assert typed not in refused.text


def test_nothing_is_said_of_who_has_withdrawn(ward: Ward) -> None:
    """Nor sent again; and a site withdraws whom it recorded, though it takes part no more."""
    say(ward, word())
    study = ward.studies.study("spira")
    others = tuple(one for one in study.sites if one.name != "site-1")
    targets = tuple(one.model_copy(update={"site": ("site-2",)}) for one in study.targets)
    changed = {"version": 2, "sites": others, "targets": targets}
    ward.studies.apply(study.model_copy(update=changed), by="a test")
    path = f"/v1/collection/participants/{identity(1)}/withdraw"
    body = {"study": "spira", "reason": "asked to"}
    stranger = ward.tokens.create("elsewhere")

    assert ward.ask("POST", path, body, token=stranger).json()["code"] == "unknown_study"
    assert ward.ask("POST", path, body).status_code == 200
    for said in (word(), word(id=identity(901))):
        refused = say(ward, said)
        assert (refused.status_code, refused.json()["erase"]) == (410, True)
    assert len(ward.labels.versions([f"participant:spira/{identity(1)}"], datetime.now(UTC))) == 1


def test_a_form_without_its_record_number_keeps_the_one_that_is_there(ward: Ward) -> None:
    """An app cannot send back what it is never told; null takes it out."""
    sounds = (b"spoken", b"the room")
    for number, participant in ((22, 1), (23, 2)):
        ward.send(number, manifest(number, *sounds, participant=participant), *sounds)
    path = f"/v1/collection/visits/{identity(23)}/form"
    told = ward.ask("GET", f"/v1/collection/visits/{identity(23)}").json()["forms"][0]["values"]

    def amend(version: int, **change: Any) -> None:
        form = {"id": "visit", "version": 1, "values": told | change}
        ward.ask("POST", path, {"form": form, "version": version, "reason": "age"})

    amend(2, age=36)
    assert {one["person"] for one in ward.visits.of_study("spira")} == {identity(1)}
    amend(3, age=36, record_number=None)
    assert len({one["person"] for one in ward.visits.of_study("spira")}) == 2


def test_what_is_in_doubt_is_told_with_what_to_do(ward: Ward) -> None:
    """In both languages; a spoken consent that nobody recorded, and a visit sent anew."""
    values = FORM | {"consent_how": "spoken"}
    sounds = (b"spoken", b"the room")
    ward.send(24, manifest(24, *sounds, values=values), *sounds)
    itself = ward.put(25, manifest(25, *sounds, replaces=identity(25)))
    ward.send(25, manifest(25, *sounds, replaces=identity(24)), *sounds)

    told = ward.ask("GET", f"/v1/collection/visits/{identity(24)}").json()

    assert [one["where"] for one in itself.json()["places"]] == ["replaces"]
    assert [one["reason"] for one in told["doubts"]] == ["no_consent", "replaced"]
    for sentence in DOUBTS.values():
        assert 0 < len(sentence.pt) <= 90
        assert 0 < len(sentence.en) <= 90


def test_a_collector_learns_whom_to_find_and_never_a_label(ward: Ward) -> None:
    """The lead's balance is for the lead."""
    sounds = (b"spoken", b"the room")
    ward.send(26, manifest(26, *sounds), *sounds)
    visit = ward.ask("GET", f"/v1/collection/visits/{identity(26)}")
    said = say(ward, word())
    today = ward.ask("GET", "/v1/collection/studies/spira/today").json()
    studies = ward.ask("GET", "/v1/collection/studies").json()
    balance = "/v1/collection/studies/spira/balance"
    lead = ward.tokens.create("site-1", "lead")

    assert today["sentence"]["pt"].startswith("Hoje, procure: ")
    (told,) = studies["studies"]
    assert {"targets", "ethics"}.isdisjoint(told)
    for answer in (today, visit.json(), said.json()):
        assert not any(f'"{label}"' in json.dumps(answer) for label in LABELS)
    assert ward.ask("GET", balance).json()["code"] == "not_lead"
    told = ward.ask("GET", balance, token=lead).json()
    assert (told["people"]["present"], told["label_policy"]) == (1, "ri-v1")
    elsewhere = ward.tokens.create("elsewhere", "lead")
    assert ward.ask("GET", balance, token=elsewhere).json()["code"] == "unknown_study"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"visit": {"study": "spira", "study_version": 9, "participant": identity(1)}}, 404),
        ({"visit": {"study": "other", "study_version": 1, "participant": identity(1)}}, 404),
        ({"visit": {"study": "spira", "study_version": 1, "participant": "me"}}, 400),
        ({"form": {"id": "visit", "version": 9, "values": {}}}, 400),
        ({"recordings": []}, 400),
        ({"more": 1}, 400),
    ],
    ids=["version", "study", "participant", "form", "nothing", "more"],
)
def test_what_is_no_visit_is_refused(ward: Ward, change: Mapping[str, Any], code: int) -> None:
    """By the place; and nothing is kept."""
    refused = ward.put(30, manifest(30, b"spoken", b"room") | change)

    assert refused.status_code == code
    assert refused.json()["sentence"]["pt"]
    assert ward.ask("GET", f"/v1/collection/visits/{identity(30)}").status_code == 404


def test_a_site_that_takes_no_part_is_told_so(ward: Ward) -> None:
    """Its token is good for other studies."""
    token = ward.tokens.create("elsewhere")

    assert ward.ask("GET", "/v1/collection/studies", token=token).json() == {"studies": []}
    path = "/v1/collection/studies/spira/today"
    assert ward.ask("GET", path, token=token).json()["code"] == "unknown_study"


def test_the_id_of_an_assessment_is_no_visits(ward: Ward) -> None:
    """What one API has announced the other one does not go on with."""
    sent = manifest(31, b"spoken", b"the room")
    files = tuple(RecordingFile.model_validate(one) for one in sent["recordings"])
    form = FormValues(id="assessment", version=1, values={})
    other = Submission(kind="assessment", id=identity(31), revision=1, form=form, files=files)
    ward.intake.commit(other, Owner("site-1", f"{SECRET}="), lambda tables, accepted: None)

    refused = ward.put(31, sent | {"revision": 2})

    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("examples", [5, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)], indirect=True
)
def test_whatever_is_asked_is_answered_as_the_document_says(
    ward: Ward, study: Study, examples: int
) -> None:
    """With and without mistakes, at every address; nothing is answered with 500 or above."""
    ever = Approval(
        caae="12345678.9.0000.1234",
        valid_from=date(1900, 1, 1),
        valid_until=date(2300, 1, 1),
        consent_versions=("1",),
    )
    ward.studies.apply(study.model_copy(update={"version": 2, "ethics": ever}), by="a test")
    sounds = (b"spoken", b"the room")
    ward.send(1, manifest(1, *sounds), *sounds)
    needed, _ = ward.put(2, manifest(2, *sounds, participant=2)).json()["recordings"]
    document = ward.api.openapi()
    known = {"study": ["spira"], "study_version": [1], "participant": [identity(9)]}
    known |= {"at": [NOW.isoformat()], "kind": ["spo2"], "value": [88]}
    schemas = document["components"]["schemas"]
    for name in ("Visit", "Withdrawal", "Said"):  # which there are is no matter of the document
        schemas[name]["properties"] |= {
            key: {"enum": values}
            for key, values in known.items()
            if key in schemas[name]["properties"]
        }
    schemas["FormValues"]["properties"] |= {"id": {"enum": ["visit"]}, "version": {"enum": [1]}}
    for header in document["paths"]["/v1/collection/labels"]["post"]["parameters"]:
        if header["name"] == "Spira-Device-Time":
            header["schema"] = {"enum": [NOW.isoformat()]}
    ward.api.openapi = lambda: document  # type: ignore[method-assign]
    there = {
        "/v1/collection/visits": {"id": identity(1)},
        "/v1/collection/participants": {"id": identity(1)},
        "/v1/collection/studies": {"study": "spira"},
        "/v1/uploads": {"upload": needed["upload_url"].rpartition("/")[2]},
    }
    lead = ward.tokens.create("site-1", "lead")

    answered = attack(ward.api, lead, there, examples)

    assert len(answered) == OPERATIONS
    assert answered["PUT /v1/collection/visits/{id}"] >= {200, 400, 401}
    assert answered["GET /v1/collection/visits/{id}"] >= {200, 400, 401, 404}
    assert answered["POST /v1/collection/visits/{id}/form"] >= {400, 401, 404}
    assert answered["POST /v1/collection/participants/{id}/withdraw"] >= {200, 400, 401}
    assert answered["POST /v1/collection/labels"] >= {200, 400, 401}
    assert answered["GET /v1/collection/studies/{study}/balance"] >= {200, 401}
