"""Shortcut audits: what they catch, what they let pass, and what they cannot tell."""

import inspect
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from spira.domain.answers import OperatingPoint
from spira.evaluation.audits import (
    acquisition_audit,
    acquisition_table,
    background_audit,
    level_warns,
    noise_audit,
    physiology_audits,
)
from spira.evaluation.results import Audit

POINT = OperatingPoint(
    threshold=0.5, band_low=0.45, band_high=0.55, temperature=1.0, prevalence=0.5
)


def people(n: int) -> pl.DataFrame:
    """n people of each class, one recording each, the model nearly always right."""
    rng = np.random.default_rng(n)
    label = np.repeat(["present", "absent"], n)
    logits = rng.normal(size=2 * n) + np.where(label == "present", 2.5, -2.5)
    return pl.DataFrame(
        {
            "recording_id": [f"r{i}" for i in range(2 * n)],
            "participant_id": [f"p{i}" for i in range(2 * n)],
            "label": label,
            "logit": logits,
            "probability": expit(logits),
        }
    )


def shifted(clean: pl.DataFrame, by: float) -> pl.DataFrame:
    """The same recordings with noise that moves every logit."""
    return clean.with_columns(probability=pl.Series(expit(clean["logit"].to_numpy() + by)))


def of(label: str, predictions: pl.DataFrame) -> pl.DataFrame:
    """The rows of one label."""
    return predictions.filter(pl.col("label") == label)


def noise(n: int, on_present: float, on_absent: float, *, limit: float = 0.10) -> Audit:
    """The noise audit of n people a class whose logits noise moves by so much."""
    clean = people(n)
    return noise_audit(
        clean,
        of("present", shifted(clean, on_present)),
        of("absent", shifted(clean, on_absent)),
        POINT,
        limit=limit,
    )


def test_noise_that_changes_nothing_passes_with_eighty_people() -> None:
    """No answer changes: the bound is z² / (80 + z²) = 0.033, and the audit passes."""
    found = noise(80, 0, 0)

    assert found.verdict == "pass"
    assert found.refuses
    assert found.estimate.value == 0
    assert found.bound == pytest.approx(0.0327, abs=1e-4)
    assert [part.verdict for part in found.parts] == ["pass", "pass"]


@pytest.mark.parametrize("n", [15, 24])
def test_noise_audit_of_few_people_never_passes(n: int) -> None:
    """Even without any change, 15 (and 24) people a class are not enough."""
    assert noise(n, 0, 0).verdict == "not enough data"


def test_noise_audit_passes_from_twenty_five_people() -> None:
    """25 people a class are the fewest that can pass at the default limit."""
    assert noise(25, 0, 0).verdict == "pass"


@pytest.mark.parametrize(
    ("on_present", "on_absent", "part", "sign"),
    [
        (0, 3.0, "specificity", -1),  # noise sounds ill: controls become patients
        (-3.0, 0, "sensitivity", -1),  # noise sounds well: patients become controls
    ],
)
@pytest.mark.parametrize("n", [15, 80])
def test_noise_that_moves_answers_fails_whatever_the_sample(
    n: int, on_present: float, on_absent: float, part: str, sign: int
) -> None:
    """A clear change fails, with few people too, and names the figure that moved."""
    found = noise(n, on_present, on_absent)

    assert found.verdict == "fail"
    assert found.statistic == f"change of {part}"
    assert np.sign(found.estimate.value or 0) == sign
    assert (found.bound or 0) > 0.10


def test_noise_that_helps_is_a_change_as_well() -> None:
    """Patients whom the model finds only in noise are found by the noise."""
    clean = people(80).with_columns(logit=pl.col("logit") - 2.0)
    clean = shifted(clean, 0)

    found = noise_audit(
        clean, of("present", shifted(clean, 2.0)), of("absent", clean), POINT, limit=0.10
    )

    assert found.verdict == "fail"
    assert (found.estimate.value or 0) > 0.10


def test_change_that_may_be_beyond_the_limit_fails_in_doubt() -> None:
    """Six of 80 changed: 0.075 is under the limit, its bound is not, and the sentence says so."""
    clean = people(80)
    flipped = of("absent", clean).with_row_index()
    flipped = flipped.with_columns(
        probability=pl.when(pl.col("index") < 6).then(0.99).otherwise(0.01)
    ).drop("index")
    quiet = clean.with_columns(
        probability=pl.when(pl.col("label") == "absent").then(0.01).otherwise(0.99)
    )

    found = noise_audit(quiet, of("present", quiet), flipped, POINT, limit=0.10)

    assert found.estimate.value == pytest.approx(-6 / 80)
    assert found.verdict == "fail"
    assert "na dúvida" in found.explanation.pt
    assert noise_audit(quiet, of("present", quiet), flipped, POINT, limit=0.2).verdict == "pass"


