"""Balance: who is missing, what gives the label away, and what a collector may know."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import normalized_mutual_info_score

from spira.collection.balance import (
    FEWEST,
    LIMIT,
    NUISANCES,
    VISITS,
    Balance,
    Nuisance,
    wanted_today,
    weigh,
)
from spira.domain.answers import Sentence
from spira.domain.studies import Study

MakeVisits = Callable[[Sequence[dict[str, Any]]], pl.DataFrame]
EMPTY = pl.DataFrame(schema=dict(VISITS))
LABELS = ("present", "absent", "unknown")


def nuisance(balance: Balance, name: str) -> Nuisance:
    """What one nuisance tells."""
    return next(one for one in balance.nuisances if one.name == name)


def with_targets(study: Study, *targets: dict[str, Any]) -> Study:
    """The same study with other targets."""
    return Study.model_validate(study.model_dump() | {"targets": targets})


def coupled(seed: int, people: int, *, share: float) -> pl.DataFrame:
    """As many people of each label. `share` of the present ones have one device, and `share` of the
    absent ones the other; everything else is drawn without a look at the label."""
    rng = np.random.default_rng(seed)
    label = np.repeat(["present", "absent"], people)
    own = rng.random(2 * people) < share
    n = 2 * people
    return pl.DataFrame(
        {
            "person": [f"p-{number}" for number in range(n)],
            "sex": rng.choice(["female", "male"], n),
            "age": rng.integers(18, 90, n),
            "site": rng.choice(["site-1", "site-2", "site-3"], n),
            "ward": [None] * n,
            "device": np.where(own == (label == "present"), "phone", "tablet"),
            "noise_floor_dbfs": rng.normal(-55, 6, n),
            "hour": rng.integers(0, 24, n),
            "label": label,
        },
        schema=dict(VISITS),
    )


# ---- targets


def test_a_person_counts_once_by_the_first_visit_with_a_known_label(
    default: Study, make_visits: MakeVisits
) -> None:
    """Though recorded three times, at two sites, with a label that changed."""
    visits = make_visits(
        [
            {"person": "a", "label": "unknown", "site": "site-2"},
            {"person": "a", "label": "absent"},
            {"person": "a", "label": "present"},
            {"person": "b", "label": "unknown"},
        ]
    )

    balance = weigh(default, visits, "ri-v1")
    found = [one for one in balance.strata if one.found]

    assert balance.people.model_dump() == {"present": 0, "absent": 1, "unknown": 1}
    assert [(one.found, one.missing, one.stratum.site) for one in found] == [(1, 4, "site-1")]
    assert found[0].stratum.label == "absent"


def test_ages_belong_to_a_band_with_both_its_ends(default: Study, make_visits: MakeVisits) -> None:
    """The last band has no end; whose age is not known belongs to none."""
    ages = [17, 18, 39, 40, 59, 60, 79, 80, 104, None]
    balance = weigh(default, make_visits([{"age": age} for age in ages]), "ri-v1")

    found = {one.stratum.ages: one.found for one in balance.strata if one.found}

    assert found == {"18-39": 2, "40-59": 2, "60-79": 2, "80+": 2}


def test_a_study_without_visits_or_targets_is_weighed(default: Study) -> None:
    """Everybody is missing, or nobody; nothing is tested."""
    without = weigh(with_targets(default), EMPTY, "ri-v1")
    balance = weigh(default, EMPTY, "ri-v1")

    assert sum(one.missing for one in balance.strata) == 240
    assert without.strata == ()
    assert set(without.today.values()) == {None}
    assert {one.verdict for one in balance.nuisances} == {"not enough data"}


# ---- what a collector reads


def test_a_collector_reads_who_is_missing_most_at_the_site(
    default: Study, make_visits: MakeVisits
) -> None:
    """In one sentence without the label, in both languages."""
    study = with_targets(
        default,
        {"people": 3, "site": "site-1", "sex": "male", "label": ["present", "absent"]},
        {
            "people": 4,
            "site": "site-2",
            "sex": "female",
            "ages": ["40-59", "60-79"],
            "label": ["present", "absent"],
        },
        {"people": 9, "site": "site-3", "ages": "80+", "label": ["present", "absent"]},
        {"people": 2},
    )
    visits = make_visits([{"site": "site-2", "age": 50}])

    assert wanted_today(study, visits, site="site-2") == Sentence(
        pt="Hoje, procure: mulheres de 60 a 79 anos, Enfermaria B.",
        en="Today, look for: women aged 60 to 79, Ward B.",
    )
    assert wanted_today(study, visits, site="site-3") == Sentence(
        pt="Hoje, procure: pessoas de 80 anos ou mais, Enfermaria C.",
        en="Today, look for: people aged 80 and over, Ward C.",
    )
    assert weigh(study, visits, "ri-v1").today["site-1"] == Sentence(
        pt="Hoje, procure: homens, Enfermaria A.", en="Today, look for: men, Ward A."
    )


@settings(max_examples=25, deadline=None)
@given(labels=st.lists(st.sampled_from(LABELS), min_size=60, max_size=60))
def test_no_label_changes_what_a_collector_reads(default: Study, labels: list[str]) -> None:
    """Whatever anybody's label turns out to be: so nobody can tell a label from the sentence."""
    rng = np.random.default_rng(4)
    visits = coupled(4, 30, share=0.5).with_columns(
        person=pl.Series(rng.choice(40, 60).astype(str))  # some come twice
    )
    sites = [site.name for site in default.sites]

    before = [wanted_today(default, visits, site=site) for site in sites]
    relabelled = visits.with_columns(label=pl.Series(labels))

    assert [wanted_today(default, relabelled, site=site) for site in sites] == before


