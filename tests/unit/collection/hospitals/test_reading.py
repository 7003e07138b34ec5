"""What a hospital says in FHIR, as entries; and what is asked instead of guessed."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spira.collection.hospitals.reading import CID10, KINDS, Read, Reader, name_of, names_of
from spira.domain.labels import Entry

NOW = datetime(2024, 3, 10, 12, tzinfo=UTC)
WHOM = "record:records-0011223344556677:" + "ab" * 32
READER = Reader("santa-casa", zone=ZoneInfo("America/Sao_Paulo"), diagnoses=("J96", "J80"))
LOINC, UCUM = "http://loinc.org", "http://unitsofmeasure.org"


def concept(*codes: str, system: str | None = LOINC) -> dict[str, Any]:
    """A CodeableConcept."""
    where = {} if system is None else {"system": system}
    return {"coding": [{**where, "code": code} for code in codes]}


def quantity(value: Any, unit: str = "%", **more: Any) -> dict[str, Any]:
    """A Quantity in UCUM."""
    return {"value": value, "unit": unit, "system": UCUM, "code": unit, **more}


def saturation(**changes: Any) -> dict[str, Any]:
    """SpO2 of 93 % as a pulse oximeter shows it; a change to None takes an element away."""
    document = {
        "resourceType": "Observation",
        "id": "o-1",
        "meta": {"versionId": "2", "lastUpdated": "2024-03-09T10:05:00.000-03:00"},
        "status": "final",
        "code": concept("59408-5", "2708-6"),
        "subject": {"reference": "Patient/p-1"},
        "effectiveDateTime": "2024-03-09T10:00:00-03:00",
        "issued": "2024-03-09T10:01:00-03:00",
        "valueQuantity": quantity(93.0),
        **changes,
    }
    return {name: value for name, value in document.items() if value is not None}


def diagnosis(**changes: Any) -> dict[str, Any]:
    """J96.0 since 8 March."""
    document = {
        "resourceType": "Condition",
        "id": "c-1",
        "meta": {"versionId": "1", "lastUpdated": "2024-03-09T09:00:00Z"},
        "code": concept("J96.0", system=CID10[0]),
        "subject": {"reference": "Patient/p-1"},
        "onsetDateTime": "2024-03-08T22:30:00-03:00",
        **changes,
    }
    return {name: value for name, value in document.items() if value is not None}


def read(document: Mapping[str, Any]) -> Read:
    """As it came, of the participant."""
    return READER.read(document, WHOM, NOW)


def only(document: Mapping[str, Any]) -> Entry:
    """The one entry of a resource about which nothing is asked."""
    found = read(document)
    assert found.questions == ()
    (entry,) = found.entries
    return entry


def component(code: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One of an Observation's."""
    return {"code": concept(code), "valueQuantity": value, **more}


def test_both_saturation_codes_in_one_observation_are_one_entry() -> None:
    """When it was true, when the hospital knew, and how it was measured come with it."""
    entry = only(saturation())

    assert (entry.source, entry.origin, entry.name) == ("hospital", "santa-casa", "Observation/o-1")
    assert (entry.subject, entry.status) == (WHOM, "final")
    assert entry.issued == datetime(2024, 3, 9, 13, 5, tzinfo=UTC)  # last changed after `issued`
    said = entry.observation
    assert said is not None
    assert (said.kind, said.value, said.method) == ("spo2", 93.0, "pulse_oximetry")
    assert (said.at, said.until) == (datetime(2024, 3, 9, 13, tzinfo=UTC), None)
    assert said.breathing is None


def test_saturation_in_arterial_blood_alone_is_of_unknown_method() -> None:
    """2708-6 says nothing of how it was measured."""
    said = only(saturation(code=concept("2708-6"))).observation

    assert said is not None
    assert (said.kind, said.method) == ("spo2", None)


@pytest.mark.parametrize("codes", [("59408-5", "2708-6"), ("2708-6", "59408-5")])
def test_both_saturation_codes_as_components_count_once(codes: tuple[str, str]) -> None:
    """Where they have one value."""
    parts = [component(code, quantity(93)) for code in codes]

    said = only(saturation(code=concept("85353-1"), valueQuantity=None, component=parts))

    assert said.name == "Observation/o-1/spo2"
    assert said.observation is not None
    assert (said.observation.value, said.observation.method) == (93.0, "pulse_oximetry")


