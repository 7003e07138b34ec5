"""The core of the resumable upload protocol tus: HEAD, PATCH and OPTIONS.

Uploads are made by a manifest, never here, and nobody reads or deletes one. Any process can go on
with any upload.

source    tus resumable upload protocol 1.0.0, https://tus.io/protocols/resumable-upload
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from spira.domain.errors import SpiraError
from spira.intake.problems import SaidOf, problem, problem_of
from spira.intake.uploads import OffsetTaken, Uploads

_VERSION = "1.0.0"
_PIECE_BYTES = 256 << 10
_FLUSH_S = 1.0  # a kill costs no more than what came in since
# Each piece is an object: what comes byte by byte must not become a million of them. A network of
# 8 kbit/s brings a KiB between two flushes; the spare ones are for connections that break off.
_LEAST_BYTES = 1 << 10
_SPARE_PIECES = 1000
_SILENT_S = 60.0  # a half-open connection ends
_TYPE = "application/offset+octet-stream"
_HEADERS = {"Tus-Resumable": _VERSION, "Cache-Control": "no-store"}


@dataclass(frozen=True)
class Upload:
    """An upload that somebody may add to."""

    id: str
    n_bytes: int


Find = Callable[[Request], Awaitable[Upload | None]]
"""The upload of a request's path that whoever asks may add to; None where there is none."""


class Tus:
    """The three methods, over pieces."""

    def __init__(self, uploads: Uploads, find: Find, said_of: SaidOf) -> None:
        self._uploads = uploads
        self._find = find
        self._said_of = said_of

    async def respond(self, request: Request) -> Response:
        """Answer a request on an upload's address."""
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=_HEADERS | {"Tus-Version": _VERSION})
        if request.headers.get("Tus-Resumable") != _VERSION:
            return self._problem(
                412, f"header Tus-Resumable: {_VERSION} is needed", {"Tus-Version": _VERSION}
            )
        try:
            upload = await self._find(request)
            if upload is None:
                return self._problem(404, "unknown upload; send the manifest again")
            if request.method == "HEAD":
                return await self._head(upload)
            return await self._patch(request, upload)
        except SpiraError as error:
            answer = problem_of(error, request.url.path, self._said_of)
            answer.headers.update(_HEADERS)
            return answer

    async def _head(self, upload: Upload) -> Response:
        offset = await to_thread.run_sync(self._uploads.offset, upload.id)
        length = {"Upload-Offset": str(offset), "Upload-Length": str(upload.n_bytes)}
        return Response(status_code=200, headers=_HEADERS | length)

    async def _patch(self, request: Request, upload: Upload) -> Response:
        if request.headers.get("Content-Type") != _TYPE:
            return self._problem(415, f"header Content-Type: {_TYPE} is needed")
        said = request.headers.get("Upload-Offset", "")
        if not said.isascii() or not said.isdecimal() or len(said) > len(str(upload.n_bytes)):
            return self._problem(400, "header Upload-Offset: a number of bytes is needed")
        offset, n_pieces = await to_thread.run_sync(self._uploads.so_far, upload.id)
        if int(said) != offset:
            return self._problem(
                409, f"the upload is at {offset}, not at {said}", {"Upload-Offset": str(offset)}
            )
        append = partial(self._uploads.append, upload.id)
        taking = _Taking(request, append, offset, n_pieces, upload.n_bytes)
        try:
            if not await taking.all():
                return self._problem(413, f"more than the {upload.n_bytes} bytes announced")
        except OffsetTaken as taken:
            return self._problem(409, str(taken))
        except _TooManyPieces:
            await to_thread.run_sync(self._uploads.discard, [upload.id])
            detail = f"it came in over {taking.most} pieces, and was let go; send it from 0 on"
            return self._problem(409, detail, {"Upload-Offset": "0"})
        return Response(status_code=204, headers=_HEADERS | {"Upload-Offset": str(taking.offset)})

    def _problem(self, status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
        return problem(status, detail, headers=_HEADERS | (headers or {}), **self._said_of(status))


class _TooManyPieces(Exception):
    """An upload has become more objects than it may."""


class _Taking:
    """The body of one PATCH, put down piece by piece as it comes."""

    def __init__(
        self,
        request: Request,
        append: Callable[[int, bytes], int],
        offset: int,
        n_pieces: int,
        n_bytes: int,
    ) -> None:
        self.offset = offset
        self.most = _SPARE_PIECES + n_bytes // _LEAST_BYTES
        self._n_pieces = n_pieces
        self._request = request
        self._append = append
        self._n_bytes = n_bytes
        self._held = bytearray()

    async def all(self) -> bool:
        """Take what comes until it ends, breaks off or falls silent; False when it is too much.

        raises    _TooManyPieces, and what appending raises
        """
        coming: asyncio.Future[object] | None = None
        clock = asyncio.get_running_loop().time
        due = 0.0  # when what is held has to be put down, however steadily more comes in
        try:
            while True:
                coming = coming or asyncio.ensure_future(self._request.receive())
                wait_s = max(0.0, due - clock()) if self._held else _SILENT_S
                await asyncio.wait({coming}, timeout=wait_s)
                if not coming.done():
                    if not self._held:
                        return True
                    await self._flush()
                    continue
                message, coming = coming.result(), None
                assert isinstance(message, dict)
                if not self._held:
                    due = clock() + _FLUSH_S
                self._held += message.get("body", b"")
                if self.offset + len(self._held) > self._n_bytes:
                    return False
                ends = message["type"] == "http.disconnect" or not message.get("more_body")
                if ends or len(self._held) >= _PIECE_BYTES or clock() >= due:
                    await self._flush()
                if ends:
                    return True
        finally:
            if coming is not None:
                coming.cancel()

    async def _flush(self) -> None:
        piece, self._held = bytes(self._held), bytearray()
        self._n_pieces += bool(piece)
        if self._n_pieces > self.most:
            raise _TooManyPieces
        self.offset = await to_thread.run_sync(self._append, self.offset, piece)
