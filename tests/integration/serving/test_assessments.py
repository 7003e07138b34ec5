"""Assessments on real databases: what is asked next, what comes back, what is told of changes."""

import getpass
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from spira.domain.errors import IntegrityError
from spira.intake import audit
from spira.intake.keys import KeyRing
from spira.intake.tokens import Tokens
from spira.model.prediction import NOT_SCORED
from spira.serving.answers import Answer
from spira.serving.assessments import Assessments, record_keys
from spira.serving.messages import Ask, Reply
from spira.serving.results import Results
from spira.stores.database import Database

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

Waits = Callable[..., str]
Replies = Callable[..., Reply]


@pytest.fixture
def assessments(database: Database) -> Assessments:
    """None yet."""
    return Assessments(database)


@pytest.fixture
def results(assessments: Assessments) -> Results:
    """Writes at NOW."""
    return Results(assessments, now=lambda: NOW)


def lease(assessments: Assessments, n: int = 100, now: datetime = NOW) -> Sequence[Ask]:
    """Lease for a minute, so that no more than `n` are under way."""
    return assessments.lease(in_flight=n, lease=MINUTE, now=now)


def ids(asks: Sequence[Ask]) -> list[str]:
    """Of which assessments."""
    return [ask.assessment for ask in asks]


def said(assessments: Assessments, assessment: str) -> tuple[str, float | None]:
    """State, and the probability that was written down."""
    row = assessments.about(assessment)
    assert row is not None
    answer = json.loads(row.answer or "{}")
    return row.state, answer.get("scored", {}).get("probability")


def audited(database: Database, what: str, role: str = "site") -> list[tuple[str, str, str | None]]:
    """(who, which, why) of what was done in a role, from an audit that is whole."""
    with database.reading() as tables:
        audit.verify(tables)
        rows = [json.loads(line) for line in audit.export(tables)]
    told = [row for row in rows if (row["what"], row["role"]) == (what, role)]
    return [(row["who"], row["which"], row["why"]) for row in told]


# --- what is asked next -------------------------------------------------------------------------


def test_who_waits_at_a_bed_is_asked_first_then_the_oldest(
    assessments: Assessments, wait_for_answer: Waits
) -> None:
    """Under 15 minutes old: the first recorded first; a time in the future is none of them."""
    old, fresh, older, fresher = (
        wait_for_answer(number, minutes=minutes)
        for number, minutes in enumerate((16, 14, 600, 1), start=1)
    )
    ahead = wait_for_answer(5, minutes=-600)  # by its device's clock; accepted at NOW

    assert ids(lease(assessments)) == [fresh, fresher, ahead, older, old]


def test_sites_take_turns(assessments: Assessments, wait_for_answer: Waits) -> None:
    """A ward that comes back with a hundred does not keep the others waiting; whoever is asked
    at once has had a turn."""
    many = [wait_for_answer(number, minutes=900 - number) for number in range(4)]
    few = [wait_for_answer(10 + number, minutes=60, site="clinic") for number in range(2)]
    urgent = wait_for_answer(20, minutes=3, site="clinic")

    asked = ids(lease(assessments, 5))

    assert asked == [urgent, many[0], many[1], few[0], many[2]]
    assert ids(lease(assessments)) == [many[3], few[1]]


def test_no_more_are_under_way_than_may_be(
    assessments: Assessments, results: Results, wait_for_answer: Waits, reply_to: Replies
) -> None:
    """An answer makes room for one; a lease that has run out is another attempt."""
    waiting = [wait_for_answer(number, minutes=100 - number) for number in range(5)]

    assert ids(lease(assessments, 3)) == waiting[:3]
    assert lease(assessments, 3) == []
    results.write(reply_to(waiting[1]))
    assert ids(lease(assessments, 3)) == waiting[3:4]
    again = lease(assessments, 3, NOW + MINUTE)
    assert [(ask.assessment, ask.attempt) for ask in again] == [
        (waiting[0], 2),
        (waiting[2], 2),
        (waiting[3], 2),
    ]


def test_a_lease_that_is_given_back_is_free_at_once(
    assessments: Assessments, wait_for_answer: Waits
) -> None:
    """Unless somebody else has taken it since."""
    one, other = wait_for_answer(1, minutes=50), wait_for_answer(2, minutes=40)
    early = lease(assessments, 1)

    assessments.release(early)
    late = lease(assessments, 2)
    assessments.release(early)

    assert [(ask.assessment, ask.attempt) for ask in late] == [(one, 2), (other, 1)]
    assert lease(assessments, 100) == []


