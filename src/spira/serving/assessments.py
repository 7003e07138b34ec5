"""Assessments as Serving knows them: waiting for an answer until one is committed.

    queued --> completed    at most once, ever
       ^  \\-> failed         with a dead letter; an audited redrive queues it again
       +-------/

The database is the truth. The relay publishes what waits, again whenever a lease has run out, so
that losing the queue loses nothing; whatever comes back twice changes nothing the second time.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import sqlalchemy as sa

from spira.domain.answers import Outcome
from spira.intake import audit
from spira.intake.keys import RECORDS_KEY_LENGTH
from spira.intake.rechecking import confirm
from spira.intake.submissions import Stored
from spira.serving.messages import Ask
from spira.serving.tables import ASSESSMENTS, CHANGES, DEAD_LETTERS, MODEL
from spira.stores.database import Database, iso

_URGENT_FOR = timedelta(minutes=15)  # somebody waits at a bed
_CLOCKS_APART = timedelta(hours=1)  # of relays; a lease that is longer is of a wrong clock
_RELAYING = 0x52454C4159  # "RELAY": the lock of the relay that is at work, on PostgreSQL


class Assessments:
    """The table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- what waits -------------------------------------------------------------------------

    def lease(self, *, in_flight: int, lease: timedelta, now: datetime) -> Sequence[Ask]:
        """Take what is to be published now: another attempt for each, and a lease.

        Recorded less than 15 minutes ago first, then the oldest; sites take turns. No more than
        `in_flight` are under way at once, however many relays ask.
        """
        table = ASSESSMENTS.c
        # Nobody leases for so long: such a time was written while the clock was wrong.
        wrong = iso(now + lease + _CLOCKS_APART)
        lease_until = table.lease_until
        free = lease_until.is_(None) | (lease_until <= iso(now)) | (lease_until > wrong)
        under_way = sa.select(sa.func.count()).where(table.state == "queued", ~free)
        # Chosen before the lock is taken: putting thousands in order would hold up who writes.
        with self._database.reading() as tables:
            room = in_flight - tables.execute(under_way).scalar_one()
            ids = tables.execute(_next(free, now).limit(room)).scalars().all() if room > 0 else ()
        if not ids:
            return []
        with self._database.writing() as tables:
            self._await_other_relays(tables)
            room = in_flight - tables.execute(under_way).scalar_one()
            taken = tables.execute(
                ASSESSMENTS.update()
                .where(table.id.in_(ids[: max(0, room)]), table.state == "queued", free)
                .values(attempt=table.attempt + 1, lease_until=iso(now + lease))
                .returning(table.id, table.attempt, table.audio, table.audio_sha256)
            )
            asks = {
                row.id: Ask(
                    assessment=row.id,
                    attempt=row.attempt,
                    audio=row.audio,
                    sha256=row.audio_sha256,
                )
                for row in taken
            }
        return [asks[one] for one in ids if one in asks]

    def release(self, asks: Sequence[Ask]) -> None:
        """Give leases back: what could not be published is taken again at once."""
        with self._database.writing() as tables:
            for ask in asks:
                tables.execute(
                    ASSESSMENTS.update()
                    .where(ASSESSMENTS.c.id == ask.assessment, ASSESSMENTS.c.attempt == ask.attempt)
                    .values(lease_until=None)
                )

    # --- what comes back --------------------------------------------------------------------

    def about(self, assessment: str) -> sa.Row[Any] | None:
        """The row; None where there is none."""
        with self._database.reading() as tables:
            query = sa.select(ASSESSMENTS).where(ASSESSMENTS.c.id == assessment)
            return tables.execute(query).first()

    # Each changes an assessment only while it waits for the reply to this attempt: there is no
    # answer yet, and it was not redriven since.

    def complete(
        self, assessment: str, attempt: int, answer: Mapping[str, Any], now: datetime
    ) -> bool:
        """Write the answer down; whether it was."""
        with self._database.writing() as tables:
            return _answered(tables, _waits(assessment, attempt), "completed", answer, now)

    def fail(
        self,
        assessment: str,
        attempt: int,
        kind: str,
        detail: str,
        answer: Mapping[str, Any],
        now: datetime,
    ) -> bool:
        """End it without an answer, with a dead letter; whether it was ended."""
        with self._database.writing() as tables:
            if not _answered(tables, _waits(assessment, attempt), "failed", answer, now):
                return False
            bury(tables, assessment, kind, detail, now)
        return True

    def reached(self, assessment: str, attempt: int, delivery: int) -> tuple[bool, int]:
        """Count a delivery that reached the model, once; whether it was, and how many there were.

        0 where no reply to this attempt counts. One that is earlier than the last that was counted
        is left out: then too few are counted, never too many.
        """
        table = ASSESSMENTS.c
        last = sa.tuple_(table.reached_attempt, table.reached_delivery)
        waits = _waits(assessment, attempt)
        count = (
            ASSESSMENTS.update()
            .where(waits, last < (attempt, delivery))
            .values(reached=table.reached + 1, reached_attempt=attempt, reached_delivery=delivery)
        )
        with self._database.writing() as tables:
            counted = bool(tables.execute(count).rowcount)
            reached = tables.execute(sa.select(table.reached).where(waits)).scalar()
            return counted, reached or 0

    def note_model(self, name: str | None) -> None:
        """Write down which model there is; None: there is none, and what waits goes on waiting."""
        if name == self.model():
            return
        with self._database.writing() as tables:
            self._await_other_relays(tables)
            tables.execute(MODEL.delete())
            if name is not None:
                tables.execute(MODEL.insert().values(name=name))

    def _await_other_relays(self, tables: sa.Connection) -> None:
        """From here to the end of the transaction no other relay is between these lines."""
        if not self._database.on_sqlite:  # there whoever writes is alone
            tables.execute(sa.text(f"SELECT pg_advisory_xact_lock({_RELAYING})"))

    def model(self) -> str | None:
        """Which model there was when somebody last looked."""
        with self._database.reading() as tables:
            return tables.execute(sa.select(MODEL.c.name)).scalar()

    # --- what is asked for ------------------------------------------------------------------

    def changed_after(self, site: str, change: int, limit: int) -> Sequence[sa.Row[Any]]:
        """A site's assessments in the order of their last change."""
        query = (
            sa.select(ASSESSMENTS)
            .where(ASSESSMENTS.c.site == site, ASSESSMENTS.c.change > change)
            .order_by(ASSESSMENTS.c.change)
            .limit(limit)
        )
        with self._database.reading() as tables:
            return tables.execute(query).all()

    def dead_letters(self, *, redriven: bool = False) -> Sequence[sa.Row[Any]]:
        """Dead letters, the oldest first; those that were redriven only when asked for."""
        query = sa.select(DEAD_LETTERS).order_by(DEAD_LETTERS.c.id)
        if not redriven:
            query = query.where(DEAD_LETTERS.c.redriven_at.is_(None))
        with self._database.reading() as tables:
            return tables.execute(query).all()

    def failed(self, letter: int) -> sa.Row[Any] | None:
        """The assessment of a dead letter that was not redriven yet; None where there is none."""
        query = (
            sa.select(ASSESSMENTS)
            .join(DEAD_LETTERS, DEAD_LETTERS.c.assessment == ASSESSMENTS.c.id)
            .where(DEAD_LETTERS.c.id == letter, DEAD_LETTERS.c.redriven_at.is_(None))
        )
        with self._database.reading() as tables:
            return tables.execute(query).first()

    def redrive(
        self,
        letter: int,
        by: str,
        why: str,
        now: datetime,
        *,
        checked: tuple[Stored, Mapping[str, Any]] | None = None,
    ) -> bool:
        """Queue what failed once more; False where it is not there, or was redriven before.

        What still comes back of the attempts until now changes nothing any more.

        checked   of one that had no samples: its recording, which has some by now, and what is to
                  be written down of it
        raises    TransientError where somebody else has checked the recording too
        """
        silent = ASSESSMENTS.c.audio.is_(None)
        failed = (ASSESSMENTS.c.state == "failed") & (silent if checked else ~silent)
        stored, values = checked or (None, {})
        with self._database.writing() as tables:
            assessment = tables.execute(
                DEAD_LETTERS.update()
                .where(
                    DEAD_LETTERS.c.id == letter,
                    DEAD_LETTERS.c.redriven_at.is_(None),
                    sa.exists().where(ASSESSMENTS.c.id == DEAD_LETTERS.c.assessment, failed),
                )
                .values(redriven_at=iso(now), redriven_by=by, why=why)
                .returning(DEAD_LETTERS.c.assessment)
            ).scalar()
            if assessment is None:
                return False
            tables.execute(
                ASSESSMENTS.update()
                .where(ASSESSMENTS.c.id == assessment)
                .values(
                    {
                        "state": "queued",
                        "redriven_after": ASSESSMENTS.c.attempt,
                        "reached": 0,
                        "lease_until": None,
                        "answer": None,
                        "outcome": None,
                        "answered_at": None,
                        "change": next_change(tables),
                        **values,
                    }
                )
            )
            if stored is not None:
                confirm(tables, stored)
            _note(tables, by, "dead letter redriven", assessment, why, role="operator")
        return True

    def void(self, assessment: str, site: str, why: str, by: str) -> sa.Row[Any] | None:
        """Strike an assessment through, for good and audited; None where the site has none.

        Voided twice, it keeps its first time and reason.
        """
        this = (ASSESSMENTS.c.id == assessment) & (ASSESSMENTS.c.site == site)
        with self._database.writing() as tables:
            voided = _void(tables, this, why, datetime.now(UTC))
            row = tables.execute(sa.select(ASSESSMENTS).where(this)).first()
            if voided:
                _note(tables, by, "assessment voided", assessment, why)
            return row

    def search(self, site: str, records: Sequence[str], by: str, limit: int) -> Sequence[Any]:
        """A site's assessments of one record number (its hashes), the latest first; audited."""
        query = (
            sa.select(ASSESSMENTS)
            .where(ASSESSMENTS.c.site == site, ASSESSMENTS.c.record.in_(records))
            .order_by(ASSESSMENTS.c.recorded_at.desc())
            .limit(limit)
        )
        with self._database.writing() as tables:
            rows = tables.execute(query).all()
            _note(tables, by, "record searched", records[0])
            return rows

    def counts(self) -> Mapping[tuple[str, str | None], int]:
        """How many assessments there are of each state and outcome, those of which there are none
        too. Each that has failed has a dead letter that nobody redrove."""
        how = (ASSESSMENTS.c.state, ASSESSMENTS.c.outcome)
        with self._database.reading() as tables:
            rows = tables.execute(sa.select(*how, sa.func.count()).group_by(*how)).all()
        none: dict[tuple[str, str | None], int] = {("queued", None): 0, ("failed", None): 0}
        none |= {("completed", outcome): 0 for outcome in (*get_args(Outcome), None)}
        return none | {(state, outcome): n for state, outcome, n in rows}

    def oldest_open(self) -> datetime | None:
        """When the assessment that has waited longest was accepted; None when none waits."""
        query = sa.select(sa.func.min(ASSESSMENTS.c.accepted_at)).where(
            ASSESSMENTS.c.state == "queued"
        )
        with self._database.reading() as tables:
            oldest = tables.execute(query).scalar()
        return None if oldest is None else datetime.fromisoformat(oldest)


