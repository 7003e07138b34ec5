"""One service at a time, and what it refuses when it is started."""

import os
import re
from pathlib import Path

import pytest

from spira.domain.errors import InputError, TransientError
from spira.scheduling.instance import prepare
from spira.scheduling.settings import SchedulingSettings
from spira.stores.locks import held_folder


def test_what_is_away_is_not_told_as_a_second_service(tmp_path: Path) -> None:
    """A database that is away when the service starts, or stops, is transient."""
    with pytest.raises(TransientError, match="away"), held_folder(tmp_path, "it runs"):
        raise TransientError("the database is away")
    holder = f"process {os.getpid()}, since"
    with (
        held_folder(tmp_path, "it runs"),
        pytest.raises(InputError, match=holder),
        held_folder(tmp_path, "it runs"),
    ):
        pass


@pytest.mark.parametrize("cron", ["every sunday", "0 3 * * 0 5", "61 * * * *", ""])
def test_a_timetable_that_is_none_is_refused_at_the_start(tmp_path: Path, cron: str) -> None:
    """The code server would die of it, be started again, and die."""
    with pytest.raises(InputError, match=rf"^setting scheduling\.cron: '{re.escape(cron)}' is no"):
        prepare(tmp_path, SchedulingSettings(cron=cron))
