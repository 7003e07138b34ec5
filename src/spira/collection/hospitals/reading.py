"""What a hospital says of a participant in FHIR R4, as entries of the Label Store.

Nothing is guessed. What could mean two things, or nothing that we know, becomes a question for a
person, with its reason; and whatever it supersedes is taken back until somebody has decided.

    Observation   one entry for what it measures, named `Observation/ID`; a measurement among its
                  components is an entry of its own, `Observation/ID/KIND`
    Condition     one entry, `Condition/ID`, where it is a diagnosis that labels rest on

source    HL7 FHIR R4 (4.0.1; R4B has the same Observation and Condition), LOINC, UCUM 2.1
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeVar
from zoneinfo import ZoneInfo

from fhir.resources.R4B.condition import Condition
from fhir.resources.R4B.fhirresourcemodel import FHIRResourceModel
from fhir.resources.R4B.observation import Observation as FhirObservation
from pydantic import ValidationError

from spira.domain.fingerprint import fingerprint
from spira.domain.forms import cid10
from spira.domain.frozen import Frozen
from spira.domain.labels import (
    POSSIBLE,
    Breathing,
    Entry,
    Observation,
    ObservationKind,
    Status,
    Subject,
)

Reason = Literal[
    "not_fhir",  # no valid resource of its kind
    "no_subject",  # does not say whom it is about
    "about_another",  # has a focus: about somebody or something else than its subject
    "another_person",  # the hospital now says that this patient is somebody else
    "several_people",  # a patient with the record numbers of several participants
    "two_patients",  # of one of two active patients with the record number of one participant
    "perhaps_merged",  # a patient who may be what became of a participant's: nobody says so clearly
    "modifier",  # has an element that changes its meaning, and that we do not know
    "status",  # of the resource: unknown to us, or said to be unknown
    "no_time",  # nothing says when it was true
    "imprecise_time",  # a measurement with a date and no time of day
    "no_issued",  # nothing says when the hospital knew
    "in_the_future",
    "contradictory",  # two codes, values, or accounts of the oxygen that exclude each other
    "code_system",  # our code, without the code system that makes it one
    "not_cid10",  # a diagnosis of another classification, such as ICD-10-CM
    "no_end",  # a diagnosis that is over, and nobody says since when
    "no_value",  # no quantity where one is needed, or only a bound
    "unit",  # none, or one that is not of this measurement
    "fraction",  # a share of 1 with the unit %
    "impossible",  # no living person has this value
    "export_errors",  # the hospital could not export everything
    "short_file",  # a file of an export has fewer lines than its manifest says
]

CODES: Mapping[str, ObservationKind] = {  # of LOINC
    "59408-5": "spo2",  # by pulse oximetry
    "2708-6": "spo2",  # in arterial blood; alone, of unknown method
    "2703-7": "pao2",
    "2019-8": "paco2",
    "2744-1": "ph",
    "9279-1": "respiratory_rate",
    "8867-4": "heart_rate",
    "3151-8": "oxygen_flow",
    "3150-0": "inspired_oxygen",
}
KINDS: tuple[ObservationKind, ...] = tuple(dict.fromkeys(CODES.values()))
CID10 = (
    "http://www.saude.gov.br/fhir/r4/CodeSystem/BRCID10",  # of the RNDS
    "http://hl7.org/fhir/sid/icd-10",
)
LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"

_PULSE_OXIMETRY = "59408-5"
_LOINC_NAMES = (LOINC, "urn:oid:2.16.840.1.113883.6.1")  # the same system
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_KEY = re.compile(r"[A-Za-z_]{1,40}")  # of an element; anything else may be somebody's data
_CODE = re.compile(r"[!-~]{1,20}")
_ANNOTATION = re.compile(r"\{[^{}]*\}")  # UCUM: has no meaning
_SKEW = timedelta(minutes=5)  # between the hospital's clock and ours
_FIRST_YEAR, _LAST_YEAR = 1900, 2199
_ROOM_AIR_PERCENT = 21.0
_STATUSES: Mapping[str, Status] = {
    "preliminary": "preliminary",
    "final": "final",
    "amended": "amended",
    "corrected": "corrected",
}
_UNCONFIRMED = ("unconfirmed", "provisional", "differential")
_REFUTED = ("entered-in-error", "refuted")
_OVER = ("inactive", "remission", "resolved")
_PER_MINUTE = {"/min": Decimal(1), "1/min": Decimal(1)}
# UCUM defines m[Hg] as 133.3220 kPa, exactly.
_PRESSURE = {"mm[Hg]": Decimal(1), "kPa": 1 / Decimal("0.1333220")}
_PERCENT = {"%": Decimal(1)}
_FAULTS_NAMED = 5

Resource = TypeVar("Resource", bound=FHIRResourceModel)


_UNITS: Mapping[ObservationKind, Mapping[str, Decimal]] = {  # of UCUM, with their factors
    "spo2": _PERCENT,
    "pao2": _PRESSURE,
    "paco2": _PRESSURE,
    "ph": {"[pH]": Decimal(1)},
    "respiratory_rate": _PER_MINUTE,
    "heart_rate": _PER_MINUTE,
    "oxygen_flow": {"L/min": Decimal(1), "l/min": Decimal(1)},
    "inspired_oxygen": _PERCENT,
}
# What is under these, in mmHg, is in most cases kPa that is called mmHg.
_LEAST: Mapping[ObservationKind, float] = {"pao2": 15, "paco2": 10}


class Question(Frozen):
    """What a person has to decide: it goes to the worklist."""

    origin: str
    name: str  # of the entry in question
    version: str
    status: Status = "final"
    subject: Subject | None = None  # None: nobody knows whom it is about
    issued: datetime | None = None  # None: nobody can say when the hospital knew
    reason: Reason
    detail: str  # what is wrong, and where; never a value
    observation: Observation | None = None  # as far as it can be read
    said: Mapping[str, float | str] = {}  # value, unit or code in question, as the hospital has it
    evidence: str | None = None  # digest of what was to be read


class Read(Frozen):
    """What a resource came to; neither entries nor questions: it says nothing that labels need."""

    entries: tuple[Entry, ...] = ()
    questions: tuple[Question, ...] = ()


class _Doubt(Exception):
    """Why something cannot be read; `value` or `code` as it was given, where that is in doubt."""

    def __init__(
        self,
        reason: Reason,
        detail: str,
        *,
        value: float | None = None,
        code: str | None = None,
        unit: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.value = value
        said = {"value": value, "code": _shown(code), "unit": _shown(unit)}
        self.said = {name: given for name, given in said.items() if given is not None}


class Reader:
    """Reads what one hospital says."""

    def __init__(self, origin: str, *, zone: ZoneInfo, diagnoses: Collection[str]) -> None:
        """How it is read.

        origin     the hospital
        zone       where it is: a diagnosis is often dated with a day
        diagnoses  what CID-10 codes begin with that are kept; all others are left unread
        """
        self._origin = origin
        self._zone = zone
        self._diagnoses = tuple(diagnoses)

    def read(self, document: Mapping[str, Any], subject: Subject, now: datetime) -> Read:
        """Read an Observation or a Condition.

        document   as it came, of any quality
        now        after it, nothing can have been true or known
        """
        if not self.concerns(document):
            return Read()
        about = _About(document, self._origin, subject, issued_of(document), now)
        if about.name is None:
            return about.asked(None, _Doubt("not_fhir", "has no id"))
        try:
            if document.get("resourceType") == "Observation":
                return self._observation(about)
            return self._condition(about)
        except _Doubt as doubt:
            return about.asked(about.name, doubt)

    def concerns(self, document: Mapping[str, Any]) -> bool:
        """Whether it may say something that labels need, whoever it is about."""
        kind, codes = document.get("resourceType"), _codes(document)
        if kind == "Condition":
            return any(map(self._is_kept, codes))
        return kind == "Observation" and not codes.isdisjoint(CODES)

    def question(
        self,
        document: Any,
        reason: Reason,
        detail: str,
        *,
        name: str | None = None,
        subject: Subject | None = None,
    ) -> Question:
        """Ask about what cannot be read at all.

        document   whatever came: JSON, or bytes that are none
        """
        digest = _digest(document)
        return Question(
            origin=self._origin,
            name=name or name_of(document) or f"content/{digest[:32]}",
            version=digest[:16],
            subject=subject,
            reason=reason,
            detail=detail,
            evidence=digest,
        )

    def unsure(self, document: Mapping[str, Any], read: Read, *, since: str, patient: str) -> Read:
        """What a resource came to, as questions: whose it is, the hospital has to say first.

        since, patient    see `of_two`
        """
        version = _version(document, _digest(document))
        questions = [one.model_copy(update={"subject": None}) for one in read.questions]
        questions += [
            self.of_two(one, version, since=since, patients=[patient] if patient else [])
            for one in read.entries
            if one.observation is not None and one.status != "preliminary"
        ]
        taken_back = tuple(one for one in read.entries if one.observation is None)
        return Read(entries=taken_back, questions=tuple(questions))

    def of_two(
        self, entry: Entry, version: str, *, since: str, patients: Collection[str]
    ) -> Question:
        """Ask about what would be an entry, had not two patients the number of its person.

        since       when that began: it may happen again
        patients    of whom it was said, as marks
        """
        return Question(
            origin=self._origin,
            name=entry.name,
            version=version,
            status=entry.status,
            subject=entry.subject,
            issued=entry.issued,
            reason="two_patients",
            detail="two active patients of the hospital have the number of this participant",
            observation=entry.observation,
            said={"since": since, "patients": " ".join(patients)},
            evidence=entry.evidence,
        )

    def withdrawn(self, name: str, subject: Subject, *, version: str, issued: datetime) -> Entry:
        """The version of an entry that takes it back."""
        return _withdrawn(self._origin, name, subject, version, issued)

    def end(self, name: str, *, version: str, issued: datetime) -> Question:
        """What ends the questions about an entry: there is nothing to decide any more."""
        return Question(
            origin=self._origin,
            name=name,
            version=version,
            status="retracted",
            issued=issued,
            reason="status",
            detail="is no longer said",
        )

    def ended(
        self, document: Mapping[str, Any], read: Read, waiting: Collection[str], now: datetime
    ) -> Iterator[Question]:
        """The end of those questions about a resource that are neither raised now nor answered.

        waiting    names of entries that wait for a person
        """
        if _status_of(document) == "preliminary":
            return
        asked = {question.name for question in read.questions}
        asked |= {entry.name for entry in read.entries if entry.observation is not None}
        version, issued = _digest(document)[:16], issued_of(document)
        if issued is None or issued > now + _SKEW:
            issued = now
        for name in names_of(name_of(document) or ""):
            if name in waiting and name not in asked:
                yield self.end(name, version=version, issued=issued)

    def settled(
        self,
        document: Mapping[str, Any],
        read: Read,
        held: Mapping[str, Subject],
        now: datetime,
    ) -> Iterator[Entry]:
        """What a resource came to, and what it no longer says.

        held       names of entries that the store has of this resource and that are not taken
                   back, with whom they are about (see `names_of`)
        """
        yield from read.entries
        said = {entry.name for entry in read.entries}
        if _status_of(document) == "preliminary":
            if document.get("resourceType") == "Observation":
                return  # it waits, and replaces nothing
            said = set()  # a diagnosis that was confirmed is no longer
        version, issued = _version(document, _digest(document)), issued_of(document)
        if issued is None or issued > now + _SKEW:
            version, issued = f"{version}.{now:%Y%m%d%H%M%S}", now
        for name, subject in held.items():
            if name not in said:
                yield self.withdrawn(name, subject, version=version, issued=issued)

    def _observation(self, about: "_About") -> Read:
        resource = _valid(FhirObservation, about.document)
        _refuse_modifiers(about.document)
        if resource.focus:
            raise _Doubt("about_another", "has a focus, so it is not about its subject")
        issued = about.require_issued()
        if resource.status in ("entered-in-error", "cancelled"):
            return about.taken_back(issued)
        if resource.status == "registered":
            return Read()  # not measured yet
        if resource.status not in _STATUSES:
            raise _Doubt("status", "its status is none that says whether it counts")
        parts = list(_parts(resource, about.document))
        if not parts:
            return Read()
        at, until = self._measured(resource)
        if (until or at) > about.now + _SKEW:
            raise _Doubt("in_the_future", "was measured after now")
        reads = [
            about.read(part, doubt, at=at, until=until, issued=issued)
            for part, doubt in _measurements(parts)
        ]
        return Read(
            entries=tuple(entry for read in reads for entry in read.entries),
            questions=tuple(one for read in reads for one in read.questions),
        )

    def _condition(self, about: "_About") -> Read:
        resource = _valid(Condition, about.document)
        _refuse_modifiers(about.document)
        issued = about.require_issued()
        verified = _code_of(resource.verificationStatus, (*_REFUTED, "confirmed", *_UNCONFIRMED))
        clinical = _code_of(resource.clinicalStatus, (*_OVER, "active", "recurrence", "relapse"))
        if verified in _REFUTED:
            return about.taken_back(issued)
        onset, abated = resource.onsetPeriod, resource.abatementPeriod
        begin = resource.onsetDateTime or (onset and onset.start) or resource.recordedDate
        end = resource.abatementDateTime or (abated and abated.end)
        if begin is None:
            raise _Doubt("no_time", "neither its onset nor when it was recorded is a date")
        at, until = self._first(begin), None if end is None else self._last(end)
        if at > about.now + _SKEW:
            raise _Doubt("in_the_future", "begins after now")
        if until is not None and until < at:
            raise _Doubt("contradictory", "ends before it begins")
        ends = (resource.abatementAge, resource.abatementRange, resource.abatementString, abated)
        over = clinical in _OVER or any(one is not None for one in ends)
        code, doubt = self._diagnosis(resource)
        if doubt is None and over and until is None:
            doubt = _Doubt("no_end", "is over, and does not say since when")
        observation = Observation(kind="diagnosis", at=at, until=until, code=code)
        return about.said(about.name or "", observation, issued, doubt)

    def _measured(self, resource: FhirObservation) -> tuple[datetime, datetime | None]:
        at: Any = resource.effectiveDateTime or resource.effectiveInstant
        until: Any = None
        if resource.effectivePeriod is not None:
            at, until = resource.effectivePeriod.start, resource.effectivePeriod.end
            if at is None or until is None:
                raise _Doubt("no_time", "its period has no beginning or no end")
        if at is None:
            raise _Doubt("no_time", "has no effective time that is a moment or a period")
        for moment in (at, until):
            if moment is not None and not isinstance(moment, datetime):
                raise _Doubt("imprecise_time", "was measured on a day, at no time of it")
        at = self._first(at)
        until = None if until is None else self._last(until)
        if until is not None and until < at:
            raise _Doubt("contradictory", "ends before it begins")
        return at, until

    def _first(self, given: Any) -> datetime:
        """The first moment of a FHIR dateTime: `2024-03` begins with March, in the hospital."""
        if isinstance(given, datetime):
            return _within_years(given)
        year, month, day = _date_parts(given)
        return _within_years(datetime(year, month or 1, day or 1, tzinfo=self._zone))

    def _last(self, given: Any) -> datetime:
        """Its last moment: a diagnosis that ended on a day counts to the end of that day."""
        if isinstance(given, datetime):
            return _within_years(given)
        year, month, day = _date_parts(given)
        if day is not None:
            after = date(year, month or 1, day) + timedelta(days=1)
        elif month is not None:
            after = date(year + month // 12, month % 12 + 1, 1)
        else:
            after = date(year + 1, 1, 1)
        return self._first(after) - timedelta(microseconds=1)

    def _diagnosis(self, resource: Condition) -> tuple[str, _Doubt | None]:
        """Its code of CID-10; else the code that it has, and what is wrong with that."""
        codings = (resource.code.coding or []) if resource.code is not None else []
        kept = [(one.system, one.code) for one in codings if one.code and self._is_kept(one.code)]
        given = [code for system, code in kept if system in CID10]
        found = {cid10(code) for code in given}
        if len(found) == 1 and (code := found.pop()) is not None:
            return code, None
        first = given[0] if given else kept[0][1]
        if len(found) > 1:
            return first, _Doubt("contradictory", "has two CID-10 codes", code=first)
        if given:
            why = "its code is longer than CID-10 has them, as ICD-10-CM has"
        elif any(system is None for system, _ in kept):
            return first, _Doubt("code_system", "its code has no code system", code=first)
        else:
            why = "its code is not of CID-10"
        return first, _Doubt("not_cid10", why, code=first)

    def _is_kept(self, code: object) -> bool:
        return isinstance(code, str) and code.upper().startswith(self._diagnoses)


class _About:
    """A resource that is being read: whose it is, and what becomes of it."""

    def __init__(
        self,
        document: Mapping[str, Any],
        origin: str,
        subject: Subject,
        issued: datetime | None,
        now: datetime,
    ) -> None:
        self.document = document
        self.now = now
        self.name = name_of(document)
        self._origin = origin
        self._subject = subject
        self._issued = issued
        self._digest = _digest(document)
        self._status = _status_of(document)

    def require_issued(self) -> datetime:
        """When the hospital knew."""
        if self._issued is None:
            raise _Doubt("no_issued", "neither issued nor meta.lastUpdated is there")
        if self._issued > self.now + _SKEW:
            raise _Doubt("in_the_future", "was issued after now")
        return self._issued

    def read(
        self,
        part: "_Part",
        doubt: _Doubt | None,
        *,
        at: datetime,
        until: datetime | None,
        issued: datetime,
    ) -> Read:
        """What one measurement came to."""
        name = (self.name or "") + part.suffix
        value = part.value if part.value is not None else doubt and doubt.value
        if value is None:
            assert doubt is not None
            return self.asked(name, doubt)
        observation = Observation(
            kind=part.kind,
            at=at,
            until=until,
            value=value,
            breathing=part.breathing,
            method=part.method,
        )
        return self.said(name, observation, issued, doubt)

    def said(
        self, name: str, observation: Observation, issued: datetime, doubt: _Doubt | None
    ) -> Read:
        """What is said, as a version that is named by its meaning: however often, and in whatever
        form the same is sent again, it is one."""
        if doubt is not None:
            return self.asked(name, doubt, observation)
        said = {
            "status": self._status,
            "issued": issued.isoformat(),
            "observation": observation.model_dump(mode="json"),
        }
        entry = Entry(
            source="hospital",
            origin=self._origin,
            name=name,
            version=_version(self.document, fingerprint(said)),
            status=self._status,
            subject=self._subject,
            issued=issued,
            observation=observation,
            evidence=self._digest,
        )
        return Read(entries=(entry,))

    def taken_back(self, issued: datetime) -> Read:
        """Nothing of it counts any more."""
        version = _version(self.document, self._digest)
        return Read(
            entries=(_withdrawn(self._origin, self.name or "", self._subject, version, issued),)
        )

    def asked(
        self, name: str | None, doubt: _Doubt, observation: Observation | None = None
    ) -> Read:
        """The question, and what was said before is no longer in force."""
        version = _version(self.document, self._digest)
        issued = self._issued
        if issued is not None and issued > self.now + _SKEW:
            issued = None
        question = Question(
            origin=self._origin,
            name=name or f"content/{self._digest[:32]}",
            version=version,
            status=self._status,
            subject=self._subject,
            issued=issued,
            reason=doubt.reason,
            detail=doubt.detail,
            observation=observation,
            said=doubt.said,
            evidence=self._digest,
        )
        if name is None or issued is None or self._status == "preliminary":
            return Read(questions=(question,))
        taken_back = _withdrawn(self._origin, name, self._subject, version, issued)
        return Read(entries=(taken_back,), questions=(question,))


def _withdrawn(origin: str, name: str, subject: Subject, version: str, issued: datetime) -> Entry:
    return Entry(
        source="hospital",
        origin=origin,
        name=name,
        version=version,
        status="retracted",
        subject=subject,
        issued=issued,
        observation=None,
    )


def name_of(document: Any) -> str | None:
    """`Observation/ID`; None for what has no such name."""
    if not isinstance(document, Mapping):
        return None
    kind, id = document.get("resourceType"), document.get("id")
    if not isinstance(id, str) or not _ID.fullmatch(id) or kind not in ("Observation", "Condition"):
        return None
    return f"{kind}/{id}"


def names_of(resource: str) -> tuple[str, ...]:
    """Every name that an entry of a resource may have, from `Observation/ID`."""
    return (resource, *(f"{resource}/{kind}" for kind in KINDS))


def issued_of(document: Mapping[str, Any]) -> datetime | None:
    """When the hospital knew: the later of when it was issued and when it was last changed there.

    None where neither is there as FHIR has it.
    """
    meta = document.get("meta")
    changed = meta.get("lastUpdated") if isinstance(meta, Mapping) else None
    given = [document.get("issued"), changed]
    if document.get("resourceType") == "Condition" and changed is None:
        given.append(document.get("recordedDate"))
    moments = []
    for text in given:
        try:
            moment = datetime.fromisoformat(text)  # type: ignore[arg-type]
        except (ValueError, TypeError):
            continue
        if moment.tzinfo is not None and _FIRST_YEAR < moment.year < _LAST_YEAR:
            moments.append(moment.astimezone(UTC))
    return max(moments, default=None)


@dataclass(frozen=True)
class _Part:
    """One value of an Observation: its own, or that of a component."""

    suffix: str  # of its name: nothing, or /KIND
    kind: ObservationKind
    value: float | None  # None: it is in doubt
    method: Literal["pulse_oximetry", "arterial"] | None = None
    breathing: Breathing | None = None


_OXYGEN: tuple[ObservationKind, ...] = ("oxygen_flow", "inspired_oxygen")
_Parts = Iterator[tuple[_Part, _Doubt | None]]


def _parts(resource: FhirObservation, document: Mapping[str, Any]) -> _Parts:
    """What it says by our codes; a value that is said to be absent is not there."""
    own = _coded(resource.code)
    if own is not None and resource.dataAbsentReason is None:
        yield _part("", own, resource.valueQuantity, document)
    for component, raw in zip(
        resource.component or (), document.get("component") or (), strict=True
    ):
        found = _coded(component.code)
        if found is not None and component.dataAbsentReason is None:
            yield _part(f"/{found[0]}", found, component.valueQuantity, raw)


def _coded(concept: Any) -> tuple[ObservationKind, set[str]] | None:
    """The kind that a CodeableConcept stands for, with its codes."""
    given = concept.coding if concept is not None else None  # the library lets a null pass
    codings = [one for one in (given or ()) if one.code in CODES]
    codes = {one.code for one in codings if one.system in _LOINC_NAMES}
    kinds = {CODES[code] for code in codes}
    if len(kinds) > 1:
        raise _Doubt("contradictory", "its codes mean different measurements")
    if not kinds and any(one.system is None for one in codings):
        raise _Doubt("code_system", "its code has no code system", code=codings[0].code)
    return (kinds.pop(), codes) if kinds else None


def _part(
    suffix: str, coded: tuple[ObservationKind, set[str]], quantity: Any, raw: Mapping[str, Any]
) -> tuple[_Part, _Doubt | None]:
    kind, codes = coded
    method: Literal["pulse_oximetry", "arterial"] | None = None
    if kind == "spo2" and _PULSE_OXIMETRY in codes:
        method = "pulse_oximetry"
    elif kind in ("pao2", "paco2", "ph"):
        method = "arterial"
    try:
        return _Part(suffix, kind, _quantity(kind, quantity, raw), method), None
    except _Doubt as doubt:
        return _Part(suffix, kind, None, method), doubt


def _quantity(kind: ObservationKind, quantity: Any, raw: Mapping[str, Any]) -> float:
    """A value in the unit of its kind."""
    if quantity is None or quantity.value is None:
        raise _Doubt("no_value", f"{kind}: there is no quantity")
    if isinstance(raw["valueQuantity"]["value"], str):
        raise _Doubt("not_fhir", f"{kind}: its value is a text, not a number")
    units = _UNITS[kind]
    given = {"value": float(quantity.value), "unit": quantity.code or quantity.unit}
    if quantity.comparator is not None:
        raise _Doubt("no_value", f"{kind}: there is only a bound")
    code = _ANNOTATION.sub("", quantity.code or "") if quantity.system == UCUM else ""
    factor = units.get(code)
    if factor is None:
        known = ", ".join(units)
        raise _Doubt("unit", f"{kind}: its unit is none of {known}, of UCUM", **given)
    value = float(quantity.value * factor)
    if "%" in units and 0 < value <= 1:
        raise _Doubt("fraction", f"{kind}: a share of 1, though its unit is %", **given)
    low, high = POSSIBLE[kind]
    low = max(low, _LEAST.get(kind, low))
    if not low <= value <= high:
        bounds = f"{low:g} to {high:g}"
        raise _Doubt("impossible", f"{kind}: not from {bounds}", **given)
    return value


def _measurements(parts: Sequence[tuple[_Part, _Doubt | None]]) -> _Parts:
    """Each kind once, with what was breathed. What is said of the oxygen belongs to the
    measurements beside it; alone, it is one itself."""
    by_kind: dict[ObservationKind, tuple[_Part, _Doubt | None]] = {}
    for part, doubt in parts:
        first, earlier = by_kind.setdefault(part.kind, (part, doubt))
        if first.value != part.value:
            earlier = earlier or doubt or _Doubt("contradictory", f"{part.kind}: two values")
        by_kind[part.kind] = (replace(first, method=first.method or part.method), earlier)
    oxygen = [one for one in by_kind.values() if one[0].kind in _OXYGEN]
    if len(oxygen) == len(by_kind):
        yield from oxygen
        return
    breathing, unclear = _breathing(oxygen)
    for part, doubt in by_kind.values():
        if part.kind in ("spo2", "pao2", "paco2", "ph"):
            yield replace(part, breathing=breathing), doubt or unclear
        elif part.kind not in _OXYGEN:
            yield part, doubt


def _breathing(
    oxygen: Iterable[tuple[_Part, _Doubt | None]],
) -> tuple[Breathing | None, _Doubt | None]:
    """What was breathed, by the flow and the fraction of oxygen; None where neither is said."""
    said: set[Breathing] = set()
    for part, doubt in oxygen:
        if doubt is not None or part.value is None:
            return None, doubt
        none = 0.0 if part.kind == "oxygen_flow" else _ROOM_AIR_PERCENT
        said.add("oxygen" if part.value > none else "room_air")
    if len(said) > 1:
        return None, _Doubt("contradictory", "on oxygen by one account, on room air by another")
    return (said.pop() if said else None), None


def _codes(document: Mapping[str, Any]) -> set[str]:
    """Every code in it, of whatever system; of what is no FHIR, as far as can be seen."""
    components = document.get("component")
    parts = [document, *(components if isinstance(components, list) else ())]
    found = set()
    for part in parts:
        concept = part.get("code") if isinstance(part, Mapping) else None
        codings = concept.get("coding") if isinstance(concept, Mapping) else None
        for coding in codings if isinstance(codings, list) else ():
            code = coding.get("code") if isinstance(coding, Mapping) else None
            if isinstance(code, str):
                found.add(code)
    return found


def _valid(model: type[Resource], document: Mapping[str, Any]) -> Resource:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        places = dict.fromkeys(_place(fault["loc"]) for fault in faults)
        named = ", ".join([*places][:_FAULTS_NAMED])
        raise _Doubt("not_fhir", f"not as FHIR R4 has it: {named}") from None


def _place(location: tuple[int | str, ...]) -> str:
    """Where a fault is. A key that cannot be FHIR's may be anything, somebody's name too."""
    parts = (
        str(part) if isinstance(part, int) or _KEY.fullmatch(part) else "…" for part in location
    )
    return ".".join(parts) or "the resource"


def _refuse_modifiers(document: Mapping[str, Any]) -> None:
    parts = [document, *(document.get("component") or ())]
    if any(part.get("modifierExtension") or part.get("implicitRules") for part in parts):
        raise _Doubt("modifier", "has a modifier that we do not know")


def _code_of(concept: Any, known: Collection[str]) -> str | None:
    """The code of a status; None where it has none. In words alone, it may say anything."""
    if concept is None:
        return None
    found: set[str] = {one.code for one in (concept.coding or ())}.intersection(known)
    if len(found) != 1:
        raise _Doubt("status", "has a status that is none of those that say whether it counts")
    return found.pop()


def _status_of(document: Mapping[str, Any]) -> Status:
    """Whether it counts. A diagnosis that is not confirmed waits, as a measurement that is
    preliminary does."""
    given = document.get("status")
    if not _codes({"code": document.get("verificationStatus")}).isdisjoint(_UNCONFIRMED):
        given = "preliminary"
    return _STATUSES.get(given, "final") if isinstance(given, str) else "final"


def _shown(text: str | None) -> str | None:
    """A unit or a code as it is given; anything else may be somebody's data."""
    return text if text is None or _CODE.fullmatch(text) else "…"


def _within_years(moment: datetime) -> datetime:
    if not _FIRST_YEAR < moment.year < _LAST_YEAR:
        raise _Doubt("no_time", f"not in a year between {_FIRST_YEAR} and {_LAST_YEAR}")
    return moment.astimezone(UTC)


def _date_parts(given: Any) -> tuple[int, int | None, int | None]:
    if isinstance(given, date):
        return given.year, given.month, given.day
    year, _, month = str(given).partition("-")
    try:
        return int(year), int(month) if month else None, None
    except ValueError:  # a leap second, the only other text that FHIR lets pass
        raise _Doubt("imprecise_time", "its time cannot be told exactly") from None


def _version(document: Mapping[str, Any], digest: str) -> str:
    """What the hospital calls the version, and what it holds: the same name may come back with
    other content, after a server was restored."""
    meta = document.get("meta")
    given = meta.get("versionId") if isinstance(meta, Mapping) else None
    known = isinstance(given, str) and _ID.fullmatch(given)
    return f"{given}.{digest[:16]}" if known else digest[:16]


def _digest(document: Any) -> str:
    if not isinstance(document, bytes):
        document = json.dumps(document, sort_keys=True).encode()
    return hashlib.sha256(document).hexdigest()
