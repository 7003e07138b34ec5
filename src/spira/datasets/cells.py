"""What a cell of a table means: labels, splits, sexes, pseudonyms, numbers, times.

A reader takes the text of a cell and `note`, which is told what is wrong with it; it returns None
for a cell that is empty or wrong. What may be somebody's name or number is never repeated.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Literal, TypeVar

from spira.domain.recordings import UTTERANCES, Label, Sex, Side, Utterance

Note = Callable[[str], None]
Meaning = TypeVar("Meaning")


@functools.lru_cache(maxsize=4096)  # a table of a million rows has a few dozen words
def word(text: str) -> str:
    """A word without accents, case and spacing; 1.0 is 1, as spreadsheets write it."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    plain = re.sub(r"[\s_-]+", "-", plain.casefold().strip())
    return re.sub(r"^([0-9]+)\.0+$", r"\1", plain)


def words(vocabulary: Mapping[Meaning, str]) -> dict[str, Meaning]:
    """word -> meaning, from meaning -> its words with spaces between them."""
    return {name: meaning for meaning, names in vocabulary.items() for name in names.split()}


LABEL_WORDS: dict[str, Label] = words(
    {
        "present": "present presente patient patients paciente pacientes positive positivo 1",
        "absent": "absent ausente control controls controle controles negative negativo 0",
        "unknown": "unknown desconhecido",
    }
)
SEX_WORDS: dict[str, Sex] = words(
    {"female": "female f fem feminino mulher", "male": "male m masc masculino homem"}
)
SIDE_WORDS: dict[str, Side] = words(
    {
        "train": "train training treino treinamento",
        "validation": "validation valid val eval dev validacao",
        "test": "test teste",
    }
)
UTTERANCE_WORDS: dict[str, Utterance] = {name.replace("_", "-"): name for name in UTTERANCES} | {
    "frase": "sentence",
    "parlenda": "rhyme",
    "vogal": "vowel",
    "consentimento": "consent",
    "outro": "other",
}

_NOTHING = {"", "na", "n/a", "nan", "null", "none", "-"}
_PSEUDONYM = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WHOLE = re.compile(r"[0-9]{1,3}([.,]0+)?")
_NUMBER = re.compile(r"[0-9]{1,3}([.,][0-9]+)?")
_OLDEST = 120  # years
_SPO2_PERCENT = (30, 100)  # below, oximeters show nothing; and 0.97 is a share, not a percentage
_LONGEST_NAME = 100
_LONGEST_SHOWN = 60


def meaning(text: str, vocabulary: Mapping[str, Meaning], what: str, note: Note) -> Meaning | None:
    """What a word stands for, by a vocabulary such as SEX_WORDS."""
    if is_empty(text):
        return None
    found = vocabulary.get(word(text))
    if found is None:
        note(f"unrecognised {what} {shown(text)}; recognised: {', '.join(sorted(vocabulary))}")
    return found


def pseudonym(text: str, what: str, note: Note) -> str | None:
    """A pseudonym of a participant or visit; a person's name or document number is refused."""
    if is_empty(text):
        return None
    if document_number(text):
        note(f"{what} looks like a person's document number; use a pseudonym")
        return None
    if not _PSEUDONYM.fullmatch(text):
        note(f"{what} is not a pseudonym: 1 to 64 letters a-z, digits, '.', '_' or '-'")
        return None
    return text


def document_number(text: str) -> Literal["CPF", "CNS"] | None:
    """Which Brazilian document number a text is, by its check digits; None when it is neither."""
    digits = re.sub(r"[\s./-]", "", text)
    if not re.fullmatch(r"[0-9]+", digits):
        return None
    if len(digits) == 11 and len(set(digits)) > 1:
        first, second = _check_digit(digits[:9]), _check_digit(digits[:10])
        return "CPF" if digits[9:] == f"{first}{second}" else None
    if len(digits) == 15 and digits[0] in "12789":
        return "CNS" if _weighted(digits, 15) % 11 == 0 else None
    return None


def name(text: str, what: str, note: Note) -> str | None:
    """The name of a site or device: short printable text."""
    if is_empty(text):
        return None
    if not text.isprintable() or len(text) > _LONGEST_NAME or document_number(text):
        note(f"{what} is not a name of at most {_LONGEST_NAME} printable characters")
        return None
    return text


def age(text: str, note: Note) -> int | None:
    """Years."""
    if is_empty(text):
        return None
    years = int(re.split("[.,]", text)[0]) if _WHOLE.fullmatch(text) else -1
    if not 0 <= years <= _OLDEST:
        note(f"age is not a whole number of years from 0 to {_OLDEST}")
        return None
    return years


def spo2_percent(text: str, note: Note) -> float | None:
    """Oxygen saturation in percent; a decimal comma is read too."""
    if is_empty(text):
        return None
    digits = text.removesuffix("%").strip()
    percent = float(digits.replace(",", ".")) if _NUMBER.fullmatch(digits) else -1.0
    low, high = _SPO2_PERCENT
    if not low <= percent <= high:
        note(f"spo2 is not a percentage from {low} to {high}")
        return None
    return percent


def time(text: str, note: Note) -> str | None:
    """A date, or a date and time, in ISO 8601."""
    if is_empty(text):
        return None
    try:
        if len(text) == len("2024-03-01"):
            return date.fromisoformat(text).isoformat()
        return datetime.fromisoformat(text).isoformat()
    except ValueError:
        note("time is not ISO 8601; write it like 2024-03-01T14:20:00-03:00")
        return None


def is_empty(text: str) -> bool:
    """Whether a cell says nothing: empty, or one of the usual words for that."""
    return text.casefold() in _NOTHING


def shown(text: str) -> str:
    """A value in a message: short, printable, and without a long number that may be somebody's."""
    cut = text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."
    return repr(re.sub(r"[0-9]{8,}", "########", printable(cut)))


def printable(text: str) -> str:
    """File names may hold control characters, and bytes that are no text."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def _check_digit(digits: str) -> int:
    return _weighted(digits, len(digits) + 1) * 10 % 11 % 10


def _weighted(digits: str, highest: int) -> int:
    """Sum of the digits times falling weights, from `highest`."""
    return sum(int(digit) * (highest - place) for place, digit in enumerate(digits))
