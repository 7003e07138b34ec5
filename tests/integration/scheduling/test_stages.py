"""A stage as a process: what its end means, and that it never outlives who started it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from spira.scheduling.stages import Cause, run_process


def shell(script: str) -> list[str]:
    """A stage that does this."""
    return ["sh", "-c", script]


@pytest.mark.parametrize(
    ("code", "cause"),
    [(2, "wrong input"), (3, "refused"), (70, "damaged"), (75, "transient"), (1, "defect")],
)
def test_an_exit_code_is_a_cause_with_its_sentence(code: int, cause: Cause, tmp_path: Path) -> None:
    """The reason is what the command said to its user, without what it logged."""
    said = 'echo "{\\"event\\": 1}" >&2; echo "spira: a.wav: too short; record again" >&2'

    trouble = run_process(shell(f"{said}; exit {code}"), log=tmp_path / "log", limit_s=10)

    assert trouble is not None
    assert (trouble.cause, trouble.reason) == (cause, "a.wav: too short; record again")


def test_a_stage_that_is_done_has_no_trouble_and_its_words_are_kept(tmp_path: Path) -> None:
    """They are shown as they come, and added to what an earlier attempt said."""
    shown: list[str] = []
    log = tmp_path / "logs" / "train.log"

    for _ in range(2):
        words = shell("echo one; sleep 0.3; echo two >&2")
        assert run_process(words, log=log, limit_s=10, show=shown.append) is None

    assert log.read_text() == "one\ntwo\n" * 2
    assert "".join(shown) == "one\ntwo\n" * 2
    assert len(shown) >= 4


def test_of_several_mistakes_the_first_is_told_with_their_number(tmp_path: Path) -> None:
    """A reason is one sentence."""
    script = 'echo "spira: first" >&2; echo "spira: second" >&2; exit 2'

    trouble = run_process(shell(script), log=tmp_path / "log", limit_s=10)

    assert trouble is not None
    assert trouble.reason == "first (and 1 more)"


@pytest.mark.parametrize("script", ["kill -9 $$", "sh -c 'kill -9 $$'; exit $?"])
def test_a_killed_stage_is_tried_again(script: str, tmp_path: Path) -> None:
    """As one that ran out of memory is, also in a wrapper's shell."""
    trouble = run_process(shell(script), log=tmp_path / "log", limit_s=10)

    assert trouble is not None
    assert trouble.cause == "killed"
    assert "SIGKILL" in trouble.reason


def test_a_stage_over_its_limit_is_stopped(tmp_path: Path) -> None:
    """Also one that ignores being asked."""
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while true; do sleep 0.1; done"

    trouble = run_process(shell(script), log=tmp_path / "log", limit_s=0.5)

    assert trouble is not None
    assert trouble.cause == "time limit"
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_stage_ends_when_its_worker_is_killed(tmp_path: Path) -> None:
    """However the worker ends: nobody works for nobody."""
    script = (
        "from pathlib import Path; from spira.scheduling.stages import run_process;"
        f"run_process(['sh', '-c', 'echo $$ > {tmp_path}/pid; exec sleep 60'],"
        f" log=Path('{tmp_path}/log'), limit_s=60)"
    )
    worker = subprocess.Popen([sys.executable, "-c", script])
    stage = wait_for_pid(tmp_path / "pid")

    worker.kill()
    worker.wait()

    deadline = time.monotonic() + 5
    while alive(stage) and time.monotonic() < deadline:
        time.sleep(0.01)
    ended = not alive(stage)
    with suppress(ProcessLookupError):
        os.kill(stage, signal.SIGKILL)
    assert ended


def wait_for_pid(path: Path) -> int:
    """The process that a stage wrote down."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text().strip()):
            return int(text)
        time.sleep(0.01)
    raise AssertionError("the stage was not started")


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
