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

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

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
from spira.collection.hospitals.patients import Patients
from spira.collection.hospitals.reading import CODES, LOINC, Question, name_of, names_of
from spira.collection.hospitals.tables import PATIENTS, PULLS
from spira.collection.hospitals.taking import Broken, Came, Pulled, Taker, mappings
from spira.domain.errors import TransientError
from spira.domain.labels import Entry, Subject
from spira.domain.progress import Progress, no_progress
from spira.stores.database import iso

_AT_ONCE = 200  # lines in a transaction
_BYTES_AT_ONCE = 8 << 20
_MOST_EXPORTS = 4  # in one pull: the files of some expire before they are read
_SHORT = "export/short"  # what the question is called about lines that are not there
_NAMED = re.compile(r"(?:https?://.+/)?((?:Patient|Observation|Condition)/[A-Za-z0-9\-.]{1,64})")
_RESOURCE = re.compile(r"((?:Observation|Condition)/[^/]+)")
_OBSERVATION_CODES = ",".join(f"{LOINC}|{code}" for code in CODES)


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
    short: int = 0

    @property
    def stands(self) -> str:
        """How far an export is, in words."""
        if self.manifest is None:
            return "asked for"
        return f"file {self.file + 1}, line {self.line}"


_NO_EXPORT: Mapping[str, Any] = {
    "status_url": None,
    "manifest": None,
    "file": 0,
    "line": 0,
    "digest": "",
}


