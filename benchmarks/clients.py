"""What the benchmarks of APIs that take submissions in have in common: phones, and what they send.

The client is one thread a connection, on http.client, the same for both ways: a client library
would cost more than what it asks for.
"""

import hashlib
import http.client
import io
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spira.domain.recordings import Utterance

Row = tuple[str, str, str, str]

_TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(_TESTS), str(_TESTS / "system")]

REPEATS = 3
COMMITS_AT_ONCE = 4
SPOKEN_S = 6.0
_TUS = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}


class Client:
    """Connections that are kept, one a thread."""

    def __init__(self, address: str, token: str, path: str = "/v1/assessments") -> None:
        """path      of all submissions of this kind"""
        self._host = address.removeprefix("http://")
        self._token = token
        self._path = path
        self._of_thread = threading.local()

    def ask(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Status and body of an answer."""
        connection = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = self._of_thread.connection = http.client.HTTPConnection(self._host)
        connection.request(
            method, path, body, {"Authorization": f"Bearer {self._token}", **headers}
        )
        answer = connection.getresponse()
        return answer.status, answer.read()

    def put(self, one: Any) -> dict[str, Any]:
        """Send the manifest of a submission; how it stands."""
        headers = {
            "Content-Type": "application/json",
            "Spira-Device-Secret": one.secret,
            "Spira-Device-Time": datetime.now(UTC).isoformat(),
        }
        body = json.dumps(one.manifest).encode()
        status, answer = self.ask("PUT", f"{self._path}/{one.id}", body, headers)
        assert status in (200, 202), answer
        found: dict[str, Any] = json.loads(answer)
        return found

    def patch(self, upload_url: str, data: bytes) -> None:
        """Send all bytes of a recording."""
        status, body = self.ask("PATCH", upload_url, data, _TUS | {"Upload-Offset": "0"})
        assert status == 204, body

    def announce(self, one: Any) -> list[tuple[str, bytes]]:
        """Where each of its recordings goes, with its bytes."""
        urls = {told["id"]: str(told["upload_url"]) for told in self.put(one)["recordings"]}
        files = zip(one.manifest["recordings"], one.sounds, strict=True)
        return [(urls[file["id"]], sound) for file, sound in files]

    def upload(self, one: Any) -> None:
        """Announce it, and send the bytes of all its recordings."""
        for url, sound in self.announce(one):
            self.patch(url, sound)

    def commit(self, one: Any) -> None:
        """Ask until there is a receipt."""
        while (found := self.put(one))["state"] != "accepted":
            assert found["state"] == "checking", found
            time.sleep(0.1)


def submission(
    sounds: Sequence[bytes],
    form: Mapping[str, Any],
    *,
    utterances: Sequence[str] = ("sentence",),
    duration_s: float = SPOKEN_S,
    **more: Any,
) -> Any:
    """One that a device has made, of recordings that are all as long."""
    from served import Assessment  # type: ignore[import-not-found]
    from uuid_utils import uuid7

    return Assessment(
        tuple(sounds),
        manifest={
            "revision": 1,
            "form": form,
            "recordings": [
                {
                    "id": str(uuid7()),
                    "utterance": utterance,
                    "sha256": hashlib.sha256(sound).hexdigest(),
                    "n_bytes": len(sound),
                    "duration_s": duration_s,
                    "recorded_at": datetime.now(UTC).isoformat(),
                    "capture": {"device": "a phone", "rate_hz": 48_000},
                }
                for utterance, sound in zip(utterances, sounds, strict=True)
            ],
            **more,
        },
    )


def voice(number: int) -> bytes:
    """Somebody speaking for `SPOKEN_S`, as a phone sends it."""
    import soundfile
    import soxr
    from served import voice

    sound, rate_hz = soundfile.read(io.BytesIO(voice(number, SPOKEN_S)), dtype="float32")
    return as_a_phone_sends(soxr.resample(sound, rate_hz, 48_000))


def as_a_phone_sends(sound: NDArray[np.float32]) -> bytes:
    """A sound at 48 kHz, made `SPOKEN_S` long, as webm/opus."""
    from encoding import CASES, encode  # type: ignore[import-not-found]

    whole = np.resize(sound, round(48_000 * SPOKEN_S))
    found: bytes = encode(whole, **CASES["webm-live"])
    return found


def check(sound: bytes, utterance: Utterance = "sentence") -> None:
    """What the child does with a recording: its digest, one decoding, every measurement, and its
    samples at 16 kHz."""
    from spira.audio.decode import opened
    from spira.audio.quality import QualityThresholds, findings, measure

    audio = io.BytesIO()

    def hear(block: NDArray[np.float32]) -> None:
        audio.write(block.tobytes())

    hashlib.sha256(sound).hexdigest()
    with opened(io.BytesIO(sound)) as native:
        found = measure(native.blocks, native.format.rate_hz, hearing=hear)
    findings(found, QualityThresholds(), utterance)


def each(work: Callable[[Any], Any], items: Sequence[Any], at_once: int) -> tuple[float, list[Any]]:
    """Seconds that the work on all items takes, so many at once, and what it gives."""
    with ThreadPoolExecutor(at_once) as pool:
        began = time.perf_counter()
        found = [*pool.map(work, items)]
        return time.perf_counter() - began, found


def rates(ours: Sequence[float], other: Sequence[float], unit: str) -> tuple[str, str, str]:
    """Medians of repeats that alternated."""
    one, two = statistics.median(ours), statistics.median(other)
    digits = 0 if min(one, two) >= 10 else 1
    return f"{one:.{digits}f} {unit}/s", f"{two:.{digits}f} {unit}/s", f"{one / two:.2f}"
