"""A tiny real model, recordings, a store of them, and tables in which assessments wait."""

import hashlib
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray
from tiny_bundle import write_bundle

from spira.domain.draws import draws
from spira.domain.recordings import Described, Measurements, SourceFormat
from spira.model.bundle import load
from spira.serving.answers import About
from spira.serving.assessments import add
from spira.serving.messages import Ask, Reply
from spira.stores.database import Database
from spira.stores.objects import Objects

Float = NDArray[np.float32]
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FOUND = Described(
    format=SourceFormat(container="wav", codec="pcm_s16le", rate_hz=16_000, channels=1),
    measurements=Measurements(
        duration_s=6,
        peak=0.5,
        level_dbfs=-20,
        speech_level_dbfs=-18,
        noise_floor_dbfs=-60,
        clipped_fraction=0,
        speech_s=5,
    ),
    findings=(),
)


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """`make_bundle("name", shift=…)`: a bundle in a folder of its own."""

    def make(name: str = "bundle", **how: Any) -> Path:
        return write_bundle(tmp_path / name, **how)

    return make


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    """An empty audio store."""
    return Objects.open(str(tmp_path / "objects"), setting="a test")


def recording(number: int, seconds: float = 4.5) -> Float:
    """Noise of a loudness of its own: every number has another answer."""
    noise = draws(number, "test predictor").standard_normal(round(seconds * 16_000))
    return (0.02 * (1 + number % 37) * noise).astype(np.float32)


def identity(number: int) -> str:
    """The id of an assessment."""
    return f"01938f00-0000-7000-8000-{number:012d}"


@pytest.fixture
def ask_for(objects: Objects) -> Callable[..., Ask]:
    """`ask_for(3)`: what the relay would ask about recording 3, whose audio is stored then."""

    def make(number: int, waveform: Float | None = None, *, stored: bool = True) -> Ask:
        data = (recording(number) if waveform is None else waveform).astype("<f4").tobytes()
        key = f"{identity(number)}/audio"
        if stored:
            objects.create(key, data)
        digest = hashlib.sha256(data).hexdigest()
        return Ask(assessment=identity(number), attempt=1, audio=key, sha256=digest)

    return make


@pytest.fixture(scope="session")
def postgres_url(postgres: Any) -> str:
    """A database of that server for all of these tests, one after the other."""
    return str(postgres.empty(uuid.uuid4().hex))


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Real and empty, with the tables of intake and Serving."""
    url = f"sqlite:///{tmp_path / 'serving.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    database = Database.open(url, what="the database of a test is away")
    if request.param == "postgres":  # far quicker than another database
        with database.writing() as tables:
            tables.execute(sa.text("DROP SCHEMA public CASCADE"))
            tables.execute(sa.text("CREATE SCHEMA public"))
    database.migrate(["spira.intake", "spira.serving"])
    return database


@pytest.fixture
def wait_for_answer(database: Database) -> Callable[..., str]:
    """`wait_for_answer(3, minutes=20)`: assessment 3, recorded 20 minutes before NOW, waits for
    its answer from now on; its id."""

    def waits(number: int, *, minutes: float = 60, site: str = "ward", **more: Any) -> str:
        about = About(values={"language": "pt-BR"}, found=FOUND, utterance="sentence", site=site)
        recorded_at = (NOW - timedelta(minutes=minutes)).isoformat(timespec="microseconds")
        row = {
            "id": identity(number),
            "site": site,
            "state": "queued",
            "recorded_at": recorded_at,
            "accepted_at": NOW.isoformat(timespec="microseconds"),
            "about": about.model_dump_json(exclude_none=True),
            "audio": f"{identity(number)}/audio",
            "audio_sha256": hashlib.sha256(b"%d" % number).hexdigest(),
        }
        with database.writing() as tables:
            add(tables, row | more)
        return identity(number)

    return waits


@pytest.fixture
def reply_to(make_bundle: Callable[..., Path]) -> Callable[..., Reply]:
    """`reply_to(id, 2, 0.7)`: what a predictor says to attempt 2: this probability, `tried` (at
    which delivery), or `failed`."""
    manifest, _ = load(make_bundle())

    def reply(
        assessment: str, attempt: int = 1, says: float | str = 0.9, delivery: int = 2
    ) -> Reply:
        about = {"assessment": assessment, "attempt": attempt, "model": "spira/1@tiny"}
        if says == "tried":
            return Reply(kind="tried", delivery=delivery, **about)
        if says == "failed":
            return Reply(kind="failed", reason="too_short", detail="0.1 s", **about)
        assert isinstance(says, float)
        return Reply(
            kind="scored",
            probability=says,
            calibrated=says,
            outcome="positive" if says > 0.5 else "negative",
            windows=3,
            manifest=manifest.model_dump(mode="json"),
            **about,
        )

    return reply
