"""`spira model list|show|promote|rollback` and `spira about`."""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from spira.console import json_option

if TYPE_CHECKING:
    from spira.delivery.promotion import Comparison, Decision
    from spira.evaluation.results import EvaluationResult
    from spira.stores.registry import ChampionChange, ModelVersion
    from spira.wiring import Application


_by = click.option(
    "--by", "people", multiple=True, metavar="NAME", help="Who decides; once for each person."
)


@click.group()
def model() -> None:
    """List, show, promote and roll back models."""


@model.command("list")
@json_option
@click.pass_obj
def list_models(app: "Application") -> None:
    """Every registered version, newest first."""
    versions = app.registry.versions()
    app.emit([_summary(version) for version in versions])
    app.table(
        ("version", "alias", "evidence", "AUROC", "under noise", "experiment", "registered"),
        [
            (
                str(version.version),
                ", ".join(version.aliases) or "-",
                version.evidence_level,
                _figure(version.metrics.get("clean_auroc")),
                _figure(version.metrics.get("noise_auroc")),
                version.tags.get("experiment", "-"),
                f"{version.created_at:%Y-%m-%d %H:%M} UTC",
            )
            for version in versions
        ],
        empty="No model is registered yet: spira train EXPERIMENT --data DATASET publishes one.",
    )


