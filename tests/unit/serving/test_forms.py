"""The clinical form of an assessment, and what it says about the model's intended use."""

from typing import Any

import jsonschema
import pytest

from spira.domain.forms import check, json_schema
from spira.domain.vitals import DEFAULT_VITAL_RULES, banner
from spira.model.prediction import INTUBATED, MINOR, TRACHEOSTOMY
from spira.serving.forms import ASSESSMENT_1, FORMS, declared, outside_intended_use

GOOD: dict[str, Any] = {
    "record_number": "0012345",
    "age": 63,
    "sex": "female",
    "language": "pt-BR",
    "mask": "surgical",
    "covid": "ruled_out",
    "cid10": "J96.0",
    "heart_rate": 95,
    "respiratory_rate": 24,
    "spo2": 93,
    "oxygen_support": "oxygen",
    "oxygen_flow": 2.5,
    "hospitalised": True,
    "unfinished": False,
    "tracheostomy": False,
    "intubated": False,
    "patient_informed": True,
    "research_consent": True,
    "consent_form_version": "2026-1",
}
FORBIDDEN = ("diagnóstico", "diagnos", "normal", "saudável", "healthy", "✓", "✔")


def test_a_form_is_found_by_its_id_and_version() -> None:
    """What a submission names is what it is checked with."""
    assert FORMS["assessment", 1] is ASSESSMENT_1
    assert all(key == (form.id, form.version) for key, form in FORMS.items())


def test_a_whole_form_may_be_used_and_the_schema_agrees() -> None:
    """Every field of the form has a good value here, without refusal or mark."""
    filled = check(ASSESSMENT_1, GOOD)

    assert {*GOOD} == {field.name for field in ASSESSMENT_1.fields}
    assert (filled.refused, filled.marks) == ({}, {})
    assert {**filled.values, **filled.identifying} == GOOD
    jsonschema.Draft202012Validator(json_schema(ASSESSMENT_1)).validate(GOOD)


def test_what_must_be_there_before_anything_is_accepted() -> None:
    """As little as possible: who it is, intended use, and the law."""
    assert {*check(ASSESSMENT_1, {}).refused} == {
        "record_number",
        "age",
        "language",
        "tracheostomy",
        "intubated",
        "patient_informed",
        "research_consent",
    }


def test_what_stays_on_the_device_is_refused_when_it_is_sent() -> None:
    """Initials and bed tell people apart at the bed; the server must not have them."""
    assert "initials_and_bed" in check(ASSESSMENT_1, {**GOOD, "initials_and_bed": "A B 7"}).refused


def test_only_the_record_number_says_who_it_is() -> None:
    """One field is kept as a hash alone, and no other of the form asks for free text."""
    filled = check(ASSESSMENT_1, GOOD)

    assert filled.identifying == {"record_number": "0012345"}
    assert "0012345" not in str(filled.kept)
    assert {f.name for f in ASSESSMENT_1.fields if f.kind == "text"} == {
        "record_number",
        "cid10",
        "consent_form_version",
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [("spo2", 0.97), ("spo2", 101), ("heart_rate", 999), ("age", 630), ("cid10", "J96.01")],
)
def test_an_impossible_value_raises_no_alarm_and_blocks_nothing(field: str, value: Any) -> None:
    """Hours later nobody can correct it: it is kept, marked, and no sentence is built from it."""
    filled = check(ASSESSMENT_1, {**GOOD, field: value})

    assert filled.refused == {}
    assert filled.marks[field].reason in ("impossible", "wrong_format")
    assert banner(DEFAULT_VITAL_RULES, filled.values) is None
    assert outside_intended_use(filled.values) == ()


def test_very_sick_people_are_never_impossible() -> None:
    """Values that a dying patient shows are used, and the banner says them."""
    filled = check(ASSESSMENT_1, {**GOOD, "spo2": 42, "heart_rate": 220, "respiratory_rate": 60})

    assert {mark.reason for mark in filled.marks.values()} == {"implausible"}
    said = banner(DEFAULT_VITAL_RULES, filled.values)
    assert said is not None
    assert "SpO₂ 42 %, FR 60 irpm, FC 220 bpm" in said.pt


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, ()),
        ({"age": 18}, ()),
        ({"age": 17}, (MINOR,)),
        ({"tracheostomy": True}, (TRACHEOSTOMY,)),
        ({"age": 3, "tracheostomy": True, "intubated": True}, (MINOR, TRACHEOSTOMY, INTUBATED)),
    ],
)
def test_who_is_outside_intended_use(change: dict[str, Any], reasons: tuple[Any, ...]) -> None:
    """Every reason is given, in the words that prediction uses."""
    assert outside_intended_use(check(ASSESSMENT_1, {**GOOD, **change}).values) == reasons


def test_another_language_than_the_models_is_outside_intended_use() -> None:
    """It depends on the model: a model tested in Spanish may answer about Spanish."""
    spanish = {**GOOD, "language": "es"}

    (reason,) = outside_intended_use({**GOOD, "language": "other"})

    assert reason.pt == "O modelo foi testado em pt-BR. Fala declarada: outra língua."
    assert len(outside_intended_use(spanish)) == 1
    assert outside_intended_use(spanish, languages=("pt-BR", "es")) == ()


def test_what_the_form_declares_is_what_prediction_asks_about() -> None:
    """A field that was not used is not declared, so that the answer says what it assumed."""
    said = declared(check(ASSESSMENT_1, {**GOOD, "age": 630, "unfinished": True}).values)

    assert (said.language, said.age, said.unfinished) == ("pt-BR", None, True)
    assert (said.tracheostomy, said.intubated) == (False, False)
    assert (said.device, said.site, said.utterance) == (None, None, None)


def test_the_words_of_the_form_claim_nothing() -> None:
    """Titles, help, choices and marks in both languages never diagnose."""
    text = str(json_schema(ASSESSMENT_1)).lower()

    assert [word for word in FORBIDDEN if word in text] == []


def test_what_an_app_says_at_the_bed_fits_a_phone() -> None:
    """The question to confirm has at most 90 characters in each language."""
    said = [
        text
        for schema in json_schema(ASSESSMENT_1)["properties"].values()
        for key in ("x-plausible", "x-possible", "x-format")
        if key in schema
        for text in schema[key]["sentence"].values()
    ]

    assert said
    assert [text for text in said if len(text) > 90] == []
