"""Importing: every file examined, what cannot be used refused with its reason, the rest committed
as a dataset version.

One bad file is one row of `rejected.csv`; it never stops an import, not even by crashing its
decoder. The same bytes with the same attributes are the same version, whatever the files are
called and whenever they are imported.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import polars as pl

from spira.audio.quality import Checked, QualityThresholds, findings
from spira.datasets.cells import printable
from spira.datasets.examining import Outcome, Refusal, examine
from spira.datasets.names import STAGE, check_name, give_name
from spira.datasets.sources import Listed, ListedNoise, Source
from spira.datasets.summary import REFUSED, DatasetSummary, summarise
from spira.datasets.versions import NOISE, RECORDINGS, parquet
from spira.domain.errors import InputError, TransientError
from spira.domain.fingerprint import canonical_json, fingerprint_with_rows
from spira.domain.progress import Progress, no_progress
from spira.domain.recordings import Utterance
from spira.stores.artifacts import Artifact, ArtifactStore

VERSION = 2  # changes when the same files begin to give another version
_AT_ONCE = 10_000  # rows on their way into a table

Row = TypeVar("Row", Listed, ListedNoise)


@dataclass(frozen=True)
class ImportReport:
    """What an import did."""

    digest: str  # of the dataset version
    name: str
    already_there: bool
    artifact: Artifact
    summary: DatasetSummary
    rejected: bytes  # rejected.csv, with files as this import's source calls them


def import_dataset(
    source: Source,
    store: ArtifactStore,
    *,
    name: str,
    thresholds: QualityThresholds,
    jobs: int,
    progress: Progress = no_progress,
    still: Callable[[], None] = lambda: None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> ImportReport:
    """Check every file of a source and commit what can be used as a dataset version.

    name      what the version is called from now on, beside its digest
    jobs      processes that decode; the result does not depend on their number
    still     asked when everything is checked and nothing is stored: raises where the source is
              not what it was
    raises    InputError when nothing, or one class only, can be used; TransientError on a full
              disk or when files change or go away meanwhile; nothing is then half-written
    """
    check_name(name)
    spoken, noise = _examined(source, thresholds, jobs, progress)
    _require_both_classes(source, spoken)
    still()

    digest = _digest(source, spoken, noise, thresholds)
    existing = store.find(STAGE, digest)
    if existing is not None and not (store.intact(existing, thorough=True) and _as_named(existing)):
        store.discard(existing)  # damaged: the files are at hand to mend it
        existing = None
    rejected = _rejected(spoken, noise)
    artifact = existing or _committed(
        source, store, digest, spoken, noise, rejected, name, now(), progress
    )
    give_name(store, name, digest, now())
    return ImportReport(
        digest,
        name,
        existing is not None,
        artifact,
        DatasetSummary.model_validate(artifact.read_json("summary.json")),
        rejected,
    )


# Deciding, once everything has been examined


@dataclass(frozen=True)
class _Sorted(Generic[Row]):
    """Rows that can be used, with what was measured; and the others."""

    accepted: list[tuple[Row, Checked]]
    refused: list[tuple[Row, Refusal]]


def _examined(
    source: Source, thresholds: QualityThresholds, jobs: int, progress: Progress
) -> tuple[_Sorted[Listed], _Sorted[ListedNoise]]:
    room: Utterance = "ambient_before"  # of noise, nothing is asked that is asked of a voice
    files = [(source.root / row.file, row.utterance) for row in source.recordings]
    files += [(source.root / noise_row.file, room) for noise_row in source.noise]
    outcomes = examine(files, thresholds=thresholds, jobs=jobs, progress=progress)
    if not source.root.is_dir():
        raise TransientError(f"{source.where}: went away during the import; run it again")
    for number, row in enumerate(source.recordings):
        outcomes[number] = _of_row(row, outcomes[number], thresholds)
    split = len(source.recordings)
    spoken = _sorted_out(source.recordings, outcomes[:split], _identity)
    noise = _sorted_out(source.noise, outcomes[split:], lambda row, checked: None)
    noise = _unspoken(noise, {checked.audio_sha256 for checked in _checked(outcomes[:split])})
    noise.accepted.extend(_rooms(spoken))
    return spoken, noise


def _of_row(row: Listed, outcome: Outcome, thresholds: QualityThresholds) -> Outcome:
    """What was found of a file, by what its source says of it."""
    if row.sha256 is not None and outcome.sha256 not in (row.sha256, None):
        message = "not the bytes that were received; restore them"
        return Refusal("damaged", message, outcome.sha256)
    if not row.unfinished or isinstance(outcome, Refusal):
        return outcome
    odd = findings(outcome.measurements, thresholds, row.utterance, unfinished=True)
    return replace(outcome, findings=odd)


def _sorted_out(
    rows: Sequence[Row],
    outcomes: Sequence[Outcome],
    identity: Callable[[Row, Checked], Any],
) -> _Sorted[Row]:
    """Accept and refuse; of the same audio, one copy where identities agree and none otherwise."""
    refused = []
    copies: dict[str, list[tuple[Row, Checked]]] = {}
    for row, outcome in zip(rows, outcomes, strict=True):
        if isinstance(outcome, Refusal):
            refused.append((row, outcome))
        else:
            copies.setdefault(outcome.audio_sha256, []).append((row, outcome))
    accepted: list[tuple[Row, Checked]] = []
    for group in copies.values():
        if len(group) == 1:
            accepted += group
            continue
        first, *others = sorted(group, key=lambda copy: (copy[1].sha256, copy[0].file))
        if len({identity(row, checked) for row, checked in group}) == 1:
            accepted.append(first)
            message = f"the same audio as {printable(first[0].file)}, which is kept"
        else:
            others = [first, *others]
            message = (
                f"the same audio {len(group)} times, of more than one participant, label, split or "
                "utterance; no copy is kept"
            )
        for row, checked in others:
            refused.append((row, Refusal("duplicate", message, checked.sha256)))
    return _Sorted(accepted, refused)


def _identity(row: Listed, checked: Checked) -> tuple[Any, ...]:
    return _participant(row, checked), row.label, row.side, row.utterance


def _participant(row: Listed, checked: Checked) -> str:
    """The pseudonym; where nobody said who was recorded, one made of the audio."""
    return row.participant or f"file-{checked.audio_sha256[:16]}"


def _unspoken(noise: _Sorted[ListedNoise], spoken: set[str]) -> _Sorted[ListedNoise]:
    """Refuse noise that is a participant's recording: the two are split independently."""
    message = "the same audio as a participant's recording"
    kept = [pair for pair in noise.accepted if pair[1].audio_sha256 not in spoken]
    taken = [
        (row, Refusal("duplicate", message, checked.sha256))
        for row, checked in noise.accepted
        if checked.audio_sha256 in spoken
    ]
    return _Sorted(kept, [*noise.refused, *taken])


