"""What the Label Store costs, on SQLite: 20,000 people with a million entries."""

import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from spira.domain.labels import Asked, Entry, Observation
from spira.labels.store import Labels
from spira.labels.tables import ENTRIES, SUBJECTS
from spira.stores.database import Database, iso

Row = tuple[str, str, str, str]

_PEOPLE, _ENTRIES = 20_000, 1_000_000
_ASKED, _ADDED = 1_000, 2_000
_REPEATS, _AT_ONCE = 7, 1_000
_START = datetime(2026, 1, 1, tzinfo=UTC)
_DAYS = 10  # that each person is in the hospital
_SAID: tuple[tuple[str, Any], ...] = (
    *[("spo2", None)] * 34,
    *[("oxygen_flow", 0.0)] * 4,
    *[("inspired_oxygen", 21.0)] * 4,
    *[("support", "none")] * 3,
    ("support", "oxygen"),
    ("diagnosis", "I50.0"),
    ("diagnosis", "J96.0"),
    ("judgement", "absent"),
    ("paco2", 40.0),
)


def measured() -> Iterator[Row]:
    """(what, ours, other, ratio), as rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database.open(f"sqlite:///{Path(folder) / 'labels.db'}", what="the benchmark")
        database.migrate(["spira.labels"])
        asked = _fill(database)
        labels = Labels(database, lambda subject: subject)
        now = _START + timedelta(days=365)

        ours, other = _alternating(
            lambda: labels.as_of(asked, "ri-v1", now),
            lambda: [labels.as_of([one], "ri-v1", now) for one in asked],
        )
        yield (
            f"labels: as_of for {_ASKED:,} recordings over {_ENTRIES:,} entries, in one query, "
            "against a query for each",
            f"{1000 * ours:.0f} ms",
            f"{1000 * other:.0f} ms",
            f"{other / ours:.2f}",
        )
        agreed = labels.compare(asked, "ri-v1", "spo2-v1", now)
        yield (
            "labels: recordings of these that ri-v1 and spo2-v1 label differently",
            f"{agreed.differing} of {agreed.total}",
            "",
            "",
        )
        ours, other = _alternating(
            lambda: labels.add(_entries(_ADDED), now),
            lambda: [labels.add([one], now) for one in _entries(_ADDED // 20)],
        )
        yield (
            f"labels: adding {_ADDED:,} entries at once, against one at a time",
            f"{_ADDED / ours:.0f} entries/s",
            f"{_ADDED / 20 / other:.0f} entries/s",
            f"{20 * other / ours:.2f}",
        )


def _fill(database: Database) -> list[Asked]:
    """A million entries, as they lie there after months; returns recordings beside some of them."""
    rng = random.Random(1)
    asked = []
    with database.writing() as tables:
        for index in ENTRIES.indexes:
            index.drop(tables)
        for first in range(0, _PEOPLE, _AT_ONCE):
            people = range(first, first + _AT_ONCE)
            tables.execute(
                SUBJECTS.insert(),
                [{"number": n + 1, "subject": f"p:{n}", "newest": f"p:{n}"} for n in people],
            )
            rows = [row for n in people for row in _said(rng, n)]
            rng.shuffle(rows)
            tables.execute(ENTRIES.insert(), rows)
            measured = [row for row in rows if row["kind"] == "spo2"]
            asked += [_beside(row) for row in measured[: _ASKED * _AT_ONCE // _PEOPLE]]
        for index in ENTRIES.indexes:
            index.create(tables)
    rng.shuffle(asked)
    return asked


def _beside(row: dict[str, Any]) -> Asked:
    return Asked(
        recording=row["name"],
        subjects=(f"p:{row['subject'] - 1}",),
        recorded_at=datetime.fromisoformat(row["at"]) + timedelta(minutes=20),
        uncertainty_s=5,
    )


def _said(rng: random.Random, person: int) -> Iterator[dict[str, Any]]:
    """Fifty entries about a person, one in fifty of them corrected."""
    stay = _START + rng.random() * timedelta(days=300)
    entries = 0
    for n, (kind, what) in enumerate(_SAID):
        at = stay + rng.random() * timedelta(days=_DAYS)
        for version in range(1, 2 + (rng.random() < 0.02)):
            entries += 1
            if entries > len(_SAID):
                return
            yield {
                "source": "hospital",
                "origin": "hc",
                "name": f"Observation/{person:08d}-{n:04d}",
                "version": str(version),
                "status": "final" if version == 1 else "corrected",
                "subject": person + 1,
                "issued": iso(at + timedelta(minutes=5 * version)),
                "received": iso(at + timedelta(minutes=30 * version)),
                "kind": kind,
                "at": iso(at),
                "until": None,
                "value": rng.uniform(85, 99) if kind == "spo2" else _number(what),
                "code": what if isinstance(what, str) else None,
                "breathing": "room_air" if kind == "spo2" else None,
                "method": None,
                "evidence": f"{person:064d}",
            }


def _number(what: Any) -> float | None:
    return what if isinstance(what, float) else None


_made = itertools.count()


def _entries(count: int) -> list[Entry]:
    """New ones."""
    return [
        Entry(
            source="hospital",
            origin="new",
            name=f"Observation/{n}",
            version="1",
            subject=f"p:{n % _PEOPLE}",
            issued=_START,
            observation=Observation(kind="spo2", at=_START, value=97, breathing="room_air"),
        )
        for n in itertools.islice(_made, count)
    ]


def _alternating(ours: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of each way; they alternate, after one call each to warm up."""
    taken: tuple[list[float], list[float]] = ([], [])
    ours(), other()
    for _ in range(_REPEATS):
        for seconds, way in zip(taken, (ours, other), strict=True):
            began = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - began)
    return statistics.median(taken[0]), statistics.median(taken[1])