def test_noise_audit_counts_participants_and_not_recordings() -> None:
    """Ten recordings each of 15 people are 15 people."""
    clean = people(15)
    many = pl.concat(
        [clean.with_columns(recording_id=pl.col("recording_id") + f"-{i}") for i in range(10)]
    )

    found = noise_audit(many, of("present", many), of("absent", many), POINT, limit=0.10)

    assert found.verdict == "not enough data"
    assert found.estimate.n == 15


def test_noise_audit_compares_the_same_recordings() -> None:
    """Recordings that got no noise are not compared; a noisy one of nobody is a mistake."""
    clean = people(80)
    some = of("present", clean).head(30)

    found = noise_audit(clean, some, of("absent", clean), POINT, limit=0.10)

    assert [part.estimate.n for part in found.parts] == [30, 80]
    with pytest.raises(ValueError, match="same recording_id"):
        noise_audit(clean.head(10), some, some.clear(), POINT, limit=0.10)


def test_noise_audit_without_recordings_is_not_enough_data() -> None:
    """Nothing was made noisy: no figure, no error, no pass."""
    clean = people(5)

    found = noise_audit(clean, clean.clear(), clean.clear(), POINT, limit=0.10)

    assert (found.verdict, found.bound, found.estimate.value) == ("not enough data", None, None)


def test_noise_audit_speaks_both_languages_with_its_figures() -> None:
    """The physician reads counts, both changes, the bound and the limit."""
    found = noise(80, 0, 0)

    assert "80 pessoas com insuficiência respiratória" in found.explanation.pt
    assert "3,3 pontos percentuais" in found.explanation.pt
    assert "3.3 percentage points" in found.explanation.en
    assert "o limite é 10." in found.explanation.pt


def ambient(n: int, by_label: float, *, seed: int = 0) -> pl.DataFrame:
    """Two ambient recordings a person; `by_label` moves the model's answer for the ill."""
    rng = np.random.default_rng(seed)
    label = np.repeat(["present", "absent"], n)
    logits = rng.normal(size=2 * n) + by_label * (label == "present")
    one = pl.DataFrame(
        {
            "participant_id": [f"p{i}" for i in range(2 * n)],
            "label": label,
            "probability": expit(logits),
        }
    )
    return pl.concat([one, one])


def test_background_without_information_passes_with_eighty_people() -> None:
    """Answers about empty rooms that follow no label pass, their two recordings counted once."""
    found = background_audit(ambient(80, 0), limit=0.65)

    assert found.verdict == "pass"
    assert found.estimate.n == 160
    assert 0.5 < (found.bound or 1) < 0.65


@pytest.mark.parametrize("by_label", [2.0, -2.0])
@pytest.mark.parametrize("n", [15, 80])
def test_background_that_tells_the_label_fails_either_way(n: int, by_label: float) -> None:
    """An AUROC near 0 is as much of a shortcut as one near 1."""
    found = background_audit(ambient(n, by_label), limit=0.65)

    assert found.verdict == "fail"
    assert (found.bound or 0) > 0.9
    assert "ambiente" in found.explanation.pt


def test_background_says_when_it_had_only_silences_to_hear() -> None:
    """Without ambient recordings the sentence speaks of silences between words."""
    found = background_audit(ambient(80, 0), limit=0.65, gaps=True)

    assert "silêncios entre as palavras" in found.explanation.pt
    assert "silences between words" in found.explanation.en


def test_background_of_few_people_never_passes() -> None:
    """With 15 people a class nothing can pass, not even answers that are all equal."""
    equal = ambient(15, 0).with_columns(probability=pl.lit(0.3))

    assert background_audit(ambient(15, 0), limit=0.65).verdict == "not enough data"
    assert background_audit(equal, limit=0.65).verdict == "not enough data"
    assert background_audit(ambient(80, 0).clear(), limit=0.65).verdict == "not enough data"


def test_background_holds_its_promise() -> None:
    """A model truly at the limit passes at most about 5 times in 100; an innocent one 9 in 10."""
    at_limit = np.sqrt(2) * 0.38532  # normal scores: AUROC 0.65
    innocent = [background_audit(ambient(80, 0, seed=s), limit=0.65).verdict for s in range(100)]
    guilty = [background_audit(ambient(80, at_limit, seed=s), limit=0.65) for s in range(100)]

    assert innocent.count("pass") >= 82
    assert sum(found.verdict == "pass" for found in guilty) <= 12


