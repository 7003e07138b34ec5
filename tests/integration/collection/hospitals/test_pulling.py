"""Pulling from a hospital that fails in every way that is known: nothing lost, nothing doubled."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from spira.collection.hospitals import pulling
from spira.collection.hospitals.reading import CID10
from spira.collection.hospitals.simulator import Outage
from spira.collection.hospitals.tables import PATIENTS, PULLS
from spira.collection.hospitals.truth import SYSTEM, Version, patient_to_fhir, to_fhir
from spira.domain.errors import InputError, TransientError
from spira.labels.worklist import Worklist
from spira.stores.database import Database

Open = Callable[..., Any]
DAY = timedelta(days=1)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transactions of few lines, so that there are many."""
    monkeypatch.setattr(pulling, "_AT_ONCE", 10)


def standing(database: Database) -> Any:
    """How far pulling is."""
    with database.reading() as tables:
        return tables.execute(sa.select(PULLS)).one()


def test_everything_of_the_participants_is_pulled_and_nothing_of_the_others(
    database: Database, open_ward: Open
) -> None:
    """By a whole export; of somebody whom nobody registered nothing stays."""
    ward = open_ward(database)
    ward.register(*ward.truth.patients[:12])

    pulled = ward.puller().pull()

    assert ward.in_force() == ward.expected(ward.now)
    assert len(ward.in_force()) >= 12 * 4
    assert pulled.entries == len(ward.rows())
    assert pulled.dropped > 8 * 4
    assert pulled.questions == 0
    known = {ward.subject(patient) for patient in ward.truth.patients[:12]}
    assert {row["whom"] for row in ward.rows()} == known


def test_no_number_name_or_id_of_a_patient_is_stored(
    sqlite: Database, open_ward: Open, tmp_path: Path
) -> None:
    """Neither of participants nor of anybody else: hashes are."""
    ward = open_ward(sqlite)
    ward.register(*ward.truth.patients[:12])
    ward.puller().pull()

    stored = b"".join(path.read_bytes() for path in tmp_path.glob("hospitals.db*"))

    assert ward.subject(ward.truth.patients[0]).encode() in stored
    for patient in ward.truth.patients:
        assert patient.record_number.encode() not in stored
        assert patient.id.encode() not in stored
    assert b"Paciente" not in stored


def test_a_second_pull_asks_for_what_changed_and_adds_nothing_twice(
    database: Database, open_ward: Open
) -> None:
    """`_since` is the transactionTime of the export before."""
    ward = open_ward(database, troubles=True)
    ward.register(*ward.truth.patients)
    ward.now -= 150 * DAY
    ward.puller().pull()
    first, before = ward.now, len(ward.rows())

    ward.now += 150 * DAY
    ward.puller().pull()
    rows = len(ward.rows())
    again = ward.puller().pull()

    asked = [one for one in ward.simulator.asked if "$export" in one]
    assert "_since" not in asked[0]
    assert first.date().isoformat() in asked[1]
    assert 0 < before < rows == len(ward.rows())
    assert again.entries == 0
    assert ward.in_force() == ward.expected(ward.now)


def test_what_was_deleted_or_entered_in_error_no_longer_counts(
    sqlite: Database, open_ward: Open
) -> None:
    """But it is known for ever that it once did."""
    ward = open_ward(sqlite, patients=30, troubles=True)
    ward.register(*ward.truth.patients)
    gone = {
        thing.name: thing.versions[-1].known_at
        for thing in ward.truth.things
        if thing.versions[-1].status in ("deleted", "entered-in-error")
        and thing.versions[-2].counts
    }
    moments = sorted(gone.values())
    for moment in moments:
        ward.now = moment - timedelta(seconds=1)
        ward.puller().pull()
    ward.now = moments[-1]
    ward.puller().pull()

    assert len(gone) >= 2
    for name, moment in gone.items():
        counted = {one.partition("/pa")[0] for one in ward.in_force(moment - timedelta(seconds=1))}
        assert name in counted
    assert ward.in_force() == ward.expected(ward.now)


