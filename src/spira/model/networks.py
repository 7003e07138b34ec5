"""The networks. Axis letters: N windows, T frames, C coefficients, W channels."""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from spira.domain.errors import InputError
from spira.model.config import Compact, Network, SpiraConvV2


class SpiraNetwork(nn.Module):
    """What every network shares: features in, one logit a window out, standardised on the way.

    No layer mixes windows (GroupNorm, never BatchNorm), so that windows can be asked about, and
    gradients accumulated, in any grouping.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, coefficients: int, *, standardise: bool) -> None:
        super().__init__()
        self.standardises = standardise
        if standardise:
            self.register_buffer("mean", torch.zeros(coefficients))
            self.register_buffer("spread", torch.ones(coefficients))

    def set_standardisation(self, mean: Tensor, spread: Tensor) -> None:
        """Mean and standard deviation [C] of each coefficient on training data."""
        self.mean.copy_(mean)
        self.spread.copy_(spread)

    def forward(self, features: Tensor) -> Tensor:
        """[N, 1, T, C] features to [N] logits."""
        if self.standardises:
            features = (features - self.mean) / self.spread
        return self.logits(features)

    def logits(self, features: Tensor) -> Tensor:
        """[N, 1, T, C] standardised features to [N] logits."""
        raise NotImplementedError


class _SpiraConvV2(SpiraNetwork):
    """691,613 parameters for windows of 401 frames of 40 coefficients."""

    # channels, kernel and dilation along time, groups, pool
    _BLOCKS = ((32, 7, 2, 16, 2), (16, 5, 2, 8, 2), (8, 3, 2, 4, 2), (4, 2, 1, 2, 1))

    def __init__(self, config: SpiraConvV2, frames: int, coefficients: int) -> None:
        super().__init__(coefficients, standardise=config.standardise)
        layers: list[nn.Module] = []
        before = 1
        for channels, kernel, dilation, groups, pool in self._BLOCKS:
            layers += [
                nn.Conv2d(before, channels, (kernel, 1), dilation=(dilation, 1)),
                nn.GroupNorm(groups, channels),
                nn.Mish(),
                *([nn.MaxPool2d((pool, 1))] if pool > 1 else []),
                nn.Dropout(config.dropout_conv),
            ]
            frames = (frames - dilation * (kernel - 1)) // pool
            before = channels
        if frames < 1:
            raise InputError(
                "network: the windows are too short for spira_conv_v2, its convolutions need 60 "
                "frames (0.59 s); choose longer windows or network.kind: compact"
            )
        self.convolutions = nn.Sequential(*layers)
        self.dropout = config.dropout_conv
        self.dense = nn.Sequential(
            nn.Linear(frames * before * coefficients, 100),
            nn.Mish(),
            nn.Dropout(config.dropout_dense),
            nn.Linear(100, 1),
        )

    def logits(self, features: Tensor) -> Tensor:
        """See `SpiraNetwork`."""
        fast = self.training and features.device.type == "cpu"
        found = self._trained(features) if fast else self.convolutions(features)  # [N, 4, T', C]
        flat = found.transpose(1, 2).flatten(1)  # [N, T' x 4 x C]
        return cast(Tensor, self.dense(flat)).squeeze(1)

    def _trained(self, x: Tensor) -> Tensor:
        """`convolutions` in training, twice as fast: all that follows a convolution is one step."""
        pools = iter([pool for *_, pool in self._BLOCKS])
        for layer in self.convolutions:
            if isinstance(layer, nn.Conv2d):
                x = layer(x)
            elif isinstance(layer, nn.GroupNorm):
                x = norm_mish_pool_dropout(x, layer, next(pools), self.dropout)
        return x


class _Compact(SpiraNetwork):
    """Coefficients are channels; each block halves time and looks twice as far."""

    _BLOCKS = 4
    _KERNEL = 7

    def __init__(self, config: Compact, coefficients: int) -> None:
        super().__init__(coefficients, standardise=config.standardise)
        width = config.width
        layers: list[nn.Module] = [nn.Conv1d(coefficients, width, 5, stride=2, padding=2)]
        for _ in range(self._BLOCKS):
            layers += [
                nn.Conv1d(width, width, self._KERNEL, stride=2, padding=3, groups=width),
                nn.Conv1d(width, width, 1),
                nn.GroupNorm(8, width),
                nn.Mish(),
                nn.Dropout(config.dropout_conv),
            ]
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Sequential(nn.Dropout(config.dropout_dense), nn.Linear(2 * width, 1))

    def logits(self, features: Tensor) -> Tensor:
        """See `SpiraNetwork`."""
        found = self.convolutions(features.squeeze(1).transpose(1, 2))  # [N, W, T / 32]
        pooled = torch.cat([found.mean(2), found.amax(2)], dim=1)  # [N, 2 W]
        return cast(Tensor, self.dense(pooled)).squeeze(1)


def build(config: Network, *, frames: int, coefficients: int) -> SpiraNetwork:
    """A network for windows of [frames, coefficients], with random weights (torch's generator).

    raises    InputError when the windows are too short for it
    """
    if isinstance(config, Compact):
        return _Compact(config, coefficients)
    return _SpiraConvV2(config, frames, coefficients)


def norm_mish_pool_dropout(x: Tensor, norm: nn.GroupNorm, pool: int, dropout: float) -> Tensor:
    """GroupNorm, Mish, maximum of `pool` (1 or 2) frames, dropout: in one step, on a CPU.

    What is dropped is drawn first, by a generator seeded from torch's, and Mish is computed only
    of what is kept. For the way back only its derivative there is stored.

    x         [N, W, T, C]
    returns   [N, W, T // pool, C]
    """
    return cast(
        Tensor,
        _NormMishPoolDropout.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            x, norm.weight, norm.bias, norm.num_groups, norm.eps, pool, dropout
        ),
    )


class _NormMishPoolDropout(torch.autograd.Function):
    """In numpy where places are taken and put by index: torch is slower at that on a CPU."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        eps: float,
        pool: int,
        dropout: float,
    ) -> Tensor:
        n, w, t, c = x.shape
        normed, mean, scale = torch.native_group_norm(x, weight, bias, n, w, t * c, groups, eps)
        flat = normed.view(-1).numpy()
        out = np.zeros(n * w * (t // pool) * c, flat.dtype)
        kept = _kept(len(out), dropout)
        if pool == 1:
            chosen = kept
            value, slope = _mish(flat.take(chosen))
        else:
            first = kept + kept // c * c  # of the pair: the place in [N, W, T, C]
            if t % 2:
                first += kept // (t // 2 * c) * c  # the last frame has no partner
            value, slope = _mish(flat.take(first))
            value_2, slope_2 = _mish(flat.take(first + c))
            later = value_2 > value
            value, slope = np.maximum(value, value_2), np.where(later, slope_2, slope)
            chosen = first + later * np.int64(c)
        out[kept] = value / (1 - dropout)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.groups, ctx.kept, ctx.chosen, ctx.slope = groups, kept, chosen, slope / (1 - dropout)
        return torch.from_numpy(out).view(n, w, t // pool, c)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        n, w, t, c = x.shape
        back = np.zeros(x.numel(), ctx.slope.dtype)
        back[ctx.chosen] = gradient.reshape(-1).numpy().take(ctx.kept) * ctx.slope
        of_input, of_weight, of_bias = torch.ops.aten.native_group_norm_backward(
            torch.from_numpy(back).view_as(x),
            x,
            mean,
            scale,
            weight,
            n,
            w,
            t * c,
            ctx.groups,
            [True, True, True],
        )
        return of_input, of_weight, of_bias, None, None, None, None


def _kept(n: int, dropout: float) -> Any:
    """The places of 0..n-1 that dropout keeps; 16 random bits decide each."""
    seed = int(torch.randint(2**62, (1,)))
    bits = np.random.Generator(np.random.SFC64(seed)).bytes(2 * n)
    return np.flatnonzero(np.frombuffer(bits, np.uint16) >= round(dropout * 2**16))


def _mish(x: Any) -> tuple[Any, Any]:
    """Mish and its derivative, from one exponential; beyond 20 they are x and 1 to the last bit."""
    e = torch.exp(torch.from_numpy(x).clamp(max=20)).numpy()  # faster than numpy's
    n = e * (e + 2)
    share = n / (n + 2)
    return x * share, share + 4 * x * e * (e + 1) / (n + 2) ** 2
