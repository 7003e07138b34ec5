"""The Scheduler Service under test: started, asked, watched and killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from spira.scheduling.requests import Request, Requests

TINY_SPIRA = Path(__file__).with_name("tiny_spira.py")
TOKEN = "a token for tests"
UP_WITHIN_S = 90.0


def wait_for(condition: Callable[[], Any], within_s: float, what: str) -> Any:
    """What the condition says when it is true at last; fails when it never is."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {within_s:g} s: {what}")


@dataclass
class Service:
    """`spira schedule up` on a data folder, and everything it starts."""

    home: Path
    experiments: Path
    settings: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[str] | None" = None

    @property
    def environment(self) -> dict[str, str]:
        """What it is started with."""
        return {
            **os.environ,
            "SPIRA_HOME": str(self.home),
            "SPIRA_SCHEDULER_TOKEN": TOKEN,
            "SPIRA_SCHEDULING__EXPERIMENTS": str(self.experiments),
            "SPIRA_SCHEDULING__PORT": "0",
            "SPIRA_SCHEDULING__WEB_PORT": "0",
            "SPIRA_SCHEDULING__RETRY_DELAY_S": "0.2",
            **self.settings,
        }

    def spira(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run `spira schedule …` on the same folder."""
        return subprocess.run(
            [sys.executable, "-m", "spira.cli", "schedule", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def import_csv(self, table: Path) -> None:
        """Import a corpus as `tiny`."""
        words = ["dataset", "import", "--format", "csv", str(table), "--name", "tiny"]
        subprocess.run(
            [sys.executable, "-m", "spira.cli", *words], env=self.environment, check=True
        )

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until everything answers."""
        with (self.home / "up.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "spira.cli", "--log-level", "info", "schedule", "up"],
                env=self.environment,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        if wait:
            said = self.said.count("The service is up.")
            wait_for(lambda: self.said.count("The service is up.") > said, UP_WITHIN_S, self.said)

    @property
    def said(self) -> str:
        """Everything `up` has said."""
        return (self.home / "up.log").read_text()

    @property
    def addresses(self) -> dict[str, str]:
        """Where it listens."""
        addresses: dict[str, str] = json.loads(
            (self.home / "scheduler" / "addresses.json").read_text()
        )
        return addresses

    def http(self, method: str, path: str, **how: Any) -> httpx.Response:
        """Ask the endpoint."""
        headers = {"Authorization": f"Bearer {TOKEN}"} | how.pop("headers", {})
        url = self.addresses["endpoint"] + path
        return httpx.request(method, url, headers=headers, timeout=30, **how)

    def ask(self, experiment: str = "tiny", **body: Any) -> str:
        """Ask for a run at the endpoint; the request's id."""
        wanted = {"experiment": experiment, "dataset": "tiny", "by": "a test", "reason": "to see"}
        answer = self.http("POST", "/v1/runs", json=wanted | body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    @property
    def requests(self) -> Requests:
        """The table."""
        database = self.settings.get("SPIRA_SCHEDULING__DATABASE")
        return Requests.open(database or f"sqlite:///{self.home / 'scheduler' / 'requests.db'}")

    def ended(self, request_id: str, within_s: float) -> Request:
        """The request when it has ended."""
        requests = self.requests
        wait_for(
            lambda: requests.get(request_id).state != "open", within_s, f"{request_id} has ended"
        )
        return requests.get(request_id)

    def write(self, name: str, **stages: dict[str, Any]) -> None:
        """An experiment file whose tiny stages do as they are told."""
        # Another key, and no split or training is shared with another experiment's.
        text = f"name: {name}\ndescription: '{json.dumps(stages)}'\nsplit: {{key: {name}}}\n"
        new = self.experiments / f"{name}.new"
        new.write_text(text)
        new.replace(self.experiments / f"{name}.yaml")

    def processes(self, what: str) -> list[int]:
        """Living processes of this service: stage, worker, code, daemon, web, endpoint, up."""
        marks = {
            "stage": [TINY_SPIRA.name, " stage "],
            "real stage": ["spira.cli", " stage "],
            "worker": [" api ", "_run "],
            "code": ["api grpc"],
            "daemon": ["spira.scheduling.daemon"],
            "web": ["spira.scheduling.web"],
            "endpoint": ["schedule endpoint"],
            "up": ["schedule up"],
        }[what]
        return [pid for pid, words in self.alive() if all(mark in words for mark in marks)]

    def alive(self) -> Iterator[tuple[int, str]]:
        """(process, its words) of everything started with this data folder."""
        mark = f"SPIRA_HOME={self.home}".encode()
        for place in Path("/proc").iterdir():
            if not place.name.isdecimal():
                continue
            with suppress(OSError):
                if mark in (place / "environ").read_bytes().split(b"\0"):
                    words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if words:  # a zombie has none
                        yield int(place.name), words

    def kill(self, what: str) -> bool:
        """`kill -9`; "everything" is what a reboot does. False when there was none."""
        if what == "everything":
            while alive := [pid for pid, _ in self.alive()]:
                for pid in alive:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            self._reap()
            return True
        found = self.processes(what)
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if what == "up":
            self._reap()
        return bool(found)

    def stop(self) -> str:
        """SIGTERM; what it said last."""
        assert self.process is not None
        self.process.terminate()
        self._reap()
        return self.said.splitlines()[-1]

    def _reap(self) -> None:
        if self.process is not None:
            self.process.wait(30)
            self.process = None

    def stage_log(self, stage: str = "*") -> list[tuple[str, str]]:
        """("stage started" or "stage done", fingerprint) of every stage that worked, in order."""
        lines = [
            line
            for path in (self.home / "scheduler" / "stages").glob(f"*/{stage}.log")
            for line in path.read_text().splitlines()
            if line.startswith("{")
        ]
        entries = sorted((json.loads(line) for line in lines), key=lambda one: one["timestamp"])
        return [
            (entry["event"], entry["fingerprint"])
            for entry in entries
            if entry["event"] in ("stage started", "stage done")
        ]

    def assert_nothing_was_done_twice(self) -> None:
        """No fingerprint was committed twice; none that was committed was worked on again."""
        done: set[str] = set()
        for event, fingerprint in self.stage_log():
            assert fingerprint not in done, (event, fingerprint)
            if event == "stage done":
                done.add(fingerprint)
