"""The spoken consent: read back by the study's lead, audited, and by nobody in any other way."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uuid_utils
from found import found

from spira import cli
from spira.collection.consents import read_consent
from spira.collection.visits import Visits
from spira.console import Console
from spira.domain.errors import InputError, IntegrityError
from spira.domain.forms import Filled
from spira.domain.submissions import FormValues, RecordingFile, Submission, Visit
from spira.intake import audit
from spira.intake.checking import Found
from spira.intake.keys import KeyRing
from spira.intake.settings import IntakeSettings
from spira.intake.submissions import Intake, Owner
from spira.settings import read_settings
from spira.stores.database import Database
from spira.stores.objects import Objects
from spira.wiring import Application

CONSENT = b"I, somebody with a name, agree to take part"
NOW = datetime.now(UTC)
OWNER = Owner("ward-a", "a secret of the device")
FORM = Filled(values={}, kept={}, identifying={}, refused={}, marks={})


class Sounds:
    """A check that finds sound in everything."""

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, *, unfinished: bool = False
    ) -> Found:
        """Its samples are its bytes."""
        return found(b"".join(pieces))


class Ward:
    """Where visits come from."""

    def __init__(
        self, database: Database, objects: Objects, consents: Objects, keys: KeyRing
    ) -> None:
        self.database, self.consents, self.keys = database, consents, keys
        self.visits = Visits(database, keys.wrapped)
        self._intake = Intake(
            database, objects, Sounds(), keys, IntakeSettings(), consents=consents
        )

    def visit(self, *consents: bytes) -> Submission:
        """One that was accepted, with a sentence and these spoken consents."""
        sounds = {"sentence": [b"a sentence"], "consent": consents}
        sent = [(utterance, sound) for utterance, said in sounds.items() for sound in said]
        files = [
            RecordingFile(
                id=str(uuid_utils.uuid7()),
                utterance=utterance,
                sha256=hashlib.sha256(sound).hexdigest(),
                n_bytes=len(sound),
                duration_s=6,
                recorded_at=NOW,
            )
            for utterance, sound in sent
        ]
        visit = Submission(
            kind="visit",
            id=str(uuid_utils.uuid7()),
            revision=1,
            form=FormValues(id="visit", version=1, values={}),
            files=tuple(files),
            visit=Visit(study="spira", study_version=1, participant=str(uuid_utils.uuid7())),
        )
        take = self.visits.taken(FORM, (), "token 1")
        standing = self._intake.commit(visit, OWNER, take)
        where = {one.id: one.upload for one in standing.recordings}
        for file, (_, sound) in zip(files, sent, strict=True):
            self._intake.uploads.append(where[file.id], 0, sound)
        assert self._intake.commit(visit, OWNER, take).receipt is not None
        return visit

    def read(self, visit: str, recording: str | None = None) -> bytes:
        """As the study's lead does."""
        return read_consent(
            self.database,
            self.consents,
            self.keys,
            visit,
            recording=recording,
            by="ana",
            why="the ethics committee asks",
        )

    def audited(self) -> list[dict[str, Any]]:
        """Rows of the audit that say that one was read."""
        with self.database.reading() as tables:
            rows = [json.loads(line) for line in audit.export(tables)]
        return [row for row in rows if row["what"] == "spoken consent read"]


