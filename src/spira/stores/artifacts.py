"""Artifacts: what a pipeline stage leaves behind, committed once under its fingerprint.

An artifact is a create-only manifest over content-addressed files:

    blobs/ab/abcdef…              the bytes, named by their SHA-256
    manifests/STAGE/FINGERPRINT   name -> digest and size; written last, never changed
    scratch/FINGERPRINT/NAME      checkpoints of work that is not committed yet

A kill before the manifest leaves blobs that nothing names (`sweep` removes them); a kill after it
leaves a whole artifact. Two writers of one fingerprint store the same blobs, and the first
manifest wins. The same code runs on a folder and on S3, through obstore.
"""

import ctypes
import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

from spira.domain.errors import InputError, IntegrityError, TransientError
from spira.domain.fingerprint import canonical_json

_DIGESTS_CHECKED_UP_TO_BYTES = 64 << 20  # larger files are checked when they are read


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Artifact:
    """A committed artifact. `about` says what it is and what it was made of."""

    stage: str
    fingerprint: str
    files: Mapping[str, FileEntry]
    about: Mapping[str, Any]
    _store: "ArtifactStore" = field(repr=False, compare=False)

    def path(self, name: str) -> Path:
        """A local file with the bytes of `name`, verified against its digest, fit for mmap.

        raises    IntegrityError when the bytes are missing or damaged; KeyError for another name
        """
        return self._store.verified(
            self.files[name], f"{self.stage} {self.fingerprint[:12]}/{name}"
        )

    def read(self, name: str) -> bytes:
        """The bytes of `name`, verified."""
        return self.path(name).read_bytes()

    def read_json(self, name: str) -> Any:
        """The JSON document `name`, verified."""
        return json.loads(self.read(name))


