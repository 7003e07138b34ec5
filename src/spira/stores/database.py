"""A database: SQLite on one machine, PostgreSQL for many, the same code through SQLAlchemy.

What is added: transactions that begin where we say so and survive a power cut when they have
ended, migrations room by room, and errors in our words.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from spira.domain.errors import StorageFull, TransientError
from spira.stores.files import sync_path

_BUSY_S = 30.0  # whoever waits for another writer waits so long
# PostgreSQL ends what takes longer: a query that hangs would hold the place of a commit for ever,
# and a process that was suspended inside a transaction all who wait for its rows. It loses its
# transaction before they lose patience.
_LONGEST_STATEMENT_S = 60.0
_LONGEST_PAUSE_S = 20.0  # between two statements of a transaction
_NO_LONGER_PRIMARY = "25006"  # SQLSTATE read_only_sql_transaction
# SQLITE_IOERR_SHMSIZE is what opening a database comes to, and PostgreSQL has a SQLSTATE.
_FULL = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", "53100")
_MIGRATING = 0x4D49475241  # "MIGRA": the lock of whoever migrates, on PostgreSQL


class Database:
    """Tables behind an address; `reading` and `writing` give SQLAlchemy connections."""

    def __init__(self, engine: sa.Engine, what: str) -> None:
        self._engine = engine
        self._what = what

    @classmethod
    def open(cls, url: str, *, what: str) -> "Database":
        """The database at `sqlite:////folder/file.db` or `postgresql://user@host/database`.

        what      how an error begins: which database, and what to do when it is away
        """
        hidden: dict[str, Any] = {"hide_parameters": True}  # a logged error holds nobody's data
        if url.startswith("postgresql://"):
            engine = sa.create_engine(
                with_driver(url),
                pool_pre_ping=True,
                connect_args={
                    "connect_timeout": 5,
                    "target_session_attrs": "read-write",  # after a failover: the new primary
                    "keepalives_idle": 10,
                    "keepalives_interval": 5,
                    "keepalives_count": 3,
                    "tcp_user_timeout": 20_000,
                },
                **hidden,
            )
            sa.event.listen(engine, "connect", _on_postgres)
            sa.event.listen(engine, "handle_error", _leave_a_standby)
        else:
            engine = sa.create_engine(url, connect_args={"timeout": _BUSY_S}, **hidden)
            sa.event.listen(engine, "connect", _on_sqlite)
        return cls(engine, what)

    @property
    def on_sqlite(self) -> bool:
        """Whether it is a file of this machine."""
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction; on stable storage when the block has ended without an error.

        raises    TransientError when the database is away, StorageFull when its disk is full;
                  sqlalchemy's IntegrityError as it is
        """
        with self._translated(), self._engine.begin() as tables:
            if self.on_sqlite:
                # A deferred transaction that reads first fails at once when another one writes.
                tables.exec_driver_sql("BEGIN IMMEDIATE")
            yield tables

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Reads, each of what is committed by then.

        raises    TransientError when the database is away
        """
        with self._translated(), self._engine.connect() as tables:
            yield tables

    def create(self, tables: sa.MetaData) -> None:
        """Make tables that have no migrations, where they are not there."""
        with self._translated():
            tables.create_all(self._engine)

    def migrate(self, rooms: Sequence[str]) -> None:
        """Bring the tables of rooms (`spira.intake`) up to their last migration.

        Whoever comes second waits, however long, and finds nothing to do. A kill leaves all of it
        or nothing. Other rooms that have tables in the database are left as they are.
        """
        from alembic.operations import Operations
        from alembic.runtime.migration import MigrationContext
        from alembic.script import ScriptDirectory

        with self.writing() as tables, as_file(files("spira")) as package:
            if not self.on_sqlite:
                tables.execute(_limits(0.0, 0.0, 0.0, for_good=False))
                tables.execute(sa.text(f"SELECT pg_advisory_xact_lock({_MIGRATING})"))
            # Alembic has to know the history of whatever it finds in the database.
            places = [str(one) for one in Path(package).glob("*/migrations")]
            script = ScriptDirectory(str(package), version_locations=places)
            for room in rooms:
                head = f"{room.rpartition('.')[2]}@head"

                def upgrade(revision: Any, _context: Any, head: str = head) -> Any:
                    return script._upgrade_revs(head, revision)

                options = {"fn": upgrade, "version_table": "spira_migrations", "script": script}
                context = MigrationContext.configure(tables, opts=options)
                with Operations.context(context):
                    context.run_migrations()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.IntegrityError:
            raise  # what it means is known where it can happen
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            if _says_full(error):
                raise StorageFull(
                    "the database's disk is full; free some space and run the same command again"
                ) from error
            raise TransientError(self._what) from error


def iso(moment: datetime) -> str:
    """A moment as tables have it: ISO 8601 in UTC; of two texts the earlier one is the smaller."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def append_only(table: str) -> dict[str, tuple[str, ...]]:
    """By dialect: statements after which nothing in a table is changed or deleted any more.

    They hold for whoever means well; who may alter the table can drop the triggers first.
    """
    return {
        "sqlite": tuple(
            f"CREATE TRIGGER {table}_no_{what} BEFORE {what.upper()} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            for what in ("update", "delete")
        ),
        "postgresql": (
            f"CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$",
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE "
            f"ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {table}_refuse()",
        ),
    }


def with_driver(url: str) -> str:
    """The address of a PostgreSQL, as SQLAlchemy wants it for psycopg 3."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def _on_postgres(connection: Any, _record: Any) -> None:
    # Not by `options`: whoever set others there, or has a pooler that takes none, keeps that.
    connection.autocommit = True
    connection.execute(str(_limits(_LONGEST_STATEMENT_S, _BUSY_S, _LONGEST_PAUSE_S, for_good=True)))
    connection.autocommit = False


def _limits(statement_s: float, lock_s: float, pause_s: float, *, for_good: bool) -> sa.TextClause:
    """Set how long things may take, 0 for ever: for the whole session, or this transaction."""
    limits = {
        "statement_timeout": statement_s,
        "lock_timeout": lock_s,
        "idle_in_transaction_session_timeout": pause_s,
    }
    local = str(not for_good).lower()
    each = (f"set_config('{name}', '{s * 1000:.0f}', {local})" for name, s in limits.items())
    return sa.text(f"SELECT {', '.join(each)}")


def _says_full(error: sa.exc.SQLAlchemyError) -> bool:
    said = getattr(error, "orig", None)
    names = (getattr(said, name, None) for name in ("sqlite_errorname", "sqlstate"))
    return any(name in _FULL for name in names)


def _leave_a_standby(context: sa.engine.ExceptionContext) -> None:
    """A primary that was demoted answers on: its connections would fail every write for ever."""
    if getattr(context.original_exception, "sqlstate", None) == _NO_LONGER_PRIMARY:
        context.is_disconnect = (
            True  # the whole pool is left; the next connection finds the new one
        )


def _on_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so
    # What is deleted is overwritten: withdrawn words must not stay readable in free pages.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")
    # Whoever wrote last may have been killed in front of a sync. What SQLite finds of it counts as
    # committed from now on, and is told to whoever asks: the disk has to have it first.
    (_, _, file), *_ = connection.execute("PRAGMA database_list")
    if file:
        for path in (Path(f"{file}-wal"), Path(file).parent):
            with suppress(FileNotFoundError):
                sync_path(path)
