"""Runs and stages: what a kill leaves behind is told, kept or cleaned; stages run alone."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch

from spira.domain.errors import InputError
from spira.stores.artifacts import ArtifactStore
from spira.stores.locks import locked
from spira.training.plan import STAGES

Ended = subprocess.CompletedProcess[str]
Spira = Callable[..., Ended]
Copy = Callable[[Path], Path]
WRONG_INPUT, DAMAGED, LATER, INTERRUPTED = 2, 70, 75, 130


def store_of(home: Path) -> ArtifactStore:
    """The artifacts of a data folder."""
    return ArtifactStore.open(str(home / "store"), cache=home / "cache")


def runs_of(home: Path, here: Spira) -> list[dict[str, Any]]:
    """What `spira runs list` tells a program."""
    found: list[dict[str, Any]] = json.loads(here(home, "--json", "runs", "list").stdout)
    return found


@pytest.fixture(scope="module")
def killed_home(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_home: Path,
    tiny_experiment: Path,
    spira_command: Callable[..., list[str]],
) -> Path:
    """A data folder in which `spira train` was killed with -9 after its first checkpoint."""
    home = Path(shutil.copytree(tiny_home, tmp_path_factory.mktemp("killed") / "home"))
    process = subprocess.Popen(
        spira_command(home, "train", str(tiny_experiment), "--data", "tiny"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not list((home / "store" / "scratch").glob("*/checkpoint")):
        with pytest.raises(subprocess.TimeoutExpired):  # it lives
            process.wait(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return home


def test_a_killed_run_is_shown_as_interrupted(killed_home: Path, here: Spira, copy: Copy) -> None:
    """`list` and `show` say so, why, what to do, and which stages are done."""
    home = copy(killed_home)

    (run,) = runs_of(home, here)
    listed = here(home, "runs", "list").stdout
    shown = here(home, "runs", "show", run["run_id"][:8])

    assert run["state"] == "interrupted"
    assert run["reason"] == "its process ended without a word; run the same command again"
    assert [row["stage"] for row in run["stages"]] == ["snapshot", "split", "features"]
    assert f"{run['run_id']}  tiny        7     {run['dataset'][:12]}  interrupted" in listed
    assert shown.returncode == 0
    assert f"{run['reason']}\n" in shown.stdout
    rows = [line.split()[:2] for line in shown.stdout.splitlines() if line.startswith(STAGES)]
    assert rows == [[stage, "done" if stage in STAGES[:3] else "not"] for stage in STAGES]


def test_a_run_interrupted_from_the_keyboard_says_so(
    killed_home: Path, tiny_experiment: Path, here: Spira, copy: Copy, spira_command: Any
) -> None:
    """Ctrl-C ends it with one sentence and exit code 130; the record has the reason."""
    home = copy(killed_home)
    endless = ("--set", "optimisation.epochs=100000")  # however slow the machine is to interrupt it
    process = subprocess.Popen(
        spira_command(home, "train", str(tiny_experiment), "--data", "tiny", *endless),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "features" in line:
            break

    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()

    assert process.returncode == INTERRUPTED, errors
    assert errors.splitlines()[-1] == "spira: interrupted; the same command goes on from here"
    assert "Traceback" not in errors
    assert "interrupted from the keyboard" in [run["reason"] for run in runs_of(home, here)]


def test_a_run_that_is_complete_is_shown_with_its_report(
    trained_home: Path, here: Spira, copy: Copy
) -> None:
    """Each stage with its time and fingerprint, and where the report is, which is there."""
    home = copy(trained_home)

    (run,) = runs_of(home, here)
    shown = here(home, "runs", "show", run["run_id"]).stdout

    assert run["state"] == "complete"
    assert run["reason"] is None
    for stage in STAGES:
        assert run["fingerprints"][stage][:12] in shown
    report = Path(shown.partition("Report: ")[2].strip())
    assert report == home / "runs" / run["run_id"] / "report.html"
    assert report.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_no_runs_and_unknown_runs(tmp_path: Path, here: Spira) -> None:
    """Nothing is an answer for `list`; `show` exits 2 and says where to look."""
    assert "No runs yet; `spira train" in here(tmp_path, "runs", "list").stdout
    ended = here(tmp_path, "runs", "show", "2024")
    assert ended.returncode == WRONG_INPUT
    assert "run 2024: 0 runs have an id that begins so; `spira runs list`" in ended.stderr


def test_clean_removes_what_kills_leave_behind(
    trained_home: Path, here: Spira, copy: Copy, bytes_of_stages: Callable[[Path], Any]
) -> None:
    """A working folder, a lock, a run without a record, the checkpoint of a stage that is
    committed, a blob that nothing names, a file half-written: gone. Everything else stays."""
    home = copy(trained_home)
    store = store_of(home)
    (trained,) = store.list("train")
    work = home / "work" / f"train-{trained.fingerprint}"
    work.mkdir(parents=True)
    (work / "samples").write_bytes(bytes(1000))
    (home / "locks" / "train-0.lock").touch()
    (home / "runs" / "20240101-000000-000000").mkdir()
    store.save_scratch(trained.fingerprint, "checkpoint", bytes(1000))
    unnamed = home / "store" / "blobs" / "00" / ("00" * 32)
    unnamed.parent.mkdir(exist_ok=True)
    unnamed.write_bytes(bytes(1_000_000))
    half = home / "store" / "blobs" / "00" / ("0f" * 32 + "#1")
    half.write_bytes(bytes(1_000_000))

    cleaned = json.loads(here(home, "--json", "runs", "clean").stdout)

    assert cleaned == {"runs": 0, "checkpoints": 1, "folders": 2, "bytes_freed": 2_000_000}
    assert not store.scratch()
    assert not any(path.exists() for path in (work, unnamed, half, home / "locks/train-0.lock"))
    assert bytes_of_stages(home) == bytes_of_stages(trained_home)
    assert all(store.intact(one, thorough=True) for stage in STAGES for one in store.list(stage))
    (run,) = (home / "runs").iterdir()
    assert (run / "report.html").exists()
    again = json.loads(here(home, "--json", "runs", "clean").stdout)
    assert again == {"runs": 0, "checkpoints": 0, "folders": 0, "bytes_freed": 0}


def test_after_clean_a_killed_run_goes_on_from_its_checkpoint(
    killed_home: Path, tiny_experiment: Path, here: Spira, copy: Copy
) -> None:
    """What it needs is kept: its training goes on where the kill left it, not from the start."""
    home = copy(killed_home)
    store = store_of(home)
    (name,) = store.scratch()
    marked_epoch = mark(store, name)

    cleaned = here(home, "runs", "clean")
    resumed = here(home, "stage", "train", str(tiny_experiment), "--data", "tiny")

    assert cleaned.returncode == resumed.returncode == 0, cleaned.stderr + resumed.stderr
    assert len(runs_of(home, here)) == 1
    (trained,) = store.list("train")
    history = trained.read_json("history.json")
    assert [row["epoch"] for row in history] == list(range(6))
    assert [row["epoch"] for row in history if row["train"] > 1000] == [marked_epoch]
    assert not store.scratch()


def mark(store: ArtifactStore, fingerprint: str) -> int:
    """Write a loss that nothing else gives into a checkpoint; returns its epoch."""
    raw = store.load_scratch(fingerprint, "checkpoint")
    assert raw is not None
    checkpoint = torch.load(io.BytesIO(raw), weights_only=True)
    checkpoint["state"]["loss_sum"] += 1e6
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    store.save_scratch(fingerprint, "checkpoint", buffer.getvalue())
    return int(checkpoint["state"]["epoch"])


def test_a_torn_record_hides_one_run_and_stops_no_command(
    trained_home: Path, here: Spira, copy: Copy
) -> None:
    """`list` shows the others; what lies beside the record is kept."""
    home = copy(trained_home)
    (run,) = (home / "runs").iterdir()
    (home / "runs" / "20240101-000000-000000").mkdir()
    torn = home / "runs" / "20240101-000000-000000" / "run.json"
    torn.write_text('{"run_id": "2024')

    listed = runs_of(home, here)
    cleaned = here(home, "runs", "clean")

    assert [one["run_id"] for one in listed] == [run.name]
    assert cleaned.returncode == 0
    assert torn.exists()


def test_clean_forgets_interrupted_runs_only_when_asked(
    killed_home: Path, here: Spira, copy: Copy
) -> None:
    """With --interrupted the record and the checkpoint go; what was committed stays."""
    home = copy(killed_home)

    here(home, "runs", "clean")
    kept = runs_of(home, here), store_of(home).scratch()
    cleaned = json.loads(here(home, "--json", "runs", "clean", "--interrupted").stdout)

    assert len(kept[0]) == len(kept[1]) == 1
    assert (cleaned["runs"], cleaned["checkpoints"]) == (1, 1)
    assert not runs_of(home, here)
    assert not store_of(home).scratch()
    assert len(store_of(home).list("features")) == 1


def test_clean_forgets_checkpoints_without_a_run_only_when_asked(
    killed_home: Path, here: Spira, copy: Copy
) -> None:
    """A killed `spira stage train` leaves a checkpoint and no record: it may be gone on with."""
    home = copy(killed_home)
    shutil.rmtree(home / "runs")

    kept = here(home, "runs", "clean").returncode, store_of(home).scratch()
    cleaned = json.loads(here(home, "--json", "runs", "clean", "--interrupted").stdout)

    assert kept[0] == 0
    assert len(kept[1]) == 1
    assert (cleaned["runs"], cleaned["checkpoints"]) == (0, 1)
    assert not store_of(home).scratch()


def test_clean_removes_what_was_being_fetched_long_ago(
    trained_home: Path, here: Spira, copy: Copy
) -> None:
    """A fetch of a model or a blob, an empty database: after an hour nobody is at it any more."""
    home = copy(trained_home)
    names = ("cache/fetching-a", "cache/models/fetching-a", "mlflow/making-a")
    old = [home / name for name in names]
    fresh = [home / f"{name}-now" for name in names]
    for folder in (*old, *fresh):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(bytes(1000))
    for folder in old:
        os.utime(folder, (0, 0))

    cleaned = json.loads(here(home, "--json", "runs", "clean").stdout)

    assert cleaned["folders"] == len(old)
    assert not any(folder.exists() for folder in old)
    assert all((folder / "half").exists() for folder in fresh)


def test_clean_removes_nothing_where_a_dataset_is_damaged(
    killed_home: Path, tiny_table: Path, here: Spira, copy: Copy
) -> None:
    """Its audio may be the only copy: exit code 70 first; imported again, it works."""
    home = copy(killed_home)
    (manifest,) = (home / "store" / "manifests" / "dataset").glob("*.json")
    manifest.write_bytes(manifest.read_bytes()[:-3])
    before = files_below(home)

    refused = here(home, "runs", "clean", "--interrupted")
    after = files_below(home)
    here(home, "dataset", "import", str(tiny_table), "--format", "csv", "--name", "tiny")
    cleaned = here(home, "runs", "clean", "--interrupted")

    assert refused.returncode == DAMAGED
    assert "nothing was deleted; import that dataset again" in refused.stderr
    assert after == before
    assert cleaned.returncode == 0, cleaned.stderr


def files_below(home: Path) -> set[Path]:
    """Every file and folder."""
    return set(home.rglob("*"))


@pytest.mark.parametrize("stage", ["features-shard", "train"])
def test_clean_goes_on_where_a_stage_is_damaged(
    stage: str,
    trained_home: Path,
    tiny_experiment: Path,
    here: Spira,
    copy: Copy,
    bytes_of_stages: Callable[[Path], Any],
) -> None:
    """Its manifest can be made again: it goes, and the next run makes it as it was, if needed."""
    home = copy(trained_home)
    manifest = min((home / "store" / "manifests" / stage).glob("*.json"))
    manifest.write_bytes(manifest.read_bytes()[:-3])

    cleaned = here(home, "runs", "clean")
    gone = not manifest.exists()
    ended = here(home, "train", str(tiny_experiment), "--data", "tiny")

    assert cleaned.returncode == 0, cleaned.stderr
    assert gone
    assert ended.returncode == 0, ended.stderr
    assert bytes_of_stages(home)["publish"] == bytes_of_stages(trained_home)["publish"]
    assert (stage == "train") == manifest.exists()  # nobody asked for the shard again


def test_a_large_file_that_a_stage_finds_damaged_is_mended_by_the_command_it_names(
    trained_home: Path,
    tiny_experiment: Path,
    here: Spira,
    copy: Copy,
    bytes_of_stages: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`train` exits 70 and names `spira stage features`, which then does not say "already done"."""
    monkeypatch.setattr("spira.stores.artifacts._DIGESTS_CHECKED_UP_TO_BYTES", 0)  # all are large
    logger = structlog.get_logger()  # the module's own still writes to an earlier test's capture
    monkeypatch.setattr("spira.training.pipeline._log", logger)
    home = copy(trained_home)
    words = (str(tiny_experiment), "--data", "tiny")
    shutil.rmtree(home / "store" / "manifests" / "train")
    (features,) = store_of(home).list("features")
    name = max(features.files, key=lambda name: features.files[name].size)
    blob = features.path(name)
    right = blob.read_bytes()
    blob.write_bytes(right[:-9] + bytes([right[-9] ^ 1]) + right[-8:])

    unseen = here(home, "stage", "features", *words)
    refused = here(home, "stage", "train", *words)
    mended = here(home, "stage", "features", *words)
    trained = here(home, "stage", "train", *words)

    assert "already done" in unseen.stdout
    assert refused.returncode == DAMAGED
    assert f"/{name}: its bytes do not match" in refused.stderr
    assert "`spira stage features`" in refused.stderr
    assert "features: done in" in mended.stdout
    assert trained.returncode == 0, trained.stderr
    assert blob.read_bytes() == right
    assert bytes_of_stages(home)["train"] == bytes_of_stages(trained_home)["train"]


