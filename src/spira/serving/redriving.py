"""Redriving: an assessment that failed is asked about once more, by a person with a reason."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from spira.domain.errors import InputError
from spira.intake.rechecking import check_again, recordings_of
from spira.intake.submissions import Checker, Stored
from spira.serving.answers import About
from spira.serving.assessments import Assessments
from spira.serving.taking import at_once, scored_of
from spira.stores.database import Database, iso
from spira.stores.objects import Objects


def redrive(
    database: Database,
    objects: Objects,
    checking: Callable[[], AbstractContextManager[Checker]],
    letter: int,
    *,
    by: str,
    why: str,
    now: datetime,
) -> str:
    """Queue the assessment of a dead letter, audited; its state then.

    A recording whose check died is checked again first. Then it has samples to ask about, or, as
    any other where something about the recording says so, an answer at once: `completed`.

    checking  gives whoever checks recordings, asked only where it is needed
    raises    InputError where there is no such letter, it was redriven before, or its recording
              still cannot be used; IntegrityError where it is not as it was accepted;
              TransientError. Nothing has changed then.
    """
    assessments = Assessments(database)
    row = assessments.failed(letter)
    checked, state = None, "queued"
    if row is not None and row.audio is None:
        with checking() as checker:
            stored, about = _checked(database, objects, checker, row)
        state, answer = at_once(about, stored)
        values: dict[str, Any] = {
            "state": state,
            "about": about.model_dump_json(exclude_none=True),
            "audio": stored.audio,
            "audio_sha256": stored.audio_sha256,
        }
        if answer is not None:
            values |= {
                "answer": answer.model_dump_json(),
                "outcome": answer.outcome,
                "answered_at": iso(now),
            }
        checked = (stored, values)
    if not assessments.redrive(letter, by, why, now, checked=checked):
        raise InputError(
            f"dead letter {letter}: there is none that can be asked again; "
            "`spira serve dead-letters list` shows them"
        )
    return state


def _checked(
    database: Database, objects: Objects, checker: Checker, row: sa.Row[Any]
) -> tuple[Stored, About]:
    """The recording that is asked about, with its samples, and what is kept of the assessment."""
    about = About.model_validate_json(row.about)
    scored = scored_of(recordings_of(database, row.id))
    assert scored is not None  # an assessment without one has an answer
    unfinished = about.values.get("unfinished", False) is True
    stored = check_again(database, objects, checker, scored, unfinished=unfinished)
    return stored, about.model_copy(update={"found": stored.found})
