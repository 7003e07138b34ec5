"""Databases of both kinds: transactions, migrations, and what is told when one is away."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from spira.collection.hospitals.tables import TABLES as HOSPITALS
from spira.collection.tables import TABLES as COLLECTION
from spira.domain.errors import TransientError
from spira.intake.tables import TABLES as INTAKE
from spira.labels.tables import TABLES as LABELS
from spira.serving.tables import TABLES as SERVING
from spira.stores import database
from spira.stores.database import Database
from spira.wiring import ROOMS


@pytest.fixture(params=["sqlite", "postgres"])
def open_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Database]:
    """Open one empty database, as often as it is called."""
    url = f"sqlite:///{tmp_path / 'test.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").empty(tmp_path.name)
    return lambda: Database.open(url, what="a test")


def test_migrations_make_the_tables_that_the_code_knows(
    open_database: Callable[[], Database],
) -> None:
    """Columns, keys and indexes alike; a second time changes nothing."""
    database = open_database()
    database.migrate(ROOMS)
    database.migrate(ROOMS)

    with database.reading() as tables:
        there = sa.inspect(tables)
        for table in (
            t
            for room in (INTAKE, SERVING, COLLECTION, HOSPITALS, LABELS)
            for t in room.sorted_tables
        ):
            columns = {
                (column["name"], column["nullable"]) for column in there.get_columns(table.name)
            }
            assert columns == {(column.name, column.nullable) for column in table.columns}
            indexes = {index["name"] for index in there.get_indexes(table.name)}
            assert {index.name for index in table.indexes} <= indexes


def test_rooms_are_migrated_one_after_the_other(open_database: Callable[[], Database]) -> None:
    """In one database, in any order, and none disturbs another."""
    done: set[str] = set()
    for rooms in (["spira.labels"], ROOMS, ["spira.intake"], ["spira.labels", "spira.intake"]):
        open_database().migrate(rooms)
        with open_database().reading() as tables:
            made = set(sa.inspect(tables).get_table_names())
        assert "labels_entries" in made
        done.update(rooms)
        assert ("serving_assessments" in made) == ("spira.serving" in done)


def test_answers_from_before_outcomes_were_a_column_have_theirs(
    open_database: Callable[[], Database],
) -> None:
    """However their JSON was written; where nothing was scored there is none."""
    database = open_database()
    database.migrate(ROOMS)
    answers = ('{"outcome":"positive","x":1}', '{"outcome": "negative"}', '{"outcome":null}', None)
    with database.writing() as tables:
        for statement in (
            "DROP INDEX serving_assessments_by_outcome",
            "ALTER TABLE serving_assessments DROP COLUMN outcome",
            "UPDATE spira_migrations SET version_num = 'serving_0002' "
            "WHERE version_num = 'serving_0003'",
        ):
            tables.execute(sa.text(statement))
        columns = SERVING.tables["serving_assessments"].c
        for number, answer in enumerate(answers):
            row = {one.name: "x" if isinstance(one.type, sa.Text) else 0 for one in columns}
            row |= {"id": str(number), "change": number, "answer": answer}
            del row["outcome"]
            into, values = ", ".join(row), ", ".join(f":{name}" for name in row)
            statement = f"INSERT INTO serving_assessments ({into}) VALUES ({values})"
            tables.execute(sa.text(statement), row)

    database.migrate(ROOMS)

    with database.reading() as tables:
        query = sa.text("SELECT outcome FROM serving_assessments ORDER BY id")
        assert [*tables.execute(query).scalars()] == ["positive", "negative", None, None]


def test_many_that_migrate_at_once_do_it_once(open_database: Callable[[], Database]) -> None:
    """Every process of a service does at its start."""
    faults: list[Exception] = []

    def migrate() -> None:
        try:
            open_database().migrate(ROOMS)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert faults == []
    with open_database().reading() as tables:
        assert tables.execute(sa.select(SERVING.tables["serving_changes"])).all() == [(0,)]


def test_a_transaction_that_fails_leaves_nothing(open_database: Callable[[], Database]) -> None:
    """Tables that a migration makes are rolled back as well."""
    database = open_database()

    def fail(tables: Any) -> None:
        tables.execute(sa.text("CREATE TABLE half (a INTEGER)"))
        raise RuntimeError

    with pytest.raises(RuntimeError), database.writing() as tables:
        fail(tables)
    with database.reading() as tables:
        assert not sa.inspect(tables).has_table("half")


@pytest.fixture
def swift(postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A PostgreSQL whose limits are a fraction of a second, with a table of one row."""
    for name in ("_LONGEST_STATEMENT_S", "_BUSY_S", "_LONGEST_PAUSE_S"):
        monkeypatch.setattr(database, name, 0.4)
    found = Database.open(postgres.empty(tmp_path.name), what="tables: ask again")
    with found.writing() as tables:
        tables.execute(sa.text("CREATE TABLE one AS SELECT 1 AS a"))
    return found


