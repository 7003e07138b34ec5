"""Snapshots of what was collected, on real databases and a real folder or S3 server: what was known
then, of whom, and nothing else."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import polars as pl
import pytest
import soundfile
import uuid_utils
from found import found

from spira import cli
from spira.audio.quality import QualityThresholds
from spira.collection.snapshots import read_snapshot
from spira.collection.studies import Studies, default_study
from spira.collection.tables import STUDIES
from spira.collection.visits import Visits
from spira.datasets.importing import ImportReport, import_dataset
from spira.datasets.sources import Listed, Source
from spira.datasets.summary import Collected
from spira.datasets.versions import load, verify
from spira.documents import parse_document
from spira.domain.errors import InputError, TransientError
from spira.domain.forms import Filled
from spira.domain.labels import Entry, Observation
from spira.domain.recordings import SIDES, Side, Utterance
from spira.domain.splits import side_of
from spira.domain.studies import Study
from spira.domain.submissions import Capture, FormValues, RecordingFile, Submission, Visit
from spira.intake.checking import Found, Refused
from spira.intake.keys import KeyRing
from spira.intake.settings import IntakeSettings
from spira.intake.submissions import Intake, Owner
from spira.labels.store import Labels
from spira.scheduling.asking import Body, Desk
from spira.scheduling.growth import worth_training
from spira.scheduling.requests import Requests
from spira.scheduling.settings import SchedulingSettings
from spira.stores.artifacts import ArtifactStore
from spira.stores.database import Database, iso
from spira.stores.objects import Objects
from spira.training.experiments import Experiment, Split
from spira.wiring import ROOMS

Spira = Callable[..., tuple[int, str, str]]

HOUR = timedelta(hours=1)
NOW = datetime.now(UTC)
VISITED, THEN = NOW - 48 * HOUR, NOW - 24 * HOUR  # when most is recorded, and the snapshot's moment
SITE, HOSPITAL, STUDY = "site-1", "synthetic", "spira"
FORM = FormValues(id="visit", version=1, values={})
VALUES = {"age": 61, "sex": "female", "spo2": 93.0, "research_consent": True}


class Trusting:
    """Takes everything for six seconds of somebody speaking: a snapshot looks for itself."""

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, *, unfinished: bool = False
    ) -> Found | Refused:
        return found(b"".join(pieces)[:8])


class Ward:
    """Where visits come from, and what was known of them when."""

    def __init__(self, folder: Path, database: Database, objects: Objects) -> None:
        self.database, self.objects, self.folder = database, objects, folder
        self.keys = KeyRing.open(folder / "keys")
        self.visits = Visits(database, self.keys.wrapped)
        self.labels = Labels(database, self._newest)
        self.store = ArtifactStore.open(str(folder / "store"), cache=folder / "cache")
        self.sounds: dict[str, bytes] = {}  # by digest
        self._entries = 0

    def _newest(self, subject: str) -> str:
        kind, _, stored = subject.partition(":")
        return f"{kind}:{self.keys.wrapped(stored)}" if kind == "record" else subject

    def hashes(self, number: str | None) -> Sequence[str]:
        return () if number is None else self.keys.record_hashes(HOSPITAL, number)

    def visit(
        self,
        participant: str,
        number: str | None = None,
        *,
        utterances: Sequence[Utterance] = ("sentence",),
        at: datetime = VISITED,
        site: str = SITE,
        synthetic: bool = False,
        seconds: float = 0.6,
        capture: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> str:
        """A visit that was recorded and accepted then, through intake; its id."""
        files = []
        for utterance in utterances:
            sound = noise(len(self.sounds), seconds)
            digest = hashlib.sha256(sound).hexdigest()
            self.sounds[digest] = sound
            files.append(
                RecordingFile(
                    id=str(uuid_utils.uuid7()),
                    utterance=utterance,
                    sha256=digest,
                    n_bytes=len(sound),
                    duration_s=6,
                    recorded_at=at,
                    capture=Capture(device="phone", **capture or {}),
                )
            )
        sent = Submission(
            kind="visit",
            id=str(uuid_utils.uuid7()),
            revision=1,
            form=FORM,
            files=tuple(files),
            visit=Visit(study=STUDY, study_version=1, participant=participant, synthetic=synthetic),
        )
        intake = Intake(
            self.database,
            self.objects,
            Trusting(),
            self.keys,
            IntakeSettings(),
            consents=self.objects,
            now=lambda: at,
        )
        owner = Owner(site, "a secret of the device")
        take = self.visits.taken(filled(**values), self.hashes(number), "token 1")
        for one in intake.commit(sent, owner, take).recordings:
            digest = next(file.sha256 for file in files if file.id == one.id)
            intake.uploads.append(one.upload, 0, self.sounds[digest])
        assert intake.commit(sent, owner, take, device_ahead=timedelta()).receipt is not None
        return sent.id

    def amend(self, visit: str, number: str | None = None, site: str = SITE, **values: Any) -> None:
        """Put a form right, now."""
        anew = (FORM, filled(**values), self.hashes(number), 2)
        assert self.visits.amend(visit, site, *anew, why="it was wrong", by="x")

    def says(
        self,
        subject: str,
        value: float,
        *,
        at: datetime = VISITED,
        received: datetime = VISITED,
        **more: Any,
    ) -> None:
        """An SpO2 on room air."""
        self._entries += 1
        said = {"value": value, "breathing": "room_air"} | more
        entry = Entry(
            source="hospital",
            origin="hospital",
            name=f"observation {self._entries}",
            version="1",
            subject=subject,
            issued=at,
            observation=Observation(kind="spo2", at=at, **said),
        )
        self.labels.add([entry], received)

    def record(self, number: str) -> str:
        """The subject of a record number."""
        return f"record:{self.hashes(number)[0]}"

    def read(self, at: datetime = THEN, policy: str = "ri-v1") -> Source:
        """What a snapshot lists."""
        return self.reading(at, policy)[0]

    def reading(
        self, at: datetime = THEN, policy: str = "ri-v1"
    ) -> tuple[Source, Callable[[], None]]:
        studies = Studies(self.database)
        now = datetime.now(UTC)
        return read_snapshot(studies, self.visits, self.labels, STUDY, policy, at, now=now)

    def snapshot(self, at: datetime = THEN, name: str = "ward", **options: Any) -> ImportReport:
        """A dataset version of what was known then."""
        source, still = self.reading(at)
        with self.objects.files([row.file for row in source.recordings], self.folder / "w") as root:
            return import_dataset(
                replace(source, root=root),
                self.store,
                name=name,
                thresholds=QualityThresholds(),
                jobs=1,
                still=still,
                **options,
            )


def filled(**values: Any) -> Filled:
    """A form; what is None was not filled in."""
    said = {key: value for key, value in (VALUES | values).items() if value is not None}
    return Filled(values=said, kept=said, identifying={}, refused={}, marks={})


def noise(seed: int, seconds: float) -> bytes:
    """A wav of its own."""
    file = io.BytesIO()
    sound = 0.1 * np.random.default_rng(seed).standard_normal(round(8_000 * seconds))
    soundfile.write(file, sound, 8_000, format="WAV")
    return file.getvalue()


def pseudonym(number: int) -> str:
    """Of a participant."""
    return f"01938f00-0000-7000-8000-{number:012d}"


def subject(number: int) -> str:
    """That participant, for labels."""
    return f"participant:{STUDY}/{pseudonym(number)}"


def collected(source: Source) -> Collected:
    """What a snapshot says beside its rows."""
    assert source.collected is not None
    return source.collected


def by_visit(source: Source) -> dict[str, Listed]:
    """One row of each visit."""
    return {str(row.visit): row for row in source.recordings}


@pytest.fixture(params=["sqlite and a folder", "postgres and s3"])
def ward(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ward:
    """A study that began three days ago, and nobody was there yet."""
    if request.param == "sqlite and a folder":
        database = f"sqlite:///{tmp_path / 'spira.db'}"
        objects = str(tmp_path / "recordings")
    else:
        database = request.getfixturevalue("postgres").empty(str(uuid_utils.uuid7()))
        for name, value in request.getfixturevalue("s3").items():
            monkeypatch.setenv(name, value)
        objects = f"s3://spira/{uuid_utils.uuid7()}"
    return opened(tmp_path, database, objects)


@pytest.fixture
def small(tmp_path: Path) -> Ward:
    """The same in a data folder, on the embedded stores."""
    home = tmp_path / "home"
    home.mkdir()
    return opened(home, f"sqlite:///{home / 'spira.db'}", str(home / "collected"))


@pytest.fixture
def spira(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Spira:
    """Run the command line on that data folder: exit code, standard output and error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(["--home", str(tmp_path / "home"), *map(str, arguments)])
        said = capfd.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def opened(folder: Path, database: str, objects: str) -> Ward:
    """A ward on these stores, of a study that was applied in time."""
    tables = Database.open(database, what="the database of a test is away")
    tables.migrate(ROOMS)
    study = parse_document(default_study(), Study, where="default", words=True)
    Studies(tables).apply(study, by="a test")
    with tables.writing() as writing:
        writing.execute(STUDIES.update().values(applied_at=iso(NOW - 72 * HOUR)))
    return Ward(folder, tables, Objects.open(objects, setting="a test"))


