"""The Label Store: what sources say of whom, when it was so and when we knew.

Entries are added and never changed, so that the label of a recording can be asked for as it was
known at any moment. What is right now is no other question than what was known then.

A person known by the hash of a record number keeps all entries when the hospital's key is rotated:
subjects are compared as they are under the newest key. Entries are not touched for that.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from spira.domain.errors import InputError
from spira.domain.label_policies import (
    DAY,
    REACH,
    Agreement,
    Fact,
    Policy,
    agreement,
    find_policy,
    span,
)
from spira.domain.labels import Asked, Decided, Entry, Observation, Subject, doubt
from spira.labels.tables import ENTRIES, SUBJECTS
from spira.stores.database import Database, iso

Known = Literal["receipt", "issue"]

_AT_ONCE = 1000  # recordings, or entries, in one query
_BY = {"receipt": "received", "issue": "issued"}
_OBSERVED = ("kind", "at", "until", "value", "code", "breathing", "method")
_CONTENT = ("source", "status", "issued", *_OBSERVED)  # what one version says for ever

# Of the versions known by then the one issued last, and of those issued together the one received
# last. What is preliminary waits: it is never in force, and supersedes nothing.
_IN_FORCE = """
    e.status <> 'preliminary' AND e.{by} <= :at AND NOT EXISTS (
        SELECT 1 FROM labels_entries n
        WHERE n.name = e.name AND n.origin = e.origin AND n.issued >= e.issued
          AND (n.issued > e.issued OR n.number > e.number)
          AND n.status <> 'preliminary' AND n.{by} <= :at)
"""
# CROSS JOIN: SQLite keeps the order, from what is asked for to its subjects to their entries.
_FACTS = """
    SELECT a.n, e.origin, e.name, e.version, e.kind, e.at, e.until, e.value, e.code, e.breathing
    FROM a CROSS JOIN labels_subjects s CROSS JOIN labels_entries e
    WHERE s.newest = a.subject AND e.subject = s.number AND e.kind IN ({kinds}) AND {near}
      AND {in_force}
"""
_NEAR = "e.at BETWEEN a.low AND a.high"
# A value that lasts (PaCO2) is known however long ago its measurement ended.
_LASTS = "e.at <= a.last AND (e.until IS NULL OR e.until >= a.low OR e.value IS NOT NULL)"
_STORED = f"""
    SELECT e.origin, e.name, e.version, s.newest, {", ".join(f"e.{one}" for one in _CONTENT)}
    FROM a CROSS JOIN labels_entries e CROSS JOIN labels_subjects s
    WHERE e.origin = a.origin AND e.name = a.name AND e.version = a.version
      AND s.number = e.subject
"""
_NUMBERS = """
    SELECT s.subject, s.number FROM a CROSS JOIN labels_subjects s WHERE s.subject = a.subject
"""
_VERSIONS = """
    SELECT e.*, s.subject AS whom, {in_force} AS in_force
    FROM a CROSS JOIN {tables}
    WHERE {which} AND s.number = e.subject AND e.{by} <= :at
    ORDER BY e.origin, e.name, e.issued DESC, e.number DESC
"""
_OF_PERSON = ("s.newest = a.subject", "labels_subjects s CROSS JOIN labels_entries e")
_OF_NAME = (
    "e.origin = a.origin AND e.name = a.name",
    "labels_entries e CROSS JOIN labels_subjects s",
)


class VersionConflict(InputError):
    """A version that is in the store says something else now. `entries` are those given."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__(
            *(
                f"entry {named(one)}: the store has this version with another content, and a "
                "version says one thing for ever; give it another version, or send it to the "
                "worklist"
                for one in entries
            )
        )
        self.entries = tuple(entries)


@dataclass(frozen=True)
class Version:
    """An entry as the store has it."""

    entry: Entry
    received: datetime
    in_force: bool


