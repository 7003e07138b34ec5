"""An object store: a folder of this machine, or S3, GCS or Azure, through obstore.

What is added: what has been put is on stable storage, and errors come in our words. obstore
renames in a folder and never syncs, so that a power cut may leave a name without its bytes.
"""

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

from spira.domain.errors import InputError, StorageFull, TransientError
from spira.domain.progress import Progress, no_progress
from spira.stores.files import sync_names, sync_path

_REMEMBERED = 1000  # folders; one that was forgotten is synced once more
_FETCHED_AT_ONCE = 8  # a server answers one after milliseconds, whatever its size


@dataclass(frozen=True)
class Item:
    """An object in a listing."""

    key: str
    n_bytes: int
    changed_at: datetime


class Objects:
    """Objects that are never lost once they are put."""

    def __init__(self, store: ObjectStore, folder: Path | None) -> None:
        self._store = store
        self._folder = folder
        self._synced: set[Path] = set()  # folders whose own names are on the disk

    @classmethod
    def open(cls, url: str, *, setting: str, retry_for_s: float = 60) -> "Objects":
        """The store at a folder's path or at a URL (s3://bucket/prefix, gs://, az://).

        setting       which setting named it, for errors
        retry_for_s   how long a server that does not answer is asked again
        raises        InputError for what is no store
        """
        return cls(*open_store(url, setting=setting, retry_for_s=retry_for_s))

    def create(self, key: str, data: bytes) -> bool:
        """Put an object that is not there; False when it is, whatever it holds.

        raises    StorageFull, TransientError
        """
        with translated(f"storing {key}", self._folder):
            try:
                obstore.put(self._store, key, data, mode="create")
            except obstore.exceptions.AlreadyExistsError:
                return False
            self._sync(key)
        return True

    def keep(self, key: str, data: bytes) -> None:
        """Make sure that an object holds these bytes, whoever began to put it.

        raises    StorageFull, TransientError
        """
        if self.create(key, data):
            return
        with translated(f"storing {key}", self._folder):
            # Somebody else put it, and was killed before it was on the disk, or had no power.
            # Equal bytes are put anew too in a folder: they may be in the machine's memory alone,
            # after a sync that failed.
            if self._folder is not None or self.read(key) != data:
                obstore.put(self._store, key, data)
            self._sync(key)

    def read(self, key: str) -> bytes | None:
        """The bytes of an object; None when it is not there."""
        with translated(f"reading {key}", self._folder):
            try:
                return bytes(obstore.get(self._store, key).bytes())
            except FileNotFoundError:
                return None

    @contextmanager
    def files(
        self, keys: Sequence[str], scratch: Path, *, progress: Progress = no_progress
    ) -> Iterator[Path]:
        """A folder in which these objects are files under their keys, until the block ends.

        That of the store itself; from a server they are fetched into one below `scratch`, piece
        by piece. What is not in the store is no file.
        raises    StorageFull, TransientError
        """
        if self._folder is not None:
            yield self._folder
            return
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch, prefix="fetched-") as name:
            folder = Path(name)
            with ThreadPoolExecutor(_FETCHED_AT_ONCE) as threads:
                for begin in range(0, len(keys), _REMEMBERED):
                    progress("fetching recordings", begin, len(keys))
                    some = keys[begin : begin + _REMEMBERED]
                    for _ in threads.map(lambda key: self._fetch(key, folder / key), some):
                        pass
            progress("fetching recordings", len(keys), len(keys))
            yield folder

    def _fetch(self, key: str, place: Path) -> None:
        with translated(f"reading {key}", place.parent):
            try:
                stream = obstore.get(self._store, key).stream()
            except FileNotFoundError:
                return
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as file:
                for piece in stream:
                    file.write(piece)

    def list(self, prefix: str) -> Iterator[Item]:
        """Objects below a prefix that ends with a slash."""
        with translated(f"listing {prefix}", self._folder):
            for page in obstore.list(self._store, prefix=prefix):
                for item in page:
                    yield Item(item["path"], item["size"], item["last_modified"])

    def list_between(self, prefix: str, first: str, end: str | None) -> Iterator[Item]:
        """Objects in the folders below a prefix whose names, all of one length, lie from `first` on
        and before `end`.

        prefix    ends with a slash
        end       None: to the last one
        """
        if self._folder is not None:
            for name in self._names(prefix, first, end):
                yield from self.list(f"{prefix}{name}/")
            return
        # Not after `first` itself: SeaweedFS leaves out all that is in a folder of that name.
        after = f"{prefix}{first[:-1]}"
        with translated(f"listing {prefix}", None):
            for page in obstore.list(self._store, prefix=prefix, offset=after):
                for item in page:
                    if end is not None and item["path"] >= f"{prefix}{end}":
                        return  # a server lists in the order of keys
                    if item["path"] >= f"{prefix}{first}":
                        yield Item(item["path"], item["size"], item["last_modified"])

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is not there is deleted."""
        for key in keys:
            with translated(f"deleting {key}", self._folder), suppress(FileNotFoundError):
                obstore.delete(self._store, key)

    def tidy(self, prefix: str, before: datetime, first: str = "", end: str | None = None) -> int:
        """Delete what kills left of puts that never ended, below the same names as `list_between`;
        how many there were.

        In a folder they are files that no listing shows. A put takes seconds: give it an hour.
        """
        if self._folder is None:
            return 0
        deleted = 0
        for name in self._names(prefix, first, end):
            place = self._folder / prefix / name
            for path in (place, *place.rglob("*#*")):
                with translated(f"deleting {path.name}", self._folder), suppress(FileNotFoundError):
                    torn = "#" in path.name and path.is_file()
                    if torn and path.stat().st_mtime < before.timestamp():
                        path.unlink()
                        deleted += 1
        return deleted

    def _names(self, prefix: str, first: str, end: str | None) -> Sequence[str]:
        """Names in a folder, from `first` on and before `end`."""
        assert self._folder is not None
        with translated(f"listing {prefix}", self._folder), suppress(FileNotFoundError):
            found = os.scandir(self._folder / prefix)
            return [
                one.name for one in found if first <= one.name and (end is None or one.name < end)
            ]
        return []

    def _sync(self, key: str) -> None:
        """The bytes, then the name, then the names of the folders that it is in."""
        if self._folder is None:
            return
        place = self._folder / key
        sync_path(place)
        sync_path(place.parent)
        new = []
        for folder in place.parents:
            if folder in self._synced:
                break
            if folder == self._folder:
                sync_names(folder)
            else:
                sync_path(folder.parent)
            new.append(folder)
            if folder == self._folder:
                break
        if len(self._synced) >= _REMEMBERED:
            self._synced.clear()
        self._synced.update(new)  # not before: other threads rely on all that is above


def open_store(url: str, *, setting: str, retry_for_s: float) -> tuple[ObjectStore, Path | None]:
    """obstore's store for a folder's path or a URL, and the folder, where it is one.

    Credentials and the endpoint of an object store come from its usual environment variables.
    raises    InputError when it is no store, or the folder is not there and cannot be made
    """
    if "://" in url and not url.startswith("file://"):
        retries: Any = {"retry_timeout": timedelta(seconds=retry_for_s)}
        try:
            return from_url(url, retry_config=retries), None
        except (obstore.exceptions.BaseError, ValueError) as error:
            raise InputError(
                f"setting {setting}: {url.split('://')[0]}:// is no store that is "
                "known, or its address or credentials are incomplete; write a folder, "
                "s3://bucket/prefix, gs:// or az://"
            ) from error
    folder = Path(url.removeprefix("file://")).expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"data folder {folder}: cannot be made ({error.strerror}); choose another with --home"
        ) from error
    return LocalStore(folder), folder


@contextmanager
def translated(doing: str, place: Path | None) -> Iterator[None]:
    """Errors of obstore and the disk, in our words: what was being done, and what to do now.

    place     the folder, for the words
    """
    try:
        yield
    except (FileNotFoundError, obstore.exceptions.AlreadyExistsError):
        raise  # these are answers
    except (obstore.exceptions.BaseError, OSError) as error:
        text = str(error)
        if getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in text:
            raise StorageFull(
                f"{doing}: the disk is full; free some space and run the same command again"
            ) from error
        for code in (errno.EROFS, errno.EACCES, errno.EPERM):
            if getattr(error, "errno", None) == code or f"os error {code})" in text:
                raise InputError(
                    f"{doing}: data folder {place}: "
                    f"{os.strerror(code).lower()}; choose another with --home, or mend this one"
                ) from error
        raise TransientError(
            f"{doing}: the store failed ({type(error).__name__}); run again"
        ) from error
