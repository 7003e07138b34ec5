"""The evaluation report: one HTML file that a physician can read first, and anybody can check.

The file holds everything (no network, no font, no script): both languages are in it and the style
sheet shows one, Portuguese first. The same input gives the same bytes. Whatever is not known is
said to be "não informado" or "não disponível"; nothing that is missing stops the report.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Literal, NamedTuple

from markupsafe import Markup
from pydantic import Field, field_validator

from spira.domain.answers import EVIDENCE_SENTENCES, OUTCOME_SENTENCES, Envelope, Sentence
from spira.domain.frozen import Frozen
from spira.domain.label_policies import Agreement
from spira.domain.recordings import EvidenceLevel, LabelCounts, Side
from spira.evaluation import figures, wording
from spira.evaluation.audits import level_warns
from spira.evaluation.intervals import clopper_pearson
from spira.evaluation.results import (
    Audit,
    Baseline,
    Condition,
    ConditionResult,
    Estimate,
    EvaluationResult,
    Level,
    PredictiveValue,
    Standing,
    Subgroup,
)
from spira.evaluation.wording import NOT_AVAILABLE, NOT_REPORTED, fill, word
from spira.model.prediction import headcount

if TYPE_CHECKING:
    from jinja2 import Environment


# --- what a report is made of ---------------------------------------------------------------


class ReportedGroup(Frozen):
    """Everybody, or one value of one attribute, in the whole dataset version."""

    attribute: Literal["all", "sex", "age band", "site", "device"]
    value: str = ""  # "not available" where the dataset does not say
    people: LabelCounts
    recordings: LabelCounts
    refused: LabelCounts | None = None  # recordings; None: not known (for "all": all reasons)


class Durations(Frozen):
    """How long the recordings of a dataset version are, in seconds."""

    total_s: float
    shortest_s: float
    median_s: float
    longest_s: float


class ReportedDataset(Frozen):
    """The dataset version that the model was made of; what is None is not known.

    It has no name here: a name is given and changed, and a report depends on nothing but digests.
    """

    digest: str = ""
    origin: Literal["synthetic", "import"] | None = None
    language: str = ""  # BCP 47, "pt-BR"
    participants: Literal["given", "per-file"] | None = None
    groups: tuple[ReportedGroup, ...] = ()
    refusals: Mapping[str, LabelCounts] | None = None  # reason -> recordings
    findings: Mapping[str, LabelCounts] | None = None  # finding -> recordings
    durations: Durations | None = None
    noise_recordings: int | None = None
    label_policy: str | None = None  # the named rules that labelled it
    agreement: Agreement | None = None  # how two label policies label its visits
    withdrawn: int | None = None  # recordings taken out since, at their owner's wish

    @property
    def refused(self) -> LabelCounts | None:
        """Recordings refused for any reason."""
        if self.refusals is None:
            return None
        counts = self.refusals.values()
        return LabelCounts(
            present=sum(reason.present for reason in counts),
            absent=sum(reason.absent for reason in counts),
            unknown=sum(reason.unknown for reason in counts),
        )


class SplitSide(Frozen):
    """Who is on one side of the split."""

    side: Side
    people: LabelCounts
    recordings: LabelCounts
    noise_recordings: int | None = None


class TrainingCurves(Frozen):
    """Losses by epoch; a loss that is not a finite number becomes None, and a gap in the figure."""

    epoch: tuple[int, ...]
    train_loss: tuple[float | None, ...]
    validation_loss: tuple[float | None, ...]
    kept_epoch: int | None = None

    @field_validator("train_loss", "validation_loss", mode="before")
    @classmethod
    def _finite(cls, losses: Sequence[float | None]) -> tuple[float | None, ...]:
        return tuple(
            None if loss is None or not math.isfinite(loss) else float(loss) for loss in losses
        )


class ScoreHistogram(Frozen):
    """Test recordings (or people) by calibrated probability."""

    condition: Condition = "clean"
    level: Level = "recording"
    edges: tuple[float, ...]  # one more than there are bins
    present: tuple[int, ...]
    absent: tuple[int, ...]


class ReportInput(Frozen):
    """Everything that report and card tell; only the result must be there."""

    result: EvaluationResult
    evidence_level: EvidenceLevel | None = None
    envelope: Envelope | None = None
    experiment_name: str = ""
    experiment_description: str = ""
    experiment_yaml: str = ""
    dataset: ReportedDataset | None = None
    split: tuple[SplitSide, ...] = ()
    curves: TrainingCurves | None = None
    scores: ScoreHistogram | None = None
    lineage: Mapping[str, str] = Field(default_factory=dict)  # stage -> fingerprint
    environment: Mapping[str, str] = Field(default_factory=dict)  # "torch" -> "2.13.0"

    @property
    def simulated(self) -> bool:
        """Whether the voices were made, so that no figure says anything about people."""
        origin = self.dataset.origin if self.dataset else None
        return self.evidence_level == "synthetic" or origin == "synthetic"


def render_report(data: ReportInput) -> str:
    """The whole report as one self-contained HTML document; the same input, the same bytes."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(data=data, result=data.result, story=tell(data))
        .lstrip()
    )


