"""What relay and predictor say to each other."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spira.domain.errors import InputError, TransientError
from spira.serving.messages import Ask, Reply, read_message, write_message

ID = "01938f00-0000-7000-8000-000000000001"
ASK = Ask(assessment=ID, attempt=3, audio=f"{ID}/r/audio.f32", sha256="0" * 64)
SCORED: dict[str, Any] = {
    "assessment": ID,
    "attempt": 3,
    "kind": "scored",
    "probability": 0.25,
    "calibrated": 0.3,
    "outcome": "negative",
    "windows": 4,
    "model": "spira/1@" + "0" * 64,
    "manifest": {"age_min": None},
}
ABOUT = {key: SCORED[key] for key in ("assessment", "attempt", "model")}


def test_a_message_comes_back_as_it_was_sent() -> None:
    """Empty values inside the manifest too."""
    for message in (
        ASK,
        Reply(**SCORED),
        Reply(kind="failed", reason="not_finite", detail="…", **ABOUT),
        Reply(kind="tried", delivery=3, **ABOUT),
    ):
        assert read_message(type(message), write_message(message)) == message


@pytest.mark.parametrize("missing", ["probability", "calibrated", "outcome", "windows", "manifest"])
def test_a_score_is_whole_and_only_a_score_has_figures(missing: str) -> None:
    """Half an answer is none."""
    with pytest.raises(ValidationError, match="needs every figure"):
        Reply(**SCORED | {missing: None})
    with pytest.raises(ValidationError, match="has no figures"):
        Reply(kind="tried", **ABOUT, **{missing: SCORED[missing]})


def test_only_a_failure_has_a_reason() -> None:
    """And no failure is without one."""
    for wrong in ({"kind": "failed"}, {"kind": "tried", "reason": "empty"}):
        with pytest.raises(ValidationError, match="says why"):
            Reply(**ABOUT | wrong)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    """Whatever the bytes are; nothing but an InputError comes of it."""
    for kind in (Ask, Reply):
        with pytest.raises(InputError):
            read_message(kind, data)


@pytest.mark.parametrize("key", ["../x", "/x", "a//b", "a/../b", ".hidden", "a\nb", "a" * 401, ""])
def test_an_ask_names_an_object_and_nothing_outside_the_store(key: str) -> None:
    """It is handed to a file system."""
    document = ASK.model_dump() | {"audio": key}
    with pytest.raises(InputError, match="audio: string"):
        read_message(Ask, json.dumps(document).encode())


def test_a_refusal_repeats_nothing_of_the_message() -> None:
    """Nobody knows what is in it."""
    document = ASK.model_dump() | {"sha256": "record 4711"}
    with pytest.raises(InputError) as refusal:
        read_message(Ask, json.dumps(document).encode())
    assert "4711" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_later_version_is_somebody_elses_to_read() -> None:
    """And one before the first is garbage."""
    for version, kind in ((2, TransientError), (0, InputError)):
        document = ASK.model_dump() | {"version": version, "more": 1}
        with pytest.raises(kind):
            read_message(Ask, json.dumps(document).encode())


def test_what_is_too_large_is_not_read() -> None:
    """Whatever it says."""
    with pytest.raises(InputError, match="at most 262144 are read"):
        read_message(Ask, write_message(ASK) + b" " * 300_000)
