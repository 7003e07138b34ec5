"""Who is one person: pseudonyms are linked by equal hashes of record numbers."""

from collections.abc import Iterable


def persons(seen: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """The person of each pseudonym, named by the smallest pseudonym of that person.

    Two devices that were offline make two pseudonyms of one participant; where both heard the
    record number, it is one person. Links go on: a and b, b and c are one person.

    seen      pseudonyms and the hash that each was seen with, under the newest key; None: none
    """
    person: dict[str, str] = {}

    def of(name: str) -> str:
        while person.setdefault(name, name) != name:
            person[name] = person[person[name]]
            name = person[name]
        return name

    for pseudonym, record in seen:
        mine = of(f"p{pseudonym}")
        if record is not None:
            low, high = sorted((mine, of(f"r{record}")))
            person[high] = low  # "p" comes before "r": a person is never named by a hash
    return {name[1:]: of(name)[1:] for name in [*person] if name[0] == "p"}