# --- what the figures mean, for report and card ---------------------------------------------


class PersonAnswer(NamedTuple):
    """What one answer means for a hundred people who get it."""

    kind: Literal["positive", "negative"]
    words: Sentence
    prevalence: float
    share: Estimate  # of the people with this answer, who have RI
    noisy_share: Estimate | None


class GivenAnswers(NamedTuple):
    """The answers that people of one label really got under one condition, as shares of them."""

    label: Literal["present", "absent"]
    condition: Condition
    n: int
    positive: Estimate
    inconclusive: Estimate
    negative: Estimate


class Story(NamedTuple):
    """What the report says first, drawn from the result."""

    evidence: Sentence
    who: Sentence  # "pessoas", or "pessoas simuladas"
    main: ConditionResult | None  # by person and clean, where there is such a result
    noisy: ConditionResult | None  # its counterpart under noise
    conditions: tuple[ConditionResult, ...]  # by person first, clean first
    given: tuple[GivenAnswers, ...]
    answers: tuple[PersonAnswer, ...]
    gates: tuple[Audit, ...]  # audits that can refuse a model
    informative: tuple[Audit, ...]
    audits_in_short: Sentence
    better_baselines: tuple[Baseline, ...]  # in one condition at least
    equal_baselines: tuple[Baseline, ...]  # no difference shown, in one condition at least
    beats_baselines: bool  # shown of each of them, in every condition
    warnings: tuple[Sentence, ...]


def tell(data: ReportInput) -> Story:
    """What a reader should know first. Public so that the card says the same as the report."""
    result = data.result
    main = _first(result.conditions, "participant") or _first(result.conditions, "recording")
    noisy = None
    if main is not None and main.condition == "clean":
        noisy = _condition(result.conditions, "noise", main.level)
    gates = tuple(audit for audit in result.audits if audit.refuses)
    return Story(
        evidence=(
            EVIDENCE_SENTENCES[data.evidence_level]
            if data.evidence_level
            else Sentence(
                pt="Nível de evidência não informado. Não usar em pacientes.",
                en="Evidence level not reported. Not for use on patients.",
            )
        ),
        who=(
            Sentence(pt="pessoas simuladas", en="simulated people")
            if data.simulated
            else Sentence(pt="pessoas", en="people")
        ),
        main=main,
        noisy=noisy,
        conditions=tuple(
            found
            for level in ("participant", "recording")
            for condition in ("clean", "noise")
            if (found := _condition(result.conditions, condition, level)) is not None
        ),
        given=tuple(
            given
            for label in _LABELS
            for found in (main, noisy)
            if found is not None and (given := _given(found, label)) is not None
        ),
        answers=_answers(main, noisy),
        gates=gates,
        informative=tuple(audit for audit in result.audits if not audit.refuses),
        audits_in_short=_audits_in_short(gates),
        better_baselines=tuple(b for b in result.baselines if b.standing == "better"),
        equal_baselines=tuple(b for b in result.baselines if b.standing == "no difference shown"),
        beats_baselines=bool(result.baselines)
        and all(baseline.standing == "behind" for baseline in result.baselines),
        warnings=tuple(_warnings(data)),
    )


