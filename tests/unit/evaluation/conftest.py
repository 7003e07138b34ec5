"""A realistic evaluation: 160 simulated test people, figures computed here by plain means."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from spira.domain.answers import Envelope, OperatingPoint, Sentence
from spira.domain.recordings import LabelCounts
from spira.evaluation.report import (
    Durations,
    ReportedDataset,
    ReportedGroup,
    ReportInput,
    ScoreHistogram,
    SplitSide,
    TrainingCurves,
)
from spira.evaluation.results import (
    Audit,
    AuditPart,
    Baseline,
    CalibrationBin,
    Condition,
    ConditionResult,
    Confusion,
    Curve,
    Estimate,
    EvaluationResult,
    Level,
    PredictiveValue,
    Subgroup,
    Verdict,
)

Scores = NDArray[np.float64]

POINT = OperatingPoint(
    threshold=0.41, band_low=0.33, band_high=0.52, temperature=1.37, prevalence=0.5
)


def wilson(hits: int, n: int) -> Estimate:
    """A share with its Wilson interval."""
    if n == 0:
        return Estimate(value=None, n=0)
    share, z = hits / n, 1.96
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Estimate(value=share, low=low, high=high, n=n, method="Wilson")


def near(value: float, half: float, n: int) -> Estimate:
    """A figure with a symmetric interval."""
    return Estimate(value=value, low=value - half, high=value + half, n=n, method="bootstrap")


def auroc(present: Scores, absent: Scores) -> float:
    """The share of pairs in order; ties count one half."""
    difference = present[:, None] - absent[None, :]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def unit_estimate(value: float, half: float, n: int) -> Estimate:
    """As `near`, kept inside 0..1."""
    return Estimate(
        value=value, low=max(0.0, value - half), high=min(1.0, value + half), n=n, method="DeLong"
    )


def condition_result(
    condition: Condition, level: Level, present: Scores, absent: Scores
) -> ConditionResult:
    """The figures of one condition from two sets of calibrated probabilities."""
    n, m, threshold = present.size, absent.size, POINT.threshold
    hits, clears = int((present >= threshold).sum()), int((absent < threshold).sum())
    sensitivity, specificity = wilson(hits, n), wilson(clears, m)
    scores = np.concatenate([present, absent])
    labels = np.concatenate([np.ones(n), np.zeros(m)])
    order = np.argsort(-scores)
    bins = tuple(
        CalibrationBin(
            predicted=float(scores[part].mean()),
            observed=wilson(int(labels[part].sum()), part.size),
        )
        for part in np.array_split(np.argsort(scores), 10)
    )

    def counts(values: Scores) -> tuple[int, int, int]:
        positive = int((values >= POINT.band_high).sum())
        negative = int((values < POINT.band_low).sum())
        return positive, values.size - positive - negative, negative

    inconclusive = counts(present)[1] + counts(absent)[1]
    return ConditionResult(
        condition=condition,
        level=level,
        n_present=n,
        n_absent=m,
        sensitivity=sensitivity,
        specificity=specificity,
        balanced_accuracy=unit_estimate((hits / n + clears / m) / 2, 0.03, n + m),
        auroc=unit_estimate(auroc(present, absent), 0.02, n + m),
        brier=near(float(np.mean((scores - labels) ** 2)), 0.012, n + m),
        calibration_slope=near(1.12, 0.28, n + m),
        calibration_intercept=near(-0.07, 0.31, n + m),
        calibration_error=near(0.041, 0.018, n + m),
        calibration_bins=bins,
        inconclusive=wilson(inconclusive, n + m),
        confusion=Confusion(
            **dict(
                zip(
                    ("present_positive", "present_inconclusive", "present_negative"),
                    counts(present),
                    strict=True,
                )
            ),
            **dict(
                zip(
                    ("absent_positive", "absent_inconclusive", "absent_negative"),
                    counts(absent),
                    strict=True,
                )
            ),
        ),
        roc=Curve(
            x=(0.0, *(np.cumsum(1 - labels[order]) / m).tolist()),
            y=(0.0, *(np.cumsum(labels[order]) / n).tolist()),
        ),
        predictive_values=tuple(
            bayes(prevalence, sensitivity, specificity) for prevalence in (0.05, 0.10, 0.20, 0.40)
        ),
    )


def bayes(prevalence: float, sensitivity: Estimate, specificity: Estimate) -> PredictiveValue:
    """Predictive values, the worst and best corner of both intervals as their interval."""

    def at(sens: float | None, spec: float | None) -> tuple[float, float]:
        assert sens is not None
        assert spec is not None
        hits, alarms = prevalence * sens, (1 - prevalence) * (1 - spec)
        clears, misses = (1 - prevalence) * spec, prevalence * (1 - sens)
        return hits / (hits + alarms), clears / (clears + misses)

    value = at(sensitivity.value, specificity.value)
    low, high = at(sensitivity.low, specificity.low), at(sensitivity.high, specificity.high)
    n = sensitivity.n + specificity.n
    return PredictiveValue(
        prevalence=prevalence,
        positive=Estimate(value=value[0], low=low[0], high=high[0], n=n),
        negative=Estimate(value=value[1], low=low[1], high=high[1], n=n),
    )


def scores_of(rng: np.random.Generator, n: int, *, distance: float) -> tuple[Scores, Scores]:
    """Calibrated probabilities of `n` people of each class, in three decimals."""
    present = 1 / (1 + np.exp(-(rng.normal(distance, 1.6, n))))
    absent = 1 / (1 + np.exp(-(rng.normal(-distance, 1.6, n))))
    return np.round(present, 3), np.round(absent, 3)


def sample_subgroups(present: Scores, absent: Scores) -> tuple[Subgroup, ...]:
    """Slices of the test people under every attribute; one of them is far too small."""
    shares: list[tuple[str, list[tuple[str, float]]]] = [
        ("sex", [("female", 0.52), ("male", 0.48)]),
        ("age band", [("18-39", 0.3), ("40-59", 0.33), ("60-74", 0.32), ("75 and over", 0.05)]),
        ("site", [("hospital-a", 0.4), ("hospital-b", 0.35), ("hospital-c", 0.25)]),
        ("device", [("android-basic", 0.45), ("android-flagship", 0.3), ("headset", 0.25)]),
    ]
    groups = []
    for attribute, parts in shares:
        at = 0.0
        for value, share in parts:
            rows = [
                scores[round(at * scores.size) : round((at + share) * scores.size)]
                for scores in (present, absent)
            ]
            at += share
            n, m = rows[0].size, rows[1].size
            groups.append(
                Subgroup.model_validate(
                    {
                        "attribute": attribute,
                        "value": value,
                        "n_present": n,
                        "n_absent": m,
                        "sensitivity": wilson(int((rows[0] >= POINT.threshold).sum()), n),
                        "specificity": wilson(int((rows[1] < POINT.threshold).sum()), m),
                        "auroc": unit_estimate(auroc(*rows), 0.9 / math.sqrt(n + m), n + m),
                        "sufficient": min(n, m) >= 10,
                    }
                )
            )
    return tuple(groups)


def sample_audits() -> tuple[Audit, ...]:
    """Six audits, each verdict among them."""

    def part(
        name: str, pt: str, en: str, value: float, bound: float, verdict: Verdict
    ) -> AuditPart:
        return AuditPart(
            name=name,
            title=Sentence(pt=pt, en=en),
            estimate=near(value, 0.045, 80),
            bound=bound,
            verdict=verdict,
        )

    def reported(name: str, pt: str, en: str, value: float, explanation: Sentence) -> Audit:
        return Audit(
            name=name,
            title=Sentence(pt=pt, en=en),
            statistic="AUROC",
            estimate=unit_estimate(value, 0.04, 160),
            bound=None,
            limit=None,
            verdict=None,
            refuses=False,
            explanation=explanation,
        )

    return (
        Audit(
            name="noise",
            title=Sentence(
                pt="O ruído da enfermaria muda as respostas?",
                en="Does ward noise change the answers?",
            ),
            statistic="change of specificity",
            estimate=near(-0.025, 0.045, 80),
            bound=0.071,
            limit=0.10,
            verdict="pass",
            refuses=True,
            explanation=Sentence(
                pt="Juntamos ruído de enfermaria nunca ouvido no treino. Quem tem IR: de 91,2 % "
                "para 92,5 % de acertos. O ruído quase não muda as respostas.",
                en="Ward noise unheard in training was added. Those with RI: from 91.2% to 92.5% "
                "right. Noise hardly changes the answers.",
            ),
            parts=(
                part("sensitivity", "Quem tem IR", "Those with RI", 0.0125, 0.058, "pass"),
                part("specificity", "Quem não tem IR", "Those without RI", -0.025, 0.071, "pass"),
            ),
        ),
        Audit(
            name="background",
            title=Sentence(
                pt="O modelo adivinha só pelo ambiente?",
                en="Can the model guess from the room alone?",
            ),
            statistic="AUROC",
            estimate=near(0.47, 0.09, 160),
            bound=0.61,
            limit=0.65,
            verdict="pass",
            refuses=True,
            explanation=Sentence(
                pt="Ouvindo só o ambiente, o modelo não separa quem tem IR de quem não tem.",
                en="Hearing only the room, the model does not tell those with RI from the others.",
            ),
        ),
        Audit(
            name="acquisition",
            title=Sentence(
                pt="A forma de gravar denuncia quem está doente?",
                en="Does the way of recording give away who is ill?",
            ),
            statistic="AUROC",
            estimate=near(0.58, 0.09, 160),
            bound=0.66,
            limit=0.65,
            verdict="not enough data",
            refuses=True,
            explanation=Sentence(
                pt="O que não é voz separa pouco, mas são precisas mais pessoas para afirmar isso.",
                en="What is not voice separates little, but saying so takes more people.",
            ),
        ),
        reported(
            "timing",
            "Tempo das pausas",
            "Timing of pauses",
            0.93,
            Sentence(
                pt="As pausas sozinhas já separam muito: é esperado na falta de ar.",
                en="Pauses alone separate a lot: expected in breathlessness.",
            ),
        ),
        reported(
            "level",
            "Nível do som",
            "Level of sound",
            0.56,
            Sentence(
                pt="O volume da fala separa pouco.", en="Loudness of speech separates little."
            ),
        ),
        reported(
            "speech",
            "Só os trechos de fala",
            "Speech only",
            0.95,
            Sentence(
                pt="Sem as pausas, o modelo ainda separa bem.",
                en="Without the pauses, the model still separates well.",
            ),
        ),
    )


def sample_baselines() -> tuple[Baseline, ...]:
    """Two rules, neither better than the model."""
    return (
        Baseline(
            name="timing",
            title=Sentence(pt="Tempo das pausas", en="Timing of pauses"),
            auroc_clean=unit_estimate(0.931, 0.03, 160),
            auroc_noise=unit_estimate(0.912, 0.035, 160),
            difference_clean=near(0.05, 0.03, 160),
            difference_noise=near(0.039, 0.035, 160),
            explanation=Sentence(
                pt="Separa as pessoas com ruído com AUROC 0,912; o modelo, com 0,951.",
                en="Tells people apart with noise with an AUROC of 0.912; the model, of 0.951.",
            ),
        ),
        Baseline(
            name="summary",
            title=Sentence(pt="Resumo das características", en="Summary features"),
            auroc_clean=unit_estimate(0.874, 0.04, 160),
            auroc_noise=unit_estimate(0.801, 0.05, 160),
            difference_clean=near(0.107, 0.05, 160),
            difference_noise=near(0.15, 0.06, 160),
            explanation=Sentence(
                pt="Médias e desvios chegam a 0,80 com ruído.",
                en="Means and deviations reach 0.80 with noise.",
            ),
        ),
    )


def make_result() -> EvaluationResult:
    """A good model, evaluated on 160 people with one recording or two each."""
    rng = np.random.default_rng(7)
    present, absent = scores_of(rng, 80, distance=2.1)
    noisy = scores_of(rng, 80, distance=1.8)
    recordings = scores_of(rng, 120, distance=2.0)
    noisy_recordings = scores_of(rng, 120, distance=1.7)
    return EvaluationResult(
        operating_point=POINT,
        evaluated="test",
        participants_disjoint="proven",
        conditions=(
            condition_result("clean", "recording", *recordings),
            condition_result("clean", "participant", present, absent),
            condition_result("noise", "recording", *noisy_recordings),
            condition_result("noise", "participant", *noisy),
        ),
        subgroups=sample_subgroups(rng.permutation(present), rng.permutation(absent)),
        audits=sample_audits(),
        baselines=sample_baselines(),
    )


def make_report(result: EvaluationResult) -> ReportInput:
    """Everything a report can tell, as the demo would have it."""
    rng = np.random.default_rng(11)
    present, absent = scores_of(np.random.default_rng(7), 80, distance=2.1)
    edges = np.linspace(0, 1, 21)
    epochs = np.arange(1, 41)
    train = 0.68 * np.exp(-epochs / 9) + 0.06 + rng.normal(0, 0.012, 40)
    validation = 0.66 * np.exp(-epochs / 8) + 0.13 + rng.normal(0, 0.015, 40)

    def group(attribute: str, value: str, n: int, m: int, refused: int) -> ReportedGroup:
        return ReportedGroup.model_validate(
            {
                "attribute": attribute,
                "value": value,
                "people": LabelCounts(present=n, absent=m),
                "recordings": LabelCounts(present=n, absent=m + 2),
                "refused": LabelCounts(present=refused, absent=1),
            }
        )

    return ReportInput(
        result=result,
        evidence_level="synthetic",
        envelope=Envelope(
            utterances=("sentence",),
            languages=("pt-BR",),
            age_min=19,
            age_max=87,
            sites=("hospital-a", "hospital-b", "hospital-c"),
            devices=("android-basic", "android-flagship", "headset"),
            sample_rates_hz=(16_000, 44_100, 48_000),
            n_people=160,
        ),
        experiment_name="demo",
        experiment_description="Rede compacta, ruído entre 10 e 25 dB.",
        experiment_yaml="name: demo\nseed: 42\nnoise:\n  kind: snr\n  present: 3\n  absent: 3\n",
        dataset=ReportedDataset(
            digest="5f2b" * 16,
            origin="synthetic",
            language="pt-BR",
            participants="given",
            groups=(
                group("all", "", 158, 162, 2),
                group("sex", "female", 80, 86, 1),
                group("sex", "male", 78, 76, 1),
                group("age band", "18-39", 47, 50, 0),
                group("age band", "40-59", 52, 55, 1),
                group("age band", "60-74", 50, 49, 1),
                group("age band", "75 and over", 9, 8, 0),
                group("site", "hospital-a", 63, 65, 1),
                group("site", "hospital-b", 55, 57, 1),
                group("site", "hospital-c", 40, 40, 0),
                group("device", "android-basic", 71, 73, 1),
                group("device", "android-flagship", 48, 49, 0),
                group("device", "headset", 39, 40, 1),
            ),
            refusals={
                "duplicate": LabelCounts(present=1, absent=1),
                "too_short": LabelCounts(present=1),
            },
            findings={
                "noisy": LabelCounts(present=12, absent=11),
                "little_speech": LabelCounts(present=5, absent=1),
            },
            durations=Durations(total_s=3290, shortest_s=6.2, median_s=10.1, longest_s=15.8),
            noise_recordings=48,
            withdrawn=0,
        ),
        split=(
            SplitSide(
                side="train",
                people=LabelCounts(present=58, absent=62),
                recordings=LabelCounts(present=58, absent=64),
                noise_recordings=29,
            ),
            SplitSide(
                side="validation",
                people=LabelCounts(present=20, absent=20),
                recordings=LabelCounts(present=20, absent=20),
                noise_recordings=7,
            ),
            SplitSide(
                side="test",
                people=LabelCounts(present=80, absent=80),
                recordings=LabelCounts(present=120, absent=120),
                noise_recordings=12,
            ),
        ),
        curves=TrainingCurves(
            epoch=tuple(range(1, 41)),
            train_loss=tuple(train.tolist()),
            validation_loss=tuple(validation.tolist()),
            kept_epoch=36,
        ),
        scores=ScoreHistogram(
            level="participant",
            edges=tuple(edges.tolist()),
            present=tuple(int(n) for n in np.histogram(present, edges)[0]),
            absent=tuple(int(n) for n in np.histogram(absent, edges)[0]),
        ),
        lineage={
            stage: f"{number:x}a9c" * 16
            for number, stage in enumerate(
                ("snapshot", "split", "features", "train", "evaluate"), 1
            )
        },
        environment={"python": "3.11.7", "torch": "2.13.0", "cpu": "x86_64", "threads": "1"},
    )


@pytest.fixture(scope="session")
def sample_result() -> EvaluationResult:
    """As `make_result`."""
    return make_result()


@pytest.fixture(scope="session")
def sample_report(sample_result: EvaluationResult) -> ReportInput:
    """As `make_report`."""
    return make_report(sample_result)


@pytest.fixture(scope="session")
def bare_report() -> ReportInput:
    """An evaluation that found nothing at all, of which nothing else is known."""
    return ReportInput(
        result=EvaluationResult(
            operating_point=POINT,
            evaluated="test",
            participants_disjoint="unproven",
            conditions=(),
            subgroups=(),
            audits=(),
            baselines=(),
        )
    )
