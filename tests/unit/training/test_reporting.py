"""What a report tells of a dataset version, from what was counted at import."""

from typing import Any

import polars as pl

from spira.datasets.summary import REFUSED, summarise
from spira.datasets.versions import NOISE, RECORDINGS
from spira.domain.recordings import LabelCounts
from spira.evaluation.report import ReportedGroup
from spira.training.reporting import reported_groups


def counted(refused: list[dict[str, Any]]) -> dict[str, Any]:
    """summary.json of a dataset version with one accepted recording, of a woman of 30."""
    accepted = {
        "participant_id": "p1",
        "utterance": "sentence",
        "label": "present",
        "sex": "female",
        "age": 30,
        "site": "ward-1",
        "device": "phone",
        "container": "wav",
        "codec": "pcm_s16le",
        "rate_hz": 16_000,
        "channels": 1,
        "findings": [],
    }
    measured = ("duration_s", "level_dbfs", "speech_level_dbfs", "noise_floor_dbfs")
    table = pl.DataFrame([accepted | dict.fromkeys(measured, 1.0)], schema_overrides=RECORDINGS)
    missing = [
        pl.lit(None, dtype=kind).alias(name)
        for name, kind in RECORDINGS.items()
        if name not in table.columns
    ]
    summary = summarise(
        table.with_columns(missing),
        pl.DataFrame(schema=NOISE),
        pl.DataFrame(refused, schema=REFUSED),
        [],
    )
    return summary.model_dump(mode="json")


def groups(refused: list[dict[str, Any]]) -> dict[tuple[str, str], ReportedGroup]:
    """The groups of a report by attribute and value."""
    return {(group.attribute, group.value): group for group in reported_groups(counted(refused))}


def test_where_nothing_was_refused_every_group_has_none() -> None:
    """Known to be 0 is not "not available": by sex, age, site and device."""
    found = groups([])

    assert {attribute for attribute, _ in found} == {"sex", "age band", "site", "device"}
    assert all(group.refused == LabelCounts() for group in found.values())


def test_refusals_are_counted_by_the_attributes_that_are_known() -> None:
    """All reasons together, by label; a group of which nothing was accepted is there too."""
    woman = {"label": "present", "sex": "female", "age": 30, "spo2_percent": None}
    man = {"label": "absent", "sex": "male", "age": 80, "spo2_percent": None}

    found = groups(
        [woman | {"reason": "zeros"}, woman | {"reason": "empty"}, man | {"reason": "zeros"}]
    )

    assert found["sex", "female"].refused == LabelCounts(present=2)
    assert found["sex", "male"].refused == LabelCounts(absent=1)
    assert found["sex", "male"].people == LabelCounts()
    assert found["age band", "18-39"].refused == LabelCounts(present=2)
    assert found["age band", "75 and over"].refused == LabelCounts(absent=1)
