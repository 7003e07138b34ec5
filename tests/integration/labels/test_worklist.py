"""The worklist on both databases: a person decides, once, and nobody guesses."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from spira.domain.errors import InputError
from spira.domain.labels import Asked, Entry, Observation
from spira.labels.store import Labels
from spira.labels.worklist import Item, Proposal, Worklist

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ANA, BIA = "participant:study/ana", "participant:study/bia"
Make = Callable[..., Entry]


@pytest.fixture
def worklist(labels: Labels) -> Worklist:
    """An empty worklist."""
    return Worklist(labels)


def item(reason: Any = "ambiguous", **changes: Any) -> Item:
    """SpO2 of 88 % at noon that may be of two people, unless told."""
    given: dict[str, Any] = {
        "source": "hospital",
        "origin": "hc",
        "name": "obs-1",
        "version": "1",
        "issued": NOON,
        "observation": Observation(kind="spo2", at=NOON, value=88, breathing="room_air"),
    }
    more = {name: changes.pop(name) for name in ("candidates", "detail") if name in changes}
    return Item(reason=reason, proposal=Proposal(**given | changes), **more)


def share(**changes: Any) -> Item:
    """An SpO2 that came as a share, of somebody who is known."""
    said = Observation(kind="spo2", at=NOON, value=0.93, breathing="room_air")
    detail = {"unit": "%", "value": 0.93}
    return item("impossible", subject=ANA, observation=said, detail=detail, **changes)


def decide(worklist: Worklist, number: int = 1, **how: Any) -> Entry:
    """Ana's decision."""
    given: dict[str, Any] = {"who": "ana", "why": "asked the ward", "at": NOON + HOUR}
    return worklist.resolve(number, **given, also=lambda _: None, **how)


def discard(worklist: Worklist, number: int = 1) -> None:
    """Ana's decision not to use it."""
    worklist.discard(number, who="ana", why="a test", at=NOON + HOUR, also=lambda _: None)


def label(labels: Labels, subject: str = ANA, at: datetime = NOON + 9 * HOUR) -> str:
    """Of a recording at noon."""
    asked = Asked(recording="r", subjects=(subject,), recorded_at=NOON, uncertainty_s=0)
    return labels.as_of([asked], "ri-v1", at)[0].label


def test_an_item_is_listed_as_it_came_until_a_person_decides(
    worklist: Worklist, labels: Labels
) -> None:
    """Nothing is used meanwhile; decided, it is somebody's, and known from then on."""
    given = item(candidates=(ANA, BIA), detail={"system": "prontuario"})
    assert worklist.put([given], NOON) == 1

    (listed,) = worklist.list()
    assert (listed.number, listed.item, listed.received) == (1, given, NOON)
    assert (label(labels, ANA), label(labels, BIA)) == ("unknown", "unknown")

    decide(worklist, subject=BIA)

    assert worklist.list() == ()
    (listed,) = worklist.list(resolved=True)
    assert listed.resolution is not None
    assert (listed.resolution.how, listed.resolution.who) == ("assigned", "ana")
    assert (label(labels, ANA), label(labels, BIA)) == ("unknown", "present")
    assert label(labels, BIA, NOON) == "unknown"


@pytest.mark.parametrize("how", ["discarded", "assigned", "open"])
def test_the_same_again_is_no_second_item(worklist: Worklist, how: str) -> None:
    """Decided or not; also in another version, with other candidates, from another file."""
    worklist.put([item(), item()], NOON)
    if how == "discarded":
        discard(worklist)
    elif how == "assigned":
        decide(worklist, subject=ANA)

    again = [
        item(),
        item(version="2", issued=NOON + HOUR, candidates=(BIA,)),
        item(version="3", issued=NOON + 2 * HOUR, evidence="another file"),
    ]

    assert worklist.put(again, NOON + HOUR) == 0
    assert len(worklist.list()) == (how == "open")