def test_a_data_folder_that_can_only_be_read_is_read(
    killed_home: Path,
    tiny_experiment: Path,
    here: Spira,
    copy: Copy,
    tmp_path: Path,
    mount: Callable[..., Path],
) -> None:
    """A read-only mount, such as a backup: datasets and runs are shown and verified; who writes
    is told which folder, and --home."""
    home = mount(tmp_path / "read-only", "--bind", str(copy(killed_home)))
    subprocess.run(["mount", "-o", "remount,bind,ro", str(home)], check=True)

    for words in (
        ("dataset", "list"),
        ("dataset", "show", "tiny"),
        ("dataset", "verify", "tiny"),
        ("runs", "list"),
    ):
        ended = here(home, *words)
        assert ended.returncode == 0, ended.stderr
    (run,) = runs_of(home, here)
    assert run["state"] == "interrupted"
    store = store_of(home)
    for write in (
        lambda: store.commit("split", "a" * 64, {"a": b"1"}, {}),
        lambda: store.save_scratch("a" * 64, "checkpoint", b"1"),
    ):
        with pytest.raises(InputError, match=f"data folder {home}/store: read-only.*--home"):
            write()
    refused = here(home, "stage", "split", str(tiny_experiment), "--data", "tiny")
    assert refused.returncode == WRONG_INPUT
    assert str(home) in refused.stderr
    assert "--home" in refused.stderr


