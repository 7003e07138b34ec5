"""A server and a phone that say aloud whatever they acknowledge, for test_power_cut.

    acknowledging.py FOLDER all|take|WHAT IS LEFT OUT

    all     everything that both do
    take    the server takes one assessment, or tells of it again
    …       the phone records and the server takes one, without syncs that are needed

Everything is made below FOLDER: SERVER is the data folder of Serving, PHONE a device's outbox.
What is said is a line of JSON on standard output, written as soon as a caller could know it.
"""

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from found import found

from spira.console import Console
from spira.device import outbox
from spira.device.line import Pace
from spira.domain.forms import check
from spira.domain.submissions import FormValues, RecordingFile, Submission
from spira.domain.vitals import DEFAULT_VITAL_RULES
from spira.intake import keys
from spira.intake.checking import Found, Refused
from spira.intake.submissions import Intake, Owner
from spira.intake.sweeping import sweep
from spira.intake.tokens import Tokens
from spira.serving.assessments import Assessments
from spira.serving.client import Device, Recorded
from spira.serving.forms import ASSESSMENT_1
from spira.serving.taking import taken
from spira.settings import Settings
from spira.stores import database, objects
from spira.wiring import Application

SITE = "ward"
OWNER = Owner(SITE, "a secret of the device")
RECORD = "123.456-7"
SERVER, PHONE = Path("a machine/server"), Path("a pocket/phone")
NOW = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)
N_ASSESSMENTS = 3
FORM = {
    "record_number": RECORD,
    "age": 63,
    "language": "pt-BR",
    "tracheostomy": False,
    "intubated": False,
    "patient_informed": True,
    "research_consent": False,
}
_PIECE_BYTES = 3000


class Checking:
    """Checks digests only; the samples are the bytes backwards."""

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, *, unfinished: bool = False
    ) -> Found | Refused:
        data = b"".join(pieces)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            return Refused(reason="wrong_digest", detail="other bytes")
        return found(data[::-1])


def sound(number: int, utterance: str) -> bytes:
    """The bytes of a recording, of a piece and a bit."""
    return hashlib.shake_256(f"{number} {utterance}".encode()).digest(_PIECE_BYTES + 1 + number)


def submission(number: int) -> Submission:
    """The same assessment whenever it is asked for."""
    files = tuple(
        RecordingFile(
            id=f"01938f00-0000-7000-8000-0000000{place}{number:04d}",
            utterance=utterance,
            sha256=hashlib.sha256(sound(number, utterance)).hexdigest(),
            n_bytes=len(sound(number, utterance)),
            duration_s=6,
            recorded_at=NOW,
        )
        for place, utterance in ((1, "sentence"), (2, "vowel"))
    )
    return Submission(
        kind="assessment",
        id=f"01938f00-0000-7000-8000-{number:012d}",
        revision=1,
        form=FormValues(id="assessment", version=1, values={"age": 63}),
        files=files,
    )


def opened(home: Path) -> Application:
    """Serving's parts on a data folder."""
    return Application(Settings(home=home), Console())


def intake_of(app: Application) -> Intake:
    """Intake on them."""
    return Intake(app.database, app.recordings, Checking(), app.keys, app.settings.intake)


def say(what: str, **about: Any) -> None:
    """Acknowledge it."""
    os.write(1, json.dumps({"what": what, **about}).encode() + b"\n")


def take(app: Application, number: int, say: Callable[..., None] = say) -> str:
    """Bring one assessment to its receipt, from wherever it stands; the receipt."""
    intake, sent = intake_of(app), submission(number)
    record = app.keys.hash_record(SITE, RECORD)
    say("record", hash=record)
    on_accept = taken(
        DEFAULT_VITAL_RULES, check(ASSESSMENT_1, {"age": 63}), [record], "token of a test"
    )
    standing = intake.commit(sent, OWNER, on_accept)
    say("announced", id=sent.id)
    for one in standing.recordings:
        file = next(file for file in sent.files if file.id == one.id)
        data, offset = sound(number, file.utterance), one.offset
        while one.state == "announced" and offset < one.n_bytes:
            piece = data[offset : offset + _PIECE_BYTES]
            offset = intake.uploads.append(one.upload, offset, piece)
            say("offset", id=sent.id, upload=one.upload, data=data[:offset].hex())
    receipt = intake.commit(sent, OWNER, on_accept).receipt
    assert receipt is not None
    say("receipt", number=number, id=sent.id, receipt=receipt)
    return receipt


