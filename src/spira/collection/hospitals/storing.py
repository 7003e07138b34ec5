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
    "in_the_future": "future",
    "code_system": "code",
    "not_cid10": "code",
    "unit": "unit",
    "fraction": "unit",
    "impossible": "impossible",
}
_LONGEST = 100  # characters of a detail
_AT_ONCE = 2000  # names in a query


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

        What a person has decided stands where the hospital says the same again. A version that was
        of somebody else before is a question, too, and nobody's until a person has decided.
        """
        items = [_item(one, received_at) for one in questions]
        given = self._without(self._standing(items, received_at), entries)
        if items:
            self._worklist.put(items, received_at)
        try:
            return self._labels.add(given, received_at, also=also)
        except VersionConflict as conflict:
            doubtful = [one for one in conflict.entries if one.status != "preliminary"]
            items = list(map(_conflict, doubtful))
            standing = self._standing(items, received_at)
            self._worklist.put(items, received_at)
            kept = [one for one in given if one not in conflict.entries]
            kept += [_in_doubt(one) for one in doubtful if (one.name, one.version) not in standing]
            return self._labels.add(kept, received_at, also=also)

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

    def about(self, origin: str, subject: Subject, at: datetime) -> set[str]:
        """See `taking.Labels`."""
        known = self._labels.versions([subject], at)
        return {one.entry.name for one in known if one.in_force and one.entry.origin == origin}

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