@pytest.mark.parametrize(
    "whats",
    [("away", "unavailable", "busy"), ("cut",), ("token",), ("files",)],
    ids=["silent", "cut", "token", "files"],
)
def test_an_outage_at_any_request_changes_nothing(
    whats: tuple[Any, ...], sqlite: Database, open_ward: Open, small_batches: None
) -> None:
    """Whatever it is, and at whichever request of a pull it begins."""
    ward = open_ward(sqlite, patients=6)
    ward.register(*ward.truth.patients)
    ward.puller().pull()
    rows, requests = ward.rows(), len(ward.simulator.asked)

    for number in range(1, requests + 1):
        with sqlite.writing() as tables:
            for table in ("labels_entries", "hospital_pulls", "hospital_patients"):
                tables.exec_driver_sql(f"DROP TRIGGER IF EXISTS {table}_no_delete")
                tables.exec_driver_sql(f"DELETE FROM {table}")
        what = whats[number % len(whats)]
        ward.simulator.outages = [Outage(len(ward.simulator.asked) + number, what, 2)]
        ward.puller().pull()

        kept = ("name", "version", "status", "kind", "value", "whom")
        assert [{key: row[key] for key in kept} for row in ward.rows()] == [
            {key: row[key] for key in kept} for row in rows
        ]


def test_a_kill_at_any_batch_loses_nothing_and_doubles_nothing(
    database: Database, open_ward: Open, small_batches: None
) -> None:
    """In front of a commit or behind it: the next process goes on where the last batch ended."""
    ward = open_ward(database, patients=8, troubles=True)
    ward.register(*ward.truth.patients)
    died = 0

    while True:
        at, how = ward.batches + 1, ("before", "after")[died % 2]
        ward.dies = lambda number, at=at, how=how: how if number == at else None
        try:
            ward.puller().pull()
        except KeyboardInterrupt:
            died += 1
        else:
            break

    assert died >= 5
    assert ward.in_force() == ward.expected(ward.now)
    versions = Counter((row["name"], row["version"]) for row in ward.rows())
    assert set(versions.values()) == {1}
    assert len([one for one in ward.simulator.asked if "$export" in one]) == 1
    lines = len(ward.truth.patients) + 1.1 * len(ward.truth.things)
    assert ward.batches < lines / 10 + died + 5  # what was taken was not taken again


def test_a_hospital_that_stays_away_is_told_and_the_next_pull_goes_on(
    sqlite: Database, open_ward: Open, small_batches: None
) -> None:
    """From the line where it was cut off, of the same export."""
    ward = open_ward(sqlite, settings={"patience_s": 0.4})
    ward.register(*ward.truth.patients)
    ward.simulator.outages = [Outage(8, "cut"), Outage(9, "away", 1000)]

    with pytest.raises(TransientError, match=r"hospital santa-casa: .*goes on from where"):
        ward.puller().pull()
    stopped = standing(sqlite)
    ward.simulator.outages = []
    pulled = ward.puller().pull()

    assert stopped.line > 0
    assert stopped.manifest is not None
    assert pulled.exports == 0
    assert ward.in_force() == ward.expected(ward.now)


def test_an_export_that_takes_long_is_waited_for_by_the_next_pull(
    sqlite: Database, open_ward: Open
) -> None:
    """A pull has an end; the export that it asked for stays."""
    ward = open_ward(sqlite, polls=3, settings={"wait_s": 0.5})
    ward.register(*ward.truth.patients)

    with pytest.raises(TransientError, match="not ready yet"):
        ward.puller().pull()
    for _ in range(3):
        with suppress(TransientError):
            ward.puller().pull()

    assert ward.in_force() == ward.expected(ward.now)
    assert len([one for one in ward.simulator.asked if "$export" in one]) == 1
    assert ward.simulator.asked[-1].startswith("DELETE /fhir/exports/")


def test_files_that_always_expire_are_told(sqlite: Database, open_ward: Open) -> None:
    """After some exports, and not for ever."""
    ward = open_ward(sqlite, outages=[Outage(at, "files") for at in range(6, 200, 3)])
    ward.register(*ward.truth.patients)

    with pytest.raises(TransientError, match="expired before they were read"):
        ward.puller().pull()


def test_a_file_that_lacks_lines_is_asked_for_again_and_then_told(
    sqlite: Database, open_ward: Open
) -> None:
    """By one more export; then what there is is taken, a person is asked, and the next pull asks
    since the same moment as before: until nothing is missing, or a person says so."""
    ward = open_ward(sqlite, patients=3, missing=2)
    ward.register(*ward.truth.patients)
    told = []

    def pull() -> int:
        pulled = ward.puller().pull()
        told.append(pulled.faults)
        return int(pulled.exports)

    assert pull() == 2
    assert ward.in_force() == ward.expected(ward.now)
    assert ward.questions() == [("export/short", "short_file")]
    assert "(Observation): has 2 lines fewer than" in told[0][0]
    assert (standing(sqlite).since, standing(sqlite).finished_at) == (None, None)
    assert pull() == 1
    assert len(ward.questions()) == 1
    assert standing(sqlite).since is None

    ward.simulator.missing = 0
    assert pull() == 1
    assert ward.questions() == []
    assert standing(sqlite).since is not None

    ward.now += DAY
    ward.simulator.missing = 1
    assert pull() == 2
    assert standing(sqlite).since < ward.now.isoformat()
    (item,) = Worklist(ward.labels).list()
    decided = {"who": "ana", "why": "asked them", "at": ward.now, "also": lambda _: None}
    Worklist(ward.labels).discard(item.number, **decided)
    assert pull() == 1
    assert standing(sqlite).since == ward.now.isoformat()
    assert [len(some) for some in told] == [2, 2, 0, 1, 1]


