"""What Collection costs, against the least that the same work can cost.

python -m benchmarks.collection
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.clients import (
    COMMITS_AT_ONCE,
    REPEATS,
    SPOKEN_S,
    Client,
    Row,
    as_a_phone_sends,
    check,
    each,
    rates,
    submission,
    voice,
)
from spira.domain.draws import draws
from spira.domain.recordings import Utterance
from spira.stores.database import Database

_VISITS = 24
_AT_ONCE = 8  # connections
_UTTERANCES: tuple[Utterance, ...] = (
    "ambient_before",
    "vowel",
    "rhyme",
    "sentence",
    "ambient_after",
)


def measured() -> Iterator[Row]:
    """(what, ours, other, ratio), as rows of the table."""
    from collected import Collected  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as place:
        home = Path(place).resolve()
        database = Database.open(f"sqlite:///{home / 'spira.db'}", what="its database is away")
        with Collected(home).running(database) as collected:
            yield _visits(Client(collected.address, collected.token, "/v1/collection/visits"))


def _visits(client: Client) -> Row:
    """From the last manifest to the receipt, against one process that decodes and checks."""
    from collected import FORM
    from uuid_utils import uuid7

    ours, other = [], []
    sounds = [_recorded(number) for number in range(8)] * (_VISITS // 8)
    form = {"id": "visit", "version": 1, "values": FORM}
    for _ in range(REPEATS):
        sent = [
            submission(
                recorded,
                form,
                utterances=_UTTERANCES,
                visit={
                    "study": "spira",
                    "study_version": 1,
                    "participant": str(uuid7()),
                    "synthetic": True,
                },
            )
            for recorded in sounds
        ]
        each(client.upload, sent, _AT_ONCE)
        seconds, _ = each(client.commit, sent, COMMITS_AT_ONCE)
        ours.append(_VISITS / seconds)
        began = time.perf_counter()
        for recorded in sounds:
            for sound, utterance in zip(recorded, _UTTERANCES, strict=True):
                check(sound, utterance)
        other.append(_VISITS / (time.perf_counter() - began))
    return (
        f"visits of {len(_UTTERANCES)} recordings, webm/opus of {SPOKEN_S:g} s, one child that "
        f"checks, {COMMITS_AT_ONCE} at once: to the receipt, against one process that decodes and "
        "checks alone",
        *rates(ours, other, "visits"),
    )


def _recorded(number: int) -> list[bytes]:
    """What is recorded at a visit: somebody speaking, and a quiet room before and after."""
    room = 1e-3 * draws(number, "bench", "room").standard_normal(round(48_000 * SPOKEN_S))
    ambient, spoken = as_a_phone_sends(room.astype(np.float32)), voice(number)
    return [ambient, spoken, spoken, spoken, ambient]


if __name__ == "__main__":
    for row in measured():
        print(f"| {' | '.join(row)} |", flush=True)
