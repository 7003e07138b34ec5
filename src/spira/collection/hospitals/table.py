"""Hospitals that send tables: each row as the FHIR resources that would say the same.

So a table is read by the same rules, and the same is asked about, as an export is. A mapping, with
everything that it may hold:

    record_number: prontuario         # the column with the number of the patient
    kind_of_number: record-number     # as the forms call it
    row: id_medida                    # the column that names the row, the same in each version
    table: vitais                     # where rows of several tables have the same names
    at: {column: data_hora, format: "%d/%m/%Y %H:%M"}       # ISO 8601 where no format is said
    issued: {column: data_registro, format: "%d/%m/%Y %H:%M"}
    status: {column: situacao, words: {final: [F], corrected: [C], retracted: [X]}}
    measurements:
      - {kind: spo2, column: sato2, unit: "%", method: pulse_oximetry}
      - {kind: oxygen_flow, column: o2, unit: L/min}
      - {kind: pao2, column: valor, unit_column: unidade, when: {exame: [PaO2]}}
      - {kind: diagnosis, column: cid}

Oxygen in the same row is what was breathed. Times without a zone are the hospital's.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from spira.collection.hospitals.reading import (
    CID10,
    CODES,
    LOINC,
    UCUM,
    Question,
    name_of,
    names_of,
)
from spira.collection.hospitals.taking import Came, Pulled, Taker
from spira.datasets.tables import Faults, Table
from spira.documents import read_document
from spira.domain.frozen import Frozen
from spira.domain.suggestions import nearest

_AT_ONCE = 500  # rows whose resources are taken at once
_NUMBER = re.compile(r"[0-9]{1,6}([.,][0-9]{1,6})?")
_ID = 56  # characters of a hash
_ROW = "table-row"  # as what kind of number the name of a row is hashed
_PANEL = {"coding": [{"system": "https://spira.example/table", "code": "row"}]}

Kind = Literal[
    "spo2",
    "pao2",
    "paco2",
    "ph",
    "respiratory_rate",
    "heart_rate",
    "oxygen_flow",
    "inspired_oxygen",
    "diagnosis",
]


class Time(Frozen):
    """A column with times."""

    column: str
    format: str | None = None  # as `strptime` has it


class Words(Frozen):
    """What the column writes for each status. Another word is a fault."""

    preliminary: tuple[str, ...] = ()
    final: tuple[str, ...] = ()
    amended: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()
    retracted: tuple[str, ...] = ()


class Status(Frozen):
    """A column that says whether a row counts."""

    column: str
    words: Words


class Measured(Frozen):
    """A column with values of one kind."""

    kind: Kind
    column: str
    unit: str | None = None  # of UCUM
    unit_column: str | None = None  # where each row has its own
    method: Literal["pulse_oximetry"] | None = None
    when: Mapping[str, tuple[str, ...]] = {}  # column -> words: in other rows it is something else

    @model_validator(mode="after")
    def _has_one_unit(self) -> "Measured":
        given = (self.unit is not None) + (self.unit_column is not None)
        if given != (self.kind != "diagnosis"):
            raise ValueError("a measurement needs unit or unit_column; a diagnosis has none")
        return self


class Mapped(Frozen):
    """Which column of a hospital's table holds what; what is not named here is not read."""

    record_number: str
    kind_of_number: str = "record-number"
    row: str
    table: str = ""  # rows of two tables of a hospital may be called the same
    at: Time
    issued: Time | None = None  # None: when the table was made
    status: Status | None = None  # None: every row is final
    measurements: tuple[Measured, ...] = Field(min_length=1)


def read_mapped(path: Path) -> Mapped:
    """Read a mapping file.

    raises    InputError listing every mistake: file, line, key, nearest known key
    """
    return read_document(path, Mapped, words=True)