def test_a_target_of_one_label_alone_is_never_said(default: Study, make_visits: MakeVisits) -> None:
    """Whom the study wants with one label only, a collector would know the label of. The lead is
    told that collectors are not."""
    study = with_targets(
        default,
        {"people": 9, "sex": "female", "ages": "80+", "label": "present"},
        {"people": 2, "sex": "male", "label": ["present", "absent"]},
    )
    balance = weigh(study, EMPTY, "ri-v1")

    assert {said.pt for said in balance.today.values() if said} == {"Hoje, procure: homens."}
    assert [one.stratum.ages for one in balance.untold] == ["80+"]


def test_where_nobody_is_missing_nobody_is_looked_for(
    default: Study, make_visits: MakeVisits
) -> None:
    """Enough people of the wrong label: collectors may not know, the lead does."""
    study = with_targets(default, {"people": 5, "sex": "male", "label": ["present", "absent"]})
    visits = make_visits([{"n": 10, "sex": "male", "label": "absent"}])

    balance = weigh(study, visits, "ri-v1")

    assert set(balance.today.values()) == {None}
    assert [(one.stratum.label, one.missing) for one in balance.untold] == [("present", 5)]


# ---- what goes with the label


def test_a_planted_proxy_is_found_among_few_people(default: Study) -> None:
    """A device that goes with the label in 80 of 100 people: in at least four of five studies of
    20 people a label, and almost always with twice as many."""
    few = [weigh(default, coupled(seed, FEWEST, share=0.8), "ri-v1") for seed in range(30)]
    more = [weigh(default, coupled(seed, 2 * FEWEST, share=0.8), "ri-v1") for seed in range(10)]

    assert sum(nuisance(one, "device").verdict == "proxy" for one in few) >= 24
    assert sum(nuisance(one, "device").verdict == "proxy" for one in more) >= 9


def test_chance_is_rarely_taken_for_a_proxy(default: Study) -> None:
    """Of 60 studies in which nothing goes with the label, some 3 would give a false alarm for any
    of the four nuisances; without correction 11 would."""
    studies = [weigh(default, coupled(seed, 40, share=0.5), "ri-v1") for seed in range(100, 160)]

    alarms = sum(any(one.verdict == "proxy" for one in each.nuisances) for each in studies)

    assert alarms <= 8


