"""What an app says about a form while the patient is there."""

from typing import Any

import pytest

from spira.device.bedside import look_over, read_form
from spira.domain.forms import check, json_schema
from spira.serving.forms import ASSESSMENT_1, FORMS

SCHEMA = json_schema(ASSESSMENT_1)
GOOD: dict[str, Any] = {
    "record_number": "0012345",
    "age": 63,
    "language": "pt-BR",
    "tracheostomy": False,
    "intubated": False,
    "patient_informed": True,
    "research_consent": False,
}


def test_every_form_that_is_served_is_read_back_whole() -> None:
    """What is read would be served as the same again."""
    for form in FORMS.values():
        assert json_schema(read_form(json_schema(form))) == json_schema(form)


def test_what_is_right_is_not_remarked_upon() -> None:
    """Nothing to correct, nothing to confirm."""
    assert look_over(SCHEMA, GOOD).model_dump() == {"refused": {}, "to_confirm": {}}


@pytest.mark.parametrize(
    "values",
    [
        {},
        GOOD | {"age": "63"},
        GOOD | {"patient_informed": False},
        GOOD | {"sex": "f"},
        GOOD | {"record_number": "x" * 33},
        GOOD | {"initials": "A. B."},
    ],
    ids=["nothing", "another type", "not informed", "no choice", "too long", "unknown"],
)
def test_what_the_server_refuses_is_told_as_it_will_tell_it(values: dict[str, Any]) -> None:
    """The same fields, for the same reasons, in the same words."""
    refused = look_over(SCHEMA, values).refused

    assert refused
    assert refused == check(ASSESSMENT_1, values).refused


@pytest.mark.parametrize(
    ("field", "value", "reason", "place"),
    [
        ("age", 107, "implausible", "x-plausible"),
        ("spo2", 8.8, "impossible", "x-possible"),
        ("cid10", "J96.01", "wrong_format", "x-format"),
    ],
)
def test_what_is_odd_is_to_be_confirmed_in_the_words_that_were_served(
    field: str, value: Any, reason: str, place: str
) -> None:
    """Words for the bed are the server's, and may be others than this version knows."""
    said = {**SCHEMA["properties"][field]}
    said[place] = {**said[place], "sentence": {"pt": "Confira.", "en": "Look again."}}
    schema = {**SCHEMA, "properties": {**SCHEMA["properties"], field: said}}

    remarks = look_over(schema, GOOD | {field: value})

    assert remarks.refused == {}
    assert remarks.model_dump()["to_confirm"] == {
        field: {"reason": reason, "pt": "Confira.", "en": "Look again."}
    }


def test_consent_without_its_version_is_to_be_confirmed() -> None:
    """The server would keep it, and not use it as a yes."""
    remarks = look_over(SCHEMA, GOOD | {"research_consent": True})

    assert {name: one.reason for name, one in remarks.to_confirm.items()} == {
        "research_consent": "incomplete"
    }


@pytest.mark.parametrize(
    "document",
    [
        {},
        {**SCHEMA, "x-order": None},
        {**SCHEMA, "x-order": ["mood"], "properties": {"mood": {"type": "array"}}},
        {**SCHEMA, "x-order": ["mood"], "properties": {"mood": "happy"}},
    ],
    ids=["empty", "no order", "another kind", "no field"],
)
def test_a_form_of_a_later_day_is_none_that_is_known(document: dict[str, Any]) -> None:
    """It is not half understood."""
    with pytest.raises(ValueError, match="form: cannot be read"):
        read_form(document)
