"""Settings of what Collection and Serving share."""

from pathlib import Path

from pydantic import field_validator

from spira.domain.frozen import Frozen


class IntakeSettings(Frozen):
    """Where keys are; they are never in a database or an object store."""

    # The key ring; None: `keys` in the data folder.
    keys: Path | None = None

    @field_validator("keys")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().resolve()
