"""What the network is shown: a recording's windows, with the noise of that epoch mixed in."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from spira.audio.features import extract
from spira.audio.noise import NoNoise, PeakNoise, SnrNoise, mix
from spira.domain.draws import draws
from spira.domain.recordings import Side
from spira.training.experiments import Experiment
from spira.training.features import FeatureSet

Float = NDArray[np.float32]
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Example:
    """One recording of one side, with what is to be learned of it."""

    recording_id: str
    sha256: str
    present: bool


@dataclass(frozen=True)
class Examples:
    """The recordings and the noise of train and validation, read from the Feature Store."""

    experiment: Experiment
    features: FeatureSet
    sides: Mapping[Side, Sequence[Example]]
    noises: Mapping[Side, Sequence[str]]  # digests; no noise is on two sides

    def training_windows(self, example: Example, epoch: int) -> Float:
        """[N, frames, coefficients]: noise and start redrawn every epoch, by seed and recording."""
        if self._stored:
            return self.features.windows(example.sha256)
        recipe = self.experiment
        rng = draws(recipe.seed, "training noise", epoch, example.recording_id)
        waveform = self._noisy(example, "train", rng, training=True)
        windows = recipe.windows
        if recipe.optimisation.window_step_s is not None:
            windows = windows.model_copy(update={"step_s": recipe.optimisation.window_step_s})
        offset = 0
        if recipe.optimisation.random_start:
            room = len(waveform) - round(windows.length_s * recipe.features.rate_hz)
            step = round(windows.step_s * recipe.features.rate_hz)
            hop = recipe.features.hop  # whole frames, so that windows share them
            offset = hop * int(rng.integers(0, max(1, min(room, step) // hop)))
        return extract(waveform, windows, recipe.features, offset=offset)

    def validation_windows(self, example: Example) -> Float:
        """[N, frames, coefficients]: the noise is fixed by seed and recording."""
        if self._stored:
            return self.features.windows(example.sha256)
        rng = draws(self.experiment.seed, "validation noise", example.recording_id)
        waveform = self._noisy(example, "validation", rng, training=False)
        return extract(waveform, self.experiment.windows, self.experiment.features)

    @property
    def _stored(self) -> bool:
        return self.experiment.stores_features

    def _noisy(
        self, example: Example, side: Side, rng: np.random.Generator, *, training: bool
    ) -> Float:
        waveform = self.features.waveform(example.sha256)
        noise = self.experiment.noise
        if isinstance(noise, NoNoise):
            return waveform
        clean = noise.clean_share if isinstance(noise, SnrNoise) and training else 0.0
        if rng.random() < clean:
            return waveform
        return add_noise(
            waveform,
            [self.features.waveform(digest) for digest in self.noises[side]],
            noise,
            present=example.present,
            rng=rng,
        )


def add_noise(
    waveform: Float,
    noises: Sequence[Float],
    noise: PeakNoise | SnrNoise,
    *,
    present: bool,
    rng: np.random.Generator,
) -> Float:
    """The recording with as many noise excerpts as the experiment gives its label."""
    count = noise.present if present else noise.absent
    return mix(waveform, noises, noise, count=count, rng=rng) if count else waveform


def prefetched(
    items: Iterable[Item], make: Callable[[Item], Made], *, ahead: int
) -> Iterator[Made]:
    """`make(item)` for every item in order, computed up to `ahead` items early by one thread.

    numpy and scipy release the interpreter for the transform, so features of the next batch are
    made on one core while the network works on another.
    """
    source = iter(items)
    with ThreadPoolExecutor(1, "features") as thread:
        waiting: list[Future[Made]] = [thread.submit(make, item) for item in islice(source, ahead)]
        try:
            while waiting:
                made = waiting.pop(0).result()
                waiting += [thread.submit(make, item) for item in islice(source, 1)]
                yield made
        finally:
            thread.shutdown(cancel_futures=True)
