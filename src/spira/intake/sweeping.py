"""The sweeper: expires what nobody finished, and deletes what is not needed any more.

What is accepted is only ever rid of its pieces. A row expires in the database first, in one
transaction with its condition; what is deleted then belongs to a generation that nobody can accept
any more. Rows are there before their objects, so that an object which its submission's row does not
name is nobody's; but an object without any row is not deleted: it is this database that is older,
or another one. Beside the recordings of what was accepted lies its receipt, so that a database that
was restored does not expire what the store knows to be accepted.
"""

import math
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
import structlog

from spira.domain.errors import StorageFull
from spira.domain.submissions import Kind
from spira.intake.submissions import (
    CONSENTS_PREFIX,
    RECEIPTS_PREFIX,
    RECORDINGS_PREFIX,
    audio_of,
    is_consent,
    original_of,
    receipt_of,
)
from spira.intake.tables import RECORDINGS, SUBMISSIONS
from spira.intake.uploads import STAGING_PREFIX, Uploads
from spira.stores.database import Database, iso
from spira.stores.objects import Item, Objects

_ORPHAN_AFTER = timedelta(hours=1)
_AT_ONCE = 500  # objects asked about together
_A_PASS = 5_000  # submissions whose objects are looked through: some forty requests of S3
_KEY = re.compile(
    rf"(?P<place>(?:{RECORDINGS_PREFIX}|{CONSENTS_PREFIX})/(?P<submission>[^/]+)/[^/]+/"
    r"(?P<generation>\d+)\.(?P<revision>\d+)-[0-9a-f]{64})\.(?:original|[0-9a-f]{64}\.f32)"
)

_log = structlog.get_logger()


def sweep(
    database: Database,
    objects: Objects,
    now: datetime,
    *,
    kind: Kind = "assessment",
    consents: Objects | None = None,
) -> int:
    """One pass; how many submissions and orphans it cleared away.

    objects   where submissions of this kind have their recordings
    consents  where their spoken consents are kept; no key is needed to delete them
    raises    TransientError: the next pass goes on
    """
    # What needs no row to be changed first: a full disk has no room for that.
    before = now - _ORPHAN_AFTER
    consents = consents or objects  # where there are none
    cleared = _clear(database, objects, consents, kind)
    cleared += sum(_sweep_pieces(database, objects, before))
    cleared += objects.tidy(f"{STAGING_PREFIX}/", before)
    part = _part(database)
    for prefix, store in ((RECORDINGS_PREFIX, objects), (CONSENTS_PREFIX, consents)):
        cleared += sum(_sweep_recordings(database, store, prefix, before, *part))
        cleared += store.tidy(f"{prefix}/", before, *part)
    cleared += objects.tidy(f"{RECEIPTS_PREFIX}/", before, *part)
    if _expire(database, kind, now):
        cleared += _clear(database, objects, consents, kind)
    return cleared


def _clear(database: Database, objects: Objects, consents: Objects, kind: Kind) -> int:
    """Delete what is left of submissions that are accepted or expired; how many there were."""
    cleared = 0
    uploads = Uploads(objects)
    for one in _unswept(database, kind):
        recordings = _recordings(database, one)
        if one.state == "expired" and objects.read(receipt_of(one.id)) is not None:
            _log.critical("accepted, and the database does not know it", submission=one.id)
            continue
        uploads.discard(row.upload for row in recordings)
        if one.state == "expired":
            for row in recordings:
                (consents if is_consent(row.place) else objects).delete(_keys_of(row))
        else:
            try:
                objects.keep(receipt_of(one.id), one.receipt.encode())
            except StorageFull:
                continue  # the pieces are gone; the receipt follows when there is room
        cleared += _note_swept(database, one)
    return cleared


def _expire(database: Database, kind: Kind, now: datetime) -> int:
    late = SUBMISSIONS.c.deadline < iso(now)
    with database.writing() as tables:
        return tables.execute(
            SUBMISSIONS.update()
            .where(SUBMISSIONS.c.kind == kind, SUBMISSIONS.c.state == "announced", late)
            .values(state="expired", swept=False)
        ).rowcount


def _unswept(database: Database, kind: Kind) -> Sequence[sa.Row[Any]]:
    seen = (SUBMISSIONS.c.id, SUBMISSIONS.c.state, SUBMISSIONS.c.generation, SUBMISSIONS.c.receipt)
    query = sa.select(*seen).where(
        SUBMISSIONS.c.kind == kind,
        SUBMISSIONS.c.state.in_(("accepted", "expired")),
        SUBMISSIONS.c.swept.is_(False),
    )
    with database.reading() as tables:
        return tables.execute(query).all()


