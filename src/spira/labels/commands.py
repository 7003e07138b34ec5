"""`spira labels`: what labels rest on, added, imported, decided and shown."""

import hashlib
import secrets
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spira.console import account, json_option, reason_option
from spira.wiring import Application

if TYPE_CHECKING:
    import sqlalchemy as sa

    from spira.domain.labels import Entry, Subject
    from spira.labels.reading import Note
    from spira.labels.worklist import Listed, Worklist

_ORIGIN = "clinicians"  # of entries by command

_subject = click.argument("subject")
_hospital = click.option(
    "--hospital",
    metavar="HOSPITAL",
    help="SUBJECT is -, a record number on standard input: of this HOSPITAL, as studies name it.",
)
_by = click.option("--by", metavar="NAME", help="Who; the account's name where not given.")


@click.group()
def labels() -> None:
    """What labels rest on: observations of people, as sources say, correct and retract them.

    SUBJECT is participant:STUDY/PSEUDONYM, or - with --hospital: a record number is read from
    standard input, so that it is in no list of commands. Times are ISO 8601 with their offset.
    """


@labels.command()
@json_option
@click.pass_obj
def policies(app: Application) -> None:
    """Every label policy, and the reasons that it may give."""
    from spira.domain.label_policies import POLICIES, REASONS

    app.emit(
        {
            "policies": [{"name": one.name, "says": one.says} for one in POLICIES.values()],
            "reasons": dict(REASONS),
        }
    )
    app.table(("policy", "looks at"), [(one.name, one.says) for one in POLICIES.values()])
    app.say()
    app.table(("reason", "meaning"), list(REASONS.items()))


@labels.command()
@_subject
@click.argument("kind")
@click.argument("value")
@_hospital
@click.option("--at", required=True, metavar="TIME", help="When it was so, or began to be.")
@click.option("--until", metavar="TIME", help="Of what lasts: when it ended.")
@click.option("--breathing", help="room_air or oxygen, while SpO2 was measured.")
@click.option("--method", help="pulse_oximetry or arterial.")
@click.option("--corrects", metavar="ENTRY", help="The entry in whose place this stands.")
@_by
@json_option
@click.pass_obj
def add(
    app: Application,
    subject: str,
    kind: str,
    value: str,
    hospital: str | None,
    at: str,
    until: str | None,
    breathing: str | None,
    method: str | None,
    corrects: str | None,
    by: str | None,
) -> None:
    """Enter what a clinician says of SUBJECT: KIND judgement, diagnosis, support, spo2, …

    VALUE is a number in the unit of its kind, or a code: present, absent or unknown; J96.0; none,
    oxygen, high_flow, non_invasive or invasive. What is entered is never changed: another entry
    corrects it, `spira labels retract` takes it back.
    """
    from spira.domain.errors import InputError
    from spira.domain.labels import Entry
    from spira.labels.reading import observation

    faults: list[str] = []
    said = {"kind": kind, "value": value, "at": at, "until": until}
    said |= {"breathing": breathing, "method": method}
    observed = observation({name: text or "" for name, text in said.items()}, faults.append)
    whose = _whose(app, subject, hospital, faults.append)
    if faults or whose is None:
        raise InputError(*(f"labels add: {fault}" for fault in faults))
    now = datetime.now(UTC)
    if corrects is not None:
        _in_force(app, corrects, now)
    entry = Entry(
        source="clinician",
        origin=_ORIGIN,
        name=corrects or f"{kind}-{secrets.token_hex(6)}",
        version=now.isoformat(),
        status="final" if corrects is None else "corrected",
        subject=whose,
        issued=now,
        observation=observed,
        evidence=by or account(),
    )
    what = "label entry added" if corrects is None else "label entry corrected"
    noted = _noted(now, by, what, entry.name)
    app.labels.add([entry], now, also=_of_present(app, {"labels add": whose}, noted))
    app.emit(entry.model_dump(mode="json"))
    app.say(entry.name)
    if not _is_known(app, whose):
        app.say("No visit of this participant has come yet; it counts when one does.")


