"""Labels: what each rule of CLINICAL makes of what is said, and what it never does."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spira.domain.errors import InputError
from spira.domain.label_policies import (
    DAY,
    POLICIES,
    REACH,
    REASONS,
    WINDOW,
    Fact,
    agreement,
    find_policy,
)
from spira.domain.labels import Decided

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def fact(kind: Any, what: float | str, minutes: float = 0, **more: Any) -> Fact:
    """Something said of a person, `minutes` after the recording."""
    until = more.pop("until", None)
    return Fact(
        more.pop("entry", f"ward/{kind}-{minutes:g}/1"),
        kind,
        NOW + minutes * MINUTE,
        None if until is None else NOW + until * MINUTE,
        what if isinstance(what, int | float) else None,
        what if isinstance(what, str) else None,
        more.pop("breathing", "room_air" if kind == "spo2" else None),
    )


def decided(*facts: Fact, policy: str = "ri-v1", uncertainty_s: float = 0) -> Decided:
    """What a policy says of a recording at noon."""
    return POLICIES[policy].decide(facts, NOW, uncertainty_s)


def said(*facts: Fact, policy: str = "ri-v1", uncertainty_s: float = 0) -> tuple[str, str]:
    """Label and reason."""
    found = decided(*facts, policy=policy, uncertainty_s=uncertainty_s)
    return found.label, found.reason


# ---- the rules of CLINICAL, one by one


@pytest.mark.parametrize("policy", ["ri-v1", "spo2-v1"])
@pytest.mark.parametrize(
    ("percent", "label", "reason"),
    [
        (80, "present", "spo2_low"),
        (91.9, "present", "spo2_low"),
        (92, "unknown", "between"),
        (94.9, "unknown", "between"),
        (95, "absent", "spo2_high"),
        (100, "absent", "spo2_high"),
    ],
)
def test_spo2_on_room_air_decides_by_its_cut_offs(
    policy: str, percent: float, label: str, reason: str
) -> None:
    """Below 92 % present, from 95 % on absent, between them unknown."""
    assert said(fact("spo2", percent), policy=policy) == (label, reason)


@pytest.mark.parametrize("code", ["J96.0", "J96.1", "J96.9", "J80"])
def test_a_diagnosis_is_enough(code: str) -> None:
    """Each of the four, whatever SpO2 says; the SpO2-only policy does not look."""
    normal = fact("spo2", 98)

    assert said(fact("diagnosis", code), normal) == ("present", "diagnosis")
    assert said(fact("diagnosis", code), normal, policy="spo2-v1") == ("absent", "spo2_high")


@pytest.mark.parametrize(("mmhg", "label"), [(59.9, "present"), (60, "absent")])
def test_pao2_below_60_is_enough(mmhg: float, label: str) -> None:
    """On oxygen as well; at 60 it says nothing."""
    assert said(fact("pao2", mmhg), fact("spo2", 97))[0] == label
    assert said(fact("pao2", mmhg), fact("support", "invasive"))[0] == (
        "present" if label == "present" else "unknown"
    )


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ((fact("spo2", 88, breathing="oxygen"),), "oxygen"),
        ((fact("spo2", 98, breathing="oxygen"),), "oxygen"),
        ((fact("spo2", 98), fact("support", "high_flow", -300)), "support"),
        ((fact("spo2", 98, -50), fact("support", "oxygen", -60, until=-50)), "support"),
        ((fact("spo2", 98), fact("oxygen_flow", 2, 30)), "oxygen"),
        ((fact("spo2", 98), fact("inspired_oxygen", 28, -30)), "oxygen"),
        ((fact("spo2", 88), fact("paco2", 46, -100_000)), "co2_retention"),
        ((fact("spo2", 98), fact("paco2", 46, -100_000)), "co2_retention"),
        ((fact("spo2", 88, breathing=None),), "breathing_unsaid"),
        ((), "no_measurement"),
        (
            (fact("heart_rate", 180), fact("ph", 7.2), fact("respiratory_rate", 40)),
            "no_measurement",
        ),
    ],
)
def test_everything_else_is_unknown(facts: Sequence[Fact], reason: str) -> None:
    """Oxygen, support, CO2 retention, what was breathed not said, nothing measured."""
    assert said(*facts) == ("unknown", reason)


def test_a_clinicians_word_decides_what_is_unknown_without_it() -> None:
    """On oxygen, between the cut-offs, with nothing measured."""
    for facts in ((fact("spo2", 93, breathing="oxygen"),), (fact("spo2", 93),), ()):
        for word in ("present", "absent"):
            assert said(*facts, fact("judgement", word, 20)) == (word, "judged")
        assert said(*facts, fact("judgement", "present", 20), policy="spo2-v1")[0] == "unknown"


def test_absent_against_what_says_present_is_a_contradiction() -> None:
    """By a word against a diagnosis, PaO2 or SpO2; `present` stands as a diagnosis does."""
    for evidence in (fact("spo2", 85), fact("pao2", 50), fact("diagnosis", "J80")):
        assert said(evidence, fact("judgement", "absent")) == ("unknown", "contradiction")
    assert said(fact("spo2", 99), fact("judgement", "present")) == ("present", "judged")


def test_a_clinician_takes_a_recording_out() -> None:
    """`unknown` is unknown whatever was measured."""
    assert said(fact("spo2", 80), fact("judgement", "unknown")) == ("unknown", "judged")


def test_equally_near_ones_that_differ_contradict() -> None:
    """Two measurements, or two words; where they say one thing, both are the evidence."""
    assert said(fact("spo2", 91, -10), fact("spo2", 96, 10)) == ("unknown", "contradiction")
    assert said(fact("judgement", "absent", -5), fact("judgement", "present", 5)) == (
        "unknown",
        "contradiction",
    )
    both = decided(fact("spo2", 91, -10), fact("spo2", 85, 10))
    assert (both.label, both.evidence) == ("present", ("ward/spo2--10/1", "ward/spo2-10/1"))
    assert said(fact("pao2", 58, -5), fact("pao2", 62, 5), fact("spo2", 97)) == (
        "unknown",
        "contradiction",
    )


# ---- nearness


def test_the_nearest_measurement_decides() -> None:
    """Whatever the others say, and whatever was breathed; and it is the evidence."""
    found = decided(fact("spo2", 97, -5), fact("spo2", 80, 6))

    assert (found.label, found.evidence) == ("absent", ("ward/spo2--5/1",))
    assert found.measured_at == NOW - 5 * MINUTE
    assert said(fact("spo2", 97, -5, breathing="oxygen"), fact("spo2", 80, 6))[1] == "oxygen"


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_measurement_counts_for_an_hour(sign: int) -> None:
    """Before and after, the hour itself included."""
    assert said(fact("spo2", 80, sign * 60)) == ("present", "spo2_low")
    assert said(fact("spo2", 80, sign * 60.001)) == ("unknown", "no_measurement")
    assert said(fact("pao2", 40, sign * 60)) == ("present", "pao2_low")
    assert said(fact("pao2", 40, sign * 60.001)) == ("unknown", "no_measurement")


# ---- diagnoses in time


@pytest.mark.parametrize(
    ("code", "minutes", "until", "label"),
    [
        ("J96.0", -1440, None, "present"),
        ("J96.0", -1441, None, "unknown"),  # nobody said that it still is
        ("J96.0", -100_000, None, "unknown"),
        ("J96.1", -100_000, None, "present"),  # chronic
        ("J96.0", -100_000, 0, "present"),
        ("J96.0", -100_000, -1, "absent"),  # over
        ("J96.1", -100_000, -1, "absent"),
        ("J96.0", 60, None, "present"),  # written down afterwards
        ("J96.0", 61, None, "unknown"),
        ("J96.0", 1440, None, "unknown"),
        ("J96.0", 1441, None, "absent"),
        ("J96", 0, None, "unknown"),
        ("J96.01", 0, None, "unknown"),  # ICD-10-CM
        ("J96.01", -10, -1, "absent"),
        ("J95.1", 0, None, "absent"),
        ("I50.0", 0, None, "absent"),
    ],
)
def test_a_diagnosis_counts_while_it_is_said_to_last(
    code: str, minutes: float, until: float | None, label: str
) -> None:
    """Beside an SpO2 of 97 %: in force it is present, near by it spoils absent, else it is none."""
    found = said(fact("diagnosis", code, minutes, until=until), fact("spo2", 97))

    assert found[0] == label
    assert (found[1] == "diagnosis_unclear") == (label == "unknown")


# ---- what was breathed


@pytest.mark.parametrize(
    ("around", "label"),
    [
        ((fact("support", "none", -60),), "absent"),
        ((fact("support", "none", -61),), "unknown"),  # somebody may have forgotten to end it
        ((fact("support", "none", -5000, until=10),), "absent"),
        ((fact("support", "none", 1),), "unknown"),
        ((fact("oxygen_flow", 0, 30),), "absent"),
        ((fact("inspired_oxygen", 20.9, 30),), "absent"),
        ((fact("inspired_oxygen", 21, 30), fact("oxygen_flow", 1, 60)), "unknown"),
        ((fact("support", "none", -5), fact("oxygen_flow", 1, 30)), "unknown"),
        ((fact("support", "none", -50), fact("support", "oxygen", -40)), "unknown"),
        ((fact("support", "oxygen", -50), fact("support", "none", -40)), "absent"),
    ],
)
def test_room_air_is_said_or_it_is_not(around: Sequence[Fact], label: str) -> None:
    """Where the measurement does not say, support and oxygen around it do."""
    assert said(fact("spo2", 97, breathing=None), *around)[0] == label


def test_low_spo2_with_the_mask_off_is_present() -> None:
    """Support in force does not take back what was measured on room air."""
    assert said(fact("spo2", 85), fact("support", "oxygen", -100)) == ("present", "spo2_low")


def test_co2_retention_is_what_was_last_known() -> None:
    """A later PaCO2 that is not high takes it back; PaO2 and a diagnosis stand beside it."""
    retained = fact("paco2", 60, -100)

    assert said(retained, fact("paco2", 40, -10), fact("spo2", 97)) == ("absent", "spo2_high")
    assert said(retained, fact("paco2", 40, 61), fact("spo2", 97))[1] == "co2_retention"
    assert said(retained, fact("pao2", 50)) == ("present", "pao2_low")
    assert said(retained, fact("diagnosis", "J96.1")) == ("present", "diagnosis")


# ---- the clock


def test_a_clock_too_uncertain_for_the_margin_gives_unknown() -> None:
    """A measurement 50 minutes away leaves a margin of 10."""
    measured = fact("spo2", 85, 50)

    assert said(measured, uncertainty_s=600) == ("present", "spo2_low")
    assert said(measured, uncertainty_s=600.000001) == ("unknown", "clock")
    assert said(uncertainty_s=1e300) == ("unknown", "no_measurement")


@pytest.mark.parametrize(
    "facts",
    [
        (fact("spo2", 97, -10), fact("spo2", 85, 11)),  # half-way between two
        (fact("spo2", 97, 30), fact("diagnosis", "J96.0", -1439)),
        (fact("spo2", 97, 30), fact("diagnosis", "J96.0", 1441)),
        (fact("spo2", 97, 30), fact("diagnosis", "J96.1", -100, until=1)),
        (fact("spo2", 97, 30), fact("support", "oxygen", -100, until=-1)),
        (fact("spo2", 97, -30), fact("support", "oxygen", 1)),
        (fact("spo2", 97, 30), fact("paco2", 60, 61)),
        (fact("oxygen_flow", 3, 61), fact("spo2", 97, 30)),
        (fact("judgement", "absent", -61),),
        (fact("judgement", "absent", -120, until=-59),),
    ],
)
def test_whatever_ends_within_the_uncertainty_counts(facts: Sequence[Fact]) -> None:
    """A minute away; a clock that is right to half a minute is good enough."""
    assert said(*facts, uncertainty_s=90) == ("unknown", "clock")
    assert said(*facts, uncertainty_s=20) == said(*facts)
    assert said(*facts)[0] != "clock"


HALVES = st.integers(-10, 10).map(lambda n: 15.0 * n)
UNTIL = st.none() | st.integers(0, 12).map(lambda n: 15.0 * n)


@st.composite
def facts(draw: st.DrawFn) -> Fact:
    """Anything said, on a grid of a quarter of an hour."""
    kind, what = draw(
        st.one_of(
            st.tuples(st.just("spo2"), st.sampled_from([85.0, 93.0, 97.0])),
            st.tuples(st.just("pao2"), st.sampled_from([50.0, 80.0])),
            st.tuples(st.just("paco2"), st.sampled_from([40.0, 60.0])),
            st.tuples(st.just("oxygen_flow"), st.sampled_from([0.0, 2.0])),
            st.tuples(st.just("inspired_oxygen"), st.sampled_from([21.0, 40.0])),
            st.tuples(st.just("diagnosis"), st.sampled_from(["J96.0", "J96.1", "J96", "I50"])),
            st.tuples(st.just("support"), st.sampled_from(["none", "oxygen"])),
            st.tuples(st.just("judgement"), st.sampled_from(["present", "absent", "unknown"])),
        )
    )
    minutes = draw(HALVES)
    if kind in ("diagnosis", "paco2") and draw(st.booleans()):
        minutes += draw(st.sampled_from([-1440, 1440]))
    lasts = draw(UNTIL)
    return fact(
        kind,
        what,
        minutes,
        until=None if lasts is None else minutes + lasts,
        breathing=draw(st.sampled_from([None, "room_air", "oxygen"])) if kind == "spo2" else None,
        entry=f"ward/{draw(st.integers(0, 99))}/1",
    )


FACTS = st.lists(facts(), max_size=6)
POLICY = st.sampled_from(list(POLICIES.values()))


@settings(max_examples=150, deadline=None)
@given(POLICY, FACTS, st.integers(1, 16))
def test_no_moment_of_an_uncertain_clock_is_overlooked(
    policy: Any, said: list[Fact], quarters: int
) -> None:
    """As if every moment had been tried: the facts lie on quarters, their turns on eighths."""
    margin = 7.5 * quarters
    steps = range(-2 * quarters * 4, 2 * quarters * 4 + 1)
    tried = {
        policy.decide(said, NOW + step * 0.9375 * MINUTE, 0).label
        for step in steps
        if abs(step * 0.9375) <= margin
    }

    found = policy.decide(said, NOW, margin * 60)

    assert (found.reason == "clock") == (len(tried) > 1)
    if len(tried) == 1:
        assert found == policy.decide(said, NOW, 0)


@settings(max_examples=150, deadline=None)
@given(POLICY, FACTS, st.randoms())
def test_order_does_not_matter_and_far_away_is_not_looked_at(
    policy: Any, said: list[Fact], random: Any
) -> None:
    """What the store may leave out: measurements out of reach, what begins in more than a day."""
    shuffled = random.sample(said, len(said))
    near = [
        one
        for one in said
        if (one.kind in policy.measured and abs(one.at - NOW) <= REACH)
        or (
            one.kind in policy.lasting
            and one.at <= NOW + DAY
            and (one.until is None or one.until >= NOW - REACH or one.kind == "paco2")
        )
    ]

    assert policy.decide(shuffled, NOW, 0) == policy.decide(said, NOW, 0)
    assert policy.decide(near, NOW, 0) == policy.decide(said, NOW, 0)


@settings(max_examples=200, deadline=None)
@given(POLICY, FACTS)
def test_absent_is_never_said_beside_anything_against_it(policy: Any, said: list[Fact]) -> None:
    """Without a clinician's word: the nearest SpO2 is high, nothing else speaks against it."""
    said = [one for one in said if one.kind != "judgement"]
    found = policy.decide(said, NOW, 0)
    assert found.reason in REASONS
    if found.label != "absent":
        return

    least = min(abs(one.at - NOW) for one in said if one.kind == "spo2")
    values = [one.value for one in said if one.kind == "spo2" and abs(one.at - NOW) == least]
    assert least <= WINDOW
    assert min(value for value in values if value is not None) >= 95
    if policy.name == "ri-v1":
        for one in said:
            lasts = one.at <= NOW and (one.until is None or one.until >= NOW)
            assert not (one.kind == "diagnosis" and one.code != "I50" and lasts)


