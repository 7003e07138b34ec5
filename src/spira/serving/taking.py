"""What Serving does in the transaction that accepts an assessment."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from spira.domain.answers import Sentence
from spira.domain.forms import Filled
from spira.domain.vitals import VitalRules, banner
from spira.intake import audit
from spira.intake.submissions import Accepted, OnAccept, Stored
from spira.serving.answers import About, Answer, before_scoring, failed
from spira.serving.assessments import add, bury, strike_replaced

SCORED = "sentence"  # the utterance that models are trained on, and answer for
_NOBODYS_TIME = datetime(9000, 1, 1, tzinfo=UTC)  # with room for what is added to it
_NO_SENTENCE = Sentence(
    pt="Inconclusivo: não há gravação da frase. Grave a frase.",
    en="Inconclusive: there is no recording of the sentence. Record the sentence.",
)


def taken(rules: VitalRules, filled: Filled, records: Sequence[str], by: str) -> OnAccept:
    """What is done with an assessment when it is accepted: an answer, or a request for one.

    filled    what became of its form
    records   keyed hashes of the record number, the first under the newest key
    by        the token that sent it, for the audit
    """

    def on_accept(tables: sa.Connection, accepted: Accepted) -> None:
        scored = scored_of(accepted.recordings)
        recorded_at = _corrected(accepted, scored)
        about = About(
            values=filled.values,
            marks=filled.marks,
            banner=banner(rules, filled.values),
            vital_rules=rules.version,
            found=None if scored is None else scored.found,
            utterance=None if scored is None else scored.file.utterance,
            device=None if scored is None else scored.file.capture.device,
            site=accepted.site,
        )
        row: dict[str, Any] = {
            "id": accepted.submission.id,
            "site": accepted.site,
            "record": records[0] if records else None,
            "replaces": accepted.submission.replaces,
            "recorded_at": recorded_at.isoformat(timespec="microseconds"),
            "accepted_at": accepted.accepted_at.isoformat(timespec="microseconds"),
            "about": about.model_dump_json(exclude_none=True),
            "audio": None if scored is None else scored.audio,
            "audio_sha256": None if scored is None else scored.audio_sha256,
        }
        state, answer = at_once(about, scored)
        if answer is not None:
            row["answer"] = answer.model_dump_json()
            row["answered_at"] = row["accepted_at"]
        add(tables, row | {"state": state})
        voided = strike_replaced(tables, row, records, accepted.accepted_at)
        if state == "failed":
            detail = "the check of its recording died twice"
            bury(tables, accepted.submission.id, "input", detail, accepted.accepted_at)
        note = partial(audit.note, tables, at=accepted.accepted_at, who=by, role="site")
        note(what="assessment accepted", which=row["id"])
        for which, why in voided.items():
            note(what="assessment voided", which=which, why=why)

    return on_accept


def at_once(about: About, scored: Stored | None) -> tuple[str, Answer | None]:
    """State and answer of an assessment whose recordings have just been checked."""
    answer = before_scoring(about)
    if answer is not None:
        return "completed", answer
    if scored is None:
        return "completed", Answer(outcome="inconclusive", sentence=_NO_SENTENCE)
    if scored.found is None:
        return "failed", failed("input")
    return "queued", None


def scored_of(recordings: Sequence[Stored]) -> Stored | None:
    """The recording that is asked about: the last sentence."""
    sentences = [one for one in recordings if one.file.utterance == SCORED]
    return max(sentences, key=lambda one: one.file.recorded_at, default=None)


def _corrected(accepted: Accepted, scored: Stored | None) -> datetime:
    """When it was recorded, by the clock of the server; a time in the future is told as uncertain,
    and one that no calendar has is such a time."""
    at = (
        max(file.recorded_at for file in accepted.submission.files)
        if scored is None
        else scored.file.recorded_at
    )
    try:
        corrected = at.astimezone(UTC) - timedelta(seconds=accepted.device_ahead_s or 0.0)
    except OverflowError:  # before the year 1, or after 9999
        return _NOBODYS_TIME
    return min(corrected, _NOBODYS_TIME)
