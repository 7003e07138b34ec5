"""What a policy accepts, what it refuses, and where a rollback goes."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from spira.delivery.promotion import (
    Comparison,
    Decision,
    Policy,
    compare,
    decide,
    load_policy,
    previous_champion,
)
from spira.domain.answers import OperatingPoint
from spira.domain.errors import InputError
from spira.evaluation.results import Estimate, EvaluationResult
from spira.stores.registry import ChampionChange, ModelVersion

Evaluated = Callable[..., EvaluationResult]
Registered = Callable[..., ModelVersion]

CLINICAL = load_policy("clinical")
DEMO = load_policy("demo")
POINT = OperatingPoint(threshold=0.5, band_low=0.5, band_high=0.5, temperature=1, prevalence=0.5)


def decided(result: EvaluationResult, policy: Policy = CLINICAL, **changes: Any) -> Decision:
    """A decision of two people about a research model, with what the test is about changed."""
    asked: dict[str, Any] = {
        "evidence_level": "research",
        "by": ("A. Silva", "B. Souza"),
        "reason": "passed the study",
    }
    return decide(policy, result, **(asked | changes))


def unmet(decision: Decision) -> list[str]:
    """The criteria that refused."""
    return [row.criterion for row in decision.rows if not row.met]


def test_a_good_model_of_patients_is_promoted_by_the_clinical_policy(evaluated: Evaluated) -> None:
    """Figures, audits, two people and a reason: promoted, with a row for every criterion."""
    decision = decided(evaluated())

    assert decision.outcome == "promoted"
    assert decision.policy == "clinical 2"
    assert unmet(decision) == []
    assert {"evidence level", "people who decide", "reason", "audit: noise"} <= {
        row.criterion for row in decision.rows
    }


def test_clinical_never_accepts_synthetic(evaluated: Evaluated) -> None:
    """However good the figures are."""
    decision = decided(evaluated(), evidence_level="synthetic")

    assert decision.outcome == "refused"
    assert unmet(decision) == ["evidence level"]


def test_the_demo_policy_accepts_synthetic_evidence_and_nothing_else(evaluated: Evaluated) -> None:
    """Nobody has to sign for a demonstration, and a model of patients is none."""
    nobody = {"by": (), "reason": ""}

    accepted = decided(evaluated(), DEMO, evidence_level="synthetic", **nobody)
    refused = decided(evaluated(), DEMO, evidence_level="clinical-study", **nobody)

    assert accepted.outcome == "promoted"
    assert unmet(refused) == ["evidence level"]


@pytest.mark.parametrize("policy", [CLINICAL, DEMO], ids=["clinical", "demo"])
@pytest.mark.parametrize("verdict", ["fail", "not enough data"])
@pytest.mark.parametrize("name", ["noise", "background", "acquisition"])
def test_an_audit_that_did_not_pass_refuses(
    evaluated: Evaluated, policy: Policy, name: str, verdict: str
) -> None:
    """Each audit alone can refuse, and too little data is no pass."""
    level = "synthetic" if policy is DEMO else "research"

    decision = decided(evaluated(verdicts={name: verdict}), policy, evidence_level=level)

    assert unmet(decision) == [f"audit: {name}"]


@pytest.mark.parametrize("policy", [CLINICAL, DEMO], ids=["clinical", "demo"])
def test_an_audit_passed_at_a_looser_limit_refuses(evaluated: Evaluated, policy: Policy) -> None:
    """Settings of an evaluation cannot make its audits easier than the policy allows."""
    level = "synthetic" if policy is DEMO else "research"
    result = evaluated()
    loose = tuple(audit.model_copy(update={"limit": 0.99}) for audit in result.audits)

    decision = decided(result.model_copy(update={"audits": loose}), policy, evidence_level=level)

    assert len(unmet(decision)) == 3


def test_an_audit_that_was_not_done_refuses(evaluated: Evaluated) -> None:
    """An absent audit is not a passed one."""
    assert len(unmet(decided(evaluated(audits=())))) == 3


def test_the_lower_bound_counts_and_not_the_figure(evaluated: Evaluated) -> None:
    """A sensitivity of 0.95 that may be as low as 0.79 is not enough, and the row says so."""
    wide = Estimate(value=0.95, low=0.79, high=0.99, n=20)

    decision = decided(evaluated(clean={"sensitivity": wide}))

    (row,) = [row for row in decision.rows if not row.met]
    assert row.criterion == "sensitivity, clean"
    assert row.required == "lower bound ≥ 0.80"
    assert row.observed == "0.950"
    assert row.interval == "0.790 to 0.990"


@pytest.mark.parametrize(
    ("policy", "at_most"), [(CLINICAL, 0.25), (DEMO, 0.30)], ids=["clinical", "demo"]
)
@pytest.mark.parametrize("condition", ["clean", "noise"])
def test_a_model_that_leaves_too_many_open_is_refused(
    evaluated: Evaluated, policy: Policy, at_most: float, condition: str
) -> None:
    """The upper end of the interval counts, clean and under noise."""
    level = "synthetic" if policy is DEMO else "research"
    wide = Estimate(value=at_most - 0.05, low=0.1, high=at_most + 0.001, n=160)
    just = wide.model_copy(update={"high": at_most})

    def decision(share: Estimate) -> Decision:
        result = evaluated()
        conditions = tuple(
            found.model_copy(update={"inconclusive": share})
            if found.condition == condition
            else found
            for found in result.conditions
        )
        changed = result.model_copy(update={"conditions": conditions})
        return decided(changed, policy, evidence_level=level)

    refused = decision(wide)

    assert unmet(refused) == [f"inconclusive, {condition}"]
    (row,) = [row for row in refused.rows if not row.met]
    assert row.required == f"upper bound ≤ {at_most:.2f}"
    assert row.interval.endswith(f"{at_most + 0.001:.3f}")
    assert decision(just).outcome == "promoted"


def test_a_policy_may_leave_inconclusive_answers_out(evaluated: Evaluated) -> None:
    """A file without the key asks nothing about them."""
    silent = CLINICAL.model_copy(update={"inconclusive_at_most": None})

    rows = decided(evaluated(), silent).rows

    assert not [row for row in rows if row.criterion.startswith("inconclusive")]


def test_an_interval_is_never_rounded_to_what_is_required(evaluated: Evaluated) -> None:
    """A lower end of 0.7997 is not 0.80, and does not read so beside its NO."""
    close = Estimate(value=0.95, low=0.7997, high=0.98, n=80)

    (row,) = [row for row in decided(evaluated(clean={"sensitivity": close})).rows if not row.met]

    assert row.interval == "0.799 to 0.980"


def test_a_figure_that_is_not_available_refuses(evaluated: Evaluated) -> None:
    """Nobody tested under noise: the criteria about noise are not met."""
    result = evaluated()
    only_clean = result.model_copy(update={"conditions": result.conditions[:1]})

    assert unmet(decided(only_clean)) == [
        "sensitivity, noise",
        "specificity, noise",
        "AUROC, noise",
    ]


def test_too_few_people_and_unproven_separation_refuse(evaluated: Evaluated) -> None:
    """Counts are asked for by class; a corpus without participants cannot prove its split."""
    decision = decided(evaluated(clean={"n_absent": 71}, participants_disjoint="unproven"))

    assert unmet(decision) == ["nobody is in training and test", "test people, absent"]


@pytest.mark.parametrize(
    ("by", "reason", "refusing"),
    [
        (("A. Silva",), "good", ["people who decide"]),
        (("A. Silva", "a.  silva "), "good", ["people who decide"]),
        (("A. Silva", ""), "good", ["people who decide"]),
        (("A. Silva", "B. Souza"), "  ", ["reason"]),
    ],
)
def test_two_people_and_a_written_reason(
    evaluated: Evaluated, by: tuple[str, ...], reason: str, refusing: list[str]
) -> None:
    """One person twice is one person; blanks are no reason."""
    assert unmet(decided(evaluated(), by=by, reason=reason)) == refusing


def comparison(low: float) -> Comparison:
    """Sensitivity as good as the champion's but for this one-sided bound."""
    same = Estimate(value=0.0, low=-0.03, high=0.03, n=80)
    return Comparison(
        sensitivity=same, sensitivity_low=low, specificity=same, specificity_low=-0.02
    )


