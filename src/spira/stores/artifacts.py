"""Artifacts: what a pipeline stage leaves behind, committed once under its fingerprint.

An artifact is a create-only manifest over content-addressed files:

    blobs/ab/abcdef…              the bytes, named by their SHA-256
    manifests/STAGE/FINGERPRINT   name -> digest and size; written last, never changed
    scratch/FINGERPRINT/NAME      checkpoints of work that is not committed yet
    claims/STAGE/FINGERPRINT/N    which machine is at work (spira.stores.claims); not in a folder
    damaged/abcdef…               a blob that did not match its name when somebody read it
    incoming/…                    a recording on its way in, until it is known not to have changed

A kill before the manifest leaves blobs that nothing names (`sweep` removes them); a kill after it
leaves a whole artifact. Two writers of one fingerprint store the same blobs, and the first
manifest wins. Whoever reads a damaged blob sets it aside, so that it is missing for everybody and
the command that makes it makes it again. The same code runs on a folder and on S3, through
obstore.
"""

import ctypes
import hashlib
import json
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.store import ObjectStore

from spira.domain.errors import InputError, IntegrityError, TransientError
from spira.domain.fingerprint import canonical_json
from spira.stores.claims import Claim
from spira.stores.objects import open_store, translated

_DIGESTS_CHECKED_UP_TO_BYTES = 64 << 20  # larger files are checked when they are read
_FORMAT = 1  # of manifests
Names = list[str]  # inside the class, `list` is a method
_IMPORTED = "dataset"  # the stage that cannot be made again from what is stored here
_SETTLED_AFTER = timedelta(days=1)  # what another machine stored since may still be in its hands


