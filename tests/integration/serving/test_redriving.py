"""A redrive checks a recording again whose check died: on real databases and a real folder."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import soundfile
import uuid_utils
from found import found
from suspended import Countdown, Suspended

from spira.audio.decode import decode
from spira.cli import main
from spira.domain.draws import draws
from spira.domain.errors import InputError, IntegrityError, SpiraError, TransientError
from spira.domain.forms import check
from spira.domain.submissions import FormValues, RecordingFile, Submission
from spira.domain.vitals import DEFAULT_VITAL_RULES
from spira.intake import audit
from spira.intake.checking import Found, Refused
from spira.intake.keys import KeyRing
from spira.intake.rechecking import check_again, recordings_of
from spira.intake.settings import IntakeSettings
from spira.intake.submissions import Intake, Owner
from spira.intake.sweeping import sweep
from spira.serving.assessments import Assessments
from spira.serving.forms import ASSESSMENT_1
from spira.serving.messages import Reply
from spira.serving.redriving import redrive
from spira.serving.results import Results
from spira.serving.taking import taken
from spira.stores.database import Database
from spira.stores.objects import Objects
from spira.wiring import ROOMS

NOW = datetime.now(UTC)
LATER = NOW + timedelta(hours=2)  # for the sweeper: whatever nobody names is old enough
SOUND = b"the bytes of a recording"
Failed = Callable[..., str]


class Refusing:
    """A check that ends so; by default it dies."""

    def __init__(self, reason: str = "check_failed") -> None:
        self._reason = reason

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, *, unfinished: bool = False
    ) -> Found | Refused:
        return Refused(reason=self._reason, detail="as it says")  # type: ignore[arg-type]


class Decoding:
    """A decoder that was mended: the samples are the bytes from the end, and a word of its own."""

    def __init__(self, word: bytes = b"") -> None:
        self._word = word

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, *, unfinished: bool = False
    ) -> Found | Refused:
        return found(b"".join(pieces)[::-1] + self._word)


@pytest.fixture
def failed(database: Database, objects: Objects, tmp_path: Path) -> Failed:
    """`failed()`: an assessment that was accepted, and failed as its check had died; its id."""
    keys = KeyRing.open(tmp_path / "keys")
    return lambda: fail(database, objects, keys, SOUND, 6.0)


def fail(
    database: Database, objects: Objects, keys: KeyRing, sound: bytes, duration_s: float
) -> str:
    """Send a sentence whose check dies; the assessment's id."""
    file = RecordingFile(
        id=str(uuid_utils.uuid7()),
        utterance="sentence",
        sha256=hashlib.sha256(sound).hexdigest(),
        n_bytes=len(sound),
        duration_s=duration_s,
        recorded_at=NOW,
    )
    sent = Submission(
        kind="assessment",
        id=str(uuid_utils.uuid7()),
        revision=1,
        form=FormValues(id="assessment", version=1, values={}),
        files=(file,),
    )
    intake = Intake(database, objects, Refusing(), keys, IntakeSettings())
    filled = check(ASSESSMENT_1, {"language": "pt-BR"})
    on_accept = taken(DEFAULT_VITAL_RULES, filled, (), "token 1")
    owner = Owner("ward", "a secret of the device")
    (needed,) = intake.commit(sent, owner, on_accept).recordings
    intake.uploads.append(needed.upload, 0, sound)
    assert intake.commit(sent, owner, on_accept).receipt is not None
    return sent.id


def again(database: Database, objects: Objects, letter: int, checker: Refusing | Decoding) -> str:
    """Redrive it with this check."""
    return redrive(
        database,
        objects,
        lambda: nullcontext(checker),
        letter,
        by="the lead",
        why="it was mended",
        now=NOW,
    )


def state_of(database: Database, assessment: str) -> str:
    """How it stands."""
    row = Assessments(database).about(assessment)
    assert row is not None
    return str(row.state)


def stored(objects: Objects) -> dict[str, bytes | None]:
    """Every final object."""
    return {item.key: objects.read(item.key) for item in objects.list("recordings/")}


def test_a_recording_whose_check_died_is_checked_again_and_answered(
    database: Database, objects: Objects, failed: Failed, reply_to: Callable[..., Reply]
) -> None:
    """The same bytes; its samples stay, and who did it and why is in the audit."""
    one = failed()
    assessments = Assessments(database)
    (letter,) = assessments.dead_letters()

    assert (letter.kind, state_of(database, one)) == ("input", "failed")
    assert again(database, objects, letter.id, Decoding()) == "queued"
    sweep(database, objects, LATER)
    (ask,) = assessments.lease(in_flight=9, lease=timedelta(minutes=1), now=NOW)

    assert ask.assessment == one
    assert objects.read(ask.audio) == SOUND[::-1]
    assert ask.sha256 == hashlib.sha256(SOUND[::-1]).hexdigest()
    assert sorted(stored(objects).values()) == sorted([SOUND, SOUND[::-1]])  # type: ignore[type-var]
    assert Results(assessments).write(reply_to(one, ask.attempt))
    assert state_of(database, one) == "completed"
    assert assessments.dead_letters() == []
    with pytest.raises(InputError, match="none that can be asked again"):
        again(database, objects, letter.id, Decoding())
    with database.reading() as tables:
        audit.verify(tables)
        rows = [json.loads(line) for line in audit.export(tables)]
    (row,) = [row for row in rows if row["what"] == "dead letter redriven"]
    assert (row["who"], row["which"], row["why"]) == ("the lead", one, "it was mended")


