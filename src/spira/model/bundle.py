"""A bundle: the folder that is a deployable model.

model.onnx    the network
model.json    everything else that decides an answer (`ModelManifest`), the network's digest, and
              `sha256`: the digest of all that, as canonical JSON
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from spira.documents import parse_document
from spira.domain.answers import Envelope, OperatingPoint
from spira.domain.errors import InputError, IntegrityError
from spira.domain.fingerprint import canonical_json, fingerprint
from spira.domain.frozen import Frozen
from spira.domain.recordings import EvidenceLevel
from spira.model.scoring import Scorer, ScoringSpec

FORMAT_VERSION = 2  # 1 had no digest of its own


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
    said = manifest.model_dump(mode="json")
    return {
        "model.onnx": network,
        "model.json": canonical_json(said | {"sha256": fingerprint(said)}),
    }


def load(folder: Path) -> tuple[ModelManifest, Scorer]:
    """Open a bundle.

    raises    InputError for a folder that is no bundle, or one of another format, with every
              mistake of its manifest; IntegrityError when the manifest was changed, or the network
              is not the one that it names
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
            f"{manifest.network_sha256[:12]}; copy the model again from where it came"
        )
    return manifest, Scorer(network, manifest.scoring, manifest.operating_point)


def _manifest(folder: Path, text: bytes) -> ModelManifest:
    where = f"model {folder}: model.json"
    try:
        document = json.loads(text)
        version = int(document["format_version"])
        named = document.pop("sha256", None)
        digest = fingerprint(document)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"{where} is not a model's manifest") from error
    if version != FORMAT_VERSION:
        advice = "upgrade SPIRA" if version > FORMAT_VERSION else "publish the model again"
        raise InputError(
            f"model {folder}: its format is version {version}, this SPIRA reads version "
            f"{FORMAT_VERSION}; {advice}"
        )
    try:
        manifest = ModelManifest.model_validate(document)
    except ValidationError as error:
        # JSON is YAML too: every mistake in a sentence, as of the files that people write.
        parse_document(canonical_json(document).decode(), ModelManifest, where=where)
        raise InputError(f"{where} is not a model's manifest") from error
    if named != digest:
        raise IntegrityError(
            f"{where} is not as it was published: its digest is {digest[:12]}, it names "
            f"{str(named)[:12]}; copy the model again from where it came"
        )
    return manifest