@model.command()
@click.argument("version", default="champion")
@json_option
@click.pass_obj
def show(app: "Application", version: str) -> None:
    """What is known about a VERSION (number or alias; champion unless told)."""
    found = app.registry.get(version)
    folder = app.registry.download(found, app.home / "cache" / "models")
    history = app.registry.champion_history()
    app.emit(
        {
            **_summary(found),
            "parameters": dict(found.parameters),
            "files": dict(found.files),
            "folder": str(folder),
            "champion_history": [change.model_dump(mode="json") for change in history],
        }
    )
    app.say(f"Model {found.version} ({', '.join(found.aliases) or 'no alias'})")
    facts = {
        "evidence level": found.evidence_level,
        "registered": f"{found.created_at:%Y-%m-%d %H:%M} UTC",
        "fingerprint": found.fingerprint,
        **dict(sorted(found.tags.items())),
        **{name: f"{value:.4g}" for name, value in sorted(found.metrics.items())},
        "report": str(folder / "report.html"),
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        app.say(f"  {name:<{width}}  {value}")
    changes = [change for change in history if change.version == found.version]
    if changes:
        app.say()
        app.table(
            ("champion", "when", "by", "policy", "reason"),
            [
                (
                    change.action,
                    f"{change.at:%Y-%m-%d %H:%M} UTC",
                    ", ".join(change.by) or "-",
                    change.policy,
                    change.reason,
                )
                for change in changes
            ],
        )


@model.command()
@click.argument("version")
@click.option("--policy", "policy_name", metavar="demo|clinical|FILE", help="What it must show.")
@_by
@click.option("--reason", default="", metavar="TEXT", help="Why, in your words.")
@click.option("--dry-run", is_flag=True, help="Only print the table.")
@json_option
@click.pass_obj
def promote(
    app: "Application",
    version: str,
    policy_name: str | None,
    people: tuple[str, ...],
    reason: str,
    dry_run: bool,
) -> None:
    """Make VERSION (number or alias) the champion, if the policy allows it.

    Exit code 3 when it refuses; the table says by which criterion.
    """
    from spira.delivery.promotion import decide, load_policy
    from spira.domain.errors import PolicyRefused
    from spira.stores.registry import ChampionChange

    policy = load_policy(policy_name or app.settings.delivery.policy)
    candidate = app.registry.get(version)
    champion = _champion(app)
    if champion is not None and champion.version == candidate.version:
        app.say(f"Model {candidate.version} is champion already; nothing to do.")
        app.emit({"version": candidate.version, "outcome": "already champion"})
        return
    result = _evaluation(app, candidate)
    decision = decide(
        policy,
        result,
        evidence_level=candidate.evidence_level,
        by=people,
        reason=reason,
        champion=champion,
        comparison=None if champion is None else _comparison(app, candidate, result, champion),
    )
    app.emit(
        {
            "version": candidate.version,
            "dry_run": dry_run,
            "by": list(people),
            **decision.model_dump(mode="json"),
        }
    )
    _show_decision(app, candidate, decision)
    if decision.outcome == "refused":
        unmet = [row.criterion for row in decision.rows if not row.met]
        raise PolicyRefused(
            f"model {candidate.version}: refused by policy {decision.policy}: {', '.join(unmet)}"
        )
    if dry_run:
        app.say("Dry run: the champion was not moved.")
        return
    _move_champion(
        app,
        ChampionChange(
            action="promoted",
            version=candidate.version,
            previous=None if champion is None else champion.version,
            by=people,
            reason=policy.recorded_reason or reason.strip(),
            policy=policy.label,
            at=datetime.now(UTC),
        ),
    )
    app.say(f"Model {candidate.version} is champion now.")


@model.command()
@_by
@click.option("--reason", required=True, metavar="TEXT", help="Why, in your words.")
@json_option
@click.pass_obj
def rollback(app: "Application", people: tuple[str, ...], reason: str) -> None:
    """Go back to the previous champion."""
    from spira.delivery.promotion import previous_champion
    from spira.domain.errors import InputError
    from spira.stores.registry import ChampionChange

    if not any(name.strip() for name in people) or not reason.strip():
        raise InputError("rollback: say who (--by NAME) and why (--reason TEXT); it is recorded")
    champion = _champion(app)
    if champion is None:
        raise InputError("rollback: there is no champion; `spira model list` shows the versions")
    previous = previous_champion(app.registry.champion_history(), champion.version)
    if previous is None:
        raise InputError(
            f"rollback: no champion is recorded before version {champion.version}; "
            "promote another version instead"
        )
    app.registry.get(str(previous))  # it must still be there
    _move_champion(
        app,
        ChampionChange(
            action="rolled back",
            version=previous,
            previous=champion.version,
            by=people,
            reason=reason.strip(),
            policy="none",
            at=datetime.now(UTC),
        ),
    )
    app.emit({"version": previous, "previous": champion.version, "outcome": "rolled back"})
    app.say(f"Model {previous} is champion again, {champion.version} is not any more.")


@click.command()
@json_option
@click.pass_obj
def about(app: "Application") -> None:
    """Intended use, version, model, how it works, warnings, regulatory status."""
    from spira import __version__
    from spira.delivery.about import sections
    from spira.domain.answers import EVIDENCE_SENTENCES
    from spira.domain.errors import SpiraError

    champion, model_pt, model_en = None, "nenhum modelo promovido", "no model promoted"
    try:
        champion = _champion(app)
    except SpiraError:  # these words must be readable whatever state the registry is in
        model_pt, model_en = "registro de modelos indisponível", "model registry not available"
    if champion is not None:
        evidence = EVIDENCE_SENTENCES[champion.evidence_level]
        model_pt = f"{champion.version}. {evidence.pt}"
        model_en = f"{champion.version}. {evidence.en}"
    told = sections(app.settings.serving.vital_rules)
    app.emit(
        {
            "version": __version__,
            "model": None if champion is None else _summary(champion),
            "sections": [section.model_dump() for section in told],
        }
    )
    app.say(f"SPIRA {__version__}")
    app.say(f"Modelo: {model_pt}")
    app.say(f"Model: {model_en}")
    for section in told:
        app.say(f"\n{section.heading.pt} · {section.heading.en}")
        for sentence in section.text:
            app.say(_wrapped(sentence.pt))
            app.say(_wrapped(sentence.en))


def _move_champion(app: "Application", change: "ChampionChange") -> None:
    app.registry.move_champion(change)
    app.log.info("champion moved", **change.model_dump(exclude={"by", "reason", "at"}))


def _champion(app: "Application") -> "ModelVersion | None":
    return next(
        (version for version in app.registry.versions() if "champion" in version.aliases), None
    )


def _evaluation(app: "Application", version: "ModelVersion") -> "EvaluationResult":
    from spira.evaluation.results import read_result

    folder = app.registry.download(version, app.home / "cache" / "models")
    return read_result(folder / "metrics.json")


def _comparison(
    app: "Application",
    candidate: "ModelVersion",
    result: "EvaluationResult",
    champion: "ModelVersion",
) -> "Comparison | None":
    """Both models on the test people of both; None where one was published without predictions."""
    import polars as pl

    from spira.delivery.promotion import compare
    from spira.evaluation.results import read_operating_point

    folders = [
        app.registry.download(version, app.home / "cache" / "models")
        for version in (candidate, champion)
    ]
    files = [folder / "predictions.parquet" for folder in folders]
    if not all(file.is_file() for file in files):
        return None
    ours, theirs = map(pl.read_parquet, files)
    # A champion may be older than this SPIRA: of its evaluation only the point is needed.
    point = read_operating_point(folders[1] / "metrics.json")
    return compare(ours, result.operating_point, theirs, point)


def _show_decision(app: "Application", candidate: "ModelVersion", decision: "Decision") -> None:
    head = ("criterion", "required", "observed", "95 % interval", "met")
    rows = [
        (row.criterion, row.required, row.observed, row.interval, "yes" if row.met else "NO")
        for row in decision.rows
    ]
    title = f"Model {candidate.version} under policy {decision.policy}"
    if app.json or not sys.stdout.isatty():
        app.say(title)
        app.table(head, rows)
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(*head, title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*row, style="bold" if row[-1] == "NO" else None)
    Console(highlight=False).print(table)


def _summary(version: "ModelVersion") -> dict[str, Any]:
    return {
        "version": version.version,
        "aliases": list(version.aliases),
        "evidence_level": version.evidence_level,
        "fingerprint": version.fingerprint,
        "registered": version.created_at.isoformat(),
        "metrics": dict(version.metrics),
        "tags": dict(version.tags),
    }


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, width=88, initial_indent="  ", subsequent_indent="    ")
