"""Settings of Data Collection."""

from pydantic import Field

from spira.collection.hospitals.settings import HospitalSettings
from spira.domain.frozen import Frozen


class CollectionSettings(Frozen):
    """Where labels come from."""

    # The hospitals that labels are pulled from, by name: a study's site names its own.
    hospitals: dict[str, HospitalSettings] = Field(default={})
