"""The whole pipeline with its artifacts on a real S3 server."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from spira.stores.artifacts import ArtifactStore
from spira.training.pipeline import STAGES


@pytest.mark.slow
def test_on_s3_every_stage_has_the_bytes_it_has_in_a_folder(
    tmp_path: Path,
    s3: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    spira_command: Callable[..., list[str]],
    bytes_of_stages: Callable[[Path], dict[str, dict[str, str]]],
    tiny_table: Path,
    tiny_experiment: Path,
    trained_home: Path,
) -> None:
    """A setting moves the store; nothing else changes, and a second run does nothing."""
    url = f"s3://spira/{tmp_path.name}"
    place = ("--setting", f"stores.artifacts={url}")
    table = ("dataset", "import", str(tiny_table), "--format", "csv", "--name", "tiny")
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

    spira(*table)
    spira(*training)
    again = spira(*training)

    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    store = ArtifactStore.open(url, cache=tmp_path / "cache")
    there = {
        stage: {
            f"{artifact.fingerprint[:8]}/{name}": entry.sha256
            for artifact in store.list(stage)
            for name, entry in artifact.files.items()
        }
        for stage in STAGES
    }
    in_folder = bytes_of_stages(trained_home)
    assert there == {stage: in_folder[stage] for stage in STAGES}
    assert again.count("already done") == len(STAGES)
    assert not (tmp_path / "home" / "store").exists()
