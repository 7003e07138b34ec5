"""The composition root: settings in, the parts of SPIRA joined together out."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spira.console import Console
from spira.settings import Settings

if TYPE_CHECKING:
    from spira.stores.artifacts import ArtifactStore
    from spira.stores.registry import Registry


class Application:
    """What a command is handed. Parts are opened when first asked for."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self.settings = settings
        self.console = console

    @property
    def home(self) -> Path:
        """The data folder."""
        return self.settings.home

    @property
    def json(self) -> bool:
        """Whether the caller is a program."""
        return self.console.as_json

    def say(self, text: str = "") -> None:
        """Tell a person."""
        self.console.say(text)

    def emit(self, document: dict[str, Any] | list[Any]) -> None:
        """Tell a program."""
        self.console.emit(document)

    def progress(self, what: str, done: int, total: int) -> None:
        """Tell how far the work is."""
        self.console.progress(what, done, total)

    @cached_property
    def artifacts(self) -> "ArtifactStore":
        """Feature Store D, dataset versions, and every other artifact."""
        from spira.stores.artifacts import ArtifactStore

        url = self.settings.stores.artifacts or str(self.home / "store")
        return ArtifactStore.open(url, cache=self.home / "cache")

    @cached_property
    def registry(self) -> "Registry":
        """Metadata Store E and Model Registry I."""
        from spira.stores.registry import Registry

        return Registry.open(self.settings.stores, home=self.home)
