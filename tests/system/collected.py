"""Collection under test: `spira collect` on a data folder, asked and killed."""

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import soundfile
from served import UP_WITHIN_S, VISIT_FORM, Collection, voice
from services import wait_for

from spira.collection.client import Device
from spira.collection.studies import Studies, default_study
from spira.documents import parse_document
from spira.domain.studies import Study
from spira.intake.tokens import Tokens
from spira.stores.database import Database
from spira.stores.processes import answers
from spira.wiring import ROOMS

TALKED_IN = "ambient_after"
_RATE_HZ = 16_000
FORM = {name: value for name, value in VISIT_FORM.items() if name != "record_number"}


@dataclass
class Collected(Collection):
    """`spira collect`, started again whenever it ends, as by whoever runs it."""

    @contextmanager
    def running(self, database: Database) -> Iterator["Collected"]:
        """On its database, with the study that ships and a token of a site."""
        database.migrate(ROOMS)
        study = parse_document(default_study(), Study, where="the default", words=True)
        Studies(database).apply(study, by="a test")
        self.token = Tokens(database).create(self.sites[0])
        ended = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(ended,))
        keeper.start()
        try:
            wait_for(lambda: answers(f"{self.address}/readyz"), UP_WITHIN_S, self.said)
            yield self
        finally:
            ended.set()
            while keeper.is_alive():
                self.kill("everything")
                keeper.join(0.1)
            wait_for(lambda: not self.kill("everything"), 30, "everything is dead")

    def _keep(self, ended: threading.Event) -> None:
        words = ("--log-level", "info", *self.words, "--port", str(self.port))
        while not ended.is_set():
            with (self.home / "serve.log").open("a") as log:
                subprocess.run(
                    [sys.executable, "-m", "spira.cli", *words],
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                    check=False,
                )

    def crash(self, what: str) -> None:
        """Kill it; `running` starts it again."""
        self.kill(what)


@dataclass
class Visit:
    """A visit as it was recorded."""

    participant: str
    form: dict[str, Any]
    sounds: dict[str, bytes]  # by utterance
    replaces: str | None


@dataclass
class Collector:
    """A device of a collector, and what it has recorded, by the name that the device gave it."""

    device: Device
    visits: dict[str, Visit] = field(default_factory=dict)

    def record(
        self,
        number: int,
        participant: str,
        record_number: str,
        *,
        replaces: str | None = None,
        talk: bool = False,
        room_s: float = 2.5,
    ) -> str:
        """A visit, offline, whose sounds and form are those of this number.

        talk      whether there is a recording of the room too in which people talk
        """
        sounds = {"ambient_before": room(number, room_s), "sentence": voice(number)}
        if talk:
            sounds[TALKED_IN] = voice(number + 1)
        form = FORM | {"age": 18 + number % 80, "record_number": record_number}
        made = datetime.now(UTC) - timedelta(hours=number % 30)
        recordings = [
            (utterance, sound, soundfile.info(io.BytesIO(sound)).duration, made)
            for utterance, sound in sounds.items()
        ]
        name = self.device.record(
            "spira", 1, participant, form, recordings, synthetic=True, replaces=replaces
        )
        self.visits[name] = Visit(participant, form, sounds, replaces)
        return name


def room(number: int, seconds: float) -> bytes:
    """A wav file of a quiet room, whose bytes are its own."""
    noise = np.random.default_rng(number).standard_normal(round(_RATE_HZ * seconds))
    data = io.BytesIO()
    soundfile.write(data, 1e-3 * noise, _RATE_HZ, format="WAV", subtype="PCM_16")
    return data.getvalue()
