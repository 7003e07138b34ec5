"""Label Stores on real databases."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spira.domain.labels import Entry, Observation
from spira.labels.store import Labels
from spira.stores.database import Database

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """A database with the tables of labels."""
    url = f"sqlite:///{tmp_path / 'labels.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").empty(uuid.uuid4().hex)
    database = Database.open(url, what="the database of a test is away")
    database.migrate(["spira.labels"])
    return database


@pytest.fixture
def labels(database: Database) -> Labels:
    """An empty Label Store whose keys are never rotated."""
    return Labels(database, lambda subject: subject)


@pytest.fixture
def entry() -> Callable[..., Entry]:
    """Make an entry: SpO2 of 88 % on room air at noon, issued and said then, unless told."""

    def make(name: str = "obs-1", version: str = "1", **changes: Any) -> Entry:
        said: dict[str, Any] = {"kind": "spo2", "at": NOON, "value": 88, "breathing": "room_air"}
        for key in ("kind", "at", "until", "value", "code", "breathing", "method"):
            if key in changes:
                said[key] = changes.pop(key)
        given: dict[str, Any] = {
            "source": "hospital",
            "origin": "hc",
            "name": name,
            "version": version,
            "subject": "participant:study/p-1",
            "issued": NOON,
            "observation": Observation(**said),
        }
        if changes.get("status") == "retracted":
            given["observation"] = None
        return Entry(**given | changes)

    return make