def _condition(
    conditions: Sequence[ConditionResult], condition: str, level: str
) -> ConditionResult | None:
    return next((c for c in conditions if (c.condition, c.level) == (condition, level)), None)


def _first(conditions: Sequence[ConditionResult], level: Level) -> ConditionResult | None:
    return _condition(conditions, "clean", level) or _condition(conditions, "noise", level)


_LABELS: tuple[Literal["present", "absent"], ...] = ("present", "absent")


def _given(found: ConditionResult, label: Literal["present", "absent"]) -> GivenAnswers | None:
    """The model's own counts, each with its exact interval where people are counted."""
    counted = [
        getattr(found.confusion, f"{label}_{outcome}")
        for outcome in ("positive", "inconclusive", "negative")
    ]
    n = sum(counted)
    if n == 0:
        return None
    shares = []
    for count in counted:
        # Recordings of one person are alike: counting them as people would look too sure.
        low, high = clopper_pearson(count, n) if found.level == "participant" else (None, None)
        shares.append(Estimate(value=count / n, low=low, high=high, n=n, method="Clopper-Pearson"))
    return GivenAnswers(label, found.condition, n, *shares)


# The prevalence that CLINICAL words are written for: ten in a hundred of those assessed.
_PREVALENCE = 0.10


def _answers(
    main: ConditionResult | None, noisy: ConditionResult | None
) -> tuple[PersonAnswer, ...]:
    """Predictive values as people with RI among a hundred with the same answer."""
    values = _nearest(main.predictive_values, _PREVALENCE) if main else None
    if values is None:
        return ()
    under_noise = _nearest(noisy.predictive_values, _PREVALENCE) if noisy else None
    return (
        PersonAnswer(
            "positive",
            OUTCOME_SENTENCES["positive"],
            values.prevalence,
            values.positive,
            under_noise.positive if under_noise else None,
        ),
        PersonAnswer(
            "negative",
            OUTCOME_SENTENCES["negative"],
            values.prevalence,
            _others(values.negative),
            _others(under_noise.negative) if under_noise else None,
        ),
    )


def _nearest(values: Sequence[PredictiveValue], prevalence: float) -> PredictiveValue | None:
    return min(values, key=lambda value: abs(value.prevalence - prevalence), default=None)


def _others(share: Estimate) -> Estimate:
    """The share of everybody else: 1 minus a share, its interval turned round."""
    if share.value is None:
        return share
    return share.model_copy(
        update={
            "value": 1 - share.value,
            "low": None if share.high is None else 1 - share.high,
            "high": None if share.low is None else 1 - share.low,
        }
    )


def _audits_in_short(gates: Sequence[Audit]) -> Sentence:
    failed = [audit for audit in gates if audit.verdict == "fail"]
    undecided = [audit for audit in gates if audit.verdict != "pass" and audit not in failed]
    if not gates:
        return Sentence(
            pt="Nenhuma auditoria de atalhos foi feita: não se sabe se o modelo ouve a voz.",
            en="No shortcut audit was made: whether the model listens to the voice is unknown.",
        )
    if failed:
        return fill(
            "Auditorias de atalhos reprovadas: {n} de {all}. Os acertos podem vir do ruído, do "
            "local ou do aparelho, e não da voz.",
            "Shortcut audits failed: {n} of {all}. Right answers may come from noise, place or "
            "device, and not from the voice.",
            n=len(failed),
            all=len(gates),
        )
    if undecided:
        return fill(
            "Auditorias de atalhos sem dados suficientes: {n} de {all}. Isso não é aprovação.",
            "Shortcut audits without enough data: {n} of {all}. That is not a pass.",
            n=len(undecided),
            all=len(gates),
        )
    return fill(
        "Auditorias de atalhos aprovadas: {all} de {all}. O que ruído, local e aparelho dizem fica "
        "dentro do limite; isso não prova que nada digam.",
        "Shortcut audits passed: {all} of {all}. What noise, place and device tell stays within "
        "the limit; that does not prove that they tell nothing.",
        all=len(gates),
    )