def test_chance_is_what_shuffled_labels_give(default: Study, make_visits: MakeVisits) -> None:
    """The p-value is that of shuffling labels one by one, with scikit-learn's measure; Holm's
    method multiplies the least of four by four."""
    devices = np.repeat(["phone", "tablet", "recorder"], [38, 30, 12])
    labels = np.repeat(LABELS[:2] * 3, [24, 14, 12, 18, 4, 8])
    pairs = zip(devices, labels, strict=True)
    rows = [{"device": device, "label": label} for device, label in pairs]
    rng = np.random.default_rng(1)

    def told(present: NDArray[np.str_]) -> float:
        measured: float = normalized_mutual_info_score(present, devices, average_method="min")
        return measured

    shuffles = rng.permuted(np.tile(labels == "present", (4_000, 1)), axis=1)
    tables, at = np.unique(
        np.stack([shuffles[:, devices == device].sum(1) for device in ("phone", "tablet")], 1),
        axis=0,
        return_inverse=True,
    )
    one_of_each = [shuffles[at == number][0] for number in range(len(tables))]
    as_much = np.array([told(one) >= told(labels) - 1e-9 for one in one_of_each])[at]

    found = nuisance(weigh(default, make_visits(rows), "ri-v1"), "device")

    assert found.information == pytest.approx(told(labels))
    assert 0.02 < as_much.mean() < 0.2  # there is something to compare
    assert found.p == pytest.approx(4 * as_much.mean(), abs=4 * 0.02)


def test_who_is_told_apart_wholly_has_all_the_information(
    default: Study, make_visits: MakeVisits
) -> None:
    """Also where there are more devices than labels."""
    rows = [
        {"n": 8, "device": f"phone-{number}", "label": LABELS[number % 2]} for number in range(8)
    ]

    found = nuisance(weigh(default, make_visits(rows), "ri-v1"), "device")

    assert found.information == pytest.approx(1.0)
    assert found.verdict == "proxy"


def test_a_little_of_the_label_is_no_proxy_however_sure(
    default: Study, make_visits: MakeVisits
) -> None:
    """With 2,000 people 55 of 100 against 45 is beyond chance, and far from a shortcut."""
    rows = [
        {"n": n, "device": device, "label": label}
        for device, label, n in (
            ("phone", "present", 550),
            ("phone", "absent", 450),
            ("tablet", "present", 450),
            ("tablet", "absent", 550),
        )
    ]

    found = nuisance(weigh(default, make_visits(rows), "ri-v1"), "device")

    assert found.p is not None
    assert found.information is not None
    assert (found.p < 0.05, found.information < LIMIT) == (True, True)
    assert found.verdict == "none seen"
    assert "só um pouco" in found.words.pt


def test_a_proxy_is_told_with_its_figures_and_what_to_do(
    default: Study, make_visits: MakeVisits
) -> None:
    """The two ends, in people, and one thing to do."""
    rows = [
        {"n": 25, "site": "site-2", "label": "present"},
        {"n": 5, "site": "site-2", "label": "absent"},
        {"n": 6, "site": "site-1", "label": "present"},
        {"n": 24, "site": "site-1", "label": "absent"},
    ]

    found = nuisance(weigh(default, make_visits(rows), "ri-v1"), "site")

    assert found.words == Sentence(
        pt="Local: acompanha o rótulo. Enfermaria B: 25 de 30 pessoas com IR; Enfermaria A: 6 de "
        "30. Um modelo pode aprender isso em vez da voz. Recrute pessoas com e sem IR nos mesmos "
        "locais.",
        en="Site: goes with the label. Ward B: 25 of 30 people with RI; Ward A: 6 of 30. A model "
        "may learn that instead of the voice. Recruit people with and without RI at the same "
        "sites.",
    )
    assert [one.title.pt for one in found.categories] == ["Enfermaria A", "Enfermaria B"]


