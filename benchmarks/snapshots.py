"""What a snapshot of the stores costs beside its audio, on SQLite: visits of five recordings.

Recordings are neither checked nor stored here, which takes what it takes for any import: `examine`
is replaced by what a check would have found, and the bytes of audio are left out of the commit.
What is measured is all the rest: reading the stores, labels under two policies, persons, the
digest, the tables, the summary, the manifest.
"""

import hashlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from spira.audio.quality import Checked, QualityThresholds
from spira.collection.snapshots import read_snapshot
from spira.collection.studies import Studies, default_study
from spira.collection.tables import FORMS, PARTICIPANTS, RECORDINGS, VISITS
from spira.collection.visits import Visits
from spira.datasets import importing
from spira.datasets.examining import Outcome, lean
from spira.documents import parse_document
from spira.domain.recordings import Described, Measurements, SourceFormat, Utterance
from spira.domain.studies import Study
from spira.labels.store import Labels
from spira.labels.tables import ENTRIES, SUBJECTS
from spira.stores.artifacts import ArtifactStore, FileEntry
from spira.stores.database import Database, iso
from spira.wiring import ROOMS

Row = tuple[str, str, str, str]

_FEW, _MANY = 10_000, 100_000  # recordings
_UTTERANCES: tuple[Utterance, ...] = (
    *("ambient_before", "sentence", "rhyme", "vowel", "ambient_after"),
)
_ALONE = 1_000  # visits that are read one at a time
_START = datetime(2026, 1, 1, tzinfo=UTC)
_FOUND = Described(
    format=SourceFormat(container="webm", codec="opus", rate_hz=48_000, channels=1),
    measurements=Measurements(
        duration_s=6,
        peak=0.5,
        level_dbfs=-20,
        speech_level_dbfs=-18,
        noise_floor_dbfs=-60,
        clipped_fraction=0,
        speech_s=5,
    ),
    findings=("noisy",),
)


def measured() -> Iterator[Row]:
    """(what, ours, other, ratio), as rows of the table."""
    told = {}
    for recordings in (_FEW, _MANY):
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder), recordings)
            words = [sys.executable, "-m", "benchmarks.snapshots", folder]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            told[recordings] = json.loads(done.stdout)
            if recordings == _FEW:
                together, alone = _reading(Path(folder))
    few, many = told[_FEW], told[_MANY]
    yield (
        f"snapshot: {_MANY:,} recordings without their audio, against {_FEW:,}",
        f"{_MANY / many['seconds']:.0f} recordings/s ({many['seconds']:.1f} s)",
        f"{_FEW / few['seconds']:.0f} recordings/s",
        f"{_MANY / many['seconds'] / (_FEW / few['seconds']):.2f}",
    )
    yield (
        f"snapshot: the same, memory at its highest: {_MANY:,}, against {_FEW:,}",
        f"{many['peak_mb']:.0f} MB",
        f"{few['peak_mb']:.0f} MB",
        f"{few['peak_mb'] / many['peak_mb']:.2f}",
    )
    yield (
        "snapshot: reading the visits of a study, a thousand at a time, against one at a time",
        f"{_ALONE / together:.0f} visits/s",
        f"{_ALONE / alone:.0f} visits/s",
        f"{alone / together:.2f}",
    )


def fill(folder: Path, recordings: int) -> None:
    """A study of which so many recordings are known."""
    database = _database(folder)
    database.migrate(ROOMS)
    study = parse_document(default_study(), Study, where="default", words=True)
    Studies(database).apply(study, by="the benchmark")
    rng = random.Random(1)
    visits = recordings // len(_UTTERANCES)
    for first in range(0, visits, 1_000):
        some = [_visit(rng, number) for number in range(first, min(first + 1_000, visits))]
        with database.writing() as tables:
            for table in (PARTICIPANTS, VISITS, FORMS, RECORDINGS, SUBJECTS, ENTRIES):
                tables.execute(table.insert(), [row for one in some for row in one[table.name]])