def record_keys(database: Database) -> Sequence[str]:
    """Ids of the keys that record numbers were hashed with."""
    key = sa.func.substr(ASSESSMENTS.c.record, 1, RECORDS_KEY_LENGTH)
    query = sa.select(key).where(ASSESSMENTS.c.record.is_not(None)).distinct()
    with database.reading() as tables:
        return tables.execute(query).scalars().all()


def add(tables: sa.Connection, values: Mapping[str, Any]) -> None:
    """Write a new assessment in the transaction that accepts its submission."""
    answer = values.get("answer")
    tables.execute(
        ASSESSMENTS.insert().values(
            outcome=None if answer is None else json.loads(answer)["outcome"],
            attempt=0,
            redriven_after=0,
            reached=0,
            reached_attempt=0,
            reached_delivery=0,
            **values,
            change=next_change(tables),
        )
    )


def strike_replaced(
    tables: sa.Connection, new: Mapping[str, Any], records: Sequence[str], now: datetime
) -> Mapping[str, str]:
    """Mark what a new assessment replaces, and itself where what replaces it came first: a device
    sends its newest first. Where the two have other record numbers, that was corrected: the one
    that is replaced was recorded on the wrong patient, and is voided.

    new       as it was added in this transaction: of two at once the later one sees the other
    records   its record number's hashes, under every key of the site
    returns   what was voided, and why
    """
    table = ASSESSMENTS.c
    known = sa.select(table.id, table.record).where(table.site == new["site"])
    replaced = tables.execute(known.where(table.id == new["replaces"])).all()
    replacing = tables.execute(known.where(table.replaces == new["id"])).all()
    pairs = [(one.id, new["id"], one.record) for one in replaced]
    pairs += [(new["id"], one.id, one.record) for one in replacing]
    voided = {}
    for struck, by, record in pairs:
        of_site = known.where(table.replaces == struck)
        last = tables.execute(of_site.order_by(table.recorded_at.desc()).limit(1)).one()
        this = table.id == struck
        tables.execute(
            ASSESSMENTS.update().where(this).values(replaced_by=last.id, change=next_change(tables))
        )
        why = f"record number corrected in {by}"
        if _another_number(record, records) and _void(tables, this, why, now):
            voided[struck] = why
    return voided


