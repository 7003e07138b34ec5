"""Hours of audio, high rates and many channels are checked in little memory, without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

# A process of its own, so that the peak is of this file and not of another test. What libraries
# and two minutes of audio need is taken off.
MEASURE = """
import json, resource, sys
from pathlib import Path
from spira.audio.quality import QualityThresholds, check

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

warm, path = map(Path, sys.argv[1:])
check(warm, thresholds=QualityThresholds())
before = peak_mb()
found = check(path, thresholds=QualityThresholds())
print(json.dumps({
    "grown_mb": peak_mb() - before,
    "duration_s": found.measurements.duration_s,
    "modules": sorted({"torch", "silero_vad"} & set(sys.modules)),
}))
"""


def _write(path: Path, seconds: int, rate_hz: int, channels: int, subtype: str) -> Path:
    """Noise, written five seconds at a time."""
    piece = np.random.default_rng(0).standard_normal((5 * rate_hz, channels)) * 0.05
    with soundfile.SoundFile(path, "w", rate_hz, channels, subtype, format="WAV") as file:
        for _ in range(seconds // 5):
            file.write(piece)
    return path


def _measure(folder: Path, path: Path) -> dict[str, Any]:
    warm = _write(folder / "warm.wav", 120, 16_000, 1, "PCM_16")
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(warm), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_twenty_minutes_need_little_memory(tmp_path: Path) -> None:
    """Checking 20 minutes takes far less than the 77 MB that their samples at 16 kHz fill; torch
    and silero's package stay out of the process."""
    found = _measure(tmp_path, _write(tmp_path / "a.wav", 1200, 8000, 1, "PCM_U8"))

    assert found["duration_s"] == 1200
    assert found["grown_mb"] < 40
    assert found["modules"] == []


def test_seven_channels_at_192_khz_need_little_memory(tmp_path: Path) -> None:
    """Twenty seconds of what fills 107 MB as float32 pass through in blocks."""
    found = _measure(tmp_path, _write(tmp_path / "a.wav", 20, 192_000, 7, "PCM_24"))

    assert found["duration_s"] == 20
    assert found["grown_mb"] < 40


@pytest.mark.slow
def test_three_hours_need_little_memory(tmp_path: Path) -> None:
    """Three hours (691 MB as float32 at 16 kHz) take no more than minutes do."""
    found = _measure(tmp_path, _write(tmp_path / "a.wav", 10_800, 16_000, 1, "PCM_16"))

    assert found["duration_s"] == 10_800
    assert found["grown_mb"] < 40
