"""Does learning work at all? A network without dropout must overfit eight recordings."""

import numpy as np
import torch

from spira.audio.features import Mfcc, extract
from spira.audio.windows import Windows
from spira.domain.draws import draw_seed, draws
from spira.domain.progress import Progress, no_progress
from spira.model.config import Compact
from spira.model.networks import build

_RECORDINGS = 8
_STEPS = 120


def overfit(*, seed: int = 42, goal: float = 0.01, progress: Progress = no_progress) -> list[float]:
    """Fit eight artificial recordings, four with long pauses and four without.

    goal      training stops once the loss is under it
    returns   the loss of every step: windows' binary cross entropy
    """
    recordings = [_recording(seed, number) for number in range(_RECORDINGS)]
    features = [
        torch.from_numpy(np.ascontiguousarray(extract(one, Windows(), Mfcc()))).unsqueeze(1)
        for one in recordings
    ]  # each [N, 1, T, C]
    torch.manual_seed(draw_seed(seed, "weights"))
    network = build(
        Compact(dropout_conv=0, dropout_dense=0),
        frames=features[0].shape[2],
        coefficients=features[0].shape[3],
    )
    together = torch.cat(features)
    network.set_standardisation(together.mean((0, 1, 2)), together.std((0, 1, 2)))
    target = torch.cat([torch.full((len(f),), float(i % 2)) for i, f in enumerate(features)])
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses: list[float] = []
    for step in range(_STEPS):
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(together), target)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
        losses.append(loss.item())
        progress("overfitting", step + 1, _STEPS)
        if losses[-1] < goal:
            break
    return losses


def _recording(seed: int, number: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Six seconds of syllables of noise; odd numbers rest a second after every one of speech."""
    rng = draws(seed, "smoke", number)
    t = np.arange(6 * 16_000) / 16_000
    syllables = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * t + rng.uniform(0, 6))
    speaking = (t % 2 < 1) if number % 2 else np.ones_like(t)
    voice = np.sin(2 * np.pi * rng.uniform(90, 220) * t) + 0.3 * rng.standard_normal(len(t))
    return (0.2 * voice * syllables * speaking + 1e-3 * rng.standard_normal(len(t))).astype(
        np.float32
    )
