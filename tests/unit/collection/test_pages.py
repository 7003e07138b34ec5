"""The page of a study's balance: whole, in both languages, and nothing in it from anywhere else."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import polars as pl
import pytest

from spira.collection.balance import weigh
from spira.collection.pages import render_balance
from spira.domain.studies import Study

MakeVisits = Callable[[Sequence[dict[str, Any]]], pl.DataFrame]
NOW = datetime(2026, 11, 26, 6, 0, tzinfo=UTC)


@pytest.fixture
def visits(make_visits: MakeVisits) -> pl.DataFrame:
    """A device that goes with the label, and a name that is markup."""
    return make_visits(
        [
            {"n": 25, "label": "present", "device": "<b>phone</b>"},
            {"n": 5, "label": "present", "site": "site-2"},
            {"n": 28, "label": "absent", "device": "tablet"},
            {"n": 4, "label": "absent", "sex": "male", "age": 30},
        ]
    )


class Text(HTMLParser):
    """The words of a page in one language, and the tags it has."""

    def __init__(self, language: str) -> None:
        super().__init__()
        self.other = {"pt": "en", "en": "pt"}[language]
        self.hidden: list[bool] = []
        self.words: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "span" or self.hidden:
            classes = (dict(attrs).get("class") or "").split()
            if tag not in ("br", "img", "meta", "input"):
                self.hidden.append(any(self.hidden) or (tag == "span" and self.other in classes))

    def handle_endtag(self, tag: str) -> None:
        if self.hidden:
            self.hidden.pop()

    def handle_data(self, data: str) -> None:
        if not any(self.hidden):
            self.words.append(data)


def read(page: str, language: str) -> Text:
    """What somebody reads in a language."""
    text = Text(language)
    text.feed(page)
    return text


def test_the_page_holds_everything_and_loads_nothing(default: Study, visits: pl.DataFrame) -> None:
    """No script, no address, no name of a person; the same input gives the same bytes."""
    balance = weigh(default, visits, "ri-v1")
    page = render_balance(default, balance, at=NOW)

    assert page.startswith("<!DOCTYPE html>")
    assert read(page, "pt").tags.isdisjoint({"script", "img", "link", "iframe"})
    assert not re.search(r"https?:|url\(|@import", page)
    assert "p-1" not in page  # no pseudonym either
    assert "<b>phone</b>" not in page
    assert render_balance(default, balance, at=NOW) == page


@pytest.mark.parametrize(
    ("language", "said"),
    [
        (
            "pt",
            [
                "Não mostre a quem grava",
                "sem rótulo, por ri-v1",
                "só aceita dados sintéticos",
                "Aparelho: acompanha o rótulo.",
                "Use os mesmos aparelhos com os dois grupos.",
                "Hoje, procure: mulheres de 18 a 39 anos, Enfermaria A.",
                "<b>phone</b>",
                "25 com, 0 sem IR",
                "5 de 5",
                "0 de 5",
            ],
        ),
        (
            "en",
            [
                "Do not show it to whoever records",
                "unlabelled, by ri-v1",
                "synthetic data only",
                "Device: goes with the label.",
                "Use the same devices with both groups.",
                "Today, look for: women aged 18 to 39, Ward A.",
                "25 with, 0 without RI",
                "0 of 5",
            ],
        ),
    ],
)
def test_the_page_says_what_is_missing_and_what_goes_with_the_label(
    default: Study, visits: pl.DataFrame, language: str, said: list[str]
) -> None:
    """In words, with figures beside every bar and a word beside every colour."""
    page = render_balance(default, weigh(default, visits, "ri-v1"), at=NOW)
    text = " ".join(" ".join(read(page, language).words).split())

    for part in said:
        assert part in text, part


def test_each_verdict_has_a_shape_and_a_word(default: Study, visits: pl.DataFrame) -> None:
    """Colour is not what tells them apart."""
    page = render_balance(default, weigh(default, visits, "ri-v1"), at=NOW)
    verdicts = re.findall(r'<span class="verdict (\w+)"><svg[^>]*><use href="#(i-\w+)"', page)

    assert {shape for shape, _ in verdicts} == {"fail", "pass"}
    assert all(icon == f"i-{shape}" for shape, icon in verdicts)


def test_a_study_that_has_nothing_yet_has_a_page(default: Study, make_visits: MakeVisits) -> None:
    """Without visits, and without targets."""
    bare = Study.model_validate(default.model_dump() | {"targets": ()})

    for study in (default, bare):
        page = render_balance(study, weigh(study, make_visits([]), "ri-v1"), at=NOW)
        assert "dados insuficientes" in page
    assert "O estudo não tem metas." in page