@pytest.mark.parametrize(
    ("code", "unit", "value", "kind", "read_as"),
    [
        ("9279-1", "/min", 18, "respiratory_rate", 18.0),
        ("9279-1", "{breaths}/min", 18, "respiratory_rate", 18.0),
        ("8867-4", "/min", 88, "heart_rate", 88.0),
        ("2703-7", "mm[Hg]", 58.0, "pao2", 58.0),
        ("2703-7", "kPa", 8.0, "pao2", pytest.approx(60.0051, abs=1e-3)),
        ("2019-8", "kPa", 6.0, "paco2", pytest.approx(45.0038, abs=1e-3)),
        ("2744-1", "[pH]", 7.41, "ph", 7.41),
        ("3151-8", "L/min", 0, "oxygen_flow", 0.0),
        ("3150-0", "%", 21, "inspired_oxygen", 21.0),
    ],
    ids=str,
)
def test_each_measurement_is_read_by_its_code_and_unit(
    code: str, unit: str, value: float, kind: str, read_as: Any
) -> None:
    """UCUM says what a unit is; what it has in braces means nothing."""
    said = only(saturation(code=concept(code), valueQuantity=quantity(value, unit))).observation

    assert said is not None
    assert (said.kind, said.value) == (kind, read_as)
    assert said.method == ("arterial" if kind in ("pao2", "paco2", "ph") else None)


@pytest.mark.parametrize(
    ("parts", "breathing"),
    [
        ([component("3151-8", quantity(2, "L/min"))], "oxygen"),
        ([component("3151-8", quantity(0, "L/min"))], "room_air"),
        ([component("3150-0", quantity(21))], "room_air"),
        ([component("3150-0", quantity(20.9))], "room_air"),
        ([component("3150-0", quantity(28))], "oxygen"),
        ([component("3151-8", quantity(3, "L/min")), component("3150-0", quantity(32))], "oxygen"),
        (
            [{"code": concept("3151-8"), "dataAbsentReason": concept("unknown", system="x:y")}],
            None,
        ),
    ],
    ids=["flow", "no flow", "air", "dry air", "fraction", "both", "absent"],
)
def test_oxygen_beside_a_saturation_is_what_was_breathed(
    parts: list[dict[str, Any]], breathing: str | None
) -> None:
    """And no entry of its own."""
    said = only(saturation(component=parts)).observation

    assert said is not None
    assert said.breathing == breathing


def test_each_measurement_of_a_panel_is_an_entry() -> None:
    """One that cannot be read keeps none of the others back."""
    parts = [
        component("2703-7", quantity(58, "mm[Hg]")),
        component("2019-8", quantity(44, "cm[H2O]")),
        component("2744-1", quantity(7.38, "[pH]")),
        component("3150-0", quantity(21)),
    ]

    found = read(saturation(code=concept("24336-0"), valueQuantity=None, component=parts))

    counted = {one.name: one.observation for one in found.entries if one.observation is not None}
    assert set(counted) == {"Observation/o-1/pao2", "Observation/o-1/ph"}
    assert {one.breathing for one in counted.values()} == {"room_air"}
    (question,) = found.questions
    assert (question.name, question.reason) == ("Observation/o-1/paco2", "unit")
    assert question.said == {"value": 44.0, "unit": "cm[H2O]"}
    assert question.observation is not None
    assert question.observation.value == 44.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"valueQuantity": quantity(0.93)}, "fraction"),
        ({"valueQuantity": quantity(0.93, "1")}, "unit"),
        ({"valueQuantity": {"value": 93, "unit": "%"}}, "unit"),
        ({"valueQuantity": {"value": 93, "unit": "%", "system": UCUM}}, "unit"),
        ({"valueQuantity": quantity(193)}, "impossible"),
        ({"valueQuantity": quantity(9, "mm[Hg]"), "code": concept("2703-7")}, "impossible"),
        ({"valueQuantity": quantity(93, comparator="<")}, "no_value"),
        ({"valueQuantity": None}, "no_value"),
        ({"valueQuantity": None, "valueString": "93"}, "no_value"),
        ({"valueQuantity": quantity("93")}, "not_fhir"),
        ({"status": "unknown"}, "status"),
        ({"status": "definitely"}, "status"),
        ({"effectiveDateTime": None}, "no_time"),
        (
            {"effectiveDateTime": None, "effectivePeriod": {"start": "2024-03-09T10:00:00Z"}},
            "no_time",
        ),
        ({"effectiveDateTime": "2024-03-09"}, "imprecise_time"),
        ({"effectiveDateTime": "2024-03"}, "imprecise_time"),
        ({"effectiveDateTime": "1024-03-09T10:00:00Z"}, "no_time"),
        ({"effectiveDateTime": "2024-03-10T12:06:00Z"}, "in_the_future"),
        ({"issued": "2024-03-11T12:00:00Z"}, "in_the_future"),
        ({"issued": None, "meta": None}, "no_issued"),
        ({"focus": [{"reference": "Patient/p-2"}]}, "about_another"),
        ({"modifierExtension": [{"url": "https://x.example", "valueBoolean": True}]}, "modifier"),
        ({"implicitRules": "https://x.example"}, "modifier"),
        ({"code": concept("59408-5", "8867-4")}, "contradictory"),
        ({"code": concept("59408-5", system=None)}, "code_system"),
        ({"component": [component("2708-6", quantity(91))]}, "contradictory"),
        (
            {
                "component": [
                    component("3151-8", quantity(3, "L/min")),
                    component("3150-0", quantity(21)),
                ]
            },
            "contradictory",
        ),
        ({"component": [component("3150-0", quantity(0.32))]}, "fraction"),
        ({"effectiveDateTime": "2024-03-09 10:00"}, "not_fhir"),
        ({"effectiveDateTime": "2024-03-09T10:00:00"}, "not_fhir"),
        ({"valueQuantity": 93}, "not_fhir"),
        ({"colour": "blue"}, "not_fhir"),
        ({"id": "a name with spaces"}, "not_fhir"),
        ({"status": None}, "not_fhir"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:40],
)
def test_what_is_not_certain_is_asked_and_not_guessed(changes: dict[str, Any], reason: str) -> None:
    """Nothing of it counts until a person has decided; and no value is in the words."""
    found = read(saturation(**changes))

    assert [one.reason for one in found.questions] == [reason]
    assert [one.observation for one in found.entries if one.observation is not None] == []
    assert "93" not in found.questions[0].detail


