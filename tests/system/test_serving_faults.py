"""Serving under faults: phones that come back at once, over a bad network, while everything dies.

SPIRA_FAULTS_SEED replays a series; each test prints the one it used.
"""

import json
import os
import random
import signal
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from faulty_network import FaultyNetwork
from served import FORM, Served, publish_champion, voice
from services import wait_for

from spira.audio.decode import decode
from spira.intake.sweeping import sweep
from spira.model.bundle import load
from spira.serving.client import Device, Pace
from spira.stores.database import Database
from spira.stores.objects import Objects
from spira.stores.processes import free_or_wanted

TARGETS = ("api", "relay", "predictor", "queue", "checker", "everything")


@dataclass
class Phone:
    """A device of a clinician, and what it has recorded."""

    device: Device
    sounds: dict[str, bytes] = field(default_factory=dict)  # by the id that `record` gave
    numbers: dict[str, str] = field(default_factory=dict)  # of records, by the same

    def record(self, number: int) -> None:
        """An assessment, offline."""
        sound = voice(number)
        made = datetime.now(UTC) - timedelta(hours=number % 30)
        taken = ("sentence", sound, 5.5, made)
        name = self.device.record(FORM | {"record_number": f"{number}"}, [taken])
        self.sounds[name], self.numbers[name] = sound, f"{number}"

    def send(self, url: str, token: str, until: float) -> None:
        """Sync until everything holds a receipt."""
        while not self.device.sync(url, token).complete:
            assert time.monotonic() < until, self.device.ids()


@contextmanager
def phones(folder: Path, n: int, each: int) -> Iterator[list[Phone]]:
    """So many devices, with so many assessments each."""
    made = [Phone(Device(folder / f"phone-{number}", pace=Pace(tries=3))) for number in range(n)]
    for number, phone in enumerate(made):
        for which in range(each):
            phone.record(number * each + which)
    yield made
    for phone in made:
        phone.device.close()


@contextmanager
def read_by_somebody(served: Served) -> Iterator[dict[str, Any]]:
    """A clinician looks at everything, again and again, and never sees an answer change; the
    answers that were seen, by assessment."""
    seen: dict[str, Any] = {}
    changed: list[str] = []
    enough = threading.Event()

    def page(after: int) -> dict[str, Any]:
        params = {"after": after, "limit": 200}
        try:
            found: dict[str, Any] = served.http("GET", "/v1/assessments", params=params).json()
        except (httpx.HTTPError, ValueError):  # the API is not there
            return {}
        return found

    def look() -> None:
        after = 0
        while rows := (found := page(after)).get("assessments"):
            after = found["next"]
            for row in rows:
                answer = row["answer"]
                if answer is None and row["id"] in seen:
                    changed.append(row["id"])
                if answer is not None and seen.setdefault(row["id"], answer) != answer:
                    changed.append(row["id"])

    def read() -> None:
        while not enough.wait(1.0):
            look()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        enough.set()
        reader.join()
    look()
    assert changed == []


def disturb(
    served: Served,
    rng: random.Random,
    kills: int,
    for_s: float,
    more: dict[str, Callable[[], None]],
) -> list[str]:
    """Kill and suspend at random moments; everything runs again when it returns."""
    told = []
    for _ in range(kills):
        time.sleep(rng.uniform(0.2, 2 * for_s / kills - 0.2))
        target = rng.choice([*TARGETS, *more])
        if target in more:
            more[target]()
        elif target == "everything":
            served.kill(target)
            served.start(wait=False)
        elif rng.random() < 0.3 and served.kill(target, signal.SIGSTOP):
            target += " suspended"
            time.sleep(rng.uniform(0.5, 3.0))
            served.kill(target.removesuffix(" suspended"), signal.SIGCONT)
        else:
            served.kill(target)
        told.append(target)
    return told


@dataclass
class Stores:
    """Where the service keeps things, as the test sees them."""

    settings: dict[str, str]
    database: Callable[[], Database]
    objects: Callable[[], Objects]
    rows: Callable[[str], list[tuple[Any, ...]]]
    more: dict[str, Callable[[], None]] = field(default_factory=dict)


@pytest.fixture
def embedded(tmp_path: Path) -> Stores:
    """SQLite and a folder."""
    home = tmp_path / "home"

    def rows(query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(home / "spira.db")) as tables:
            return tables.execute(query).fetchall()

    return Stores(
        {},
        lambda: Database.open(f"sqlite:///{home / 'spira.db'}", what="away"),
        lambda: Objects.open(str(home / "recordings"), setting="a test"),
        rows,
    )


