"""What is said of a person that a label rests on, before any rule decides about it.

An observation is one fact with its time: a measurement, a diagnosis, the respiratory support in
force, or a clinician's own judgement. A source says it, corrects it and takes it back: each time
another *version* of the same *entry*, and none is ever changed or deleted.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from spira.domain.forms import cid10
from spira.domain.frozen import Frozen
from spira.domain.recordings import LABELS, Label

ObservationKind = Literal[
    "spo2",  # %
    "pao2",  # mmHg
    "paco2",  # mmHg
    "ph",
    "respiratory_rate",  # breaths a minute
    "heart_rate",  # beats a minute
    "oxygen_flow",  # litres a minute
    "inspired_oxygen",  # %, 21 is room air
    "diagnosis",  # a CID-10 code
    "support",  # respiratory support in force
    "judgement",  # RI present, absent or unknown, as a clinician says
]
Breathing = Literal["room_air", "oxygen"]
Support = Literal["none", "oxygen", "high_flow", "non_invasive", "invasive"]
SourceKind = Literal["hospital", "clinician", "import"]
Status = Literal["preliminary", "final", "amended", "corrected", "retracted"]
Doubt = Literal["impossible", "code", "future"]
Subject = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""Whom an entry is about: `record:KEYID:hex` (the keyed hash of a record number), or
`participant:STUDY/PSEUDONYM`. A person may be known by several."""

# What a device can show at all, in the unit of the kind; outside, the unit or the value is wrong.
# An SpO2 of 0.93 is a share, and below 30 % oximeters show nothing.
POSSIBLE: Mapping[str, tuple[float, float]] = {
    "spo2": (30, 100),
    "pao2": (10, 700),
    "paco2": (5, 250),
    "ph": (6.3, 8.0),
    "respiratory_rate": (2, 100),
    "heart_rate": (20, 300),
    "oxygen_flow": (0, 100),
    "inspired_oxygen": (20, 100),
}
_CLOCKS_DIFFER = timedelta(minutes=10)


class Observation(Frozen):
    """One fact about one person."""

    kind: ObservationKind
    at: AwareDatetime  # when it was true, or began to be
    until: AwareDatetime | None = None  # of what lasts; None: at that moment, or from then on
    value: float | None = None  # in the unit of its kind
    code: str | None = None  # CID-10 of a diagnosis, a Support, or the Label of a judgement
    breathing: Breathing | None = None  # what was breathed while it was measured; None: not said
    method: Literal["pulse_oximetry", "arterial"] | None = None  # None: not known

    @model_validator(mode="after")
    def _has_its_value(self) -> "Observation":
        coded = self.kind in ("diagnosis", "support", "judgement")
        if coded != (self.value is None) or coded != (self.code is not None):
            raise ValueError(f"{self.kind}: needs a {'code' if coded else 'value'} and no other")
        if self.until is not None and self.until < self.at:
            raise ValueError(f"{self.kind}: ends before it begins")
        return self


class Entry(Frozen):
    """One version of what a source says.

    Of several versions known at a time, the one that the source issued last is in force.
    """

    source: SourceKind
    origin: str = Field(min_length=1, max_length=100)  # which hospital, site or import
    name: str = Field(min_length=1, max_length=200)  # of the entry in its origin, the same in each
    version: str = Field(min_length=1, max_length=100)
    status: Status = "final"
    subject: Subject
    issued: AwareDatetime  # when the source knew
    observation: Observation | None  # None: it was taken back
    evidence: str | None = None  # digest of what it was read from, or who said so

    @model_validator(mode="after")
    def _retracted_says_nothing(self) -> "Entry":
        if (self.status == "retracted") != (self.observation is None):
            raise ValueError("what is retracted, and nothing else, has no observation")
        return self


class Asked(Frozen):
    """A recording for which a label is wanted."""

    recording: str
    subjects: tuple[Subject, ...] = Field(min_length=1)  # every one that is this person
    recorded_at: AwareDatetime  # by the device's clock, corrected
    uncertainty_s: float = Field(ge=0)  # how wrong that may be, either way


class Decided(Frozen):
    """What a policy makes of the observations."""

    label: Label
    reason: str  # one word for one rule: `spo2_low`, `between`, `no_measurement`, ...
    evidence: tuple[str, ...] = ()  # the entries that it rests on: "origin/name/version"
    measured_at: datetime | None = None  # of the measurement that decided


def doubt(entry: Entry, now: datetime) -> Doubt | None:
    """What is wrong with an entry that cannot be true; it is for the worklist, never for a guess.

    impossible   a value that no device shows: mostly another unit
    code         no CID-10 code as it is written (J96.0), no Support, no Label
    future       it was so, or was issued, more than ten minutes after `now`
    """
    observation = entry.observation
    moments = [entry.issued] if observation is None else [entry.issued, observation.at]
    if max(moments) - now > _CLOCKS_DIFFER:
        return "future"
    if observation is None:
        return None
    if observation.value is not None:
        low, high = POSSIBLE[observation.kind]
        return None if low <= observation.value <= high else "impossible"
    code = observation.code or ""
    if observation.kind == "diagnosis":
        return None if cid10(code) == code else "code"
    return (
        None if code in (get_args(Support) if observation.kind == "support" else LABELS) else "code"
    )
