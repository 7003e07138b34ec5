"""A disk whose process is killed at one of the calls that change it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """As a kill: nobody handles it."""


class Disk:
    """The calls that change a disk; the one with this number does not happen any more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dies_at = -1
        self.calls = 0
        self.synced: set[Path] = set()
        for name in ("open", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **how: Any) -> Any:
            if self.calls == self.dies_at:
                raise Killed
            self.calls += 1
            if name == "fsync":
                self.synced.add(Path(f"/proc/self/fd/{args[0]}").readlink())
            if name in ("rename", "replace"):
                source, target = Path(args[0]), Path(args[1])
                files = [source, *source.iterdir()] if source.is_dir() else [source]
                assert set(files) <= self.synced, "a name is given to what is not on the disk"
                self.synced |= {target / file.relative_to(source) for file in files}
                self.synced -= {source.parent, target.parent}
            return call(*args, **how)

        return counted
