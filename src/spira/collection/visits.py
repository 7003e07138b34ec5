"""Visits: what was recorded of whom, where and how, and what was said of it since.

A visit is written in the transaction that accepts its submission, whole: participant, consent,
form and recordings. Its form may be amended afterwards, by another version beside the old ones.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import Any, Literal, get_args

import polars as pl
import sqlalchemy as sa

from spira.collection.balance import VISITS as COLUMNS
from spira.collection.consents import CONSENT
from spira.collection.tables import FORMS, PARTICIPANTS, RECORDINGS, STUDIES, VISITS
from spira.domain.answers import Sentence
from spira.domain.capture import mismatches
from spira.domain.errors import SpiraError
from spira.domain.fingerprint import canonical_json
from spira.domain.forms import Filled
from spira.domain.labels import Asked, Subject
from spira.domain.persons import persons
from spira.domain.recordings import FINDINGS, Described
from spira.domain.studies import Step
from spira.domain.submissions import FormValues
from spira.intake import audit
from spira.intake.keys import RECORDS_KEY_LENGTH
from spira.intake.submissions import Accepted, OnAccept, Stored
from spira.labels.store import Labels
from spira.stores.database import Database, iso

SCORED = "sentence"  # the utterance that a label is asked for, and models are trained on

Doubt = Literal["other_record", "no_consent", "replaced"]
DOUBTS: Mapping[Doubt, Sentence] = {
    "other_record": Sentence(
        pt="O prontuário difere do de outra visita do participante. Confira os formulários.",
        en="The record number differs from that of another of their visits. Check the forms.",
    ),
    "no_consent": Sentence(
        pt="Falta a gravação do consentimento falado. Corrija no formulário como consentiu.",
        en="The spoken consent was not recorded. Correct in the form how they consented.",
    ),
    "replaced": Sentence(
        pt="Outra visita substitui esta. Use a outra.",
        en="Another visit replaces this one. Use the other one.",
    ),
}
"""Why a visit counts for nobody until that is put right."""

_HAS_WITHDRAWN = "the participant has withdrawn from the study"
_NOT_THEIRS: frozenset[Doubt] = frozenset(("other_record", "replaced"))  # it may be of others

# How wrong a corrected time may be. A device that told its clock when it sent: what the network
# took, and what a clock drifts in a month (20 ppm). Where it did not, or the time lies ahead, its
# clock was set meanwhile, and nobody knows by how much.
_TOLD_S = 60.0
_UNTOLD_S = 10 * 365 * 86_400.0

_AT_ONCE = 1000  # visits in one query
_EVER = "9999"  # later than any time of a table: also of a server whose clock is ahead
_WITHDRAWING = 0x57495448  # "WITH": the locks of studies, on PostgreSQL
_NEW_PARTICIPANT = sa.text(  # of two that come first at once, the second waits and adds nothing
    f"INSERT INTO {PARTICIPANTS.name} (study, id, created_at) VALUES (:study, :id, :at) "
    "ON CONFLICT DO NOTHING"
)


class Withdrawn(SpiraError):
    """The participant has withdrawn: nothing of theirs is taken, and the device erases it."""


class Amended(SpiraError):
    """Another form than the one that was seen is the last of a visit by now."""


@dataclass(frozen=True)
class Known:
    """The visits of a study that were known at a moment, and whose they are.

    A visit that may be of another person links nobody.
    """

    visits: Mapping[str, str]  # those that count -> person
    withdrawn: tuple[str, ...]  # those of whoever has withdrawn by now, under every pseudonym
    doubts: tuple[str, ...]  # those that do not count for another reason (`DOUBTS`)
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

    def require_present(
        self, study: str, participant: str, records: Sequence[str], *, by: str
    ) -> None:
        """See that a participant has not withdrawn, under this pseudonym or another.

        Where somebody has, every pseudonym that the record number links is marked as well: the
        visits that are here of it are theirs too.

        records   the hashes of the record number that was given, under every key, the newest first
        by        whoever gave it, for the audit
        raises    Withdrawn
        """
        with self._database.reading() as tables:
            gone, here = self._known_as(tables, study, participant, records)
        if not gone:
            return
        if here:
            with self._database.writing() as tables:
                self._hold_withdrawals(tables, study, alone=True)
                self._withdraw_linked(tables, study, participant, records, by)
        raise Withdrawn(_HAS_WITHDRAWN)

    def keep_present(self, tables: sa.Connection, study: str, participant: str) -> None:
        """See that a participant has not withdrawn, nor will before this transaction has ended.

        raises    Withdrawn
        """
        self._hold_withdrawals(tables, study)
        self._require_nobody_gone(tables, study, participant)

    def gone(self, tables: sa.Connection, subjects: Iterable[Subject]) -> set[Subject]:
        """Those of them who have withdrawn: by a pseudonym, or by a record number that nobody has
        who takes part. Nobody else withdraws before this transaction has ended."""
        for study in tables.scalars(sa.select(STUDIES.c.id).distinct().order_by("id")).all():
            self._hold_withdrawals(tables, study)
        query = sa.select(PARTICIPANTS.c.study, PARTICIPANTS.c.id, VISITS.c.record).select_from(
            PARTICIPANTS.outerjoin(VISITS)
        )
        withdrawn = PARTICIPANTS.c.withdrawn_at.is_not(None)

        def names(those: sa.ColumnElement[bool]) -> set[str]:
            rows = tables.execute(query.where(those)).all()
            newest = self._carried(row.record for row in rows)
            numbers = {f"record:{one}" for one in newest.values()}
            return numbers | {f"participant:{row.study}/{row.id}" for row in rows}

        def newest(subject: Subject) -> Subject:
            kind, _, number = subject.partition(":")
            return f"record:{self._newest(number)}" if kind == "record" else subject

        left = names(withdrawn)
        found = {one for one in subjects if newest(one) in left}
        here = names(~withdrawn) if found else set()
        return {one for one in found if newest(one) not in here}

    def is_known(self, study: str, participant: str) -> bool:
        """Whether a visit of a participant has come."""
        this = (VISITS.c.study == study) & (VISITS.c.participant == participant)
        with self._database.reading() as tables:
            return tables.execute(sa.select(VISITS.c.id).where(this)).first() is not None

    def taken(
        self, filled: Filled, records: Sequence[str], by: str, protocol: Sequence[Step] = ()
    ) -> OnAccept:
        """What is done with a visit when it is accepted.

        filled    its form
        records   the hashes of its record number, under every key, the newest first
        by        the token that sent it, for the audit
        protocol  the steps that were followed
        raises    Withdrawn, of what it gives
        """

        def on_accept(tables: sa.Connection, accepted: Accepted) -> None:
            submission, visit = accepted.submission, accepted.submission.visit
            assert visit is not None
            at = accepted.accepted_at
            self._hold_withdrawals(tables, visit.study)
            self._require_nobody_gone(tables, visit.study, visit.participant, records)
            _add_participant(tables, visit.study, visit.participant, at)
            times = {one.id: _corrected(one.recorded_at, accepted) for one in submission.files}
            scored = [one.id for one in submission.files if one.utterance == SCORED]
            recorded_at = max(times[id] for id in scored or times)
            record = records[0] if records else None
            tables.execute(
                VISITS.insert().values(
                    id=submission.id,
                    study=visit.study,
                    study_version=visit.study_version,
                    participant=visit.participant,
                    site=accepted.site,
                    record=record,
                    replaces=submission.replaces,
                    recorded_at=recorded_at.isoformat(timespec="microseconds"),
                    uncertainty_s=_uncertainty_s(recorded_at, accepted),
                    accepted_at=iso(at),
                    synthetic=visit.synthetic,
                )
            )
            utterances = {one.file.utterance for one in accepted.recordings}
            doubt = _no_consent(filled, consent="consent" in utterances)
            _write_form(tables, submission.id, 1, submission.form, filled, record, doubt, at, by)
            steps = {} if _unfinished(filled) else {one.utterance: one for one in protocol}
            for one in accepted.recordings:
                row = _row(submission.id, one, times, steps.get(one.file.utterance))
                tables.execute(RECORDINGS.insert().values(**row))
            audit.note(
                tables,
                at=at,
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
        records: Sequence[str] | None,
        version: int,
        *,
        why: str,
        by: str,
    ) -> bool:
        """Add another version of a visit's form, audited; False where the site has no such visit.

        Said again, it is there once. A record number that was corrected attaches the visit to
        another person; that it was another one stays in the earlier version.

        records   the hashes of the record number, under every key, the newest first; none where it
                  was taken out; None: it was not asked for, and stays
        version   its number: one more than that of the last version, which was seen
        raises    Amended where that is not the last one; Withdrawn where the participant has; a
                  number of somebody who has is taken down, and takes the visit out with them
        """
        now = datetime.now(UTC)
        this = (VISITS.c.id == visit) & (VISITS.c.site == site)
        with self._database.writing() as tables:
            row = tables.execute(sa.select(VISITS).where(this)).first()
            if row is None:
                return False
            self._hold_withdrawals(tables, row.study, alone=bool(records))
            tables.execute(sa.select(VISITS.c.id).where(this).with_for_update())
            self._require_nobody_gone(tables, row.study, row.participant)
            of_visit = sa.select(FORMS).where(FORMS.c.visit == visit)
            forms = {one.version: one for one in tables.execute(of_visit)}
            seen, made = forms.get(version - 1), forms.get(version)
            if seen is None:
                detail = f"there is no version {version - 1} of the form to follow"
                raise Amended(f"{detail}; read the visit and amend it again")
            if records is None:
                record = seen.record
            else:  # a key may have been rotated since
                known = [one.record for one in (seen, made) if one is not None]
                newest = records[0] if records else None
                record = next((one for one in known if one in records), newest)
            if made is not None:
                said = (form.id, form.version, _json(filled.kept), record)
                if said == (made.form, made.form_version, made.kept, made.record):
                    return True
                detail = f"version {version} of the form is here and says something else"
                raise Amended(f"{detail}; read the visit and amend it again")
            consent = sa.select(RECORDINGS.c.id).where(
                RECORDINGS.c.visit == visit, RECORDINGS.c.utterance == "consent"
            )
            doubt = _no_consent(filled, consent=tables.execute(consent).first() is not None)
            _write_form(tables, visit, version, form, filled, record, doubt, now, by, why)
            tables.execute(VISITS.update().where(this).values(record=record))
            if records:
                self._withdraw_linked(tables, row.study, row.participant, records, by)
            audit.note(
                tables, at=now, who=by, role="site", what="form amended", which=visit, why=why
            )
        return True

    # ---- withdrawal

    def withdraw(
        self, study: str, participant: str, *, why: str, by: str, role: str
    ) -> tuple[str, ...]:
        """Mark a participant as withdrawn, under every pseudonym that is known, audited.

        A pseudonym of whom nothing has arrived yet is marked too. Returns the pseudonyms. What may
        be of another person (`DOUBTS`) links nobody: devices erase for good.
        """
        with self._database.writing() as tables:
            self._hold_withdrawals(tables, study, alone=True)
            names = self._pseudonyms(tables, study, participant)
            _mark(tables, study, names, why=why, by=by, role=role)
        return names

    def _withdraw_linked(
        self, tables: sa.Connection, study: str, participant: str, records: Sequence[str], by: str
    ) -> None:
        """Mark whom a record number turns out to link to somebody who has withdrawn.

        Nobody for a participant of whom nothing is here, and who has not withdrawn; and nobody for
        one who has another number: that is doubted.
        """
        seen = self._seen(tables, study, participants=[participant])
        number = self._newest(records[0])
        mine = {self._newest(row.record) for row, _ in seen if row.record is not None}
        if any(_hospital(one) == _hospital(number) for one in mine - {number}):
            return
        gone, _ = self._known_as(tables, study, participant, records)
        if participant in gone or (gone and seen):
            names = self._pseudonyms(tables, study, participant, number)
            why = "the record number is of a participant who has withdrawn"
            new = set(names) - _withdrawn(tables, study, names)
            _mark(tables, study, sorted(new), why=why, by=by, role="site")

    def _pseudonyms(
        self, tables: sa.Connection, study: str, participant: str, number: str | None = None
    ) -> tuple[str, ...]:
        """Every pseudonym of a person that is known, also by a record number that is new."""
        people = self._linked(_whose(self._seen(tables, study)) | {(participant, number)})
        return tuple(sorted(name for name, of in people.items() if of == people[participant]))

    def _hold_withdrawals(self, tables: sa.Connection, study: str, *, alone: bool = False) -> None:
        """Until the transaction ends nobody withdraws from a study; alone: nothing is taken or
        amended either. So what is taken is seen by a withdrawal, or sees it."""
        if not self._database.on_sqlite:  # there whoever writes is alone
            kind = "" if alone else "_shared"
            lock = sa.text(f"SELECT pg_advisory_xact_lock{kind}({_WITHDRAWING}, hashtext(:study))")
            tables.execute(lock, {"study": study})

    def _require_nobody_gone(
        self, tables: sa.Connection, study: str, participant: str, records: Sequence[str] = ()
    ) -> None:
        """raises    Withdrawn"""
        gone, _ = self._known_as(tables, study, participant, records)
        if gone:
            raise Withdrawn(_HAS_WITHDRAWN)

    def _known_as(
        self, tables: sa.Connection, study: str, participant: str, records: Sequence[str]
    ) -> tuple[set[str], set[str]]:
        """A pseudonym and those of the same record number: who has withdrawn, and who has not."""
        names = {participant}
        if records:
            # A key may have been rotated since they were hashed.
            numbers = {*records, self._newest(records[0])}
            query = sa.select(VISITS.c.participant).where(
                VISITS.c.study == study, VISITS.c.record.in_(numbers)
            )
            others = list(tables.execute(query.distinct()).scalars())
            seen = self._seen(tables, study, participants=others)
            names |= {name for name, record in _whose(seen) if record in numbers}
        gone = _withdrawn(tables, study, names)
        return gone, names - gone

    # ---- asking

    def about(self, visit: str, site: str) -> Mapping[str, Any] | None:
        """A visit of a site with every version of its form, its recordings, and what is in doubt
        about it (`doubts`); None: the site has none."""
        with self._database.reading() as tables:
            query = sa.select(VISITS).where(VISITS.c.id == visit, VISITS.c.site == site)
            row = tables.execute(query).first()
            if row is None:
                return None
            forms = sa.select(FORMS).where(FORMS.c.visit == visit).order_by(FORMS.c.version)
            recordings = sa.select(RECORDINGS).where(RECORDINGS.c.visit == visit)
            seen = self._seen(tables, row.study, participants=[row.participant])
            return {
                **row._mapping,
                "doubts": next((doubts for one, doubts in seen if one.id == visit), ()),
                "forms": [dict(one._mapping) for one in tables.execute(forms)],
                "recordings": [dict(one._mapping) for one in tables.execute(recordings)],
            }

    def known(self, study: str, until: datetime | None = None) -> Known:
        """Which visits were known, who they are of, and which of them do not count.

        until     as they were known then: what was accepted and amended later is left out. Who has
                  withdrawn since is left out all the same
        """
        at = _EVER if until is None else iso(until)
        with self._database.reading() as tables:
            seen = self._seen(tables, study, at)
            # Whoever comes between these is left out at most.
            linked = self._persons(tables, study)
            gone = sa.select(PARTICIPANTS.c.id).where(
                PARTICIPANTS.c.study == study, PARTICIPANTS.c.withdrawn_at.is_not(None)
            )
            withdrawn = {linked.get(one, one) for one in tables.execute(gone).scalars()}
        whose = _whose(seen)
        people = self._linked(whose)
        pseudonyms: dict[str, set[str]] = {}
        subjects: dict[str, set[Subject]] = {}
        for participant, record in whose:
            person = people[participant]
            pseudonyms.setdefault(person, set()).add(participant)
            names = {f"participant:{study}/{participant}"} | (
                set() if record is None else {f"record:{record}"}
            )
            subjects.setdefault(person, set()).update(names)
        left = {
            row.id for row, _ in seen if withdrawn & {linked[row.participant], linked.get(row.id)}
        }
        doubts = tuple(row.id for row, why in seen if why and row.id not in left)
        count = [row for row, why in seen if row.id not in left and not why]
        return Known(
            visits={row.id: people[row.participant] for row in sorted(count, key=lambda r: r.id)},
            withdrawn=tuple(sorted(left)),
            doubts=tuple(sorted(doubts)),
            real=not all(row.synthetic for row in count),
            pseudonyms={person: tuple(sorted(names)) for person, names in pseudonyms.items()},
            subjects={person: tuple(sorted(names)) for person, names in subjects.items()},
        )

    def names(self, subject: Subject, until: datetime) -> tuple[Subject, ...]:
        """Every name by which labels may know a person, as visits were known to link them then; of
        a record number, in every study."""
        kind, _, name = subject.partition(":")
        number = self._newest(name) if kind == "record" else None
        with self._database.reading() as tables:
            asked = sa.select(VISITS.c.study).distinct()
            studies = tables.scalars(asked).all() if number else [name.partition("/")[0]]
        found = {subject}
        for study in studies:
            people = self.known(study, until).subjects.values()
            stored = (one.partition("record:")[2] for names in people for one in names)
            newest = self._carried(one or None for one in stored)
            same = {f"record:{one}" for one, new in newest.items() if new == number} | {subject}
            found.update(*(names for names in people if same.intersection(names)))
        return tuple(sorted(found))

    def read(
        self, visits: Mapping[str, str], until: datetime | None = None
    ) -> Iterator[Sequence[Mapping[str, Any]]]:
        """Visits, a thousand at a time, each with its person, the values of its form (`values`),
        and whether it may be used (`research_consent`).

        visits    id -> person, as in `Known`
        until     as they were known then; a form that says no to research by now counts all the
                  same
        """
        at = _EVER if until is None else iso(until)
        columns = [one for one in VISITS.c if one.key != "record"]  # that is the one of now
        last = FORMS.alias()
        by_now = (
            sa.select(last.c.used)
            .where(last.c.visit == VISITS.c.id)
            .order_by(last.c.version.desc())
            .limit(1)
            .scalar_subquery()
        )
        for wanted in _at_once(visits):
            query = sa.select(*columns, FORMS.c.used, by_now.label("by_now")).select_from(
                _as_known(at)
            )
            with self._database.reading() as tables:
                rows = tables.execute(
                    query.where(VISITS.c.id.in_(wanted)).order_by(VISITS.c.id)
                ).all()
            yield [_with_form(row, visits[row.id]) for row in rows]

    def of_study(self, study: str, until: datetime | None = None) -> Sequence[Mapping[str, Any]]:
        """The visits of a study that a dataset may have, as `used` gives them."""
        return self.used(self.known(study, until), until)

    def used(self, known: Known, until: datetime | None = None) -> Sequence[Mapping[str, Any]]:
        """What a dataset may have of visits that count, as `read` gives them, in the order of their
        times: with consent to research, and no made voices where there are people's too.

        until     as in `read`
        """
        visits = chain.from_iterable(self.read(known.visits, until))
        used = (one for one in visits if one["research_consent"] and one["synthetic"] != known.real)
        return sorted(used, key=lambda one: datetime.fromisoformat(one["recorded_at"]))

    def refused(self, study: str) -> frozenset[str]:
        """The visits whose form was amended and has no consent to research by now."""
        query = sa.select(VISITS.c.id, FORMS.c.used).select_from(_as_known(_EVER))
        with self._database.reading() as tables:
            rows = tables.execute(query.where(VISITS.c.study == study, FORMS.c.version > 1))
            return frozenset(row.id for row in rows if not _consents(json.loads(row.used)))

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

    def _seen(
        self,
        tables: sa.Connection,
        study: str,
        at: str = _EVER,
        participants: Sequence[str] | None = None,
    ) -> list[tuple[sa.Row[Any], tuple[Doubt, ...]]]:
        """Visits as they were known then, in the order of their acceptance, and what is in doubt.

        Of two record numbers of one hospital the first that came is the participant's; what names
        another may be of another person.
        participants   whose visits; None: everybody's
        """
        other = VISITS.alias()
        replaced = sa.exists().where(_replaces(other), other.c.accepted_at <= at)
        asked = (VISITS.c.id, VISITS.c.participant, VISITS.c.synthetic)
        query = (
            sa.select(*asked, FORMS.c.record, FORMS.c.doubt, replaced.label("replaced"))
            .select_from(_as_known(at))
            .where(VISITS.c.study == study)
            .order_by(VISITS.c.accepted_at, VISITS.c.id)
        )
        if participants is not None:
            query = query.where(VISITS.c.participant.in_(participants))
        rows = tables.execute(query).all()
        newest = self._carried(row.record for row in rows)
        first: dict[tuple[str, str], str] = {}
        seen: list[tuple[sa.Row[Any], tuple[Doubt, ...]]] = []
        for row in rows:
            doubts: list[Doubt] = [one for one in get_args(Doubt) if one == row.doubt]
            if row.replaced:
                doubts.append("replaced")
            elif row.record is not None:
                record = newest[row.record]
                if first.setdefault((row.participant, _hospital(record)), record) != record:
                    doubts.append("other_record")
            seen.append((row, tuple(doubts)))
        return seen

    def _persons(self, tables: sa.Connection, study: str) -> dict[str, str]:
        """By pseudonym, as everything that is known now links them, what is in doubt too; and of
        visits that were replaced, by their id: they are whose number they have, and of whom the
        visit in their place is, and say nothing of the pseudonym that they were sent under."""
        other = VISITS.alias()
        query = (
            sa.select(VISITS.c.id, VISITS.c.participant, VISITS.c.record, other.c.participant)
            .select_from(VISITS.outerjoin(other, _replaces(other)))
            .where(VISITS.c.study == study)
        )
        rows = tables.execute(query).all()
        newest = self._carried(record for _, _, record, _ in rows)

        def seen() -> Iterator[tuple[str, str | None]]:
            for visit, participant, record, instead in rows:
                number = None if record is None else newest[record]
                if instead is None:
                    yield participant, number
                else:
                    yield from ((participant, None), (visit, number))
                    yield from ((visit, visit), (instead, visit))

        return persons(seen())

    def _linked(self, seen: Collection[tuple[str, str | None]]) -> dict[str, str]:
        newest = self._carried(record for _, record in seen)
        return persons(
            (participant, None if record is None else newest[record])
            for participant, record in seen
        )

    def _carried(self, records: Iterable[str | None]) -> dict[str, str]:
        """Each hash as it is under the newest key; the ring is asked once for a newest key."""
        carried: dict[str, str] = {}
        keys: set[str] = set()
        for one in {record for record in records if record is not None}:
            carried[one] = one if _hospital(one) in keys else self._newest(one)
            if carried[one] == one:
                keys.add(_hospital(one))
        return carried


def people_table(visits: Visits, study: str) -> pl.DataFrame:
    """The visits of a study that a dataset may have, in the order of their times, columns as in
    `balance.VISITS`: who was recorded where, and nothing of how, or of anybody's label."""
    rows = [_person(row) for row in visits.of_study(study)]
    return pl.DataFrame(rows, schema=COLUMNS)


