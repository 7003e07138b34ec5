"""The hospital's records: its configuration, its participants, and what is coupled to the label."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from pydantic import Field, field_validator, model_validator

from spira.domain.draws import draws
from spira.domain.errors import InputError
from spira.domain.frozen import Frozen
from spira.domain.recordings import Label, Sex
from spira.domain.suggestions import nearest
from spira.synthetic.devices import DEVICE_NAMES, DeviceName
from spira.synthetic.rooms import NoiseKind

UtteranceName = Literal["ambient_before", "sentence", "rhyme", "vowel", "ambient_after"]
ShortcutName = Literal["ward-noise", "device", "level", "site"]

VISIT_ORDER: tuple[UtteranceName, ...] = get_args(UtteranceName)
SHORTCUTS: dict[ShortcutName, str] = {
    "ward-noise": "present: amid ward noise, 10 to 15 dB under the speech; absent: in quiet",
    "device": "present: one of the first half of the devices; absent: one of the others",
    "level": "present: recorded at a low level (peak 0.30 to 0.42); absent: at 0.56 to 0.70",
    "site": "present: at one of the first half of the sites; absent: at one of the others",
}
COUPLING = (
    "With a probability of its strength, drawn for each participant and each shortcut, the label "
    "sets the nuisance; else it is drawn as everybody's. 0 is no shortcut, 1 a perfect one."
)
SPO2_PERCENT: dict[Label, tuple[int, int]] = {"present": (80, 91), "absent": (95, 99)}  # ri-v1
SPEECH_PEAK = (0.30, 0.70)  # full scale 1

_COUPLED_PEAK: dict[Label, tuple[float, float]] = {"present": (0.30, 0.42), "absent": (0.56, 0.70)}
_WARD_SNR_DB = (10.0, 15.0)
_SPEECH_UNDER_PEAK_DB = 17.0  # active speech of these voices, give or take 3 dB
_FIRST_DAY = datetime(2024, 3, 1, 7, tzinfo=timezone(timedelta(hours=-3)))
_DAYS, _MINUTES_A_DAY = 180, 11 * 60

T = TypeVar("T")


class Hospital(Frozen):
    """A synthetic hospital. The same values give the same bytes.

    raises    InputError that lists what does not make sense, with the nearest known shortcut
    """

    seed: int = Field(default=42, ge=0, lt=2**31)
    participants: int = Field(default=320, ge=1, le=99_999)
    prevalence: float = Field(default=0.5, ge=0, le=1)  # share of `present`, exact to rounding
    effect: float = Field(default=1.0, ge=0, le=2)  # of the illness on speech: physiology.py
    utterances: tuple[UtteranceName, ...] = Field(default=VISIT_ORDER, min_length=1)
    duration_s: tuple[float, float] = (9.0, 11.0)  # of a sentence or rhyme, whoever speaks
    snr_db: tuple[float, float] = (25.0, 35.0)  # speech over the room's noise, both labels alike
    sites: int = Field(default=3, ge=1, le=50)
    devices: tuple[DeviceName, ...] = Field(default=DEVICE_NAMES, min_length=1)
    noise_per_site: int = Field(default=8, ge=1, le=999)  # recordings of ward noise, 15 s each
    shortcuts: dict[ShortcutName, float] = Field(default_factory=dict)  # strengths: COUPLING

    @field_validator("shortcuts", mode="before")
    @classmethod
    def _known(cls, shortcuts: Any) -> Any:
        unknown = [name for name in shortcuts if name not in SHORTCUTS]
        if unknown and isinstance(shortcuts, Mapping):
            raise InputError(
                *(
                    f"shortcut {name!r}: not known{nearest(str(name), SHORTCUTS)} "
                    f"(known: {', '.join(SHORTCUTS)})"
                    for name in unknown
                )
            )
        return shortcuts

    @model_validator(mode="after")
    def _makes_sense(self) -> "Hospital":
        mistakes = [
            f"shortcut {name}: strength {strength} is not between 0 and 1"
            for name, strength in self.shortcuts.items()
            if not 0 <= strength <= 1
        ]
        shortest, longest = self.duration_s
        if not 6 <= shortest <= longest <= 30:  # two of the longest breath groups must fit
            mistakes.append(f"duration_s {self.duration_s}: need 6 <= shortest <= longest <= 30")
        if self.snr_db[0] > self.snr_db[1]:
            mistakes.append(f"snr_db {self.snr_db}: the first must not be above the second")
        for what, names in (("utterances", self.utterances), ("devices", self.devices)):
            if len(set(names)) < len(names):
                mistakes.append(f"{what} {', '.join(names)}: one is named twice")
        if "device" in self.shortcuts and len(self.devices) < 2:
            mistakes.append("shortcut device: needs at least two devices")
        if "site" in self.shortcuts and self.sites < 2:
            mistakes.append("shortcut site: needs at least two sites")
        if mistakes:
            raise InputError(*mistakes)
        return self

    @property
    def present(self) -> int:
        """How many participants have RI."""
        return round(self.participants * self.prevalence)

    @property
    def absent(self) -> int:
        """How many have not."""
        return self.participants - self.present

    @property
    def site_names(self) -> tuple[str, ...]:
        """ "site-1", "site-2", …"""
        return tuple(f"site-{number}" for number in range(1, self.sites + 1))


@dataclass(frozen=True)
class Participant:
    """One participant and the circumstances of the one visit."""

    id: str
    label: Label
    sex: Sex
    age: int
    site: str
    device: DeviceName
    spo2_percent: int
    visited_at: datetime
    peak: float  # of the speech, full scale 1
    noise: NoiseKind
    snr_db: float  # of a typical voice at this peak
    coupled: tuple[ShortcutName, ...]  # shortcuts by which the label set a nuisance

    @property
    def noise_dbfs(self) -> float:
        """Level of the room's noise in all recordings of the visit, however loud the speech is."""
        return 20 * math.log10(self.peak) - _SPEECH_UNDER_PEAK_DB - self.snr_db