@pytest.mark.parametrize(
    ("reason", "error", "said"),
    [
        ("gone", IntegrityError, "not in the store; restore it"),
        ("wrong_digest", IntegrityError, "as it says; restore it"),
        ("check_failed", InputError, "mend what its check dies of, or raise the limits"),
        ("undecodable", InputError, r"cannot be used \(as it says\); record again"),
    ],
)
def test_what_cannot_be_checked_again_says_why_and_stays_failed(
    reason: str,
    error: type[SpiraError],
    said: str,
    database: Database,
    objects: Objects,
    failed: Failed,
) -> None:
    """It can be redriven when that was mended."""
    one = failed()
    (letter,) = Assessments(database).dead_letters()
    ((original, _),) = stored(objects).items()
    if reason == "gone":
        objects.delete([original])

    with pytest.raises(error, match=f"^{original}: .*{said}"):
        again(database, objects, letter.id, Refusing(reason))

    assert state_of(database, one) == "failed"
    assert Assessments(database).dead_letters() == [letter]
    objects.keep(original, SOUND)
    assert again(database, objects, letter.id, Decoding()) == "queued"


@pytest.mark.parametrize("other", ["redrives it too", "is killed before the end"])
def test_suspended_at_any_step_while_the_sweeper_runs_and_somebody_else_redrives(
    other: str, database: Database, objects: Objects, failed: Failed
) -> None:
    """With another decoder: one of them is asked about, with its own samples; none else stay."""
    at = 1
    while True:
        one = failed()
        (letter,) = Assessments(database).dead_letters()

        def meanwhile() -> None:
            sweep(database, objects, LATER)
            with suppress(TransientError, InputError):
                if other == "redrives it too":
                    again(database, objects, letter.id, Decoding(b"2"))  # noqa: B023
                else:
                    (stored,) = recordings_of(database, one)  # noqa: B023
                    check_again(database, objects, Decoding(b"2"), stored, unfinished=False)
            sweep(database, objects, LATER)

        countdown = Countdown(at, meanwhile)
        suspended = Suspended(database, countdown), Suspended(objects, countdown)
        with suppress(TransientError, InputError):
            again(*suspended, letter.id, Decoding(b"1"))  # type: ignore[arg-type]
        if state_of(database, one) == "failed":
            again(database, objects, letter.id, Decoding(b"1"))
        sweep(database, objects, LATER)

        (ask,) = Assessments(database).lease(in_flight=99, lease=timedelta(hours=1), now=NOW)
        data = objects.read(ask.audio)
        assert data is not None, at
        assert (ask.assessment, ask.sha256) == (one, hashlib.sha256(data).hexdigest())
        assert len(list(objects.list(f"recordings/{one}/"))) == 2, at
        if countdown.steps < at:
            break
        at += 1
    assert at > 6  # the letter, its recordings, read, name, keep, confirm


def test_the_command_checks_in_a_limited_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With too little time it says so, and how to give more. With enough there are samples, and of
    noise alone there is an answer at once."""
    home = tmp_path / "home"
    home.mkdir()
    database = Database.open(f"sqlite:///{home / 'spira.db'}", what="away")
    database.migrate(ROOMS)
    objects = Objects.open(str(home / "recordings"), setting="a test")
    noise = draws(1, "test redriving").uniform(-0.1, 0.1, 3 * 16_000)
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)
    sound = (tmp_path / "noise.wav").read_bytes()
    one = fail(database, objects, KeyRing.open(home / "keys"), sound, 3.0)

    def run() -> tuple[int, str]:
        words = ("serve", "dead-letters", "redrive", "1", "--reason", "more time")
        with pytest.raises(SystemExit) as ended:
            main(["--home", str(home), *words])
        return int(ended.value.code or 0), "".join(capfd.readouterr())

    monkeypatch.setenv("SPIRA_INTAKE__CHECKING", '{"wall_s": 0.001}')
    code, said = run()
    assert code == 2
    assert "it took longer than 0.001 s; mend what its check dies of, or raise" in said
    monkeypatch.delenv("SPIRA_INTAKE__CHECKING")
    code, said = run()

    assert (code, said) == (0, "1: answered\n")
    row = Assessments(database).about(one)
    assert row is not None
    answer = json.loads(row.answer)
    assert (row.state, answer["outcome"]) == ("completed", "inconclusive")
    assert "little_speech" in [said["finding"] for said in answer["findings"]]
    assert objects.read(row.audio) == decode(tmp_path / "noise.wav").astype("<f4").tobytes()