def take_table(
    taker: Taker,
    table: Table,
    mapped: Mapped,
    made_at: datetime | None,
    audit: Callable[[], object],
) -> Pulled:
    """All rows of a table, or none where one of them has a fault.

    made_at   when the hospital made it: when it knew what the rows do not date
    audit     done when nothing is wrong with it, before the first of it is taken: it is taken part
              by part, questions before entries, and whatever a crash leaves of it is accounted for
    raises    InputError telling every fault, with the rows that show it and no value
    """
    rows = _Rows(taker, mapped, made_at)
    faults = Faults()
    rows.check_header(table, faults)
    faults.report()
    came: list[Came] = []
    for number, cells in table.rows:

        def note(fault: str, number: int = number) -> None:
            faults.add(table.name, fault, number)

        named = dict(zip(table.header, cells, strict=True))
        came += [(f"row {number}", one) for one in rows.resources(named, note)]
    faults.report()
    audit()
    taker.pulled = Pulled()
    for begin in range(0, len(came), _AT_ONCE):
        questions: list[Question] = []
        some = _said_or_superseded(taker, came[begin : begin + _AT_ONCE])
        documents = taker.documents(some, questions)
        entries = taker.read(documents, questions)
        taker.add(entries, questions, lambda _: None)
    return taker.pulled


def _said_or_superseded(taker: Taker, came: Sequence[Came]) -> list[Came]:
    """Without what says nothing, except of what was said before: it no longer is."""
    empty = [name_of(document) for _, document in came if "code" not in document]
    names = [one for name in empty if name is not None for one in names_of(name)]
    hospital = taker.hospital
    there = taker.labels.waiting(hospital, names).union(taker.labels.held(hospital, names))
    return [
        one
        for one in came
        if "code" in one[1] or not there.isdisjoint(names_of(name_of(one[1]) or ""))
    ]


