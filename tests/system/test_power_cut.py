"""What was acknowledged is on stable storage: a power cut behind every line of an strace log.

SPIRA_POWER_CUT_SEED replays what survives of what was not synced; each test prints the one it used.
"""

import hashlib
import json
import os
import random
import time
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import acknowledging
import pytest
import sqlalchemy as sa
from acknowledging import N_ASSESSMENTS, PHONE, SERVER, opened, submission, take
from power_cut import STRACE, Disk, traced

from spira.domain.errors import SpiraError
from spira.intake import audit
from spira.intake.receipts import read_receipt
from spira.intake.submissions import audio_of, original_of
from spira.intake.tables import RECORDINGS, SUBMISSIONS
from spira.intake.uploads import Uploads
from spira.serving.client import Device
from spira.serving.service import prepare
from spira.serving.tables import ASSESSMENTS
from spira.wiring import Application

pytestmark = pytest.mark.skipif(STRACE is None, reason="strace is not installed")


class Lost(AssertionError):
    """Something that was acknowledged is not there."""


def run(root: Path, log: Path, *left_out: str) -> None:
    """Let everything be acknowledged, and write down how."""
    root.mkdir()
    script = str(Path(acknowledging.__file__))
    words = traced(log, sys.executable, script, str(root), *left_out)
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr


def prove(disk: Disk, log: Path, place: Path, torn: random.Random) -> int:
    """Cut the power behind every line; how many different folders that leaves.

    raises    Lost
    """
    n_left = 0
    for _ in disk.replay(log):
        for survives in (None, torn):
            left = place / f"left-{n_left}"
            disk.leave(left, survives)
            try:
                require_all(left, [json.loads(line) for line in disk.said])
            except (SpiraError, sqlite3.Error) as error:
                raise Lost(f"it cannot be opened: {error}") from error
            shutil.rmtree(left)
            n_left += 1
    return n_left


def require_all(left: Path, told: list[dict[str, Any]]) -> None:
    """Everything that was told is in what a power cut has left, and both can go on from there.

    raises    Lost
    """
    file = left / SERVER / "spira.db"
    if file.exists():
        with closing(sqlite3.connect(file)) as tables:
            (found,) = tables.execute("PRAGMA integrity_check").fetchone()
        require(found == "ok", f"the database is whole: {found}")
    app = opened(left / SERVER)
    prepare(app)
    for one in told:
        require_kept(app, one)
    require_phone(app, left / PHONE, told)
    receipts = {one["number"]: one["receipt"] for one in told if one["what"] == "receipt"}
    for number in range(N_ASSESSMENTS):
        receipt = take(app, number, lambda *_, **__: None)
        require(receipts.get(number, receipt) == receipt, "the same receipt, sent again")
        require_objects(app, submission(number).id)
    with app.database.reading() as tables:
        audit.verify(tables)


def require_kept(app: Application, one: dict[str, Any]) -> None:
    """What the server has acknowledged."""
    what, id = one["what"], one.get("id")
    sent, answered = row(app, SUBMISSIONS, id), row(app, ASSESSMENTS, id)
    if what == "record":
        require(app.keys.wrapped(one["hash"]) == one["hash"], "the key of record numbers")
    elif what == "key":
        require(id in {key.id for key in app.keys.list_keys()}, "a key that was made")
    elif what == "announced":
        require(sent is not None, "the row of a manifest")
    elif what == "offset":
        require(sent is not None, "the row of an upload")
        if sent.state == "announced":
            pieces = Uploads(app.recordings).pieces(one["upload"])
            require(b"".join(pieces).hex().startswith(one["data"]), "uploaded bytes")
    elif what == "receipt":
        require(sent is not None and sent.receipt == one["receipt"], "the row of a receipt")
        read_receipt(one["receipt"], app.keys.public())
        require_objects(app, id)
    elif what == "answer":
        require(answered is not None and answered.answer is not None, "an answer")
        require(json.loads(answered.answer) == one["answer"], "the answer that was given")
    elif what == "voided":
        require(answered is not None and answered.voided_at is not None, "that it is void")


def require_objects(app: Application, id: str) -> None:
    """Every byte of an accepted assessment, as it was sent and as samples."""
    query = sa.select(RECORDINGS).where(RECORDINGS.c.submission == id)
    with app.database.reading() as tables:
        recordings = tables.execute(query).all()
    for one in recordings:
        original, audio = (app.recordings.read(of(one.place)) for of in (original_of, audio_of))
        require(original is not None and len(original) == one.n_bytes, "the bytes of a recording")
        require(hashlib.sha256(original).hexdigest() == one.sha256, "the bytes as they were sent")
        require(audio == original[::-1], "the samples of a recording")


def require_phone(app: Application, folder: Path, told: list[dict[str, Any]]) -> None:
    """What the phone has acknowledged; what it has no bytes of, the server has."""
    with Device(folder) as phone:
        for one in told:
            if one["what"] in ("recorded", "revised", "carried"):
                require(one["id"] in phone.ids(), "an assessment on the phone")
            if one["what"] == "revised":
                require(phone.get(one["id"]).form.values["age"] == one["age"], "its revision")
            if one["what"] == "carried":
                require(phone.receipt(one["id"]) == one["receipt"], "its receipt on the phone")
        for name in phone.ids():
            kept = phone.get(name)
            receipt = phone.receipt(name)
            if receipt is None:
                assert all(phone.audio(name, file.id) for file in kept.recordings)
            else:
                sent = row(app, SUBMISSIONS, kept.id)
                require(sent is not None and sent.receipt == receipt, "what a phone has let go")
                require_objects(app, kept.id)


def row(app: Application, table: sa.Table, id: str | None) -> Any:
    """The row of an id; None where there is none."""
    with app.database.reading() as tables:
        return tables.execute(sa.select(table).where(table.c.id == id)).first()


def require(there: bool, what: str) -> None:
    """raises    Lost"""
    if not there:
        raise Lost(what)


@pytest.mark.parametrize("seed", [int(os.environ.get("SPIRA_POWER_CUT_SEED", 7))])
def test_what_was_acknowledged_survives_a_power_cut_behind_every_call(
    tmp_path: Path, seed: int
) -> None:
    """Folder, database, keys and the phone's outbox; and whatever is left can be gone on from."""
    disk, log = Disk(tmp_path / "disk"), tmp_path / "log"
    run(tmp_path / "disk", log)

    t = time.time()
    import cProfile
    pr = cProfile.Profile(); pr.enable()
    import tempfile
    n_left = prove(disk, log, Path(tempfile.mkdtemp(dir="/dev/shm")), random.Random(seed))
    pr.disable(); pr.dump_stats("/tmp/wsrv-g-try/prof")
    print(time.time() - t, n_left)

    assert disk.is_as_on_disk()
    assert {json.loads(line)["what"] for line in disk.said} == set()
