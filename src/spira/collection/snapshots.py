"""Snapshots: what Collection holds of a study, as it was known at a moment, for a dataset version.

A snapshot is an import whose table is the stores. The same checks read the same bytes: the
originals, as devices sent them. What was decoded of them on arrival has lost its container, codec
and rate, which audits look at, and was measured against the limits of that day.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from heapq import nsmallest
from pathlib import Path
from typing import Any, get_args

from spira.audio.quality import AMBIENT
from spira.collection.studies import Studies
from spira.collection.visits import Known, Visits, asked_about
from spira.datasets import cells
from spira.datasets.sources import Listed, Source
from spira.datasets.summary import Collected
from spira.domain.errors import InputError, TransientError
from spira.domain.label_policies import agreement, find_policy
from spira.domain.labels import POSSIBLE, Decided
from spira.domain.progress import Progress, no_progress
from spira.domain.recordings import Label, LabelCounts, Sex
from spira.labels.store import Labels

COMPARED = ("ri-v1", "spo2-v1")  # label policies whose agreement is told

# Of each site, so many rooms are noise recordings too: an experiment draws from all of a side for
# every recording, and does not need one from every visit.
_ROOMS = 32


def read_snapshot(
    studies: Studies,
    visits: Visits,
    labels: Labels,
    study: str,
    policy: str,
    at: datetime,
    *,
    now: datetime,
    progress: Progress = no_progress,
) -> tuple[Source, Callable[[], None]]:
    """What may be used of a study, labelled, all of it as it was known at a moment.

    Left out, and counted, are visits without research consent, those in doubt, made voices where
    there are people's too, and, whatever the moment, what has no research consent by now, and
    everybody who has withdrawn. Spoken consents never are in it.

    returns   the source: its files are objects of the audio store, its root is for whoever has
              them; and what raises TransientError when somebody has withdrawn, or taken back the
              consent, since
    raises    InputError for an unknown study or policy, or a moment that has not passed
    """
    find_policy(policy)
    if at > now:
        raise InputError(
            f"as of {at.isoformat()}: that moment has not passed, and more may become known by then"
        )
    language = _language(studies, study, at)
    known, refused = visits.known(study, at), visits.refused(study)
    left_out: Counter[str] = Counter()
    listed: list[Listed] = []
    unknown: Counter[str] = Counter()
    mismatches: dict[str, Counter[str]] = defaultdict(Counter)

    def decided() -> Iterator[tuple[Decided, Decided]]:
        """Lists the recordings of one visit after the other, and tells what is compared."""
        done = 0
        for some in visits.read(known.visits, at):
            consented = [one for one in some if one["research_consent"]]
            used = [one for one in consented if one["synthetic"] != known.real]
            left_out["consent"] += len(some) - len(consented)
            left_out["synthetic"] += len(consented) - len(used)
            asked = [asked_about(one, known.subjects[one["person"]]) for one in used]
            by = {name: labels.as_of(asked, name, at) for name in {policy, *COMPARED}}
            recordings = visits.recordings(one["id"] for one in used)
            for visit, label in zip(used, by[policy], strict=True):
                if label.label == "unknown":
                    unknown[label.reason] += 1
                for recording in _without_consents(recordings[visit["id"]]):
                    listed.append(_listed(visit, recording, label.label, known))
                    for mismatch in json.loads(recording["mismatches"]):
                        mismatches[mismatch][label.label] += 1
            yield from zip(*(by[name] for name in COMPARED), strict=True)
            done += len(some)
            progress("reading visits", done, len(known.visits))

    agreed = agreement(*COMPARED, decided())
    people = set(known.visits.values())
    two_sexes, rooms = _of_two_sexes(listed), _rooms(listed)
    for number, row in enumerate(listed):
        if row.participant in two_sexes:
            listed[number] = row = replace(row, sex=None)
        if row.file in rooms:
            listed[number] = replace(row, noise=True)
    collected = Collected(
        study=study,
        label_policy=policy,
        as_of=at,
        visits=agreed.total,
        withdrawn=sum(
            sum(1 for _ in _without_consents(rows))
            for rows in visits.recordings(known.withdrawn).values()
        ),
        doubts=known.doubts,
        linked={who: known.pseudonyms[who] for who in people if len(known.pseudonyms[who]) > 1},
        two_sexes=tuple(sorted(two_sexes)),
        unknown=unknown,
        agreement=agreed,
        mismatches={name: LabelCounts(**counts) for name, counts in sorted(mismatches.items())},
        without_consent=left_out["consent"],
        synthetic=left_out["synthetic"],
    )
    source = Source(
        root=Path(),
        recordings=tuple(listed),
        origin="import" if known.real else "synthetic",
        language=language,
        collected=collected,
    )

    def still() -> None:
        gone = visits.known(study, at).withdrawn != known.withdrawn
        if gone or known.visits.keys() & (visits.refused(study) - refused):
            raise TransientError(
                f"{collected.where}: somebody has withdrawn meanwhile, or the consent to research; "
                "run it again, without them"
            )

    return source, still


def _language(studies: Studies, study: str, at: datetime) -> str:
    """In which the study is read aloud, by its last version of then."""
    studies.study(study)
    applied = [one for one in studies.list() if one.study.id == study and one.applied_at <= at]
    if not applied:
        raise InputError(f"study {study}: it was not there yet as of {at.isoformat()}")
    return applied[-1].study.language


def _without_consents(recordings: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """A spoken consent holds a name."""
    return (one for one in recordings if one["utterance"] != "consent")


def _listed(
    visit: Mapping[str, Any], recording: Mapping[str, Any], label: Label, known: Known
) -> Listed:
    values = visit["values"]
    device = json.loads(recording["capture"]).get("device") or ""
    return Listed(
        file=recording["original"],
        label=label,
        participant=visit["person"],
        visit=visit["id"],
        utterance=recording["utterance"],
        site=visit["site"],
        device=cells.name(device, "device", lambda fault: None),
        sex=values.get("sex") if values.get("sex") in get_args(Sex) else None,
        age=values.get("age"),
        spo2_percent=_spo2_percent(values.get("spo2")),
        recorded_at=recording["recorded_at"],
        pseudonyms=known.pseudonyms[visit["person"]],
        sha256=recording["sha256"],
        unfinished=values.get("unfinished") is True,
    )


def _spo2_percent(value: Any) -> float | None:
    """Of a form whose field has this name, whatever else it is."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    low, high = POSSIBLE["spo2"]
    return float(value) if low <= value <= high else None


def _of_two_sexes(listed: list[Listed]) -> set[str]:
    """The people of whom forms say two."""
    said: dict[str, set[Sex]] = defaultdict(set)
    for row in listed:
        if row.participant and row.sex:
            said[row.participant].add(row.sex)
    return {person for person, sexes in said.items() if len(sexes) > 1}


def _rooms(listed: list[Listed]) -> set[str]:
    """The rooms that are noise recordings too: of each site those with the smallest digests, so
    that it is chance which, and the same ones again."""
    sites: dict[str | None, list[Listed]] = defaultdict(list)
    for row in listed:
        if row.utterance in AMBIENT:
            sites[row.site].append(row)
    return {
        row.file
        for rows in sites.values()
        for row in nsmallest(_ROOMS, rows, key=lambda row: (row.sha256, row.file))
    }