def test_relays_at_once_lease_nothing_twice_and_no_more_than_may_be(
    assessments: Assessments, wait_for_answer: Waits
) -> None:
    """Whoever counts what is under way counts what the others have just taken."""
    for number in range(40):
        wait_for_answer(number, minutes=90 - number, site=f"ward-{number % 3}")
    leased: list[str] = []
    for most in (7, 16, 40):
        found: list[str] = []
        together = threading.Barrier(4)

        def relay() -> None:
            together.wait()  # noqa: B023
            for _ in range(3):
                found.extend(ids(lease(assessments, most)))  # noqa: B023

        relays = [threading.Thread(target=relay) for _ in range(4)]
        for one in relays:
            one.start()
        for one in relays:
            one.join()

        leased += found
        assert len(leased) == len(set(leased)) == most


# --- what comes back ----------------------------------------------------------------------------


def test_the_first_reply_is_the_answer_whatever_comes_later(
    assessments: Assessments, results: Results, wait_for_answer: Waits, reply_to: Replies
) -> None:
    """Twice, of an earlier attempt, another figure, a failure: nothing changes, nor is told as a
    change."""
    one = wait_for_answer(1)
    lease(assessments)
    lease(assessments, now=NOW + MINUTE)

    assert results.write(reply_to(one, 2, 0.9))
    row = assessments.about(one)
    for late in ((2, 0.9), (1, 0.1), (1, "tried"), (1, "failed"), (7, 0.2)):
        assert not results.write(reply_to(one, *late))

    assert said(assessments, one) == ("completed", 0.9)
    assert assessments.about(one) == row
    assert assessments.dead_letters() == []


def test_a_reply_to_nothing_changes_nothing(
    assessments: Assessments, results: Results, reply_to: Replies
) -> None:
    """A queue of another database, or one that was restored from an old backup."""
    nobody = "01938f00-0000-7000-8000-00000000dead"

    for says in (0.9, "tried", "failed"):
        assert not results.write(reply_to(nobody, 1, says))

    assert assessments.about(nobody) is None
    assert assessments.dead_letters() == []


def test_a_reply_whose_model_cannot_be_read_is_no_answer(
    assessments: Assessments, results: Results, wait_for_answer: Waits, reply_to: Replies
) -> None:
    """Of a predictor of another version: it is asked again when its lease has run out."""
    one = wait_for_answer(1)
    lease(assessments)
    strange = reply_to(one).model_copy(update={"manifest": {"of": "another version"}})

    assert not results.write(strange)

    assert said(assessments, one) == ("queued", None)
    assert ids(lease(assessments, now=NOW + MINUTE)) == [one]


def test_a_failure_stays_until_somebody_redrives_it(
    assessments: Assessments,
    results: Results,
    database: Database,
    wait_for_answer: Waits,
    reply_to: Replies,
) -> None:
    """Audited; then only the attempt of that redrive counts, not what was still on its way."""
    one = wait_for_answer(1)
    lease(assessments)

    assert results.write(reply_to(one, 1, "failed"))
    (letter,) = assessments.dead_letters()
    assert not results.write(reply_to(one, 1, 0.9))
    assert said(assessments, one) == ("failed", None)
    assert lease(assessments, now=NOW + 5 * MINUTE) == []

    assert assessments.redrive(letter.id, "the lead", "the decoder was mended", NOW)
    for late in ("failed", "tried", 0.1):
        assert not results.write(reply_to(one, 1, late))
    assert said(assessments, one) == ("queued", None)
    (ask,) = lease(assessments)
    assert results.write(reply_to(one, ask.attempt, 0.9))

    assert said(assessments, one) == ("completed", 0.9)
    assert assessments.dead_letters() == []
    assert audited(database, "dead letter redriven", "operator") == [
        ("the lead", one, "the decoder was mended")
    ]


def test_assessments_are_counted_by_what_they_came_to(
    assessments: Assessments, results: Results, wait_for_answer: Waits, reply_to: Replies
) -> None:
    """With a model or without one, each once, however often its reply comes."""
    one, other, _ = (wait_for_answer(number) for number in range(3))
    for number, outcome in enumerate(("inconclusive", None), start=3):
        answer = Answer(outcome=outcome, sentence=NOT_SCORED).model_dump_json()
        wait_for_answer(number, state="completed", answer=answer)
    lease(assessments)
    for _ in range(2):
        results.write(reply_to(one, 1, 0.9))
        results.write(reply_to(other, 1, "failed"))

    assert assessments.counts() == {
        ("queued", None): 1,
        ("failed", None): 1,
        ("completed", "positive"): 1,
        ("completed", "negative"): 0,
        ("completed", "inconclusive"): 1,
        ("completed", None): 1,
    }
    (letter,) = assessments.dead_letters()
    assessments.redrive(letter.id, "the lead", "mended", NOW)
    assert assessments.counts()["queued", None] == 2
    assert assessments.counts()["failed", None] == 0


