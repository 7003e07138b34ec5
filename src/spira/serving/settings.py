"""Settings of Serving."""

from pydantic import Field, field_validator

from spira.domain.frozen import Frozen
from spira.domain.vitals import DEFAULT_VITAL_RULES, VitalRules
from spira.stores.settings import PostgresUrl


class ServingSettings(Frozen):
    """How assessments are taken in and answered."""

    host: str = "127.0.0.1"  # where the API listens
    port: int = Field(default=8600, ge=0, le=65535)  # 0: any free one
    database: PostgresUrl | None = None  # None: SQLite in the data folder
    objects: str | None = None  # s3://bucket/prefix …; None: a folder in the data folder
    queue: str | None = None  # nats://host:port; None: a server of our own
    predictors: int = Field(default=1, ge=0, le=64)
    in_flight: int = Field(default=200, ge=1, le=10_000)  # asks that are published at once
    lease_s: float = Field(default=60.0, ge=1.0)  # then an ask is published again
    sweep_every_s: float = Field(default=600.0, ge=1.0)
    checking_answer_s: float = Field(default=5.0, ge=0.0, le=60.0)  # then: `checking`, come again
    stale_after_h: float = Field(default=2.0, gt=0)  # then an answer is old: the patient may differ
    vital_rules: VitalRules = DEFAULT_VITAL_RULES  # of the banner; signed by a clinician
    demo: bool = False  # answer with models of evidence level `synthetic`

    @field_validator("queue")
    @classmethod
    def _without_secret(cls, value: str | None) -> str | None:
        if value is not None and "@" in value:  # settings are printed
            raise ValueError("holds a secret; put the token into SPIRA_QUEUE_TOKEN instead")
        return value
