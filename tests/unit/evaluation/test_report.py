import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from typing import Any

import pytest
from pydantic import BaseModel

from spira.domain.answers import EVIDENCE_SENTENCES, Envelope, Sentence
from spira.domain.label_policies import Agreement
from spira.domain.recordings import LABELS, EvidenceLevel, LabelCounts
from spira.evaluation import report
from spira.evaluation.card import render_card
from spira.evaluation.report import (
    ReportedDataset,
    ReportedGroup,
    ReportInput,
    ScoreHistogram,
    TrainingCurves,
    render_report,
    tell,
)
from spira.evaluation.results import (
    Baseline,
    ConditionResult,
    Confusion,
    Curve,
    Estimate,
    EvaluationResult,
    PredictiveValue,
)

VOID = {"meta", "link", "br", "input", "img", "hr"}
NOTHING = Estimate(value=None, n=0)


class Page(HTMLParser):
    """The parts of a page that the promises below are about."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str]]] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.mistakes: list[str] = []
        self.text = {"pt": "", "en": ""}  # what a reader of each language sees
        self.feed(html)
        self.close()
        self.mistakes += [f"{tag} is never closed" for tag, _ in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if self.open and "aria-hidden" in self.open[-1][1]:
            attributes.setdefault("aria-hidden", "true")  # a whole branch is hidden
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append((tag, attributes))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("span", "b", "strong", "em"):
            self.handle_data(" ")  # one cell, paragraph or heading after the other
        if not self.open or self.open[-1][0] != tag:
            self.mistakes.append(f"{tag} closed inside {self.open[-1:]}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if any(tag in ("style", "title") for tag, _ in self.open):
            return
        classes = {name for _, a in self.open for name in a.get("class", "").split()}
        for language, other in (("pt", "en"), ("en", "pt")):
            if other not in classes:
                self.text[language] += data

    def with_tag(self, *names: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in names]


def spoken(html: str, language: str = "pt") -> str:
    """What is read on the page, its spaces made one."""
    return " ".join(Page(html).text[language].split())


def with_result(data: ReportInput, **changes: Any) -> ReportInput:
    """The same report on a result that differs."""
    return data.model_copy(update={"result": data.result.model_copy(update=changes)})


def test_the_report_is_one_file_that_asks_for_nothing(sample_report: ReportInput) -> None:
    """No network, no font, no script: nothing is loaded, and the page forbids it too."""
    html = render_report(sample_report)
    page = Page(html)

    assert page.with_tag("link", "script", "img", "iframe", "object", "embed") == []
    assert not re.search(r"https?://|url\(|@import|@font-face", html)
    assert all(a["href"].startswith("#") for a in page.with_tag("a", "use"))
    policies = [a for a in page.with_tag("meta") if a.get("http-equiv")]
    assert policies[0]["content"].startswith("default-src 'none'")


def test_the_same_input_gives_the_same_bytes(sample_report: ReportInput) -> None:
    """No date, no host, no memory of an earlier report."""
    first = render_report(sample_report)
    report._environment.cache_clear()

    again = render_report(ReportInput.model_validate_json(sample_report.model_dump_json()))

    assert first == again


@pytest.mark.parametrize("fixture", ["sample_report", "bare_report"])
def test_markup_is_well_formed_and_accessible(fixture: str, request: pytest.FixtureRequest) -> None:
    """Tags balance, ids are unique and found, headings never skip, tables name their headers."""
    page = Page(render_report(request.getfixturevalue(fixture)))

    assert page.mistakes == []
    ids = Counter(a["id"] for _, a in page.tags if "id" in a)
    assert max(ids.values()) == 1
    named = [a[key] for _, a in page.tags for key in ("aria-labelledby",) if key in a]
    anchors = [a["href"][1:] for a in page.with_tag("a", "use")]
    assert set(named + anchors) <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all("scope" in a for a in page.with_tag("th"))
    assert page.with_tag("html")[0]["lang"] == "pt-BR"
    assert all(a["lang"] == "pt-BR" for a in page.with_tag("span") if a.get("class") == "pt")
    assert all(a["lang"] == "en" for a in page.with_tag("span") if a.get("class") == "en")
    visible = [a for a in page.with_tag("svg") if "aria-hidden" not in a]
    assert visible == []  # figures repeat what words and tables say


def test_both_languages_are_in_the_file(sample_report: ReportInput) -> None:
    """Each reader sees the whole report in one language, numbers included."""
    html = render_report(sample_report)

    assert "Relatório de avaliação" in spoken(html, "pt")
    assert "Evaluation report" not in spoken(html, "pt")
    assert "Evaluation report" in spoken(html, "en")
    assert "Relatório de avaliação" not in spoken(html, "en")
    assert "0,981" in spoken(html, "pt")
    assert "0.981" in spoken(html, "en")
    assert not re.search(r"\d,\d", spoken(html, "en").replace("0,91", "").replace("12,345", ""))


@pytest.mark.parametrize("level", list(EVIDENCE_SENTENCES))
def test_the_banner_tells_the_evidence_level(
    sample_report: ReportInput, level: EvidenceLevel
) -> None:
    """The words of the level open the page, in both languages."""
    html = render_report(sample_report.model_copy(update={"evidence_level": level}))

    for language, words in (
        ("pt", EVIDENCE_SENTENCES[level].pt),
        ("en", EVIDENCE_SENTENCES[level].en),
    ):
        assert words in spoken(html, language)[:220]


def test_an_unknown_evidence_level_forbids_use(bare_report: ReportInput) -> None:
    """Silence about the level is not permission."""
    assert "Não usar em pacientes" in spoken(render_report(bare_report))[:120]


def test_no_word_reassures(sample_report: ReportInput) -> None:
    """A diagnosis is only ever denied; nobody is called normal or healthy; nothing is ticked."""
    for data in (sample_report, sample_report.model_copy(update={"evidence_level": "cleared"})):
        html = render_report(data)
        for language in ("pt", "en"):
            text = spoken(html, language).lower()
            assert not re.search(r"\b(ab)?normal|saud[aá]ve|healthy|[✓✔✅☑]", text)
            text = re.sub(r"nunca um diagnóstico|never a diagnosis", "", text)
            assert not re.search(r"diagn[oó]s", text)
    css = files("spira.evaluation").joinpath("templates/report.css").read_text()
    assert "green" not in css


def test_the_summary_counts_people_with_the_same_answer(sample_report: ReportInput) -> None:
    """A positive predictive value of 0.40 at 10 % is 40 people of a hundred, drawn and told."""
    value = PredictiveValue(
        prevalence=0.10,
        positive=Estimate(value=0.40, low=0.31, high=0.50, n=160),
        negative=Estimate(value=0.988, low=0.97, high=0.997, n=160),
    )
    main = tell(sample_report).main
    assert main is not None
    condition = main.model_copy(update={"predictive_values": (value,)})

    html = render_report(with_result(sample_report, conditions=(condition,)))

    text = spoken(html)
    assert "40 de 100 pessoas simuladas com este resultado tinham IR" in text
    assert "entre 31 e 50 em 100 (se 10 em 100 têm IR)" in text
    assert "1 de 100 pessoas simuladas com este resultado tinham IR mesmo assim" in text
    assert "entre 0 e 3 em 100" in text
    figures = html.split('class="people"')[1:3]
    assert [part.split("</svg>")[0].count("who-present") for part in figures] == [40, 1]


def test_the_summary_is_at_ten_in_a_hundred(sample_report: ReportInput) -> None:
    """Of all prevalences the one that the sentence is written for."""
    story = tell(sample_report)

    assert [answer.prevalence for answer in story.answers] == [0.10, 0.10]
    assert story.main is not None
    assert story.answers[0].share == story.main.predictive_values[1].positive


def test_a_rare_miss_is_still_a_person(sample_report: ReportInput) -> None:
    """Two in a thousand is "fewer than 1" of a hundred, and one of them is drawn."""
    share = Estimate(value=0.998, low=0.99, high=1.0, n=160)
    main = tell(sample_report).main
    assert main is not None
    value = PredictiveValue(prevalence=0.10, positive=share, negative=share)
    condition = main.model_copy(update={"predictive_values": (value,)})

    html = render_report(with_result(sample_report, conditions=(condition,)))

    assert "mais de 99 de 100" in spoken(html)
    assert "menos de 1 de 100" in spoken(html)
    figures = html.split('class="people"')[1:3]
    assert [part.split("</svg>")[0].count("who-present") for part in figures] == [99, 1]


def test_people_are_called_simulated_where_voices_are(sample_report: ReportInput) -> None:
    """Only real voices are people without a word before."""
    real = sample_report.model_copy(update={"evidence_level": "research", "dataset": None})

    assert "pessoas simuladas" in spoken(render_report(sample_report))
    assert "pessoas simuladas" not in spoken(render_report(real))


def test_a_failed_audit_is_the_first_thing_said(sample_report: ReportInput) -> None:
    """Before any figure: what failed, in the audit's own words."""
    noise, *others = sample_report.result.audits
    failed = noise.model_copy(
        update={
            "verdict": "fail",
            "explanation": Sentence(pt="Ouve a enfermaria.", en="It hears the ward."),
        }
    )

    html = render_report(with_result(sample_report, audits=(failed, *others)))

    text = spoken(html)
    assert text.index("Auditoria reprovada:") < text.index("de 100 pessoas")
    assert text.count("Ouve a enfermaria.") == 2  # the warning and the card
    assert "Auditorias de atalhos reprovadas: 1 de 3." in text