@labels.command()
@click.argument("entry")
@click.option(
    "--origin", default=_ORIGIN, metavar="NAME", help="Whose it is: a site, hospital or import."
)
@reason_option
@_by
@json_option
@click.pass_obj
def retract(app: Application, entry: str, origin: str, reason: str, by: str | None) -> None:
    """Take back an ENTRY that was made by command, or of another ORIGIN; it stays known that it was
    there. A later word of its source supersedes that.
    """
    now = datetime.now(UTC)
    said = _in_force(app, entry, now, origin)
    taken_back = said.model_copy(
        update={
            "source": "clinician",
            "version": now.isoformat(),
            "status": "retracted",
            "issued": max(now, said.issued),
            "observation": None,
            "evidence": by or account(),
        }
    )
    app.labels.add([taken_back], now, also=_noted(now, by, "label entry retracted", entry, reason))
    app.emit({"name": entry, "retracted": True})
    app.say(f"{entry}: retracted")


@labels.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--origin", required=True, metavar="NAME", help="Which import this is.")
@_by
@json_option
@click.pass_obj
def import_file(app: Application, file: Path, origin: str, by: str | None) -> None:
    """Import the entries of a table FILE (CSV or Parquet), one a row: all of them or none.

    What is there already is not added again, so that a longer table may be imported after a
    shorter one.
    """
    from spira.datasets.tables import Faults, read_table
    from spira.labels.reading import entries
    from spira.labels.store import named

    table = read_table(file)
    faults = Faults()
    if not 1 <= len(origin) <= 100 or not origin.isprintable():
        faults.add("labels import", "--origin is not a name of 1 to 100 characters")
    read = entries(
        table.header,
        table.rows,
        origin=origin,
        evidence=hashlib.sha256(file.read_bytes()).hexdigest(),
        hash_record=lambda hospital, number: _hashed(app, hospital, number),
        note=lambda fault, row: faults.add(table.name, fault, row),
    )
    faults.report()
    now = datetime.now(UTC)
    about = {f"entry {named(one)}": one.subject for one in read}
    noted = _noted(now, by, "labels imported", origin)
    new = app.labels.add(read, now, also=_of_present(app, about, noted))
    app.emit({"entries": len(read), "new": new})
    app.say(f"{len(read)} entries, {new} of them new")


@labels.command()
@_subject
@_hospital
@click.option("--policy", default="ri-v1", show_default=True, help="See `spira labels policies`.")
@click.option("--as-of", metavar="TIME", help="As it was known then; now where not given.")
@click.option("--recorded-at", metavar="TIME", help="Of the recording; --as-of where not given.")
@click.option(
    "--uncertainty-s", type=click.FloatRange(min=0), default=0, help="How wrong that may be."
)
@json_option
@click.pass_obj
def show(
    app: Application,
    subject: str,
    hospital: str | None,
    policy: str,
    as_of: str | None,
    recorded_at: str | None,
    uncertainty_s: float,
) -> None:
    """The label of a recording of SUBJECT, and everything that was known of SUBJECT by then.

    Also under the other names that visits link: those of one person are labelled together.
    """
    from spira.collection.visits import Visits
    from spira.domain.errors import InputError
    from spira.domain.label_policies import REASONS
    from spira.domain.labels import Asked
    from spira.labels.reading import moment

    faults: list[str] = []
    now = datetime.now(UTC)
    at = now if as_of is None else moment(as_of, "--as-of", faults.append)
    recorded = at if recorded_at is None else moment(recorded_at, "--recorded-at", faults.append)
    whose = _whose(app, subject, hospital, faults.append)
    if at is None or recorded is None or whose is None:
        raise InputError(*(f"labels show: {fault}" for fault in faults))
    labels = app.labels  # and the tables of visits
    names = Visits(app.database, app.keys.wrapped).names(whose, at)
    asked = Asked(
        recording="asked", subjects=names, recorded_at=recorded, uncertainty_s=uncertainty_s
    )
    (decided,) = labels.as_of([asked], policy, at)
    known = labels.versions(names, at)
    app.emit(
        {
            "subjects": names,
            "decided": decided.model_dump(mode="json"),
            "versions": [
                {
                    **one.entry.model_dump(mode="json"),
                    "received": one.received.isoformat(),
                    "in_force": one.in_force,
                }
                for one in known
            ],
        }
    )
    app.say(f"{decided.label}: {REASONS[decided.reason]} ({decided.reason})")
    for evidence in decided.evidence:
        app.say(f"  {evidence}")
    for name in names:
        if name != whose:
            app.say(f"Also known as {name}")
    app.say()
    app.table(
        ("entry", "status", "in force", "said", "at", "issued", "received"),
        [
            (
                f"{one.entry.origin}/{one.entry.name}/{one.entry.version}",
                one.entry.status,
                "yes" if one.in_force else "no",
                _says(one.entry.observation),
                "" if one.entry.observation is None else _time(one.entry.observation.at),
                _time(one.entry.issued),
                _time(one.received),
            )
            for one in known
        ],
        empty="Nothing was known.",
    )


