"""The services under test: `spira serve` or `spira collect` on a data folder, asked, watched and
killed."""

import base64
import hashlib
import io
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import soundfile
import uuid_utils
from services import wait_for
from tiny_bundle import write_bundle

from spira.stores.processes import answers, free_or_wanted
from spira.stores.registry import ChampionChange, Registry

FORM = {
    "record_number": "123.456-7",
    "age": 63,
    "language": "pt-BR",
    "tracheostomy": False,
    "intubated": False,
    "patient_informed": True,
    "research_consent": False,
}
VISIT_FORM = {
    "record_number": "123.456-7",
    "age": 63,
    "sex": "female",
    "language": "pt-BR",
    "mask": "none",
    "tracheostomy": False,
    "research_consent": True,
    "consent_form_version": "1",
    "consent_given_by": "participant",
    "consent_how": "paper",
}
UP_WITHIN_S = 60.0
_DATA = Path(__file__).parents[1] / "data" / "fsdd"
_SPEAKERS = ("george_3", "jackson_3", "nicolas_3", "theo_0", "yweweler_0")


@dataclass
class Assessment:
    """One that a device has made: its manifest, its bytes, its secret."""

    sounds: tuple[bytes, ...]
    id: str = field(default_factory=lambda: str(uuid_utils.uuid7()))
    secret: str = field(
        default_factory=lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    )
    manifest: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.manifest:
            self.manifest = {
                "revision": 1,
                "form": {"id": "assessment", "version": 1, "values": dict(FORM)},
                "recordings": [announced(sound) for sound in self.sounds],
            }


@dataclass
class Visit(Assessment):
    """One of the study that ships, which takes voices that were made."""

    def __post_init__(self) -> None:
        if not self.manifest:
            self.manifest = {
                "revision": 1,
                "visit": {
                    "study": "spira",
                    "study_version": 1,
                    "participant": str(uuid_utils.uuid7()),
                    "synthetic": True,
                },
                "form": {"id": "visit", "version": 1, "values": dict(VISIT_FORM)},
                "recordings": [announced(sound) for sound in self.sounds],
            }


def clock() -> dict[str, str]:
    """What a device says of its clock."""
    return {"Spira-Device-Time": datetime.now(UTC).isoformat()}


def announced(sound: bytes, utterance: str = "sentence") -> dict[str, Any]:
    """A recording in a manifest."""
    return {
        "id": str(uuid_utils.uuid7()),
        "utterance": utterance,
        "sha256": hashlib.sha256(sound).hexdigest(),
        "n_bytes": len(sound),
        "duration_s": soundfile.info(io.BytesIO(sound)).duration,
        "recorded_at": datetime.now(UTC).isoformat(),
        "capture": {"device": "a phone", "rate_hz": 16000},
    }


def voice(number: int, seconds: float = 5.5) -> bytes:
    """A wav file of somebody speaking whose bytes, and whose answer, are its own: its loudness."""
    speaker = _SPEAKERS[number % len(_SPEAKERS)]
    sound, rate = soundfile.read(_DATA / f"{speaker}.flac", dtype="float32")
    sound = sound[: round(seconds * rate)]
    data = io.BytesIO()
    loud = 0.9 - 0.6 * (number % 97) / 97
    soundfile.write(data, sound / np.abs(sound).max() * loud, rate, format="WAV", subtype="PCM_16")
    return data.getvalue()


