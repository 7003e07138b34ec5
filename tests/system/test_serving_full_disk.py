"""Serving on a disk that is full: refused before it is accepted, never lost after."""

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from served import Assessment, Served, publish_champion, voice
from services import wait_for

from spira.intake.sweeping import sweep
from spira.stores.database import Database
from spira.stores.objects import Objects

NO_SPACE = (503, 507)
KB = 1024


class SmallDisk:
    """A disk of 20 MB, and what the test has put on it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    def fill(self, *, but: int = 0) -> None:
        """Leave so many bytes, and no more."""
        self.free()
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4 * KB))
            except OSError:
                size = file.tell()
        if but:
            os.truncate(self._ballast, max(0, size - but))

    def free(self) -> None:
        """Take it away again."""
        self._ballast.unlink(missing_ok=True)

    @property
    def left(self) -> int:
        """Bytes that are free."""
        return shutil.disk_usage(self.place).free


@pytest.fixture
def disk(tmp_path: Path, mount: Callable[..., Path]) -> SmallDisk:
    """With nothing on it."""
    return SmallDisk(mount(tmp_path / "disk", "-t", "tmpfs", "-o", "size=20m", "none"))


@pytest.fixture
def served(disk: SmallDisk, tmp_path: Path) -> Iterator[Served]:
    """A service that keeps everything on that disk, its logs too."""
    home = disk.place / "home"
    publish_champion(home, tmp_path / "bundle")
    service = Served(home)
    service.token = service.make_token()
    service.start()
    try:
        yield service
    finally:
        service.kill("everything")


def put(served: Served, one: Assessment) -> tuple[str | None, int]:
    """Send the manifest and, once, what is needed; the receipt if there is one, and the first
    status that said that there is no room."""
    of = {
        recording["id"]: sound
        for recording, sound in zip(one.manifest["recordings"], one.sounds, strict=True)
    }
    for _ in range(2):
        told = served.put(one)
        if told.status_code >= 400:
            return None, told.status_code
        if told.json().get("receipt"):
            return str(told.json()["receipt"]), 200
        for needed in told.json().get("recordings", []):
            if needed["state"] == "needed":
                rest = of[needed["id"]][needed["offset"] :]
                answer = served.patch(needed["upload_url"], needed["offset"], rest)
                if answer.status_code >= 400:
                    return None, answer.status_code
    return None, 200


def test_what_was_accepted_outlives_a_full_disk_and_the_rest_is_refused(
    served: Served, disk: SmallDisk
) -> None:
    """With no room at all, and with a little more each time: 507 or 503, or a receipt that holds.
    With room again, all of it is accepted and answered; nobody has to start anything."""
    answered, waiting, uploaded = (Assessment((voice(number),)) for number in range(3))
    accepted = {answered.id: (answered, served.sent(answered))}
    before = served.answered(answered.id)
    served.kill("predictor", signal.SIGSTOP)
    accepted[waiting.id] = (waiting, served.sent(waiting))
    served.upload(uploaded)
    later = [uploaded]
    statuses: Counter[int] = Counter()

    disk.fill()
    served.kill("predictor", signal.SIGCONT)
    assert put(served, uploaded) in [(None, status) for status in NO_SPACE]
    for number, left in enumerate((0, 0, 8, 40, 100, 200, 300, 450, 700), start=3):
        disk.fill(but=left * KB)
        one = Assessment((voice(number),))
        receipt, status = put(served, one)
        statuses[status] += 1
        if receipt is not None:
            accepted[one.id] = (one, receipt)
        else:
            later.append(one)
    disk.fill()
    full = served.http("GET", f"/v1/assessments/{answered.id}")
    held = served.put(answered)

    assert set(statuses) <= {200, *NO_SPACE}
    assert statuses[507] + statuses[503] >= 2
    assert full.json()["answer"] == before["answer"]
    assert held.json()["receipt"] == accepted[answered.id][1]

    disk.free()
    for one in later:
        receipt = wait_for(lambda: put(served, one)[0], 60, "accepted")  # noqa: B023
        accepted[one.id] = (one, receipt)
    for one, receipt in accepted.values():
        assert served.answered(one.id, 120)["state"] == "completed"
        assert served.put(one).json()["receipt"] == receipt
    objects = Objects.open(str(served.home / "recordings"), setting="a test")
    database = Database.open(f"sqlite:///{served.home / 'spira.db'}", what="away")
    sweep(database, objects, datetime.now(UTC) + timedelta(hours=2))
    originals = {
        item.key.split("/")[1]: objects.read(item.key)
        for item in objects.list("recordings/")
        if item.key.endswith(".original")
    }
    assert originals == {id: one.sounds[0] for id, (one, _) in accepted.items()}
    files = [path for path in (served.home / "recordings").rglob("*") if path.is_file()]
    assert len(files) == 3 * len(accepted)  # with its receipt; nothing half-written takes up room


def test_a_disk_that_is_full_before_the_start_is_said_in_one_sentence(disk: SmallDisk) -> None:
    """At the first start and at a later one; with room again it starts, and what was accepted is
    there."""
    service = Served(disk.place / "home")

    def refused(left: int) -> None:
        disk.fill(but=left)
        ended = service.spira("serve")
        disk.free()
        assert ended.returncode == 75
        (said,) = ended.stderr.splitlines()
        assert "disk is full; free some space and run the same command again" in said
        assert [*service.home.rglob("*.new")] == []

    for left in (0, 16 * KB):
        refused(left)
    service.token = service.make_token()
    one = Assessment((voice(1),))
    try:
        service.start()
        receipt = service.sent(one)
        service.stop()
        refused(0)
        service.start()
        assert service.put(one).json()["receipt"] == receipt
    finally:
        service.kill("everything")
