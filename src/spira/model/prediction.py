"""From a score to an answer: where the model may answer, how sure it is, and in which words.

Pure: no file is read and nothing is scored here. The sentences are clinical safety controls, in
Portuguese and English; the figures in them come from the model's own evaluation.
"""

import math
from typing import Literal

from pydantic import Field

from spira.domain.answers import (
    Envelope,
    OperatingPoint,
    Outcome,
    Sentence,
)
from spira.domain.frozen import Frozen
from spira.domain.recordings import (
    SHORTEST_SPEECH_S,
    Finding,
    Measurements,
    SourceFormat,
    Utterance,
)

Undeclared = Literal["utterance", "language", "age", "device", "site", "tracheostomy", "intubated"]

ADULT_YEARS = 18  # CLINICAL.md: under 18 is outside intended use, whatever a model was tested on

ABOUT = Sentence(pt="cerca de", en="about")
A_FOLDER = Sentence(pt="Isto é uma pasta, não um arquivo.", en="This is a folder, not a file.")

ANOTHER_LANGUAGE = Sentence(pt="outra língua", en="another language")

NOT_SCORED = Sentence(
    pt="Gravado, não avaliado: fora do uso previsto do modelo.",
    en="Recorded, not scored: outside the model's intended use.",
)

MINOR = Sentence(
    pt=f"O modelo não avalia menores de {ADULT_YEARS} anos.",
    en=f"The model does not score people under {ADULT_YEARS}.",
)
TRACHEOSTOMY = Sentence(
    pt="O modelo não avalia pessoas com traqueostomia.",
    en="The model does not score people with a tracheostomy.",
)
INTUBATED = Sentence(
    pt="O modelo não avalia pessoas intubadas.",
    en="The model does not score people who are intubated.",
)

_UTTERANCES_PT: dict[str, str] = {
    "consent": "consentimento",
    "vowel": "vogal",
    "rhyme": "parlenda",
    "sentence": "frase",
    "ambient_before": "ambiente (antes)",
    "ambient_after": "ambiente (depois)",
    "other": "outra",
}


_UNDECLARED: dict[Undeclared, Sentence] = {
    "utterance": Sentence(pt="gravação", en="recording"),
    "language": Sentence(pt="língua", en="language"),
    "age": Sentence(pt="idade", en="age"),
    "device": Sentence(pt="aparelho", en="device"),
    "site": Sentence(pt="local", en="site"),
    "tracheostomy": Sentence(pt="sem traqueostomia", en="no tracheostomy"),
    "intubated": Sentence(pt="sem intubação", en="not intubated"),
}

_LAST_BIT = 6  # decimals: 1 - 0.94 is six people of a hundred, not a bit more than six


class Declared(Frozen):
    """What the caller says about the recordings; a file knows none of it. None: not said."""

    language: str | None = None
    utterance: Utterance | None = None
    age: int | None = Field(default=None, ge=0, le=130)
    device: str | None = None
    site: str | None = None
    tracheostomy: bool | None = None
    intubated: bool | None = None
    unfinished: bool = False  # the patient could not finish: no rule about length applies


class PresentShare(Frozen):
    """Of the people who get one answer, the share (0..1) that has RI, at an assumed prevalence."""

    value: float = Field(ge=0, le=1)
    low: float | None = None  # two-sided 95 % interval
    high: float | None = None
    prevalence: float = Field(gt=0, lt=1)


class Answer(Frozen):
    """One file's row. `refused`: the file cannot be used; `not scored`: it can, and the model
    must not answer about it; `forced`: scored outside the envelope, without meaning."""

    file: str
    status: Literal["answered", "not scored", "forced", "refused"]
    sentence: Sentence
    evidence: Sentence
    model: str
    outcome: Outcome | None = None
    how_sure: Sentence | None = None
    not_declared: tuple[Undeclared, ...] = ()  # taken to be as in the test
    assumed: Sentence | None = None  # the same in words
    reasons: tuple[Sentence, ...] = ()  # why the recording is outside the envelope
    findings: tuple[Finding, ...] = ()
    probability: float | None = None  # calibrated; only on request
    detail: str | None = None  # why a file was refused, with the figures
    sha256: str | None = None


