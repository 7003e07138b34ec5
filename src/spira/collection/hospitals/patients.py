"""Which of a hospital's patients are participants, by their numbers and by what it has merged.

    current    has a participant's number
    linked     has none, and the patient who has it was merged into this one
    merged     has it, and is inactive or was merged into another one: what is said of it counts
    perhaps    had it once, and nobody has it now: nothing of it is taken, somebody has to ask

Two of the first kinds with one number are in doubt, and all that is said of the participant with
them: it waits on the worklist until the hospital has put it right, and is taken then.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from spira.collection.hospitals.reading import Question, Reason
from spira.collection.hospitals.tables import PATIENTS
from spira.collection.hospitals.taking import Placed, Taker, mappings
from spira.domain.fingerprint import fingerprint
from spira.domain.labels import Entry, Subject

_MOST_MARKS = 7  # in a question
_CURRENT = ("current", "linked")


class ToFetch(NamedTuple):
    """What placing patients asks for."""

    histories: Sequence[tuple[str, Subject]]  # ids of patients, of whom all is wanted
    survivors: Sequence[str]  # ids of patients that others were merged into, and not known yet


@dataclass(frozen=True)
class _Patient:
    """What a Patient says that counts here."""

    id: str
    hashes: Sequence[str]
    numbers: Sequence[Subject]  # as whom it may be known
    former: Sequence[Subject]  # as whom it was
    is_active: bool
    is_replaced: bool
    survivor: str | None  # the id of whom it was replaced by, where that can be told
    replaces: Sequence[str]  # hashes of those that it says it has replaced

    def key(self, rows: "_Rows") -> str:
        """By which it is noted, however often keys are rotated."""
        there = rows.find(self.hashes)
        return self.hashes[0] if there is None else there.patient


@dataclass
class _Change:
    """What comes of placing one patient; it is written in one transaction."""

    rows: list[tuple[Placed | None, Placed | None]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)


class _Rows:
    """The rows that matter to some patients, as they will be written."""

    def __init__(self, rows: Iterable[Placed], newest: Callable[[Subject], Subject]) -> None:
        self.newest = cache(newest)
        self._rows = {row.patient: row for row in rows}

    def find(self, hashes: Iterable[str]) -> Placed | None:
        """That of one patient."""
        return next((self._rows[one] for one in hashes if one in self._rows), None)

    def of(self, subject: Subject) -> list[Placed]:
        """Those of one participant."""
        wanted = self.newest(subject)
        return [row for row in self._rows.values() if self.newest(row.subject) == wanted]

    def merged_into(self, hashes: Collection[str]) -> list[Placed]:
        """Those of the patients that were merged into one."""
        return [row for row in self._rows.values() if row.survivor in hashes]

    def put(self, before: Placed | None, after: Placed | None) -> None:
        """Put one in another's place."""
        if before is not None:
            self._rows.pop(before.patient, None)
        if after is not None:
            self._rows[after.patient] = after


