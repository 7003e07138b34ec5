"""The summary: every count against counting by hand, whatever the table."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spira.datasets.summary import REFUSED, DatasetSummary, in_order, summarise
from spira.datasets.versions import NOISE, RECORDINGS
from spira.domain.fingerprint import canonical_json
from spira.domain.recordings import NOT_AVAILABLE, LabelCounts, age_band

NO_NOISE = pl.DataFrame(schema=NOISE)
USUAL: dict[str, Any] = {
    **{name: 0.0 for name, kind in RECORDINGS.items() if kind == pl.Float64},
    **{"container": "wav", "codec": "pcm_s16le", "rate_hz": 16_000, "channels": 1},
}
LABELS = ("present", "absent", "unknown")


def counts(labels: list[str]) -> LabelCounts:
    """By hand."""
    return LabelCounts(**Counter(labels))


rows = st.fixed_dictionaries(
    {
        "participant_id": st.sampled_from(["p1", "p2", "p3"]),
        "label": st.sampled_from(LABELS),
        "utterance": st.sampled_from(["sentence", "vowel", "ambient_before"]),
        "side": st.sampled_from(["train", "test", None]),
        "site": st.sampled_from(["A", "B", None]),
        "device": st.sampled_from(["phone", None]),
        "sex": st.sampled_from(["female", "male", None]),
        "age": st.none() | st.integers(0, 100),
        "spo2_percent": st.none() | st.floats(80, 100),
        "duration_s": st.floats(0.5, 100),
        "findings": st.lists(st.sampled_from(["short", "quiet", "noisy"]), unique=True),
    }
)


@settings(deadline=None, max_examples=50)
@given(st.lists(rows, max_size=12), st.lists(rows, max_size=6))
def test_counts_are_those_of_counting_by_hand(
    kept: list[dict[str, Any]], refused: list[dict[str, Any]]
) -> None:
    """Recordings, people, groups, cells, findings and refusals, by label."""
    table = pl.DataFrame([{**USUAL, **row} for row in kept], schema=RECORDINGS)
    rejected = pl.DataFrame(
        [
            {**{key: row[key] for key in REFUSED if key in row}, "reason": "zeros"}
            for row in refused
        ],
        schema=REFUSED,
    )

    summary = summarise(table, NO_NOISE, rejected, ["zeros", "empty", "zeros"])

    assert summary.recordings == counts([row["label"] for row in kept])
    people = {(row["participant_id"], row["label"]) for row in kept}
    assert summary.people == counts([label for _, label in people])
    assert summary.refused == counts([row["label"] for row in refused])
    assert summary.refusals_of_noise == {"empty": 1, "zeros": 2}
    values: dict[str, Callable[[dict[str, Any]], str]] = {
        "sex": lambda row: row["sex"] or NOT_AVAILABLE,
        "age band": lambda row: age_band(row["age"]),
        "site": lambda row: row["site"] or NOT_AVAILABLE,
        "split": lambda row: row["side"] or NOT_AVAILABLE,
        "utterance": lambda row: row["utterance"],
    }
    for attribute, value_of in values.items():
        groups = [group for group in summary.groups if group.attribute == attribute]
        assert [group.value for group in groups] == sorted(
            {value_of(row) for row in kept}, key=in_order
        )
        for group in groups:
            part = [row for row in kept if value_of(row) == group.value]
            assert group.recordings == counts([row["label"] for row in part])
            of = {(row["participant_id"], row["label"]) for row in part}
            assert group.people == counts([label for _, label in of])
    crossed = {
        (
            row["participant_id"],
            row["label"],
            row["sex"],
            age_band(row["age"]),
            row["site"],
            row["device"],
        )
        for row in kept
    }
    assert sum(cell.people.total for cell in summary.cells) == len(crossed)
    for finding in summary.findings:
        part = [row for row in kept if finding.name in row["findings"]]
        assert finding.recordings == counts([row["label"] for row in part])
        for sex, found in finding.by["sex"].items():
            of_sex = [row["label"] for row in part if (row["sex"] or NOT_AVAILABLE) == sex]
            assert found == counts(of_sex)
    assert sum(quality.recordings.total for quality in summary.refusals) == len(refused)
    total_s = sum(measured.total_s for measured in summary.measured)
    assert total_s == pytest.approx(sum(row["duration_s"] for row in kept))


@settings(deadline=None, max_examples=20)
@given(st.lists(rows, max_size=5))
def test_a_summary_survives_being_stored(kept: list[dict[str, Any]]) -> None:
    """What is read back from summary.json is what was counted."""
    table = pl.DataFrame([{**USUAL, **row} for row in kept], schema=RECORDINGS)

    summary = summarise(table, NO_NOISE, pl.DataFrame(schema=REFUSED), [])

    stored = canonical_json(summary.model_dump(mode="json"))
    assert DatasetSummary.model_validate_json(stored) == summary


def test_values_stand_in_their_own_order() -> None:
    """Ages rise, what is not known comes last, the rest by name."""
    values = ["not available", "75 and over", "under 18", "B", "40-59", "A"]

    assert sorted(values, key=in_order) == [
        "under 18",
        "40-59",
        "75 and over",
        "A",
        "B",
        "not available",
    ]


@pytest.mark.parametrize(
    ("percent", "band"),
    [
        (None, "not available"),
        (91.9, "under 92"),
        (92.0, "92-94"),
        (94.9, "92-94"),
        (95.0, "95 and over"),
    ],
)
def test_quality_is_told_by_oxygen_too(percent: float | None, band: str) -> None:
    """The bands are those of label policy ri-v1."""
    refused = pl.DataFrame(
        [{"label": "present", "spo2_percent": percent, "reason": "zeros"}], schema=REFUSED
    )

    summary = summarise(pl.DataFrame(schema=RECORDINGS), NO_NOISE, refused, [])

    assert summary.refusals[0].by["SpO2 band"] == {band: LabelCounts(present=1)}