def outside(
    envelope: Envelope, declared: Declared, source: SourceFormat, measurements: Measurements
) -> tuple[Sentence, ...]:
    """Every reason why the model may not answer about a recording; none where it may.

    What nobody declared is no reason: `assumed` says that it was taken for granted. Rates above
    the lowest tested one are no reason either: everything is resampled to the model's rate, and
    only what a low rate has cut off is missing. An age belongs to a person and is not repeated in
    a sentence.
    """
    reasons: list[Sentence] = []
    if declared.utterance is not None and declared.utterance not in envelope.utterances:
        tested = [_UTTERANCES_PT.get(name, name) for name in envelope.utterances]
        reasons.append(
            Sentence(
                pt=f"O modelo só avalia: {', '.join(tested)}. "
                f"Gravação declarada: {_UTTERANCES_PT[declared.utterance]}.",
                en=f"The model only scores: {', '.join(envelope.utterances)}. "
                f"Declared: {declared.utterance}.",
            )
        )
    if (foreign := other_language(declared.language, envelope.languages)) is not None:
        reasons.append(foreign)
    reasons += _age_reasons(envelope, declared.age)
    if _unknown(declared.device, envelope.devices):
        reasons.append(
            Sentence(
                pt=f"Aparelho não testado. Testados: {', '.join(envelope.devices)}.",
                en=f"Device not tested. Tested: {', '.join(envelope.devices)}.",
            )
        )
    if _unknown(declared.site, envelope.sites):
        reasons.append(
            Sentence(
                pt=f"Local não testado. Testados: {', '.join(envelope.sites)}.",
                en=f"Site not tested. Tested: {', '.join(envelope.sites)}.",
            )
        )
    if declared.tracheostomy:
        reasons.append(TRACHEOSTOMY)
    if declared.intubated:
        reasons.append(INTUBATED)
    lowest = min(envelope.sample_rates_hz, default=0)
    if source.rate_hz < lowest:
        reasons.append(
            Sentence(
                pt=f"Arquivo de {source.rate_hz} Hz. O modelo foi testado a partir de {lowest} Hz.",
                en=f"File of {source.rate_hz} Hz. The model was tested from {lowest} Hz up.",
            )
        )
    # Whoever could not finish may have said little, and a recording without any speech is no voice.
    needed = SHORTEST_SPEECH_S if declared.unfinished else envelope.minimum_speech_s
    if measurements.speech_s < needed:
        found = measurements.speech_s
        reasons.append(
            Sentence(
                pt=f"{_pt(found, 1)} s de fala; são necessários ao menos {_pt(needed, 1)} s. "
                "Grave de novo.",
                en=f"{found:.1f} s of speech; at least {needed:.1f} s are needed. Record again.",
            )
        )
    return tuple(reasons)


def other_language(declared: str | None, tested: tuple[str, ...]) -> Sentence | None:
    """Why a declared language is outside the tested ones; None where it is one, or not said."""
    if declared is None or _spoken(declared, tested):
        return None
    languages = ", ".join(tested)
    spoken = ANOTHER_LANGUAGE if declared == "other" else Sentence(pt=declared, en=declared)
    return Sentence(
        pt=f"O modelo foi testado em {languages}. Fala declarada: {spoken.pt}.",
        en=f"The model was tested in {languages}. Declared: {spoken.en}.",
    )


def not_declared(declared: Declared) -> tuple[Undeclared, ...]:
    """What the envelope asks about and nobody declared."""
    return tuple(name for name in _UNDECLARED if getattr(declared, name) is None)


def assumed(envelope: Envelope, names: tuple[Undeclared, ...]) -> Sentence | None:
    """What was taken to be as in the test, because nobody declared it; None where all was."""
    if not names:
        return None
    of: dict[str, tuple[str, str]] = {
        "language": (", ".join(envelope.languages),) * 2,
        "utterance": (
            ", ".join(_UTTERANCES_PT.get(name, name) for name in envelope.utterances),
            ", ".join(envelope.utterances),
        ),
    }

    def listed(language: Literal["pt", "en"], place: int) -> str:
        words = []
        for name in names:
            which = of.get(name, ("", ""))[place]
            words.append(getattr(_UNDECLARED[name], language) + (f" ({which})" if which else ""))
        return ", ".join(words)

    pt, en = listed("pt", 0), listed("en", 1)
    return Sentence(
        pt=f"Não declarado, suposto como no teste: {pt}.",
        en=f"Not declared, taken to be as in the test: {en}.",
    )