def _visit(rng: random.Random, number: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of a visit; every tenth is the second one of its participant."""
    visit, person = _uuid(rng), number if number % 10 else max(number - 1, 0)
    participant = f"01938f00-0000-7000-8000-{person:012d}"
    record = f"records-{0:016x}:{hashlib.sha256(str(person).encode()).hexdigest()}"
    at = _START + rng.random() * timedelta(days=90)
    values = {
        "age": rng.randrange(18, 90),
        "sex": ("female", "male")[person % 2],
        "language": "pt-BR",
        "mask": "none",
        "spo2": rng.randrange(85, 100),
        "research_consent": True,
        "consent_form_version": "1",
    }
    used = json.dumps(values)
    new = person == number
    return {
        PARTICIPANTS.name: [{"study": "spira", "id": participant, "created_at": iso(at)}] * new,
        VISITS.name: [
            {
                "id": visit,
                "study": "spira",
                "study_version": 1,
                "participant": participant,
                "site": f"site-{number % 3 + 1}",
                "record": record,
                "recorded_at": at.isoformat(),
                "uncertainty_s": 60.0,
                "accepted_at": iso(at),
                "synthetic": False,
            }
        ],
        FORMS.name: [
            {
                "visit": visit,
                "version": 1,
                "form": "visit",
                "form_version": 1,
                "kept": used,
                "used": used,
                "record": record,
                "at": iso(at),
                "by": "token",
            }
        ],
        RECORDINGS.name: [_recording(rng, visit, utterance, at) for utterance in _UTTERANCES],
        SUBJECTS.name: [
            {
                "number": number + 1,
                "subject": f"record:{record}",
                "newest": f"record:{record}",
                "key": f"record:records-{0:016x}",
            }
        ]
        * new,
        ENTRIES.name: [
            {
                "source": "hospital",
                "origin": "hc",
                "name": f"Observation/{number}",
                "version": "1",
                "status": "final",
                "subject": person + 1,
                "issued": iso(at),
                "received": iso(at),
                "kind": "spo2",
                "at": iso(at),
                "value": values["spo2"],
                "breathing": "room_air",
            }
        ],
    }


def _recording(
    rng: random.Random, visit: str, utterance: Utterance, at: datetime
) -> dict[str, Any]:
    id, sha256 = _uuid(rng), f"{rng.getrandbits(256):064x}"
    return {
        "visit": visit,
        "id": id,
        "utterance": utterance,
        "sha256": sha256,
        "recorded_at": at.isoformat(),
        "original": f"recordings/{visit}/{id}/1.1-{sha256}.original",
        "described": _FOUND.model_dump_json(),
        "capture": json.dumps({"device": f"phone {sha256[0]}", "codec": "audio/webm;codecs=opus"}),
        "mismatches": '["rate"]' if sha256[0] == "0" else "[]",
    }


def _uuid(rng: random.Random) -> str:
    digits = f"{rng.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-7{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"


def _database(folder: Path) -> Database:
    return Database.open(f"sqlite:///{folder / 'spira.db'}", what="the benchmark")


def _reading(folder: Path) -> tuple[float, float]:
    """Seconds for a thousand visits: together, and one at a time."""
    visits = Visits(_database(folder), lambda record: record)
    wanted = dict(list(visits.known("spira").visits.items())[:_ALONE])
    taken = []
    for parts in ([wanted], [{one: person} for one, person in wanted.items()]):
        began = time.perf_counter()
        for part in parts:
            list(visits.read(part))
            visits.recordings(part)
        taken.append(time.perf_counter() - began)
    return taken[0], taken[1]


# ---- in a process of its own, whose memory is told


class _WithoutAudio(ArtifactStore):
    """Takes audio for stored."""

    def _put_blob(self, source: Path | bytes, doing: str, *, foreign: bool) -> FileEntry:
        if isinstance(source, Path):
            return FileEntry(_sha256(source), 100_000)
        return super()._put_blob(source, doing, foreign=foreign)


def _sha256(original: Path) -> str:
    return original.stem.partition("-")[2]


def _examined(files: Sequence[tuple[Path, Utterance]], **_: Any) -> list[Outcome]:
    """What a check would have found of each, as `examine` gives it."""
    shared: dict[SourceFormat, SourceFormat] = {}
    return [lean(_checked(path), shared) for path, _ in files]


def _checked(path: Path) -> Checked:
    return Checked(
        format=SourceFormat(**_FOUND.format.model_dump()),
        measurements=Measurements(**_FOUND.measurements.model_dump()),
        findings=_FOUND.findings,
        sha256=_sha256(path),
        n_bytes=100_000,
        audio_sha256=_sha256(path),
    )


def _snapshot(folder: Path) -> None:
    setattr(importing, "examine", _examined)  # noqa: B010 (mypy: it is another function)
    database = _database(folder)
    store = _WithoutAudio.open(str(folder / "store"), cache=folder / "cache")
    began = time.perf_counter()
    now = datetime.now(UTC)
    source, still = read_snapshot(
        Studies(database),
        Visits(database, lambda record: record),
        Labels(database, lambda subject: subject),
        "spira",
        "ri-v1",
        now,
        now=now,
    )
    importing.import_dataset(
        replace(source, root=folder),
        store,
        name="spira",
        thresholds=QualityThresholds(),
        jobs=1,
        still=still,
    )
    told = {
        "seconds": time.perf_counter() - began,
        "processor": time.process_time(),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    _snapshot(Path(sys.argv[1]))
