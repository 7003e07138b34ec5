"""Locks that die with their holder: `flock` on a file, shared or exclusive."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from spira.domain.errors import TransientError


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
