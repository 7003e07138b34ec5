"""A tiny real model, recordings, and a store of them."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from spira.audio.features import Mfcc
from spira.audio.windows import Windows
from spira.domain.answers import Envelope, OperatingPoint
from spira.domain.draws import draws
from spira.domain.recordings import EvidenceLevel
from spira.model.bundle import ModelManifest, bundle_files
from spira.model.scoring import ScoringSpec
from spira.serving.messages import Ask
from spira.stores.objects import Objects

Float = NDArray[np.float32]


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """`make_bundle(shift=…)`: a bundle whose logit is 0.2 x mean of the features + shift."""

    def make(
        name: str = "bundle", *, shift: float = 4.0, evidence_level: EvidenceLevel = "research"
    ) -> Path:
        nodes = [
            helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "shift"], ["logits"]),
        ]
        graph = helper.make_graph(
            nodes,
            "level",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 1, 401, 40])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n"])],
            [
                helper.make_tensor("scale", TensorProto.FLOAT, [1], [0.2]),
                helper.make_tensor("shift", TensorProto.FLOAT, [1], [shift]),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        network = model.SerializeToString()
        manifest = ModelManifest(
            name="tiny",
            evidence_level=evidence_level,
            scoring=ScoringSpec(features=Mfcc(), windows=Windows()),
            operating_point=OperatingPoint(
                threshold=0.4, band_low=0.3, band_high=0.6, temperature=2.0, prevalence=0.5
            ),
            envelope=Envelope(utterances=("sentence",), languages=("pt-BR",), n_people=12),
            network_sha256=hashlib.sha256(network).hexdigest(),
            dataset="d" * 64,
            fingerprints={"train": "f" * 64},
        )
        folder = tmp_path / name
        folder.mkdir()
        for file, data in bundle_files(manifest, network).items():
            (folder / file).write_bytes(data)
        (folder / "report.html").write_text("a report")
        return folder

    return make


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    """An empty audio store."""
    return Objects.open(str(tmp_path / "objects"), setting="a test")


def recording(number: int, seconds: float = 4.5) -> Float:
    """Noise of a loudness of its own: every number has another answer."""
    noise = draws(number, "test predictor").standard_normal(round(seconds * 16_000))
    return (0.02 * (1 + number % 37) * noise).astype(np.float32)


def identity(number: int) -> str:
    """The id of an assessment."""
    return f"01938f00-0000-7000-8000-{number:012d}"


@pytest.fixture
def ask_for(objects: Objects) -> Callable[..., Ask]:
    """`ask_for(3)`: what the relay would ask about recording 3, whose audio is stored then."""

    def make(number: int, waveform: Float | None = None, *, stored: bool = True) -> Ask:
        data = (recording(number) if waveform is None else waveform).astype("<f4").tobytes()
        key = f"{identity(number)}/audio"
        if stored:
            objects.create(key, data)
        digest = hashlib.sha256(data).hexdigest()
        return Ask(assessment=identity(number), attempt=1, audio=key, sha256=digest)

    return make
