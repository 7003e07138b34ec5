"""The truth of a simulated hospital: what was measured of whom, and what was said of it when.

A function of the seed and of the participants of the synthetic hospital (spira.synthetic.records):
each one's SpO2 and label is what they were recorded with. Around that are the troubles of real
records: results that come late, that are corrected, moved to another patient, taken back or
deleted, sent again without a change, and some that only a person can make sense of.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Literal

import numpy as np

from spira.collection.hospitals.reading import CID10, LOINC, UCUM, Reason
from spira.domain.draws import draw_seed, draws
from spira.domain.labels import Observation
from spira.synthetic.records import Participant

SYSTEM = "https://hospital.example/prontuario"  # of its record numbers

FhirStatus = Literal["preliminary", "final", "amended", "corrected", "entered-in-error", "deleted"]

_ICD10_CM = "http://hl7.org/fhir/sid/icd-10-cm"
_CODES = {
    "spo2": ("59408-5", "2708-6"),
    "respiratory_rate": ("9279-1",),
    "heart_rate": ("8867-4",),
    "pao2": ("2703-7",),
    "paco2": ("2019-8",),
    "ph": ("2744-1",),
}
_UNITS = {
    "spo2": "%",
    "respiratory_rate": "/min",
    "heart_rate": "/min",
    "pao2": "mm[Hg]",
    "paco2": "mm[Hg]",
    "ph": "[pH]",
}
_BLOOD_GASES = "24336-0"  # a panel
_PRELIMINARY, _LATE, _TOUCHED, _MOVED, _UNCLEAR = 0.05, 0.05, 0.02, 0.01, 0.01  # shares
_STAY_H = 30.0  # of measurements before and after the visit


@dataclass(frozen=True)
class Patient:
    """A participant as the hospital knows them."""

    id: str  # of the server
    record_number: str
    participant: Participant
    is_active: bool = True
    has_number: bool = True  # False: it is an old one
    replaced_by: str | None = None  # the id of another one
    changed_at: datetime | None = None  # None: as it was admitted


@dataclass(frozen=True)
class Version:
    """What the hospital says of a resource, from a moment on."""

    number: int
    known_at: datetime
    issued: datetime  # by the resource; before known_at where it is only sent again
    patient: Patient
    status: FhirStatus
    says: Mapping[str, Observation]  # by what follows the resource's name: "", or "/pao2"
    unclear: Reason | None = None  # why a person has to decide

    @property
    def counts(self) -> bool:
        """Whether it says something that a label may rest on."""
        return self.unclear is None and self.status in ("final", "amended", "corrected")


@dataclass(frozen=True)
class Thing:
    """A resource with its versions, the first one first."""

    name: str  # Observation/ID or Condition/ID
    versions: tuple[Version, ...]

    def at(self, moment: datetime) -> Version | None:
        """The version that the hospital has at a moment; a deleted one, too."""
        return next((one for one in reversed(self.versions) if one.known_at <= moment), None)


@dataclass(frozen=True)
class Truth:
    """Everything that a hospital knows, and when it knew."""

    patients: tuple[Patient, ...]
    things: tuple[Thing, ...]

    @cached_property
    def moments(self) -> tuple[datetime, ...]:
        """Every moment at which the hospital says something new."""
        return tuple(sorted({one.known_at for thing in self.things for one in thing.versions}))

    def in_force(self, moment: datetime) -> dict[str, tuple[Patient, Observation]]:
        """What counts at a moment, by the name of its entry.

        What is preliminary waits, and what it would replace still counts.
        """
        found: dict[str, tuple[Patient, Observation]] = {}
        for thing in self.things:
            known = [one for one in thing.versions if one.known_at <= moment]
            last = next((one for one in reversed(known) if one.status != "preliminary"), None)
            if last is not None and last.counts:
                for part, said in last.says.items():
                    found[thing.name + part] = (last.patient, said)
        return found


def record_number(seed: int, participant: str) -> str:
    """The hospital's own number of a participant of the synthetic hospital."""
    digits = draw_seed(seed, "record number", participant) % 1000
    return f"{digits:03d}.{participant.removeprefix('p-')}"