def cast_of(ward: Ward) -> dict[str, Side]:
    """People enough of either label for every side, each with a room; and which side that is."""
    wanted = {(side, value): 2 for side in SIDES for value in (88, 97)}
    people: dict[str, Side] = {}
    for number in range(1000):
        side = side_of(pseudonym(number), key=Split().key, fractions=Split().fractions)
        value = next((value for value in (88, 97) if wanted[side, value]), None)
        if value is not None:
            wanted[side, value] -= 1
            people[pseudonym(number)] = side
            ward.visit(pseudonym(number), utterances=("sentence", "ambient_before"))
            ward.says(subject(number), value)
    return people


def sides(spira: Spira, ward: Ward, experiment: Path) -> dict[str, Side]:
    """Where the pipeline puts everybody, and with them their rooms."""
    for stage in ("snapshot", "split"):
        code, _, err = spira("stage", stage, experiment, "--data", STUDY)
        assert code == 0, err
    version = load(ward.store, STUDY)
    (split,) = (one for one in ward.store.list("split") if one.about["dataset"] == version.digest)
    people: dict[str, Side] = dict(pl.read_parquet(split.path("people.parquet")).iter_rows())
    noise = dict(pl.read_parquet(split.path("noise.parquet")).iter_rows())
    whose = dict(version.recordings.select("sha256", "participant_id").iter_rows())
    assert {sha256: people[whose[sha256]] for sha256 in noise} == noise
    assert len(noise) == version.noise.height > 0
    return people


