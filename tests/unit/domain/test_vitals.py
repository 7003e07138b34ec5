"""Vital signs that nobody should overlook."""

from typing import Any

import pytest

from spira.domain.vitals import DEFAULT_VITAL_RULES, VitalRule, VitalRules, banner


def test_the_banner_says_what_is_altered_and_what_to_do() -> None:
    """The sentence of CLINICAL.md, word for word."""
    said = banner(DEFAULT_VITAL_RULES, {"spo2": 88})

    assert said is not None
    assert said.pt == (
        "Sinais vitais alterados (SpO₂ 88 %). Avalie o paciente agora. "
        "A análise da voz não muda essa conduta."
    )
    assert "(SpO₂ 88%). Assess the patient now." in said.en


@pytest.mark.parametrize(
    ("values", "altered"),
    [
        ({"spo2": 91.9}, True),
        ({"spo2": 92}, False),
        ({"respiratory_rate": 30}, True),
        ({"respiratory_rate": 29}, False),
        ({"heart_rate": 130}, True),
        ({"heart_rate": 129}, False),
        ({}, False),
        ({"spo2": None, "age": 200}, False),
    ],
)
def test_each_default_rule_at_its_limit(values: dict[str, Any], altered: bool) -> None:
    """SpO2 below 92, respiratory rate from 30, heart rate from 130; what is not there is silent."""
    assert (banner(DEFAULT_VITAL_RULES, values) is not None) is altered


def test_all_altered_signs_are_in_one_banner() -> None:
    """None hides another, and each has its unit and its language's numbers."""
    said = banner(DEFAULT_VITAL_RULES, {"spo2": 88.5, "respiratory_rate": 32, "heart_rate": 140})

    assert said is not None
    assert "(SpO₂ 88,5 %, FR 32 irpm, FC 140 bpm)" in said.pt
    assert "(SpO₂ 88.5%, respiratory rate 32/min, heart rate 140 bpm)" in said.en


def test_a_site_sets_its_own_rules() -> None:
    """Two rules for one sign name it once."""
    rules = VitalRules(
        version="ward-7",
        rules=(
            VitalRule(sign="heart_rate", comparison="<", limit=40),
            VitalRule(sign="heart_rate", comparison=">=", limit=120),
            VitalRule(sign="heart_rate", comparison=">=", limit=140),
        ),
    )

    assert banner(rules, {"spo2": 50, "heart_rate": 100}) is None
    slow, fast = banner(rules, {"heart_rate": 35}), banner(rules, {"heart_rate": 150})
    assert slow is not None
    assert "FC 35 bpm" in slow.pt
    assert fast is not None
    assert fast.pt.count("FC") == 1


@pytest.mark.parametrize(("sign", "limit"), [("spo2", 0.92), ("spo2", 920), ("heart_rate", 0)])
def test_a_limit_that_means_nothing_is_refused(sign: Any, limit: float) -> None:
    """A share for a percentage would silence the banner, and nobody would see it."""
    with pytest.raises(ValueError, match=f"the limit of {sign} must be from"):
        VitalRule(sign=sign, comparison="<", limit=limit)


def test_a_site_without_any_rule_is_refused() -> None:
    """The banner cannot be turned off by an empty list."""
    with pytest.raises(ValueError, match="rules"):
        VitalRules(version="none", rules=())
