"""Dataset versions made by hand, without decoding anything."""

import hashlib
import io
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile

from spira.datasets.names import STAGE, give_name
from spira.datasets.summary import REFUSED, summarise
from spira.datasets.versions import NOISE, RECORDINGS
from spira.domain.fingerprint import canonical_json, fingerprint
from spira.stores.artifacts import Artifact, ArtifactStore

MakeVersion = Callable[..., Artifact]


def recording(**values: Any) -> dict[str, Any]:
    """A row of recordings.parquet."""
    row: dict[str, Any] = dict.fromkeys(RECORDINGS)
    row |= {
        **{"participant_id": "p-1", "utterance": "sentence", "label": "present"},
        **{"sha256": "a" * 64, "n_bytes": 1, "container": "wav", "codec": "pcm_s16le"},
        **{"rate_hz": 16_000, "channels": 1, "duration_s": 1.0, "peak": 0.5, "level_dbfs": -20.0},
        **{"speech_level_dbfs": -15.0, "noise_floor_dbfs": -60.0, "clipped_fraction": 0.0},
        **{"speech_s": 0.8, "findings": []},
        **values,
    }
    return row | {"recording_id": row["sha256"][:16]}


def tone(frequency_hz: float, *, seconds: float = 1.0) -> bytes:
    """A wav of a sine at half of full scale."""
    time = np.arange(round(16_000 * seconds)) / 16_000
    file = io.BytesIO()
    sine = (0.5 * np.sin(2 * np.pi * frequency_hz * time)).astype(np.float32)
    soundfile.write(file, sine, 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


@pytest.fixture
def make_version(store: ArtifactStore) -> MakeVersion:
    """Commit a version of two recordings; another seed is another version."""

    def make(name: str, *, seed: int = 0, at: datetime | None = None, **values: Any) -> Artifact:
        at = at or datetime(2024, 3, 1, tzinfo=UTC)
        audio = {label: tone(200 + 100 * n + seed) for n, label in enumerate(("present", "absent"))}
        digests = {label: hashlib.sha256(data).hexdigest() for label, data in audio.items()}
        recordings = pl.DataFrame(
            [
                recording(label=label, participant_id=f"p-{label}", sha256=digests[label], **values)
                for label in audio
            ],
            schema=RECORDINGS,
        )
        noise = pl.DataFrame(schema=NOISE)
        summary = summarise(recordings, noise, pl.DataFrame(schema=REFUSED), [])
        files: dict[str, bytes] = {
            "summary.json": canonical_json(summary.model_dump(mode="json")),
            "rejected.csv": b"file,participant,label,sex,reason,message\n"
            b"<script>.wav,p-1,absent,,too_short,0.2 s of audio\n",
        }
        for table_name, table in (("recordings", recordings), ("noise", noise)):
            buffer = io.BytesIO()
            table.write_parquet(buffer)
            files[f"{table_name}.parquet"] = buffer.getvalue()
        files |= {f"audio/{digests[label]}": data for label, data in audio.items()}
        about = {
            **{"name": name, "origin": "import", "language": "pt-BR", "participants": "given"},
            "imported_at": at.isoformat(),
        }
        artifact = store.commit(STAGE, fingerprint({"seed": seed}), files, about)
        give_name(store, name, artifact.fingerprint, at)
        return artifact

    return make