class Patients:
    """The patients of one hospital."""

    def __init__(self, taker: Taker) -> None:
        self._taker = taker

    def place(
        self, documents: Sequence[Mapping[str, Any]], *, complete: bool, again: bool
    ) -> ToFetch:
        """Note which of these are participants.

        complete  all that the hospital has of them comes by itself
        again     it is wanted although it was fetched before
        """
        read = [one for document in documents if (one := self._read(document)) is not None]
        patients = [*{one.id: one for one in read}.values()]
        rows, known = self._load(patients)
        names = [_whose(one.key(rows)) for one in patients]
        waiting = self._taker.labels.waiting(self._taker.hospital, names)
        histories: list[tuple[str, Subject]] = []
        survivors: list[tuple[str, Subject]] = []
        for one in patients:
            after = self._place(one, rows, known, waiting, complete=complete)
            if after is None:
                continue
            if again or not after.complete:
                histories.append((one.id, after.subject))
            if one.survivor is not None:
                survivors.append((one.survivor, after.subject))
        to_find = [
            id
            for id, subject in survivors
            if rows.find(self._taker.hashes(id)) not in _taken(rows.of(subject))
        ]
        return ToFetch(histories, to_find)

    def note_deleted(self, ids: Collection[str]) -> None:
        """Note that the hospital has these no more; what was merged stays what it was."""
        rows = self._taker.placed(ids).items()
        gone = [{"id": id} for id, row in rows if row.standing != "merged"]
        self.place(gone, complete=True, again=False)

    def _read(self, document: Mapping[str, Any]) -> _Patient | None:
        id, identifiers = document.get("id"), document.get("identifier")
        if not isinstance(id, str):
            return None
        taker = self._taker
        links = [(one.get("type"), one.get("other")) for one in mappings(document.get("link"))]
        after = [taker.patient_id(other) for kind, other in links if kind == "replaced-by"]
        before = [taker.patient_id(other) for kind, other in links if kind == "replaces"]
        numbers, former = taker.candidates(identifiers), taker.candidates(identifiers, old=True)
        if after:  # all numbers of such a record are old ones
            numbers, former = numbers + former, []
        return _Patient(
            id=id,
            hashes=taker.hashes(id),
            numbers=numbers,
            former=former,
            is_active=document.get("active") is not False,
            is_replaced=bool(after),
            survivor=after[0] if len({*after}) == 1 and after[0] != id else None,
            replaces=[
                hash for other in before if other is not None for hash in taker.hashes(other)
            ],
        )

    def _load(self, patients: Sequence[_Patient]) -> tuple[_Rows, Collection[Subject]]:
        """The rows that matter to them, and who takes part."""
        taker = self._taker
        hashes = [hash for one in patients for hash in (*one.hashes, *one.replaces)]
        noted = sa.or_(PATIENTS.c.doubt.is_not(None), PATIENTS.c.survivor.is_not(None))
        rows = taker.rows(PATIENTS.c.patient.in_(hashes) | noted)
        theirs = [{*one.numbers, *one.former} for one in patients]
        known = taker.people.known({one for some in theirs for one in some}.union(_subjects(rows)))
        same = {one for some in theirs if some.intersection(known) for one in some}
        others = taker.rows(PATIENTS.c.subject.in_(same.union(_subjects(rows))))
        return _Rows([*rows, *others], taker.newest), known

    def _place(
        self,
        one: _Patient,
        rows: _Rows,
        known: Collection[Subject],
        waiting: Collection[str],
        *,
        complete: bool,
    ) -> Placed | None:
        """Note who one patient is; the row, where it is a participant."""
        before = rows.find(one.hashes)
        taken = None if before is None or before.standing == "perhaps" else before
        numbers = [*one.numbers, *_subjects(rows.merged_into(one.hashes))]
        if taken is not None and one.is_replaced:
            numbers.append(taken.subject)
        whose = self._taker.participants(numbers, known)
        subject = whose[0] if len(whose) == 1 else None
        if taken is not None and taken.subject in numbers:
            subject = taken.subject
        after, asked = None, None
        if len(whose) > 1:
            detail = "it has the numbers of several participants; see whether they are one person"
            asked = self._question(one.key(rows), "several_people", detail, whose)
        if subject is not None:
            same = before is not None and before.subject == subject
            after = Placed(
                patient=one.key(rows),
                subject=subject,
                complete=complete or (same and before is not None and before.complete),
                standing="merged"
                if one.is_replaced or not one.is_active
                else ("current" if subject in one.numbers else "linked"),
                survivor=None if one.survivor is None else self._taker.hashes(one.survivor)[0],
                doubt=before.doubt if same and before is not None else None,
            )
            if one.is_replaced and one.survivor is None:
                detail = "was replaced by a patient that cannot be told; ask the hospital which"
                asked = self._question(one.key(rows), "perhaps_merged", detail, [subject])
        elif taken is None and not whose:
            after, asked = self._perhaps(one, before, rows, known)
        if subject is None and taken is None:
            self._taker.pulled.dropped += 1
        change = _Change()
        if asked is not None:
            change.questions.append(asked)
        elif (name := _whose(one.key(rows))) in waiting:
            change.questions.append(self._end(name))
        self._put(before, after, rows, change)
        self._write(change)
        return after if subject is not None else None

    def _perhaps(
        self, one: _Patient, before: Placed | None, rows: _Rows, known: Collection[Subject]
    ) -> tuple[Placed | None, Question | None]:
        """Whether it may be what became of a participant's patient, and who is to be asked."""
        replaced = _taken(row for hash in one.replaces if (row := rows.find([hash])) is not None)
        whose = self._taker.participants([*_subjects(replaced), *one.former], known)
        if not whose:
            return None, None
        detail = "may be what became of the patient of a participant; ask the hospital"
        question = self._question(one.key(rows), "perhaps_merged", detail, whose)
        if replaced:
            return None, question
        others = [row for row in rows.of(whose[0]) if row is not before]
        if any(row.standing in _CURRENT for row in others):
            return None, None  # the number is that one's now
        return Placed(one.key(rows), whose[0], complete=False, standing="perhaps"), question

    def _put(
        self, before: Placed | None, after: Placed | None, rows: _Rows, change: _Change
    ) -> None:
        """Put a row in another's place, with what follows from that."""
        lost = _taken([before] if before is not None else [])
        for row in lost:
            # In doubt, nothing counts that anybody had to look at.
            if row.doubt is None and (after is None or after.subject != row.subject):
                change.questions.append(self._another_person(row, after))
        if before != after:
            rows.put(before, after)
            change.rows.append((before, after))
        if before is not None and before.survivor not in (None, after and after.survivor):
            linked = [row for row in rows.of(before.subject) if row.standing == "linked"]
            for row in linked:
                if not rows.merged_into([row.patient]):
                    self._put(row, None, rows, change)
        both = [row for row in (before, after) if row is not None]
        for subject in dict.fromkeys(rows.newest(row.subject) for row in both):
            was_theirs = subject in map(rows.newest, _subjects(lost))
            self._settle(subject, None if was_theirs else after, rows, change)

    def _settle(self, subject: Subject, new: Placed | None, rows: _Rows, change: _Change) -> None:
        """See whether a participant is in doubt; `new`: of this one nothing is here yet."""
        taken = _taken(rows.of(subject))
        current = [row for row in taken if row.standing in _CURRENT]
        since = next((row.doubt for row in taken if row.doubt is not None), None)
        doubt = None
        if len(current) > 1:
            doubt = since or self._taker.now().isoformat()
        if doubt is not None and since is None:
            marks = sorted(row.mark for row in taken if row != new)
            self._suspend(subject, doubt, marks[:_MOST_MARKS], change)
        if doubt is None and since is not None:
            self._release(subject, {row.mark for row in taken}, change)
        for row in taken:
            if row.doubt != doubt:
                changed = row._replace(doubt=doubt)
                rows.put(row, changed)
                change.rows.append((row, changed))
        for row in rows.of(subject) if current else ():
            if row.standing == "perhaps":  # what it had is another one's number by now
                rows.put(row, None)
                change.rows.append((row, None))
                change.questions.append(self._end(_whose(row.patient)))

    def _suspend(
        self, subject: Subject, since: str, patients: Collection[str], change: _Change
    ) -> None:
        """Take back what is here of somebody until it is known of whom it was said."""
        taker = self._taker
        for entry in taker.labels.about(taker.hospital, subject, taker.now()):
            version = f"unsure.{fingerprint([entry.version, since])[:32]}"
            question = taker.reader.of_two(entry, version, since=since, patients=patients)
            change.questions.append(question)
            taken_back = {"version": version, "status": "retracted", "observation": None}
            change.entries.append(entry.model_copy(update=taken_back))

    def _release(self, subject: Subject, remaining: Collection[str], change: _Change) -> None:
        """Take what was said of the patients that are somebody's; of one that is somebody else's
        there is nothing to decide."""
        taker = self._taker
        for entry, patients in taker.labels.unsure(taker.hospital, subject):
            if set(patients) <= set(remaining):
                change.entries.append(entry)
            elif not set(patients) & set(remaining):
                change.questions.append(self._end(entry.name))

    def _write(self, change: _Change) -> None:
        if not (change.rows or change.questions):
            return

        def write(tables: sa.Connection) -> None:
            ours = PATIENTS.c.hospital == self._taker.hospital
            for before, after in change.rows:
                if before is not None:
                    this = PATIENTS.c.patient == before.patient
                    tables.execute(PATIENTS.delete().where(ours, this))
                if after is not None:
                    values = {"hospital": self._taker.hospital, **after._asdict()}
                    tables.execute(PATIENTS.insert().values(**values))

        self._taker.add(change.entries, change.questions, write)

    # Questions

    def _question(
        self, patient: str, reason: Reason, detail: str, whose: Sequence[Subject]
    ) -> Question:
        """Ask who a patient is. The same, asked again after it had ended, is another question."""
        asked = {"reason": reason, "of": sorted(whose), "at": self._taker.now().isoformat()}
        subject = whose[0] if len(whose) == 1 else None
        name = _whose(patient)
        return self._taker.reader.question(asked, reason, detail, name=name, subject=subject)

    def _another_person(self, before: Placed, after: Placed | None) -> Question:
        return self._taker.reader.question(
            {"before": before.subject, "now": None if after is None else after.subject},
            "another_person",
            "it has other numbers now, or was deleted by the hospital; see whose the entries are",
            name=_name(before.patient),
            subject=before.subject,
        )

    def _end(self, name: str) -> Question:
        now = self._taker.now()
        return self._taker.reader.end(name, version=f"end.{now.isoformat()}", issued=now)


def _taken(rows: Iterable[Placed]) -> list[Placed]:
    """Those of patients that are participants."""
    return [row for row in rows if row.standing != "perhaps"]


def _subjects(rows: Iterable[Placed]) -> set[Subject]:
    return {row.subject for row in _taken(rows)}


def _name(patient: str) -> str:
    """What a patient is called in questions."""
    return f"Patient/{patient.rpartition(':')[2][:32]}"


def _whose(patient: str) -> str:
    """What the question is called who a patient is: it ends by itself."""
    return f"{_name(patient)}/whose"
