"""The audit on SQLite and on a real PostgreSQL: one chain, whoever adds or tampers."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from spira.domain.errors import InputError, IntegrityError
from spira.intake import audit
from spira.intake.tables import TABLES
from spira.stores.database import Database

NOW = datetime(2026, 11, 26, 6, 0, tzinfo=UTC)
TABLE = TABLES.tables["intake_audit"]
HEAD = TABLES.tables["intake_audit_head"]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'intake.db'}"
    empty: str = request.getfixturevalue("postgres").empty(uuid.uuid4().hex)
    return empty


@pytest.fixture
def database(url: str) -> Database:
    """With the tables of the audit."""
    database = Database.open(url, what="the database of a test is away")
    database.create(TABLES)
    return database


def note(database: Database, **changes: Any) -> int:
    """A row in a transaction of its own."""
    told: dict[str, Any] = {"at": NOW, "who": "ana", "role": "clinician", "what": "assessment void"}
    with database.writing() as tables:
        return audit.note(tables, **told | changes)


def verified(database: Database) -> int:
    """How many rows stand as they were written."""
    with database.reading() as tables:
        return audit.verify(tables)


def test_rows_are_numbered_and_stand_as_they_were_told(database: Database) -> None:
    """All that was said, the time in UTC; nothing where nothing was."""
    assert verified(database) == 0

    assert note(database, at=NOW.astimezone(timezone(timedelta(hours=-3)))) == 1
    assert note(database, device="d1", which="a1", why="paciente errado\nleito 4") == 2

    assert verified(database) == 2
    with database.reading() as tables:
        one, two = map(json.loads, audit.export(tables))
    assert (one["at"], one["who"], one["role"], one["what"]) == (
        "2026-11-26T06:00:00.000000+00:00",
        "ana",
        "clinician",
        "assessment void",
    )
    assert (one["device"], one["which"], one["why"]) == (None, None, None)
    assert (two["device"], two["which"], two["why"]) == ("d1", "a1", "paciente errado\nleito 4")


def test_an_export_is_checked_without_the_database(database: Database) -> None:
    """Each line has the digest of the one before it, and of itself in canonical JSON."""
    for number in range(3):
        note(database, why=f"razão {number}")

    with database.reading() as tables:
        lines = list(audit.export(tables))

    previous = "0" * 64
    for number, line in enumerate(lines, start=1):
        row = json.loads(line)
        digest = row.pop("digest")
        plain = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert (row["number"], row["previous"]) == (number, previous)
        assert hashlib.sha256(plain.encode()).hexdigest() == digest
        previous = digest
    assert len(lines) == 3


def test_a_transaction_that_fails_leaves_no_row_and_no_gap(database: Database) -> None:
    """What was not done is not in the audit."""
    note(database)

    def fail(tables: sa.Connection) -> None:
        audit.note(tables, at=NOW, who="bea", role="clinician", what="nothing")
        raise RuntimeError

    with pytest.raises(RuntimeError), database.writing() as tables:
        fail(tables)

    assert note(database) == 2
    assert verified(database) == 2


def test_notes_of_threads_and_processes_make_one_chain(url: str, database: Database) -> None:
    """Also the very first ones, which find nothing to follow."""

    def noting(mine: Database) -> None:
        for _ in range(10):
            note(mine)

    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            code = 1
            try:
                noting(Database.open(url, what="the database of a test is away"))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(noting, [database] * 4))

    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0]
    assert verified(database) == 60
    with database.reading() as tables:
        assert len(list(audit.export(tables))) == 60


def test_it_can_be_verified_while_others_add_to_it(database: Database) -> None:
    """Rows and head are read as they were at one moment."""

    def noting(_: int) -> None:
        for _ in range(10):
            note(database)

    seen = []
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(noting, number) for number in range(2)]
        while not all(one.done() for one in running):
            seen.append(verified(database))
        for one in running:
            one.result()

    assert seen == sorted(seen)
    assert verified(database) == 20


@pytest.mark.parametrize("what", ["UPDATE intake_audit SET why = 'x'", "DELETE FROM intake_audit"])
def test_the_database_itself_refuses_to_change_rows(database: Database, what: str) -> None:
    """Whoever means well cannot; for others there is the chain."""
    note(database)
    with database.writing() as tables, pytest.raises(sa.exc.DBAPIError, match="append-only"):
        tables.exec_driver_sql(what)
    assert verified(database) == 1


Tamper = Callable[[sa.Connection], object]


def changed(place: int, **values: Any) -> Tamper:
    """Other values in one row."""
    return lambda tables: tables.execute(
        TABLE.update().where(TABLE.c.number == place).values(values)
    )


def deleted(*numbers: int) -> Tamper:
    """Rows taken out."""
    return lambda tables: tables.execute(TABLE.delete().where(TABLE.c.number.in_(numbers)))


def inserted(number: int) -> Tamper:
    """A row put in that follows the last one as a true one would."""

    def tamper(tables: sa.Connection) -> None:
        last = tables.execute(sa.select(TABLE).where(TABLE.c.number == 5)).one()._asdict()
        new = last | {"number": number, "who": "eve", "previous": last["digest"]}
        tables.execute(TABLE.insert().values(new | {"digest": audit._digest(new)}))

    return tamper


def swapped(one: int, other: int, *, with_digests: bool) -> Tamper:
    """Two rows with each other's words, or each in the other's place altogether."""

    def tamper(tables: sa.Connection) -> None:
        rows = {
            row.number: row._asdict()
            for row in tables.execute(sa.select(TABLE).where(TABLE.c.number.in_([one, other])))
        }
        kept = {"number"} if with_digests else {"number", "previous", "digest"}
        for to, source in ((one, other), (other, one)):
            values = {name: value for name, value in rows[source].items() if name not in kept}
            tables.execute(TABLE.update().where(TABLE.c.number == to).values(values))

    return tamper


def rewritten(tables: sa.Connection) -> None:
    """Row 3 changed, and all digests after it made to fit; only the head is as it was."""
    previous = None
    for row in tables.execute(sa.select(TABLE).order_by(TABLE.c.number)).all():
        new = row._asdict() | ({"who": "eve"} if row.number == 3 else {})
        if previous is not None:
            new["previous"] = previous
        previous = audit._digest(new)
        new["digest"] = previous
        tables.execute(TABLE.update().where(TABLE.c.number == row.number).values(new))


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (changed(3, at="2026-11-26T07:00:00.000000+00:00"), "row 3: was changed"),
        (changed(3, who="eve"), "row 3: was changed"),
        (changed(3, role="admin"), "row 3: was changed"),
        (changed(3, device="d2"), "row 3: was changed"),
        (changed(3, what="x"), "row 3: was changed"),
        (changed(3, which="x"), "row 3: was changed"),
        (changed(3, why=None), "row 3: was changed"),
        (changed(3, digest="0" * 64), "row 3: was changed"),
        (changed(3, previous="0" * 64), "row 3: does not follow"),
        (changed(5, why="x"), "row 5: was changed"),
        (changed(3, number=9), "row 3: is missing; row 4 is in its place"),
        (deleted(1), "row 1: is missing; row 2"),
        (deleted(3), "row 3: is missing; row 4"),
        (deleted(5), "row 5: is missing; the chain ends at 5"),
        (deleted(4, 5), "row 4: is missing; the chain ends at 5"),
        (deleted(1, 2, 3, 4, 5), "row 1: is missing; the chain ends at 5"),
        (inserted(6), "row 6: was put in; the chain ends at 5"),
        (inserted(0), "row 1: is missing; row 0 is in its place"),
        (swapped(2, 4, with_digests=False), "row 2: was changed"),
        (swapped(2, 4, with_digests=True), "row 2: does not follow"),
        (rewritten, "row 5: is not the one that the chain ends with"),
        (lambda tables: tables.execute(HEAD.delete()), "row 1: was put in; the chain ends at 0"),
    ],
)
def test_whoever_tampers_is_found(database: Database, tamper: Tamper, says: str) -> None:
    """Past the triggers; the first row that is broken is named."""
    for number in range(5):
        note(database, device="d1", which=f"a{number}", why=f"reason {number}")
    with database.writing() as tables:
        if database.on_sqlite:
            for what in ("update", "delete"):
                tables.exec_driver_sql(f"DROP TRIGGER intake_audit_no_{what}")
        else:
            tables.exec_driver_sql("ALTER TABLE intake_audit DISABLE TRIGGER ALL")
        tamper(tables)

    with pytest.raises(IntegrityError, match=f"audit {says}"):
        verified(database)


def test_texts_have_limits(database: Database) -> None:
    """All that are wrong are told at once, without what they said, and nothing is noted."""
    with pytest.raises(InputError) as refused:
        note(database, who="x" * 101, why="y" * 501, device="d\0", which="\ud800")
    assert refused.value.mistakes == (
        "who: 101 characters, at most 100 are kept",
        "device: has control characters; write plain text",
        "which: has control characters; write plain text",
        "why: 501 characters, at most 500 are kept",
    )
    assert note(database, who="ã" * 100, why="😀" * 500) == 1
    assert verified(database) == 1
