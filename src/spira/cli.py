"""The `spira` command: one group, each room's commands mounted when they are asked for."""

import errno
import importlib
import io
import os
import sys
from pathlib import Path
from typing import Any

import click

from spira import __version__
from spira.domain.errors import InputError, SpiraError, TransientError

# name -> (where it is, one line of help): help needs no import of the rooms.
_COMMANDS = {
    "dataset": ("spira.datasets.commands:dataset", "Import, make, show and verify datasets."),
    "train": ("spira.training.commands:train", "Run the pipeline of an experiment."),
    "stage": ("spira.training.commands:stage", "Run one stage alone, in its own process."),
    "runs": ("spira.training.commands:runs", "List, show and clean runs."),
    "schedule": (
        "spira.scheduling.commands:schedule",
        "Run the pipeline as a service: requests, runs, sweeps.",
    ),
    "serve": ("spira.serving.commands:serve", "Take assessments in and answer them."),
    "collect": ("spira.collection.commands:collect", "Take visits in."),
    "study": ("spira.collection.commands:study", "Apply studies; see targets and balance."),
    "hospital": (
        "spira.collection.hospitals.commands:hospital",
        "Pull labels from hospitals; simulate one.",
    ),
    "predict": ("spira.model.commands:predict", "Ask a model about recordings."),
    "model": ("spira.delivery.commands:model", "List, show, promote and roll back models."),
    "labels": ("spira.labels.commands:labels", "Add, import and show what labels rest on."),
    "keys": ("spira.intake.commands:keys", "List, rotate, back up and restore keys."),
    "audit": ("spira.intake.commands:audit", "Verify and export what was done, and by whom."),
    "about": ("spira.delivery.commands:about", "Intended use, version, warnings."),
    "settings": ("spira.training.commands:settings", "Print every setting and its value."),
    "demo": ("spira.demo:demo", "Run the main job on a synthetic hospital."),
}
# Commands of a higher room in the group of a lower one, which does not know them.
_MOUNTED = {"dataset": {"snapshot": "spira.collection.commands:snapshot"}}
_HELP = "spira.cli.help"  # in a context's meta: whether help is asked for, of whatever command


class _Lazy(click.Group):
    """A group that imports a command's module only to run it or to show its own help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = args[: args.index("--")] if "--" in args else args
        ctx.meta[_HELP] = not {"-h", "--help"}.isdisjoint(options)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return find_command(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from spira.domain.suggestions import nearest

            ctx.fail(f"No such command {args[0]!r}{nearest(args[0], _COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


def find_command(name: str, *inner: str) -> click.Command:
    """The command `spira NAME INNER…`; its room is imported now."""
    command = _imported(_COMMANDS[name][0])
    for mounted, where in _MOUNTED.get(name, {}).items():
        assert isinstance(command, click.Group)
        command.add_command(_imported(where), mounted)
    for part in inner:
        assert isinstance(command, click.Group)
        command = command.commands[part]
    return command


def _imported(where: str) -> click.Command:
    module, _, attribute = where.partition(":")
    command: click.Command = getattr(importlib.import_module(module), attribute)
    return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="spira")
@click.option("--home", type=click.Path(path_type=Path), help="Data folder (or SPIRA_HOME).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@click.option("--setting", "overrides", multiple=True, metavar="ROOM.NAME=VALUE")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="Structured logs on standard error, from this level up.",
)
@click.pass_context
def spira(
    ctx: click.Context,
    home: Path | None,
    as_json: bool,
    overrides: tuple[str, ...],
    log_level: str,
) -> None:
    """Look for indications of respiratory insufficiency in a few seconds of speech.

    An indication is never a diagnosis; the physician decides.

    \b
    Exit codes: 0 done · 1 a defect of ours · 2 wrong input · 3 refused by an audit or policy ·
    70 stored bytes are damaged · 75 try again later · 130 interrupted
    """
    from spira.console import Console
    from spira.logs import configure_logs
    from spira.settings import read_settings
    from spira.wiring import Application

    configure_logs(log_level)
    try:
        settings = read_settings(home=home, overrides=overrides)
    except SpiraError:
        if ctx.meta[_HELP]:
            return  # help needs no settings, and must be there when they are wrong
        raise
    ctx.obj = Application(settings, Console(as_json=as_json))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors of the domain become a sentence and an exit code, here only."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no ã shows a ?
            stream.reconfigure(errors="replace")
    output = sys.stdout
    try:
        code = spira.main(arguments, prog_name="spira", standalone_mode=False)
    except SpiraError as error:
        _fail("\n".join(f"spira: {line}" for line in str(error).splitlines()), error.exit_code)
    except click.exceptions.Abort:
        _fail("spira: interrupted; the same command goes on from here", 130)
    except KeyboardInterrupt:
        _fail("spira: interrupted; the same command goes on from here", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except SystemExit:
        # Where nobody reads on, click mutes the output and ends with 1; to whoever asked for
        # `head -1`, all is well.
        if sys.stdout is output:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        sys.exit(0)
    except OSError as error:
        trouble = _of_the_disk(error)
        if trouble is None:
            raise
        _fail(f"spira: {trouble}", trouble.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _of_the_disk(error: OSError) -> SpiraError | None:
    """What any part of SPIRA may meet on a disk; None for what is a defect of ours."""
    where = error.filename or "the data folder"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TransientError(
            f"{where}: the disk is full; free some space and run the same command again"
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
        # The error does not tell reading from writing; only a read-only disk leaves no doubt.
        what = "written" if error.errno == errno.EROFS else "read or written"
        return InputError(
            f"{where}: cannot be {what} ({str(error.strerror).lower()}); "
            "see to its permissions, or choose another data folder with --home"
        )
    return None


def _fail(text: str, code: int) -> Any:
    click.echo(text, err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
