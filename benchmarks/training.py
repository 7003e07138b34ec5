"""What a CUDA device is worth in training: an epoch of the demo's recipe on each device.

A quarter of the recordings that the demo trains and validates on, of artificial sound; noise,
features and validation are in an epoch as they are in the stage `train`.
"""

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from spira.domain.draws import draws
from spira.training.examples import Example, Examples
from spira.training.experiments import read_experiment
from spira.training.features import FeatureSet
from spira.training.loop import fit, launch
from spira.training.settings import TrainingSettings

_RECIPE = Path(__file__).parents[1] / "experiments" / "demo.yaml"
_TRAIN, _VALIDATION, _NOISES, _SECONDS = 52, 18, 8, 8.0
_EPOCHS = 4  # the first one warms up


def measured() -> Iterator[tuple[str, str, str, str]]:
    """(what, ours, other, ratio), as rows of the table; one that says so where no device is."""
    if not torch.cuda.is_available():
        yield "training on CUDA: not measured, torch sees no CUDA device", "", "", ""
        return
    device = torch.cuda.get_device_name()
    for network in ("compact", "spira_conv_v2"):
        examples = _examples(network)
        ours = _epoch_s(examples, TrainingSettings(accelerator="cuda"))
        for threads in sorted({1, 2, os.cpu_count() or 1}):
            other = _epoch_s(examples, TrainingSettings(threads=threads))
            yield (
                f"an epoch of training, {network}: on CUDA ({device}), against the CPU, "
                f"threads: {threads}",
                f"{ours:.2f} s",
                f"{other:.2f} s",
                f"{other / ours:.2f}",
            )
        began = time.perf_counter()
        for one in examples.sides["train"]:
            examples.training_windows(one, 1)
        for one in examples.sides["validation"]:
            examples.validation_windows(one)
        alone = time.perf_counter() - began
        yield (
            f"an epoch of training, {network}: on CUDA, against making its features alone",
            f"{ours:.2f} s",
            f"{alone:.2f} s",
            f"{alone / ours:.2f}",
        )


def _epoch_s(examples: Examples, settings: TrainingSettings) -> float:
    """Median seconds of an epoch."""
    ends: list[float] = []
    fit(
        examples,
        fabric=launch(settings),
        progress=lambda what, done, total: ends.append(time.perf_counter()),
    )
    return statistics.median(np.diff(ends))


class _Artificial:
    """A feature set of noise."""

    def waveform(self, sha256: str) -> NDArray[np.float32]:
        return self._sounds[sha256]

    def __init__(self, names: list[str]) -> None:
        self._sounds = {
            name: (0.1 * draws(1, "bench", name).standard_normal(round(_SECONDS * 16_000))).astype(
                np.float32
            )
            for name in names
        }


def _examples(network: str) -> Examples:
    experiment = read_experiment(
        _RECIPE, overrides=[f"network={{kind: {network}}}", f"optimisation.epochs={_EPOCHS}"]
    )
    train = [f"t{number}" for number in range(_TRAIN)]
    validation = [f"v{number}" for number in range(_VALIDATION)]
    noises = [f"n{number}" for number in range(_NOISES)]
    return Examples(
        experiment,
        cast(FeatureSet, _Artificial([*train, *validation, *noises])),
        {
            "train": [Example(name, name, bool(n % 2)) for n, name in enumerate(train)],
            "validation": [Example(name, name, bool(n % 2)) for n, name in enumerate(validation)],
        },
        {"train": noises[:4], "validation": noises[4:]},
    )