def test_too_few_data_are_no_pass(sample_report: ReportInput) -> None:
    """The summary of the audits says so where one could not be decided."""
    assert "sem dados suficientes: 1 de 3. Isso não é aprovação." in spoken(
        render_report(sample_report)
    )


def test_all_audits_passed_is_said_with_care(sample_report: ReportInput) -> None:
    """Within the limit is all that a pass can say."""
    audits = tuple(
        audit.model_copy(update={"verdict": "pass"}) if audit.refuses else audit
        for audit in sample_report.result.audits
    )

    assert tell(with_result(sample_report, audits=audits)).audits_in_short.en.startswith(
        "Shortcut audits passed: 3 of 3. What noise, place and device tell stays within the limit"
    )


@pytest.mark.parametrize(
    ("condition", "low", "high", "answer", "warning"),
    [
        (
            "clean",
            -0.09,
            -0.01,
            "Não: uma regra simples foi melhor.",
            "Uma regra simples foi melhor que o modelo: «Tempo das pausas».",
        ),
        (
            "noise",
            -0.09,
            -0.01,
            "Não: uma regra simples foi melhor.",
            "Uma regra simples foi melhor que o modelo: «Tempo das pausas».",
        ),
        (
            "clean",
            -0.02,
            0.06,
            "Não se mostrou:",
            "seja melhor que uma regra simples: «Tempo das pausas».",
        ),
        (
            "noise",
            -0.02,
            0.06,
            "Não se mostrou:",
            "seja melhor que uma regra simples: «Tempo das pausas».",
        ),
    ],
)
def test_a_simple_rule_that_does_as_well_is_not_hidden(
    sample_report: ReportInput, condition: str, low: float, high: float, answer: str, warning: str
) -> None:
    """Under either condition; the question is answered no, and the warnings say which rule."""
    difference = Estimate(value=(low + high) / 2, low=low, high=high, n=160)
    rule = sample_report.result.baselines[0].model_copy(
        update={f"difference_{condition}": difference}
    )

    text = spoken(render_report(with_result(sample_report, baselines=(rule,))))

    assert answer in text
    assert warning in text
    assert "o modelo foi melhor que cada uma" not in text


