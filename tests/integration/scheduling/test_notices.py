"""What is told of a request that failed."""

import json
from pathlib import Path
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
    """Away, or in trouble: the notice is not told; without a webhook nobody is."""
    url, told, codes = server
    codes += [500, 204]

    assert not tell(failed, "http://127.0.0.1:1/nobody")
    assert not tell(failed, url)
    assert tell(failed, url)
    assert told == [notice(failed)] * 2
    assert tell(failed, None)