@labels.group()
def worklist() -> None:
    """What sources say that cannot be used as it stands, until a person decides."""


@worklist.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that were decided too.")
@json_option
@click.pass_obj
def list_items(app: Application, everything: bool) -> None:
    """What is open, the oldest first."""
    from spira.labels.worklist import REASONS

    found = _worklist(app).list(resolved=everything)
    app.emit([_document(one) for one in found])
    rows = [
        (
            str(one.number),
            f"{one.item.reason}: {REASONS[one.item.reason]}",
            f"{one.item.proposal.origin}/{one.item.proposal.name}",
            _says(one.item.proposal.observation),
            ", ".join(f"{name} {value}" for name, value in one.item.detail.items()),
            ", ".join(one.item.candidates),
            "" if one.resolution is None else f"{one.resolution.how}: {one.resolution.why}",
        )
        for one in found
    ]
    head = ("item", "why", "entry", "says", "detail", "may be about", "decided")
    app.table(head, rows, empty="Nothing is open.")


@worklist.command()
@click.argument("item", type=int)
@click.option("--subject", metavar="SUBJECT", help="Whose it is.")
@_hospital
@click.option("--value", help="The value in the unit of its kind, or the code, that is right.")
@click.option("--discard", is_flag=True, help="Use nothing of it.")
@reason_option
@_by
@json_option
@click.pass_obj
def resolve(
    app: Application,
    item: int,
    subject: str | None,
    hospital: str | None,
    value: str | None,
    discard: bool,
    reason: str,
    by: str | None,
) -> None:
    """Decide an ITEM: say whose it is, what is right, or that it is not used.

    It does not come back when the source says the same again.
    """
    from spira.domain.errors import InputError
    from spira.labels.reading import number_or_code

    if discard == (subject is not None or value is not None):
        raise InputError("labels worklist resolve: give --subject or --value, or else --discard")
    now, who = datetime.now(UTC), by or account()
    items = _worklist(app)
    faults: list[str] = []
    whose = None if subject is None else _whose(app, subject, hospital, faults.append)
    if faults:
        raise InputError(*(f"labels worklist resolve: {fault}" for fault in faults))

    def noted(how: str) -> "Callable[[sa.Connection], object]":
        return _noted(now, by, f"worklist item {how}", str(item), reason)

    if discard:
        items.discard(item, who=who, why=reason, at=now, also=noted("discarded"))
        app.emit({"item": item, "discarded": True})
        app.say(f"{item}: discarded")
        return
    proposed = {one.number: one.item.proposal.subject for one in items.list()}
    about = whose or proposed.get(item)
    entry = items.resolve(
        item,
        subject=whose,
        value=None if value is None else number_or_code(value),
        who=who,
        why=reason,
        at=now,
        also=_of_present(
            app,
            {} if about is None else {f"item {item}": about},
            noted("assigned" if value is None else "corrected"),
        ),
    )
    app.emit({"item": item, "entry": entry.model_dump(mode="json")})
    app.say(f"{item}: {entry.origin}/{entry.name}/{entry.version}")


