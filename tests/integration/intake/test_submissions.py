"""Submissions, from the first manifest to the receipt, on real databases and a real folder."""

import base64
import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import uuid_utils
from found import found
from suspended import Countdown, Suspended

from spira.domain.errors import TransientError
from spira.domain.submissions import FormValues, RecordingFile, Submission
from spira.intake import sweeping
from spira.intake.checking import Found, Refused
from spira.intake.keys import KeyRing
from spira.intake.receipts import read_receipt
from spira.intake.settings import IntakeSettings
from spira.intake.submissions import (
    Accepted,
    Conflict,
    Intake,
    Owner,
    SendAgain,
    Standing,
    Unknown,
)
from spira.intake.sweeping import sweep
from spira.intake.tables import SUBMISSIONS
from spira.intake.uploads import OffsetTaken
from spira.stores.database import Database
from spira.stores.objects import Item, Objects

OWNER = Owner("ward", "a secret of the device")
SOUND = b"the bytes of a recording"
NOW = datetime.now(UTC)


class Checking:
    """Checks digests and that six seconds were announced; what begins with a word of refusal is
    refused with it. Samples are the bytes and a word of this decoder."""

    def __init__(self, decoder: bytes = b"") -> None:
        self._decoder = decoder

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, *, unfinished: bool = False
    ) -> Found | Refused:
        data = b"".join(pieces)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            return Refused(reason="wrong_digest", detail="other bytes")
        if file.duration_s != 6:
            return Refused(reason="wrong_duration", detail="it has six seconds")
        for reason in ("undecodable", "speech_in_ambient", "check_failed"):
            if data.startswith(reason.encode()):
                return Refused(reason=reason, detail="as it says")
        return found(data[::-1] + self._decoder, () if unfinished else ("short",))


class Told:
    """What the subsystem was told, of transactions that were committed."""

    def __init__(self) -> None:
        self.accepted: list[Accepted] = []
        self.table = sa.table("told", sa.column("id"))

    def __call__(self, tables: sa.Connection, accepted: Accepted) -> None:
        tables.execute(self.table.insert().values(id=accepted.submission.id))
        self.accepted.append(accepted)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """With the tables of intake, and one of a subsystem."""
    url = f"sqlite:///{tmp_path / 'intake.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").empty(uuid.uuid4().hex)
    database = Database.open(url, what="the database of a test is away")
    database.migrate(["spira.intake"])
    with database.writing() as tables:
        tables.execute(sa.text("CREATE TABLE told (id TEXT PRIMARY KEY)"))
    return database


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    """A folder."""
    return Objects.open(str(tmp_path / "objects"), setting="a test")


@pytest.fixture
def keys(tmp_path: Path) -> KeyRing:
    """A ring of its own."""
    return KeyRing.open(tmp_path / "keys")


@pytest.fixture
def intake(database: Database, objects: Objects, keys: KeyRing) -> Intake:
    """Intake on them."""
    return Intake(database, objects, Checking(), keys, IntakeSettings())


@pytest.fixture
def told() -> Told:
    """What the subsystem was told."""
    return Told()


def submission(*sounds: bytes, revision: int = 1, **values: Any) -> Submission:
    """An assessment with these recordings."""
    files = [
        RecordingFile(
            id=str(uuid_utils.uuid7()),
            utterance="sentence",
            sha256=hashlib.sha256(sound).hexdigest(),
            n_bytes=len(sound),
            duration_s=6,
            recorded_at=NOW,
        )
        for sound in sounds or (SOUND,)
    ]
    return Submission(
        kind="assessment",
        id=str(uuid_utils.uuid7()),
        revision=revision,
        form=FormValues(id="assessment", version=1, values=values),
        files=tuple(files),
    )


def upload(intake: Intake, standing: Standing, *sounds: bytes) -> None:
    """Send what is needed."""
    of = {hashlib.sha256(sound).hexdigest(): sound for sound in sounds or (SOUND,)}
    for one in standing.recordings:
        if one.state == "announced":
            sound = next(sound for sound in of.values() if len(sound) == one.n_bytes)
            intake.uploads.append(one.upload, one.offset, sound[one.offset :])


def bytes_of(objects: Objects) -> dict[str, bytes]:
    """Every final object."""
    return {item.key: objects.read(item.key) or b"" for item in objects.list("recordings/")}


def test_who_announces_first_at_once_with_others_is_answered_as_they_are(
    intake: Intake, told: Told
) -> None:
    """A manifest sent twice over a bad network: none of the answers is an error."""
    some = [submission() for _ in range(8)]
    with ThreadPoolExecutor(4) as together:

        def four(sent: Submission) -> set[Standing]:
            return {*together.map(lambda _: intake.commit(sent, OWNER, told), range(4))}

        answered = [four(sent) for sent in some]

    assert [len(standings) for standings in answered] == [1] * len(some)


