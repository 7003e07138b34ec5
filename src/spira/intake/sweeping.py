"""The sweeper: expires what nobody finished, and deletes what is not needed any more.

What is accepted is only ever rid of its pieces. A row expires in the database first, in one
transaction with its condition; what is deleted then belongs to a generation that nobody can accept
any more. Rows are there before their objects, so that an object without a row is nobody's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from spira.intake.submissions import RECORDINGS_PREFIX, audio_of, original_of
from spira.intake.tables import RECORDINGS, SUBMISSIONS
from spira.intake.uploads import STAGING_PREFIX, Uploads
from spira.stores.database import Database
from spira.stores.objects import Item, Objects

_ORPHAN_AFTER = timedelta(hours=1)
_AT_ONCE = 500  # objects asked about together


def sweep(database: Database, objects: Objects, now: datetime) -> int:
    """One pass; how many submissions and orphans it cleared away.

    raises    TransientError: the next pass goes on
    """
    # What needs no row to be changed first: a full disk has no room for that.
    cleared = _clear(database, objects)
    cleared += sum(_sweep_orphans(database, objects, now - _ORPHAN_AFTER))
    if _expire(database, now):
        cleared += _clear(database, objects)
    return cleared


def _clear(database: Database, objects: Objects) -> int:
    """Delete what is left of submissions that are accepted or expired; how many there were."""
    cleared = 0
    uploads = Uploads(objects)
    for one in _unswept(database):
        recordings = _recordings(database, one.id)
        uploads.discard(row.upload for row in recordings)
        if one.state == "expired":
            for row in recordings:
                objects.delete([original_of(row.place), audio_of(row.place)])
        cleared += _note_swept(database, one)
    return cleared


def _expire(database: Database, now: datetime) -> int:
    late = SUBMISSIONS.c.deadline < now.astimezone(UTC).isoformat(timespec="microseconds")
    with database.writing() as tables:
        return tables.execute(
            SUBMISSIONS.update()
            .where(SUBMISSIONS.c.state == "announced", late)
            .values(state="expired", swept=False)
        ).rowcount


def _unswept(database: Database) -> Sequence[sa.Row[Any]]:
    query = sa.select(SUBMISSIONS.c.id, SUBMISSIONS.c.state, SUBMISSIONS.c.generation).where(
        SUBMISSIONS.c.state.in_(("accepted", "expired")), SUBMISSIONS.c.swept.is_(False)
    )
    with database.reading() as tables:
        return tables.execute(query).all()


def _recordings(database: Database, submission: str) -> Sequence[sa.Row[Any]]:
    with database.reading() as tables:
        query = sa.select(RECORDINGS).where(RECORDINGS.c.submission == submission)
        return tables.execute(query).all()


def _note_swept(database: Database, one: sa.Row[Any]) -> int:
    """Nothing is left to do for it, unless it was sent again meanwhile."""
    with database.writing() as tables:
        return tables.execute(
            SUBMISSIONS.update()
            .where(
                SUBMISSIONS.c.id == one.id,
                SUBMISSIONS.c.state == one.state,
                SUBMISSIONS.c.generation == one.generation,
            )
            .values(swept=True)
        ).rowcount


def _sweep_orphans(database: Database, objects: Objects, before: datetime) -> Iterator[int]:
    """Objects that no row names: of replaced revisions, and of uploads that were discarded."""
    kinds: tuple[tuple[str, sa.Column[str], Callable[[str], str]], ...] = (
        (STAGING_PREFIX, RECORDINGS.c.upload, lambda key: key.split("/")[1]),
        (RECORDINGS_PREFIX, RECORDINGS.c.place, lambda key: key.rpartition(".")[0]),
    )
    for prefix, column, name_of in kinds:
        old = (item for item in objects.list(f"{prefix}/") if item.changed_at < before)
        for items in _in_parts(old):
            names = {name_of(item.key) for item in items}
            with database.reading() as tables:
                query = sa.select(column).where(column.in_(names))
                named = set(tables.execute(query).scalars())
            orphans = [item.key for item in items if name_of(item.key) not in named]
            objects.delete(orphans)
            yield len(orphans)


def _in_parts(items: Iterable[Item]) -> Iterator[list[Item]]:
    part: list[Item] = []
    for item in items:
        part.append(item)
        if len(part) == _AT_ONCE:
            yield part
            part = []
    if part:
        yield part