def _recordings(database: Database, one: sa.Row[Any]) -> Sequence[sa.Row[Any]]:
    """Its recordings, if it is still what it was: sent again meanwhile, it has others."""
    query = (
        sa.select(RECORDINGS)
        .join(SUBMISSIONS, SUBMISSIONS.c.id == RECORDINGS.c.submission)
        .where(_as_seen(one))
    )
    with database.reading() as tables:
        return tables.execute(query).all()


def _as_seen(one: sa.Row[Any]) -> sa.ColumnElement[bool]:
    return sa.and_(
        SUBMISSIONS.c.id == one.id,
        SUBMISSIONS.c.state == one.state,
        SUBMISSIONS.c.generation == one.generation,
    )


def _keys_of(row: sa.Row[Any]) -> list[str]:
    audio = [] if row.audio_sha256 is None else [audio_of(row.place, row.audio_sha256)]
    return [original_of(row.place), *audio]


def _note_swept(database: Database, one: sa.Row[Any]) -> int:
    """Nothing is left to do for it, unless it was sent again meanwhile."""
    with database.writing() as tables:
        noted = tables.execute(
            SUBMISSIONS.update().where(_as_seen(one)).values(swept=True)
        ).rowcount
        if noted and one.state == "expired":
            # What somebody slow stores from now on is an orphan.
            tables.execute(RECORDINGS.delete().where(RECORDINGS.c.submission == one.id))
        return noted


def _sweep_pieces(database: Database, objects: Objects, before: datetime) -> Iterator[int]:
    """Pieces of uploads that nobody waits for: of those replaced, of those discarded, and what a
    slow connection brought after its submission was accepted."""
    for items in _in_parts(objects.list(f"{STAGING_PREFIX}/"), before):
        uploads = {item.key.split("/")[1] for item in items}
        with database.reading() as tables:
            query = (
                sa.select(RECORDINGS.c.upload)
                .join(SUBMISSIONS, SUBMISSIONS.c.id == RECORDINGS.c.submission)
                .where(RECORDINGS.c.upload.in_(uploads), SUBMISSIONS.c.state == "announced")
            )
            wanted = set(tables.execute(query).scalars())
        orphans = [item.key for item in items if item.key.split("/")[1] not in wanted]
        objects.delete(orphans)
        yield len(orphans)


def _part(database: Database) -> tuple[str, str | None]:
    """Which submissions' objects a pass looks through: from one id on and before another.

    All of them where they are few; else a part drawn by chance. So nothing has to be remembered or
    agreed upon, however many sweepers there are and however often they start anew; and each part's
    turn comes.
    """
    ids = sa.select(SUBMISSIONS.c.id).order_by(SUBMISSIONS.c.id).limit(1)
    with database.reading() as tables:
        n = tables.execute(sa.select(sa.func.count(SUBMISSIONS.c.id))).scalar_one()
        part = secrets.randbelow(max(1, math.ceil(n / _A_PASS)))
        first = tables.execute(ids.offset(part * _A_PASS)).scalar() if part else None
        end = tables.execute(ids.offset((part + 1) * _A_PASS)).scalar()
    return first or "", end


def _sweep_recordings(
    database: Database,
    objects: Objects,
    prefix: str,
    before: datetime,
    first: str,
    end: str | None,
) -> Iterator[int]:
    """Final objects that the row of their submission does not name."""
    unknown = 0
    found_there = objects.list_between(f"{prefix}/", first, end)
    for items in _in_parts(found_there, before):
        found = {item.key: _KEY.fullmatch(item.key) for item in items}
        ids = {match["submission"] for match in found.values() if match}
        with database.reading() as tables:
            rows = tables.execute(sa.select(SUBMISSIONS).where(SUBMISSIONS.c.id.in_(ids))).all()
            query = sa.select(RECORDINGS).where(RECORDINGS.c.submission.in_(ids))
            recordings = {row.place: row for row in tables.execute(query)}
        newest = {row.id: (row.generation, row.revision) for row in rows}
        orphans = []
        for key, match in found.items():
            here = newest.get(match["submission"]) if match else None
            if match is None or here is None:
                unknown += 1
                continue
            row = recordings.get(match["place"])
            if row is not None:
                if row.state == "stored" and key not in _keys_of(row):
                    orphans.append(key)  # another process decoded it too
            elif (int(match["generation"]), int(match["revision"])) <= here:
                orphans.append(key)
            else:
                unknown += 1
        objects.delete(orphans)
        yield len(orphans)
    if unknown:
        _log.critical(
            "recordings that the database does not know are kept; is it an older one, or another?",
            objects=unknown,
        )


def _in_parts(items: Iterable[Item], before: datetime) -> Iterator[list[Item]]:
    """Items that are old enough, some hundred at a time."""
    part: list[Item] = []
    for item in items:
        if item.changed_at < before:
            part.append(item)
        if len(part) == _AT_ONCE:
            yield part
            part = []
    if part:
        yield part
