"""`spira study`: studies as data, and how their recruitment stands."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spira.console import account, json_option, reason_option
from spira.datasets.commands import jobs_option, rejected_option, require_place
from spira.wiring import Application

if TYPE_CHECKING:
    from spira.collection.balance import Balance
    from spira.collection.studies import Studies
    from spira.domain.studies import Study

_study = click.argument("study_id", metavar="STUDY")


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="0: any; else by setting.")
@click.pass_obj
def collect(app: Application, port: int | None) -> None:
    """Take visits in: the Data Collection API, in the foreground. Ends on SIGTERM."""
    from importlib.util import find_spec

    from spira.domain.errors import InputError

    if find_spec("fastapi") is None:
        raise InputError(
            "spira collect: its packages are missing; `pip install 'spira[serve]'` brings them"
        )
    from spira.collection.service import run_api
    from spira.stores.processes import free_or_wanted

    settings = app.settings.collection
    wanted = settings.port if port is None else port
    free = free_or_wanted("collection.port", wanted, settings.host)
    app.say(f"Data Collection API: http://{settings.host}:{free}/v1/collection")
    run_api(app, free)


@click.group()
def study() -> None:
    """Apply studies; see who is missing, and what gives the label away."""


@study.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--by", metavar="NAME", help="Who; the account's name where not given.")
@json_option
@click.pass_obj
def apply(app: Application, file: Path, by: str | None) -> None:
    """Read a study's FILE and add it as a version; audited.

    A version that is there never changes: a file with other content needs another number.
    """
    from spira.collection.studies import read_study
    from spira.domain.studies import accepts

    read = read_study(file)
    new = _studies(app).apply(read, by=by or account())
    said = accepts(read, datetime.now(UTC), synthetic=False)
    app.emit({"id": read.id, "version": read.version, "applied": new})
    app.say(f"{read.id}, version {read.version}: {'applied' if new else 'was applied before'}")
    if said is not None:
        app.say(said.en)


@study.command("list")
@json_option
@click.pass_obj
def list_studies(app: Application) -> None:
    """Every version of every study."""
    from spira.domain.studies import accepts

    now = datetime.now(UTC)
    found = _studies(app).list()
    app.emit(
        [
            {
                "id": one.study.id,
                "version": one.study.version,
                "title": one.study.title.model_dump(),
                "applied_at": one.applied_at.isoformat(),
                "accepts_people": accepts(one.study, now, synthetic=False) is None,
            }
            for one in found
        ]
    )
    app.table(
        ("study", "version", "applied", "accepts", "title"),
        [
            (
                one.study.id,
                str(one.study.version),
                f"{one.applied_at:%Y-%m-%d %H:%M} UTC",
                "people" if accepts(one.study, now, synthetic=False) is None else "synthetic data",
                one.study.title.pt,
            )
            for one in found
        ],
        empty="No study yet; `spira study export-default FILE` writes one to begin from.",
    )


@study.command()
@_study
@click.option("--version", type=click.IntRange(1), help="Which one; the latest unless told.")
@json_option
@click.pass_obj
def show(app: Application, study_id: str, version: int | None) -> None:
    """A STUDY as the YAML that `apply` reads."""
    from spira.collection.studies import compose

    found = _studies(app).study(study_id, version)
    app.emit(found.model_dump(mode="json"))
    app.say(compose(found).rstrip())


@study.command("export-default")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def export_default(app: Application, file: Path | None) -> None:
    """Write the SPIRA protocol to a new FILE, or print it: a study to begin from."""
    from spira.collection.studies import default_study
    from spira.domain.errors import InputError

    if file is None:
        click.echo(default_study(), nl=False)
        return
    require_place(file)
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(default_study())
    except FileExistsError as error:
        raise InputError(f"{file}: is there already; name a file that is not") from error
    app.say(f"{file}: edit it, then spira study apply {file}")


@study.command()
@_study
@json_option
@click.pass_obj
def targets(app: Application, study_id: str) -> None:
    """The people wanted of each stratum, and how many are there. For the study's lead."""
    from spira.collection.balance import describe

    found, balance = _weighed(app, study_id)
    rows = [(describe(found, one.stratum), one) for one in balance.strata]
    app.emit(
        [
            {
                **one.stratum.model_dump(),
                "title": title.model_dump(),
                "wanted": one.wanted,
                "found": one.found,
                "missing": one.missing,
            }
            for title, one in rows
        ]
    )
    app.table(
        ("stratum", "wanted", "there", "missing"),
        [(title.en, str(one.wanted), str(one.found), str(one.missing)) for title, one in rows],
        empty=f"Study {study_id} has no targets.",
    )


