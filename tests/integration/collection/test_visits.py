"""Visits on real databases: written whole, of one participant, amended, withdrawn."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import uuid_utils
from found import found

from spira.collection import visits as module
from spira.collection.studies import default_study
from spira.collection.tables import FORMS, PARTICIPANTS, VISITS
from spira.collection.visits import (
    Amended,
    Visits,
    Withdrawn,
    people_table,
    record_keys,
    visit_table,
)
from spira.documents import parse_document
from spira.domain.forms import Filled
from spira.domain.labels import Entry, Observation
from spira.domain.recordings import Described, Utterance
from spira.domain.studies import Study
from spira.domain.submissions import FormValues, RecordingFile, Submission, Visit
from spira.intake import audit
from spira.intake.keys import KeyRing
from spira.intake.submissions import Accepted, Stored
from spira.labels.store import Labels
from spira.stores.database import Database

NOW = datetime.now(UTC)
BRASILIA = timezone(timedelta(hours=-3))
SITE, HOSPITAL, STUDY = "ward-a", "hospital", "spira"
PROTOCOL = parse_document(default_study(), Study, where="the default", words=True).protocol
VALUES = {"age": 61, "sex": "female", "research_consent": True}
FORM = FormValues(id="visit", version=1, values={})


class Ward:
    """Where visits come from."""

    def __init__(self, database: Database, keys: KeyRing) -> None:
        self.database, self.keys = database, keys
        self.visits = Visits(database, keys.wrapped)

    def hashes(self, number: str | None, hospital: str = HOSPITAL) -> Sequence[str]:
        """Of a record number, under every key."""
        return () if number is None else self.keys.record_hashes(hospital, number)

    def accept(
        self,
        tables: sa.Connection,
        participant: str,
        records: Sequence[str] = (),
        *,
        at: datetime = NOW,
        ahead_s: float | None = 0.0,
        utterances: Sequence[Utterance] = ("sentence",),
        duration_s: float = 6.0,
        replaces: str | None = None,
        site: str = SITE,
        **values: Any,
    ) -> str:
        """Accept a visit in a transaction; its id."""
        id = str(uuid_utils.uuid7())
        audio = Described(**found(b"").model_dump(exclude={"audio"}))
        measured = audio.measurements.model_copy(update={"duration_s": duration_s})
        audio = audio.model_copy(update={"measurements": measured})
        stored = tuple(
            Stored(
                file=RecordingFile(
                    id=str(uuid_utils.uuid7()),
                    utterance=utterance,
                    sha256=hashlib.sha256(id.encode()).hexdigest(),
                    n_bytes=1000,
                    duration_s=duration_s,
                    recorded_at=at,
                ),
                place=f"recordings/{id}",
                found=audio,
                audio=None,
                audio_sha256=None,
            )
            for utterance in utterances
        )
        submission = Submission(
            kind="visit",
            id=id,
            revision=1,
            form=FORM,
            files=tuple(one.file for one in stored),
            replaces=replaces,
            visit=Visit(study=STUDY, study_version=1, participant=participant),
        )
        accepted = Accepted(submission, site, datetime.now(UTC), ahead_s, stored)
        take = self.visits.taken(filled(**values), records, "token 1", PROTOCOL)
        take(tables, accepted)
        return id

    def visit(
        self, participant: str, number: str | None = None, *, hospital: str = HOSPITAL, **how: Any
    ) -> str:
        """A visit that was accepted; its id."""
        records = self.hashes(number, hospital)
        with self.database.writing() as tables:
            return self.accept(tables, participant, records, **how)

    def amend(self, visit: str, number: str | None, version: int = 2, **values: Any) -> None:
        """Fill in a form anew, for a reason."""
        records = None if number is None else self.hashes(number) if number else ()
        anew = (FORM, filled(**values), records, version)
        assert self.visits.amend(visit, SITE, *anew, why="w", by="x")

    def doubts(self, *visits: str) -> list[tuple[str, ...]]:
        """What is in doubt about visits."""
        told = [self.visits.about(one, SITE) for one in visits]
        return [tuple(one["doubts"]) for one in told if one is not None]

    @contextmanager
    def meanwhile(self, work: Callable[[], Any]) -> Iterator[Future[Any]]:
        """Begin other work in the middle of a transaction, and go on when it waits for its end."""
        with ThreadPoolExecutor(1) as other:
            began = threading.Event()

            def run() -> Any:
                began.set()
                return work()

            done = other.submit(run)
            assert began.wait(10)
            if not self.database.on_sqlite:  # there it waits for the only writer
                wait_for_a_lock(self.database, done)
            yield done

    def people(self) -> dict[str, str]:
        """The person of each visit that counts."""
        return {row["id"]: row["person"] for row in self.visits.of_study(STUDY)}


def filled(**values: Any) -> Filled:
    """A form."""
    all_of_it = VALUES | values
    return Filled(values=all_of_it, kept=all_of_it, identifying={}, refused={}, marks={})


def wait_for_a_lock(database: Database, work: "Future[Any]") -> None:
    """Until a transaction waits for another one, or the work has ended."""
    query = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    for _ in range(1000):
        with database.reading() as tables:
            if work.done() or tables.execute(query).scalar_one():
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits")


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
    (mine, others) = (ward.visits.known(STUDY).subjects[one] for one in (ONE, THREE))
    assert {one.partition(":")[0] for one in mine} == {"participant", "record"}
    assert len(mine) == 4
    assert not set(mine) & set(others)


def test_another_record_number_at_one_participant_is_doubted(ward: Ward) -> None:
    """It may be another person: the visit is kept, counts for nobody, and can be put right."""
    first = ward.visit(ONE, "123")
    wrong = ward.visit(ONE, "999")
    assert ward.people() == {first: ONE}

    assert ward.doubts(first, wrong) == [(), ("other_record",)]

    ward.amend(wrong, "123")

    assert ward.people() == {first: ONE, wrong: ONE}
    assert ward.doubts(first, wrong) == [(), ()]


def test_one_wrong_number_leaves_no_doubt_about_the_right_ones(ward: Ward) -> None:
    """Neither about what comes after it, nor, once it is put right, about what came."""
    first, wrong, third = (ward.visit(ONE, number) for number in ("123", "999", "123"))
    assert ward.doubts(first, wrong, third) == [(), ("other_record",), ()]

    other, right = ward.visit(TWO, "888"), ward.visit(TWO, "777")
    assert ward.doubts(other, right) == [(), ("other_record",)]
    before = datetime.now(UTC)
    ward.amend(other, "777")

    assert ward.doubts(other, right) == [(), ()]
    assert {other, right} <= set(ward.people())
    assert right not in [row["id"] for row in ward.visits.of_study(STUDY, before)]


def test_numbers_of_two_hospitals_are_no_contradiction(ward: Ward) -> None:
    """Each hides its own under a key of its own."""
    visits = [ward.visit(ONE, "123"), ward.visit(ONE, "999", hospital="another")]

    assert ward.doubts(*visits) == [(), ()]


def test_a_key_that_is_rotated_while_a_visit_is_checked_changes_nobody(ward: Ward) -> None:
    """Hashes of before and after are one number: no doubt, and who has withdrawn is found."""
    records, others = ward.hashes("123"), ward.hashes("7")
    ward.keys.rotate("records", HOSPITAL)
    first = ward.visit(ONE, "123")
    ward.visit(THREE, "7")

    with ward.database.writing() as tables:
        second = ward.accept(tables, ONE, records)

    assert ward.doubts(first, second) == [(), ()]
    ward.visits.withdraw(STUDY, THREE, why="w", by="x", role="site")
    with ward.database.writing() as tables, pytest.raises(Withdrawn):
        ward.accept(tables, TWO, others)
    assert set(record_keys(ward.database)) == {one.id for one in ward.keys.list_keys()[1:]}


def test_a_number_that_an_amended_form_does_not_name_stays(ward: Ward) -> None:
    """Nobody can send back what the server never tells; taken out, it is gone."""
    visit, other = ward.visit(ONE, "123"), ward.visit(TWO, "123")

    ward.amend(visit, None, age=30)
    assert ward.people() == {visit: ONE, other: ONE}
    ward.amend(visit, "", 3, age=30)
    assert ward.people() == {visit: ONE, other: TWO}


def test_the_same_amendment_sent_twice_is_one(ward: Ward) -> None:
    """Its answer may be lost; also where the key was rotated between, and however late it comes:
    it undoes nothing of what was amended since, and another one of its version is refused."""
    visit = ward.visit(ONE, "123")

    ward.amend(visit, "124", age=30)
    ward.keys.rotate("records", HOSPITAL)
    ward.amend(visit, "124", age=30)
    ward.amend(visit, None, 3, age=31)
    ward.amend(visit, "124", age=30)

    for version, number, age in ((2, "124", 31), (2, None, 30), (3, "", 31), (5, "124", 30)):
        with pytest.raises(Amended, match="read the visit"):
            ward.amend(visit, number, version, age=age)
    told = ward.visits.about(visit, SITE)
    assert told is not None
    assert [json.loads(one["kept"])["age"] for one in told["forms"]] == [61, 30, 31]


def test_a_spoken_consent_without_its_recording_is_doubted(ward: Ward) -> None:
    """Until the form says how they consented; whose visit it is stays known."""
    silent = ward.visit(ONE, "123", consent_how="spoken")
    heard = ward.visit(TWO, "7", consent_how="spoken", utterances=("consent", "sentence"))
    same = ward.visit(THREE, "123", consent_how="paper")

    assert ward.doubts(silent, heard, same) == [("no_consent",), (), ()]
    assert ward.people() == {heard: TWO, same: ONE}
    ward.amend(heard, None, consent_how="spoken", age=30)
    ward.amend(silent, None, consent_how="paper")

    assert ward.doubts(silent, heard) == [(), ()]
    assert ward.people() == {silent: ONE, heard: TWO, same: ONE}


def test_what_is_recorded_anew_replaces_what_was_sent(ward: Ward) -> None:
    """Also of another participant, where the wrong one was chosen, and whichever comes first;
    another site replaces nothing."""
    wrong = ward.visit(ONE, "123")
    right = ward.visit(TWO, "123", replaces=wrong)
    ward.visit(THREE, replaces=right, site="ward-b")

    assert ward.doubts(wrong, right) == [("replaced",), ()]
    assert wrong not in ward.people()
    assert ward.people()[right] == TWO
    later = ward.visit(ONE, "999")
    assert ward.doubts(later) == [()]


@pytest.mark.parametrize(
    ("how", "findings"),
    [
        ({"duration_s": 3.9}, ("short",)),
        ({"duration_s": 4.0}, ()),
        ({"duration_s": 3.9, "unfinished": True}, ()),
        ({"duration_s": 3.9, "utterances": ("other",)}, ()),
        ({"duration_s": 4.9, "utterances": ("ambient_after",)}, ("short",)),
    ],
    ids=["shorter", "as long", "unfinished", "of no step", "of a room"],
)
def test_a_recording_shorter_than_its_step_asks_for_is_a_finding(
    ward: Ward, how: dict[str, Any], findings: tuple[str, ...]
) -> None:
    """Kept with it, and blocking nothing. Whoever could not go on has no length to keep."""
    visit = ward.visit(ONE, **how)

    (recording,) = ward.visits.recordings([visit])[visit]
    assert tuple(json.loads(recording["described"])["findings"]) == findings


def test_an_amended_form_leaves_what_was_sent(ward: Ward) -> None:
    """The newest counts; a moment before it was amended still has the one before."""
    visit = ward.visit(ONE, age=61)
    before = datetime.now(UTC)

    assert not ward.visits.amend(visit, "elsewhere", FORM, filled(), (), 2, why="no", by="x")
    ward.amend(visit, None, age=16)

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
            ward.visits.require_present(STUDY, participant, ward.hashes(number), by="x")
        with pytest.raises(Withdrawn):
            ward.visit(participant, number)
    ward.visits.require_present(STUDY, THREE, ward.hashes("124"), by="x")
    with ward.database.reading() as tables:
        assert tables.execute(sa.select(sa.func.count()).select_from(VISITS)).scalar() == 3
        assert tables.execute(sa.select(sa.func.count()).select_from(FORMS)).scalar() == 3
        theirs = {f"participant:{STUDY}/{ONE}", f"record:{ward.hashes('123')[0]}"}
        others = {f"participant:{STUDY}/{THREE}", f"record:{ward.hashes('124')[0]}"}
        assert ward.visits.gone(tables, theirs | others) == theirs


def test_what_is_in_doubt_withdraws_nobody_else(ward: Ward) -> None:
    """A number that was typed wrongly must not have another person's recordings erased."""
    ward.visit(ONE, "123")
    ward.visit(ONE, "999")
    ward.visit(TWO, "999")

    assert ward.visits.withdraw(STUDY, ONE, why="w", by="x", role="site") == (ONE,)

    ward.visits.require_present(STUDY, TWO, ward.hashes("999"), by="x")
    assert ward.people() == {}  # nor is any of it used, while it is in doubt


