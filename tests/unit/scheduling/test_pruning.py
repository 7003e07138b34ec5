"""How long ago is long ago."""

from datetime import timedelta

import pytest

from spira.domain.errors import InputError
from spira.scheduling.pruning import parse_age


def test_days_and_hours() -> None:
    """`90d` and `12h`, and nothing else."""
    assert parse_age("90d") == timedelta(days=90)
    assert parse_age("12h") == timedelta(hours=12)
    for wrong in ("90", "d", "-1d", "1w", "9999999d", ""):
        with pytest.raises(InputError, match="write days or hours"):
            parse_age(wrong)
