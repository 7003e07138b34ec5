"""Tables that hospitals send: by the same rules as FHIR, and every fault at once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spira.collection.hospitals.table import read_mapped, take_table
from spira.datasets.tables import read_table
from spira.domain.errors import InputError
from spira.labels.worklist import Worklist
from spira.stores.database import Database

MAPPING = """\
record_number: prontuario
row: id
at: {column: data, format: "%d/%m/%Y %H:%M"}
issued: {column: registro, format: "%d/%m/%Y %H:%M"}
status: {column: situacao, words: {final: [F, ""], corrected: [C], retracted: [X]}}
measurements:
  - {kind: spo2, column: sato2, unit: "%", method: pulse_oximetry}
  - {kind: oxygen_flow, column: o2, unit: L/min}
  - {kind: heart_rate, column: fc, unit: /min}
  - {kind: pao2, column: valor, unit_column: unidade, when: {exame: [PaO2]}}
  - {kind: diagnosis, column: cid}
"""
HEADER = "id;prontuario;data;registro;situacao;sato2;o2;fc;exame;valor;unidade;cid"


@pytest.fixture
def ward(sqlite: Database, open_ward: Callable[..., Any]) -> Any:
    """A hospital of which two patients take part."""
    opened = open_ward(sqlite, patients=4)
    opened.register(*opened.truth.patients[:2])
    return opened


@pytest.fixture
def take(ward: Any, tmp_path: Path) -> Callable[..., Any]:
    """`take(row, row, …)`: take a table with these rows; NUMBER is the first patient's."""

    def taken(*rows: str, mapping: str = MAPPING, header: str = HEADER, **how: Any) -> Any:
        number = ward.truth.patients[0].record_number
        text = "\n".join([header, *rows]).replace("NUMBER", number)
        (tmp_path / "table.csv").write_text(text)
        (tmp_path / "mapping.yaml").write_text(mapping)
        mapped = read_mapped(tmp_path / "mapping.yaml")
        read = read_table(tmp_path / "table.csv")
        return take_table(ward.taker(), read, mapped, how.get("made_at"), lambda: None)

    return taken


def said(ward: Any) -> dict[str, Any]:
    """What counts, by its kind."""
    return {one.kind: (whom, one) for whom, one in ward.in_force().values()}


def test_a_row_is_entries_as_fhir_would_be(ward: Any, take: Callable[..., Any]) -> None:
    """Times are the hospital's; oxygen in the row is what was breathed; commas are decimal."""
    pulled = take("r-1;NUMBER;08/03/2024 10:00;08/03/2024 10:05;F;93,5;2;;;;;J960")

    whom = ward.subject(ward.truth.patients[0])
    found = said(ward)
    assert set(found) == {"spo2", "diagnosis"}
    assert found["spo2"][0] == whom
    one = found["spo2"][1]
    assert (one.value, one.breathing, one.method) == (93.5, "oxygen", "pulse_oximetry")
    assert one.at == datetime(2024, 3, 8, 13, tzinfo=UTC)
    assert found["diagnosis"][1].code == "J96.0"
    assert {row["issued"][:16] for row in ward.rows()} == {"2024-03-08T13:05"}
    assert (pulled.entries, pulled.questions, pulled.dropped) == (2, 0, 0)


def test_a_long_table_says_in_each_row_what_it_is(ward: Any, take: Callable[..., Any]) -> None:
    """By the words of a column, with a unit of its own."""
    take(
        "r-1;NUMBER;08/03/2024 10:00;08/03/2024 10:05;F;;;;PaO2;8;kPa;",
        "r-2;NUMBER;08/03/2024 10:00;08/03/2024 10:05;F;;;;Na;140;mmol/L;",
    )

    found = said(ward)
    assert set(found) == {"pao2"}
    assert found["pao2"][1].value == pytest.approx(60.005, abs=1e-3)