def test_a_model_that_is_shown_to_be_better_says_so(sample_report: ReportInput) -> None:
    """Under both conditions, than each rule."""
    text = spoken(render_report(sample_report))

    assert "No teste, o modelo foi melhor que cada uma destas regras." in text


def test_the_first_figures_are_the_answers_really_given(sample_report: ReportInput) -> None:
    """All three, of people with RI and without, clean and with noise, as they were counted."""
    counted = {
        "present_positive": 72,
        "present_inconclusive": 8,
        "present_negative": 0,
        "absent_positive": 4,
        "absent_inconclusive": 16,
        "absent_negative": 60,
    }
    conditions = tuple(
        found.model_copy(update={"confusion": Confusion(**counted)})
        if (found.condition, found.level) == ("clean", "participant")
        else found
        for found in sample_report.result.conditions
    )

    text = spoken(render_report(with_result(sample_report, conditions=conditions)))

    ill = text.index(
        "Sem ruído: indício em 90 (entre 81 e 96), inconclusivo em 10 (entre 4 e 19), "
        "sem indício em menos de 1 (entre 0 e 5)."
    )
    well = text.index(
        "Sem ruído: indício em 5 (entre 1 e 13), inconclusivo em 20 (entre 11 e 31), "
        "sem indício em 75 (entre 64 e 85)."
    )
    assert ill < well < text.index("de 100 pessoas simuladas com este resultado")
    assert text.count("Com ruído de enfermaria: indício em") == 2
    assert "deixou passar" not in text
    assert text.index("como se não houvesse faixa inconclusiva") > well