def admit(config: Hospital) -> list[Participant]:
    """Everybody who visits, in the order of their pseudonyms, which tells nothing about them."""
    labels: list[Label] = ["present"] * config.present
    labels += ["absent"] * config.absent
    order = draws(config.seed, "labels").permutation(config.participants)
    return [
        _participant(config, f"p-{number:05d}", labels[place])
        for number, place in enumerate(order, start=1)
    ]


def _participant(config: Hospital, name: str, label: Label) -> Participant:
    coupled = tuple(
        shortcut
        for shortcut, strength in sorted(config.shortcuts.items())
        if draws(config.seed, "shortcut", shortcut, name).random() < strength
    )
    amid_noise = "ward-noise" in coupled and label == "present"
    rng = draws(config.seed, "participant", name)
    # The label must not change how many numbers are drawn, or it would change what comes after.
    return Participant(
        id=name,
        label=label,
        sex="female" if rng.random() < 0.5 else "male",
        age=int(rng.integers(20, 86)),
        site=_one_of(config.site_names, label, "site" in coupled, rng),
        device=_one_of(config.devices, label, "device" in coupled, rng),
        visited_at=_FIRST_DAY
        + timedelta(days=int(_DAYS * rng.random()), minutes=int(_MINUTES_A_DAY * rng.random())),
        peak=float(rng.uniform(*_COUPLED_PEAK[label] if "level" in coupled else SPEECH_PEAK)),
        noise="ward" if amid_noise else "quiet",
        snr_db=float(rng.uniform(*_WARD_SNR_DB if amid_noise else config.snr_db)),
        spo2_percent=_between(SPO2_PERCENT[label], rng),
        coupled=coupled,
    )


def _one_of(choices: Sequence[T], label: Label, coupled: bool, rng: np.random.Generator) -> T:
    if coupled:
        half = len(choices) // 2
        choices = choices[:half] if label == "present" else choices[half:]
    return choices[int(len(choices) * rng.random())]


def _between(bounds: tuple[int, int], rng: np.random.Generator) -> int:
    low, high = bounds
    return low + int((high - low + 1) * rng.random())