def recordings(
    n: int, *, codec_coupled: float = 0.0, room_coupled: float = 0.0, seed: int = 0
) -> pl.DataFrame:
    """A dataset's table: n people a class, a sentence and an ambient recording each."""
    rng = np.random.default_rng(seed)
    ill = np.arange(2 * n) < n
    opus = rng.random(2 * n) < 0.5 + 0.5 * codec_coupled * np.where(ill, 1, -1)
    room = rng.normal(-50, 4, 2 * n) + 8 * room_coupled * ill
    hours = rng.integers(0, 24, 2 * n)
    # Patients pause, so the floor of their sentence is the room; controls hardly do.
    floor = np.where(ill, room - 5, rng.normal(-35, 2, 2 * n))
    common = {
        "participant_id": [f"p{i}" for i in range(2 * n)],
        "visit_id": [None if i % 4 else f"v{i}" for i in range(2 * n)],
        "label": np.where(ill, "present", "absent").tolist(),
        "container": np.where(opus, "webm", "wav").tolist(),
        "codec": np.where(opus, "opus", "pcm_s16le").tolist(),
        "rate_hz": [48_000] * (2 * n),
        "channels": [1] * (2 * n),
        "device": [None if i % 3 == 0 else "phone" for i in range(2 * n)],
        "site": rng.choice(["a", "b", "c"], 2 * n).tolist(),
        "recorded_at": [f"2021-05-{1 + i % 28:02}T{h:02}:30:00-03:00" for i, h in enumerate(hours)],
    }
    sentences = pl.DataFrame(common).with_columns(
        utterance=pl.lit("sentence"),
        noise_floor_dbfs=pl.Series(floor),
        level_dbfs=pl.lit(-20.0),
        speech_level_dbfs=pl.Series(rng.normal(-20, 3, 2 * n)),
        speech_s=pl.Series(8.0 - 2.0 * ill + rng.normal(size=2 * n)),
        pause_total_s=pl.Series(1.0 + 3.0 * ill + rng.normal(size=2 * n)),
    )
    empty = sentences.with_columns(
        utterance=pl.lit("ambient_before"),
        level_dbfs=pl.Series(room),
        noise_floor_dbfs=pl.Series(room - 5),
    )
    return pl.concat([sentences, empty])


def acquired(table: pl.DataFrame) -> Audit:
    """The acquisition audit of a dataset."""
    return acquisition_audit(acquisition_table(table, utterance="sentence"), limit=0.65)


def test_acquisition_without_coupling_passes() -> None:
    """Codec, site, hour and room that follow no label pass with 160 people a class."""
    found = acquired(recordings(160))

    assert found.verdict == "pass"
    assert found.estimate.n == 320
    assert "codec" in found.explanation.pt
    assert "canais" not in found.explanation.pt  # the same for everybody: nothing to know


@pytest.mark.parametrize(("codec", "room"), [(0.9, 0.0), (0.0, 1.5)])
def test_acquisition_that_follows_the_label_fails(codec: float, room: float) -> None:
    """A codec or a loud ward planted on the ill is found."""
    found = acquired(recordings(80, codec_coupled=codec, room_coupled=room))

    assert found.verdict == "fail"
    assert (found.estimate.value or 0) > 0.85


def test_pauses_are_not_mistaken_for_a_quiet_room() -> None:
    """The floor of a sentence is set by its pauses; the ambient recordings know the room."""
    table = recordings(160)

    measured = acquisition_table(table, utterance="sentence")
    without = acquisition_table(
        table.filter(pl.col("utterance") == "sentence"), utterance="sentence"
    )

    assert "noise_floor_dbfs" not in measured.columns
    assert measured["room_level_dbfs"].null_count() == 0
    assert "room_level_dbfs" not in without.columns
    assert acquisition_audit(without, limit=0.65).verdict == "fail"
    assert "pausas" in acquisition_audit(without, limit=0.65).explanation.pt


def test_room_is_the_mean_of_the_visit_before_and_after() -> None:
    """Two ambient recordings of a visit are averaged; those of another visit do not count."""
    sentence = recordings(1).head(1).with_columns(visit_id=pl.lit("v1"))
    rooms = [
        sentence.with_columns(
            utterance=pl.lit(utterance), level_dbfs=pl.lit(level), visit_id=pl.lit(visit)
        )
        for utterance, level, visit in [
            ("ambient_before", -40.0, "v1"),
            ("ambient_after", -50.0, "v1"),
            ("ambient_after", -10.0, "v2"),
        ]
    ]

    measured = acquisition_table(pl.concat([sentence, *rooms]), utterance="sentence")

    assert measured["room_level_dbfs"].to_list() == [-45.0]


def test_acquisition_reads_the_hour_as_written() -> None:
    """Half past the hour of the place, whatever its time zone; unknown times are null."""
    table = recordings(3).with_columns(
        recorded_at=pl.Series(["2021-05-01T23:30:00-03:00", None, "2021-05-01", *["x"] * 9])
    )

    hours = acquisition_table(table, utterance="sentence")["hour"].to_list()

    assert hours == [23.5, None, None, None, None, None]


