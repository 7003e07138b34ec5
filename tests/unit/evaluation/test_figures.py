import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from spira.domain.answers import Sentence
from spira.evaluation import figures
from spira.evaluation.results import CalibrationBin, Curve, Estimate

NAME = Sentence(pt="sem ruído", en="clean")


def elements(markup: str, css: str) -> list[ET.Element]:
    """Elements of a figure that have a class."""
    return [e for e in ET.fromstring(markup).iter() if css in e.get("class", "").split()]


def test_a_strip_places_value_interval_and_limit_on_its_scale() -> None:
    """Per cent of the width, from the scale's own ends."""
    estimate = Estimate(value=0.0, low=-0.05, high=0.05, n=80)

    drawn = figures.strip(estimate, scale=(-0.2, 0.2), zone=(-0.1, 0.1), bound=0.07)

    (dot,) = elements(drawn, "dot")
    (whisker,) = elements(drawn, "whisker")
    assert dot.get("cx") == "50%"
    assert (whisker.get("x1"), whisker.get("x2")) == ("37.5%", "62.5%")
    assert [line.get("x1") for line in elements(drawn, "limit")] == ["25%", "75%"]
    assert elements(drawn, "at")[0].get("x") == "67.5%"


def test_what_lies_outside_a_scale_is_drawn_at_its_end() -> None:
    """Nothing is drawn off the page."""
    estimate = Estimate(value=1.4, low=-3.0, high=2.0, n=3)

    drawn = figures.strip(estimate)

    assert elements(drawn, "dot")[0].get("cx") == "100%"
    assert elements(drawn, "whisker")[0].get("x1") == "0%"


def test_a_figure_that_cannot_be_computed_leaves_an_empty_scale() -> None:
    """No dot and no interval, and no error."""
    drawn = figures.strip(Estimate(value=None, n=0), zone=(0.0, 0.65), reference=0.5)

    assert not elements(drawn, "dot")
    assert not elements(drawn, "whisker")
    assert elements(drawn, "zone")


def test_a_hundred_people_are_drawn_and_so_many_are_filled() -> None:
    """The picture counts what the sentence says."""
    drawn = figures.people(37)

    assert len(elements(drawn, "who-present")) == 37
    assert len(elements(drawn, "who-absent")) == 63


def test_a_curve_of_many_points_costs_no_more_than_the_page() -> None:
    """Points that fall on the same tenth of a pixel are drawn once."""
    x = np.linspace(0, 1, 200_000)
    line = figures.Line(Curve(x=tuple(x), y=tuple(np.sqrt(x))), "c-clean", NAME)

    assert len(figures.roc([line])) < 150_000


def test_a_loss_that_is_missing_breaks_the_line() -> None:
    """A diverged epoch is a gap, not a zero."""
    drawn = figures.losses([1, 2, 3, 4, 5], [1.0, 0.9, None, 0.7, 0.6], [None] * 5, kept=None)

    curves = [e for e in elements(drawn, "c-train") if " L" in e.get("d", "")]
    assert len(curves) == 2


def test_charts_survive_values_that_leave_no_range() -> None:
    """One epoch, no loss at all, zero counts, an immense loss."""
    figures.losses([7], [None], [None], kept=7)
    figures.losses([1], [0.0], [5e-324], kept=None)
    immense = figures.losses([1, 2], [1e300, 1.0], [2.0, 2.0], kept=1)
    figures.distribution([0, 1], [0], [0], threshold=0.5, band=(0.5, 0.5), counted=NAME)
    figures.calibration(
        [("c-clean", NAME, [CalibrationBin(predicted=0.1, observed=Estimate(value=None, n=0))])]
    )

    assert max(len(text) for text in re.findall(r">([^<]+)</text>", immense)) < 20


def test_histogram_bars_stand_on_the_people_they_count() -> None:
    """Above the line those with the label, below it the others; an empty bin has no bar."""
    drawn = figures.distribution(
        [0, 0.5, 1], [0, 10], [5, 0], threshold=0.5, band=(0.4, 0.6), counted=NAME
    )

    present = [e for e in elements(drawn, "bar") if "who-present" in e.get("class", "")]
    absent = [e for e in elements(drawn, "bar") if "who-absent" in e.get("class", "")]
    assert len(present) == len(absent) == 1
    height = {id(e): float(e.get("height", "0")) for e in (*present, *absent)}
    assert height[id(present[0])] == pytest.approx(2 * height[id(absent[0])], abs=0.02)
    assert float(present[0].get("y", "0")) < float(absent[0].get("y", "0"))
