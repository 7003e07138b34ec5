"""`spira demo-hospital`: from wards and a hospital's records to answers, with no hand in between.

    visits        recorded on a device in each ward, sent to the Data Collection API
    labels        pulled from the hospital's FHIR server, which is the simulator
    dataset       a snapshot of what was collected, labelled by a policy
    model         trained, audited, registered; promoted where the policy allows it
    assessments   of people whom training never met, answered by Serving

The servers are processes of the demo and end with it, however it ends.
"""

import os
import shlex
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from spira.stores.processes import Process, answers, free_or_wanted, stop_all, without_proxy
from spira.wiring import Application

if TYPE_CHECKING:
    from spira.device.outbox import Recorded, Report
    from spira.domain.studies import Study
    from spira.serving.client import Device as Bedside
    from spira.synthetic.records import Hospital, Participant

_LOCAL = "127.0.0.1"
_HOSPITAL = "synthetic"  # of the default study's sites
_LABEL_POLICY = "ri-v1"
_OUTAGES = 4  # of the hospital's server, while labels are pulled
_SHIFT = 20  # visits that a device records before it finds a network
_AHEAD = timedelta(hours=3)  # the clock of one device; a label counts within 1 h of the true time
_STOPPED_WITHIN_S = 30.0  # Serving gives its parts 25
_ANSWERED_WITHIN_S = 120.0
_OF_ITS_OWN = "give this demo a data folder of its own (spira --home DIR demo-hospital)"


@dataclass(frozen=True)
class _Person:
    """Somebody of the synthetic hospital, as devices and records know them."""

    participant: "Participant"
    pseudonym: str
    record_number: str
    recordings: Mapping[str, Mapping[str, Any]]  # by utterance: rows of recordings.csv, and path


@click.command()
@seed_option
@click.option("--participants", default=560, show_default=True, type=click.IntRange(12, 5000))
@experiment_option
@click.option(
    "--policy",
    metavar="demo|clinical|FILE",
    default="demo",
    show_default=True,
    help="What the model must show to be promoted.",
)
@click.pass_obj
def demo_hospital(
    app: Application, seed: int, participants: int, experiment: Path, policy: str
) -> None:
    """Collect visits, pull labels, take a snapshot, train, promote, and answer assessments.

    Nothing that it says has clinical meaning: the voices are synthetic. Exit code 3 when an audit
    or the policy refuses the model: the demo stops there, and the summary says why.
    """
    from spira.delivery.promotion import load_policy

    _require_packages()
    label = load_policy(policy).label
    name = f"hospital-{participants}-{seed}"
    place = app.home / "demo" / name
    kept = place / f"{label.replace(' ', '-')}.json"
    summary = finished(app, kept, experiment, name, seed)
    if summary is None:
        os.environ.update(without_proxy(os.environ, _LOCAL))
        if policy == "demo":
            warn_of_few(app, participants)
        hospital = _hospital(seed, participants)
        study = None if has_dataset(app, name) else _apply_study(app, place, hospital)
        people = _people(app, name, hospital)
        if study is not None:
            _collect(app, place, study, people)
            _pull_labels(app, place, seed, participants)
            now = datetime.now(UTC).isoformat()
            snapshot = ("--study", study.id, "--label-policy", _LABEL_POLICY, "--as-of", now)
            run(app, "dataset snapshot", *snapshot, "--name", name)
        summary = train_and_promote(app, experiment, name, seed, policy)
        summary |= {"collected": _collected(app, name, people), "answers": []}
        if not summary["refused"]:
            _require_promoted_by(app, label, summary["model"])
            summary["answers"] = _assess(app, place, summary, people)
        keep(summary, kept)
    app.emit(summary)
    _tell_collected(app, summary["collected"])
    tell_model(app, summary)
    _tell_answers(app, summary)
    raise_refused(summary)


def _require_packages() -> None:
    from importlib.util import find_spec

    from spira.domain.errors import InputError

    if any(find_spec(name) is None for name in ("fastapi", "nats", "fhir")):
        raise InputError(
            "spira demo-hospital: its packages are missing; "
            "`pip install 'spira[train,synthetic,serve,collect]'` brings them"
        )


# Visits


def _hospital(seed: int, participants: int) -> "Hospital":
    from spira.synthetic.records import Hospital

    return Hospital(
        seed=seed,
        participants=participants,
        effect=EFFECT,
        utterances=UTTERANCES,
        noise_per_site=1,  # rooms of visits are the noise here
    )


