"""A form is data; what is filled in is refused, marked or usable, and a range never blocks."""

import json
import unicodedata
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spira.domain.answers import Sentence
from spira.domain.fingerprint import canonical_json
from spira.domain.forms import Choice, Field, Form, Range, check, cid10, json_schema


def _say(text: str) -> Sentence:
    return Sentence(pt=f"{text} (pt)", en=text)


NUMBER = Field(
    name="record_number",
    kind="text",
    title=_say("Record"),
    required=True,
    longest=10,
    identifying=True,
)
AGE = Field(
    name="age",
    kind="whole",
    title=_say("Age"),
    required=True,
    plausible=Range(low=18, high=105),
    possible=Range(low=0, high=125),
    unit=Sentence(pt="anos", en="years"),
)
FORM = Form(
    id="try",
    version=3,
    title=_say("Try"),
    fields=(
        NUMBER,
        AGE,
        Field(
            name="flow",
            kind="number",
            title=_say("Flow"),
            help=_say("Litres"),
            plausible=Range(low=0.5, high=15),
            possible=Range(low=0, high=60),
        ),
        Field(
            name="sex",
            kind="choice",
            title=_say("Sex"),
            choices=(
                Choice(value="female", title=_say("Female")),
                Choice(value="male", title=_say("Male")),
            ),
        ),
        Field(name="code", kind="text", title=_say("Code"), format="cid10"),
        Field(name="informed", kind="yes_no", title=_say("Told"), required=True, must_be_yes=True),
        Field(name="consent", kind="yes_no", title=_say("Consent"), yes_needs="consent_version"),
        Field(name="consent_version", kind="text", title=_say("Version")),
    ),
)
GOOD: dict[str, Any] = {"record_number": "0012", "age": 63, "informed": True}

VALIDATOR = jsonschema.Draft202012Validator(json_schema(FORM))
ENTRIES = st.one_of(
    st.tuples(st.just(name), values)
    for name, values in {
        "record_number": st.sampled_from(["", " ", "0012", 12, None])
        | st.text(
            st.characters(exclude_categories=["C", "Z"], max_codepoint=127)
            | st.characters(categories=["Lu", "Ll", "Nd"]),
            max_size=14,
        ),
        "age": st.integers() | st.floats(allow_nan=False, allow_infinity=False),
        "flow": st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([None, "2"]),
        "sex": st.sampled_from(["female", "male", "Male", "", None]),
        "code": st.sampled_from(["J96.0", "J96.01", "", None, 5]),
        "informed": st.sampled_from([True, False, 1, "true", None]),
        "consent": st.booleans() | st.none(),
        "consent_version": st.text(st.characters(exclude_categories=["C"]), max_size=70),
        "recordnumber": st.just("12"),
    }.items()
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def test_good_values_may_be_used_and_who_it_is_stays_apart() -> None:
    """A record number is neither among the usable values nor among those to be stored."""
    filled = check(FORM, {**GOOD, "record_number": "  0012\n", "sex": "male", "flow": 2})

    assert filled.refused == {}
    assert filled.marks == {}
    assert filled.values == {"age": 63, "sex": "male", "flow": 2, "informed": True}
    assert filled.kept == filled.values
    assert filled.identifying == {"record_number": "0012"}


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("age", "63", "wrong_type"),
        ("age", True, "wrong_type"),
        ("age", 63.5, "wrong_type"),
        ("age", [63], "wrong_type"),
        ("age", {"years": 63}, "wrong_type"),
        ("age", float("nan"), "not_finite"),
        ("age", float("inf"), "not_finite"),
        ("age", 10**400, "not_finite"),
        ("flow", False, "wrong_type"),
        ("flow", "2,5", "wrong_type"),
        ("flow", float("-inf"), "not_finite"),
        ("age", None, "missing"),
        ("record_number", "", "missing"),
        ("record_number", " \t\n", "missing"),
        ("record_number", 12, "wrong_type"),
        ("record_number", ["12"], "wrong_type"),
        ("record_number", "12345678901", "too_long"),
        ("record_number", "12\x0034", "unusable_text"),
        ("record_number", "12\n34", "unusable_text"),
        ("record_number", "12\ud80034", "unusable_text"),
        ("record_number", "12\u200b34", "unusable_text"),
        ("record_number", "12\u202e34", "unusable_text"),
        ("record_number", "12\u202834", "unusable_text"),
        ("record_number", "12\ue00034", "unusable_text"),
        ("record_number", "-./", "unusable_text"),
        ("record_number", "😀", "unusable_text"),
        ("sex", "woman", "not_a_choice"),
        ("sex", "", "not_a_choice"),
        ("sex", 1, "wrong_type"),
        ("sex", ["male"], "wrong_type"),
        ("informed", 1, "wrong_type"),
        ("informed", "true", "wrong_type"),
        ("informed", False, "must_be_yes"),
        ("informed", None, "missing"),
    ],
)
def test_what_is_no_value_of_the_field_is_refused_alone(
    field: str, value: Any, reason: str
) -> None:
    """The field is named with its reason, nothing of it is used, and the others stay."""
    filled = check(FORM, {**GOOD, field: value})

    assert {name: remark.reason for name, remark in filled.refused.items()} == {field: reason}
    assert field not in {**filled.values, **filled.kept, **filled.identifying}
    assert {*filled.kept, *filled.identifying} >= {*GOOD} - {field}


