"""One experiment, one file, all mistakes at once."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spira.domain.errors import InputError
from spira.training.experiments import (
    Cosine,
    Experiment,
    Noam,
    compose,
    parse_experiment,
    read_experiment,
)

ROOT = Path(__file__).parents[3]


def mistakes(text: str, *overrides: str) -> list[str]:
    """What is wrong with a file."""
    with pytest.raises(InputError) as refused:
        parse_experiment(text, where="mine.yaml", overrides=overrides)
    return list(refused.value.mistakes)


def test_every_experiment_file_of_the_project_is_valid() -> None:
    """All files below experiments/, of which there are at least two."""
    files = sorted((ROOT / "experiments").rglob("*.yaml"))

    names = [read_experiment(file).name for file in files]

    assert len(names) >= 2
    assert len(set(names)) == len(names)


def test_the_defaults_are_experiment_3_5() -> None:
    """The published file changes nothing but its name and description."""
    published = read_experiment(ROOT / "experiments/acl2021/3.5.yaml")

    assert published.model_copy(update={"name": "x", "description": ""}) == Experiment(name="x")
    plan = published.optimisation
    assert (plan.epochs, plan.batch_recordings, plan.drop_last) == (1000, 5, True)
    assert (plan.optimiser.kind, plan.optimiser.rate, plan.optimiser.weight_decay) == (
        "adam",
        1e-3,
        0.01,
    )
    assert plan.schedule == Noam(warmup_steps=1000)
    assert published.seed == 42


def test_all_mistakes_are_reported_at_once_with_line_and_nearest_key() -> None:
    """A typo, a wrong value and a wrong kind: three lines, in one run."""
    text = (
        "name: mine\n"
        "optimisation:\n"
        "  epochs: 0\n"
        "  batch_recording: 5\n"
        "noise: {kind: wind}\n"
        "widnows: {length_s: 4}\n"
    )

    found = mistakes(text)

    assert len(found) == 4
    assert any("line 3" in m and "optimisation.epochs" in m and "0" in m for m in found)
    assert any("line 4" in m and "did you mean batch_recordings?" in m for m in found)
    assert any("line 5" in m and "noise" in m and "peak" in m for m in found)
    assert any("line 6" in m and "did you mean windows?" in m for m in found)


def test_a_key_that_belongs_elsewhere_is_pointed_to() -> None:
    """`epochs` at the top is told where it lives."""
    (found,) = mistakes("name: mine\nepochs: 3\n")

    assert "did you mean optimisation.epochs?" in found


def test_a_mistake_inside_a_chosen_strategy_is_named_without_the_tag() -> None:
    """The key is `noise.presnt`, not `noise.snr.presnt`."""
    (found,) = mistakes("name: mine\nnoise: {kind: snr, presnt: 3}\n")

    assert "unknown key noise.presnt" in found
    assert "did you mean present?" in found


def test_noise_of_no_excerpts_is_refused() -> None:
    """Noise in name only would make a noisy test of clean recordings."""
    (found,) = mistakes("name: mine\nnoise: {kind: snr, present: 0, absent: 0}\n")

    assert "write kind: none" in found


def test_windows_that_the_network_cannot_use_are_refused_before_anything_runs() -> None:
    """Too short for SpiraConv's convolutions, or no whole number of samples."""
    (short,) = mistakes("name: mine\nwindows: {length_s: 0.5}\n")
    (broken,) = mistakes("name: mine\nwindows: {length_s: 0.00001}\n")

    assert "0.5 s are too short for spira_conv_v2, which needs 0.59 s" in short
    assert "not whole samples at 16000 Hz" in broken
    assert parse_experiment(
        "name: mine\nwindows: {length_s: 0.5}\nnetwork: {kind: compact}", where="mine.yaml"
    )


def test_nothing_is_trained_on_rooms_or_consent() -> None:
    """Only spoken utterances can be learned from."""
    for utterance in ("ambient_before", "consent"):
        (found,) = mistakes(f"name: mine\nutterance: {utterance}\n")
        assert "utterance" in found


def test_a_key_given_twice_is_a_mistake() -> None:
    """YAML would silently take the last."""
    (found,) = mistakes("name: mine\nseed: 1\nseed: 2\n")

    assert found == "mine.yaml, line 3: key seed is given twice"


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b\n", "name: [", "\x00", "name: ''"])
def test_garbage_is_refused_in_words(text: str) -> None:
    """What is no experiment is an InputError that names the file."""
    assert all("mine.yaml" in mistake for mistake in mistakes(text))


@given(st.text(max_size=60))
def test_no_text_crashes_the_parser(text: str) -> None:
    """Any text is an experiment or an InputError."""
    with suppress(InputError):
        parse_experiment(text, where="mine.yaml")


def test_overrides_change_the_experiment_and_are_checked_like_the_file() -> None:
    """--set takes YAML values at dotted keys."""
    changed = parse_experiment(
        "name: mine", where="mine.yaml", overrides=["optimisation.epochs=3", "noise.kind=none"]
    )

    assert changed.optimisation.epochs == 3
    assert changed.noise.kind == "none"
    (found,) = mistakes("name: mine", "optimisation.epoch=3")
    assert "did you mean epochs?" in found
    (found,) = mistakes("name: mine", "nonsense")
    assert "write it as key=value" in found


def test_the_composed_experiment_is_the_same_experiment() -> None:
    """What is stored beside a result can be run again."""
    experiment = read_experiment(ROOT / "experiments/demo.yaml")

    assert parse_experiment(compose(experiment), where="stored") == experiment


def test_noam_follows_the_published_formula() -> None:
    """rate x sqrt(w) x min(s^-1/2, s w^-3/2): rises linearly to 1 at w, then falls as 1/sqrt(s)."""
    noam = Noam(warmup_steps=1000)

    assert noam.factor(1, 0) == pytest.approx(0.001)
    assert noam.factor(500, 0) == pytest.approx(0.5)
    assert noam.factor(1000, 0) == pytest.approx(1.0)
    assert noam.factor(4000, 0) == pytest.approx(0.5)


def test_cosine_rises_to_one_and_ends_at_zero() -> None:
    """Linear warm-up over its share, half a cosine afterwards."""
    cosine = Cosine(warmup_share=0.1)

    assert cosine.factor(5, 100) == pytest.approx(0.5)
    assert cosine.factor(10, 100) == pytest.approx(1.0)
    assert cosine.factor(55, 100) == pytest.approx(0.5)
    assert cosine.factor(100, 100) == pytest.approx(0.0, abs=1e-9)