def _people(app: Application, name: str, hospital: "Hospital") -> list[_Person]:
    """Everybody of the synthetic hospital, in the order of their visits."""
    import polars as pl

    from spira.collection.hospitals.truth import record_number
    from spira.synthetic.hospital import synthesize
    from spira.synthetic.records import admit

    folder = app.home / "hospitals" / name
    app.say(f"Voices of {hospital.participants} people of a synthetic hospital: {folder}")
    with app.writing():
        synthesize(folder, hospital, jobs=app.settings.datasets.jobs, progress=app.progress)
    truth = pl.read_parquet(folder / "truth" / "truth.parquet").select("file", "duration_s")
    recordings: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in pl.read_csv(folder / "recordings.csv").join(truth, on="file").iter_rows(named=True):
        recordings[row["participant"]][row["utterance"]] = {
            **row,
            "path": folder / row["file"],
            "recorded_at": datetime.fromisoformat(row["recorded_at"]),
        }
    return [
        _Person(
            participant=one,
            pseudonym=_pseudonym(one, hospital),
            record_number=record_number(hospital.seed, one.id),
            recordings=recordings[one.id],
        )
        for one in sorted(admit(hospital), key=lambda one: one.visited_at)
    ]


def _pseudonym(one: "Participant", hospital: "Hospital") -> str:
    """As a device makes them (UUIDv7), but always the same: then the same people are tested."""
    from spira.domain.draws import draw_seed

    at_ms = round(one.visited_at.timestamp() * 1000)
    drawn = draw_seed(hospital.seed, "pseudonym", hospital.participants, one.id) % 2**62
    return str(uuid.UUID(int=at_ms << 80 | 0x7 << 76 | 0b10 << 62 | drawn))


def _apply_study(app: Application, place: Path, hospital: "Hospital") -> "Study":
    """The default study; in this data folder it may hold visits of nobody else.

    raises    InputError where it does
    """
    from spira.collection.studies import read_study
    from spira.collection.visits import Visits
    from spira.domain.errors import InputError
    from spira.synthetic.records import admit

    file = place / "study.yaml"
    if not file.exists():
        place.mkdir(parents=True, exist_ok=True)
        run(app, "study export-default", file)
    run(app, "study apply", file)
    study = read_study(file)
    known = Visits(app.database, app.keys.wrapped).known(study.id).pseudonyms
    theirs = {_pseudonym(one, hospital) for one in admit(hospital)}
    if not {name for names in known.values() for name in names} <= theirs:
        raise InputError(
            f"{app.home}: study {study.id} holds visits of other people here; {_OF_ITS_OWN}"
        )
    return study


def _collect(app: Application, place: Path, study: "Study", people: Sequence[_Person]) -> None:
    """Every ward's device records its visits without a network, and sends them when it has one."""
    port = free_or_wanted("", 0)
    server = f"http://{_LOCAL}:{port}"
    words = ("collect", "--port", str(port))
    with _running(app, place, words, f"{server}/healthz"), app.console.working():
        done = 0
        for site in study.sites:
            theirs = [one for one in people if one.participant.site == site.name]
            token = _make_token(app, site.name)
            # One device was never set right.
            ahead = _AHEAD if site is study.sites[-1] else timedelta()
            for some in _shifts(theirs):
                _send_visits(place, study, site.name, some, ahead, server, token)
                done += len(some)
                app.progress("sending visits", done, len(people))
            said = f"{len(theirs)} visits, each with a signed receipt"
            wrong = f" (its clock is {_AHEAD.seconds // 3600} h ahead)" if ahead else ""
            app.say(f"{site.title.en}: {said}{wrong}")


def _shifts(people: Sequence[_Person]) -> Iterator[Sequence[_Person]]:
    return (people[at : at + _SHIFT] for at in range(0, len(people), _SHIFT))


def _send_visits(
    place: Path,
    study: "Study",
    site: str,
    people: Sequence[_Person],
    ahead: timedelta,
    server: str,
    token: str,
) -> None:
    """What a ward's device does in a shift; whom it has recorded before, it records no more."""
    from spira.collection.client import Device

    def now() -> datetime:
        return datetime.now(UTC) + ahead

    with Device(place / "collection" / site, now=now) as device:
        recorded = {device.get(id).form.values["record_number"] for id in device.ids()}
        for one in people:
            if one.record_number not in recorded:
                sentence = _recorded(one, "sentence", ahead)
                consent = sentence._replace(  # nobody says a name here
                    utterance="consent", recorded_at=sentence.recorded_at - timedelta(minutes=2)
                )
                device.record(
                    study.id,
                    study.version,
                    one.pseudonym,
                    _visit_form(one, study),
                    [consent, *(_recorded(one, utterance, ahead) for utterance in UTTERANCES)],
                    synthetic=True,
                )
        _require_complete(device.sync(server, token), site)


