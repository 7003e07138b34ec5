"""Visits: what was recorded of whom, where and how."""

import polars as pl

from spira.collection.balance import VISITS
from spira.stores.database import Database


def visit_table(database: Database, study_id: str) -> pl.DataFrame:
    """The visits of a study in the order of their times, columns as in `balance.VISITS`.

    Nothing takes visits in yet: the table is empty.
    """
    return pl.DataFrame(schema=VISITS)
