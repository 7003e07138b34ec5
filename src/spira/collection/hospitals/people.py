"""Who takes part, by the visits that have arrived, for one hospital."""

from collections.abc import Callable, Collection, Iterator
from datetime import datetime

import sqlalchemy as sa

from spira.collection.hospitals.taking import Visit
from spira.collection.tables import FORMS, PARTICIPANTS, VISITS
from spira.domain.labels import Subject
from spira.stores.database import Database, iso

_RECORD = "record:"


class Participants:
    """The participants of a hospital, in all studies; who has withdrawn is none."""

    def __init__(
        self, database: Database, key_ids: Collection[str], newest: Callable[[Subject], Subject]
    ) -> None:
        """Of the hospital that has these keys for record numbers.

        newest    a subject as it is under the newest key
        """
        self._database = database
        self._key_ids = tuple(key_ids)
        self._newest = newest

    def known(self, subjects: Collection[Subject]) -> set[Subject]:
        """Those of them that take part."""
        records = [one.removeprefix(_RECORD) for one in subjects]
        query = sa.select(VISITS.c.record).where(VISITS.c.record.in_(records), _present())
        with self._database.reading() as tables:
            return {_RECORD + record for record in tables.scalars(query.distinct())}

    def visits(self, since: datetime) -> Iterator[Visit]:
        """The visits that have arrived or were amended from a moment on, whenever they were: a
        record number may be put right long after."""
        ours = sa.or_(*(VISITS.c.record.startswith(f"{id}:") for id in self._key_ids), sa.false())
        said = sa.select(FORMS.c.visit).where(FORMS.c.at >= iso(since))
        query = sa.select(VISITS.c.record, VISITS.c.recorded_at).where(
            sa.or_(VISITS.c.accepted_at >= iso(since), VISITS.c.id.in_(said)), ours, _present()
        )
        with self._database.reading() as tables:
            rows = tables.execute(query).all()
        for row in rows:
            at = datetime.fromisoformat(row.recorded_at)
            yield Visit(self._newest(_RECORD + row.record), at)


def _present() -> sa.ColumnElement[bool]:
    """That nobody with a visit's record number has withdrawn, under any pseudonym."""
    other = VISITS.alias()
    return ~sa.exists().where(
        other.c.record == VISITS.c.record,
        PARTICIPANTS.c.study == other.c.study,
        PARTICIPANTS.c.id == other.c.participant,
        PARTICIPANTS.c.withdrawn_at.is_not(None),
    )
