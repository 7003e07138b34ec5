"""Checking again: what a check died of was mended, and its recording, accepted without samples,
gets them.

    named in its row --> stored beside the original --> confirmed, in the caller's transaction

The same bytes go through the same limits. Rows are there before their objects here too, so that
samples on their way are never nobody's; and until they are confirmed nothing has changed that
anybody relies on: whoever is killed or suspended in between leaves work that is done once more.
"""

import hashlib
from dataclasses import replace

import sqlalchemy as sa

from spira.domain.errors import InputError, IntegrityError, TransientError
from spira.domain.recordings import Described
from spira.domain.submissions import Submission
from spira.intake.checking import Found
from spira.intake.submissions import Checker, Stored, audio_of, stored_of
from spira.intake.tables import RECORDINGS, SUBMISSIONS
from spira.stores.database import Database
from spira.stores.objects import Objects


def recordings_of(database: Database, submission: str) -> tuple[Stored, ...]:
    """The recordings of an accepted submission, without those that were dropped."""
    with database.reading() as tables:
        manifest = tables.execute(
            sa.select(SUBMISSIONS.c.manifest).where(SUBMISSIONS.c.id == submission)
        ).scalar_one()
        query = sa.select(RECORDINGS).where(RECORDINGS.c.submission == submission)
        rows = {row.id: row for row in tables.execute(query)}
    return stored_of(Submission.model_validate_json(manifest), rows)


def check_again(
    database: Database, objects: Objects, checker: Checker, one: Stored, *, unfinished: bool
) -> Stored:
    """The recording with its samples, which are stored; they count when `confirm` says so.

    unfinished  the participant could not finish: no rule about length applies
    raises      InputError when it cannot be used, or its check dies again; IntegrityError when the
                original is not there as it was accepted; TransientError
    """
    data = objects.read(one.original)
    if data is None:
        raise IntegrityError(f"{one.original}: the recording is not in the store; restore it")
    found = checker.check([data], one.file, unfinished=unfinished)
    if not isinstance(found, Found):
        if found.reason in ("wrong_digest", "wrong_length"):
            raise IntegrityError(f"{one.original}: {found.detail}; restore it")
        if found.reason == "check_failed":
            raise InputError(
                f"{one.original}: {found.detail}; mend what its check dies of, or raise the limits "
                "in intake.checking, and try again"
            )
        raise InputError(f"{one.original}: it cannot be used ({found.detail}); record again")
    digest = hashlib.sha256(found.audio).hexdigest()
    described = found.model_dump_json(exclude={"audio"})
    with database.writing() as tables:
        named = tables.execute(
            RECORDINGS.update().where(_unchecked(one)).values(found=described, audio_sha256=digest)
        ).rowcount
    if not named:
        raise TransientError(f"{one.original}: somebody else has checked it by now; look again")
    audio = audio_of(one.place, digest)
    objects.keep(audio, found.audio)
    return replace(
        one, found=Described.model_validate_json(described), audio=audio, audio_sha256=digest
    )


def confirm(tables: sa.Connection, one: Stored) -> None:
    """Make these samples the recording's for good.

    raises    TransientError where another check has named others since
    """
    confirmed = tables.execute(
        RECORDINGS.update()
        .where(_unchecked(one), RECORDINGS.c.audio_sha256 == one.audio_sha256)
        .values(reason=None, detail=None)
    ).rowcount
    if not confirmed:
        raise TransientError(f"{one.original}: somebody else checks it too; look again")


def _unchecked(one: Stored) -> sa.ColumnElement[bool]:
    return (RECORDINGS.c.place == one.place) & (RECORDINGS.c.reason == "check_failed")
