"""`make bench`: time two ways of doing one thing, alternating, and print their ratio.

Absolute times depend on the machine and on what else it does; both ways suffer alike, so the
ratio is what counts. Each is repeated until a few seconds are spent; the median is taken.
"""

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from spira.audio.features import Mfcc, extract, extract_single
from spira.audio.noise import SnrNoise, mix
from spira.audio.windows import Windows, cut
from spira.domain.draws import draws
from spira.model.config import Compact, Network, SpiraConvV2
from spira.model.export import export
from spira.model.networks import build
from spira.model.scoring import Scorer, ScoringSpec
from spira.training.examples import prefetched

_SECONDS = 3.0
_RATE_HZ = 16_000
_FRAMES, _COEFFICIENTS = 401, 40


class Pair(NamedTuple):
    """One claim: `ours` against `other`, both doing `work` units of `unit`."""

    claim: str
    ours: Callable[[], object]
    other: Callable[[], object]
    work: int
    unit: str


def pairs() -> Iterator[Pair]:
    """Every claim."""
    torch.set_num_threads(1)
    recording = (0.1 * draws(1, "bench").standard_normal(10 * _RATE_HZ)).astype(np.float32)
    windows, mfcc = Windows(), Mfcc()
    count = len(cut(recording, windows))
    yield Pair(
        "features: frames shared among windows, against one window at a time",
        lambda: extract(recording, windows, mfcc),
        lambda: [extract_single(window, mfcc) for window in cut(recording, windows)],
        count,
        "windows",
    )

    spec = ScoringSpec(features=mfcc, windows=windows)
    tensor = torch.from_numpy(extract(recording, windows, mfcc)).unsqueeze(1)
    networks: tuple[tuple[str, Network], ...] = (
        ("SpiraConv v2", SpiraConvV2()),
        ("compact", Compact()),
    )
    for name, config in networks:
        network = build(config, frames=_FRAMES, coefficients=_COEFFICIENTS).eval()
        scorer = Scorer(export(network, _FRAMES, _COEFFICIENTS), spec)
        yield Pair(
            f"answering, {name}: score() on ONNX Runtime, against torch in one batch",
            partial(scorer.score, recording),
            partial(_answer_in_torch, network, recording),
            count,
            "windows",
        )
        yield Pair(
            f"gradients, {name}: one recording at a time, against a batch of five",
            _gradient(config, [tensor] * 5),
            _gradient(config, [torch.cat([tensor] * 5)]),
            5 * count,
            "windows",
        )

    noise = [
        (0.1 * draws(2, "bench", n).standard_normal(15 * _RATE_HZ)).astype(np.float32)
        for n in range(8)
    ]
    snr = SnrNoise()

    def example(number: int) -> torch.Tensor:
        mixed = mix(recording, noise, snr, count=3, rng=draws(3, "bench", number))
        return torch.from_numpy(extract(mixed, windows, mfcc)).unsqueeze(1)

    step = _step(SpiraConvV2())
    yield Pair(
        "training: features made ahead by a second thread, against in between",
        lambda: [step(one) for one in prefetched(range(4), example, ahead=3)],
        lambda: [step(example(number)) for number in range(4)],
        4 * count,
        "windows",
    )


def _answer_in_torch(network: torch.nn.Module, recording: NDArray[np.float32]) -> float:
    features = extract(recording, Windows(), Mfcc())
    with torch.inference_mode():
        logits = network(torch.from_numpy(features).unsqueeze(1))
    return float(logits.sigmoid().mean())


def _step(config: Network) -> Callable[[torch.Tensor], None]:
    network = build(config, frames=_FRAMES, coefficients=_COEFFICIENTS)

    def forward_and_backward(features: torch.Tensor) -> None:
        network(features).sum().backward()

    return forward_and_backward


def _gradient(config: Network, parts: list[torch.Tensor]) -> Callable[[], object]:
    step = _step(config)
    return lambda: [step(part) for part in parts]


def measure(pair: Pair) -> tuple[float, float]:
    """Median seconds of each way; they alternate, after one call each to warm up."""
    taken: tuple[list[float], list[float]] = ([], [])
    pair.ours(), pair.other()
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end or len(taken[0]) < 3:
        for seconds, way in zip(taken, (pair.ours, pair.other), strict=True):
            began = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - began)
    return statistics.median(taken[0]), statistics.median(taken[1])


def main() -> None:
    """Print a table for benchmarks/RESULTS.md."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(
        f"Commit {commit}, Python {platform.python_version()}, {platform.machine()}, one thread\n"
    )
    print("| what, against what | ours | other | ratio |")
    print("|---|---|---|---|")
    for pair in pairs():
        ours, other = measure(pair)
        print(
            f"| {pair.claim} | {pair.work / ours:.0f} {pair.unit}/s "
            f"| {pair.work / other:.0f} {pair.unit}/s | {other / ours:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
