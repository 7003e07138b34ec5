"""Fixtures for every test: real parts where they are present, and no skips in CI."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from spira.stores.artifacts import ArtifactStore


@pytest.fixture()
def store(tmp_path: Path) -> ArtifactStore:
    """A real artifact store in a folder of its own."""
    return ArtifactStore.open(str(tmp_path / "store"), cache=tmp_path / "cache")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Where CI promised the tools, a skipped test is a failed one."""
    report = yield
    if os.environ.get("SPIRA_NO_SKIPS") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