def test_every_reason_can_be_given() -> None:
    """Each of the list, and no other: found by trying."""
    given_reasons = {
        said(*some, uncertainty_s=uncertain)[1]
        for uncertain in (0, 3600)
        for some in (
            (),
            (fact("spo2", 85),),
            (fact("spo2", 85, 59),),
            (fact("spo2", 93),),
            (fact("spo2", 97),),
            (fact("spo2", 97, breathing="oxygen"),),
            (fact("spo2", 97, breathing=None),),
            (fact("spo2", 97), fact("support", "oxygen", -5)),
            (fact("spo2", 97), fact("spo2", 85)),
            (fact("spo2", 97), fact("paco2", 60)),
            (fact("spo2", 97), fact("diagnosis", "J96")),
            (fact("pao2", 50),),
            (fact("diagnosis", "J80"),),
            (fact("judgement", "absent"),),
        )
    }

    assert given_reasons == set(REASONS)


def test_an_unknown_policy_is_told_with_the_nearest() -> None:
    """By name."""
    with pytest.raises(InputError, match=r"ri-v2.*did you mean ri-v1"):
        find_policy("ri-v2")


def test_two_policies_are_compared_in_a_table() -> None:
    """Every pair of labels is counted; what is off the diagonal differs."""
    present, absent = (
        Decided(label="present", reason="diagnosis"),
        Decided(label="absent", reason="spo2_high"),
    )

    table = agreement("ri-v1", "spo2-v1", [(present, present), (present, absent), (absent, absent)])

    assert (table.total, table.differing) == (3, 1)
    assert table.counts["present"] == {"present": 1, "absent": 1, "unknown": 0}
    assert table.counts["unknown"] == {"present": 0, "absent": 0, "unknown": 0}
