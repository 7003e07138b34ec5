"""The Label Store as pulling uses it: entries and the place behind them at once, questions on the
worklist, and what is held of a resource."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from spira.collection.hospitals.reading import Question
from spira.collection.hospitals.reading import Reason as Why
from spira.domain.labels import Entry, Subject
from spira.labels.store import Labels, VersionConflict
from spira.labels.tables import ENTRIES, SUBJECTS
from spira.labels.worklist import Item, Proposal, Reason, Worklist

# The worklist has few reasons, by what a person does next; ours stands in the detail.
REASONS: Mapping[Why, Reason] = {
    "no_subject": "unmatched",
    "about_another": "ambiguous",
    "another_person": "ambiguous",
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

        A version that said something else before is a question, too.
        """
        if questions:
            self._worklist.put((_item(one, received_at) for one in questions), received_at)
        try:
            return self._labels.add(entries, received_at, also=also)
        except VersionConflict as conflict:
            self._worklist.put(map(_conflict, conflict.entries), received_at)
            kept = [one for one in entries if one not in conflict.entries]
            return self._labels.add(kept, received_at, also=also)

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
