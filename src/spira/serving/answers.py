"""From an accepted assessment, and from what the predictor says of it, to an answer.

Pure: no table, queue or model is touched here. The form never changes a score; it may withhold it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import Field

from spira.domain.answers import (
    EVIDENCE_SENTENCES,
    FINDING_SENTENCES,
    OUTCOME_SENTENCES,
    Envelope,
    Outcome,
    Sentence,
)
from spira.domain.forms import Remark
from spira.domain.frozen import Frozen
from spira.domain.recordings import Described, EvidenceLevel, Finding
from spira.model.bundle import ModelManifest
from spira.model.prediction import (
    NOT_SCORED,
    Undeclared,
    assumed,
    how_sure,
    not_declared,
    outside,
    population,
)
from spira.serving.forms import declared, outside_intended_use
from spira.serving.messages import Reply
from spira.serving.words import FAILURES, Failure, inconclusive

# What keeps a recording from being scored, the first to be said first: with several, the one whose
# mending may mend the others.
_GRAVEST: tuple[Finding, ...] = ("little_speech", "clipped", "quiet", "noisy", "short")


class FindingSaid(Frozen):
    """A finding, and the sentence for whoever holds the phone."""

    finding: Finding
    sentence: Sentence


class Answer(Frozen):
    """What is said about an assessment. `outcome` is None where nothing was scored; whoever tells
    an answer that no model gave adds its evidence."""

    outcome: Outcome | None
    sentence: Sentence
    reasons: tuple[Sentence, ...] = ()  # why it is outside the intended use
    findings: tuple[FindingSaid, ...] = ()
    how_sure: Sentence | None = None
    for_whom: Sentence | None = None  # whom the model was tested on
    assumed: Sentence | None = None  # what was taken to be as in the test
    evidence_level: EvidenceLevel | None = None
    evidence: Sentence | None = None
    model: str | None = None
    failure: Failure | None = None  # why it ended without an answer


class About(Frozen):
    """What is kept of an assessment for its answer."""

    values: Mapping[str, Any] = Field(repr=False)  # of the form, those that may be used
    marks: Mapping[str, Remark] = Field(default_factory=dict)  # on fields whose value is odd
    banner: Sentence | None = None
    vital_rules: str | None = None  # the version of the rules that it comes from
    found: Described | None = None  # of the recording that is scored
    utterance: str | None = None
    device: str | None = None
    site: str


def before_scoring(about: About) -> Answer | None:
    """The answer that needs no model; None where the model is to be asked."""
    reasons = outside_intended_use(about.values)
    if reasons:
        return Answer(outcome=None, sentence=NOT_SCORED, reasons=reasons)
    if about.found is None:
        return None
    findings = _findings(about.found.findings)
    if findings:
        return Answer(
            outcome="inconclusive", sentence=inconclusive(findings[0].finding), findings=findings
        )
    return None


def failed(kind: Failure) -> Answer:
    """What is said of an assessment that ended without an answer: why, and what to do."""
    return Answer(outcome=None, sentence=FAILURES[kind], failure=kind)


def of_reply(about: About, reply: Reply) -> Answer:
    """The answer that a scored reply gives, with the words of the model that gave it."""
    assert about.found is not None
    model = ModelManifest.model_validate(reply.manifest)
    said = declared(about.values).model_copy(
        update={"utterance": about.utterance, "device": about.device, "site": about.site}
    )
    every: dict[str, Any] = {
        "evidence_level": model.evidence_level,
        "evidence": EVIDENCE_SENTENCES[model.evidence_level],
        "model": reply.model,
        "for_whom": population(model.envelope),
        "assumed": _assumed(model.envelope, about.marks, not_declared(said)),
    }
    reasons = outside(model.envelope, said, about.found.format, about.found.measurements)
    if reasons:
        return Answer(outcome=None, sentence=NOT_SCORED, reasons=reasons, **every)
    outcome = cast(Outcome, reply.outcome)
    share = reply.shares.get(outcome)
    return Answer(
        outcome=outcome,
        sentence=OUTCOME_SENTENCES[outcome],
        how_sure=None if share is None else how_sure(share),
        **every,
    )


def _assumed(
    envelope: Envelope, marks: Mapping[str, Remark], missing: tuple[Undeclared, ...]
) -> Sentence | None:
    """What was taken to be as in the test: what nobody declared, and what cannot be true."""
    silent = assumed(envelope, tuple(name for name in missing if name not in marks))
    said = [] if silent is None else [silent]
    said += [
        Sentence(
            pt=f"{marks[name].pt} Suposto como no teste.",
            en=f"{marks[name].en} Taken to be as in the test.",
        )
        for name in missing
        if name in marks
    ]
    if not said:
        return None
    return Sentence(pt=" ".join(one.pt for one in said), en=" ".join(one.en for one in said))


def _findings(found: Sequence[Finding]) -> tuple[FindingSaid, ...]:
    return tuple(
        FindingSaid(finding=name, sentence=FINDING_SENTENCES[name])
        for name in _GRAVEST
        if name in found
    )
