"""Visits: what was recorded of whom, where and how, and what was said of it since.

A visit is written in the transaction that accepts its submission, whole: participant, consent,
form and recordings. Its form may be amended afterwards, by another version beside the old ones.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import Any

import polars as pl
import sqlalchemy as sa

from spira.collection.balance import VISITS as COLUMNS
from spira.collection.consents import CONSENT
from spira.collection.tables import FORMS, PARTICIPANTS, RECORDINGS, VISITS
from spira.domain.capture import mismatches
from spira.domain.errors import SpiraError
from spira.domain.fingerprint import canonical_json
from spira.domain.forms import Filled
from spira.domain.labels import Asked, Subject
from spira.domain.persons import persons
from spira.domain.recordings import Described
from spira.domain.submissions import FormValues
from spira.intake import audit
from spira.intake.keys import RECORDS_KEY_LENGTH
from spira.intake.submissions import Accepted, OnAccept, Stored
from spira.labels.store import Labels
from spira.stores.database import Database, iso

SCORED = "sentence"  # the utterance that a label is asked for, and models are trained on
_OTHER_RECORD = "another record number than at this participant's other visits"

# How wrong a corrected time may be. A device that told its clock when it sent: what the network
# took, and what a clock drifts in a month (20 ppm). Where it did not, or the time lies ahead, its
# clock was set meanwhile, and nobody knows by how much.
_TOLD_S = 60.0
_UNTOLD_S = 10 * 365 * 86_400.0

_AT_ONCE = 1000  # visits in one query


class Withdrawn(SpiraError):
    """The participant has withdrawn: nothing of theirs is taken, and the device erases it."""


@dataclass(frozen=True)
class Known:
    """The visits of a study that were known at a moment, and whose they are.

    A visit that may be of another person links nobody.
    """

    visits: Mapping[str, str]  # those that count -> person
    withdrawn: tuple[str, ...]  # those of whoever has withdrawn by now, under every pseudonym
    doubts: tuple[str, ...]  # those that may be of another person than they name
    real: bool  # whether any that counts is of a person, and not of a voice that was made
    pseudonyms: Mapping[str, tuple[str, ...]]  # person -> those of the visits
    subjects: Mapping[str, tuple[Subject, ...]]  # person -> every name that labels may know


class Visits:
    """The tables of what is collected."""

    def __init__(self, database: Database, newest: Callable[[str], str]) -> None:
        """newest    the hash of a record number as it is under the newest key of its hospital"""
        self._database = database
        self._newest = newest

    # ---- taking in

    def require_present(self, study: str, participant: str, records: Sequence[str]) -> None:
        """See that a participant has not withdrawn, under this pseudonym or another.

        records   the hashes of the record number that was given, under every key
        raises    Withdrawn
        """
        with self._database.reading() as tables:
            _require_present(tables, study, participant, records)

    def taken(self, filled: Filled, records: Sequence[str], by: str) -> OnAccept:
        """What is done with a visit when it is accepted.

        filled    its form
        records   the hashes of its record number, under every key, the newest first
        by        the token that sent it, for the audit
        raises    Withdrawn, of what it gives
        """

        def on_accept(tables: sa.Connection, accepted: Accepted) -> None:
            submission, visit = accepted.submission, accepted.submission.visit
            assert visit is not None
            this = (PARTICIPANTS.c.study == visit.study) & (PARTICIPANTS.c.id == visit.participant)
            if (
                tables.execute(sa.select(PARTICIPANTS).where(this).with_for_update()).first()
                is None
            ):
                tables.execute(
                    PARTICIPANTS.insert().values(
                        study=visit.study,
                        id=visit.participant,
                        created_at=iso(accepted.accepted_at),
                    )
                )
            _require_present(tables, visit.study, visit.participant, records)
            times = {one.id: _corrected(one.recorded_at, accepted) for one in submission.files}
            scored = [one.id for one in submission.files if one.utterance == SCORED]
            recorded_at = max(times[id] for id in scored or times)
            doubt = _doubt(tables, visit.study, visit.participant, records)
            tables.execute(
                VISITS.insert().values(
                    id=submission.id,
                    study=visit.study,
                    study_version=visit.study_version,
                    participant=visit.participant,
                    site=accepted.site,
                    record=records[0] if records else None,
                    replaces=submission.replaces,
                    recorded_at=recorded_at.isoformat(timespec="microseconds"),
                    uncertainty_s=_uncertainty_s(recorded_at, accepted),
                    accepted_at=iso(accepted.accepted_at),
                    synthetic=visit.synthetic,
                    doubt=doubt,
                )
            )
            at = accepted.accepted_at
            _write_form(tables, submission.id, 1, submission.form, filled, records, doubt, at, by)
            for one in accepted.recordings:
                tables.execute(RECORDINGS.insert().values(**_row(submission.id, one, times)))
            audit.note(
                tables,
                at=accepted.accepted_at,
                who=by,
                role="site",
                what="visit accepted",
                which=submission.id,
            )

        return on_accept

    def amend(
        self,
        visit: str,
        site: str,
        form: FormValues,
        filled: Filled,
        records: Sequence[str],
        *,
        why: str,
        by: str,
    ) -> int | None:
        """Add another version of a visit's form, audited; its number, None where the site has none.

        A record number that was corrected attaches the visit to another person; that it was
        another one stays in the earlier version.
        """
        now = datetime.now(UTC)
        this = (VISITS.c.id == visit) & (VISITS.c.site == site)
        with self._database.writing() as tables:
            row = tables.execute(sa.select(VISITS).where(this).with_for_update()).first()
            if row is None:
                return None
            _require_present(tables, row.study, row.participant, records)
            last = sa.select(sa.func.max(FORMS.c.version)).where(FORMS.c.visit == visit)
            version = int(tables.execute(last).scalar_one()) + 1
            doubt = _doubt(tables, row.study, row.participant, records, besides=visit)
            _write_form(tables, visit, version, form, filled, records, doubt, now, by, why)
            record = records[0] if records else None
            tables.execute(VISITS.update().where(this).values(record=record, doubt=doubt))
            audit.note(
                tables, at=now, who=by, role="site", what="form amended", which=visit, why=why
            )
        return version

    # ---- withdrawal

    def withdraw(
        self, study: str, participant: str, *, why: str, by: str, role: str
    ) -> tuple[str, ...]:
        """Mark a participant as withdrawn, under every pseudonym that is known, audited.

        A pseudonym of whom nothing has arrived yet is marked too. Returns the pseudonyms.
        """
        now = datetime.now(UTC)
        with self._database.writing() as tables:
            people = self._persons(tables, study)
            person = people.get(participant, participant)
            names = sorted({participant, *(one for one, of in people.items() if of == person)})
            for name in names:
                this = (PARTICIPANTS.c.study == study) & (PARTICIPANTS.c.id == name)
                if tables.execute(sa.select(PARTICIPANTS.c.id).where(this)).first() is None:
                    tables.execute(
                        PARTICIPANTS.insert().values(study=study, id=name, created_at=iso(now))
                    )
                tables.execute(
                    PARTICIPANTS.update()
                    .where(this, PARTICIPANTS.c.withdrawn_at.is_(None))
                    .values(withdrawn_at=iso(now))
                )
                audit.note(
                    tables,
                    at=now,
                    who=by,
                    role=role,
                    what="participant withdrawn",
                    which=name,
                    why=why,
                )
        return tuple(names)

    # ---- asking

    def about(self, visit: str, site: str) -> Mapping[str, Any] | None:
        """A visit of a site with every version of its form and its recordings; None: none."""
        with self._database.reading() as tables:
            query = sa.select(VISITS).where(VISITS.c.id == visit, VISITS.c.site == site)
            row = tables.execute(query).first()
            if row is None:
                return None
            forms = sa.select(FORMS).where(FORMS.c.visit == visit).order_by(FORMS.c.version)
            recordings = sa.select(RECORDINGS).where(RECORDINGS.c.visit == visit)
            return {
                **row._mapping,
                "forms": [dict(one._mapping) for one in tables.execute(forms)],
                "recordings": [dict(one._mapping) for one in tables.execute(recordings)],
            }

    def known(self, study: str, until: datetime | None = None) -> Known:
        """Which visits were known, who they are of, and which of them do not count.

        until     as they were known then: what was accepted and amended later is left out. Who has
                  withdrawn since is left out all the same
        """
        at = iso(until or datetime.now(UTC))
        with self._database.reading() as tables:
            linked = self._persons(tables, study)
            gone = sa.select(PARTICIPANTS.c.id).where(
                PARTICIPANTS.c.study == study, PARTICIPANTS.c.withdrawn_at.is_not(None)
            )
            withdrawn = {linked.get(one, one) for one in tables.execute(gone).scalars()}
            rows = tables.execute(
                sa.select(
                    VISITS.c.id,
                    VISITS.c.participant,
                    VISITS.c.synthetic,
                    FORMS.c.record,
                    FORMS.c.doubt,
                )
                .select_from(_as_known(at))
                .where(VISITS.c.study == study)
                .order_by(VISITS.c.id)
            ).all()
        sure = {(row.participant, None if row.doubt else row.record) for row in rows}
        people = self._linked(sure)
        pseudonyms: dict[str, set[str]] = {}
        subjects: dict[str, set[Subject]] = {}
        for participant, record in sure:
            person = people[participant]
            pseudonyms.setdefault(person, set()).add(participant)
            names = {f"participant:{study}/{participant}"} | (
                set() if record is None else {f"record:{record}"}
            )
            subjects.setdefault(person, set()).update(names)
        left = {row.id for row in rows if linked[row.participant] in withdrawn}
        count = [row for row in rows if row.id not in left and row.doubt is None]
        return Known(
            visits={row.id: people[row.participant] for row in count},
            withdrawn=tuple(sorted(left)),
            doubts=tuple(row.id for row in rows if row.doubt and row.id not in left),
            real=not all(row.synthetic for row in count),
            pseudonyms={person: tuple(sorted(names)) for person, names in pseudonyms.items()},
            subjects={person: tuple(sorted(names)) for person, names in subjects.items()},
        )

    def read(
        self, visits: Mapping[str, str], until: datetime | None = None
    ) -> Iterator[Sequence[Mapping[str, Any]]]:
        """Visits, a thousand at a time, each with its person, the values of its form (`values`),
        and whether it may be used (`research_consent`).

        visits    id -> person, as in `Known`
        until     as they were known then
        """
        at = iso(until or datetime.now(UTC))
        columns = [one for one in VISITS.c if one.key not in ("record", "doubt")]  # those of now
        for wanted in _at_once(visits):
            query = sa.select(*columns, FORMS.c.used).select_from(_as_known(at))
            with self._database.reading() as tables:
                rows = tables.execute(
                    query.where(VISITS.c.id.in_(wanted)).order_by(VISITS.c.id)
                ).all()
            yield [_with_form(row, visits[row.id]) for row in rows]

    def of_study(self, study: str, until: datetime | None = None) -> Sequence[Mapping[str, Any]]:
        """The visits of a study that count, as `read` gives them, in the order of their times.

        Those of whoever has withdrawn are left out, under every pseudonym, and those that may be
        of another person (`doubt`).
        until     as they were known then: what was accepted and amended later is left out
        """
        known = self.known(study, until)
        visits = chain.from_iterable(self.read(known.visits, until))
        return sorted(visits, key=lambda one: datetime.fromisoformat(one["recorded_at"]))

    def recordings(self, visits: Iterable[str]) -> dict[str, list[Mapping[str, Any]]]:
        """The recordings of visits, by visit, without spoken consents: those hold a name, and are
        in no dataset, export or review."""
        found: dict[str, list[Mapping[str, Any]]] = {one: [] for one in visits}
        with self._database.reading() as tables:
            for part in _at_once(found):
                query = sa.select(RECORDINGS).where(
                    RECORDINGS.c.visit.in_(part), RECORDINGS.c.utterance != CONSENT
                )
                for row in tables.execute(query.order_by(RECORDINGS.c.id)):
                    found[row.visit].append(dict(row._mapping))
        return found

    def subjects(
        self, study: str, until: datetime | None = None
    ) -> Mapping[str, tuple[Subject, ...]]:
        """By person: every name that labels may know them by."""
        return self.known(study, until).subjects

    def _persons(self, tables: sa.Connection, study: str) -> dict[str, str]:
        """By pseudonym, as everything that is known now links them, what is in doubt too."""
        query = sa.select(VISITS.c.participant, VISITS.c.record).where(VISITS.c.study == study)
        return self._linked(
            (one.participant, one.record) for one in tables.execute(query.distinct())
        )

    def _linked(self, seen: Iterable[tuple[str, str | None]]) -> dict[str, str]:
        return persons(
            (participant, None if record is None else self._newest(record))
            for participant, record in seen
        )


def visit_table(visits: Visits, labels: Labels, study: str, policy: str) -> pl.DataFrame:
    """The visits of a study in the order of their times, columns as in `balance.VISITS`, labelled
    by a policy as of now."""
    now = datetime.now(UTC)
    rows = visits.of_study(study)
    subjects = visits.subjects(study)
    asked = [asked_about(row, subjects[row["person"]]) for row in rows]
    decided = labels.as_of(asked, policy, now)
    recordings = visits.recordings(row["id"] for row in rows)
    table = []
    for row, label in zip(rows, decided, strict=True):
        values = row["values"]
        spoken = next((r for r in recordings[row["id"]] if r["utterance"] == SCORED), None)
        floor = device = None
        if spoken is not None:
            device = json.loads(spoken["capture"]).get("device")
            if spoken["described"] is not None:
                described = Described.model_validate_json(spoken["described"])
                floor = described.measurements.noise_floor_dbfs
        table.append(
            {
                "person": row["person"],
                "sex": values.get("sex"),
                "age": values.get("age"),
                "site": row["site"],
                "ward": values.get("ward"),
                "device": device,
                "noise_floor_dbfs": floor,
                "hour": datetime.fromisoformat(row["recorded_at"]).hour,
                "label": label.label,
            }
        )
    return pl.DataFrame(table, schema=COLUMNS)


def asked_about(visit: Mapping[str, Any], subjects: Sequence[Subject]) -> Asked:
    """The question for a visit's label."""
    return Asked(
        recording=visit["id"],
        subjects=tuple(subjects),
        recorded_at=datetime.fromisoformat(visit["recorded_at"]),
        uncertainty_s=visit["uncertainty_s"],
    )


