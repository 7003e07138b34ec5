"""Windows: which stretches of a recording the network is asked about."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from spira.audio.windows import Windows, cut, slices, starts
from spira.domain.errors import InputError

RATE_HZ = 100  # seconds in hundredths keep the arithmetic in sight

any_windows = st.builds(
    Windows,
    length_s=st.integers(1, 60).map(lambda n: n / RATE_HZ),
    step_s=st.integers(1, 90).map(lambda n: n / RATE_HZ),
    last=st.sampled_from(["include", "drop"]),
)


def ramp(n: int) -> NDArray[np.float32]:
    """Samples that say where they came from; none is 0, which is what padding is."""
    return np.arange(1, n + 1, dtype=np.float32)


@pytest.mark.parametrize(
    ("seconds", "last", "expected"),
    [
        (6.0, "include", [0, 1, 2]),  # the window over 2..6 s ends exactly at the end
        (6.0, "drop", [0, 1]),
        (6.5, "include", [0, 1, 2]),
        (6.5, "drop", [0, 1, 2]),
        (4.0, "include", [0]),
        (4.01, "drop", [0]),
    ],
)
def test_a_window_that_ends_exactly_at_the_end_counts_unless_it_is_dropped(
    seconds: float, last: Literal["include", "drop"], expected: list[int]
) -> None:
    """`last: drop` is the published behaviour, `include` the corrected one."""
    begin = starts(round(seconds * RATE_HZ), Windows(last=last), RATE_HZ)

    assert [start / RATE_HZ for start in begin] == expected


@given(windows=any_windows, n=st.integers(1, 400), offset=st.integers(0, 50))
def test_windows_are_all_and_only_those_that_fit(windows: Windows, n: int, offset: int) -> None:
    """Every step from the offset on, as long as a whole window is inside."""
    length, step = windows.samples(RATE_HZ)
    reach = n if windows.last == "include" else n - 1
    fitting = [start for start in range(offset, n, step) if start + length <= reach]

    begin = starts(n, windows, RATE_HZ, offset)

    if fitting:
        assert begin == fitting
    else:
        assert len(begin) == 1
    whole = ramp(n)
    for start, window in zip(begin, cut(whole, windows, RATE_HZ, offset), strict=True):
        assert window.shape == (length,)
        inside = whole[start : start + length]
        assert window[: len(inside)].tolist() == inside.tolist()
        assert not window[len(inside) :].any()


def test_a_recording_shorter_than_a_window_is_padded_with_zeros_at_its_end() -> None:
    """One window comes back, whatever the recording lacks."""
    windows = cut(ramp(250), Windows(), RATE_HZ)

    assert windows.shape == (1, 400)
    assert windows.dtype == np.float32
    assert windows[0, :250].tolist() == ramp(250).tolist()
    assert not windows[0, 250:].any()


def test_a_short_recording_is_refused_where_the_windows_say_so() -> None:
    """The published behaviour, with a sentence that says what would be right."""
    with pytest.raises(InputError, match=r"2\.50 s .* at least 4\.0 s .*windows\.short: pad"):
        starts(250, Windows(short="refuse"), RATE_HZ)
    with pytest.raises(InputError, match=r"4\.00 s .* more than 4\.0 s"):
        starts(400, Windows(short="refuse", last="drop"), RATE_HZ)


def test_a_late_start_never_pads_a_recording_that_holds_a_window() -> None:
    """An offset past the last fitting window moves back to the recording's last window."""
    assert starts(450, Windows(), RATE_HZ, offset=90) == [50]
    assert cut(ramp(450), Windows(), RATE_HZ, offset=90)[0].tolist() == ramp(450)[50:].tolist()


def test_an_empty_recording_has_no_windows() -> None:
    """Nothing can be said about no samples."""
    with pytest.raises(InputError, match="no samples"):
        cut(ramp(0), Windows(), RATE_HZ)
    with pytest.raises(InputError, match="no samples"):
        [cut(part, Windows(), RATE_HZ) for part in slices([], Windows(), RATE_HZ)]


def test_windows_are_whole_samples() -> None:
    """A step between two samples is refused, not rounded; seconds that are not binary are fine."""
    assert Windows(length_s=1.1, step_s=0.3).samples(16_000) == (17_600, 4_800)
    with pytest.raises(InputError, match="not whole samples at 100 Hz"):
        Windows(step_s=0.333).samples(RATE_HZ)
    with pytest.raises(InputError, match="not whole samples"):
        Windows(step_s=1e-9).samples(RATE_HZ)


def test_many_windows_are_views() -> None:
    """Overlapping windows do not cost their overlap in memory."""
    waveform = ramp(1000)

    assert np.shares_memory(cut(waveform, Windows(), RATE_HZ), waveform)


@given(
    windows=any_windows,
    blocks=st.lists(st.integers(0, 150), min_size=1, max_size=12),
    per_slice=st.integers(1, 6),
)
def test_windows_of_the_slices_are_windows_of_the_whole(
    windows: Windows, blocks: list[int], per_slice: int
) -> None:
    """However the recording comes in blocks, whatever the windows: none lost, none doubled."""
    whole = ramp(max(1, sum(blocks)))
    edges = np.cumsum(blocks)[:-1].tolist()

    parts = list(slices(np.split(whole, edges), windows, RATE_HZ, per_slice))

    together = np.concatenate([cut(part, windows, RATE_HZ) for part in parts])
    assert together.tolist() == cut(whole, windows, RATE_HZ).tolist()


@pytest.mark.parametrize("last", ["include", "drop"])
def test_slices_are_bounded_and_do_not_wait_for_the_end(last: Literal["include", "drop"]) -> None:
    """A slice comes as soon as its samples are there, and holds no more than its windows need."""
    consumed = 0

    def endless() -> object:
        nonlocal consumed
        while True:
            consumed += 1
            yield ramp(50)

    windows = Windows(last=last)
    stream = slices(endless(), windows, RATE_HZ, per_slice=4)  # type: ignore[arg-type]

    parts = [next(stream) for _ in range(5)]

    assert max(map(len, parts)) <= 3 * 100 + 400 + 1
    assert consumed * 50 <= 5 * 4 * 100 + 400 + 50
