"""From a trained network to ONNX, and the proof that the two agree."""

import hashlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from spira.audio.features import Mfcc
from spira.audio.windows import Windows
from spira.domain.draws import draws
from spira.domain.errors import IntegrityError
from spira.model.config import Compact, Network, SpiraConvV2
from spira.model.export import edge_cases, export, prove_parity
from spira.model.networks import SpiraNetwork, build
from spira.model.scoring import Scorer, ScoringSpec

SPEC = ScoringSpec(features=Mfcc(), windows=Windows())
RATE_HZ = 16_000

CONFIGS: dict[str, Network] = {
    "spira_conv_v2": SpiraConvV2(standardise=True),
    "compact": Compact(),
}


def trained(config: Network) -> SpiraNetwork:
    """As if trained: it standardises, and its answers spread as a trained network's do."""
    torch.manual_seed(5)
    network = build(config, frames=401, coefficients=40)
    mean = torch.zeros(40)
    mean[0] = -250
    network.set_standardisation(mean, torch.full((40,), 20.0))
    with torch.no_grad():
        *_, weight, _ = network.parameters()
        weight.mul_(12)
    return network


@pytest.fixture(scope="module")
def exported() -> dict[str, bytes]:
    """Both networks as ONNX."""
    return {name: export(trained(config), 401, 40) for name, config in CONFIGS.items()}


def recordings() -> dict[str, NDArray[np.float32]]:
    """Syllables of a few voices."""
    made = {}
    for number in range(4):
        rng = draws(3, "test export", number)
        t = np.arange(round(rng.uniform(2, 9) * RATE_HZ)) / RATE_HZ
        phase = 2 * np.pi * rng.uniform(90, 220) * t
        voice = np.sin(phase) + np.sin(3 * phase) / 2 + 0.2 * rng.standard_normal(len(t))
        made[f"r-{number}"] = (
            0.2 * rng.uniform(0.05, 1) * voice * (0.5 + 0.5 * np.sin(25 * t))
        ).astype(np.float32)
    return made


@pytest.mark.parametrize("name", CONFIGS)
def test_score_agrees_with_the_trained_network(name: str, exported: dict[str, bytes]) -> None:
    """On recordings and at every edge, far inside the limits, on answers that spread."""
    parity = prove_parity(
        trained(CONFIGS[name]), Scorer(exported[name], SPEC), recordings(), seed=42
    )

    assert parity.recordings == 4 + 7
    assert parity.spread > 0.1
    assert parity.logit < 2e-4
    assert parity.probability < 2e-5


def test_a_network_that_is_not_the_exported_one_is_found_out(exported: dict[str, bytes]) -> None:
    """By name of the recording that it differs most on, and by how much."""
    other = trained(CONFIGS["compact"])
    with torch.no_grad():
        next(other.parameters())[0, 0, 0] += 0.05

    with pytest.raises(IntegrityError, match=r"differ on .+: .+ in logit \(at most 1e-03\)"):
        prove_parity(other, Scorer(exported["compact"], SPEC), recordings(), seed=42)


def test_other_features_are_found_out(exported: dict[str, bytes]) -> None:
    """Parity is of the answer to a waveform; but score() cuts its own windows."""
    network = trained(CONFIGS["compact"])
    network.set_standardisation(torch.zeros(40), torch.full((40,), 20.0))

    with pytest.raises(IntegrityError, match="differ on"):
        prove_parity(network, Scorer(exported["compact"], SPEC), {}, seed=42)


def test_agreement_of_a_network_that_says_one_thing_proves_nothing() -> None:
    """An untrained network answers 0.5 to everything, and so would a wrong export of it."""
    network = trained(CONFIGS["compact"])
    with torch.no_grad():
        *_, weight, _ = network.parameters()
        weight.mul_(1e-6)
    scorer = Scorer(export(network, 401, 40), SPEC)

    with pytest.raises(IntegrityError, match="nearly the same to everything"):
        prove_parity(network, scorer, recordings(), seed=42)


def test_an_answer_that_is_not_a_number_agrees_with_nothing(exported: dict[str, bytes]) -> None:
    """Neither the network's nor, by the same comparison, score()'s."""
    network = trained(CONFIGS["compact"])
    with torch.no_grad():
        list(network.parameters())[-1].fill_(torch.nan)

    with pytest.raises(IntegrityError, match="inf in logit"):
        prove_parity(network, Scorer(exported["compact"], SPEC), recordings(), seed=42)


def test_the_edges_are_at_the_windows_own_length() -> None:
    """A sample less, a sample more; and no recording that these windows refuse."""
    three_s = ScoringSpec(features=Mfcc(), windows=Windows(length_s=3))
    refusing = ScoringSpec(features=Mfcc(), windows=Windows(short="refuse", last="drop"))

    lengths = {len(case) for case in edge_cases(three_s, seed=1).values()}

    assert {3 * RATE_HZ - 1, 3 * RATE_HZ, 3 * RATE_HZ + 1} < lengths
    assert min(lengths) < 2 * RATE_HZ
    assert min(map(len, edge_cases(refusing, seed=1).values())) == 4 * RATE_HZ + 1


def test_exporting_changes_nothing_in_the_network() -> None:
    """It may go on training."""
    network = trained(CONFIGS["compact"]).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    export(network, 401, 40)

    assert network.training
    assert any(isinstance(module, torch.nn.Mish) for module in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_same_network_has_the_same_bytes_in_another_process(
    exported: dict[str, bytes], tmp_path: Path
) -> None:
    """Another process, another hash seed, another working folder."""
    program = (
        "import hashlib, torch\n"
        "from spira.model.config import *\n"
        "from spira.model.networks import *\n"
        "from spira.model.export import export\n"
        f"{inspect.getsource(trained)}\n"
        "print(hashlib.sha256(export(trained(Compact()), 401, 40)).hexdigest())"
    )

    there = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "4242"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert there.stdout.strip() == hashlib.sha256(exported["compact"]).hexdigest()


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_of_the_exporting_machine_is_in_the_file(
    name: str, exported: dict[str, bytes]
) -> None:
    """No path, no stack trace, no version of the exporter; and any number of windows goes in."""
    data = exported[name]
    model = onnx.load_from_string(data)

    for trace in (b"site-packages", b".py", b"torch", b"stack", str(Path.cwd()).encode()):
        assert trace not in data
    assert (model.ir_version, model.opset_import[0].version) == (10, 20)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "windows"
    assert len(model.graph.output) == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_mish_is_exported_in_its_fast_form(name: str, exported: dict[str, bytes]) -> None:
    """One exponential and a division, six times as fast in ONNX Runtime as the plain export."""
    operators = {node.op_type for node in onnx.load_from_string(exported[name]).graph.node}

    assert {"Exp", "Div"} <= operators
    assert not operators & {"Mish", "Softplus", "Tanh", "Log"}
