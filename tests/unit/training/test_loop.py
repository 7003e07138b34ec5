"""The loop learns, resumes to the same bits, and is what EXPERIMENTS say it is."""

from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spira.domain.draws import draws
from spira.domain.errors import InputError
from spira.training import loop
from spira.training.examples import Example, Examples, prefetched
from spira.training.experiments import Experiment, parse_experiment
from spira.training.features import FeatureSet
from spira.training.loop import State, fit, launch
from spira.training.settings import TrainingSettings
from spira.training.smoke import overfit

SMALL = """
name: small
noise: {kind: snr, present: 1, absent: 1, clean_share: 0.3}
network: {kind: NETWORK}
windows: {length_s: 2}
optimisation: {epochs: 3, batch_recordings: 2, schedule: {kind: constant}, random_start: true}
"""


class InMemory:
    """A feature set of artificial waveforms: even ones hum, odd ones hiss."""

    def waveform(self, sha256: str) -> NDArray[np.float32]:
        """Three seconds, a function of the name."""
        rng = draws(3, "waveform", sha256)
        hum = np.sin(np.arange(48_000) * 0.06)
        hiss = rng.standard_normal(48_000)
        odd = sha256[-1] in "13579"
        return (0.1 * (hiss if odd else hum) + 0.01 * hiss).astype(np.float32)


def examples(network: str = "compact") -> Examples:
    """Six recordings to train, four to validate, noise of each side's own."""
    experiment = parse_experiment(SMALL.replace("NETWORK", network), where="test")
    sides = {
        "train": [Example(f"t{n}", f"t{n}", bool(n % 2)) for n in range(6)],
        "validation": [Example(f"v{n}", f"v{n}", bool(n % 2)) for n in range(4)],
    }
    noises = {"train": ["n0", "n2"], "validation": ["n4"]}
    return Examples(experiment, cast(FeatureSet, InMemory()), sides, noises)  # type: ignore[arg-type]


@pytest.mark.parametrize("network", ["compact", "spira_conv_v2"])
def test_a_run_resumed_from_any_checkpoint_ends_with_the_same_bits(network: str) -> None:
    """Checkpoints inside and at the end of epochs, with dropout and noise on."""
    fabric = launch(TrainingSettings())
    saved: list[bytes] = []
    whole = fit(examples(network), fabric=fabric, save=saved.append, save_every_s=0)

    assert len(saved) == 9  # three epochs of three batches
    for checkpoint in (saved[0], saved[4], saved[8]):
        resumed = fit(examples(network), fabric=fabric, load=lambda c=checkpoint: c)  # type: ignore[misc]

        assert resumed.history == whole.history
        assert all(torch.equal(resumed.best[name], whole.best[name]) for name in whole.best)


def test_a_long_recording_is_learned_in_pieces_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows a few at a time give the gradient of all at once; only memory differs."""
    fabric = launch(TrainingSettings())
    still = {"dropout_conv": 0.0, "dropout_dense": 0.0}  # drawn for each piece

    def losses(at_once: int) -> list[float]:
        monkeypatch.setattr(loop, "_WINDOWS_AT_ONCE", at_once)
        asked = examples()
        network = asked.experiment.network.model_copy(update=still)
        changed = asked.experiment.model_copy(update={"network": network})
        state = fit(Examples(changed, asked.features, asked.sides, asked.noises), fabric=fabric)
        return [loss for epoch in state.history for loss in epoch.values()]

    assert losses(1) == pytest.approx(losses(32), rel=1e-4)


def test_another_seed_is_another_run() -> None:
    """The seed is a real seed: weights, order, noise and dropout all follow it."""
    fabric = launch(TrainingSettings())
    one = fit(examples(), fabric=fabric)
    changed = examples()
    other_experiment = changed.experiment.model_copy(update={"seed": 43})

    other = fit(
        Examples(other_experiment, changed.features, changed.sides, changed.noises), fabric=fabric
    )

    assert one.history != other.history


def test_training_lowers_the_loss() -> None:
    """Forward, backward and step are all there: hum and hiss are told apart within 12 epochs."""
    learning = examples()
    plan = learning.experiment.optimisation.model_copy(update={"epochs": 12})
    experiment: Experiment = learning.experiment.model_copy(update={"optimisation": plan})

    state: State = fit(
        Examples(experiment, learning.features, learning.sides, learning.noises),
        fabric=launch(TrainingSettings()),
    )

    assert state.best_loss < 0.3 < state.history[0]["validation"]


def test_training_that_diverges_says_so() -> None:
    """A rate far too high ends with the epoch and what to lower, not with broken files."""
    diverging = examples()
    plan = diverging.experiment.optimisation
    fast = plan.model_copy(update={"optimiser": plan.optimiser.model_copy(update={"rate": 1e30})})
    experiment = diverging.experiment.model_copy(update={"optimisation": fast})

    with pytest.raises(InputError, match=r"diverged in epoch \d: .*optimiser.rate"):
        fit(
            Examples(experiment, diverging.features, diverging.sides, diverging.noises),
            fabric=launch(TrainingSettings()),
        )


def test_one_recording_at_a_time_has_the_gradient_of_the_batch() -> None:
    """What the loop accumulates is the mean over all windows of the batch."""
    from spira.model.config import Compact
    from spira.model.networks import build

    torch.manual_seed(1)
    network = build(Compact(), frames=201, coefficients=40).eval()
    parts = [torch.randn(n, 1, 201, 40) for n in (1, 3, 2)]
    targets = [torch.full((len(part),), float(i % 2)) for i, part in enumerate(parts)]
    loss = torch.nn.functional.binary_cross_entropy_with_logits

    loss(network(torch.cat(parts)), torch.cat(targets)).backward()
    whole = [
        parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None
    ]
    network.zero_grad()
    for part, target in zip(parts, targets, strict=True):
        (loss(network(part), target, reduction="sum") / 6).backward()
    accumulated = [
        parameter.grad for parameter in network.parameters() if parameter.grad is not None
    ]

    assert len(whole) == len(accumulated) > 10
    for one, other in zip(whole, accumulated, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_validation_noise_is_the_same_in_every_epoch_and_training_noise_is_not() -> None:
    """The kept checkpoint must not be luck of the noise."""
    some = examples()
    one, other = some.sides["validation"][0], some.sides["train"][0]

    assert np.array_equal(some.validation_windows(one), some.validation_windows(one))
    assert np.array_equal(some.training_windows(other, 1), some.training_windows(other, 1))
    assert not np.array_equal(some.training_windows(other, 1), some.training_windows(other, 2))


def test_a_device_that_is_not_there_is_said_at_start() -> None:
    """No CUDA device: one sentence with what to do."""
    if torch.cuda.is_available():
        fabric = launch(TrainingSettings(accelerator="cuda"))
        assert fabric.device.type == "cuda"
        return
    with pytest.raises(InputError, match="no CUDA device"):
        launch(TrainingSettings(accelerator="cuda"))


def test_eight_recordings_are_overfitted() -> None:
    """Loss under 0.05 without dropout."""
    losses = overfit(TrainingSettings())

    assert losses[-1] < 0.05 < losses[0]


def test_prefetching_keeps_order_and_passes_errors_on() -> None:
    """Made early, yielded in order; an error comes out where its item would have."""

    def make(item: int) -> int:
        if item == 5:
            raise ValueError("five")
        return item * item

    made = prefetched(range(9), make, ahead=3)

    assert [next(made) for _ in range(5)] == [0, 1, 4, 9, 16]
    with pytest.raises(ValueError, match="five"):
        next(made)
