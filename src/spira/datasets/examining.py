"""Examining files: each is decoded and measured in a process that may crash without harm.

A decoder is the most exposed part of an import. Whatever it makes of one file (an error, a crash,
more memory than its share) is a reason to refuse that file, and every other file is examined.
"""

import hashlib
import math
import multiprocessing
import os
import resource
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spira.audio.quality import Checked, QualityThresholds, check
from spira.domain.errors import RecordingRefused, RefusalReason, TransientError
from spira.domain.progress import Progress, no_progress
from spira.domain.recordings import Measurements, SourceFormat, Utterance
from spira.stores.processes import end_with_parent

_IN_FLIGHT_PER_JOB = 4
_TOLD_EVERY_S = 0.5
_MEMORY_BYTES = 4 << 30  # that a decoder may take; the signal path itself streams


@dataclass(frozen=True)
class Refusal:
    """Why a file cannot be used."""

    reason: RefusalReason
    message: str  # does not name the file
    sha256: str | None  # of the file; None: it could not be read


Outcome = Checked | Refusal


def examine(
    files: Sequence[tuple[Path, Utterance]],
    *,
    thresholds: QualityThresholds,
    jobs: int,
    progress: Progress = no_progress,
) -> list[Outcome]:
    """Check every file, in `jobs` processes; a few files a process are in flight at a time.

    progress  told in MB, several times a second: one long file may be most of the work
    returns   the outcome of each file, in their order
    raises    TransientError when processes cannot be started
    """
    work = [(str(path), utterance, thresholds) for path, utterance in files]
    sizes = [_size(path) for path, _, _ in work]
    read = _CONTEXT.RawArray("Q", max(1, len(work)))  # bytes of each file; its process writes it
    total = max(1, math.ceil(sum(sizes) / 1e6))

    def tell() -> None:
        progress("checking recordings, MB", min(int(np.sum(read) / 1e6), total - 1), total)

    outcomes: dict[int, Outcome] = {}
    shared: dict[SourceFormat, SourceFormat] = {}
    tell()
    for number, outcome in _outcomes(work, min(jobs, len(work)), read, tell):
        outcomes[number] = lean(outcome, shared)
        read[number] = sizes[number]
        tell()
    progress("checking recordings, MB", total, total)
    return [outcomes[number] for number in range(len(work))]


def lean(outcome: Outcome, shared: dict[SourceFormat, SourceFormat]) -> Outcome:
    """The same in half the memory, where all of a large dataset are held at once: what many have in
    common is there once.

    shared    the formats that were seen
    """
    if isinstance(outcome, Refusal):
        return outcome
    measured = Measurements.model_construct(_MEASURED, **dict(outcome.measurements))
    format = shared.setdefault(outcome.format, outcome.format)
    return replace(outcome, format=format, measurements=measured)


_MEASURED = {*Measurements.model_fields}
_Work = tuple[str, Utterance, QualityThresholds]

_CONTEXT = multiprocessing.get_context("forkserver")


def _outcomes(
    work: Sequence[_Work], jobs: int, read: Any, tell: Callable[[], None]
) -> Iterator[tuple[int, Outcome]]:
    """The outcome of each piece of work, by its number, in any order."""
    pooled = partial(_pooled, work, read, tell)
    waiting = deque(range(len(work)))
    while waiting:
        # Whoever was at work when a process died is asked again, alone: what kills its process
        # then is the file.
        suspects = deque((yield from pooled(waiting, jobs, jobs * _IN_FLIGHT_PER_JOB)))
        while suspects:
            for number in (yield from pooled(suspects, 1, 1)):
                message = "cannot be decoded: its decoder crashed"
                yield number, Refusal("undecodable", message, _digest(work[number][0]))


def _pooled(
    work: Sequence[_Work],
    read: Any,
    tell: Callable[[], None],
    waiting: deque[int],
    jobs: int,
    in_flight: int,
) -> Generator[tuple[int, Outcome], None, list[int]]:
    """Take from `waiting` until it is empty, or until a process dies.

    returns   what was in flight when a process died; it has no outcome yet
    """
    running: dict[Future[Outcome], int] = {}
    with ProcessPoolExecutor(jobs, _CONTEXT, _prepare, (read,)) as pool:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool as error:
            raise TransientError(
                "import: processes that decode cannot be started; is there memory left?"
            ) from error
        try:
            while waiting or running:
                while waiting and len(running) < in_flight:
                    running[pool.submit(_examine, waiting[0], *work[waiting[0]])] = waiting[0]
                    waiting.popleft()
                for future in wait(running, _TOLD_EVERY_S, FIRST_COMPLETED).done:
                    outcome = future.result()
                    yield running.pop(future), outcome
                tell()
        except BrokenProcessPool:
            return sorted(running.values())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return []


_read: Any = None  # in a process that decodes: how many bytes of each file have been read


def _prepare(read: Any) -> None:
    """In a new process: end with the import, however that ends, and take no more than a share."""
    global _read
    _read = read
    end_with_parent()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if Path("/proc/self/statm").exists():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(
            resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY_BYTES, most)
        )


def _examine(
    number: int, path: str, utterance: Utterance, thresholds: QualityThresholds
) -> Outcome:
    """Check one file; whatever a decoder does of a file is a reason to refuse that file."""
    if not os.path.isfile(path):  # noqa: PTH113 (False for a name that is too long, no error)
        return Refusal("missing", "no such file; a regular file is needed", None)
    try:
        reading = partial(_read.__setitem__, number)
        return check(Path(path), thresholds=thresholds, utterance=utterance, reading=reading)
    except RecordingRefused as error:
        reason, message = error.reason, str(error).removeprefix(f"{path}: ")
    except MemoryError:
        reason, message = "undecodable", "cannot be decoded in the memory that a decoder may take"
    except Exception as error:
        reason, message = "undecodable", f"cannot be decoded ({type(error).__name__})"
    return Refusal(reason, message, _digest(path))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 (as above)
    except OSError:
        return 0


def _digest(path: str) -> str | None:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
