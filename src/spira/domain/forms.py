"""A clinical form is data: an app renders it, the server checks what was filled in.

Integrity decides, range informs. What is no value of its field at all is *refused*, and can be
sent again corrected. A value that is merely odd comes hours after the patient has gone: it is
*marked*, and where it cannot be true it is kept and not used. It never blocks.
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, Literal

import pydantic
from pydantic import StringConstraints, model_validator

from spira.domain.answers import Sentence, figure
from spira.domain.frozen import Frozen
from spira.domain.suggestions import nearest_name

FieldKind = Literal["text", "whole", "number", "choice", "yes_no"]
RefusedField = Literal[
    "unknown",
    "missing",
    "wrong_type",
    "not_finite",
    "not_a_choice",
    "unusable_text",
    "too_long",
    "must_be_yes",
]
Mark = Literal["implausible", "impossible", "wrong_format", "incomplete"]
Value = bool | int | float | str

_Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]

_LONGEST_NAME = 64
_MOST_UNKNOWN = 20  # of the unknown fields so many are told: a hostile form may have 100,000
_SEPARATORS = ("Zl", "Zp")  # of lines and paragraphs; every other control is in a category C
# For a schema, whose dialect knows no classes of Unicode: beyond ASCII it is too kind.
_LETTER_OR_DIGIT = r"[0-9A-Za-z]|[^\x00-\x7f]"
_CID10 = re.compile(r"([A-Za-z][0-9]{2})(?:\.?([0-9]))?")
_NOT_USED = Sentence(pt="Guardado e não usado.", en="Kept and not used.")
_KINDS: dict[FieldKind, Sentence] = {
    "text": Sentence(pt="deve ser texto.", en="must be text."),
    "whole": Sentence(pt="deve ser um número inteiro.", en="must be a whole number."),
    "number": Sentence(pt="deve ser um número.", en="must be a number."),
    "choice": Sentence(pt="deve ser uma das opções", en="must be one of"),
    "yes_no": Sentence(pt="deve ser sim (true) ou não (false).", en="must be true or false."),
}
_JSON_TYPES: dict[FieldKind, str] = {
    "text": "string",
    "whole": "integer",
    "number": "number",
    "choice": "string",
    "yes_no": "boolean",
}


class Choice(Frozen):
    """One of the values of a choice."""

    value: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    title: Sentence


class Range(Frozen):
    """From low to high, both included."""

    low: int | float
    high: int | float

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"a range goes up, this one is {self.low} to {self.high}")
        return self

    def holds(self, number: float) -> bool:
        """Whether a number of any size lies in it."""
        return self.low <= number <= self.high


class Field(Frozen):
    """One question of a form, and everything that an app needs to ask it."""

    name: _Name
    kind: FieldKind
    title: Sentence
    help: Sentence | None = None
    required: bool = False
    choices: tuple[Choice, ...] = ()
    unit: Sentence | None = None
    plausible: Range | None = None  # outside: to be confirmed, while the patient is there
    possible: Range | None = None  # outside: cannot be true, kept and not used
    longest: int = pydantic.Field(default=64, ge=1, le=1000)  # characters of a text
    format: Literal["cid10"] | None = None  # of a text; another one is kept and not used
    identifying: bool = False  # says who it is: never stored as typed
    must_be_yes: bool = False
    yes_needs: str | None = None  # a yes without this other field is kept and not used

    @model_validator(mode="after")
    def _consistent(self) -> "Field":
        numeric = self.kind in ("whole", "number")
        mistakes = [
            message
            for wrong, message in (
                (
                    (self.kind == "choice") != bool(self.choices),
                    "a choice, and no other kind, has choices",
                ),
                (
                    numeric != (self.possible is not None),
                    "a number, and no other kind, has a possible range",
                ),
                (self.plausible is not None and not numeric, "only a number has a plausible range"),
                (self.identifying and self.kind != "text", "only a text identifies"),
                (self.format is not None and self.kind != "text", "only a text has a format"),
                (
                    self.must_be_yes and not (self.kind == "yes_no" and self.required),
                    "only a required yes_no must be yes",
                ),
                (self.yes_needs is not None and self.kind != "yes_no", "only a yes needs another"),
                (
                    self.plausible is not None
                    and self.possible is not None
                    and not (
                        self.possible.holds(self.plausible.low)
                        and self.possible.holds(self.plausible.high)
                    ),
                    "what is plausible must be possible",
                ),
            )
            if wrong
        ]
        if mistakes:
            raise ValueError(f"field {self.name}: {'; '.join(mistakes)}")
        return self


class Form(Frozen):
    """One version of a form; a change of any field is another version."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
    version: int = pydantic.Field(ge=1)
    title: Sentence
    fields: tuple[Field, ...] = pydantic.Field(min_length=1)

    @model_validator(mode="after")
    def _one_of_each(self) -> "Form":
        names = [field.name for field in self.fields]
        if len(set(names)) != len(names):
            raise ValueError(f"form {self.id}: a field is there twice")
        if missing := {f.yes_needs for f in self.fields if f.yes_needs} - set(names):
            raise ValueError(f"form {self.id}: no field {', '.join(sorted(missing))}")
        return self


