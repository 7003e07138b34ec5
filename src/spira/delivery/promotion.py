"""Whether a model may become champion: a versioned policy, and the decision it comes to.

A policy is a YAML file of what a model must show. Every criterion becomes one row of a table
(required, observed, interval, met), and one row that is not met refuses. What is not known is not
met: a figure without an interval, an audit without enough data, a champion whose predictions are
gone.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from spira.documents import parse_document, read_document
from spira.domain.answers import OperatingPoint
from spira.domain.errors import InputError
from spira.domain.frozen import Frozen
from spira.domain.recordings import EvidenceLevel
from spira.evaluation.intervals import ONE_SIDED, paired_change_interval
from spira.evaluation.results import Condition, ConditionResult, Estimate, EvaluationResult, Level
from spira.evaluation.wording import interval
from spira.stores.registry import ChampionChange, ModelVersion

if TYPE_CHECKING:
    import polars as pl

BUILT_IN = ("clinical", "demo")

AuditName = Literal["noise", "background", "acquisition"]


class LowerBound(Frozen):
    """What the lower end of a figure's two-sided 95 % interval must reach."""

    figure: Literal["sensitivity", "specificity", "balanced_accuracy", "auroc"]
    at_least: float = Field(gt=0, lt=1)
    condition: Condition = "clean"
    level: Level = "participant"