def test_a_row_that_comes_again_is_a_version(ward: Any, take: Callable[..., Any]) -> None:
    """Corrected and taken back by its name; the same again adds nothing, under a new key too."""
    first = "r-1;NUMBER;08/03/2024 10:00;08/03/2024 10:05;F;93;;70;;;;"
    assert take(first).entries == 2
    ward.ring.rotate("records", "santa-casa")
    assert take(first).entries == 0

    take("r-1;NUMBER;08/03/2024 10:00;08/03/2024 11:00;C;91;;;;;;")
    assert said(ward)["spo2"][1].value == 91
    assert "heart_rate" not in said(ward)

    take("r-1;NUMBER;08/03/2024 10:00;08/03/2024 12:00;X;91;;;;;;")
    assert ward.in_force() == {}


@pytest.mark.parametrize("row", ["X;;;;;;;", "C;;;;;;;", "F;;;70;;;;"], ids=["X", "empty", "less"])
def test_a_row_that_no_longer_says_anything_counts_no_more(
    row: str, ward: Any, take: Callable[..., Any]
) -> None:
    """Whether its word says so, or its cells are empty now; what never counted may be empty."""
    take("r-1;NUMBER;08/03/2024 10:00;08/03/2024 10:05;F;93;;;;;;J96.0")
    assert set(said(ward)) == {"spo2", "diagnosis"}

    pulled = take(
        f"r-1;NUMBER;08/03/2024 10:00;08/03/2024 12:00;{row}", ";;;;;;;;;;;", "r-2;;;;;;;;;;;"
    )

    assert set(said(ward)) <= {"heart_rate"}
    assert pulled.lines == 2


def test_a_row_that_comes_again_of_somebody_else_is_nobodys_until_a_person_decides(
    ward: Any, take: Callable[..., Any]
) -> None:
    """The same values, registered at the same time, under another number: one of them is wrong."""
    row = "r-1;{};08/03/2024 10:00;08/03/2024 10:05;F;93;;;;;;"
    numbers = [one.record_number for one in ward.truth.patients[:2]]
    take(row.format(numbers[0]))

    for _ in range(2):
        take(row.format(numbers[1]))
        assert ward.in_force() == {}
    worklist = Worklist(ward.labels)
    (asked,) = worklist.list()
    decided = {"who": "ana", "why": "asked", "at": ward.now, "also": lambda _: None}
    worklist.resolve(asked.number, subject=ward.subject(ward.truth.patients[1]), **decided)
    take(row.format(numbers[1]))

    assert said(ward)["spo2"][0] == ward.subject(ward.truth.patients[1])
    assert worklist.list() == ()


def test_rows_of_two_tables_may_be_called_the_same(ward: Any, take: Callable[..., Any]) -> None:
    """Where the mapping says which table it is."""
    take("1;NUMBER;08/03/2024 10:00;08/03/2024 10:05;F;93;;;;;;")
    other = f"table: gases\n{MAPPING}"
    take("1;NUMBER;08/03/2024 10:00;08/03/2024 10:06;F;;;;PaO2;8;kPa;", mapping=other)

    assert set(said(ward)) == {"spo2", "pao2"}


def test_rows_of_nobody_who_takes_part_leave_nothing(ward: Any, take: Callable[..., Any]) -> None:
    """They are counted."""
    other = ward.truth.patients[3].record_number

    pulled = take(f"r-1;{other};08/03/2024 10:00;08/03/2024 10:05;F;93;;70;;;;")

    assert ward.rows() == []
    assert pulled.dropped == 1


def test_what_is_not_certain_in_a_table_is_asked(ward: Any, take: Callable[..., Any]) -> None:
    """A share with the unit %, J96.01, a date to come: as in FHIR."""
    take(
        "r-1;NUMBER;08/03/2024 10:00;08/03/2024 10:05;F;0,93;;;;;;",
        "r-2;NUMBER;08/03/2024 10:00;08/03/2024 10:05;F;;;;;;;J96.01",
        "r-3;NUMBER;08/03/2034 10:00;08/03/2024 10:05;F;93;;;;;;",
        "r-4;NUMBER;08/03/2024 10:00;08/03/2024 10:05;F;;;;PaO2;75;;",
    )

    assert ward.in_force() == {}
    reasons = sorted(why for _, why in ward.questions())
    assert reasons == ["fraction", "in_the_future", "not_cid10", "unit"]

    ward.now += timedelta(hours=1)
    take("r-1;NUMBER;08/03/2024 10:00;08/03/2024 10:05;F;93;;;;;;")
    assert "fraction" not in [why for _, why in ward.questions()]  # though registered then, too


