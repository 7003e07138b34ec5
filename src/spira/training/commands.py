"""`spira train`, `spira stage`, `spira runs`, `spira settings`."""

from pathlib import Path

import click

from spira.console import json_option
from spira.wiring import Application

_experiment = click.argument("experiment", type=click.Path(path_type=Path))
_data = click.option("--data", required=True, metavar="DATASET", help="Digest, prefix or name.")
_set = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="e.g. optimisation.epochs=3"
)


@click.command()
@click.argument("experiment", type=click.Path(path_type=Path), required=False)
@click.option("--data", metavar="DATASET", help="Digest, prefix or name.")
@_set
@click.option("--smoke", is_flag=True, help="Only overfit eight recordings: does learning work?")
@json_option
@click.pass_obj
def train(
    app: Application,
    experiment: Path | None,
    data: str | None,
    overrides: tuple[str, ...],
    smoke: bool,
) -> None:
    """Run the pipeline of an experiment file on a dataset.

    \b
    snapshot -> split -> features -> train -> evaluate -> publish

    What is done is not done again: after an interruption the same command continues. Exit code 3
    where an audit failed: the model is not registered, and the report says why.
    """
    from spira.training.experiments import read_experiment

    if smoke:
        from spira.training.smoke import overfit

        losses = overfit(app.settings.training, progress=app.progress)
        app.say(f"Eight recordings overfitted: loss {losses[0]:.3f} -> {losses[-1]:.4f}.")
        app.emit({"losses": losses})
        return
    if experiment is None or data is None:
        raise click.UsageError("give an experiment file and --data DATASET (or --smoke)")
    app.run_pipeline(read_experiment(experiment, overrides=overrides), data)


@click.command()
@click.argument("name", metavar="NAME")
@_experiment
@_data
@_set
@click.option(
    "--alias/--no-alias",
    default=True,
    help="For publish: whether the model becomes challenger, which it does unless told.",
)
@json_option
@click.pass_obj
def stage(
    app: Application,
    name: str,
    experiment: Path,
    data: str,
    overrides: tuple[str, ...],
    alias: bool,
) -> None:
    """Run one stage alone: snapshot, split, features, train, evaluate or publish.

    Its inputs must be there. This is what a scheduler or a container calls. Exit code 3 where
    `publish` refuses a model that failed an audit.
    """
    from spira.domain.errors import InputError
    from spira.domain.suggestions import nearest
    from spira.training.experiments import read_experiment
    from spira.training.plan import STAGES

    if name not in STAGES:
        raise InputError(
            f"stage {name}: unknown{nearest(name, STAGES)}; known: {', '.join(STAGES)}"
        )
    if not alias and name != "publish":
        raise InputError(f"stage {name}: only publish gives an alias; leave --no-alias out")
    done = app.run_stage(
        name,
        read_experiment(experiment, overrides=overrides),
        data,
        alias="challenger" if alias else None,
    )
    state = "already done" if done.already else f"done in {done.seconds:.1f} s"
    app.say(f"{name}: {state} ({done.artifact.fingerprint[:12]})")
    app.emit(
        {
            "stage": name,
            "fingerprint": done.artifact.fingerprint,
            "already": done.already,
            "files": {file: entry.sha256 for file, entry in done.artifact.files.items()},
        }
    )


@click.group()
def runs() -> None:
    """List, show and clean runs."""


@runs.command("list")
@json_option
@click.pass_obj
def list_(app: Application) -> None:
    """Every run, newest first."""
    from dataclasses import asdict

    from spira.training.runs import list_runs

    found = list_runs(app.home)
    app.emit([asdict(run) for run in found])
    app.table(
        ["run", "experiment", "seed", "dataset", "state", "started"],
        [
            (r.run_id, r.experiment, str(r.seed), r.dataset[:12], r.state, r.started_at)
            for r in found
        ],
        empty="No runs yet; `spira train EXPERIMENT --data DATASET` makes one.",
    )


@runs.command()
@click.argument("run_id")
@json_option
@click.pass_obj
def show(app: Application, run_id: str) -> None:
    """One run: its stages, how it ended, where its report is."""
    from dataclasses import asdict

    from spira.training.runs import find_run, stage_rows

    run = find_run(app.home, run_id)
    app.emit(asdict(run))
    app.say(f"{run.run_id}: {run.experiment}, seed {run.seed}, on {run.dataset[:12]}: {run.state}")
    if run.reason:
        app.say(run.reason)
    app.table(
        ["stage", "state", "took", "fingerprint"],
        [(*row, run.fingerprints[row[0]][:12]) for row in stage_rows(run)],
    )
    report = app.home / "runs" / run.run_id / "report.html"
    if report.exists():
        app.say(f"Report: {report}")


@runs.command()
@click.option(
    "--interrupted", is_flag=True, help="Also forget runs that did not complete, and their work."
)
@json_option
@click.pass_obj
def clean(app: Application, interrupted: bool) -> None:
    """Remove what kills left behind; nothing that a run still needs."""
    from dataclasses import asdict

    from spira.training.runs import clean as clean_runs

    cleaned = clean_runs(app.home, app.artifacts, interrupted=interrupted)
    app.emit(asdict(cleaned))
    app.say(
        f"Removed {cleaned.runs} runs, {cleaned.checkpoints} checkpoints and "
        f"{cleaned.folders} working folders; {cleaned.bytes_freed / 1e6:.1f} MB freed."
    )


@click.command()
@json_option
@click.pass_obj
def settings(app: Application) -> None:
    """Print every setting and its value (no secrets are among them)."""
    values = app.settings.model_dump(mode="json")
    app.emit(values)
    rows = []
    for room, value in values.items():
        inner = value if isinstance(value, dict) else {"": value}
        rows += [(".".join(filter(None, (room, name))), str(v)) for name, v in inner.items()]
    app.table(["setting", "value"], rows)