class Policy(Frozen):
    """What a model must show, and who must say so, before it may be champion.

    Synthetic evidence has rules of its own: a policy that accepts it accepts nothing else, and
    records the reason "demo". Every other policy needs two people and the reason they write.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    version: int = Field(ge=1)
    accepts: tuple[EvidenceLevel, ...] = Field(min_length=1)
    people_required: int = Field(default=2, ge=0)
    recorded_reason: Literal["demo"] | None = None  # in place of one that somebody writes
    minimum_people: int = Field(default=0, ge=0)  # test people of each class
    participants_disjoint: bool = False  # it must be proven that nobody is on two sides
    lower_bounds: tuple[LowerBound, ...] = ()
    # Share of the answers to test people, clean and under noise where noise was measured; what the
    # upper end of its 95 % interval may be at most.
    inconclusive_at_most: float | None = Field(default=None, gt=0, lt=1)
    audits: dict[AuditName, float] = Field(default_factory=dict)  # to pass, at a limit this or less
    non_inferiority_margin: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _synthetic_is_demo(self) -> "Policy":
        if "synthetic" in self.accepts:
            if len(set(self.accepts)) > 1 or self.recorded_reason != "demo":
                raise ValueError(
                    "a policy that accepts synthetic evidence accepts nothing else, "
                    "and has recorded_reason: demo"
                )
        elif self.people_required < 2 or self.recorded_reason is not None:
            raise ValueError(
                "a policy for evidence about patients needs people_required of at least 2 "
                "and no recorded_reason"
            )
        return self

    @property
    def label(self) -> str:
        """Name and version, as the history of the champion records them."""
        return f"{self.name} {self.version}"


class Criterion(Frozen):
    """One row of a decision."""

    criterion: str
    required: str
    observed: str
    interval: str = ""
    met: bool


class Decision(Frozen):
    """What a policy says about a model, and every reason for it."""

    outcome: Literal["promoted", "refused"]
    policy: str
    rows: tuple[Criterion, ...]


class Comparison(Frozen):
    """A model against the champion on the test people of both, under the clean condition.

    Changes are the model's proportion minus the champion's, with Tango's two-sided 95 % interval;
    the lower bounds are one-sided.
    """

    sensitivity: Estimate
    sensitivity_low: float
    specificity: Estimate
    specificity_low: float


def load_policy(name: str) -> Policy:
    """A built-in policy by name, or a policy file by path.

    raises    InputError listing every mistake of the file: line, key, nearest known key
    """
    if name in BUILT_IN:
        text = (files("spira.delivery") / "policies" / f"{name}.yaml").read_text("utf-8")
        return parse_document(text, Policy, where=f"policy {name}")
    if not os.path.exists(name):  # noqa: PTH110 (False for a name that is too long; no error)
        raise InputError(
            f"policy {name}: neither built in ({', '.join(BUILT_IN)}) nor a file that is there"
        )
    policy = read_document(Path(name), Policy)
    if policy.name in BUILT_IN:
        raise InputError(f"policy {name}: the name {policy.name!r} is a built-in policy's")
    return policy


def decide(
    policy: Policy,
    result: EvaluationResult,
    *,
    evidence_level: EvidenceLevel,
    by: Sequence[str],
    reason: str,
    champion: ModelVersion | None = None,
    comparison: Comparison | None = None,
) -> Decision:
    """Hold a model's evaluation against a policy.

    by          the people who decide; one person under two spellings counts once
    reason      what they wrote
    champion    the present one; a model of synthetic evidence may not replace another kind, and
                is nothing that another kind must be compared with
    comparison  with the champion; None where its predictions cannot be had
    """
    rows = (
        *_formal_rows(policy, evidence_level, by, reason),
        *_evidence_rows(policy, result),
        *_champion_rows(policy, champion, comparison),
    )
    outcome: Literal["promoted", "refused"] = (
        "promoted" if all(row.met for row in rows) else "refused"
    )
    return Decision(outcome=outcome, policy=policy.label, rows=rows)


def compare(
    model: "pl.DataFrame",
    model_point: OperatingPoint,
    champion: "pl.DataFrame",
    champion_point: OperatingPoint,
) -> Comparison:
    """Two models on the people that are in the test split of both, and so in no training.

    model, champion  predictions.parquet as the stage `evaluate` keeps it: participant_id, placed,
                     condition, label and probability of each recording. Counted per participant,
                     each model at its own threshold
    """
    ours, theirs = _answers(model, model_point), _answers(champion, champion_point)
    shared = sorted(ours.keys() & theirs.keys())

    def change(label: str, right: bool) -> tuple[Estimate, float]:
        pairs = [
            (ours[person, of] == right, theirs[person, of] == right)
            for person, of in shared
            if of == label
        ]
        gained = sum(we and not they for we, they in pairs)
        lost = sum(they and not we for we, they in pairs)
        low, high = paired_change_interval(gained, lost, len(pairs))
        estimate = Estimate(
            value=(gained - lost) / len(pairs) if pairs else None,
            low=low,
            high=high,
            n=len(pairs),
            method="Tango",
        )
        return estimate, paired_change_interval(gained, lost, len(pairs), tail=ONE_SIDED)[0]

    sensitivity, sensitivity_low = change("present", True)
    specificity, specificity_low = change("absent", False)
    return Comparison(
        sensitivity=sensitivity,
        sensitivity_low=sensitivity_low,
        specificity=specificity,
        specificity_low=specificity_low,
    )


def previous_champion(history: Sequence[ChampionChange], current: int) -> int | None:
    """The version that was champion before the current one came; None where there was none.

    A rollback takes the version back off, so rolling back twice goes back two champions. A change
    that was recorded and never carried out (a kill in between) is seen by what follows it.
    """
    line: list[int] = []
    for change in history:
        _take_off(line, change.previous)
        if change.action == "promoted":
            line.append(change.version)
        else:
            _take_off(line, change.version)
    _take_off(line, current)
    return line[-2] if len(line) > 1 else None


def _take_off(line: list[int], until: int | None) -> None:
    while line and line[-1] != until:
        line.pop()


def _formal_rows(
    policy: Policy, evidence_level: EvidenceLevel, by: Sequence[str], reason: str
) -> Iterator[Criterion]:
    yield Criterion(
        criterion="evidence level",
        required=" or ".join(policy.accepts),
        observed=evidence_level,
        met=evidence_level in policy.accepts,
    )
    if policy.people_required:
        people = {" ".join(name.split()).casefold() for name in by} - {""}
        yield Criterion(
            criterion="people who decide",
            required=f"at least {policy.people_required}",
            observed=str(len(people)),
            met=len(people) >= policy.people_required,
        )
    if policy.recorded_reason is None:
        yield Criterion(
            criterion="reason",
            required="written",
            observed="written" if reason.strip() else "none",
            met=bool(reason.strip()),
        )


def _evidence_rows(policy: Policy, result: EvaluationResult) -> Iterator[Criterion]:
    conditions = {(found.condition, found.level): found for found in result.conditions}
    if policy.participants_disjoint:
        yield Criterion(
            criterion="nobody is in training and test",
            required="proven",
            observed=result.participants_disjoint,
            met=result.participants_disjoint == "proven",
        )
    if policy.minimum_people:
        clean = conditions.get(("clean", "participant"))
        for label, n in (
            ("present", clean.n_present if clean else 0),
            ("absent", clean.n_absent if clean else 0),
        ):
            yield Criterion(
                criterion=f"test people, {label}",
                required=f"at least {policy.minimum_people}",
                observed=str(n),
                met=n >= policy.minimum_people,
            )
    for bound in policy.lower_bounds:
        yield _bound_row(bound, conditions.get((bound.condition, bound.level)))
    if policy.inconclusive_at_most is not None:
        yield _inconclusive_row("clean", conditions, policy.inconclusive_at_most)
        if ("noise", "participant") in conditions:
            yield _inconclusive_row("noise", conditions, policy.inconclusive_at_most)
    audits = {audit.name: audit for audit in result.audits}
    for name, loosest in policy.audits.items():
        audit = audits.get(name)
        required = f"pass, limit ≤ {loosest:.2f}"
        if audit is None:
            yield Criterion(
                criterion=f"audit: {name}", required=required, observed="not done", met=False
            )
            continue
        limits = ""
        if audit.bound is not None and audit.limit is not None:
            limits = f", bound {audit.bound:.3f}, limit {audit.limit:.2f}"
        yield Criterion(
            criterion=f"audit: {name}",
            required=required,
            observed=f"{audit.verdict or 'no verdict'}{limits}",
            interval=_interval(audit.estimate),
            met=audit.verdict == "pass" and audit.limit is not None and audit.limit <= loosest,
        )


def _bound_row(bound: LowerBound, result: ConditionResult | None) -> Criterion:
    by = "" if bound.level == "participant" else ", per recording"
    name = "AUROC" if bound.figure == "auroc" else bound.figure.replace("_", " ")
    estimate: Estimate | None = None if result is None else getattr(result, bound.figure)
    known = estimate is not None and estimate.value is not None
    return Criterion(
        criterion=f"{name}, {bound.condition}{by}",
        required=f"lower bound ≥ {bound.at_least:.2f}",
        observed=f"{estimate.value:.3f}" if estimate is not None and known else "not available",
        interval="" if estimate is None else _interval(estimate),
        met=estimate is not None and estimate.low is not None and estimate.low >= bound.at_least,
    )


def _inconclusive_row(
    condition: Condition,
    conditions: Mapping[tuple[Condition, Level], ConditionResult],
    at_most: float,
) -> Criterion:
    found = conditions.get((condition, "participant"))
    estimate = Estimate(value=None, n=0) if found is None else found.inconclusive
    return Criterion(
        criterion=f"inconclusive, {condition}",
        required=f"upper bound ≤ {at_most:.2f}",
        observed="not available" if estimate.value is None else f"{estimate.value:.3f}",
        interval=_interval(estimate),
        met=estimate.high is not None and estimate.high <= at_most,
    )


def _champion_rows(
    policy: Policy, champion: ModelVersion | None, comparison: Comparison | None
) -> Iterator[Criterion]:
    of_patients = champion is not None and champion.evidence_level != "synthetic"
    if champion is not None and of_patients and "synthetic" in policy.accepts:
        yield Criterion(
            criterion=f"champion {champion.version}, to be replaced",
            required="synthetic too",
            observed=champion.evidence_level,
            met=False,
        )
    margin = policy.non_inferiority_margin
    if margin is None:
        return
    required = f"lower bound ≥ −{margin:.2f}"
    if champion is None or (not of_patients and "synthetic" not in policy.accepts):
        yield Criterion(
            criterion="against the champion",
            required=required,
            observed="none to compare with",
            met=True,
        )
    elif comparison is None:
        yield Criterion(
            criterion=f"against champion {champion.version}",
            required=required,
            observed="its predictions are not available",
            met=False,
        )
    else:
        for name, estimate, low in (
            ("sensitivity", comparison.sensitivity, comparison.sensitivity_low),
            ("specificity", comparison.specificity, comparison.specificity_low),
        ):
            change = "no test people in common"
            if estimate.value is not None:
                change = f"{estimate.value:+.3f} on {estimate.n} people, bound {low:+.3f}"
            yield Criterion(
                criterion=f"{name} against champion {champion.version}",
                required=required,
                observed=change,
                interval=_interval(estimate),
                met=estimate.value is not None and low >= -margin,
            )


def _interval(estimate: Estimate) -> str:
    # Rounded outwards, so that what is not met never reads as if it were.
    return "" if estimate.value is None else interval(estimate).en


def _answers(predictions: "pl.DataFrame", point: OperatingPoint) -> Mapping[tuple[str, str], bool]:
    """(participant, label) -> positive at the threshold, from the mean of their recordings."""
    probabilities: dict[tuple[str, str], list[float]] = {}
    columns = ("participant_id", "placed", "condition", "label", "probability")
    for person, placed, condition, label, probability in predictions.select(columns).iter_rows():
        if placed == "test" and condition == "clean":
            probabilities.setdefault((person, label), []).append(probability)
    return {
        key: point.calibrate(sum(values) / len(values)) >= point.threshold
        for key, values in probabilities.items()
    }
