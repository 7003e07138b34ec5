"""The model card: what a model is for, what it was tested on, and the 27 items of TRIPOD+AI.

Markdown, Portuguese first and then English. What is not known says «não informado»: an item that
nobody filled in must be seen, not missed.
"""

import re
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from spira.domain.answers import Sentence
from spira.evaluation.report import ReportInput, Story, audit_summary, separates, tell
from spira.evaluation.results import ConditionResult, Subgroup
from spira.evaluation.wording import (
    NOT_AVAILABLE,
    NOT_REPORTED,
    aim,
    decimal,
    fill,
    interval,
    percent,
    percent_interval,
    share,
    spoken,
    value_word,
    word,
)

if TYPE_CHECKING:
    from jinja2 import Environment

Language = Literal["pt", "en"]


class TripodItem(NamedTuple):
    """One item of the reporting guideline, and what this evaluation says to it."""

    number: int
    title: Sentence
    told: Sentence


def render_card(data: ReportInput) -> str:
    """The model card as Markdown in both languages; the same input, the same bytes."""
    story = tell(data)
    template = _environment().get_template("card.md.j2")
    return "\n".join(
        template.render(
            language=language,
            data=data,
            result=data.result,
            story=story,
            tripod=tripod_items(data),
            **_helpers(language),
        )
        for language in ("pt", "en")
    )


def tripod_items(data: ReportInput) -> tuple[TripodItem, ...]:
    """The 27 items of TRIPOD+AI, each answered from what is known or «não informado».

    source    Collins et al., TRIPOD+AI statement, BMJ 2024; 385:e078378, table 2
    """
    told = _told(data, tell(data))
    return tuple(
        TripodItem(number, title, told.get(number, NOT_REPORTED))
        for number, title in enumerate(_TRIPOD, 1)
    )


_TRIPOD = (
    Sentence(pt="Título", en="Title"),
    Sentence(pt="Resumo", en="Abstract"),
    Sentence(pt="Contexto", en="Background"),
    Sentence(pt="Objetivos", en="Objectives"),
    Sentence(pt="Dados", en="Data"),
    Sentence(pt="Participantes (métodos)", en="Participants (methods)"),
    Sentence(pt="Preparação dos dados", en="Data preparation"),
    Sentence(pt="Desfecho", en="Outcome"),
    Sentence(pt="Preditores", en="Predictors"),
    Sentence(pt="Tamanho da amostra", en="Sample size"),
    Sentence(pt="Dados ausentes", en="Missing data"),
    Sentence(pt="Métodos de análise", en="Analytical methods"),
    Sentence(pt="Desequilíbrio de classes", en="Class imbalance"),
    Sentence(pt="Equidade", en="Fairness"),
    Sentence(pt="Saída do modelo", en="Model output"),
    Sentence(pt="Treino comparado à avaliação", en="Training versus evaluation"),
    Sentence(pt="Aprovação ética", en="Ethical approval"),
    Sentence(pt="Ciência aberta", en="Open science"),
    Sentence(pt="Participação de pacientes e público", en="Patient and public involvement"),
    Sentence(pt="Participantes (resultados)", en="Participants (results)"),
    Sentence(pt="Desenvolvimento do modelo", en="Model development"),
    Sentence(pt="Especificação do modelo", en="Model specification"),
    Sentence(pt="Desempenho do modelo", en="Model performance"),
    Sentence(pt="Atualização do modelo", en="Model updating"),
    Sentence(pt="Interpretação", en="Interpretation"),
    Sentence(pt="Limitações", en="Limitations"),
    Sentence(pt="Uso no cuidado atual", en="Usability in current care"),
)