def test_a_question_carries_what_could_be_read() -> None:
    """So that a person corrects a value, and enters nothing anew."""
    (question,) = read(saturation(valueQuantity=quantity(0.93))).questions

    assert (question.subject, question.status) == (WHOM, "final")
    assert question.issued == datetime(2024, 3, 9, 13, 5, tzinfo=UTC)
    assert question.observation is not None
    assert (question.observation.kind, question.observation.value) == ("spo2", 0.93)
    assert question.observation.at == datetime(2024, 3, 9, 13, tzinfo=UTC)
    assert question.said == {"value": 0.93, "unit": "%"}


def test_a_name_in_the_place_of_a_unit_is_not_kept() -> None:
    """What is shown of units and codes has their form."""
    (question,) = read(saturation(valueQuantity=quantity(93, "José da Silva"))).questions

    assert question.said == {"value": 93.0, "unit": "…"}


def test_a_key_that_is_no_fhir_is_not_repeated() -> None:
    """It may be anything, somebody's name too."""
    (question,) = read(saturation(**{"José da Silva": 1})).questions

    assert question.detail == "not as FHIR R4 has it: …"


@pytest.mark.parametrize(
    ("status", "becomes"),
    [
        ("preliminary", "preliminary"),
        ("final", "final"),
        ("amended", "amended"),
        ("corrected", "corrected"),
        ("entered-in-error", "retracted"),
        ("cancelled", "retracted"),
    ],
    ids=str,
)
def test_the_status_of_a_version_is_kept(status: str, becomes: str) -> None:
    """What was entered in error takes the entry back."""
    entry = only(saturation(status=status))

    assert entry.status == becomes
    assert (entry.observation is None) == (becomes == "retracted")


def test_what_is_only_registered_or_not_ours_says_nothing() -> None:
    """No entry, no question."""
    temperature = saturation(code=concept("8310-5"), valueQuantity=quantity(37.1, "Cel"))
    elsewhere = saturation(code=concept("59408-5", system="https://x.example"))

    for document in (saturation(status="registered"), temperature, elsewhere, {}, {"id": 5}):
        assert read(document) == Read()


def test_a_question_takes_back_what_was_said_before() -> None:
    """A correction that nobody can read says at least that the first version was wrong."""
    found = read(saturation(valueQuantity=quantity(0.93)))

    (taken_back,) = found.entries
    (question,) = found.questions
    assert (taken_back.name, taken_back.status) == (question.name, "retracted")
    assert taken_back.issued == question.issued


