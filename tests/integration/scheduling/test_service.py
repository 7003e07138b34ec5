"""One service at a time."""

import os
from pathlib import Path

import pytest

from spira.domain.errors import InputError, TransientError
from spira.scheduling.holding import held_folder


def test_what_is_away_is_not_told_as_a_second_service(tmp_path: Path) -> None:
    """A database that is away when the service starts, or stops, is transient."""
    with pytest.raises(TransientError, match="away"), held_folder(tmp_path):
        raise TransientError("the database is away")
    holder = f"process {os.getpid()}, since"
    with held_folder(tmp_path), pytest.raises(InputError, match=holder), held_folder(tmp_path):
        pass
