"""Who is one person."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from spira.domain.persons import persons

SEEN = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.none() | st.sampled_from("xyz")), max_size=20
)


def test_equal_hashes_link_pseudonyms_however_many_lie_between() -> None:
    """a and b by one hash, b and c by another; d has none."""
    seen = [("c", "y"), ("b", "y"), ("b", "x"), ("a", "x"), ("d", None)]

    assert persons(seen) == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_a_pseudonym_may_have_been_seen_without_a_number_before() -> None:
    """Its visits belong to one person all the same."""
    assert persons([("b", None), ("b", "x"), ("a", "x")]) == {"a": "a", "b": "a"}


@given(SEEN)
def test_persons_are_what_hashes_link_and_nothing_more(seen: list[tuple[str, str | None]]) -> None:
    """Compared with walking from pseudonym to pseudonym; the order of what was seen is nothing."""
    names = {one for one, _ in seen}
    reach = {one: {one} for one in names}
    for _ in names:
        for (one, x), (other, y) in itertools.product(seen, seen):
            if x is not None and x == y:
                both = reach[one] | reach[other]
                reach[one] = reach[other] = both
        reach = {one: set().union(*(reach[it] for it in mine)) for one, mine in reach.items()}

    assert persons(seen) == {one: min(mine) for one, mine in reach.items()}
    assert persons(seen[::-1]) == persons(seen)
