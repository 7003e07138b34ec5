"""The whole pipeline with its artifacts on a real S3 server."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from spira.stores.artifacts import ArtifactStore
from spira.training.features import FeatureSet
from spira.training.plan import STAGES

Bytes = Callable[[Path], dict[str, dict[str, str]]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A place of one's own in the bucket."""
    return f"s3://spira/{tmp_path.name}"


@pytest.fixture
def open_store(
    url: str, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[], ArtifactStore]:
    """The store as a new process with an empty cache finds it."""

    def opened() -> ArtifactStore:
        for name, value in s3.items():
            monkeypatch.setenv(name, value)
        return ArtifactStore.open(url, cache=tmp_path / "another cache")

    return opened


def committed(store: ArtifactStore, *stages: str) -> dict[str, dict[str, str]]:
    """Digest of every file of every stage's artifact, as `bytes_of_stages` has them."""
    return {
        stage: {
            f"{artifact.fingerprint[:8]}/{name}": entry.sha256
            for artifact in store.list(stage)
            for name, entry in artifact.files.items()
        }
        for stage in stages
    }


def test_on_s3_stages_run_on_one_machine_are_done_for_another(
    url: str,
    open_store: Callable[[], ArtifactStore],
    tiny_table: Path,
    tiny_home: Path,
    tiny_experiment: Path,
    bytes_of_stages: Bytes,
    here: Callable[..., "subprocess.CompletedProcess[str]"],
    copy: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    """Imported and prepared with the bytes of a folder, and read back through an empty cache."""
    first = ("snapshot", "split", "features")
    home, in_folder, other = tmp_path / "home", copy(tiny_home), tmp_path / "other"
    on_s3 = ("--setting", f"stores.artifacts={url}")
    store = open_store()

    def run(stage: str) -> tuple[str, ...]:
        return ("stage", stage, str(tiny_experiment), "--data", "tiny")

    ended = [
        here(
            home, *on_s3, "dataset", "import", str(tiny_table), "--format", "csv", "--name", "tiny"
        ),
        *(here(home, *on_s3, *run(stage)) for stage in first),
        *(here(in_folder, *run(stage)) for stage in first),
        (again := here(other, *on_s3, *run("features"))),
    ]

    assert [one.returncode for one in ended] == [0] * len(ended), ended
    made = ("dataset", *first, "features-shard")
    folder = bytes_of_stages(in_folder)
    assert committed(store, *made) == {stage: folder[stage] for stage in made}
    assert "already done" in again.stdout
    (features,) = store.list("features")
    (shard, *_) = store.list("features-shard")
    read = FeatureSet(features)
    for digest in shard.read_json("index.json")["waveforms"]:
        assert len(read.waveform(digest)) > 16_000
    assert not (home / "store").exists()


@pytest.mark.slow
def test_on_s3_every_stage_has_the_bytes_it_has_in_a_folder(
    url: str,
    s3: dict[str, str],
    open_store: Callable[[], ArtifactStore],
    spira_command: Callable[..., list[str]],
    tiny_table: Path,
    tiny_experiment: Path,
    trained_home: Path,
    bytes_of_stages: Bytes,
    tmp_path: Path,
) -> None:
    """A setting moves the store; nothing else changes, and a second run does nothing."""
    place = ("--setting", f"stores.artifacts={url}")
    training = ("train", str(tiny_experiment), "--data", "tiny")

    def spira(*words: str) -> str:
        ended = subprocess.run(
            spira_command(tmp_path / "home", *place, *words),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **s3},
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    spira("dataset", "import", str(tiny_table), "--format", "csv", "--name", "tiny")
    spira(*training)
    again = spira(*training)

    in_folder = bytes_of_stages(trained_home)
    assert committed(open_store(), *STAGES) == {stage: in_folder[stage] for stage in STAGES}
    assert again.count("already done") == len(STAGES)
    assert not (tmp_path / "home" / "store").exists()