def test_who_registered_after_the_export_is_searched_for(
    database: Database, open_ward: Open
) -> None:
    """Around the visit; then all that the hospital knows of them, and what changes from then on."""
    ward = open_ward(database, patients=30, troubles=True)
    early, late = ward.truth.patients[:20], ward.truth.patients[20:]
    ward.register(*early)
    ward.now -= 100 * DAY
    ward.puller().pull()
    came = [one for one in late if one.participant.visited_at < ward.now]
    assert len(came) >= 2

    ward.register(*came, visited=True)
    ward.settings = ward.settings.model_copy(update={"look_back_days": 400})
    pulled = ward.puller().pull()
    there = ward.in_force()
    ward.now += 100 * DAY
    ward.puller().pull()

    assert pulled.found == len(came)
    assert there == ward.expected(ward.now - 100 * DAY)
    assert ward.in_force() == ward.expected(ward.now)
    searches = [one for one in ward.simulator.asked if "/fhir/Observation?" in one]
    assert searches
    # Nobody is searched for twice, and no number or patient is in an address.
    assert not any("Observation?" in one for one in ward.simulator.asked[-4:])
    for asked in ward.simulator.asked:
        assert not any(one.record_number in asked or one.id in asked for one in late)


def test_a_search_is_narrowed_to_the_site(sqlite: Database, open_ward: Open) -> None:
    """By what the setting says."""
    ward = open_ward(
        sqlite,
        settings={
            "group": None,
            "look_back_days": 400,
            "site": {"performer": "Organization/site-2"},
        },
    )
    ward.register(*ward.truth.patients, visited=True)

    ward.puller().pull()

    here = [one for one in ward.truth.patients if one.participant.site == "site-2"]
    assert 0 < len(here) < 20
    assert {row["whom"] for row in ward.rows()} == {ward.subject(one) for one in here}


def test_a_hospital_without_exports_is_searched_at_every_pull(
    sqlite: Database, open_ward: Open
) -> None:
    """What changes about a visit is seen as long as the visit is looked back to. What was deleted,
    or is of somebody else now, is not found any more, and is asked for by its name."""
    ward = open_ward(sqlite, troubles=True)
    nobody, moment = ward.truth.patients[-1], ward.now - DAY
    deleted, moved = [one.versions[0] for one in ward.truth.things[:2]]
    names = tell(
        ward,
        [deleted, later(deleted, moment, status="deleted")],
        [moved, later(moved, moment, patient=nobody)],
    )
    searched = {"group": None, "look_back_days": 400}
    ward = open_ward(sqlite, truth=ward.truth, settings=searched, page=7)
    ward.register(*ward.truth.patients[:-1], visited=True)

    for days in (120, 60, 0):
        ward.now = ward.now.replace(month=9, day=30) - days * DAY
        ward.puller().pull()
        assert ward.in_force() == ward.expected(ward.now)
    assert {*names} <= {row["name"] for row in ward.rows() if row["kind"] is not None}


def test_where_it_is_wanted_a_patient_is_looked_up_by_number(
    sqlite: Database, open_ward: Open
) -> None:
    """By POST: the number is in no address."""
    ward = open_ward(sqlite)
    one, other = ward.truth.patients[:2]
    ward.register(one)

    pulled = ward.puller().look_up(
        [("record-number", one.record_number), ("record-number", other.record_number)]
    )

    assert pulled.found == 1
    assert ward.in_force() == ward.expected(ward.now)
    assert [asked for asked in ward.simulator.asked if "Patient" in asked] == [
        "POST /fhir/Patient/_search"
    ] * 2


def test_two_that_pull_at_once_do_no_harm(
    sqlite: Database, open_ward: Open, small_batches: None
) -> None:
    """One is told so, and everything is there once."""
    ward = open_ward(sqlite)
    ward.register(*ward.truth.patients)

    def other_one(number: int) -> None:
        if number == 5:
            ward.puller().pull()

    ward.dies = other_one
    with pytest.raises(TransientError, match="another process is pulling"):
        ward.puller().pull()

    assert ward.in_force() == ward.expected(ward.now)
    versions = Counter((row["name"], row["version"]) for row in ward.rows())
    assert set(versions.values()) == {1}


