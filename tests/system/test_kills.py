"""Killed with -9 at random moments, the pipeline goes on and ends with the same bytes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spira.stores.registry import Registry
from spira.stores.settings import StoresSettings

STAGES = ["snapshot", "split", "features", "train", "evaluate", "publish"]
sys.path.insert(0, str(Path(__file__).parent))
from conftest import command, stage_bytes  # noqa: E402


def killed_runs(
    kills: int, seed: int, home: Path, clean: Path, whole: Path, experiment: Path, took_s: float
) -> int:
    """Kill `spira train` again and again; whenever it completes, compare and start over.

    returns   how often it completed
    """
    rng = random.Random(seed)
    completed = 0
    done_before: set[str] = set()
    shutil.copytree(clean, home)
    while kills > 0 or completed == 0:
        process = subprocess.Popen(
            command(home, "train", str(experiment), "--data", "tiny"),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, text=True,
        )
        try:
            after = rng.uniform(0.2, took_s) if kills > 0 else None
            _, errors = process.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills -= 1
            done_before |= assert_nothing_redone(home, done_before)
            continue
        assert process.returncode == 0, errors
        assert_nothing_redone(home, done_before)
        assert stage_bytes(home) == stage_bytes(whole)
        assert_registered_once(home)
        completed += 1
        shutil.rmtree(home)
        if kills > 0:
            shutil.copytree(clean, home)
            done_before = set()
    return completed


def assert_nothing_redone(home: Path, done_before: set[str]) -> set[str]:
    """The newest run did no stage that was committed before; returns the stages committed now."""
    records = sorted((home / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if records:
        for row in json.loads(records[-1].read_text())["stages"]:
            assert row["already"] or row["stage"] not in done_before, row
    return {stage for stage in STAGES if any((home / "store/manifests" / stage).glob("*.json"))}


def assert_registered_once(home: Path) -> None:
    """One model version, the challenger, with its report."""
    (version,) = Registry.open(StoresSettings(), home=home).versions()
    assert version.aliases == ("challenger",)
    assert "report.html" in version.files


@pytest.mark.parametrize(
    ("kills", "seed"),
    [(6, 20261124), pytest.param(40, 7, marks=pytest.mark.slow)],
)
def test_killed_anywhere_it_ends_with_the_same_bytes(
    kills: int, seed: int, tmp_path: Path, tiny_home: Path, trained_home: Path,
    tiny_experiment: Path,
) -> None:
    """Split, features, weights, predictions, metrics and ONNX equal an uninterrupted run's."""
    (record,) = (trained_home / "runs").glob("*/run.json")
    stages = json.loads(record.read_text())["stages"]
    took_s = sum(row["seconds"] for row in stages) + 2
    print(f"kills={kills} seed={seed} uninterrupted={took_s:.1f}s")
    began = time.monotonic()

    completed = killed_runs(
        kills, seed, tmp_path / "home", tiny_home, trained_home, tiny_experiment, took_s
    )

    print(f"completed {completed} times in {time.monotonic() - began:.0f} s")


def test_a_second_run_does_nothing(
    tmp_path: Path, trained_home: Path, tiny_experiment: Path
) -> None:
    """All six stages are already done, the same model version stands, and nothing is written."""
    home = tmp_path / "home"
    shutil.copytree(trained_home, home)
    before = stage_bytes(home)

    ended = subprocess.run(
        command(home, "train", str(tiny_experiment), "--data", "tiny"),
        capture_output=True, text=True, check=True,
    )

    assert ended.stdout.count("already done") == len(STAGES)
    assert stage_bytes(home) == before
    assert_registered_once(home)


@pytest.mark.parametrize("stage", STAGES)
def test_a_damaged_artifact_is_made_again(
    stage: str, tmp_path: Path, trained_home: Path, tiny_experiment: Path
) -> None:
    """One byte of a stage's file is flipped: the next run notices and ends with the same bytes."""
    home = tmp_path / "home"
    shutil.copytree(trained_home, home)
    (manifest,) = (home / "store/manifests" / stage).glob("*.json")
    files = json.loads(manifest.read_text().partition("\n")[2])["files"]
    digest = max(files.values(), key=lambda entry: int(entry[1]))[0]
    blob = home / "store/blobs" / digest[:2] / digest
    damaged = bytearray(blob.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    blob.write_bytes(damaged)

    subprocess.run(command(home, "train", str(tiny_experiment), "--data", "tiny"), check=True,
                   capture_output=True)

    assert stage_bytes(home) == stage_bytes(trained_home)
    assert blob.read_bytes() != bytes(damaged)


def test_two_runs_at_once_do_not_disturb_each_other(
    tmp_path: Path, tiny_home: Path, trained_home: Path, tiny_experiment: Path
) -> None:
    """Both end well, with the bytes of one run, and one model version."""
    home = tmp_path / "home"
    shutil.copytree(tiny_home, home)

    both = [
        subprocess.Popen(command(home, "train", str(tiny_experiment), "--data", "tiny"),
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [process.communicate() for process in both]

    assert [process.returncode for process in both] == [0, 0], ended
    assert stage_bytes(home) == stage_bytes(trained_home)
    assert_registered_once(home)
