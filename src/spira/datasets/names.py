"""How dataset versions are found: by digest, by a prefix of it, or by a name.

The name that a person gives is an artifact of its own, so that the same bytes are one version
whatever they are called; the latest version of a name is what the name means. No table is read
here: a command that only looks whether something is done starts quickly.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from spira.domain.errors import InputError, IntegrityError
from spira.domain.fingerprint import fingerprint
from spira.domain.suggestions import nearest
from spira.stores.artifacts import ArtifactStore

STAGE = "dataset"  # of a dataset version's artifact
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_NAMES_STAGE = "dataset-name"
_SHORTEST_PREFIX = 6


@dataclass(frozen=True)
class Listing:
    """One line of `spira dataset list`."""

    digest: str
    names: tuple[str, ...]  # that mean this version
    about: Mapping[str, Any]


def resolve(store: ArtifactStore, reference: str) -> str:
    """The digest of the version that a reference means.

    reference a digest, a name, or a prefix of one digest only, of 6 digits or more
    raises    InputError when there is none or more than one; IntegrityError when the version that
              a name means is damaged
    """
    if re.fullmatch(r"[0-9a-f]{64}", reference) and store.find(STAGE, reference) is not None:
        return reference
    names = _names(store)
    if reference in names:
        if store.find(STAGE, names[reference]) is None:
            raise damaged_manifest(names[reference])
        return names[reference]
    if re.fullmatch(rf"[0-9a-f]{{1,{_SHORTEST_PREFIX - 1}}}", reference) and store.list(STAGE):
        raise InputError(
            f"dataset {reference}: no name, and too short for a digest; give at least "
            f"{_SHORTEST_PREFIX} digits"
        )
    found = []
    if re.fullmatch(rf"[0-9a-f]{{{_SHORTEST_PREFIX},64}}", reference):
        digests = [artifact.fingerprint for artifact in store.list(STAGE)]
        found = [digest for digest in digests if digest.startswith(reference)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"dataset {reference}: {len(found)} digests begin so; give more digits")
    if damaged := store.damaged(_NAMES_STAGE):
        raise IntegrityError(
            f"dataset {reference!r}: not among the names that can be read, and "
            f"{len(damaged)} cannot: they are damaged; use the digest that "
            "`spira dataset list` shows, or import that dataset again"
        )
    known = f"{nearest(reference, names)}; known: {', '.join(sorted(names))}" if names else ""
    hint = known or "; there is none yet, `spira dataset import` or `synthesize` makes one"
    raise InputError(f"dataset {reference!r}: unknown{hint}")


def list_versions(store: ArtifactStore) -> list[Listing]:
    """Every dataset version, the latest first."""
    names: dict[str, list[str]] = {}
    for name, digest in _names(store).items():
        names.setdefault(digest, []).append(name)
    listings = [
        Listing(
            artifact.fingerprint, tuple(sorted(names.get(artifact.fingerprint, []))), artifact.about
        )
        for artifact in store.list(STAGE)
    ]
    return sorted(listings, key=lambda line: str(line.about["imported_at"]), reverse=True)


def versions_of(store: ArtifactStore, name: str) -> set[str]:
    """Digests of every version that a name means or has meant."""
    given = (artifact.about for artifact in store.list(_NAMES_STAGE))
    return {about["dataset"] for about in given if about["name"] == name}


def require_undamaged(store: ArtifactStore) -> None:
    """Raise IntegrityError naming every dataset version whose manifest cannot be read."""
    damaged = store.damaged(STAGE)
    if damaged:
        raise IntegrityError("\n".join(str(damaged_manifest(digest)) for digest in damaged))


def check_name(name: str) -> None:
    """Raise InputError for what cannot be the name of a dataset."""
    if not re.fullmatch(_NAME, name):
        raise InputError(
            f"dataset name {name!r}: 1 to 64 letters a-z, digits, '.', '_' or '-', "
            "beginning with a letter or digit"
        )
    if re.fullmatch(r"[0-9a-f]{64}", name):
        raise InputError("dataset name: a digest; choose a name that is none")


def give_name(store: ArtifactStore, name: str, digest: str, at: datetime) -> None:
    """Let a name mean this version from now on."""
    if _names(store).get(name) != digest:
        about = {"name": name, "dataset": digest, "at": at.isoformat()}
        store.commit(_NAMES_STAGE, fingerprint(about), {}, about)


def damaged_manifest(digest: str) -> IntegrityError:
    """What to say, and to do, about a version whose manifest cannot be read."""
    return IntegrityError(f"dataset {digest[:12]}: its manifest is damaged; import it again")


def _names(store: ArtifactStore) -> dict[str, str]:
    """name -> digest of the latest version of that name."""
    given = sorted((artifact.about for artifact in store.list(_NAMES_STAGE)), key=lambda a: a["at"])
    return {about["name"]: about["dataset"] for about in given}
