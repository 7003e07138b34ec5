"""What is told of a request that failed."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from spira.scheduling.notices import notice, tell
from spira.scheduling.requests import Request, Requests


@pytest.fixture
def failed(tmp_path: Path) -> Request:
    """A request that failed at `train`."""
    requests = Requests.open(f"sqlite:///{tmp_path / 'requests.db'}")
    requests.create()
    request = requests.ask(
        key="k",
        body={},
        by="ana@example.org",
        reason="private words",
        dataset="d" * 64,
        experiment="tiny",
        seed=3,
        document="name: tiny\n",
    ).request
    requests.end(request.id, 1, "failed", "out of memory", stage="train")
    return requests.get(request.id)


@pytest.fixture
def server() -> Iterator[tuple[str, list[Any], list[int]]]:
    """(address, what it was told, the codes it will answer with)."""
    told: list[Any] = []
    codes: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(codes.pop(0))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}", told, codes
    listening.shutdown()


def test_a_notice_says_where_why_and_what_to_do(failed: Request) -> None:
    """And nothing about the person who asked."""
    told = notice(failed)

    assert (told["stage"], told["reason"]) == ("train", "out of memory")
    assert told["resume"] == f"spira schedule resume {failed.id}"
    assert "ana" not in json.dumps(told)
    assert "private" not in json.dumps(told)


def test_a_webhook_that_does_not_take_it_is_told_again(
    failed: Request, server: tuple[str, list[Any], list[int]]
) -> None:
    """Away, or in trouble: the notice is not told; without a webhook the log is enough."""
    url, told, codes = server
    codes += [500, 204]

    assert not tell(failed, "http://127.0.0.1:1/nobody")
    assert not tell(failed, url)
    assert tell(failed, url)
    assert told == [notice(failed)] * 2
    assert tell(failed, None)
