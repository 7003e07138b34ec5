"""Settings of the Scheduler Service."""

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator

from spira.domain.frozen import Frozen
from spira.stores.settings import PostgresUrl


class SchedulingSettings(Frozen):
    """How runs are requested, queued, retried and told about."""

    # Folder of experiment files; a relative one begins where `spira schedule` is started.
    experiments: Path = Path("experiments")
    # postgresql://user@host/database for requests and Dagster; None: SQLite in the data folder.
    # The password is libpq's business: PGPASSWORD or PGPASSFILE.
    database: PostgresUrl | None = None

    # The endpoint (POST /v1/runs). Behind a proxy that speaks TLS where others may reach it.
    host: str = "127.0.0.1"
    port: int = Field(default=8700, ge=0, le=65535)  # 0: any free one
    # Dagster's page, on 127.0.0.1 only.
    web_port: int = Field(default=8701, ge=0, le=65535, validate_default=True)

    # What runs beside what. A stage takes one slot of its resource, `train` on CUDA one of `gpu`.
    concurrent_runs: int = Field(default=4, ge=1)
    cpu_slots: int = Field(default=1, ge=1)
    gpu_slots: int = Field(default=1, ge=1)
    # in process: one worker process a run; process: another one for every stage of it;
    # kubernetes: a job for every run and one for every stage (docs/deploy.md).
    executor: Literal["in process", "process", "kubernetes"] = "in process"
    # The words that start `spira`, where it is not the one that runs the service.
    command: tuple[str, ...] = ()

    # Failures. Only transient ones are tried again, after twice the time each, give or take.
    retries: int = Field(default=3, ge=0)  # of a stage, within a run
    retry_delay_s: float = Field(default=10.0, ge=0)
    attempts: int = Field(default=20, ge=1)  # runs of a request that ended by no fault of its own
    stage_limit_s: float = Field(default=86_400.0, gt=0)
    webhook: str | None = None  # http(s) address that is told of permanent failures

    # What makes requests without being asked.
    experiment: str | None = None  # the one in operation: what is trained again
    dataset: str | None = None  # the name whose latest version is trained on
    cron: str | None = None  # "0 3 * * 0": Sundays at three, UTC
    new_participants: int | None = Field(default=None, ge=1)  # of each class, since the last one
    new_after_days: float | None = Field(default=None, gt=0)  # or any new data after so long

    @field_validator("web_port")
    @classmethod
    def _another_port(cls, value: int, others: ValidationInfo) -> int:
        if value and value == others.data.get("port"):
            raise ValueError("scheduling.port is the same; choose another, or 0 for any")
        return value

    @field_validator("webhook")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        if value is None:
            return value
        wrong = ValueError("write it as https://host/path, or http")
        try:
            parts = urlsplit(value)
            _ = parts.port
        except ValueError as error:
            raise wrong from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise wrong
        return value