def test_a_submission_ends_with_a_receipt_that_stays(
    intake: Intake, objects: Objects, told: Told
) -> None:
    """Byte for byte; the subsystem was told once, with both objects of every recording."""
    sent = submission()

    first = intake.commit(sent, OWNER, told)
    upload(intake, first)
    accepted = intake.commit(sent, OWNER, told)
    again = intake.commit(sent, OWNER, told)

    assert (first.receipt, first.recordings[0].state) == (None, "announced")
    assert accepted.receipt is not None
    assert (again.receipt, again.now_accepted) == (accepted.receipt, False)
    (one,) = told.accepted
    (stored,) = one.recordings
    assert (one.submission, one.site) == (sent, "ward")
    assert bytes_of(objects) == {stored.original: SOUND, stored.audio: SOUND[::-1]}
    assert stored.audio_sha256 == hashlib.sha256(SOUND[::-1]).hexdigest()
    payload = accepted.receipt.split(".")[1]
    signed = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert [taken["sha256"] for taken in signed["recordings"]] == [sent.files[0].sha256]


def test_bytes_that_are_not_those_announced_are_needed_from_the_start(
    intake: Intake, told: Told
) -> None:
    """Under another upload, so that nobody who still sends the old ones spoils it."""
    sent = submission()
    standing = intake.commit(sent, OWNER, told)
    upload(intake, standing, b"x" * len(SOUND))

    spoilt = intake.commit(sent, OWNER, told)

    assert (spoilt.receipt, spoilt.recordings[0].offset) == (None, 0)
    assert spoilt.recordings[0].upload != standing.recordings[0].upload
    assert intake.upload(standing.recordings[0].upload, "ward") is None
    assert intake.upload(spoilt.recordings[0].upload, "ward") == len(SOUND)
    assert intake.upload(spoilt.recordings[0].upload, "another site") is None
    upload(intake, spoilt)
    assert intake.commit(sent, OWNER, told).receipt is not None


def test_a_higher_revision_replaces_and_keeps_what_was_uploaded(intake: Intake, told: Told) -> None:
    """A lower one, or the same with other content, is a conflict that names the places."""
    sent = submission(age=63)
    upload(intake, intake.commit(sent, OWNER, told, ready=False))
    corrected = sent.model_copy(
        update={"revision": 2, "form": sent.form.model_copy(update={"values": {"age": 36}})}
    )

    standing = intake.commit(corrected, OWNER, told, ready=False)
    with pytest.raises(Conflict) as lower:
        intake.commit(sent, OWNER, told)
    with pytest.raises(Conflict) as other:
        intake.commit(sent.model_copy(update={"revision": 2}), OWNER, told)

    assert standing.recordings[0].state == "stored"
    assert lower.value.differs == ("form.values.age", "revision")
    assert other.value.differs == ("form.values.age",)
    assert intake.commit(corrected, OWNER, told).receipt is not None
    assert told.accepted[0].submission == corrected


def test_after_the_receipt_nothing_changes(intake: Intake, told: Told) -> None:
    """Another manifest is a conflict, another device or site is told of nothing."""
    sent = submission(age=63)
    upload(intake, intake.commit(sent, OWNER, told))
    receipt = intake.commit(sent, OWNER, told).receipt
    changed = sent.model_copy(update={"revision": 2})

    with pytest.raises(Conflict):
        intake.commit(changed, OWNER, told)
    for stranger in (Owner("ward", "another device"), Owner("elsewhere", OWNER.secret)):
        with pytest.raises(Unknown):
            intake.commit(sent, stranger, told)
    assert intake.commit(sent, OWNER, told).receipt == receipt


@pytest.mark.parametrize(("ready", "sound"), [(False, SOUND), (True, b"undecodable")])
def test_what_cannot_be_accepted_is_kept_and_says_why(
    ready: bool, sound: bytes, intake: Intake, told: Told
) -> None:
    """A field that is refused, a file that is no audio: no receipt, and nothing is told."""
    sent = submission(sound)
    upload(intake, intake.commit(sent, OWNER, told, ready=ready), sound)

    for _ in range(2):
        standing = intake.commit(sent, OWNER, told, ready=ready)
        assert standing.receipt is None
        assert standing.recordings[0].reason == (None if ready is False else "undecodable")
    assert told.accepted == []


def test_a_conversation_in_the_room_is_dropped_and_deleted(
    intake: Intake, objects: Objects, told: Told, keys: KeyRing
) -> None:
    """Nothing is left of who did not agree; the rest is accepted, and the receipt says so."""
    overheard = b"speech_in_ambient"
    sent = submission(SOUND, overheard)
    upload(intake, intake.commit(sent, OWNER, told), SOUND, overheard)

    receipt = intake.commit(sent, OWNER, told).receipt

    assert receipt is not None
    said = {
        one.id: (one.what, one.reason) for one in read_receipt(receipt, keys.public()).recordings
    }
    assert said == {
        sent.files[0].id: ("taken", None),
        sent.files[1].id: ("dropped", "speech_in_ambient"),
    }
    (accepted,) = told.accepted
    assert [one.file for one in accepted.recordings] == [sent.files[0]]
    held = {
        objects.read(item.key)
        for folder in ("staging/", "recordings/")
        for item in objects.list(folder)
    }
    assert held == {SOUND, SOUND[::-1]}