@pytest.fixture
def ward(
    database: Database,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Ward:
    """With SQLite and folders, or PostgreSQL and S3."""
    stores = [str(tmp_path / name) for name in ("recordings", "consents")]
    if request.node.callspec.params["database"] == "postgres":
        stores = [f"s3://spira/{tmp_path.name}/{name}" for name in ("recordings", "consents")]
        for name, value in request.getfixturevalue("s3").items():
            monkeypatch.setenv(name, value)
    objects, consents = (Objects.open(one, setting="a test") for one in stores)
    return Ward(database, objects, consents, KeyRing.open(tmp_path / "keys"))


def test_a_spoken_consent_is_read_back_as_it_was_sent_and_audited(ward: Ward) -> None:
    """Also after its key was rotated; who, why and which visit is in the audit, each time."""
    first = ward.visit(CONSENT)
    ward.keys.rotate("consents")
    second = ward.visit(b"another one")

    assert [ward.read(first.id), ward.read(second.id)] == [CONSENT, b"another one"]

    said = {name: [row[name] for row in ward.audited()] for name in ("who", "role", "which", "why")}
    assert said == {
        "who": ["ana"] * 2,
        "role": ["study lead"] * 2,
        "which": [first.id, second.id],
        "why": ["the ethics committee asks"] * 2,
    }


def test_of_several_one_is_named(ward: Ward) -> None:
    """None is chosen for whoever asks; the sentence says which there are."""
    visit = ward.visit(CONSENT, b"and again")
    _, first, second = visit.files

    with pytest.raises(InputError, match=rf"--recording says which.*{first.id}, {second.id}"):
        ward.read(visit.id)
    with pytest.raises(InputError, match="--recording says which"):
        ward.read(visit.id, visit.files[0].id)

    assert ward.read(visit.id, second.id) == b"and again"


def test_nothing_that_makes_datasets_or_pages_is_told_of_a_spoken_consent(ward: Ward) -> None:
    """It is a recording of its visit for nobody but who took it in."""
    visit = ward.visit(CONSENT)
    none = ward.visit()

    found = ward.visits.recordings([visit.id, none.id])

    assert [[one["utterance"] for one in mine] for mine in found.values()] == [["sentence"]] * 2
    for without in (none.id, "nobody's"):
        with pytest.raises(InputError, match="there is none with a spoken consent"):
            ward.read(without)


def test_a_spoken_consent_that_was_tampered_with_is_told(ward: Ward) -> None:
    """Changed, put in another's place, or gone: nothing is given, and nothing audited as read."""
    mine, others = ward.visit(CONSENT), ward.visit(b"of another person")
    keys = {item.key.split("/")[1]: item.key for item in ward.consents.list("consents/")}
    sealed = ward.consents.read(keys[mine.id]) or b""
    other = ward.consents.read(keys[others.id]) or b""

    for data in (sealed[:-1] + bytes([sealed[-1] ^ 1]), other, CONSENT, sealed[:40]):
        ward.consents.keep(keys[mine.id], data)
        with pytest.raises(IntegrityError, match="is not what was sealed; restore it"):
            ward.read(mine.id)
    ward.consents.delete([keys[mine.id]])
    with pytest.raises(IntegrityError, match="is not in the store of consents"):
        ward.read(mine.id)

    assert ward.audited() == []
    ward.consents.keep(keys[mine.id], sealed)
    assert ward.read(mine.id) == CONSENT


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def app(tmp_path: Path) -> Application:
    """On a data folder."""
    app = Application(read_settings(home=tmp_path / "home"), Console())
    app.prepare()
    return app


@pytest.fixture
def visit(app: Application) -> str:
    """Of somebody whose consent was recorded."""
    return Ward(app.database, app.collected, app.consents, app.keys).visit(CONSENT).id


def test_a_lead_has_it_written_to_a_new_file_for_their_eyes_alone(
    app: Application, visit: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written over, and nothing audited that was not given; damage is exit code 70."""

    def consent(file: str, **more: str) -> int:
        words = ["--home", str(app.home), "study", "consent", visit, "--out", str(tmp_path / file)]
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--reason", "asked by the committee", "--by", "ana", "--json"])
        return int(ended.value.code or 0)

    codes = [consent("heard"), consent("heard"), consent("nowhere/heard")]
    out, err = capfd.readouterr()
    (sealed,) = (path for path in (app.home / "consents").rglob("*") if path.is_file())
    sealed.write_bytes(sealed.read_bytes()[:-1])
    codes.append(consent("damaged"))

    assert codes == [0, 2, 2, 70]
    assert json.loads(out) == {
        "visit": visit,
        "file": str(tmp_path / "heard"),
        "n_bytes": len(CONSENT),
    }
    assert err.count("name a new file, in a folder that is there") == 2
    assert (tmp_path / "heard").read_bytes() == CONSENT
    assert (tmp_path / "heard").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "damaged").exists()
    ward = Ward(app.database, app.collected, app.consents, app.keys)
    assert [(row["who"], row["which"]) for row in ward.audited()] == [("ana", visit)]


def test_no_service_starts_where_the_key_of_consents_was_lost(app: Application, visit: str) -> None:
    """Else it would make another, and the backup could not be restored beside that."""
    app.check_keys()
    (lost,) = app.keys_folder.glob("consents-*.json")
    lost.unlink()

    with pytest.raises(IntegrityError, match=rf"key '{lost.stem}' was used and is not here"):
        Application(app.settings, Console()).check_keys()