def test_the_same_data_have_the_same_verdict() -> None:
    """Folds are the audit's own: there is no seed to try again with until it passes."""
    table = acquisition_table(recordings(40, codec_coupled=0.3), utterance="sentence")

    once = acquisition_audit(table, limit=0.65)

    assert acquisition_audit(table.sample(fraction=1, shuffle=True, seed=3), limit=0.65) == once
    assert "seed" not in inspect.signature(acquisition_audit).parameters
    assert "seed" not in inspect.signature(physiology_audits).parameters


def test_acquisition_survives_poor_tables() -> None:
    """Nothing known, nothing varying, all missing, one class, two people: no error, no pass."""
    table = acquisition_table(recordings(80), utterance="sentence")
    bare = table.select("participant_id", "label")
    empty = table.with_columns(pl.lit(None, dtype=pl.Float64).alias("room_level_dbfs"))

    nothing_known = acquisition_audit(bare, limit=0.65)

    assert nothing_known.estimate.value == 0.5
    assert nothing_known.verdict == "pass"  # 80 people a class, and nothing to tell them apart by
    assert acquisition_audit(empty, limit=0.65).verdict in ("pass", "fail")
    for poor in (of("present", table), table.head(1), table.clear()):
        assert acquisition_audit(poor, limit=0.65).verdict == "not enough data"
    few = acquisition_table(recordings(15), utterance="sentence")
    assert acquisition_audit(few, limit=0.65).verdict == "not enough data"


def test_acquisition_never_trains_on_the_person_it_guesses() -> None:
    """A codec of one's own identifies each person; grouped folds make that worthless."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(60), 6)
    table = pl.DataFrame(
        {
            "participant_id": [f"p{i}" for i in who],
            "label": ["present" if i % 2 else "absent" for i in who],
            "room_level_dbfs": rng.normal(size=60)[who],
            **{name: [f"{name}{i}" for i in who] for name in ("codec", "device")},
        }
    )

    found = acquisition_audit(table, limit=0.65)

    assert found.estimate.n == 60
    assert (found.estimate.value or 1) < 0.65


def test_physiology_is_reported_and_never_refuses() -> None:
    """Timing separates, level does not; neither has a limit or a verdict."""
    table = recordings(60).filter(pl.col("utterance") == "sentence")

    found = physiology_audits(table, timing=["pause_total_s"])

    assert [each.name for each in found] == ["timing", "level", "speech"]
    assert all((each.limit, each.verdict, each.refuses) == (None, None, False) for each in found)
    timing, level, speech = (each.estimate.value or 0 for each in found)
    assert timing > 0.9
    assert speech > 0.8
    assert level < 0.65


def test_a_level_that_tells_people_apart_is_not_called_physiology() -> None:
    """It may be the microphone; pauses are the illness itself."""
    table = recordings(60).filter(pl.col("utterance") == "sentence")
    louder = table.with_columns(
        speech_level_dbfs=pl.col("speech_level_dbfs") + 6 * (pl.col("label") == "present")
    )

    timing, level, _ = physiology_audits(louder, timing=["pause_total_s"])
    _, fair, _ = physiology_audits(table, timing=["pause_total_s"])

    assert "Isto é fisiologia" in timing.explanation.pt
    assert "fisiologia" not in level.explanation.pt
    assert "a distância e o ganho do microfone" in level.explanation.pt
    assert level_warns(level)
    assert not level_warns(fair)
    assert not level_warns(timing)  # however well pauses tell people apart
    assert level.refuses is False


def test_a_pass_claims_no_more_than_its_limit() -> None:
    """An AUROC of 0.57 is not nothing: the sentence speaks of the limit."""
    found = acquired(recordings(160))

    assert found.explanation.pt.endswith("mais do que o limite permite.")
    assert found.explanation.en.endswith("no more than the limit allows.")


@pytest.mark.parametrize("timing", [[], ["not_measured"]])
def test_physiology_that_was_not_measured_has_no_value(timing: Sequence[str]) -> None:
    """A missing column gives a figure without a value and a sentence that says so."""
    table = recordings(10).filter(pl.col("utterance") == "sentence")

    found = physiology_audits(table.drop("speech_s"), timing=timing)

    assert [each.estimate.value is None for each in found] == [True, False, True]
    assert found[0].explanation.en == "There are no data for this figure."


def test_one_person_in_both_classes_is_no_obstacle() -> None:
    """Somebody recorded ill and again well takes part in every audit."""

    once = ambient(30, 0)
    again = once.head(30).with_columns(label=pl.lit("absent"))

    assert background_audit(pl.concat([once, again]), limit=0.65).estimate.n == 90
