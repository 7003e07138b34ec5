"""`spira train` on a CUDA device: to its end, twice the same bytes, after a kill too, near the CPU.

Skipped where torch sees no such device.
"""

import io
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spira.evaluation.results import EvaluationResult
from spira.stores.artifacts import ArtifactStore
from spira.stores.registry import Registry
from spira.stores.settings import StoresSettings
from spira.training.plan import STAGES

pytestmark = pytest.mark.slow

Spira = Callable[..., "subprocess.CompletedProcess[str]"]
Copy = Callable[[Path], Path]
Bytes = Callable[[Path], dict[str, dict[str, str]]]
ON_CUDA = ("--setting", "training.accelerator=cuda")
EPOCHS = 12


@pytest.fixture(scope="module", params=["compact", "spira_conv_v2"])
def words(request: pytest.FixtureRequest, tiny_experiment: Path) -> tuple[str, ...]:
    """`train …`: one of the networks on the tiny corpus."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    changes = (f"network={{kind: {request.param}}}", f"optimisation.epochs={EPOCHS}")
    sets = [word for change in changes for word in ("--set", change)]
    return ("train", str(tiny_experiment), "--data", "tiny", *sets)


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, words: tuple[str, ...], tiny_home: Path, spira: Spira
) -> Path:
    """A data folder after an undisturbed run on CUDA."""
    home = Path(shutil.copytree(tiny_home, tmp_path_factory.mktemp("cuda") / "home"))
    ended = spira(home, *ON_CUDA, *words)
    assert "Tensor Cores" not in ended.stderr  # Lightning's advice to compute with fewer bits
    return home


def test_it_ends_with_a_model_and_twice_with_the_same_bytes(
    trained: Path,
    words: tuple[str, ...],
    tiny_home: Path,
    copy: Copy,
    spira: Spira,
    bytes_of_stages: Bytes,
) -> None:
    """All six stages of the command, and a version with its ONNX file; once more from nothing."""
    again = copy(tiny_home)
    spira(again, *ON_CUDA, *words)

    run = record(trained)
    assert run["state"] == "complete"
    assert [row["stage"] for row in run["stages"]] == list(STAGES)
    assert bytes_of_stages(again) == bytes_of_stages(trained)
    (version,) = Registry.open(StoresSettings(), home=trained).versions()
    assert version.aliases == ("challenger",)
    assert {"model.onnx", "parity.json", "report.html"} <= set(version.files)


def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(
    trained: Path,
    words: tuple[str, ...],
    tiny_home: Path,
    copy: Copy,
    spira_command: Callable[..., list[str]],
    spira: Spira,
    bytes_of_stages: Bytes,
) -> None:
    """`kill -9` between the third epoch and the last: the next run starts from the checkpoint."""
    home = copy(tiny_home)
    process = subprocess.Popen(
        spira_command(home, *ON_CUDA, *words),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while epochs_saved(home) < 2:
        with pytest.raises(subprocess.TimeoutExpired):  # it lives
            process.wait(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = epochs_saved(home)

    resumed = spira(home, *ON_CUDA, *words)

    assert 2 <= done < EPOCHS - 1
    assert f"training: {done + 1} of {EPOCHS}" in resumed.stderr  # the first it tells of
    assert bytes_of_stages(home) == bytes_of_stages(trained)


def test_it_ends_near_the_cpu_under_another_name(
    words: tuple[str, ...], tiny_home: Path, copy: Copy, spira: Spira
) -> None:
    """Without dropout, which each device draws for itself, the losses of the first epoch agree to
    1e-5 and the figures of the test side to 0.05; from `train` on the fingerprints differ.
    """
    still = ("--set", "network.dropout_conv=0", "--set", "network.dropout_dense=0")
    home_of_cpu, home_of_cuda = copy(tiny_home), copy(tiny_home)
    spira(home_of_cpu, *words, *still)
    spira(home_of_cuda, *ON_CUDA, *words, *still)

    (cpu, cpu_people), (cuda, cuda_people) = map(outcome, (home_of_cpu, home_of_cuda))
    pairs = zip(cuda, cpu, strict=True)
    apart = [max(abs(a / b - 1) for a, b in zip(*both, strict=True)) for both in pairs]
    print(f"\n{words[5]}: losses apart by epoch", *(f"{one:.0e}" for one in apart))
    print(f"  of the test side: {cuda_people}, on the CPU {cpu_people}")
    assert cuda[0] == pytest.approx(cpu[0], rel=1e-5)
    assert cuda_people == pytest.approx(cpu_people, abs=0.05)
    one, other = (record(home)["fingerprints"] for home in (home_of_cpu, home_of_cuda))
    assert [stage for stage in STAGES if one[stage] != other[stage]] == [*STAGES[3:]]


def record(home: Path) -> dict[str, Any]:
    """Of the only run of a data folder."""
    (path,) = (home / "runs").glob("*/run.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def epochs_saved(home: Path) -> int:
    """How many epochs the checkpoint has behind it; -1 where there is none."""
    store = ArtifactStore.open(str(home / "store"), cache=home / "cache")
    for name in store.scratch():
        saved = store.load_scratch(name, "checkpoint")
        if saved is not None:
            return int(torch.load(io.BytesIO(saved), weights_only=True)["state"]["epoch"])
    return -1


def outcome(home: Path) -> tuple[list[tuple[float, float]], dict[tuple[str, str], float]]:
    """(training, validation) loss by epoch, and the figures by condition, per participant."""
    store = ArtifactStore.open(str(home / "store"), cache=home / "cache")
    (trained,), (evaluated,) = store.list("train"), store.list("evaluate")
    losses = [(row["train"], row["validation"]) for row in trained.read_json("history.json")]
    result = EvaluationResult.model_validate(evaluated.read_json("metrics.json"))
    return losses, {
        (found.condition, figure): getattr(found, figure).value
        for found in result.conditions
        if found.level == "participant"
        for figure in ("auroc", "balanced_accuracy")
    }