def test_a_snapshot_is_what_was_known_then_whatever_came_since(ward: Ward) -> None:
    """The bytes that devices sent, the labels of then, everything but spoken consents; the same
    version after visits, amendments and corrections, and without who has withdrawn since."""
    every: Sequence[Utterance] = (
        *("consent", "ambient_before", "vowel", "sentence", "ambient_after"),
    )
    sick = ward.visit(pseudonym(1), "123", utterances=every)
    well = ward.visit(pseudonym(2), "124", sex="male", utterances=every)
    ward.visit(pseudonym(3), "125")
    ward.visit(pseudonym(4))
    ward.says(ward.record("123"), 88)
    for number in ("124", "125"):
        ward.says(ward.record(number), 97)

    first = ward.snapshot()

    version = load(ward.store, "ward")
    rows = version.recordings
    assert rows.height == 4 + 4 + 1 + 1
    assert "consent" not in rows["utterance"].to_list()
    labels = dict(rows.select("participant_id", "label").iter_rows())
    assert labels == {pseudonym(1): "present"} | {
        pseudonym(2): "absent",
        pseudonym(3): "absent",
        pseudonym(4): "unknown",
    }
    for sha256 in rows["sha256"]:
        assert version.audio_path(sha256).read_bytes() == ward.sounds[sha256]
    (row,) = rows.filter(visit_id=well, utterance="sentence").to_dicts()
    assert (
        row.items()
        >= {
            "participant_id": pseudonym(2),
            "site": SITE,
            "device": "phone",
            "sex": "male",
            "age": 61,
            "spo2_percent": 93.0,
            "codec": "pcm_s16le",
            "rate_hz": 8_000,
            "pseudonyms": [pseudonym(2)],
        }.items()
    )
    assert datetime.fromisoformat(row["recorded_at"]) == VISITED
    about = version.artifact.about
    assert (about["origin"], about["language"], about["participants"]) == (
        *("import", "pt-BR", "given"),
    )
    assert (about["study"], about["label_policy"], about["withdrawn"]) == (STUDY, "ri-v1", 0)
    verify(ward.store, "ward")
    assert [*ward.folder.glob("w/*")] == []

    ward.visit(pseudonym(5), at=NOW)
    ward.amend(sick, "999", age=16)
    ward.says(ward.record("125"), 80, received=NOW)
    again = ward.snapshot()

    assert (again.digest, again.already_there) == (first.digest, True)
    assert ward.read(datetime.now(UTC)).recordings != ward.read().recordings

    ward.visits.withdraw(STUDY, pseudonym(2), why="asked to", by="x", role="study lead")
    without = ward.snapshot()

    assert without.digest != first.digest
    left = load(ward.store, "ward")
    assert pseudonym(2) not in left.recordings["participant_id"].to_list()
    assert left.collected is not None
    assert (left.collected.withdrawn, left.artifact.about["withdrawn"]) == (4, 4)


