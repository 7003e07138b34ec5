"""Where a model may answer, and in which words."""

from typing import Any, get_args

import pytest

from spira.domain.answers import REFUSED_SENTENCES, Envelope, OperatingPoint
from spira.domain.errors import RefusalReason
from spira.domain.recordings import Measurements, SourceFormat
from spira.model.prediction import (
    Declared,
    PresentShare,
    Undeclared,
    assumed,
    forced_sentence,
    how_sure,
    not_declared,
    outside,
    population,
)

ENVELOPE = Envelope(
    utterances=("sentence",),
    languages=("pt-BR",),
    age_min=18,
    age_max=90,
    sites=("s1", "s2"),
    devices=("phone-a", "phone-b"),
    sample_rates_hz=(16_000, 48_000),
    minimum_speech_s=1.0,
    n_people=160,
)
MEASURED = Measurements(
    duration_s=6.0,
    peak=0.5,
    level_dbfs=-24.0,
    speech_level_dbfs=-18.0,
    noise_floor_dbfs=-60.0,
    clipped_fraction=0.0,
    speech_s=4.0,
)


def source(rate_hz: int = 16_000) -> SourceFormat:
    """A plain file at a rate."""
    return SourceFormat(container="wav", codec="pcm_s16le", rate_hz=rate_hz, channels=1)


def reasons(
    rate_hz: int = 16_000, speech_s: float = 4.0, envelope: Envelope = ENVELOPE, **declared: Any
) -> list[str]:
    """The English reasons why a recording is not scored."""
    measured = MEASURED.model_copy(update={"speech_s": speech_s})
    found = outside(envelope, Declared(**declared), source(rate_hz), measured)
    return [reason.en for reason in found]


def test_inside_the_envelope_there_is_no_reason_against_answering() -> None:
    """Neither for what nobody declared, nor for what was declared and tested."""
    assert reasons() == []
    assert reasons(language="pt-BR", age=60, device="Phone-A", site="S1") == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"language": "en"}, "tested in pt-BR"),
        ({"language": "pt-PT"}, "tested in pt-BR"),
        ({"utterance": "vowel"}, "only scores: sentence"),
        ({"age": 17}, "under 18"),
        ({"age": 91}, "18 to 90 years"),
        ({"device": "tape"}, "Device not tested"),
        ({"site": "s3"}, "Site not tested. Tested: s1, s2"),
        ({"tracheostomy": True}, "with a tracheostomy"),
        ({"intubated": True}, "intubated"),
        ({"rate_hz": 8000}, "File of 8000 Hz"),
        ({"speech_s": 0.4}, "0.4 s of speech; at least 1.0 s"),
    ],
)
def test_outside_the_envelope_is_recorded_and_not_scored(given: dict[str, Any], said: str) -> None:
    """Each condition alone is a reason, in words that name what was tested."""
    (reason,) = reasons(**given)

    assert said in reason


def test_every_reason_is_given_at_once() -> None:
    """English digits at 8 kHz, hardly spoken: three reasons, not the first of them."""
    assert len(reasons(language="en", rate_hz=8000, speech_s=0.3)) == 3


@pytest.mark.parametrize("language", ["pt", "PT-br", "pt_BR"])
def test_a_language_may_be_written_in_more_than_one_way(language: str) -> None:
    """A tag without its region is taken for any region of the language."""
    assert reasons(language=language) == []


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 44_100, 192_000])
def test_rates_above_the_lowest_tested_one_are_inside(rate_hz: int) -> None:
    """Everything is resampled; only what a lower rate cut off would be missing."""
    assert reasons(rate_hz=rate_hz) == []


def test_somebody_too_breathless_to_finish_is_not_turned_away() -> None:
    """With `unfinished` no rule about length applies."""
    assert reasons(speech_s=0.4, unfinished=True) == []


def test_silence_is_not_scored_even_of_somebody_who_could_not_finish() -> None:
    """No speech at all is no voice: an answer would be about the room."""
    (reason,) = reasons(speech_s=0.0, unfinished=True)

    assert "0.0 s of speech" in reason