def test_clean_waits_for_nobody(trained_home: Path, here: Spira, copy: Copy) -> None:
    """While another process writes it removes nothing, exits 75 and says why."""
    home = copy(trained_home)
    leftover = home / "work" / "left"
    leftover.mkdir(parents=True)

    with locked(home / "locks" / "writers", shared=True):  # as every writing command does
        refused = here(home, "runs", "clean")
    kept = leftover.exists()
    cleaned = here(home, "runs", "clean")

    assert refused.returncode == LATER
    assert "another spira process is at work here; wait for it to end" in refused.stderr
    assert kept
    assert cleaned.returncode == 0
    assert not leftover.exists()


def test_smoke_overfits_eight_recordings(tmp_path: Path, here: Spira) -> None:
    """`spira train --smoke` needs no data, ends with a loss under 0.05 and leaves nothing."""
    ended = here(tmp_path / "home", "--json", "train", "--smoke")

    assert ended.returncode == 0, ended.stderr
    losses = json.loads(ended.stdout)["losses"]
    assert losses[0] > 0.5
    assert losses[-1] < 0.05
    assert not (tmp_path / "home").exists()


def test_six_stages_alone_are_the_pipeline(
    tiny_home: Path,
    trained_home: Path,
    tiny_experiment: Path,
    spira: Spira,
    copy: Copy,
    bytes_of_stages: Callable[[Path], Any],
) -> None:
    """Each in a process of its own, in order: the same bytes as of `spira train`."""
    home = copy(tiny_home)
    words = (str(tiny_experiment), "--data", "tiny")

    done = [json.loads(spira(home, "--json", "stage", stage, *words).stdout) for stage in STAGES]

    assert [(one["stage"], one["already"]) for one in done] == [(name, False) for name in STAGES]
    assert bytes_of_stages(home) == bytes_of_stages(trained_home)
    again = json.loads(spira(home, "--json", "stage", "train", *words).stdout)
    assert again == done[STAGES.index("train")] | {"already": True}