def test_a_recording_that_kills_its_check_is_accepted_without_samples(
    intake: Intake, objects: Objects, told: Told
) -> None:
    """Its original is kept: whoever mends the decoder wants it, and the patient has gone."""
    sound = b"check_failed"
    sent = submission(sound)
    upload(intake, intake.commit(sent, OWNER, told), sound)

    assert intake.commit(sent, OWNER, told).receipt is not None
    (stored,) = told.accepted[0].recordings
    assert (stored.found, stored.audio) == (None, None)
    assert bytes_of(objects) == {stored.original: sound}


def test_a_subsystem_that_fails_leaves_nothing_accepted(
    intake: Intake, database: Database, told: Told
) -> None:
    """The next manifest accepts it, and tells it once."""
    sent = submission()
    upload(intake, intake.commit(sent, OWNER, told))

    def fail(tables: sa.Connection, accepted: Accepted) -> None:
        told(tables, accepted)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        intake.commit(sent, OWNER, fail)
    assert intake.commit(sent, OWNER, told).receipt is not None
    with database.reading() as tables:
        assert tables.execute(sa.select(told.table)).all() == [(sent.id,)]


def test_a_file_that_is_too_large_is_refused_before_a_byte_is_sent(
    intake: Intake, told: Told
) -> None:
    """Two gigabytes are announced in a hundred bytes."""
    sent = submission()
    huge = sent.files[0].model_copy(update={"n_bytes": 2_000_000_000})

    (one,) = intake.commit(sent.model_copy(update={"files": (huge,)}), OWNER, told).recordings

    assert (one.state, one.reason) == ("refused", "too_large")
    assert intake.upload(one.upload, "ward") is None


def test_two_at_one_offset_one_wins(intake: Intake, told: Told) -> None:
    """The other asks for the offset, and goes on from there."""
    (needed,) = intake.commit(submission(), OWNER, told).recordings

    assert intake.uploads.append(needed.upload, 0, b"first") == 5
    with pytest.raises(OffsetTaken):
        intake.uploads.append(needed.upload, 0, b"second")
    assert intake.uploads.offset(needed.upload) == 5


def corrected(sent: Submission, **changes: Any) -> Submission:
    """The next revision, with another word about its first recording."""
    first, *others = sent.files
    files = (first.model_copy(update=changes), *others)
    return sent.model_copy(update={"revision": sent.revision + 1, "files": files})


def test_what_is_said_of_the_same_bytes_is_checked_anew(intake: Intake, told: Told) -> None:
    """A duration that was announced wrongly, and that somebody could not finish: nothing is sent
    again."""
    sent = corrected(submission(), duration_s=60)
    upload(intake, intake.commit(sent, OWNER, told))
    refused = intake.commit(sent, OWNER, told)

    mended = intake.commit(corrected(sent, duration_s=6), OWNER, told, ready=False)
    last = corrected(corrected(sent, duration_s=6))
    accepted = intake.commit(last, OWNER, told, unfinished=True)

    assert refused.recordings[0].reason == "wrong_duration"
    assert mended.recordings[0].state == "stored"
    assert accepted.receipt is not None
    (stored,) = told.accepted[0].recordings
    assert stored.found is not None
    assert stored.found.findings == ()  # not `short`: so it was checked with the last word


def test_suspended_at_any_step_while_another_process_takes_the_next_revision(
    database: Database, objects: Objects, keys: KeyRing, told: Told
) -> None:
    """What is accepted is what the accepted revision says, whoever checked what at which time."""
    calm = Intake(database, objects, Checking(), keys, IntakeSettings())
    at = 1
    while True:
        wrong = corrected(submission(), duration_s=60)
        upload(calm, calm.commit(wrong, OWNER, told, ready=False))
        right = corrected(wrong, duration_s=6)
        countdown = Countdown(at, lambda: calm.commit(right, OWNER, told))  # noqa: B023
        suspended: Any = Suspended(database, countdown), Suspended(objects, countdown)
        first = Intake(*suspended, Checking(), keys, IntakeSettings())

        with suppress(SendAgain, Conflict):
            first.commit(wrong, OWNER, told)

        standing = calm.commit(right, OWNER, told)
        assert standing.receipt is not None, at
        assert told.accepted[-1].submission == right
        (stored,) = told.accepted[-1].recordings
        assert stored.found is not None, at
        assert objects.read(stored.audio or "") == SOUND[::-1], at
        if countdown.steps < at:
            break
        at += 1
    assert at > 5  # list, read, keep twice, note