class _Rows:
    """Rows of one hospital, as resources."""

    def __init__(self, taker: Taker, mapped: Mapped, made_at: datetime | None) -> None:
        self._taker = taker
        self._mapped = mapped
        self._made_at = made_at
        self._zone = ZoneInfo(taker.settings.zone)
        systems = taker.settings.systems.items()
        self._system = next((uri for uri, name in systems if name == mapped.kind_of_number), None)
        self._status: dict[str, str] = {}
        if mapped.status is not None:
            for status, words in mapped.status.words.model_dump().items():
                self._status |= dict.fromkeys(words, status)

    def check_header(self, table: Table, faults: Faults) -> None:
        """Note what the mapping names and is not there."""
        mapped = self._mapped
        columns = [mapped.record_number, mapped.row, mapped.at.column]
        columns += [one.column for one in (mapped.issued, mapped.status) if one is not None]
        for one in mapped.measurements:
            columns += [one.column, *one.when, *([one.unit_column] if one.unit_column else [])]
        for column in dict.fromkeys(columns):
            if column not in table.header:
                hint = nearest(column, table.header)
                faults.add(
                    table.name, f"there is no column {column!r}, which the mapping has{hint}"
                )
        if self._system is None:
            known = ", ".join(self._taker.settings.systems.values())
            what = f"kind_of_number is none that the setting systems has (known: {known})"
            faults.add("mapping", what)
        if mapped.issued is None and self._made_at is None:
            faults.add("mapping", "names no column issued: say when the table was made (--made-at)")

    def resources(
        self, cells: Mapping[str, str], note: Callable[[str], None]
    ) -> Iterator[Mapping[str, Any]]:
        """What a row says, as an Observation with a component for each measurement, and as a
        Condition for each diagnosis; one without a code where it says nothing of that."""
        mapped = self._mapped
        said = [one for one in mapped.measurements if _applies(one, cells)]
        number, row = cells[mapped.record_number], cells[mapped.row]
        if not said:  # nor is anything asked of it
            note = _unheard
        if not any(map(str.isalnum, number)):
            note(f"{mapped.record_number}: holds no number")
            return
        if not any(map(str.isalnum, row)):
            note(f"{mapped.row}: is empty; a row needs a name, the same in each of its versions")
            return
        at = self._time(mapped.at, cells, note) if said else None
        issued = self._made_at
        if mapped.issued is not None:
            issued = self._time(mapped.issued, cells, note)
        status = self._status_of(cells, note)
        parts = [_component(one, cells, note) for one in said if one.kind != "diagnosis"]
        if (said and at is None) or issued is None or status is None or None in parts:
            return
        common = {
            # The first key's hash: a row keeps its name when keys are rotated.
            "id": self._taker.hashes(row, _ROW + mapped.table)[-1].rpartition(":")[2][:_ID],
            "meta": {"lastUpdated": issued.isoformat()},
            "subject": {"identifier": {"system": self._system, "value": number}},
        }
        if parts and at is not None:
            yield common | {
                "resourceType": "Observation",
                "status": "entered-in-error" if status == "retracted" else status,
                "code": _PANEL,
                "effectiveDateTime": at.isoformat(),
                "component": parts,
            }
        elif status != "preliminary":
            yield common | {"resourceType": "Observation"}
        for place, one in enumerate(mapped.measurements):
            named = common | {"id": f"{common['id']}-{place}", "resourceType": "Condition"}
            if one.kind != "diagnosis":
                continue
            if one in said and at is not None:
                yield named | _condition(cells[one.column], at, status)
            elif status != "preliminary":
                yield named

    def _time(
        self, time: Time, cells: Mapping[str, str], note: Callable[[str], None]
    ) -> datetime | None:
        text = cells[time.column]
        try:
            if time.format is None:
                moment = datetime.fromisoformat(text)
            else:
                moment = datetime.strptime(text, time.format)
        except ValueError:
            right = time.format or "2024-03-01T14:20:00-03:00"
            note(f"{time.column}: is not a time; the mapping says that it is written as {right}")
            return None
        if moment.tzinfo is not None:
            return moment
        moment = moment.replace(tzinfo=self._zone)
        if moment.utcoffset() != moment.replace(fold=1).utcoffset():
            note(f"{time.column}: was there twice, or never, as clocks were set; write its zone")
            return None
        return moment

    def _status_of(self, cells: Mapping[str, str], note: Callable[[str], None]) -> str | None:
        if self._mapped.status is None:
            return "final"
        column = self._mapped.status.column
        found = self._status.get(cells[column])
        if found is None:
            known = ", ".join(self._status)
            note(f"{column}: is none of the words that the mapping has ({known})")
        return found


def _unheard(_: str) -> None:
    """What is wrong with a row that says nothing does no harm."""


def _applies(one: Measured, cells: Mapping[str, str]) -> bool:
    """Whether a row says something of this kind."""
    return bool(cells[one.column]) and all(
        cells[column] in words for column, words in one.when.items()
    )


def _component(
    one: Measured, cells: Mapping[str, str], note: Callable[[str], None]
) -> dict[str, Any] | None:
    text = cells[one.column]
    if not _NUMBER.fullmatch(text):
        note(f"{one.column}: is not a number")
        return None
    codes = [code for code, kind in CODES.items() if kind == one.kind]
    if one.kind == "spo2":
        codes = codes[:1] if one.method is not None else codes[1:]
    unit = cells[one.unit_column] if one.unit_column is not None else one.unit
    return {
        "code": {"coding": [{"system": LOINC, "code": codes[0]}]},
        "valueQuantity": {
            "value": float(text.replace(",", ".")),
            "system": UCUM,
            **({"code": unit} if unit else {}),
        },
    }


def _condition(code: str, at: datetime, status: str) -> dict[str, Any]:
    verified = {"retracted": "entered-in-error", "preliminary": "provisional"}.get(
        status, "confirmed"
    )
    system = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
    return {
        "verificationStatus": {"coding": [{"system": system, "code": verified}]},
        "code": {"coding": [{"system": CID10[0], "code": code}]},
        "onsetDateTime": at.isoformat(),
    }