def _quoted(titles: Sequence[Sentence]) -> Sentence:
    return Sentence(
        pt=", ".join(f"«{title.pt}»" for title in titles),
        en=", ".join(f"“{title.en}”" for title in titles),
    )


_STANDINGS: Mapping[Standing, Sentence] = {
    "better": Sentence(
        pt="Uma regra simples foi melhor que o modelo",
        en="A simple rule did better than the model",
    ),
    "no difference shown": Sentence(
        pt="Não se mostrou que o modelo seja melhor que uma regra simples",
        en="The model is not shown to be better than a simple rule",
    ),
}

_FEW_NOISES = 3  # of a side; with one or two, what is measured is that recording

# Refused recordings are compared by label; a difference under one point is not worth a warning.
_REFUSAL_GAP = 0.01


def _warnings(data: ReportInput) -> list[Sentence]:
    """What a reader must know before believing a figure, the gravest first."""
    result, warnings = data.result, []
    if data.simulated:
        warnings.append(
            Sentence(
                pt="As vozes deste teste são sintéticas. Nenhum número desta avaliação vale para "
                "pacientes.",
                en="The voices of this test are synthetic. No figure of this evaluation holds for "
                "patients.",
            )
        )
    if result.participants_disjoint == "unproven":
        warnings.append(
            Sentence(
                pt="Não está provado que as pessoas do teste sejam outras que as do treino: os "
                "números podem estar altos demais.",
                en="It is not proven that test people differ from training people: the figures "
                "may be too high.",
            )
        )
    warnings += result.notes
    warnings += [
        fill(
            "Auditoria reprovada: «{title}» {explanation}",
            "Audit failed: “{title}” {explanation}",
            title=audit.title,
            explanation=audit.explanation,
        )
        for audit in result.audits
        if audit.refuses and audit.verdict == "fail"
    ]
    warnings += [
        fill(
            "O volume da fala sozinho já separa as pessoas: AUROC {value} ({interval}). Pode ser a "
            "doença, ou a distância e o ganho do microfone: o modelo pode estar ouvindo o volume.",
            "The loudness of speech alone tells people apart: AUROC {value} ({interval}). It may "
            "be the illness, or the distance and the gain of the microphone: the model may be "
            "listening to loudness.",
            value=wording.decimal(audit.estimate.value, 2),
            interval=wording.interval(audit.estimate, 2),
        )
        for audit in result.audits
        if level_warns(audit)
    ]
    for standing, said in _STANDINGS.items():
        rules = [rule.title for rule in result.baselines if rule.standing == standing]
        if rules:
            warnings.append(
                fill("{said}: {rules}.", "{said}: {rules}.", said=said, rules=_quoted(rules))
            )
    if any(found.condition == "noise" for found in result.conditions):
        warnings += [
            fill(
                "Gravações de ruído no lado «{side}»: só {n}. Os números com ruído dependem de tão "
                "poucas e podem ser outros em outra enfermaria.",
                "Noise recordings on the side “{side}”: only {n}. Figures under noise rest on so "
                "few and may differ in another ward.",
                side=word(side.side),
                n=side.noise_recordings,
            )
            for side in data.split
            if side.side != "train"  # what is heard there changes the model, not the figures
            and side.noise_recordings is not None
            and side.noise_recordings < _FEW_NOISES
        ]
    lacking = [group for group in result.subgroups if not group.sufficient]
    if lacking:
        warnings.append(
            fill(
                "Em {n} de {all} subgrupos há pessoas de menos para concluir.",
                "In {n} of {all} subgroups there are too few people to conclude anything.",
                n=len(lacking),
                all=len(result.subgroups),
            )
        )
    if data.dataset is not None:
        warnings += _data_warnings(data.dataset)
    return warnings