def visit_table(visits: Visits, labels: Labels, study: str, policy: str) -> pl.DataFrame:
    """As `people_table`, and how everybody was recorded, labelled by a policy as of now."""
    now = datetime.now(UTC)
    known = visits.known(study)
    rows = visits.used(known)
    asked = [asked_about(row, known.subjects[row["person"]]) for row in rows]
    decided = labels.as_of(asked, policy, now)
    recordings = visits.recordings(row["id"] for row in rows)
    table = []
    for row, label in zip(rows, decided, strict=True):
        spoken = next((r for r in recordings[row["id"]] if r["utterance"] == SCORED), None)
        floor = device = None
        if spoken is not None:
            device = json.loads(spoken["capture"]).get("device")
            if spoken["described"] is not None:
                described = Described.model_validate_json(spoken["described"])
                floor = described.measurements.noise_floor_dbfs
        table.append(
            _person(row)
            | {
                "device": device,
                "noise_floor_dbfs": floor,
                "hour": datetime.fromisoformat(row["recorded_at"]).hour,
                "label": label.label,
            }
        )
    return pl.DataFrame(table, schema=COLUMNS)


def _person(visit: Mapping[str, Any]) -> dict[str, Any]:
    values = visit["values"]
    ward = values.get("ward")  # a field of any kind
    return {
        "person": visit["person"],
        "sex": values.get("sex"),
        "age": values.get("age"),
        "site": visit["site"],
        "ward": None if ward is None else str(ward),
        "label": "unknown",
    }


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


