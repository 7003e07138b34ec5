"""Databases for Collection."""

from pathlib import Path

import pytest

from spira.stores.database import Database
from spira.wiring import ROOMS


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Real and empty, with all tables."""
    url = f"sqlite:///{tmp_path / 'spira.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").empty(tmp_path.name)
    database = Database.open(url, what="the database of a test is away")
    database.migrate(ROOMS)
    return database