def _data_warnings(dataset: ReportedDataset) -> list[Sentence]:
    warnings = []
    everybody = next((group for group in dataset.groups if group.attribute == "all"), None)
    refused = dataset.refused
    if everybody is not None and refused is not None:
        accepted = everybody.recordings
        present = refused.present / max(1, refused.present + accepted.present)
        absent = refused.absent / max(1, refused.absent + accepted.absent)
        if present - absent > _REFUSAL_GAP:
            warnings.append(
                fill(
                    "Foram recusadas mais gravações de pessoas com IR ({present}) que sem IR "
                    "({absent}).",
                    "More recordings of people with RI were refused ({present}) than without "
                    "({absent}).",
                    present=wording.percent(present, 1),
                    absent=wording.percent(absent, 1),
                )
            )
    if dataset.withdrawn:
        warnings.append(
            fill(
                "Gravações retiradas a pedido de quem as deu: {n}. Este modelo as conheceu.",
                "Recordings withdrawn by their owners: {n}. This model has known them.",
                n=dataset.withdrawn,
            )
        )
    return warnings


# --- drawing --------------------------------------------------------------------------------


class _Ruler(NamedTuple):
    """The scale of one audit: what is allowed, what means nothing, and how its ticks read."""

    scale: tuple[float, float]
    zone: tuple[float, float] | None
    reference: float
    ticks: tuple[tuple[float, Sentence], ...]

    def draw(self, estimate: Estimate, bound: float | None, verdict: str | None) -> Markup:
        """The estimate on this scale; the bound, a distance, points where the estimate does."""
        at = bound
        if bound is not None and estimate.value is not None and estimate.value < self.reference:
            mirrored = self.zone is not None and self.zone[0] > self.scale[0]
            at = 2 * self.reference - bound if mirrored else bound
        return figures.strip(
            estimate,
            scale=self.scale,
            zone=self.zone,
            bound=at,
            reference=self.reference,
            css="c-fail" if verdict == "fail" else "c-clean",
            hollow=verdict == "not enough data",
        )


def _is_change(statistic: str) -> bool:
    return statistic.startswith("change")


def _ruler(audit: Audit) -> _Ruler:
    """A change lies around 0; an AUROC lies in 0..1 around 0.5, folded for the background."""
    limit = audit.limit
    if not _is_change(audit.statistic):
        low = 1 - limit if limit is not None and audit.name == "background" else 0.0
        named = {0.0, 0.5, 1.0} | ({limit, low} if limit is not None else set())
        return _Ruler(
            (0.0, 1.0),
            None if limit is None else (low, limit),
            0.5,
            tuple((tick, wording.decimal(tick, 2)) for tick in sorted(named)),
        )
    estimates = [audit.estimate, *(part.estimate for part in audit.parts)]
    bounds = [audit.bound, *(part.bound for part in audit.parts)]
    ends = [abs(end) for e in estimates for end in (e.value, e.low, e.high) if end is not None]
    widest = max([*ends, *(abs(b) for b in bounds if b is not None), 2 * (limit or 0.05)])
    reach = min(1.0, math.ceil(widest * 20 + 1e-9) / 20)
    named = {0.0} | ({-limit, limit} if limit is not None else {-reach, reach})
    return _Ruler(
        (-reach, reach),
        None if limit is None else (-limit, limit),
        0.0,
        tuple((tick, _points(tick)) for tick in sorted(named)),
    )


def _points(change: float | None, digits: int = 0) -> Sentence:
    """A change of a share, in percentage points."""
    number = wording.decimal(None if change is None else 100 * change, digits, signed=True)
    if change is None:
        return number
    return Sentence(pt=f"{number.pt}\u202fp.p.", en=f"{number.en}\u202fpp")