@dataclass
class Served:
    """`spira serve`, and everything it starts."""

    submissions: ClassVar = "/v1/assessments"
    sites: ClassVar = ("ward", "elsewhere")
    make: ClassVar = Assessment
    marks: ClassVar[Mapping[str, str]] = {  # of its parts' words
        "api": "serve api",
        "relay": "serve relay",
        "predictor": "serve predictor",
        "queue": "nats-server",
        "checker": "spawn_main",
    }

    home: Path
    settings: dict[str, str] = field(default_factory=dict)
    token: str = ""
    process: "subprocess.Popen[str] | None" = None

    @property
    def environment(self) -> dict[str, str]:
        """What it is started with."""
        return {
            **os.environ,
            "SPIRA_HOME": str(self.home),
            "SPIRA_SERVING__PORT": "0",
            "SPIRA_SERVING__LEASE_S": "5",
            "SPIRA_INTAKE__CHECKING": '{"children": 1}',
            **self.settings,
        }

    def spira(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run `spira …` on the same folder."""
        return subprocess.run(
            [sys.executable, "-m", "spira.cli", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def make_token(self, site: str | None = None, role: str = "site") -> str:
        """A new token of a site, the first unless told."""
        made = self.spira("serve", "token", "create", site or self.sites[0], "--role", role)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def start(self, *, wait: bool = True, more: Sequence[str] = ()) -> None:
        """Start it, and wait until everything answers."""
        said = self.said.count("Serving is up.")
        with (self.home / "serve.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "spira.cli", "--log-level", "info", "serve", *more],
                env=self.environment,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        if wait:
            wait_for(lambda: self.said.count("Serving is up.") > said, UP_WITHIN_S, self.said)

    @property
    def said(self) -> str:
        """Everything it has said."""
        log = self.home / "serve.log"
        return log.read_text() if log.exists() else ""

    @property
    def address(self) -> str:
        """Where the API listens."""
        addresses = json.loads((self.home / "serving" / "addresses.json").read_text())
        return str(addresses["api"])

    def http(self, method: str, path: str, **how: Any) -> httpx.Response:
        """Ask the API, as the site."""
        headers = {"Authorization": f"Bearer {self.token}"} | how.pop("headers", {})
        how |= {"headers": headers, "timeout": 60, "verify": False}  # no certificates are read
        return httpx.request(method, self.address + path, **how)

    def put(self, one: Assessment, **headers: str) -> httpx.Response:
        """Send a manifest."""
        ours = {"Spira-Device-Secret": one.secret} | clock()
        path = f"{self.submissions}/{one.id}"
        return self.http("PUT", path, json=one.manifest, headers=ours | headers)

    def patch(self, url: str, offset: int, data: bytes, **headers: str) -> httpx.Response:
        """Send bytes of a recording."""
        tus = {
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
        }
        return self.http("PATCH", url, content=data, headers=tus | headers)

    def upload(self, one: Assessment) -> None:
        """Send what is needed of an assessment."""
        of = {
            recording["id"]: sound
            for recording, sound in zip(one.manifest["recordings"], one.sounds, strict=True)
        }
        for needed in self.put(one).json()["recordings"]:
            if needed["state"] == "needed":
                rest = of[needed["id"]][needed["offset"] :]
                answer = self.patch(needed["upload_url"], needed["offset"], rest)
                assert answer.status_code == 204, answer.text

    def sent(self, one: Assessment) -> str:
        """Send an assessment to its end; the receipt."""
        self.upload(one)
        found: Mapping[str, Any] = wait_for(
            lambda: (told := self.put(one).json()).get("receipt") and told, 60, "the receipt"
        )
        return str(found["receipt"])

    def answered(self, assessment: str, within_s: float = 60) -> dict[str, Any]:
        """An assessment once it is completed or has failed."""

        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = self.http("GET", f"/v1/assessments/{assessment}").json()
            return found if found.get("state") in ("completed", "failed") else None

        answer: dict[str, Any] = wait_for(ended, within_s, f"{assessment} is answered")
        return answer

    def alive(self) -> Iterator[tuple[int, str]]:
        """(process, its words) of everything started with this data folder."""
        mark = f"SPIRA_HOME={self.home}".encode()
        queue = str(self.home / "serving" / "queue").encode()
        for place in Path("/proc").iterdir():
            if not place.name.isdecimal():
                continue
            with suppress(OSError):
                words = (place / "cmdline").read_bytes()
                if words and (
                    queue in words or mark in (place / "environ").read_bytes().split(b"\0")
                ):
                    yield int(place.name), words.replace(b"\0", b" ").decode()

    def kill(self, what: str, how: signal.Signals = signal.SIGKILL) -> bool:
        """End one part, or "everything" as a power cut does; False when it was not there."""
        found = [
            pid for pid, words in self.alive() if what == "everything" or self.marks[what] in words
        ]
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, how)
        if what == "everything" and self.process is not None:
            self.process.wait(30)
            self.process = None
            wait_for(lambda: not list(self.alive()), 30, "everything is dead")
        return bool(found)

    def crash(self, what: str) -> None:
        """Kill it; it runs again, as whoever starts it does."""
        self.kill(what)
        if what == "everything":
            self.start(wait=False)

    def stop(self) -> str:
        """SIGTERM; what it said last."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(60)
        self.process = None
        return self.said.splitlines()[-1]


@dataclass
class Api(Served):
    """`spira serve api` alone: no queue, no predictor."""

    words: ClassVar[Sequence[str]] = ("serve", "api")

    port: int = field(default_factory=lambda: free_or_wanted("", 0))

    def start(self, *, wait: bool = True) -> None:
        """Start it, always on the same port."""
        words = ("--log-level", "info", *self.words, "--port", str(self.port))
        with (self.home / "serve.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "spira.cli", *words],
                env=self.environment,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        if wait:
            wait_for(lambda: answers(f"{self.address}/healthz"), 60, self.said)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Collection(Api):
    """`spira collect`."""

    submissions: ClassVar = "/v1/collection/visits"
    sites: ClassVar = ("site-1", "site-2")
    make: ClassVar = Visit
    words: ClassVar[Sequence[str]] = ("collect",)
    marks: ClassVar[Mapping[str, str]] = {"api": "collect --port", "checker": "spawn_main"}

    def start(self, *, wait: bool = True) -> None:
        """Start it, with the study that ships."""
        file = self.home / "study.yaml"
        if not file.exists():
            self.spira("study", "export-default", str(file))
        applied = self.spira("study", "apply", str(file), "--by", "a test")
        assert applied.returncode == 0, applied.stderr
        super().start(wait=wait)


def publish_champion(home: Path, folder: Path, **how: Any) -> Path:
    """A tiny model in the registry of a data folder, as champion; its bundle."""
    bundle = write_bundle(folder, **how)
    home.mkdir(parents=True, exist_ok=True)
    from spira.stores.settings import StoresSettings

    registry = Registry.open(StoresSettings(), home=home)
    published = registry.register(
        hashlib.sha256(folder.name.encode()).hexdigest(),
        bundle,
        evidence_level=how.get("evidence_level", "research"),
        metrics={},
        parameters={},
    )
    registry.move_champion(
        ChampionChange(
            action="promoted",
            version=published.version,
            previous=None,
            by=("somebody",),
            reason="a test",
            policy="none",
            at=datetime(2026, 3, 1, tzinfo=UTC),
        )
    )
    return bundle
