"""The command line itself: help, pipes, trouble with a disk."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from spira import cli


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Exit code, standard output and error of a command run in this process."""

    def main(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, arguments)])
        said = capfd.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return main


def test_help_is_known_from_the_arguments_given(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from those of the process that calls `main`; help needs no settings that can be read."""
    (tmp_path / "settings.toml").write_text("not = [toml")
    monkeypatch.setattr(sys, "argv", ["program", "--help"])
    listed = run("--home", tmp_path / "elsewhere", "dataset", "list")
    monkeypatch.setattr(sys, "argv", ["program"])
    helped = run("--home", tmp_path, "dataset", "list", "--help")

    assert listed[0] == 0
    assert "No datasets yet" in listed[1]
    assert helped[0] == 0
    assert "Every dataset version" in helped[1]


@pytest.mark.parametrize("words", [["--help"], ["dataset", "import", "--help"], ["settings"]])
def test_nobody_reading_on_is_no_failure(tmp_path: Path, words: list[str]) -> None:
    """`spira … | head -1` ends quietly with 0, whoever notices first that the pipe is closed."""
    reading, writing = os.pipe()
    os.close(reading)

    ended = subprocess.run(
        [sys.executable, "-m", "spira.cli", "--home", str(tmp_path), *words],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)

    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("number", "says", "code"),
    [
        (errno.ENOSPC, "/x/y: the disk is full", 75),
        (errno.EROFS, "/x/y: cannot be written (", 2),
        (errno.EACCES, "/x/y: cannot be read or written (permission denied)", 2),
    ],
)
def test_trouble_with_a_disk_is_a_sentence(
    number: int,
    says: str,
    code: int,
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It names the file; a file that may not be read is not said to be unwritable only."""

    @click.command()
    def troubled() -> None:
        raise OSError(number, os.strerror(number), "/x/y")

    monkeypatch.setattr(cli, "find_command", lambda name: troubled)

    ended = run("--home", tmp_path, "settings")

    assert ended[0] == code
    assert f"spira: {says}" in ended[2]
