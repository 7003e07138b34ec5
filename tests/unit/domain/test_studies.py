"""Studies: what they accept and when, whom they want, and what no new version may change."""

from datetime import datetime
from typing import Any

import pytest
from pydantic import ValidationError

from spira.domain.answers import Sentence
from spira.domain.studies import Stratum, Study, accepts, forbidden_changes

WORDS = {"pt": "palavras", "en": "words"}
NUMBER = {"name": "record_number", "kind": "text", "title": WORDS, "identifying": True}
APPROVAL = {
    "caae": "12345678.9.0000.1234",
    "valid_from": "2026-03-01",
    "valid_until": "2026-12-31",
    "consent_versions": ["1"],
}


def choice(name: str, *values: str) -> dict[str, Any]:
    """A field with choices."""
    choices = [{"value": value, "title": WORDS} for value in values]
    return {"name": name, "kind": "choice", "title": WORDS, "choices": choices}


def fields() -> list[dict[str, Any]]:
    """Those that every form has."""
    return [
        {"name": "age", "kind": "whole", "title": WORDS, "possible": {"low": 0, "high": 125}},
        choice("sex", "female", "male"),
        {
            "name": "research_consent",
            "kind": "yes_no",
            "title": WORDS,
            "yes_needs": "consent_form_version",
        },
        {"name": "consent_form_version", "kind": "text", "title": WORDS},
        choice("consent_given_by", "participant", "legal_representative"),
        choice("consent_how", "spoken", "paper", "electronic"),
    ]


def form(version: int = 1, *more: dict[str, Any]) -> dict[str, Any]:
    """The form of a visit, with more fields at its end."""
    return {"id": "visit", "version": version, "title": WORDS, "fields": [*fields(), *more]}


def site(name: str = "ward", hospital: str = "north") -> dict[str, Any]:
    """A site."""
    return {"name": name, "hospital": hospital, "title": {"pt": "Enfermaria", "en": "Ward"}}


def study(**changes: Any) -> Study:
    """A small study."""
    described: dict[str, Any] = {
        "id": "breath",
        "version": 1,
        "title": WORDS,
        "sites": [site()],
        "protocol": [
            {"utterance": "sentence", "title": WORDS, "instruction": WORDS, "minimum_s": 4}
        ],
        "forms": [form()],
        "consents": [{"version": "1", "text": WORDS}],
        "withdrawal": {"trained_models": "retrain", "owner": "the study's office"},
    }
    return Study.model_validate(described | changes)


def at(text: str) -> datetime:
    """A time."""
    return datetime.fromisoformat(text)


# ---- what it accepts


def test_a_study_without_an_approval_accepts_synthetic_data_only() -> None:
    """Whatever the time; the sentence says why, in both languages."""
    now = at("2026-11-26T06:00+00:00")

    assert accepts(study(), now, synthetic=True) is None
    assert accepts(study(), now, synthetic=False) == Sentence(
        pt="Estudo sem aprovação ética registrada: só aceita dados sintéticos.",
        en="A study without an ethics approval on record: it accepts synthetic data only.",
    )


@pytest.mark.parametrize(
    ("moment", "accepted"),
    [
        ("2026-03-01T02:59:59+00:00", False),  # still February in Brasília
        ("2026-03-01T03:00:00+00:00", True),
        ("2026-02-28T23:30:00-05:00", True),
        ("2027-01-01T02:59:59+00:00", True),  # the last evening
        ("2027-01-01T03:00:00+00:00", False),
    ],
)
def test_an_approval_counts_whole_days_of_brasilia(moment: str, accepted: bool) -> None:
    """Both the first and the last; outside them synthetic data is still accepted."""
    approved = study(ethics=APPROVAL)

    assert (accepts(approved, at(moment), synthetic=False) is None) == accepted
    assert accepts(approved, at(moment), synthetic=True) is None


def test_a_consent_form_that_the_approval_does_not_cover_is_refused() -> None:
    """Though it is a text of the study; the sentence names those that are covered."""
    texts = [{"version": "1", "text": WORDS}, {"version": "2", "text": WORDS}]
    approved = study(ethics=APPROVAL, consents=texts)
    now = at("2026-11-26T06:00+00:00")

    said = accepts(approved, now, synthetic=False, consent_version="2")

    assert accepts(approved, now, synthetic=False, consent_version="1") is None
    assert said is not None
    assert "covers: 1." in said.en


# ---- whom it wants


def test_a_target_stands_for_every_combination_of_what_it_names() -> None:
    """What it does not name does not matter; one value may stand without brackets."""
    wanted = study(
        age_bands=["18-59", "60+"],
        targets=[
            {"people": 5, "sex": ["female", "male"], "ages": "60+", "label": ["present", "absent"]},
            {"people": 9, "site": "ward"},
        ],
    ).strata

    assert wanted == {
        **{
            Stratum(sex=sex, ages="60+", site=None, label=label): 5
            for sex in ("female", "male")
            for label in ("present", "absent")
        },
        Stratum(sex=None, ages=None, site="ward", label=None): 9,
    }


