"""Evaluations and registry entries that the tests of the room share."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from spira.domain.answers import OperatingPoint, Sentence
from spira.domain.recordings import EvidenceLevel
from spira.evaluation.results import (
    Audit,
    Condition,
    ConditionResult,
    Confusion,
    Curve,
    Estimate,
    EvaluationResult,
    PredictiveValue,
    Verdict,
)
from spira.stores.registry import ModelVersion

WORDS = Sentence(pt="…", en="…")
NONE = Estimate(value=None, n=0)


def estimate(value: float, low: float, high: float) -> Estimate:
    """A figure of 160 people."""
    return Estimate(value=value, low=low, high=high, n=160)


def condition_result(condition: Condition, **changes: Any) -> ConditionResult:
    """A good model on 80 people of each class."""
    good: dict[str, Any] = {
        "condition": condition,
        "level": "participant",
        "n_present": 80,
        "n_absent": 80,
        "sensitivity": estimate(0.95, 0.88, 0.98),
        "specificity": estimate(0.90, 0.81, 0.95),
        "balanced_accuracy": estimate(0.925, 0.87, 0.96),
        "auroc": estimate(0.97, 0.93, 0.99),
        "brier": NONE,
        "calibration_slope": NONE,
        "calibration_intercept": NONE,
        "calibration_error": NONE,
        "calibration_bins": (),
        "inconclusive": estimate(0.06, 0.03, 0.12),
        "confusion": Confusion(
            present_positive=70,
            present_inconclusive=6,
            present_negative=4,
            absent_positive=6,
            absent_inconclusive=4,
            absent_negative=70,
        ),
        "roc": Curve(x=(0.0, 1.0), y=(0.0, 1.0)),
        "predictive_values": (
            PredictiveValue(
                prevalence=0.10,
                positive=estimate(0.51, 0.38, 0.70),
                negative=estimate(0.994, 0.985, 0.998),
            ),
        ),
    }
    return ConditionResult(**(good | changes))


def audit(name: str, verdict: Verdict = "pass") -> Audit:
    """One of the audits that refuse."""
    return Audit(
        name=name,
        title=WORDS,
        statistic="AUROC",
        estimate=estimate(0.52, 0.43, 0.61),
        bound=0.60,
        limit=0.10 if name == "noise" else 0.65,
        verdict=verdict,
        refuses=True,
        explanation=WORDS,
    )


def evaluation_result(
    *,
    clean: dict[str, Any] | None = None,
    verdicts: dict[str, Verdict] | None = None,
    **changes: Any,
) -> EvaluationResult:
    """A good model's evaluation, with what the test is about changed."""
    given = {"noise": "pass", "background": "pass", "acquisition": "pass"} | (verdicts or {})
    whole: dict[str, Any] = {
        "operating_point": OperatingPoint(
            threshold=0.5, band_low=0.45, band_high=0.55, temperature=1.0, prevalence=0.5
        ),
        "evaluated": "test",
        "participants_disjoint": "proven",
        "conditions": (condition_result("clean", **(clean or {})), condition_result("noise")),
        "subgroups": (),
        "audits": tuple(audit(name, verdict) for name, verdict in given.items()),  # type: ignore[arg-type]
        "baselines": (),
    }
    return EvaluationResult(**(whole | changes))


def model_version(
    version: int = 1, evidence_level: EvidenceLevel = "research", **changes: Any
) -> ModelVersion:
    """One entry of the registry."""
    entry: dict[str, Any] = {
        "version": version,
        "aliases": (),
        "fingerprint": f"{version:064x}",
        "evidence_level": evidence_level,
        "created_at": datetime(2026, 3, version, tzinfo=UTC),
        "metrics": {"clean_auroc": 0.97, "noise_auroc": 0.96},
        "parameters": {},
        "tags": {"experiment": "demo"},
        "files": {},
        "run_id": f"run{version}",
    }
    return ModelVersion(**(entry | changes))


@pytest.fixture
def evaluated() -> Callable[..., EvaluationResult]:
    """Makes evaluations."""
    return evaluation_result


@pytest.fixture
def registered() -> Callable[..., ModelVersion]:
    """Makes registry entries."""
    return model_version
