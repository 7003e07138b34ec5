import re

import pytest
from markdown_it import MarkdownIt

from spira.domain.answers import EVIDENCE_SENTENCES, Envelope
from spira.evaluation.card import reading, render_card, tripod_items
from spira.evaluation.report import ReportInput
from spira.evaluation.results import Estimate

HOSTILE = "<script>alert(1)</script> | `x` **y** [z](javascript:w)\n\n# title"


def html_of(card: str) -> str:
    """The card as a Markdown reader with tables shows it; HTML in it would stay HTML."""
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(card))


def test_the_card_is_portuguese_first_and_then_english(sample_report: ReportInput) -> None:
    """Both halves open with the evidence level in their own words."""
    card = render_card(sample_report)

    first, second = card.split("# Model card")
    assert first.startswith("# Cartão do modelo: demo")
    assert EVIDENCE_SENTENCES["synthetic"].pt in first
    assert EVIDENCE_SENTENCES["synthetic"].en in second
    assert "0,981" in first
    assert "0.981" in second


def test_the_same_input_gives_the_same_card(sample_report: ReportInput) -> None:
    """No date and no order of memory."""
    again = ReportInput.model_validate_json(sample_report.model_dump_json())

    assert render_card(sample_report) == render_card(again)


@pytest.mark.parametrize("fixture", ["sample_report", "bare_report"])
def test_all_27_items_of_tripod_ai_are_there(fixture: str, request: pytest.FixtureRequest) -> None:
    """An item without an answer says «não informado» rather than being left out."""
    data: ReportInput = request.getfixturevalue(fixture)

    items = tripod_items(data)

    assert [item.number for item in items] == list(range(1, 28))
    assert all(item.told.pt and item.told.en for item in items)
    html = html_of(render_card(data))
    for language, title in (("pt", "Participação de pacientes e público"), ("en", "Title")):
        assert f"<td>{title}</td>" in html, language
    unknown = {item.number for item in items if item.told.pt == "não informado"}
    assert {3, 19, 24} <= unknown
    assert (1 in unknown) == (fixture == "bare_report")


def test_every_row_of_every_table_has_its_columns(sample_report: ReportInput) -> None:
    """A pipe in a value would move a figure under another heading."""
    hostile = sample_report.model_copy(
        update={"lineage": {"a|b": "c|d"}, "experiment_name": HOSTILE}
    )

    for table in re.findall(r"<table>(.*?)</table>", html_of(render_card(hostile)), re.S):
        widths = {row.count("<td") + row.count("<th>") for row in table.split("</tr>")[:-1]}
        assert len(widths) == 1


def test_no_string_of_the_data_becomes_markup(sample_report: ReportInput) -> None:
    """Names are shown as they are: no HTML, no link, no heading, no emphasis."""
    assert sample_report.dataset is not None
    hostile = sample_report.model_copy(
        update={
            "experiment_name": HOSTILE,
            "experiment_description": HOSTILE,
            "dataset": sample_report.dataset.model_copy(
                update={"digest": HOSTILE, "language": HOSTILE}
            ),
            "envelope": Envelope(utterances=(HOSTILE,), languages=(HOSTILE,), sites=(HOSTILE,)),
            "lineage": {HOSTILE: HOSTILE},
        }
    )

    html = html_of(render_card(hostile))

    assert "<script>" not in html
    assert "<a " not in html
    assert "<h1>title" not in html
    assert "<strong>y</strong>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_a_card_on_nothing_is_still_a_card(bare_report: ReportInput) -> None:
    """Every section is there and says what is not known."""
    card = render_card(bare_report)

    assert "None" not in card
    assert "Não usar em pacientes" in card
    assert card.count("\n## ") == 2 * 9
    assert card.count("não informado") > 12


def test_no_subgroup_is_ever_enough(sample_report: ReportInput) -> None:
    """Eleven people and an interval of 71 to 100 % show little; narrow ones are to be looked at."""
    group = sample_report.result.subgroups[0]
    share = Estimate(value=1.0, low=0.715, high=1.0, n=11)
    narrow = Estimate(value=0.93, low=0.85, high=0.98, n=80)
    few = group.model_copy(update={"sensitivity": share, "sufficient": True})
    some = group.model_copy(
        update={"sensitivity": narrow, "specificity": narrow, "sufficient": True}
    )
    none = group.model_copy(update={"sufficient": False})

    assert reading(few).pt == "intervalo largo: mostra pouco"
    assert reading(some).pt == "ver o intervalo"
    assert reading(none).pt == "insuficiente: nada prova"
    assert not re.search(r"bastam|\benough\b(?! data)", render_card(sample_report))


def test_the_card_tells_calibration_and_balanced_accuracy(sample_report: ReportInput) -> None:
    """Slope and intercept with intervals, or why there is no slope."""
    nothing = Estimate(value=None, n=160)
    conditions = tuple(
        found.model_copy(update={"calibration_slope": nothing})
        for found in sample_report.result.conditions
    )
    result = sample_report.result.model_copy(update={"conditions": conditions})

    card = render_card(sample_report)
    separated = render_card(sample_report.model_copy(update={"result": result}))

    assert "| Acurácia balanceada |" in card
    assert "1,120 (0,840 a 1,400)" in card
    assert "−0,070 (−0,380 a 0,240)" in card
    assert "não se calcula: as respostas separam todas as pessoas" in separated


def test_the_card_promises_no_more_than_is_declared(sample_report: ReportInput) -> None:
    """What nobody declares cannot be checked, and the card says so in both languages."""
    card = render_card(sample_report)

    assert "o que ninguém declara ele supõe igual ao teste" in card
    assert "what nobody declares it takes to be as in the test" in card
    assert "não responde" not in card


def test_a_synthetic_model_is_out_of_scope_for_patients(sample_report: ReportInput) -> None:
    """Its card says that it only demonstrates; a research model's does not."""
    research = sample_report.model_copy(update={"evidence_level": "research", "dataset": None})

    assert "Qualquer uso com pacientes." in render_card(sample_report)
    assert "Qualquer uso com pacientes." not in render_card(research)


def test_audits_that_never_refuse_have_no_limit(sample_report: ReportInput) -> None:
    """Physiology is reported, and the table says that nothing depends on it."""
    card = render_card(sample_report)

    row = next(line for line in card.splitlines() if line.startswith("| Nível do som"))
    assert row.endswith("| sem limite | sem limite | só informada |")


def test_no_word_reassures(sample_report: ReportInput) -> None:
    """A diagnosis is only ever denied; nobody is called normal or healthy; nothing is ticked."""
    text = render_card(sample_report).lower()

    assert not re.search(r"\b(ab)?normal|saud[aá]ve|healthy|[✓✔✅☑]", text)
    assert not re.search(r"diagn[oó]s", re.sub(r"nunca um diagnóstico|never a diagnosis", "", text))
