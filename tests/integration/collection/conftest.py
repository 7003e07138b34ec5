"""Databases for Collection."""

import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from spira.stores.database import Database
from spira.wiring import ROOMS


@pytest.fixture(scope="session")
def postgres_url(postgres: Any) -> str:
    """A database of that server for all of these tests, one after the other."""
    return str(postgres.empty(uuid.uuid4().hex))


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Real and empty, with all tables."""
    url = f"sqlite:///{tmp_path / 'spira.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    database = Database.open(url, what="the database of a test is away")
    if request.param == "postgres":  # far quicker than another database
        with database.writing() as tables:
            tables.execute(sa.text("DROP SCHEMA public CASCADE"))
            tables.execute(sa.text("CREATE SCHEMA public"))
    database.migrate(ROOMS)
    return database