def headcount(share: float) -> tuple[Sentence, int]:
    """A share (0..1) as people in a hundred: the words before the number, and the number.

    The one place where a share becomes people, for answer, report and card. Nobody and everybody
    are never claimed, not of a share of exactly 0 or 1 either: the test that it was counted in
    was finite, and "0 of 100" would be false reassurance.
    """
    of_100 = round(100 * share, _LAST_BIT)
    if of_100 < 1:
        return Sentence(pt="menos de", en="fewer than"), 1
    if of_100 > 99:
        return Sentence(pt="mais de", en="more than"), 99
    return ABOUT, round(of_100)


def between(low: float, high: float) -> tuple[int, int]:
    """An interval as people in a hundred, rounded outwards: it never looks surer than it is."""
    least, most = round(100 * low, _LAST_BIT), round(100 * high, _LAST_BIT)
    return math.floor(least), math.ceil(most)


def how_sure(share: PresentShare) -> Sentence:
    """How sure an answer is, in people, with interval and prevalence."""
    about, people = headcount(share.value)
    prevalence = f"{100 * share.prevalence:g}"
    between_pt = between_en = ""
    if share.low is not None and share.high is not None:
        least, most = between(share.low, share.high)
        between_pt = f"entre {least} e {most}, "
        between_en = f"between {least} and {most}, "
    return Sentence(
        pt=f"No teste, de 100 pessoas com este resultado, {about.pt} {people} tinham IR "
        f"({between_pt}se {prevalence} em 100 têm).",
        en=f"In the test, of 100 people with this result, {about.en} {people} had RI "
        f"({between_en}if {prevalence} in 100 have it).",
    )


def population(envelope: Envelope) -> Sentence:
    """For whom the model was tested, in one line."""
    if envelope.age_min is None or envelope.age_max is None:
        ages_pt, ages_en = "idades não informadas", "ages not available"
    else:
        ages_pt = f"{envelope.age_min} a {envelope.age_max} anos"
        ages_en = f"{envelope.age_min} to {envelope.age_max} years old"
    languages = ", ".join(envelope.languages)
    n = len(envelope.sites)
    sites_pt = f", {n} {'local' if n == 1 else 'locais'}" if n else ""
    sites_en = f", {n} {'site' if n == 1 else 'sites'}" if n else ""
    return Sentence(
        pt=f"Testado com {envelope.n_people} pessoas, {ages_pt}, {languages}{sites_pt}.",
        en=f"Tested on {envelope.n_people} people, {ages_en}, {languages}{sites_en}.",
    )


def forced_sentence(point: OperatingPoint, calibrated: float) -> Sentence:
    """A score outside the envelope. It stands under the model's evidence sentence, never alone."""
    return Sentence(
        pt=f"Pontuação {_pt(calibrated, 2)} (limite {_pt(point.threshold, 2)}).",
        en=f"Score {calibrated:.2f} (threshold {point.threshold:.2f}).",
    )


def _age_reasons(envelope: Envelope, age: int | None) -> list[Sentence]:
    if age is None:
        return []
    if age < ADULT_YEARS:
        return [MINOR]
    low, high = envelope.age_min, envelope.age_max
    if low is not None and high is not None and not low <= age <= high:
        return [
            Sentence(
                pt=f"Idade fora da faixa testada, de {low} a {high} anos.",
                en=f"Age outside the tested range, {low} to {high} years.",
            )
        ]
    return []


def _unknown(declared: str | None, tested: tuple[str, ...]) -> bool:
    """Whether a declared name is none of those tested; where none is known nothing can be said."""
    names = {name.casefold() for name in tested}
    return declared is not None and bool(names) and declared.casefold() not in names


def _spoken(declared: str, tested: tuple[str, ...]) -> bool:
    """Whether a language tag is one of the tested ones; "pt" alone may be any Portuguese."""
    wanted = declared.casefold().replace("_", "-")
    known = [tag.casefold() for tag in tested]
    if wanted in known:
        return True
    return "-" not in wanted and any(tag.split("-")[0] == wanted for tag in known)


def _pt(number: float, digits: int) -> str:
    """A number with the decimal comma of Portuguese."""
    return f"{number:.{digits}f}".replace(".", ",")