def _replaces(other: sa.FromClause) -> sa.ColumnElement[bool]:
    """Whether another visit is in the place of this one."""
    return sa.and_(
        other.c.replaces == VISITS.c.id,
        other.c.study == VISITS.c.study,
        other.c.site == VISITS.c.site,
    )


def _with_form(row: sa.Row[Any], person: str) -> Mapping[str, Any]:
    values = json.loads(row.used)
    return {
        **row._mapping,
        "person": person,
        "values": values,
        "research_consent": _consents(values) and _consents(json.loads(row.by_now)),
    }


def _consents(values: Mapping[str, Any]) -> bool:
    return values.get("research_consent") is True


def _at_once(visits: Iterable[str]) -> Iterator[list[str]]:
    each = iter(visits)
    while some := list(islice(each, _AT_ONCE)):
        yield some


def _add_participant(tables: sa.Connection, study: str, id: str, at: datetime) -> None:
    tables.execute(_NEW_PARTICIPANT, {"study": study, "id": id, "at": iso(at)})


def _withdrawn(tables: sa.Connection, study: str, names: Iterable[str]) -> set[str]:
    these = (PARTICIPANTS.c.study == study) & PARTICIPANTS.c.id.in_(names)
    gone = sa.select(PARTICIPANTS.c.id).where(these, PARTICIPANTS.c.withdrawn_at.is_not(None))
    return set(tables.execute(gone).scalars())


