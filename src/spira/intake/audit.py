"""The audit: who did what, when and why, in rows that are added and never changed.

Each row carries the digest of the one before it, so that a row changed, taken out, put in or
swapped is found; the head, kept beside the rows, tells where they end. Whoever can write to the
database could make a whole new chain: against that, keep exports, or the last line of one,
somewhere else.

Rows hold ids and pseudonyms, never a person's name or record number.
"""

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from spira.console import account
from spira.domain.errors import InputError, IntegrityError
from spira.domain.fingerprint import canonical_json
from spira.intake.tables import AUDIT, AUDIT_HEAD
from spira.stores.database import iso

_START = "0" * 64  # what the first row has as the digest before it
_FIRST = sa.text(  # of two that come first at once, the second waits and then adds nothing
    f"INSERT INTO {AUDIT_HEAD.name} (id, number, digest) VALUES (1, 0, :start) "
    "ON CONFLICT DO NOTHING"
)
_TOLD = ("who", "role", "device", "what", "which", "why")
_FIELDS = tuple(column.name for column in AUDIT.c)
_AT_ONCE = 1000  # rows read at a time


def note(
    tables: sa.Connection,
    *,
    at: datetime,
    who: str,
    role: str,
    what: str,
    device: str | None = None,
    which: str | None = None,
    why: str | None = None,
) -> int:
    """Add a row in the caller's transaction, and with it alone; returns its number.

    From here to its end the transaction holds off all others that add to the audit: note last.

    who       an account or a site, by id      device    an id
    what      what was done, in a few words    which     the id of what it was done to
    why       the reason given, in somebody's own words
    raises    InputError for a text that is too long (100 characters; `why` 500) or has control
              characters
    """
    told = dict(zip(_TOLD, (who, role, device, what, which, why), strict=True))
    _check_texts(told)
    number, previous = _head(tables)
    row = {
        "number": number + 1,
        "at": iso(at),
        **told,
        "previous": previous,
    }
    digest = _digest(row)
    tables.execute(AUDIT.insert().values(**row, digest=digest))
    tables.execute(AUDIT_HEAD.update().values(number=number + 1, digest=digest))
    return number + 1


def note_operator(tables: sa.Connection, what: str, which: str) -> None:
    """Add what the account that runs this command has done."""
    note(tables, at=datetime.now(UTC), who=account(), role="operator", what=what, which=which)


def verify(tables: sa.Connection) -> int:
    """Walk the whole chain; returns how many rows it has.

    raises    IntegrityError naming the first row that is not as it was written
    """
    number, previous = 0, _START
    end, last = 0, _START
    for row in _rows(tables):
        end, last = row["head_number"] or 0, row["head_digest"] or _START
        if row["number"] is None:
            break  # there are no rows at all
        number += 1
        if number > end:
            raise IntegrityError(f"audit row {row['number']}: was put in; the chain ends at {end}")
        if row["number"] != number:
            raise IntegrityError(
                f"audit row {number}: is missing; row {row['number']} is in its place"
            )
        if row["previous"] != previous:
            raise IntegrityError(f"audit row {number}: does not follow the row before it")
        if _digest(row) != row["digest"]:
            raise IntegrityError(f"audit row {number}: was changed")
        previous = row["digest"]
    if number < end:
        raise IntegrityError(f"audit row {number + 1}: is missing; the chain ends at {end}")
    if previous != last:
        raise IntegrityError(f"audit row {number}: is not the one that the chain ends with")
    return number


def export(tables: sa.Connection) -> Iterator[str]:
    """Every row as a line of JSON, in order, with what it takes to check the chain again.

    `digest` is the SHA-256 of the row's other fields as canonical JSON (sorted keys, no spaces,
    UTF-8); `previous` is the digest of the line before, or 64 zeros. The last line's digest
    stands for all of them.
    """
    for row in _rows(tables):
        if row["number"] is not None:
            yield canonical_json({name: row[name] for name in _FIELDS}).decode()


def is_plain(text: str) -> bool:
    """Whether the audit can keep it: no control characters but new lines, no half of a pair."""
    return all(unicodedata.category(one) not in ("Cc", "Cs") for one in text.replace("\n", ""))


def _head(tables: sa.Connection) -> tuple[int, str]:
    """Where the chain ends, locked: on PostgreSQL by its row, on SQLite by the transaction."""
    locked = sa.select(AUDIT_HEAD.c.number, AUDIT_HEAD.c.digest).with_for_update()
    found = tables.execute(locked).first()
    if found is None:
        tables.execute(_FIRST, {"start": _START})
        found = tables.execute(locked).one()
    return found.number, found.digest


def _rows(tables: sa.Connection) -> Iterator[Mapping[str, Any]]:
    """Rows in order, each with the head as it was when all of them were read."""
    one = sa.select(sa.literal(1)).subquery()  # so that a head without rows is told too
    joined = one.outerjoin(AUDIT_HEAD, sa.true()).outerjoin(AUDIT, sa.true())
    head = (AUDIT_HEAD.c.number.label("head_number"), AUDIT_HEAD.c.digest.label("head_digest"))
    query = sa.select(AUDIT, *head).select_from(joined).order_by(AUDIT.c.number)
    for row in tables.execute(query, execution_options={"yield_per": _AT_ONCE}):
        yield row._asdict()


def _digest(row: Mapping[str, Any]) -> str:
    told = {name: row[name] for name in _FIELDS if name != "digest"}
    return hashlib.sha256(canonical_json(told)).hexdigest()


def _check_texts(told: Mapping[str, str | None]) -> None:
    mistakes = []
    for name, text in told.items():
        if text is None:
            continue
        kept = AUDIT.c[name].type
        assert isinstance(kept, sa.String)
        if len(text) > (kept.length or 0):
            mistakes.append(f"{name}: {len(text)} characters, at most {kept.length} are kept")
        if not is_plain(text):
            mistakes.append(f"{name}: has control characters; write plain text")
    if mistakes:
        raise InputError(*mistakes)