def withdrawn(ward: Ward) -> set[str]:
    """The pseudonyms that are marked."""
    gone = sa.select(PARTICIPANTS.c.id).where(PARTICIPANTS.c.withdrawn_at.is_not(None))
    with ward.database.reading() as tables:
        return set(tables.execute(gone).scalars())


def test_a_number_that_comes_late_takes_earlier_visits_with_it(ward: Ward) -> None:
    """The pseudonym turns out to be of somebody who has withdrawn: by a visit, or an amendment."""
    ward.visit(ONE, "123")
    ward.visit(TWO)
    amended = ward.visit(THREE)
    ward.visits.withdraw(STUDY, ONE, why="w", by="x", role="site")
    assert len(ward.people()) == 2

    with pytest.raises(Withdrawn):
        ward.visits.require_present(STUDY, TWO, ward.hashes("123"), by="x")
    ward.amend(amended, "123")

    assert withdrawn(ward) == {ONE, TWO, THREE}
    assert ward.people() == {}


def test_a_late_visit_of_who_has_withdrawn_takes_their_other_pseudonyms_with_it(
    ward: Ward,
) -> None:
    """Its number is the first that says who they are, and is forgotten with it; a number of
    another hospital links on. Each is marked and audited once."""
    ward.visit(TWO, "123")
    ward.visit(TWO, "7", hospital="another")
    ward.visit(THREE, "7", hospital="another")
    ward.visits.withdraw(STUDY, ONE, why="w", by="x", role="site")

    for _ in range(2):
        with pytest.raises(Withdrawn):
            ward.visits.require_present(STUDY, ONE, ward.hashes("123"), by="x")

    assert withdrawn(ward) == {ONE, TWO, THREE}
    with ward.database.reading() as tables:
        rows = tables.execute(sa.select(audit.AUDIT.c.which).where(audit.AUDIT.c.role == "site"))
        marked = [one for one in rows.scalars() if one in (ONE, TWO, THREE)]
    assert marked == [ONE, TWO, THREE]


