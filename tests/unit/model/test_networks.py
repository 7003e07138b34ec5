"""The networks, against layers written out by hand in numpy."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spira.domain.errors import InputError
from spira.model.config import Compact, Network, SpiraConvV2
from spira.model.networks import SpiraNetwork, build, norm_mish_pool_dropout

Double = NDArray[np.float64]


def made(config: Network, *, seed: int = 1, frames: int = 401) -> SpiraNetwork:
    """A network with random weights, biases and norms, so that a missing one would show."""
    torch.manual_seed(seed)
    network = build(config, frames=frames, coefficients=40)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def windows(n: int, *, frames: int = 401) -> torch.Tensor:
    """[N, 1, T, 40] features of no meaning."""
    generator = torch.Generator().manual_seed(9)
    return 2 * torch.randn(n, 1, frames, 40, generator=generator) + 1


def mish(x: Double) -> Double:
    """x tanh(softplus(x))."""
    return np.asarray(x * np.tanh(np.log1p(np.exp(x))))


def convolution(x: Double, weight: Double, bias: Double, dilation: int) -> Double:
    """[C, T, F] along T, no padding; weight [O, C, K, 1]."""
    reach = dilation * (weight.shape[2] - 1)
    out = np.zeros((weight.shape[0], x.shape[1] - reach, x.shape[2]))
    for k in range(weight.shape[2]):
        stretch = x[:, k * dilation : k * dilation + out.shape[1]]
        out += np.tensordot(weight[:, :, k, 0], stretch, axes=1)
    return out + bias[:, None, None]


def group_norm(x: Double, groups: int, weight: Double, bias: Double) -> Double:
    """[C, T, F], each group of channels to mean 0 and variance 1."""
    parts = [
        (part - part.mean()) / np.sqrt(part.var() + 1e-5) for part in np.split(x, groups, axis=0)
    ]
    return np.asarray(
        np.concatenate(parts) * weight[:, None, None] + bias[:, None, None], dtype=np.float64
    )


def by_hand(weights: list[Double], window: Double) -> float:
    """The logit of one window [T, 40], from the published description and nothing else."""
    x = window[None]  # [1, T, 40]
    layers = iter(weights)
    for kernel, dilation, groups, pools in (
        (7, 2, 16, 1),
        (5, 2, 8, 1),
        (3, 2, 4, 1),
        (2, 1, 2, 0),
    ):
        weight = next(layers)
        assert weight.shape[2:] == (kernel, 1)
        x = convolution(x, weight, next(layers), dilation)
        x = mish(group_norm(x, groups, next(layers), next(layers)))
        if pools:
            even = x[:, : x.shape[1] // 2 * 2]
            x = np.maximum(even[:, 0::2], even[:, 1::2])
    flat = x.transpose(1, 0, 2).ravel()  # time, channels x coefficients
    hidden = mish(next(layers) @ flat + next(layers))
    return float((next(layers) @ hidden + next(layers))[0])


def test_the_published_network_has_the_published_size() -> None:
    """691,613 parameters, 688,100 of them in the first dense layer."""
    network = build(SpiraConvV2(), frames=401, coefficients=40)

    sizes = {name: value.numel() for name, value in network.named_parameters()}

    assert sum(sizes.values()) == 691_613
    assert sum(sorted(sizes.values())[-1:]) + 100 == 688_100


def test_the_published_network_has_the_published_shapes() -> None:
    """401 frames become 43, through 32, 16, 8 and 4 channels."""
    network = made(SpiraConvV2()).eval()
    shapes: list[tuple[int, ...]] = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.MaxPool2d | torch.nn.Linear):
            module.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape)))

    logits = network(windows(3))

    assert shapes == [
        (3, 32, 389, 40),
        (3, 32, 194, 40),
        (3, 16, 186, 40),
        (3, 16, 93, 40),
        (3, 8, 89, 40),
        (3, 8, 44, 40),
        (3, 4, 43, 40),
        (3, 100),
        (3, 1),
    ]
    assert logits.shape == (3,)


def test_the_published_network_computes_what_is_published() -> None:
    """Convolution, norm, Mish, pool, in this order, then time before channels: by hand."""
    network = made(SpiraConvV2()).eval()
    weights = [value.detach().double().numpy() for value in network.parameters()]
    features = windows(3)

    with torch.inference_mode():
        logits = network(features).numpy()

    expected = [by_hand(weights, window.double().numpy()) for window in features[:, 0]]
    assert logits == pytest.approx(expected, abs=2e-5)
    assert np.std(expected) > 1e-2


@pytest.mark.parametrize("config", [SpiraConvV2(standardise=True), Compact()])
def test_standardisation_is_the_training_statistics_applied_first(config: Network) -> None:
    """The same logits as those of a network without it, on standardised features."""
    mean, spread = torch.linspace(-5, 5, 40), torch.linspace(0.5, 4, 40)
    network = made(config).eval()
    plain = made(config.model_copy(update={"standardise": False})).eval()
    features = windows(2)

    network.set_standardisation(mean, spread)

    with torch.inference_mode():
        expected = plain((features - mean) / spread)
        assert torch.allclose(network(features), expected, atol=1e-5)
        assert not torch.allclose(plain(features), expected, atol=1e-3)


def test_standardisation_is_kept_with_the_weights() -> None:
    """Who loads the weights has it."""
    network, other = made(Compact(), seed=1).eval(), made(Compact(), seed=2).eval()
    network.set_standardisation(torch.full((40,), 3.0), torch.full((40,), 0.7))

    other.load_state_dict(network.state_dict())

    with torch.inference_mode():
        assert torch.equal(network(windows(2)), other(windows(2)))


@pytest.mark.parametrize("config", [SpiraConvV2(), Compact()])
def test_no_window_changes_another(config: Network) -> None:
    """Recordings are trained on one at a time, and windows are asked about one by one."""
    network = made(config).eval()
    features = windows(5)

    with torch.inference_mode():
        together = network(features)
        apart = torch.cat([network(one[None]) for one in features])

    assert torch.allclose(together, apart, atol=1e-5)
    assert float(together.std()) > 1e-3


@pytest.mark.parametrize(
    "config", [SpiraConvV2(dropout_dense=0), SpiraConvV2(dropout_conv=0), Compact()]
)
def test_dropout_is_a_function_of_the_seed(config: Network) -> None:
    """A resumed run drops what the killed one would have; an answer drops nothing."""
    network = made(config).train()
    features = windows(2)

    def seeded(seed: int) -> list[float]:
        torch.manual_seed(seed)
        return [float(logit) for logit in network(features).detach()]

    assert seeded(1) == seeded(1) != seeded(2)
    network.eval()
    assert seeded(1) == seeded(2)


@pytest.mark.parametrize("config", [SpiraConvV2, Compact])
def test_without_dropout_training_and_answering_compute_the_same(
    config: type[SpiraConvV2 | Compact],
) -> None:
    """What the smoke test needs in order to overfit."""
    network = made(config(dropout_conv=0, dropout_dense=0))
    features = windows(2)

    trained = network.train()(features).detach()
    answered = network.eval()(features).detach()

    assert torch.allclose(trained, answered, atol=1e-6)


@pytest.mark.parametrize("config", [SpiraConvV2, Compact])
def test_without_dropout_training_has_the_gradients_of_the_plain_layers(
    config: type[SpiraConvV2 | Compact],
) -> None:
    """The published network trains through a faster form of the same layers."""
    network = made(config(dropout_conv=0, dropout_dense=0))
    features = windows(2)

    def gradients(*, training: bool) -> list[torch.Tensor]:
        network.train(training).zero_grad()
        network(features).sigmoid().sum().backward()
        return [value.grad.clone() for value in network.parameters() if value.grad is not None]

    fast, plain = gradients(training=True), gradients(training=False)

    assert len(fast) == len(list(network.parameters()))
    for ours, theirs in zip(fast, plain, strict=True):
        assert float((ours - theirs).norm()) < 1e-5 * float(theirs.norm()) + 1e-7


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("time", [6, 7])
def test_the_fast_layers_have_the_gradient_of_what_they_compute(pool: int, time: int) -> None:
    """By finite differences in double precision, with dropout, and with a frame without partner."""
    torch.manual_seed(3)
    norm = torch.nn.GroupNorm(2, 4).double()
    x = (3 * torch.randn(1, 4, time, 2, dtype=torch.double)).requires_grad_()

    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -1, 2, 1.5]))

    def layers(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(4)  # drops the same every time
        return norm_mish_pool_dropout(x, norm, pool, 0.4)

    assert torch.autograd.gradcheck(layers, (x,))


@pytest.mark.parametrize("pool", [1, 2])
def test_the_fast_layers_keep_what_dropout_keeps_and_scale_it(pool: int) -> None:
    """What is not dropped is the plain layers' value over 1 - dropout; 0.7 of it is dropped."""
    norm = torch.nn.GroupNorm(4, 8)
    plain = torch.nn.Sequential(norm, torch.nn.Mish(), torch.nn.MaxPool2d((pool, 1)))
    x = 4 * torch.randn(3, 8, 101, 40, generator=torch.Generator().manual_seed(1))

    with torch.no_grad():
        found, whole = norm_mish_pool_dropout(x, norm, pool, 0.7), plain(x)

    assert found.shape == whole.shape
    kept = found != 0
    assert torch.allclose(found[kept], whole[kept] / 0.3, rtol=1e-5, atol=1e-6)
    assert float(kept.float().mean()) == pytest.approx(0.3, abs=0.01)