@pytest.mark.parametrize("name", NUISANCES)
def test_every_nuisance_is_found_when_it_goes_with_the_label(
    default: Study, make_visits: MakeVisits, name: str
) -> None:
    """Site, ward, device, noise and hour; the others, which are the same for all, tell nothing."""
    column = {"noise": "noise_floor_dbfs"}.get(name, name)
    values: dict[str, tuple[Any, Any]] = {
        "noise": (-62.0, -41.0),
        "hour": (9, 20),
    }
    quiet, loud = values.get(name, ("here", "there"))
    rows = [
        {"n": 18, "label": "present", column: loud},
        {"n": 4, "label": "present", column: quiet},
        {"n": 22, "label": "absent", column: quiet},
    ]

    balance = weigh(default, make_visits(rows), "ri-v1")

    assert [one.name for one in balance.nuisances if one.verdict == "proxy"] == [name]


def test_what_is_not_known_of_one_label_alone_is_a_proxy(
    default: Study, make_visits: MakeVisits
) -> None:
    """A missing device is a value like any other. Of a ward, which no form asks for, nothing is
    said."""
    rows = [{"n": 25, "label": "present"}, {"n": 25, "label": "absent", "device": None}]

    balance = weigh(default, make_visits(rows), "ri-v1")

    assert nuisance(balance, "device").verdict == "proxy"
    assert nuisance(balance, "device").categories[-1].title.pt == "não informado"
    assert "ward" not in {one.name for one in balance.nuisances}


def test_what_nobody_reported_is_not_tested(default: Study, make_visits: MakeVisits) -> None:
    """Not enough data, and it says why; a level that is no number is not known either."""
    rows = [
        {"n": 25, "label": label, "device": None, "noise_floor_dbfs": level}
        for label, level in (("present", None), ("absent", float("-inf")))
    ]

    balance = weigh(default, make_visits(rows), "ri-v1")

    for name in ("device", "noise"):
        found = nuisance(balance, name)
        assert (found.verdict, found.information, found.p) == ("not enough data", None, None)
        assert "não informado em nenhuma visita" in found.words.pt


@pytest.mark.parametrize(("present", "absent"), [(19, 60), (60, 19), (0, 60)])
def test_with_few_people_of_a_label_nothing_is_tested(
    default: Study, make_visits: MakeVisits, present: int, absent: int
) -> None:
    """However strong it looks; people without a label do not help."""
    rows = [
        {"n": present, "label": "present", "device": "phone"},
        {"n": absent, "label": "absent", "device": "tablet"},
        {"n": 50, "label": "unknown"},
    ]

    balance = weigh(default, make_visits(rows), "ri-v1")

    assert {one.verdict for one in balance.nuisances} == {"not enough data"}
    assert f"há {present} e {absent}" in nuisance(balance, "device").words.pt


def test_rare_devices_count_as_one(default: Study, make_visits: MakeVisits) -> None:
    """Under five people each: else every phone of a rare make would be a finding of its own."""
    rows = [
        *({"n": 2, "device": f"rare-{number}", "label": "present"} for number in range(5)),
        {"n": 30, "device": "phone"},
        {"n": 40, "device": "phone", "label": "absent"},
    ]

    found = nuisance(weigh(default, make_visits(rows), "ri-v1"), "device")

    assert [(one.title.en, one.present, one.absent) for one in found.categories] == [
        ("phone", 30, 40),
        ("others (under 5 people)", 10, 0),
    ]


def test_noise_is_cut_into_quarters_of_the_people(default: Study) -> None:
    """As many in each, with ends that a person can read."""
    found = nuisance(weigh(default, coupled(3, 40, share=0.5), "ri-v1"), "noise")

    assert [one.people for one in found.categories] == pytest.approx([20] * 4, abs=1)
    assert found.categories[0].title.pt.startswith("abaixo de −")
    assert found.categories[-1].title.en.endswith("dBFS and over")


def test_the_same_visits_have_the_same_verdict(default: Study) -> None:
    """Nobody can draw again until it looks better."""
    visits = coupled(5, 30, share=0.65)

    assert weigh(default, visits, "ri-v1") == weigh(default, visits, "ri-v1")
