"""Visits of a study, made from their counts."""

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import pytest

from spira.collection.balance import VISITS
from spira.collection.studies import default_study
from spira.documents import parse_document
from spira.domain.studies import Study

MakeVisits = Callable[[Sequence[dict[str, Any]]], pl.DataFrame]

_USUAL = {
    "sex": "female",
    "age": 65,
    "site": "site-1",
    "ward": None,
    "device": "phone",
    "noise_floor_dbfs": -50.0,
    "hour": 10,
    "label": "present",
}


@pytest.fixture(scope="session")
def default() -> Study:
    """The study that ships: 5 people wanted of each sex, age band, site and label."""
    return parse_document(default_study(), Study, where="default", words=True)


@pytest.fixture(scope="session")
def make_visits() -> MakeVisits:
    """A table of visits from what is particular about each; `n` in one stands for n people."""

    def make(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
        visits: list[dict[str, Any]] = []
        for row in rows:
            particular = {key: value for key, value in row.items() if key != "n"}
            for _ in range(row.get("n", 1)):
                visits.append({"person": f"p-{len(visits)}"} | _USUAL | particular)
        return pl.DataFrame(visits, schema=dict(VISITS))

    return make
