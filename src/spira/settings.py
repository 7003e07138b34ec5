"""Every setting of SPIRA: one tree, one frozen class a room, read once.

A value comes from, in this order: a flag (`--home`, `--setting room.name=value`), the environment
(`SPIRA_HOME`, `SPIRA_TRAINING__THREADS=2`), the file `settings.toml` in the data folder, the
default beside the field. Secrets of object stores and registries stay in the environment
variables that obstore and MLflow define.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from spira.collection.settings import CollectionSettings
from spira.datasets.settings import DatasetsSettings
from spira.delivery.settings import DeliverySettings
from spira.domain.errors import InputError
from spira.domain.suggestions import nearest
from spira.evaluation.settings import EvaluationSettings
from spira.intake.settings import IntakeSettings
from spira.scheduling.settings import SchedulingSettings
from spira.serving.settings import ServingSettings
from spira.stores.settings import StoresSettings
from spira.training.settings import TrainingSettings

_SECRET = re.compile(r"//[^/@\s]*@")  # a password or a token in an address
_NEARLY = 0.8  # of a variable's letters are those of a known one: SPIRA_HOM, SPIRA_TRAINING_THREADS


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
    scheduling: SchedulingSettings = SchedulingSettings()
    serving: ServingSettings = ServingSettings()
    collection: CollectionSettings = CollectionSettings()
    intake: IntakeSettings = IntakeSettings()

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
            InitSettingsSource(settings_cls, _of_the_file(folder / "settings.toml")),
        )


def read_settings(*, home: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read the tree.

    overrides  "room.name=value", values as TOML literals or plain text
    raises     InputError listing every mistake, with the nearest known name; or saying what is
               wrong with settings.toml as a file
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
    mistakes = [*_unknown_variables(os.environ)]
    try:
        settings = Settings(**flags)
    except ValidationError as error:
        raise InputError(*mistakes, *(_mistake(fault) for fault in error.errors())) from error
    if mistakes:
        raise InputError(*mistakes)
    return settings.model_copy(update={"home": settings.home.expanduser().resolve()})


def _of_the_file(path: Path) -> dict[str, Any]:
    """What settings.toml says; nothing where there is none."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({str(error.strerror).lower()})") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from error


def _unknown_variables(environment: Iterable[str]) -> Iterator[str]:
    """Variables that were meant as settings and are none.

    Programs around SPIRA may have variables of their own that begin so; one that has the form of a
    setting, or nearly its name, is a mistake. Names inside a room are pydantic's to check.
    """
    known = [
        *(name.upper() for name in Settings.model_fields),
        *(name.upper().replace(".", "__") for name in _names_in_rooms()),
    ]
    for variable in sorted(environment):
        name = variable.upper().removeprefix("SPIRA_")
        if name == variable.upper() or name.partition("__")[0].lower() in Settings.model_fields:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=_NEARLY)
        if near or "__" in name:
            hint = f"; did you mean SPIRA_{near[0]}?" if near else ""
            yield f"environment variable {variable}: no such setting{hint}"


def _names_in_rooms() -> Iterator[str]:
    """`room.name` of every setting that stands in a room."""
    for room, field in Settings.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from (f"{room}.{name}" for name in field.annotation.model_fields)  # type: ignore[union-attr]


def _literal(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _mistake(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = [*_names_in_rooms(), *Settings.model_fields]
        return f"setting {where}: unknown{nearest(where, known)}"
    given = _SECRET.sub("//…@", repr(fault["input"]))
    said = fault["msg"][:1].lower() + fault["msg"][1:]  # names of variables in it stay as they are
    return f"setting {where}: {said}, it is {given}"
