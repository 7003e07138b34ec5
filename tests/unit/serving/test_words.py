"""What the Client API says to people."""

import inspect
from datetime import UTC, datetime, timedelta, timezone
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spira.collection import api as of_collection
from spira.domain.recordings import FINDINGS, Finding
from spira.intake import front, listening
from spira.intake import words as of_intake
from spira.intake.checking import Refused
from spira.intake.words import PROBLEMS, REFUSALS
from spira.serving import api, results, taking, words
from spira.serving.words import FAILURES, STATES, inconclusive, stale

FORBIDDEN = ("diagnóstico", "diagnos", "normal", "saudável", "healthy", "✓", "✔", "%")
GROUPS = (of_intake.STATES, STATES, FAILURES, REFUSALS, PROBLEMS)
SENTENCES = [
    *(sentence for group in GROUPS for sentence in group.values()),
    *(inconclusive(finding) for finding in FINDINGS),
    words.UNCERTAIN_TIME,
    words.NO_MODELS_ANSWER,
]
NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
TWO_HOURS = timedelta(hours=2)


def test_every_state_and_reason_has_its_sentence() -> None:
    """No answer of the API is without words."""
    assert {*of_intake.STATES} == {*get_args(of_intake.State)}
    assert {*STATES} == {*get_args(words.State)}
    assert {*FAILURES} == {*get_args(words.Failure)}
    assert {*PROBLEMS} == {*get_args(of_intake.Problem)}
    # What did not arrive as announced is needed again, what died of its check is accepted, and
    # datasets alone have duplicates, and what a store has damaged: none of them is refused here.
    kinds = get_args(Refused.model_fields["reason"].annotation)
    told = {reason for kind in kinds for reason in get_args(kind)} | {"too_large"}
    assert {*REFUSALS} == told - {
        "wrong_digest",
        "wrong_length",
        "check_failed",
        "duplicate",
        "damaged",
    }


def test_no_sentence_is_there_that_nobody_is_told() -> None:
    """Each of a state or a problem stands for something that the API answers, or, of what was not
    sent yet, that an app says."""
    answering = "".join(
        map(inspect.getsource, (front, listening, api, of_collection, results, taking))
    )
    names = (*of_intake.STATES, *STATES, *FAILURES, *PROBLEMS)

    assert [name for name in names if f'"{name}"' not in answering] == ["saved"]


def test_no_sentence_claims_what_the_system_cannot_know() -> None:
    """Never a diagnosis, `normal`, `healthy`, a tick or a bare probability, in either language."""
    texts = [text for sentence in SENTENCES for text in (sentence.pt, sentence.en)]

    assert [(text, word) for text in texts for word in FORBIDDEN if word in text.lower()] == []


def test_sentences_fit_a_phone() -> None:
    """At most 90 characters each, and each is a whole sentence."""
    texts = [text for sentence in SENTENCES for text in (sentence.pt, sentence.en)]

    assert [text for text in texts if len(text) > 90 or text[-1] not in ".?"] == []


def test_saved_and_accepted_are_the_words_of_the_ward() -> None:
    """The sentences that CLINICAL.md gives, word for word."""
    saved = "Guardado neste celular. Será enviado quando houver internet."

    assert of_intake.STATES["saved"].pt == saved
    assert of_intake.STATES["accepted"].pt == "Recebido pelo servidor. Pode seguir."


@pytest.mark.parametrize(
    ("age", "ago"),
    [
        (timedelta(hours=6, minutes=20, seconds=59), "há 6 h 20 min."),
        (timedelta(hours=2), "há 2 h."),
        (timedelta(hours=47, minutes=59), "há 47 h 59 min."),
        (timedelta(hours=48), "há 2 dias."),
        (timedelta(days=400), "há 400 dias."),
    ],
)
def test_an_old_answer_says_how_old_it_is(age: timedelta, ago: str) -> None:
    """The sentence of CLINICAL.md, with the time since the recording."""
    said = stale(NOW - age, NOW - age, NOW, after=TWO_HOURS)

    assert said is not None
    assert said.pt == f"Resultado antigo: gravado {ago} O quadro pode ter mudado."


def test_a_site_that_calls_minutes_old_is_told_minutes() -> None:
    """Limits below an hour read as such."""
    first = stale(NOW - timedelta(minutes=25), NOW, NOW, after=timedelta(minutes=20))
    at_once = stale(NOW, NOW, NOW, after=timedelta(0))

    assert first is not None
    assert "gravado há 25 min." in first.pt
    assert at_once is not None
    assert "gravado há 0 min." in at_once.pt


def test_a_fresh_answer_carries_no_warning() -> None:
    """Under the limit, and a few minutes ahead as clocks are, nothing is said."""
    assert stale(NOW - timedelta(hours=1, minutes=59), NOW, NOW, after=TWO_HOURS) is None
    assert stale(NOW + timedelta(minutes=5), NOW, NOW, after=TWO_HOURS) is None


@given(
    ahead=st.timedeltas(min_value=timedelta(minutes=6), max_value=timedelta(days=4000)),
    later=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=5000)),
)
def test_a_recording_from_the_future_is_never_taken_for_fresh(
    ahead: timedelta, later: timedelta
) -> None:
    """A clock that is wrong must not make an old answer look new, not when its time has come."""
    assert stale(NOW + ahead, NOW, NOW + later, after=TWO_HOURS) == words.UNCERTAIN_TIME


def test_a_server_whose_clock_was_put_back_calls_nothing_fresh() -> None:
    """What it accepted while its clock was ahead was recorded in what is now the future."""
    ahead = NOW + timedelta(days=1)

    assert stale(ahead, ahead, NOW, after=TWO_HOURS) == words.UNCERTAIN_TIME


def test_where_there_is_no_result_none_is_called_old() -> None:
    """How long ago it was recorded is said all the same."""
    said = stale(NOW - TWO_HOURS, NOW, NOW, after=TWO_HOURS, answered=False)

    assert said is not None
    assert said.pt == "Gravado há 2 h, sem resultado. O quadro pode ter mudado."


def test_time_zones_do_not_change_an_age() -> None:
    """Three in the morning in Brasília is six o'clock UTC."""
    brasilia = datetime(2026, 11, 26, 3, 0, tzinfo=timezone(timedelta(hours=-3)))

    said = stale(brasilia, NOW, NOW, after=TWO_HOURS)

    assert said is not None
    assert "há 6 h." in said.pt


@pytest.mark.parametrize("finding", FINDINGS)
def test_an_inconclusive_answer_gives_its_reason_and_one_action(finding: Finding) -> None:
    """«Inconclusivo: [motivo]», in the words of the finding."""
    said = inconclusive(finding)

    assert said.pt.startswith("Inconclusivo: ")
    assert said.en.startswith("Inconclusive: ")
    assert said.pt[14].islower()
