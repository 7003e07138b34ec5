"""Settings of the stores: where artifacts and models live. Secrets stay in the environment."""

from pydantic import Field

from spira.domain.frozen import Frozen


class StoresSettings(Frozen):
    """One machine by default; another address moves a store to its production server."""

    # An object store's URL (s3://bucket/prefix, gs://…, az://…); None: a folder in the data folder.
    artifacts: str | None = None
    # http(s)://… of an MLflow server, or sqlite:////folder/mlflow.db; None: MLflow on SQLite in
    # the data folder.
    registry: str | None = None
    # Machines that share an object store take over from one that was silent for so long.
    lease_s: float = Field(default=30.0, ge=1)