def record_keys(database: Database) -> Sequence[str]:
    """Ids of the keys that record numbers were hashed with."""
    key = sa.func.substr(VISITS.c.record, 1, RECORDS_KEY_LENGTH)
    query = sa.select(key).where(VISITS.c.record.is_not(None)).distinct()
    with database.reading() as tables:
        return tables.execute(query).scalars().all()


def _as_known(at: str) -> sa.Join:
    """Visits, each with the newest version of its form that was there at a moment."""
    newer = FORMS.alias()
    later = (newer.c.visit == FORMS.c.visit) & (newer.c.version > FORMS.c.version)
    newest = (FORMS.c.at <= at) & ~sa.exists().where(later, newer.c.at <= at)
    return VISITS.join(FORMS, (FORMS.c.visit == VISITS.c.id) & newest)


def _with_form(row: sa.Row[Any], person: str) -> Mapping[str, Any]:
    values = json.loads(row.used)
    return {
        **row._mapping,
        "person": person,
        "values": values,
        "research_consent": values.get("research_consent") is True,
    }


def _at_once(visits: Iterable[str]) -> Iterator[list[str]]:
    each = iter(visits)
    while some := list(islice(each, _AT_ONCE)):
        yield some


def _require_present(
    tables: sa.Connection, study: str, participant: str, records: Sequence[str]
) -> None:
    linked = sa.select(VISITS.c.participant).where(
        VISITS.c.study == study, VISITS.c.record.in_(records)
    )
    gone = sa.select(PARTICIPANTS.c.id).where(
        PARTICIPANTS.c.study == study,
        PARTICIPANTS.c.withdrawn_at.is_not(None),
        (PARTICIPANTS.c.id == participant) | PARTICIPANTS.c.id.in_(linked),
    )
    if tables.execute(gone).first() is not None:
        raise Withdrawn("the participant has withdrawn from the study")


