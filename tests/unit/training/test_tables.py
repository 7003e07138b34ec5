"""Who and what is in, and on which side: whatever the table."""

import hashlib

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spira.audio.windows import Windows
from spira.domain.recordings import SIDES
from spira.domain.splits import side_of
from spira.training.experiments import Experiment, Split
from spira.training.tables import (
    balance_of,
    linked_across,
    select,
    split_noise,
    split_people,
)

PEOPLE = st.lists(
    st.tuples(st.sampled_from([f"p-{n}" for n in range(30)]), st.integers(0, 3)), min_size=1
)


def recordings(**columns: list[object]) -> pl.DataFrame:
    """A table with the columns that matter here."""
    length = len(next(iter(columns.values())))
    every: dict[str, list[object]] = {
        "participant_id": [f"p-{n}" for n in range(length)],
        "utterance": ["sentence"] * length,
        "label": ["present"] * length,
        "side": [None] * length,
        "duration_s": [10.0] * length,
        "findings": [[] for _ in range(length)],
    }
    return pl.DataFrame(every | columns, schema_overrides={"side": pl.Utf8})


def noises(count: int) -> pl.DataFrame:
    """A table of noise recordings; a longer one begins with the shorter."""
    digests = [hashlib.sha256(f"noise {n}".encode()).hexdigest() for n in range(count)]
    return pl.DataFrame(
        {"sha256": digests, "side": [None] * count},
        schema_overrides={"sha256": pl.Utf8, "side": pl.Utf8},
    )


@given(PEOPLE)
def test_no_participant_straddles_sides_whatever_the_table(rows: list[tuple[str, int]]) -> None:
    """Each participant has one side, however many recordings the table has of them."""
    table = recordings(participant_id=[person for person, _ in rows])

    placed = table.join(split_people(table, Split()), "participant_id")

    assert placed.height == table.height
    assert placed.group_by("participant_id").agg(pl.col("placed").n_unique())["placed"].max() == 1


def test_published_sides_are_kept_or_ignored_as_the_experiment_says() -> None:
    """`published: keep` is the default; `ignore` lets the hash decide."""
    table = recordings(side=["test"] * 40)

    kept = split_people(table, Split())
    hashed = split_people(table, Split(published="ignore"))

    assert set(kept["placed"]) == {"test"}
    assert set(hashed["placed"]) == set(SIDES)


@given(st.integers(3, 40), st.text("abc", max_size=5))
def test_every_side_gets_a_noise_of_its_own(count: int, key: str) -> None:
    """From three noise recordings on, no side is without, and none is on two sides."""
    noise = pl.DataFrame(
        {"sha256": [f"{key}{n}" for n in range(count)], "side": [None] * count},
        schema_overrides={"side": pl.Utf8},
    )

    sides = split_noise(noise, Split())

    assert set(sides["placed"]) == set(SIDES)
    assert sides["sha256"].n_unique() == count


def test_nothing_is_filtered_away_unless_the_experiment_names_it() -> None:
    """Findings stay in by default; a named one goes, and is counted by its reason."""
    table = recordings(
        utterance=["sentence", "sentence", "vowel", "sentence"],
        label=["present", "unknown", "absent", "absent"],
        findings=[["short"], [], [], ["noisy", "quiet"]],
    )

    everything, left_out = select(table, Experiment(name="x"))
    quiet_excluded, reasons = select(table, Experiment(name="x", exclude_findings=("quiet",)))

    assert everything.height == 2
    assert left_out == {"another utterance": 1, "label unknown": 1}
    assert quiet_excluded["findings"].to_list() == [["short"]]
    assert reasons["finding quiet excluded"] == 1


def test_the_balance_counts_people_and_not_recordings() -> None:
    """Who has two devices counts for both; what nobody said is "not available"."""
    table = recordings(
        participant_id=["a", "a", "a", "b"],
        device=["phone", "laptop", "phone", None],
        placed=["train", "train", "train", "test"],
        age=[70, 70, 70, 30],
        **{name: ["x"] * 4 for name in ("sex", "site")},
    )

    found = balance_of(table)

    assert found["device"]["train"] == {"laptop": 1, "phone": 1}
    assert found["device"]["test"] == {"not available": 1}
    assert found["age band"] == {"train": {"60-74": 1}, "validation": {}, "test": {"18-39": 1}}
    assert found["label"]["train"] == {"present": 1}


def test_windows_that_refuse_short_recordings_leave_them_out_and_count_them() -> None:
    """The published edge rules: shorter than a window, or with `last: drop` as long as one."""
    table = recordings(duration_s=[3.9, 4.0, 4.1])

    padded, _ = select(table, Experiment(name="x"))
    kept, left_out = select(table, Experiment(name="x", windows=Windows(short="refuse")))
    dropped, reasons = select(
        table, Experiment(name="x", windows=Windows(short="refuse", last="drop"))
    )

    assert padded.height == 3
    assert (kept["duration_s"].to_list(), left_out) == ([4.0, 4.1], {"shorter than a window": 1})
    assert (dropped["duration_s"].to_list(), reasons) == ([4.1], {"shorter than a window": 2})


def test_noise_stays_on_its_side_when_more_is_imported() -> None:
    """As people do; each side has a fair share, so that no figure rests on one recording."""
    few = noises(24)
    many = noises(48)

    before = dict(split_noise(few, Split()).iter_rows())
    after = dict(split_noise(many, Split()).iter_rows())

    assert all(after[digest] == side for digest, side in before.items())
    assert all(list(before.values()).count(side) >= 3 for side in SIDES)


def test_a_room_is_on_the_side_of_its_visit() -> None:
    """Whatever its own digest says, and although a side is left without noise; other noise is
    split as it always is."""
    rule = Split()
    people = [f"p-{number}" for number in range(40)]
    rooms = noises(40).with_columns(pseudonyms=pl.Series([[person] for person in people]))
    none = pl.Series([None] * 24, dtype=pl.List(pl.Utf8))
    free = noises(64).slice(40).with_columns(pseudonyms=none)

    placed = dict(split_noise(pl.concat([rooms, free]), rule).iter_rows())
    few = dict(split_noise(rooms.slice(0, 3), rule).iter_rows())

    sides = {
        digest: side_of(person, key=rule.key, fractions=rule.fractions)
        for digest, person in zip(rooms["sha256"], people, strict=True)
    }
    assert {digest: placed[digest] for digest in sides} == sides
    assert placed.items() >= dict(split_noise(free, rule).iter_rows()).items()
    assert few == {digest: sides[digest] for digest in few}


def test_pseudonyms_on_two_sides_are_in_training_and_listed() -> None:
    """Whoever has several on one side stays there; a dataset that says nothing lists nobody."""
    rule = Split()
    on = {
        side: [
            name
            for name in (f"p-{number}" for number in range(100))
            if side_of(name, key=rule.key, fractions=rule.fractions) == side
        ]
        for side in SIDES
    }
    both, same = [on["test"][0], on["train"][0]], on["test"][1:3]
    table = recordings(
        participant_id=[both[0], both[0], same[0]],
        pseudonyms=[both, both, same],
    )

    sides = dict(split_people(table, rule).iter_rows())

    assert sides == {both[0]: "train", same[0]: "test"}
    assert linked_across(table, rule) == {both[0]: {both[0]: "test", both[1]: "train"}}
    assert linked_across(recordings(participant_id=both), rule) == {}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_noises_to_keep_apart_stay_where_the_hash_puts_them(count: int) -> None:
    """With fewer than three nothing is forced; the stages say what they miss."""
    assert split_noise(noises(count), Split()).height == count
