"""The report in a real browser: what readers see, on a screen, a phone and paper.

The balance of a study looks like it, and is held to what holds for any page.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from chromium import ARGUMENTS, CHROMIUM
from samples import samples

from spira.collection.balance import VISITS, weigh
from spira.collection.pages import render_balance
from spira.collection.studies import default_study
from spira.documents import parse_document
from spira.domain.studies import Study
from spira.evaluation.report import ReportInput, render_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a report on the sample evaluation, on disk."""
    make = samples()
    data: ReportInput = make.make_report(make.make_result())
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(data), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def balance(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of the balance of a study, which has the report's style sheet."""
    study = parse_document(default_study(), Study, where="default", words=True)
    person = {"sex": "female", "age": 65, "site": "site-1", "noise_floor_dbfs": -50.0, "hour": 9}
    visits = pl.DataFrame(
        [
            person | {"person": str(n), "label": label, "device": f"phone-{label}", "age": 18 + n}
            for n, label in enumerate(["present", "absent"] * 30)
        ],
        schema=dict(VISITS),
    )
    path = tmp_path_factory.mktemp("balance") / "balance.html"
    page = render_balance(
        study, weigh(study, visits, "ri-v1"), at=datetime(2026, 11, 26, tzinfo=UTC)
    )
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module", params=["report", "balance"])
def address(request: pytest.FixtureRequest) -> str:
    """Each of the pages."""
    of_page: str = request.getfixturevalue(request.param)
    return of_page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One headless Chromium for all tests here."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


def test_the_page_loads_nothing_and_complains_of_nothing(browser: Any, address: str) -> None:
    """One request, for the file itself; no console message, no error."""
    page = browser.new_page()
    requests: list[str] = []
    messages: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))

    page.goto(address)

    assert requests == [address]
    assert messages == []
    page.close()


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
@pytest.mark.parametrize("language", ["pt", "en"])
def test_nothing_is_cut_off_at_any_width(
    browser: Any, address: str, width: int, language: str
) -> None:
    """No sideways scrolling of the page, and no table that needs it on a phone."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(address)
    page.check(f"#language-{language}", force=True)

    wide = page.evaluate(
        """() => [...document.querySelectorAll('html, .scroll, .card')]
             .filter(e => e.scrollWidth > e.clientWidth + 1)
             .map(e => e.tagName + ' ' + e.className + ' ' + e.textContent.trim().slice(0, 40))"""
    )

    assert wide == []
    page.close()


@pytest.mark.parametrize("width", [320, 1280])
def test_a_dot_at_the_end_of_its_scale_is_drawn_whole(
    browser: Any, report: str, width: int
) -> None:
    """A figure of 0 or 1 keeps both its halves: nothing that scrolls or clips cuts them off."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(report)

    cut = page.evaluate(
        """() => {
          const dots = [...document.querySelectorAll('.strip circle')]
            .filter(e => e.checkVisibility());
          dots.forEach(e => e.setAttribute('cx', '100%'));  // the worst place
          return [dots.length, dots.filter(e => {
            const dot = e.getBoundingClientRect();
            const frame = e.closest('td, .part, .audit').getBoundingClientRect();
            return dot.right > frame.right + 0.5 || dot.left < frame.left - 0.5;
          }).length];
        }"""
    )

    assert cut[0] > 20
    assert cut[1] == 0
    page.close()


def test_one_language_is_seen_at_a_time_without_script(browser: Any, report: str) -> None:
    """The two buttons work by keyboard, with scripts switched off."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report)
    seen = page.inner_text("main")
    assert "Em resumo" in seen
    assert "In short" not in seen

    page.focus("#language-pt")
    page.keyboard.press("ArrowRight")

    seen = page.inner_text("main")
    assert "In short" in seen
    assert "Em resumo" not in seen
    assert "Auditorias de atalhos" not in seen
    context.close()


def test_paper_shows_all_and_navigates_nowhere(browser: Any, report: str) -> None:
    """In print the experiment is unfolded, and buttons and contents are gone."""
    page = browser.new_page()
    page.goto(report)

    page.emulate_media(media="print")

    assert not page.is_visible("nav.contents")
    assert not page.is_visible(".language")
    assert page.evaluate("document.querySelector('details pre').getBoundingClientRect().height") > 0
    assert page.is_visible(".banner")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(browser: Any, address: str, scheme: str) -> None:
    """Every visible word has a contrast of 4.5:1 with its background (WCAG 2.2 AA)."""
    page = browser.new_page(color_scheme=scheme)
    page.goto(address)

    faint = page.evaluate(
        """() => {
          const rgb = text => text.match(/[\\d.]+/g).map(Number);
          const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
            .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
          const behind = e => {
            for (; e; e = e.parentElement) {
              const colour = rgb(getComputedStyle(e).backgroundColor);
              if (colour.length < 4 || colour[3] > 0) return colour;
            }
            return [255, 255, 255];
          };
          const found = [];
          for (const e of document.querySelectorAll('body *')) {
            const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
            if (!own || !e.checkVisibility()) continue;
            const style = getComputedStyle(e);
            const colour = e instanceof SVGElement ? style.fill : style.color;
            const [a, b] = [light(rgb(colour)), light(behind(e))].sort((x, y) => y - x);
            if ((a + 0.05) / (b + 0.05) < 4.5) found.push(e.textContent.trim() + ' ' + colour);
          }
          return found;
        }"""
    )

    assert faint == []
    page.close()