def perfect(data: ReportInput) -> ReportInput:
    """A model that was right about everybody."""
    share = Estimate(value=1.0, low=0.955, high=1.0, n=80)
    value = PredictiveValue(prevalence=0.10, positive=share, negative=share)
    conditions = tuple(
        found.model_copy(
            update=dict.fromkeys(("sensitivity", "specificity", "balanced_accuracy"), share)
            | {
                "predictive_values": (value,),
                "calibration_slope": NOTHING,
                "confusion": Confusion(
                    present_positive=80,
                    present_inconclusive=0,
                    present_negative=0,
                    absent_positive=0,
                    absent_inconclusive=0,
                    absent_negative=80,
                ),
            }
        )
        for found in data.result.conditions
    )
    return with_result(data, conditions=conditions, subgroups=())


def test_no_share_of_people_is_nobody_or_everybody(sample_report: ReportInput) -> None:
    """Nobody of eighty was missed, and that is not nobody of a hundred; counts stay counts."""
    html = render_report(perfect(sample_report)).split('id="data"')[0]

    shares = re.findall(r'class="(?:v|ci)"><span class="pt"[^>]*>([^<]*)</span>', html)
    assert len(shares) > 20
    assert not [share for share in shares if re.fullmatch(r"(0|100)(,0)?\s?%", share)]
    text = spoken(html)
    assert "95,5 a 100,0 %" in text
    assert "80 mais de 99 %" in text  # eighty people, counted
    assert "indício em mais de 99 (entre 95 e 100)" in text


def test_a_missing_slope_says_why(sample_report: ReportInput) -> None:
    """Answers that tell everybody apart have no slope of most likelihood."""
    assert "não se calcula: as respostas separam todas as pessoas" in spoken(
        render_report(perfect(sample_report))
    )


def test_an_answer_that_was_never_given_is_said_to_be_so(sample_report: ReportInput) -> None:
    """Not "not available": there were people, and none of them got it."""
    main = tell(sample_report).main
    assert main is not None
    known = Estimate(value=0.9, low=0.8, high=0.95, n=160)
    value = PredictiveValue(prevalence=0.10, positive=Estimate(value=None, n=160), negative=known)
    condition = main.model_copy(update={"predictive_values": (value,)})

    text = spoken(render_report(with_result(sample_report, conditions=(condition,))))

    assert "No teste o modelo nunca deu esta resposta" in text


def test_a_level_that_tells_people_apart_is_a_warning(sample_report: ReportInput) -> None:
    """Sure above 0.65 it is said before the figures; else it is not."""
    loud = tuple(
        audit.model_copy(update={"estimate": Estimate(value=0.8, low=0.73, high=0.87, n=160)})
        if audit.name == "level"
        else audit
        for audit in sample_report.result.audits
    )

    text = spoken(render_report(with_result(sample_report, audits=loud)))

    said = "O volume da fala sozinho já separa as pessoas: AUROC 0,80 (0,73 a 0,87)."
    assert said in text
    assert "a distância e o ganho do microfone" in text
    assert "O volume da fala sozinho" not in spoken(render_report(sample_report))


@pytest.mark.parametrize(("recordings", "warned"), [(2, True), (3, False), (None, False)])
def test_figures_that_rest_on_few_recordings_of_noise_are_a_warning(
    sample_report: ReportInput, recordings: int | None, warned: bool
) -> None:
    """One or two of a side are those recordings, not noise."""
    *others, test = sample_report.split
    split = (*others, test.model_copy(update={"noise_recordings": recordings}))

    text = spoken(render_report(sample_report.model_copy(update={"split": split})))

    assert ("Gravações de ruído no lado «teste»: só 2." in text) is warned