@dataclass(frozen=True, slots=True)
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

        raises    IntegrityError when the bytes are missing or damaged, naming what mends them;
                  KeyError for another name
        """
        return self._store.verified(self, name)

    def read(self, name: str) -> bytes:
        """The bytes of `name`, verified."""
        return self.path(name).read_bytes()

    def read_json(self, name: str) -> Any:
        """The JSON document `name`, verified."""
        return json.loads(self.read(name))


class ArtifactStore:
    """Artifacts in a folder or an object store, read through a verified local cache."""

    def __init__(
        self, objects: ObjectStore, *, folder: Path | None, cache: Path, lease_s: float = 30
    ) -> None:
        self._objects = objects
        self._lease_s = lease_s
        self._folder = folder  # set: blobs are read in place, and synced to the disk
        self._cache = cache
        self._seen: dict[str, Path] = {}  # digests verified by this process
        self._known: set[str] = set()  # digests that this process put or fetched itself

    @classmethod
    def open(
        cls, url: str, *, cache: Path, retry_for_s: float = 60, lease_s: float = 30
    ) -> "ArtifactStore":
        """The store at a folder's path or at a URL (s3://bucket/prefix, gs://, az://).

        retry_for_s   how long a server that does not answer is asked again
        lease_s       how long a machine that fell silent keeps its claims on an object store
        Credentials and the endpoint of an object store come from its usual environment variables.
        raises    InputError when the folder is not there and cannot be made; one that cannot be
                  written can be read
        """
        objects, folder = open_store(url, setting="stores.artifacts", retry_for_s=retry_for_s)
        return cls(objects, folder=folder, cache=cache, lease_s=lease_s)

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """The artifact committed under this fingerprint, or None (also for a damaged manifest).

        raises    InputError for a manifest of a newer format
        """
        raw = self._get(_manifest_key(stage, fingerprint))
        body = None if raw is None else _unsealed(raw)
        if body is None:
            return None
        manifest = json.loads(body)
        if manifest["format"] > _FORMAT:
            raise InputError(
                f"{stage} {fingerprint[:12]}: made by a newer SPIRA (format {manifest['format']}, "
                f"this one reads up to {_FORMAT}); upgrade"
            )
        files = {name: FileEntry(*entry) for name, entry in manifest["files"].items()}
        return Artifact(stage, fingerprint, files, manifest["about"], self)

    def list(self, stage: str) -> list[Artifact]:
        """Every artifact of a stage, by fingerprint, without those whose manifest is damaged."""
        found = [self.find(stage, name) for name in self._fingerprints(stage)]
        return [artifact for artifact in found if artifact is not None]

    def damaged(self, stage: str) -> Names:
        """Fingerprints of the manifests of a stage that are there and cannot be read."""
        return [name for name in self._fingerprints(stage) if self.find(stage, name) is None]

    def _fingerprints(self, stage: str) -> Names:
        keys = sorted(self._keys(f"manifests/{stage}/"))
        return [key.rsplit("/", 1)[-1].removesuffix(".json") for key in keys]

    def commit(
        self,
        stage: str,
        fingerprint: str,
        files: Mapping[str, Path | bytes],
        about: Mapping[str, Any],
    ) -> Artifact:
        """Store files, then the manifest that makes them an artifact; the first commit wins.

        returns   the artifact as stored, which is another writer's where that was first
        raises    TransientError on a full disk, an unreachable store or a file that changes while
                  it is stored; InputError where the folder cannot be written. Nothing is
                  half-visible
        """
        doing = f"committing {stage} {fingerprint[:12]}"
        entries = {
            name: self._put_blob(files[name], doing, foreign=stage == _IMPORTED)
            for name in sorted(files)
        }
        manifest = canonical_json(
            {
                "about": dict(about),
                "files": {name: [entry.sha256, entry.size] for name, entry in entries.items()},
                "format": _FORMAT,
            }
        )
        self._sync_folder()  # the files reach the disk before the manifest that names them
        key = _manifest_key(stage, fingerprint)
        raw = self._get(key)
        if raw is not None and _unsealed(raw) is None:
            self._delete(key)  # a damaged manifest is no manifest
        with (
            suppress(obstore.exceptions.AlreadyExistsError),
            self._translated(doing),
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

        Damage of a large file is found by its reader, who sets it aside: it is missing from then
        on. So an answer takes no longer for gigabytes.
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
        """Forget an artifact, and set aside those of its files that are damaged."""
        self.forget(artifact)
        for name in artifact.files:
            with suppress(IntegrityError):
                artifact.path(name)

    def forget(self, artifact: Artifact) -> None:
        """Delete the manifest; files that nothing else names go with the next `sweep`."""
        self._delete(_manifest_key(artifact.stage, artifact.fingerprint))

    def sweep(self) -> int:
        """Delete what nothing names: blobs, those set aside, cached copies, damaged manifests of
        what can be made again, and files that a kill left half-written; the caller sees to it
        that nobody is writing.

        On an object store other machines may be writing: what is younger than a day stays.

        returns   bytes freed
        raises    IntegrityError when the manifest of a dataset is damaged: what it named may be
                  the only copy. InputError for a manifest of a newer format. Nothing is deleted
                  then
        """
        named = self._named()
        freed = 0
        for item in list(self._items("blobs/")):
            if _digest_in(item) not in named and self._settled(item):
                freed += item["size"]
                self._delete(item["path"])
        for item in list(self._items("incoming/")):
            if self._settled(item):
                freed += item["size"]
                self._delete(item["path"])
        for item in list(self._items("damaged/")):
            mended = self._size(_blob_key(_digest_in(item))) is not None
            if mended or _digest_in(item) not in named:
                freed += item["size"]
                self._delete(item["path"])
        torn = [] if self._folder is None else self._folder.rglob("*#*")  # puts; obstore hides them
        copies = [copy for copy in self._cache.glob("blobs/*/*") if copy.name not in named]
        for path in [*torn, *copies]:
            freed += path.stat().st_size
            path.unlink()
        return freed

    def _named(self) -> set[str]:
        """Digests of the files of every artifact; see `sweep`."""
        named: set[str] = set()
        damaged: list[str] = []
        for key in self._keys("manifests/"):
            _, stage, name = key.split("/")
            artifact = self.find(stage, name.removesuffix(".json"))
            if artifact is None:
                damaged.append(key)
            else:
                named.update(entry.sha256 for entry in artifact.files.values())
        lost = [key for key in damaged if key.startswith(f"manifests/{_IMPORTED}/")]
        if lost:
            raise IntegrityError("\n".join(map(self._lost, lost)))
        for key in damaged:
            self._delete(key)
        return named

    def _lost(self, key: str) -> str:
        where = key if self._folder is None else self._folder / key
        return (
            f"{_IMPORTED} {key.rsplit('/', 1)[-1][:12]}: its manifest is damaged, so nothing was "
            f"deleted; import that dataset again, or give up its audio and delete {where}"
        )

    def _settled(self, item: Any) -> bool:
        """Whether no other machine can be at work with this object, asked anew: a listing is old
        when its last object's turn comes.
        """
        if self._folder is not None:
            return True
        settled = datetime.now(UTC) - _SETTLED_AFTER
        try:
            now = obstore.head(self._objects, item["path"])
        except FileNotFoundError:
            return False
        return bool(item["last_modified"] < settled and now["last_modified"] < settled)

    @contextmanager
    def claimed(
        self, stage: str, fingerprint: str, *, waiting: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """Be the only machine at work on a fingerprint; others wait here.

        A folder is one machine's, where a lock does this, and better (spira.stores.locks).

        waiting   called once when another machine is at work and we are about to wait
        raises    TransientError when the store does not answer
        """
        if self._folder is not None:
            yield
            return
        with self._translated(f"claiming {stage} {fingerprint[:12]}"):
            place = f"claims/{stage}/{fingerprint}"
            claim = Claim.win(self._objects, place, lease_s=self._lease_s, waiting=waiting)
        try:
            yield
        finally:
            claim.release()

    # Checkpoints of unfinished work: small, atomic, checked, replaced as a whole.

    def save_scratch(self, fingerprint: str, name: str, data: bytes) -> None:
        """Keep `data` for a later attempt at this fingerprint."""
        with self._translated(f"saving {name}"):
            obstore.put(self._objects, f"scratch/{fingerprint}/{name}", _sealed(data))

    def load_scratch(self, fingerprint: str, name: str) -> bytes | None:
        """What was saved, or None where nothing was or its bytes are damaged."""
        raw = self._get(f"scratch/{fingerprint}/{name}")
        return None if raw is None else _unsealed(raw)

    def clear_scratch(self, fingerprint: str) -> None:
        """Drop everything saved for a fingerprint."""
        for key in self._keys(f"scratch/{fingerprint}/"):
            self._delete(key)

    def scratch(self, *, settled: bool = False) -> "set[str]":
        """Fingerprints that have something saved; settled: by nobody who may be at work elsewhere,
        which on an object store is what was saved more than a day ago.
        """
        saved = [(item["path"].split("/")[1], item) for item in self._items("scratch/")]
        fresh = {name for name, item in saved if settled and not self._settled(item)}
        return {name for name, _ in saved} - fresh

    # Below: one object at a time.

    def verified(self, artifact: Artifact, name: str) -> Path:
        """A local path with the bytes of a file; see `Artifact.path`."""
        entry = artifact.files[name]
        known = self._seen.get(entry.sha256)
        if known is not None and known.exists():
            return known
        key = _blob_key(entry.sha256)
        path = (self._folder or self._cache) / key
        if self._folder is None and not (path.exists() and _file_digest(path) == entry.sha256):
            self._fetch(key, path)
        if path.exists():
            if _file_digest(path) == entry.sha256:
                self._seen[entry.sha256] = path
                self._known.add(entry.sha256)
                return path
            self._set_aside(entry.sha256)
        damaged = path.exists() or self._size(f"damaged/{entry.sha256}") is not None
        found = f"do not match their digest {entry.sha256[:12]}" if damaged else "are gone"
        raise IntegrityError(
            f"{artifact.stage} {artifact.fingerprint[:12]}/{name}: its bytes {found}; "
            f"{_mended_by(artifact.stage)}"
        )

    def _set_aside(self, sha256: str) -> None:
        """Take a damaged blob out of the way, so that whoever looks next misses it and has it made
        again. It is kept until then: of imported audio it may be the only copy.
        """
        key = _blob_key(sha256)
        with (
            suppress(InputError, TransientError, FileNotFoundError),  # one may not write here
            self._translated(f"setting {key} aside"),
        ):
            obstore.rename(self._objects, key, f"damaged/{sha256}")

    def _fetch(self, key: str, path: Path) -> None:
        """Bring a blob into the cache; afterwards there is none where the store has none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._translated(f"reading {key}"):
            try:
                stream = obstore.get(self._objects, key).stream()
            except FileNotFoundError:
                path.unlink(missing_ok=True)
                return
            with tempfile.TemporaryDirectory(dir=self._cache, prefix="fetching-") as scratch:
                fetched = Path(scratch, path.name)
                with fetched.open("wb") as file:
                    for chunk in stream:
                        file.write(chunk)
                fetched.replace(path)

    def _put_blob(self, source: Path | bytes, doing: str, *, foreign: bool) -> FileEntry:
        """Store a file under its digest; `foreign`: somebody else may be writing to it."""
        before = _stamp(source)
        if isinstance(source, bytes):
            entry = FileEntry(hashlib.sha256(source).hexdigest(), len(source))
        else:
            entry = FileEntry(_file_digest(source), source.stat().st_size)
        if self._holds(entry, source):
            return entry
        key = _blob_key(entry.sha256)
        with self._translated(doing):
            if foreign:
                self._put_unchanged(key, source, before, doing)
            else:
                obstore.put(self._objects, key, source)
        self._known.add(entry.sha256)
        return entry

    def _put_unchanged(
        self, key: str, source: Path | bytes, before: tuple[int, int] | None, doing: str
    ) -> None:
        """Put a file under its name when it is known not to have changed since it was hashed: that
        name may hold another dataset's good audio.
        """
        incoming = f"incoming/{uuid.uuid4().hex}"
        obstore.put(self._objects, incoming, source)
        if _stamp(source) != before:
            self._delete(incoming)
            raise TransientError(f"{doing}: a file changed while it was stored; run again")
        obstore.rename(self._objects, incoming, key)

    def _holds(self, entry: FileEntry, source: Path | bytes) -> bool:
        """Whether the blob is there with the right bytes, so that it need not be put.

        In a folder its bytes are read: a flipped bit keeps the size. An object store has no digest
        to ask for (its ETag is none where an upload came in parts), and reading costs as much as
        putting; there only what this process has put or fetched is believed, and the rest is put
        again.
        """
        key = _blob_key(entry.sha256)
        if self._size(key) != entry.size:
            return False
        if self._folder is None:
            return entry.sha256 in self._known
        path = self._folder / key
        return path == source or _file_digest(path) == entry.sha256

    def _size(self, key: str) -> int | None:
        with self._translated(f"looking for {key}"):
            try:
                return int(obstore.head(self._objects, key)["size"])
            except FileNotFoundError:
                return None

    def _get(self, key: str) -> bytes | None:
        with self._translated(f"reading {key}"):
            try:
                return bytes(obstore.get(self._objects, key).bytes())
            except FileNotFoundError:
                return None

    def _items(self, prefix: str) -> Iterator[Any]:
        with self._translated(f"listing {prefix}"):
            for page in obstore.list(self._objects, prefix=prefix):
                yield from page

    def _keys(self, prefix: str) -> Names:
        return [item["path"] for item in self._items(prefix)]

    def _delete(self, key: str) -> None:
        with self._translated(f"deleting {key}"), suppress(FileNotFoundError):
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

    def _translated(self, doing: str) -> AbstractContextManager[None]:
        return translated(doing, self._folder or self._cache)


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


def _stamp(source: Path | bytes) -> tuple[int, int] | None:
    """What tells that a file was written to."""
    if isinstance(source, bytes):
        return None
    status = source.stat()
    return status.st_size, status.st_mtime_ns


def _digest_in(item: Any) -> str:
    """The SHA-256 at the end of a blob's key."""
    return str(item["path"]).rsplit("/", 1)[-1]


def _mended_by(stage: str) -> str:
    """What makes the files of a stage again."""
    if stage == _IMPORTED:
        return "import that dataset again to mend it"
    command = f"spira stage {stage.removesuffix('-shard')}"
    return f"run the stage again to rebuild it (`{command}`, or `spira train`)"