@study.command()
@_study
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a page to this file.",
)
@json_option
@click.pass_obj
def balance(app: Application, study_id: str, html: Path | None) -> None:
    """Which nuisance is becoming a proxy for the label, and who is missing. For the study's lead.

    Never for a collector: it tells which label is wanted.
    """
    from spira.collection.pages import render_balance

    require_place(html)
    found, weighed = _weighed(app, study_id)
    if html is not None:
        page = render_balance(found, weighed, at=datetime.now(UTC))
        html.write_text(page, encoding="utf-8")
    app.emit(weighed.model_dump(mode="json"))
    people = weighed.people
    app.say(
        f"{found.id}, version {found.version}: {people.total} people, {people.present} with RI, "
        f"{people.absent} without, {people.unknown} unlabelled, by {weighed.label_policy}"
    )
    missing = sum(one.missing for one in weighed.strata)
    short = sum(one.missing > 0 for one in weighed.strata)
    app.say(f"{missing} people missing, in {short} of {len(weighed.strata)} strata")
    for nuisance in weighed.nuisances:
        app.say(f"{nuisance.verdict}: {nuisance.words.en}")
    for site in found.sites:
        said = weighed.today[site.name]
        app.say(f"Collectors at {site.name} read: {said.en if said else 'nobody is missing here'}")
    if html is not None:
        app.say(f"Page: {html}")


@study.command()
@click.argument("visit")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A new file, for its owner alone.",
)
@reason_option
@click.option("--recording", metavar="ID", help="Which one, where a visit has several.")
@click.option("--by", metavar="NAME", help="Who; the account's name where not given.")
@json_option
@click.pass_obj
def consent(
    app: Application, visit: str, out: Path, reason: str, recording: str | None, by: str | None
) -> None:
    """Write the spoken consent of a VISIT to a file; audited. For the study's lead.

    It holds a name. Delete the file when you have heard it.
    """
    from spira.collection.consents import read_consent
    from spira.domain.errors import InputError
    from spira.intake.keys import KeyRing
    from spira.stores.files import write_new

    if out.exists() or not out.parent.is_dir():
        raise InputError(f"{out}: name a new file, in a folder that is there")
    app.prepare()
    data = read_consent(
        app.database,
        app.consents,
        KeyRing(app.keys_folder),
        visit,
        recording=recording,
        by=by or account(),
        why=reason,
    )
    write_new(out, data)
    app.emit({"visit": visit, "file": str(out), "n_bytes": len(data)})
    app.say(f"{out}: the spoken consent of visit {visit}. It holds a name: delete it afterwards.")


@click.command()
@click.option("--study", "study_id", required=True, metavar="ID", help="Of which study.")
@click.option(
    "--label-policy", "policy", required=True, metavar="NAME", help="See `spira labels policies`."
)
@click.option("--as-of", required=True, metavar="TIME", help="As it was known then.")
@click.option("--name", metavar="NAME", help="What to call it; else as the study.")
@rejected_option
@jobs_option
@json_option
@click.pass_obj
def snapshot(
    app: Application,
    study_id: str,
    policy: str,
    as_of: str,
    name: str | None,
    rejected: Path | None,
    jobs: int | None,
) -> None:
    """Make a dataset version of what was collected in a study, as it was known at a moment.

    Labels are those that the policy gives by what was known then. The same study, policy and moment
    are the same version, whatever was collected or corrected since; only who has withdrawn by now,
    or consents no more, is left out always. TIME is ISO 8601 with its offset.
    """
    from dataclasses import replace

    from spira.collection.snapshots import read_snapshot
    from spira.collection.visits import Visits
    from spira.datasets.commands import document, import_source, say_collected
    from spira.datasets.names import check_name
    from spira.domain.errors import InputError
    from spira.labels.reading import moment

    check_name(name or study_id)
    require_place(rejected)
    faults: list[str] = []
    at = moment(as_of, "--as-of", faults.append)
    if at is None:
        raise InputError(*(f"dataset snapshot: {fault}" for fault in faults))
    studies = _studies(app)
    with app.writing():
        source, still = read_snapshot(
            studies,
            Visits(app.database, app.keys.wrapped),
            app.labels,
            study_id,
            policy,
            at,
            now=datetime.now(UTC),
            progress=app.progress,
        )
        assert source.collected is not None
        say_collected(app, source.collected)
        keys = [row.file for row in source.recordings]
        with app.collected.files(keys, app.home / "work", progress=app.progress) as root:
            found = replace(source, root=root)
            report, refused = import_source(
                app, found, name or study_id, rejected, jobs, still=still
            )
    lost = sum(
        one.recordings.total
        for one in report.summary.refusals
        if one.name in ("missing", "damaged")
    )
    if lost:
        app.say(
            f"{lost} recordings are not in the audio store as they were received: restore them, "
            "and run this again"
        )
    told = source.collected.model_dump(mode="json")
    app.emit({**document(report, refused), "snapshot": told})


def _weighed(app: Application, study_id: str) -> "tuple[Study, Balance]":
    from spira.collection.balance import weigh
    from spira.collection.visits import Visits, visit_table

    found = _studies(app).study(study_id)
    visits = Visits(app.database, app.keys.wrapped)
    policy = app.settings.collection.balance_policy
    return found, weigh(found, visit_table(visits, app.labels, study_id, policy), policy)


def _studies(app: Application) -> "Studies":
    from spira.collection.studies import Studies

    app.prepare()
    return Studies(app.database)
