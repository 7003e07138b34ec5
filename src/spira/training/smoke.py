"""Does learning work at all? The training loop must overfit eight recordings without dropout."""

from typing import cast

import numpy as np
from numpy.typing import NDArray

from spira.domain.draws import draws
from spira.domain.errors import SpiraError
from spira.domain.progress import Progress, no_progress
from spira.training.examples import Example, Examples
from spira.training.experiments import parse_experiment
from spira.training.features import FeatureSet
from spira.training.loop import fit, launch
from spira.training.settings import TrainingSettings

GOAL = 0.05
_EXPERIMENT = """
name: smoke
noise: {kind: none}
network: {kind: compact, dropout_conv: 0, dropout_dense: 0}
optimisation:
  epochs: 40
  batch_recordings: 8
  optimiser: {kind: adamw, rate: 3.0e-3}
  schedule: {kind: constant}
  random_start: true
"""


def overfit(settings: TrainingSettings, *, progress: Progress = no_progress) -> list[float]:
    """Fit eight artificial recordings, four with long pauses and four without, as `train` does.

    returns   the training loss of every epoch: windows' binary cross entropy
    raises    SpiraError when the last one is not under GOAL
    """
    recordings = [Example(str(n), str(n), present=bool(n % 2)) for n in range(8)]
    examples = Examples(
        parse_experiment(_EXPERIMENT, where="smoke"),
        cast(FeatureSet, _Artificial()),
        {"train": recordings, "validation": recordings},
        {},
    )
    state = fit(examples, fabric=launch(settings), progress=progress)
    losses = [epoch["train"] for epoch in state.history]
    if not losses[-1] < GOAL:
        raise SpiraError(
            f"smoke: the loss of eight recordings is {losses[-1]:.3f} after {len(losses)} epochs, "
            f"it should be under {GOAL}: the training loop does not learn"
        )
    return losses


class _Artificial:
    """Six seconds of syllables of noise; odd names rest a second after every one of speech."""

    def waveform(self, sha256: str) -> NDArray[np.float32]:
        """See above; a function of the name."""
        rng = draws(42, "smoke", sha256)
        time = np.arange(6 * 16_000) / 16_000
        syllables = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * time + rng.uniform(0, 6))
        speaking = (time % 2 < 1) if int(sha256) % 2 else np.ones_like(time)
        voice = np.sin(2 * np.pi * rng.uniform(90, 220) * time) + 0.3 * rng.standard_normal(
            len(time)
        )
        sound = 0.2 * voice * syllables * speaking + 1e-3 * rng.standard_normal(len(time))
        return sound.astype(np.float32)
