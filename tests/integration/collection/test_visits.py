"""Visits on real databases: written whole, of one participant, amended, withdrawn."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import uuid_utils
from found import found

from spira.collection.tables import FORMS, VISITS
from spira.collection.visits import Visits, Withdrawn, visit_table
from spira.domain.forms import Filled
from spira.domain.labels import Entry, Observation
from spira.domain.recordings import Described
from spira.domain.submissions import FormValues, RecordingFile, Submission, Visit
from spira.intake import audit
from spira.intake.keys import KeyRing
from spira.intake.submissions import Accepted, Stored
from spira.labels.store import Labels
from spira.stores.database import Database

NOW = datetime.now(UTC)
BRASILIA = timezone(timedelta(hours=-3))
SITE, HOSPITAL, STUDY = "ward-a", "hospital", "spira"
VALUES = {"age": 61, "sex": "female", "research_consent": True}


class Ward:
    """Where visits come from."""

    def __init__(self, database: Database, keys: KeyRing) -> None:
        self.database, self.keys = database, keys
        self.visits = Visits(database, keys.wrapped)

    def hashes(self, number: str | None) -> Sequence[str]:
        """Of a record number, under every key."""
        return () if number is None else self.keys.record_hashes(HOSPITAL, number)

    def visit(
        self,
        participant: str,
        number: str | None = None,
        *,
        at: datetime = NOW,
        ahead_s: float | None = 0.0,
        **values: Any,
    ) -> str:
        """A visit that was accepted; its id."""
        id = str(uuid_utils.uuid7())
        file = RecordingFile(
            id=str(uuid_utils.uuid7()),
            utterance="sentence",
            sha256=hashlib.sha256(id.encode()).hexdigest(),
            n_bytes=1000,
            duration_s=6,
            recorded_at=at,
        )
        submission = Submission(
            kind="visit",
            id=id,
            revision=1,
            form=FormValues(id="visit", version=1, values={}),
            files=(file,),
            visit=Visit(study=STUDY, study_version=1, participant=participant),
        )
        audio = Described(**found(b"").model_dump(exclude={"audio"}))
        stored = Stored(
            file=file, place=f"recordings/{id}", found=audio, audio=None, audio_sha256=None
        )
        accepted = Accepted(submission, SITE, NOW, ahead_s, (stored,))
        take = self.visits.taken(filled(**values), self.hashes(number), "token 1")
        with self.database.writing() as tables:
            take(tables, accepted)
        return id

    def people(self) -> dict[str, str]:
        """The person of each visit that counts."""
        return {row["id"]: row["person"] for row in self.visits.of_study(STUDY)}


def filled(**values: Any) -> Filled:
    """A form."""
    all_of_it = VALUES | values
    return Filled(values=all_of_it, kept=all_of_it, identifying={}, refused={}, marks={})


def pseudonym(number: int) -> str:
    """Of a participant."""
    return f"01938f00-0000-7000-8000-{number:012d}"


ONE, TWO, THREE = (pseudonym(number) for number in (1, 2, 3))


@pytest.fixture
def ward(database: Database, tmp_path: Path) -> Ward:
    """Nobody was there yet."""
    return Ward(database, KeyRing.open(tmp_path / "keys"))


def test_a_second_visit_of_the_same_person_is_its_own(ward: Ward) -> None:
    """With its own form and recording; the participant is made once."""
    first = ward.visit(ONE, "123", age=61)
    second = ward.visit(ONE, "123", age=62)

    assert ward.people() == {first: ONE, second: ONE}
    ages = {row["id"]: row["values"]["age"] for row in ward.visits.of_study(STUDY)}
    assert ages == {first: 61, second: 62}
    recordings = ward.visits.recordings([first, second])
    assert all(len(one) == 1 for one in recordings.values())
    assert recordings[first][0]["id"] != recordings[second][0]["id"]


def test_equal_record_numbers_make_one_person_of_two_pseudonyms(ward: Ward) -> None:
    """Also where the hospital's key was rotated between; a third number is another person."""
    first = ward.visit(ONE, "123")
    ward.keys.rotate("records", HOSPITAL)
    second = ward.visit(TWO, "12-3")
    other = ward.visit(THREE, "124")

    assert ward.people() == {first: ONE, second: ONE, other: THREE}
    (mine, others) = (ward.visits.subjects(STUDY)[one] for one in (ONE, THREE))
    assert {one.partition(":")[0] for one in mine} == {"participant", "record"}
    assert len(mine) == 4
    assert not set(mine) & set(others)


