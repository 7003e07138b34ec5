"""Who falls on which side: once, for good, and never on two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spira.domain.errors import InputError
from spira.domain.recordings import SIDES, Side
from spira.domain.splits import Fractions, assign_sides, side_of, side_of_person

NAMES = st.text("abcdef0123456789-", min_size=1, max_size=12)


@given(st.lists(NAMES, unique=True), st.lists(NAMES, unique=True))
def test_a_larger_dataset_moves_nobody(first: list[str], more: list[str]) -> None:
    """A side depends on the person alone, so people who join later change nothing for others."""
    before = assign_sides({name: [None] for name in first}, key="k", fractions=Fractions())
    after = assign_sides({name: [None] for name in first + more}, key="k", fractions=Fractions())

    assert before.items() <= after.items()


def test_sides_come_out_in_the_fractions_asked_for() -> None:
    """Twenty thousand people fall within one percentage point of 60/15/25."""
    sides = [side_of(f"p-{n}", key="study", fractions=Fractions()) for n in range(20_000)]

    shares = [sides.count(side) / len(sides) for side in SIDES]

    assert shares == pytest.approx([0.60, 0.15, 0.25], abs=0.01)


def test_another_key_is_an_independent_split() -> None:
    """Two studies agree about a person no more often than chance: 0.6² + 0.15² + 0.25² = 0.445."""
    people = [f"p-{n}" for n in range(10_000)]

    same = sum(
        side_of(p, key="one", fractions=Fractions()) == side_of(p, key="two", fractions=Fractions())
        for p in people
    )

    assert same / len(people) == pytest.approx(0.445, abs=0.02)


@given(st.lists(NAMES, min_size=1, unique=True), st.lists(NAMES, unique=True))
def test_who_may_have_been_trained_on_is_in_no_test(known: list[str], found: list[str]) -> None:
    """Whatever pseudonyms turn out to be one person's: from any side a person only moves to
    training, and stays there."""
    before = side_of_person(known, key="k", fractions=Fractions())
    after = side_of_person(known + found, key="k", fractions=Fractions())

    assert after in (before, "train")
    sides = {side_of(name, key="k", fractions=Fractions()) for name in known + found}
    assert {after} == (sides if len(sides) == 1 else {"train"})


def test_published_sides_are_kept() -> None:
    """Where the dataset says a side, the hash does not."""
    published: dict[str, list[Side | None]] = {f"p-{n}": ["test", None] for n in range(30)}

    assert set(assign_sides(published, key="k", fractions=Fractions()).values()) == {"test"}


def test_everybody_published_on_two_sides_is_named() -> None:
    """A participant in two splits is refused, and all of them are listed at once."""
    published: dict[str, list[Side | None]] = {
        "p-1": ["train", "test"],
        "p-2": ["train", None],
        "p-3": ["validation", "test"],
    }

    with pytest.raises(InputError) as refused:
        assign_sides(published, key="k", fractions=Fractions())

    assert [m.split(":")[0] for m in refused.value.mistakes] == [
        "participant p-1",
        "participant p-3",
    ]


@pytest.mark.parametrize("parts", [(0.5, 0.5, 0.5), (1.0, 0.0, 0.0), (-0.2, 0.7, 0.5)])
def test_fractions_that_do_not_share_out_everybody_are_refused(parts: tuple[float, ...]) -> None:
    """Fractions are positive and sum to one."""
    with pytest.raises(ValueError, match="positive and sum to 1"):
        Fractions(train=parts[0], validation=parts[1], test=parts[2])
