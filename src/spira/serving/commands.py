"""`spira serve`: assessments in, receipts and answers out."""

from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from spira.console import account, json_option, reason_option
from spira.wiring import Application

if TYPE_CHECKING:
    from spira.intake.tokens import Role
    from spira.serving.assessments import Assessments

_host = click.option("--host", default="127.0.0.1", help="Where it tells how it is.")
_port = click.option("--port", type=click.IntRange(0, 65535), help="0: any; else by setting.")


@click.group(invoke_without_command=True)
@click.option("--demo", is_flag=True, help="Answer with models of synthetic voices too.")
@click.pass_context
def serve(ctx: click.Context, demo: bool) -> None:
    """Take assessments in and answer them: API, queue, relay and predictors. Ends on SIGTERM.

    Without a command everything runs here, under one supervisor. In production each part is
    started alone, any number of each.
    """
    from importlib.util import find_spec

    from spira.domain.errors import InputError

    if find_spec("fastapi") is None or find_spec("nats") is None:
        raise InputError(
            "spira serve: its packages are missing; `pip install 'spira[serve]'` brings them"
        )
    if demo:
        settings = ctx.obj.settings
        serving = settings.serving.model_copy(update={"demo": True})
        ctx.obj = Application(settings.model_copy(update={"serving": serving}), ctx.obj.console)
    if ctx.invoked_subcommand is None:
        from spira.serving.service import serve as run

        run(ctx.obj)


@serve.command()
@_port
@click.pass_obj
def api(app: Application, port: int | None) -> None:
    """The Client API alone."""
    from spira.serving.service import run_api

    run_api(app, app.settings.serving.port if port is None else port)


@serve.command()
@_host
@_port
@click.pass_obj
def relay(app: Application, host: str, port: int | None) -> None:
    """The relay alone: it publishes what waits, writes what comes back, and sweeps."""
    from spira.serving.service import run_relay

    run_relay(app, host, port)


@serve.command()
@_host
@_port
@click.pass_obj
def predictor(app: Application, host: str, port: int | None) -> None:
    """One Streaming Prediction Service alone; it needs no database."""
    from spira.serving.service import run_predictor

    run_predictor(app, host, port)


@serve.group()
def token() -> None:
    """Who may send for a site."""


@token.command("create")
@click.argument("site")
@click.option(
    "--role",
    type=click.Choice(["site", "lead"]),
    default="site",
    show_default=True,
    help="lead: may also see how a study's labels stand.",
)
@json_option
@click.pass_obj
def create_token(app: Application, site: str, role: "Role") -> None:
    """Make a token for SITE, shown once."""
    from spira.intake.tokens import Tokens

    app.prepare()
    made = Tokens(app.database).create(site, role)
    app.emit({"site": site, "token": made})
    app.say(made)


@token.command("list")
@json_option
@click.pass_obj
def list_tokens(app: Application) -> None:
    """Every token: its id, its site, its role, and whether it is void."""
    from spira.intake.tokens import Tokens

    app.prepare()
    found = Tokens(app.database).list()
    told = ("id", "site", "role", "revoked_at")
    app.emit([{name: getattr(one, name) for name in told} for one in found])
    rows = [(one.id, one.site, one.role, one.created_at, one.revoked_at or "") for one in found]
    app.table(["token", "site", "role", "made", "void since"], rows, empty="No token yet.")


@token.command("revoke")
@click.argument("token_id", metavar="TOKEN")
@json_option
@click.pass_obj
def revoke_token(app: Application, token_id: str) -> None:
    """Make a token void, by its id."""
    from spira.domain.errors import InputError
    from spira.intake.tokens import Tokens

    if not Tokens(app.database).revoke(token_id):
        raise InputError(f"token {token_id}: none in force; `spira serve token list` shows them")
    app.emit({"id": token_id, "revoked": True})
    app.say(f"{token_id}: void")


@serve.group("dead-letters")
def dead_letters() -> None:
    """Assessments that ended without an answer."""


@dead_letters.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that were redriven too.")
@json_option
@click.pass_obj
def list_letters(app: Application, everything: bool) -> None:
    """What failed, the oldest first."""
    found = _assessments(app).dead_letters(redriven=everything)
    app.emit([dict(one._mapping) for one in found])
    rows = [(str(one.id), one.assessment, one.kind, one.at, one.detail) for one in found]
    app.table(["letter", "assessment", "kind", "at", "why"], rows, empty="No dead letter.")


@dead_letters.command("show")
@click.argument("letter", type=int)
@json_option
@click.pass_obj
def show_letter(app: Application, letter: int) -> None:
    """One dead letter, with everything that is known of it."""
    from spira.domain.errors import InputError

    found = [one for one in _assessments(app).dead_letters(redriven=True) if one.id == letter]
    if not found:
        raise InputError(f"dead letter {letter}: there is none; `spira serve dead-letters list`")
    document = dict(found[0]._mapping)
    app.emit(document)
    for name, value in document.items():
        app.say(f"{name}: {value if value is not None else '-'}")


@dead_letters.command()
@click.argument("letter", type=int)
@reason_option
@click.option("--by", metavar="NAME", help="Who; the account's name where not given.")
@json_option
@click.pass_obj
def redrive(app: Application, letter: int, reason: str, by: str | None) -> None:
    """Ask for its answer once more; a recording whose check died is checked again first."""
    from spira.intake.checking import Checker
    from spira.serving.redriving import redrive as ask_again

    app.prepare()
    one_child = app.settings.intake.checking.model_copy(update={"children": 1})
    state = ask_again(
        app.database,
        app.recordings,
        lambda: closing(Checker(one_child)),
        letter,
        by=by or account(),
        why=reason,
        now=datetime.now(UTC),
    )
    app.emit({"id": letter, "state": state})
    app.say(f"{letter}: queued again" if state == "queued" else f"{letter}: answered")


def _assessments(app: Application) -> "Assessments":
    from spira.serving.assessments import Assessments

    app.prepare()
    return Assessments(app.database)
