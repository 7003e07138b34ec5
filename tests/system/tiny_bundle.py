"""A tiny real model, as a bundle."""

import hashlib
from pathlib import Path

from onnx import TensorProto, helper

from spira.audio.features import Mfcc
from spira.audio.windows import Windows
from spira.domain.answers import Envelope, OperatingPoint
from spira.domain.recordings import EvidenceLevel
from spira.model.bundle import ModelManifest, bundle_files
from spira.model.scoring import ScoringSpec


def write_bundle(
    folder: Path, *, shift: float = 4.0, evidence_level: EvidenceLevel = "research"
) -> Path:
    """A bundle whose logit is 0.2 x mean of the features + shift: every recording has its own."""
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
    folder.mkdir(parents=True)
    for file, data in bundle_files(manifest, network).items():
        (folder / file).write_bytes(data)
    (folder / "report.html").write_text("a report")
    return folder
