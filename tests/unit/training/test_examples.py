"""What the network is shown: whose noise, how much of it, and from where in the recording.

Every sound is a tone of its own, so that the spectrogram says which went in.
"""

from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from spira.training.examples import Example, Examples
from spira.training.experiments import parse_experiment
from spira.training.features import FeatureSet

SPEECH_HZ = 400
NOISES = {"train": ["1600", "2000", "2400"], "validation": ["4800", "5200", "5600"]}
PRESENT, ABSENT = Example("p", str(SPEECH_HZ), True), Example("a", str(SPEECH_HZ), False)
SEEDS = range(12)  # draws that must all keep a rule
PEAK = "{kind: peak, present: 1, absent: 3, peak_low: 1, peak_high: 1}"
SNR = "{kind: snr, present: 1, absent: 3, snr_db_low: 0, snr_db_high: 0}"


class Sounds:
    """A feature set whose digests are frequencies in Hz; "click" is one sample at 0.75 s."""

    def waveform(self, sha256: str) -> NDArray[np.float32]:
        """Two seconds of speech, three of noise that swells, so that no two stretches are alike."""
        if sha256 == "click":
            click = np.zeros(32_000, np.float32)
            click[12_000] = 1
            return click
        time = np.arange(32_000 if int(sha256) == SPEECH_HZ else 48_000) / 16_000
        return ((1 + time) * np.sin(2 * np.pi * int(sha256) * time)).astype(np.float32)


def examples(*changes: str, noise: str = PEAK) -> Examples:
    """Windows of one second every half, as powers of frequencies."""
    overrides = ["windows={length_s: 1, step_s: 0.5}", "features.kind=spectrogram", *changes]
    recipe = parse_experiment(f"name: x\nnoise: {noise}", where="test", overrides=overrides)
    return Examples(recipe, cast(FeatureSet, Sounds()), {}, NOISES)  # type: ignore[arg-type]


def heard(windows: NDArray[np.float32]) -> set[str]:
    """The noises in [N, frames, frequencies]: tones with a hundredth of the loudest's power."""
    power = windows.mean(axis=(0, 1))
    bins = {tone: round(float(tone) / 8000 * 600) for side in NOISES.values() for tone in side}
    return {tone for tone, at in bins.items() if power[at] > power.max() / 100}


@pytest.mark.parametrize("noise", [PEAK, SNR], ids=["peak", "snr"])
def test_each_side_hears_noise_of_its_own_as_much_as_the_label_says(noise: str) -> None:
    """One excerpt for recordings with RI, three for those without, never the other side's."""
    train, validation = map(set, (NOISES["train"], NOISES["validation"]))
    for seed in SEEDS:
        some = examples(f"seed={seed}", noise=noise)

        for recording, count in ((PRESENT, 1), (ABSENT, 3)):
            trained, validated = (
                heard(some.training_windows(recording, epoch=seed)),
                heard(some.validation_windows(recording)),
            )
            assert trained <= train
            assert validated <= validation
            assert len(trained) == len(validated) == count


def test_a_label_without_excerpts_is_heard_as_recorded() -> None:
    """Zero excerpts are no noise at all, in training and in validation."""
    some = examples("noise.absent=0")

    assert (
        heard(some.training_windows(ABSENT, 0)) == heard(some.validation_windows(ABSENT)) == set()
    )
    assert heard(some.training_windows(PRESENT, 0)) != set()


def test_noise_is_drawn_anew_in_every_epoch_of_training_and_never_in_validation() -> None:
    """The kept checkpoint must not be luck of the noise."""
    some, again = examples(), examples()
    shown = [some.training_windows(PRESENT, epoch) for epoch in range(12)]

    assert len({windows.tobytes() for windows in shown}) == 12
    assert set.union(*map(heard, shown)) == set(NOISES["train"])
    assert np.array_equal(shown[3], again.training_windows(PRESENT, 3))
    assert np.array_equal(some.validation_windows(PRESENT), again.validation_windows(PRESENT))


def test_recordings_do_not_share_their_noise() -> None:
    """Two people in one epoch hear different stretches of it."""
    some, other = examples(noise=SNR), Example("other", str(SPEECH_HZ), True)

    assert not np.array_equal(some.training_windows(PRESENT, 0), some.training_windows(other, 0))
    assert not np.array_equal(some.validation_windows(PRESENT), some.validation_windows(other))


def test_the_clean_share_is_left_clean_in_training_alone() -> None:
    """Of 200 draws 150 are expected clean, give or take four standard deviations of 6."""
    some = examples("noise.clean_share=0.75", noise=SNR)
    clean = sum(heard(some.training_windows(PRESENT, epoch)) == set() for epoch in range(200))

    assert clean == pytest.approx(150, abs=24)
    assert all(
        heard(examples(f"seed={seed}", "noise.clean_share=1", noise=SNR).validation_windows(ABSENT))
        for seed in SEEDS
    )


def test_a_random_start_moves_the_windows_within_the_first_step() -> None:
    """By whole frames (a hundredth of a second), another way in every epoch, only in training."""
    click = Example("c", "click", True)
    some = examples("optimisation.random_start=true", noise="{kind: none}")

    def start(windows: NDArray[np.float32]) -> int:
        """Frames between the recording's start and the first window's: the click is at frame 75."""
        return 75 - int(windows[0].sum(axis=1).argmax())

    starts = [start(some.training_windows(click, epoch)) for epoch in range(30)]

    assert len(set(starts)) > 10
    assert min(starts) >= 0
    assert 25 < max(starts) < 50
    assert start(some.validation_windows(click)) == 0
    still = examples("optimisation.window_step_s=0.5", noise="{kind: none}")
    assert {start(still.training_windows(click, epoch)) for epoch in range(3)} == {0}


def test_training_may_take_fewer_windows_than_the_answer_rests_on() -> None:
    """`window_step_s` is of training alone: two windows of a two-second recording, not three."""
    some = examples("optimisation.window_step_s=1")

    assert len(some.training_windows(PRESENT, 0)) == 2
    assert len(some.validation_windows(PRESENT)) == 3