def make_truth(
    people: Sequence[Participant],
    seed: int,
    *,
    corrected: float = 0.02,
    retracted: float = 0.02,
    troubles: bool = True,
) -> Truth:
    """What a hospital has of these people.

    corrected, retracted   share of the resources
    troubles               whether there are the other ones, too
    """
    patients = tuple(
        Patient(
            id=f"{draw_seed(seed, 'patient', person.id):016x}",
            record_number=record_number(seed, person.id),
            participant=person,
        )
        for person in people
    )
    things: list[Thing] = []
    for patient in patients:
        rng = draws(seed, "hospital", patient.id)
        for said in _measured(patient, rng):
            name = _name(seed, patient, said, len(things))
            history = _history(patient, said, rng, corrected, retracted, troubles, patients)
            things.append(Thing(name, tuple(history)))
    return Truth(patients, tuple(things))


def _measured(patient: Patient, rng: np.random.Generator) -> Iterator[Mapping[str, Observation]]:
    """What is true of a patient: the visit's SpO2, what else was measured, and the diagnosis."""
    person = patient.participant
    visited = person.visited_at.astimezone(UTC).replace(second=0, microsecond=0)

    def one(kind: Any, hours: float, value: float, **more: Any) -> Observation:
        at = visited + timedelta(seconds=round(3600 * hours))
        return Observation(kind=kind, at=at, value=value, **more)

    oximetry = {"breathing": "room_air", "method": "pulse_oximetry"}
    near = float(rng.uniform(-0.4, 0.4))
    yield {"": one("spo2", near, float(person.spo2_percent), **oximetry)}
    ill = person.label == "present"
    yield {"": one("respiratory_rate", near, float(rng.integers(24, 36) if ill else 16))}
    yield {"": one("heart_rate", near, float(rng.integers(60, 120)))}
    away = float(rng.uniform(3, _STAY_H) * rng.choice((-1, 1)))
    flow = "oxygen" if ill else "room_air"
    other = float(rng.integers(88, 100))
    yield {"": one("spo2", away, other, **{**oximetry, "breathing": flow})}
    if rng.random() < 0.2:
        gases = {"breathing": flow, "method": "arterial"}
        yield {
            "/pao2": one("pao2", away, float(rng.integers(62, 100)), **gases),
            "/paco2": one("paco2", away, float(rng.integers(34, 44)), **gases),
            "/ph": one("ph", away, round(float(rng.uniform(7.35, 7.45)), 2), **gases),
        }
    if ill and rng.random() < 0.5:
        began = visited - timedelta(seconds=round(3600 * float(rng.uniform(0.5, 12))))
        yield {"": Observation(kind="diagnosis", at=began, code="J96.0")}


def _history(
    patient: Patient,
    said: Mapping[str, Observation],
    rng: np.random.Generator,
    corrected: float,
    retracted: float,
    troubles: bool,
    patients: Sequence[Patient],
) -> Iterator[Version]:
    """How the hospital comes to say it, and what it says afterwards."""
    # All are drawn, whatever comes of them: one trouble does not change the others.
    first = next(iter(said.values()))
    waits, late, touched, moved, unclear = rng.random(5) < np.array(
        [_PRELIMINARY, _LATE, _TOUCHED, _MOVED, _UNCLEAR]
    ) * float(troubles)
    is_corrected, is_retracted = rng.random(2) < (corrected, retracted)
    hours = rng.uniform((0.02, 6, 1, 2, 2, 2, 2), (0.3, 72, 6, 48, 48, 48, 72))
    deleted, whom, delta = rng.random() < 0.5, int(rng.integers(len(patients))), rng.random()
    known_at = first.at

    def after(step: int) -> datetime:
        nonlocal known_at
        known_at += timedelta(seconds=round(3600 * float(hours[step])))
        return known_at

    moment = after(1 if late else 0)
    now = Version(1, moment, moment, patient, "final", said)
    if waits and first.kind != "diagnosis":
        yield replace(now, status="preliminary")
        moment = after(2)
        now = replace(now, number=2, known_at=moment, issued=moment)
    if unclear:
        now = replace(now, unclear=_trouble(first.kind, delta))
    yield now

    def next_one(step: int, **changes: Any) -> Version:
        nonlocal now
        moment = after(step)
        given = {"number": now.number + 1, "known_at": moment, "issued": moment}
        now = replace(now, **{**given, **changes})
        return now

    if is_corrected:
        other = {part: _other_value(one) for part, one in said.items()}
        yield next_one(3, status="corrected", says=other, unclear=None)
    if touched:
        yield next_one(4, issued=now.issued)
    if moved and admitted_at(patients[whom]) < now.known_at:
        yield next_one(5, status="amended", patient=patients[whom])
    if is_retracted:
        yield next_one(6, status="deleted" if deleted else "entered-in-error", unclear=None)


