"""What people and programs read: text and progress for people, one JSON document for programs."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_PLAIN_EVERY_S = 2.0


def _for_programs(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.obj.console.as_json = True


# `spira --json COMMAND` and `spira COMMAND --json` are the same.
json_option = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    callback=_for_programs,
    help="One JSON document instead of text.",
)


def _said(ctx: click.Context, param: click.Parameter, reason: str) -> str:
    if not reason.strip():
        raise click.BadParameter("is blank: say why.", ctx, param)
    return reason


reason_option = click.option("--reason", required=True, callback=_said, help="Why; it is audited.")


def account() -> str:
    """The name of the account that runs a command."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


class Console:
    """Text goes to standard output, or to standard error where JSON is asked for."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, float] = {}

    def say(self, text: str = "") -> None:
        """One line (or a few) for people."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def emit(self, document: dict[str, Any] | list[Any]) -> None:
        """The result for programs; printed only with --json."""
        if self.as_json:
            print(json.dumps(document, ensure_ascii=False, indent=2, default=str), flush=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str = "") -> None:
        """A table for people; columns are aligned, nothing is cut off."""
        if not rows:
            self.say(empty)
            return
        lines = [head, *rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        for line in lines:
            self.say("  ".join(map(str.ljust, line, widths)).rstrip())

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how far work is: bars on a terminal; elsewhere a plain line when it begins, and then
        one every two seconds."""
        if sys.stderr.isatty():
            self._bar(what, done, total)
            return
        now = time.monotonic()
        last = self._last.get(what)
        if done < total if last is None else now - last >= _PLAIN_EVERY_S:
            self._last[what] = now
            share = f" ({done / total:.0%})" if total else ""
            print(f"{what}: {done} of {total}{share}", file=sys.stderr, flush=True)
        if done >= total:
            self._last.pop(what, None)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Bars live inside this block and are cleared at its end."""
        try:
            yield
        finally:
            if self._bars is not None:
                self._bars.stop()
                self._bars = None
                self._tasks.clear()

    def _bar(self, what: str, done: int, total: int) -> None:
        if self._bars is None:
            from rich.console import Console as Terminal
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
            from rich.progress import TimeRemainingColumn as Remaining

            self._bars = Progress(
                TextColumn("{task.description:<28}"),
                BarColumn(),
                MofNCompleteColumn(),
                Remaining(elapsed_when_finished=True),
                console=Terminal(stderr=True),
                transient=True,
            )
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)
