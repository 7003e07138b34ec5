"""`spira demo`: the main job, as the commands a person would type one after the other.

Each command is shown before it runs. What is done is not done again, so a demo that was killed
goes on, and one that is complete says so and repeats its summary.
"""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spira.wiring import Application

if TYPE_CHECKING:
    from spira.training.plan import Plan

_EFFECT = 1.4  # of RI on speech; at 1.0 nothing learned in minutes (docs/decisions/0004-demo.md)
_HELD_OUT = 2  # people of each label, of the test side, who are asked about
_REAL = 3  # real voices that are asked about
_UTTERANCES = ("sentence", "ambient_before", "ambient_after")
_ENOUGH = 280  # people of whom 60 of each class are tested, which the policy asks for


@click.command()
@click.option("--seed", default=1, show_default=True, help="Another hospital, another training.")
@click.option("--participants", default=560, show_default=True, type=click.IntRange(60, 5000))
@click.option(
    "--experiment",
    type=click.Path(path_type=Path),
    default=Path("experiments/demo.yaml"),
    show_default=True,
)
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
    from spira.domain.errors import PolicyRefused
    from spira.training.experiments import read_experiment

    name = f"demo-{participants}-{seed}"
    hospital = app.home / "hospitals" / name
    chosen = read_experiment(experiment, overrides=[f"seed={seed}"])
    kept = app.home / "demo" / f"{name}.json"
    summary = _finished(app, kept)
    if summary is not None and summary["plan"] == _fingerprints(app, chosen, name):
        app.say("Everything was done already; nothing was run.\n")
        _tell(app, summary)
        return

    if participants < _ENOUGH:
        app.say(
            f"With {participants} people too few are tested for the policy, which will refuse the "
            f"model whatever it learned; {_ENOUGH} are enough."
        )
    if not (_has_dataset(app, name) and (hospital / "recordings.csv").exists()):
        synthesis = ["--participants", participants, "--seed", seed, "--effect", _EFFECT]
        for utterance in _UTTERANCES:
            synthesis += ["--utterance", utterance]
        _run(app, "dataset synthesize", *synthesis, "--output", hospital, "--name", name)
    version, refused = None, ""
    try:
        _run(app, "train", experiment, "--data", name, "--set", f"seed={seed}")
        version = _version(app, app.plan(chosen, name))
        _run(app, "model promote", version, "--policy", "demo")
    except PolicyRefused as refusal:
        refused = str(refusal)
        missing = "champion" if version else "model"
        app.say(f"\n{refused}\nThese are the rules at work; the demo goes on without a {missing}.")
    plan = app.plan(chosen, name)
    if version is not None:
        _ask(app, plan, hospital, real, version)

    summary = _summary(app, plan, version) | {"refused": refused}
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = kept.with_suffix(".new")
    temporary.write_text(json.dumps(summary, ensure_ascii=False, indent=2), encoding="utf-8")
    temporary.replace(kept)
    _tell(app, summary)


def _ask(app: Application, plan: "Plan", hospital: Path, real: Path, version: int) -> None:
    """Ask the model about people whom training never met, and about real voices."""
    planted = dict(_held_out(app, plan, hospital))
    app.say("\nPeople of the test side, whom training never met; the hospital planted:")
    for file, label in planted.items():
        app.say(f"  {file}: RI {label}")
    _run(app, "predict", *planted, "--model", version)
    digits = sorted(real.glob("*.flac"))[:_REAL]
    if digits:
        app.say("\nReal voices: English digits by healthy men, outside the model's intended use.")
        _run(app, "predict", *digits, "--language", "en", "--model", version)
        _run(app, "predict", digits[0], "--language", "en", "--force", "--model", version)


def _run(app: Application, command: str, *arguments: object) -> None:
    """Show a command as it would be typed, and run it."""
    from spira.cli import find_command

    words = [str(argument) for argument in arguments]
    app.say(f"\n$ spira {command} {shlex.join(words)}")
    find_command(*command.split()).main(
        words, prog_name=f"spira {command}", standalone_mode=False, obj=app
    )


def _has_dataset(app: Application, name: str) -> bool:
    from spira.datasets.names import list_versions

    return any(name in version.names for version in list_versions(app.artifacts))


