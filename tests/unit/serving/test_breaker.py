"""When a model is held to be bad."""

import pytest

from spira.serving import predictor
from spira.serving.predictor import Breaker


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the test moves."""
    clock = Clock()
    monkeypatch.setattr(predictor.time, "monotonic", lambda: clock.now)
    return clock


def test_several_different_recordings_in_a_row_open_it(clock: Clock) -> None:
    """Not one recording over and over, and not several with an answer between them."""
    breaker = Breaker()
    for recording in ("a", "a", "a", "b"):
        assert not breaker.failed(recording)
    breaker.answered()
    for recording in ("c", "d"):
        assert not breaker.failed(recording)
    assert not breaker.is_open
    assert breaker.failed("e")
    assert breaker.is_open
    assert breaker.is_resting()


def test_it_is_tried_again_after_longer_and_longer_rests(clock: Clock) -> None:
    """What was under way when it opened does not count; five minutes are the longest."""
    breaker = Breaker(rest_s=10)
    for recording in ("a", "b", "c"):
        opened = breaker.failed(recording)
    assert opened
    assert not breaker.failed("under way")
    rests = []
    for _ in range(7):
        began = clock.now
        while breaker.is_resting():
            clock.now += 1
        rests.append(clock.now - began)
        assert breaker.is_open
        assert breaker.failed("a")
    assert rests == [10, 20, 40, 80, 160, 300, 300]


def test_one_answer_closes_it(clock: Clock) -> None:
    """And the next time it rests as short as the first time."""
    breaker = Breaker(rest_s=10)
    for _ in range(2):
        for recording in ("a", "b", "c"):
            breaker.failed(recording)
        clock.now += 10
        assert not breaker.is_resting()
        breaker.answered()
        assert not breaker.is_open