def test_a_model_must_not_be_worse_than_the_champion(
    evaluated: Evaluated, registered: Registered
) -> None:
    """The bound of the paired change is held against the margin of 0.05."""
    champion = registered(3)

    good = decided(evaluated(), champion=champion, comparison=comparison(-0.05))
    bad = decided(evaluated(), champion=champion, comparison=comparison(-0.06))
    unknown = decided(evaluated(), champion=champion, comparison=None)

    assert good.outcome == "promoted"
    assert unmet(bad) == ["sensitivity against champion 3"]
    assert unmet(unknown) == ["against champion 3"]


def test_evidence_from_patients_and_from_voices_made_up_never_compete(
    evaluated: Evaluated, registered: Registered
) -> None:
    """A demonstration may not replace a model of patients; the other way needs no comparison."""
    of_patients, of_demo = registered(3, "research"), registered(4, "synthetic")

    takeover = decided(evaluated(), DEMO, evidence_level="synthetic", champion=of_patients)
    arrival = decided(evaluated(), CLINICAL, champion=of_demo)

    assert unmet(takeover) == ["champion 3, to be replaced"]
    assert arrival.outcome == "promoted"


def predictions(rows: list[tuple[str, str, str, str, float]]) -> pl.DataFrame:
    """Predictions as evaluation keeps them."""
    columns = ["participant_id", "placed", "condition", "label", "probability"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def test_models_are_compared_on_the_test_people_of_both() -> None:
    """Other people, validation and noise do not count; people's recordings are averaged."""
    ours = predictions(
        [
            ("p1", "test", "clean", "present", 0.9),
            ("p2", "test", "clean", "present", 0.4),
            ("p2", "test", "clean", "present", 0.8),  # mean 0.6: found
            ("p3", "test", "clean", "absent", 0.7),  # a false alarm of ours alone
            ("p4", "test", "clean", "absent", 0.1),
            ("p5", "validation", "clean", "present", 0.9),
            ("p1", "test", "noise", "present", 0.1),
            ("p6", "test", "clean", "present", 0.1),
        ]
    )
    theirs = predictions(
        [
            ("p1", "test", "clean", "present", 0.8),
            ("p2", "test", "clean", "present", 0.3),  # missed by the champion
            ("p3", "test", "clean", "absent", 0.2),
            ("p4", "test", "clean", "absent", 0.1),
            ("p5", "test", "clean", "present", 0.1),
        ]
    )

    found = compare(ours, POINT, theirs, POINT)

    assert (found.sensitivity.value, found.sensitivity.n) == (0.5, 2)
    assert (found.specificity.value, found.specificity.n) == (-0.5, 2)
    assert found.specificity.low is not None
    assert found.specificity.low < found.specificity_low < -0.5


def test_no_test_people_in_common_refuse(evaluated: Evaluated, registered: Registered) -> None:
    """Nothing to compare on is not a comparison that was won."""
    nobody = compare(
        predictions([("p1", "test", "clean", "present", 0.9)]),
        POINT,
        predictions([("p2", "test", "clean", "present", 0.9)]),
        POINT,
    )

    decision = decided(evaluated(), champion=registered(3), comparison=nobody)

    assert unmet(decision) == ["sensitivity against champion 3", "specificity against champion 3"]
    assert "no test people in common" in decision.rows[-1].observed


def test_every_mistake_of_a_policy_file_is_reported_at_once(tmp_path: Path) -> None:
    """File, key, value, and the nearest known key."""
    path = tmp_path / "ward.yaml"
    path.write_text(
        "name: ward\naccepts: [research]\naudit: {noise: 0.1}\npeople_required: two\n"
        "lower_bounds:\n- {figure: auroc, at_leest: 0.9}\n"
    )

    with pytest.raises(InputError) as refused:
        load_policy(str(path))

    said = "\n".join(refused.value.mistakes)
    assert "key version is missing" in said
    assert "unknown key audit; did you mean audits?" in said
    assert "people_required: input should be a valid integer" in said
    assert "'two'" in said
    assert "lower_bounds.0.at_leest; did you mean at_least?" in said
    assert len(refused.value.mistakes) == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "must be a mapping"),
        ("a: [", "not YAML"),
        ("{name: clinical, version: 1, accepts: [research]}", "built-in policy's"),
        ("{name: w, version: 1, accepts: [research], people_required: 1}", "at least 2"),
        ("{name: w, version: 1, accepts: [synthetic]}", "recorded_reason: demo"),
        (
            "{name: w, version: 1, accepts: [synthetic, research], recorded_reason: demo}",
            "accepts nothing else",
        ),
    ],
)
def test_a_policy_that_would_weaken_the_rules_is_no_policy(
    tmp_path: Path, text: str, said: str
) -> None:
    """Two people for patients, and synthetic evidence kept apart, cannot be set away."""
    path = tmp_path / "policy.yaml"
    path.write_text(text)

    with pytest.raises(InputError, match=said):
        load_policy(str(path))


