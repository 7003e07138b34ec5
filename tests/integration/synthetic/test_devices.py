"""Real encoders: what a browser would have recorded, and the same bytes every time."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spira.audio.decode import decode, sniff
from spira.domain.draws import draws
from spira.synthetic.devices import DEVICE_NAMES, DEVICES, DeviceName, capture

CONTAINERS = {"wav": "wav", "flac": "flac", "ogg": "ogg", "webm": "webm", "m4a": "mp4"}

MAKE = """
import numpy as np, sys
from spira.domain.draws import draws
from spira.synthetic.devices import DEVICES, capture
sound = (np.sin(np.arange(44_100) * 2 * np.pi * 300 / 22_050) / 2).astype(np.float32)
sys.stdout.buffer.write(capture(sound, DEVICES[sys.argv[1]], draws(1, "test")))
"""


def recorded(name: DeviceName) -> bytes:
    """Two seconds of a tone of 300 Hz."""
    sound = (np.sin(np.arange(44_100) * 2 * np.pi * 300 / 22_050) / 2).astype(np.float32)
    return capture(sound, DEVICES[name], draws(1, "test"))


@pytest.mark.parametrize("name", DEVICE_NAMES)
def test_the_same_sound_gives_the_same_bytes(name: DeviceName) -> None:
    """No time, serial number or library version in them: also in another process."""
    elsewhere = subprocess.run(
        [sys.executable, "-c", MAKE, name], check=True, capture_output=True
    ).stdout

    digests = {hashlib.sha256(data).hexdigest() for data in (recorded(name), elsewhere)}
    assert len(digests) == 1
    assert not re.search(rb"Lav[cf]\d", elsewhere)


@pytest.mark.parametrize("name", DEVICE_NAMES)
def test_a_file_is_what_its_device_records_and_decodes_to_what_was_heard(
    name: DeviceName, tmp_path: Path
) -> None:
    """Container, duration within an encoder's padding, and the tone with its level."""
    file = tmp_path / f"sound.{DEVICES[name].suffix}"
    file.write_bytes(recorded(name))

    waveform = decode(file)

    assert sniff(file.read_bytes()[:64]) == CONTAINERS[DEVICES[name].suffix]
    assert len(waveform) / 16_000 == pytest.approx(2, abs=0.05)
    middle = waveform[8_000:24_000]
    spectrum = np.abs(np.fft.rfft(middle))
    assert np.argmax(spectrum) == pytest.approx(300, abs=1)
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.06)
