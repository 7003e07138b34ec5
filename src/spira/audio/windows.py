"""Windows: which stretches of a recording the network is asked about.

0    1    2    3    4    5    6 s      length 4 s, step 1 s, recording of 6 s
|-------------------|
     |-------------------|
          |-------------------|        ends exactly at the end: it counts (`last`)
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from spira.domain.errors import InputError
from spira.domain.frozen import Frozen

Float = NDArray[np.float32]


class Windows(Frozen):
    """Length and step of windows, and what happens at the edges.

    source    Casanova et al., Findings of ACL 2021 (4 s every second); the edge rules are ours,
              the published code's are `last: drop` and `short: refuse`
    """

    length_s: float = Field(default=4.0, gt=0)
    step_s: float = Field(default=1.0, gt=0)
    last: Literal["include", "drop"] = "include"  # the window that ends exactly at the end
    short: Literal["pad", "refuse"] = "pad"  # a recording shorter than one window

    def samples(self, rate_hz: int) -> tuple[int, int]:
        """Length and step in samples.

        raises    InputError when either is not a whole number of samples
        """
        sizes = self.length_s * rate_hz, self.step_s * rate_hz
        length, step = map(round, sizes)
        # 1.1 s at 16 kHz is 17600.000000000002 samples
        if min(length, step) < 1 or max(abs(sizes[0] - length), abs(sizes[1] - step)) > 1e-6:
            raise InputError(
                f"windows of {self.length_s} s every {self.step_s} s are not whole samples at "
                f"{rate_hz} Hz; choose multiples of {1 / rate_hz} s"
            )
        return length, step


def starts(n_samples: int, windows: Windows, rate_hz: int = 16_000, offset: int = 0) -> list[int]:
    """First sample of each window of a recording of `n_samples`, the first at `offset`.

    returns   at least one: a recording shorter than a window has one, at 0, to be padded
    raises    InputError for an empty recording, or a short one that is to be refused
    """
    length, step = windows.samples(rate_hz)
    if n_samples == 0:
        raise InputError("the recording has no samples; it needs at least one")
    room = n_samples - length - offset
    if room < 0 or (room == 0 and windows.last == "drop"):
        if windows.short == "refuse":
            needed = "more than" if windows.last == "drop" else "at least"
            raise InputError(
                f"the recording has {(n_samples - offset) / rate_hz:.2f} s from its first window "
                f"on, {needed} {windows.length_s} s are needed; use windows.short: pad"
            )
        return [max(0, min(offset, n_samples - length))]
    count = room // step + 1
    if windows.last == "drop" and room % step == 0:
        count -= 1
    return [offset + number * step for number in range(count)]


def cut(waveform: Float, windows: Windows, rate_hz: int = 16_000, offset: int = 0) -> Float:
    """Cut a mono waveform into overlapping windows.

    waveform  [T], float32
    returns   [N, L] with L = length_s * rate_hz; a shorter waveform comes back as one window
              padded with zeros; a view where nothing is padded and more than one window is cut
    """
    length, step = windows.samples(rate_hz)
    first, *others = starts(len(waveform), windows, rate_hz, offset)
    if len(waveform) < first + length:
        padded = np.zeros((1, length), np.float32)
        padded[0, : len(waveform) - first] = waveform[first:]
        return padded
    views = np.lib.stride_tricks.sliding_window_view(waveform, length)
    return views[first::step][: len(others) + 1]


def slices(
    blocks: Iterable[Float], windows: Windows, rate_hz: int = 16_000, per_slice: int = 32
) -> Iterator[Float]:
    """Overlapping slices of a long recording that comes in blocks, in bounded memory.

    blocks    [T_i] each, of any length; kept until they are part of a slice
    returns   [S] each, S at most (per_slice - 1) steps and one window: the windows of all slices,
              one slice after the other, are the windows of the whole recording
    raises    InputError for a recording without samples
    """
    length, step = windows.samples(rate_hz)
    whole, onward = (per_slice - 1) * step + length, per_slice * step
    # The window that ends where a slice ends is inside the recording: with one sample more, the
    # rule about a recording's last window does not touch it.
    more = 1 if windows.last == "drop" else 0
    enough = max(whole + 1, onward)  # windows with gaps between: the gap has to be there, to skip
    held: list[Float] = []
    n_held = 0
    begun = False
    for block in blocks:
        held.append(np.asarray(block, np.float32))
        n_held += len(block)
        if n_held < enough:
            continue
        joined = held[0] if len(held) == 1 else np.concatenate(held)
        while len(joined) >= enough:
            yield joined[: whole + more]
            joined = joined[onward:]
            begun = True
        held, n_held = [joined], len(joined)
    rest = np.concatenate([np.zeros(0, np.float32), *held])
    if not begun or len(rest) >= length + more:
        yield rest
