"""Settings of what Collection and Serving share."""

import os
from pathlib import Path

from pydantic import Field, field_validator

from spira.audio.quality import QualityThresholds
from spira.domain.frozen import Frozen


class CheckingSettings(Frozen):
    """How recordings are checked, and what a process that parses one may take. The defaults are
    several times what ten minutes of audio need."""

    # Processes; each is busy with one core, and about 110 MB large while it waits.
    children: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=64)
    memory_mb: int = Field(default=512, ge=1)  # for one recording, beside what the process needs
    cpu_s: int = Field(default=30, ge=1)  # of processor time, for one recording
    wall_s: float = Field(default=120.0, gt=0)  # for one recording, however busy the machine is
    quality: QualityThresholds = QualityThresholds(longest_s=600.0)


class IntakeSettings(Frozen):
    """What is taken in, and where keys are: never in a database or an object store."""

    checking: CheckingSettings = CheckingSettings()
    largest_file_bytes: int = Field(default=20 << 20, ge=1)  # of a recording, as it was sent
    kept_days: float = Field(default=30.0, gt=0)  # what nobody finishes to send
    keys: Path | None = None  # the key ring; None: `keys` in the data folder

    @field_validator("keys")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().resolve()