def _worklist(app: Application) -> "Worklist":
    from spira.labels.worklist import Worklist

    return Worklist(app.labels)


def _whose(app: Application, given: str, hospital: str | None, note: "Note") -> "Subject | None":
    """Whom a command is about."""
    from spira.labels.reading import subject

    if (given == "-") != (hospital is not None):
        note("a record number needs --hospital, and - in place of SUBJECT")
        return None
    if hospital is None:
        return subject(given, note)
    return _hashed(app, hospital, sys.stdin.readline().strip())


def _hashed(app: Application, hospital: str, number: str) -> "Subject":
    """raises InputError where nobody's number was hidden for the hospital: under a key that a slip
    had made, nobody would ever be found"""
    from spira.domain.errors import InputError
    from spira.domain.suggestions import nearest

    known = {key.site for key in app.keys.list_keys() if key.site is not None}
    if hospital not in known:
        raise InputError(
            f"hospital {hospital}: no record number of it is known{nearest(hospital, known)} "
            f"(known: {', '.join(sorted(known)) or 'none'}); if that is its name, "
            f"`spira keys create {hospital}` prepares for the first"
        )
    return f"record:{app.keys.hash_record(hospital, number)}"


def _of_present(
    app: Application, about: Mapping[str, "Subject"], noted: "Callable[[sa.Connection], object]"
) -> "Callable[[sa.Connection], object]":
    """The audit of what is said, before which nobody whom it is about may have withdrawn.

    about     what is said, as it is called -> whom it is about
    raises    InputError naming what is about whoever has withdrawn, of what it gives
    """
    from spira.collection.visits import Visits
    from spira.domain.errors import InputError

    visits = Visits(app.database, app.keys.wrapped)

    def also(tables: "sa.Connection") -> None:
        gone = visits.gone(tables, set(about.values()))
        said = [what for what, subject in about.items() if subject in gone]
        if said:
            raise InputError(
                *(f"{one}: whoever it is about has withdrawn; leave it out" for one in said)
            )
        noted(tables)

    return also


def _is_known(app: Application, subject: "Subject") -> bool:
    """Whether a visit of a participant is here; of a record number nobody asks."""
    from spira.collection.visits import Visits

    kind, _, name = subject.partition(":")
    study, _, participant = name.partition("/")
    visits = Visits(app.database, app.keys.wrapped)
    return kind != "participant" or visits.is_known(study, participant)


def _in_force(app: Application, name: str, now: datetime, origin: str = _ORIGIN) -> "Entry":
    from spira.domain.errors import InputError

    found = app.labels.in_force(origin, [name], now).get(name)
    if found is None:
        raise InputError(
            f"labels: no entry {name} of {origin} is in force; `spira labels show SUBJECT` names "
            "those of a person"
        )
    return found


def _noted(
    now: datetime, by: str | None, what: str, which: str, why: str | None = None
) -> "Callable[[sa.Connection], object]":
    from spira.intake.audit import note

    return lambda tables: note(
        tables, at=now, who=by or account(), role="operator", what=what, which=which, why=why
    )


def _document(one: "Listed") -> dict[str, Any]:
    return {
        "item": one.number,
        "received": one.received.isoformat(),
        **one.item.model_dump(mode="json"),
        "resolution": None if one.resolution is None else vars(one.resolution),
    }


def _says(observation: Any) -> str:
    if observation is None:
        return ""
    value = observation.code if observation.value is None else f"{observation.value:g}"
    return " ".join(filter(None, (observation.kind, value, observation.breathing)))


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
