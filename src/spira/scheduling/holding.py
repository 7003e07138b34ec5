"""One service at a time on a PostgreSQL: an advisory lock. On a folder it is spira.stores.locks."""

import os

import sqlalchemy as sa

from spira.domain.errors import InputError, TransientError
from spira.scheduling.settings import SchedulingSettings
from spira.stores.database import with_driver

_KEY = 0x5350495241  # "SPIRA"
_HOLDER = "spira schedule up"


class HeldDatabase:
    """An advisory lock on a connection of its own; lost with the connection."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(
            with_driver(url),
            poolclass=sa.NullPool,
            connect_args={
                "connect_timeout": 5,
                "application_name": f"{_HOLDER}, process {os.getpid()}",
                # A server that is gone without a word is noticed within seconds, and so are we by
                # the server: whoever comes after us is not kept out.
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "tcp_user_timeout": 10_000,
                "options": "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 "
                "-c tcp_keepalives_count=3 -c tcp_user_timeout=10000",
            },
            isolation_level="AUTOCOMMIT",
        )
        self._connection: sa.Connection | None = None

    def take(self) -> None:
        """Take the lock.

        raises    InputError naming the holder; TransientError when the database does not answer
        """
        try:
            connection = self._engine.connect()
            taken = connection.execute(sa.text(f"SELECT pg_try_advisory_lock({_KEY})")).scalar()
            if taken:
                self._connection = connection
                return
            who = connection.execute(
                sa.text(
                    "SELECT application_name, client_addr, backend_start FROM pg_locks "
                    "JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted "
                    f"AND ((classid::bigint << 32) | objid::bigint) = {_KEY} LIMIT 1"
                )
            ).first()
            connection.close()
        except sa.exc.OperationalError as error:
            raise TransientError(
                "setting scheduling.database: PostgreSQL does not answer; see to it that it runs, "
                "and to PGPASSWORD or PGPASSFILE"
            ) from error
        named = "another one" if who is None else f"{who[0]} from {who[1] or 'its machine'}"
        raise InputError(
            f"setting scheduling.database: a scheduler holds this database already ({named}); "
            "stop that one first"
        )

    def is_held(self) -> bool:
        """Whether the lock is still ours; asks the server."""
        if self._connection is None:
            return False
        try:
            self._connection.execute(sa.text("SELECT 1"))
        except sa.exc.DBAPIError:
            self._connection.close()
            self._connection = None
            return False
        return True


def hold_database(settings: SchedulingSettings) -> HeldDatabase | None:
    """Hold the database of the settings; None where requests are on SQLite."""
    if settings.database is None:
        return None
    held = HeldDatabase(settings.database)
    held.take()
    return held
