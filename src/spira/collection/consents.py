"""The spoken consent: a recording with a name in it, for the study's lead alone.

Nothing else reads it: it is sealed under a key of its own, in a store of its own.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from spira.collection.tables import RECORDINGS
from spira.domain.errors import InputError, IntegrityError
from spira.intake import audit
from spira.intake.keys import KeyRing
from spira.stores.database import Database
from spira.stores.objects import Objects

CONSENT = "consent"  # the utterance


def read_consent(
    database: Database,
    objects: Objects,
    keys: KeyRing,
    visit: str,
    *,
    recording: str | None = None,
    by: str,
    why: str,
) -> bytes:
    """The spoken consent of a visit, as the device sent it; audited before it is given.

    objects    where spoken consents are kept
    recording  which one, where a visit has several
    raises     InputError where there is none, or several and none was named; IntegrityError where
               it is not what was stored, or its key is not here; TransientError
    """
    spoken = (RECORDINGS.c.visit == visit) & (RECORDINGS.c.utterance == CONSENT)
    with database.reading() as tables:
        found = tables.execute(sa.select(RECORDINGS).where(spoken).order_by(RECORDINGS.c.id)).all()
    original = _one_of(found, visit, recording).original
    sealed = objects.read(original)
    if sealed is None:
        raise IntegrityError(f"{original}: is not in the store of consents; restore it")
    data = keys.unseal(sealed, about=original)
    with database.writing() as tables:
        audit.note(
            tables,
            at=datetime.now(UTC),
            who=by,
            role="study lead",
            what="spoken consent read",
            which=visit,
            why=why,
        )
    return data


def _one_of(found: Sequence[sa.Row[Any]], visit: str, recording: str | None) -> sa.Row[Any]:
    if not found:
        raise InputError(f"visit {visit}: there is none with a spoken consent")
    if recording is None and len(found) == 1:
        return found[0]
    for one in found:
        if one.id == recording:
            return one
    ids = ", ".join(one.id for one in found)
    raise InputError(f"visit {visit}: --recording says which of its spoken consents: {ids}")
