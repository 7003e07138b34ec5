"""How long work tells how far it is, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """Called as often as one likes; the listener decides what to show."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """`done` of `total` steps of `what` are finished."""


def no_progress(what: str, done: int, total: int) -> None:
    """Tell nobody."""
