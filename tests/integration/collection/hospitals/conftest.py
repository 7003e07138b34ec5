"""A simulated hospital, and everything that pulls from it, on real databases."""

import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from spira.collection.hospitals.fhir import Client
from spira.collection.hospitals.keys import make_key, read_credentials
from spira.collection.hospitals.pulling import Puller
from spira.collection.hospitals.settings import HospitalSettings
from spira.collection.hospitals.simulator import Outage, Simulator
from spira.collection.hospitals.storing import Store
from spira.collection.hospitals.taking import Taker, Visit
from spira.collection.hospitals.truth import SYSTEM, Patient, Truth, make_truth
from spira.domain.labels import Entry, Observation, Subject
from spira.intake.keys import KeyRing
from spira.labels.store import Labels
from spira.labels.tables import ENTRIES, SUBJECTS
from spira.labels.worklist import Worklist
from spira.stores.database import Database
from spira.synthetic.records import Hospital, admit
from spira.wiring import ROOMS

NAME, CLIENT = "santa-casa", "spira"
SEED = 7
LAST_DAY = datetime(2024, 9, 30, tzinfo=UTC)  # after all that the synthetic hospital knows

Said = tuple[Subject, Observation]


@dataclass
class People:
    """Who takes part: everybody whose record number is here."""

    subjects: set[Subject] = field(default_factory=set)
    visited: list[Visit] = field(default_factory=list)

    def known(self, subjects: Collection[Subject]) -> set[Subject]:
        """Those of them that take part."""
        return self.subjects.intersection(subjects)

    def visits(self, since: datetime) -> list[Visit]:
        """From a moment on."""
        return [visit for visit in self.visited if visit.at >= since]


@dataclass
class Ward:
    """One hospital to pull from, and where it is pulled to."""

    truth: Truth
    simulator: Simulator
    settings: HospitalSettings
    ring: KeyRing
    database: Database
    key: Path
    people: People = field(default_factory=People)
    now: datetime = LAST_DAY  # the hospital's time, and ours
    slept: list[float] = field(default_factory=list)
    dies: Callable[[int], str | None] = lambda _: None  # "before" or "after" batch 1, 2, …
    batches: int = 0  # that had entries

    def __post_init__(self) -> None:
        self.labels = Labels(self.database, self.newest)
        self.simulator.clock = lambda: self.now

    def newest(self, subject: Subject) -> Subject:
        """Under the newest key."""
        return f"record:{self.ring.wrapped(subject.removeprefix('record:'))}"

    def hash_of(self, kind: str, number: str) -> Sequence[Subject]:
        """By the hospital's keys."""
        return [f"record:{one}" for one in self.ring.record_hashes(NAME, number, system=kind)]

    def subject(self, patient: Patient) -> Subject:
        """As whom somebody takes part."""
        return self.hash_of("record-number", patient.record_number)[0]

    def register(self, *patients: Patient, visited: bool = False) -> None:
        """Let them take part; with their visit, as somebody who came after the last export."""
        for patient in patients:
            subject = self.subject(patient)
            self.people.subjects.add(subject)
            if visited:
                self.people.visited.append(Visit(subject, patient.participant.visited_at))

    def taker(self) -> Taker:
        """What takes, which may die where `dies` says."""
        return Taker(
            NAME,
            self.settings,
            self.database,
            labels=_Dying(Store(self.labels), self),
            people=self.people,
            hash_of=self.hash_of,
            newest=self.newest,
            now=lambda: self.now,
        )

    def client(self, **changes: Any) -> Client:
        """The way to it, which waits for nothing."""
        credentials = read_credentials(NAME, CLIENT, self.key, None, {})
        settings = self.settings.model_copy(update=changes)
        quick = httpx.HTTPTransport(verify=False)  # reads no certificates; nothing is encrypted
        return Client(NAME, settings, credentials, sleep=self.slept.append, transport=quick)

    def puller(self) -> Puller:
        """As a new process has it."""
        return Puller(self.taker(), self.client())

    def in_force(self, at: datetime | None = None) -> dict[str, Said]:
        """What counts by what was received until a moment, from the rows."""
        return _in_force(self.rows(), at or datetime.max.replace(tzinfo=UTC))

    def rows(self) -> list[Mapping[str, Any]]:
        """Every version of every entry, in the order in which they came."""
        query = sa.select(ENTRIES, SUBJECTS.c.subject.label("whom")).join(SUBJECTS)
        with self.database.reading() as tables:
            found = tables.execute(query.order_by(ENTRIES.c.number)).mappings().all()
        return [dict(row) for row in found]

    def expected(self, at: datetime) -> dict[str, Said]:
        """What the hospital says that counts at a moment, of those who take part."""
        return {
            name: (self.subject(patient), said)
            for name, (patient, said) in self.truth.in_force(at).items()
            if self.subject(patient) in self.people.subjects
        }

    @staticmethod
    def observation_of(row: Mapping[str, Any]) -> Observation:
        """As the row has it."""
        return Observation(**{name: row[name] for name in Observation.model_fields})

    def questions(self) -> list[tuple[str, str]]:
        """(name, our reason) of what is open on the worklist."""
        listed = Worklist(self.labels).list()
        return [(one.item.proposal.name, str(one.item.detail.get("why"))) for one in listed]


