"""The loop learns, resumes to the same bits, and is what EXPERIMENTS say it is."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, max_pool2d, mish

from spira.domain.draws import draw_seed, draws
from spira.domain.errors import InputError
from spira.training import loop
from spira.training.examples import Example, Examples, prefetched
from spira.training.experiments import parse_experiment
from spira.training.features import FeatureSet
from spira.training.loop import fit, launch, validation_loss
from spira.training.settings import TrainingSettings

SMALL = """
name: small
noise: {kind: snr, present: 1, absent: 1, clean_share: 0.3}
network: {kind: compact}
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


def examples(*changes: str, text: str = SMALL, features: Any = None, train: int = 6) -> Examples:
    """Six recordings to train, four to validate, noise of each side's own.

    changes  of the experiment, as `--set` takes them
    """
    experiment = parse_experiment(text, where="test", overrides=changes)
    sides = {
        "train": [Example(f"t{n}", f"t{n}", bool(n % 2)) for n in range(train)],
        "validation": [Example(f"v{n}", f"v{n}", bool(n % 2)) for n in range(4)],
    }
    noises = {"train": ["n0", "n2"], "validation": ["n4"]}
    return Examples(experiment, features or cast(FeatureSet, InMemory()), sides, noises)  # type: ignore[arg-type]


class Stored:
    """A feature set of windows that are there already."""

    def __init__(self, windows: Mapping[str, NDArray[np.float32]]) -> None:
        self._windows = windows

    def windows(self, sha256: str) -> NDArray[np.float32]:
        """[N, frames, coefficients]."""
        return self._windows[sha256]


# The rates and decays are large and the warm-up is short, so that a few steps tell every rule.
PUBLISHED = """
name: published
noise: {kind: none}
seed: 4
network: {kind: spira_conv_v2, dropout_conv: 0, dropout_dense: 0}
optimisation:
  epochs: 3
  batch_recordings: 2
  optimiser: {kind: adam, rate: 2.0e-3, weight_decay: 0.1}
  schedule: {kind: noam, warmup_steps: 3}
"""
DEMO = """
name: demo
noise: {kind: none}
seed: 1
network: {kind: spira_conv_v2, dropout_conv: 0, dropout_dense: 0, standardise: true}
optimisation:
  epochs: 3
  batch_recordings: 2
  drop_last: false
  optimiser: {kind: adamw, rate: 5.0e-3, weight_decay: 5}
  schedule: {kind: cosine, warmup_share: 0.3}
"""


def artificial() -> Stored:
    """One to four windows of 71 frames a recording, a little higher where RI is present."""

    def windows(name: str) -> NDArray[np.float32]:
        rng = draws(7, "windows", name)
        noise = rng.standard_normal((int(rng.integers(1, 5)), 71, 8))
        voice = rng.normal(0, 1, 8) + (0.3 if int(name[1]) % 2 else -0.3)
        return (noise + voice).astype(np.float32)

    return Stored({f"{side}{n}": windows(f"{side}{n}") for side in "tv" for n in range(5)})


class WrittenOut(nn.Module):
    """SpiraConv v2 from its description, for 71 frames of 8 coefficients and without dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, channels, (kernel, 1), dilation=(dilation, 1)),
                nn.GroupNorm(groups, channels),
                nn.Mish(),
            )
            for before, channels, kernel, dilation, groups in (
                *((1, 32, 7, 2, 16), (32, 16, 5, 2, 8)),
                *((16, 8, 3, 2, 4), (8, 4, 2, 1, 2)),
            )
        )
        self.dense, self.last = nn.Linear(2 * 4 * 8, 100), nn.Linear(100, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, T, C] to [N] probabilities."""
        for number, block in enumerate(self.blocks):
            x = block(x) if number == 3 else max_pool2d(block(x), (2, 1))
        flat = x.transpose(1, 2).flatten(1)
        probabilities: Tensor = self.last(mish(self.dense(flat))).sigmoid().squeeze(1)
        return probabilities


