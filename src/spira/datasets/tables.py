"""Tables from outside: CSV or Parquet rows as text, the YAML that maps their columns, and their
faults, which are gathered so that one run reports them all.

A mapping, with everything that it may hold:

    columns: {path: arquivo, label: desfecho, participant: id, visit: visita, utterance: tarefa,
              split: parte, site: hospital, device: aparelho, sex: sexo, age: idade, spo2: spo2,
              time: data_hora}          # only path and label are needed
    labels: {present: [IR], absent: [C], unknown: ["?"]}
    noise: ruido.csv                    # a table of noise recordings: path, site, split
    origin: import                      # or synthetic
    language: pt-BR
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from spira.documents import read_document
from spira.domain.errors import InputError
from spira.domain.frozen import Frozen

LANGUAGE = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$"  # a tag of BCP 47: pt-BR, en

_ROWS_NAMED = 10  # of one fault; the number of the others is told
_FAULTS_NAMED = 50
_MAGIC_PARQUET = b"PAR1"


@dataclass(frozen=True)
class Table:
    """A table as it lies on the disk: every cell is text, empty where there is nothing."""

    name: str  # of the file, for messages
    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]  # with the number that a spreadsheet shows


class Faults:
    """What is wrong with tables: each fault once, with every row that shows it."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[int]] = {}
        self._told: list[str] = []

    def add(self, table: str, fault: str, row: int | None = None) -> None:
        """Note a fault of a row, or of the table as a whole."""
        rows = self._rows.setdefault((table, fault), [])
        if row is not None:
            rows.append(row)

    def take(self, error: InputError) -> None:
        """Note what an error says, as it says it."""
        self._told += error.mistakes

    def __bool__(self) -> bool:
        return bool(self._rows or self._told)

    def report(self) -> None:
        """Raise InputError with everything noted so far, if anything was."""
        if not self:
            return
        sentences = self._told + [
            f"{table}{_rows_in_words(rows)}: {fault}" for (table, fault), rows in self._rows.items()
        ]
        if len(sentences) > _FAULTS_NAMED:
            more = f"... and {len(sentences) - _FAULTS_NAMED} more kinds of fault"
            sentences = [*sentences[:_FAULTS_NAMED], more]
        raise InputError(*sentences)


class Columns(Frozen):
    """Which column of the table holds what; what is not named here is not read."""

    path: str = Field(min_length=1)
    label: str = Field(min_length=1)
    participant: str | None = Field(default=None, min_length=1)
    visit: str | None = Field(default=None, min_length=1)
    utterance: str | None = Field(default=None, min_length=1)
    split: str | None = Field(default=None, min_length=1)
    site: str | None = Field(default=None, min_length=1)
    device: str | None = Field(default=None, min_length=1)
    sex: str | None = Field(default=None, min_length=1)
    age: str | None = Field(default=None, min_length=1)
    spo2: str | None = Field(default=None, min_length=1)
    time: str | None = Field(default=None, min_length=1)


class LabelWords(Frozen):
    """What the table writes for each label. Where given, no other words are recognised."""

    present: tuple[str, ...] = Field(min_length=1)
    absent: tuple[str, ...] = Field(min_length=1)
    unknown: tuple[str, ...] = ()


class ColumnMapping(Frozen):
    """A mapping file; without `columns`, columns are looked for under our own names."""

    columns: Columns | None = None
    labels: LabelWords | None = None
    noise: str | None = Field(default=None, min_length=1)
    origin: Literal["import", "synthetic"] = "import"
    language: str = Field(
        default="pt-BR", pattern=LANGUAGE, description="a language tag, such as pt-BR"
    )


def read_table(path: Path) -> Table:
    """Read a CSV (UTF-8; comma, semicolon or tab) or Parquet file, known by its first bytes.

    raises    InputError when it cannot be read, is not a table, or has rows of another length
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        cause = (error.strerror or "not readable").lower()
        raise InputError(f"table {path}: cannot be read ({cause})") from error
    if data.startswith(_MAGIC_PARQUET):
        return _parquet(path.name, data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"table {path}: neither Parquet nor UTF-8 text (byte {error.start}); "
            "save it as CSV UTF-8"
        ) from error
    return _csv(path.name, text)


def read_mapping(path: Path) -> ColumnMapping:
    """Read a mapping file.

    raises    InputError listing every mistake: file, line, key, nearest known key
    """
    return read_document(path, ColumnMapping, words=True)


# Tables


def _csv(name: str, text: str) -> Table:
    first_line = text.partition("\n")[0]
    delimiter = max(",;\t", key=first_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        lines = [tuple(cell.strip() for cell in line) for line in reader]
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: not CSV ({error})") from error
    if not lines or not any(lines[0]):
        raise InputError(f"{name}: empty; a header and a row for each recording are needed")
    return _checked(name, lines[0], enumerate(lines[1:], start=2))


def _parquet(name: str, data: bytes) -> Table:
    import polars as pl

    try:
        frame = pl.read_parquet(io.BytesIO(data))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{name}: a Parquet file that cannot be read") from error
    rows = (tuple(map(_text, row)) for row in frame.iter_rows())
    return _checked(name, tuple(frame.columns), enumerate(rows, start=1))


def _checked(
    name: str, header: tuple[str, ...], rows: Iterable[tuple[int, tuple[str, ...]]]
) -> Table:
    faults = Faults()
    for column in sorted({column for column in header if header.count(column) > 1}):
        faults.add(name, f"the header has the column {column!r} more than once")
    kept = []
    for number, cells in rows:
        if len(cells) == len(header):
            kept.append((number, cells))
        elif any(cells):  # an empty line is none
            fault = f"{len(cells)} cells where the header has {len(header)}"
            faults.add(name, fault, number)
    if not kept and not faults:
        faults.add(name, "no rows below the header")
    faults.report()
    return Table(name, header, tuple(kept))


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return str(value.isoformat() if hasattr(value, "isoformat") else value).strip()


def _rows_in_words(rows: list[int]) -> str:
    named = sorted(set(rows))
    if not named:
        return ""
    shown = ", ".join(map(str, named[:_ROWS_NAMED]))
    more = f" and {len(named) - _ROWS_NAMED} more" if len(named) > _ROWS_NAMED else ""
    return f", row{'s' if len(named) > 1 else ''} {shown}{more}"