def _recorded(one: _Person, utterance: str, ahead: timedelta) -> "Recorded":
    """A recording as a device has it whose clock is so far ahead."""
    from spira.device.outbox import Recorded
    from spira.domain.submissions import Capture
    from spira.synthetic.devices import DEVICES

    found, device = one.recordings[utterance], DEVICES[one.participant.device]
    return Recorded(
        utterance=found["utterance"],
        audio=found["path"].read_bytes(),
        duration_s=found["duration_s"],
        recorded_at=found["recorded_at"] + ahead,
        capture=Capture(
            device=one.participant.device,
            rate_hz=device.rate_hz,
            automatic_gain_control=device.gain_control,
        ),
    )


def _visit_form(one: _Person, study: "Study") -> Mapping[str, Any]:
    return {
        "record_number": one.record_number,
        "age": one.participant.age,
        "sex": one.participant.sex,
        "language": "pt-BR",
        "mask": "none",
        "tracheostomy": False,
        "spo2": one.participant.spo2_percent,
        "oxygen_support": "room_air",
        "research_consent": True,
        "consent_form_version": study.consents[-1].version,
        "consent_given_by": "participant",
        "consent_how": "spoken",
    }


# Labels


def _pull_labels(app: Application, place: Path, seed: int, participants: int) -> None:
    """Ask the hospital, which has its troubles, until it has told everything."""
    from spira.collection.hospitals.settings import HospitalSettings
    from spira.collection.hospitals.truth import SYSTEM
    from spira.intake.keys import RECORD_NUMBER

    url = f"http://{_LOCAL}:{free_or_wanted('', 0)}"
    settings = HospitalSettings(
        url=f"{url}/fhir", client_id="spira", group="cohort", systems={SYSTEM: RECORD_NUMBER}
    )
    app.say(
        f"\nFor these commands, settings.toml would have\n"
        f"  [collection.hospitals.{_HOSPITAL}]\n"
        f'  url = "{settings.url}"\n'
        f'  client_id = "{settings.client_id}"\n'
        f'  group = "{settings.group}"\n'
        f'  systems = {{"{SYSTEM}" = "{RECORD_NUMBER}"}}'
    )
    known = app.settings.collection
    collection = known.model_copy(update={"hospitals": {**known.hospitals, _HOSPITAL: settings}})
    knowing = Application(app.settings.model_copy(update={"collection": collection}), app.console)
    run(knowing, "hospital key", _HOSPITAL)
    people = ("--patients", str(participants), "--seed", str(seed))
    words = ("hospital", "simulate", _HOSPITAL, *people, "--outages", str(_OUTAGES))
    with _running(knowing, place, words, f"{url}/fhir/.well-known/smart-configuration"):
        run(knowing, "hospital pull", _HOSPITAL)


def _collected(app: Application, name: str, people: Sequence[_Person]) -> dict[str, Any]:
    """What the dataset holds of these people, beside what was planted in them."""
    import polars as pl

    from spira.datasets.versions import load
    from spira.domain.recordings import LABELS
    from spira.labels.worklist import Worklist

    version = load(app.artifacts, name)
    assert version.collected is not None
    spoken = version.recordings.filter(pl.col("utterance") == "sentence")
    labels = dict(spoken.select("participant_id", "label").iter_rows())
    planted = {one.pseudonym: one.participant.label for one in people}
    counts = Counter(labels.values())
    return {
        "visits": version.collected.visits,
        "labels": {label: counts[label] for label in LABELS},
        "otherwise": sorted(
            who for who, label in labels.items() if label not in ("unknown", planted[who])
        ),
        "unknown": dict(version.collected.unknown),
        "questions": len(Worklist(app.labels).list()),
    }


def _require_promoted_by(app: Application, label: str, model: int) -> None:
    """raises InputError where another policy made it champion before: this one said nothing"""
    from spira.domain.errors import InputError

    changes = [one for one in app.registry.champion_history() if one.version == model]
    if changes[-1].policy != label:
        raise InputError(
            f"{app.home}: model {model} is champion by policy {changes[-1].policy} already; "
            f"for policy {label}, {_OF_ITS_OWN}"
        )


# Assessments


def _assess(
    app: Application, place: Path, summary: dict[str, Any], people: Sequence[_Person]
) -> list[dict[str, Any]]:
    """Ask about people whom training never met, from their wards; what is answered of each."""
    from spira.serving.client import Device

    never_met = tested(app, summary)
    chosen: dict[str, list[_Person]] = defaultdict(list)  # by ward
    for label in ("present", "absent"):
        found = [one for one in people if one.pseudonym in never_met]
        of_label = [one for one in found if one.participant.label == label]
        for one in of_label[:HELD_OUT]:
            chosen[one.participant.site].append(one)
    port = free_or_wanted("", 0)
    server = f"http://{_LOCAL}:{port}"
    words = ("--setting", f"serving.port={port}", "serve", "--demo")
    told = []
    with _running(app, place, words, f"{server}/healthz"):
        for site, some in sorted(chosen.items()):
            token = _make_token(app, site)
            folder = place / "serving" / f"model-{summary['model']}" / site
            with Device(folder) as device:
                told += _answered(device, some, server, token)
            app.say(f"{site}: {len(some)} of people whom training never met, answered")
    return told


