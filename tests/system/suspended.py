"""Somebody suspended before one of the things that they do, while something else happens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa


class Suspended:
    """A store or a database whose user is suspended before one of the things that it does."""

    def __init__(self, real: Any, at: "Countdown") -> None:
        self._real = real
        self._at = at

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name == "writing":
            return self._writing
        if not callable(found):
            return found

        def called(*words: Any, **more: Any) -> Any:
            self._at.step()
            return found(*words, **more)

        return called

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        self._at.step()
        with self._real.writing() as tables:
            yield tables


class Countdown:
    """Counts steps; at one of them something else happens first."""

    def __init__(self, at: int, happens: Callable[[], object]) -> None:
        self.steps = 0
        self._at = at
        self._happens = happens

    def step(self) -> None:
        self.steps += 1
        if self.steps == self._at:
            self._happens()
