"""Clocks that are wrong by a year: of the server, between any two steps, and of a device."""

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uuid_utils
from found import found

from spira.domain.forms import check
from spira.domain.submissions import FormValues, RecordingFile, Submission
from spira.domain.vitals import DEFAULT_VITAL_RULES
from spira.intake import audit
from spira.intake.checking import Found, Refused
from spira.intake.keys import KeyRing
from spira.intake.settings import IntakeSettings
from spira.intake.submissions import Intake, Owner
from spira.intake.sweeping import sweep
from spira.serving.api import shown
from spira.serving.assessments import Assessments
from spira.serving.forms import ASSESSMENT_1
from spira.serving.messages import Ask, Reply
from spira.serving.results import Results
from spira.serving.settings import ServingSettings
from spira.serving.taking import taken
from spira.serving.words import UNCERTAIN_TIME
from spira.stores.database import Database
from spira.stores.objects import Objects

NOW = datetime.now(UTC)  # the objects' own times are those of the disk
MINUTE, YEAR = timedelta(minutes=1), timedelta(days=366)
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)  # what a manifest may say
LATEST = datetime(2199, 12, 31, 23, 59, 59, tzinfo=UTC)
AHEAD, RIGHT, BEHIND = NOW + YEAR, NOW, NOW - YEAR
SOUND = b"the bytes of a recording"
OWNER = Owner("ward", "a secret of the device")


class Checking:
    """Finds every recording good."""

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, *, unfinished: bool = False
    ) -> Found | Refused:
        return found(SOUND[::-1])


class Service:
    """Everything that reads the clock, with one clock for all of it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.now = NOW
        self.database = database
        self.objects = Objects.open(str(folder / "objects"), setting="a test")
        keys = KeyRing.open(folder / "keys")
        self.intake = Intake(
            database, self.objects, Checking(), keys, IntakeSettings(), now=self.clock
        )
        self.assessments = Assessments(database)
        self.results = Results(self.assessments, now=self.clock)

    def clock(self) -> datetime:
        """What it says."""
        return self.now

    def send(self, sent: Submission, device_time: datetime | None = None) -> str | None:
        """Send the manifest, and what is needed then; the receipt."""
        filled = check(ASSESSMENT_1, {"language": "pt-BR"})
        on_accept = taken(DEFAULT_VITAL_RULES, filled, (), "token 1")
        ahead = None if device_time is None else device_time - self.now
        standing = self.intake.commit(sent, OWNER, on_accept, device_ahead=ahead)
        for one in standing.recordings:
            if one.state == "announced":
                self.intake.uploads.append(one.upload, one.offset, SOUND[one.offset :])
        return standing.receipt

    def sweep(self) -> None:
        """One pass."""
        sweep(self.database, self.objects, self.now)

    def lease(self) -> Sequence[Ask]:
        """What the relay would publish."""
        return self.assessments.lease(in_flight=10, lease=MINUTE, now=self.now)

    def shown(self, assessment: str) -> dict[str, Any]:
        """What the site is told."""
        row = self.assessments.about(assessment)
        return shown(row, "spira/1", ServingSettings(), self.now)


@pytest.fixture
def service(database: Database, tmp_path: Path) -> Service:
    """With a clock that is right."""
    return Service(database, tmp_path)


def recorded(at: datetime = NOW) -> Submission:
    """An assessment whose one recording was made then, by the device's clock."""
    file = RecordingFile(
        id=str(uuid_utils.uuid7()),
        utterance="sentence",
        sha256=hashlib.sha256(SOUND).hexdigest(),
        n_bytes=len(SOUND),
        duration_s=6,
        recorded_at=at,
    )
    return Submission(
        kind="assessment",
        id=str(uuid_utils.uuid7()),
        revision=1,
        form=FormValues(id="assessment", version=1, values={}),
        files=(file,),
    )


def test_the_clock_jumps_between_any_two_steps(
    service: Service, reply_to: Callable[..., Reply]
) -> None:
    """A year ahead, a year back, and right again: what was accepted has its receipt, its bytes and
    one answer; what was not yet is sent again, and accepted."""
    jumps = [
        clocks
        for clocks in itertools.product((AHEAD, RIGHT, BEHIND), repeat=4)
        if all(one != other for one, other in itertools.pairwise(clocks))
    ]
    for clocks in jumps:
        sent = recorded()
        announced, accepted, asked, answered = clocks

        service.now = announced
        service.send(sent)
        service.now = accepted
        service.sweep()
        receipt = next(filter(None, (service.send(sent) for _ in range(3))))
        service.now = asked
        service.sweep()
        (ask,) = service.lease()
        service.now = answered
        service.sweep()
        for again in service.lease():  # at another time than it was asked; never for ever
            assert again == ask.model_copy(update={"attempt": 2})
        written = [service.results.write(reply_to(sent.id, 1, 0.9)) for _ in range(2)]

        assert written == [True, False], clocks
        assert service.send(sent) == receipt
        assert service.objects.read(ask.audio) == SOUND[::-1]
        assert service.shown(sent.id)["state"] == "completed"
    with service.database.reading() as tables:
        assert audit.verify(tables) == len(jumps) == 24