def test_no_refusals_and_unknown_refusals_are_two_things(sample_report: ReportInput) -> None:
    """None where it is known that there are none."""
    assert sample_report.dataset is not None

    def told(refusals: dict[str, LabelCounts] | None) -> str:
        dataset = sample_report.dataset.model_copy(  # type: ignore[union-attr]
            update={"refusals": refusals, "findings": {}}
        )
        text = spoken(render_report(sample_report.model_copy(update={"dataset": dataset})))
        return text[text.index("Gravações recusadas") : text.index("Divisão")]

    assert told({}).count("Nenhuma.") == 2
    assert told(None).count("Nenhuma.") == 1
    assert "não informado" in told(None)


def test_every_chart_has_its_numbers_in_words(sample_report: ReportInput) -> None:
    """What a chart draws stands in a table too (WCAG 1.1.1): bins, scores, losses."""
    html = render_report(sample_report)

    tables = [spoken(part.split("</details>")[0]) for part in html.split('class="numbers"')[1:]]
    assert len(tables) == 3
    calibration, scores, losses = tables
    assert calibration.count(" sem ruído ") == 10
    assert calibration.count(" com ruído ") == 10
    assert "0,95 a 1,00" in scores
    assert re.search(r" 36 \d,\d{3} \d,\d{3} ", losses + " ")  # the epoch that was kept


def test_an_experiments_own_words_are_of_no_language_of_the_page(
    sample_report: ReportInput,
) -> None:
    """A screen reader does not read them in the page's: nobody said which language they are in."""
    changed = sample_report.model_copy(update={"experiment_description": "Rede compacta"})

    assert 'lang="">Rede compacta<' in render_report(changed)


def test_a_model_that_nothing_was_compared_with_is_not_called_better(
    sample_report: ReportInput,
) -> None:
    """One person of a class gives no interval: neither better nor worse was shown."""
    result = sample_report.result
    alone = tuple(
        baseline.model_copy(update={"difference_clean": NOTHING, "difference_noise": NOTHING})
        for baseline in result.baselines
    )
    changed = sample_report.model_copy(
        update={"result": result.model_copy(update={"baselines": alone})}
    )

    assert "foi melhor que cada uma" not in render_report(changed)


def test_unproven_disjointness_is_a_warning(sample_report: ReportInput) -> None:
    """One file a participant proves nothing about who is in training."""
    text = spoken(render_report(with_result(sample_report, participants_disjoint="unproven")))

    assert "Não está provado que as pessoas do teste sejam outras" in text
    assert "teste separado do treino: não provado" in text
    assert "Ninguém está em dois lados" not in text


def test_a_gate_that_refuses_patients_more_often_is_seen(sample_report: ReportInput) -> None:
    """Refused recordings are compared by label, as shares of what came."""
    assert sample_report.dataset is not None
    everybody = ReportedGroup(
        attribute="all",
        people=LabelCounts(present=90, absent=99),
        recordings=LabelCounts(present=90, absent=99),
    )
    refusals = {
        "zeros": LabelCounts(present=7, absent=1),
        "duplicate": LabelCounts(present=3),
    }
    dataset = sample_report.dataset.model_copy(
        update={"groups": (everybody,), "refusals": refusals}
    )
    fair_dataset = dataset.model_copy(
        update={"refusals": {"zeros": LabelCounts(present=1, absent=10)}}
    )

    text = spoken(render_report(sample_report.model_copy(update={"dataset": dataset})))
    fair_text = spoken(render_report(sample_report.model_copy(update={"dataset": fair_dataset})))

    assert "mais gravações de pessoas com IR (10,0 %) que sem IR (1,0 %)" in text
    assert "Foram recusadas mais gravações" not in fair_text


def test_small_subgroups_say_they_prove_nothing(sample_report: ReportInput) -> None:
    """The word stands beside the figure, the ring is open, and the summary counts them."""
    html = render_report(sample_report)

    assert spoken(html).count("insuficiente") >= 2
    assert "Em 1 de 12 subgrupos" in spoken(html)
    row = html.split("75 anos ou mais")[1].split("</tr>")[0]
    assert row.count("hollow") >= 2


def test_verdicts_are_words_and_shapes(sample_report: ReportInput) -> None:
    """Every verdict has its word and an icon of its own, before any colour."""
    html = render_report(sample_report)

    chips = re.findall(r'<span class="verdict (\w+)">(.*?)</span></span>', html, re.S)
    assert {kind for kind, _ in chips} == {"pass", "open"}
    assert all(f'href="#i-{kind}"' in chip for kind, chip in chips)
    assert all("aprovada" in chip for kind, chip in chips if kind == "pass")