def trained_by_hand(some: Examples) -> Iterator[tuple[float, float, list[Tensor]]]:
    """The same training in plain torch: training loss, validation loss and weights by epoch."""
    recipe, plan = some.experiment, some.experiment.optimisation
    rate, decay, size = plan.optimiser.rate, plan.optimiser.weight_decay, plan.batch_recordings
    sides = {
        side: [(torch.from_numpy(some.features.windows(one.sha256)), one.present) for one in chosen]
        for side, chosen in some.sides.items()
    }
    heard = torch.cat([windows for windows, _ in sides["train"]]).flatten(0, 1)
    mean, spread = heard.mean(0), heard.std(0, correction=0)
    if not recipe.network.standardise:
        mean, spread = torch.zeros(8), torch.ones(8)
    torch.manual_seed(draw_seed(recipe.seed, "weights"))
    network = WrittenOut()

    def ask(windows: Tensor) -> Tensor:
        return cast(Tensor, network(((windows - mean) / spread).unsqueeze(1)))

    weights = list(network.parameters())
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    count = len(sides["train"])
    batches = count // size if plan.drop_last else math.ceil(count / size)
    step, total = 0, batches * plan.epochs
    for epoch in range(plan.epochs):
        order, losses = draws(recipe.seed, "order", epoch).permutation(count), []
        for batch in range(batches):
            chosen = [sides["train"][row] for row in order[batch * size : (batch + 1) * size]]
            target = [float(present) for windows, present in chosen for _ in windows]
            answers = ask(torch.cat([windows for windows, _ in chosen]))
            loss = binary_cross_entropy(answers, torch.tensor(target))
            network.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            losses.append(loss.item())
            step += 1
            if plan.schedule.kind == "noam":  # both warm up for three steps
                now = rate * math.sqrt(3) * min(step**-0.5, step * 3**-1.5)
            elif step <= 3:
                now = rate * step / 3
            else:
                now = rate * (1 + math.cos(math.pi * (step - 3) / (total - 3))) / 2
            with torch.no_grad():
                for w, m, v in zip(weights, first, second, strict=True):
                    gradient = cast(Tensor, w.grad)
                    if plan.optimiser.kind == "adam":
                        gradient = gradient + decay * w
                    elif w.ndim > 1:  # neither biases nor norms
                        w.mul_(1 - now * decay)
                    m += 0.1 * (gradient - m)
                    v += 0.001 * (gradient**2 - v)
                    w.sub_(now * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8))
        with torch.no_grad():
            said = [(ask(windows).mean().item(), yes) for windows, yes in sides["validation"]]
        missed = np.mean([-math.log(chance if yes else 1 - chance) for chance, yes in said])
        yield float(np.mean(losses)), float(missed), [w.detach().clone() for w in weights]


