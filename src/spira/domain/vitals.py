"""Vital signs that nobody should overlook: a banner above any answer, whatever the voice says."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from spira.domain.answers import Sentence, figure
from spira.domain.frozen import Frozen

VitalSign = Literal["spo2", "respiratory_rate", "heart_rate"]


class _Measure(NamedTuple):
    name: Sentence
    unit: Sentence
    lowest: float  # of a limit that can mean something
    highest: float


_MEASURES: dict[VitalSign, _Measure] = {
    "spo2": _Measure(
        Sentence(pt="SpO₂", en="SpO₂"), Sentence(pt=" %", en="%"), lowest=50, highest=100
    ),
    "respiratory_rate": _Measure(
        Sentence(pt="FR", en="respiratory rate"),
        Sentence(pt=" irpm", en="/min"),
        lowest=4,
        highest=60,
    ),
    "heart_rate": _Measure(
        Sentence(pt="FC", en="heart rate"), Sentence(pt=" bpm", en=" bpm"), lowest=20, highest=250
    ),
}

_LIMITS = {
    "<": Sentence(pt="{} abaixo de {}", en="{} below {}"),
    ">=": Sentence(pt="{} de {} ou mais", en="{} of {} or more"),
}


class VitalRule(Frozen):
    """One sign on the wrong side of one limit."""

    sign: VitalSign
    comparison: Literal["<", ">="]
    limit: float

    @model_validator(mode="after")
    def _means_something(self) -> "VitalRule":
        # 0.92 for 92 % would silence the banner for ever, and nobody would see it.
        measure = _MEASURES[self.sign]
        if not measure.lowest <= self.limit <= measure.highest:
            raise ValueError(
                f"the limit of {self.sign} must be from {measure.lowest:g} to {measure.highest:g}"
                f"{measure.unit.en}, it is {self.limit:g}"
            )
        return self

    def broken_by(self, value: float) -> bool:
        """Whether a measured value is on the wrong side."""
        return value < self.limit if self.comparison == "<" else value >= self.limit


class VitalRules(Frozen):
    """The rules of a site, signed by its clinician; the version is stored with every banner."""

    version: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")
    rules: tuple[VitalRule, ...] = Field(min_length=1)


DEFAULT_VITAL_RULES = VitalRules(
    version="default-1",
    rules=(
        VitalRule(sign="spo2", comparison="<", limit=92),
        VitalRule(sign="respiratory_rate", comparison=">=", limit=30),
        VitalRule(sign="heart_rate", comparison=">=", limit=130),
    ),
)


def banner(rules: VitalRules, values: Mapping[str, Any]) -> Sentence | None:
    """What stands above any answer; None where no rule is broken or nothing was measured.

    values    of a form, those that may be used: an impossible one must not raise an alarm, nor
              hide behind one
    """
    signs = dict.fromkeys(
        rule.sign
        for rule in rules.rules
        if (value := values.get(rule.sign)) is not None and rule.broken_by(value)
    )
    if not signs:
        return None

    def listed(language: Literal["pt", "en"]) -> str:
        return ", ".join(
            f"{getattr(_MEASURES[sign].name, language)} "
            f"{getattr(figure(values[sign]), language)}{getattr(_MEASURES[sign].unit, language)}"
            for sign in signs
        )

    return Sentence(
        pt=f"Sinais vitais alterados ({listed('pt')}). Avalie o paciente agora. "
        "A análise da voz não muda essa conduta.",
        en=f"Vital signs of concern ({listed('en')}). Assess the patient now. "
        "The voice analysis does not change that.",
    )


def limits(rules: VitalRules) -> Sentence:
    """What raises a banner: `SpO₂ below 92%, heart rate of 130 bpm or more`."""

    def listed(language: Literal["pt", "en"]) -> str:
        return ", ".join(
            getattr(_LIMITS[rule.comparison], language).format(
                getattr(_MEASURES[rule.sign].name, language),
                f"{getattr(figure(rule.limit), language)}"
                f"{getattr(_MEASURES[rule.sign].unit, language)}",
            )
            for rule in rules.rules
        )

    return Sentence(pt=listed("pt"), en=listed("en"))
