"""Files that are the one before or the new one, whole, whatever happens between."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spira.stores.files import write_new, write_whole


class Killed(BaseException):
    """As a kill: nobody handles it."""


class Steps:
    """The calls that change a disk, and what they synced; the one of a number never happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dies_at = -1
        self.done: list[str] = []
        for name in ("open", "fsync", "replace", "unlink"):
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **how: Any) -> Any:
            if len(self.done) == self.dies_at:
                raise Killed
            what = Path(f"/proc/self/fd/{args[0]}").readlink() if name == "fsync" else Path(args[0])
            self.done.append(f"{name} {what.name}")
            return call(*args, **how)

        return counted


def test_a_file_is_written_over_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any step it holds the old or the new; the next one writes it, for its owner."""
    place = tmp_path / "file"
    steps = Steps(monkeypatch)
    found = set()
    for dies_at in range(100):
        write_whole(place, b"old")
        steps.done, steps.dies_at = [], dies_at
        try:
            write_whole(place, b"newer")
            break
        except Killed:
            steps.dies_at = -1
            found.add(place.read_bytes())

    assert found == {b"old", b"newer"}
    assert [step for step in steps.done if not step.startswith(("open", "unlink"))] == [
        "fsync file.new",
        "replace file.new",
        f"fsync {tmp_path.name}",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert place.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_leaves_no_half_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of one that is new nor beside one that is there."""
    write_whole(tmp_path / "there", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write, name in ((write_new, "new"), (write_whole, "there")):
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path / name, b"newer")

    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_bytes() == b"old"
