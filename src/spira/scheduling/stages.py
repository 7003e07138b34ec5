"""A stage as the process that it is: `spira stage NAME`, started, watched and stopped.

What its exit code means for the run is decided here, once:

    0                   done
    75                  transient: tried again, with back-off
    a signal, or 128    killed: tried again, a few times
      and its number
    3                   refused by an audit or a policy: for good
    2, 1                wrong input, a defect: for good
    70                  stored bytes are damaged: the next attempt makes them again
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spira.domain.errors import (
    InputError,
    IntegrityError,
    PolicyRefused,
    SpiraError,
    TransientError,
)
from spira.scheduling.tokens import TOKEN
from spira.stores.processes import end_with_starter

Cause = Literal[
    "transient",
    "killed",
    "refused",
    "wrong input",
    "damaged",
    "time limit",
    "defect",
    "unexplained",
]

_STOPPED_WITHIN_S = 5.0
_LOOK_EVERY_S = 0.05
_SAID_BYTES = 4096  # of what it said last
_CAUSES: dict[int, Cause] = {
    TransientError.exit_code: "transient",
    PolicyRefused.exit_code: "refused",
    InputError.exit_code: "wrong input",
    IntegrityError.exit_code: "damaged",
}


@dataclass(frozen=True)
class Trouble:
    """Why a stage is not done."""

    cause: Cause
    reason: str  # in one sentence

    @classmethod
    def of(cls, error: SpiraError) -> "Trouble":
        """The trouble that an error of this process is."""
        lines = str(error).splitlines() or [type(error).__name__]
        return cls(_CAUSES.get(error.exit_code, "defect"), _sentence(lines))


def run_process(
    words: Sequence[str],
    *,
    log: Path,
    limit_s: float,
    show: Callable[[str], object] = lambda text: None,
) -> Trouble | None:
    """Run a stage to its end; None when it is done.

    log       what it says is added to this file, of any attempt
    limit_s   after so long it is stopped
    show      is called with what it says, as it says it
    However this function is left, the stage has ended; it ends, too, when this process is killed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as said, log.open("rb") as read:
        read.seek(0, os.SEEK_END)
        began = read.tell()
        process = subprocess.Popen(
            words,
            env={name: value for name, value in os.environ.items() if name != TOKEN},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            preexec_fn=end_with_starter,
        )
        deadline = time.monotonic() + limit_s
        try:
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(_LOOK_EVERY_S)
                if text := read.read():
                    show(text.decode(errors="replace"))
            late = process.returncode is None
        finally:
            _stop(process)
        show(read.read().decode(errors="replace"))
        read.seek(max(began, read.tell() - _SAID_BYTES))
        lines = read.read().decode(errors="replace").splitlines()
    if late:
        return Trouble(
            "time limit",
            f"stopped after {limit_s:g} s; raise setting scheduling.stage_limit_s if it needs more",
        )
    if process.returncode == 0:
        return None
    if killed_by := _signal(process.returncode):
        return Trouble("killed", f"killed by {killed_by}, maybe for want of memory")
    return Trouble(_CAUSES.get(process.returncode, "defect"), _sentence(lines))


def _signal(code: int) -> str | None:
    """The signal that ended a stage, also where a wrapper's shell says it as 128 and its number."""
    try:
        return signal.Signals(-code if code < 0 else code - 128).name
    except ValueError:
        return None


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(_STOPPED_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _sentence(lines: Sequence[str]) -> str:
    """What `spira` said last; of several mistakes the first, and how many more there are."""
    told = [line.removeprefix("spira: ") for line in lines if line.startswith("spira: ")]
    if not told:
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return told[0] if len(told) == 1 else f"{told[0]} (and {len(told) - 1} more)"
