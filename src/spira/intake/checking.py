"""Checking recordings: everything untrusted is parsed in a process that may crash without harm.

The processes are children with limits: of memory, of processor time, of wall time; they can open
and write no file. They take the bytes of a recording and give back what it is and its samples, so
that nothing later has to parse what somebody sent. What they say is read as data (JSON and
samples), never unpickled: a decoder may have been taken over.

A pool of our own, because whatever kills a child (a decoder, the kernel out of memory) must cost
one try of one recording: each child has its own pipe, so that half an answer spoils no other's.
"""

import hashlib
import io
import json
import math
import multiprocessing
import os
import queue
import resource
import signal
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, TypeVar

from spira.audio.decode import Mono, Native, opened
from spira.audio.quality import AMBIENT, findings, measure
from spira.audio.speech import RATE_HZ
from spira.domain.errors import RecordingRefused, RefusalReason, TransientError
from spira.domain.frozen import Frozen
from spira.domain.recordings import Described
from spira.domain.submissions import RecordingFile
from spira.intake.settings import CheckingSettings, IntakeThresholds
from spira.stores.processes import end_with_parent

TOLERANCE_S = 0.2  # between announced and decoded duration: encoders fill up their last frame

_TRIES = 2  # a child may die of something else: the machine out of memory, an operator
_START_S = 120.0  # for a child to import what it needs, on a machine that starts many things
_NAME = "spira-check"  # of the processes
_LARGEST_ANSWER = 1 << 16  # bytes, without the samples
_NO_MEMORY = 71  # exit code
_SAMPLE_BYTES = 4

_CONTEXT = multiprocessing.get_context("spawn")
_T = TypeVar("_T")


class Found(Described):
    """A recording that is what was announced."""

    audio: bytes  # mono float32, little-endian, 16 kHz


class Refused(Frozen):
    """Why a recording cannot be taken, with its figures; it names no file of this machine."""

    reason: (
        RefusalReason
        | Literal[
            "wrong_length", "wrong_digest", "wrong_duration", "speech_in_ambient", "check_failed"
        ]
    )
    detail: str


class Checker:
    """Children that check recordings; they start at once and live until `close`, or with the
    process that made them."""

    def __init__(self, settings: CheckingSettings) -> None:
        """raises TransientError when processes cannot be started"""
        self._children = [_Child(settings) for _ in range(settings.children)]
        self._idle: queue.Queue[_Child | None] = queue.Queue()
        for child in self._children:
            self._idle.put(child)

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, *, unfinished: bool = False
    ) -> Found | Refused:
        """Join the pieces of a recording and check it against what was announced, in a child.

        Waits for a free child; to be called from any thread. Refused is what is not whole, not
        audio, or not what was announced (length, digest, duration within 0.2 s), and a room in
        which somebody speaks. However poor a recording is, it is found: silence and half a second
        of audio too.

        unfinished  the patient could not finish the sentence: it is not `short`
        raises      TransientError when no child can be started, or after `close`
        """
        child = self._idle.get()
        if child is None:
            self._idle.put(None)
            raise TransientError("intake: recordings are no longer checked; this service is ending")
        try:
            for _ in range(_TRIES):
                try:
                    return child.check(pieces, file, unfinished)
                except _Gone as gone:
                    how = str(gone)
            child.start()  # nobody else shall wait for it
        finally:
            self._idle.put(child)
        return Refused(reason="check_failed", detail=f"it could not be checked, twice: {how}")

    def close(self) -> None:
        """End the children as soon as each has answered what it was asked."""
        for _ in self._children:
            child = self._idle.get()
            assert child is not None  # closed once
            child.end()
        self._idle.put(None)


class _Gone(Exception):
    """A child has given no answer, and is no more; why, in words for whoever sent the recording."""


class _Child:
    """A process that checks one recording after another, asked by one thread at a time."""

    def __init__(self, settings: CheckingSettings) -> None:
        self._settings = settings
        self.start()

    def start(self) -> None:
        """A new process; it says when it is ready."""
        self._ready = False
        self._connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=_serve, args=(theirs, self._settings), name=_NAME, daemon=True
        )
        try:
            with theirs:
                self._process.start()
        except OSError as error:
            raise _not_started() from error

    def end(self) -> None:
        """Kill it."""
        with suppress(AttributeError):  # it was never started
            self._process.kill()
            self._process.join()
        self._connection.close()

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, unfinished: bool
    ) -> Found | Refused:
        """raises _Gone, TransientError when it cannot be started"""
        if not self._process.is_alive():  # somebody killed it since
            self.start()
        if not self._ready:
            try:
                self._within(_START_S, self._connection.recv_bytes)
            except _Gone as gone:
                raise _not_started() from gone
            self._ready = True

        def asked() -> Found | Refused:
            # Not as an object: its class may be of a module that the child has not imported.
            self._connection.send((list(pieces), file.model_dump_json(), unfinished))
            return self._answer(file)

        return self._within(self._settings.wall_s, asked)

    def _answer(self, file: RecordingFile) -> Found | Refused:
        told = json.loads(self._connection.recv_bytes(_LARGEST_ANSWER))
        if "reason" in told:
            return Refused(**told)
        longest = math.ceil((file.duration_s + 2 * TOLERANCE_S) * RATE_HZ) * _SAMPLE_BYTES
        return Found(**told, audio=self._connection.recv_bytes(longest))

    def _within(self, seconds: float, exchange: Callable[[], _T]) -> _T:
        """The exchange, during which the process is killed when it takes too long; so no step of
        it, a half-sent answer either, lasts longer."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            return exchange()
        except (
            EOFError,
            OSError,
            ValueError,
            TypeError,
        ) as error:  # no answer, half of one, a strange one
            self.end()
            raise _Gone(self._how(late=late.is_set())) from error
        except BaseException:
            self.end()  # what it may still say is about a recording that nobody waits for
            raise
        finally:
            timer.cancel()
            timer.join()  # it must not kill whoever is at work on the next recording

    def _how(self, *, late: bool) -> str:
        settings, code = self._settings, self._process.exitcode
        if late:
            return f"it took longer than {settings.wall_s:g} s"
        if code == -signal.SIGXCPU:
            return f"it took more than {settings.cpu_s} s of processor time"
        if code == _NO_MEMORY:
            return f"it took more than {settings.memory_mb} MB of memory"
        return "its decoder crashed"


def _not_started() -> TransientError:
    return TransientError(
        "intake: processes that check recordings cannot be started; is there memory left?"
    )


# ---- in a child


def _serve(connection: Connection, settings: CheckingSettings) -> None:
    """Check what comes, until the other end is closed."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at Ctrl-C the parent finishes what it began
    _warm_up(settings.quality)
    _limit(settings)
    connection.send_bytes(b"ready")
    try:
        while True:
            pieces, told, unfinished = connection.recv()
            file = RecordingFile.model_validate_json(told)
            _allow_cpu(settings.cpu_s)
            outcome = _checked(pieces, file, settings.quality, unfinished=unfinished)
            connection.send_bytes(outcome.model_dump_json(exclude={"audio"}).encode())
            if isinstance(outcome, Found):
                connection.send_bytes(outcome.audio)
            del pieces, outcome  # while it waits it holds nobody's voice
    except EOFError:
        return
    except MemoryError:
        os._exit(_NO_MEMORY)


