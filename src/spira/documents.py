"""YAML documents that people write: read into a typed model, every mistake told at once.

A mistake names the file, the line, the key as it is written and, for an unknown one, the nearest
known key.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from spira.domain.errors import InputError
from spira.domain.frozen import Faults, Frozen
from spira.domain.suggestions import nearest, nearest_name

Document = TypeVar("Document", bound=Frozen)
Keys = tuple[str, ...]  # where something stands in a document, outermost key first


def read_document(
    path: Path, model: type[Document], *, overrides: Sequence[str] = (), words: bool = False
) -> Document:
    """Read a YAML file; see `parse_document`.

    raises    InputError when the file cannot be read, too
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        cause = str(error.strerror).lower() if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"{path}: cannot be read ({cause})") from error
    return parse_document(text, model, where=str(path), overrides=overrides, words=words)


def parse_document(
    text: str,
    model: type[Document],
    *,
    where: str,
    overrides: Sequence[str] = (),
    words: bool = False,
) -> Document:
    """Validate a YAML text.

    where      the file, for messages
    overrides  "optimisation.epochs=3": dotted key, YAML value
    words      take every value as the text that is written: `yes`, `1` and `2024-03-01`
    raises     InputError listing every mistake
    """
    loader = yaml.BaseLoader if words else yaml.SafeLoader
    try:
        places = list(_places(yaml.compose(text, Loader=loader)))
        document = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: 2024-13-01, 0x_
        raise InputError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        known = ", ".join(model.model_fields)
        raise InputError(f"{where}: must be a mapping of keys; known: {known}")
    lines: dict[Keys, int] = {}  # of a key that is given twice, the line where it stands first
    mistakes: list[str] = []
    for keys, line in places:
        if keys in lines:
            mistakes.append(f"{where}, line {line}: key {'.'.join(keys)} is given twice")
        lines.setdefault(keys, line)
    # Kinds first: what else is overridden belongs to the kind that is chosen, in any order.
    in_order = sorted(overrides, key=lambda override: not _chooses(override))
    overridden = {_override(document, override) for override in in_order}
    try:
        read = model.model_validate(document)
    except ValidationError as error:
        for fault in _apart(error.errors()):
            keys = _keys_of(fault["loc"], document)
            upwards = [keys[:length] for length in range(len(keys), 0, -1)]
            at = next((lines[part] for part in upwards if part in lines), None)
            place = where if at is None else f"{where}, line {at}"
            if overridden.intersection(upwards):
                place = f"{where} (--set)"
            mistakes.append(_mistake(place, keys, model, fault))
    if mistakes:
        raise InputError(*mistakes)
    return read


def _override(document: dict[str, Any], override: str) -> Keys:
    """Set what an override says; returns the keys it names.

    Another `kind` is another strategy: the keys that the old one had in the file fall away.
    """
    key, separator, value = override.partition("=")
    if not separator or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise InputError(f"--set {override}: write it as key=value, e.g. optimisation.epochs=3")
    *parents, last = key.split(".")
    for parent in parents:
        document = document.setdefault(parent, {})
        if not isinstance(document, dict):
            raise InputError(f"--set {override}: {parent} holds a value, not keys")
    try:
        wanted = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"--set {override}: the value is not YAML") from error
    if _chooses(override) and document.get("kind") != wanted:
        document.clear()
    document[last] = wanted
    return (*parents, last)


def _chooses(override: str) -> bool:
    """Whether an override names the kind of a strategy."""
    return override.partition("=")[0].endswith(".kind")


def _places(node: Any, at: Keys = ()) -> Iterator[tuple[Keys, int]]:
    """(keys, line counted from 1) of everything in a document."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            keys = (*at, str(key.value))
            yield keys, key.start_mark.line + 1
            yield from _places(value, keys)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*at, str(index)), value.start_mark.line + 1
            yield from _places(value, (*at, str(index)))


def _apart(faults: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Each mistake of a rule that found several, where it is; not what only follows from others."""
    for fault in faults:
        found = fault.get("ctx", {}).get("error")
        inside = (other["loc"][: len(fault["loc"])] for other in faults if other is not fault)
        if fault["type"] == "too_short" and fault["loc"] in inside:
            continue  # what is wrong inside was not counted
        if isinstance(found, Faults):
            for keys, said in found.faults:
                yield {**fault, "loc": (*fault["loc"], *keys), "msg": said}
        else:
            yield fault


def _mistake(place: str, keys: Keys, model: type[BaseModel], fault: Mapping[str, Any]) -> str:
    key, kind = ".".join(keys), fault["type"]
    field = dict(_known(model)).get(_named(keys))
    if kind == "extra_forbidden":
        return f"{place}: unknown key {key}{_nearest_key(keys, model)}"
    if kind == "missing":
        return f"{place}: key {key} is missing"
    kinds = _kinds(field)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return f"{place}: {key}.kind must be one of {', '.join(kinds)}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        needed = f"write {{kind: {kinds[0]}}}, or another kind" if kinds else "keys are needed"
        return f"{place}: {key}: {needed}; it is {fault['input']!r}"
    said = fault["msg"].removeprefix("Value error, ")
    if kind == "string_pattern_mismatch" and field is not None and field.description:
        said = f"must be {field.description}"
    if not keys:  # a rule about the document as a whole
        return f"{place}: {said}"
    said = f"{place}: {key}: {said[:1].lower()}{said[1:]}"
    # What is wrong with several keys or entries names them; to repeat all of them is no help.
    return said if isinstance(fault["input"], dict | list) else f"{said}, it is {fault['input']!r}"


def _kinds(field: FieldInfo | None) -> list[str]:
    """The strategies that a field may choose among; none where it chooses nothing."""
    models = [] if field is None else _models_in(field.annotation)
    return [str(one.model_fields["kind"].default) for one in models if "kind" in one.model_fields]


def _keys_of(location: Sequence[Any], document: Any) -> Keys:
    """The location without the tags of unions, which pydantic adds and the file does not have."""
    keys: list[str] = []
    here = document
    for number, part in enumerate(location):
        last = number == len(location) - 1
        if isinstance(here, dict) and part not in here and not last and here.get("kind") == part:
            continue
        keys.append(str(part))
        if isinstance(here, dict):
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            here = None
    return tuple(keys)


def _named(keys: Keys) -> Keys:
    """Without the places in lists, which have no name."""
    return tuple(part for part in keys if not part.isdecimal())


def _nearest_key(keys: Keys, model: type[BaseModel]) -> str:
    """The same key where it belongs; else one beside it that is near, or one anywhere."""
    *parents, leaf = _named(keys)
    everywhere = [known for known, _ in _known(model)]
    beside = [known[-1] for known in everywhere if list(known[:-1]) == parents]
    elsewhere = {known[-1]: ".".join(known) for known in everywhere}
    if leaf in beside:  # of another strategy than the one chosen
        return f"; it does not belong to this {'.'.join(parents)}.kind"
    if leaf in elsewhere:
        return f"; did you mean {elsewhere[leaf]}?"
    if hint := nearest(leaf, beside):
        return hint
    if found := nearest_name(leaf, elsewhere):
        return f"; did you mean {elsewhere[found]}?"
    return f"; known: {', '.join(dict.fromkeys(beside))}" if beside else ""


def _known(model: type[BaseModel], at: Keys = ()) -> Iterator[tuple[Keys, FieldInfo]]:
    """Every key that a document may hold."""
    for name, field in model.model_fields.items():
        yield (*at, name), field
        for inner in _models_in(field.annotation):
            yield from _known(inner, (*at, name))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