def _answered(
    device: "Bedside", people: Sequence[_Person], server: str, token: str
) -> list[dict[str, Any]]:
    """Send an assessment of each, and wait for what a clinician reads."""
    from spira.domain.errors import TransientError

    ids = {device.get(id).form.values["record_number"]: id for id in device.ids()}
    for one in people:
        if one.record_number not in ids:
            recording = _recorded(one, "sentence", timedelta())
            now = recording._replace(recorded_at=datetime.now(UTC))
            ids[one.record_number] = device.record(_assessment_form(one), [now])
    _require_complete(device.sync(server, token), people[0].participant.site)
    wanted = {device.get(ids[one.record_number]).id: one for one in people}
    deadline = time.monotonic() + _ANSWERED_WITHIN_S
    while True:
        found = device.results(server, token).assessments
        if all(found[id]["state"] in ("completed", "failed") for id in wanted):
            break
        if time.monotonic() > deadline:
            raise TransientError("Serving does not answer; run the same command again")
        time.sleep(0.5)
    return [
        {
            "participant": one.pseudonym,
            "site": one.participant.site,
            "planted": one.participant.label,
            **{name: found[id]["answer"][name] for name in ("sentence", "how_sure", "evidence")},
        }
        for id, one in wanted.items()
    ]


def _assessment_form(one: _Person) -> Mapping[str, Any]:
    return {
        "record_number": one.record_number,
        "age": one.participant.age,
        "sex": one.participant.sex,
        "language": "pt-BR",
        "tracheostomy": False,
        "intubated": False,
        "patient_informed": True,
        "research_consent": False,
    }


# Servers


@contextmanager
def _running(app: Application, place: Path, words: Sequence[str], url: str) -> Iterator[None]:
    """A command as a process beside this one, from its first answer to the end of the block."""
    from spira.domain.errors import TransientError

    app.say(f"\n$ spira {shlex.join(words)} &")
    name = next(word for word in words if word in ("collect", "hospital", "serve"))
    log = place / "logs" / f"{name}.log"
    command = (sys.executable, "-m", "spira.cli", *words)
    process = Process(name, command, lambda: answers(url), app.environment(), log)
    try:
        process.watch()
        while not process.well:
            time.sleep(0.1)
            process.watch()
            if process.pid is None:
                raise TransientError(f"spira {name}: ended before it answered; {log} says why")
        yield
    finally:
        stop_all([process], within_s=_STOPPED_WITHIN_S)


def _make_token(app: Application, site: str) -> str:
    from spira.intake.tokens import Tokens

    app.say(f"\n$ spira serve token create {site}")
    return Tokens(app.database).create(site)


def _require_complete(report: "Report", site: str) -> None:
    """raises TransientError where something is left on the device"""
    from spira.domain.errors import TransientError

    if not report.complete:
        left = next(one for one in report.outcomes if one.state != "accepted")
        raise TransientError(
            f"the device at {site}: {left.state}: {left.detail}; what it has not sent is kept "
            "there, run the same command again"
        )


# What is told


def _tell_collected(app: Application, collected: dict[str, Any]) -> None:
    labels, reasons = collected["labels"], sorted(collected["unknown"].items())
    app.say(f"\n{collected['visits']} visits; by what the hospital has told ({_LABEL_POLICY}):")
    app.say(f"  RI present {labels['present']}, absent {labels['absent']}")
    app.say("  ".join([f"  unknown {labels['unknown']}", *(f"{why}: {n}" for why, n in reasons)]))
    app.say(f"  otherwise than planted {len(collected['otherwise'])}")
    app.say(f"  waiting for a person to decide {collected['questions']}")


def _tell_answers(app: Application, summary: dict[str, Any]) -> None:
    if summary["refused"]:
        stopped = "It is registered as challenger" if summary["model"] else "It is not registered"
        app.say(f"\n{stopped}, no model was promoted, and no assessment is answered by it.")
        return
    app.say("\nAssessments of people whom training never met, as their wards read them:")
    for one in summary["answers"]:
        app.say(f"\n  {one['site']}; the hospital planted RI {one['planted']}")
        for language in ("pt", "en"):
            sure = "" if one["how_sure"] is None else f" {one['how_sure'][language]}"
            app.say(f"    {one['sentence'][language]}{sure}")
    evidence = summary["answers"][0]["evidence"]
    app.say(f"\n{evidence['pt']}\n{evidence['en']}")