def test_two_decoders_put_nothing_over_each_others_samples(
    database: Database, objects: Objects, keys: KeyRing, told: Told
) -> None:
    """The samples are those that their digest was noted of; the others are swept."""
    old, new = (
        Intake(database, objects, Checking(word), keys, IntakeSettings()) for word in (b"1", b"2")
    )
    sent = submission()
    upload(old, old.commit(sent, OWNER, told))
    countdown = Countdown(4, lambda: old.commit(sent, OWNER, told))
    suspended: Any = Suspended(database, countdown), Suspended(objects, countdown)
    slow = Intake(*suspended, Checking(b"2"), keys, IntakeSettings())

    assert slow.commit(sent, OWNER, told).receipt == new.commit(sent, OWNER, told).receipt

    (stored,) = told.accepted[0].recordings
    samples = objects.read(stored.audio or "")
    assert samples is not None
    assert hashlib.sha256(samples).hexdigest() == stored.audio_sha256
    sweep(database, objects, NOW + timedelta(hours=2))
    assert set(bytes_of(objects)) == {stored.original, stored.audio}


def test_of_two_that_come_first_at_once_both_are_heard(
    intake: Intake, told: Told, database: Database
) -> None:
    """As a proxy sends that repeats a request."""
    for _ in range(10):
        sent = submission()
        with ThreadPoolExecutor(4) as pool:
            standings = list(pool.map(lambda _: intake.commit(sent, OWNER, told), range(4)))  # noqa: B023
        assert {one.recordings[0].state for one in standings} == {"announced"}


def test_equal_manifests_have_equal_bytes_for_ever() -> None:
    """Whatever more may be said one day: a phone whose receipt was lost sends the same again."""
    sent = Submission(
        kind="assessment",
        id="01938f00-0000-7000-8000-000000000001",
        revision=1,
        form=FormValues(id="assessment", version=1, values={"age": 63}),
        files=(
            RecordingFile(
                id="01938f00-0000-7000-8000-000000000002",
                utterance="sentence",
                sha256="a" * 64,
                n_bytes=5,
                duration_s=6,
                recorded_at=datetime(2026, 3, 1, tzinfo=UTC),
            ),
        ),
    )

    assert hashlib.sha256(sent.canonical()).hexdigest() == (
        "63106c17d211505824fd46531835e5f66cd0cb1d5f995e3998e792add5fd8e82"
    )


# --- sweeping -----------------------------------------------------------------------------------


def test_what_nobody_finishes_expires_and_can_be_sent_again(
    intake: Intake, database: Database, objects: Objects, told: Told
) -> None:
    """With everything deleted meanwhile; what is accepted keeps its recordings for ever."""
    kept, left = submission(b"kept for ever"), submission()
    upload(intake, intake.commit(kept, OWNER, told), b"kept for ever")
    intake.commit(kept, OWNER, told)
    upload(intake, intake.commit(left, OWNER, told))
    before = bytes_of(objects)

    sweep(database, objects, NOW + timedelta(days=29))
    assert intake.commit(left, OWNER, told, ready=False).recordings[0].state == "stored"
    sweep(database, objects, NOW + timedelta(days=366))
    assert bytes_of(objects) == before
    assert list(objects.list("staging/")) == []

    standing = intake.commit(left, OWNER, told)
    assert standing.recordings[0].offset == 0
    upload(intake, standing)
    assert intake.commit(left, OWNER, told).receipt is not None
    assert intake.commit(kept, OWNER, told).receipt is not None


def test_another_database_deletes_no_recording(
    intake: Intake, objects: Objects, told: Told, tmp_path: Path
) -> None:
    """One that is empty, or older: what was accepted is not its to judge."""
    sent = submission()
    upload(intake, intake.commit(sent, OWNER, told))
    intake.commit(sent, OWNER, told)
    before = bytes_of(objects)
    empty = Database.open(f"sqlite:///{tmp_path / 'empty.db'}", what="away")
    empty.migrate(["spira.intake"])

    sweep(empty, objects, NOW + timedelta(days=400))

    assert len(before) == 2
    assert bytes_of(objects) == before


def test_a_database_from_before_the_receipt_does_not_expire_it(
    intake: Intake, database: Database, objects: Objects, told: Told
) -> None:
    """The receipt lies beside the recordings: a restored database has not the last word."""
    sent = submission()
    upload(intake, intake.commit(sent, OWNER, told))
    intake.commit(sent, OWNER, told)
    sweep(database, objects, NOW)
    before = bytes_of(objects)
    with database.writing() as tables:  # as it was in a backup
        tables.execute(SUBMISSIONS.update().values(state="announced", receipt=None, swept=False))

    for days in (31, 62):
        sweep(database, objects, NOW + timedelta(days=days))

    assert bytes_of(objects) == before


