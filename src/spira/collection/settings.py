"""Settings of Data Collection."""

from pydantic import Field

from spira.collection.hospitals.settings import HospitalSettings
from spira.domain.frozen import Frozen


class CollectionSettings(Frozen):
    """How visits are taken in, and where their labels come from."""

    host: str = "127.0.0.1"  # where the API listens
    port: int = Field(default=8610, ge=0, le=65535)  # 0: any free one
    objects: str | None = None  # s3://bucket/prefix …; None: a folder in the data folder
    sweep_every_s: float = Field(default=600.0, ge=1.0)
    checking_answer_s: float = Field(default=5.0, ge=0.0, le=60.0)  # then: `checking`, come again
    balance_policy: str = "ri-v1"  # the label policy by which the balance is looked at

    # Spoken consents hold a name: in a bucket of their own, s3://bucket/prefix …, that only who
    # takes them in and reads them back may open. None: a folder in the data folder.
    consents: str | None = None
    # The hospitals that labels are pulled from, by name: a study's site names its own.
    hospitals: dict[str, HospitalSettings] = Field(default={})