def test_keys_that_were_rotated_find_everybody_again(sqlite: Database, open_ward: Open) -> None:
    """Patients noted under the old key, and participants registered under either."""
    ward = open_ward(sqlite, patients=30, troubles=True)
    ward.register(*ward.truth.patients[:15])
    ward.now -= 100 * DAY
    ward.puller().pull()

    ward.ring.rotate("records", "santa-casa")
    ward.register(*ward.truth.patients[15:])
    ward.now += 100 * DAY
    ward.puller().pull()

    # What the hospital sent anew of those who were known before is found by their old hash.
    newest = {name: (ward.newest(whom), said) for name, (whom, said) in ward.in_force().items()}
    expected = {
        name: one
        for name, one in ward.expected(ward.now).items()
        if one[0] in {ward.subject(patient) for patient in ward.truth.patients[:15]}
    }
    assert {name: newest[name] for name in expected} == expected


def test_of_whoever_has_withdrawn_nothing_more_is_taken(sqlite: Database, open_ward: Open) -> None:
    """Though the hospital's patient is known; what came before is for the erasing to find."""
    ward = open_ward(sqlite, patients=30, troubles=True)
    ward.register(*ward.truth.patients)
    corrected = [
        thing.versions
        for thing in ward.truth.things
        if [one.status for one in thing.versions] == ["final", "corrected"]
    ]
    assert len(corrected) >= 2
    for first, second in corrected:
        ward.now = first.known_at
        ward.puller().pull()
        gone = ward.subject(first.patient)
        before = [row for row in ward.rows() if row["whom"] == gone]

        ward.people.subjects.discard(gone)
        ward.now = second.known_at
        ward.puller().pull()

        assert before
        assert [row for row in ward.rows() if row["whom"] == gone] == before


@pytest.mark.parametrize("withdrawn", [False, True], ids=["never did", "has withdrawn"])
def test_what_moves_to_somebody_who_takes_no_part_no_longer_counts(
    withdrawn: bool, sqlite: Database, open_ward: Open
) -> None:
    """It was of another patient all along; of whom it is now, nothing stays."""
    ward = open_ward(sqlite, patients=4)
    one, other = ward.truth.patients[:2]
    ward.register(one)
    if withdrawn:
        ward.register(other)
    thing = next(thing for thing in ward.truth.things if thing.versions[0].patient == one)
    first = thing.versions[0]
    moment = ward.now - DAY
    moved = replace(
        first, number=2, status="corrected", known_at=moment, issued=moment, patient=other
    )
    ward.truth = ward.simulator.truth = replace(
        ward.truth,
        things=(replace(thing, versions=(first, moved)), *ward.truth.things[1:]),
    )
    ward.now = moment - DAY
    ward.puller().pull()
    assert thing.name in ward.in_force()

    of_other = [row for row in ward.rows() if row["whom"] == ward.subject(other)]
    assert bool(of_other) == withdrawn
    ward.people.subjects.discard(ward.subject(other))
    ward.now = moment + DAY
    ward.puller().pull()

    there = {name: said for name, said in ward.in_force().items() if said[0] == ward.subject(one)}
    assert thing.name not in ward.in_force()
    assert there == ward.expected(ward.now)
    assert [row for row in ward.rows() if row["whom"] != ward.subject(one)] == of_other


def test_of_a_patient_who_is_known_by_a_change_what_was_before_is_fetched(
    sqlite: Database, open_ward: Open
) -> None:
    """An export of what changed has the patient, and nothing of what was measured earlier."""
    ward = open_ward(sqlite, patients=6)
    late = min(ward.truth.patients, key=lambda one: one.participant.visited_at)
    ward.register(*(one for one in ward.truth.patients if one != late))
    ward.puller().pull()

    ward.register(late)
    changed = replace(late, participant=replace(late.participant, visited_at=ward.now + 3 * DAY))
    ward.simulator.truth = replace(
        ward.truth,
        patients=(changed, *(one for one in ward.truth.patients if one != late)),
    )
    ward.now += DAY
    pulled = ward.puller().pull()

    assert pulled.found == 1
    assert ward.in_force() == ward.expected(ward.now)