def test_a_resource_that_says_less_takes_the_rest_back() -> None:
    """What a version no longer has is not in force for ever."""
    document = saturation()
    held = dict.fromkeys(("Observation/o-1", "Observation/o-1/heart_rate"), WHOM)

    settled = list(READER.settled(document, read(document), held, NOW))

    said = {entry.name: entry.status for entry in settled}
    assert said == {"Observation/o-1": "final", "Observation/o-1/heart_rate": "retracted"}
    assert {entry.issued for entry in settled} == {datetime(2024, 3, 9, 13, 5, tzinfo=UTC)}


@pytest.mark.parametrize("value", [93, 0.93], ids=["clear", "doubtful"])
def test_what_is_preliminary_replaces_nothing(value: float) -> None:
    """Whether it can be read or not: what was final before stays in force until this one is."""
    document = saturation(status="preliminary", valueQuantity=quantity(value))
    held = dict.fromkeys(("Observation/o-1", "Observation/o-1/heart_rate"), WHOM)

    settled = list(READER.settled(document, read(document), held, NOW))

    assert all(entry.status == "preliminary" for entry in settled)
    assert all(one.status == "preliminary" for one in read(document).questions)


def test_a_diagnosis_that_is_no_longer_confirmed_counts_no_more() -> None:
    """It waits, as one does that never was."""
    document = diagnosis(verificationStatus=concept("differential", system="x:y"))

    settled = list(READER.settled(document, read(document), {"Condition/c-1": WHOM}, NOW))

    assert [entry.status for entry in settled] == ["preliminary", "retracted"]
    assert len({entry.version for entry in settled}) == 2


def test_clocks_may_differ_a_little() -> None:
    """What the hospital issued in our next minute counts, and takes back, as issued then."""
    ahead = (NOW + timedelta(minutes=1)).isoformat()
    document = saturation(issued=ahead, meta=None, valueQuantity=quantity(0.93))

    (question,) = read(document).questions
    (taken_back,) = read(document).entries

    assert question.issued == taken_back.issued == NOW + timedelta(minutes=1)


def test_the_same_said_in_another_form_is_the_same_version() -> None:
    """Another zone, another order of keys; and another meaning is another version."""
    document = saturation()
    again = json.loads(json.dumps(dict(reversed(document.items()))))
    again["effectiveDateTime"] = "2024-03-09T13:00:00Z"
    again["text"] = {"status": "generated", "div": "<div xmlns='http://www.w3.org/1999/xhtml'/>"}

    assert only(again).version == only(document).version
    assert only(saturation(valueQuantity=quantity(94))).version != only(document).version


@pytest.mark.parametrize(
    ("code", "system"),
    [("J96.0", CID10[0]), ("J960", CID10[0]), ("j96.0", CID10[1])],
    ids=str,
)
def test_a_diagnosis_is_read_by_its_code_of_cid10(code: str, system: str) -> None:
    """With or without its point; from its onset on."""
    entry = only(diagnosis(code=concept(code, system=system)))

    assert entry.name == "Condition/c-1"
    said = entry.observation
    assert said is not None
    assert (said.kind, said.code, said.until) == ("diagnosis", "J96.0", None)
    assert said.at == datetime(2024, 3, 9, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"code": concept("J96.01", system="http://hl7.org/fhir/sid/icd-10-cm")}, "not_cid10"),
        ({"code": concept("J80", system="http://hl7.org/fhir/sid/icd-10-cm")}, "not_cid10"),
        ({"code": concept("J96.01", system=CID10[0])}, "not_cid10"),
        ({"code": concept("J96.0", system=None)}, "code_system"),
        ({"code": concept("J96.0", "J96.1", system=CID10[0])}, "contradictory"),
        ({"clinicalStatus": concept("resolved", system="x:y")}, "no_end"),
        ({"abatementString": "last year"}, "no_end"),
        ({"abatementAge": quantity(50, "a")}, "no_end"),
        ({"abatementPeriod": {"start": "2024-03-08"}}, "no_end"),
        ({"clinicalStatus": {"text": "resolvido"}}, "status"),
        ({"verificationStatus": {"text": "refutado"}}, "status"),
        ({"abatementDateTime": "2024-03-01"}, "contradictory"),
        ({"onsetDateTime": "2024-03-11"}, "in_the_future"),
        ({"onsetDateTime": None}, "no_time"),
        ({"verificationStatus": concept("maybe", system="x:y")}, "status"),
        ({"meta": None}, "no_issued"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:40],
)
def test_a_diagnosis_that_is_not_certain_is_asked(changes: dict[str, Any], reason: str) -> None:
    """J96.01 is ICD-10-CM, whatever it is called."""
    found = read(diagnosis(**changes))

    assert [one.reason for one in found.questions] == [reason]
    assert all(one.observation is None for one in found.entries)


