"""Who visits the hospital: labels, circumstances, and what is coupled to the label on purpose."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from spira.domain.errors import InputError
from spira.synthetic.records import SHORTCUTS, Hospital, Participant, ShortcutName, admit

DEVICES = Hospital().devices
NUISANCES: dict[str, Callable[[Participant], float]] = {
    "sex": lambda person: float(person.sex == "male"),
    "age": lambda person: float(person.age),
    "site": lambda person: float(person.site[-1]),
    "device": lambda person: float(person.device.startswith("phone")),
    "hour": lambda person: float(person.visited_at.hour),
    "peak": lambda person: person.peak,
    "noise": lambda person: person.noise_dbfs,
    "pseudonym": lambda person: float(person.id[2:]),
}


def of_label(people: list[Participant], label: str) -> list[Participant]:
    """Those with a label."""
    return [person for person in people if person.label == label]


@pytest.mark.parametrize(
    ("n", "prevalence", "present"), [(40, 0.5, 20), (41, 0.3, 12), (9, 0.0, 0), (9, 1.0, 9)]
)
def test_prevalence_is_exact(n: int, prevalence: float, present: int) -> None:
    """The share of `present` is met to rounding, not on average."""
    people = admit(Hospital(participants=n, prevalence=prevalence))

    assert len(people) == n
    assert len(of_label(people, "present")) == present


@pytest.mark.parametrize("nuisance", NUISANCES)
def test_nothing_goes_with_the_label_unless_planted(nuisance: str) -> None:
    """Over ten hospitals, no circumstance of a visit tells the label."""
    areas = []
    for seed in range(10):
        people = admit(Hospital(seed=seed, participants=400))
        present = [person.label == "present" for person in people]
        areas.append(roc_auc_score(present, [NUISANCES[nuisance](person) for person in people]))

    assert np.mean(areas) == pytest.approx(0.5, abs=0.03)


def test_only_saturation_and_speech_depend_on_the_label() -> None:
    """The same person, ill and healthy: everything else about the visit is the same."""
    ill = admit(Hospital(participants=30, prevalence=1.0))
    healthy = admit(Hospital(participants=30, prevalence=0.0))

    assert healthy == [
        replace(person, label="absent", spo2_percent=other.spo2_percent)
        for person, other in zip(ill, healthy, strict=True)
    ]


def test_saturation_follows_the_label_policy() -> None:
    """ri-v1: present is below 92 %, absent 95 % or more, and nobody is in between."""
    people = admit(Hospital(participants=300))

    assert {person.spo2_percent for person in of_label(people, "present")} == set(range(80, 92))
    assert {person.spo2_percent for person in of_label(people, "absent")} == set(range(95, 100))


def test_people_are_adults_of_both_sexes_at_all_sites_and_devices() -> None:
    """Under 18 is outside intended use; every configured site and device is used."""
    config = Hospital(participants=300, sites=4)

    people = admit(config)

    assert min(person.age for person in people) >= 18
    assert {person.sex for person in people} == {"female", "male"}
    assert {person.site for person in people} == set(config.site_names)
    assert {person.device for person in people} == set(config.devices)


def test_a_larger_hospital_has_the_same_circumstances_for_the_same_pseudonym() -> None:
    """What a person is drawn as hangs on the pseudonym, not on how many others there are."""
    few = {person.id: person for person in admit(Hospital(participants=10, prevalence=0.0))}
    many = {person.id: person for person in admit(Hospital(participants=50, prevalence=0.0))}

    assert few.items() <= many.items()


@pytest.mark.parametrize(
    ("shortcut", "ill", "healthy"),
    [
        ("ward-noise", lambda p: p.noise == "ward" and 10 <= p.snr_db <= 15, None),
        ("level", lambda p: p.peak <= 0.42, lambda p: p.peak >= 0.56),
        ("device", lambda p: p.device in DEVICES[:3], lambda p: p.device in DEVICES[3:]),
        ("site", lambda p: p.site == "site-1", lambda p: p.site in ("site-2", "site-3")),
    ],
)
def test_a_shortcut_couples_as_strongly_as_it_says(
    shortcut: ShortcutName,
    ill: Callable[[Participant], bool],
    healthy: Callable[[Participant], bool] | None,
) -> None:
    """1: the label sets everybody's nuisance; 0.7: that of 70 %; 0: nobody's."""
    healthy = healthy or (lambda person: person.noise == "quiet" and person.snr_db >= 25)
    perfect = admit(Hospital(participants=400, shortcuts={shortcut: 1.0}))
    partial = admit(Hospital(participants=400, shortcuts={shortcut: 0.7}))

    assert all(ill(person) for person in of_label(perfect, "present"))
    assert all(healthy(person) for person in of_label(perfect, "absent"))
    coupled = [person for person in partial if person.coupled]
    assert len(coupled) / 400 == pytest.approx(0.7, abs=0.06)
    assert all((ill if p.label == "present" else healthy)(p) for p in coupled)
    assert admit(Hospital(participants=400, shortcuts={shortcut: 0.0})) == admit(
        Hospital(participants=400)
    )


def test_shortcuts_are_planted_independently() -> None:
    """Planting one does not change another's draws, nor anything that it does not set."""
    level = admit(Hospital(participants=200, shortcuts={"level": 0.5}))
    both = admit(Hospital(participants=200, shortcuts={"level": 0.5, "site": 1.0}))

    assert [p.peak for p in level] == [p.peak for p in both]
    assert [p.device for p in level] == [p.device for p in both]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"shortcuts": {"ward_noise": 0.9}}, "did you mean ward-noise?"),
        ({"shortcuts": {"moon": 0.9}}, f"known: {', '.join(SHORTCUTS)}"),
        ({"shortcuts": {"level": 1.5}}, "strength 1.5 is not between 0 and 1"),
        ({"shortcuts": {"site": 0.5}, "sites": 1}, "needs at least two sites"),
        ({"shortcuts": {"device": 0.5}, "devices": ("phone-mp4",)}, "needs at least two devices"),
        ({"duration_s": (2.0, 3.0)}, "need 6 <= shortest"),
        ({"snr_db": (30.0, 20.0)}, "snr_db"),
        ({"devices": ("phone-mp4", "phone-mp4")}, "one is named twice"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], said: str) -> None:
    """With the value, and what would be right."""
    with pytest.raises(InputError, match=said.replace("?", r"\?")):
        Hospital(**values)


def test_all_mistakes_are_told_at_once() -> None:
    """One run is enough to learn of all of them."""
    with pytest.raises(InputError) as caught:
        Hospital(duration_s=(1.0, 2.0), shortcuts={"level": 2.0, "site": -1.0})

    assert len(caught.value.mistakes) == 3
