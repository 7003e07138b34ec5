"""What a site is told of an assessment."""

import json
from types import SimpleNamespace
from typing import Any

from spira.serving.api import shown


def row(**values: Any) -> Any:
    """An assessment as the table has it."""
    answer = {"outcome": "negative", "sentence": {"pt": "x", "en": "y"}}
    completed = {
        "id": "i",
        "state": "completed",
        "attempt": 1,
        "about": json.dumps({"banner": {"pt": "a", "en": "b"}, "values": {"age": 63}}),
        "recorded_at": "2026-03-01T12:00:00+00:00",
        "answer": json.dumps({**answer, "scored": {"probability": 0.25}}),
        "answered_at": "2026-03-01T18:00:00+00:00",
        "voided_at": None,
        "replaces": None,
    }
    return SimpleNamespace(**completed | values)


def test_an_answer_says_from_when_on_it_is_old() -> None:
    """Two hours after it was recorded, however late it was answered."""
    told = shown(row())

    assert told["recorded_at"] == "2026-03-01T12:00:00+00:00"
    assert told["stale_after"] == "2026-03-01T14:00:00+00:00"


def test_neither_a_probability_nor_the_form_is_told() -> None:
    """The sentence and the banner are."""
    told = shown(row())

    assert (told["sentence"]["pt"], told["banner"]["pt"]) == ("x", "a")
    assert "0.25" not in json.dumps(told)
    assert "63" not in json.dumps(told)


def test_what_waits_is_told_apart_from_what_was_asked() -> None:
    """Both say not to wait for it."""
    waits, asked = (shown(row(state="queued", answer=None, attempt=n)) for n in (0, 1))

    assert (waits["state"], asked["state"]) == ("received", "queued")
    assert waits["sentence"] == asked["sentence"]
    assert "Não espere" in waits["sentence"]["pt"]