def test_a_patient_who_gets_another_number_is_asked_about(
    sqlite: Database, open_ward: Open
) -> None:
    """Whose the entries are is for a person to see; what comes now is of who it is now."""
    ward = open_ward(sqlite, patients=4)
    one, other = ward.truth.patients[:2]
    ward.register(one, other)
    ward.puller().pull()
    with sqlite.writing() as tables:
        tables.execute(PULLS.delete())

    swapped = replace(one, record_number=other.record_number)
    ward.simulator.truth = replace(
        ward.simulator.truth, patients=(swapped, *ward.truth.patients[2:])
    )
    ward.puller().pull()

    ((name, reason),) = [asked for asked in ward.questions() if asked[0].startswith("Patient/")]
    assert reason == "another_person"
    assert one.id not in name
    with sqlite.reading() as tables:
        subjects = set(tables.scalars(sa.select(PATIENTS.c.subject)))
    assert subjects == {ward.subject(other)}


def test_a_patient_with_the_numbers_of_two_participants_is_asked_about(
    sqlite: Database, open_ward: Open
) -> None:
    """Neither gets the other's results; once it is known whose they are, they are fetched."""
    ward = open_ward(sqlite, patients=4, settings={"look_back_days": 400})
    whom = ward.truth.patients[0]
    ward.settings = ward.settings.model_copy(
        update={"systems": {SYSTEM: "record-number", "": "cpf"}}
    )
    ward.register(whom, visited=True)
    other = ward.hash_of("cpf", "123")[0]
    ward.people.subjects.add(other)
    taker = ward.taker()
    document = patient_to_fhir(whom)
    document["identifier"].append({"system": "", "value": "123"})
    puller = pulling.Puller(taker, ward.client())

    for _ in range(2):
        puller._place([document], complete=True)

    assert taker.placed([whom.id]) == {}
    ((_, reason),) = ward.questions()
    assert reason == "several_people"
    ward.people.subjects.discard(other)
    puller._place([document])
    assert ward.in_force() == ward.expected(ward.now)


def test_what_is_no_fhir_is_told_by_file_and_line_and_the_rest_goes_on(
    sqlite: Database, open_ward: Open
) -> None:
    """In words that have no value in them; a person sees each on the worklist."""
    probe = open_ward(sqlite)
    thing = next(thing for thing in probe.truth.things if "" in thing.versions[0].says)
    good = to_fhir(thing, thing.versions[0])
    secret = "José da Silva 123456"
    litter = [
        b"<html>Manuten\xe7\xe3o</html>",
        b'{"resourceType": "Observation", "id": "x", "id": "y"}',
        b"[1, 2]",
        b"[" * 100_000,
        json.dumps({**good, "id": "b-1", "status": [secret]}).encode(),
        json.dumps({**good, "id": "b-2", secret: secret}).encode(),
        json.dumps({key: one for key, one in good.items() if key != "subject"}).encode(),
        json.dumps({**good, "id": "b-3", "subject": {"reference": f"Patient/{secret}"}}).encode(),
        json.dumps({"resourceType": "Observation", "text": "x" * (5 << 20)}).encode(),
    ]
    ward = open_ward(sqlite, litter=litter)
    ward.register(*ward.truth.patients)

    pulled = ward.puller().pull()

    assert ward.in_force() == ward.expected(ward.now)
    told = "\n".join(pulled.faults)
    for line in (1, 2, 3, 4, 5, 6, 9):
        assert f"(Observation), line {line}: " in told
    assert "Silva" not in told
    assert "123456" not in told
    reasons = Counter(reason for _, reason in ward.questions())
    assert reasons == {"not_fhir": 7, "no_subject": 1}
    stored = json.dumps([list(map(str, row.values())) for row in ward.rows()])
    assert "Silva" not in stored


def test_observations_that_nobody_can_be_sure_of_go_to_the_worklist(
    sqlite: Database, open_ward: Open
) -> None:
    """J96.01, a share with the unit %, a date to come, oxygen that contradicts itself: each with
    its reason, and none of them counts."""
    probe = open_ward(sqlite)
    whom = probe.truth.patients[0]
    thing = next(
        thing
        for thing in probe.truth.things
        if "" in thing.versions[0].says and thing.versions[0].says[""].kind == "spo2"
    )
    good = to_fhir(thing, thing.versions[0])
    good["subject"] = {"reference": f"Patient/{whom.id}"}
    quantity = good["valueQuantity"]
    condition = {
        "resourceType": "Condition",
        "id": "q-1",
        "meta": good["meta"],
        "subject": good["subject"],
        "onsetDateTime": "2024-03-01",
        "code": {"coding": [{"system": CID10[1], "code": "J96.01"}]},
    }
    litter = [
        condition,
        {**good, "id": "q-2", "valueQuantity": {**quantity, "value": 0.93}},
        {**good, "id": "q-3", "effectiveDateTime": "2054-03-01T10:00:00Z"},
        {**good, "id": "q-4", "valueQuantity": {**quantity, "code": "mm[Hg]"}},
    ]
    ward = open_ward(sqlite, litter=[json.dumps(one).encode() for one in litter])
    ward.register(*ward.truth.patients)

    ward.puller().pull()

    assert sorted(ward.questions()) == [
        ("Condition/q-1", "not_cid10"),
        ("Observation/q-2", "fraction"),
        ("Observation/q-3", "in_the_future"),
        ("Observation/q-4", "unit"),
    ]
    assert ward.in_force() == ward.expected(ward.now)