def _doubt(
    tables: sa.Connection,
    study: str,
    participant: str,
    records: Sequence[str],
    *,
    besides: str | None = None,
) -> str | None:
    """Why a visit may be of another person than the participant that it names."""
    if not records:
        return None
    others = sa.select(VISITS.c.id).where(
        VISITS.c.study == study,
        VISITS.c.participant == participant,
        VISITS.c.record.is_not(None),
        VISITS.c.record.not_in(records),
        VISITS.c.id != (besides or ""),
    )
    return None if tables.execute(others).first() is None else _OTHER_RECORD


def _write_form(
    tables: sa.Connection,
    visit: str,
    version: int,
    form: FormValues,
    filled: Filled,
    records: Sequence[str],
    doubt: str | None,
    at: datetime,
    by: str,
    why: str | None = None,
) -> None:
    tables.execute(
        FORMS.insert().values(
            visit=visit,
            version=version,
            form=form.id,
            form_version=form.version,
            kept=canonical_json(dict(filled.kept)).decode(),
            used=canonical_json(dict(filled.values)).decode(),
            record=records[0] if records else None,
            doubt=doubt,
            at=iso(at),
            by=by,
            why=why,
        )
    )


def _row(visit: str, one: Stored, times: Mapping[str, datetime]) -> dict[str, Any]:
    found = one.found
    other = () if found is None else mismatches(one.file.capture, found)
    return {
        "visit": visit,
        "id": one.file.id,
        "utterance": one.file.utterance,
        "sha256": one.file.sha256,
        "recorded_at": times[one.file.id].isoformat(timespec="microseconds"),
        "original": one.original,
        "audio": one.audio,
        "audio_sha256": one.audio_sha256,
        "described": None if found is None else found.model_dump_json(),
        "capture": one.file.capture.model_dump_json(exclude_none=True),
        "mismatches": json.dumps(other),
    }


def _corrected(at: datetime, accepted: Accepted) -> datetime:
    """By the server's clock, in the device's zone; what no calendar has is as it was said."""
    try:
        return at - timedelta(seconds=accepted.device_ahead_s or 0.0)
    except OverflowError:
        return at


def _uncertainty_s(recorded_at: datetime, accepted: Accepted) -> float:
    ahead = recorded_at > accepted.accepted_at + timedelta(seconds=_TOLD_S)
    return _UNTOLD_S if ahead or accepted.device_ahead_s is None else _TOLD_S