class Puller:
    """Pulls from one hospital, for one process at a time: a second one is told so."""

    def __init__(self, taker: Taker, client: Client, progress: Progress = no_progress) -> None:
        self._taker = taker
        self._client = client
        self._progress = progress
        self._hospital = taker.hospital
        self._settings = taker.settings
        self._database = taker.database
        self._patients = Patients(taker)

    def pull(self) -> Pulled:
        """Everything that is new, and what an earlier pull was cut off in.

        raises    TransientError when the hospital is away for too long, or somebody else pulls;
                  what came until then is here
        """
        self._taker.pulled = Pulled()
        self._newcomers()
        if self._settings.group is not None:
            self._export()
        return self._taker.pulled

    def look_up(self, numbers: Iterable[tuple[str, str]]) -> Pulled:
        """All that the hospital knows of participants, by their numbers.

        numbers   (kind of number, number), where a hospital is to be asked by number
        """
        self._taker.pulled = Pulled()
        systems = self._settings.systems.items()
        for kind, number in numbers:
            for system in (system for system, name in systems if name == kind):
                found = self._client.patients_with(system, number)
                self._taker.pulled.lines += len(found)
                self._place(found, again=True)
        return self._taker.pulled

    # What is fetched when

    def _newcomers(self) -> None:
        """Search around visits whose patient is not known here yet; around all of them, where
        there are no exports. The first export brings everybody."""
        if self._settings.group is not None and self._standing().since is None:
            return
        visits = list(
            self._taker.people.visits(self._taker.now() - timedelta(self._settings.look_back_days))
        )
        if self._settings.group is not None:
            complete = self._complete()
            visits = [visit for visit in visits if visit.subject not in complete]
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
                self._taker.pulled.lines += len(page)
                patients = [one for one in page if one.get("resourceType") == "Patient"]
                new = [one for one in patients if str(one.get("id")) not in done]
                done |= {str(one.get("id")) for one in new}
                self._place(new, again=self._settings.group is None)

    def _export(self) -> None:
        for _ in range(_MOST_EXPORTS):
            standing = self._standing()
            if standing.status_url is None:
                url = self._client.start_export(standing.since)
                self._taker.pulled.exports += 1
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
            if standing.short and self._lacks_lines(standing):
                self._move(standing, **_NO_EXPORT, short=1)
                return
            since, finished_at = manifest.transaction_time.isoformat(), iso(self._taker.now())
            self._move(standing, **_NO_EXPORT, since=since, finished_at=finished_at, short=0)
            return
        raise TransientError(
            f"hospital {self._hospital}: {_MOST_EXPORTS} exports expired before they were read; "
            "ask the hospital to keep them for longer"
        )

    def _files(self, manifest: Manifest, standing: Standing) -> Standing:
        """Read the files from where the last batch ended.

        raises    Gone, also when a file lacks lines for the first time: another export may not
        """
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
                    self._progress(f"{file.type} lines", standing.line, file.count or 0)
                lacking = max(0, (file.count or 0) - standing.line)
                if lacking and standing.short == 0:
                    self._move(standing, short=1)
                    raise Gone
                if lacking:
                    fault = f"{what}: has {lacking} lines fewer than the manifest says"
                    self._taker.pulled.fault(fault)
                behind = {"file": standing.file + 1, "line": 0, "digest": ""}
                standing = self._move(standing, **behind, short=standing.short + lacking)
            except Changed:
                standing = self._move(standing, line=0, digest="")
        return standing

    def _lacks_lines(self, standing: Standing) -> bool:
        """Whether an export is to be asked for again because of the lines that it lacks: what is
        missing may come the next time, unless a person says that nothing is."""
        taker, now = self._taker, self._taker.now()
        if standing.short == 1:
            if taker.labels.waiting(self._hospital, [_SHORT]):
                end = taker.reader.end(_SHORT, version=f"end.{now.isoformat()}", issued=now)
                taker.add([], [end], lambda _: None)
            return False
        lines, since = f"{standing.short - 1} lines", standing.since or "the beginning"
        said = f"since {since}: files have {lines} fewer than the manifest says"
        asked = {"said": said, "at": now.isoformat()}
        question = taker.reader.question(asked, "short_file", said, name=_SHORT)
        taker.add([], [question], lambda _: None)
        return bool(taker.labels.waiting(self._hospital, [_SHORT]))

    # Batches of lines

    def _take_resources(
        self, came: Sequence[Came], manifest: Manifest, standing: Standing, place: Place
    ) -> Standing:
        questions: list[Question] = []
        documents = list(self._taker.documents(came, questions))
        patients = [one for _, one in documents if one.get("resourceType") == "Patient"]
        # What was known before of somebody who is new in what has changed is in no file.
        self._place(patients, complete=standing.since is None)
        entries = self._taker.read(documents, questions)
        return self._commit(entries, questions, standing, place)

    def _take_deleted(
        self, came: Sequence[Came], manifest: Manifest, standing: Standing, place: Place
    ) -> Standing:
        questions: list[Question] = []
        deleted = [
            found[1]
            for _, bundle in self._taker.documents(came, questions)
            for entry in mappings(bundle.get("entry"))
            for request in mappings([entry.get("request")])
            if request.get("method") == "DELETE"
            and (found := _NAMED.fullmatch(str(request.get("url"))))
        ]
        self._patients.note_deleted(
            [name.removeprefix("Patient/") for name in deleted if name.startswith("Patient/")]
        )
        names = [name for resource in deleted for name in names_of(resource)]
        labels, reader = self._taker.labels, self._taker.reader
        issued = manifest.transaction_time
        version = f"deleted.{issued.isoformat()}"
        entries = [
            reader.withdrawn(name, subject, version=version, issued=issued)
            for name, subject in labels.held(self._hospital, names).items()
        ]
        questions += [
            reader.end(name, version=version, issued=issued)
            for name in labels.waiting(self._hospital, names)
        ]
        return self._commit(entries, questions, standing, place)

    def _take_errors(
        self, came: Sequence[Came], manifest: Manifest, standing: Standing, place: Place
    ) -> Standing:
        questions: list[Question] = []
        errors = [
            issue
            for _, outcome in self._taker.documents(came, questions)
            for issue in mappings(outcome.get("issue"))
            if issue.get("severity") in ("fatal", "error")
        ]
        if errors:
            name = f"export/{manifest.transaction_time.isoformat()}"
            detail = "the hospital could not export everything; ask it what is missing"
            questions.append(self._taker.reader.question(name, "export_errors", detail, name=name))
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
        self._taker.add(entries, questions, lambda tables: self._write(tables, standing, values))
        return replace(standing, generation=standing.generation + 1, **values)

    def _place(
        self,
        patients: Sequence[Mapping[str, Any]],
        *,
        complete: bool = False,
        again: bool = False,
    ) -> None:
        """Note which of these patients are participants, and fetch what was known of them before;
        whoever they were merged into is asked for.

        complete  that comes by itself, from the files of a whole export
        again     fetch it although it was fetched before
        """
        found = self._patients.place(patients, complete=complete, again=again)
        for id in found.survivors:
            _, document = self._client.resource(f"Patient/{id}")
            is_it = isinstance(document, Mapping) and document.get("id") == id
            self._place([document if is_it else {"id": id}])
        for id, subject in found.histories:
            self._history(id, subject)

    def _history(self, patient: str, subject: Subject) -> None:
        """All that the hospital has of one patient that is a participant."""
        queries = {
            "Observation": [("patient", patient), ("code", _OBSERVATION_CODES)],
            "Condition": [("patient", patient)],
        }
        told: set[str] = set()
        for kind, query in queries.items():
            for page in self._client.search(kind, query, post=True):
                told |= {str(name_of(one)) for one in page}
                self._take(f"a search for {kind}", page)
        self._not_found(subject, told)
        with self._database.writing() as tables:
            this = PATIENTS.c.patient.in_(self._taker.hashes(patient))
            ours = PATIENTS.c.hospital == self._hospital
            tables.execute(PATIENTS.update().where(ours, this).values(complete=True))
        self._taker.pulled.found += 1

    def _not_found(self, subject: Subject, told: set[str]) -> None:
        """Ask for what is here of somebody and was not found any more: it was deleted, or is
        somebody else's by now, and no search says so."""
        here = self._taker.labels.about(self._hospital, subject, self._taker.now())
        names = {found[1] for one in here if (found := _RESOURCE.match(one.name))}
        for name in sorted(names - told):
            status, document = self._client.resource(name)
            if status == 200:
                self._take(name, [document])
            elif status == 410:  # others say less: what came in a table is in no server
                now = self._taker.now()
                version = f"deleted.{now.isoformat()}"
                held = self._taker.labels.held(self._hospital, names_of(name))
                gone = [
                    self._taker.reader.withdrawn(one, of, version=version, issued=now)
                    for one, of in held.items()
                ]
                self._taker.add(gone, [], lambda _: None)

    def _take(self, where: str, found: Sequence[Any]) -> None:
        """What some resources say that were asked for one by one."""
        questions: list[Question] = []
        came = [(where, one) for one in found]
        entries = self._taker.read(self._taker.documents(came, questions), questions)
        self._taker.add(entries, questions, lambda _: None)

    def _complete(self) -> set[Subject]:
        """The participants of whom everything is here, under the newest key."""
        query = sa.select(PATIENTS.c.subject).where(
            PATIENTS.c.hospital == self._hospital, PATIENTS.c.complete
        )
        with self._database.reading() as tables:
            return set(map(self._taker.newest, tables.scalars(query)))

    # Where it stands

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


def standing(tables: sa.Connection, hospital: str) -> Standing | None:
    """How far the pulling from a hospital is; None where it was never begun."""
    query = sa.select(PULLS).where(PULLS.c.hospital == hospital)
    row = tables.execute(query).mappings().first()
    return None if row is None else Standing(**{k: v for k, v in row.items() if k != "hospital"})


def count_patients(tables: sa.Connection, hospital: str) -> int:
    """How many of a hospital's patients are participants."""
    query = sa.select(sa.func.count()).where(
        PATIENTS.c.hospital == hospital, PATIENTS.c.standing != "perhaps"
    )
    return int(tables.execute(query).scalar_one())


_Take = Callable[[Puller, Sequence[Came], Manifest, Standing, Place], Standing]


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
        return Broken(line.place.digest.encode(), "longer than any resource")
    try:
        return read_json(line.data)
    except ValueError:
        return Broken(line.data, "not JSON")


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
