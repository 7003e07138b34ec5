"""Study files: the one that ships, and what is said of a bad one."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from spira.collection.studies import compose, default_study, read_study
from spira.domain.errors import InputError
from spira.domain.forms import check
from spira.domain.recordings import UTTERANCES
from spira.domain.studies import Study, accepts
from spira.synthetic.records import Hospital


@pytest.fixture
def default(tmp_path: Path) -> Study:
    """The study that ships."""
    file = tmp_path / "spira.yaml"
    file.write_text(default_study(), encoding="utf-8")
    return read_study(file)


def mistakes(file: Path, text: str) -> list[str]:
    """What is wrong with a study file, without the file's name."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        read_study(file)
    return [mistake.removeprefix(str(file)) for mistake in refused.value.mistakes]


def line(text: str, part: str) -> int:
    """The number of the first line that has a part."""
    return next(n for n, each in enumerate(text.splitlines(), start=1) if part in each)


def test_the_study_that_ships_is_the_protocol_and_accepts_synthetic_data_only(
    default: Study,
) -> None:
    """Consent, room, vowel, rhyme, sentence, room; the synthetic hospital's wards; no approval."""
    now = datetime.now(UTC)

    assert [step.utterance for step in default.protocol] == [
        "consent",
        "ambient_before",
        "vowel",
        "rhyme",
        "sentence",
        "ambient_after",
    ]
    assert {step.utterance for step in default.protocol} == set(UTTERANCES) - {"other"}
    assert tuple(site.name for site in default.sites) == Hospital().site_names
    assert accepts(default, now, synthetic=False) is not None
    assert accepts(default, now, synthetic=True) is None
    assert sum(default.strata.values()) == 240
    assert {stratum.label for stratum in default.strata} == {"present", "absent"}


def test_what_is_spoken_has_a_prompt_and_the_room_has_none(default: Study) -> None:
    """Nobody may be heard in a recording of the room."""
    without = {step.utterance for step in default.protocol if step.prompt is None}

    assert without == {"ambient_before", "ambient_after"}


def test_the_form_that_ships_takes_a_visit(default: Study) -> None:
    """Of somebody without a record number; and nothing without consent to the study."""
    (form,) = default.forms
    values = {
        "age": 70,
        "sex": "female",
        "language": "pt-BR",
        "mask": "none",
        "tracheostomy": False,
        "research_consent": True,
        "consent_form_version": "1",
        "consent_given_by": "legal_representative",
        "consent_how": "spoken",
        "consent_witness": "companion",
    }

    assert not check(form, values).refused
    assert not check(form, values).marks
    assert set(check(form, values | {"research_consent": False}).refused) == {"research_consent"}
    assert set(check(form, {}).refused) >= {"age", "sex", "research_consent", "consent_how"}
    hidden = check(form, values | {"record_number": "12.345"})
    assert "record_number" not in hidden.kept
    assert hidden.identifying == {"record_number": "12.345"}


def test_a_study_is_written_as_it_is_read(default: Study, tmp_path: Path) -> None:
    """What `show` prints is the same study, also with its approval."""
    approved = Study.model_validate(
        default.model_dump()
        | {
            "ethics": {
                "caae": "12345678.9.0000.1234",
                "valid_from": "2026-01-01",
                "valid_until": "2026-12-31",
                "consent_versions": ["1"],
            }
        }
    )
    for study in (default, approved):
        file = tmp_path / "again.yaml"
        file.write_text(compose(study), encoding="utf-8")
        assert read_study(file) == study


def test_values_are_taken_as_they_are_written(tmp_path: Path) -> None:
    """A version 1.10 is not 1.1, and a choice `no` is not false."""
    text = default_study().replace('version: "1"', "version: 1.10").replace("none", "no")
    file = tmp_path / "study.yaml"
    file.write_text(text, encoding="utf-8")

    study = read_study(file)

    mask = next(field for field in study.forms[0].fields if field.name == "mask")
    assert study.consents[0].version == "1.10"
    assert mask.choices[0].value == "no"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("id: spira", "id: SPIRA", "id: must be 1 to 32 lower-case letters"),
        ("version: 1\ntitle", "version: 0\ntitle", "version: input should be greater than or"),
        ("language: pt-BR", "language: português", "language: must be a language, as pt-BR"),
        ("    hospital: synthetic", "    hopital: synthetic", "unknown key sites.0.hopital; did"),
        ("utterance: vowel", "utterance: vowels", "protocol.2.utterance: input should be"),
        ("utterance: vowel", "utterance: rhyme", "protocol.3.utterance: rhyme is there twice"),
        ("minimum_s: 3\n", "minimum_s: short\n", "protocol.0.minimum_s: input should be a valid"),
        ("minimum_s: 3\n", "minimum_s: 0\n", "protocol.0.minimum_s: input should be greater"),
        ("  pt: Indícios de insu", "  pr: Indícios de insu", "unknown key title.pr; did you"),
        ("kind: whole", "kind: integer", "forms.0.fields.1.kind: input should be 'text'"),
        ("kind: whole", "kind: number", "forms.0.fields.1: age must be whole"),
        ("high: 105}", "high: 130}", "forms.0.fields.1: field age: what is plausible must be"),
        ("- name: sex", "- name: gender", "forms.0.fields: sex is missing (choice with choices"),
        ("- name: sex", "- name: age", "forms.0: form visit: a field is there twice"),
        ("identifying: true", "required: false", "forms.0.fields.0: record_number must be"),
        ("80+]\ntargets", "eighty]\ntargets", "age_bands.3: must be ages in years, both"),
        ("site: [site-1", "site: [ward-1", "targets.0.site: ward-1 is not among sites"),
        ("people: 5", "people: 0", "targets.0.people: input should be greater than or equal"),
        ("label: [present, absent]", "label: unknown", "targets.0.label.0: input should be"),
        ("trained_models: retire_at", "trained_models: forget_at", "withdrawal.trained_models:"),
    ],
)
def test_a_mistake_names_line_and_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    """And what would be right; the rest of the file is well."""
    text = default_study()
    assert old in text
    broken = text.replace(old, new, 1)

    found = mistakes(tmp_path / "study.yaml", broken)

    assert any(said in mistake for mistake in found), found
    assert all(mistake.startswith(", line ") or "is missing" in mistake for mistake in found)


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    """Each with its own line."""
    text = (
        default_study()
        .replace("language: pt-BR    #", "langage: pt-BR    #")
        .replace("utterance: vowel", "utterance: aaa")
        .replace("people: 5", "people: many")
    )

    found = mistakes(tmp_path / "study.yaml", text)

    expected = [line(text, part) for part in ("langage: ", "utterance: aaa", "people: many")]
    assert sorted(int(each.split(":")[0].removeprefix(", line ")) for each in found) == expected


@pytest.mark.parametrize(
    "text",
    ["", "- a list", "id: [", "just words", "id: spira\nid: spira", "\x00", "sites: &a [*a]"],
)
def test_what_is_no_study_at_all_is_refused_in_words(tmp_path: Path, text: str) -> None:
    """Nothing, a list, half a file, a control character, an endless one."""
    assert all(mistake.startswith((":", ", line")) for mistake in mistakes(tmp_path / "f", text))


def test_a_file_that_is_not_there_is_refused_in_words(tmp_path: Path) -> None:
    """With its name and why."""
    with pytest.raises(InputError, match=r"no\.yaml: cannot be read"):
        read_study(tmp_path / "no.yaml")