@pytest.mark.parametrize("wrong", [AHEAD, BEHIND])
def test_a_lease_of_a_wrong_clock_ends_with_it(service: Service, wrong: datetime) -> None:
    """Its message is lost with the queue, and the clock is set right: it is asked at once."""
    sent = recorded()
    service.send(sent)
    service.send(sent)
    service.now = wrong
    assert len(service.lease()) == 1
    assert service.lease() == []

    service.now = RIGHT

    assert [ask.attempt for ask in service.lease()] == [2]
    assert service.lease() == []


def test_relays_whose_clocks_differ_by_minutes_do_not_ask_in_turns(service: Service) -> None:
    """One takes the other's lease for a long one, not for a wrong one."""
    sent = recorded()
    service.send(sent)
    service.send(sent)
    service.now = NOW + 30 * MINUTE
    assert len(service.lease()) == 1

    service.now = NOW

    assert service.lease() == []


def test_a_deadline_of_a_wrong_clock_costs_an_upload_at_most(service: Service) -> None:
    """What a device goes on sending is never given up by a clock that is right."""
    early, late = recorded(), recorded()
    service.now = BEHIND
    service.send(early)
    service.now = AHEAD
    service.send(late)

    service.now = RIGHT
    service.sweep()

    assert service.intake.commit(early, OWNER, lambda *_: None).recordings[0].offset == 0
    assert service.send(early) is None
    service.sweep()
    assert service.send(early) is not None
    assert service.send(late) is not None


@pytest.mark.parametrize("ahead", [YEAR, -YEAR, timedelta(seconds=-40), timedelta(0)])
def test_when_it_was_recorded_is_corrected_by_the_clock_of_the_device(
    service: Service, ahead: timedelta
) -> None:
    """Recorded three hours ago, by whatever clock: old, and told so, and in its place in line."""
    true = NOW - timedelta(hours=3)
    fresh, sent = recorded(NOW), recorded(true + ahead)
    for one, device_time in ((fresh, NOW), (sent, NOW + ahead)):
        service.send(one, device_time)
        assert service.send(one, device_time)

    told = service.shown(sent.id)

    assert datetime.fromisoformat(told["recorded_at"]) == true
    assert told["stale"]["pt"].startswith("Gravado há 3 h, sem resultado.")
    assert service.shown(fresh.id)["stale"] is None
    assert [ask.assessment for ask in service.lease()] == [fresh.id, sent.id]


@pytest.mark.parametrize(
    ("recorded_at", "device_time"),
    [
        (LATEST, None),
        (LATEST, NOW),
        (LATEST, datetime.min.replace(tzinfo=UTC)),
        (EARLIEST, datetime.max.replace(tzinfo=UTC)),
        (datetime.fromisoformat("2199-12-31T23:59:59+14:00"), NOW),
        (AHEAD, None),
        (AHEAD, NOW),
    ],
)
def test_a_time_that_cannot_be_is_told_as_uncertain_and_blocks_nobody(
    service: Service, recorded_at: datetime, device_time: datetime | None
) -> None:
    """No correction makes it right: it is accepted, answered, and shown with a warning."""
    sent, other = recorded(recorded_at), recorded(NOW - MINUTE)
    for one, its in ((sent, device_time), (other, NOW)):
        service.send(one, its)
        assert service.send(one, its)

    assert service.shown(sent.id)["stale"] == UNCERTAIN_TIME.model_dump()
    assert service.shown(other.id)["stale"] is None
    assert [ask.assessment for ask in service.lease()] == [other.id, sent.id]


def test_a_time_of_long_ago_is_old(service: Service) -> None:
    """A phone that has forgotten the time begins in 1970."""
    sent = recorded(EARLIEST)
    service.send(sent, NOW)
    assert service.send(sent, NOW)
    assert service.shown(sent.id)["stale"]["pt"].startswith("Gravado há 20")


def test_the_audit_is_whole_though_its_times_go_back(service: Service) -> None:
    """Its order is that of its numbers; each time is what the server's clock said."""
    for now in (AHEAD, BEHIND, RIGHT):
        service.now = now
        sent = recorded()
        service.send(sent)
        service.send(sent)

    with service.database.reading() as tables:
        assert audit.verify(tables) == 3
        rows = [json.loads(line) for line in audit.export(tables)]
    assert [datetime.fromisoformat(row["at"]) for row in rows] == [AHEAD, BEHIND, RIGHT]
