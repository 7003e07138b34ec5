"""What people type and what tables hold, read into entries.

Readers take text and `note`, which is told what is wrong with it. What a person's data may be in is
never repeated.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, get_args

from spira.domain.errors import InputError
from spira.domain.forms import cid10
from spira.domain.labels import (
    POSSIBLE,
    Breathing,
    Entry,
    Observation,
    ObservationKind,
    Status,
    Subject,
    Support,
)
from spira.domain.recordings import LABELS
from spira.domain.suggestions import nearest

Note = Callable[[str], None]
Row = tuple[int, Sequence[str]]  # with its number

KINDS: tuple[ObservationKind, ...] = get_args(ObservationKind)
COLUMNS = (
    "name",  # of the entry in its source, the same in each version
    "issued",
    "version",  # else its `issued`
    "status",
    "subject",
    "hospital",  # with the record number, in place of a subject
    "record_number",  # hashed while it is read, and not kept
    "kind",
    "value",  # a number in the unit of its kind, or its code
    "at",
    "until",
    "breathing",
    "method",
)

_NEEDED = ("name", "issued", "kind", "value", "at")
_BREATHINGS, _STATUSES = get_args(Breathing), get_args(Status)
_METHODS = ("pulse_oximetry", "arterial")
_NUMBER = re.compile(r"[0-9]{1,4}([.,][0-9]{1,6})?")
_SUBJECT = re.compile(  # a pseudonym as devices make them, so that no record number stands there
    r"participant:[a-z0-9][a-z0-9-]{0,31}"
    r"/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    r"|record:records-[0-9a-f]{16}:[0-9a-f]{64}"
)
_LONGEST = {"name": 200, "version": 100}  # characters


def moment(text: str, what: str, note: Note) -> datetime | None:
    """A date and time in ISO 8601, with its offset from UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        note(f"{what} is not a time with its offset; write it like 2026-03-01T14:20:00-03:00")
        return None
    return found


def subject(text: str, note: Note) -> Subject | None:
    """Whom something is about: a pseudonym or a hash, never a record number."""
    if not _SUBJECT.fullmatch(text):
        note(
            "subject is neither participant:STUDY/PSEUDONYM, a UUIDv7 in small letters, nor the "
            "hash of a record number"
        )
        return None
    return text


def number_or_code(text: str) -> float | str:
    """A value as it is written, with a decimal point or comma."""
    return float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else text


def observation(cells: Mapping[str, str], note: Note) -> Observation | None:
    """An observation from `kind`, `value`, `at` and, where they are there, the others."""
    faults: list[str] = []
    kind, text = cells.get("kind", ""), cells.get("value", "")
    if kind not in KINDS:
        faults.append(f"kind is not known{nearest(kind, KINDS)} (known: {', '.join(KINDS)})")
    said: dict[str, Any] = {"kind": kind}
    if kind in POSSIBLE:
        said["value"] = _number(kind, text, faults.append)
    elif kind == "diagnosis":
        said["code"] = cid10(text)
        if said["code"] is None:
            faults.append("value is no code of CID-10, such as J96.0; J96.01 is of ICD-10-CM")
    elif kind in KINDS:
        said["code"] = _one_of(
            text, get_args(Support) if kind == "support" else LABELS, "value", faults.append
        )
    said["at"] = moment(cells.get("at", ""), "at", faults.append)
    if cells.get("until"):
        said["until"] = moment(cells["until"], "until", faults.append)
    for name, known in (("breathing", _BREATHINGS), ("method", _METHODS)):
        if cells.get(name):
            said[name] = _one_of(cells[name], known, name, faults.append)
    if said.get("at") and said.get("until") and said["until"] < said["at"]:
        faults.append("until is before at")
    for fault in faults:
        note(fault)
    return None if faults else Observation(**said)


def entries(
    header: Sequence[str],
    rows: Iterable[Row],
    *,
    origin: str,
    evidence: str,
    hash_record: Callable[[str, str], Subject],
    note: Callable[[str, int | None], None],
) -> list[Entry]:
    """The entries of a table, one a row; those of rows without a fault.

    origin        of the entries: which import this is
    evidence      digest of the file
    hash_record   hospital and record number -> subject; raises InputError for what is no number
    note          a fault and its row, None for one of the whole table
    """
    for column in header:
        if column not in COLUMNS:
            note(f"the column {column!r} is not known{nearest(column, COLUMNS)}", None)
    absent = [column for column in _NEEDED if column not in header]
    if "subject" not in header and not {"hospital", "record_number"} <= set(header):
        absent.append("subject (or hospital and record_number)")
    if absent:
        note(f"there is no column {', '.join(absent)}", None)
        return []
    found = []
    for number, cells in rows:
        faults: list[str] = []
        named = dict(zip(header, cells, strict=True))
        entry = _row(named, origin, evidence, hash_record, faults.append)
        for fault in faults:
            note(fault, number)
        if entry is not None:
            found.append(entry)
    return found


def _row(
    cells: Mapping[str, str],
    origin: str,
    evidence: str,
    hash_record: Callable[[str, str], Subject],
    note: Note,
) -> Entry | None:
    faults: list[str] = []
    name, version = cells["name"], cells.get("version") or cells["issued"]
    if not name:
        faults.append("name is empty; an entry needs one, the same in each of its versions")
    for what, text in (("name", name), ("version", version)):
        if len(text) > _LONGEST[what]:
            faults.append(f"{what} has more than {_LONGEST[what]} characters")
    whose = _whose(cells, hash_record, faults.append)
    issued = moment(cells["issued"], "issued", faults.append)
    status = _one_of(cells.get("status") or "final", _STATUSES, "status", faults.append)
    if status != "retracted":
        said = observation(cells, faults.append)
    elif any(cells[column] for column in ("kind", "value", "at")):
        faults.append("what is retracted says nothing: leave kind, value and at empty")
    else:
        said = None
    for fault in faults:
        note(fault)
    if faults:
        return None
    return Entry(
        source="import",
        origin=origin,
        name=name,
        version=version,
        status=status,
        subject=whose,
        issued=issued,
        observation=said,
        evidence=evidence,
    )


def _whose(
    cells: Mapping[str, str], hash_record: Callable[[str, str], Subject], note: Note
) -> Subject | None:
    hospital, number = cells.get("hospital", ""), cells.get("record_number", "")
    if cells.get("subject"):
        if hospital or number:
            note("whose is it? Give subject, or hospital and record_number, and not both")
            return None
        return subject(cells["subject"], note)
    if not (hospital and number):
        note("whose is it? Give subject, or hospital and record_number")
        return None
    try:
        return hash_record(hospital, number)
    except InputError as error:
        note(str(error))
        return None


def _number(kind: str, text: str, note: Note) -> float | None:
    low, high = POSSIBLE[kind]
    value = number_or_code(text)
    if isinstance(value, str) or not low <= value <= high:
        note(f"value of {kind} is not a number from {low:g} to {high:g}")
        return None
    return value


def _one_of(text: str, known: Sequence[str], what: str, note: Note) -> Any:
    if text not in known:
        note(f"{what} is not one of {', '.join(known)}")
        return None
    return text
