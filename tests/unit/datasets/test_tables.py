"""Tables and mappings from outside: read as text, every mistake at once."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spira.datasets.tables import ColumnMapping, Faults, read_mapping, read_table
from spira.domain.errors import InputError

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(
    "data",
    [
        b"path,label\na.wav,1\nb.wav,0\n",
        b"path;label\r\na.wav;1\r\nb.wav;0\r\n",
        b"\xef\xbb\xbfpath\tlabel\na.wav\t1\n\nb.wav\t 0 \n\n",
        b'"path","label"\n"a.wav","1"\n"b.wav","0"',
    ],
    ids=["comma", "semicolon", "tab, BOM and empty lines", "quoted"],
)
def test_csv_of_any_spreadsheet_is_read(tmp_path: Path, data: bytes) -> None:
    """Delimiter, line ends, a byte order mark and empty lines do not matter."""
    (tmp_path / "t.csv").write_bytes(data)

    table = read_table(tmp_path / "t.csv")

    assert table.header == ("path", "label")
    assert [cells for _, cells in table.rows] == [("a.wav", "1"), ("b.wav", "0")]


def test_rows_are_numbered_as_a_spreadsheet_numbers_them(tmp_path: Path) -> None:
    """The header is row 1; empty lines and cells of several lines count as one row."""
    (tmp_path / "t.csv").write_text('path,label\n"a\nb.wav",1\n\nc.wav,0\n')

    assert [number for number, _ in read_table(tmp_path / "t.csv").rows] == [2, 4]


def test_parquet_is_known_by_its_bytes_and_read_as_text(tmp_path: Path) -> None:
    """Numbers, booleans, times and nulls become what a CSV would say."""
    frame = pl.DataFrame(
        {
            "path": ["a.wav", "b.wav"],
            "label": [True, False],
            "age": [65.0, None],
            "time": [datetime(2024, 3, 1, 14, 20), None],
        }
    )
    frame.write_parquet(tmp_path / "table.csv")

    table = read_table(tmp_path / "table.csv")

    assert [cells for _, cells in table.rows] == [
        ("a.wav", "1", "65.0", "2024-03-01T14:20:00"),
        ("b.wav", "0", "", ""),
    ]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"path,label\n", "no rows"),
        (b"path,label\na.wav\n", "1 cells where the header has 2$"),
        (b"path,path\na,b\n", "'path' more than once"),
        (b"path,label\na.wav\nb.wav,0,1\nc.wav,1\n", "row 2: 1 cells where the header has 2"),
        (b"path,label\n\xe9.wav,1\n", "UTF-8"),
        (b"PAR1 but not Parquet", "Parquet file that cannot be read"),
        (b"path,label\n" + b"a" * 200_000 + b",1\n", "not CSV"),
    ],
)
def test_what_is_no_table_is_an_input_error(tmp_path: Path, data: bytes, says: str) -> None:
    """Each with the file's name and what would be right."""
    (tmp_path / "t.csv").write_bytes(data)

    with pytest.raises(InputError, match=says) as caught:
        read_table(tmp_path / "t.csv")

    assert "t.csv" in str(caught.value)


@in_one_folder
@given(st.binary(max_size=300))
def test_garbage_is_a_table_or_an_input_error(tmp_path: Path, data: bytes) -> None:
    """No bytes make reading fail in another way."""
    (tmp_path / "t.csv").write_bytes(data)

    try:
        table = read_table(tmp_path / "t.csv")
    except InputError:
        return
    assert all(len(cells) == len(table.header) for _, cells in table.rows)


def test_a_missing_table_is_an_input_error(tmp_path: Path) -> None:
    """With its path."""
    with pytest.raises(InputError, match=r"nowhere\.csv: cannot be read"):
        read_table(tmp_path / "nowhere.csv")


def test_a_mapping_says_what_columns_and_words_mean(tmp_path: Path) -> None:
    """Everything it may hold; words stay text, also those that YAML takes for something else."""
    file = tmp_path / "mapping.yaml"
    file.write_text(
        "columns: {path: arquivo, label: desfecho, time: data}\n"
        "labels: {present: [1, yes], absent: [0, no], unknown: ['']}\n"
        "noise: ruido.csv\norigin: synthetic\nlanguage: pt-BR\n"
    )

    mapping = read_mapping(file)

    assert mapping.columns is not None
    assert mapping.columns.path == "arquivo"
    assert mapping.columns.participant is None
    assert mapping.labels is not None
    assert mapping.labels.present == ("1", "yes")
    assert mapping.labels.unknown == ("",)
    assert (mapping.noise, mapping.origin, mapping.language) == ("ruido.csv", "synthetic", "pt-BR")


def test_all_mistakes_of_a_mapping_come_at_once_with_line_and_nearest_key(tmp_path: Path) -> None:
    """A misspelt key, a wrong value, a missing key, a key given twice, a key in the wrong place."""
    file = tmp_path / "mapping.yaml"
    file.write_text(
        "columns:\n"
        "  path: file\n"
        "  partecipant: id\n"
        "  path: again\n"
        "labels: {present: [1], abscent: [0]}\n"
        "origin: imported\n"
        "age: idade\n"
        "lenguage: pt-BR\n"
    )

    with pytest.raises(InputError) as caught:
        read_mapping(file)

    mistakes = "\n".join(caught.value.mistakes)
    assert len(caught.value.mistakes) == 8
    for expected in (
        "line 3: unknown key columns.partecipant; did you mean participant?",
        "line 4: key columns.path is given twice",
        "line 1: key columns.label is missing",
        "line 5: unknown key labels.abscent; did you mean absent?",
        "line 5: key labels.absent is missing",
        "line 6: origin: ",
        "line 7: unknown key age; did you mean columns.age?",
        "line 8: unknown key lenguage; did you mean language?",
    ):
        assert expected in mistakes


@pytest.mark.parametrize("text", ["[", "just text", "", "? {a: b}\n: c", "[" * 1500, "a: &x [*x]"])
def test_a_mapping_that_is_none_is_an_input_error(tmp_path: Path, text: str) -> None:
    """Broken YAML, no keys, keys that are no text, nesting without end."""
    (tmp_path / "m.yaml").write_text(text)

    with pytest.raises(InputError, match=r"m\.yaml"):
        read_mapping(tmp_path / "m.yaml")


@in_one_folder
@given(st.text(alphabet="columnspath: {}[]&*!|>'\"-?,\n#%@`\t", max_size=60))
def test_garbage_is_a_mapping_or_an_input_error(tmp_path: Path, text: str) -> None:
    """No text makes reading fail in another way."""
    (tmp_path / "m.yaml").write_text(text, encoding="utf-8")

    with suppress(InputError):
        assert isinstance(read_mapping(tmp_path / "m.yaml"), ColumnMapping)


def test_a_fault_is_told_once_with_the_rows_that_show_it() -> None:
    """A fault of a thousand rows is one line, and so many kinds of faults are told of."""
    faults = Faults()
    assert not faults
    for row in range(1000):
        faults.add("t.csv", "no label", row)
    faults.add("t.csv", "no column 'path'")
    for number in range(100):
        faults.add("t.csv", f"fault {number}", 7)

    with pytest.raises(InputError) as caught:
        faults.report()

    lines = caught.value.mistakes
    assert lines[0] == "t.csv, rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 990 more: no label"
    assert lines[1] == "t.csv: no column 'path'"
    assert lines[-1] == "... and 52 more kinds of fault"
    assert len(lines) == 51