def _rooms(spoken: _Sorted[Listed]) -> Iterator[tuple[ListedNoise, Checked]]:
    """The rooms of visits that are noise recordings too."""
    for row, checked in spoken.accepted:
        if row.noise:
            yield ListedNoise(row.file, row.site, pseudonyms=row.pseudonyms), checked


def _checked(outcomes: Iterable[Outcome]) -> Iterator[Checked]:
    return (outcome for outcome in outcomes if isinstance(outcome, Checked))


def _require_both_classes(source: Source, spoken: _Sorted[Listed]) -> None:
    labels = {row.label for row, _ in spoken.accepted}
    if {"present", "absent"} <= labels:
        return
    missing = " or ".join(label for label in ("present", "absent") if label not in labels)
    what = f"no usable recording with RI {missing}" if labels else "no usable recording"
    reasons = Counter(refusal.reason for _, refusal in spoken.refused)
    examples = {refusal.reason: (row, refusal) for row, refusal in reversed(spoken.refused)}
    raise InputError(
        f"{source.where}: {what}; {len(spoken.refused)} of {len(source.recordings)} were refused",
        *(
            f"{reason}: {count}, such as {printable(examples[reason][0].file)}: "
            f"{examples[reason][1].message}"
            for reason, count in sorted(reasons.items())
        ),
    )


