"""The Label Store as pulling uses it: entries and the place behind them at once, questions on the
worklist, and what is held of a resource."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from spira.collection.hospitals.reading import Question
from spira.collection.hospitals.reading import Reason as Why
from spira.domain.fingerprint import fingerprint
from spira.domain.labels import Entry, Subject
from spira.labels.store import Labels, VersionConflict
from spira.labels.tables import ENTRIES, SUBJECTS
from spira.labels.worklist import Item, Proposal, Reason, Worklist

# The worklist has few reasons, by what a person does next; ours stands in the detail.
REASONS: Mapping[Why, Reason] = {
    "no_subject": "unmatched",
    "about_another": "ambiguous",
    "another_person": "ambiguous",
    "several_people": "ambiguous",
    "two_patients": "ambiguous",
    "perhaps_merged": "ambiguous",
    "in_the_future": "future",
    "code_system": "code",
    "not_cid10": "code",
    "unit": "unit",
    "fraction": "unit",
    "impossible": "impossible",
}
_LONGEST = 100  # characters of a detail
_AT_ONCE = 2000  # names in a query
_SURE = "+sure."  # in the version of what had waited until it was known of whom it was said


class _Decided(Exception):
    """A person has decided something that was about to be written."""


class Store:
    """A Label Store and its worklist."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._worklist = Worklist(labels)

    def add(
        self,
        entries: Sequence[Entry],
        questions: Sequence[Question],
        received_at: datetime,
        *,
        also: Callable[[sa.Connection], None],
    ) -> int:
        """See `taking.Labels`. Questions come first: asked twice, they are one.

        What a person has decided stands where the hospital says the same again, were it decided
        while this is being written. A version that was of somebody else before is a question, too,
        and nobody's until a person has decided.
        """
        items = [_item(one, received_at) for one in questions]
        while True:
            try:
                return self._add(entries, items, received_at, also)
            except _Decided:
                continue

    def _add(
        self,
        entries: Sequence[Entry],
        items: Sequence[Item],
        received_at: datetime,
        also: Callable[[sa.Connection], None],
    ) -> int:
        """See `add`. raises _Decided, and then nothing of it is in the store."""
        waited = [one for one in entries if _SURE in one.version]
        unless = self._unless_decided([*(one.proposal for one in items), *waited], also)
        still = self.waiting(waited[0].origin, [one.name for one in waited]) if waited else set()
        given = [one for one in entries if _SURE not in one.version or one.name in still]
        given = self._without(self._standing(items, received_at), given)
        if items:
            self._worklist.put(items, received_at)
        try:
            return self._labels.add(given, received_at, also=unless)
        except VersionConflict as conflict:
            doubtful = [one for one in conflict.entries if one.status != "preliminary"]
            unless = self._unless_decided(doubtful, unless)
            items = list(map(_conflict, doubtful))
            standing = self._standing(items, received_at)
            self._worklist.put(items, received_at)
            kept = [one for one in given if one not in conflict.entries]
            kept += [_in_doubt(one) for one in doubtful if (one.name, one.version) not in standing]
            return self._labels.add(kept, received_at, also=unless)

    def _unless_decided(
        self, these: Sequence[Entry | Proposal], also: Callable[[sa.Connection], None]
    ) -> Callable[[sa.Connection], None]:
        """`also`, in a transaction that fails where a person has decided of these entries by then
        what was not decided now."""
        if not these:
            return also
        names = [(one.origin, one.name) for one in these]
        with self._labels.database.reading() as tables:
            before = self._worklist.decided(tables, names)

        def guarded(tables: sa.Connection) -> None:
            if self._worklist.decided(tables, names) != before:
                raise _Decided
            also(tables)

        return guarded

    def _standing(self, items: Sequence[Item], at: datetime) -> set[tuple[str, str]]:
        """Name and version of what is on the worklist, or was decided there, and stands."""
        said = [(one.proposal.name, one.proposal.version) for one in items]
        stands = self._worklist.stands(items, at)
        return {one for one, again in zip(said, stands, strict=True) if again}

    @staticmethod
    def _without(standing: set[tuple[str, str]], entries: Sequence[Entry]) -> list[Entry]:
        """That a question is asked again takes back nothing: not what a person has decided."""
        return [
            one
            for one in entries
            if one.observation is not None
            or not any(
                one.name == name and one.version.startswith(version) for name, version in standing
            )
        ]

    def waiting(self, origin: str, names: Collection[str]) -> set[str]:
        """See `taking.Labels`."""
        found: set[str] = set()
        wanted = list(names)
        for begin in range(0, len(wanted), _AT_ONCE):
            found |= self._worklist.waiting(origin, wanted[begin : begin + _AT_ONCE])
        return found

    def about(self, origin: str, subject: Subject, at: datetime) -> list[Entry]:
        """See `taking.Labels`."""
        known = self._labels.versions([subject], at)
        return [one.entry for one in known if one.in_force and one.entry.origin == origin]

    def unsure(self, origin: str, subject: Subject) -> list[tuple[Entry, list[str]]]:
        """See `taking.Labels`."""
        newest = self._labels.newest
        found = []
        for listed in self._worklist.list():
            one, detail = listed.item.proposal, listed.item.detail
            if one.origin != origin or detail.get("why") != "two_patients" or one.subject is None:
                continue
            if newest(one.subject) == newest(subject):
                version = f"{one.version[:80]}{_SURE}{fingerprint(detail['since'])[:8]}"
                sure = Entry(**{**dict(one), "version": version})
                found.append((sure, str(detail.get("patients", "")).split()))
        return found

    def held(self, origin: str, names: Collection[str]) -> Mapping[str, Subject]:
        """See `taking.Labels`."""
        latest = sa.func.row_number().over(
            partition_by=ENTRIES.c.name, order_by=(ENTRIES.c.issued.desc(), ENTRIES.c.number.desc())
        )
        found: dict[str, Subject] = {}
        wanted = list(names)
        with self._labels.database.reading() as tables:
            for begin in range(0, len(wanted), _AT_ONCE):
                versions = (
                    sa.select(ENTRIES.c.name, SUBJECTS.c.subject, ENTRIES.c.kind, latest.label("n"))
                    .join(SUBJECTS, SUBJECTS.c.number == ENTRIES.c.subject)
                    .where(
                        ENTRIES.c.origin == origin,
                        ENTRIES.c.name.in_(wanted[begin : begin + _AT_ONCE]),
                        ENTRIES.c.status != "preliminary",
                    )
                    .subquery()
                )
                query = sa.select(versions.c.name, versions.c.subject).where(
                    versions.c.n == 1, versions.c.kind.is_not(None)
                )
                found |= {row.name: row.subject for row in tables.execute(query)}
        return found


def _item(question: Question, received_at: datetime) -> Item:
    said = {name: value for name, value in question.said.items() if value is not None}
    return Item(
        reason=REASONS.get(question.reason, "unreadable"),
        proposal=Proposal(
            source="hospital",
            origin=question.origin,
            name=question.name,
            version=question.version,
            status=question.status,
            issued=question.issued or received_at,
            subject=question.subject,
            observation=question.observation,
            evidence=question.evidence,
        ),
        detail={**said, "why": question.reason, "what": question.detail[:_LONGEST]},
    )


def _conflict(entry: Entry) -> Item:
    return Item(reason="conflict", proposal=Proposal(**dict(entry)))


def _in_doubt(entry: Entry) -> Entry:
    """What takes an entry back until a person has decided whose it is."""
    version = f"doubt.{fingerprint([entry.version, entry.subject])[:32]}"
    changed = {"version": version, "status": "retracted", "observation": None}
    return entry.model_copy(update=changed)
