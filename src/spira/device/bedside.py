"""What an app says about a form while the patient is there.

An app knows the form from the server alone: the JSON Schema of `GET /v1/forms/assessment`. Read
back into a form, it is checked with the rules that the server checks with; what has to be confirmed
is said in the sentences that were served.
"""

from collections.abc import Mapping
from typing import Any

from spira.domain.answers import Sentence
from spira.domain.forms import Choice, Field, FieldKind, Form, Range, Remark, check
from spira.domain.frozen import Frozen

_KINDS: Mapping[str, FieldKind] = {
    "string": "text",
    "integer": "whole",
    "number": "number",
    "boolean": "yes_no",
}
_SAID_IN = {"implausible": "x-plausible", "impossible": "x-possible", "wrong_format": "x-format"}


class Remarks(Frozen):
    """What is said about the values of a form, by field, before anything is recorded."""

    refused: Mapping[str, Remark] = {}  # no server takes it so
    to_confirm: Mapping[str, Remark] = {}  # odd: right, or a slip that can still be corrected


def look_over(schema: Mapping[str, Any], values: Mapping[str, Any]) -> Remarks:
    """What a server will say of these values.

    schema    of the form, as it was served
    raises    ValueError for what is no form that can be read here
    """
    filled = check(read_form(schema), values)
    return Remarks(
        refused=filled.refused,
        to_confirm={
            name: _as_served(mark, schema["properties"][name])
            for name, mark in filled.marks.items()
        },
    )


def read_form(schema: Mapping[str, Any]) -> Form:
    """The form that a JSON Schema was made of.

    raises    ValueError where it is another document, or a form of a later day
    """
    try:
        return Form(
            id=schema["x-form"]["id"],
            version=schema["x-form"]["version"],
            title=_sentence(schema["x-title"]),
            fields=tuple(
                _field(name, schema["properties"][name], name in schema["required"])
                for name in schema["x-order"]
            ),
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"form: cannot be read here ({type(error).__name__})") from error


def _field(name: str, said: Mapping[str, Any], required: bool) -> Field:
    kind = said["type"] if isinstance(said["type"], str) else said["type"][0]
    return Field(
        name=name,
        kind="choice" if "x-choices" in said else _KINDS[kind],
        title=_sentence(said["x-title"]),
        help=_sentence(said["x-help"]) if "x-help" in said else None,
        required=required,
        choices=tuple(
            Choice(value=one["value"], title=_sentence(one["title"]))
            for one in said.get("x-choices", ())
        ),
        unit=_sentence(said["x-unit"]) if "x-unit" in said else None,
        plausible=_range(said.get("x-plausible")),
        possible=_range(said.get("x-possible")),
        longest=said.get("maxLength", 1),
        format=said["x-format"]["name"] if "x-format" in said else None,
        identifying=said.get("x-identifying", False),
        must_be_yes=said.get("const", False),
        yes_needs=said.get("x-yes-needs"),
    )


def _sentence(said: Mapping[str, str]) -> Sentence:
    return Sentence(pt=said["pt"], en=said["en"])


def _range(said: Mapping[str, Any] | None) -> Range | None:
    return None if said is None else Range(low=said["low"], high=said["high"])


def _as_served(mark: Remark, said: Mapping[str, Any]) -> Remark:
    place = _SAID_IN.get(mark.reason)
    if place is None:
        return mark
    sentence = said[place]["sentence"]
    return Remark(reason=mark.reason, pt=sentence["pt"], en=sentence["en"])
