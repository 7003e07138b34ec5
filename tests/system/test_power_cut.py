"""What was acknowledged is on stable storage: a power cut behind every line of an strace log.

SPIRA_POWER_CUT_SEED replays what survives of what was not synced; the first test prints it.
"""

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import acknowledging
import pytest
import sqlalchemy as sa
from acknowledging import N_ASSESSMENTS, PHONE, SERVER, opened, submission, take
from power_cut import STRACE, Disk, calls, traced

from spira.domain.errors import SpiraError
from spira.intake import audit
from spira.intake.receipts import read_receipt
from spira.intake.submissions import audio_of, original_of
from spira.intake.tables import RECORDINGS
from spira.intake.uploads import Uploads
from spira.serving.client import Device
from spira.wiring import Application

Rows = dict[Any, Any]  # by id
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # what is laid out needs no disk

pytestmark = pytest.mark.skipif(STRACE is None, reason="strace is not installed")


class Lost(AssertionError):
    """Something that was acknowledged is not there."""


def run(root: Path, log: Path, what: str, *, kill_at: int | None = None) -> None:
    """Let it acknowledge what it does, and write down how."""
    root.mkdir(exist_ok=True)
    script = str(Path(acknowledging.__file__))
    words = traced(log, sys.executable, script, str(root), what, kill_at=kill_at)
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == (0 if kill_at is None else -signal.SIGKILL), ended.stderr


def prove(disk: Disk, log: Path, torn: random.Random) -> int:
    """Cut the power behind every line; how many times there was something else to be lost.

    raises    Lost
    """
    n_cuts = 0
    for _ in disk.replay(log):
        told = [json.loads(line) for line in disk.said]
        for survives in (None, torn):
            with TemporaryDirectory(dir=_MEMORY, prefix="spira-power-cut-") as place:
                left = Path(place, "left")
                disk.leave(left, survives)
                require_all(left, told, go_on=survives is not None)
        n_cuts += 1
    return n_cuts


def require_all(left: Path, told: list[dict[str, Any]], *, go_on: bool) -> None:
    """Everything that was told is in what a power cut has left.

    go_on     and the server goes on from there: whatever it was told before is told again
    raises    Lost
    """
    try:
        sent, answered = rows_left(left / SERVER / "spira.db")
        app = opened(left / SERVER)
        for one in told:
            require_kept(app, one, sent.get(one.get("id")), answered.get(one.get("id")))
        require_phone(left / PHONE, told, sent, answered)
        for one in sent.values():
            if one["state"] == "accepted":
                require_objects(app, one)
        if go_on:
            require_going_on(app, sent)
    except (SpiraError, sqlite3.Error) as error:
        raise Lost(f"it cannot be opened: {error}") from error


def rows_left(file: Path) -> tuple[Rows, Rows]:
    """Submissions and assessments by their ids, of a database that is whole, or was none yet."""
    if not file.exists():
        return {}, {}
    with closing(sqlite3.connect(file)) as tables:
        (found,) = tables.execute("PRAGMA integrity_check").fetchone()
        require(found == "ok", f"the database is whole: {found}")
        if tables.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            return {}, {}
        tables.row_factory = sqlite3.Row
        sent = tables.execute("SELECT * FROM intake_submissions").fetchall()
        answered = tables.execute("SELECT * FROM serving_assessments").fetchall()
    return {row["id"]: row for row in sent}, {row["id"]: row for row in answered}


def require_kept(app: Application, one: dict[str, Any], sent: Any, answered: Any) -> None:
    """What the server has acknowledged of an assessment; its rows, where there are any."""
    match one["what"]:
        case "record":
            require(app.keys.wrapped(one["hash"]) == one["hash"], "the key of record numbers")
        case "key":
            require(one["id"] in {key.id for key in app.keys.list_keys()}, "a key that was made")
        case "announced":
            require(sent is not None, "the row of a manifest")
        case "offset":
            require(sent is not None, "the row of an upload")
            if sent["state"] == "announced":
                pieces = Uploads(app.recordings).pieces(one["upload"])
                require(b"".join(pieces).hex().startswith(one["data"]), "uploaded bytes")
        case "receipt":
            require(sent is not None and sent["receipt"] == one["receipt"], "the row of a receipt")
            read_receipt(one["receipt"], app.keys.public())
        case "answer":
            require(answered is not None and answered["answer"] is not None, "an answer")
            require(json.loads(answered["answer"]) == one["answer"], "the answer that was given")
        case "voided":
            require(answered is not None and answered["voided_at"] is not None, "that it is void")


def require_objects(app: Application, accepted: Any) -> None:
    """Every byte of an accepted submission, as it was sent and as samples."""
    query = sa.select(RECORDINGS).where(RECORDINGS.c.submission == accepted["id"])
    with app.database.reading() as tables:
        rows = tables.execute(query).all()
    sent = {file["id"]: file["sha256"] for file in json.loads(accepted["manifest"])["files"]}
    require({row.id: row.sha256 for row in rows} == sent, "the rows of its recordings")
    for row in rows:
        original = app.recordings.read(original_of(row.place))
        require(original is not None, "a recording")
        require(hashlib.sha256(original).hexdigest() == row.sha256, "its bytes as they were sent")
        samples = app.recordings.read(audio_of(row.place, row.audio_sha256))
        require(samples == original[::-1], "its samples")