def test_a_code_of_icd_10_cm_is_for_a_person_to_translate() -> None:
    """The question has the code as it was given, and when it began."""
    document = diagnosis(code=concept("J96.01", system="http://hl7.org/fhir/sid/icd-10-cm"))

    (question,) = read(document).questions

    assert question.said == {"code": "J96.01"}
    assert question.observation is not None
    assert (question.observation.kind, question.observation.code) == ("diagnosis", "J96.01")


def test_an_icd_10_cm_code_beside_that_of_cid10_does_no_harm() -> None:
    """CID-10 says it."""
    both = concept("J96.0", system=CID10[0])
    both["coding"] += concept("J96.01", system="http://hl7.org/fhir/sid/icd-10-cm")["coding"]

    said = only(diagnosis(code=both)).observation

    assert said is not None
    assert said.code == "J96.0"


def test_other_diagnoses_are_left_unread() -> None:
    """What no label rests on is nobody's business, however it is written."""
    other = diagnosis(code=concept("B24", system=CID10[0]), onsetDateTime="nonsense")

    assert read(other) == Read()


@pytest.mark.parametrize(
    ("onset", "abatement", "begins", "ends"),
    [
        (
            "2024-03-08",
            "2024-03-09",
            "2024-03-08T03:00:00+00:00",
            "2024-03-10T02:59:59.999999+00:00",
        ),
        ("2019", "2019-12", "2019-01-01T02:00:00+00:00", "2020-01-01T02:59:59.999999+00:00"),
        ("2024-01", "2024", "2024-01-01T03:00:00+00:00", "2025-01-01T02:59:59.999999+00:00"),
    ],
    ids=str,
)
def test_a_diagnosis_dated_by_days_lasts_for_the_whole_of_them(
    onset: str, abatement: str, begins: str, ends: str
) -> None:
    """As days are where the hospital is, summer time too."""
    said = only(diagnosis(onsetDateTime=onset, abatementDateTime=abatement)).observation

    assert said is not None
    assert said.until is not None
    assert (said.at.isoformat(), said.until.isoformat()) == (begins, ends)


@pytest.mark.parametrize(
    ("verified", "status"),
    [
        ("confirmed", "final"),
        ("provisional", "preliminary"),
        ("differential", "preliminary"),
        ("unconfirmed", "preliminary"),
        ("refuted", "retracted"),
        ("entered-in-error", "retracted"),
    ],
    ids=str,
)
def test_a_diagnosis_counts_once_it_is_confirmed(verified: str, status: str) -> None:
    """What is only thought of waits; what was refuted is taken back. A hospital may have words of
    its own beside FHIR's."""
    both = concept("own-word", verified, system="x:y")

    assert only(diagnosis(verificationStatus=both)).status == status


def test_entries_have_the_names_that_are_looked_for() -> None:
    """Whatever a resource may come to, `names_of` names it."""
    names = names_of("Observation/o-1")

    assert name_of(saturation()) == "Observation/o-1"
    assert names == ("Observation/o-1", *(f"Observation/o-1/{kind}" for kind in KINDS))


def _altered(document: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A document with something else in one of its places, at any depth."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    anything = st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)
    )

    def put(where: list[Any], value: Any) -> dict[str, Any]:
        changed = json.loads(json.dumps(document))
        here = changed
        for step in where[:-1]:
            here = here[step]
        here[where[-1]] = value
        return changed  # type: ignore[no-any-return]

    places = [*_places(document)]
    return st.builds(put, st.sampled_from(places), anything)


def _places(value: Any, at: tuple[Any, ...] = ()) -> Any:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inner:
        yield [*at, key]
        if isinstance(one, dict | list):
            yield from _places(one, (*at, key))


FULL = saturation(component=[component("3151-8", quantity(2, "L/min"))])


@given(document=_altered(FULL) | _altered(diagnosis(abatementDateTime="2024-03-09")))
@settings(max_examples=150, deadline=None)
def test_whatever_comes_is_read_or_asked_about(document: dict[str, Any]) -> None:
    """Nothing in the place of anything ends a pull; what counts is in the bounds of its kind."""
    found = read(document)

    for entry in found.entries:
        assert entry.issued <= NOW + timedelta(minutes=5)
    for question in found.questions:
        assert len(question.name) <= 200
