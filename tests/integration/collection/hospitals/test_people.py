"""Who takes part, by the visits that have arrived."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from spira.collection.hospitals.people import Participants
from spira.collection.hospitals.taking import Visit
from spira.collection.tables import FORMS, PARTICIPANTS, VISITS
from spira.stores.database import Database, iso

KEY, OTHER_KEY = "records-" + "0" * 16, "records-" + "1" * 16
ARRIVED = datetime(2024, 3, 10, 12, tzinfo=UTC)
BRASILIA = timezone(timedelta(hours=-3))


def record(number: int, key: str = KEY) -> str:
    """A stored hash."""
    return f"{key}:{number:064x}"


@pytest.fixture
def visited(database: Database) -> Callable[..., None]:
    """`visited("p-1", record(1))`: somebody's visit has arrived."""

    def arrive(
        participant: str,
        stored: str | None,
        *,
        accepted: datetime = ARRIVED,
        study: str = "spira",
        withdrawn: bool = False,
    ) -> None:
        with database.writing() as tables:
            who: dict[str, Any] = {"study": study, "id": participant, "created_at": iso(accepted)}
            gone = iso(accepted) if withdrawn else None
            known = PARTICIPANTS.select().where(PARTICIPANTS.c.id == participant)
            if tables.execute(known).first() is None:
                tables.execute(PARTICIPANTS.insert().values(**who, withdrawn_at=gone))
            tables.execute(
                VISITS.insert().values(
                    id=f"{participant}/{accepted:%d%H}",
                    study=study,
                    study_version=1,
                    participant=participant,
                    site="ward",
                    record=stored,
                    recorded_at=datetime(2024, 3, 8, 9, tzinfo=BRASILIA).isoformat(),
                    uncertainty_s=60,
                    accepted_at=iso(accepted),
                    synthetic=False,
                )
            )

    return arrive


def participants(database: Database) -> Participants:
    """Of the hospital whose key is KEY, which was never rotated."""
    return Participants(database, [KEY], lambda subject: subject)


def test_whoever_has_visited_takes_part(database: Database, visited: Callable[..., None]) -> None:
    """In whatever study; nobody else does, and nobody without a record number."""
    visited("p-1", record(1))
    visited("p-2", record(2), study="other")
    visited("p-3", None)

    asked = [f"record:{record(number)}" for number in (1, 2, 3)]

    assert participants(database).known(asked) == {f"record:{record(1)}", f"record:{record(2)}"}
    assert participants(database).known([]) == set()


def test_whoever_has_withdrawn_takes_part_no_more(
    database: Database, visited: Callable[..., None]
) -> None:
    """Nor under another pseudonym with the same record number."""
    visited("p-1", record(1))
    visited("p-2", record(1), withdrawn=True)
    visited("p-3", record(3))

    found = participants(database)

    assert found.known([f"record:{record(1)}", f"record:{record(3)}"]) == {f"record:{record(3)}"}
    assert [one.subject for one in found.visits(ARRIVED)] == [f"record:{record(3)}"]


def test_visits_are_those_that_have_arrived_since(
    database: Database, visited: Callable[..., None]
) -> None:
    """At this hospital; a device that was offline for long brings old ones."""
    visited("p-1", record(1))
    visited("p-1", record(1), accepted=ARRIVED + timedelta(days=1))
    visited("p-2", record(2), accepted=ARRIVED - timedelta(days=1))
    visited("p-3", record(3, OTHER_KEY))

    found = list(participants(database).visits(ARRIVED))

    at = datetime(2024, 3, 8, 12, tzinfo=UTC)
    assert found == [Visit(f"record:{record(1)}", at)] * 2


def test_a_visit_whose_number_was_put_right_has_arrived_again(
    database: Database, visited: Callable[..., None]
) -> None:
    """However long ago it came: only now can its patient be found."""
    visited("p-1", record(1), accepted=ARRIVED - timedelta(days=90))
    assert list(participants(database).visits(ARRIVED)) == []

    form = {"form": "visit", "form_version": 1, "kept": "{}", "used": "{}", "by": "ward"}
    with database.writing() as tables:
        (visit,) = tables.scalars(VISITS.select().with_only_columns(VISITS.c.id))
        tables.execute(FORMS.insert().values(visit=visit, version=2, at=iso(ARRIVED), **form))

    (found,) = participants(database).visits(ARRIVED)
    assert found.subject == f"record:{record(1)}"