def _audit_number(audit: Audit, number: float | None, *, signed: bool = True) -> Sentence:
    """A figure of an audit in its own unit."""
    if number is None:
        return NOT_AVAILABLE
    if _is_change(audit.statistic):
        points = _points(number, 1)
        return points if signed else Sentence(pt=points.pt.lstrip("+"), en=points.en.lstrip("+"))
    return wording.decimal(number, 2)


def _audit_bound(audit: Audit) -> Sentence:
    """The bound that decides, rounded up: one over the limit never reads as if it were under it."""
    if audit.bound is None:
        return NOT_AVAILABLE
    digits = 3 if _is_change(audit.statistic) else 2  # of a share: a tenth of a point
    return _audit_number(audit, wording.at_most(audit.bound, digits), signed=False)


def _audit_interval(audit: Audit, estimate: Estimate) -> Sentence:
    if _is_change(audit.statistic):
        hundred = estimate.model_copy(
            update={
                end: None if getattr(estimate, end) is None else 100 * getattr(estimate, end)
                for end in ("low", "high")
            }
        )
        return wording.interval(hundred, 1, signed=True)
    return wording.interval(estimate, 2)


class AuditSummary(NamedTuple):
    """The figures of one audit, as they are written."""

    value: Sentence
    interval: Sentence  # two-sided, for people
    bound: Sentence  # one-sided, what decides
    limit: Sentence


def audit_summary(audit: Audit) -> AuditSummary:
    """An audit's figures in its own unit: an AUROC, or percentage points of change."""
    return AuditSummary(
        _audit_number(audit, audit.estimate.value),
        _audit_interval(audit, audit.estimate),
        _audit_bound(audit),
        _audit_number(audit, audit.limit, signed=False),
    )


def _roc(conditions: Sequence[ConditionResult]) -> Markup | None:
    lines = [
        figures.Line(
            curve=found.roc,
            css=f"c-{found.condition}",
            label=fill(
                "{condition}: AUROC {auroc}",
                "{condition}: AUROC {auroc}",
                condition=word(found.condition),
                auroc=wording.decimal(found.auroc.value, 2),
            ),
            point=(
                None
                if found.specificity.value is None or found.sensitivity.value is None
                else (1 - found.specificity.value, found.sensitivity.value)
            ),
        )
        for found in conditions
        if found.roc.x and found.roc.y
    ]
    return figures.roc(lines) if lines else None


def _calibration(conditions: Sequence[ConditionResult]) -> Markup | None:
    series = [
        (f"c-{found.condition}", word(found.condition), found.calibration_bins)
        for found in conditions
        if any(bin_.observed.value is not None for bin_ in found.calibration_bins)
    ]
    return figures.calibration(series) if series else None


def _distribution(scores: ScoreHistogram | None, result: EvaluationResult) -> Markup | None:
    if scores is None or not (
        len(scores.edges) - 1 == len(scores.present) == len(scores.absent) > 0
    ):
        return None
    point = result.operating_point
    return figures.distribution(
        scores.edges,
        scores.present,
        scores.absent,
        threshold=point.threshold,
        band=(point.band_low, point.band_high),
        counted=Sentence(pt="pessoas", en="people")
        if scores.level == "participant"
        else Sentence(pt="gravações", en="recordings"),
    )


def _losses(curves: TrainingCurves | None) -> Markup | None:
    if curves is None or not curves.epoch:
        return None
    return figures.losses(
        curves.epoch, curves.train_loss, curves.validation_loss, curves.kept_epoch
    )


def _forest_groups(subgroups: Sequence[Subgroup]) -> list[tuple[str, list[Subgroup]]]:
    """Subgroups by attribute, in the order they come."""
    return [(key, list(group)) for key, group in groupby(subgroups, key=lambda s: s.attribute)]