def test_every_mistake_is_told_at_once() -> None:
    """One answer names all that a client must correct."""
    filled = check(FORM, {"age": "x", "sex": "y", "agee": 1})

    assert {*filled.refused} == {"record_number", "age", "sex", "informed", "agee"}


def test_an_unknown_field_is_refused_with_the_nearest_name() -> None:
    """A typing mistake in a field's name is not lost in silence."""
    filled = check(FORM, {**GOOD, "recordNumber": "12"})

    assert filled.refused["recordNumber"].reason == "unknown"
    assert "record_number" in filled.refused["recordNumber"].pt
    assert "record_number" in filled.refused["recordNumber"].en


def test_hostile_names_of_fields_can_be_answered() -> None:
    """Whatever a name holds, and however many there are, the answer is short and valid UTF-8."""
    names = ["\ud800", "a" * 1_000_000, "\x00", "Ω\u202e", *(f"x{i}" for i in range(100_000))]

    refused = check(FORM, {**GOOD, **dict.fromkeys(names, 1)}).refused

    assert 0 < len(refused) <= 20
    assert all(name.isascii() and name.isprintable() and len(name) <= 64 for name in refused)
    assert canonical_json({name: remark.model_dump() for name, remark in refused.items()})


@pytest.mark.parametrize(
    ("field", "value", "reason", "usable"),
    [
        ("age", 17, "implausible", True),
        ("age", 106, "implausible", True),
        ("age", 126, "impossible", False),
        ("age", -1, "impossible", False),
        ("age", 10**300, "impossible", False),
        ("age", 1e300, "impossible", False),
        ("flow", 0, "implausible", True),
        ("flow", 60.1, "impossible", False),
        ("code", "J96.01", "wrong_format", False),
        ("code", "pneumonia", "wrong_format", False),
    ],
)
def test_what_is_odd_is_marked_and_never_refused(
    field: str, value: Any, reason: str, usable: bool
) -> None:
    """Implausible is usable; impossible is kept as it came and not used; neither blocks."""
    filled = check(FORM, {**GOOD, field: value})

    assert filled.refused == {}
    assert {name: mark.reason for name, mark in filled.marks.items()} == {field: reason}
    assert filled.kept[field] == value
    assert (field in filled.values) is usable


@pytest.mark.parametrize(
    ("field", "value"), [("age", 18), ("age", 105), ("flow", 0.5), ("flow", 15)]
)
def test_the_ends_of_a_range_are_inside(field: str, value: float) -> None:
    """A value at a limit is not odd."""
    assert check(FORM, {**GOOD, field: value}).marks == {}


def test_a_whole_number_written_with_a_point_is_whole() -> None:
    """JSON has one kind of number: 63.0 is 63."""
    value = check(FORM, {**GOOD, "age": 63.0}).values["age"]

    assert value == 63
    assert isinstance(value, int)


def test_a_consent_without_the_form_it_needs_is_not_used() -> None:
    """Consent that cannot be shown never counts; it blocks nothing, and a refusal needs no form."""
    alone = check(FORM, {**GOOD, "consent": True})
    together = check(FORM, {**GOOD, "consent": True, "consent_version": "2026-1"})
    refused = check(FORM, {**GOOD, "consent": False})

    assert "consent" not in alone.values
    assert alone.kept["consent"] is True
    assert alone.marks["consent"].reason == "incomplete"
    assert alone.refused == {}
    assert together.values["consent"] is True
    assert refused.values["consent"] is False
    assert {**together.marks, **refused.marks} == {}


@pytest.mark.parametrize(
    ("typed", "code"),
    [("J96.0", "J96.0"), ("j960", "J96.0"), ("J80", "J80"), ("U07.1", "U07.1")],
)
def test_a_cid10_code_is_used_in_one_spelling(typed: str, code: str) -> None:
    """Case and a missing point are no reason to lose a diagnosis."""
    filled = check(FORM, {**GOOD, "code": typed})

    assert filled.values["code"] == code
    assert filled.kept["code"] == typed


@pytest.mark.parametrize(
    "typed", ["J96.01", "J9601", "J96.", "J9", "96.0", "J96,0", "J96.0 J80", "J٩٦", "", "ſ96"]
)
def test_what_is_no_cid10_code_is_none(typed: str) -> None:
    """J96.01 is a code of ICD-10-CM, and digits are those of ASCII."""
    assert cid10(typed) is None


