"""A real queue, for tests that kill it."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from spira.stores.queue import NatsServer, nats_server


@dataclass
class LocalQueue:
    """A real `nats-server`, watched by the test."""

    server: NatsServer
    folder: Path

    @property
    def url(self) -> str:
        """Where it listens, or listened."""
        assert self.server.url is not None
        return self.server.url

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.server.process.pid is not None
        return self.server.process.pid

    def up(self) -> None:
        """Watch it until it is well; it is started again where it was killed."""
        deadline = time.monotonic() + 30
        self.server.process.watch()
        while not self.server.process.well:
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.01)
            self.server.process.watch()

    def kill(self) -> None:
        """End it at once, as a crash does."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # its end is for who watches it


@pytest.fixture
def local_queue(tmp_path: Path) -> Iterator[LocalQueue]:
    """An empty one that is well."""
    folder = tmp_path / "queue"
    with nats_server(folder) as server:
        queue = LocalQueue(server, folder)
        queue.up()
        yield queue