def _digest(
    source: Source,
    spoken: _Sorted[Listed],
    noise: _Sorted[ListedNoise],
    thresholds: QualityThresholds,
) -> str:
    """What a version is named by: bytes and what was said of them, not what they are called.

    Only of a file that could not be read there are no bytes: it is named as it was listed.
    """

    def said(row: Listed | ListedNoise) -> dict[str, Any]:
        values = asdict(row)
        del values["file"]
        values.pop("sha256", None)  # told of what was read
        for name in _ADDED:
            if not values.get(name):
                values.pop(name, None)
        return values

    collected = source.collected
    return fingerprint_with_rows(
        {
            **({} if collected is None else {key: getattr(collected, key) for key in _LINEAGE}),
            "version": VERSION,
            "origin": source.origin,
            "language": source.language,
            "participants": source.participants,
            "thresholds": thresholds.model_dump(mode="json"),  # findings follow from them
        },
        {
            "recordings": (
                {**said(row), "sha256": checked.sha256} for row, checked in spoken.accepted
            ),
            "noise": ({**said(row), "sha256": checked.sha256} for row, checked in noise.accepted),
            "refused": ({**said(row), **_refused(row, refusal)} for row, refusal in spoken.refused),
            "refused noise": (_refused(row, refusal) for row, refusal in noise.refused),
        },
    )


# What a source may say since versions are named: where it does not, the name is as it was.
_ADDED = ("pseudonyms", "unfinished", "noise")
_LINEAGE = ("study", "label_policy")


def _refused(row: Listed | ListedNoise, refusal: Refusal) -> dict[str, Any]:
    known = {"reason": refusal.reason, "sha256": refusal.sha256}
    return known if refusal.sha256 else {**known, "file": printable(row.file)}


# Committing


def _committed(
    source: Source,
    store: ArtifactStore,
    digest: str,
    spoken: _Sorted[Listed],
    noise: _Sorted[ListedNoise],
    rejected: bytes,
    name: str,
    at: datetime,
    progress: Progress,
) -> Artifact:
    recordings = _table(
        (_recording(row, checked) for row, checked in spoken.accepted),
        RECORDINGS,
        ("participant_id", "utterance", "sha256"),
    )
    noises = _table((_noise(row, checked) for row, checked in noise.accepted), NOISE, ("sha256",))
    refused = pl.DataFrame(
        [
            (row.label, row.sex, row.age, row.spo2_percent, refusal.reason)
            for row, refusal in spoken.refused
        ],
        schema=REFUSED,
        orient="row",
    )
    summary = summarise(recordings, noises, refused, [r.reason for _, r in noise.refused])
    small = {
        "recordings.parquet": parquet(recordings),
        "noise.parquet": parquet(noises),
        "rejected.csv": rejected,
        "summary.json": canonical_json(summary.model_dump(mode="json")),
    }
    collected = source.collected
    if collected is not None:
        small["snapshot.json"] = canonical_json(collected.model_dump(mode="json"))
    audio = {f"audio/{checked.sha256}": row.file for row, checked in spoken.accepted}
    audio |= {f"noise/{checked.sha256}": row.file for row, checked in noise.accepted}
    files = _Files(small, source.root, audio)
    about = {
        "name": name,
        "origin": source.origin,
        "language": source.language,
        "participants": source.participants,
        "imported_at": at.isoformat(),
        "people": recordings["participant_id"].n_unique(),
        "recordings": recordings.height,
        "labels": summary.recordings.model_dump(),
        "noise": noises.height,
        "refused": refused.height + len(noise.refused),
    }
    if collected is not None:
        told = ("study", "label_policy", "as_of", "withdrawn")
        about |= collected.model_dump(mode="json", include=set(told))
    changed = TransientError(f"{source.where}: a file changed during the import; run it again")
    progress("storing files", 0, len(files))
    try:
        artifact = store.commit(STAGE, digest, files, about)
    except FileNotFoundError as error:
        raise changed from error
    progress("storing files", len(files), len(files))
    if not _as_named(artifact):
        store.forget(artifact)
        raise changed
    return artifact


