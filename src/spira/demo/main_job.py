"""`spira demo`: the main job, as the commands a person would type one after the other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from spira.demo.telling import (
    EFFECT,
    HELD_OUT,
    UTTERANCES,
    experiment_option,
    finished,
    has_dataset,
    keep,
    raise_refused,
    run,
    seed_option,
    tell_model,
    tested,
    train_and_promote,
    warn_of_few,
)
from spira.wiring import Application

_REAL = 3  # real voices that are asked about


@click.command()
@seed_option
@click.option("--participants", default=560, show_default=True, type=click.IntRange(60, 5000))
@experiment_option
@click.option(
    "--real",
    type=click.Path(path_type=Path),
    default=Path("tests/data/fsdd"),
    show_default=True,
    help="Folder of real recordings to ask about.",
)
@click.pass_obj
def demo(app: Application, seed: int, participants: int, experiment: Path, real: Path) -> None:
    """Make a synthetic hospital, train, audit, publish, promote and predict.

    Nothing that it says has clinical meaning: the voices are synthetic. Exit code 3 when an audit
    or the policy refuses the model; the summary then says why.
    """
    name = f"demo-{participants}-{seed}"
    hospital = app.home / "hospitals" / name
    kept = app.home / "demo" / f"{name}.json"
    summary = finished(app, kept, experiment, name, seed)
    if summary is None:
        warn_of_few(app, participants)
        if not (has_dataset(app, name) and (hospital / "recordings.csv").exists()):
            synthesis = ["--participants", participants, "--seed", seed, "--effect", EFFECT]
            for utterance in UTTERANCES:
                synthesis += ["--utterance", utterance]
            run(app, "dataset synthesize", *synthesis, "--output", hospital, "--name", name)
        summary = train_and_promote(app, experiment, name, seed, "demo")
        if summary["refused"]:
            missing = "champion" if summary["model"] else "model"
            app.say(f"These are the rules at work; the demo goes on without a {missing}.")
        if summary["model"] is not None:
            _ask(app, summary, hospital, real)
        keep(summary, kept)
    app.emit(summary)
    tell_model(app, summary)
    raise_refused(summary)


def _ask(app: Application, summary: dict[str, Any], hospital: Path, real: Path) -> None:
    """Ask the model about people whom training never met, and about real voices."""
    version = summary["model"]
    planted = dict(_held_out(tested(app, summary), hospital))
    app.say("\nPeople of the test side, whom training never met; the hospital planted:")
    for file, label in planted.items():
        app.say(f"  {file}: RI {label}")
    run(app, "predict", *planted, "--model", version)
    digits = sorted(real.glob("*.flac"))[:_REAL]
    if digits:
        app.say("\nReal voices: English digits by healthy men, outside the model's intended use.")
        run(app, "predict", *digits, "--language", "en", "--model", version)
        run(app, "predict", digits[0], "--language", "en", "--force", "--model", version)


def _held_out(people: set[str], hospital: Path) -> Iterator[tuple[str, str]]:
    """(file, label) of a few of these people."""
    import polars as pl

    spoken = pl.read_csv(hospital / "recordings.csv").filter(pl.col("utterance") == "sentence")
    found = spoken.filter(pl.col("participant").is_in(people))
    for label in ("present", "absent"):
        chosen = found.filter(pl.col("label") == label).sort("participant").head(HELD_OUT)
        for file in chosen["file"]:
            yield str(hospital / file), label