@pytest.mark.parametrize(("value", "bound", "at"), [(0.58, 0.64, "64%"), (0.42, 0.64, "36%")])
def test_the_background_bound_points_where_the_estimate_does(
    sample_report: ReportInput, value: float, bound: float, at: str
) -> None:
    """An AUROC below chance is a shortcut turned round: its bound lies on the other side."""
    background = sample_report.result.audits[1].model_copy(
        update={"estimate": Estimate(value=value, low=value - 0.05, high=value + 0.05, n=160)}
        | {"bound": bound}
    )

    html = render_report(with_result(sample_report, audits=(background,)))

    card = html.split('class="card audit"')[1]
    assert re.findall(r'<svg x="([^"]+)" y="0" class="at">', card) == [at]
    assert re.findall(r'class="limit" x1="([^"]+)"', card) == ["35%", "65%"]


def test_a_loss_of_sensitivity_is_drawn_as_a_loss(sample_report: ReportInput) -> None:
    """The bound of a negative change lies to the left, and both limits are drawn."""
    noise = sample_report.result.audits[0]

    html = render_report(with_result(sample_report, audits=(noise,)))

    parts = html.split('class="part"')[1:]
    gain, loss = (float(re.search(r'<svg x="([\d.]+)%"', p).group(1)) for p in parts)  # type: ignore[union-attr]
    assert loss < 50 < gain
    assert "−2,5 p.p." in spoken(html)


OPTIONAL = [
    "evidence_level",
    "envelope",
    "dataset",
    "curves",
    "scores",
]


@pytest.mark.parametrize("piece", OPTIONAL)
def test_any_piece_may_be_missing(sample_report: ReportInput, piece: str) -> None:
    """The report is made, and says that the piece is not known."""
    html = render_report(sample_report.model_copy(update={piece: None}))

    assert re.search("não informad|[Nn]ão disponível", spoken(html))
    assert not re.search(r"\bNone\b|\bnan\b|Undefined", spoken(html))


def test_a_report_on_nothing_is_still_a_report(bare_report: ReportInput) -> None:
    """No condition, no audit, no dataset: every section is there and says so."""
    html = render_report(bare_report)

    for language in ("pt", "en"):
        assert not re.search(r"\bNone\b|\bnan\b|Undefined", spoken(html, language))
    assert html.count("Não disponível.") >= 8
    assert "Nenhuma auditoria de atalhos foi feita" in spoken(html)


def empty_condition() -> ConditionResult:
    """A condition in which nobody was tested."""
    fields = ("sensitivity", "specificity", "balanced_accuracy", "auroc", "brier", "inconclusive")
    calibration = ("calibration_slope", "calibration_intercept", "calibration_error")
    return ConditionResult.model_validate(
        dict.fromkeys((*fields, *calibration), NOTHING)
        | {
            "condition": "noise",
            "level": "recording",
            "n_present": 0,
            "n_absent": 0,
            "calibration_bins": (),
            "confusion": Confusion(
                present_positive=0,
                present_inconclusive=0,
                present_negative=0,
                absent_positive=0,
                absent_inconclusive=0,
                absent_negative=0,
            ),
            "roc": Curve(x=(), y=()),
            "predictive_values": (
                PredictiveValue(prevalence=0.1, positive=NOTHING, negative=NOTHING),
            ),
        }
    )