def test_what_is_preliminary_waits_for_what_is_not(worklist: Worklist) -> None:
    """Then it is an item, also where it says the same."""
    assert worklist.put([item(version="0", status="preliminary", issued=NOON - HOUR)], NOON) == 0
    assert worklist.put([item()], NOON) == 1
    assert worklist.put([item(version="2", status="preliminary", issued=NOON + HOUR)], NOON) == 0

    assert [one.item for one in worklist.list()] == [item()]


def test_something_else_is_another_item_and_ends_the_older_one(worklist: Worklist) -> None:
    """In whatever order they come; what was said first and comes late is not said again."""
    worklist.put([share(), item(version="0", issued=NOON - HOUR)], NOON)
    assert [one.item for one in worklist.list()] == [share()]
    other = Observation(kind="spo2", at=NOON, value=0.95, breathing="room_air")
    later = share(version="2", issued=NOON + HOUR).model_copy(update={"detail": {"value": 0.95}})
    later = later.model_copy(
        update={"proposal": later.proposal.model_copy(update={"observation": other})}
    )

    assert worklist.put([later], NOON + HOUR) == 1
    assert worklist.put([share()], NOON + 2 * HOUR) == 0
    assert [one.item for one in worklist.list()] == [later]

    assert worklist.put([share(version="3", issued=NOON + 2 * HOUR)], NOON + 2 * HOUR) == 1
    assert [one.item.proposal.version for one in worklist.list()] == ["3"]


def test_what_is_right_stands_in_a_version_of_its_own(
    worklist: Worklist, labels: Labels, entry: Make
) -> None:
    """The source's own later word supersedes it, and its old version may still come."""
    worklist.put([share()], NOON)

    made = decide(worklist, value=93.0)

    assert (made.version, made.subject) == ("1+item-1", ANA)
    assert label(labels) == "unknown"  # between the cut-offs
    assert labels.add([entry(subject=ANA, value=93)], NOON + 2 * HOUR) == 1
    labels.add([entry(version="2", subject=ANA, issued=NOON + HOUR)], NOON + 3 * HOUR)
    assert label(labels) == "present"


def test_a_code_of_another_system_is_corrected_by_a_code(
    worklist: Worklist, labels: Labels
) -> None:
    """J96.01 is not CID-10; it cannot be kept by assigning it."""
    said = Observation(kind="diagnosis", at=NOON, code="J96.01")
    worklist.put([item("code", observation=said, candidates=(ANA,))], NOON)

    for wrong in (
        {"subject": ANA},
        {"subject": ANA, "value": "J96.01"},
        {"subject": ANA, "value": 96.0},
    ):
        with pytest.raises(InputError, match=r"cannot be true|needs a code"):
            decide(worklist, **wrong)
    assert len(worklist.list()) == 1

    decide(worklist, subject=ANA, value="J96.0")

    assert label(labels) == "present"


def test_what_is_missing_is_asked_for(worklist: Worklist) -> None:
    """Whose it is; and of what nobody can read nothing is made."""
    worklist.put([item(), item("unreadable", name="obs-2", observation=None)], NOON)

    with pytest.raises(InputError, match="say whose it is"):
        decide(worklist, value=93.0)
    with pytest.raises(InputError, match="can only be discarded"):
        decide(worklist, 2, subject=ANA)
    with pytest.raises(InputError, match="item 3: is not open"):
        discard(worklist, 3)
    assert len(worklist.list()) == 2


def test_what_has_become_known_by_itself_is_done_with(
    worklist: Worklist, labels: Labels, entry: Make
) -> None:
    """Its participant was registered meanwhile, or the source has corrected it."""
    worklist.put([item("unmatched"), item(name="obs-2"), item(name="obs-3")], NOON)

    labels.add(
        [
            entry(subject=ANA),
            entry("obs-2", "2", issued=NOON + HOUR),
            entry("obs-3", "0", issued=NOON - HOUR),
        ],
        NOON + HOUR,
    )

    assert [one.item.proposal.name for one in worklist.list()] == ["obs-3"]