def require_phone(folder: Path, told: list[dict[str, Any]], sent: Rows, answered: Rows) -> None:
    """What the phone has acknowledged; what it has let go, the server has."""
    with Device(folder) as phone:
        for one in told:
            if one["what"] in ("recorded", "revised", "sent"):
                require(one["id"] in phone.ids(), "an assessment on the phone")
            if one["what"] == "revised":
                require(phone.get(one["id"]).form.values["age"] == one["age"], "its revision")
            if one["what"] == "to be voided":
                there = answered.get(phone.get(one["id"]).id)
                done = there is not None and there["voided_at"] is not None
                kept = (folder / "voids" / f"{one['id']}.json").exists()
                require(done or kept, "what is to be voided")
            if one["what"] == "sent":
                require(phone.receipt(one["id"]) == one["receipt"], "its receipt on the phone")
        for name in phone.ids():
            kept, receipt = phone.get(name), phone.receipt(name)
            if receipt is None:  # raises where a byte of it is another
                assert all(phone.audio(name, file.id) for file in kept.recordings)
            else:
                there = sent.get(kept.id)
                require(there is not None and there["receipt"] == receipt, "what a phone let go")


def require_going_on(app: Application, before: Rows) -> None:
    """The assessment that was under way comes to its receipt; the first one, to the one it had."""
    app.prepare()
    there = [before.get(submission(number).id) for number in range(N_ASSESSMENTS)]
    receipts = [None if row is None else row["receipt"] for row in there]
    under_way = receipts.index(None) if None in receipts else 0
    receipt = take(app, under_way, lambda *_, **__: None)
    require(receipts[under_way] in (None, receipt), "the receipt that there was, given again")
    with app.database.reading() as tables:
        audit.verify(tables)


def require(there: bool, what: str) -> None:
    """raises    Lost"""
    if not there:
        raise Lost(what)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A server and a phone that have done all they do: their disk, and the log."""
    place = tmp_path_factory.mktemp("everything")
    run(place / "disk", place / "log", "all")
    return place / "disk", place / "log"


def test_what_was_acknowledged_survives_a_power_cut_behind_every_call(
    everything: tuple[Path, Path],
) -> None:
    """Folder, database, keys and the phone's outbox; and from what is left, it goes on."""
    seed = int(os.environ.get("SPIRA_POWER_CUT_SEED", random.randrange(10_000)))
    print(f"SPIRA_POWER_CUT_SEED={seed}")
    root, log = everything
    disk = Disk(root)

    n_cuts = prove(disk, log, random.Random(seed))

    print(f"{len(log.read_text().splitlines())} lines, {n_cuts} cuts that differ")
    assert n_cuts > 100
    assert disk.is_as_on_disk()  # the log has told everything
    assert {json.loads(line)["what"] for line in disk.said} == {
        *("record", "key", "announced", "offset", "receipt", "answer", "voided"),
        *("recorded", "revised", "to be voided", "sent"),
    }


@pytest.mark.parametrize(
    ("left_out", "lost"),
    [
        ("syncs of objects", "uploaded bytes"),
        ("syncs of commits", "the row of a manifest"),
        ("syncs of keys", "key"),
        ("syncs of the phone's folders", "an assessment on the phone"),
    ],
)
def test_a_sync_that_is_left_out_is_found_out(left_out: str, lost: str, tmp_path: Path) -> None:
    """Otherwise the proof would prove nothing."""
    run(tmp_path / "disk", tmp_path / "log", left_out)

    with pytest.raises(Lost, match=lost):
        prove(Disk(tmp_path / "disk"), tmp_path / "log", random.Random(0))


def test_what_was_killed_in_front_of_its_sync_is_synced_before_it_is_acknowledged(
    everything: tuple[Path, Path], tmp_path: Path
) -> None:
    """Killed while it commits a receipt, started again, told again; then the power is cut."""
    root, first, second = (tmp_path / name for name in ("disk", "first", "second"))
    run(root, first, "take", kill_at=syncs_before_a_receipt(everything[1]))
    run(root, second, "take")
    disk = Disk(root)

    for _ in disk.replay(first):
        told = [json.loads(line)["what"] for line in disk.said]
    prove(disk, second, random.Random(0))

    assert "receipt" not in told
    assert disk.is_as_on_disk()


def syncs_before_a_receipt(log: Path) -> int:
    """How many fdatasyncs came before the first receipt was told."""
    n_syncs = 0
    for call in calls(log):
        n_syncs += call.name == "fdatasync" and call.result is None
        if call.name == "write" and b'"what": "receipt"' in call.texts[0]:
            return n_syncs
    raise AssertionError("no receipt")