class Remark(Sentence):
    """What is said about one field: a sentence without the value, and its code for programs."""

    reason: RefusedField | Mark


class Filled(Frozen):
    """What became of the values of a form. Nothing was accepted while `refused` has an entry."""

    values: Mapping[str, Value] = pydantic.Field(repr=False)  # may be used
    kept: Mapping[str, Value] = pydantic.Field(repr=False)  # to be stored: also those not used
    identifying: Mapping[str, str] = pydantic.Field(repr=False)  # in neither: to be hashed
    refused: Mapping[str, Remark]
    marks: Mapping[str, Remark]


class _Refused(Exception):  # what one value is refused with
    def __init__(self, remark: Remark) -> None:
        super().__init__(remark.en)
        self.remark = remark


def check(form: Form, values: Mapping[str, Any]) -> Filled:
    """Sort the values of a form, as JSON gives them, into usable, kept, identifying and refused.

    null, and text of blanks alone, is a field that was not filled in. Text is stripped and comes
    back in Unicode's form NFC. No value is repeated in a sentence; an unknown field is told under
    its name, escaped and cut to 64 characters, and at most 20 of them are told.
    """
    usable: dict[str, Value] = {}
    kept: dict[str, Value] = {}
    identifying: dict[str, str] = {}
    refused: dict[str, Remark] = dict(_unknown(form, values))
    marks: dict[str, Remark] = {}
    for field in form.fields:
        try:
            value = _value(field, values.get(field.name))
        except _Refused as error:
            refused[field.name] = error.remark
            continue
        if value is None:
            if field.required:
                refused[field.name] = _say(
                    "missing",
                    f"Falta preencher: {field.title.pt}.",
                    f"Not filled in: {field.title.en}.",
                )
            continue
        if field.identifying:
            identifying[field.name] = str(value)
            continue
        kept[field.name] = value
        mark = _mark(field, value)
        if mark is not None:
            marks[field.name] = mark
        if mark is None or mark.reason == "implausible":
            usable[field.name] = _canonical(field, value)
    for field in form.fields:
        if field.yes_needs and usable.get(field.name) is True and field.yes_needs not in usable:
            title = next(f.title for f in form.fields if f.name == field.yes_needs)
            marks[field.name] = _about(
                field,
                "incomplete",
                f"falta «{title.pt}». {_NOT_USED.pt}",
                f'"{title.en}" is missing. {_NOT_USED.en}',
            )
            del usable[field.name]
    return Filled(values=usable, kept=kept, identifying=identifying, refused=refused, marks=marks)


