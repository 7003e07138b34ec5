"""Names made of what a thing is made of."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spira.domain.fingerprint import canonical_json, fingerprint, fingerprint_with_rows

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    """Two mappings that are equal have one name."""
    backwards = dict(reversed(list(value.items())))

    assert fingerprint(value) == fingerprint(backwards)


@given(JSON, JSON)
def test_different_values_have_different_names(one: object, other: object) -> None:
    """Where the canonical text differs, so does the digest."""
    assert (fingerprint(one) == fingerprint(other)) == (
        canonical_json(one) == canonical_json(other)
    )


@given(st.dictionaries(st.text(), JSON), st.lists(JSON), st.lists(JSON))
def test_rows_count_in_whatever_order_they_come(
    value: dict[str, object], some: list[object], more: list[object]
) -> None:
    """The name is that of the whole, with its lists in the order of their text."""
    lists = {"a list": some, "another": more}
    whole = value | {key: sorted(rows, key=canonical_json) for key, rows in lists.items()}
    others = {key: one for key, one in value.items() if key not in lists}

    named = fingerprint_with_rows(others, {key: iter(rows) for key, rows in lists.items()})

    assert named == fingerprint(whole)


def test_a_known_digest() -> None:
    """SHA-256 of `{"a":1}`, as any other tool computes it."""
    assert fingerprint({"a": 1}) == (
        "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    )


def test_what_json_cannot_say_is_refused() -> None:
    """NaN has no name."""
    with pytest.raises(ValueError):
        fingerprint({"loss": math.nan})
