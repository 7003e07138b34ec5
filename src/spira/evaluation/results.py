"""What an evaluation found, as one typed document: report, card and policies read it."""

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from spira.domain.answers import OperatingPoint, Sentence
from spira.domain.errors import InputError, IntegrityError
from spira.domain.frozen import Frozen

Verdict = Literal["pass", "fail", "not enough data"]
Level = Literal["recording", "participant"]
Condition = Literal["clean", "noise"]
Attribute = Literal["sex", "age band", "site", "device"]
Standing = Literal["better", "no difference shown", "behind", "not available"]


FORMAT_VERSION = 2
_Kind = TypeVar("_Kind", bound=Frozen)


class Estimate(Frozen):
    """A figure with its two-sided 95 % interval.

    `value` is None where it cannot be computed (nobody of one class, classes that separate
    perfectly for a calibration slope); `low` and `high` are None where no interval can be.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int  # people or recordings it rests on
    method: str = ""  # "Clopper-Pearson", "DeLong", "bootstrap by participant", ...


class Confusion(Frozen):
    """Counts of answers by label, at the operating point."""

    present_positive: int
    present_inconclusive: int
    present_negative: int
    absent_positive: int
    absent_inconclusive: int
    absent_negative: int


class Curve(Frozen):
    """Points to draw; x and y have one length."""

    x: tuple[float, ...]
    y: tuple[float, ...]


class CalibrationBin(Frozen):
    """People whose calibrated probability fell into one bin."""

    predicted: float  # mean calibrated probability
    observed: Estimate  # share with label present


class PredictiveValue(Frozen):
    """Predictive values at one assumed prevalence, from sensitivity and specificity (Bayes)."""

    prevalence: float
    positive: Estimate
    negative: Estimate


class ConditionResult(Frozen):
    """The model under one condition, counted per recording or per participant."""

    condition: Condition
    level: Level
    n_present: int
    n_absent: int
    sensitivity: Estimate  # at the threshold, as if there were no band
    specificity: Estimate
    balanced_accuracy: Estimate
    auroc: Estimate
    brier: Estimate
    calibration_slope: Estimate
    calibration_intercept: Estimate
    calibration_error: Estimate  # expected calibration error, 10 equal-count bins
    calibration_bins: tuple[CalibrationBin, ...]
    inconclusive: Estimate  # share of answers
    confusion: Confusion
    roc: Curve
    predictive_values: tuple[PredictiveValue, ...]  # at 5, 10, 20 and 40 %


class Subgroup(Frozen):
    """One value of one attribute, under the clean condition, per participant."""

    attribute: Attribute
    value: str  # "not available" where the dataset does not say
    n_present: int
    n_absent: int
    sensitivity: Estimate
    specificity: Estimate
    auroc: Estimate
    sufficient: bool  # False: too few people of one class; the figures stand, and prove nothing


class AuditPart(Frozen):
    """One comparison inside an audit (noise: sensitivity, and specificity), under its limit."""

    name: str  # "sensitivity", "specificity"
    title: Sentence
    estimate: Estimate  # signed: with noise minus clean, so that a loss is negative
    bound: float | None  # one-sided 95 % upper bound of the absolute change
    verdict: Verdict


class Audit(Frozen):
    """One shortcut audit: a number, an interval, a limit, a verdict and a sentence.

    The limit restricts a distance, in either direction where that is a shortcut too, so `bound`
    is not an end of `estimate`'s interval. noise: |change| of sensitivity or specificity, the
    estimate is the worse part's signed change. background: 0.5 + |AUROC - 0.5| (an AUROC of 0.2
    is a shortcut turned round). acquisition: the AUROC itself.
    """

    name: str  # "noise", "background", "acquisition", "timing", "level", "speech"
    title: Sentence
    statistic: str  # "AUROC", "change of sensitivity", ...
    estimate: Estimate  # two-sided 95 % interval, for people; a signed change for noise
    bound: float | None  # one-sided 95 % upper bound, what the limit is compared with
    limit: float | None  # None for audits that are only reported
    verdict: Verdict | None  # None for audits that are only reported
    refuses: bool  # False: physiology, reported and never a reason to refuse
    explanation: Sentence  # plain words for a physician
    parts: tuple[AuditPart, ...] = ()


class Baseline(Frozen):
    """An honest, simple competitor trained on the same people.

    The differences are the model's AUROC minus the competitor's, on the same test people.
    """

    name: str  # "timing", "summary"
    title: Sentence
    auroc_clean: Estimate
    auroc_noise: Estimate
    difference_clean: Estimate
    difference_noise: Estimate
    explanation: Sentence  # plain words, with the figures

    @property
    def standing(self) -> Standing:
        """Where it stands beside the model, in the condition that is worse for the model."""
        found = [standing(self.difference_clean), standing(self.difference_noise)]
        order: tuple[Standing, ...] = ("better", "no difference shown", "behind", "not available")
        return min(found, key=order.index)


def standing(difference: Estimate) -> Standing:
    """What an interval of (model - competitor) shows of the competitor."""
    if difference.value is None or difference.low is None or difference.high is None:
        return "not available"
    if difference.high < 0:
        return "better"
    return "behind" if difference.low > 0 else "no difference shown"


class EvaluationResult(Frozen):
    """Everything one evaluation found."""

    format_version: int = FORMAT_VERSION
    operating_point: OperatingPoint
    evaluated: str  # "test"
    participants_disjoint: Literal["proven", "unproven"]
    notes: tuple[Sentence, ...] = ()  # what a reader must know, e.g. unproven disjointness
    conditions: tuple[ConditionResult, ...]
    subgroups: tuple[Subgroup, ...]
    audits: tuple[Audit, ...]
    baselines: tuple[Baseline, ...]


def read_result(file: Path) -> EvaluationResult:
    """The evaluation in a metrics.json.

    raises    IntegrityError for a file that is cut off or no JSON; InputError for one of another
              version, or that cannot be read
    """
    return _read(file, EvaluationResult, _document(file))


def read_operating_point(file: Path) -> OperatingPoint:
    """The operating point in a metrics.json, also in one that an older SPIRA wrote.

    raises    as `read_result`
    """
    document = _document(file)
    point = document.get("operating_point") if isinstance(document, dict) else None
    return _read(file, OperatingPoint, point)


def _document(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); publish again") from error
    except ValueError as error:
        raise IntegrityError(
            f"{file}: damaged, it is no whole JSON; copy the model again from where it came"
        ) from error


def _read(file: Path, kind: type[_Kind], document: Any) -> _Kind:
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise InputError(
            f"{file}: the evaluation is of another version of SPIRA than this, which reads "
            f"format {FORMAT_VERSION}; publish the model again with this one"
        ) from error
