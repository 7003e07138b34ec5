"""The main job, small: it comes to its end whatever the policy says, and is never done twice."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Spira = Callable[..., "subprocess.CompletedProcess[str]"]

REFUSED = 3
QUICK = """\
name: quick
split: {key: demo, fractions: {train: 0.375, validation: 0.125, test: 0.5}}
noise: {kind: snr, present: 1, absent: 1}
network: {kind: compact}
windows: {length_s: 2, step_s: 2}
optimisation: {epochs: 2, optimiser: {kind: adamw}, schedule: {kind: cosine}}
"""


def test_a_demo_that_the_policy_refuses_ends_with_its_summary_and_stays_done(
    tmp_path: Path, spira: Spira
) -> None:
    """Too few people are tested: it warns, goes on without a champion, says why, and a second
    call runs nothing."""
    experiment, home = tmp_path / "quick.yaml", tmp_path / "home"
    experiment.write_text(QUICK)
    words = ("demo", "--participants", "60", "--experiment", str(experiment))

    first = spira(home, *words, ok=False)
    second = spira(home, *words, ok=False)
    (kept,) = (home / "demo").iterdir()

    assert "too few are tested for the policy" in first.stdout
    for ended in (first, second):
        assert ended.returncode == REFUSED, ended.stderr
        assert "Report: " in ended.stdout
        assert "refused by policy demo" in ended.stderr
    assert "RI present" in first.stdout  # people of the test side were asked about
    assert "sem significado clínico" in first.stdout
    assert "Everything was done already; nothing was run." in second.stdout
    assert "$ spira" not in second.stdout
    assert json.loads(kept.read_text())["refused"]