class Labels:
    """The Label Store. One serves all threads of a process."""

    def __init__(self, database: Database, newest: Callable[[Subject], Subject]) -> None:
        """A store in a database whose tables are there.

        newest    the hash of a record number as it is under the newest key of its hospital
        """
        self.database = database
        self._newest = newest

    def add(
        self,
        entries: Iterable[Entry],
        received_at: datetime,
        *,
        also: Callable[[sa.Connection], object] | None = None,
    ) -> int:
        """Add what is not there yet; returns how much was new. All of it or nothing.

        also      done in the same transaction, last
        raises    VersionConflict, naming each version that is there with another content;
                  InputError, naming each entry that cannot be true (spira.domain.labels.doubt)
        """
        given = list(entries)
        doubts = [(one, doubt(one, received_at)) for one in given]
        if wrong := [f"entry {named(one)}: cannot be true ({why})" for one, why in doubts if why]:
            raise InputError(*wrong)
        with self.database.writing() as tables:
            if not self.database.on_sqlite:
                # One writer at a time, as on SQLite: what looks new is new until the end.
                tables.execute(sa.text("LOCK TABLE labels_entries IN SHARE ROW EXCLUSIVE MODE"))
            self._follow_keys(tables)
            new = self._new(tables, given)
            self._insert(tables, new, iso(received_at))
            if also is not None:
                also(tables)
        return len(new)

    def as_of(
        self, asked: Sequence[Asked], policy: str, at: datetime, *, by: Known = "receipt"
    ) -> tuple[Decided, ...]:
        """The label of each recording, as it was known at a moment.

        The same question has the same answer for ever, once `at` has passed and what was being
        added then has been.

        by        whether `at` is when we had received it, or when its source had issued it
        raises    InputError for a policy that there is not
        """
        rule = find_policy(policy)
        self._catch_up()
        decided: list[Decided] = []
        for some in _chunks(asked):
            for one, facts in zip(some, self._facts(some, rule, at, by), strict=True):
                decided.append(rule.decide(facts, one.recorded_at, one.uncertainty_s))
        return tuple(decided)

    def compare(self, asked: Sequence[Asked], first: str, second: str, at: datetime) -> Agreement:
        """How often two policies agree about recordings, by what was known at a moment."""
        both = zip(self.as_of(asked, first, at), self.as_of(asked, second, at), strict=True)
        return agreement(first, second, both)

    def versions(
        self, subjects: Sequence[Subject], at: datetime, *, by: Known = "receipt"
    ) -> tuple[Version, ...]:
        """Every version about a person that was known at a moment, by entry, the last one first."""
        self._catch_up()
        rows = [(one,) for one in set(self._carried(subjects).values())]
        with self.database.reading() as tables:
            return self._versions(tables, _OF_PERSON, ("subject",), rows, at, by)

    def in_force(self, origin: str, names: Iterable[str], at: datetime) -> dict[str, Entry]:
        """Of these entries the versions in force, by what was received until a moment."""
        rows = [(origin, name) for name in names]
        with self.database.reading() as tables:
            found = self._versions(tables, _OF_NAME, ("origin", "name"), rows, at, "receipt")
        return {one.entry.name: one.entry for one in found if one.in_force}

    def evidence(self, origin: str, name: str, version: str) -> str | None:
        """What a version of an entry rests on, as it was told; None where it is not here."""
        this = (ENTRIES.c.origin == origin, ENTRIES.c.name == name, ENTRIES.c.version == version)
        query = sa.select(ENTRIES.c.evidence).where(*this)
        with self.database.reading() as tables:
            return tables.execute(query).scalar()

    # ---- asking

    def _facts(
        self, asked: Sequence[Asked], policy: Policy, at: datetime, by: Known
    ) -> list[list[Fact]]:
        """What the policy may look at, for each recording: in force, and near enough in time."""
        carried = self._carried(subject for one in asked for subject in one.subjects)
        rows = []
        for n, one in enumerate(asked):
            low, high = span(one.recorded_at, one.uncertainty_s + REACH.total_seconds())
            _, last = span(one.recorded_at, one.uncertainty_s + DAY.total_seconds())
            times = (iso(low), iso(high), iso(last))
            rows += [(n, subject, *times) for subject in {carried[one] for one in one.subjects}]
        in_force = _IN_FORCE.format(by=_BY[by])
        query = " UNION ALL ".join(
            _FACTS.format(kinds=_listed(kinds), near=near, in_force=in_force)
            for kinds, near in ((policy.measured, _NEAR), (policy.lasting, _LASTS))
        )
        facts: list[list[Fact]] = [[] for _ in asked]
        moment = datetime.fromisoformat
        with self.database.reading() as tables:
            # Many rows: no more is done for each than has to be.
            for n, origin, name, version, kind, began, ended, value, code, breathing in _query(
                tables, query, ("n", "subject", "low", "high", "last"), rows, at=iso(at)
            ).all():
                until = moment(ended) if ended else None
                said = f"{origin}/{name}/{version}"
                fact = Fact(said, kind, moment(began), until, value, code, breathing)
                facts[int(n)].append(fact)
        return facts

    def _versions(
        self,
        tables: sa.Connection,
        which: tuple[str, str],
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        at: datetime,
        by: Known,
    ) -> tuple[Version, ...]:
        in_force = _IN_FORCE.format(by=_BY[by])
        condition, joined = which
        query = _VERSIONS.format(in_force=in_force, tables=joined, which=condition, by=_BY[by])
        return tuple(
            Version(
                entry=_entry(row),
                received=datetime.fromisoformat(row.received),
                in_force=bool(row.in_force) and row.kind is not None,
            )
            for row in _query(tables, query, columns, rows, at=iso(at))
        )

    # ---- adding

    def _new(self, tables: sa.Connection, given: Sequence[Entry]) -> list[Entry]:
        """Those whose version is not there; raises VersionConflict."""
        carried = self._carried(one.subject for one in given)
        known: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for some in _chunks(given):
            rows = [(one.origin, one.name, one.version) for one in some]
            for row in _query(tables, _STORED, ("origin", "name", "version"), rows):
                known[tuple(row[:3])] = tuple(row[3:])
        new, conflicts = [], []
        for one in given:
            content = _content(one)
            says = (carried[one.subject], *(content[name] for name in _CONTENT))
            before = known.setdefault((one.origin, one.name, one.version), says)
            if before is says:
                new.append(one)
            elif before != says:
                conflicts.append(one)
        if conflicts:
            raise VersionConflict(conflicts)
        return new

    def _insert(self, tables: sa.Connection, new: Sequence[Entry], received: str) -> None:
        for some in _chunks(new):
            carried = self._carried(one.subject for one in some)
            rows = [(subject,) for subject in carried]
            numbers = dict(map(tuple, _query(tables, _NUMBERS, ("subject",), rows)))
            unknown = [one for one in carried if one not in numbers]
            if unknown:
                tables.execute(
                    SUBJECTS.insert(),
                    [
                        {"subject": one, "newest": carried[one], "key": _key(carried[one])}
                        for one in unknown
                    ],
                )
                numbers = dict(map(tuple, _query(tables, _NUMBERS, ("subject",), rows)))
            tables.execute(
                ENTRIES.insert(),
                [
                    {
                        "origin": one.origin,
                        "name": one.name,
                        "version": one.version,
                        "subject": numbers[one.subject],
                        "received": received,
                        "evidence": one.evidence,
                        **_content(one),
                    }
                    for one in some
                ],
            )

    # ---- keys that are rotated

    def newest(self, subject: Subject) -> Subject:
        """A subject as it is under the newest key."""
        return self._carried([subject])[subject]

    def _carried(self, subjects: Iterable[Subject]) -> dict[Subject, Subject]:
        """Each subject as it is under the newest key; the ring is asked once for a newest key."""
        carried: dict[Subject, Subject] = {}
        newest: set[str | None] = {None}
        for one in subjects:
            if one in carried:
                continue
            carried[one] = one if _key(one) in newest else self._newest(one)
            if carried[one] == one:
                newest.add(_key(one))
        return carried

    def _catch_up(self) -> None:
        with self.database.reading() as tables:
            behind = self._behind(tables)
        if behind:
            with self.database.writing() as tables:
                self._follow_keys(tables)

    def _follow_keys(self, tables: sa.Connection) -> None:
        """Carry stored subjects over to the keys that are the newest now."""
        for key in self._behind(tables):
            rows = tables.execute(
                sa.select(SUBJECTS.c.number, SUBJECTS.c.newest).where(SUBJECTS.c.key == key)
            ).all()
            carried = {row.number: self._newest(row.newest) for row in rows}
            tables.execute(
                SUBJECTS.update().where(SUBJECTS.c.number == sa.bindparam("which")),
                [
                    {"which": number, "newest": newest, "key": _key(newest)}
                    for number, newest in carried.items()
                ],
            )

    def _behind(self, tables: sa.Connection) -> list[str]:
        """The keys of stored subjects that are no longer the newest."""
        behind, last = [], ""
        smallest = sa.func.min(SUBJECTS.c.key)
        while key := tables.scalar(sa.select(smallest).where(SUBJECTS.c.key > last)):
            one = sa.select(SUBJECTS.c.newest).where(SUBJECTS.c.key == key).limit(1)
            sample = tables.execute(one).scalar_one()
            if self._newest(sample) != sample:
                behind.append(key)
            last = key
        return behind