def test_a_model_may_be_published_without_becoming_challenger(
    trained_home: Path, tiny_experiment: Path, here: Spira, copy: Copy
) -> None:
    """With --no-alias it stands in the registry only; without, it becomes challenger then."""
    home = copy(trained_home)
    shutil.rmtree(home / "mlflow")
    words = ("stage", "publish", str(tiny_experiment), "--data", "tiny")

    def aliases_after(*options: str) -> list[list[str]]:
        ended = here(home, *words, *options)
        assert "publish: already done" in ended.stdout, ended.stderr
        models = json.loads(here(home, "--json", "model", "list").stdout)
        return [model["aliases"] for model in models]

    assert aliases_after("--no-alias") == [[]]
    assert aliases_after("--no-alias") == [[]]
    assert aliases_after() == [["challenger"]]
    assert aliases_after("--no-alias") == [["challenger"]]


def test_only_publish_takes_no_alias(
    trained_home: Path, tiny_experiment: Path, here: Spira, copy: Copy
) -> None:
    """Another stage says so, exits 2 and does nothing."""
    home = copy(trained_home)

    ended = here(home, "stage", "train", str(tiny_experiment), "--data", "tiny", "--no-alias")

    assert ended.returncode == WRONG_INPUT
    assert "stage train: only publish gives an alias; leave --no-alias out" in ended.stderr
    assert not ended.stdout


