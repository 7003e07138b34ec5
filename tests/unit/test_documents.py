"""Documents that people write: what is wrong, where, and what would be right."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from spira.documents import parse_document, read_document
from spira.domain.errors import InputError
from spira.domain.frozen import Faults, Frozen


class Soft(Frozen):
    kind: Literal["soft"] = "soft"
    gain_db: float = 0


class Loud(Frozen):
    kind: Literal["loud"] = "loud"
    peak: float = 1


class Step(Frozen):
    sound: Annotated[Soft | Loud, Field(discriminator="kind")]
    repeats: int = Field(default=1, ge=1)


class Part(Frozen):
    low: int
    high: int

    @model_validator(mode="after")
    def _rises(self) -> "Part":
        if self.high < self.low:
            raise ValueError("a part rises")
        return self


class Song(Frozen):
    parts: tuple[Part, ...] = Field(min_length=1)
    names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _named(self) -> "Song":
        wrong = [
            (("names", number), f"there is no part {name}")
            for number, name in enumerate(self.names)
            if not 0 < int(name) <= len(self.parts)
        ]
        if wrong:
            raise Faults(wrong)
        return self


class Plan(Frozen):
    name: str = Field(pattern=r"^[a-zA-Z]+$", description="letters")
    steps: tuple[Step, ...] = ()
    level: int = 0


def mistakes(text: str, *overrides: str) -> list[str]:
    """What is wrong with a document."""
    with pytest.raises(InputError) as refused:
        parse_document(text, Plan, where="plan.yaml", overrides=overrides)
    return list(refused.value.mistakes)


def song(text: str) -> list[str]:
    """What is wrong with a song."""
    with pytest.raises(InputError) as refused:
        parse_document(text, Song, where="song.yaml")
    return list(refused.value.mistakes)


def test_a_rule_about_the_whole_tells_each_mistake_at_its_line() -> None:
    """Also about an entry of a list, which has no key of its own."""
    text = "parts:\n- {low: 1, high: 2}\nnames:\n- '1'\n- '2'\n- '3'\n"

    assert song(text) == [
        "song.yaml, line 5: names.1: there is no part 2",
        "song.yaml, line 6: names.2: there is no part 3",
    ]


def test_a_mistake_inside_a_list_is_told_once_and_without_the_list() -> None:
    """Not that the list is too short without what is wrong, nor all that stands in it."""
    assert song("parts:\n- low: 3\n  high: 2\n") == ["song.yaml, line 2: parts.0: a part rises"]
    assert song("parts: []") == [
        "song.yaml, line 1: parts: tuple should have at least 1 item after validation, not 0"
    ]


def test_a_mistake_in_a_list_has_the_line_of_its_place() -> None:
    """Also inside a chosen strategy, whose tag is no key of the file."""
    text = "name: x\nsteps:\n- sound: {kind: soft}\n- sound:\n    kind: loud\n    peek: 2\n"

    assert mistakes(text) == [
        "plan.yaml, line 6: unknown key steps.1.sound.peek; did you mean peak?"
    ]


def test_a_wrong_override_is_not_blamed_on_the_file() -> None:
    """Though the file has a line for the key."""
    assert mistakes("name: x\nlevel: 3\n", "level=high") == [
        "plan.yaml (--set): level: input should be a valid integer, "
        "unable to parse string as an integer, it is 'high'"
    ]


def test_another_kind_by_override_drops_the_keys_of_the_old_one() -> None:
    """They mean nothing to the new strategy."""
    text = "sound: {kind: loud, peak: 2}"

    changed = parse_document(text, Step, where="step.yaml", overrides=["sound.kind=soft"])
    same = parse_document(text, Step, where="step.yaml", overrides=["sound.kind=loud"])

    assert changed.sound == Soft()
    assert same.sound == Loud(peak=2)


@pytest.mark.parametrize("order", [1, -1])
def test_a_kind_is_overridden_before_its_keys_in_any_order(order: int) -> None:
    """No override is lost to another one."""
    overrides = ["sound.gain_db=3", "sound.kind=soft"][::order]

    changed = parse_document("sound: {kind: loud}", Step, where="step.yaml", overrides=overrides)

    assert changed.sound == Soft(gain_db=3)
    with pytest.raises(
        InputError, match=r"\(--set\): unknown key sound.gain; did you mean gain_db"
    ):
        parse_document(
            "sound: {kind: loud}", Step, where="s", overrides=["sound.gain=3", "sound.kind=soft"]
        )


def test_a_strategy_is_asked_for_in_words() -> None:
    """Its kinds are listed where none, a wrong one, or no mapping at all is given."""
    assert mistakes("name: x\nsteps:\n- sound: {}\n- sound: {kind: wet}\n- sound: loud\n") == [
        "plan.yaml, line 3: steps.0.sound.kind must be one of soft, loud",
        "plan.yaml, line 4: steps.1.sound.kind must be one of soft, loud",
        "plan.yaml, line 5: steps.2.sound: write {kind: soft}, or another kind; it is 'loud'",
    ]


def test_a_key_of_another_strategy_is_told_so() -> None:
    """Not proposed again."""
    assert mistakes("name: x\nsteps:\n- sound: {kind: soft, peak: 1}\n") == [
        "plan.yaml, line 3: unknown key steps.0.sound.peak; "
        "it does not belong to this steps.sound.kind"
    ]


def test_a_value_of_the_wrong_form_is_told_the_form() -> None:
    """In words, not as a regular expression."""
    assert mistakes("name: a b\n") == ["plan.yaml, line 1: name: must be letters, it is 'a b'"]


def test_a_missing_key_is_not_blamed_on_an_override_of_another() -> None:
    """The file is where it is missing."""
    assert mistakes("level: 3", "level=4") == ["plan.yaml: key name is missing"]


def test_a_key_that_is_near_nothing_lists_what_is_known() -> None:
    """Rather than nothing."""
    assert mistakes("name: x\nqqq: 1\n") == [
        "plan.yaml, line 2: unknown key qqq; known: name, steps, level"
    ]


def test_words_are_taken_as_they_are_written() -> None:
    """YAML's yes, numbers and dates stay text where a document holds words of somebody's table."""

    class Words(Frozen):
        every: tuple[str, ...]

    read = parse_document("every: [yes, 1, 2024-03-01]", Words, where="words.yaml", words=True)

    assert read.every == ("yes", "1", "2024-03-01")


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [*x]",
        "[" * 1500,
        "? {a: b}\n: c",
        "\x00",
        "- a",
        "",
        "name: 2024-13-01",
        "level: 0x_",
    ],
)
def test_what_is_no_document_is_refused_in_words(text: str) -> None:
    """Aliases of themselves, nesting without end, keys that are no text, bytes that are none."""
    assert all(mistake.startswith("plan.yaml") for mistake in mistakes(text))


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    (tmp_path / "plan.yaml").write_bytes("\ufeffname: x\n".encode())

    assert read_document(tmp_path / "plan.yaml", Plan).name == "x"