def test_what_was_sent_under_the_wrong_participant_links_nobody_once_it_is_replaced(
    ward: Ward,
) -> None:
    """Who was recorded may withdraw: the one it was sent under has not. As of a moment at which
    nobody knew better it is left out too."""
    theirs = ward.visit(ONE)
    wrong, another = ward.visit(ONE, "2"), ward.visit(THREE)
    then = datetime.now(UTC)
    for one in (wrong, another):
        ward.visit(TWO, "2", replaces=one)

    assert ward.visits.withdraw(STUDY, TWO, why="w", by="x", role="site") == (TWO,)

    assert ward.people() == {theirs: ONE}
    assert set(ward.visits.known(STUDY, then).visits) == {theirs}


def test_a_number_that_may_be_typed_wrongly_marks_nobody(ward: Ward) -> None:
    """Who has another one, or of whom nothing is here: the visit is refused, and no more."""
    ward.visit(ONE, "123")
    other = ward.visit(TWO, "7")
    ward.visits.withdraw(STUDY, ONE, why="w", by="x", role="site")

    for participant in (TWO, THREE):
        with pytest.raises(Withdrawn):
            ward.visits.require_present(STUDY, participant, ward.hashes("123"), by="x")

    assert withdrawn(ward) == {ONE}
    assert ward.people() == {other: TWO}


