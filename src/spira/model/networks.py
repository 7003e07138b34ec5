"""The networks. Axis letters: N windows, T frames, C coefficients, W channels."""

from typing import cast

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
        self.dense = nn.Sequential(
            nn.Linear(frames * before * coefficients, 100),
            nn.Mish(),
            nn.Dropout(config.dropout_dense),
            nn.Linear(100, 1),
        )

    def logits(self, features: Tensor) -> Tensor:
        """See `SpiraNetwork`."""
        found = self.convolutions(features)  # [N, 4, T', C]
        flat = found.transpose(1, 2).flatten(1)  # [N, T' x 4 x C]
        return cast(Tensor, self.dense(flat)).squeeze(1)


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