def _mark(
    tables: sa.Connection, study: str, names: Sequence[str], *, why: str, by: str, role: str
) -> None:
    """Pseudonyms as withdrawn, audited."""
    now = datetime.now(UTC)
    for name in names:
        _add_participant(tables, study, name, now)
    these = (PARTICIPANTS.c.study == study) & PARTICIPANTS.c.id.in_(names)
    first = PARTICIPANTS.c.withdrawn_at.is_(None)
    tables.execute(PARTICIPANTS.update().where(these, first).values(withdrawn_at=iso(now)))
    for name in names:
        audit.note(
            tables,
            at=now,
            who=by,
            role=role,
            what="participant withdrawn",
            which=name,
            why=why,
        )


def _whose(
    seen: Iterable[tuple[sa.Row[Any], tuple[Doubt, ...]]],
) -> set[tuple[str, str | None]]:
    """Pseudonyms and the record numbers that are theirs for sure."""
    return {
        (row.participant, None if _NOT_THEIRS.intersection(doubts) else row.record)
        for row, doubts in seen
    }


def _hospital(record: str) -> str:
    """The key of a hash: under the newest keys, equal where the hospital is."""
    return record.partition(":")[0]


def _no_consent(filled: Filled, *, consent: bool) -> Doubt | None:
    """A consent that was spoken, and that nobody can hear.

    consent   whether a recording of it is there
    """
    spoken = filled.values.get("consent_how") == "spoken"
    return "no_consent" if spoken and not consent else None


def _unfinished(filled: Filled) -> bool:
    return filled.values.get("unfinished", False) is True


def _write_form(
    tables: sa.Connection,
    visit: str,
    version: int,
    form: FormValues,
    filled: Filled,
    record: str | None,
    doubt: Doubt | None,
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
            kept=_json(filled.kept),
            used=_json(filled.values),
            record=record,
            doubt=doubt,
            at=iso(at),
            by=by,
            why=why,
        )
    )


def _json(values: Mapping[str, Any]) -> str:
    return canonical_json(dict(values)).decode()


def _row(
    visit: str, one: Stored, times: Mapping[str, datetime], step: Step | None
) -> dict[str, Any]:
    found = one.found
    if found is not None and step is not None and found.measurements.duration_s < step.minimum_s:
        said = [*found.findings, "short"]
        found = found.model_copy(update={"findings": tuple(f for f in FINDINGS if f in said)})
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
