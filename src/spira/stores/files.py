"""Files that neither a kill nor a power cut finds half-written, for their owner alone.

A disk keeps what it was told to sync, and no more: first a file's bytes, then the name that stands
for them, which is its folder's.
"""

import os
from contextlib import suppress
from pathlib import Path

HALF = ".new"  # how the name of a file ends that a kill left half-written


def write_whole(path: Path, data: bytes) -> None:
    """Make a file hold these bytes: at any moment it is the one before or this one, whole.

    On stable storage when this returns. One writer at a time; what a kill left of one before is
    written over.
    """
    half = path.with_name(path.name + HALF)
    half.unlink(missing_ok=True)
    write_new(half, data)
    half.replace(path)
    sync_path(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there; its bytes are on stable storage then, its name is not yet.

    raises    FileExistsError, and OSError as it is, a full disk's too: nothing is left of it
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink()
        raise


def sync_names(folder: Path) -> None:
    """Wait until the names of a folder, and of every folder that it is in, are on stable storage.

    Whoever made one may have been killed before its name was; a power cut would take all with it.
    """
    for parent in folder.resolve().parents:
        with suppress(PermissionError):  # it may only be passed through: we made nothing there
            sync_path(parent)


def sync_path(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on stable storage."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
