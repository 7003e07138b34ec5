"""Brazilian-Portuguese voices, from espeak-ng in a process of its own.

The same request gives the same samples, in any process and whatever was said before.
"""

import importlib.util
import json
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from spira.domain.errors import InputError, TransientError
from spira.domain.recordings import Sex

RATE_HZ = 22_050  # espeak-ng's own; everything is synthesized at it, until a device captures it

# Variants that sound like a person. Left out: whispers, robots, croaks, those with a loud echo,
# which would fill the pauses, and those that speak a fifth faster than they are asked to.
_VARIANTS: dict[Sex, tuple[str, ...]] = {
    "female": (
        *("f1", "f2", "f3", "f4", "f5", "Alicia", "Annie", "aunty", "belinda", "linda"),
        *("shelby", "steph"),
    ),
    "male": (
        *("m1", "m3", "m4", "m5", "m6", "m7", "m8", "Denis", "Diogo", "Hugo", "Mario"),
        *("Michael", "Mike", "marcelo", "miguel", "quincy", "rob", "robert"),
    ),
}
_TRIM_BELOW = 0.005  # of the peak: what espeak-ng pads a text with is digital silence
_FAILED = 0xFFFFFFFF


@dataclass(frozen=True)
class Voice:
    """How one person sounds."""

    variant: str  # of espeak-ng: "m3", "f2", …
    words_per_minute: int  # 80..450
    pitch: int  # 0..99, 50 is the variant's own
    pitch_range: int  # 0..99: from monotonous to lively


def draw_voice(sex: Sex, age: int, rng: np.random.Generator) -> Voice:
    """A voice for a person; older people speak somewhat more slowly."""
    variants = _VARIANTS[sex]
    slower = round(0.3 * max(0, age - 55))
    return Voice(
        variant=variants[int(rng.integers(len(variants)))],
        words_per_minute=int(rng.integers(158, 189)) - slower,
        pitch=int(rng.integers(35, 66)),
        pitch_range=int(rng.integers(35, 76)),
    )


def require_voices() -> None:
    """See that voices can be had at all.

    raises    InputError that says how to install them
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise InputError(
            "synthetic voices: espeak-ng is not installed; pip install 'spira[synthetic]'"
        )


class Voices:
    """The voice process, as a context: it starts on entry and ends on exit."""

    def __init__(self) -> None:
        require_voices()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "spira.synthetic._espeak"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        greeting = json.loads(self._output.readline() or b"{}")
        if greeting.get("rate_hz") != RATE_HZ:
            self.close()
            raise InputError(
                f"synthetic voices: espeak-ng answered {greeting or 'nothing'} at its start, "
                f"not {RATE_HZ} Hz; pip install 'spira[synthetic]' again"
            )

    def __enter__(self) -> "Voices":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def say(self, voice: Voice, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Speak each text by itself.

        returns   for each text [T] float32 in -1..1 at `RATE_HZ`, without silence at its ends
        raises    InputError for an unknown voice; TransientError when the voice process has ended
        """
        request = {
            "variant": voice.variant,
            "words_per_minute": voice.words_per_minute,
            "pitch": voice.pitch,
            "range": voice.pitch_range,
            "texts": list(texts),
        }
        try:
            self._input.write(json.dumps(request).encode() + b"\n")
            self._input.flush()
        except BrokenPipeError as error:
            raise _ended() from error
        return [self._read() for _ in texts]

    def close(self) -> None:
        """End the voice process, after the request that it is answering."""
        with suppress(BrokenPipeError):  # it may have ended by itself
            self._input.close()
        self._output.close()
        self._process.wait()

    @property
    def _input(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _read(self) -> NDArray[np.float32]:
        (length,) = struct.unpack("<I", self._read_exactly(4))
        if length == _FAILED:
            (length,) = struct.unpack("<I", self._read_exactly(4))
            raise InputError(f"synthetic voices: {self._read_exactly(length).decode()}")
        samples = np.frombuffer(self._read_exactly(length), dtype="<i2")
        return _trimmed(samples.astype(np.float32) / np.float32(32768))

    def _read_exactly(self, n: int) -> bytes:
        data = self._output.read(n)
        if len(data) < n:
            raise _ended()
        return data


def _trimmed(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    level = np.abs(waveform)
    loud = np.flatnonzero(level > _TRIM_BELOW * level.max(initial=0.0))
    return waveform[loud[0] : loud[-1] + 1] if len(loud) else waveform[:0]


def _ended() -> TransientError:
    return TransientError("synthetic voices: the voice process has ended; run the command again")