def _labels_in(data: ReportInput) -> list[str]:
    """The labels worth a column: `unknown` only where somebody has it."""
    counted = [counts for side in data.split for counts in (side.people, side.recordings)]
    if data.dataset is not None:
        counted += [group.people for group in data.dataset.groups]
        for quality in (data.dataset.refusals, data.dataset.findings):
            counted += list((quality or {}).values())
    return ["present", "absent"] + ["unknown"] * any(counts.unknown for counts in counted)


def _auroc_scale(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """From chance to 1, or the whole scale where an interval reaches below chance."""
    lows = [end for e in estimates for end in (e.low, e.value) if end is not None]
    return (0.5, 1.0) if min(lows, default=0.0) >= 0.5 else (0.0, 1.0)


def _epochs(curves: TrainingCurves) -> list[tuple[int, float | None, float | None]]:
    """(epoch, loss, validation loss) of some twenty epochs, the kept and the last among them."""
    rows = list(zip(curves.epoch, curves.train_loss, curves.validation_loss, strict=False))
    step = max(1, math.ceil(len(rows) / 20))
    return [
        row
        for number, row in enumerate(rows)
        if number % step == 0 or row[0] == curves.kept_epoch or number == len(rows) - 1
    ]


def _never_given(answer: PersonAnswer, main: ConditionResult) -> bool:
    """Whether there were people to answer about, and none of them got this answer."""
    return answer.share.value is None and main.n_present > 0 and main.n_absent > 0


def separates(found: ConditionResult) -> bool:
    """Whether a calibration slope is missing because the answers tell everybody apart."""
    both = found.n_present > 0 and found.n_absent > 0
    return both and found.calibration_slope.value is None


# --- the page -------------------------------------------------------------------------------


def _words(pt: str, en: str, **values: object) -> Markup:
    """Words of the template in both languages; they may hold markup, values are escaped."""
    filled = {
        language: Markup(text).format(
            **{name: _spoken(value, language) for name, value in values.items()}
        )
        for language, text in (("pt", pt), ("en", en))
    }
    if filled["pt"] == filled["en"]:
        return filled["pt"]
    return Markup(
        '<span class="pt" lang="pt-BR">{pt}</span><span class="en" lang="en">{en}</span>'
    ).format(**filled)


def _spoken(value: object, language: str) -> object:
    return value if isinstance(value, Markup) else wording.spoken(value, language)


def _shown(value: object) -> object:
    """How a template writes a value: a sentence in both languages, nothing as not reported."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, Sentence):
        return figures.both(value)
    if value is None or value == "":
        return figures.both(NOT_REPORTED)
    if isinstance(value, int) and not isinstance(value, bool):
        return figures.both(wording.count(value))
    return value


def page_environment(*packages: str) -> "Environment":
    """Templates of these packages, for pages in both languages with the report's style sheet.

    `t` takes words in Portuguese and in English; whatever is written is escaped, a sentence in both
    languages.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "templates") for package in packages]),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(
        t=_words,
        word=word,
        fill=fill,
        decimal=wording.decimal,
        percent=wording.percent,
        strip=figures.strip,
        scale_line=figures.scale_line,
    )
    return environment


@cache
def _environment() -> "Environment":
    environment = page_environment("spira.evaluation")
    environment.globals.update(
        unreported=NOT_REPORTED,
        share_of=wording.share,
        interval=wording.interval,
        percent_interval=wording.percent_interval,
        in_hundred=wording.in_hundred,
        value_word=wording.value_word,
        aim=wording.aim,
        auroc_scale=_auroc_scale,
        labels_in=_labels_in,
        hundred_between=wording.hundred_between,
        duration=wording.duration,
        share_strip=figures.share_strip,
        people=figures.people,
        headcount=headcount,
        epochs=_epochs,
        never_given=_never_given,
        separates=separates,
        roc=_roc,
        calibration=_calibration,
        distribution=_distribution,
        losses=_losses,
        ruler=_ruler,
        audit_number=_audit_number,
        audit_bound=_audit_bound,
        audit_interval=_audit_interval,
        forest_groups=_forest_groups,
    )
    return environment
