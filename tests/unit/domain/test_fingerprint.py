"""Names made of what a thing is made of."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spira.domain.fingerprint import canonical_json, fingerprint

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


def test_a_known_digest() -> None:
    """SHA-256 of `{"a":1}`, as any other tool computes it."""
    assert fingerprint({"a": 1}) == (
        "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    )


def test_what_json_cannot_say_is_refused() -> None:
    """NaN has no name."""
    with pytest.raises(ValueError):
        fingerprint({"loss": math.nan})
