"""Numbers and fixed words in Brazilian Portuguese and English, as report and card write them.

Everything here returns a `Sentence`: plain text, once in each language, never markup.
"""

import math
import re
from collections.abc import Mapping

from spira.domain.answers import Sentence
from spira.evaluation.results import Estimate
from spira.model.prediction import ABOUT, between, headcount

# A narrow no-break space keeps a number and its unit on one line.
_THIN = "\u202f"
_MINUS = "\u2212"

NOT_AVAILABLE = Sentence(pt="não disponível", en="not available")
NOT_REPORTED = Sentence(pt="não informado", en="not reported")

_WORDS: Mapping[str, Sentence] = {
    # attributes
    "all": Sentence(pt="todas as pessoas", en="everybody"),
    "sex": Sentence(pt="sexo", en="sex"),
    "age band": Sentence(pt="idade", en="age"),
    "site": Sentence(pt="local", en="site"),
    "device": Sentence(pt="aparelho", en="device"),
    "label": Sentence(pt="rótulo", en="label"),
    # values
    "female": Sentence(pt="feminino", en="female"),
    "male": Sentence(pt="masculino", en="male"),
    "under 18": Sentence(pt="menos de 18 anos", en="under 18"),
    "18-39": Sentence(pt="18 a 39 anos", en="18 to 39"),
    "40-59": Sentence(pt="40 a 59 anos", en="40 to 59"),
    "60-74": Sentence(pt="60 a 74 anos", en="60 to 74"),
    "75 and over": Sentence(pt="75 anos ou mais", en="75 and over"),
    "several": Sentence(pt="mais de um", en="several"),
    "not available": NOT_AVAILABLE,
    "present": Sentence(pt="com IR", en="with RI"),
    "absent": Sentence(pt="sem IR", en="without RI"),
    "unknown": Sentence(pt="sem rótulo", en="unlabelled"),
    # sides
    "train": Sentence(pt="treino", en="training"),
    "validation": Sentence(pt="validação", en="validation"),
    "test": Sentence(pt="teste", en="test"),
    # conditions and levels
    "clean": Sentence(pt="sem ruído", en="clean"),
    "noise": Sentence(pt="com ruído", en="with noise"),
    "both": Sentence(pt="sem ruído e com ruído", en="clean and with noise"),
    "participant": Sentence(pt="por pessoa", en="by person"),
    "recording": Sentence(pt="por gravação", en="by recording"),
    # verdicts
    "pass": Sentence(pt="aprovada", en="passed"),
    "fail": Sentence(pt="reprovada", en="failed"),
    "not enough data": Sentence(pt="dados insuficientes", en="not enough data"),
    # a simple rule beside the model
    "better": Sentence(pt="melhor que o modelo", en="better than the model"),
    "no difference shown": Sentence(
        pt="nenhuma diferença demonstrada", en="no difference is shown"
    ),
    "behind": Sentence(pt="o modelo é melhor", en="the model is better"),
    # what is measured
    "sensitivity": Sentence(pt="sensibilidade", en="sensitivity"),
    "specificity": Sentence(pt="especificidade", en="specificity"),
    "change of sensitivity": Sentence(pt="mudança da sensibilidade", en="change of sensitivity"),
    "change of specificity": Sentence(pt="mudança da especificidade", en="change of specificity"),
    # origins
    "synthetic": Sentence(pt="hospital sintético", en="synthetic hospital"),
    "import": Sentence(pt="importação", en="import"),
    # utterances
    "consent": Sentence(pt="consentimento", en="consent"),
    "vowel": Sentence(pt="vogal sustentada", en="sustained vowel"),
    "rhyme": Sentence(pt="parlenda", en="rhyme"),
    "sentence": Sentence(pt="frase", en="sentence"),
    # findings
    "short": Sentence(pt="curta", en="short"),
    "quiet": Sentence(pt="som baixo", en="quiet"),
    "clipped": Sentence(pt="som estourado", en="clipped"),
    "noisy": Sentence(pt="muito barulho", en="noisy"),
    "little_speech": Sentence(pt="pouca fala", en="little speech"),
    # reasons of refusal
    "missing": Sentence(pt="arquivo ausente", en="file missing"),
    "not_audio": Sentence(pt="não é áudio", en="not audio"),
    "undecodable": Sentence(pt="não decodifica", en="cannot be decoded"),
    "truncated": Sentence(pt="arquivo cortado", en="truncated"),
    "empty": Sentence(pt="vazio", en="empty"),
    "zeros": Sentence(pt="só zeros", en="all zeros"),
    "not_finite": Sentence(pt="amostras inválidas", en="invalid samples"),
    "out_of_scale": Sentence(pt="fora de escala", en="out of scale"),
    "too_short": Sentence(pt="menos de 0,5 s", en="under 0.5 s"),
    "too_long": Sentence(pt="longo demais", en="too long"),
    "duplicate": Sentence(pt="áudio repetido", en="duplicate audio"),
}


def word(text: object) -> Sentence:
    """A word of SPIRA in both languages; anything else (a site's name) comes back as it is."""
    if text is None or text == "":
        return NOT_AVAILABLE
    return _WORDS.get(str(text), Sentence(pt=str(text), en=str(text)))