def test_an_unknown_policy_names_the_built_in_ones() -> None:
    """A typo is not a path that happens not to exist."""
    with pytest.raises(InputError, match="clinical, demo"):
        load_policy("clinicall")


def change(action: str, previous: int | None, version: int) -> ChampionChange:
    """One entry of the champion's history."""
    return ChampionChange(
        action=action,
        version=version,
        previous=previous,
        by=("A. Silva",),
        reason="…",
        policy="clinical 2",
        at=datetime(2026, 3, 1, tzinfo=UTC),
    )


def test_rollbacks_go_back_one_champion_each() -> None:
    """1, 2, 3, back to 2, back to 1, and then there is nowhere to go."""
    history = [
        change("promoted", None, 1),
        change("promoted", 1, 2),
        change("promoted", 2, 3),
    ]
    assert previous_champion(history, 3) == 2
    history.append(change("rolled back", 3, 2))
    assert previous_champion(history, 2) == 1
    history.append(change("rolled back", 2, 1))
    assert previous_champion(history, 1) is None
    history.append(change("promoted", 1, 4))
    assert previous_champion(history, 4) == 1


def test_a_change_recorded_but_never_carried_out_is_seen_through() -> None:
    """A kill between the record and the alias leaves a record that does not count."""
    killed = [change("promoted", None, 1), change("promoted", 1, 2)]
    assert previous_champion(killed, 1) is None

    again = [*killed, change("promoted", 1, 3)]
    assert previous_champion(again, 3) == 1


def test_a_champion_that_nobody_recorded_has_no_predecessor() -> None:
    """An alias moved by hand in MLflow is not in the history."""
    assert previous_champion([change("promoted", None, 1)], 9) is None
