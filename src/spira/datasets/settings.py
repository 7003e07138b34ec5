"""Settings of the datasets room: the machine, and what counts as odd about a recording."""

import os

from pydantic import Field

from spira.audio.quality import QualityThresholds
from spira.domain.frozen import Frozen


class DatasetsSettings(Frozen):
    """How recordings are checked on their way in. Thresholds are part of a dataset's digest."""

    quality: QualityThresholds = QualityThresholds()
    # Processes that decode and measure; each is busy with one core. The result does not depend on
    # their number.
    jobs: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=256)
