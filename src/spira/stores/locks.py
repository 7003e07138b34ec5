"""Locks that die with their holder: `flock` on a file, shared or exclusive."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from spira.domain.errors import InputError, TransientError


@contextmanager
def locked(
    path: Path,
    *,
    shared: bool = False,
    wait: bool = True,
    waiting: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Hold the lock file at `path`; the kernel frees it when the process ends, however it ends.

    waiting   called once when somebody else holds the lock and we are about to wait
    raises    TransientError when it is held and `wait` is False
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.open("a") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not wait:
                raise TransientError(
                    f"{path.name}: another spira process is at work here; wait for it to end"
                ) from error
            if waiting is not None:
                waiting()
            fcntl.flock(file, kind)
        yield


@contextmanager
def held_folder(folder: Path, says: str) -> Iterator[None]:
    """Hold the folder of a service, and say in it who does.

    says      what whoever comes second is told of the first
    raises    InputError naming the process that holds it
    """
    holder = folder / "holder"
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder / "lock", wait=False))
        except TransientError as error:
            who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
            raise InputError(f"{folder}: {says} ({who}); stop that one first") from error
        now = datetime.now(UTC).isoformat(timespec="seconds")
        holder.write_text(f"process {os.getpid()}, since {now}", encoding="utf-8")
        yield


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock exclusively. Asking needs no right to write."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