def test_figures_that_cannot_be_computed_are_not_available(sample_report: ReportInput) -> None:
    """Nobody tested, nothing measured, every estimate None: words, never an error or a zero."""
    result = sample_report.result
    hollow = EvaluationResult(
        operating_point=result.operating_point,
        evaluated="test",
        participants_disjoint="proven",
        conditions=(empty_condition(),),
        subgroups=tuple(
            group.model_copy(
                update={
                    "n_present": 0,
                    "n_absent": 0,
                    "sensitivity": NOTHING,
                    "specificity": NOTHING,
                    "auroc": NOTHING,
                    "sufficient": False,
                }
            )
            for group in result.subgroups
        ),
        audits=tuple(
            audit.model_copy(
                update={
                    "estimate": NOTHING,
                    "bound": None,
                    "verdict": "not enough data" if audit.refuses else None,
                    "parts": tuple(
                        part.model_copy(update={"estimate": NOTHING, "bound": None})
                        for part in audit.parts
                    ),
                }
            )
            for audit in result.audits
        ),
        baselines=tuple(
            baseline.model_copy(
                update=dict.fromkeys(
                    ("auroc_clean", "auroc_noise", "difference_clean", "difference_noise"), NOTHING
                )
            )
            for baseline in result.baselines
        ),
    )
    data = sample_report.model_copy(
        update={
            "result": hollow,
            "curves": TrainingCurves(epoch=(), train_loss=(), validation_loss=()),
            "scores": ScoreHistogram(edges=(0.0, 1.0), present=(), absent=()),
            "dataset": ReportedDataset(
                groups=(
                    ReportedGroup(attribute="all", people=LabelCounts(), recordings=LabelCounts()),
                )
            ),
            "envelope": Envelope(utterances=(), languages=()),
        }
    )

    html = render_report(data)

    assert Page(html).mistakes == []
    assert not re.search(r"\bNone\b|\bnan\b", spoken(html))
    assert spoken(html).count("não disponível") > 20


def test_a_diverged_training_is_drawn_with_a_gap() -> None:
    """NaN and infinity come out of real trainings; a report is then wanted most."""
    curves = TrainingCurves(
        epoch=(1, 2, 3),
        train_loss=(0.7, float("nan"), float("inf")),
        validation_loss=(0.7, None, 0.6),
    )

    assert curves.train_loss == (0.7, None, None)


HOSTILE = "</style><script>alert('x')</script>\"><img src=x onerror=alert(1)>{{7*7}}&|`"


def hostile(data: Any) -> Any:
    """Every free string replaced by one that would like to be markup."""
    if isinstance(data, Sentence):
        return Sentence(pt=HOSTILE, en=HOSTILE)
    if isinstance(data, tuple):
        return tuple(hostile(item) for item in data)
    if isinstance(data, dict):
        return {HOSTILE + key: hostile(value) for key, value in data.items()}
    if isinstance(data, BaseModel):
        free = {"value", "name", "digest", "language", "method", "statistic", "aim", "condition"}
        free |= {"experiment_name", "experiment_description", "experiment_yaml"}
        changes = {}
        for field in type(data).model_fields:
            found = getattr(data, field)
            keeps = field == "condition" and isinstance(data, ConditionResult | ScoreHistogram)
            changes[field] = (
                HOSTILE
                if field in free and isinstance(found, str) and not keeps
                else hostile(found)
            )
        return data.model_copy(update=changes)
    return HOSTILE if isinstance(data, str) and len(data) == 64 else data


def test_no_string_of_the_data_becomes_markup(sample_report: ReportInput) -> None:
    """A dataset may be named anything; the page shows the name and runs nothing."""
    page = Page(render_report(hostile(sample_report)))

    assert page.mistakes == []
    assert page.with_tag("script", "img") == []
    assert not [a for _, a in page.tags if any(key.startswith("on") for key in a)]
    assert "<script>alert('x')</script>" in page.text["pt"]
    assert "{{7*7}}" in page.text["pt"]


def test_counts_of_the_data_are_all_there(sample_report: ReportInput) -> None:
    """By sex, age, site and device; refused and findings by label; the split; the lineage."""
    text = spoken(render_report(sample_report))

    for words in (
        "feminino Pessoas com IR 80 Pessoas sem IR 86 Gravações 168 Recusadas 2",
        "hospital-c Pessoas com IR 40 Pessoas sem IR 40 Gravações 82 Recusadas 1",
        "áudio repetido com IR 1 sem IR 1",
        "muito barulho com IR 12 sem IR 11",
        "validação Pessoas com IR 20 Pessoas sem IR 20 Gravações 40 Ruído 7",
        "5f2b" * 16,
        "torch 2.13.0",
        "name: demo",
    ):
        assert words in text