ASKING = """
import json, sys
from pathlib import Path

sys.modules["torch"] = sys.modules["mlflow"] = None
from spira.console import Console
from spira.settings import read_settings
from spira.training.experiments import read_experiment
from spira.training.plan import STAGES
from spira.wiring import Application

home, experiment = sys.argv[1:]
quick = ["training.checkpoint_every_s=0", "evaluation.resamples=200"]
app = Application(read_settings(home=Path(home), overrides=quick), Console())
plan = app.plan(read_experiment(Path(experiment)), "tiny")
found = [app.find_done(stage, plan) for stage in STAGES]
found.append(app.find_done("publish", plan, alias=None))
print(json.dumps([one and [one.stage, one.fingerprint] for one in found]))
"""


def found_done(home: Path, experiment: Path) -> list[list[str] | None]:
    """Stage and fingerprint of what is found done of each stage, and of `publish` without alias."""
    words = [sys.executable, "-c", ASKING, str(home), str(experiment)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found: list[list[str] | None] = json.loads(ended.stdout)
    return found


def test_what_is_done_can_be_asked_without_torch_or_mlflow(
    trained_home: Path, tiny_experiment: Path, here: Spira, copy: Copy
) -> None:
    """Every stage's artifact is found, and nothing is written by asking."""
    home = copy(trained_home)
    (run,) = runs_of(home, here)
    before = files_below(home)

    found = found_done(home, tiny_experiment)

    done = [[stage, run["fingerprints"][stage]] for stage in STAGES]
    assert found == [*done, done[-1]]
    assert files_below(home) == before


def test_what_is_missing_damaged_or_not_registered_is_not_done(
    trained_home: Path, tiny_experiment: Path, here: Spira, copy: Copy
) -> None:
    """So that the stage runs: a stage never run, one with a damaged file, a registry that lost the
    model, or that has it without the alias asked for."""
    home, without = copy(trained_home), copy(trained_home)
    shutil.rmtree(home / "mlflow")
    shutil.rmtree(home / "store" / "manifests" / "split")
    (trained,) = store_of(home).list("train")
    trained.path("history.json").write_bytes(b"[]")
    shutil.rmtree(without / "mlflow")
    here(without, "stage", "publish", str(tiny_experiment), "--data", "tiny", "--no-alias")

    found = found_done(home, tiny_experiment)
    *_, asked, without_alias = found_done(without, tiny_experiment)

    names = [None if one is None else one[0] for one in found]
    assert names == ["snapshot", None, "features", None, "evaluate", None, None]
    assert asked is None
    assert without_alias is not None


@pytest.mark.parametrize(
    ("stage", "needs"),
    [
        ("split", "snapshot"),
        ("features", "snapshot"),
        ("train", "snapshot"),
        ("evaluate", "snapshot"),
        ("publish", "evaluate"),
    ],
)
def test_a_stage_without_its_input_says_which_to_run(
    stage: str, needs: str, tiny_home: Path, tiny_experiment: Path, here: Spira, copy: Copy
) -> None:
    """It exits 2 and commits nothing."""
    home = copy(tiny_home)

    ended = here(home, "stage", stage, str(tiny_experiment), "--data", "tiny")

    assert ended.returncode == WRONG_INPUT
    assert f"spira: stage {stage}: its input {needs} is not there; " in ended.stderr
    assert f"run `spira stage {needs}`" in ended.stderr
    assert not store_of(home).list(stage)
    assert not list((home / "work").iterdir())
