"""What the demos share: commands shown as they run, a dataset's model, and a summary that is kept.

Each command is shown before it runs. What is done is not done again, so a demo that was killed
goes on, and one that is complete says so and repeats its summary.
"""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spira.wiring import Application

if TYPE_CHECKING:
    from spira.training.plan import Plan

EFFECT = 1.4  # of RI on speech; at 1.0 nothing learned in minutes (docs/decisions/0004-demo.md)
UTTERANCES = ("sentence", "ambient_before", "ambient_after")
HELD_OUT = 2  # people of each label, of the test side, who are asked about

_ENOUGH = 280  # people of whom 60 of each class are tested, which the policy asks for

seed_option = click.option(
    "--seed", default=1, show_default=True, help="Another hospital, another training."
)
experiment_option = click.option(
    "--experiment",
    type=click.Path(path_type=Path),
    default=Path("experiments/demo.yaml"),
    show_default=True,
)


def run(app: Application, command: str, *arguments: object) -> None:
    """Show a command as it would be typed, and run it."""
    from spira.cli import find_command

    words = [str(argument) for argument in arguments]
    app.say(f"\n$ spira {command} {shlex.join(words)}")
    find_command(*command.split()).main(
        words, prog_name=f"spira {command}", standalone_mode=False, obj=app
    )


def warn_of_few(app: Application, participants: int) -> None:
    """Say beforehand what so few people come to."""
    if participants < _ENOUGH:
        app.say(
            f"With {participants} people too few are tested for the policy, which will refuse the "
            f"model whatever it learned; {_ENOUGH} are enough."
        )


def has_dataset(app: Application, name: str) -> bool:
    """Whether there is a dataset version of this name."""
    from spira.datasets.names import list_versions

    return any(name in version.names for version in list_versions(app.artifacts))


def train_and_promote(
    app: Application, experiment: Path, name: str, seed: int, policy: str
) -> dict[str, Any]:
    """A dataset's model and what it came to: `summary` of it, and why it was refused, if it was."""
    from spira.domain.errors import PolicyRefused
    from spira.training.experiments import read_experiment

    chosen = read_experiment(experiment, overrides=[f"seed={seed}"])
    version, refused = None, ""
    try:
        run(app, "train", experiment, "--data", name, "--set", f"seed={seed}")
        version = _version(app, app.plan(chosen, name))
        run(app, "model promote", version, "--policy", policy)
    except PolicyRefused as refusal:
        refused = str(refusal)
        app.say(f"\n{refused}")
    return _summary(app, app.plan(chosen, name), version) | {"refused": refused}


def tested(app: Application, summary: dict[str, Any]) -> set[str]:
    """The people whom neither training nor validation met."""
    import polars as pl

    split = app.artifacts.find("split", summary["plan"]["split"])
    assert split is not None
    people = pl.read_parquet(split.path("people.parquet")).filter(pl.col("placed") == "test")
    return set(people["participant_id"])


# The summary


def keep(summary: dict[str, Any], kept: Path) -> None:
    """Write the summary of a complete demo."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = kept.with_suffix(".new")
    temporary.write_text(json.dumps(summary, ensure_ascii=False, indent=2), encoding="utf-8")
    temporary.replace(kept)


def finished(
    app: Application, kept: Path, experiment: Path, name: str, seed: int
) -> dict[str, Any] | None:
    """The summary of a complete demo of this dataset and experiment, whose model is still there,
    undamaged; where it was refused, its evaluation. That nothing is run is said then.
    """
    from spira.training.experiments import read_experiment

    chosen = read_experiment(experiment, overrides=[f"seed={seed}"])
    if not (kept.exists() and has_dataset(app, name)):
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
    if not (whole and there and Path(summary["report"]).exists()):
        return None
    if summary["plan"] != dict(app.plan(chosen, name).fingerprints.items()):
        return None
    app.say("Everything was done already; nothing was run.\n")
    return summary


def tell_model(app: Application, summary: dict[str, Any]) -> None:
    """The model's figures, its audits, and where its report is."""
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


def raise_refused(summary: dict[str, Any]) -> None:
    """End with what refused the model, if anything did."""
    from spira.domain.errors import PolicyRefused

    if summary["refused"]:
        raise PolicyRefused(summary["refused"])


def _version(app: Application, plan: "Plan") -> int:
    """The registered version of the plan's model."""
    wanted = plan.fingerprints["publish"]
    return next(v.version for v in app.registry.versions() if v.fingerprint == wanted)


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