def test_an_age_is_never_repeated() -> None:
    """What was declared about a person does not come back in a sentence."""
    assert not any("97" in reason for reason in reasons(age=97))
    assert not any("13" in reason for reason in reasons(age=13))


def test_an_envelope_that_knows_little_excludes_little() -> None:
    """A corpus without ages, devices and rates; under 18 stays outside."""
    bare = Envelope(utterances=("sentence",), languages=("pt-BR",))

    assert reasons(envelope=bare, age=95, device="any", site="any", rate_hz=8000) == []
    assert len(reasons(envelope=bare, age=12)) == 1


def test_what_nobody_declared_is_said_to_be_assumed() -> None:
    """Short, in both languages; the language that is assumed is named."""
    nothing = not_declared(Declared())
    known = {"utterance": "sentence", "tracheostomy": False, "intubated": False}
    some = not_declared(Declared(language="pt-BR", age=60, **known))
    said, less = assumed(ENVELOPE, nothing), assumed(ENVELOPE, some)

    assert set(nothing) == set(get_args(Undeclared))
    assert said is not None
    assert less is not None
    assert said.pt == (
        "Não declarado, suposto como no teste: gravação (frase), língua (pt-BR), idade, aparelho, "
        "local, sem traqueostomia, sem intubação."
    )
    assert said.en == (
        "Not declared, taken to be as in the test: recording (sentence), language (pt-BR), age, "
        "device, site, no tracheostomy, not intubated."
    )
    assert less.en == "Not declared, taken to be as in the test: device, site."


def test_where_everything_was_declared_nothing_is_assumed() -> None:
    """No sentence."""
    whole = Declared(
        utterance="sentence",
        language="pt-BR",
        age=60,
        device="phone-a",
        site="s1",
        tracheostomy=False,
        intubated=False,
    )

    assert assumed(ENVELOPE, not_declared(whole)) is None


def test_how_sure_is_said_in_people_with_interval_and_prevalence() -> None:
    """CLINICAL.md's sentence; the interval is rounded outwards."""
    said = how_sure(PresentShare(value=0.404, low=0.289, high=0.531, prevalence=0.1))

    assert said.pt == (
        "No teste, de 100 pessoas com este resultado, cerca de 40 tinham IR "
        "(entre 28 e 54, se 10 em 100 têm)."
    )
    assert said.en.startswith("In the test, of 100 people with this result, about 40 had RI")


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "menos de 1 tinham"), (0.004, "menos de 1"), (0.999, "mais de 99"), (1.0, "mais de 99")],
)
def test_nobody_and_everybody_are_never_claimed(value: float, said: str) -> None:
    """ "about 0 of 100" would be false reassurance."""
    assert said in how_sure(PresentShare(value=value, prevalence=0.1)).pt


def test_how_sure_without_an_interval_still_names_the_prevalence() -> None:
    """What is not known is left out, not invented."""
    said = how_sure(PresentShare(value=0.4, prevalence=0.05))

    assert "(se 5 em 100 têm)" in said.pt


def test_for_whom_the_model_was_tested_is_one_line() -> None:
    """Ages, language and sites, or that they are not known."""
    assert population(ENVELOPE).pt == "Testado com 160 pessoas, 18 a 90 anos, pt-BR, 2 locais."
    bare = Envelope(utterances=("sentence",), languages=("pt-BR",), n_people=54)
    assert population(bare).en == "Tested on 54 people, ages not available, pt-BR."


def test_a_forced_score_has_decimal_commas_in_portuguese_only() -> None:
    """Each language writes numbers its own way."""
    point = OperatingPoint(
        threshold=0.52, band_low=0.5, band_high=0.6, temperature=1.0, prevalence=0.5
    )

    said = forced_sentence(point, 0.871)

    assert said.pt == "Pontuação 0,87 (limite 0,52)."
    assert said.en == "Score 0.87 (threshold 0.52)."


def test_every_reason_to_refuse_one_file_has_its_words() -> None:
    """Duplicates and labels are questions of a dataset, never of one file."""
    from typing import get_args

    of_datasets = {"duplicate"}
    assert set(REFUSED_SENTENCES) == set(get_args(RefusalReason)) - of_datasets
