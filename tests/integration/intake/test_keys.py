"""One key ring and many processes: made once, and usable wherever one of them was killed."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spira.domain.errors import InputError
from spira.intake.keys import KeyRing, verify

PASSPHRASE = "uma frase que ninguém adivinha"
STEPS = ("open", "fsync", "replace", "mkdir", "unlink")  # of the os module: what reaches the disk


def in_a_child(work: Callable[[], None]) -> int:
    """Start a process that does it; returns its id. It says nothing, and never comes back here."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """How a process ended: its exit code, or the signal below zero."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_before_step(number: int, work: Callable[[], object]) -> bool:
    """Do it in a process that is killed before its step of this number; False when it had fewer."""

    def stepping() -> None:
        left = [number]

        def counted(step: Callable[..., Any]) -> Callable[..., Any]:
            def stepped(*arguments: Any, **named: Any) -> Any:
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(*arguments, **named)

            return stepped

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        work()

    code = ended(in_a_child(stepping))
    assert code in (0, -signal.SIGKILL)
    return code != 0


def works(ring: KeyRing) -> bool:
    """Whether it signs and hides, and what a kill left half-written is gone after the next key."""
    ring.rotate("receipts")
    assert verify(ring.sign(b"x", typ="t"), ring.public(), typ="t") == b"x"
    assert ring.wrapped(ring.hash_record("ward", "1")) == ring.hash_record("ward", "1")
    return True


def test_processes_that_start_at_once_make_one_ring(tmp_path: Path) -> None:
    """And one key for a site that is new to all of them; each works with what it finds."""
    for attempt in range(10):
        folder = tmp_path / str(attempt) / "keys"
        waiting, go = os.pipe()
        heard, told = os.pipe()

        def start(folder: Path = folder, waiting: int = waiting, told: int = told, go: int = go):  # type: ignore[no-untyped-def]
            os.close(go)
            os.read(waiting, 1)  # until the other end is closed: all at once
            ring = KeyRing.open(folder)
            (key,) = ring.public()["keys"]
            os.write(told, f"{key['kid']} {ring.hash_record('ward', '1')}\n".encode())

        children = [in_a_child(start) for _ in range(6)]
        for end in (go, waiting, told):
            os.close(end)
        codes = [ended(child) for child in children]
        with os.fdopen(heard) as lines:
            said = lines.read().splitlines()

        assert codes == [0] * 6
        assert len(said) == 6
        assert len(set(said)) == 1
        assert len(list(folder.glob("*.json"))) == 2


def test_processes_that_rotate_at_once_leave_a_chain(tmp_path: Path) -> None:
    """However many keys come of it, they follow one another and old hashes hold."""
    ring = KeyRing.open(tmp_path / "keys")
    hashed = ring.hash_record("ward", "1")

    def rotating() -> None:
        mine = KeyRing.open(tmp_path / "keys")
        for _ in range(3):
            mine.rotate("records", "ward")
            mine.rotate("receipts")

    children = [in_a_child(rotating) for _ in range(4)]

    assert [ended(child) for child in children] == [0] * 4
    numbers = [key.number for key in ring.list_keys() if key.use == "records"]
    assert 4 <= len(numbers) <= 13
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    assert ring.wrapped(hashed) == KeyRing.open(tmp_path / "keys").hash_record("ward", "1")


def test_killed_anywhere_in_making_a_ring_the_next_start_has_one(tmp_path: Path) -> None:
    """With one key to sign, never two, and nothing half-written is kept."""
    step = 1
    while True:
        folder = tmp_path / str(step) / "keys"
        if not killed_before_step(step, lambda folder=folder: KeyRing.open(folder)):  # type: ignore[misc]
            break
        ring = KeyRing.open(folder)
        assert len(ring.list_keys()) == 1
        assert folder.stat().st_mode & 0o777 == 0o700
        assert works(ring)
        assert not list(folder.glob("*.new"))
        step += 1
    assert step > 7  # folders, lock, file, sync, name, sync


@pytest.mark.parametrize(("use", "site"), [("receipts", None), ("records", "ward")])
def test_killed_anywhere_in_rotating_the_ring_is_the_old_or_the_new(
    tmp_path: Path, use: Any, site: str | None
) -> None:
    """What was signed and hidden before still holds, and rotating again works."""
    step = 1
    while True:
        folder = tmp_path / str(step) / "keys"
        ring = KeyRing.open(folder)
        hashed, token = ring.hash_record("ward", "1"), ring.sign(b"x", typ="t")
        if not killed_before_step(step, lambda ring=ring: ring.rotate(use, site)):  # type: ignore[misc]
            break
        found = KeyRing.open(folder)
        assert len(found.list_keys()) in (2, 3)
        assert found.wrapped(hashed) == found.hash_record("ward", "1")
        assert verify(token, found.public(), typ="t") == b"x"
        assert works(found)
        assert not list(folder.glob("*.new"))
        step += 1
    assert step > 5


def test_killed_anywhere_in_restoring_the_folder_waits_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a ring would hide numbers under keys of its own: it is refused until all is there."""
    monkeypatch.setattr("spira.intake.keys._stretched", lambda passphrase, salt: salt * 2)  # quick
    saved = tmp_path / "saved"
    ring = KeyRing.open(tmp_path / "keys")
    hashed = ring.hash_record("ward", "1")
    ring.rotate("records", "ward")
    ring.backup(saved, PASSPHRASE)
    step, refused = 1, 0
    while True:
        folder = tmp_path / str(step) / "keys"

        def restore(folder: Path = folder) -> KeyRing:
            return KeyRing.restore(folder, saved, PASSPHRASE)

        if not killed_before_step(step, restore):
            break
        try:
            assert len(KeyRing(folder).list_keys()) in (0, 3)
        except InputError as error:
            refused += "a restore was cut off" in str(error)
        assert restore().wrapped(hashed) == ring.hash_record("ward", "1")
        assert not list(folder.glob("*.new"))
        step += 1
    assert step > 12
    assert refused > 6


def test_a_key_is_on_the_disk_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folder, bytes, name; and whoever finds one of a killed process syncs its name first."""
    synced: list[str] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name.partition("-")[0])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    KeyRing.open(tmp_path / "keys")
    making = [*synced]
    synced.clear()
    KeyRing(tmp_path / "keys").list_keys()

    above = [folder.name.partition("-")[0] for folder in (tmp_path / "keys").parents]
    assert making == [*above, "receipts", "keys"]
    assert synced == ["keys"]