def serve(home: Path) -> None:
    """Assessments in, answers out; keys made and rotated, a checkpoint, a sweep."""
    app = opened(home)
    app.prepare()
    app.check_keys()
    assessments = Assessments(app.database)
    for number in range(N_ASSESSMENTS):
        take(app, number)
        id = submission(number).id
        answer = {"outcome": "inconclusive", "number": number}
        assert assessments.complete(id, 1, answer, NOW)
        say("answer", id=id, answer=answer)
        if number == 0:
            say("key", id=app.keys.rotate("receipts").id)
            with app.database.reading() as tables:
                tables.exec_driver_sql("PRAGMA wal_checkpoint(RESTART)")
        if number == 1:
            sweep(app.database, app.recordings, NOW)
            assert assessments.void(id, SITE, "the wrong patient", "a test") is not None
            say("voided", id=id)


def record(folder: Path) -> None:
    """A phone records two assessments, revises one, and is to have it voided."""
    with Device(folder) as phone:
        for number in (100, 101):
            recorded = Recorded("sentence", sound(number, "sentence"), 6, NOW)
            id = phone.record(FORM, [recorded])
            say("recorded", id=id)
        phone.revise(id, {**FORM, "age": 36})
        say("revised", id=id, age=36)
        phone.void(id, "the wrong patient")
        say("to be voided", id=id)


def send(folder: Path, home: Path) -> None:
    """The phone meets the API, and holds its receipts in the end."""
    app = opened(home)
    token = Tokens(app.database).create(SITE)
    with listening(app) as url, Device(folder, pace=Pace(first_pause_s=0.05)) as phone:
        assert phone.sync(url, token).complete
        for id in phone.ids():
            say("sent", id=id, receipt=phone.receipt(id))


@contextmanager
def listening(app: Application) -> Iterator[str]:
    """The Client API on a port of its own."""
    import uvicorn

    from spira.serving.api import Parts, create_api

    parts = Parts(
        intake=intake_of(app),
        assessments=Assessments(app.database),
        tokens=Tokens(app.database),
        keys=app.keys,
        settings=app.settings.serving,
        thresholds=app.settings.intake.checking.quality,
    )
    server = uvicorn.Server(uvicorn.Config(create_api(parts), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


def write_half(path: Path, data: bytes) -> None:
    """As `write_whole` without its syncs."""
    path.touch(0o600)
    path.write_bytes(data)


def leave_out(what: str) -> None:
    """Break it on purpose: the proof has to find out."""
    if what == "syncs of objects":
        objects.Objects._sync = lambda *_: None  # type: ignore[method-assign]
    elif what == "syncs of keys":
        keys.sync_path = lambda _: None  # type: ignore[attr-defined]
        keys.write_whole = write_half  # type: ignore[attr-defined]
    elif what == "syncs of the phone's folders":
        outbox.sync_path = lambda _: None  # type: ignore[attr-defined]
    elif what == "syncs of commits":
        as_it_is = database._on_sqlite

        def weaker(connection: Any, record: Any) -> None:
            as_it_is(connection, record)
            connection.execute("PRAGMA synchronous=NORMAL")

        database._on_sqlite = weaker
    else:
        raise ValueError(what)


def main(folder: Path, what: str) -> None:
    """Run it."""
    # Standard output is for what is acknowledged.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if what not in ("all", "take"):
        leave_out(what)
    if what != "take":
        record(folder / PHONE)
    if what == "all":
        serve(folder / SERVER)
        send(folder / PHONE, folder / SERVER)
    else:
        app = opened(folder / SERVER)
        app.prepare()
        take(app, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
