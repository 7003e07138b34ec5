"""A bundle: the folder that is a deployable model.

model.onnx    the network
model.json    everything else that decides an answer (`ModelManifest`), and the network's digest
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from spira.domain.answers import Envelope, OperatingPoint
from spira.domain.errors import InputError, IntegrityError
from spira.domain.fingerprint import canonical_json
from spira.domain.frozen import Frozen
from spira.domain.recordings import EvidenceLevel
from spira.model.scoring import Scorer, ScoringSpec

FORMAT_VERSION = 1


class ModelManifest(Frozen):
    """What a model is, for whom, and how it is asked. It is immutable, like the network."""

    format_version: int = FORMAT_VERSION
    name: str  # of the experiment
    evidence_level: EvidenceLevel
    scoring: ScoringSpec
    operating_point: OperatingPoint
    envelope: Envelope
    network_sha256: str
    dataset: str  # digest of the dataset version
    fingerprints: Mapping[str, str]  # stage -> fingerprint


def bundle_files(manifest: ModelManifest, network: bytes) -> dict[str, bytes]:
    """The two files of a bundle."""
    return {
        "model.onnx": network,
        "model.json": canonical_json(manifest.model_dump(mode="json")),
    }


def load(folder: Path) -> tuple[ModelManifest, Scorer]:
    """Open a bundle.

    raises    InputError for a folder that is no bundle, or one of a newer format;
              IntegrityError when the network is not the one that the manifest names
    """
    try:
        text = (folder / "model.json").read_bytes()
        network = (folder / "model.onnx").read_bytes()
    except OSError as error:
        raise InputError(
            f"model {folder}: not a bundle; it needs model.json and model.onnx ({error.strerror})"
        ) from error
    manifest = _manifest(folder, text)
    digest = hashlib.sha256(network).hexdigest()
    if digest != manifest.network_sha256:
        raise IntegrityError(
            f"model {folder}: model.onnx has digest {digest[:12]}, its manifest names "
            f"{manifest.network_sha256[:12]}; fetch the model again"
        )
    return manifest, Scorer(network, manifest.scoring, manifest.operating_point)


def _manifest(folder: Path, text: bytes) -> ModelManifest:
    try:
        document = json.loads(text)
        newer = document["format_version"] > FORMAT_VERSION
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"model {folder}: model.json is not a model's manifest") from error
    if newer:
        raise InputError(
            f"model {folder}: its format is version {document['format_version']}, this SPIRA "
            f"reads up to {FORMAT_VERSION}; upgrade SPIRA"
        )
    try:
        return ModelManifest.model_validate(document)
    except ValidationError as error:
        raise InputError(f"model {folder}: model.json: {error}") from error
