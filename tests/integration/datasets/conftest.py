"""Real audio files, good and bad, and the settings of an import."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from spira.audio.quality import QualityThresholds
from spira.datasets.importing import ImportReport, import_dataset
from spira.datasets.sources import Source, read_csv
from spira.stores.artifacts import ArtifactStore

WriteSound = Callable[..., Path]
WriteTable = Callable[..., Source]
Import = Callable[..., ImportReport]


@pytest.fixture
def write_sound() -> WriteSound:
    """Write noise of a seed at -20 dBFS, 0.6 s and 8 kHz mono unless told."""

    def write(path: Path, seed: int, *, seconds: float = 0.6, **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rate = options.pop("rate_hz", 8_000)
        shape = (round(rate * seconds), options.pop("channels", 1))
        sound = 0.1 * np.random.default_rng(seed).standard_normal(shape)
        soundfile.write(path, sound, rate, **options)
        return path

    return write


@pytest.fixture
def table(tmp_path: Path) -> WriteTable:
    """Write rows (our own column names) as a table beside the files; read it as a source."""

    def write(rows: Sequence[Mapping[str, str]], *, noise: Sequence[str] = ()) -> Source:
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        header = list(dict.fromkeys(name for row in rows for name in row))
        with (root / "recordings.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, header)
            writer.writeheader()
            writer.writerows(rows)
        if noise:
            (root / "noise.csv").write_text("path\n" + "".join(f"{name}\n" for name in noise))
            (root / "mapping.yaml").write_text("noise: noise.csv\n")
        return read_csv(root / "recordings.csv")

    return write


@pytest.fixture
def importing(store: ArtifactStore) -> Import:
    """Import a source into the store."""

    def run(source: Source, **options: Any) -> ImportReport:
        return import_dataset(
            source,
            options.pop("store", store),
            **{"name": "mine", "thresholds": QualityThresholds(), "jobs": 1, **options},
        )

    return run


@pytest.fixture
def small(tmp_path: Path, table: WriteTable, write_sound: WriteSound) -> Source:
    """Six people, a recording each, and two noise recordings."""
    rows = []
    for number in range(6):
        write_sound(tmp_path / "data" / f"{number}.wav", number)
        label = ("present", "absent")[number % 2]
        rows.append({"path": f"{number}.wav", "participant": f"p-{number}", "label": label})
    for number in range(2):
        write_sound(tmp_path / "data" / f"noise {number}.wav", 100 + number)
    return table(rows, noise=["noise 0.wav", "noise 1.wav"])


@pytest.fixture
def spira(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line on a data folder of its own: exit code, standard output and error."""
    from spira.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["--home", str(tmp_path / "home"), *map(str, arguments)])
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, err

    return run
