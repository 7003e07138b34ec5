"""Patients that share a number, and patients that a hospital has merged: never a guess."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from spira.collection.hospitals.patients import Patients
from spira.collection.hospitals.truth import (
    Patient,
    Thing,
    Version,
    patient_to_fhir,
    to_fhir,
)
from spira.labels.worklist import Worklist
from spira.stores.database import Database

Open = Callable[..., Any]
DAY = timedelta(days=1)


def says(ward: Any, *patients: Patient) -> int:
    """Let the hospital say this of these patients from now on, and pull; how many questions."""
    ward.now += DAY
    changed = {one.id: replace(one, changed_at=ward.now) for one in patients}
    truth = ward.simulator.truth
    told = tuple(changed.get(one.id, one) for one in truth.patients)
    ward.simulator.truth = replace(truth, patients=told)
    ward.now += DAY
    return int(ward.puller().pull().questions)


def moves(ward: Any, one: Patient, other: Patient) -> None:
    """Let the hospital move all that it has of one patient to another, in a day from now."""
    moment = ward.now + DAY

    def moved(thing: Thing) -> Sequence[Version]:
        last = thing.versions[-1]
        if last.patient.id != one.id:
            return thing.versions
        given = {"number": last.number + 1, "known_at": moment, "issued": moment}
        return (*thing.versions, replace(last, **given, status="amended", patient=other))

    truth = ward.simulator.truth
    told = tuple(replace(thing, versions=tuple(moved(thing))) for thing in truth.things)
    ward.truth = ward.simulator.truth = replace(truth, things=told)
    ward.simulator._of_patient[other.id] += ward.simulator._of_patient[one.id]


def of(ward: Any, *patients: Patient) -> dict[str, Any]:
    """What the hospital has of these, as the first one's."""
    ids = {one.id for one in patients}
    subject = ward.subject(patients[0])
    known = ward.truth.in_force(ward.now)
    return {name: (subject, said) for name, (whose, said) in known.items() if whose.id in ids}


def names(ward: Any, why: str) -> set[str]:
    """What is asked for a reason."""
    return {name for name, reason in ward.questions() if reason == why}


ENDS: dict[str, tuple[Callable[[Patient, Patient], tuple[Patient, ...]], tuple[int, ...]]] = {
    "the second is inactive": (lambda _, b: (replace(b, is_active=False),), (0, 1)),
    "the first is inactive": (lambda a, _: (replace(a, is_active=False),), (0, 1)),
    "the second is merged": (lambda a, b: (replace(b, replaced_by=a.id),), (0, 1)),
    "the first is merged": (lambda a, b: (replace(a, replaced_by=b.id),), (0, 1)),
    "the second gets its own number": (lambda _, b: (replace(b, record_number="9-9"),), (0,)),
    "the first gets another number": (lambda a, _: (replace(a, record_number="9-9"),), (1,)),
    "the number of the second is old": (lambda _, b: (replace(b, has_number=False),), (0,)),
}


def test_what_is_said_of_two_patients_with_one_number_waits_until_the_hospital_knows(
    sqlite: Database, open_ward: Open
) -> None:
    """Also what had been taken of the first; then all of it is taken by itself, and what is of
    somebody else is nothing to decide."""
    ward = open_ward(sqlite, patients=2 * len(ENDS))
    firsts, seconds = ward.truth.patients[: len(ENDS)], ward.truth.patients[len(ENDS) :]
    ward.register(*firsts)
    ward.puller().pull()
    before = ward.in_force()
    assert before == ward.expected(ward.now) != {}
    numbers = [one.record_number for one in firsts]
    pairs = zip(seconds, numbers, strict=True)
    twins = [replace(other, record_number=number) for other, number in pairs]

    says(ward, *twins)
    waits = of(ward, *firsts, *seconds).keys()
    assert ward.in_force() == {}
    assert names(ward, "two_patients") == waits
    ward.puller().pull()
    assert len(ward.questions()) == len(waits)

    ended = zip(ENDS.values(), firsts, twins, strict=True)
    says(ward, *(one for (end, _), first, twin in ended for one in end(first, twin)))

    there = ward.in_force()
    for how, one, other in zip(ENDS, firsts, seconds, strict=True):
        subject, whose = ward.subject(one), [(one, other)[place] for place in ENDS[how][1]]
        expected = {name: (subject, said) for name, (_, said) in of(ward, *whose).items()}
        assert {name: has for name, has in there.items() if has[0] == subject} == expected, how
    assert ward.questions() == []
    assert ward.in_force(ward.now - 4 * DAY) == before  # as it was known


