"""What people see of work that takes a while."""

import pytest

from spira.console import Console


def test_progress_is_shown_when_work_begins_and_every_two_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits sees at once what for; work that is over when first heard of is not told."""
    now = 100.0
    monkeypatch.setattr("spira.console.time.monotonic", lambda: now)
    console = Console()

    shown = []
    for seconds, done in enumerate([0, 10, 20, 30, 40, 100]):
        now = 100.0 + seconds
        console.progress("checking", done, 100)
        shown.append(capsys.readouterr().err)
    console.progress("a moment", 1, 1)

    assert shown == ["checking: 0 of 100 (0%)\n", "", "checking: 20 of 100 (20%)\n", "", *shown[4:]]
    assert shown[4:] == ["checking: 40 of 100 (40%)\n", ""]
    assert capsys.readouterr().err == ""