@dataclass
class _Dying:
    """A Label Store in front of which the process may end, with the batch or without it."""

    store: Store
    ward: Ward

    def add(self, entries: Any, questions: Any, received_at: datetime, *, also: Any) -> int:
        self.ward.batches += bool(entries)
        dies = self.ward.dies(self.ward.batches) if entries else None
        if dies == "before":
            raise KeyboardInterrupt
        added = self.store.add(entries, questions, received_at, also=also)
        if dies == "after":
            raise KeyboardInterrupt
        return added

    def held(self, origin: str, names: Any) -> Mapping[str, Subject]:
        return self.store.held(origin, names)

    def about(self, origin: str, subject: Subject, at: datetime) -> list[Entry]:
        return self.store.about(origin, subject, at)

    def unsure(self, origin: str, subject: Subject) -> Any:
        return self.store.unsure(origin, subject)

    def waiting(self, origin: str, names: Any) -> set[str]:
        return self.store.waiting(origin, names)


def _in_force(rows: Sequence[Mapping[str, Any]], at: datetime) -> dict[str, Said]:
    found: dict[str, Mapping[str, Any]] = {}
    limit = at.isoformat(timespec="microseconds")
    for row in rows:
        if row["status"] == "preliminary" or row["received"] > limit:
            continue
        before = found.get(row["name"])
        if before is None or before["issued"] <= row["issued"]:
            found[row["name"]] = row
    return {
        name: (row["whom"], Ward.observation_of(row))
        for name, row in found.items()
        if row["kind"] is not None
    }


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Real and empty, with the tables of labels and of hospitals."""
    url = f"sqlite:///{tmp_path / 'hospitals.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").empty(uuid.uuid4().hex)
    return _open(url)


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    """The same on SQLite alone, for what no database makes a difference to."""
    return _open(f"sqlite:///{tmp_path / 'hospitals.db'}")


def _open(url: str) -> Database:
    database = Database.open(url, what="the database of a test is away")
    if (
        database.on_sqlite
    ):  # processes die here, power does not fail; syncing takes most of the time
        sa.event.listen(database._engine, "connect", _without_sync)
    database.migrate(ROOMS)
    return database


def _without_sync(connection: Any, _: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture
def open_ward(tmp_path: Path) -> Iterator[Callable[..., Ward]]:
    """`open_ward(database, patients=20, …)`: a hospital that runs, and nobody in it takes part."""
    with ExitStack() as running:

        def opened(
            database: Database,
            *,
            patients: int = 20,
            troubles: bool = False,
            outages: Sequence[Outage] = (),
            truth: Truth | None = None,
            settings: Mapping[str, Any] | None = None,
            **more: Any,
        ) -> Ward:
            if truth is None:
                shares = {} if troubles else {"corrected": 0.0, "retracted": 0.0}
                people = admit(Hospital(seed=SEED, participants=patients))
                truth = make_truth(people, SEED, troubles=troubles, **shares)
            key = tmp_path / "key.json"
            public = make_key(key, "ES384", rotate=False)
            given = {"client_id": CLIENT, "keys": public, **more}
            simulator = Simulator(truth, outages=outages, **given)
            url = running.enter_context(simulator.running())
            described = {
                "url": url,
                "client_id": CLIENT,
                "systems": {SYSTEM: "record-number"},
                "group": "cohort",
                **(settings or {}),
            }
            ring = KeyRing.open(tmp_path / "keys")
            return Ward(truth, simulator, HospitalSettings(**described), ring, database, key)

        yield opened