@pytest.mark.parametrize("text", [PUBLISHED, DEMO], ids=["published", "demo"])
def test_training_is_what_the_experiments_say(text: str) -> None:
    """Losses and kept weights are those of the same training written out in plain torch.

    The two differ by the rounding of sums in another order: 1e-7 of a loss, 1e-6 of a weight. A
    step moves a weight by up to 1e-3, so a hundredth of one less or more would be seen.
    """
    some = examples(text=text, features=artificial(), train=5)
    by_hand = list(trained_by_hand(some))

    state = fit(some, fabric=launch(TrainingSettings()))

    assert [epoch["train"] for epoch in state.history] == pytest.approx(
        [loss for loss, _, _ in by_hand], rel=1e-5
    )
    missed = [loss for _, loss, _ in by_hand]
    assert [epoch["validation"] for epoch in state.history] == pytest.approx(missed, rel=1e-5)
    assert missed.index(min(missed)) == 1, "the best epoch is neither the first nor the last"
    kept = [value for name, value in state.best.items() if name not in ("mean", "spread")]
    for ours, theirs in zip(kept, by_hand[1][2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_recording_counts_in_validation_with_the_mean_of_its_probabilities() -> None:
    """Not with the probability of its mean logit, and as much as any other recording."""

    class Told(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            """Answers with the logit that it is shown."""
            return features[:, 0, 0, 0]

    logits = {"v0": [-4.0, 6.0], "v1": [-4.0, 6.0, 6.0], "v2": [-1.0], "v3": [0.0] * 9}
    shown = {name: np.array(each, np.float32)[:, None, None] for name, each in logits.items()}
    some = examples(text=PUBLISHED, features=Stored(shown))

    found = validation_loss(Told(), some, some.sides["validation"], launch(TrainingSettings()))

    low, high, lowish = (1 / (1 + math.exp(-logit)) for logit in (-4, 6, -1))
    chances = [1 - (low + high) / 2, (low + 2 * high) / 3, 1 - lowish, 0.5]
    assert found == pytest.approx(np.mean([-math.log(chance) for chance in chances]), rel=1e-6)


STILL = (  # weights that do not move, and nothing that is drawn
    "optimisation.optimiser={kind: adam, rate: 1.0e-30}",
    *("noise={kind: none}", "optimisation.window_step_s=1", "optimisation.random_start=false"),
    "network={kind: compact, dropout_conv: 0, dropout_dense: 0}",
)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("seed=42", True),
        ("optimisation.batch_recordings=4", False),  # of six: the order says who is left out
        ("network.dropout_conv=0.3", False),
        ("network.dropout_dense=0.3", False),
        ("noise={kind: snr, present: 1, absent: 1}", False),
        ("optimisation.random_start=true", False),
    ],
    ids=["nothing", "order", "dropout", "dense dropout", "noise", "start"],
)
def test_what_is_drawn_is_drawn_anew_in_every_epoch_of_training(change: str, same: bool) -> None:
    """With weights that stand still, losses change with the draws alone; validation has none."""
    state = fit(examples(*STILL, change), fabric=launch(TrainingSettings()))

    losses = [epoch["train"] for epoch in state.history]
    for one, other in zip(losses, [*losses[1:], losses[0]], strict=True):
        assert (one == pytest.approx(other, rel=1e-5)) == same
    assert len({epoch["validation"] for epoch in state.history}) == 1


def test_coefficients_are_standardised_by_the_training_side() -> None:
    """There each has mean 0 and spread 1 afterwards, whatever validation sounds like."""
    stored = artificial()
    level = np.arange(1, 9, dtype=np.float32)  # of each coefficient
    train = {f"t{n}": 7 + level * stored.windows(f"t{n}") for n in range(5)}
    validation = {f"v{n}": 100 * stored.windows(f"v{n}") for n in range(4)}
    some = examples(
        "network.kind=compact", text=PUBLISHED, features=Stored(train | validation), train=5
    )

    best = fit(some, fabric=launch(TrainingSettings())).best

    heard = np.concatenate(list(train.values())).reshape(-1, 8)
    seen = (heard - best["mean"].numpy()) / best["spread"].numpy()
    assert seen.mean(0) == pytest.approx(0, abs=1e-4)
    assert seen.std(0) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("network", ["compact", "spira_conv_v2"])
def test_a_run_resumed_from_any_checkpoint_ends_with_the_same_bits(network: str) -> None:
    """Checkpoints inside and at the end of epochs, with dropout and noise on."""
    fabric = launch(TrainingSettings())
    saved: list[bytes] = []
    change = f"network={{kind: {network}}}"
    whole = fit(examples(change), fabric=fabric, save=saved.append, save_every_s=0)

    assert len(saved) == 9  # three epochs of three batches
    for checkpoint in (saved[0], saved[4], saved[8]):
        resumed = fit(examples(change), fabric=fabric, load=lambda c=checkpoint: c)  # type: ignore[misc]

        assert resumed.history == whole.history
        assert all(torch.equal(resumed.best[name], whole.best[name]) for name in whole.best)


def test_a_long_recording_is_learned_in_pieces_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows a few at a time give the gradient of all at once; only memory differs."""
    fabric = launch(TrainingSettings())
    still = "network={kind: compact, dropout_conv: 0, dropout_dense: 0}"  # drawn for each piece

    def losses(at_once: int) -> list[float]:
        monkeypatch.setattr(loop, "_WINDOWS_AT_ONCE", at_once)
        state = fit(examples(still), fabric=fabric)
        return [loss for epoch in state.history for loss in epoch.values()]

    assert losses(1) == pytest.approx(losses(32), rel=1e-4)


def test_another_seed_is_another_run() -> None:
    """The seed is a real seed: weights, order, noise and dropout all follow it."""
    fabric = launch(TrainingSettings())

    one, other = (fit(examples(f"seed={seed}"), fabric=fabric) for seed in (42, 43))

    assert one.history != other.history


def test_training_lowers_the_loss() -> None:
    """Forward, backward and step are all there: hum and hiss are told apart within 12 epochs."""
    state = fit(examples("optimisation.epochs=12"), fabric=launch(TrainingSettings()))

    assert state.best_loss < 0.3 < state.history[0]["validation"]


def test_training_that_diverges_says_so() -> None:
    """A rate far too high ends with the epoch and what to lower, not with broken files."""
    diverging = examples("optimisation.optimiser={kind: adam, rate: 1.0e+30}")

    with pytest.raises(InputError, match=r"diverged in epoch \d: .*optimiser.rate"):
        fit(diverging, fabric=launch(TrainingSettings()))


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


def test_a_device_that_is_not_there_is_said_at_start() -> None:
    """No CUDA device: one sentence with what to do."""
    if torch.cuda.is_available():
        fabric = launch(TrainingSettings(accelerator="cuda"))
        assert fabric.device.type == "cuda"
        return
    with pytest.raises(InputError, match="no CUDA device"):
        launch(TrainingSettings(accelerator="cuda"))


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