def test_questions_are_asked_once_and_end_with_what_the_hospital_says_next(
    sqlite: Database, open_ward: Open
) -> None:
    """Those that are open are those that the hospital's last version raises."""
    ward = open_ward(sqlite, patients=60, troubles=True)
    ward.register(*ward.truth.patients)

    for days in (120, 60, 0):
        ward.now -= days * DAY
        ward.puller().pull()
        ward.puller().pull()

        unclear = {
            (thing.name, version.unclear)
            for thing in ward.truth.things
            if (version := thing.at(ward.now)) is not None and version.unclear is not None
        }
        assert {(name.partition("/p")[0], why) for name, why in ward.questions()} == unclear
        ward.now += days * DAY
    assert unclear


def test_what_a_person_decides_counts(sqlite: Database, open_ward: Open) -> None:
    """Whether a value was corrected, or what could be read is right as it is."""
    probe = open_ward(sqlite)
    thing = next(
        one
        for one in probe.truth.things
        if "" in one.versions[0].says and one.versions[0].says[""].kind == "spo2"
    )
    good = to_fhir(thing, thing.versions[0])
    quantity, (oxygen,) = good["valueQuantity"], good["component"]
    corrected = {**good, "id": "q-1", "valueQuantity": {**quantity, "value": 0.93}}
    unclear = {**oxygen, "valueQuantity": {**oxygen["valueQuantity"], "value": 0.21}}
    assigned = {**good, "id": "q-2", "component": [unclear]}
    litter = [json.dumps(one).encode() for one in (corrected, assigned)]
    ward = open_ward(sqlite, litter=litter)
    ward.register(*ward.truth.patients)
    ward.puller().pull()

    worklist = Worklist(ward.labels)
    decided = {"who": "ana", "why": "seen in the chart", "at": ward.now, "also": lambda _: None}
    for listed in worklist.list():
        if listed.item.proposal.name == "Observation/q-1":
            worklist.resolve(listed.number, value=93.0, **decided)
        else:
            worklist.resolve(listed.number, subject=listed.item.proposal.subject, **decided)
    ward.puller().pull()

    said = ward.in_force()
    assert said["Observation/q-1"][1].value == 93
    assert said["Observation/q-2"][1].value == quantity["value"]
    assert said["Observation/q-2"][1].breathing is None
    assert worklist.list() == ()


def tell(ward: Any, *histories: Sequence[Version]) -> list[str]:
    """Let the hospital say these of its first SpO2 measurements instead; their names."""
    things = [
        one
        for one in ward.truth.things
        if "spo2" in [s.kind for s in one.versions[0].says.values()]
    ]
    told = {thing.name: tuple(of) for thing, of in zip(things, histories, strict=False)}
    ward.truth = ward.simulator.truth = replace(
        ward.truth,
        things=tuple(
            replace(one, versions=told.get(one.name, one.versions)) for one in ward.truth.things
        ),
    )
    return [*told]


def later(version: Version, moment: datetime, **changes: Any) -> Version:
    """The next one."""
    given = {"number": version.number + 1, "known_at": moment, "issued": moment}
    return replace(version, **given | changes)


def test_what_a_person_decides_stands_when_the_same_is_said_again(
    sqlite: Database, open_ward: Open
) -> None:
    """Decided before it or after: that a resource was touched takes nothing back. Of somebody else
    it is another question."""
    ward = open_ward(sqlite, patients=4)
    ward.register(*ward.truth.patients)
    other = ward.truth.patients[3]
    touched, now = ward.now - DAY, ward.now
    first = replace(ward.truth.things[0].versions[0], unclear="fraction")
    again = [first, later(first, touched, issued=first.issued)]
    names = tell(ward, again, again, [first, later(first, touched, patient=other)])
    worklist = Worklist(ward.labels)

    def decide(name: str) -> None:
        (item,) = [one for one in worklist.list() if one.item.proposal.name == name]
        given = {"who": "ana", "why": "seen", "at": ward.now, "also": lambda _: None}
        worklist.resolve(item.number, value=93.0, **given)

    ward.now = touched - DAY
    ward.puller().pull()
    for name in names[::2]:
        decide(name)
    ward.now = now
    ward.puller().pull()

    assert {name for name, _ in ward.questions()} == {*names[1:]}
    assert [name for name in names if name in ward.in_force()] == [names[0]]
    for name in names[1:]:
        decide(name)
    ward.puller().pull()
    assert ward.questions() == []
    whose = [ward.in_force()[name][0] for name in names]
    assert whose == [*[ward.subject(first.patient)] * 2, ward.subject(other)]