def value_word(attribute: str, value: str) -> Sentence:
    """A value of an attribute; a site or device keeps its name, whatever word it looks like."""
    if attribute in ("site", "device") and value not in ("several", "not available", ""):
        return Sentence(pt=value, en=value)
    return word(value)


def fill(pt: str, en: str, **values: object) -> Sentence:
    """Both sentences with `{name}` filled in, a `Sentence` by its own language."""
    return Sentence(
        pt=pt.format(**{name: spoken(value, "pt") for name, value in values.items()}),
        en=en.format(**{name: spoken(value, "en") for name, value in values.items()}),
    )


def spoken(value: object, language: str) -> str:
    """A value as one language ("pt" or "en") writes it."""
    if isinstance(value, Sentence):
        return value.pt if language == "pt" else value.en
    if isinstance(value, int) and not isinstance(value, bool):
        return spoken(count(value), language)
    return str(value)


def count(number: int | None) -> Sentence:
    """A whole number, its thousands parted."""
    if number is None:
        return NOT_AVAILABLE
    english = f"{number:,}".replace("-", _MINUS)
    return Sentence(pt=english.replace(",", "."), en=english)


def decimal(number: float | None, digits: int = 3, *, signed: bool = False) -> Sentence:
    """A number with a fixed count of decimals; `signed` writes the plus too."""
    if number is None:
        return NOT_AVAILABLE
    rounded = round(number, digits) + 0.0  # -0.0 would be written with a minus
    english = f"{rounded:{'+' if signed and rounded else ''}.{digits}f}".replace("-", _MINUS)
    return Sentence(pt=english.replace(".", ","), en=english)


def percent(share: float | None, digits: int = 0, *, signed: bool = False) -> Sentence:
    """A share of 1 as a percentage."""
    if share is None:
        return NOT_AVAILABLE
    number = decimal(100 * share, digits, signed=signed)
    return Sentence(pt=f"{number.pt}{_THIN}%", en=f"{number.en}%")


def share(value: float | None, digits: int = 0) -> Sentence:
    """A share of people as a percentage that is never written as nobody, or everybody."""
    if value is None or 0.0 < round(100 * value, digits) < 100.0:
        return percent(value, digits)
    about, people = headcount(value)
    return fill("{about} {people}", "{about} {people}", about=about, people=percent(people / 100))


def in_hundred(value: float | None) -> Sentence:
    """A share as people in a hundred; "menos de 1" and "mais de 99" instead of never and always."""
    if value is None:
        return NOT_AVAILABLE
    about, people = headcount(value)
    if about == ABOUT:
        return count(people)
    return fill("{about} {people}", "{about} {people}", about=about, people=people)


def aim(text: str) -> Sentence:
    """The aim of an operating point, "sensitivity >= 0.90", in words; any other text as it is."""
    match = re.fullmatch(r"(sensitivity|specificity) >= (\d+(?:\.\d+)?)", text)
    if match is None:
        return Sentence(pt=text, en=text)
    measure, least = word(match[1]), match[2]
    return Sentence(
        pt=f"{measure.pt} de pelo menos {least.replace('.', ',')}",
        en=f"{measure.en} of at least {least}",
    )


def hundred_between(estimate: Estimate) -> Sentence:
    """The interval of a share as people in a hundred, rounded outwards."""
    if estimate.low is None or estimate.high is None:
        return Sentence(pt="intervalo não disponível", en="interval not available")
    low, high = between(estimate.low, estimate.high)
    return fill("entre {low} e {high}", "between {low} and {high}", low=low, high=high)


def interval(estimate: Estimate, digits: int = 3, *, signed: bool = False) -> Sentence:
    """The two-sided 95 % interval in the figure's own unit, rounded outwards; empty without one."""
    if estimate.low is None or estimate.high is None:
        return Sentence(pt="", en="")
    low = decimal(at_least(estimate.low, digits), digits, signed=signed)
    high = decimal(at_most(estimate.high, digits), digits, signed=signed)
    return fill("{low} a {high}", "{low} to {high}", low=low, high=high)


def percent_interval(estimate: Estimate, digits: int = 0) -> Sentence:
    """The two-sided 95 % interval in percent, rounded outwards; empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return Sentence(pt="", en="")
    low, high = at_least(100 * estimate.low, digits), at_most(100 * estimate.high, digits)
    return fill(
        "{low} a {high}",
        "{low} to {high}",
        low=decimal(low, digits),
        high=percent(high / 100, digits),
    )


def at_most(number: float, digits: int) -> float:
    """An upper bound rounded up: what is written is never less than what was found."""
    scale = 10.0**digits
    return math.ceil(round(number * scale, 6)) / scale


def at_least(number: float, digits: int) -> float:
    """A lower bound rounded down."""
    return -at_most(-number, digits)


def duration(seconds: float | None) -> Sentence:
    """A time in the unit that suits it."""
    if seconds is None:
        return NOT_AVAILABLE
    if seconds < 120:
        amount, unit = decimal(seconds, 1), "s"
    elif seconds < 7200:
        amount, unit = decimal(seconds / 60, 1), "min"
    else:
        amount, unit = decimal(seconds / 3600, 1), "h"
    return Sentence(pt=f"{amount.pt}{_THIN}{unit}", en=f"{amount.en}{_THIN}{unit}")
