"""Imports that are killed, interrupted, or run twice at once: whole in the end, or not there."""

import csv
import json
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spira.datasets.names import list_versions
from spira.datasets.versions import verify
from spira.stores.artifacts import ArtifactStore

FILES = 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough recordings to be killed among."""
    import numpy as np
    import soundfile

    root = tmp_path_factory.mktemp("corpus")
    rows = []
    for number in range(FILES):
        sound = 0.1 * np.random.default_rng(number).standard_normal(16_000 * 8)
        soundfile.write(root / f"{number}.wav", sound, 16_000)
        rows.append({"path": f"{number}.wav", "participant": f"p{number}", "label": number % 2})
    with (root / "t.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "participant", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return root


def start(home: Path, corpus: Path) -> "subprocess.Popen[str]":
    """`spira dataset import` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "spira.cli", "--home", str(home), "dataset", "import", "--json",
         "--format", "csv", str(corpus / "t.csv"), "--name", "mine", "--jobs", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]") -> Any:
    """What it printed; its pipes close when the last of its processes has gone."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out)


def opened(home: Path) -> ArtifactStore:
    """The store of a data folder."""
    return ArtifactStore.open(str(home / "store"), cache=home / "cache")


def test_an_import_killed_anywhere_is_not_there_and_completes_the_next_time(
    tmp_path: Path, corpus: Path
) -> None:
    """kill -9 at random moments: no half version, no process left behind, the same digest."""
    home = tmp_path / "home"
    seed = random.SystemRandom().randrange(10_000)
    print(f"seed {seed}")
    moments = [random.Random(seed + n).uniform(0.4, 2.0) for n in range(2)]

    for moment in moments:
        process = start(home, corpus)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moment)
        process.kill()
        process.communicate(timeout=10)  # ends when every process that it started has ended
        for listing in list_versions(opened(home)):
            verify(opened(home), listing.digest)

    digest = finish(start(home, corpus))["digest"]
    assert verify(opened(home), "mine").digest == digest
    assert finish(start(tmp_path / "undisturbed", corpus))["digest"] == digest


def test_an_interrupted_import_ends_at_once_and_says_so(tmp_path: Path, corpus: Path) -> None:
    """Ctrl-C while files are checked: exit code 130, no version, no process left behind."""
    process = start(tmp_path / "home", corpus)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1.0)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)

    assert process.returncode in (130, -signal.SIGINT)  # the latter while Python still starts
    assert "Traceback" not in err or process.returncode == -signal.SIGINT
    assert list_versions(opened(tmp_path / "home")) == []


def test_two_imports_at_once_make_one_version(tmp_path: Path, corpus: Path) -> None:
    """Both succeed, with the same digest, and every byte is there."""
    processes = [start(tmp_path / "home", corpus) for _ in range(2)]

    reports = [finish(process) for process in processes]

    assert len({report["digest"] for report in reports}) == 1
    versions = list_versions(opened(tmp_path / "home"))
    assert [version.names for version in versions] == [("mine",)]
    assert verify(opened(tmp_path / "home"), "mine").files == FILES + 4
