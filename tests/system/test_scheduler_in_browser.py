"""The web page of the Scheduler Service in a real browser, as a person uses it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import ARGUMENTS, CHROMIUM
from services import Service, wait_for

from spira.scheduling.instance import open_instance
from spira.training.plan import STAGES

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

PLOTS = ("ROC", "calibration", "scores")
PATIENCE_MS = 60_000  # of a page on a busy machine


@pytest.fixture
def page() -> Iterator[Any]:
    """An empty page of a headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        opened = browser.new_page(viewport={"width": 1400, "height": 900})
        opened.set_default_timeout(PATIENCE_MS)
        yield opened
        browser.close()


def test_a_run_is_started_on_the_page_and_followed_to_its_end(
    page: Any, trained_home: Path, tiny_experiment: Path, start_service: Callable[..., Service]
) -> None:
    """From the asset graph to the report: only with what the page offers, and on this machine.
    Another site, open in the same browser, commands nothing."""
    up = start_service(
        tiny=False,
        source=trained_home,
        SPIRA_SCHEDULING__DATASET="tiny",
        SPIRA_EVALUATION__RESAMPLES="200",
    )
    shutil.copy(tiny_experiment, up.experiments / "tiny.yaml")
    asked_of: set[str] = set()
    page.context.on("request", lambda request: asked_of.add(request.url))
    with open_instance(up.home) as instance:
        wait_for(lambda: "7" in instance.get_dynamic_partitions("seed"), 60, "its partition")

    page.goto(f"{up.addresses['web']}/asset-groups")
    for stage in ("experiments", *STAGES):
        page.locator("foreignObject").get_by_text(stage, exact=True).wait_for()
    page.get_by_role("button", name="Materialize all").click()
    for partition in ("tiny", "7"):
        page.get_by_text("Select a partition or create one").first.click()
        page.get_by_role("dialog").last.get_by_text(partition, exact=True).first.click()
        page.keyboard.press("Escape")
    page.get_by_role("button", name="Launch 1 run").click()
    page.get_by_role("link", name="View", exact=True).click()
    page.get_by_text("Success", exact=True).wait_for()

    run_id = page.url.rsplit("/", 1)[-1]
    (request,) = up.requests.list()
    assert up.ended(request.id, 60).state == "complete"
    with open_instance(up.home) as instance:
        run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.tags["spira/request"] == request.id
    assert request.run_id == run_id
    assert [asking.by for asking in up.requests.askings(request.id)] == ["web page"]

    page.goto(f"{up.addresses['web']}/assets/evaluate")
    page.get_by_text("balanced accuracy", exact=True).first.wait_for()
    sketches = page.locator('img[src^="data:image/svg+xml,"]')
    drawn = "images => images.map(image => [image.alt, image.naturalWidth > 0])"
    there = [[name, True] for name in PLOTS]
    wait_for(lambda: sketches.evaluate_all(drawn) == there, 60, "the sketches are drawn")
    page.get_by_text("[Show Markdown]").click()
    whole = page.get_by_role("dialog").locator("img")
    wait_for(lambda: whole.evaluate_all(drawn) == there, 60, "the plots are drawn")

    page.goto(f"{up.addresses['web']}/assets/evaluate?view=checks")
    page.get_by_text("dados insuficientes", exact=True).wait_for()

    page.goto(f"{up.addresses['web']}/assets/publish")
    page.get_by_text("spira model show 1", exact=True).wait_for()
    with page.expect_popup() as opened:
        page.locator('a[href*="/v1/reports/"]').first.click()
    opened.value.get_by_role("heading", name="Relatório de avaliação").wait_for()

    command = f"{up.addresses['web']}/graphql?query=mutation{{freeConcurrencySlots(runId:1)}}"
    page.goto(f"{up.addresses['endpoint']}/healthz")
    with page.expect_response(lambda answer: "/graphql?" in answer.url) as told:
        page.evaluate("address => { new Image().src = address }", command)
    assert told.value.status == 403

    local = tuple(up.addresses.values())
    assert [
        url for url in asked_of if not url.removeprefix("blob:").startswith((*local, "data:"))
    ] == []