def _warm_up(thresholds: IntakeThresholds) -> None:
    """Import and load all that a check needs: later no file can be opened."""
    second = bytes(2 * 48_000)
    for size in (len(second), 0xFFFFFFFF):  # one for libsndfile; FFmpeg reads what has no size
        wav = struct.pack(
            "<4sI4s4sIHHIIHH4sI",
            *(b"RIFF", 0xFFFFFFFF if size > len(second) else 36 + size, b"WAVE"),
            *(b"fmt ", 16, 1, 1, 48_000, 96_000, 2, 16),
            *(b"data", size),
        )
        data = wav + second
        file = RecordingFile(
            id="00000000-0000-7000-8000-000000000000",
            utterance="sentence",
            sha256=hashlib.sha256(data).hexdigest(),
            n_bytes=len(data),
            duration_s=1.0,
            recorded_at=datetime.fromtimestamp(0, UTC),
        )
        outcome = _checked([data], file, thresholds, unfinished=False)
        assert isinstance(outcome, Found), outcome
        outcome.model_dump_json()


def _limit(settings: CheckingSettings) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + (settings.memory_mb << 20)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold a patient's voice
    # Nothing more can be opened, no socket either; `end_with_parent` goes on to poll one.
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, 1))


def _allow_cpu(seconds: int) -> None:
    """So much processor time from now on; then SIGXCPU ends this process, whatever it runs."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    limit = math.ceil(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, most))


def _checked(
    pieces: Sequence[bytes], file: RecordingFile, thresholds: IntakeThresholds, *, unfinished: bool
) -> Found | Refused:
    data = b"".join(pieces)
    if len(data) != file.n_bytes:
        found = f"{len(data)} bytes arrived, {file.n_bytes} were announced"
        return Refused(reason="wrong_length", detail=found)
    digest = hashlib.sha256(data).hexdigest()
    if digest != file.sha256:
        found = f"the SHA-256 of what arrived is {digest}, {file.sha256} was announced"
        return Refused(reason="wrong_digest", detail=found)
    if file.duration_s > thresholds.longest_s:
        found = f"{file.duration_s:.1f} s were announced, at most {thresholds.longest_s:g} s"
        return Refused(reason="too_long", detail=f"{found} are taken")
    audio = io.BytesIO()

    def hear(block: Mono) -> None:
        audio.write(block.astype("<f4", copy=False).tobytes())

    try:
        with opened(io.BytesIO(data)) as native:
            blocks = _no_longer(native, file.duration_s + TOLERANCE_S)
            measured = measure(blocks, native.format.rate_hz, hearing=hear)
            source = native.format
    except RecordingRefused as refused:
        return Refused(reason=refused.reason, detail=str(refused))
    if abs(measured.duration_s - file.duration_s) > TOLERANCE_S:
        more = "at least " if measured.duration_s > file.duration_s else ""
        found = (
            f"{more}{measured.duration_s:.2f} s of audio, {file.duration_s:.2f} s were announced"
        )
        return Refused(reason="wrong_duration", detail=found)
    if file.utterance in AMBIENT and measured.speech_s > thresholds.ambient_speech_s:
        found = f"{measured.speech_s:.1f} s of speech in a recording of the room"
        most = f"at most {thresholds.ambient_speech_s:g} s may be there by mistake"
        return Refused(reason="speech_in_ambient", detail=f"{found}; {most}")
    return Found(
        format=source,
        measurements=measured,
        findings=findings(measured, thresholds, file.utterance, unfinished=unfinished),
        thresholds=thresholds.version,
        audio=audio.getvalue(),
    )


def _no_longer(native: Native, longest_s: float) -> Iterator[Mono]:
    """The blocks until they are longer than that: hours of silence fit into a few kB."""
    samples = 0
    for block in native.blocks:
        yield block
        samples += len(block)
        if samples > longest_s * native.format.rate_hz:
            return
