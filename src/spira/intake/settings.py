"""Settings of what Collection and Serving share."""

import os
from pathlib import Path

from pydantic import Field, field_validator

from spira.audio.quality import QualityThresholds
from spira.domain.frozen import Frozen
from spira.domain.recordings import MINIMUM_DURATION_S


class IntakeThresholds(QualityThresholds):
    """Where a measurement of what a device sends becomes a finding, or refuses it."""

    longest_s: float = Field(default=600.0, gt=MINIMUM_DURATION_S)

    ambient_speech_s: float = Field(default=0.5, gt=0)
    """With more speech than this, in s, a recording of the room holds somebody's conversation: it
    is dropped as `speech_in_ambient`, and deleted. A word lasts as long. 200 synthetic rooms and
    wards of 8 s have none at all; 5 s of each of six real voices under a ward's noise as loud as
    they are, 2.2 s or more."""


class CheckingSettings(Frozen):
    """How recordings are checked, and what a process that parses one may take. The defaults are
    several times what ten minutes of audio need."""

    # Processes; each is busy with one core, and about 110 MB large while it waits.
    children: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=64)
    memory_mb: int = Field(default=512, ge=1)  # for one recording, beside what the process needs
    cpu_s: int = Field(default=30, ge=1)  # of processor time, for one recording
    wall_s: float = Field(default=120.0, gt=0)  # for one recording, however busy the machine is
    quality: IntakeThresholds = IntakeThresholds()


class IntakeSettings(Frozen):
    """What is taken in, and where keys are: never in a database or an object store."""

    checking: CheckingSettings = CheckingSettings()
    largest_file_bytes: int = Field(default=20 << 20, ge=1)  # of a recording, as it was sent
    kept_days: float = Field(default=30.0, gt=0)  # what nobody finishes to send
    keys: Path | None = None  # the key ring; None: `keys` in the data folder
    # Of record numbers: 123-1 and 12-31, family and member, are two. To be set before the first
    # assessment: what was hashed otherwise is not found.
    record_separators: bool = False

    @field_validator("keys")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().resolve()