def test_that_two_patients_have_one_number_is_asked_as_often_as_it_happens(
    sqlite: Database, open_ward: Open
) -> None:
    """What was taken after the first time waits the second time, however often it is read."""
    ward = open_ward(sqlite, patients=3)
    one, other = ward.truth.patients[:2]
    ward.register(one)
    twin = replace(other, record_number=one.record_number)
    ward.puller().pull()

    for _ in range(3):
        says(ward, twin)
        ward.puller().look_up([("record-number", one.record_number)])
        assert ward.in_force() == {}
        assert names(ward, "two_patients") == of(ward, one, other).keys()
        says(ward, replace(twin, is_active=False))
        assert ward.in_force() == of(ward, one, other)
        assert ward.questions() == []


def test_two_patients_with_one_number_in_a_first_export_wait_and_what_names_the_number_too(
    sqlite: Database, open_ward: Open
) -> None:
    """A person who knows decides one by one, and that stands."""
    probe = open_ward(sqlite, patients=3)
    one, other = probe.truth.patients[:2]
    twin = replace(other, record_number=one.record_number)
    thing = next(one for one in probe.truth.things if "" in one.versions[0].says)
    number = patient_to_fhir(one)["identifier"][0]
    numbered = to_fhir(thing, thing.versions[0]) | {"id": "n-1", "subject": {"identifier": number}}
    unclear = to_fhir(thing, replace(thing.versions[0], unclear="unit"))
    unclear |= {"id": "n-2", "subject": {"identifier": number}}
    truth = replace(probe.truth, patients=(one, twin, *probe.truth.patients[2:]))
    litter = [json.dumps(document).encode() for document in (numbered, unclear)]
    ward = open_ward(sqlite, truth=truth, litter=litter)
    ward.register(one)

    ward.puller().pull()

    waits = {*of(ward, one, other), "Observation/n-1"}
    assert ward.in_force() == {}
    assert names(ward, "two_patients") == waits
    worklist = Worklist(ward.labels)
    (item,) = [item.item for item in worklist.list() if item.item.reason == "unit"]
    assert item.proposal.subject is None  # whose it is, a person has to say, too
    decided = next(iter(of(ward, other)))
    (item,) = [item for item in worklist.list() if item.item.proposal.name == decided]
    given = {"who": "ana", "why": "seen in the chart", "at": ward.now, "also": lambda _: None}
    worklist.resolve(item.number, **given)
    ward.puller().pull()
    assert {*ward.in_force()} == {decided}

    says(ward, replace(twin, record_number="9-9"))
    assert {*ward.in_force()} == {*of(ward, one), "Observation/n-1", decided}
    assert ward.questions() == [("Observation/n-2", "unit")]


def test_what_a_hospital_takes_back_in_doubt_is_not_taken_after_it(
    sqlite: Database, open_ward: Open
) -> None:
    """Deleted, or moved to somebody who takes no part."""
    ward = open_ward(sqlite, patients=3)
    one, other, nobody = ward.truth.patients
    ward.register(one)
    ward.puller().pull()
    twin = replace(other, record_number=one.record_number)
    says(ward, twin)

    moment = ward.now + DAY
    things = list(ward.truth.things)
    for place, changes in ((0, {"status": "deleted"}), (1, {"patient": nobody})):
        last = things[place].versions[-1]
        given = {"number": 2, "known_at": moment, "issued": moment, **changes}
        things[place] = replace(things[place], versions=(last, replace(last, **given)))
    ward.truth = replace(ward.truth, things=tuple(things))
    ward.simulator.truth = replace(ward.simulator.truth, things=tuple(things))
    ward.now += 2 * DAY
    ward.puller().pull()
    says(ward, replace(twin, is_active=False))

    assert things[0].name not in ward.in_force()
    assert ward.in_force() == of(ward, one, other)
    assert ward.questions() == []


def test_two_patients_of_whom_the_hospital_says_that_they_are_one_are_one(
    sqlite: Database, open_ward: Open
) -> None:
    """Nobody is asked, and what is left with the old one counts."""
    ward = open_ward(sqlite, patients=4)
    one, other, two, another = ward.truth.patients
    inactive = replace(other, record_number=one.record_number, is_active=False)
    replaced = replace(another, record_number=two.record_number, replaced_by=two.id)
    ward.simulator.truth = replace(ward.truth, patients=(inactive, one, two, replaced))
    ward.register(one, two)

    ward.puller().pull()

    assert ward.in_force() == of(ward, one, other) | of(ward, two, another)
    assert ward.questions() == []


