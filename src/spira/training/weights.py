"""From the artifact of `train` back to the network."""

from typing import TYPE_CHECKING

from spira.audio.features import window_shape
from spira.stores.artifacts import Artifact
from spira.training.experiments import Experiment

if TYPE_CHECKING:
    from spira.model.networks import SpiraNetwork


def trained_network(trained: Artifact, experiment: Experiment) -> "SpiraNetwork":
    """The network with its trained weights, ready to answer."""
    from safetensors.torch import load

    from spira.model.networks import build

    frames, coefficients = window_shape(experiment.windows, experiment.features)
    network = build(experiment.network, frames=frames, coefficients=coefficients)
    network.load_state_dict(load(trained.read("weights.safetensors")))
    return network.eval()