def _trouble(kind: str, draw: float) -> Reason:
    if kind == "diagnosis":
        return "not_cid10"
    if kind == "spo2" and draw < 0.5:
        return "fraction"
    return "unit"


def _other_value(said: Observation) -> Observation:
    if said.value is None:
        return said.model_copy(update={"code": "J96.9"})
    step = 0.01 if said.kind == "ph" else -1.0
    return said.model_copy(update={"value": round(said.value + step, 2)})


def _name(seed: int, patient: Patient, said: Mapping[str, Observation], number: int) -> str:
    kind = "Condition" if next(iter(said.values())).kind == "diagnosis" else "Observation"
    return f"{kind}/{draw_seed(seed, 'resource', patient.id, number):016x}"


def admitted_at(patient: Patient) -> datetime:
    """When the hospital first had a record of a patient."""
    return patient.participant.visited_at.astimezone(UTC) - timedelta(hours=2 * _STAY_H)


def changed_at(patient: Patient) -> datetime:
    """When the hospital last changed what it says of a patient."""
    return patient.changed_at or admitted_at(patient)


# As FHIR R4


def to_fhir(thing: Thing, version: Version) -> dict[str, Any]:
    """A version of a resource as the hospital's server has it."""
    kind, _, id = thing.name.partition("/")
    site = version.patient.participant.site
    document: dict[str, Any] = {
        "resourceType": kind,
        "id": id,
        "meta": {"versionId": str(version.number), "lastUpdated": _instant(version.known_at)},
        "subject": {"reference": f"Patient/{version.patient.id}"},
    }
    if kind == "Condition":
        return document | _condition(version)
    first = next(iter(version.says.values()))
    document |= {
        "status": version.status,
        "performer": [{"reference": f"Organization/{site}"}],
        "effectiveDateTime": _instant(first.at),
        "issued": _instant(version.issued),
    }
    if "" in version.says:
        document |= _measurement(first, version.unclear)
        parts: list[dict[str, Any]] = []
    else:
        document["code"] = _concept(_BLOOD_GASES)
        parts = [_measurement(said, version.unclear) for said in version.says.values()]
    if first.breathing is not None:
        percent = 21 if first.breathing == "room_air" else 32
        parts.append({"code": _concept("3150-0"), "valueQuantity": _quantity(percent, "%")})
    return document | ({"component": parts} if parts else {})


def patient_to_fhir(patient: Patient) -> dict[str, Any]:
    """A patient as the hospital's server has them."""
    use = "official" if patient.has_number else "old"
    other = {"reference": f"Patient/{patient.replaced_by}"}
    links = [{"type": "replaced-by", "other": other}]
    return {
        "resourceType": "Patient",
        "id": patient.id,
        "meta": {"versionId": "1", "lastUpdated": _instant(changed_at(patient))},
        "active": patient.is_active,
        **({} if patient.replaced_by is None else {"link": links}),
        "identifier": [{"use": use, "system": SYSTEM, "value": patient.record_number}],
        "name": [{"text": f"Paciente {patient.record_number}"}],  # what must be left unread
    }


def _measurement(said: Observation, unclear: Reason | None) -> dict[str, Any]:
    unit, value = _UNITS[said.kind], said.value
    assert value is not None
    if unclear == "fraction":
        value = round(value / 100, 2)
    if unclear == "unit":
        unit = "[degF]"
    return {"code": _concept(*_CODES[said.kind]), "valueQuantity": _quantity(value, unit)}


def _condition(version: Version) -> dict[str, Any]:
    (said,) = version.says.values()
    mistaken = version.status == "entered-in-error"
    code = {"system": CID10[0], "code": said.code}
    if version.unclear == "not_cid10":
        code = {"system": _ICD10_CM, "code": "J96.01"}
    category = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
    return {
        "verificationStatus": {
            "coding": [
                {"system": category, "code": "entered-in-error" if mistaken else "confirmed"}
            ]
        },
        "code": {"coding": [code]},
        "onsetDateTime": _instant(said.at),
        "recordedDate": _instant(version.issued),
    }


def _concept(*codes: str) -> dict[str, Any]:
    return {"coding": [{"system": LOINC, "code": code} for code in codes]}


def _quantity(value: float, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": UCUM, "code": unit}


def _instant(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
