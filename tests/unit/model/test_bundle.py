"""The folder that is a deployable model."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spira.audio.features import Mfcc
from spira.audio.windows import Windows
from spira.domain.answers import Envelope, OperatingPoint
from spira.domain.draws import draws
from spira.domain.errors import InputError, IntegrityError
from spira.model.bundle import FORMAT_VERSION, ModelManifest, bundle_files, load
from spira.model.scoring import Scorer, ScoringSpec

SPEC = ScoringSpec(features=Mfcc(), windows=Windows(step_s=0.5))
POINT = OperatingPoint(threshold=0.4, band_low=0.3, band_high=0.6, temperature=2.0, prevalence=0.5)


@pytest.fixture
def network(level_network: Callable[..., bytes]) -> bytes:
    """Any network."""
    return level_network(scale=0.2)


@pytest.fixture
def manifest(network: bytes) -> ModelManifest:
    """What names it."""
    return ModelManifest(
        name="demo",
        evidence_level="synthetic",
        scoring=SPEC,
        operating_point=POINT,
        envelope=Envelope(utterances=("sentence",), languages=("pt-BR",), n_people=12),
        network_sha256=hashlib.sha256(network).hexdigest(),
        dataset="d" * 64,
        fingerprints={"train": "f" * 64},
    )


@pytest.fixture
def bundle(tmp_path: Path, manifest: ModelManifest, network: bytes) -> Path:
    """The folder of the two."""
    for name, data in bundle_files(manifest, network).items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_a_bundle_is_opened_as_it_was_made(
    bundle: Path, manifest: ModelManifest, network: bytes
) -> None:
    """Everything that decides an answer comes back, and so the answer does."""
    waveform = (0.2 * draws(1, "test bundle").standard_normal(90_000)).astype(np.float32)

    opened, scorer = load(bundle)

    assert opened == manifest
    assert scorer.spec == SPEC
    assert scorer.operating_point == POINT
    before, after = Scorer(network, SPEC, POINT).score(waveform), scorer.score(waveform)
    assert len(after.window_logits) == 4
    assert (before.calibrated, before.outcome) == (after.calibrated, after.outcome)


def test_the_same_model_has_the_same_bytes(manifest: ModelManifest, network: bytes) -> None:
    """A bundle can be addressed by what is in it."""
    again = ModelManifest.model_validate_json(manifest.model_dump_json())

    assert bundle_files(manifest, network) == bundle_files(again, network)


def changed(bundle: Path, **values: Any) -> None:
    """Write the manifest again with other values."""
    file = bundle / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_model_of_a_newer_version_asks_for_a_newer_spira(bundle: Path) -> None:
    """Even where it holds keys that this version does not know."""
    changed(bundle, format_version=FORMAT_VERSION + 1, something_new=True)

    with pytest.raises(InputError, match=r"version 3, .* reads version 2; upgrade SPIRA"):
        load(bundle)


def test_a_model_of_an_older_version_asks_to_be_published_again(bundle: Path) -> None:
    """It had no digest of its own, so nobody could see that it was changed."""
    changed(bundle, format_version=1)

    with pytest.raises(InputError, match=r"version 1, .* publish the model again"):
        load(bundle)


@pytest.mark.parametrize("named", ["kept", None])
def test_a_changed_manifest_is_noticed(bundle: Path, named: str | None) -> None:
    """Another threshold is another model, whether or not its digest was taken out."""
    said = json.loads((bundle / "model.json").read_text())
    said["operating_point"]["threshold"] = 0.55
    if named is None:
        del said["sha256"]
    (bundle / "model.json").write_text(json.dumps(said))

    with pytest.raises(IntegrityError, match="not as it was published"):
        load(bundle)


def test_a_manifest_written_in_another_way_is_the_same(bundle: Path) -> None:
    """The digest is of what is said, not of spaces and the order of keys."""
    said = json.loads((bundle / "model.json").read_text())

    (bundle / "model.json").write_text(json.dumps(dict(reversed(said.items())), indent=2))

    assert load(bundle)[0].operating_point == POINT


def test_another_network_than_the_manifests_is_noticed(bundle: Path) -> None:
    """One bit is enough."""
    damaged = bytearray((bundle / "model.onnx").read_bytes())
    damaged[-1] ^= 1
    (bundle / "model.onnx").write_bytes(damaged)

    with pytest.raises(IntegrityError, match=r"model\.onnx has digest"):
        load(bundle)


@pytest.mark.parametrize("missing", ["model.onnx", "model.json"])
def test_a_folder_without_a_model_is_said_to_be_none(bundle: Path, missing: str) -> None:
    """It names what a bundle needs."""
    (bundle / missing).unlink()

    with pytest.raises(InputError, match=r"it needs model\.json and model\.onnx"):
        load(bundle)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff\xfe", b'{"format_version": "one"}'])
def test_a_damaged_manifest_is_refused(bundle: Path, text: bytes) -> None:
    """Whatever is in the file."""
    (bundle / "model.json").write_bytes(text)

    with pytest.raises(InputError, match=r"model\.json is not a model's manifest"):
        load(bundle)


def test_a_manifest_with_an_unknown_key_is_refused(bundle: Path) -> None:
    """In this version's format every key is known: another one means somebody's mistake."""
    changed(bundle, evidence_levl="research", evidence_level="strong")

    with pytest.raises(InputError) as refused:
        load(bundle)

    unknown, level = sorted(refused.value.mistakes, key=lambda said: "unknown key" not in said)
    assert "model.json" in unknown
    assert "unknown key evidence_levl; did you mean evidence_level?" in unknown
    assert "evidence_level: input should be" in level
    assert "pydantic" not in str(refused.value)
