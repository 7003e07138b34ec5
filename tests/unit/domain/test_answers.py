"""What is said to a clinician."""

import math

import pytest

from spira.domain.answers import (
    EVIDENCE_SENTENCES,
    FINDING_SENTENCES,
    OUTCOME_SENTENCES,
    OperatingPoint,
)

POINT = OperatingPoint(threshold=0.5, band_low=0.4, band_high=0.6, temperature=2.0, prevalence=0.5)
FORBIDDEN = ("diagnóstico", "diagnosis", "normal", "saudável", "healthy", "✓", "✔", "%")


@pytest.mark.parametrize(
    ("calibrated", "outcome"),
    [
        (0.0, "negative"),
        (0.3999, "negative"),
        (0.4, "inconclusive"),
        (0.5999, "inconclusive"),
        (0.6, "positive"),
        (1.0, "positive"),
    ],
)
def test_the_band_around_the_threshold_is_inconclusive(calibrated: float, outcome: str) -> None:
    """Below the band negative, from its end up positive, inside it inconclusive."""
    assert POINT.outcome(calibrated) == outcome


def test_temperature_divides_the_logit() -> None:
    """A logit of 2 at temperature 2 is a logit of 1."""
    probability = 1 / (1 + math.exp(-2))

    assert POINT.calibrate(probability) == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_certainty_is_calibrated_to_something_finite(probability: float) -> None:
    """A network that saturates still has a calibrated probability inside 0..1."""
    assert 0 < POINT.calibrate(probability) < 1


def test_a_threshold_outside_its_band_is_refused() -> None:
    """An operating point that contradicts itself cannot be built."""
    with pytest.raises(ValueError, match="band_low <= threshold <= band_high"):
        OperatingPoint(threshold=0.9, band_low=0.1, band_high=0.2, temperature=1, prevalence=0.5)


def test_no_sentence_claims_what_the_system_cannot_know() -> None:
    """Never a diagnosis, `normal`, `healthy`, a tick or a bare probability, in either language."""
    sentences = [
        text
        for group in (OUTCOME_SENTENCES, FINDING_SENTENCES, EVIDENCE_SENTENCES)
        for sentence in group.values()
        for text in (sentence.pt, sentence.en)
    ]

    assert [(s, w) for s in sentences for w in FORBIDDEN if w in s.lower()] == []


def test_a_negative_never_excludes() -> None:
    """The negative answer says in both languages that it does not exclude RI."""
    negative = OUTCOME_SENTENCES["negative"]

    assert "Não exclui" in negative.pt
    assert "not exclude" in negative.en


def test_sentences_about_quality_fit_a_phone() -> None:
    """At most 90 characters each."""
    assert max(len(t) for s in FINDING_SENTENCES.values() for t in (s.pt, s.en)) <= 90
