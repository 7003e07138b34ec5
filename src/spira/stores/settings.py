"""Settings of the stores: where artifacts and models live. Secrets stay in the environment."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from spira.domain.frozen import Frozen


def _without_password(value: str) -> str:
    try:
        parts = urlsplit(value)
        secret = parts.password
    except ValueError as error:
        raise ValueError("write it as postgresql://user@host/database") from error
    if parts.scheme != "postgresql" or not parts.path.strip("/"):
        raise ValueError("write it as postgresql://user@host/database")
    if secret is not None:
        raise ValueError("holds a password; put it into PGPASSWORD or PGPASSFILE instead")
    return value


PostgresUrl = Annotated[str, AfterValidator(_without_password)]
"""The address of a PostgreSQL, as a setting: settings are printed, so it holds no password."""


class StoresSettings(Frozen):
    """One machine by default; another address moves a store to its production server."""

    # An object store's URL (s3://bucket/prefix, gs://…, az://…); None: a folder in the data folder.
    artifacts: str | None = None
    # http(s)://… of an MLflow server, or sqlite:////folder/mlflow.db; None: MLflow on SQLite in
    # the data folder.
    registry: str | None = None
    # Machines that share an object store take over from one that was silent for so long.
    lease_s: float = Field(default=30.0, ge=1)
