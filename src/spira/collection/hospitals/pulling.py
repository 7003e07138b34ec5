"""Pulling: what is fetched from a hospital when, and where that stands.

    visits whose patient is not known here yet   search around each visit, then all of that patient
    the export under way, or a new one           Patient files, the other files, what was deleted

A batch of lines is one transaction with the place it ends at, so that a kill or an outage at any
moment loses nothing and doubles nothing: the next pull goes on behind the last batch.

An export is a hospital's whole cohort. Record numbers are hashed as they come; resources of
somebody who is no participant are dropped unread. A hash cannot be asked for, and an export after
the first one has only what changed: whoever becomes a participant later is searched for by the
time of the visit, and what the hospital knew of them before is fetched then.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from spira.collection.hospitals.fhir import (
    Changed,
    Client,
    ExportFile,
    Gone,
    Line,
    Manifest,
    Place,
    read_json,
)
from spira.collection.hospitals.reading import (
    CODES,
    LOINC,
    Question,
    Read,
    Reader,
    name_of,
    names_of,
)
from spira.collection.hospitals.settings import HospitalSettings
from spira.collection.hospitals.tables import PATIENTS, PULLS
from spira.domain.errors import TransientError
from spira.domain.labels import Entry, Subject
from spira.stores.database import Database, iso

PATIENT_ID = "fhir-patient-id"  # as what kind of number the server's own id is hashed

_AT_ONCE = 200  # lines in a transaction
_BYTES_AT_ONCE = 8 << 20
_LONGEST_NUMBER = 100  # characters; longer ones are no number of a person
_MOST_EXPORTS = 4  # in one pull: the files of some expire before they are read
_FAULTS_TOLD = 20
_REFERENCE = re.compile(r"(?:(https?://.+)/)?Patient/([A-Za-z0-9\-.]{1,64})(?:/_history/.+)?")
_NAMED = re.compile(r"(?:https?://.+/)?((?:Patient|Observation|Condition)/[A-Za-z0-9\-.]{1,64})")
_OBSERVATION_CODES = ",".join(f"{LOINC}|{code}" for code in CODES)

HashOf = Callable[[str, str], Sequence[Subject]]
"""(kind of number, number) -> the subject under each key of the hospital, the newest first."""


class Visit(NamedTuple):
    """When somebody was recorded."""

    subjects: tuple[Subject, ...]  # every one that is this person, at this hospital
    at: datetime


class People(Protocol):
    """Who takes part."""

    def known(self, subjects: Collection[Subject]) -> Collection[Subject]:
        """Those of them that are participants."""
        ...

    def visits(self, since: datetime) -> Iterable[Visit]:
        """Visits at this hospital's sites from a moment on."""
        ...


class Labels(Protocol):
    """The Label Store."""

    def add(
        self,
        entries: Sequence[Entry],
        questions: Sequence[Question],
        received_at: datetime,
        *,
        also: Callable[[sa.Connection], None],
    ) -> int:
        """Add what is not there yet, with `also` in one transaction; how many entries were new."""
        ...

    def held(self, origin: str, names: Collection[str]) -> Mapping[str, Subject]:
        """Of these entries those that are there and not taken back, and whom each is about."""
        ...


@dataclass
class Pulled:
    """What a pull came to."""

    lines: int = 0  # resources that came
    entries: int = 0  # versions that are new in the Label Store
    questions: int = 0  # for the worklist
    dropped: int = 0  # of no participant
    found: int = 0  # participants whose patient was searched for, and found
    exports: int = 0  # that were asked for
    faults: list[str] = field(default_factory=list)  # where something was no FHIR
    more_faults: int = 0

    def fault(self, said: str) -> None:
        """Tell of one, up to a number."""
        if len(self.faults) < _FAULTS_TOLD:
            self.faults.append(said)
        else:
            self.more_faults += 1


@dataclass(frozen=True)
class Standing:
    """How far the pulling from a hospital is: a row of the table."""

    generation: int = 0
    since: str | None = None
    status_url: str | None = None
    manifest: str | None = None
    file: int = 0
    line: int = 0
    digest: str = ""
    finished_at: str | None = None


class _Broken(NamedTuple):
    """A line that is no JSON."""

    data: bytes
    detail: str


_Came = tuple[str, Any]  # where it was, and JSON or _Broken
_NO_EXPORT: Mapping[str, Any] = {
    "status_url": None,
    "manifest": None,
    "file": 0,
    "line": 0,
    "digest": "",
}


