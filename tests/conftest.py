"""Fixtures for every test, and what CI promises beside them.

With SPIRA_NO_SKIPS set (as `.ci/run` does) a skipped test is a failed one, and so is a run after
which a hazard of docs/safety/hazards.yaml has no passing test.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from spira.stores.artifacts import ArtifactStore

STRICT = bool(os.environ.get("SPIRA_NO_SKIPS"))
_passed: set[str] = set()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """A real artifact store in a folder of its own."""
    return ArtifactStore.open(str(tmp_path / "store"), cache=tmp_path / "cache")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:
    """Where CI promised the tools, a skipped test is a failed one."""
    report = yield
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember what passed."""
    if report.when == "call" and report.passed:
        _passed.add(report.nodeid.partition("[")[0])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A hazard whose control is not proven fails the run."""
    if STRICT and not hasattr(session.config, "workerinput") and _unproven():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which."""
    for hazard in _unproven() if STRICT else []:
        terminalreporter.write_line(f"ERROR hazard {hazard} has no passing test", red=True)


def _unproven() -> list[str]:
    file = Path(__file__).parents[1] / "docs/safety/hazards.yaml"
    hazards = yaml.safe_load(file.read_text(encoding="utf-8"))
    return [hazard["id"] for hazard in hazards if not set(hazard["tests"]) <= _passed]
