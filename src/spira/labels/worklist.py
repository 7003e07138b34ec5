"""The worklist: what a source says that cannot be used as it stands, until a person has decided.

Nothing on it is ever guessed. An item that a person has decided does not come back when the source
says the same again; when it says something else, that is another item, and the older one is done
with. Items hold no personal data: candidates are subjects, a detail is a unit, a value, a code.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import AwareDatetime, Field, StringConstraints

from spira.domain.errors import InputError
from spira.domain.fingerprint import fingerprint
from spira.domain.frozen import Frozen
from spira.domain.labels import Entry, Observation, SourceKind, Status, Subject
from spira.labels.store import Labels, VersionConflict
from spira.labels.tables import ENTRIES, RESOLUTIONS, WORKLIST
from spira.stores.database import iso

Reason = Literal[
    "unmatched", "ambiguous", "unit", "impossible", "code", "future", "conflict", "unreadable"
]
REASONS: Mapping[Reason, str] = {
    "unmatched": "nobody who is known has this record number",
    "ambiguous": "it may be about several people",
    "unit": "not in a unit that its kind has",
    "impossible": "a value that no device shows: mostly another unit",
    "code": "a code of another system, such as J96.01 of ICD-10-CM",
    "future": "of a time that has not come",
    "conflict": "a version that said something else before",
    "unreadable": "not what the standard says; it can only be discarded",
}
How = Literal["assigned", "corrected", "discarded"]


class Proposal(Frozen):
    """An entry as far as it is known."""

    source: SourceKind
    origin: str = Field(min_length=1, max_length=100)
    name: str = Field(min_length=1, max_length=200)
    version: str = Field(min_length=1, max_length=100)
    status: Status = "final"
    issued: AwareDatetime
    subject: Subject | None = None  # None: a person says whose it is
    observation: Observation | None = None  # None: it was taken back, or cannot be read
    evidence: str | None = None


class Item(Frozen):
    """What a person has to decide."""

    reason: Reason
    proposal: Proposal
    candidates: tuple[Subject, ...] = ()
    detail: Mapping[
        Annotated[str, StringConstraints(max_length=40)],
        float | Annotated[str, StringConstraints(max_length=100)] | None,
    ] = Field(default_factory=dict)  # what the source said, as it said it; nothing of a person


@dataclass(frozen=True)
class Resolution:
    """What a person decided."""

    how: How
    who: str
    why: str
    at: datetime


@dataclass(frozen=True)
class Listed:
    """An item on the worklist."""

    number: int
    item: Item
    received: datetime
    resolution: Resolution | None


class Worklist:
    """The worklist of a Label Store."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._database = labels.database

    def put(self, items: Iterable[Item], received_at: datetime) -> int:
        """Add what a source says now; returns how many items are new.

        What is preliminary waits for what is not, and is no item. What is taken back is nothing to
        decide: it ends the items of the same entry, and is taken back in the store as well, where
        the entry is there.
        """
        new = 0
        retracted = []
        with self._database.writing() as tables:
            if not self._database.on_sqlite:
                tables.execute(sa.text("LOCK TABLE labels_worklist IN SHARE ROW EXCLUSIVE MODE"))
            for item in items:
                if item.proposal.status == "preliminary":
                    continue
                taken_back = item.proposal.status == "retracted"
                if taken_back:
                    retracted.append(item.proposal)
                if not self._is_known(tables, item):
                    tables.execute(WORKLIST.insert().values(**_row(item, received_at)))
                    new += not taken_back
        for one in retracted:
            stored = self._labels.in_force(one.origin, [one.name], received_at).get(one.name)
            if stored is not None:
                self._labels.add([_entry(one, stored.subject, None)], received_at)
        return new

    def stands(self, items: Iterable[Item], at: datetime) -> tuple[bool, ...]:
        """Of each, whether its source says it again, and nothing else counts since: it is open
        still, or what a person has decided is in force."""
        joined = sa.outerjoin(WORKLIST, RESOLUTIONS, RESOLUTIONS.c.item == WORKLIST.c.number)
        these = (WORKLIST.c[name] == sa.bindparam(name) for name in ("origin", "name", "said"))
        query = sa.select(WORKLIST.c.item, RESOLUTIONS.c.version).select_from(joined).where(*these)
        found = []
        for one in items:
            origin, name = one.proposal.origin, one.proposal.name
            which = {"origin": origin, "name": name, "said": _said(one)}
            with self._database.reading() as tables:
                rows = tables.execute(query, which).all()
            made = {row.version for row in rows if self._of_same(row.item, one)}
            counts = self._labels.in_force(origin, [name], at).get(name) if made else None
            found.append(bool(made) and (counts is None or counts.version in made))
        return tuple(found)

    def _of_same(self, stored: str, item: Item) -> bool:
        """Whether an item in the table may be of the same person as another."""
        subjects = {Item.model_validate_json(stored).proposal.subject, item.proposal.subject}
        return len({self._labels.newest(one) for one in subjects if one is not None}) <= 1

    def waiting(self, origin: str, names: Collection[str]) -> set[str]:
        """Of these entries those that are on it and that nobody has decided yet."""
        joined = sa.outerjoin(WORKLIST, RESOLUTIONS, RESOLUTIONS.c.item == WORKLIST.c.number)
        these = (WORKLIST.c.origin == origin) & WORKLIST.c.name.in_(names)
        query = sa.select(WORKLIST.c.name).select_from(joined)
        with self._database.reading() as tables:
            undecided = query.where(these, RESOLUTIONS.c.item.is_(None), _OPEN)
            return set(tables.execute(undecided).scalars())

    def decided(self, tables: sa.Connection, names: Collection[tuple[str, str]]) -> set[int]:
        """The numbers of the items of these entries, as (origin, name), that a person has decided;
        in a transaction that adds to the store, none is decided meanwhile."""
        query = sa.select(WORKLIST.c.number, WORKLIST.c.origin, WORKLIST.c.name)
        query = query.join(RESOLUTIONS, RESOLUTIONS.c.item == WORKLIST.c.number)
        these = query.where(WORKLIST.c.name.in_({name for _, name in names}))
        return {row.number for row in tables.execute(these) if (row.origin, row.name) in names}

    def _is_known(self, tables: sa.Connection, item: Item) -> bool:
        """Whether the source said this last, has said it in this version, or has said more since.
        Of another person, it is something else."""
        this = (WORKLIST.c.name == item.proposal.name) & (WORKLIST.c.origin == item.proposal.origin)
        query = (
            sa.select(*(WORKLIST.c[name] for name in ("said", "version", "issued", "item")))
            .where(this)
            .order_by(WORKLIST.c.issued.desc(), WORKLIST.c.number.desc())
        )
        rows = tables.execute(query).all()
        said, version = _said(item), item.proposal.version
        return bool(rows) and (
            rows[0].issued > iso(item.proposal.issued)
            or (rows[0].said == said and self._of_same(rows[0].item, item))
            or any(
                (row.said, row.version) == (said, version) and self._of_same(row.item, item)
                for row in rows
            )
        )

    def list(self, *, resolved: bool = False) -> tuple[Listed, ...]:
        """What is open, the oldest first; `resolved`: and what a person has decided, too.

        What its source has said otherwise since, or what can be used by now, is done with.
        """
        joined = sa.outerjoin(WORKLIST, RESOLUTIONS, RESOLUTIONS.c.item == WORKLIST.c.number)
        decided = RESOLUTIONS.c.item.is_not(None)
        query = (
            sa.select(WORKLIST, *(RESOLUTIONS.c[name] for name in ("how", "who", "why", "at")))
            .select_from(joined)
            .where(sa.or_(decided, _OPEN) if resolved else sa.and_(~decided, _OPEN))
            .order_by(WORKLIST.c.number)
        )
        with self._database.reading() as tables:
            return tuple(map(_listed, tables.execute(query)))

    def resolve(
        self,
        number: int,
        *,
        subject: Subject | None = None,
        value: float | str | None = None,
        who: str,
        why: str,
        at: datetime,
        also: Callable[[sa.Connection], object],
    ) -> Entry:
        """Make an entry of an item, and add it; returns it.

        subject   whose it is
        value     in the unit of its kind, or its code, in place of what the source said
        also      done in the same transaction: the audit
        raises    InputError where the item is not open, where something is still missing to make
                  an entry of it, and as Labels.add
        """
        entry = self._made(self._find(number), subject, value)
        how: How = "assigned" if value is None else "corrected"
        self._decide(number, Resolution(how, who, why, at), entry, also)
        return entry

    def discard(
        self,
        number: int,
        *,
        who: str,
        why: str,
        at: datetime,
        also: Callable[[sa.Connection], object],
    ) -> None:
        """Use nothing of an item.

        raises    InputError where it is not open
        """
        self._find(number)
        self._decide(number, Resolution("discarded", who, why, at), None, also)

    def _find(self, number: int) -> Listed:
        for one in self.list():
            if one.number == number:
                return one
        raise InputError(f"item {number}: is not open; `spira labels worklist list` shows them")

    def _made(self, found: Listed, subject: Subject | None, value: float | str | None) -> Entry:
        """The entry that is made of an item."""
        proposal = found.item.proposal
        observation = proposal.observation
        whose = subject or proposal.subject
        if observation is None:
            raise InputError(f"item {found.number}: cannot be read; it can only be discarded")
        if whose is None:
            raise InputError(f"item {found.number}: say whose it is, with --subject")
        if value is not None:
            coded = observation.value is None
            if coded != isinstance(value, str):
                needed = "code" if coded else "number"
                raise InputError(f"item {found.number}: {observation.kind} needs a {needed}")
            changed = {"code": value} if coded else {"value": value}
            observation = Observation(**{**observation.model_dump(), **changed})
        if value is not None or self._is_stored(proposal):
            # What we say in the source's place is no version of the source's.
            version = f"{proposal.version[:80]}+item-{found.number}"
            proposal = proposal.model_copy(update={"version": version})
        return _entry(proposal, whose, observation)

    def _is_stored(self, proposal: Proposal) -> bool:
        said = {name: getattr(proposal, name) for name in ("origin", "name", "version")}
        query = sa.select(ENTRIES.c.number).filter_by(**said)
        with self._database.reading() as tables:
            return tables.execute(query).first() is not None

    def _decide(
        self,
        number: int,
        resolution: Resolution,
        entry: Entry | None,
        also: Callable[[sa.Connection], object],
    ) -> None:
        row = {
            "item": number,
            "at": iso(resolution.at),
            "who": resolution.who,
            "how": resolution.how,
            "why": resolution.why,
            "version": None if entry is None else entry.version,
        }

        def note(tables: sa.Connection) -> None:
            tables.execute(RESOLUTIONS.insert().values(**row))
            also(tables)

        try:
            self._labels.add([] if entry is None else [entry], resolution.at, also=note)
        except (sa.exc.IntegrityError, VersionConflict):
            self._find(number)  # somebody else may have decided it just now
            raise