def test_rooms_are_kept_at_their_visit_and_are_noise_too(small: Ward) -> None:
    """As in the synthetic hospital: for audits of the background, and to be mixed in; of each site
    a few dozen, with the pseudonyms of those whose rooms they are."""
    for number in range(20):
        small.visit(pseudonym(number), utterances=("ambient_before", "sentence", "ambient_after"))
        small.says(subject(number), 88 if number % 2 else 97)
    small.visit(pseudonym(99), site="site-2", utterances=("ambient_before", "sentence"))

    source = small.read()

    rooms = [row for row in source.recordings if row.utterance.startswith("ambient")]
    assert len(rooms) == 41
    assert {row.label for row in rooms} == {"present", "absent", "unknown"}
    chosen = [row for row in source.recordings if row.noise]
    assert [row.site for row in chosen].count("site-1") == 32
    assert [row.site for row in chosen].count("site-2") == 1
    assert set(chosen) <= set(rooms)
    assert [row for row in small.read().recordings if row.noise] == chosen


def test_who_was_one_person_then_is_one_person(ward: Ward) -> None:
    """Under the first pseudonym, with the others beside it, labelled by any name; a number that is
    put right later changes nothing of that moment."""
    first = ward.visit(pseudonym(2), "123")
    second = ward.visit(pseudonym(1), "12-3")
    ward.says(subject(1), 88)

    then = by_visit(ward.read())
    ward.amend(second, "999")
    again, now = by_visit(ward.read()), by_visit(ward.read(datetime.now(UTC)))

    assert {row.participant for row in then.values()} == {pseudonym(1)}
    assert {row.pseudonyms for row in then.values()} == {(pseudonym(1), pseudonym(2))}
    assert {row.label for row in then.values()} == {"present"}
    assert again == then
    assert now[first].participant == pseudonym(2)
    assert (now[first].label, now[second].label) == ("unknown", "present")
    assert collected(ward.read()).linked == {pseudonym(1): (pseudonym(1), pseudonym(2))}
    assert collected(ward.read(datetime.now(UTC))).linked == {}


def test_a_visit_in_doubt_is_left_out_and_labels_nobody(ward: Ward) -> None:
    """Neither is it in the dataset, nor does its number lend another person's SpO2; it was in
    doubt then, whatever it is now."""
    sure = ward.visit(pseudonym(1), "123")
    doubtful = ward.visit(pseudonym(1), "999")
    other = ward.visit(pseudonym(2), "999")
    ward.says(ward.record("999"), 88)

    source = ward.read()
    ward.amend(doubtful, "123")
    ward.amend(sure, "555")
    again, now = ward.read(), ward.read(datetime.now(UTC))

    assert {visit: row.label for visit, row in by_visit(source).items()} == {
        sure: "unknown",
        other: "present",
    }
    assert {row.participant for row in source.recordings} == {pseudonym(1), pseudonym(2)}
    assert collected(source).doubts == (doubtful,)
    assert again == source
    assert set(by_visit(now)) == {sure, other}  # of two numbers the first visit's counts
    assert collected(now).doubts == (doubtful,)


