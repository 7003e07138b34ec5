"""A tiny real model, recordings, and a store of them."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_bundle import write_bundle

from spira.domain.draws import draws
from spira.serving.messages import Ask
from spira.stores.objects import Objects

Float = NDArray[np.float32]


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """`make_bundle("name", shift=…)`: a bundle in a folder of its own."""

    def make(name: str = "bundle", **how: Any) -> Path:
        return write_bundle(tmp_path / name, **how)

    return make


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    """An empty audio store."""
    return Objects.open(str(tmp_path / "objects"), setting="a test")


def recording(number: int, seconds: float = 4.5) -> Float:
    """Noise of a loudness of its own: every number has another answer."""
    noise = draws(number, "test predictor").standard_normal(round(seconds * 16_000))
    return (0.02 * (1 + number % 37) * noise).astype(np.float32)


def identity(number: int) -> str:
    """The id of an assessment."""
    return f"01938f00-0000-7000-8000-{number:012d}"


@pytest.fixture
def ask_for(objects: Objects) -> Callable[..., Ask]:
    """`ask_for(3)`: what the relay would ask about recording 3, whose audio is stored then."""

    def make(number: int, waveform: Float | None = None, *, stored: bool = True) -> Ask:
        data = (recording(number) if waveform is None else waveform).astype("<f4").tobytes()
        key = f"{identity(number)}/audio"
        if stored:
            objects.create(key, data)
        digest = hashlib.sha256(data).hexdigest()
        return Ask(assessment=identity(number), attempt=1, audio=key, sha256=digest)

    return make
