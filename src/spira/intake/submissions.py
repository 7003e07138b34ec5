"""Submissions: announced, uploaded, checked, and accepted in one transaction, or expired.

    announced --> every recording uploaded, checked, stored --> accepted, with a receipt
        ^  |
        |  +--> expired: its deadline has passed, and what was uploaded is deleted
        +------------------ sent again, as another generation

The order of a commit is what nothing is lost by: the row, the pieces, the final objects on stable
storage, and then one transaction, conditional on revision and generation, that accepts, writes
the receipt, and does what the subsystem wants. Objects of one generation are never those of
another, so that whoever deletes what has expired cannot meet what is being accepted.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import sqlalchemy as sa
import structlog

from spira.domain.errors import SpiraError, TransientError
from spira.domain.fingerprint import fingerprint
from spira.domain.recordings import Described
from spira.domain.submissions import RecordingFile, Submission
from spira.intake.checking import Found, Refused
from spira.intake.keys import KeyRing
from spira.intake.receipts import write_receipt
from spira.intake.settings import IntakeSettings
from spira.intake.tables import RECORDINGS, SUBMISSIONS
from spira.intake.uploads import Uploads
from spira.stores.database import Database, iso
from spira.stores.objects import Objects

RECORDINGS_PREFIX, RECEIPTS_PREFIX = "recordings", "receipts"
CONSENTS_PREFIX = "consents"  # of spoken consents, which lie sealed in a store of their own
_DONE = ("stored", "dropped")  # states of recordings that hold up no acceptance

_log = structlog.get_logger()


class Checker(Protocol):
    """Whoever looks at the bytes of a recording (spira.intake.checking.Checker)."""

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, *, unfinished: bool = False
    ) -> Found | Refused:
        """What a file is, or why it cannot be used."""


@dataclass(frozen=True)
class Owner:
    """Who sends: a site, and the device that proves itself by the secret it made."""

    site: str
    secret: str

    @property
    def secret_sha256(self) -> str:
        """What is kept of the secret."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


class Unknown(SpiraError):
    """There is no such submission, or none for this site and device."""


class Conflict(SpiraError):
    """Another manifest was sent under this id.

    differs   the places that are not equal, never what stands there
    revision  which one is here
    """

    def __init__(self, detail: str, differs: Sequence[str], revision: int) -> None:
        super().__init__(detail)
        self.differs = tuple(differs)
        self.revision = revision


class SendAgain(TransientError):
    """The row has expired or changed in the middle; nothing is lost, the manifest begins anew."""


@dataclass(frozen=True)
class Progress:
    """How far one recording has come: announced, stored, dropped or refused."""

    id: str
    state: str
    upload: str
    n_bytes: int
    offset: int
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Standing:
    """How a submission stands. With a receipt it is accepted, and stays so."""

    revision: int
    receipt: str | None
    recordings: tuple[Progress, ...] = ()
    now_accepted: bool = False  # by this call


@dataclass(frozen=True)
class Stored:
    """A recording of an accepted submission."""

    file: RecordingFile
    place: str  # what its objects' keys begin with
    found: Described | None  # None: the check died of it; the original is kept
    audio: str | None  # object: float32 little-endian mono 16 kHz; of a spoken consent none is kept
    audio_sha256: str | None

    @property
    def original(self) -> str:
        """The object with the bytes that the device sent, a spoken consent's sealed."""
        return original_of(self.place)


@dataclass(frozen=True)
class Accepted:
    """What a subsystem is told in the transaction that accepts."""

    submission: Submission
    site: str
    accepted_at: datetime
    device_ahead_s: float | None
    recordings: tuple[Stored, ...]  # all but those that were dropped


OnAccept = Callable[[sa.Connection, Accepted], None]