def test_only_what_may_be_used_is_in_it(small: Ward) -> None:
    """Research consent, then and by now; and made voices never stand beside people's."""
    agreed = small.visit(pseudonym(1))
    refused = small.visit(pseudonym(2), research_consent=False)
    small.visit(pseudonym(3), research_consent=None)
    small.visit(pseudonym(4), synthetic=True)
    taken_back = small.visit(pseudonym(5))
    small.amend(refused, research_consent=True)
    small.amend(taken_back, research_consent=False)

    source, still = small.reading()

    assert set(by_visit(source)) == {agreed}
    assert source.origin == "import"
    assert (collected(source).without_consent, collected(source).synthetic) == (3, 1)
    assert set(by_visit(small.read(datetime.now(UTC)))) == {agreed, refused}
    still()
    small.amend(agreed, research_consent=False)
    with pytest.raises(TransientError, match="or the consent to research"):
        still()
    assert not small.read().recordings


def test_made_voices_alone_are_a_synthetic_dataset(small: Ward) -> None:
    """Whatever is trained on it has the evidence level `synthetic`."""
    made = small.visit(pseudonym(1), synthetic=True)

    source = small.read()

    assert (set(by_visit(source)), source.origin) == ({made}, "synthetic")


def test_what_lies_beside_the_counts(small: Ward) -> None:
    """Where policies differ, why labels are missing, which device said what is not so, and of whom
    two sexes were said."""
    diagnosed = small.visit(pseudonym(1), capture={"codec": "opus"})
    small.visit(pseudonym(2), sex="male", capture={"rate_hz": 48_000})
    small.visit(pseudonym(2), sex="female")
    small.visit(pseudonym(3))
    small.labels.add(
        [
            Entry(
                source="clinician",
                origin="clinicians",
                name="1",
                version="1",
                subject=subject(1),
                issued=VISITED,
                observation=Observation(kind="diagnosis", at=VISITED, code="J96.0"),
            )
        ],
        VISITED,
    )
    small.says(subject(2), 93)

    source = small.read()

    said = collected(source)
    assert (said.visits, said.agreement.differing) == (4, 1)
    assert said.agreement.counts["present"]["unknown"] == 1
    assert said.unknown == {"between": 2, "no_measurement": 1}
    assert {name: counts.total for name, counts in said.mismatches.items()} == {
        "codec": 1,
        "rate": 1,
    }
    assert said.mismatches["codec"].present == 1
    assert said.two_sexes == (pseudonym(2),)
    assert {row.sex for row in source.recordings if row.participant == pseudonym(2)} == {None}
    assert by_visit(source)[diagnosed].sex == "female"
    by_spo2 = small.read(policy="spo2-v1")
    assert by_visit(by_spo2)[diagnosed].label == "unknown"
    assert collected(by_spo2).agreement == said.agreement


def test_who_could_not_finish_is_not_short(small: Ward) -> None:
    """The form says so, and an experiment that excludes short recordings keeps the breathless."""
    breathless = small.visit(pseudonym(1), unfinished=True)
    small.visit(pseudonym(2))
    small.says(subject(1), 88)
    small.says(subject(2), 97)

    small.snapshot()

    rows = load(small.store, "ward").recordings
    short = {visit: "short" in found for visit, found in rows["visit_id", "findings"].iter_rows()}
    assert (short.pop(breathless), [*short.values()]) == (False, [True])


def test_what_the_audio_store_has_lost_is_refused_and_said(ward: Ward) -> None:
    """Missing, or other bytes than were received: a row with its reason, and the rest stands."""
    for number in range(4):
        ward.visit(pseudonym(number))
        ward.says(subject(number), 88 if number % 2 else 97)
    gone, other = (row.file for row in ward.read().recordings[:2])
    ward.objects.delete([gone])
    obstore.put(ward.objects._store, other, noise(1000, 0.6))

    report = ward.snapshot()

    rows = {
        row["file"]: row["reason"] for row in csv.DictReader(report.rejected.decode().splitlines())
    }
    assert rows == {gone: "missing", other: "damaged"}
    assert load(ward.store, "ward").recordings.height == 2