def _fingerprints(app: Application, chosen: Any, name: str) -> dict[str, str] | None:
    return dict(app.plan(chosen, name).fingerprints.items()) if _has_dataset(app, name) else None


def _finished(app: Application, kept: Path) -> dict[str, Any] | None:
    """The summary of a complete demo whose model is still there, undamaged; where it was refused,
    its evaluation.
    """
    if not kept.exists():
        return None
    summary: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    last = "publish" if summary["model"] else "evaluate"
    fingerprint = summary["plan"][last]
    artifact = app.artifacts.find(last, fingerprint)
    whole = artifact is not None and app.artifacts.intact(artifact)
    there = (
        not summary["model"]
        or app.registry.holds(fingerprint)
        or any(version.fingerprint == fingerprint for version in app.registry.versions())
    )
    return summary if whole and there and Path(summary["report"]).exists() else None


def _version(app: Application, plan: "Plan") -> int:
    """The registered version of the plan's model."""
    wanted = plan.fingerprints["publish"]
    return next(v.version for v in app.registry.versions() if v.fingerprint == wanted)


def _held_out(app: Application, plan: "Plan", hospital: Path) -> Iterator[tuple[str, str]]:
    """(file, label) of a few people whom neither training nor validation met."""
    import polars as pl

    split = app.artifacts.find("split", plan.fingerprints["split"])
    assert split is not None
    people = pl.read_parquet(split.path("people.parquet")).filter(pl.col("placed") == "test")
    spoken = pl.read_csv(hospital / "recordings.csv").filter(pl.col("utterance") == "sentence")
    tested = spoken.join(people, left_on="participant", right_on="participant_id", how="semi")
    for label in ("present", "absent"):
        chosen = tested.filter(pl.col("label") == label).sort("participant").head(_HELD_OUT)
        for file in chosen["file"]:
            yield str(hospital / file), label


def _summary(app: Application, plan: "Plan", version: int | None) -> dict[str, Any]:
    from spira.evaluation.results import EvaluationResult
    from spira.training.runs import list_runs

    evaluated = app.artifacts.find("evaluate", plan.fingerprints["evaluate"])
    assert evaluated is not None
    result = EvaluationResult.model_validate(evaluated.read_json("metrics.json"))
    run = next(r for r in list_runs(app.home) if r.fingerprints == dict(plan.fingerprints.items()))
    people = {c.condition: c for c in result.conditions if c.level == "participant"}
    return {
        "plan": dict(plan.fingerprints.items()),
        "model": version,  # none where an audit failed
        "report": str(app.home / "runs" / run.run_id / "report.html"),
        "people": people["clean"].n_present + people["clean"].n_absent,
        "figures": {
            condition: {
                name: [getattr(found, name).value, getattr(found, name).low]
                for name in ("auroc", "sensitivity", "specificity")
            }
            for condition, found in people.items()
        },
        "audits": {audit.name: audit.verdict for audit in result.audits if audit.refuses},
        "baselines": {b.name: b.auroc_noise.value for b in result.baselines},
    }


def _tell(app: Application, summary: dict[str, Any]) -> None:
    from spira.domain.errors import PolicyRefused

    app.emit(summary)
    model = f"Model {summary['model']}" if summary["model"] else "A model that was not published"
    app.say(f"\n{model}, on {summary['people']} simulated people of the test side:")
    rows = [
        (condition, *(f"{value:.3f} (at least {low:.3f})" for value, low in figures.values()))
        for condition, figures in summary["figures"].items()
    ]
    app.table(["", "AUROC", "sensitivity", "specificity"], rows)
    audits = ", ".join(f"{name} {verdict}" for name, verdict in summary["audits"].items())
    beside = ", ".join(f"{name} {value:.3f}" for name, value in summary["baselines"].items())
    app.say(f"Shortcut audits: {audits}.")
    app.say(f"Simple competitors under noise, AUROC: {beside}.")
    app.say("Synthetic voices: no clinical meaning.")
    app.say(f"Report: {summary['report']}")
    if summary["refused"]:
        raise PolicyRefused(summary["refused"])
