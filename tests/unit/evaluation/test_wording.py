import pytest
from hypothesis import given
from hypothesis import strategies as st

from spira.domain.answers import Sentence
from spira.evaluation import wording
from spira.evaluation.results import Estimate
from spira.model.prediction import PresentShare, how_sure


def test_numbers_are_written_as_each_language_writes_them() -> None:
    """Decimal comma and full stop, thousands parted, a real minus."""
    assert wording.decimal(-1234.5, 1) == Sentence(pt="−1234,5", en="−1234.5")
    assert wording.count(12_345) == Sentence(pt="12.345", en="12,345")
    assert wording.percent(0.925, 1) == Sentence(pt="92,5\u202f%", en="92.5%")


def test_a_change_that_rounds_to_nothing_has_no_sign() -> None:
    """Neither -0.0 nor +0.0 is written."""
    assert wording.decimal(-0.0001, 2).en == "0.00"
    assert wording.decimal(0.0001, 2, signed=True).en == "0.00"
    assert wording.decimal(0.01, 2, signed=True).en == "+0.01"


@pytest.mark.parametrize(
    ("share", "people"),
    [
        (0.0, "fewer than 1"),
        (0.001, "fewer than 1"),
        (0.01, "1"),
        (0.4, "40"),
        (0.999, "more than 99"),
        (1.0, "more than 99"),
    ],
)
def test_rare_is_never_written_as_never(share: float, people: str) -> None:
    """Nobody and everybody are never claimed, not of an exact 0 or 1: the test was finite."""
    assert wording.in_hundred(share).en == people


@pytest.mark.parametrize(
    ("share", "digits", "written"),
    [
        (0.0, 1, "fewer than 1%"),
        (1.0, 1, "more than 99%"),
        (0.9996, 1, "more than 99%"),
        (0.996, 1, "99.6%"),
        (0.996, 0, "more than 99%"),
        (0.5, 0, "50%"),
    ],
)
def test_no_percentage_of_people_is_0_or_100(share: float, digits: int, written: str) -> None:
    """Rounding does not claim it either."""
    assert wording.share(share, digits).en == written


@given(st.floats(min_value=0, max_value=1), st.sampled_from([0, 1]))
def test_report_and_answer_say_one_share_in_one_way(share: float, digits: int) -> None:
    """`spira predict`, the summary and the tables cannot contradict one another."""
    answer = how_sure(PresentShare(value=share, prevalence=0.1)).en
    people = wording.in_hundred(share).en

    assert f"{people} had RI" in answer
    assert wording.share(share, digits).en not in ("0%", "100%", "0.0%", "100.0%")


@given(st.floats(min_value=0, max_value=1), st.floats(min_value=0, max_value=1))
def test_intervals_are_rounded_outwards(one: float, other: float) -> None:
    """What is written holds what was found, but for the last bit of a float."""
    low, high = sorted((one, other))
    estimate = Estimate(value=low, low=low, high=high, n=10)

    for text, scale in (
        (wording.percent_interval(estimate, 1).en.replace("%", ""), 100),
        (wording.interval(estimate, 2).en, 1),
        (wording.hundred_between(estimate).en.replace("between ", "").replace("and", "to"), 100),
    ):
        least, most = (float(part) / scale for part in text.split(" to "))
        assert least <= low + 1e-7
        assert most >= high - 1e-7


def test_an_interval_is_not_widened_by_the_last_bit_of_a_float() -> None:
    """1 - 0.94 is six people of a hundred."""
    estimate = Estimate(value=0.03, low=1 - 0.99, high=1 - 0.94, n=80)

    assert wording.hundred_between(estimate).en == "between 1 and 6"
    assert wording.percent_interval(estimate).en == "1 to 6%"


def test_what_is_unknown_says_so() -> None:
    """None is words, never "None", and never an error."""
    nothing = Estimate(value=None, n=0)
    written = [
        wording.decimal(None),
        wording.percent(None),
        wording.count(None),
        wording.in_hundred(None),
        wording.share(None),
        wording.duration(None),
        wording.word(None),
    ]

    assert set(written) == {wording.NOT_AVAILABLE}
    assert wording.interval(nothing).pt == ""
    assert wording.percent_interval(nothing).pt == ""
    assert wording.hundred_between(nothing).en == "interval not available"


def test_a_site_keeps_its_name() -> None:
    """A site called "noise" is a name, not a word of ours."""
    assert wording.value_word("site", "noise").pt == "noise"
    assert wording.value_word("site", "not available") == wording.NOT_AVAILABLE
    assert wording.value_word("sex", "female").pt == "feminino"


def test_the_aim_of_an_operating_point_is_told_in_both_languages() -> None:
    """The stored aim is a formula; an unforeseen one is shown as it stands."""
    assert wording.aim("sensitivity >= 0.90").pt == "sensibilidade de pelo menos 0,90"
    assert wording.aim("Youden").pt == "Youden"


@pytest.mark.parametrize(("seconds", "english"), [(10.06, "10.1"), (600, "10.0"), (36_000, "10.0")])
def test_a_duration_takes_the_unit_that_suits_it(seconds: float, english: str) -> None:
    """Seconds, minutes or hours, with one decimal."""
    unit = {10.06: "s", 600: "min", 36_000: "h"}[seconds]
    assert wording.duration(seconds).en == f"{english}\u202f{unit}"
