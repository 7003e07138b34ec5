"""Settings of the intake room."""

import os

from pydantic import Field

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