def test_of_two_first_visits_at_once_both_are_taken(ward: Ward) -> None:
    """The participant is made once."""
    with ward.database.writing() as tables:
        first = ward.accept(tables, ONE)
        with ward.meanwhile(lambda: ward.visit(ONE)) as done:
            tables.commit()
        second = done.result(10)

    assert ward.people() == {first: ONE, second: ONE}


def test_a_withdrawal_sees_what_is_just_being_taken(ward: Ward) -> None:
    """It waits for it, and marks the pseudonym that it links."""
    ward.visit(ONE, "123")
    with ward.database.writing() as tables:
        ward.accept(tables, TWO, ward.hashes("123"))
        with ward.meanwhile(
            lambda: ward.visits.withdraw(STUDY, ONE, why="w", by="x", role="site")
        ) as done:
            tables.commit()

    assert done.result(10) == (ONE, TWO)


@pytest.mark.parametrize("what", ["a visit", "an amendment", "another pseudonym", "a label"])
def test_what_comes_during_a_withdrawal_is_refused(
    ward: Ward, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for its end, and hears of it."""
    visit = ward.visit(ONE, "123")

    def say() -> None:
        with ward.database.writing() as tables:
            ward.visits.keep_present(tables, STUDY, ONE)

    works: dict[str, Callable[[], Any]] = {
        "a visit": lambda: ward.visit(ONE),
        "an amendment": lambda: ward.amend(visit, None, age=20),
        "another pseudonym": lambda: ward.visit(TWO, "123"),
        "a label": say,
    }
    note, done = audit.note, []

    def in_the_middle(tables: sa.Connection, **told: Any) -> int:
        if told["what"] == "participant withdrawn":
            done.append(ThreadPoolExecutor(1).submit(works[what]))
            if not ward.database.on_sqlite:
                wait_for_a_lock(ward.database, done[0])
        return note(tables, **told)

    monkeypatch.setattr(module.audit, "note", in_the_middle)

    ward.visits.withdraw(STUDY, ONE, why="w", by="x", role="site")

    with pytest.raises(Withdrawn):
        done[0].result(10)


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
        NOW,
    )

    table = visit_table(ward.visits, labels, STUDY, "ri-v1")

    said = {row["person"]: row["label"] for row in table.iter_rows(named=True)}
    assert said == {ONE: "present", TWO: "unknown"}


def test_the_table_for_collectors_knows_no_label(ward: Ward) -> None:
    """Who was recorded where, whatever kind of field a ward is."""
    ward.visit(ONE, "123", sex="female", ward=7)

    (row,) = people_table(ward.visits, STUDY).iter_rows(named=True)

    assert (row["person"], row["sex"], row["site"], row["ward"]) == (ONE, "female", SITE, "7")
    assert row["label"] == "unknown"
    assert row["device"] is row["hour"] is None
