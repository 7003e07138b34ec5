"""Every setting of SPIRA: one tree, one frozen class a room, read once.

A value comes from, in this order: a flag (`--home`, `--setting room.name=value`), the environment
(`SPIRA_HOME`, `SPIRA_TRAINING__THREADS=2`), the file `settings.toml` in the data folder, the
default beside the field. Secrets of object stores and registries stay in the environment
variables that obstore and MLflow define.
"""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from spira.datasets.settings import DatasetsSettings
from spira.delivery.settings import DeliverySettings
from spira.domain.errors import InputError
from spira.domain.suggestions import nearest
from spira.evaluation.settings import EvaluationSettings
from spira.stores.settings import StoresSettings
from spira.training.settings import TrainingSettings


class Settings(BaseSettings):
    """The tree; `spira settings` prints it."""

    model_config = SettingsConfigDict(
        env_prefix="SPIRA_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    home: Path = Field(default_factory=lambda: Path(platformdirs.user_data_dir("spira")))
    stores: StoresSettings = StoresSettings()
    datasets: DatasetsSettings = DatasetsSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    delivery: DeliverySettings = DeliverySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over environment over the file of the data folder."""
        home = init_settings().get("home") or os.environ.get("SPIRA_HOME")
        folder = Path(home or platformdirs.user_data_dir("spira")).expanduser()
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls, folder / "settings.toml"),
        )


def read_settings(*, home: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read the tree.

    overrides  "room.name=value", values as TOML literals or plain text
    raises     InputError listing every mistake, with the nearest known name
    """
    flags: dict[str, Any] = {} if home is None else {"home": home}
    for override in overrides:
        key, separator, value = override.partition("=")
        *rooms, name = key.split(".")
        if not separator or not rooms or not name:
            raise InputError(f"--setting {override}: write it as room.name=value")
        inner = flags
        for room in rooms:
            inner = inner.setdefault(room, {})
            if not isinstance(inner, dict):
                raise InputError(f"--setting {override}: {room} holds a value, no settings")
        inner[name] = _literal(value)
    try:
        settings = Settings(**flags)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"settings.toml in the data folder: {error}") from error
    except ValidationError as error:
        raise InputError(*(_mistake(fault) for fault in error.errors())) from error
    return settings.model_copy(update={"home": settings.home.expanduser().resolve()})


def _literal(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _mistake(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = [
            f"{room}.{name}"
            for room, field in Settings.model_fields.items()
            if hasattr(field.annotation, "model_fields")
            for name in field.annotation.model_fields  # type: ignore[union-attr]
        ]
        return f"setting {where}: unknown{nearest(where, [*known, *Settings.model_fields])}"
    return f"setting {where}: {fault['msg'].lower()}, it is {fault['input']!r}"