def test_equal_text_typed_on_two_phones_is_equal() -> None:
    """An accent typed as one character or as two is the same record number."""
    one, two = (
        check(FORM, {**GOOD, "record_number": unicodedata.normalize(form, "ã-12")}).identifying
        for form in ("NFC", "NFD")
    )

    assert one == two


@given(entries=st.lists(ENTRIES, max_size=2), left_out=st.sampled_from(["", *GOOD]))
def test_the_schema_refuses_what_the_check_refuses(
    entries: list[tuple[str, Any]], left_out: str
) -> None:
    """An app that checks with the schema saves exactly what the server takes."""
    values = {name: GOOD[name] for name in GOOD if name != left_out} | dict(entries)

    assert VALIDATOR.is_valid(values) is (check(FORM, values).refused == {})


@given(values=st.dictionaries(st.sampled_from([f.name for f in FORM.fields]) | st.text(), JSON))
def test_any_json_gets_an_answer(values: dict[str, Any]) -> None:
    """Nothing raises, all that is returned can be written as JSON, each field in one place."""
    filled = check(FORM, values)

    assert canonical_json(filled.model_dump())
    assert {*filled.values} <= {*filled.kept}
    assert not {*filled.refused} & {*filled.kept, *filled.identifying}
    assert {*filled.marks} <= {*filled.kept}


@given(secret=st.text(st.characters(categories=["Nd", "Lu"]), min_size=5, max_size=40))
def test_no_sentence_and_no_repr_repeats_a_value(secret: str) -> None:
    """What was typed about a person reaches no message and no log line by accident."""
    filled = check(
        FORM, {**GOOD, "record_number": secret, "age": secret, "sex": secret, "code": secret}
    )

    assert secret not in repr(filled)


def test_the_schema_carries_what_an_app_needs_to_render_and_to_confirm() -> None:
    """Both languages, units, ranges with the sentence to say, titled choices, and the order."""
    schema = json_schema(FORM)

    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema
    assert schema["x-form"] == {"id": "try", "version": 3}
    assert schema["x-order"] == [field.name for field in FORM.fields]
    age = schema["properties"]["age"]
    assert age["x-title"] == {"pt": "Age (pt)", "en": "Age"}
    assert age["x-unit"] == {"pt": "anos", "en": "years"}
    assert (age["x-plausible"]["low"], age["x-plausible"]["high"]) == (18, 105)
    assert age["x-plausible"]["sentence"]["pt"] == check(FORM, {**GOOD, "age": 17}).marks["age"].pt
    assert age["x-possible"]["sentence"]["en"] == check(FORM, {**GOOD, "age": 999}).marks["age"].en
    assert schema["properties"]["sex"]["x-choices"][1] == {
        "value": "male",
        "title": {"pt": "Male (pt)", "en": "Male"},
    }
    assert schema["properties"]["record_number"]["x-identifying"] is True
    assert schema["properties"]["code"]["x-format"]["name"] == "cid10"


def test_numbers_in_a_sentence_are_written_as_its_language_does() -> None:
    """A decimal comma in Portuguese, a point in English."""
    mark = check(FORM, {**GOOD, "flow": 0.1}).marks["flow"]

    assert "0,5 a 15" in mark.pt
    assert "0.5 to 15" in mark.en


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "choice", "plausible": None, "possible": None}, "has choices"),
        ({"possible": None, "plausible": None}, "has a possible range"),
        ({"plausible": Range(low=0, high=200)}, "must be possible"),
        ({"identifying": True}, "only a text identifies"),
        ({"format": "cid10"}, "only a text has a format"),
        ({"must_be_yes": True}, "must be yes"),
        ({"yes_needs": "age"}, "only a yes needs"),
        ({"kind": "text", "possible": None}, "only a number has a plausible"),
        ({"name": "Age"}, "name"),
    ],
)
def test_a_field_that_contradicts_itself_cannot_be_made(
    change: dict[str, Any], message: str
) -> None:
    """A mistake in a form is found when it is written, not at a bed."""
    with pytest.raises(ValueError, match=message):
        Field(**{**dict(AGE), **change})


def test_a_form_with_a_field_twice_or_a_dangling_need_cannot_be_made() -> None:
    """Names are unique, and what a yes needs is a field of the same form."""
    need = Field(name="consent", kind="yes_no", title=_say("C"), yes_needs="nowhere")

    with pytest.raises(ValueError, match="twice"):
        Form(id="x", version=1, title=_say("X"), fields=(AGE, AGE))
    with pytest.raises(ValueError, match="nowhere"):
        Form(id="x", version=1, title=_say("X"), fields=(need,))
    with pytest.raises(ValueError, match="goes up"):
        Range(low=2, high=1)