def _told(data: ReportInput, story: Story) -> dict[int, Sentence]:
    """What is known to each item, by its number; an item that is absent is not reported."""
    told = _told_always(data, story)
    if data.experiment_name:
        told[1] = fill(
            "Modelo «{name}»: indícios de insuficiência respiratória na fala",
            "Model “{name}”: indications of respiratory insufficiency in speech",
            name=data.experiment_name,
        )
    if data.dataset is not None:
        told[5] = fill(
            "Origem: {origin}; língua: {language}; versão {digest}. Datas: não informado",
            "Origin: {origin}; language: {language}; version {digest}. Dates: not reported",
            origin=word(data.dataset.origin) if data.dataset.origin else NOT_REPORTED,
            language=data.dataset.language or NOT_REPORTED,
            digest=data.dataset.digest or NOT_REPORTED,
        )
        refused = data.dataset.refused
        told[7] = fill(
            "Recusadas só gravações que não se podem usar: {n}; a qualidade não é motivo",
            "Only recordings that cannot be used were refused: {n}; quality is no reason",
            n=NOT_REPORTED if refused is None else refused.total,
        )
        if data.dataset.label_policy and data.dataset.agreement:
            agreement = data.dataset.agreement
            told[8] = fill(
                "Rótulo pela política {policy}; {first} e {second} discordam em "
                "{n} de {total} visitas",
                "Label by policy {policy}; {first} and {second} disagree on {n} of {total} visits",
                policy=data.dataset.label_policy,
                first=agreement.first,
                second=agreement.second,
                n=agreement.differing,
                total=agreement.total,
            )
    if data.envelope is not None:
        told[6] = fill(
            "Locais: {sites}; aparelhos: {devices}; idades: {ages}. Tratamentos: não informado",
            "Sites: {sites}; devices: {devices}; ages: {ages}. Treatments: not reported",
            sites=len(data.envelope.sites) or NOT_REPORTED,
            devices=len(data.envelope.devices) or NOT_REPORTED,
            ages=ages(data),
        )
    if data.simulated:
        planted = Sentence(
            pt="Insuficiência respiratória plantada pela síntese, conhecida sem erro",
            en="Respiratory insufficiency planted by the synthesis, known without error",
        )
        told.setdefault(8, planted)
        told[17] = Sentence(
            pt="Não se aplica: nenhuma voz de pessoa", en="Does not apply: nobody's voice"
        )
    sides = {side.side: side.people for side in data.split}
    if "train" in sides:
        told[13] = fill(
            "Treino: {present} pessoas com IR, {absent} sem",
            "Training: {present} people with RI, {absent} without",
            present=sides["train"].present,
            absent=sides["train"].absent,
        )
        told[21] = fill(
            "Treinado com {n} pessoas, escolhido com {m} de validação",
            "Trained on {n} people, chosen on {m} of validation",
            n=sides["train"].total,
            m=sides["validation"].total if "validation" in sides else NOT_REPORTED,
        )
    return told


def _told_always(data: ReportInput, story: Story) -> dict[int, Sentence]:
    """What every evaluation can tell, from its result alone."""
    result, point, main = data.result, data.result.operating_point, story.main
    told = {
        2: Sentence(pt="Início do relatório («Em resumo»)", en="Start of the report (“In short”)"),
        4: Sentence(
            pt="Desenvolver e avaliar um modelo que dá indícios, nunca um diagnóstico",
            en="To develop and evaluate a model that gives indications, never a diagnosis",
        ),
        9: fill(
            "Som da fala ({utterances}); nada do formulário entra no modelo",
            "Sound of speech ({utterances}); nothing of the form enters the model",
            utterances=listed(data.envelope.utterances if data.envelope else ()),
        ),
        11: Sentence(
            pt="Atributos ausentes aparecem como «não disponível» e não são preenchidos",
            en="Absent attributes appear as “not available” and are not filled in",
        ),
        12: fill(
            "Limiar para {aim}, escolhido na validação ({condition}); intervalos de 95 %",
            "Threshold for {aim}, chosen on validation ({condition}); 95% intervals",
            aim=aim(point.aim),
            condition=word(point.condition),
        ),
        14: fill(
            "{n} subgrupos por sexo, idade, local e aparelho; {lacking} com pessoas de menos",
            "{n} subgroups by sex, age, site and device; {lacking} with too few people",
            n=len(result.subgroups),
            lacking=sum(not group.sufficient for group in result.subgroups),
        ),
        15: fill(
            "Indício, sem indício ou inconclusivo; limiar {threshold}, faixa de {low} a {high}",
            "Indication, none, or inconclusive; threshold {threshold}, band {low} to {high}",
            threshold=decimal(point.threshold, 3),
            low=decimal(point.band_low, 3),
            high=decimal(point.band_high, 3),
        ),
        16: fill(
            "Pessoas e gravações de ruído do teste separadas das do treino: {proof}",
            "People and noise recordings of the test apart from training: {proof}",
            proof=(
                Sentence(pt="provado", en="proven")
                if result.participants_disjoint == "proven"
                else Sentence(pt="não provado", en="unproven")
            ),
        ),
        18: Sentence(
            pt="Código: Apache-2.0. Financiamento, conflitos, protocolo e registro: não informado",
            en="Code: Apache-2.0. Funding, conflicts, protocol and registration: not reported",
        ),
        22: fill(
            "Rede em ONNX com pesos; impressão digital do treino: {digest}",
            "ONNX network with weights; fingerprint of training: {digest}",
            digest=data.lineage.get("train") or NOT_REPORTED,
        ),
        25: story.audits_in_short,
        26: Sentence(pt="Ver «Limitações»", en="See “Limitations”"),
        27: Sentence(
            pt="Apoia quem examina; não avalia o que se declara fora do que foi testado; "
            "inconclusivo pede nova gravação",
            en="Supports whoever examines; does not score what is declared to be outside of what "
            "was tested; inconclusive asks for another recording",
        ),
    }
    if main is not None:
        told[10] = told[20] = fill(
            "Teste: {present} com IR, {absent} sem",
            "Test: {present} with RI, {absent} without",
            present=main.n_present,
            absent=main.n_absent,
        )
        told[23] = fill(
            "AUROC {auroc} ({interval}); ver «Medidas»",
            "AUROC {auroc} ({interval}); see “Measures”",
            auroc=decimal(main.auroc.value),
            interval=interval(main.auroc),
        )
    return told


