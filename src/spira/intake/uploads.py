"""Files on their way in: pieces that any process can add to, and that outlive every process.

    staging/UPLOAD/OFFSET     bytes from OFFSET on, created once, on stable storage

Whoever creates the piece at an offset has written it; a second writer at the same offset is told
and asks anew. So no lock is needed, and a kill costs what was not flushed yet.
"""

from collections.abc import Iterable

from spira.domain.errors import SpiraError
from spira.stores.objects import Objects

STAGING_PREFIX = "staging"
_DIGITS = 12  # of an offset: listings are in order


class OffsetTaken(SpiraError):
    """The bytes at this offset are there already; ask for the offset and go on from it."""


class Uploads:
    """Pieces of files, in an object store."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def offset(self, upload: str) -> int:
        """How many bytes are there, from the first on."""
        return self.so_far(upload)[0]

    def so_far(self, upload: str) -> tuple[int, int]:
        """How many bytes are there, and in how many pieces."""
        sizes = [size for _, size in self._in_order(upload)]
        return sum(sizes), len(sizes)

    def append(self, upload: str, at: int, data: bytes) -> int:
        """Add bytes at an offset that `offset` or the last `append` gave; the offset after them.

        raises    OffsetTaken when somebody else was first; StorageFull, TransientError
        """
        if data and not self._objects.create(_key(upload, at), data):
            raise OffsetTaken(f"upload at {at}: there is something already; ask for the offset")
        return at + len(data)

    def pieces(self, upload: str) -> list[bytes]:
        """The bytes, piece by piece."""
        found = (self._objects.read(key) for key, _ in self._in_order(upload))
        return [piece for piece in found if piece is not None]

    def discard(self, uploads: Iterable[str]) -> None:
        """Delete every piece."""
        for upload in uploads:
            keys = [item.key for item in self._objects.list(f"{STAGING_PREFIX}/{upload}/")]
            self._objects.delete(reversed(keys))  # from the end: what is left begins at 0

    def _in_order(self, upload: str) -> list[tuple[str, int]]:
        """Key and size of every piece that follows on the one before."""
        found = sorted((item.key, item.n_bytes) for item in self._objects.list(_key(upload)))
        in_order: list[tuple[str, int]] = []
        at = 0
        for key, size in found:
            if size == 0:  # a power cut left a name: nobody was told that its bytes were taken
                self._objects.delete([key])
            elif key == _key(upload, at):
                in_order.append((key, size))
                at += size
        return in_order


def _key(upload: str, at: int | None = None) -> str:
    return f"{STAGING_PREFIX}/{upload}/" + ("" if at is None else f"{at:0{_DIGITS}d}")
