"""Taking what a hospital says: whose it is, what becomes of it, and into the Label Store with it.

Record numbers are hashed as they come; what is of somebody who is no participant is dropped unread.
The server's own id of a patient is kept as a keyed hash, too: exports have a patient's numbers only
when they changed.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Protocol
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from spira.collection.hospitals.reading import Question, Read, Reader, name_of, names_of
from spira.collection.hospitals.settings import HospitalSettings
from spira.collection.hospitals.tables import PATIENTS
from spira.domain.labels import Entry, Subject
from spira.stores.database import Database

PATIENT_ID = "fhir-patient-id"  # as what kind of number the server's own id is hashed

_LONGEST_NUMBER = 100  # characters; longer ones are no number of a person
_FAULTS_TOLD = 20
_REFERENCE = re.compile(r"(?:(https?://.+)/)?Patient/([A-Za-z0-9\-.]{1,64})(?:/_history/.+)?")

HashOf = Callable[[str, str], Sequence[Subject]]
"""(kind of number, number) -> the subject under each key of the hospital, the newest first."""


class Visit(NamedTuple):
    """When somebody was recorded."""

    subject: Subject  # under the hospital's newest key
    at: datetime


class People(Protocol):
    """Who takes part."""

    def known(self, subjects: Collection[Subject]) -> Collection[Subject]:
        """Those of them that are participants."""
        ...

    def visits(self, since: datetime) -> Iterable[Visit]:
        """The visits of this hospital that have arrived, or were amended, from a moment on."""
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

    def waiting(self, origin: str, names: Collection[str]) -> set[str]:
        """Of these entries those that wait for a person to decide."""
        ...

    def about(self, origin: str, subject: Subject, at: datetime) -> Sequence[Entry]:
        """The entries in force that an origin has about somebody."""
        ...

    def unsure(self, origin: str, subject: Subject) -> Sequence[tuple[Entry, Collection[str]]]:
        """What waits because two patients have somebody's number: as it would be taken, with the
        marks of the patients of whom it was said."""
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


class Broken(NamedTuple):
    """A line that is no JSON."""

    data: bytes
    detail: str


Came = tuple[str, Any]
"""Where something was, and what it is: JSON, or Broken."""


class Placed(NamedTuple):
    """A patient that is a participant, or may be (see `patients`)."""

    patient: str
    subject: Subject
    complete: bool
    standing: Literal["current", "linked", "merged", "perhaps"] = "current"
    survivor: str | None = None
    doubt: str | None = None

    @property
    def mark(self) -> str:
        """By which questions name it."""
        return self.patient.rpartition(":")[2][:12]


class Whose(NamedTuple):
    """Whom a resource is about."""

    subject: Subject
    patient: str = ""  # the mark of the hospital's patient; none where a number says whose it is
    doubt: str | None = None  # since when two patients have the number


class Taker:
    """Takes what one hospital says."""

    def __init__(
        self,
        hospital: str,
        settings: HospitalSettings,
        database: Database,
        *,
        labels: Labels,
        people: People,
        hash_of: HashOf,
        newest: Callable[[Subject], Subject],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """What it says of whom.

        newest    a subject as it is under the hospital's newest key
        now       our clock
        """
        self.hospital = hospital
        self.settings = settings
        self.database = database
        self.labels = labels
        self.people = people
        self.newest = newest
        self.now = now
        self.reader = Reader(hospital, zone=ZoneInfo(settings.zone), diagnoses=settings.diagnoses)
        self.pulled = Pulled()
        self._hash_of = hash_of

    def add(
        self,
        entries: Sequence[Entry],
        questions: Sequence[Question],
        also: Callable[[sa.Connection], None],
    ) -> None:
        """Into the Label Store, with `also` in one transaction."""
        self.pulled.questions += sum(one.status != "retracted" for one in questions)
        self.pulled.entries += self.labels.add(entries, questions, self.now(), also=also)

    def documents(
        self, came: Iterable[Came], questions: list[Question]
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """What is a JSON object, with where it was; of anything else, a question."""
        for where, document in came:
            self.pulled.lines += 1
            if isinstance(document, Mapping):
                yield where, document
                continue
            detail = document.detail if isinstance(document, Broken) else "not a JSON object"
            data = document.data if isinstance(document, Broken) else document
            questions.append(self.reader.question(data, "not_fhir", detail))
            self.pulled.fault(f"{where}: {detail}")

    def read(
        self, documents: Iterable[tuple[str, Mapping[str, Any]]], questions: list[Question]
    ) -> list[Entry]:
        """What they say of participants, and what they no longer say."""
        others = [one for one in documents if one[1].get("resourceType") != "Patient"]
        names = [name for _, document in others if (name := name_of(document)) is not None]
        all_names = [one for name in names for one in names_of(name)]
        held = dict(self.labels.held(self.hospital, all_names))
        waiting = self.labels.waiting(self.hospital, all_names)
        whose = self.whose([document for _, document in others])
        taking_part = self._taking_part({one.subject for one in whose if one is not None})
        now = self.now()
        entries: list[Entry] = []
        for (where, document), one_of in zip(others, whose, strict=True):
            name, read = name_of(document), Read()
            subject = None if one_of is None else one_of.subject
            before = {one: held[one] for one in names_of(name or "") if one in held}
            if subject is not None and subject not in taking_part:
                self.pulled.dropped += 1  # has withdrawn, or was registered by mistake
                mine = self.newest(subject)  # stays for the erasing to find
                before = {one: of for one, of in before.items() if self.newest(of) != mine}
            elif subject is not None:
                read = self.reader.read(document, subject, now)
                if one_of is not None and one_of.doubt is not None:
                    since, patient = one_of.doubt, one_of.patient
                    read = self.reader.unsure(document, read, since=since, patient=patient)
            elif not document.get("subject") and self.reader.concerns(document):
                detail = "does not say whom it is about"
                read = Read(questions=(self.reader.question(document, "no_subject", detail),))
            elif not before:
                self.pulled.dropped += 1
            questions += read.questions
            waiting |= {question.name for question in read.questions}
            for question in read.questions:
                if question.reason == "not_fhir":
                    self.pulled.fault(f"{where}: {question.detail}")
            questions += self.reader.ended(document, read, waiting, now)
            for entry in self.reader.settled(document, read, before, now):
                entries.append(entry)
                if entry.observation is None:
                    held.pop(entry.name, None)
                elif entry.status != "preliminary":
                    held[entry.name] = entry.subject
        return entries

    # Whose a resource is

    def whose(self, documents: Sequence[Mapping[str, Any]]) -> list[Whose | None]:
        """Whom each is about, where that is a participant."""
        ids: list[str | None] = []
        identified: list[list[Subject]] = []
        for document in documents:
            subject = document.get("subject")
            ids.append(self.patient_id(subject))
            number = subject.get("identifier") if isinstance(subject, Mapping) else None
            identified.append(self.candidates([number]))
        known = self.people.known({one for some in identified for one in some})
        placed = self.placed({id for id in ids if id is not None})
        doubts: dict[Subject, str | None] = {}
        if known:
            rows = self.rows(PATIENTS.c.doubt.is_not(None))
            doubts = {self.newest(row.subject): row.doubt for row in rows}
        found: list[Whose | None] = []
        for id, candidates in zip(ids, identified, strict=True):
            participants = self.participants(candidates, known)
            if id in placed:
                row = placed[id]
                found.append(Whose(row.subject, row.mark, row.doubt))
            elif len(participants) == 1:
                (one,) = participants
                found.append(Whose(one, doubt=doubts.get(self.newest(one))))
            else:
                found.append(None)
        return found

    def patient_id(self, reference: Any) -> str | None:
        """The server's own id of the patient that a Reference names; None for any other thing."""
        given = reference.get("reference") if isinstance(reference, Mapping) else None
        named = _REFERENCE.fullmatch(str(given))
        ours = named is not None and named[1] in (None, self.settings.url)
        return named[2] if named is not None and ours else None

    def participants(
        self, candidates: Sequence[Subject], known: Collection[Subject]
    ) -> list[Subject]:
        """The participants among them, each once: under the newest key that they are known by."""
        found = {self.newest(one): one for one in reversed(candidates) if one in known}
        return [*found.values()]

    def _taking_part(self, subjects: Collection[Subject]) -> set[Subject]:
        """Those of them that are participants still, under the key that they have or the newest."""
        newest = {one: self.newest(one) for one in subjects}
        known = self.people.known({*newest, *newest.values()})
        return {one for one in subjects if one in known or newest[one] in known}

    def candidates(self, identifiers: Any, *, old: bool = False) -> list[Subject]:
        """What somebody may be known as, by the numbers that we know the systems of; `old`: by
        those that are no longer theirs."""
        found: list[Subject] = []
        given = [one for one in mappings(identifiers) if (one.get("use") == "old") is old]
        for system, kind in self.settings.systems.items():
            for one in given:
                number = one.get("value")
                if one.get("system") == system and isinstance(number, str) and _is_number(number):
                    found += self._hash_of(kind, number)
        return found

    def hashes(self, id: str, kind: str = PATIENT_ID) -> Sequence[Subject]:
        """Of an id in which every letter counts; in a record number they do not."""
        return self._hash_of(kind, hashlib.sha256(id.encode()).hexdigest())

    def placed(self, ids: Collection[str]) -> dict[str, Placed]:
        """Those of the server's ids that are participants."""
        by_hash = {one: id for id in ids for one in self.hashes(id)}
        if not by_hash:
            return {}
        rows = self.rows(PATIENTS.c.patient.in_(by_hash), PATIENTS.c.standing != "perhaps")
        return {by_hash[row.patient]: row for row in rows}

    def rows(self, *which: sa.ColumnElement[bool]) -> list[Placed]:
        """What is noted of this hospital's patients."""
        columns = [PATIENTS.c[name] for name in Placed._fields]
        query = sa.select(*columns).where(PATIENTS.c.hospital == self.hospital, *which)
        with self.database.reading() as tables:
            return [Placed(*row) for row in tables.execute(query)]


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The objects of what should be a list of them."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _is_number(text: str) -> bool:
    """Whether there is anything to hash."""
    return 0 < len(text) <= _LONGEST_NUMBER and any(map(str.isalnum, text))
