"""The table of requests, on SQLite and on a real PostgreSQL."""

import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spira.domain.errors import InputError, TransientError
from spira.scheduling.requests import Asked, KeyUsed, Requests

Ask = Callable[..., Asked]


@pytest.fixture(params=["sqlite", "postgres"])
def requests(request: pytest.FixtureRequest, tmp_path: Path) -> Requests:
    """An empty table."""
    if request.param == "sqlite":
        table = Requests.open(f"sqlite:///{tmp_path / 'requests.db'}")
    else:
        table = Requests.open(request.getfixturevalue("postgres").empty(uuid.uuid4().hex))
    table.create()
    return table


@pytest.fixture
def ask(requests: Requests) -> Ask:
    """Ask for experiment `tiny` on dataset d1 unless told otherwise."""

    def asked(key: str, **changes: Any) -> Asked:
        wanted: dict[str, Any] = {
            "body": {"experiment": "tiny"},
            "by": "somebody",
            "reason": "because",
            "dataset": "d1",
            "experiment": "tiny",
            "seed": 1,
            "document": "name: tiny\nseed: 1\n",
        }
        return requests.ask(key=key, **wanted | changes)

    return asked


def test_the_same_is_joined_while_it_is_open(requests: Requests, ask: Ask) -> None:
    """A second one gets the id of the first, and both stand in the table with their reasons."""
    first = ask("a", by="ana", reason="new ward")
    second = ask("b", by="bea", reason="me too")
    other = ask("c", dataset="d2")

    assert (first.joined, second.joined, other.joined) == (False, True, False)
    assert second.request.id == first.request.id != other.request.id
    askings = requests.askings(first.request.id)
    assert [(one.by, one.reason) for one in askings] == [("ana", "new ward"), ("bea", "me too")]

    requests.end(first.request.id, 1, "complete", "complete")
    later = ask("d")
    assert not later.joined
    assert later.request.id != first.request.id


def test_a_key_gets_the_same_request_for_ever(requests: Requests, ask: Ask) -> None:
    """Also after it has ended; for something else the key is refused and nothing is opened."""
    first = ask("a")
    requests.end(first.request.id, 1, "failed", "wrong")

    again = ask("a")

    assert again.repeated
    assert again.request.id == first.request.id
    with pytest.raises(KeyUsed, match="key a: it was used before for something else"):
        ask("a", body={"experiment": "other"}, document="name: other\n", experiment="other")
    assert [one.id for one in requests.list()] == [first.request.id]


def test_of_many_at_once_one_opens_and_the_others_join(requests: Requests, ask: Ask) -> None:
    """However they meet, there is one open request and nobody is turned away."""
    together = threading.Barrier(8)
    found: list[Asked] = []

    def one(number: int) -> None:
        together.wait()
        found.append(ask(f"key-{number}"))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({asked.request.id for asked in found}) == 1
    assert [asked.joined for asked in found].count(False) == 1
    assert len(requests.list(state="open")) == 1
    assert len(requests.askings(found[0].request.id)) == 8


def test_an_attempt_is_settled_once(requests: Requests, ask: Ask) -> None:
    """Two who see the same end change the table once; what comes late changes nothing."""
    request = ask("a").request
    assert requests.on_its_way(request.id, 1, "run-1")
    assert not requests.on_its_way(request.id, 1, "run-2")

    assert requests.again(request.id, 1, "its worker died")
    assert not requests.again(request.id, 1, "its worker died")
    assert not requests.end(request.id, 1, "complete", "late")
    assert requests.end(request.id, 2, "complete", "complete")
    assert not requests.end(request.id, 2, "failed", "late")

    found = requests.get(request.id)
    assert (found.state, found.attempt, found.outcome) == ("complete", 2, "complete")
    assert [event.what for event in requests.events(request.id)] == [
        "asked",
        "run",
        "next attempt",
        "complete",
    ]


