"""The nearest known name, for messages about unknown ones."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or the empty string where nothing is near."""
    found = nearest_name(name, known)
    return f"; did you mean {found}?" if found else ""


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest; None where nothing is near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)), None)