def test_only_a_failure_is_redriven_and_only_once(
    assessments: Assessments,
    results: Results,
    database: Database,
    wait_for_answer: Waits,
    reply_to: Replies,
) -> None:
    """By one of those who try at once; an answer, or what has no samples, by nobody."""
    one, other = wait_for_answer(1), wait_for_answer(2, audio=None, audio_sha256=None)
    results.write(reply_to(one, 1, "failed"))
    results.write(reply_to(other, 1, "failed"))
    mine, mute = assessments.dead_letters()
    done = []
    together = threading.Barrier(4)

    def redrive() -> None:
        together.wait()
        done.append(assessments.redrive(mine.id, "somebody", "why", NOW))

    people = [threading.Thread(target=redrive) for _ in range(4)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    lease(assessments)
    assert results.write(reply_to(one, 1, 0.9))

    assert sorted(done) == [False, False, False, True]
    for letter in (mine.id, mute.id, 4711):
        assert not assessments.redrive(letter, "somebody", "why", NOW)
    assert said(assessments, one) == ("completed", 0.9)
    assert said(assessments, other) == ("failed", None)
    assert len(audited(database, "dead letter redriven", "operator")) == 1


def test_more_than_twenty_attempts_that_reached_the_model_end_it(
    assessments: Assessments, results: Results, wait_for_answer: Waits, reply_to: Replies
) -> None:
    """Not one earlier, however often it was asked, and however often each of them is told; a
    redrive counts from the beginning."""
    one = wait_for_answer(1)
    for minute in range(40):
        assert ids(lease(assessments, now=NOW + minute * MINUTE)) == [one]
    reached = [(attempt, delivery) for attempt in (1, 7, 39, 40) for delivery in range(2, 7)]
    for attempt, delivery in reached:
        assert results.write(reply_to(one, attempt, "tried", delivery))
        for _ in range(21):
            assert not results.write(reply_to(one, attempt, "tried", delivery))
    assert not results.write(reply_to(one, 7, "tried", 3))
    assert said(assessments, one) == ("queued", None)

    assert results.write(reply_to(one, 40, "tried", 7))

    assert said(assessments, one) == ("failed", None)
    (letter,) = assessments.dead_letters()
    assert (letter.assessment, letter.kind) == (one, "unknown")
    assessments.redrive(letter.id, "somebody", "why", NOW)
    (ask,) = lease(assessments)
    assert results.write(reply_to(one, ask.attempt, "tried"))
    assert said(assessments, one) == ("queued", None)


# --- what is told of changes --------------------------------------------------------------------


def test_whoever_goes_on_from_the_last_change_misses_none(
    assessments: Assessments, results: Results, wait_for_answer: Waits, reply_to: Replies
) -> None:
    """While four accept and answer at once, each in transactions of its own length."""
    each, writers = 15, 4
    left = threading.Semaphore(0)

    def write(which: int) -> None:
        try:
            for number in range(which * each, (which + 1) * each):
                one = wait_for_answer(number)
                results.write(reply_to(one))
                if number % 3 == 0:
                    assessments.void(one, "ward", "the wrong patient", "somebody")
        finally:
            left.release()

    working = [threading.Thread(target=write, args=(which,)) for which in range(writers)]
    for one in working:
        one.start()
    seen: dict[str, int] = {}
    last, ended = 0, 0
    while True:
        ended += left.acquire(blocking=False)
        page: Sequence[Any] = assessments.changed_after("ward", last, 7)
        seen |= {row.id: row.change for row in page}
        last = page[-1].change if page else last
        if not page and ended == writers:
            break
    for one in working:
        one.join()

    everything = assessments.changed_after("ward", 0, 1000)
    assert len(everything) == writers * each
    assert {row.state for row in everything} == {"completed"}
    assert seen == {row.id: row.change for row in everything}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # its plan does not depend on rows
def test_what_a_site_asks_for_all_day_is_found_by_an_index(
    database: Database, assessments: Assessments
) -> None:
    """Its changes since the last one, in order: nothing is sorted, and no other site's row read."""
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, values: Any, *___: Any) -> None:
        asked.append((statement, values))

    sa.event.listen(database._engine, "before_cursor_execute", note)
    assessments.changed_after("ward", 3, 10)
    ((statement, values),) = asked
    with database.reading() as tables:
        plan = tables.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()

    (step,) = (row.detail for row in plan)
    assert step.endswith("USING INDEX serving_assessments_by_change (site=? AND change>?)")


