"""`spira keys`: the keys that sign, hide and seal. No secret is ever printed."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from spira.console import json_option
from spira.wiring import Application

if TYPE_CHECKING:
    from spira.intake.keys import Key, Use

PASSPHRASE = "SPIRA_KEYS_PASSPHRASE"  # variable of the environment

_LONGEST_RECEIPT = 1 << 16  # characters
_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group()
def keys() -> None:
    """List, rotate, back up and restore the keys that sign, hide and seal.

    They are made when they are first needed. Without them old receipts cannot be verified, no
    patient is found again and no spoken consent opened: keep a backup away from this machine.
    """
    from importlib.util import find_spec

    from spira.domain.errors import InputError

    if find_spec("cryptography") is None or find_spec("joserfc") is None:
        raise InputError(
            "spira keys: its packages are missing; `pip install 'spira[serve]'` brings them"
        )


@keys.command("list")
@json_option
@click.pass_obj
def list_keys(app: Application) -> None:
    """Every key: what for, since when, and whether it is in use."""
    from spira.intake.keys import KeyRing

    _show(app, KeyRing(app.keys_folder).list_keys())


@keys.command()
@click.argument("site")
@json_option
@click.pass_obj
def create(app: Application, site: str) -> None:
    """Make the keys that SITE needs, before its first assessment or visit; audited.

    For services that have a copy of the keys and make none. A key that is there stays.
    """
    from spira.intake.keys import KeyRing

    app.prepare()  # where nothing can be audited, no key is made
    there = {key.id for key in KeyRing(app.keys_folder).list_keys()}
    ring = KeyRing.open(app.keys_folder)
    ring.make_for(site)
    ring.make_for_consents()
    found = ring.list_keys()
    _note(app, "key made", *(key.id for key in found if key.id not in there))
    _show(app, found)


@keys.command()
@click.argument("use", metavar="USE", type=click.Choice(["receipts", "records", "consents"]))
@click.option("--site", metavar="SITE", help="For records: whose.")
@json_option
@click.pass_obj
def rotate(app: Application, use: "Use", site: str | None) -> None:
    """Make the next key for USE; the old ones stay, for what they signed, hid or sealed; audited.

    A service that runs takes it at once. Make a backup afterwards.
    """
    from spira.domain.errors import InputError
    from spira.intake.keys import KeyRing

    if (use == "records") != (site is not None):
        raise InputError("keys rotate: --site SITE says whose records; only records have a site")
    app.prepare()  # as above
    key = KeyRing(app.keys_folder).rotate(use, site)
    _note(app, "key rotated", key.id)
    app.emit(key.model_dump(mode="json"))
    app.say(f"Key {key.id} is in use now. Make a backup: spira keys backup FILE")


@keys.command()
@_file
@json_option
@click.pass_obj
def backup(app: Application, file: Path) -> None:
    """Write all keys to a new FILE, encrypted with the passphrase in SPIRA_KEYS_PASSPHRASE."""
    from spira.intake.keys import KeyRing

    saved = KeyRing(app.keys_folder).backup(file, _passphrase())
    app.emit({"file": str(file), "keys": [key.id for key in saved]})
    app.say(f"{len(saved)} keys saved in {file}. Keep it away from this machine.")


@keys.command()
@_file
@json_option
@click.pass_obj
def restore(app: Application, file: Path) -> None:
    """Bring the keys of a backup FILE into a folder that has none."""
    from spira.intake.keys import KeyRing

    _show(app, KeyRing.restore(app.keys_folder, file, _passphrase()).list_keys())


@keys.command()
@click.argument("file", type=click.File())
@json_option
@click.pass_obj
def verify(app: Application, file: TextIO) -> None:
    """Check a receipt (a FILE, or - for standard input): exit 70 when it is not of this server."""
    from spira.intake.keys import KeyRing
    from spira.intake.receipts import read_receipt

    said = read_receipt(file.read(_LONGEST_RECEIPT).strip(), KeyRing(app.keys_folder).public())
    app.emit(said.model_dump(mode="json"))
    app.say(f"Signed by this server: {said.kind} {said.id}, revision {said.revision}")
    app.say(f"of site {said.site}, accepted at {said.accepted_at:%Y-%m-%d %H:%M:%S} UTC")
    rows = [(one.id, one.what, str(one.n_bytes), one.sha256) for one in said.recordings]
    app.table(("recording", "what", "bytes", "SHA-256"), rows)


@click.group()
def audit() -> None:
    """What was done, by whom and when: rows that are added and never changed."""


@audit.command("verify")
@json_option
@click.pass_obj
def verify_audit(app: Application) -> None:
    """Walk the whole chain; exit 70 naming the first row that is not as it was written."""
    from spira.intake.audit import verify as walk

    with app.database.reading() as tables:
        rows = walk(tables)
    app.emit({"rows": rows})
    app.say(f"{rows} rows, each as it was written.")


@audit.command("export")
@click.pass_obj
def export_audit(app: Application) -> None:
    """Every row as a line of JSON. Keep the last line elsewhere: it stands for all of them."""
    from spira.intake.audit import export

    with app.database.reading() as tables:
        for line in export(tables):
            click.echo(line)


def _note(app: Application, what: str, *ids: str) -> None:
    from spira.intake.audit import note_operator

    with app.database.writing() as tables:
        for id in ids:
            note_operator(tables, what, id)


def _show(app: Application, found: "tuple[Key, ...]") -> None:
    newest = {(key.use, key.site): key.number for key in reversed(found)}
    in_use = [newest[key.use, key.site] == key.number for key in found]
    app.emit(
        [
            {**key.model_dump(mode="json"), "in_use": used}
            for key, used in zip(found, in_use, strict=True)
        ]
    )
    app.table(
        ("key", "for", "site", "number", "in use", "made"),
        [
            (
                key.id,
                key.use,
                key.site or "-",
                str(key.number),
                "yes" if used else "no",
                f"{key.made_at:%Y-%m-%d %H:%M} UTC",
            )
            for key, used in zip(found, in_use, strict=True)
        ],
        empty=f"No keys yet in {app.keys_folder}: they are made when they are first needed.",
    )


def _passphrase() -> str:
    from spira.domain.errors import InputError

    given = os.environ.get(PASSPHRASE)
    if not given:
        raise InputError(f"{PASSPHRASE}: set this environment variable to the backup's passphrase")
    return given