def _recording(row: Listed, checked: Checked) -> dict[str, Any]:
    return {
        "recording_id": checked.sha256[:16],
        "participant_id": _participant(row, checked),
        "visit_id": row.visit,
        "utterance": row.utterance,
        "label": row.label,
        "side": row.side,
        "site": row.site,
        "device": row.device,
        "sex": row.sex,
        "age": row.age,
        "spo2_percent": row.spo2_percent,
        "recorded_at": row.recorded_at,
        "sha256": checked.sha256,
        "n_bytes": checked.n_bytes,
        **checked.format.model_dump(),
        **checked.measurements.model_dump(),
        "findings": list(checked.findings),
        "pseudonyms": list(row.pseudonyms) or None,
    }


def _noise(row: ListedNoise, checked: Checked) -> dict[str, Any]:
    return {
        "noise_id": checked.sha256[:16],
        "site": row.site,
        "side": row.side,
        "sha256": checked.sha256,
        "n_bytes": checked.n_bytes,
        **checked.format.model_dump(),
        "duration_s": checked.measurements.duration_s,
        "level_dbfs": checked.measurements.level_dbfs,
        "pseudonyms": list(row.pseudonyms) or None,
    }


def _table(
    rows: Iterable[Mapping[str, Any]], schema: Mapping[str, Any], by: Sequence[str]
) -> pl.DataFrame:
    """Rows as a table, sorted; without the column that only snapshots fill where nobody did: what
    is imported has the bytes that it always had."""
    each, parts = iter(rows), [pl.DataFrame(schema=schema)]
    while some := list(islice(each, _AT_ONCE)):
        parts.append(pl.DataFrame(some, schema=schema))
    table = pl.concat(parts)
    parts.clear()
    table = table.sort(by)
    unsaid = table["pseudonyms"].null_count() == table.height
    return table.drop("pseudonyms") if unsaid else table


@dataclass(frozen=True)
class _Files(Mapping[str, Path | bytes]):
    """The files of a version; of audio, paths are made when it has its turn."""

    small: Mapping[str, bytes]
    root: Path
    audio: Mapping[str, str]  # below the root

    def __getitem__(self, name: str) -> Path | bytes:
        return self.small[name] if name in self.small else self.root / self.audio[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.small
        yield from self.audio

    def __len__(self) -> int:
        return len(self.small) + len(self.audio)


def _rejected(spoken: _Sorted[Listed], noise: _Sorted[ListedNoise]) -> bytes:
    lines: list[tuple[str, ...]] = [
        (printable(row.file), row.participant or "", row.label, row.sex or "", *_why(refusal))
        for row, refusal in spoken.refused
    ]
    lines += [
        (printable(row.file), "", "noise", "", *_why(refusal)) for row, refusal in noise.refused
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "participant", "label", "sex", "reason", "message"])
    writer.writerows(sorted(lines))
    return text.getvalue().encode()


def _why(refusal: Refusal) -> tuple[str, str]:
    return refusal.reason, refusal.message


def _as_named(artifact: Artifact) -> bool:
    """Whether the audio committed is what was examined: a file may change in between."""
    return all(
        entry.sha256 == name.rpartition("/")[2]
        for name, entry in artifact.files.items()
        if "/" in name
    )