def test_who_withdraws_meanwhile_is_in_no_version(small: Ward) -> None:
    """Checking takes hours: nothing is stored, and the next snapshot is without that person."""
    for number in range(4):
        small.visit(pseudonym(number))
        small.says(subject(number), 88 if number % 2 else 97)

    def leave(what: str, done: int, total: int) -> None:
        small.visits.withdraw(STUDY, pseudonym(0), why="asked to", by="x", role="site")

    with pytest.raises(TransientError, match="withdrawn meanwhile"):
        small.snapshot(progress=leave)

    assert small.store.list("dataset") == []
    small.snapshot()
    assert pseudonym(0) not in load(small.store, "ward").recordings["participant_id"].to_list()


@pytest.mark.parametrize(
    ("study", "policy", "at", "says"),
    [
        ("spira", "ri-v1", NOW + HOUR, "has not passed"),
        ("spira", "ri-v0", THEN, "label policy 'ri-v0': not known"),
        ("spyra", "ri-v1", THEN, "study spyra: there is none; did you mean spira"),
        ("spira", "ri-v1", NOW - 96 * HOUR, "it was not there yet"),
    ],
)
def test_what_cannot_be_frozen_is_said(
    study: str, policy: str, at: datetime, says: str, small: Ward
) -> None:
    """Before anything is read."""
    studies = Studies(small.database)

    with pytest.raises(InputError, match=says):
        read_snapshot(studies, small.visits, small.labels, study, policy, at, now=NOW)


def test_two_pseudonyms_found_to_be_one_person_leave_the_test(
    small: Ward, spira: Spira, tmp_path: Path
) -> None:
    """By command, to the pipeline's stages: whoever was trained on and tested on, as two people,
    goes to training with all rooms, is listed, and moves nobody else."""
    people = cast_of(small)
    (tmp_path / "tiny.yaml").write_text("name: tiny\n")
    then = ("dataset", "snapshot", "--study", STUDY, "--label-policy", "ri-v1", "--as-of")

    code, out, err = spira(*then, THEN.isoformat(), "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["name"], told["about"]["people"]) == (STUDY, len(people))
    assert told["snapshot"]["agreement"]["first"] == "ri-v1"
    before = sides(spira, small, tmp_path / "tiny.yaml")
    assert {person: before[person] for person in people} == people

    trained, tested = (next(one for one in people if people[one] == of) for of in ("train", "test"))
    for visit, row in by_visit(small.read()).items():
        if row.participant in (trained, tested):
            small.amend(visit, "123")
    code, out, err = spira(*then, datetime.now(UTC).isoformat())
    assert code == 0, err
    assert "people known under several pseudonyms: 1" in out
    after = sides(spira, small, tmp_path / "tiny.yaml")

    one = min(trained, tested)
    assert after == {who: before[who] for who in before if who not in (trained, tested)} | {
        one: "train"
    }
    (split,) = (found for found in small.store.list("split") if "linked.json" in found.files)
    assert split.read_json("linked.json") == {one: {trained: "train", tested: "test"}}
    code, out, err = spira("dataset", "show", STUDY)
    assert code == 0, err
    assert "labelled by ri-v1: " in out
    assert "withdrawn: 0 recordings" in out


def test_the_scheduler_trains_on_what_a_name_means_now(small: Ward, tmp_path: Path) -> None:
    """As on imports: a later snapshot under the same name is new data when there are new people;
    one of the same content is the version that was asked for."""
    requests = Requests.open(f"sqlite:///{tmp_path / 'requests.db'}")
    requests.create()
    settings = SchedulingSettings(experiment="tiny", dataset="ward", new_participants=1)
    desk = Desk(small.store, requests, settings)
    tiny = Experiment(name="tiny")

    def meet(number: int, at: datetime) -> None:
        small.visit(pseudonym(number), at=at)
        small.says(subject(number), 88 if number % 2 else 97, at=at, received=at)

    for number in range(2):
        meet(number, VISITED)
    first = small.snapshot()
    assert worth_training(small.store, requests, settings, now=NOW) == "first data"
    asked = desk.ask(Body(by="a test", reason="first data"), experiment=tiny).request
    assert asked.dataset == first.digest
    small.snapshot(THEN + HOUR)
    assert worth_training(small.store, requests, settings, now=NOW) is None

    for number in range(2, 4):
        meet(number, NOW)
    small.snapshot(datetime.now(UTC))

    why = worth_training(small.store, requests, settings, now=NOW)
    assert why == "1 new participants with RI, 1 without"