def json_schema(form: Form) -> dict[str, Any]:
    """The form as JSON Schema (draft 2020-12), for an app to render and to check with.

    It is never stricter than `check`: ranges and formats, which do not refuse, are annotations
    (`x-plausible`, `x-possible`, `x-format`) with the sentence to say while the patient is there.
    Titles are Portuguese; `x-title`, `x-help` and `x-choices` have both languages.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": form.title.pt,
        "x-title": form.title.model_dump(),
        "x-form": {"id": form.id, "version": form.version},
        "x-order": [field.name for field in form.fields],
        "type": "object",
        "additionalProperties": False,
        "required": [field.name for field in form.fields if field.required],
        "properties": {field.name: _property(field) for field in form.fields},
    }


def cid10(text: str) -> str | None:
    """A CID-10 code as J96 or J96.0, from any case and without its point; None for any other.

    Five characters, as J96.01, are ICD-10-CM, which Brazil does not use.
    """
    match = _CID10.fullmatch(text)
    if match is None:
        return None
    category, digit = match[1].upper(), match[2]
    return f"{category}.{digit}" if digit else category


def _value(field: Field, value: Any) -> Value | None:
    """A value of the field's own type, None where it was not filled in; raises _Refused."""
    if value is None:
        return None
    match field.kind:
        case "text":
            return _text(field, value)
        case "whole" | "number":
            return _number(field, value)
        case "choice":
            known = [choice.value for choice in field.choices]
            if not isinstance(value, str) or value not in known:
                reason: RefusedField = "not_a_choice" if isinstance(value, str) else "wrong_type"
                words, listed = _KINDS["choice"], ", ".join(known)
                raise _Refused(
                    _about(field, reason, f"{words.pt}: {listed}.", f"{words.en}: {listed}.")
                )
            return value
        case "yes_no":
            if not isinstance(value, bool):
                raise _wrong_type(field)
            if field.must_be_yes and not value:
                raise _Refused(
                    _about(
                        field,
                        "must_be_yes",
                        "sem isso nada pode ser enviado.",
                        "without it nothing may be sent.",
                    )
                )
            return value


def _text(field: Field, value: Any) -> str | None:
    if not isinstance(value, str):
        raise _wrong_type(field)
    if len(value) > field.longest:  # before anything that takes longer for a longer one
        raise _Refused(
            _about(
                field,
                "too_long",
                f"no máximo {field.longest} caracteres.",
                f"at most {field.longest} characters.",
            )
        )
    text = unicodedata.normalize("NFC", value.strip())
    # Two record numbers that look alike must be alike: what nobody sees is refused, not dropped.
    if any(
        unicodedata.category(c)[0] == "C" or unicodedata.category(c) in _SEPARATORS for c in text
    ):
        raise _Refused(
            _about(
                field,
                "unusable_text",
                "tem caracteres invisíveis ou inválidos. Digite de novo.",
                "has invisible or invalid characters. Type it again.",
            )
        )
    if (
        field.identifying
        and text
        and not any(map(str.isalnum, unicodedata.normalize("NFKC", text)))
    ):
        raise _Refused(
            _about(
                field,
                "unusable_text",
                "não tem letra nem algarismo. Digite de novo.",
                "has no letter or digit. Type it again.",
            )
        )
    return text or None