def ages(data: ReportInput) -> Sentence:
    """The ages the model was tested on."""
    envelope = data.envelope
    if envelope is None or envelope.age_min is None or envelope.age_max is None:
        return NOT_AVAILABLE
    return fill(
        "{low} a {high} anos", "{low} to {high} years", low=envelope.age_min, high=envelope.age_max
    )


_WIDE = 0.20  # of an interval: 71 to 100 % may be a poor model as well as a perfect one


def reading(group: Subgroup) -> Sentence:
    """How far the figures of a subgroup may be believed; it never says that they suffice."""
    if not group.sufficient:
        return Sentence(pt="insuficiente: nada prova", en="insufficient: proves nothing")
    ends = [(e.low, e.high) for e in (group.sensitivity, group.specificity)]
    if any(low is None or high is None or high - low > _WIDE for low, high in ends):
        return Sentence(pt="intervalo largo: mostra pouco", en="wide interval: shows little")
    return Sentence(pt="ver o intervalo", en="see the interval")


def slope(found: ConditionResult) -> Sentence:
    """The calibration slope with its interval, or why there is none."""
    if separates(found):
        return Sentence(
            pt="não se calcula: as respostas separam todas as pessoas",
            en="cannot be computed: the answers tell everybody apart",
        )
    value, around = decimal(found.calibration_slope.value), interval(found.calibration_slope)
    return fill("{v} ({a})", "{v} ({a})", v=value, a=around) if around.pt else value


def listed(values: tuple[str, ...], attribute: str = "") -> Sentence:
    """Values of an attribute, one after the other; not reported where there is none."""
    if not values:
        return NOT_REPORTED
    words = [value_word(attribute, value) for value in values]
    return Sentence(pt=", ".join(w.pt for w in words), en=", ".join(w.en for w in words))


# --- Markdown -------------------------------------------------------------------------------


class _Markdown(str):
    """Text that is Markdown already; everything else is escaped when a template writes it."""

    __slots__ = ()


_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&!])")
_SPACE = re.compile(r"[^\S\u00a0\u202f]+")  # a no-break space between number and unit stays


def _escaped(text: str) -> _Markdown:
    """Plain text that Markdown shows as it is, on one line."""
    return _Markdown(_SPECIAL.sub(r"\\\1", _SPACE.sub(" ", text).strip()))


def _helpers(language: Language) -> dict[str, object]:
    """What the template calls, in one language."""

    def t(pt: str, en: str, **values: object) -> _Markdown:
        filled = {name: show(value) for name, value in values.items()}
        return _Markdown((pt if language == "pt" else en).format(**filled))

    def show(value: object) -> _Markdown:
        if isinstance(value, _Markdown):
            return value
        if value is None or value == "":
            value = NOT_REPORTED
        return _escaped(spoken(value, language))

    def code(text: str) -> _Markdown:
        plain = _SPACE.sub(" ", text.replace("`", "'").replace("|", "/")).strip()
        return _Markdown(f"`{plain}`") if plain else show(NOT_REPORTED)

    def with_interval(value: Sentence, around: Sentence) -> _Markdown:
        written = spoken(value, language)
        return _escaped(f"{written} ({spoken(around, language)})" if around.pt else written)

    return {
        "t": t,
        "show": show,
        "code": code,
        "with_interval": with_interval,
        "share": lambda e: with_interval(share(e.value, 1), percent_interval(e, 1)),
        "number": lambda e: with_interval(decimal(e.value), interval(e)),
    }


def _finalized(value: object) -> object:
    if isinstance(value, _Markdown):
        return value
    raise TypeError(f"the card wrote a value that was not escaped: {value!r}")


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("spira.evaluation", "templates"),
        autoescape=False,  # Markdown: `show` and `t` escape, and _finalized lets nothing else by
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(
        word=word,
        value_word=value_word,
        decimal=decimal,
        percent=percent,
        ages=ages,
        listed=listed,
        reading=reading,
        slope=slope,
        audit_summary=audit_summary,
    )
    return environment