def test_a_query_that_hangs_is_ended(swift: Database) -> None:
    """As one that is away; its connection can be used again."""
    with pytest.raises(TransientError, match="ask again"), swift.reading() as tables:
        tables.execute(sa.text("SELECT pg_sleep(60)"))

    with swift.reading() as tables:
        assert tables.execute(sa.text("SELECT a FROM one")).scalar() == 1


def test_who_falls_asleep_in_a_transaction_holds_nobody_up(swift: Database) -> None:
    """Others wait for its row only so long; it hears that its transaction is gone."""
    change = sa.text("UPDATE one SET a = a + 1")
    awake = threading.Event()

    def sleep_inside() -> bool:
        with suppress(TransientError), swift.writing() as tables:
            tables.execute(change)
            awake.set()
            assert gone.wait(30)
            return False
        return True

    gone = threading.Event()
    with ThreadPoolExecutor(1) as sleeper:
        asleep = sleeper.submit(sleep_inside)
        assert awake.wait(30)
        until = time.monotonic() + 30
        while True:
            try:
                with swift.writing() as tables:
                    tables.execute(change)
                break
            except TransientError:
                assert time.monotonic() < until
        gone.set()

    assert asleep.result()
    with swift.reading() as tables:
        assert tables.execute(sa.text("SELECT a FROM one")).scalar() == 2


def test_a_migration_may_take_as_long_as_it_takes(swift: Database) -> None:
    """And who waits for it: no limit cuts it off."""
    faults: list[Exception] = []

    def migrate() -> None:
        try:
            swift.migrate(ROOMS)
        except Exception as error:
            faults.append(error)

    holder = sa.create_engine(swift._engine.url).connect()
    with holder as tables:
        tables.execute(sa.text(f"SELECT pg_advisory_xact_lock({database._MIGRATING})"))
        waits = threading.Thread(target=migrate)
        waits.start()
        waits.join(1.5)
        assert waits.is_alive()
    waits.join(30)

    assert faults == []
    with swift.reading() as tables:
        assert tables.execute(sa.select(SERVING.tables["serving_changes"])).all() == [(0,)]
        assert tables.execute(sa.text("SHOW statement_timeout")).scalar() == "400ms"


def test_a_primary_that_was_demoted_is_left(swift: Database) -> None:
    """After one write that fails there, the next goes over a new connection."""
    with swift.writing() as tables:
        # What a standby answers from now on, to this connection alone.
        tables.execute(sa.text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
    change = sa.text("UPDATE one SET a = 7")

    with pytest.raises(TransientError, match="ask again"), swift.writing() as tables:
        tables.execute(change)
    with swift.writing() as tables:
        tables.execute(change)


def test_a_database_that_is_away_is_told_with_what_to_do() -> None:
    """In the words of whoever opened it."""
    away = Database.open("postgresql://nobody@127.0.0.1:1/nothing", what="tables: start it")
    with pytest.raises(TransientError, match="tables: start it"), away.reading():
        pass