def _number(field: Field, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(field)
    try:
        finite = math.isfinite(value)
    except OverflowError:  # a whole number that no double holds
        finite = False
    if not finite:  # it has no place in JSON
        raise _Refused(
            _about(field, "not_finite", "não é um número finito.", "is not a finite number.")
        )
    if field.kind == "number":
        return value
    if not float(value).is_integer():
        raise _wrong_type(field)
    return int(value)  # JSON has one kind of number: 63.0 is the whole number 63


def _mark(field: Field, value: Value) -> Remark | None:
    """What is odd about a value of the right type; None where nothing is."""
    if isinstance(value, str):
        known = field.format is None or cid10(value) is not None
        return None if known else _marks(field)["wrong_format"]
    if isinstance(value, bool) or field.possible is None:
        return None
    if not field.possible.holds(value):
        return _marks(field)["impossible"]
    if field.plausible is not None and not field.plausible.holds(value):
        return _marks(field)["implausible"]
    return None


def _marks(field: Field) -> dict[Mark, Remark]:
    """What is said about an odd value of the field, whichever value it is."""
    said: dict[Mark, Remark] = {}
    if field.plausible is not None:
        pt, en = _span(field, field.plausible)
        said["implausible"] = _about(
            field,
            "implausible",
            f"fora do habitual ({pt}). Confirme o valor.",
            f"outside the usual range ({en}). Confirm the value.",
        )
    if field.possible is not None:
        pt, en = _span(field, field.possible)
        said["impossible"] = _about(
            field,
            "impossible",
            f"valor impossível (vai de {pt}). {_NOT_USED.pt}",
            f"impossible value (it goes from {en}). {_NOT_USED.en}",
        )
    if field.format == "cid10":
        said["wrong_format"] = _about(
            field,
            "wrong_format",
            f"use o formato J96 ou J96.0. {_NOT_USED.pt}",
            f"write it as J96 or J96.0. {_NOT_USED.en}",
        )
    return said


def _canonical(field: Field, value: Value) -> Value:
    if field.format == "cid10":
        return cid10(str(value)) or value
    return value


def _unknown(form: Form, values: Mapping[str, Any]) -> Iterator[tuple[str, Remark]]:
    known = [field.name for field in form.fields]
    for name in islice((name for name in values if name not in known), _MOST_UNKNOWN):
        # A name may hold anything, also what no answer in UTF-8 can.
        told = ascii(name)[1:-1][:_LONGEST_NAME]
        meant = nearest_name(told, known)
        yield (
            told,
            _say(
                "unknown",
                "Campo desconhecido." + (f" Seria {meant}?" if meant else ""),
                "Unknown field." + (f" Is it {meant}?" if meant else ""),
            ),
        )


def _property(field: Field) -> dict[str, Any]:
    kind = _JSON_TYPES[field.kind]
    schema: dict[str, Any] = {
        "title": field.title.pt,
        "x-title": field.title.model_dump(),
        "type": kind if field.required else [kind, "null"],
    }
    if field.help is not None:
        schema |= {"description": field.help.pt, "x-help": field.help.model_dump()}
    if field.kind == "text":
        schema["maxLength"] = field.longest
        if field.required:
            schema["pattern"] = _LETTER_OR_DIGIT if field.identifying else r"\S"
    if field.kind == "choice":
        known: list[str | None] = [choice.value for choice in field.choices]
        schema["enum"] = known if field.required else [*known, None]
        schema["x-choices"] = [choice.model_dump() for choice in field.choices]
    if field.must_be_yes:
        schema["const"] = True
    if field.unit is not None:
        schema["x-unit"] = field.unit.model_dump()
    said = {mark: {"pt": remark.pt, "en": remark.en} for mark, remark in _marks(field).items()}
    if field.plausible is not None:
        schema["x-plausible"] = field.plausible.model_dump() | {"sentence": said["implausible"]}
    if field.possible is not None:
        schema["x-possible"] = field.possible.model_dump() | {"sentence": said["impossible"]}
    if field.format is not None:
        schema["x-format"] = {"name": field.format, "sentence": said["wrong_format"]}
    if field.yes_needs is not None:
        schema["x-yes-needs"] = field.yes_needs
    if field.identifying:
        schema["x-identifying"] = True
    return schema


def _span(field: Field, of: Range) -> tuple[str, str]:
    """A range in Portuguese and in English, with its unit."""
    low, high = figure(of.low), figure(of.high)
    unit = field.unit or Sentence(pt="", en="")
    return f"{low.pt} a {high.pt} {unit.pt}".strip(), f"{low.en} to {high.en} {unit.en}".strip()


def _wrong_type(field: Field) -> _Refused:
    words = _KINDS[field.kind]
    return _Refused(_about(field, "wrong_type", words.pt, words.en))


def _about(field: Field, reason: RefusedField | Mark, pt: str, en: str) -> Remark:
    return _say(reason, f"{field.title.pt}: {pt}", f"{field.title.en}: {en}")


def _say(reason: RefusedField | Mark, pt: str, en: str) -> Remark:
    return Remark(pt=pt, en=en, reason=reason)
