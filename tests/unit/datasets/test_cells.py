"""Cells: what a word, a number or a pseudonym means, and what is never repeated of it."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spira.datasets import cells


def cpf_with(body: list[int]) -> str:
    """Nine digits and their check digits, written out as the law says (independent of ours)."""
    digits = list(body)
    for _ in range(2):
        rest = sum(d * w for d, w in zip(digits, range(len(digits) + 1, 1, -1), strict=True)) % 11
        digits.append(0 if rest < 2 else 11 - rest)
    return "".join(map(str, digits))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("52998224725", "CPF"),
        ("529.982.247-25", "CPF"),
        ("11144477735", "CPF"),
        ("52998224726", None),
        ("00000000000", None),
        ("700000000000005", "CNS"),
        ("700 0000 0000 0005", "CNS"),
        ("700000000000006", None),
        ("p-00001", None),
        ("", None),
        ("٥٢٩٩٨٢٢٤٧٢٥", None),
    ],
)
def test_document_numbers_are_known_by_their_check_digits(text: str, kind: str | None) -> None:
    """A CPF or CNS with right check digits is one, however it is punctuated."""
    assert cells.document_number(text) == kind


@given(st.lists(st.integers(0, 9), min_size=9, max_size=9).filter(lambda d: len(set(d)) > 1))
def test_every_valid_cpf_is_refused_as_a_pseudonym(body: list[int]) -> None:
    """Nobody's CPF becomes a pseudonym, and the refusal does not repeat it."""
    faults: list[str] = []
    number = cpf_with(body)

    assert cells.pseudonym(number, "participant", faults.append) is None
    assert len(faults) == 1
    assert "document number" in faults[0]
    assert number not in faults[0]


@given(st.text(max_size=80))
def test_a_pseudonym_is_plain_or_refused_without_being_repeated(text: str) -> None:
    """Whatever stands in the cell: a plain pseudonym comes back, anything else is one fault."""
    faults: list[str] = []

    found = cells.pseudonym(text, "participant", faults.append)

    if found is not None:
        assert found == text
        assert found.isascii()
        assert 1 <= len(found) <= 64
        assert not faults
    elif not cells.is_empty(text):
        assert len(faults) == 1
        assert len(text) < 12 or text not in faults[0]


@pytest.mark.parametrize("reader", [cells.age, cells.spo2_percent, cells.time])
@given(text=st.text(max_size=30))
def test_numbers_and_times_are_read_or_refused_without_being_repeated(
    reader: Callable[[str, cells.Note], object], text: str
) -> None:
    """No text breaks a reader, and what a person's number is does not get into messages."""
    faults: list[str] = []

    found = reader(text, faults.append)

    assert (found is not None) + bool(faults) == (not cells.is_empty(text))


@pytest.mark.parametrize(
    ("text", "years"),
    [("65", 65), ("65.0", 65), ("65,0", 65), ("0", 0), ("120", 120)]
    + [(wrong, None) for wrong in ("121", "-1", "65.5", "1_0", "6e1", "inf", "٦٥", "65 anos")],
)
def test_ages_are_whole_years(text: str, years: int | None) -> None:
    """Spreadsheets write 65 as 65.0; anything else is no age."""
    faults: list[str] = []

    assert cells.age(text, faults.append) == years
    assert bool(faults) == (years is None)


@pytest.mark.parametrize(
    ("text", "percent"),
    [("97", 97.0), ("97,5", 97.5), ("97.5", 97.5), ("88%", 88.0), ("88 %", 88.0)]
    + [(wrong, None) for wrong in ("0.97", "101", "29", "-90", "9 7")],
)
def test_spo2_is_a_percentage(text: str, percent: float | None) -> None:
    """A decimal comma is read; a share of 1 is not mistaken for a percentage."""
    assert cells.spo2_percent(text, lambda fault: None) == percent


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("2024-03-01T14:20:00-03:00", "2024-03-01T14:20:00-03:00"),
        ("2024-03-01 14:20", "2024-03-01T14:20:00"),
        ("2024-03-01", "2024-03-01"),
        ("01/03/2024", None),
        ("2024-13-01", None),
    ],
)
def test_times_are_iso_8601(text: str, kept: str | None) -> None:
    """A date alone stays a date: an hour nobody gave would look like an hour of the day."""
    assert cells.time(text, lambda fault: None) == kept


@pytest.mark.parametrize("text", ["", "NA", "n/a", "NaN", "null", "None", "-"])
def test_an_empty_cell_says_nothing(text: str) -> None:
    """The usual words for nothing are neither a value nor a fault."""
    faults: list[str] = []

    found = (
        cells.age(text, faults.append),
        cells.time(text, faults.append),
        cells.name(text, "site", faults.append),
        cells.meaning(text, cells.SEX_WORDS, "sex", faults.append),
    )

    assert found == (None, None, None, None)
    assert not faults


@pytest.mark.parametrize(
    ("text", "same"),
    [("Validação", "validacao"), ("  PACIENTE ", "paciente"), ("1.0", "1"), ("com  RI", "com-ri")],
)
def test_words_are_compared_without_accents_case_and_spacing(text: str, same: str) -> None:
    """A table may be written by anybody, in any spreadsheet."""
    assert cells.word(text) == same


@given(st.text(max_size=200))
def test_values_in_messages_are_short_printable_and_hold_no_long_number(text: str) -> None:
    """A message may go to a log: no control characters, no escape sequences, no record numbers."""
    shown = cells.shown(text + "12345678901")

    assert shown.isprintable()
    assert "12345678" not in shown