class Intake:
    """Takes submissions in. Any number of processes may share one database and one store."""

    def __init__(
        self,
        database: Database,
        objects: Objects,
        checker: Checker,
        keys: KeyRing,
        settings: IntakeSettings,
        *,
        consents: Objects | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """consents  where spoken consents are kept; None: nobody may announce one"""
        self._database = database
        self._objects = objects
        self._consents = consents
        self._checker = checker
        self._keys = keys
        self._settings = settings
        self._now = now
        self.uploads = Uploads(objects)

    def ask_stores(self) -> None:
        """See that the stores of objects answer.

        raises    SpiraError
        """
        self.uploads.offset("readyz")
        if self._consents is not None:
            list(self._consents.list("readyz/"))

    def commit(
        self,
        submission: Submission,
        owner: Owner,
        on_accept: OnAccept,
        *,
        ready: bool = True,
        unfinished: bool = False,
        device_ahead: timedelta | None = None,
    ) -> Standing:
        """Take a manifest, and what has been uploaded for it; the same call ends with a receipt.

        ready         False: something in the form keeps it from being accepted
        unfinished    the participant could not finish: no rule about length applies
        device_ahead  how far the device's clock was ahead of ours when this came
        raises        Unknown, Conflict, SendAgain; StorageFull, TransientError: nothing is lost,
                      and the same call goes on
        """
        row, recordings = self._announced(submission, owner, device_ahead, unfinished)
        if row.state == "accepted":
            return Standing(row.revision, row.receipt)
        files = {file.id: file for file in submission.files}
        progress = tuple(self._advance(one, files[one.id], unfinished) for one in recordings)
        if ready and all(one.state in _DONE for one in progress):
            return self._accept(submission, row.generation, on_accept)
        return Standing(row.revision, None, progress)

    def upload(self, upload: str, site: str) -> int | None:
        """The announced length of an upload that this site may add to; None for another."""
        query = (
            sa.select(RECORDINGS.c.n_bytes)
            .join(SUBMISSIONS, SUBMISSIONS.c.id == RECORDINGS.c.submission)
            .where(
                RECORDINGS.c.upload == upload,
                RECORDINGS.c.state == "announced",
                SUBMISSIONS.c.site == site,
                SUBMISSIONS.c.state == "announced",
            )
        )
        with self._database.reading() as tables:
            return tables.execute(query).scalar()

    def _announced(
        self,
        submission: Submission,
        owner: Owner,
        device_ahead: timedelta | None,
        unfinished: bool,
    ) -> tuple[sa.Row[Any], Sequence[sa.Row[Any]]]:
        """The row of a submission and those of its recordings, as announced by this manifest or
        accepted before."""
        for last in (False, True):
            try:
                return self._announce(submission, owner, device_ahead, unfinished)
            except sa.exc.IntegrityError as error:  # of two that come first at once, the second
                if last:
                    raise SendAgain("it was announced at the same moment; send it again") from error
        raise AssertionError

    def _announce(
        self,
        submission: Submission,
        owner: Owner,
        device_ahead: timedelta | None,
        unfinished: bool,
    ) -> tuple[sa.Row[Any], Sequence[sa.Row[Any]]]:
        now = self._now()
        manifest = submission.canonical().decode()
        values = {
            "revision": submission.revision,
            "manifest": manifest,
            "announced_at": iso(now),
            "deadline": iso(now + timedelta(days=self._settings.kept_days)),
            "device_ahead_s": None if device_ahead is None else device_ahead.total_seconds(),
        }
        with self._database.writing() as tables:
            query = sa.select(SUBMISSIONS).where(SUBMISSIONS.c.id == submission.id)
            row = tables.execute(query.with_for_update()).first()
            if row is None:
                tables.execute(
                    SUBMISSIONS.insert().values(
                        **values,
                        id=submission.id,
                        kind=submission.kind,
                        site=owner.site,
                        secret_sha256=owner.secret_sha256,
                        state="announced",
                        generation=1,
                        swept=False,
                    )
                )
                self._write_recordings(tables, submission, 1, unfinished)
                _log.info("announced", **{submission.kind: submission.id}, site=owner.site)
            else:
                self._announce_again(tables, row, submission, owner, values, unfinished)
            mine = sa.select(RECORDINGS).where(RECORDINGS.c.submission == submission.id)
            recordings = tables.execute(mine.order_by(RECORDINGS.c.id)).all()
            return tables.execute(query).one(), recordings

    def _announce_again(
        self,
        tables: sa.Connection,
        row: sa.Row[Any],
        submission: Submission,
        owner: Owner,
        values: dict[str, Any],
        unfinished: bool,
    ) -> None:
        _require_owner(row, owner)
        if row.kind != submission.kind:
            raise Unknown("there is no such submission")
        if row.state == "expired":
            generation = row.generation + 1
            self._change(tables, row, values | {"state": "announced", "generation": generation})
            tables.execute(RECORDINGS.delete().where(RECORDINGS.c.submission == submission.id))
            self._write_recordings(tables, submission, generation, unfinished)
        elif row.manifest != values["manifest"]:
            if row.state == "accepted" or submission.revision <= row.revision:
                raise _conflict(row, submission)
            self._change(tables, row, values)
            self._write_recordings(tables, submission, row.generation, unfinished)
        elif row.state == "announced":
            self._change(tables, row, values)

    def _change(self, tables: sa.Connection, row: sa.Row[Any], values: dict[str, Any]) -> None:
        tables.execute(
            SUBMISSIONS.update().where(SUBMISSIONS.c.id == row.id).values(**values, swept=False)
        )

    def _write_recordings(
        self, tables: sa.Connection, submission: Submission, generation: int, unfinished: bool
    ) -> None:
        """Make the rows those of this manifest.

        The same bytes keep what was uploaded; they are checked again where what was said of them
        has changed, and whoever is still checking them for what was said before notes nothing.
        """
        mine = RECORDINGS.c.submission == submission.id
        there = {row.id: row for row in tables.execute(sa.select(RECORDINGS).where(mine))}
        for gone in there.keys() - {file.id for file in submission.files}:
            tables.execute(RECORDINGS.delete().where(mine, RECORDINGS.c.id == gone))
        for file in submission.files:
            row = there.get(file.id)
            asked = fingerprint([file.model_dump(mode="json"), unfinished])
            if row is not None and row.asked == asked:
                continue
            # Never a name that was given before: its objects may be about to be deleted.
            prefix = CONSENTS_PREFIX if file.utterance == "consent" else RECORDINGS_PREFIX
            place = (
                f"{prefix}/{submission.id}/{file.id}/"
                f"{generation}.{submission.revision}-{file.sha256}"
            )
            values: dict[str, Any] = {
                "asked": asked,
                "place": place,
                "found": None,
                "audio_sha256": None,
                **self._at_first(file),
            }
            if row is None or (row.sha256, row.n_bytes) != (file.sha256, file.n_bytes):
                values |= {
                    "sha256": file.sha256,
                    "n_bytes": file.n_bytes,
                    "upload": _upload(place, 0),
                    "tries": 0,
                }
            if row is None:
                tables.execute(
                    RECORDINGS.insert().values(submission=submission.id, id=file.id, **values)
                )
            else:
                this = mine & (RECORDINGS.c.id == file.id)
                tables.execute(RECORDINGS.update().where(this).values(**values))

    def _at_first(self, file: RecordingFile) -> dict[str, Any]:
        """The state of a recording that has just been announced."""
        most = self._settings.largest_file_bytes
        if file.n_bytes <= most:
            return {"state": "announced", "reason": None, "detail": None}
        detail = f"{file.n_bytes} bytes were announced, at most {most} are taken"
        return {"state": "refused", "reason": "too_large", "detail": detail}

    def _advance(self, row: sa.Row[Any], file: RecordingFile, unfinished: bool) -> Progress:
        """Check and store a recording whose bytes are all there.

        raises    SendAgain where another revision was announced meanwhile
        """
        if row.state != "announced":
            return _progress(row, row.n_bytes)
        offset = self.uploads.offset(row.upload)
        if offset < row.n_bytes:
            return _progress(row, offset)
        pieces = self.uploads.pieces(row.upload)
        found = self._checker.check(pieces, file, unfinished=unfinished)
        if isinstance(found, Found):
            digest = None
            self._keep_original(row.place, pieces)
            if not is_consent(row.place):
                digest = hashlib.sha256(found.audio).hexdigest()
                self._objects.keep(audio_of(row.place, digest), found.audio)
            described = found.model_dump_json(exclude={"audio"})
            row = self._note(row, state="stored", found=described, audio_sha256=digest)
        elif found.reason in ("wrong_digest", "wrong_length"):
            # Not those announced: discarded, and needed from the first on, under another name, so
            # that nobody who still sends them spoils the next.
            tries = row.tries + 1
            old = row.upload
            row = self._note(row, tries=tries, upload=_upload(row.place, tries))
            self.uploads.discard([old])
            return replace(_progress(row, 0), reason="wrong_digest")
        elif found.reason == "check_failed":
            # The patient has gone, and whoever mends the decoder wants the original.
            self._keep_original(row.place, pieces)
            row = self._note(row, state="stored", reason=found.reason, detail=found.detail)
        elif found.reason == "speech_in_ambient":
            # A conversation of people who did not agree to be recorded. Deleted first: a kill after
            # it makes it be sent and dropped once more, and leaves nothing here.
            self.uploads.discard([row.upload])
            row = self._note(row, state="dropped", reason=found.reason, detail=found.detail)
        else:
            row = self._note(row, state="refused", reason=found.reason, detail=found.detail)
        if row.state == "stored" and is_consent(row.place):
            # What is sealed shall not lie beside it open until the rest has come. Should a revision
            # say something else of it, it is sent once more.
            self.uploads.discard([row.upload])
        return _progress(row, offset)

    def _keep_original(self, place: str, pieces: Sequence[bytes]) -> None:
        key, data = original_of(place), b"".join(pieces)
        if is_consent(place):
            assert self._consents is not None  # whoever has no store for them announces none
            self._consents.keep(key, self._keys.seal(data, about=key))
        else:
            self._objects.keep(key, data)

    def _note(self, row: sa.Row[Any], **values: Any) -> sa.Row[Any]:
        """Write down what came of a recording; the row as it is then, which may be what another
        process has found of the same.

        raises    SendAgain where it is not the same any more
        """
        this = (RECORDINGS.c.submission == row.submission) & (RECORDINGS.c.id == row.id)
        as_read = (
            (RECORDINGS.c.place == row.place)
            & (RECORDINGS.c.tries == row.tries)
            & (RECORDINGS.c.state == "announced")
        )
        with self._database.writing() as tables:
            noted = tables.execute(
                RECORDINGS.update().where(this, as_read).values(**values)
            ).rowcount
            now = tables.execute(sa.select(RECORDINGS).where(this)).first()
        if now is None or now.place != row.place or not (noted or now.state != "announced"):
            raise SendAgain("it was changed meanwhile; send the manifest again")
        return now

    def _accept(self, submission: Submission, generation: int, on_accept: OnAccept) -> Standing:
        """The one transaction after which nothing may be lost."""
        now = self._now()
        this = SUBMISSIONS.c.id == submission.id
        with self._database.writing() as tables:
            accepted = tables.execute(
                SUBMISSIONS.update()
                .where(
                    this,
                    SUBMISSIONS.c.state == "announced",
                    SUBMISSIONS.c.generation == generation,
                    SUBMISSIONS.c.revision == submission.revision,
                )
                .values(state="accepted", accepted_at=iso(now), swept=False)
            ).rowcount
            row = tables.execute(sa.select(SUBMISSIONS).where(this)).one()
            if not accepted:
                if row.receipt is not None and row.manifest == submission.canonical().decode():
                    return Standing(row.revision, row.receipt)
                raise SendAgain("it changed meanwhile; send the manifest again")
            query = sa.select(RECORDINGS).where(RECORDINGS.c.submission == submission.id)
            rows = {one.id: one for one in tables.execute(query)}
            if any(one.state not in _DONE for one in rows.values()):
                raise SendAgain("a recording was changed meanwhile; send the manifest again")
            receipt = write_receipt(
                self._keys,
                submission,
                manifest=row.manifest.encode(),
                accepted_at=now,
                site=row.site,
                dropped={one.id: one.reason for one in rows.values() if one.state == "dropped"},
            )
            tables.execute(SUBMISSIONS.update().where(this).values(receipt=receipt))
            stored = stored_of(submission, rows)
            on_accept(tables, Accepted(submission, row.site, now, row.device_ahead_s, stored))
        _log.info(
            "accepted", **{submission.kind: submission.id}, site=row.site, recordings=len(stored)
        )
        return Standing(submission.revision, receipt, now_accepted=True)


def newest_receipts(database: Database) -> Sequence[str]:
    """The newest receipt of each site."""
    table = SUBMISSIONS.c
    with database.reading() as tables:
        sites = tables.execute(sa.select(table.site).distinct()).scalars().all()
        newest = (
            sa.select(table.receipt)
            .where(table.site == site, table.receipt.is_not(None))
            .order_by(table.accepted_at.desc())
            .limit(1)
            for site in sites
        )
        found = [tables.execute(query).scalar() for query in newest]
    return [receipt for receipt in found if receipt is not None]


def newest_consent(database: Database) -> str | None:
    """The object of the spoken consent that was accepted last; None where there is none."""
    query = (
        sa.select(RECORDINGS.c.place)
        .join(SUBMISSIONS, SUBMISSIONS.c.id == RECORDINGS.c.submission)
        # By the index of places: in any collation those of consents alone come before that.
        .where(RECORDINGS.c.place < RECORDINGS_PREFIX, SUBMISSIONS.c.state == "accepted")
        .order_by(SUBMISSIONS.c.accepted_at.desc())
        .limit(1)
    )
    with database.reading() as tables:
        place = tables.execute(query).scalar()
    return None if place is None else original_of(place)


def is_consent(place: str) -> bool:
    """Whether a recording is a spoken consent: sealed, in the store for those."""
    return place.startswith(f"{CONSENTS_PREFIX}/")


def original_of(place: str) -> str:
    """The object with the bytes that the device sent."""
    return f"{place}.original"


def audio_of(place: str, sha256: str) -> str:
    """The object with the samples, by their digest: float32 little-endian, mono, 16 kHz.

    Two processes may decode with two versions of a codec: neither puts its samples over the
    other's.
    """
    return f"{place}.{sha256}.f32"


def receipt_of(submission: str) -> str:
    """The object that says of a submission's recordings that they were accepted."""
    return f"{RECEIPTS_PREFIX}/{submission}.jws"


def _progress(row: sa.Row[Any], offset: int) -> Progress:
    return Progress(row.id, row.state, row.upload, row.n_bytes, offset, row.reason, row.detail)


def stored_of(submission: Submission, rows: Mapping[str, sa.Row[Any]]) -> tuple[Stored, ...]:
    """The recordings of a submission that were not dropped, by the rows of all of them."""
    files = (file for file in submission.files if rows[file.id].state == "stored")
    return tuple(_stored(file, rows[file.id]) for file in files)


def _stored(file: RecordingFile, row: sa.Row[Any]) -> Stored:
    digest = row.audio_sha256
    return Stored(
        file=file,
        place=row.place,
        found=None if row.found is None else Described.model_validate_json(row.found),
        audio=None if digest is None else audio_of(row.place, digest),
        audio_sha256=digest,
    )


def _require_owner(row: sa.Row[Any], owner: Owner) -> None:
    if row.site != owner.site or not hmac.compare_digest(row.secret_sha256, owner.secret_sha256):
        raise Unknown("there is no such submission")


def _conflict(row: sa.Row[Any], submission: Submission) -> Conflict:
    there, sent = json.loads(row.manifest), json.loads(submission.canonical())
    accepted = row.state == "accepted"
    return Conflict(
        "it was accepted with another manifest; send this one under a new id"
        if accepted
        else f"revision {row.revision} is here already; send a change with a higher revision",
        sorted(_differences(there, sent)),
        row.revision,
    )


def _differences(there: Any, sent: Any, place: str = "") -> Iterable[str]:
    """Places of two documents that are not equal; never their values."""
    if isinstance(there, Mapping) and isinstance(sent, Mapping):
        for name in there.keys() | sent.keys():
            inside = f"{place}.{name}" if place else str(name)
            yield from _differences(there.get(name), sent.get(name), inside)
    elif isinstance(there, list) and isinstance(sent, list) and len(there) == len(sent):
        for number, (one, other) in enumerate(zip(there, sent, strict=True)):
            yield from _differences(one, other, f"{place}[{number}]")
    elif there != sent:
        yield place


def _upload(place: str, tries: int) -> str:
    """An upload's name: another one for other bytes, another generation or another try."""
    return hashlib.sha256(f"{place}/{tries}".encode()).hexdigest()[:40]
