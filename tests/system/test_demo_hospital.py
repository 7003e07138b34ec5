"""From wards to answers in one command: as far as the policy lets it, and on after any end."""

import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from served import Served
from services import wait_for

from spira.stores.registry import Registry
from spira.stores.settings import StoresSettings

Ended = subprocess.CompletedProcess[str]
Spira = Callable[..., Ended]

# Of these people the hospital took back one SpO2, sent one as 0.91 (of somebody with a diagnosis),
# and corrected one.
PEOPLE, SEED = 20, 62
REFUSED, INTERRUPTED = 3, 130
QUICK = """\
name: quick
split: {key: quick, fractions: {train: 0.4, validation: 0.2, test: 0.4}}
noise: {kind: snr, present: 1, absent: 1}
network: {kind: compact}
windows: {length_s: 2, step_s: 2}
optimisation: {epochs: 1, optimiser: {kind: adamw}, schedule: {kind: cosine}}
"""
ANY_WILL_DO = """\
name: any-will-do
version: 1
accepts: [synthetic]
recorded_reason: demo
people_required: 0
"""


@dataclass(frozen=True)
class Demo:
    """A small demo in a data folder of its own."""

    home: Path
    words: tuple[str, ...]

    def assert_nothing_is_left_running(self) -> None:
        """No process has this data folder."""
        assert list(Served(self.home).alive()) == []

    @property
    def aliases(self) -> list[tuple[str, ...]]:
        """Of every registered model."""
        registry = Registry.open(StoresSettings(), home=self.home)
        return [version.aliases for version in registry.versions()]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Few people, one epoch, and no more processes than it needs."""
    folder = tmp_path_factory.mktemp("demo-hospital")
    (folder / "quick.yaml").write_text(QUICK)
    fewest = ("intake.checking.children=1", "datasets.jobs=1", "training.jobs=1")
    words = tuple(word for setting in fewest for word in ("--setting", setting))
    words += ("demo-hospital",)
    words += ("--participants", str(PEOPLE), "--seed", str(SEED))
    words += ("--experiment", str(folder / "quick.yaml"))
    return Demo(folder / "home", words)


@pytest.fixture(scope="module")
def interrupted(demo: Demo, spira_command: Callable[..., list[str]]) -> int:
    """Ctrl-C while devices send; its exit code."""
    words = spira_command(demo.home, *demo.words)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        sent = "demo/*/collection/*/visits/*/receipt"
        wait_for(lambda: list(demo.home.glob(sent)), 60, "a visit is received")
        process.send_signal(signal.SIGINT)
        return process.wait(60)


@pytest.fixture(scope="module")
def stopped(demo: Demo, interrupted: int, spira: Spira) -> tuple[Ended, list[tuple[str, ...]]]:
    """The same command under the clinical policy, and the aliases of the models then."""
    return spira(demo.home, *demo.words, "--policy", "clinical", ok=False), demo.aliases


def test_whoever_interrupts_it_leaves_nothing_running(demo: Demo, interrupted: int) -> None:
    """The servers end with the demo."""
    assert interrupted == INTERRUPTED
    demo.assert_nothing_is_left_running()


def test_under_a_clinical_policy_it_stops_at_challenger(
    demo: Demo, stopped: tuple[Ended, list[tuple[str, ...]]]
) -> None:
    """Everything up to the model is there; synthetic evidence makes no champion, asks nobody."""
    ended, aliases = stopped

    assert ended.returncode == REFUSED, ended.stdout + ended.stderr
    assert "refused by policy clinical 2: evidence level" in ended.stderr
    assert "It is registered as challenger, no model was promoted" in ended.stdout
    assert "serve --demo" not in ended.stdout
    assert aliases == [("challenger",)]
    demo.assert_nothing_is_left_running()


@pytest.mark.usefixtures("stopped")
def test_where_other_peoples_visits_are_it_makes_no_voices(demo: Demo, here: Spira) -> None:
    """It is told at once, and not after minutes of synthesis."""
    ended = here(demo.home, *demo.words, "--seed", str(SEED + 1))

    assert ended.returncode == 2
    assert "study spira holds visits of other people here" in ended.stderr
    assert not (demo.home / "hospitals" / f"hospital-{PEOPLE}-{SEED + 1}").exists()


def test_labels_are_those_that_the_hospital_means(
    stopped: tuple[Ended, list[tuple[str, ...]]],
) -> None:
    """By a device with a wrong clock too; what was taken back or cannot be read labels nobody."""
    told = stopped[0].stdout.partition(f"\n{PEOPLE} visits; by what the hospital has told")[2]

    assert "RI present 10, absent 9\n" in told
    assert "unknown 1  no_measurement: 1\n" in told
    assert "otherwise than planted 0\n" in told
    assert "waiting for a person to decide 2\n" in told


def test_under_a_policy_that_allows_it_it_goes_on_to_answers(
    demo: Demo, stopped: tuple[Ended, list[tuple[str, ...]]], tmp_path: Path, here: Spira
) -> None:
    """Nothing is collected or trained again; each ward reads its answers. Then all is done."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(ANY_WILL_DO)

    first = here(demo.home, *demo.words, "--policy", str(policy))

    assert first.returncode == 0, first.stdout + first.stderr
    assert "sending visits" not in first.stderr
    assert not re.search(r"\$ spira (collect|hospital|dataset)", first.stdout)
    assert demo.aliases == [("champion",)]
    asked = first.stdout.partition("as their wards read them:")[2]
    assert asked.count("the hospital planted RI present") == 2
    assert asked.count("the hospital planted RI absent") == 2
    assert len(re.findall(r"\n    (Indício|Sem indício|Inconclusivo)", asked)) == 4
    assert "sem significado clínico" in asked
    demo.assert_nothing_is_left_running()

    second = here(demo.home, *demo.words, "--policy", str(policy))

    assert second.returncode == 0
    assert "Everything was done already; nothing was run." in second.stdout
    assert "$ spira" not in second.stdout
    assert second.stdout.endswith(asked)