def test_where_a_policy_labelled_it_the_report_says_how_often_another_one_differs(
    sample_report: ReportInput,
) -> None:
    """On the page and in the card."""
    assert sample_report.dataset is not None
    counts = {"present": {"present": 3, "absent": 1}, "absent": {"unknown": 2, "absent": 5}}
    zeros: dict[str, dict[str, int]] = {one: dict.fromkeys(LABELS, 0) for one in LABELS}
    agreement = Agreement.model_validate(
        {
            "first": "ri-v1",
            "second": "spo2-v1",
            "counts": {one: zeros[one] | counts.get(one, {}) for one in LABELS},
        }
    )
    labelled = sample_report.dataset.model_copy(
        update={"label_policy": "ri-v1", "agreement": agreement}
    )

    told = sample_report.model_copy(update={"dataset": labelled})

    for text in (render_report(told), render_card(told)):
        assert "ri-v1 e spo2-v1 discordam em 3 de 11 visitas" in text
        assert "ri-v1 and spo2-v1 disagree on 3 of 11 visits" in text
    assert "discordam em" not in render_report(sample_report)


def test_unlabelled_people_get_a_column_only_where_there_are_any(
    sample_report: ReportInput,
) -> None:
    """A column of zeros is noise; a missing column of people would be a lie."""
    assert sample_report.dataset is not None
    dataset = sample_report.dataset.model_copy(
        update={"findings": {"quiet": LabelCounts(present=1, absent=2, unknown=3)}}
    )

    assert "sem rótulo" not in spoken(render_report(sample_report))
    assert "som baixo com IR 1 sem IR 2 sem rótulo 3" in spoken(
        render_report(sample_report.model_copy(update={"dataset": dataset}))
    )


def test_baselines_without_noise_are_not_available(sample_report: ReportInput) -> None:
    """Where only the clean condition was tested, the noisy column says so."""
    clean = tuple(c for c in sample_report.result.conditions if c.condition == "clean")
    baseline = Baseline(
        name="timing",
        title=Sentence(pt="Pausas", en="Pauses"),
        auroc_clean=Estimate(value=0.9, low=0.8, high=0.95, n=160),
        auroc_noise=NOTHING,
        difference_clean=Estimate(value=0.08, low=0.03, high=0.13, n=160),
        difference_noise=NOTHING,
        explanation=Sentence(pt="Perto.", en="Close."),
    )

    text = spoken(
        render_report(with_result(sample_report, conditions=clean, baselines=(baseline,)))
    )

    assert re.search(
        r"Pausas o modelo é melhor sem ruído 0,900 0,800 a 0,950 "
        r"modelo menos regra: \+0,080 \(\+0,030 a \+0,130\) com ruído não disponível",
        text,
    )


def palette(css: str, block: str) -> dict[str, str]:
    """The colours of one `:root` block."""
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


TEXT: list[tuple[str, str]] = [
    *[(ink, ground) for ink in ("ink", "soft", "blue", "rust") for ground in ("paper", "card")],
    ("blue", "blue-tint"),
    ("rust", "rust-tint"),
    ("ink", "rust-tint"),
    ("banner-ink", "banner"),
    ("paper", "ink"),
]
MARKS: list[tuple[str, str]] = [
    *[(mark, ground) for mark in ("mark", "ochre") for ground in ("paper", "card")],
    ("ink", "blue-tint"),
    ("mark", "blue-tint"),
]


def test_colours_keep_their_contrast_in_light_dark_and_print() -> None:
    """4.5:1 for text, 3:1 for marks (WCAG 2.2 AA)."""
    css = files("spira.evaluation").joinpath("templates/report.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.S)
    assert len(blocks) == 3
    light = palette(css, blocks[0])
    lacking = [
        (number, pair, round(contrast(colours[pair[0]], colours[pair[1]]), 2))
        for number, block in enumerate(blocks)
        for colours in [light | palette(css, block)]
        for pairs, least in ((TEXT, 4.5), (MARKS, 3.0))
        for pair in pairs
        if contrast(colours[pair[0]], colours[pair[1]]) < least
    ]

    assert lacking == []


@pytest.mark.parametrize("language", ["pt", "en"])
def test_no_sentence_is_left_untranslated(
    sample_report: ReportInput, language: str, request: pytest.FixtureRequest
) -> None:
    """Words of one language do not stray into the other."""
    telltale: dict[str, Callable[[str], Any]] = {
        "en": re.compile(r"\b(pessoas|não|com|gravações|ruído|linhagem)\b", re.I).findall,
        "pt": re.compile(r"\b(people|with|without|recordings|audits|the|of)\b", re.I).findall,
    }
    data = sample_report.model_copy(update={"experiment_description": ""})

    assert telltale[language](spoken(render_report(data), language)) == []