def named(entry: Entry) -> str:
    """An entry's version, as evidence names it: origin/name/version."""
    return f"{entry.origin}/{entry.name}/{entry.version}"


def _query(
    tables: sa.Connection,
    query: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    **values: Any,
) -> sa.CursorResult[Any]:
    """Run a query that finds `rows` under the name `a`: one parameter, however many there are."""
    if tables.dialect.name == "sqlite":
        cells = ", ".join(f"json_extract(value, '$[{n}]')" for n in range(len(columns)))
        source = "json_each(:rows)"
    else:
        cells = ", ".join(f"value ->> {n}" for n in range(len(columns)))
        source = "json_array_elements(CAST(:rows AS json))"
    given = f"WITH a({', '.join(columns)}) AS (SELECT {cells} FROM {source}) "
    return tables.execute(sa.text(given + query), {"rows": json.dumps(list(rows)), **values})


def _listed(kinds: Iterable[str]) -> str:
    return ", ".join(f"'{kind}'" for kind in sorted(kinds))


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]


def _key(subject: Subject) -> str | None:
    """The key of a record number's hash, `record:KEYID`; None for any other subject."""
    kind, _, rest = subject.partition(":")
    return f"record:{rest.partition(':')[0]}" if kind == "record" else None


def _content(entry: Entry) -> dict[str, Any]:
    observation = entry.observation
    observed: dict[str, Any] = dict.fromkeys(_OBSERVED)
    if observation is not None:
        observed = {name: getattr(observation, name) for name in _OBSERVED}
        observed["at"] = iso(observation.at)
        observed["until"] = iso(observation.until) if observation.until else None
    return {
        "source": entry.source,
        "status": entry.status,
        "issued": iso(entry.issued),
        **observed,
    }


def _entry(row: sa.Row[Any]) -> Entry:
    observed = {name: getattr(row, name) for name in _OBSERVED}
    return Entry(
        source=row.source,
        origin=row.origin,
        name=row.name,
        version=row.version,
        status=row.status,
        subject=row.whom,
        issued=datetime.fromisoformat(row.issued),
        observation=None if row.kind is None else Observation(**observed),
        evidence=row.evidence,
    )