def bury(tables: sa.Connection, assessment: str, kind: str, detail: str, now: datetime) -> None:
    """Write a dead letter."""
    tables.execute(
        DEAD_LETTERS.insert().values(assessment=assessment, at=iso(now), kind=kind, detail=detail)
    )


def next_change(tables: sa.Connection) -> int:
    """The next number; nobody else gets one before this transaction has ended."""
    return int(
        tables.execute(
            CHANGES.update().values(last=CHANGES.c.last + 1).returning(CHANGES.c.last)
        ).scalar_one()
    )


def _next(free: sa.ColumnElement[bool], now: datetime) -> sa.Select[tuple[str]]:
    """Ids of what waits, in the order in which it is asked."""
    table = ASSESSMENTS.c
    # A device whose clock is ahead has recorded it, at the latest, when it was accepted.
    ahead = table.recorded_at > table.accepted_at
    at = sa.case((ahead, table.accepted_at), else_=table.recorded_at)
    late = sa.case((at > iso(now - _URGENT_FOR), 0), else_=1)
    turn = sa.func.row_number().over(partition_by=table.site, order_by=(late, at, table.id))
    waiting = (
        sa.select(table.id, turn.label("turn"), late.label("late"), at.label("at"))
        .where(table.state == "queued", free)
        .subquery()
    )
    order = (waiting.c.late, waiting.c.turn, waiting.c.at, waiting.c.id)
    return sa.select(waiting.c.id).order_by(*order)


