"""Databases of both kinds: transactions, migrations, and what is told when one is away."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from spira.domain.errors import TransientError
from spira.intake.tables import TABLES as INTAKE
from spira.labels.tables import TABLES as LABELS
from spira.serving.tables import TABLES as SERVING
from spira.stores.database import Database

ROOMS = ("spira.intake", "spira.serving")


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
    database.migrate((*ROOMS, "spira.labels"))
    database.migrate((*ROOMS, "spira.labels"))

    with database.reading() as tables:
        there = sa.inspect(tables)
        for table in (*INTAKE.sorted_tables, *SERVING.sorted_tables, *LABELS.sorted_tables):
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


def test_a_database_that_is_away_is_told_with_what_to_do() -> None:
    """In the words of whoever opened it."""
    away = Database.open("postgresql://nobody@127.0.0.1:1/nothing", what="tables: start it")
    with pytest.raises(TransientError, match="tables: start it"), away.reading():
        pass