def test_the_next_attempt_waits_its_time(requests: Requests, ask: Ask) -> None:
    """Requests are due in the order they were asked for, a delayed one not before its time."""
    first, second = ask("a").request, ask("b", dataset="d2").request
    assert [one.id for one in requests.due()] == [first.id, second.id]

    requests.on_its_way(first.id, 1, "run-1")
    requests.again(first.id, 1, "later", after_s=3600)
    assert [one.id for one in requests.due()] == [second.id]


def test_who_joins_a_sweep_gets_a_challenger(requests: Requests, ask: Ask) -> None:
    """A model that was registered without alias, when somebody joined, gets another attempt."""
    request = ask("a", challenger=False, sweep="s").request
    requests.on_its_way(request.id, 1, "run-1")
    assert requests.register_as(request.id) is False

    joined = ask("b")
    assert joined.request.challenger

    requests.end(request.id, 1, "complete", "complete")
    found = requests.get(request.id)
    assert (found.state, found.attempt, found.run_id) == ("open", 2, None)
    assert requests.register_as(request.id) is True
    requests.end(request.id, 2, "complete", "complete")
    assert requests.get(request.id).state == "complete"
    assert [one.sweep for one in requests.askings(request.id)] == ["s", None]


def test_what_failed_can_be_resumed_unless_another_is_open(requests: Requests, ask: Ask) -> None:
    """Resuming opens the next attempt; complete and open ones, and twins, are refused."""
    request = ask("a").request
    with pytest.raises(InputError, match="nothing to resume, it is open"):
        requests.resume(request.id, "ana")
    requests.end(request.id, 1, "failed", "no memory", stage="train")

    resumed = requests.resume(request.id, "ana")
    assert (resumed.state, resumed.attempt, resumed.outcome) == ("open", 2, None)

    requests.cancel(request.id, "ana")
    with pytest.raises(InputError, match="it has ended"):
        requests.cancel(request.id, "ana")
    ask("b")
    with pytest.raises(InputError, match="another one is open for the same"):
        requests.resume(request.id, "ana")


def test_an_experiment_that_was_complete_is_trained_again(requests: Requests, ask: Ask) -> None:
    """Retrain is the same experiment on other data; another experiment is a redesign."""
    first = ask("a").request
    requests.end(first.id, 1, "complete", "complete")

    assert first.kind == "redesign"
    assert ask("b", dataset="d2").request.kind == "retrain"
    assert ask("c", experiment="other", document="name: other\n").request.kind == "redesign"


def test_pruning_forgets_what_ended_and_nothing_else(requests: Requests, ask: Ask) -> None:
    """With its askings and events; an open one stays however old it is."""
    ended, open_ = ask("a").request, ask("b", dataset="d2").request
    requests.end(ended.id, 1, "complete", "complete")

    assert list(requests.prune(datetime.now(UTC) - timedelta(hours=1))) == []
    assert list(requests.prune(datetime.now(UTC) + timedelta(hours=1))) == [ended.id]

    assert [one.id for one in requests.list()] == [open_.id]
    assert list(requests.askings(ended.id)) == list(requests.events(ended.id)) == []


@pytest.mark.parametrize("words", [{"by": " "}, {"reason": "x" * 501}, {"key": ""}])
def test_words_that_are_missing_or_too_long(requests: Requests, ask: Ask, words: Any) -> None:
    """They are refused, and nothing is opened."""
    with pytest.raises(InputError, match="1 to 500 characters"):
        ask(**{"key": "a"} | words)
    assert not requests.list()


def test_a_database_that_is_away_is_transient(tmp_path: Path) -> None:
    """So that whoever asks tries again, and reads what to see to."""
    away = Requests.open("postgresql://spira@127.0.0.1:1/spira")
    with pytest.raises(TransientError, match="database does not answer"):
        away.list()
    with pytest.raises(TransientError, match="has been started once"):
        Requests.open(f"sqlite:///{tmp_path / 'none.db'}").list()
