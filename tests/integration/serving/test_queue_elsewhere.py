"""A queue of one's own: nats-server with the configuration that we deploy, and a token."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spira.domain.errors import TransientError
from spira.stores.queue import STREAMS, Queue

ROOT = Path(__file__).parents[3]
CONFIGURATION = ROOT / "deploy/kubernetes/serving/nats.conf"
PROGRAM = Path(sys.executable).with_name("nats-server")
Start = Callable[[str], tuple[str, str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start it with a token; addresses for clients and of its monitoring page.

    Only ports and folder differ from what is deployed.
    """
    started: list[subprocess.Popen[bytes]] = []

    def run(token: str) -> tuple[str, str]:
        here = ["-a", "127.0.0.1", "-p", "-1", "-m", "-1", "-sd", str(tmp_path / "store")]
        with (tmp_path / "log").open("wb") as log:
            server = subprocess.Popen(
                [PROGRAM, "-c", CONFIGURATION, *here, "--ports_file_dir", tmp_path],
                env={**os.environ, "QUOTED_TOKEN": f'"{token}"'},
                stdout=log,
                stderr=log,
            )
        started.append(server)
        told = tmp_path / f"{PROGRAM.name}_{server.pid}.ports"
        deadline = time.monotonic() + 30
        while not (told.exists() and told.read_text()):
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        ports = json.loads(told.read_text())
        client, page = (ports[kind][0].rpartition(":")[2] for kind in ("nats", "monitoring"))
        return f"nats://127.0.0.1:{client}", f"http://127.0.0.1:{page}"

    yield run
    for server in started:
        server.terminate()
        server.wait(10)


def page(address: str) -> dict[str, Any]:
    """What a page of the server says."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address) as answer:
        said: dict[str, Any] = json.loads(answer.read())
    return said


async def publish(url: str, token: str | None) -> None:
    """Give one message."""
    queue = await Queue.connect(url, token=token)
    try:
        await queue.publish("spira.asks", "1", b"{}", within_s=0)
    finally:
        await queue.close()


@pytest.mark.parametrize("token", ["3e5", "-a-dash", "Xk2_plain"])
def test_the_deployed_queue_takes_the_token_as_it_is_and_no_other(start: Start, token: str) -> None:
    """Also one that could be read as a number or an option; what it acknowledges is on its disk."""
    url, monitoring = start(token)

    asyncio.run(publish(url, token))
    for wrong in (None, "another"):
        with pytest.raises(TransientError, match="token"):
            asyncio.run(publish(url, wrong))

    assert page(f"{monitoring}/varz")["jetstream"]["config"]["sync_always"]
    assert page(f"{monitoring}/healthz")["status"] == "ok"
    assert page(f"{monitoring}/jsz")["messages"] == 1


def test_the_parts_find_the_queue_by_setting_and_its_token_in_the_environment(
    start: Start, tmp_path: Path
) -> None:
    """`spira serve` starts no queue then; its relay makes the streams on the one that it joins."""
    url, monitoring = start("secret-of-the-queue")
    environment = {
        **os.environ,
        "SPIRA_HOME": str(tmp_path / "home"),
        "SPIRA_SERVING__PORT": "0",
        "SPIRA_SERVING__PREDICTORS": "0",
        "SPIRA_INTAKE__CHECKING__CHILDREN": "1",
        "SPIRA_SERVING__QUEUE": url,
        "SPIRA_QUEUE_TOKEN": "secret-of-the-queue",
    }
    with (tmp_path / "serve.log").open("wb") as log:
        serving = subprocess.Popen(
            [sys.executable, "-m", "spira.cli", "--log-level", "info", "serve"],
            env=environment,
            stdout=log,
            stderr=log,
        )

    def said() -> str:
        logs = [tmp_path / "serve.log", *(tmp_path / "home/serving").rglob("*.log")]
        return "".join(log.read_text() for log in logs)

    deadline = time.monotonic() + 60
    while page(f"{monitoring}/jsz")["streams"] < len(STREAMS):
        assert serving.poll() is None, said()
        assert time.monotonic() < deadline, said()
        time.sleep(0.05)
    serving.terminate()

    assert serving.wait(60) == 0
    assert not (tmp_path / "home/serving/queue").exists()
    assert "secret-of-the-queue" not in said()
