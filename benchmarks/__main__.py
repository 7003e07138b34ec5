"""`make bench`: time two ways of doing one thing, alternating, and print their ratio.

Absolute times depend on the machine and on what else it does; both ways suffer alike, so the
ratio is what counts. Each is repeated until a few seconds are spent; the median is taken.
"""

import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import codecs, labels, scheduling, serving, snapshots, training
from spira.audio.features import Mfcc, extract, extract_single
from spira.audio.noise import SnrNoise, mix
from spira.audio.windows import Windows, cut
from spira.domain.draws import draws
from spira.model.config import Compact, Network, SpiraConvV2
from spira.model.export import export
from spira.model.networks import build
from spira.model.scoring import Scorer, ScoringSpec
from spira.synthetic.hospital import Hospital, synthesize
from spira.synthetic.physiology import draw_breathing
from spira.synthetic.records import admit
from spira.synthetic.utterances import speak
from spira.synthetic.voices import Voice, Voices, draw_voice
from spira.training.examples import prefetched

_SECONDS = 3.0
_RATE_HZ = 16_000
_FRAMES, _COEFFICIENTS = 401, 40
_HOSPITAL = Hospital(participants=100, utterances=("sentence",), sites=1, noise_per_site=1)


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
    with Voices() as voices:
        requests = _said(voices)
        yield Pair(
            "synthetic hospital: whole recordings of 10 s, one process, against the voices alone",
            partial(_synthesize, 1),
            lambda: [voices.say(voice, texts) for voice, texts in requests],
            _HOSPITAL.participants,
            "recordings",
        )
    yield Pair(
        "synthetic hospital: two processes and their start, against one process",
        partial(_synthesize, 2),
        partial(_synthesize, 1),
        _HOSPITAL.participants,
        "recordings",
    )


def _synthesize(jobs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder), _HOSPITAL, jobs=jobs)


def _said(voices: Voices) -> Sequence[tuple[Voice, Sequence[str]]]:
    """What the voices are asked for when everybody in the hospital says a sentence of 10 s."""
    requests: list[tuple[Voice, Sequence[str]]] = []

    def say(voice: Voice, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        requests.append((voice, texts))
        return voices.say(voice, texts)

    for person in admit(_HOSPITAL):
        rng = draws(_HOSPITAL.seed, "bench", person.id)
        speak(
            "sentence",
            say=say,
            voice=draw_voice(person.sex, person.age, rng),
            sex=person.sex,
            breathing=draw_breathing(person.label, _HOSPITAL.effect, rng),
            duration_s=10.0,
            rng=rng,
        )
    return requests


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
    """Print tables for benchmarks/RESULTS.md."""
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
    for part in (training, labels, snapshots, scheduling, serving):
        for row in part.measured():
            print(f"| {' | '.join(row)} |", flush=True)
    print()
    for line in codecs.lines():
        print(line, flush=True)


if __name__ == "__main__":
    main()
