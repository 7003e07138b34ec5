"""`spira hospital`: labels pulled from hospitals, how that stands, and a hospital to try it on."""

import os
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from spira.console import account, json_option
from spira.wiring import Application

if TYPE_CHECKING:
    from spira.collection.hospitals.keys import Algorithm, Credentials
    from spira.collection.hospitals.settings import HospitalSettings
    from spira.collection.hospitals.taking import Pulled, Taker

_hospital = click.argument("name", metavar="HOSPITAL")
_by = click.option("--by", metavar="NAME", help="Who; the account's name where not given.")


@click.group()
def hospital() -> None:
    """Pull labels from the hospitals that the setting collection.hospitals names."""
    from importlib.util import find_spec

    from spira.domain.errors import InputError

    if find_spec("httpx") is None or find_spec("fhir") is None:
        raise InputError(
            "spira hospital: its packages are missing; "
            "`pip install 'spira[serve,collect]'` brings them"
        )


@hospital.command()
@_hospital
@click.option(
    "--algorithm",
    type=click.Choice(["ES384", "RS384"]),
    default="ES384",
    show_default=True,
    help="What a new key signs with.",
)
@click.option("--rotate", is_flag=True, help="Make another one; the old one signs, too.")
@json_option
@click.pass_obj
def key(app: Application, name: str, algorithm: "Algorithm", rotate: bool) -> None:
    """Print the public keys (JWKS) by which HOSPITAL knows us; the first is made now.

    The hospital registers them under the client id. After a rotation it may take its time: until
    it knows the new key, the old one is shown.
    """
    import json

    from spira.collection.hospitals.keys import make_key

    public = make_key(_key_file(app, name, _settings(app, name)), algorithm, rotate=rotate)
    app.emit(public)
    app.say(json.dumps(public, indent=2))


@hospital.command()
@_hospital
@click.option(
    "--numbers",
    metavar="KIND",
    help="Ask for the patients whose numbers of this KIND are on standard input, one a line.",
)
@_by
@json_option
@click.pass_obj
def pull(app: Application, name: str, numbers: str | None, by: str | None) -> None:
    """Fetch what HOSPITAL knows anew of the participants, and what a pull was cut off in.

    Audited. Exit 75 when the hospital is away for too long: the next pull goes on from there.
    """
    from spira.collection.hospitals.fhir import Client
    from spira.collection.hospitals.pulling import Puller
    from spira.domain.errors import InputError

    settings = _settings(app, name)
    if numbers is not None and numbers not in settings.systems.values():
        known = ", ".join(settings.systems.values())
        raise InputError(f"--numbers {numbers}: the setting systems has none so called ({known})")
    credentials = _credentials(app, name, settings)
    taker = _taker(app, name, settings)
    with app.writing(), Client(name, settings, credentials) as client:
        puller = Puller(taker, client, progress=app.progress)
        if numbers is None:
            _note(app, by, "hospital pulled", name)
            pulled = puller.pull()
        else:
            _note(app, by, "hospital asked by number", name)
            given = [line.strip() for line in sys.stdin if line.strip()]
            pulled = puller.look_up((numbers, number) for number in given)
    _tell(app, name, pulled)


@hospital.command()
@_hospital
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--mapping",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML: what its columns hold.",
)
@click.option("--made-at", metavar="TIME", help="When the hospital made it, ISO 8601 with offset.")
@_by
@json_option
@click.pass_obj
def table(
    app: Application, name: str, file: Path, mapping: Path, made_at: str | None, by: str | None
) -> None:
    """Take a table FILE (CSV or Parquet) that HOSPITAL sent: all of its rows, or none. Audited."""
    from spira.collection.hospitals.table import read_mapped, take_table
    from spira.datasets.tables import read_table
    from spira.domain.errors import InputError

    settings = _settings(app, name)
    mapped, read = read_mapped(mapping), read_table(file)
    try:
        made = None if made_at is None else datetime.fromisoformat(made_at)
    except ValueError:
        made = None
    if made_at is not None and (made is None or made.tzinfo is None):
        raise InputError("--made-at: write it as 2024-03-01T14:20:00-03:00")
    taker = _taker(app, name, settings)
    with app.writing():
        noted = partial(_note, app, by, "hospital table taken", name)
        pulled = take_table(taker, read, mapped, made, noted)
    _tell(app, name, pulled)


