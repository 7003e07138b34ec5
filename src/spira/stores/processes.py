"""Processes that end with the one that gives them work."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


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