@pytest.fixture
def servers(postgres: Any, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Stores:
    """A real PostgreSQL, which may die too, and a real S3 server."""
    url, place = postgres.empty(uuid.uuid4().hex), f"s3://spira/{uuid.uuid4().hex}"
    for name, value in s3.items():
        monkeypatch.setenv(name, value)

    def rows(query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(url) as tables:
            return tables.execute(query.encode()).fetchall()

    def crash() -> None:
        postgres.kill()
        time.sleep(1.0)
        postgres.start()

    return Stores(
        {"SPIRA_SERVING__DATABASE": url, "SPIRA_SERVING__OBJECTS": place},
        lambda: Database.open(url, what="away"),
        lambda: Objects.open(place, setting="a test"),
        rows,
        {"database": crash},
    )


def burst(
    tmp_path: Path, stores: Stores, *, devices: int, each: int, kills: int, for_s: float
) -> None:
    """Everything that was accepted is answered, once, about the right recording."""
    seed = int(os.environ.get("SPIRA_FAULTS_SEED", random.randrange(10_000)))
    print(f"SPIRA_FAULTS_SEED={seed}")
    rng = random.Random(seed)
    bundle = publish_champion(tmp_path / "home", tmp_path / "bundle")
    port = free_or_wanted("", 0)
    served = Served(tmp_path / "home", {**stores.settings, "SPIRA_SERVING__PORT": str(port)})
    served.token = served.make_token()
    served.start()
    try:
        with (
            read_by_somebody(served) as seen,
            phones(tmp_path, devices, each) as all_phones,
            FaultyNetwork(seed=seed, upstream=port, rate=0.2).running() as network,
        ):
            until = time.monotonic() + 2 * for_s + 300
            sending = [
                threading.Thread(target=phone.send, args=(network.url, served.token, until))
                for phone in all_phones
            ]
            began = time.monotonic()
            for one in sending:
                one.start()
            killed = disturb(served, rng, kills, for_s, stores.more)
            network.mode = "clean"
            for one in sending:
                one.join()
            sent_s = time.monotonic() - began
            receipts = {
                phone.device.get(name).id: (phone.device.receipt(name), sound)
                for phone in all_phones
                for name, sound in phone.sounds.items()
            }
            records = {
                phone.device.get(name).id: number
                for phone in all_phones
                for name, number in phone.numbers.items()
            }
            wait_for(lambda: not stores.rows(OPEN), 300, "everything is answered")
        print(
            f"{devices * each} assessments, {len(killed)} kills ({', '.join(killed)}); sent in "
            f"{sent_s:.0f} s, answered {time.monotonic() - began - sent_s:.0f} s later; "
            f"connections: {dict(network.dealt)}"
        )
        assert len(receipts) == devices * each
        assert all(receipt for receipt, _ in receipts.values())
        assert set(seen) == set(receipts)
        for id, number in records.items():
            search = {"record_number": number}
            found = served.http("POST", "/v1/assessments/search", json=search).json()
            assert [one["id"] for one in found["assessments"]] == [id]
        assert_right(tmp_path, stores, bundle, {id: sound for id, (_, sound) in receipts.items()})
    finally:
        served.kill("everything")


OPEN = "SELECT id FROM serving_assessments WHERE state = 'queued'"


def assert_right(folder: Path, stores: Stores, bundle: Path, sounds: dict[str, bytes]) -> None:
    """Every answer is what the model says of exactly these bytes; nothing else is stored."""
    _, scorer = load(bundle)
    rows = stores.rows("SELECT id, state, answer FROM serving_assessments")
    assert {id for id, _, _ in rows} == set(sounds)
    assert {state for _, state, _ in rows} == {"completed"}
    for id, _, answer in rows:
        (folder / "sound").write_bytes(sounds[id])
        expected = scorer.score(decode(folder / "sound"))
        assert json.loads(answer)["scored"]["probability"] == pytest.approx(
            expected.probability, abs=1e-6
        ), id
    objects = stores.objects()
    sweep(stores.database(), objects, datetime.now(UTC) + timedelta(hours=2))
    kept = {item.key for item in objects.list("recordings/")}
    assert list(objects.list("staging/")) == []
    assert len(kept) == 2 * len(sounds)
    for key in kept:
        if key.endswith(".original"):
            assert objects.read(key) == sounds[key.split("/")[1]]


def test_a_burst_with_faults(tmp_path: Path, embedded: Stores) -> None:
    """A short one: three phones with four assessments each, six kills."""
    burst(tmp_path, embedded, devices=3, each=4, kills=6, for_s=12)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["embedded", "servers"])
def test_a_long_burst_with_faults(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Ten phones with thirty assessments each; twenty kills in five minutes."""
    burst(tmp_path, request.getfixturevalue(where), devices=10, each=30, kills=20, for_s=300)
