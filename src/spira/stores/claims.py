"""Claims: of the machines that share an object store, one at a time works on a fingerprint.

    claims/STAGE/FINGERPRINT/000001   who holds it, and how often it has said so

A claim is a lease. Its holder writes to it every few seconds. Who waits takes over when it has
seen nothing new for a whole lease by its own clock: clocks of machines are never compared. The
next number is created create-only, so that one of many takes over. A holder that was only slow
works on as an orphan beside its successor: the create-only manifest decides between them, and
nothing is lost but time. On one machine a lock does better (spira.stores.locks).
"""

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

import obstore
import structlog
from obstore.store import ObjectStore

_BEATS = 6  # in a lease: some may be lost on the way

_log = structlog.get_logger()


class Claim:
    """A claim that is held until `release`, or until its process ends."""

    def __init__(self, objects: ObjectStore, place: str, number: int, lease_s: float) -> None:
        self._objects = objects
        self._place = place
        self._number = number
        self._stopped = threading.Event()
        self._heart = threading.Thread(target=self._beat, args=(lease_s / _BEATS,), daemon=True)
        self._heart.start()

    @classmethod
    def win(
        cls,
        objects: ObjectStore,
        place: str,
        *,
        lease_s: float,
        waiting: Callable[[], None] | None = None,
    ) -> "Claim":
        """Hold the claim at `place`, after whoever holds it now has released it or gone silent.

        waiting   called once when somebody else holds it
        raises    obstore's errors when the store fails
        """
        seen, since, told = (0, b""), time.monotonic(), False
        while True:
            held = _newest(objects, place)
            if held != seen:
                seen, since = held, time.monotonic()
            number, _ = held
            if number == 0 or time.monotonic() - since >= lease_s:
                with suppress(obstore.exceptions.AlreadyExistsError):
                    obstore.put(objects, _key(place, number + 1), _word(0), mode="create")
                    return cls(objects, place, number + 1, lease_s)
                continue
            if waiting is not None and not told:
                waiting()
                told = True
            time.sleep(min(1.0, lease_s / _BEATS))

    def release(self) -> None:
        """Let the next one have it."""
        self._stopped.set()
        self._heart.join()
        for number in range(1, self._number + 1):
            with suppress(FileNotFoundError, obstore.exceptions.BaseError):  # else it runs out
                obstore.delete(self._objects, _key(self._place, number))

    def _beat(self, every_s: float) -> None:
        beats = 0
        while not self._stopped.wait(every_s):
            beats += 1
            try:
                obstore.put(self._objects, _key(self._place, self._number), _word(beats))
            except obstore.exceptions.BaseError as error:
                _log.warning("a claim could not be renewed", error=type(error).__name__)


def _newest(objects: ObjectStore, place: str) -> tuple[int, bytes]:
    """The highest number and what it says; 0 where nobody holds a claim."""
    keys = [item["path"] for page in obstore.list(objects, prefix=f"{place}/") for item in page]
    if not keys:
        return 0, b""
    newest = max(keys)
    try:
        return int(newest.rsplit("/", 1)[-1]), bytes(obstore.get(objects, newest).bytes())
    except FileNotFoundError:
        return 0, b""  # released in this moment


def _key(place: str, number: int) -> str:
    return f"{place}/{number:06d}"


def _word(beats: int) -> bytes:
    return f"{_WHO} {beats}".encode()


_WHO = uuid.uuid4().hex  # this process; a name of the machine is nobody's business
