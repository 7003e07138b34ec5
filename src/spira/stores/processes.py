"""Worker processes that end with the process that gives them work."""

import multiprocessing
import os
import signal
import threading


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
