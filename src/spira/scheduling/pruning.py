"""Pruning: Dagster keeps every run for ever; what ended long ago is forgotten here."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dagster import RunsFilter
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from spira.domain.errors import InputError
from spira.scheduling.instance import folder, open_instance
from spira.scheduling.requests import Requests

_UNITS = {"d": "days", "h": "hours"}


@dataclass(frozen=True)
class Pruned:
    """What was removed."""

    requests: int
    runs: int
    files: int
    bytes_freed: int


def parse_age(text: str) -> timedelta:
    """`90d` or `12h`.

    raises    InputError for anything else
    """
    match = re.fullmatch(r"(\d{1,5})([dh])", text)
    if match is None:
        raise InputError(f"--older-than {text}: write days or hours, e.g. 90d or 12h")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def prune(home: Path, requests: Requests, older_than: timedelta) -> Pruned:
    """Forget requests and runs that ended before that; never one that is open or under way."""
    before = datetime.now(UTC) - older_than
    place = folder(home)
    needed = {request.run_id for request in requests.list(state="open", limit=100_000)}
    runs = files = freed = 0
    with open_instance(home) as instance:
        for run in instance.get_runs(RunsFilter(statuses=FINISHED_STATUSES, updated_before=before)):
            if run.run_id in needed:
                continue
            runs += 1
            # Files first: what is not listed any more is not looked for. And again, as Dagster
            # opens the file of a run to delete what is in it.
            for removed in _removed(place, run.run_id):
                files += 1
                freed += removed
            instance.delete_run(run.run_id)
            list(_removed(place, run.run_id))
    return Pruned(len(requests.prune(before)), runs, files, freed)


def _removed(place: Path, run_id: str) -> Iterator[int]:
    """Remove what a run left; yields the bytes of each file or folder."""
    for path in _left(place, run_id):
        yield _size(path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _left(place: Path, run_id: str) -> Iterator[Path]:
    """What a run left beside the records of Dagster."""
    for pattern in (
        f"workers/{run_id}.*",
        f"stages/{run_id}",
        f"dagster/history/runs/{run_id}.db*",
        f"dagster/logs/{run_id}",
        f"dagster/storage/{run_id}",
    ):
        yield from place.glob(pattern)


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