def test_a_version_that_says_something_else_waits_for_a_person(
    worklist: Worklist, labels: Labels, entry: Make
) -> None:
    """What is in the store stands until then."""
    labels.add([entry(subject=ANA)], NOON)
    said = Observation(kind="spo2", at=NOON, value=97, breathing="room_air")
    worklist.put([item("conflict", subject=ANA, observation=said)], NOON)

    assert (len(worklist.list()), label(labels)) == (1, "present")

    decide(worklist, subject=ANA)

    assert (len(worklist.list()), label(labels)) == (0, "absent")


def test_what_is_taken_back_until_a_person_decides_is_open_and_then_counts(
    worklist: Worklist, labels: Labels, entry: Make
) -> None:
    """A correction that cannot be used: what it corrects counts no longer, it not yet."""
    labels.add([entry(subject=ANA)], NOON)
    corrected = share(version="2", issued=NOON + HOUR)
    worklist.put([corrected], NOON + HOUR)
    labels.add(
        [entry(version="2", subject=ANA, status="retracted", issued=NOON + HOUR)], NOON + HOUR
    )
    assert (len(worklist.list()), label(labels)) == (1, "unknown")

    decide(worklist, value=85.0)

    assert (len(worklist.list()), label(labels)) == (0, "present")


def test_what_is_said_again_stands_until_something_else_counts(
    worklist: Worklist, labels: Labels, entry: Make
) -> None:
    """Open or decided; not where the source has said something that counts in between."""
    again = share(version="2", issued=NOON + HOUR)
    assert worklist.stands([share()], NOON) == (False,)

    worklist.put([share()], NOON)
    assert worklist.stands([again, item()], NOON + HOUR) == (True, False)
    decide(worklist, value=85.0)
    assert worklist.stands([again], NOON + HOUR) == (True,)

    labels.add([entry(version="2", subject=ANA, issued=NOON + HOUR)], NOON + 2 * HOUR)
    assert worklist.stands([again], NOON + 2 * HOUR) == (False,)


def test_what_is_taken_back_is_nothing_to_decide(worklist: Worklist, labels: Labels) -> None:
    """Open items end; what a person had assigned is taken back for that person."""
    worklist.put([item(), item(name="obs-2"), item(name="obs-3", status="preliminary")], NOON)
    decide(worklist, subject=ANA)
    assert label(labels) == "present"

    gone = [
        item(version="2", name=name, status="retracted", observation=None, issued=NOON + HOUR)
        for name in ("obs-1", "obs-2")
    ]
    for _ in range(2):
        assert worklist.put(gone, NOON + 2 * HOUR) == 0

    assert worklist.list() == ()
    assert label(labels) == "unknown"
    assert label(labels, at=NOON + HOUR) == "present"


def test_one_of_two_who_decide_at_once_is_told(worklist: Worklist, labels: Labels) -> None:
    """And only one decision is kept."""
    worklist.put([item()], NOON)

    def attempt(subject: str) -> str:
        try:
            return decide(worklist, subject=subject).subject
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(attempt, [ANA, BIA] * 2))

    (kept,) = [one for one in told if one.startswith("participant:")]
    assert all("item 1" in one for one in told if one != kept)
    assert [label(labels, one) for one in (ANA, BIA)].count("present") == 1
    assert label(labels, kept) == "present"


def test_a_decision_stands_or_falls_with_its_audit(worklist: Worklist, labels: Labels) -> None:
    """Without the one there is not the other."""
    worklist.put([item()], NOON)

    def fail(_: sa.Connection) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        worklist.resolve(1, subject=ANA, who="ana", why="x", at=NOON, also=fail)

    assert (len(worklist.list()), label(labels)) == (1, "unknown")