def test_what_is_stored_too_late_is_swept(
    database: Database, objects: Objects, keys: KeyRing, told: Told
) -> None:
    """By a commit that was suspended until everything had expired, and that nobody repeats."""
    calm = Intake(database, objects, Checking(), keys, IntakeSettings())
    for at in range(1, 9):
        sent = submission()
        upload(calm, calm.commit(sent, OWNER, told, ready=False))
        countdown = Countdown(at, lambda: sweep(database, objects, NOW + timedelta(days=60)))
        suspended: Any = Suspended(database, countdown), Suspended(objects, countdown)
        with suppress(SendAgain):
            Intake(*suspended, Checking(), keys, IntakeSettings()).commit(
                sent, OWNER, told, ready=False
            )

    for days in (120, 180):
        sweep(database, objects, NOW + timedelta(days=days))

    assert bytes_of(objects) == {}
    assert list(objects.list("staging/")) == []


def test_orphans_are_swept_after_an_hour(
    intake: Intake, database: Database, objects: Objects, told: Told
) -> None:
    """Of revisions that were replaced; nothing that a row still names."""
    first = submission(b"the first take")
    upload(intake, intake.commit(first, OWNER, told, ready=False), b"the first take")
    intake.commit(first, OWNER, told, ready=False)
    second = first.model_copy(update={"revision": 2, "files": submission().files})
    upload(intake, intake.commit(second, OWNER, told))
    intake.commit(second, OWNER, told)

    sweep(database, objects, NOW)
    assert b"the first take" in bytes_of(objects).values()
    sweep(database, objects, NOW + timedelta(hours=2))
    assert sorted(bytes_of(objects).values()) == sorted([SOUND, SOUND[::-1]])
    assert list(objects.list("staging/")) == []