def test_what_a_person_decides_while_it_is_being_pulled_stands(
    sqlite: Database, open_ward: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a question and what is written with it."""
    ward = open_ward(sqlite, patients=2)
    ward.register(*ward.truth.patients)
    touched, first = ward.now - DAY, ward.truth.things[0].versions[0]
    (name,) = tell(ward, [first, later(first, touched, unclear="fraction")])
    now, ward.now = ward.now, touched - DAY
    ward.puller().pull()
    assert ward.in_force()[name][1] == first.says[""]
    put = Worklist.put

    def put_and_decide(worklist: Worklist, items: Any, received_at: datetime) -> int:
        new = put(worklist, items, received_at)
        given = {"who": "ana", "why": "seen", "at": ward.now, "also": lambda _: None}
        for one in worklist.list():
            worklist.resolve(one.number, value=71.0, **given)
        return new

    ward.now = now
    monkeypatch.setattr(Worklist, "put", put_and_decide)
    ward.puller().pull()

    assert ward.questions() == []
    assert ward.in_force()[name][1].value == 71.0


def test_what_the_hospital_no_longer_says_is_nothing_to_decide(
    sqlite: Database, open_ward: Open
) -> None:
    """Deleted, entered in error, or somebody else's: no person may make it a label any more."""
    ward = open_ward(sqlite, patients=4)
    whom, nobody = ward.truth.patients[:2]
    ward.register(whom)
    moment, now = ward.now - DAY, ward.now
    first = replace(ward.truth.things[0].versions[0], unclear="unit", patient=whom)
    names = tell(
        ward,
        [first, later(first, moment, status="deleted", unclear=None)],
        [first, later(first, moment, status="entered-in-error", unclear=None)],
        [first, later(first, moment, patient=nobody)],
    )

    ward.now = moment - DAY
    ward.puller().pull()
    assert sorted(name for name, _ in ward.questions()) == sorted(names)
    ward.now = now
    pulled = ward.puller().pull()

    assert ward.questions() == []
    assert pulled.questions == 0


def test_two_ids_that_differ_in_any_letter_are_two_patients(
    sqlite: Database, open_ward: Open
) -> None:
    """Case and hyphens mean nothing in a record number, and all in an id of the server."""
    taker = open_ward(sqlite, patients=1).taker()

    ids = ("a-1", "a1", "A1", "a.1")

    assert len({taker.hashes(id)[0] for id in ids}) == len(ids)


def test_a_number_that_was_reassigned_is_not_taken_for_its_old_owner(
    sqlite: Database, open_ward: Open
) -> None:
    """An identifier of use `old` is nobody's any more."""
    ward = open_ward(sqlite)
    one = ward.truth.patients[0]
    ward.register(one)
    document = patient_to_fhir(one)
    document["identifier"][0]["use"] = "old"

    assert ward.taker().candidates(document["identifier"]) == []
    document["identifier"].append({"system": SYSTEM, "value": one.record_number})
    assert ward.taker().candidates(document["identifier"]) == [ward.subject(one)]


def test_who_is_named_by_a_number_in_the_resource_itself_is_found(
    sqlite: Database, open_ward: Open
) -> None:
    """As the RNDS has it: the subject is an identifier and no reference."""
    probe = open_ward(sqlite)
    thing = probe.truth.things[0]
    whom = thing.versions[0].patient
    document = to_fhir(thing, thing.versions[0]) | {
        "subject": {"identifier": {"system": SYSTEM, "value": whom.record_number}}
    }
    elsewhere = document | {"subject": {"reference": f"https://other.example/Patient/{whom.id}"}}
    probe.register(whom)

    found, nobody = probe.taker().whose([document, elsewhere])
    assert found.subject == probe.subject(whom)
    assert nobody is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"group": "nobody"}, r"answers 404 to GET …/\$export; see the settings url and group"),
        ({"scopes": "system/Patient.read"}, "answers 403 .* see that it grants the scopes"),
        ({"client_id": "somebody"}, "gives us no token .*`spira hospital key santa-casa` prints"),
    ],
    ids=["group", "scopes", "client"],
)
def test_a_hospital_that_does_not_let_us_in_says_what_to_do(
    settings: dict[str, Any], says: str, sqlite: Database, open_ward: Open
) -> None:
    """At once: it is nothing that passes."""
    ward = open_ward(sqlite)
    ward.settings = ward.settings.model_copy(update=settings)
    if "client_id" in settings:
        ward.client = lambda: _client_as(ward, settings["client_id"])

    with pytest.raises(InputError, match=says):
        ward.puller().pull()
    assert ward.slept == []