@pytest.mark.parametrize("at_once", [True, False], ids=["first export", "later"])
def test_results_that_move_to_whom_a_patient_was_merged_into_stay_the_participants(
    at_once: bool, sqlite: Database, open_ward: Open
) -> None:
    """By the old patient's link, whatever number the other one has; it is asked for where no
    export brings it."""
    ward = open_ward(sqlite, patients=4)
    one, other, two, another = ward.truth.patients
    ward.register(one, two)
    other = replace(other, record_number=one.record_number, has_number=False)
    ward.simulator.truth = replace(ward.simulator.truth, patients=(other, one, two, another))
    if not at_once:
        ward.puller().pull()
        assert ward.in_force() == of(ward, one) | of(ward, two)

    moves(ward, one, other)
    moves(ward, two, another)
    merged = {"is_active": False, "has_number": False}
    says(
        ward,
        replace(one, **merged, replaced_by=other.id),
        replace(two, **merged, replaced_by=another.id),
    )

    expected = of(ward, one, other) | of(ward, two, another)
    assert ward.in_force() == expected != {}
    assert ward.questions() == []
    assert of(ward, one) == {}
    gone = replace(one, **merged, record_number="9-9", replaced_by=other.id)
    says(ward, gone, other, another)
    assert ward.in_force() == expected
    assert ward.questions() == []


def test_a_merge_that_the_hospital_undoes_is_asked_about(sqlite: Database, open_ward: Open) -> None:
    """Whose the entries are is for a person to see; what comes then is not taken."""
    ward = open_ward(sqlite, patients=4)
    one, other = ward.truth.patients[:2]
    ward.register(one)
    says(ward, replace(one, is_active=False, replaced_by=other.id))
    assert ward.in_force() == of(ward, one, other)

    says(ward, one)

    assert [why for _, why in ward.questions()] == ["another_person"]
    assert ward.taker().placed([one.id, other.id]).keys() == {one.id}


def test_a_participants_patient_that_is_deleted_is_asked_about(
    sqlite: Database, open_ward: Open
) -> None:
    """Unless it was merged before: then it is known who it is."""
    ward = open_ward(sqlite, patients=4)
    one, two, other = ward.truth.patients[:3]
    ward.register(one, two)
    says(ward, replace(two, is_active=False, replaced_by=other.id))
    there = ward.in_force()

    ward.now += DAY
    version = ward.truth.things[0].versions[0]
    gone = replace(version, known_at=ward.now, issued=ward.now, status="deleted", says={})
    deleted = tuple(Thing(f"Patient/{one.id}", (gone,)) for one in (one, two))
    truth = ward.simulator.truth
    ward.simulator.truth = replace(truth, things=(*truth.things, *deleted))
    ward.puller().pull()

    ((name, why),) = ward.questions()
    assert why == "another_person"
    assert one.id not in name
    assert ward.in_force() == there
    assert ward.taker().placed([one.id, two.id, other.id]).keys() == {two.id, other.id}


def test_a_patient_who_may_have_become_a_participants_is_asked_about(
    sqlite: Database, open_ward: Open
) -> None:
    """One with the number as an old one, when nobody has it: nothing is taken, and nothing is lost
    in silence. What the hospital says next ends the question."""
    ward = open_ward(sqlite, patients=4)
    one, other = ward.truth.patients[:2]
    ward.register(one)
    heir = replace(other, record_number=one.record_number, has_number=False)
    truth = ward.simulator.truth
    ward.simulator.truth = replace(truth, patients=(heir, *ward.truth.patients[2:]))
    ward.puller().pull()
    assert ward.in_force() == {}
    ((name, why),) = ward.questions()
    assert why == "perhaps_merged"
    assert other.id not in name
    ward.puller().pull()
    assert len(ward.questions()) == 1

    ward.simulator.truth = replace(truth, patients=(one, heir, *ward.truth.patients[2:]))
    says(ward, one)  # who has it
    assert ward.in_force() == of(ward, one)
    assert ward.questions() == []
    assert says(ward, heir) == 0

    says(ward, replace(one, replaced_by=heir.id))
    assert ward.in_force() == of(ward, one, other)
    assert ward.questions() == []


def test_a_patient_who_says_whom_it_replaces_and_one_who_does_not_say_by_whom_are_asked_about(
    sqlite: Database, open_ward: Open
) -> None:
    """Only the old one's own word, with a name to it, is clear."""
    ward = open_ward(sqlite, patients=4)
    one, two, other = ward.truth.patients[:3]
    ward.register(one, two)
    ward.puller().pull()
    link = {"type": "replaces", "other": {"reference": f"Patient/{one.id}"}}
    claims = patient_to_fhir(other) | {"link": [link]}
    lost = {"type": "replaced-by", "other": {"display": "outro prontuário"}}
    replaced = patient_to_fhir(two) | {"link": [lost]}
    patients = Patients(ward.taker())

    for _ in range(2):
        patients.place([claims, replaced], complete=True, again=False)
        assert [why for _, why in ward.questions()] == ["perhaps_merged"] * 2
    assert other.id not in ward.taker().placed([other.id])
    assert ward.in_force() == of(ward, one) | of(ward, two)

    clear = [patient_to_fhir(other), patient_to_fhir(two)]
    patients.place(clear, complete=True, again=False)
    assert ward.questions() == []
    ward.now += DAY
    patients.place([claims], complete=True, again=False)
    assert len(ward.questions()) == 1