class ArtifactStore:
    """Artifacts in a folder or an object store, read through a verified local cache."""

    def __init__(self, objects: ObjectStore, *, folder: Path | None, cache: Path) -> None:
        self._objects = objects
        self._folder = folder  # set: blobs are read in place, and synced to the disk
        self._cache = cache
        self._seen: dict[str, Path] = {}  # digests verified by this process

    @classmethod
    def open(cls, url: str, *, cache: Path, retry_for_s: float = 60) -> "ArtifactStore":
        """The store at a folder's path or at a URL (s3://bucket/prefix, gs://, az://).

        retry_for_s   how long a server that does not answer is asked again
        Credentials and the endpoint of an object store come from its usual environment variables.
        raises    InputError when the folder cannot be made or written
        """
        if "://" in url and not url.startswith("file://"):
            retries: Any = {"retry_timeout": timedelta(seconds=retry_for_s)}
            try:
                objects = from_url(url, retry_config=retries)
            except (obstore.exceptions.BaseError, ValueError) as error:
                raise InputError(
                    f"setting stores.artifacts: {url.split('://')[0]}:// is no store that is "
                    "known, or its address or credentials are incomplete; write a folder, "
                    "s3://bucket/prefix, gs:// or az://"
                ) from error
            return cls(objects, folder=None, cache=cache)
        folder = Path(url.removeprefix("file://")).expanduser().resolve()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"data folder {folder}: cannot be made ({error.strerror})") from error
        if not os.access(folder, os.W_OK):
            raise InputError(f"data folder {folder}: cannot be written; choose another with --home")
        return cls(LocalStore(folder), folder=folder, cache=cache)

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """The artifact committed under this fingerprint, or None (also for a damaged manifest)."""
        raw = self._get(_manifest_key(stage, fingerprint))
        body = None if raw is None else _unsealed(raw)
        if body is None:
            return None
        manifest = json.loads(body)
        files = {name: FileEntry(*entry) for name, entry in manifest["files"].items()}
        return Artifact(stage, fingerprint, files, manifest["about"], self)

    def list(self, stage: str) -> list[Artifact]:
        """Every artifact of a stage, by fingerprint."""
        names = sorted(key.rsplit("/", 1)[-1] for key in self._keys(f"manifests/{stage}/"))
        found = [self.find(stage, name.removesuffix(".json")) for name in names]
        return [artifact for artifact in found if artifact is not None]

    def commit(
        self,
        stage: str,
        fingerprint: str,
        files: Mapping[str, Path | bytes],
        about: Mapping[str, Any],
    ) -> Artifact:
        """Store files, then the manifest that makes them an artifact; the first commit wins.

        returns   the artifact as stored, which is another writer's where that was first
        raises    TransientError on a full disk or an unreachable store; nothing is half-visible
        """
        doing = f"committing {stage} {fingerprint[:12]}"
        entries = {name: self._put_blob(source, doing) for name, source in sorted(files.items())}
        manifest = canonical_json(
            {
                "about": dict(about),
                "files": {name: [entry.sha256, entry.size] for name, entry in entries.items()},
                "format": 1,
            }
        )
        self._sync_folder()  # the files reach the disk before the manifest that names them
        key = _manifest_key(stage, fingerprint)
        raw = self._get(key)
        if raw is not None and _unsealed(raw) is None:
            self._delete(key)  # a damaged manifest is no manifest
        with (
            suppress(obstore.exceptions.AlreadyExistsError),
            _translated(doing),
        ):
            obstore.put(self._objects, key, _sealed(manifest), mode="create")
        self._sync_folder()
        artifact = self.find(stage, fingerprint)
        if artifact is None:
            raise TransientError(f"{stage} {fingerprint[:12]}: committed and gone again; run again")
        return artifact

    def intact(self, artifact: Artifact, *, thorough: bool = False) -> bool:
        """Whether every file is there with its size, and the small ones (all, if thorough) with
        their digest.
        """
        try:
            for name, entry in artifact.files.items():
                if self._size(_blob_key(entry.sha256)) != entry.size:
                    return False
                if thorough or entry.size <= _DIGESTS_CHECKED_UP_TO_BYTES:
                    artifact.path(name)
        except IntegrityError:
            return False
        return True

    def discard(self, artifact: Artifact) -> None:
        """Forget an artifact: its manifest, then those of its files that are damaged."""
        self.forget(artifact)
        for name, entry in artifact.files.items():
            try:
                artifact.path(name)
            except IntegrityError:
                self._seen.pop(entry.sha256, None)
                self._delete(_blob_key(entry.sha256))

    def forget(self, artifact: Artifact) -> None:
        """Delete the manifest; files that nothing else names go with the next `sweep`."""
        self._delete(_manifest_key(artifact.stage, artifact.fingerprint))

    def sweep(self) -> int:
        """Delete blobs that no manifest names, and files that a kill left half-written; the caller
        sees to it that nobody is writing.

        On an object store other machines may be writing: what is younger than a day stays.

        returns   bytes freed
        raises    IntegrityError when a manifest is damaged: what it named is not known, and may be
                  the only copy, so nothing is deleted
        """
        named: set[str] = set()
        for key in list(self._keys("manifests/")):
            _, stage, name = key.split("/")
            artifact = self.find(stage, name.removesuffix(".json"))
            if artifact is None:
                raise IntegrityError(
                    f"manifest {stage} {name[:12]}: damaged, so nothing was deleted; run what made "
                    "it again, or import that dataset again"
                )
            named.update(entry.sha256 for entry in artifact.files.values())
        freed = 0
        for key, size in list(self._unnamed(named)):
            freed += size
            self._delete(key)
        if self._folder is not None:
            for torn in list(self._folder.rglob("*#*")):  # a put in progress; obstore hides it
                freed += torn.stat().st_size
                torn.unlink()
        return freed

    def _unnamed(self, named: set[str]) -> Iterator[tuple[str, int]]:
        oldest = None if self._folder is not None else datetime.now(UTC) - timedelta(days=1)
        with _translated("sweeping"):
            for page in obstore.list(self._objects, prefix="blobs/"):
                for item in page:
                    if item["path"].rsplit("/", 1)[-1] in named:
                        continue
                    if oldest is None or item["last_modified"] < oldest:
                        yield item["path"], item["size"]

    # Checkpoints of unfinished work: small, atomic, checked, replaced as a whole.

    def save_scratch(self, fingerprint: str, name: str, data: bytes) -> None:
        """Keep `data` for a later attempt at this fingerprint."""
        with _translated(f"saving {name}"):
            obstore.put(self._objects, f"scratch/{fingerprint}/{name}", _sealed(data))

    def load_scratch(self, fingerprint: str, name: str) -> bytes | None:
        """What was saved, or None where nothing was or its bytes are damaged."""
        raw = self._get(f"scratch/{fingerprint}/{name}")
        return None if raw is None else _unsealed(raw)

    def clear_scratch(self, fingerprint: str) -> None:
        """Drop everything saved for a fingerprint."""
        for key in self._keys(f"scratch/{fingerprint}/"):
            self._delete(key)

    def scratch(self) -> "set[str]":
        """Fingerprints that have something saved."""
        return {key.split("/")[1] for key in self._keys("scratch/")}

    # Below: one object at a time.

    def verified(self, entry: FileEntry, what: str) -> Path:
        """A local path with the entry's bytes; see `Artifact.path`."""
        known = self._seen.get(entry.sha256)
        if known is not None and known.exists():
            return known
        key = _blob_key(entry.sha256)
        if self._folder is not None:
            path = self._folder / key
        else:
            path = self._cache / key
            if not (path.exists() and _file_digest(path) == entry.sha256):
                self._fetch(key, path, what)
        if not path.exists():
            raise IntegrityError(f"{what}: its bytes are gone; run the stage again to rebuild it")
        if _file_digest(path) != entry.sha256:
            raise IntegrityError(
                f"{what}: its bytes do not match their digest {entry.sha256[:12]}; "
                "run the stage again to rebuild it"
            )
        self._seen[entry.sha256] = path
        return path

    def _fetch(self, key: str, path: Path, what: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _translated(f"reading {what}"):
            try:
                stream = obstore.get(self._objects, key).stream()
            except FileNotFoundError as error:
                raise IntegrityError(f"{what}: its bytes are gone from the store") from error
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                for chunk in stream:
                    file.write(chunk)
            Path(file.name).replace(path)

    def _put_blob(self, source: Path | bytes, doing: str) -> FileEntry:
        if isinstance(source, bytes):
            entry = FileEntry(hashlib.sha256(source).hexdigest(), len(source))
        else:
            entry = FileEntry(_file_digest(source), source.stat().st_size)
        key = _blob_key(entry.sha256)
        if self._size(key) != entry.size:  # absent, or torn by a disk that lost power
            with _translated(doing):
                obstore.put(self._objects, key, source)
        return entry

    def _size(self, key: str) -> int | None:
        with _translated(f"looking for {key}"):
            try:
                return int(obstore.head(self._objects, key)["size"])
            except FileNotFoundError:
                return None

    def _get(self, key: str) -> bytes | None:
        with _translated(f"reading {key}"):
            try:
                return bytes(obstore.get(self._objects, key).bytes())
            except FileNotFoundError:
                return None

    def _keys(self, prefix: str) -> Iterator[str]:
        with _translated(f"listing {prefix}"):
            for page in obstore.list(self._objects, prefix=prefix):
                for item in page:
                    yield item["path"]

    def _delete(self, key: str) -> None:
        with _translated(f"deleting {key}"), suppress(FileNotFoundError):
            obstore.delete(self._objects, key)

    def _sync_folder(self) -> None:
        """obstore renames but never syncs: one syncfs puts everything of a commit on the disk."""
        if self._folder is None:
            return
        libc = ctypes.CDLL(None)
        if not hasattr(libc, "syncfs"):
            os.sync()
            return
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            libc.syncfs(descriptor)
        finally:
            os.close(descriptor)


def _manifest_key(stage: str, fingerprint: str) -> str:
    if not re.fullmatch(r"[a-z-]+", stage) or not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
        raise InputError(f"artifact {stage!r} {fingerprint!r}: not a stage and a fingerprint")
    return f"manifests/{stage}/{fingerprint}.json"


def _blob_key(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def _sealed(body: bytes) -> bytes:
    """A small document behind the digest of its bytes, so that damage is seen."""
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _unsealed(raw: bytes) -> bytes | None:
    digest, _, body = raw.partition(b"\n")
    return body if hashlib.sha256(body).hexdigest().encode() == digest else None


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Errors of obstore and the disk, in our words: what was being done, and what to do now."""
    try:
        yield
    except (FileNotFoundError, obstore.exceptions.AlreadyExistsError):
        raise  # these are answers
    except (obstore.exceptions.BaseError, OSError) as error:
        text = str(error)
        if getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in text:
            raise TransientError(
                f"{doing}: the disk is full; free some space and run the same command again"
            ) from error
        if f"os error {errno.EROFS}" in text or f"os error {errno.EACCES}" in text:
            raise InputError(f"{doing}: the data folder cannot be written") from error
        raise TransientError(
            f"{doing}: the store failed ({type(error).__name__}); run again"
        ) from error