def test_relays_at_once_note_one_model(assessments: Assessments) -> None:
    """The first one that there ever is, another one, and none."""
    for name in ("spira/1", "spira/2", None):
        together = threading.Barrier(6)
        noted: list[None] = []

        def relay() -> None:
            together.wait()  # noqa: B023
            assessments.note_model(name)  # noqa: B023
            noted.append(None)  # noqa: B023

        relays = [threading.Thread(target=relay) for _ in range(6)]
        for one in relays:
            one.start()
        for one in relays:
            one.join()

        assert len(noted) == 6
        assert assessments.model() == name


def test_keys_of_an_old_backup_are_not_enough(
    database: Database, wait_for_answer: Waits, tmp_path: Path
) -> None:
    """What was hashed after a rotation would be found no more, and nobody would notice."""
    ring = KeyRing.open(tmp_path / "keys")
    wait_for_answer(1, record=ring.hash_record("ward", "12345"))
    shutil.copytree(tmp_path / "keys", tmp_path / "old")
    ring.rotate("records", "ward")
    for number in range(2, 8):
        wait_for_answer(number, record=ring.hash_record("ward", str(number)))
    wait_for_answer(8)

    ring.require(record_keys(database))

    with pytest.raises(IntegrityError, match="was used and is not here; restore the keys"):
        KeyRing.open(tmp_path / "old").require(record_keys(database))


def test_who_made_a_token_and_who_made_it_void_is_audited(database: Database) -> None:
    """By its id, once each; the token itself is nowhere."""
    tokens = Tokens(database)
    token = tokens.create("ward")
    ((token_id, *_),) = tokens.list()
    assert tokens.revoke(token_id)
    assert not tokens.revoke(token_id)

    somebody = (getpass.getuser(), token_id, None)
    assert audited(database, "token made", "operator") == [somebody]
    assert audited(database, "token revoked", "operator") == [somebody]
    with database.reading() as tables:
        assert token not in "".join(audit.export(tables))


def test_a_record_is_found_by_any_of_its_hashes_and_only_at_its_site(
    assessments: Assessments, database: Database, wait_for_answer: Waits
) -> None:
    """The latest first; who searched for which hash is audited, whatever was found."""
    old = wait_for_answer(1, minutes=90, record="records-1:aa")
    new = wait_for_answer(2, minutes=30, record="records-2:bb")
    wait_for_answer(3, record="records-2:cc")
    wait_for_answer(4, record="records-2:bb", site="elsewhere")
    wait_for_answer(5)

    hashes = ("records-2:bb", "records-1:aa")
    found = assessments.search("ward", hashes, "token 7", 10)

    assert [row.id for row in found] == [new, old]
    assert [row.id for row in assessments.search("ward", hashes, "token 7", 1)] == [new]
    assert assessments.search("ward", ("records-2:dd",), "token 8", 10) == []
    assert audited(database, "record searched") == [
        ("token 7", "records-2:bb", None),
        ("token 7", "records-2:bb", None),
        ("token 8", "records-2:dd", None),
    ]


def test_what_is_voided_stays_to_be_found_with_its_answer(
    assessments: Assessments,
    results: Results,
    database: Database,
    wait_for_answer: Waits,
    reply_to: Replies,
) -> None:
    """Before its answer too, which then comes; its first time and reason stay, and it is a change
    that whoever follows the site is told. Another site voids nothing."""
    one = wait_for_answer(1, record="records-1:aa")
    before = assessments.changed_after("ward", 0, 10)[-1].change

    assert assessments.void(one, "elsewhere", "theirs", "token 9") is None
    voided = assessments.void(one, "ward", "wrong bed", "token 7")
    again = assessments.void(one, "ward", "again", "token 8")
    lease(assessments)
    assert results.write(reply_to(one, 1, 0.9))

    assert voided is not None
    assert again is not None
    assert (again.voided_at, again.void_reason) == (voided.voided_at, "wrong bed")
    assert voided.change > before
    (found,) = assessments.search("ward", ("records-1:aa",), "token 7", 10)
    assert (found.id, found.state, found.voided_at) == (one, "completed", voided.voided_at)
    assert json.loads(found.answer)["outcome"] == "positive"
    assert audited(database, "assessment voided") == [("token 7", one, "wrong bed")]