def test_the_published_network_drops_seven_of_ten() -> None:
    """Of what goes into every layer but the first; Mish itself is hardly ever 0."""
    network = made(SpiraConvV2()).train()
    dropped: list[float] = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(
                lambda _, ins, __: dropped.append(float((ins[0] == 0).float().mean()))
            )

    network(windows(8))

    assert dropped == pytest.approx([0, 0.7, 0.7, 0.7, 0.7, 0.7], abs=0.05)


def test_the_compact_network_drops_one_of_ten_and_three_of_ten_at_the_end() -> None:
    """Of what was not 0 before."""
    network = made(Compact()).train()
    dropped: list[float] = []
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(
                lambda _, ins, out: dropped.append(float((out == 0)[ins[0] != 0].float().mean()))
            )

    network(windows(8))

    assert dropped == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.3], abs=0.06)


@pytest.mark.parametrize("frames", [33, 101, 401, 1001])
def test_the_compact_network_takes_windows_of_any_length(frames: int) -> None:
    """It pools over time."""
    network = made(Compact(), frames=frames).eval()

    with torch.inference_mode():
        assert network(windows(2, frames=frames)).isfinite().all()


def test_windows_too_short_for_the_published_network_are_refused() -> None:
    """60 frames are enough, 59 are not, and the sentence says so."""
    assert made(SpiraConvV2(), frames=60)(windows(1, frames=60)).shape == (1,)

    with pytest.raises(InputError, match=r"need 60 frames \(0\.59 s\)"):
        build(SpiraConvV2(), frames=59, coefficients=40)