class Puller:
    """Pulls from one hospital, for one process at a time: a second one is told so."""

    def __init__(
        self,
        hospital: str,
        settings: HospitalSettings,
        client: Client,
        database: Database,
        *,
        labels: Labels,
        people: People,
        hash_of: HashOf,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._hospital = hospital
        self._settings = settings
        self._client = client
        self._database = database
        self._labels = labels
        self._people = people
        self._hash_of = hash_of
        self._now = now
        self._reader = Reader(hospital, zone=ZoneInfo(settings.zone), diagnoses=settings.diagnoses)
        self._pulled = Pulled()

    def pull(self) -> Pulled:
        """Everything that is new, and what an earlier pull was cut off in.

        raises    TransientError when the hospital is away for too long, or somebody else pulls;
                  what came until then is here
        """
        self._pulled = Pulled()
        self._newcomers()
        if self._settings.group is not None:
            self._export()
        return self._pulled

    def look_up(self, numbers: Iterable[tuple[str, str]]) -> Pulled:
        """All that the hospital knows of participants, by their numbers.

        numbers   (kind of number, number), where a hospital is to be asked by number
        """
        self._pulled = Pulled()
        systems = self._settings.systems.items()
        for kind, number in numbers:
            for system in (system for system, name in systems if name == kind):
                found = self._client.patients_with(system, number)
                self._pulled.lines += len(found)
                self._place(found, again=True)
        return self._pulled

    # What is fetched when

    def _newcomers(self) -> None:
        """Search around visits whose patient is not known here yet; around all of them, where
        there are no exports. The first export brings everybody."""
        if self._settings.group is not None and self._standing().since is None:
            return
        visits = list(self._people.visits(self._now() - timedelta(self._settings.look_back_days)))
        if self._settings.group is not None:
            complete = self._complete({one for visit in visits for one in visit.subjects})
            visits = [visit for visit in visits if complete.isdisjoint(visit.subjects)]
        margin = timedelta(hours=self._settings.window_h)
        done: set[str] = set()
        for begin, end in _windows((visit.at for visit in visits), margin):
            query = [
                ("date", f"ge{begin.isoformat(timespec='seconds')}"),
                ("date", f"le{end.isoformat(timespec='seconds')}"),
                ("code", _OBSERVATION_CODES),
                ("_include", "Observation:subject"),
                *self._settings.site.items(),
            ]
            for page in self._client.search("Observation", query):
                self._pulled.lines += len(page)
                patients = [one for one in page if one.get("resourceType") == "Patient"]
                new = [one for one in patients if str(one.get("id")) not in done]
                done |= {str(one.get("id")) for one in new}
                self._place(new, again=self._settings.group is None)

    def _export(self) -> None:
        for _ in range(_MOST_EXPORTS):
            standing = self._standing()
            if standing.status_url is None:
                url = self._client.start_export(standing.since)
                self._pulled.exports += 1
                standing = self._move(standing, status_url=url)
            status_url = standing.status_url or ""
            try:
                if standing.manifest is None:
                    ready = self._client.export(status_url).model_dump_json(by_alias=True)
                    standing = self._move(standing, manifest=ready)
                manifest = Manifest.model_validate_json(standing.manifest or "")
                standing = self._files(manifest, standing)
            except Gone:
                self._move(self._standing(), **_NO_EXPORT)
                continue
            self._client.end_export(status_url)
            since, finished_at = manifest.transaction_time.isoformat(), iso(self._now())
            self._move(standing, **_NO_EXPORT, since=since, finished_at=finished_at)
            return
        raise TransientError(
            f"hospital {self._hospital}: {_MOST_EXPORTS} exports expired before they were read; "
            "ask the hospital to keep them for longer"
        )

    def _files(self, manifest: Manifest, standing: Standing) -> Standing:
        """Read the files from where the last batch ended."""
        files = _in_order(manifest)
        while standing.file < len(files):
            take, file = files[standing.file]
            what = f"file {standing.file + 1} of {len(files)} ({file.type})"
            after = Place(standing.line, standing.digest)
            try:
                lines = self._client.lines(file, token=manifest.requires_token, after=after)
                for batch in _batches(lines):
                    came = [(f"{what}, line {one.place.line}", _parsed(one)) for one in batch]
                    standing = take(self, came, manifest, standing, batch[-1].place)
                standing = self._move(standing, file=standing.file + 1, line=0, digest="")
            except Changed:
                standing = self._move(standing, line=0, digest="")
        return standing

    # Batches of lines

    def _take_resources(
        self, came: Sequence[_Came], manifest: Manifest, standing: Standing, place: Place
    ) -> Standing:
        questions: list[Question] = []
        documents = list(self._documents(came, questions))
        patients = [one for _, one in documents if one.get("resourceType") == "Patient"]
        # What was known before of somebody who is new in what has changed is in no file.
        self._place(patients, complete=standing.since is None)
        entries = self._read(documents, questions)
        return self._commit(entries, questions, standing, place)

    def _take_deleted(
        self, came: Sequence[_Came], manifest: Manifest, standing: Standing, place: Place
    ) -> Standing:
        questions: list[Question] = []
        deleted = [
            found[1]
            for _, bundle in self._documents(came, questions)
            for entry in _mappings(bundle.get("entry"))
            for request in _mappings([entry.get("request")])
            if request.get("method") == "DELETE"
            and (found := _NAMED.fullmatch(str(request.get("url"))))
        ]
        names = [name for resource in deleted for name in names_of(resource)]
        held = self._labels.held(self._hospital, names)
        entries = [
            self._reader.withdrawn(
                name,
                subject,
                version=f"deleted.{manifest.transaction_time.isoformat()}",
                issued=manifest.transaction_time,
            )
            for name, subject in held.items()
        ]
        return self._commit(entries, questions, standing, place)

    def _take_errors(
        self, came: Sequence[_Came], manifest: Manifest, standing: Standing, place: Place
    ) -> Standing:
        questions: list[Question] = []
        errors = [
            issue
            for _, outcome in self._documents(came, questions)
            for issue in _mappings(outcome.get("issue"))
            if issue.get("severity") in ("fatal", "error")
        ]
        if errors:
            name = f"export/{manifest.transaction_time.isoformat()}"
            detail = "the hospital could not export everything; ask it what is missing"
            questions.append(self._reader.question(name, "export_errors", detail, name=name))
        return self._commit([], questions, standing, place)

    def _commit(
        self,
        entries: Sequence[Entry],
        questions: Sequence[Question],
        standing: Standing,
        place: Place,
    ) -> Standing:
        """What some lines said, together with the place behind them."""
        values: dict[str, Any] = {"line": place.line, "digest": place.digest}
        self._add(entries, questions, lambda tables: self._write(tables, standing, values))
        return replace(standing, generation=standing.generation + 1, **values)

    def _documents(
        self, came: Iterable[_Came], questions: list[Question]
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """What is a JSON object, with where it was; of anything else, a question."""
        for where, document in came:
            self._pulled.lines += 1
            if isinstance(document, Mapping):
                yield where, document
                continue
            detail = document.detail if isinstance(document, _Broken) else "not a JSON object"
            data = document.data if isinstance(document, _Broken) else document
            questions.append(self._reader.question(data, "not_fhir", detail))
            self._pulled.fault(f"{where}: {detail}")

    def _read(
        self, documents: Iterable[tuple[str, Mapping[str, Any]]], questions: list[Question]
    ) -> list[Entry]:
        """What they say of participants, and what they no longer say."""
        others = [one for one in documents if one[1].get("resourceType") != "Patient"]
        names = [name for _, document in others if (name := name_of(document)) is not None]
        held = dict(self._labels.held(self._hospital, [n for one in names for n in names_of(one)]))
        subjects = self._subjects([document for _, document in others])
        now = self._now()
        entries: list[Entry] = []
        for (where, document), subject in zip(others, subjects, strict=True):
            name, read = name_of(document), Read()
            before = {one: held[one] for one in names_of(name or "") if one in held}
            if subject is not None:
                read = self._reader.read(document, subject, now)
            elif not document.get("subject") and self._reader.concerns(document):
                detail = "does not say whom it is about"
                read = Read(questions=(self._reader.question(document, "no_subject", detail),))
            elif not before:
                self._pulled.dropped += 1
            questions += read.questions
            for question in read.questions:
                if question.reason == "not_fhir":
                    self._pulled.fault(f"{where}: {question.detail}")
            for entry in self._reader.settled(document, read, before, now):
                entries.append(entry)
                held[entry.name] = entry.subject
                if entry.observation is None:
                    del held[entry.name]
        return entries

    # Whose a resource is

    def _subjects(self, documents: Sequence[Mapping[str, Any]]) -> list[Subject | None]:
        """Whom each is about, where that is a participant."""
        ids: list[str | None] = []
        identified: list[list[Subject]] = []
        for document in documents:
            subject = document.get("subject")
            subject = subject if isinstance(subject, Mapping) else {}
            reference = _REFERENCE.fullmatch(str(subject.get("reference")))
            ours = reference is not None and reference[1] in (None, self._settings.url)
            ids.append(reference[2] if reference is not None and ours else None)
            identified.append(self._candidates([subject.get("identifier")]))
        known = self._people.known({one for some in identified for one in some})
        placed = self._placed({id for id in ids if id is not None})
        return [
            placed[id].subject
            if id in placed
            else next((one for one in candidates if one in known), None)
            for id, candidates in zip(ids, identified, strict=True)
        ]

    def _place(
        self,
        patients: Sequence[Mapping[str, Any]],
        *,
        complete: bool = False,
        again: bool = False,
    ) -> None:
        """Note which of these patients are participants, and fetch what was known of them before.

        complete  that comes by itself, from the files of a whole export
        again     fetch it although it was fetched before
        """
        numbers = {
            id: self._candidates(patient.get("identifier"))
            for patient in patients
            if isinstance(id := patient.get("id"), str)
        }
        known = self._people.known({one for some in numbers.values() for one in some})
        placed = self._placed(numbers)
        to_fetch: list[str] = []
        for id, candidates in numbers.items():
            before = placed.get(id)
            if before is not None and before.subject in candidates:
                subject: Subject | None = before.subject
            else:
                subject = next((one for one in candidates if one in known), None)
            if subject is None and before is None:
                self._pulled.dropped += 1
                continue
            same = before is not None and subject == before.subject
            whole = complete or (same and before is not None and before.complete)
            if not same or before is None or whole != before.complete:
                self._note_patient(id, subject, before, complete=whole)
            if subject is not None and (again or not whole):
                to_fetch.append(id)
        for id in to_fetch:
            self._history(id)

    def _history(self, patient: str) -> None:
        """All that the hospital has of one patient that is a participant."""
        queries = {
            "Observation": [("patient", patient), ("code", _OBSERVATION_CODES)],
            "Condition": [("patient", patient)],
        }
        for kind, query in queries.items():
            for page in self._client.search(kind, query, post=True):
                questions: list[Question] = []
                came = [(f"a search for {kind}", one) for one in page]
                entries = self._read(self._documents(came, questions), questions)
                self._add(entries, questions, lambda _: None)
        with self._database.writing() as tables:
            this = self._is_patient(self._hashes(patient))
            tables.execute(PATIENTS.update().where(this).values(complete=True))
        self._pulled.found += 1

    def _note_patient(
        self, id: str, subject: Subject | None, before: "_Placed | None", *, complete: bool
    ) -> None:
        """Write down who a patient is; that it is another person than before is asked about."""
        hashes = self._hashes(id)
        questions = []
        if before is not None and before.subject != subject:
            digest = hashes[0].rpartition(":")[2]
            question = self._reader.question(
                {"before": before.subject, "now": subject},
                "another_person",
                "the hospital has given this patient other numbers; see whose the entries are",
                name=f"Patient/{digest[:32]}",
                subject=before.subject,
            )
            questions.append(question)

        def write(tables: sa.Connection) -> None:
            tables.execute(PATIENTS.delete().where(self._is_patient(hashes)))
            if subject is not None:
                row = {"hospital": self._hospital, "patient": hashes[0]}
                tables.execute(PATIENTS.insert().values(**row, subject=subject, complete=complete))

        self._add([], questions, write)

    def _candidates(self, identifiers: Any) -> list[Subject]:
        """What somebody may be known as, by the numbers that we know the systems of."""
        found: list[Subject] = []
        given = [one for one in _mappings(identifiers) if one.get("use") != "old"]
        for system, kind in self._settings.systems.items():
            for one in given:
                number = one.get("value")
                if one.get("system") == system and isinstance(number, str) and _is_number(number):
                    found += self._hash_of(kind, number)
        return found

    def _hashes(self, id: str) -> Sequence[Subject]:
        """Of the server's own id, in which every letter counts; in a record number they do not."""
        return self._hash_of(PATIENT_ID, hashlib.sha256(id.encode()).hexdigest())

    def _placed(self, ids: Collection[str]) -> dict[str, "_Placed"]:
        """Those of the server's ids that are participants."""
        by_hash = {one: id for id in ids for one in self._hashes(id)}
        if not by_hash:
            return {}
        query = sa.select(PATIENTS).where(self._is_patient(by_hash))
        with self._database.reading() as tables:
            rows = tables.execute(query).all()
        return {by_hash[row.patient]: _Placed(row.subject, row.complete) for row in rows}

    def _complete(self, subjects: Collection[Subject]) -> set[Subject]:
        """Those of them of whom everything is here."""
        query = sa.select(PATIENTS.c.subject).where(
            PATIENTS.c.hospital == self._hospital, PATIENTS.c.complete
        )
        with self._database.reading() as tables:
            return set(subjects).intersection(tables.scalars(query))

    def _is_patient(self, hashes: Collection[str]) -> sa.ColumnElement[bool]:
        return (PATIENTS.c.hospital == self._hospital) & PATIENTS.c.patient.in_(hashes)

    # Where it stands

    def _add(
        self,
        entries: Sequence[Entry],
        questions: Sequence[Question],
        also: Callable[[sa.Connection], None],
    ) -> None:
        self._pulled.questions += len(questions)
        self._pulled.entries += self._labels.add(entries, questions, self._now(), also=also)

    def _standing(self) -> Standing:
        with self._database.writing() as tables:
            there = standing(tables, self._hospital)
            if there is None:
                row = {"file": 0, "line": 0, "digest": "", "generation": 0}
                tables.execute(PULLS.insert().values(hospital=self._hospital, **row))
                there = Standing()
        return there

    def _move(self, standing: Standing, **values: Any) -> Standing:
        with self._database.writing() as tables:
            self._write(tables, standing, values)
        return replace(standing, generation=standing.generation + 1, **values)

    def _write(self, tables: sa.Connection, standing: Standing, values: Mapping[str, Any]) -> None:
        this = (PULLS.c.hospital == self._hospital) & (PULLS.c.generation == standing.generation)
        new = {"generation": standing.generation + 1, **values}
        if tables.execute(PULLS.update().where(this).values(**new)).rowcount != 1:
            raise TransientError(
                f"hospital {self._hospital}: another process is pulling from it; let it end"
            )


class _Placed(NamedTuple):
    """A patient that is a participant."""

    subject: Subject
    complete: bool


def standing(tables: sa.Connection, hospital: str) -> Standing | None:
    """How far the pulling from a hospital is; None where it was never begun."""
    query = sa.select(PULLS).where(PULLS.c.hospital == hospital)
    row = tables.execute(query).mappings().first()
    return None if row is None else Standing(**{k: v for k, v in row.items() if k != "hospital"})


def count_patients(tables: sa.Connection, hospital: str) -> int:
    """How many of a hospital's patients are participants."""
    query = sa.select(sa.func.count()).where(PATIENTS.c.hospital == hospital)
    return int(tables.execute(query).scalar_one())


_Take = Callable[[Puller, Sequence[_Came], Manifest, Standing, Place], Standing]


def _in_order(manifest: Manifest) -> list[tuple[_Take, ExportFile]]:
    """Patients first: whose the rest is has to be known by then."""
    output = sorted(manifest.output, key=lambda file: file.type != "Patient")
    return [
        *((Puller._take_resources, file) for file in output),
        *((Puller._take_deleted, file) for file in manifest.deleted),
        *((Puller._take_errors, file) for file in manifest.error),
    ]


def _batches(lines: Iterator[Line]) -> Iterator[list[Line]]:
    """So many lines, or fewer where they are long."""
    batch: list[Line] = []
    n_bytes = 0
    for line in lines:
        batch.append(line)
        n_bytes += len(line.data or b"")
        if len(batch) == _AT_ONCE or n_bytes >= _BYTES_AT_ONCE:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


def _parsed(line: Line) -> Any:
    if line.data is None:
        return _Broken(line.place.digest.encode(), "longer than any resource")
    try:
        return read_json(line.data)
    except ValueError:
        return _Broken(line.data, "not JSON")


def _windows(moments: Iterable[datetime], margin: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """Spans around moments; those that meet are one."""
    begin = end = None
    for moment in sorted(moments):
        if end is not None and moment - margin <= end:
            end = moment + margin
            continue
        if begin is not None and end is not None:
            yield begin, end
        begin, end = moment - margin, moment + margin
    if begin is not None and end is not None:
        yield begin, end


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _is_number(text: str) -> bool:
    """Whether there is anything to hash."""
    return 0 < len(text) <= _LONGEST_NUMBER and any(map(str.isalnum, text))
