"""`spira schedule`: the Scheduler Service, and what is asked of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spira.console import account, json_option
from spira.wiring import Application

if TYPE_CHECKING:
    from spira.scheduling.requests import Request

_by = click.option("--by", metavar="NAME", help="Who asks; the account's name where not given.")
_request = click.argument("request_id", metavar="REQUEST")
_AWAY_FOR_S = 60.0  # a database may be away for so long before whoever watches gives up


@click.group()
def schedule() -> None:
    """Run the pipeline as a service: requests, runs, sweeps.

    What is asked for is written down first, and survives anything; the service turns it into
    runs.
    """
    from importlib.util import find_spec

    from spira.domain.errors import InputError

    if find_spec("dagster") is None or find_spec("fastapi") is None:
        raise InputError(
            "spira schedule: its packages are missing; `pip install 'spira[schedule]'` brings them"
        )


@schedule.command()
@click.pass_obj
def up(app: Application) -> None:
    """Run the service: code server, daemon, web page, endpoint. Ends on SIGTERM or Ctrl-C."""
    from spira.scheduling.service import up as run

    run(app)


@schedule.command(hidden=True)
@click.option("--port", type=int, required=True)
@click.pass_obj
def endpoint(app: Application, port: int) -> None:
    """Serve POST /v1/runs and reconcile: one of the processes that `up` starts."""
    import uvicorn

    from spira.scheduling.endpoint import create_endpoint
    from spira.scheduling.instance import open_instance
    from spira.scheduling.reconciler import Reconciler
    from spira.scheduling.tokens import read_token

    with open_instance(app.home) as instance:
        served = create_endpoint(app.desk, read_token(app.home), Reconciler(instance, app.desk))
        host = app.settings.scheduling.host
        uvicorn.run(served, host=host, port=port, log_level="warning", access_log=False)


@schedule.command()
@click.argument("experiment", required=False)
@click.option("--data", metavar="DATASET", help="Digest, prefix or name.")
@click.option("--seed", type=int, help="Another seed than the experiment's.")
@click.option("--reason", required=True, help="Why; it is kept with the request.")
@click.option("--key", help="The same key asked again gets the same request.")
@click.option(
    "--follow", is_flag=True, help="Wait for the end; exit 3 refused, 2 failed or cancelled."
)
@_by
@json_option
@click.pass_obj
def request(
    app: Application,
    experiment: str | None,
    data: str | None,
    seed: int | None,
    reason: str,
    key: str | None,
    follow: bool,
    by: str | None,
) -> None:
    """Ask for a run of an experiment (a name of the experiments folder, or a file) on a dataset.

    Without them: the experiment and the dataset in operation, by setting. If the same is asked
    for already, this joins it.
    """
    from spira.scheduling.asking import Body
    from spira.training.experiments import read_experiment

    read = read_experiment(Path(experiment)) if experiment and _is_file(experiment) else None
    body = Body(experiment=experiment, dataset=data, seed=seed, by=by or account(), reason=reason)
    asked = app.desk.ask(body, key=key, experiment=read)
    how = "joined: it is open already" if asked.joined else "asked for"
    app.say(f"{asked.request.id}: {asked.request.experiment}, seed {asked.request.seed}, {how}")
    if follow:
        ended = _followed(app, [asked.request])[0]
        app.emit(_shown(app, ended))
        _end_as(ended)
        return
    app.emit(_shown(app, asked.request) | {"joined": asked.joined})


@schedule.command()
@click.option("--state", type=click.Choice(["open", "complete", "refused", "failed", "cancelled"]))
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@json_option
@click.pass_obj
def runs(app: Application, state: Any, limit: int) -> None:
    """Requests and how they stand, the latest first."""
    from dataclasses import asdict

    found = app.requests.list(state=state, limit=limit)
    app.emit([asdict(one) for one in found])
    app.table(
        [
            "request",
            "experiment",
            "seed",
            "dataset",
            "kind",
            "state",
            "attempt",
            "asked",
            "outcome",
        ],
        [
            (
                one.id,
                one.experiment,
                str(one.seed),
                one.dataset[:12],
                one.kind,
                one.state,
                str(one.attempt),
                one.asked_at[:19],
                one.ending,
            )
            for one in found
        ],
        empty="No requests yet; `spira schedule request EXPERIMENT --data DATASET` makes one.",
    )


@schedule.command()
@click.argument("request_id", metavar="REQUEST", required=False)
@json_option
@click.pass_obj
def status(app: Application, request_id: str | None) -> None:
    """How the service stands, or one request: who asked, what happened."""
    from spira.scheduling.status import service_status

    if request_id is not None:
        found = app.requests.get(request_id)
        app.emit(_shown(app, found))
        app.say(f"{found.id}: {found.experiment}, seed {found.seed}, on {found.dataset[:12]}")
        app.say(f"{found.state}, attempt {found.attempt}, {found.kind}")
        if found.outcome:
            app.say(found.ending)
        for asking in app.requests.askings(found.id):
            app.say(f"  {asking.at[:19]}  asked by {asking.by}: {asking.reason}")
        for event in app.requests.events(found.id):
            app.say(f"  {event.at[:19]}  {event.what}: {event.detail}")
        return
    state = service_status(app)
    app.emit(state)
    app.say(f"Service: {'up' if state['up'] else 'not running'}")
    for name, address in state["addresses"].items():
        app.say(f"  {name}: {address}")
    counts = ", ".join(f"{number} {name}" for name, number in state["requests"].items())
    app.say(f"Requests: {counts or 'none'}")


@schedule.command()
@_request
@_by
@json_option
@click.pass_obj
def resume(app: Application, request_id: str, by: str | None) -> None:
    """Open a request again that failed, was refused or cancelled; done stages stay done."""
    found = app.requests.resume(request_id, by or account())
    app.emit(_shown(app, found))
    app.say(f"{found.id}: open again, attempt {found.attempt}")


@schedule.command()
@_request
@_by
@json_option
@click.pass_obj
def cancel(app: Application, request_id: str, by: str | None) -> None:
    """End a request; its run and its stage are stopped."""
    from spira.scheduling.status import stop_run

    found = app.requests.cancel(request_id, by or account())
    if found.run_id is not None:
        stop_run(app, found.run_id)
    app.emit(_shown(app, found))
    app.say(f"{found.id}: cancelled")


@schedule.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", metavar="DATASET", help="Digest, prefix or name.")
@click.option("--seeds", default="42", show_default=True, help="e.g. 42,43,46")
@click.option("--reason", default="sweep", show_default=True)
@click.option("--name", help="Of the sweep; the same name and files go on with it.")
@_by
@json_option
@click.pass_obj
def sweep(
    app: Application,
    files: tuple[Path, ...],
    data: str | None,
    seeds: str,
    reason: str,
    name: str | None,
    by: str | None,
) -> None:
    """Run experiments with several seeds, and compare them: mean and range, clean and noisy.

    Its models are registered without an alias. Interrupted, it goes on without being watched;
    the same command watches it again.
    """
    from spira.scheduling.sweeps import ask_for_sweep, summarise

    asked = ask_for_sweep(
        app.desk, files, _numbers(seeds), data, name=name, by=by or account(), reason=reason
    )
    app.say(f"Sweep {asked.name}: {len(asked.requests)} runs")
    ended = _followed(app, asked.requests)
    table = summarise(app, ended)
    app.emit({"sweep": asked.name, "requests": [_shown(app, one) for one in ended], **table.emit()})
    app.table(*table.shown())
    for line in table.missing:
        app.say(line)
    _end_as_sweep(ended)


@schedule.command()
@click.option("--older-than", required=True, metavar="90d", help="Days (d) or hours (h).")
@json_option
@click.pass_obj
def prune(app: Application, older_than: str) -> None:
    """Forget runs that ended long ago: records, event files, logs and locks. Models stay."""
    from dataclasses import asdict

    from spira.scheduling.pruning import parse_age
    from spira.scheduling.pruning import prune as forget

    pruned = forget(app.home, app.requests, parse_age(older_than))
    app.emit(asdict(pruned))
    app.say(
        f"Removed {pruned.requests} requests, {pruned.runs} runs and {pruned.files} files; "
        f"{pruned.bytes_freed / 1e6:.1f} MB freed."
    )


def _is_file(experiment: str) -> bool:
    return experiment.endswith((".yaml", ".yml")) or "/" in experiment


def _numbers(seeds: str) -> list[int]:
    from spira.domain.errors import InputError

    parts = [part.strip() for part in seeds.split(",")]
    wrong = [part for part in parts if not part.isdecimal()]
    if wrong or len(set(parts)) < len(parts):
        raise InputError(f"--seeds {seeds}: different whole numbers with commas, e.g. 42,43,46")
    return [int(part) for part in parts]


def _shown(app: Application, found: "Request") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(found) | app.requests.history(found.id)


def _followed(app: Application, requests: "Sequence[Request]") -> "list[Request]":
    """Wait until every request has ended, telling how many have.

    raises    TransientError when the database has been away for over a minute; nothing is lost,
              and the same command watches again
    """
    import time

    from spira.domain.errors import TransientError
    from spira.scheduling.status import is_up

    if not is_up(app):
        app.say("The service is not running: `spira schedule up` will take them up.")
    total = len(requests)
    answered = time.monotonic()
    with app.console.working():
        while True:
            try:
                found = [app.requests.get(request.id) for request in requests]
            except TransientError:
                if time.monotonic() - answered > _AWAY_FOR_S:
                    raise
                time.sleep(1.0)
                continue
            answered = time.monotonic()
            ended = [request for request in found if request.state != "open"]
            app.progress("requests", len(ended), total)
            if len(ended) == total:
                return found
            time.sleep(0.3)


def _end_as_sweep(requests: "Sequence[Request]") -> None:
    """Exit 0 when some run has figures worth comparing, else as the first that has none."""
    if not any(request.state == "complete" for request in requests):
        worst = [request for request in requests if request.state != "refused"]
        _end_as((worst or [*requests])[0])


def _end_as(request: "Request") -> None:
    from spira.domain.errors import InputError, PolicyRefused

    said = f"{request.id}: {request.state}; {request.stage or 'request'}: {request.outcome}"
    if request.state == "refused":
        raise PolicyRefused(said)
    if request.state in ("failed", "cancelled"):
        raise InputError(f"{said}; mend it, then `spira schedule resume {request.id}`")
