"""Processes that end with the one that gives them work, and some that are watched by it."""

import ctypes
import errno
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import structlog

from spira.domain.errors import InputError

_PR_SET_PDEATHSIG = 1
_FIRST_ANSWER_S = 120.0  # a start on a busy machine
_ANSWER_WITHIN_S = 5.0
_SILENT_S = 20.0  # without an answer, once it has answered: it hangs
_STOPPED_WITHIN_S = 8.0
_PAUSE_S = 1.0  # before another start, doubled each time it ends without an answer
_LONGEST_PAUSE_S = 30.0
_LOCAL = "127.0.0.1"
_OF_A_PORT = {errno.EADDRINUSE: "is taken", errno.EACCES: "is not for this account"}
_directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None

_log = structlog.get_logger()


def end_with_starter() -> None:
    """In a process about to become another program (`preexec_fn`): the kernel kills it when the
    thread that started it ends, however it ends. Linux only; elsewhere it lives on."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_parent() -> None:
    """In a worker of a pool (its initializer): end when the parent does, even by `kill -9`, and
    at Ctrl-C without a word: the parent says it.

    A pool's workers hold both ends of their queue: they would wait for ever, and first finish
    what is in it, beside the next run.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass
class Process:
    """A process that is started, watched by its answers, and started again.

    It ends with the thread that first watched it, however that ends; so watch from the main one.
    """

    name: str
    words: Sequence[str]
    answers: Callable[[], bool]
    environment: Mapping[str, str]
    log: Path
    silent_s: float = _SILENT_S
    pause_s: float = _PAUSE_S
    keeps: Sequence[int] = ()  # file descriptors that it holds too: locks that live as long as it
    _running: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0.0  # by the wall clock
    _started: float = 0.0
    _answered: float | None = None
    _not_before: float = 0.0
    _ends_at_once: int = 0  # times in a row

    def watch(self) -> None:
        """Start it when it is not there; kill it when it does not answer."""
        now = time.monotonic()
        if self._running is not None and self._running.poll() is not None:
            code, log = self._running.returncode, str(self.log)
            _log.warning("a process of the service ended", process=self.name, code=code, log=log)
            self._running = None
            self._ends_at_once = 0 if self._answered else self._ends_at_once + 1
            if self._ends_at_once:
                pause_s = min(self.pause_s * 2.0**self._ends_at_once, _LONGEST_PAUSE_S)
                self._not_before = now + pause_s
        if self._running is None:
            if now >= self._not_before:
                self._start()
            return
        if self.answers():
            self._answered = time.monotonic()
            return
        silent_s = now - (self._started if self._answered is None else self._answered)
        if silent_s > (_FIRST_ANSWER_S if self._answered is None else self.silent_s):
            _log.warning("a process of the service hangs", process=self.name)
            self._running.kill()

    @property
    def well(self) -> bool:
        """Whether it has answered since it was started."""
        return self._running is not None and self._answered is not None

    @property
    def pid(self) -> int | None:
        """Its process."""
        return None if self._running is None else self._running.pid

    def stop(self) -> None:
        """Ask it to end."""
        if self._running is not None:
            with suppress(ProcessLookupError):
                self._running.terminate()

    def wait(self, deadline: float) -> None:
        """Wait for its end until a moment of the monotonic clock, then kill it."""
        if self._running is None:
            return
        try:
            self._running.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
        self._running = None
        self._answered = None

    def _start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as said:
            self._running = subprocess.Popen(
                self.words,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=self.keeps,
                preexec_fn=end_with_starter,
            )
        self._started, self.started_at = time.monotonic(), time.time()
        self._answered = None


def stop_all(processes: Sequence[Process], *, within_s: float = _STOPPED_WITHIN_S) -> None:
    """Ask all to end, wait so long, and kill those that are still there."""
    for process in processes:
        process.stop()
    deadline = time.monotonic() + within_s
    for process in processes:
        process.wait(deadline)


def free_or_wanted(setting: str, wanted: int, host: str = _LOCAL) -> int:
    """A port that can be listened on: the wanted one, or any free one for 0.

    raises    InputError naming the setting when it is taken, or the host is not this machine
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, wanted, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            return int(listener.getsockname()[1])
    except (OSError, UnicodeError) as error:  # a name that cannot be one is the latter
        code = getattr(error, "errno", None)
        if code in _OF_A_PORT:
            raise InputError(
                f"setting {setting}: port {wanted} {_OF_A_PORT[code]}; choose another, or 0 for any"
            ) from error
        why = str(getattr(error, "strerror", None) or error).lower()
        raise InputError(
            f"setting {setting.partition('.')[0]}.host: {host}: nothing can listen there ({why}); "
            f"write an address of this machine, such as {_LOCAL}"
        ) from error


def without_proxy(environment: Mapping[str, str], host: str) -> dict[str, str]:
    """Variables by which what is on this machine is asked directly, beside what was so before.

    gRPC and Python would ask an `http_proxy` for 127.0.0.1 as well. Both spellings say the same:
    some programs read only one, for others the small one counts.
    """
    kept = environment.get("no_proxy") or environment.get("NO_PROXY")
    direct = ",".join([*filter(None, [kept]), _LOCAL, "localhost", host])
    return {"no_proxy": direct, "NO_PROXY": direct}


def answers(url: str) -> bool:
    """Whether an address of this machine answers, and all is well behind it (200)."""
    try:
        with _directly.open(url, timeout=_ANSWER_WITHIN_S) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False
