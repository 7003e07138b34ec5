"""Dataset versions: immutable lists of recordings and noise, named by their digest.

A version is an artifact of stage `dataset`:

    recordings.parquet   one row a recording: RECORDINGS below
    noise.parquet        one row a noise recording: NOISE below
    rejected.csv         what was refused, and why: file,participant,label,sex,reason,message
    summary.json         DatasetSummary
    snapshot.json        Collected, of a snapshot of the stores
    audio/SHA256         the bytes of a recording, as they were imported
    noise/SHA256         the bytes of a noise recording
"""

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from spira.datasets.names import STAGE, damaged_manifest, resolve
from spira.datasets.summary import Collected, DatasetSummary
from spira.domain.errors import IntegrityError
from spira.domain.progress import Progress, no_progress
from spira.stores.artifacts import Artifact, ArtifactStore

_FORMAT = {
    "sha256": pl.Utf8,
    "n_bytes": pl.Int64,
    "container": pl.Utf8,
    "codec": pl.Utf8,
    "rate_hz": pl.Int64,
    "channels": pl.Int64,
    "duration_s": pl.Float64,
}
RECORDINGS: dict[str, Any] = {
    "recording_id": pl.Utf8,  # first 16 digits of sha256
    "participant_id": pl.Utf8,
    "visit_id": pl.Utf8,
    "utterance": pl.Utf8,
    "label": pl.Utf8,
    "side": pl.Utf8,  # of the published split
    "site": pl.Utf8,
    "device": pl.Utf8,
    "sex": pl.Utf8,
    "age": pl.Int64,
    "spo2_percent": pl.Float64,
    "recorded_at": pl.Utf8,
    **_FORMAT,
    "peak": pl.Float64,
    "level_dbfs": pl.Float64,
    "speech_level_dbfs": pl.Float64,
    "noise_floor_dbfs": pl.Float64,
    "clipped_fraction": pl.Float64,
    "speech_s": pl.Float64,
    "findings": pl.List(pl.Utf8),
    "pseudonyms": pl.List(pl.Utf8),  # of the participant; no column where no source said it
}
NOISE: dict[str, Any] = {
    "noise_id": pl.Utf8,
    "site": pl.Utf8,
    "side": pl.Utf8,
    **_FORMAT,
    "level_dbfs": pl.Float64,
    "pseudonyms": pl.List(pl.Utf8),  # of whose visit it is from, and on whose side; as above
}


@dataclass(frozen=True)
class DatasetVersion:
    """A dataset version, opened for reading; every byte read is verified."""

    artifact: Artifact
    recordings: pl.DataFrame  # columns RECORDINGS, sorted by participant, utterance, sha256
    noise: pl.DataFrame  # columns NOISE, sorted by sha256

    @property
    def digest(self) -> str:
        """The digest that names the version."""
        return self.artifact.fingerprint

    def audio_path(self, sha256: str) -> Path:
        """A local file with the bytes of a recording or noise recording.

        raises    IntegrityError when they are missing or damaged; KeyError for another digest
        """
        audio = f"audio/{sha256}"
        return self.artifact.path(audio if audio in self.artifact.files else f"noise/{sha256}")

    @cached_property
    def summary(self) -> DatasetSummary:
        """How many of what."""
        return DatasetSummary.model_validate(self.artifact.read_json("summary.json"))

    @cached_property
    def collected(self) -> Collected | None:
        """What a snapshot of the stores says beside its counts; None for an import."""
        if "snapshot.json" not in self.artifact.files:
            return None
        return Collected.model_validate(self.artifact.read_json("snapshot.json"))


def load(store: ArtifactStore, reference: str) -> DatasetVersion:
    """Open a dataset version by digest, unique prefix or name; errors as `resolve`."""
    digest = resolve(store, reference)
    artifact = store.find(STAGE, digest)
    if artifact is None:
        raise damaged_manifest(digest)
    return DatasetVersion(
        artifact,
        pl.read_parquet(artifact.path("recordings.parquet")),
        pl.read_parquet(artifact.path("noise.parquet")),
    )


@dataclass(frozen=True)
class Verified:
    """What `verify` read."""

    digest: str
    files: int
    n_bytes: int


def verify(store: ArtifactStore, reference: str, *, progress: Progress = no_progress) -> Verified:
    """Read every byte of a version and compare it with its digest.

    raises    IntegrityError naming every file that is missing or damaged; errors of `resolve`
    """
    digest = resolve(store, reference)
    artifact = store.find(STAGE, digest)
    if artifact is None:
        raise damaged_manifest(digest)
    mistakes = []
    for done, (name, entry) in enumerate(sorted(artifact.files.items()), start=1):
        try:
            artifact.path(name)
            if "/" in name and name.rpartition("/")[2] != entry.sha256:
                mistakes.append(f"{name}: holds other bytes than its name says")
        except IntegrityError as error:
            mistakes.append(str(error).partition("; ")[0])  # how to mend it is told once
        progress("verifying", done, len(artifact.files))
    if mistakes:
        count = f"{len(mistakes)} of {len(artifact.files)} files are damaged"
        raise IntegrityError(
            "\n".join([f"dataset {digest[:12]}: {count}; import it again to mend it", *mistakes])
        )
    total = sum(entry.size for entry in artifact.files.values())
    return Verified(digest, len(artifact.files), total)


def parquet(table: pl.DataFrame) -> bytes:
    """The table as Parquet: the same rows are the same bytes."""
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()
