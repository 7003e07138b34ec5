"""From the artifact of `train` back to the network."""

from typing import TYPE_CHECKING

import numpy as np

from spira.audio.features import extract
from spira.stores.artifacts import Artifact
from spira.training.experiments import Experiment

if TYPE_CHECKING:
    from spira.model.networks import SpiraNetwork


def window_shape(experiment: Experiment) -> tuple[int, int]:
    """Frames and coefficients of one window."""
    silence = np.zeros(experiment.features.rate_hz, np.float32)
    _, frames, coefficients = extract(silence, experiment.windows, experiment.features).shape
    return frames, coefficients


def trained_network(trained: Artifact, experiment: Experiment) -> "SpiraNetwork":
    """The network with its trained weights, ready to answer."""
    from safetensors.torch import load

    from spira.model.networks import build

    frames, coefficients = window_shape(experiment)
    network = build(experiment.network, frames=frames, coefficients=coefficients)
    network.load_state_dict(load(trained.read("weights.safetensors")))
    return network.eval()
