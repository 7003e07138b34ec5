"""The Label Store on SQLite and on a real PostgreSQL: it says what was known, and when."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from spira.domain.errors import InputError
from spira.domain.label_policies import POLICIES, Fact
from spira.domain.labels import Asked, Decided, Entry, Observation
from spira.intake.keys import KeyRing
from spira.labels.store import Known, Labels, VersionConflict, named
from spira.stores.database import Database

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
SECOND = timedelta(seconds=1)
Make = Callable[..., Entry]
QUESTIONS: tuple[tuple[str, Known], ...] = (
    ("ri-v1", "receipt"),
    ("spo2-v1", "receipt"),
    ("ri-v1", "issue"),
)


def ask(*subjects: str, at: datetime = NOON, uncertainty_s: float = 0) -> Asked:
    """A recording of a person."""
    return Asked(
        recording="r-1",
        subjects=subjects or ("participant:study/p-1",),
        recorded_at=at,
        uncertainty_s=uncertainty_s,
    )


def label(labels: Labels, at: datetime, *subjects: str, by: Known = "receipt") -> str:
    """The label of one recording at noon under ri-v1."""
    return labels.as_of([ask(*subjects)], "ri-v1", at, by=by)[0].label


# ---- adding


def test_the_same_version_again_is_no_second(labels: Labels, entry: Make) -> None:
    """However often it comes, also twice at once, or from another file."""
    one, other = entry(), entry("obs-2")

    assert labels.add([one, one], NOON) == 1
    assert labels.add([one, other], NOON + HOUR) == 1
    assert labels.add([one.model_copy(update={"evidence": "another file"}), other], NOON) == 0
    assert [version.received for version in labels.versions([one.subject], NOON + HOUR)] == [
        NOON,
        NOON + HOUR,
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"value": 97},
        {"subject": "participant:study/p-2"},
        {"status": "corrected"},
        {"issued": NOON - HOUR},
        {"breathing": None},
        {"source": "import"},
    ],
    ids=["value", "subject", "status", "issued", "breathing", "source"],
)
def test_a_version_that_says_something_else_is_refused_by_name(
    labels: Labels, entry: Make, changes: dict[str, Any]
) -> None:
    """With every other one of the same kind, and nothing beside it is added."""
    labels.add([entry(), entry("obs-2")], NOON)

    with pytest.raises(VersionConflict) as refused:
        labels.add([entry("obs-3"), entry(**changes), entry("obs-2", **changes)], NOON)

    assert [named(one) for one in refused.value.entries] == ["hc/obs-1/1", "hc/obs-2/1"]
    assert "entry hc/obs-1/1: the store has this version" in refused.value.mistakes[0]
    assert len(labels.versions(["participant:study/p-1"], NOON)) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"value": 0.93},
        {"kind": "diagnosis", "value": None, "code": "J96.01", "breathing": None},
        {"at": NOON + HOUR},
        {"issued": NOON + HOUR},
    ],
    ids=["share", "icd-10-cm", "future", "issued in the future"],
)
def test_what_cannot_be_true_is_not_added(
    labels: Labels, entry: Make, changes: dict[str, Any]
) -> None:
    """It is for the worklist."""
    with pytest.raises(InputError, match="entry hc/obs-1/1: cannot be true"):
        labels.add([entry(**changes), entry("obs-2")], NOON)

    assert labels.versions(["participant:study/p-1"], NOON) == ()


def test_what_is_done_with_it_stands_or_falls_with_it(labels: Labels, entry: Make) -> None:
    """An error of what shares the transaction takes the entries back."""

    def fail(_: sa.Connection) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        labels.add([entry()], NOON, also=fail)

    assert labels.versions(["participant:study/p-1"], NOON) == ()


@pytest.mark.parametrize(
    "statement", ["UPDATE labels_entries SET value = 97", "DELETE FROM labels_entries"]
)
def test_entries_are_never_changed_or_deleted(labels: Labels, entry: Make, statement: str) -> None:
    """The database refuses, whoever asks."""
    labels.add([entry()], NOON)

    with (
        labels.database.writing() as tables,
        pytest.raises(sa.exc.DBAPIError, match="append-only"),
    ):
        tables.execute(sa.text(statement))

    assert label(labels, NOON) == "present"


def test_many_that_add_the_same_at_once_add_it_once(labels: Labels, entry: Make) -> None:
    """Each is told how much was new of its own."""
    batches = [[entry(f"obs-{n}") for n in range(start, start + 60)] for start in (0, 20, 40, 0)]

    with ThreadPoolExecutor(4) as pool:
        new = list(pool.map(lambda batch: labels.add(batch, NOON), batches))

    assert sum(new) == 100
    assert len(labels.versions(["participant:study/p-1"], NOON)) == 100


# ---- versions


def test_preliminary_waits(labels: Labels, entry: Make) -> None:
    """It is kept and not used, and what was said before stands."""
    labels.add([entry(status="preliminary")], NOON)
    labels.add([entry("obs-2", at=NOON + MINUTE)], NOON + HOUR)
    labels.add(
        [entry("obs-2", "2", status="preliminary", value=97, issued=NOON + HOUR)], NOON + 2 * HOUR
    )

    assert label(labels, NOON) == "unknown"
    assert label(labels, NOON + HOUR) == "present"
    assert label(labels, NOON + 2 * HOUR) == "present"
    assert [
        version.in_force for version in labels.versions([entry().subject], NOON + 2 * HOUR)
    ] == [
        False,
        False,
        True,
    ]


def test_a_correction_supersedes_and_a_retraction_takes_back(labels: Labels, entry: Make) -> None:
    """From our receipt on, or from its issue on, as is asked."""
    labels.add([entry()], NOON)
    labels.add(
        [entry(version="2", status="corrected", value=97, issued=NOON + MINUTE)], NOON + HOUR
    )
    labels.add([entry(version="3", status="retracted", issued=NOON + 2 * MINUTE)], NOON + 2 * HOUR)

    received = [label(labels, NOON + n * HOUR) for n in range(3)]
    issued = [label(labels, NOON + n * MINUTE, by="issue") for n in range(3)]

    assert label(labels, NOON - SECOND) == "unknown"
    assert received == issued == ["present", "absent", "unknown"]


def test_a_version_that_arrives_late_changes_nothing_later(labels: Labels, entry: Make) -> None:
    """The one issued last is in force, in whatever order they came."""
    labels.add([entry(version="2", value=97, issued=NOON + MINUTE)], NOON + MINUTE)
    labels.add([entry()], NOON + HOUR)

    assert label(labels, NOON + HOUR) == "absent"


def test_of_two_issued_together_the_one_received_last_is_in_force(
    labels: Labels, entry: Make
) -> None:
    """Even within one call."""
    labels.add([entry(), entry(version="2", value=97)], NOON)

    assert label(labels, NOON) == "absent"


def test_a_correction_may_say_it_was_another_person_or_another_time(
    labels: Labels, entry: Make
) -> None:
    """Then it is no longer about the first."""
    labels.add([entry(), entry("obs-2", subject="participant:study/p-3")], NOON)
    labels.add(
        [entry(version="2", subject="participant:study/p-2", issued=NOON + MINUTE)], NOON + HOUR
    )
    labels.add(
        [
            entry(
                "obs-2",
                "2",
                at=NOON - 5 * HOUR,
                subject="participant:study/p-3",
                issued=NOON + MINUTE,
            )
        ],
        NOON + HOUR,
    )

    assert [label(labels, NOON + HOUR, f"participant:study/p-{n}") for n in (1, 2, 3)] == [
        "unknown",
        "present",
        "unknown",
    ]


def test_several_subjects_are_one_person(labels: Labels, entry: Make) -> None:
    """What is said of either is said of both; of others it is not."""
    labels.add(
        [
            entry(subject="participant:study/p-1", at=NOON - 50 * MINUTE),
            entry("obs-2", subject="participant:study/p-2", value=97),
        ],
        NOON,
    )

    assert label(labels, NOON, "participant:study/p-1") == "present"
    assert label(labels, NOON, "participant:study/p-1", "participant:study/p-2") == "absent"
    assert label(labels, NOON, "participant:study/p-3") == "unknown"


def test_more_recordings_than_fit_in_one_query_keep_their_order(
    labels: Labels, entry: Make
) -> None:
    """2,300 at once."""
    labels.add(
        [
            entry(f"obs-{n}", subject=f"participant:study/p-{n}", value=85 if n % 2 else 97)
            for n in range(2300)
        ],
        NOON,
    )

    decided = labels.as_of([ask(f"participant:study/p-{n}") for n in range(2300)], "spo2-v1", NOON)

    assert [one.label for one in decided] == ["absent", "present"] * 1150
    assert decided[-1].evidence == ("hc/obs-2299/1",)


def test_times_at_the_ends_of_the_calendar_are_times(labels: Labels, entry: Make) -> None:
    """A clock that is wrong by everything gives a label that depends on it."""
    labels.add([entry()], NOON)
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)

    decided = labels.as_of([ask(at=first), ask(at=last), ask(uncertainty_s=1e308)], "ri-v1", NOON)

    assert [one.reason for one in decided] == ["no_measurement", "no_measurement", "clock"]


def test_whatever_a_policy_may_look_at_is_found(labels: Labels, entry: Make) -> None:
    """As far as a wrong clock reaches; and what once known is known, however long ago it ended."""
    labels.add(
        [
            entry(at=NOON - 5 * HOUR),
            entry("obs-2", subject="participant:study/p-2", value=97),
            entry(
                "obs-3",
                kind="paco2",
                value=60,
                at=NOON - 900 * HOUR,
                until=NOON - 899 * HOUR,
                breathing=None,
                subject="participant:study/p-2",
            ),
        ],
        NOON,
    )

    decided = labels.as_of(
        [ask(uncertainty_s=6 * 3600), ask("participant:study/p-2")], "ri-v1", NOON
    )

    assert [one.reason for one in decided] == ["clock", "co2_retention"]


def test_two_policies_are_compared_over_recordings(labels: Labels, entry: Make) -> None:
    """As each says of each."""
    labels.add(
        [
            entry(value=97),
            entry("icd", kind="diagnosis", value=None, code="J80", breathing=None),
            entry("obs-2", subject="participant:study/p-2"),
        ],
        NOON,
    )
    asked = [ask(f"participant:study/p-{n}") for n in (1, 2, 3)]

    table = labels.compare(asked, "ri-v1", "spo2-v1", NOON)

    assert (table.total, table.differing) == (3, 1)
    assert table.counts["present"] == {"present": 1, "absent": 1, "unknown": 0}


# ---- keys


def test_entries_under_an_old_hash_are_found_after_a_rotation(
    database: Database, tmp_path: Path, entry: Make
) -> None:
    """By whichever hash is asked, before and after entries under the new one; once each."""
    ring = KeyRing.open(tmp_path / "keys")
    labels = Labels(database, lambda subject: f"record:{ring.wrapped(subject[7:])}")
    hashes = [f"record:{ring.hash_record('hc', '123')}"]
    labels.add([entry(subject=hashes[0])], NOON)
    ring.rotate("records", "hc")
    hashes.append(f"record:{ring.hash_record('hc', '123')}")

    assert [label(labels, NOON, one) for one in hashes] == ["present", "present"]

    labels.add([entry("obs-2", subject=hashes[1], at=NOON + MINUTE, value=97)], NOON + HOUR)
    ring.rotate("records", "hc")
    hashes.append(f"record:{ring.hash_record('hc', '123')}")
    assert labels.add([entry(subject=hashes[2])], NOON + HOUR) == 0  # it is there
    labels.add([entry("obs-3", subject=hashes[2], at=NOON + 2 * MINUTE)], NOON + HOUR)

    for asked in ([one] for one in hashes), (hashes,):
        for some in asked:
            assert len(labels.versions(some, NOON + HOUR)) == 3
    with pytest.raises(VersionConflict):
        labels.add([entry(subject=f"record:{ring.hash_record('hc', '124')}")], NOON + HOUR)


# ---- a random history, against a plain model


class Model:
    """The same in memory: every version and when it came."""

    def __init__(self) -> None:
        self.received: list[tuple[datetime, Entry]] = []

    def known(self, at: datetime, by: Known) -> list[Entry]:
        """What was in force, as was known at a moment."""
        last: dict[str, Entry] = {}
        for received, entry in sorted(self.received, key=lambda pair: pair[1].issued):
            known = received if by == "receipt" else entry.issued
            if known <= at and entry.status != "preliminary":
                last[entry.name] = entry
        return list(last.values())

    def decide(self, known: list[Entry], one: Asked, policy: str) -> Decided:
        """What a policy makes of it."""
        facts = [
            Fact(
                named(entry), said.kind, said.at, said.until, said.value, said.code, said.breathing
            )
            for entry in known
            if (said := entry.observation) is not None and entry.subject in one.subjects
        ]
        return POLICIES[policy].decide(facts, one.recorded_at, one.uncertainty_s)


def observed(rng: random.Random) -> Observation:
    """Anything, within hours of noon."""
    at = NOON + rng.randint(-20, 20) * 15 * MINUTE
    until = at + rng.randint(0, 8) * 15 * MINUTE if rng.random() < 0.4 else None
    kind = rng.choice(
        ["spo2"] * 5 + ["diagnosis", "support", "judgement", "paco2", "pao2", "oxygen_flow"]
    )
    if kind == "diagnosis":
        at -= rng.choice([0, 24, 2000]) * HOUR
    said: dict[str, Any] = {
        "spo2": {
            "value": rng.choice([85, 93, 97]),
            "breathing": rng.choice(["room_air"] * 4 + [None, "oxygen"]),
        },
        "pao2": {"value": rng.choice([50, 80])},
        "paco2": {"value": rng.choice([40, 40, 60])},
        "oxygen_flow": {"value": rng.choice([0, 2])},
        "diagnosis": {"code": rng.choice(["J96.0", "J96.1", "J96", "I50.0"])},
        "support": {"code": rng.choice(["none", "none", "oxygen"])},
        "judgement": {"code": rng.choice(["present", "absent", "unknown"])},
    }[kind]  # type: ignore[index]
    return Observation(kind=kind, at=at, until=until, **said)  # type: ignore[arg-type]


def history(rng: random.Random) -> list[tuple[datetime, list[Entry]]]:
    """Batches as they come: versions of many entries, late, doubled and out of order."""
    people = [f"participant:study/p-{n}" for n in range(4)]
    versions: list[tuple[datetime, Entry]] = []
    for number in range(30):
        issued, subject = NOON + rng.randint(0, 300) * MINUTE, rng.choice(people)
        for version in range(rng.choice([1, 1, 2, 3, 4])):
            status = "final" if version == 0 else rng.choice(["amended", "corrected", "retracted"])
            if rng.random() < 0.15:
                status = "preliminary"
            if rng.random() < 0.05:
                subject = rng.choice(people)
            entry = Entry(
                source="hospital",
                origin="hc",
                name=f"obs-{number}",
                version=str(version),
                status=status,  # type: ignore[arg-type]
                subject=subject,
                issued=issued,
                observation=None if status == "retracted" else observed(rng),
            )
            late = [rng.choice([0, 1, 90, 400]) for _ in range(1 + (rng.random() < 0.1))]
            versions += [(issued + minutes * MINUTE, entry) for minutes in late]
            issued += rng.choice([0, 7, 45]) * MINUTE
    moments = sorted({received for received, _ in versions})
    return [(moment, [entry for at, entry in versions if at == moment]) for moment in moments]


def test_the_store_says_what_a_plain_model_says_at_every_instant(labels: Labels) -> None:
    """A random history, at every moment at which anything changed, a second before and after."""
    rng = random.Random(1)
    model = Model()
    moments: set[datetime] = set()
    lost = 0
    for received, entries in history(rng):
        # Of two issued together the later one received counts: the model keeps that order, too.
        known = {named(entry) for _, entry in model.received}
        new = {named(entry): entry for entry in entries if named(entry) not in known}
        assert labels.add(entries, received + 300 * MINUTE) == len(new)
        model.received += [(received + 300 * MINUTE, entry) for entry in new.values()]
        lost += len(entries) - len(new)
        moments |= {received + 300 * MINUTE, *(entry.issued for entry in entries)}
    asked = [
        Asked(
            recording=f"r-{n}",
            subjects=tuple(
                rng.sample([f"participant:study/p-{n}" for n in range(4)], rng.choice([1, 1, 2]))
            ),
            recorded_at=NOON + rng.randint(-200, 200) * MINUTE,
            uncertainty_s=rng.choice([0, 0, 60, 1800]),
        )
        for n in range(16)
    ]

    found: set[str] = set()
    for moment in sorted(moments):
        for at in (moment - SECOND, moment, moment + SECOND):
            for policy, by in QUESTIONS:
                known = model.known(at, by)
                for one, said in zip(asked, labels.as_of(asked, policy, at, by=by), strict=True):
                    assert said == model.decide(known, one, policy)
                    found.add(said.reason)

    assert lost > 2
    assert len(found) >= 9  # it was no history of nothing
