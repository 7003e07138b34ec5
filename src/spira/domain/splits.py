"""On which side of train, validation and test a person falls: decided once, by a keyed hash."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence

from pydantic import model_validator

from spira.domain.errors import InputError
from spira.domain.frozen import Frozen
from spira.domain.recordings import SIDES, Side


class Fractions(Frozen):
    """Fixed fractions of people; they sum to 1."""

    train: float = 0.60
    validation: float = 0.15
    test: float = 0.25

    @model_validator(mode="after")
    def _sum_to_one(self) -> "Fractions":
        parts = (self.train, self.validation, self.test)
        if min(parts) <= 0 or abs(sum(parts) - 1) > 1e-9:
            raise ValueError(f"fractions must be positive and sum to 1, they are {parts}")
        return self


def side_of(identity: str, *, key: str, fractions: Fractions) -> Side:
    """The side of one person (or noise recording), whatever the rest of the dataset is.

    identity  pseudonym of the person, or digest of a noise recording
    key       names the study; another key is another, independent split
    """
    digest = hmac.new(key.encode(), identity.encode(), hashlib.sha256).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
    if position < fractions.train:
        return "train"
    return "validation" if position < fractions.train + fractions.validation else "test"


def side_of_person(pseudonyms: Iterable[str], *, key: str, fractions: Fractions) -> Side:
    """The side of a person known under several pseudonyms: that of all of them, else training.

    Whoever was found to be one person on two sides may have been trained on under one of the two,
    and so leaves the test. Nothing has to be remembered for that: each pseudonym's side is fixed.
    """
    sides = {side_of(one, key=key, fractions=fractions) for one in pseudonyms}
    return sides.pop() if len(sides) == 1 else "train"


def assign_sides(
    people: Mapping[str, Iterable[Side | None]],
    *,
    key: str,
    fractions: Fractions,
    pseudonyms: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Side]:
    """The side of every person: the published one where the dataset gives it, else by hash.

    people      person -> the sides its recordings were published with (None where not given)
    pseudonyms  of those people who may have several; without an entry a person is its pseudonym
    raises      InputError naming every person published on two sides
    """
    sides: dict[str, Side] = {}
    straddling = []
    for person, published in people.items():
        given = sorted({side for side in published if side is not None}, key=SIDES.index)
        if len(given) > 1:
            straddling.append(
                f"participant {person}: published in {' and '.join(given)}; "
                "a person belongs to one side, correct the split column"
            )
        names = (pseudonyms or {}).get(person, (person,))
        hashed = side_of_person(names, key=key, fractions=fractions)
        sides[person] = given[0] if given else hashed
    if straddling:
        raise InputError(*straddling)
    return sides