@hospital.command()
@json_option
@click.pass_obj
def status(app: Application) -> None:
    """How far the pulling from each hospital is."""
    from spira.collection.hospitals.pulling import count_patients, standing
    from spira.labels.worklist import Worklist

    asked: dict[str, int] = {}
    for one in Worklist(app.labels).list():
        asked[one.item.proposal.origin] = asked.get(one.item.proposal.origin, 0) + 1
    found = []
    with app.database.reading() as tables:
        for name in app.settings.collection.hospitals:
            there = standing(tables, name)
            found.append(
                {
                    "hospital": name,
                    "finished_at": None if there is None else there.finished_at,
                    "since": None if there is None else there.since,
                    "export": None if there is None or there.status_url is None else there.stands,
                    "patients": count_patients(tables, name),
                    "questions": asked.get(name, 0),
                }
            )
    app.emit(found)
    head = ("hospital", "last read whole", "has all until", "export", "patients", "questions")
    rows = [tuple("-" if value is None else str(value) for value in one.values()) for one in found]
    app.table(head, rows, empty="No hospital yet: the setting collection.hospitals names them.")


@hospital.command()
@_hospital
@click.option("--port", type=click.IntRange(1, 65535), help="Else that of the setting url.")
@click.option("--patients", type=click.IntRange(1, 99_999), default=200, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=42, show_default=True)
@click.option(
    "--outages",
    type=click.IntRange(0, 1000),
    default=0,
    show_default=True,
    help="How many, among the first requests.",
)
@click.pass_obj
def simulate(
    app: Application, name: str, port: int | None, patients: int, seed: int, outages: int
) -> None:
    """Be HOSPITAL, on this machine, with the patients of the synthetic hospital of a seed.

    It knows us by our key, and is as strict as a real one. Ends on SIGTERM or Ctrl-C.
    """
    import uvicorn

    from spira.collection.hospitals.keys import make_key
    from spira.collection.hospitals.simulator import Simulator, draw_outages
    from spira.collection.hospitals.truth import make_truth
    from spira.synthetic.records import Hospital, admit

    settings = _settings(app, name)
    keys = make_key(_key_file(app, name, settings), "ES384", rotate=False)
    truth = make_truth(admit(Hospital(seed=seed, participants=patients)), seed)
    simulator = Simulator(
        truth,
        client_id=settings.client_id,
        keys=keys,
        group=settings.group or "cohort",
        outages=draw_outages(seed, outages),
    )
    port = port or urlsplit(settings.url).port or 80
    app.say(f"Simulated hospital {name}: http://127.0.0.1:{port}/fhir, {patients} patients")
    options = {"log_level": "warning", "access_log": False, "ws": "none"}
    uvicorn.run(simulator.app, host="127.0.0.1", port=port, **options)  # type: ignore[arg-type]


def _settings(app: Application, name: str) -> "HospitalSettings":
    from spira.domain.errors import InputError
    from spira.domain.suggestions import nearest

    known = app.settings.collection.hospitals
    if name not in known:
        raise InputError(
            f"hospital {name}: the setting collection.hospitals does not name it"
            f"{nearest(name, known)} (known: {', '.join(known) or 'none'})"
        )
    return known[name]


def _key_file(app: Application, name: str, settings: "HospitalSettings") -> Path:
    if settings.key is not None:
        return settings.key
    _ = app.keys  # makes the folder, for its owner alone
    return app.keys_folder / f"hospital-{name}.jwks"


def _credentials(app: Application, name: str, settings: "HospitalSettings") -> "Credentials":
    from spira.collection.hospitals.keys import read_credentials

    key_file = _key_file(app, name, settings)
    return read_credentials(name, settings.client_id, key_file, settings.secret, os.environ)


def _taker(app: Application, name: str, settings: "HospitalSettings") -> "Taker":
    from spira.collection.hospitals.people import Participants
    from spira.collection.hospitals.storing import Store
    from spira.collection.hospitals.taking import Taker

    ring = app.keys

    def newest(subject: str) -> str:
        return f"record:{ring.wrapped(subject.removeprefix('record:'))}"

    def hash_of(kind: str, number: str) -> list[str]:
        return [f"record:{one}" for one in ring.record_hashes(name, number, system=kind)]

    keys = [one.id for one in ring.list_keys() if one.use == "records" and one.site == name]
    return Taker(
        name,
        settings,
        app.database,
        labels=Store(app.labels),
        people=Participants(app.database, keys, newest),
        hash_of=hash_of,
        newest=newest,
    )


def _note(app: Application, by: str | None, what: str, which: str) -> None:
    from spira.intake.audit import note

    with app.database.writing() as tables:
        at, who = datetime.now(UTC), by or account()
        note(tables, at=at, who=who, role="operator", what=what, which=which)


def _tell(app: Application, name: str, pulled: "Pulled") -> None:
    from dataclasses import asdict

    app.emit({"hospital": name, **asdict(pulled)})
    for fault in pulled.faults:
        app.say(f"{name}: {fault}")
    if pulled.more_faults:
        app.say(f"{name}: and {pulled.more_faults} more that are no FHIR")
    app.say(
        f"{name}: {pulled.lines} resources, {pulled.entries} entries that are new, "
        f"{pulled.dropped} of nobody who takes part"
    )
    if pulled.questions:
        app.say(f"{pulled.questions} for a person to decide: spira labels worklist list")