# Neither the store nor a later item says otherwise. `conflict` is about a version in the store; and
# what waits for a person may be taken back in the store until then, however often it is said again.
_STORED, _LATER = ENTRIES.alias(), WORKLIST.alias()
_OPEN = sa.and_(
    WORKLIST.c.status != "retracted",
    ~sa.exists().where(
        _STORED.c.name == WORKLIST.c.name,
        _STORED.c.origin == WORKLIST.c.origin,
        _STORED.c.status != "preliminary",
        _STORED.c.kind.is_not(None),
        sa.or_(
            _STORED.c.issued > WORKLIST.c.issued,
            sa.and_(
                WORKLIST.c.reason != "conflict",
                sa.or_(
                    _STORED.c.version == WORKLIST.c.version,
                    sa.and_(
                        _STORED.c.issued == WORKLIST.c.issued,
                        _STORED.c.received > WORKLIST.c.received,
                    ),
                ),
            ),
        ),
    ),
    ~sa.exists().where(
        _LATER.c.name == WORKLIST.c.name,
        _LATER.c.origin == WORKLIST.c.origin,
        _LATER.c.number > WORKLIST.c.number,
    ),
)


def _said(item: Item) -> str:
    """The same for all that says the same: whose it may be and when it was said do not count."""
    unsaid = {"version", "issued", "evidence", "subject", "status"}
    return fingerprint(
        {
            "reason": item.reason,
            "detail": dict(item.detail),
            "proposal": item.proposal.model_dump(mode="json", exclude=unsaid),
            "retracted": item.proposal.status == "retracted",
        }
    )


def _row(item: Item, received_at: datetime) -> dict[str, Any]:
    proposal = item.proposal
    return {
        "received": iso(received_at),
        "reason": item.reason,
        "origin": proposal.origin,
        "name": proposal.name,
        "version": proposal.version,
        "status": proposal.status,
        "issued": iso(proposal.issued),
        "said": _said(item),
        "item": item.model_dump_json(),
    }


def _listed(row: sa.Row[Any]) -> Listed:
    resolution = None
    if row.how is not None:
        resolution = Resolution(row.how, row.who, row.why, datetime.fromisoformat(row.at))
    return Listed(
        row.number,
        Item.model_validate_json(row.item),
        datetime.fromisoformat(row.received),
        resolution,
    )


def _entry(proposal: Proposal, subject: Subject, observation: Observation | None) -> Entry:
    return Entry(**{**dict(proposal), "subject": subject, "observation": observation})