def test_every_fault_of_a_table_is_told_at_once(ward: Any, take: Callable[..., Any]) -> None:
    """With its rows and without values; nothing of the table is taken then."""
    with pytest.raises(InputError) as caught:
        take(
            "r-1;NUMBER;08/03/2024 10:00;08/03/2024 10:05;F;93;;;;;;",
            ";NUMBER;08/03/2024 10:00;08/03/2024 10:05;F;93;;;;;;",
            "r-3;;08/03/2024 10:00;08/03/2024 10:05;F;93;;;;;;",
            "r-4;NUMBER;2024-03-08;08/03/2024 10:05;F;93;;;;;;",
            "r-5;NUMBER;08/03/2024 10:00;08/03/2024 10:05;Maria;93;;;;;;",
            "r-6;NUMBER;08/03/2024 10:00;08/03/2024 10:05;F;Maria;;;;;;",
            "r-7;NUMBER;17/02/2018 23:30;08/03/2024 10:05;F;93;;;;;;",
        )

    assert caught.value.mistakes == (
        "table.csv, row 3: id: is empty; a row needs a name, the same in each of its versions",
        "table.csv, row 4: prontuario: holds no number",
        "table.csv, row 5: data: is not a time; the mapping says that it is written as "
        "%d/%m/%Y %H:%M",
        "table.csv, row 6: situacao: is none of the words that the mapping has (F, , C, X)",
        "table.csv, row 7: sato2: is not a number",
        "table.csv, row 8: data: was there twice, or never, as clocks were set; write its zone",
    )
    assert ward.rows() == []


def test_a_mapping_that_does_not_fit_is_told_whole(ward: Any, take: Callable[..., Any]) -> None:
    """Columns that are not there, a kind of number that nobody knows, no time of issue."""
    mapping = """\
record_number: prontuário
kind_of_number: cpf
row: id
at: {column: dada}
measurements:
  - {kind: spo2, column: sato2, unit: "%"}
"""

    with pytest.raises(InputError) as caught:
        take("r-1;NUMBER;;;;93;;;;;;", mapping=mapping)

    assert caught.value.mistakes == (
        "table.csv: there is no column 'prontuário', which the mapping has; did you mean "
        "prontuario?",
        "table.csv: there is no column 'dada', which the mapping has; did you mean data?",
        "mapping: kind_of_number is none that the setting systems has (known: record-number)",
        "mapping: names no column issued: say when the table was made (--made-at)",
    )


def test_a_mapping_is_checked_as_every_document_is(tmp_path: Path) -> None:
    """File, line, key, what would be right."""
    file = tmp_path / "mapping.yaml"
    file.write_text(
        "record_number: a\nrow: b\nat: {column: c}\nmeasurement: []\n"
        "measurements:\n  - {kind: spo2, column: d}\n"
    )

    with pytest.raises(InputError) as caught:
        read_mapped(file)

    told = str(caught.value)
    assert "line 4: unknown key measurement; did you mean measurements?" in told
    assert "a measurement needs unit or unit_column; a diagnosis has none" in told


def test_a_table_without_times_of_issue_has_that_of_its_making(
    ward: Any, take: Callable[..., Any]
) -> None:
    """As the operator says it."""
    mapping = (
        "record_number: prontuario\nrow: id\nat: {column: data}\n"
        'measurements:\n  - {kind: spo2, column: sato2, unit: "%"}\n'
    )
    made = datetime(2024, 4, 1, 12, tzinfo=UTC)

    take("r-1;NUMBER;2024-03-08T10:00;;;93;;;;;;", mapping=mapping, made_at=made)

    (row,) = ward.rows()
    assert row["issued"] == "2024-04-01T12:00:00.000000+00:00"
    assert row["method"] is None  # nobody says how it was measured
