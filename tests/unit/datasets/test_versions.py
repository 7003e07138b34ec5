"""Dataset versions are verified to the last byte."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from spira.datasets.versions import load, parquet, verify
from spira.domain.errors import IntegrityError
from spira.domain.fingerprint import fingerprint
from spira.stores.artifacts import ArtifactStore

MARCH = datetime(2024, 3, 1, tzinfo=UTC)


def reopened(tmp_path: Path) -> ArtifactStore:
    """The store as another process finds it, with nothing verified yet."""
    return ArtifactStore.open(str(tmp_path / "store"), cache=tmp_path / "cache")


def test_verify_reads_every_byte(store: ArtifactStore, make_version: Any) -> None:
    """And tells how many; progress ends at the number of files."""
    artifact = make_version("mine")
    told: list[tuple[int, int]] = []

    verified = verify(store, "mine", progress=lambda what, done, total: told.append((done, total)))

    assert verified.files == len(artifact.files) == 6
    assert verified.n_bytes == sum(entry.size for entry in artifact.files.values())
    assert told[-1] == (6, 6)


def test_verify_names_every_damaged_file(tmp_path: Path, make_version: Any) -> None:
    """A flipped byte and a missing file, together, in one error of exit code 70."""
    artifact = make_version("mine")
    audio = sorted(name for name in artifact.files if name.startswith("audio/"))
    flipped, gone = (artifact.path(name) for name in audio)
    flipped.write_bytes(b"x" + flipped.read_bytes()[1:])
    gone.unlink()

    with pytest.raises(IntegrityError) as caught:
        verify(reopened(tmp_path), "mine")

    assert "2 of 6 files are damaged" in str(caught.value)
    assert all(name in str(caught.value) for name in audio)
    assert caught.value.exit_code == 70


def test_verify_sees_audio_stored_under_another_name(store: ArtifactStore) -> None:
    """A file may match its digest and still not be what its name says."""
    digest = fingerprint("swapped")
    store.commit("dataset", digest, {f"audio/{'a' * 64}": b"other bytes"}, {})

    with pytest.raises(IntegrityError, match="holds other bytes than its name says"):
        verify(store, digest)


def test_a_damaged_manifest_is_an_integrity_error(tmp_path: Path, make_version: Any) -> None:
    """The name is known, what it means is damaged: not 'unknown dataset'."""
    digest = make_version("mine").fingerprint
    manifest = tmp_path / "store" / "manifests" / "dataset" / f"{digest}.json"
    manifest.write_bytes(manifest.read_bytes()[:-1])

    with pytest.raises(IntegrityError, match="its manifest is damaged"):
        load(reopened(tmp_path), "mine")


def test_the_same_table_is_the_same_bytes() -> None:
    """Parquet without dates or names of machines."""
    table = pl.DataFrame({"side": ["test", None], "age": [61, 40]})

    assert parquet(table) == parquet(table.clone())