# ---- what is wrong in it


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sites": [site(), site()]}, "sites.1.name: ward is there twice"),
        (
            {"ethics": APPROVAL | {"valid_until": "2026-02-28"}},
            "valid_until: is before valid_from, 2026-03-01",
        ),
        (
            {"ethics": APPROVAL | {"consent_versions": ["1", "3"]}},
            "ethics.consent_versions.1: there is no consent text of version 3",
        ),
        (
            {"forms": [form(1, NUMBER | {"identifying": False})]},
            "forms.0.fields.6: record_number must be identifying",
        ),
        (
            {"forms": [form(1, NUMBER | {"longest": 101})]},
            "forms.0.fields.6: record_number may have at most longest: 100",
        ),
        (
            {"forms": [form() | {"fields": fields()[1:]}]},
            "forms.0.fields: age is missing (whole), which every visit needs",
        ),
        (
            {"forms": [form() | {"fields": [*fields()[:5], choice("consent_how", "phone")]}]},
            "forms.0.fields.5: consent_how must be choice with choices among spoken, paper",
        ),
        (
            {"age_bands": ["18-59", "59-79"]},
            "age_bands.1: 59-79 does not begin after 18-59 ends",
        ),
        ({"age_bands": ["60-18"]}, "age_bands.0: 60-18 ends before it begins"),
        (
            {"age_bands": ["60+", "90+"]},
            "age_bands.1: 90+ does not begin after 60+ ends",
        ),
        (
            {"targets": [{"people": 1, "site": "wart"}]},
            "targets.0.site: wart is not among sites; did you mean ward?",
        ),
        (
            {"targets": [{"people": 1, "sex": "male"}, {"people": 2, "sex": ["female", "male"]}]},
            "targets.1: names a stratum that has a target already",
        ),
        (
            {"targets": [{"people": 1, "sex": ["male", "male"]}]},
            "targets.0: names a stratum that has a target already",
        ),
        ({"title": {"pt": "título", "en": " "}}, "title.en: is empty; both languages are needed"),
        (
            {"consents": [{"version": "1", "text": {"pt": "", "en": "text"}}]},
            "consents.0.text.pt: is empty",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], said: str) -> None:
    """With the place and what would be right."""
    with pytest.raises(ValidationError) as refused:
        study(**changes)

    assert said in str(refused.value)


def test_everything_that_does_not_fit_is_told_at_once() -> None:
    """Mistakes of several parts of one study."""
    with pytest.raises(ValidationError) as refused:
        study(sites=[site(), site()], age_bands=["60-18"], targets=[{"people": 1, "ages": "20+"}])

    said = str(refused.value)
    assert all(part in said for part in ("there twice", "before it begins", "among age_bands"))


# ---- what may follow


def test_a_new_version_may_change_what_is_not_yet_collected() -> None:
    """Prompts, targets, a site more, a longer approval; a form under another version."""
    before = study()
    after = study(
        version=2,
        title={"pt": "outro", "en": "another"},
        sites=[site(), site("clinic", "south")],
        ethics=APPROVAL,
        forms=[form(2, {"name": "tired", "kind": "yes_no", "title": WORDS})],
        consents=[{"version": "2", "text": WORDS}, {"version": "1", "text": WORDS}],
    )

    assert forbidden_changes(after, [before]) == ()
    assert forbidden_changes(before, []) == ()


def test_an_applied_version_is_not_changed() -> None:
    """What differs is named, and the next free number."""
    changed = study(version=1, ethics=APPROVAL)

    assert forbidden_changes(changed, [study(), study(version=4)]) == (
        "study breath: version 1 is applied already and cannot be changed (ethics); "
        "give this one version: 5",
    )


def test_a_version_older_than_the_latest_is_refused() -> None:
    """Whoever asks for the latest would never see it."""
    assert forbidden_changes(study(version=2), [study(version=1), study(version=3)]) == (
        "study breath: version 2 is older than 3, which is applied; give this one version: 4",
    )


def test_a_form_keeps_its_content_under_its_version() -> None:
    """Also when the study has a new number, and another version of the form came in between."""
    tired = {"name": "tired", "kind": "yes_no", "title": WORDS}
    applied = [study(), study(version=2, forms=[form(2, tired)])]

    assert forbidden_changes(study(version=3, forms=[form(1, tired)]), applied) == (
        "study breath: form visit, version 1, was applied with other content (fields: tired), and "
        "what was collected keeps it; give the changed form version: 3",
    )
    assert forbidden_changes(study(version=3, forms=[form(1)]), applied) == ()
    reordered = form() | {"fields": fields()[::-1]}
    assert forbidden_changes(study(version=3, forms=[reordered]), applied) == (
        "study breath: form visit, version 1, was applied with other content (its title, or the "
        "order of its fields), and what was collected keeps it; "
        "give the changed form version: 3",
    )


def test_words_that_people_agreed_to_are_not_changed() -> None:
    """Not even the translation."""
    other = [{"version": "1", "text": WORDS | {"en": "other words"}}]

    (said,) = forbidden_changes(study(version=2, consents=other), [study()])

    assert said.startswith("study breath: consent text 1 was applied with other words")


def test_a_site_stays_with_the_hospital_whose_key_hides_its_record_numbers() -> None:
    """Else a person's second visit would have another hash."""
    (said,) = forbidden_changes(study(version=2, sites=[site(hospital="south")]), [study()])

    assert said.startswith("study breath: site ward was of hospital north")