def test_another_record_number_at_one_participant_is_doubted(ward: Ward) -> None:
    """It may be another person: the visit is kept, counts for nobody, and can be put right."""
    first = ward.visit(ONE, "123")
    wrong = ward.visit(ONE, "999")
    assert ward.people() == {first: ONE}

    form = FormValues(id="visit", version=1, values={})
    version = ward.visits.amend(
        wrong, SITE, form, filled(), ward.hashes("123"), why="typed wrongly", by="token 1"
    )

    assert version == 2
    assert ward.people() == {first: ONE, wrong: ONE}


def test_an_amended_form_leaves_what_was_sent(ward: Ward) -> None:
    """The newest counts; a moment before it was amended still has the one before."""
    visit = ward.visit(ONE, age=61)
    before = datetime.now(UTC)

    form = FormValues(id="visit", version=1, values={})
    assert ward.visits.amend(visit, "elsewhere", form, filled(), (), why="no", by="x") is None
    assert ward.visits.amend(visit, SITE, form, filled(age=16), (), why="the year", by="x") == 2

    (now,) = ward.visits.of_study(STUDY)
    (then,) = ward.visits.of_study(STUDY, before)
    assert (now["values"]["age"], then["values"]["age"]) == (16, 61)
    told = ward.visits.about(visit, SITE)
    assert told is not None
    assert [json.loads(one["kept"])["age"] for one in told["forms"]] == [61, 16]
    assert ward.visits.about(visit, "elsewhere") is None
    with ward.database.reading() as tables:
        whats = [row.what for row in tables.execute(sa.select(audit.AUDIT))]
    assert whats == ["visit accepted", "form amended"]


def test_who_has_withdrawn_is_left_out_and_taken_no_more(ward: Ward) -> None:
    """Under every pseudonym that is known, and under one that comes later with the number."""
    ward.visit(ONE, "123")
    ward.visit(TWO, "123")
    other = ward.visit(THREE, "124")

    names = ward.visits.withdraw(STUDY, TWO, why="asked to", by="x", role="study lead")

    assert names == (ONE, TWO)
    assert ward.people() == {other: THREE}
    for participant, number in ((ONE, None), (TWO, "7"), (pseudonym(4), "123")):
        with pytest.raises(Withdrawn):
            ward.visits.require_present(STUDY, participant, ward.hashes(number))
        with pytest.raises(Withdrawn):
            ward.visit(participant, number)
    ward.visits.require_present(STUDY, THREE, ward.hashes("124"))
    with ward.database.reading() as tables:
        assert tables.execute(sa.select(sa.func.count()).select_from(VISITS)).scalar() == 3
        assert tables.execute(sa.select(sa.func.count()).select_from(FORMS)).scalar() == 3


def test_who_withdrew_before_anything_arrived_is_known(ward: Ward) -> None:
    """A phone may be offline for weeks."""
    assert ward.visits.withdraw(STUDY, ONE, why="asked to", by="x", role="site") == (ONE,)
    assert ward.visits.withdraw(STUDY, ONE, why="again", by="x", role="site") == (ONE,)

    with pytest.raises(Withdrawn):
        ward.visit(ONE)


@pytest.mark.parametrize(
    ("said_h", "ahead_s", "corrected_h", "certain"),
    [(0, 0.0, 0, True), (2, 7200.0, 0, True), (-5, None, -5, False), (3, 0.0, 3, False)],
)
def test_a_time_is_corrected_and_says_how_sure_it_is(
    ward: Ward, said_h: float, ahead_s: float | None, corrected_h: float, certain: bool
) -> None:
    """In the device's zone. Without its clock, or from the future, nobody knows when it was."""
    hour = timedelta(hours=1)
    ward.visit(ONE, at=(NOW + said_h * hour).astimezone(BRASILIA), ahead_s=ahead_s)

    (row,) = ward.visits.of_study(STUDY)
    recorded_at = datetime.fromisoformat(row["recorded_at"])

    assert recorded_at == NOW + corrected_h * hour
    assert recorded_at.utcoffset() == timedelta(hours=-3)
    assert (row["uncertainty_s"] <= 60) is certain


def test_the_table_for_balance_has_labels_of_now(ward: Ward) -> None:
    """By the record number's hash, whichever pseudonym it was heard under."""
    ward.visit(ONE, "123", sex="female")
    ward.visit(TWO, None, sex="male")
    labels = Labels(ward.database, lambda subject: subject)
    labels.add(
        [
            Entry(
                source="hospital",
                origin=HOSPITAL,
                name="1",
                version="1",
                subject=f"record:{ward.hashes('123')[0]}",
                issued=NOW,
                observation=Observation(kind="spo2", at=NOW, value=85, breathing="room_air"),
            )
        ],
        NOW + timedelta(seconds=1),
    )

    table = visit_table(ward.visits, labels, STUDY, "ri-v1")

    said = {row["person"]: row["label"] for row in table.iter_rows(named=True)}
    assert said == {ONE: "present", TWO: "unknown"}