def test_a_pass_looks_through_a_part_of_many_and_each_part_has_its_turn(
    intake: Intake,
    database: Database,
    objects: Objects,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its work does not grow with what is kept; nothing that a row names is ever deleted."""
    monkeypatch.setattr(sweeping, "_A_PASS", 2)
    some = [submission() for _ in range(7)]
    for sent in some:
        upload(intake, intake.commit(sent, OWNER, told))
        intake.commit(sent, OWNER, told)
        place = f"recordings/{sent.id}/{sent.files[0].id}"
        objects.create(f"{place}/1.1-{'0' * 64}.original", b"an orphan")
    looked: list[set[str]] = []
    list_between = Objects.list_between

    def noted(self: Objects, *words: Any) -> Iterator[Item]:
        found = list(list_between(self, *words))
        if words[0] == "recordings/":
            looked.append({item.key.split("/")[1] for item in found})
        return iter(found)

    monkeypatch.setattr(Objects, "list_between", noted)
    while b"an orphan" in bytes_of(objects).values():
        assert len(looked) < 500  # four parts, by chance
        sweep(database, objects, NOW + timedelta(hours=2))

    assert set.union(*looked) == {sent.id for sent in some}
    assert {len(ids) for ids in looked} <= {1, 2}
    assert Counter(bytes_of(objects).values()) == {SOUND: 7, SOUND[::-1]: 7}


def test_a_sweeper_suspended_at_any_step_while_it_is_sent_again(
    database: Database, objects: Objects, keys: KeyRing, told: Told
) -> None:
    """What had expired when the sweeper looked is accepted when it goes on: nothing is lost."""
    calm = Intake(database, objects, Checking(), keys, IntakeSettings())
    later = NOW + timedelta(days=60)
    at = 1
    while True:
        sent = submission()
        upload(calm, calm.commit(sent, OWNER, told, ready=False))
        calm.commit(sent, OWNER, told, ready=False)

        def send_again() -> None:
            with database.reading() as tables:
                this = SUBMISSIONS.c.id == sent.id  # noqa: B023
                state = tables.execute(sa.select(SUBMISSIONS.c.state).where(this)).scalar()
            if state == "expired":
                upload(calm, calm.commit(sent, OWNER, told))  # noqa: B023
                assert calm.commit(sent, OWNER, told).receipt is not None  # noqa: B023

        countdown = Countdown(at, send_again)
        suspended: Any = Suspended(database, countdown), Suspended(objects, countdown)
        sweep(*suspended, later)

        standing = calm.commit(sent, OWNER, told)
        upload(calm, standing)
        assert calm.commit(sent, OWNER, told).receipt is not None
        sweep(database, objects, later)
        (stored,) = told.accepted[-1].recordings
        assert told.accepted[-1].submission == sent
        assert objects.read(stored.original) == SOUND, at
        assert objects.read(stored.audio or "") == SOUND[::-1], at
        if countdown.steps < at:
            break
        at += 1
    assert at > 6


def test_a_recording_that_comes_back_in_a_revision_has_objects_of_its_own(
    intake: Intake, objects: Objects, told: Told
) -> None:
    """Those of the first time may be about to be deleted as orphans."""
    first = submission()
    upload(intake, intake.commit(first, OWNER, told, ready=False))
    intake.commit(first, OWNER, told, ready=False)
    other = submission(b"another take").files
    second = first.model_copy(update={"revision": 2, "files": other})
    intake.commit(second, OWNER, told, ready=False)
    third = first.model_copy(update={"revision": 3})

    orphans = set(bytes_of(objects))
    upload(intake, intake.commit(third, OWNER, told))
    assert intake.commit(third, OWNER, told).receipt is not None

    (stored,) = told.accepted[0].recordings
    assert {stored.original, stored.audio}.isdisjoint(orphans)


def test_suspended_at_any_step_while_the_sweeper_runs(
    database: Database, objects: Objects, keys: KeyRing, told: Told
) -> None:
    """For a month: either it is accepted with every byte, or it is sent again and then accepted."""
    at = 1
    while True:
        sent = submission()
        later = NOW + timedelta(days=60)
        countdown = Countdown(at, lambda: sweep(database, objects, later))  # noqa: B023
        suspended: Any = Suspended(database, countdown), Suspended(objects, countdown)
        first = Intake(*suspended, Checking(), keys, IntakeSettings())
        calm = Intake(database, objects, Checking(), keys, IntakeSettings())
        upload(calm, calm.commit(sent, OWNER, told))

        try:
            standing = first.commit(sent, OWNER, told)
        except SendAgain:
            standing = calm.commit(sent, OWNER, told)
        for _ in range(3):
            if standing.receipt is None:
                upload(calm, standing)
                standing = calm.commit(sent, OWNER, told)

        assert standing.receipt is not None, at
        sweep(database, objects, later)
        (stored,) = told.accepted[-1].recordings
        assert told.accepted[-1].submission == sent
        assert objects.read(stored.original) == SOUND, at
        assert objects.read(stored.audio or "") == SOUND[::-1], at
        if countdown.steps < at:
            break
        at += 1
    assert at > 8  # announce, list, read, keep twice, note, accept
    with database.reading() as tables:
        states = tables.execute(sa.select(SUBMISSIONS.c.state)).scalars().all()
    assert set(states) == {"accepted"}


# --- spoken consents ----------------------------------------------------------------------------

CONSENT = b"I, somebody with a name, agree to take part"


@pytest.fixture
def consents(
    database: Database,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Objects:
    """The store for them: a folder beside SQLite, real S3 beside PostgreSQL."""
    if request.node.callspec.params["database"] == "sqlite":
        return Objects.open(str(tmp_path / "consents"), setting="a test")
    for name, value in request.getfixturevalue("s3").items():
        monkeypatch.setenv(name, value)
    return Objects.open(f"s3://spira/{uuid.uuid4().hex}", setting="a test")


@pytest.fixture
def sealing(database: Database, objects: Objects, consents: Objects, keys: KeyRing) -> Intake:
    """Intake that takes spoken consents."""
    return Intake(database, objects, Checking(), keys, IntakeSettings(), consents=consents)


def with_consent(consent: bytes = CONSENT) -> Submission:
    """A sentence and a spoken consent."""
    return said(submission(SOUND, consent), "sentence", "consent")


def said(sent: Submission, *utterances: str) -> Submission:
    """The same recordings, said to be these."""
    each = zip(sent.files, utterances, strict=True)
    files = tuple(file.model_copy(update={"utterance": utterance}) for file, utterance in each)
    return sent.model_copy(update={"files": files})


def all_bytes(place: Path) -> bytes:
    """Of every file below a folder."""
    return b"|".join(path.read_bytes() for path in place.rglob("*") if path.is_file())


def opened(consents: Objects, keys: KeyRing) -> list[bytes]:
    """Every spoken consent that is kept."""
    found = {item.key: consents.read(item.key) or b"" for item in consents.list("consents/")}
    return [keys.unseal(sealed, about=key) for key, sealed in found.items()]


def test_a_spoken_consent_is_nowhere_but_sealed_in_its_own_store(
    sealing: Intake,
    database: Database,
    objects: Objects,
    consents: Objects,
    keys: KeyRing,
    told: Told,
    tmp_path: Path,
) -> None:
    """As soon as it is stored, whatever else is still to come: no piece, no samples, no copy. It is
    described, accepted and named in the receipt as any other."""
    sent = with_consent()
    first = sealing.commit(sent, OWNER, told)
    upload(sealing, replace(first, recordings=first.recordings[1:]), CONSENT)
    assert CONSENT in all_bytes(tmp_path)

    early = sealing.commit(sent, OWNER, told)
    seen = [all_bytes(tmp_path)]
    upload(sealing, early, SOUND)
    receipt = sealing.commit(sent, OWNER, told).receipt
    seen.append(all_bytes(tmp_path))
    sweep(database, objects, NOW + timedelta(hours=2), consents=consents)
    seen.append(all_bytes(tmp_path))

    assert [one.state for one in early.recordings] == ["announced", "stored"]
    assert receipt is not None
    signed = {one.sha256: one.what for one in read_receipt(receipt, keys.public()).recordings}
    assert signed == {file.sha256: "taken" for file in sent.files}
    _, stored = told.accepted[0].recordings
    assert stored.found is not None
    assert (stored.audio, stored.audio_sha256) == (None, None)
    sealed = consents.read(stored.original)
    assert sealed is not None
    assert keys.unseal(sealed, about=stored.original) == CONSENT
    assert opened(consents, keys) == [CONSENT]
    assert sorted(bytes_of(objects).values()) == sorted([SOUND, SOUND[::-1]])
    for everything in seen:
        assert CONSENT not in everything
        assert CONSENT[::-1] not in everything


def test_a_piece_that_comes_after_everything_was_accepted_is_swept(
    sealing: Intake, database: Database, objects: Objects, told: Told
) -> None:
    """A connection that was given up may bring again what was discarded since."""
    sent = with_consent()
    first = sealing.commit(sent, OWNER, told)
    upload(sealing, first, SOUND, CONSENT)
    assert sealing.commit(sent, OWNER, told).receipt is not None
    sweep(database, objects, NOW)
    upload(sealing, first, SOUND, CONSENT)

    sweep(database, objects, NOW + timedelta(hours=2))

    assert list(objects.list("staging/")) == []


def test_a_spoken_consent_that_kills_its_check_is_sealed_too(
    sealing: Intake, objects: Objects, consents: Objects, keys: KeyRing, told: Told, tmp_path: Path
) -> None:
    """It proves that somebody agreed, whatever a decoder makes of it."""
    sound = b"check_failed of a consent"
    sent = with_consent(sound)
    upload(sealing, sealing.commit(sent, OWNER, told), SOUND, sound)

    assert sealing.commit(sent, OWNER, told).receipt is not None

    assert told.accepted[0].recordings[1].found is None
    assert opened(consents, keys) == [sound]
    assert sound not in all_bytes(tmp_path)


class Killed(Exception):
    """The process is no more."""


@pytest.mark.parametrize("happens", ["killed", "asleep for a month", "overtaken"])
def test_a_spoken_consent_survives_whatever_happens_before_any_step(
    happens: str,
    sealing: Intake,
    database: Database,
    objects: Objects,
    consents: Objects,
    keys: KeyRing,
    told: Told,
    tmp_path: Path,
) -> None:
    """A kill, the sweeper for a month, another process with the same manifest: it is accepted with
    every byte, and lies open nowhere once it was swept."""
    later = NOW + timedelta(days=60)
    at = 1
    while True:
        sent = with_consent(CONSENT + str(at).encode())
        sounds = SOUND, CONSENT + str(at).encode()

        def happen() -> None:
            if happens == "killed":
                raise Killed
            if happens == "overtaken":
                assert sealing.commit(sent, OWNER, told).receipt is not None  # noqa: B023
            else:
                sweep(database, objects, later, consents=consents)

        upload(sealing, sealing.commit(sent, OWNER, told, ready=False), *sounds)
        countdown = Countdown(at, happen)
        suspended: Any = Suspended(database, countdown), Suspended(objects, countdown)
        sealed: Any = Suspended(consents, countdown)
        first = Intake(*suspended, Checking(), keys, IntakeSettings(), consents=sealed)

        standing = Standing(1, None)
        with suppress(Killed, SendAgain):
            standing = first.commit(sent, OWNER, told)
        for _ in range(4):
            assert all(one.reason is None for one in standing.recordings), at
            if standing.receipt is None:
                upload(sealing, standing, *sounds)
                standing = sealing.commit(sent, OWNER, told)

        assert standing.receipt is not None, at
        sweep(database, objects, later, consents=consents)
        assert told.accepted[-1].submission == sent
        _, stored = told.accepted[-1].recordings
        data = consents.read(stored.original)
        assert data is not None, at
        assert keys.unseal(data, about=stored.original) == sounds[1], at
        assert CONSENT not in all_bytes(tmp_path), at
        if countdown.steps < at:
            break
        at += 1
    assert (
        at > 12
    )  # announce; list, read, keep twice, note; list, read, seal, note, discard; accept
    sweep(database, objects, later, consents=consents)
    assert len(opened(consents, keys)) == at


def test_a_spoken_consent_that_nobody_finishes_is_deleted(
    sealing: Intake, database: Database, objects: Objects, consents: Objects, told: Told
) -> None:
    """With its row, after its deadline; what was accepted stays, also for an empty database."""
    kept, left = with_consent(), with_consent()
    for sent in (kept, left):
        upload(sealing, sealing.commit(sent, OWNER, told, ready=False), SOUND, CONSENT)
        sealing.commit(sent, OWNER, told, ready=sent is kept)
    both = {item.key for item in consents.list("consents/")}
    empty = Database.open("sqlite://", what="away")
    empty.migrate(["spira.intake"])

    sweep(empty, objects, NOW + timedelta(days=31), consents=consents)
    assert {item.key for item in consents.list("consents/")} == both
    sweep(database, objects, NOW + timedelta(days=31), consents=consents)

    assert len(both) == 2
    (stays,) = [item.key for item in consents.list("consents/")]
    assert stays == told.accepted[0].recordings[1].original


def test_what_turns_out_to_be_a_spoken_consent_lies_open_for_an_hour_at_most(
    sealing: Intake,
    database: Database,
    objects: Objects,
    consents: Objects,
    keys: KeyRing,
    told: Told,
    tmp_path: Path,
) -> None:
    """A revision says what it is, and another that it was none: what lies where it does not belong
    is nobody's then."""
    wrong = said(with_consent(), "consent", "sentence")
    upload(sealing, sealing.commit(wrong, OWNER, told, ready=False), SOUND, CONSENT)
    sealing.commit(wrong, OWNER, told, ready=False)
    right = said(wrong, "sentence", "consent").model_copy(update={"revision": 2})

    standing = sealing.commit(right, OWNER, told)
    assert [one.offset for one in standing.recordings] == [0, len(CONSENT)]
    upload(sealing, standing, SOUND)
    assert sealing.commit(right, OWNER, told).receipt is not None
    assert len(opened(consents, keys)) == 2
    sweep(database, objects, NOW + timedelta(hours=2), consents=consents)

    assert opened(consents, keys) == [CONSENT]
    assert CONSENT not in all_bytes(tmp_path)
    assert CONSENT[::-1] not in all_bytes(tmp_path)


# --- a full disk --------------------------------------------------------------------------------


class Full:
    """A disk of 6 MB with a database and a store, and something that takes up the rest."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.database = Database.open(f"sqlite:///{place / 'intake.db'}", what="away")
        self.database.migrate(["spira.intake"])
        with self.database.writing() as tables:
            tables.execute(sa.text("CREATE TABLE told (id TEXT PRIMARY KEY)"))
        self.objects = Objects.open(str(place / "objects"), setting="a test")
        keys = KeyRing.open(place / "keys")
        self.intake = Intake(self.database, self.objects, Checking(), keys, IntakeSettings())

    def leave(self, pages: int | None) -> None:
        """So many pages of 4 kB are free; None: nothing is taken up."""
        ballast = self.place / "ballast"
        ballast.unlink(missing_ok=True)
        if pages is not None:
            free = shutil.disk_usage(self.place).free
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(4096, free - 4096 * pages))

    def send(self, sent: Submission, sound: bytes, told: Told) -> str | None:
        """As far as it comes; the receipt."""
        upload(self.intake, self.intake.commit(sent, OWNER, told), sound)
        return self.intake.commit(sent, OWNER, told).receipt


@pytest.fixture
def full(tmp_path: Path, mount: Callable[..., Path]) -> Full:
    """With room yet."""
    return Full(mount(tmp_path / "disk", "-t", "tmpfs", "-o", "size=6m", "none"))


def test_on_a_full_disk_it_is_refused_or_accepted_for_good(full: Full, told: Told) -> None:
    """With no page left, one, two and so on: whatever fails says that it is for now, and the same
    call goes on when there is room; nothing half-written is left."""
    receipts: dict[str, str] = {}
    refused: Counter[str] = Counter()
    some = []
    for pages in range(0, 48, 2):
        sound = bytes([pages]) * 30_000
        sent = submission(sound)
        some.append((sent, sound))
        full.leave(pages)
        try:
            receipts[sent.id] = full.send(sent, sound, told) or ""
        except TransientError as error:
            refused[type(error).__name__] += 1
        with full.database.reading() as tables:
            assert set(tables.execute(sa.select(told.table)).scalars()) == set(receipts)
    early = dict(receipts)

    full.leave(None)
    for sent, sound in some:
        receipts[sent.id] = full.send(sent, sound, told) or ""

    assert {*refused} == {"StorageFull"}  # also where it was the database that had no room
    assert refused["StorageFull"] >= 4
    assert 3 <= len(early) < len(some)
    assert all(receipts.values())
    assert early.items() <= receipts.items()
    sweep(full.database, full.objects, NOW + timedelta(hours=2))
    left = [path for path in (full.place / "objects" / "recordings").rglob("*") if path.is_file()]
    assert sorted(path.read_bytes() for path in left) == sorted(
        data for _, sound in some for data in (sound, sound[::-1])
    )


def test_the_sweeper_frees_a_full_disk(full: Full, told: Told) -> None:
    """Of the pieces of what was accepted, and then of what nobody finished; what was refused is
    accepted, and what has expired can be sent again."""
    sound = bytes(200_000)
    kept, unfinished, last = (submission(sound) for _ in range(3))
    receipt = full.send(kept, sound, told)
    upload(full.intake, full.intake.commit(unfinished, OWNER, told), sound)
    full.leave(0)
    with pytest.raises(TransientError):
        full.send(last, sound, told)
    with pytest.raises(TransientError), full.database.writing() as tables:
        tables.execute(sa.text("INSERT INTO told VALUES (hex(zeroblob(50000)))"))

    sweep(full.database, full.objects, NOW + timedelta(days=31))

    assert shutil.disk_usage(full.place).free > 1.5 * len(sound)
    full.leave(None)
    assert full.send(last, sound, told)
    assert full.send(unfinished, sound, told)
    assert full.intake.commit(kept, OWNER, told).receipt == receipt is not None
