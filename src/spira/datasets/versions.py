"""Dataset versions: immutable lists of recordings and noise, named by their digest.

A version is an artifact of stage `dataset`:

    recordings.parquet   one row a recording: RECORDINGS below
    noise.parquet        one row a noise recording: NOISE below
    rejected.csv         what was refused, and why: file,participant,label,sex,reason,message
    summary.json         DatasetSummary
    audio/SHA256         the bytes of a recording, as they were imported
    noise/SHA256         the bytes of a noise recording

The name that a person gives is an artifact of its own, so that the same bytes are one version
whatever they are called; the latest version of a name is what the name means.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from spira.datasets.summary import DatasetSummary
from spira.domain.errors import InputError, IntegrityError
from spira.domain.fingerprint import fingerprint
from spira.domain.progress import Progress, no_progress
from spira.domain.suggestions import nearest
from spira.stores.artifacts import Artifact, ArtifactStore

STAGE = "dataset"

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
}
NOISE: dict[str, Any] = {
    "noise_id": pl.Utf8,
    "site": pl.Utf8,
    "side": pl.Utf8,
    **_FORMAT,
    "level_dbfs": pl.Float64,
}
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_NAMES_STAGE = "dataset-name"
_SHORTEST_PREFIX = 6


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


@dataclass(frozen=True)
class Listing:
    """One line of `spira dataset list`."""

    digest: str
    names: tuple[str, ...]  # that mean this version
    about: Mapping[str, Any]


def load(store: ArtifactStore, reference: str) -> DatasetVersion:
    """Open a dataset version by digest, unique prefix or name; errors as `resolve`."""
    digest = resolve(store, reference)
    artifact = store.find(STAGE, digest)
    if artifact is None:
        raise _damaged(digest)
    return DatasetVersion(
        artifact,
        pl.read_parquet(artifact.path("recordings.parquet")),
        pl.read_parquet(artifact.path("noise.parquet")),
    )


def resolve(store: ArtifactStore, reference: str) -> str:
    """The digest of the version that a reference means.

    reference a digest, a name, or a prefix of one digest only, of 6 digits or more
    raises    InputError when there is none or more than one; IntegrityError when the version that
              a name means is damaged
    """
    if re.fullmatch(r"[0-9a-f]{64}", reference) and store.find(STAGE, reference) is not None:
        return reference
    names = _names(store)
    if reference in names:
        if store.find(STAGE, names[reference]) is None:
            raise _damaged(names[reference])
        return names[reference]
    if re.fullmatch(rf"[0-9a-f]{{1,{_SHORTEST_PREFIX - 1}}}", reference) and store.list(STAGE):
        raise InputError(
            f"dataset {reference}: no name, and too short for a digest; give at least "
            f"{_SHORTEST_PREFIX} digits"
        )
    found = []
    if re.fullmatch(rf"[0-9a-f]{{{_SHORTEST_PREFIX},64}}", reference):
        digests = [artifact.fingerprint for artifact in store.list(STAGE)]
        found = [digest for digest in digests if digest.startswith(reference)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"dataset {reference}: {len(found)} digests begin so; give more digits")
    if store.damaged(_NAMES_STAGE):
        raise IntegrityError(
            f"dataset {reference!r}: not among the names that can be read, and "
            f"{len(store.damaged(_NAMES_STAGE))} cannot: they are damaged; use the digest that "
            "`spira dataset list` shows, or import that dataset again"
        )
    known = f"{nearest(reference, names)}; known: {', '.join(sorted(names))}" if names else ""
    hint = known or "; there is none yet, `spira dataset import` or `synthesize` makes one"
    raise InputError(f"dataset {reference!r}: unknown{hint}")


def list_versions(store: ArtifactStore) -> list[Listing]:
    """Every dataset version, the latest first."""
    names: dict[str, list[str]] = {}
    for name, digest in _names(store).items():
        names.setdefault(digest, []).append(name)
    listings = [
        Listing(
            artifact.fingerprint, tuple(sorted(names.get(artifact.fingerprint, []))), artifact.about
        )
        for artifact in store.list(STAGE)
    ]
    return sorted(listings, key=lambda line: str(line.about["imported_at"]), reverse=True)


def require_undamaged(store: ArtifactStore) -> None:
    """Raise IntegrityError naming every dataset version whose manifest cannot be read."""
    damaged = store.damaged(STAGE)
    if damaged:
        raise IntegrityError("\n".join(str(_damaged(digest)) for digest in damaged))


def check_name(name: str) -> None:
    """Raise InputError for what cannot be the name of a dataset."""
    if not re.fullmatch(_NAME, name):
        raise InputError(
            f"dataset name {name!r}: 1 to 64 letters a-z, digits, '.', '_' or '-', "
            "beginning with a letter or digit"
        )
    if re.fullmatch(r"[0-9a-f]{64}", name):
        raise InputError("dataset name: a digest; choose a name that is none")


def give_name(store: ArtifactStore, name: str, digest: str, at: datetime) -> None:
    """Let a name mean this version from now on."""
    if _names(store).get(name) != digest:
        about = {"name": name, "dataset": digest, "at": at.isoformat()}
        store.commit(_NAMES_STAGE, fingerprint(about), {}, about)


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
        raise _damaged(digest)
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


def _damaged(digest: str) -> IntegrityError:
    return IntegrityError(f"dataset {digest[:12]}: its manifest is damaged; import it again")


def _names(store: ArtifactStore) -> dict[str, str]:
    """name -> digest of the latest version of that name."""
    given = sorted((artifact.about for artifact in store.list(_NAMES_STAGE)), key=lambda a: a["at"])
    return {about["name"]: about["dataset"] for about in given}