def _client_as(ward: Any, client_id: str) -> Any:
    from spira.collection.hospitals.fhir import Client
    from spira.collection.hospitals.keys import read_credentials

    credentials = read_credentials("santa-casa", client_id, ward.key, None, {})
    return Client("santa-casa", ward.settings, credentials, sleep=ward.slept.append)


def pull_in_the_end(ward: Any) -> int:
    """Pull, in one process after another, until one comes to its end; how many died."""
    for died in range(100):
        try:
            ward.puller().pull()
        except (KeyboardInterrupt, TransientError):
            continue
        return died
    pytest.fail("it does not come to an end")


def equals_the_truth(ward: Any, stops: Sequence[datetime]) -> None:
    """At every moment at which anything changed, one second before and one after: as we knew it,
    and as the hospital did as far as it showed its versions."""
    second = timedelta(seconds=1)
    before: dict[str, Any] = {}
    for stop in stops:
        assert ward.in_force(stop - second) == before
        before = ward.expected(stop)
        assert ward.in_force(stop) == before
        assert ward.in_force(stop + second) == before

    rows = ward.rows()
    assert set(Counter((row["name"], row["version"]) for row in rows).values()) == {1}
    told: dict[str, list[Any]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["issued"], row["number"])):
        if row["status"] != "preliminary":
            said = None if row["kind"] is None else (row["whom"], ward.observation_of(row))
            told[row["name"]].append((datetime.fromisoformat(row["issued"]), said))
    shown: dict[str, list[Any]] = defaultdict(list)
    for thing in ward.truth.things:
        seen = {one.number: one for stop in stops if (one := thing.at(stop)) is not None}
        for version in seen.values():
            if version.status == "preliminary":
                continue
            moment = version.known_at
            if version.status == "deleted":  # the hospital says so by the export alone
                moment = next(stop for stop in stops if stop >= moment)
            counts = version.counts and ward.subject(version.patient) in ward.people.subjects
            for part, said in version.says.items():
                one = (ward.subject(version.patient), said) if counts else None
                shown[thing.name + part].append((moment, one))
    instants = 0
    for name in told.keys() | shown.keys():
        moments = {moment for moment, _ in (*told[name], *shown[name])}
        for moment in {one + step * second for one in moments for step in (-1, 0, 1)}:
            assert _at(told[name], moment) == _at(shown[name], moment), (name, moment)
            instants += 1
    assert instants > 3 * len(ward.truth.patients)


def _at(timeline: Sequence[tuple[datetime, Any]], moment: datetime) -> Any:
    return next((said for since, said in reversed(timeline) if since <= moment), None)


OUTAGES = (
    Outage(5, "away", 4),
    Outage(16, "cut"),
    Outage(27, "unavailable", 3),
    Outage(33, "busy", 2),
    Outage(38, "token"),
    Outage(47, "files"),
)


def prove(ward: Any, n_stops: int, kills: set[int]) -> None:
    """Pull at some moments of the hospital's time, with outages and kills, and compare."""
    ward.register(*ward.truth.patients[: len(ward.truth.patients) * 9 // 10])
    last = ward.now
    stops = [last - days * DAY * 200 / n_stops for days in reversed(range(n_stops))]
    ward.dies = lambda number: ("before", "after")[number % 2] if number in kills else None

    died = 0
    for stop in stops:
        ward.now = stop
        died += pull_in_the_end(ward)

    assert died >= len(kills)
    equals_the_truth(ward, stops)


def test_what_is_here_equals_the_hospitals_truth_at_every_instant(
    database: Database, open_ward: Open, small_batches: None
) -> None:
    """With outages, kills, duplicates, corrections and retractions; a tenth takes no part."""
    ward = open_ward(database, patients=100, troubles=True, outages=OUTAGES)

    prove(ward, 4, {4, 15, 26, 37})


@pytest.mark.slow
def test_ten_thousand_patients_equal_the_hospitals_truth_at_every_instant(
    database: Database, open_ward: Open
) -> None:
    """The same, as large as the issue has it."""
    ward = open_ward(database, patients=10_000, troubles=True, outages=OUTAGES)

    prove(ward, 6, {4, 61, 150, 231})
