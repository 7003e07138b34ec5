"""What a site is told of an assessment."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from spira.domain.answers import EVIDENCE_SENTENCES, OUTCOME_SENTENCES
from spira.domain.recordings import EvidenceLevel
from spira.serving.answers import Answer, failed
from spira.serving.api import shown
from spira.serving.settings import ServingSettings
from spira.serving.words import NO_MODELS_ANSWER, UNCERTAIN_TIME

WITHOUT_MODEL = Answer(outcome="inconclusive", sentence=OUTCOME_SENTENCES["inconclusive"])
SAID = {"pt": "x", "en": "y"}


def of_model(level: EvidenceLevel) -> Answer:
    """An answer of a model of this evidence level."""
    evidence = EVIDENCE_SENTENCES[level]
    return WITHOUT_MODEL.model_copy(update={"evidence_level": level, "evidence": evidence})


def row(**values: Any) -> Any:
    """An assessment as the table has it."""
    answer = {"outcome": "negative", "sentence": SAID, "evidence": SAID}
    completed = {
        "id": "i",
        "state": "completed",
        "attempt": 1,
        "about": json.dumps(
            {"banner": {"pt": "a", "en": "b"}, "values": {"age": 63}, "site": "ward"}
        ),
        "recorded_at": "2026-03-01T12:00:00+00:00",
        "accepted_at": "2026-03-01T12:30:00+00:00",
        "answer": json.dumps({**answer, "scored": {"probability": 0.25}}),
        "answered_at": "2026-03-01T18:00:00+00:00",
        "voided_at": None,
        "replaces": None,
        "replaced_by": None,
    }
    return SimpleNamespace(**completed | values)


def told_of(
    one: Any, *, model: str | None = "spira/1", hours: float = 1.0, demo: bool = False
) -> dict[str, Any]:
    """What is told so many hours after the recording."""
    now = datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(hours=hours)
    return shown(one, model, ServingSettings(demo=demo), now)


def test_an_answer_says_that_it_is_old() -> None:
    """Counted from when it was recorded, however late it was answered."""
    fresh, old = told_of(row()), told_of(row(), hours=6.34)

    assert fresh["recorded_at"] == "2026-03-01T12:00:00+00:00"
    assert fresh["stale_after"] == "2026-03-01T14:00:00+00:00"
    assert fresh["stale"] is None
    assert old["stale"]["pt"].startswith("Resultado antigo: gravado há 6 h 20 min.")


def test_a_time_ahead_is_uncertain_also_when_it_has_come() -> None:
    """A clock three hours ahead when it was recorded, and right when it was sent; and it is old no
    later than if it had been recorded when it was accepted."""
    ahead = row(recorded_at="2026-03-01T15:30:00+00:00")

    said = [told_of(ahead, hours=hours)["stale"] for hours in (0.6, 3, 4.5, 24)]

    assert {one["pt"] for one in said} == {UNCERTAIN_TIME.pt}
    assert told_of(ahead)["stale_after"] == "2026-03-01T14:30:00+00:00"


@pytest.mark.parametrize(
    "about",
    [
        {"state": "queued", "answer": None},
        {"answer": json.dumps({"outcome": None, "sentence": SAID, "evidence": SAID})},
    ],
    ids=["waits", "not scored"],
)
def test_where_there_is_no_result_none_is_called_old(about: dict[str, Any]) -> None:
    """What waits, failed or was not scored says how long ago it was recorded."""
    assert told_of(row(**about), hours=3)["stale"]["pt"].startswith("Gravado há 3 h, sem resultado")


def test_neither_a_probability_nor_the_form_is_told() -> None:
    """The sentence and the banner are."""
    told = told_of(row())

    assert (told["sentence"]["pt"], told["banner"]["pt"]) == ("x", "a")
    assert "0.25" not in json.dumps(told)
    assert "63" not in json.dumps(told)


def test_what_waits_is_told_apart_from_what_was_asked() -> None:
    """Both say not to wait for it; without a model it is `queued: no model`, asked or not."""
    waits, asked = (told_of(row(state="queued", answer=None, attempt=n)) for n in (0, 1))
    without = [told_of(row(state="queued", answer=None, attempt=n), model=None) for n in (0, 1)]

    assert (waits["state"], asked["state"]) == ("received", "queued")
    assert waits["sentence"] == asked["sentence"]
    assert "Não espere" in waits["sentence"]["pt"]
    assert waits["why"] is None
    for one in without:
        assert (one["state"], one["why"]) == ("queued", "no model")
        assert "não há modelo" in one["sentence"]["pt"]


@pytest.mark.parametrize(
    ("answer", "demo", "level", "evidence"),
    [
        (of_model("research"), False, "research", "Uso em pesquisa. Não regularizado na Anvisa."),
        (of_model("synthetic"), True, "synthetic", EVIDENCE_SENTENCES["synthetic"].pt),
        (WITHOUT_MODEL, False, None, NO_MODELS_ANSWER.pt),
        (WITHOUT_MODEL, True, "synthetic", EVIDENCE_SENTENCES["synthetic"].pt),
        (failed("unknown"), True, "synthetic", EVIDENCE_SENTENCES["synthetic"].pt),
    ],
    ids=["a model", "a synthetic model", "no model", "no model, demo", "failed, demo"],
)
def test_every_answer_says_what_stands_behind_it(
    answer: Answer, demo: bool, level: str | None, evidence: str
) -> None:
    """Its model's level; where no model gave it, what SPIRA is, and a demonstration that it is."""
    told = told_of(row(answer=answer.model_dump_json()), demo=demo)["answer"]

    assert (told["evidence_level"], told["evidence"]["pt"]) == (level, evidence)