def _waits(assessment: str, attempt: int) -> sa.ColumnElement[bool]:
    return sa.and_(
        ASSESSMENTS.c.id == assessment,
        ASSESSMENTS.c.state == "queued",
        ASSESSMENTS.c.redriven_after < attempt,
    )


def _void(tables: sa.Connection, which: sa.ColumnElement[bool], why: str, now: datetime) -> bool:
    voided = tables.execute(
        ASSESSMENTS.update()
        .where(which, ASSESSMENTS.c.voided_at.is_(None))
        .values(voided_at=iso(now), void_reason=why, change=next_change(tables))
    ).rowcount
    return bool(voided)


def _another_number(record: str | None, records: Sequence[str]) -> bool:
    """Whether a stored hash is of another number than these hashes of one; where its key is not
    among theirs nobody can tell, and it is not said."""
    key = (record or "").partition(":")[0]
    return record not in records and key in {one.partition(":")[0] for one in records}


def _answered(
    tables: sa.Connection,
    waits: sa.ColumnElement[bool],
    state: str,
    answer: Mapping[str, Any],
    now: datetime,
) -> bool:
    changed = tables.execute(
        ASSESSMENTS.update()
        .where(waits)
        .values(
            state=state,
            answer=json.dumps(answer, ensure_ascii=False),
            outcome=answer["outcome"],
            answered_at=iso(now),
            lease_until=None,
            change=next_change(tables),
        )
    ).rowcount
    return bool(changed)


def _note(
    tables: sa.Connection,
    by: str,
    what: str,
    which: str,
    why: str | None = None,
    *,
    role: str = "site",
) -> None:
    audit.note(tables, at=datetime.now(UTC), who=by, role=role, what=what, which=which, why=why)
