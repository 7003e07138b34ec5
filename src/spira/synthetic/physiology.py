"""How a person breathes while speaking: what respiratory insufficiency changes, and by how much.

`effect` is the distance between the two classes: 0, both are drawn from one distribution; 1, the
difference that was published for the sum of pauses (0.85 s against 3.2 s in a recording of 10 s);
above 1, more than that. Every quantity moves along a straight line (the last one in its logarithm):

    quantity                                     healthy      insufficient, effect 1 (1.4)
    pauses inside 10 s of speech, median         0.85 s       3.2 s   (4.1 s)
      its spread between recordings, log sd      0.40         0.30    (0.26)
    words in a breath group, mean                8            4.5     (3.1)
    pauses with an audible inhalation            0.35         0.815   (1.0)
    inhalations under the peak of the speech     32..40 dB    24..34  (21..32) dB
    fall of the level by a group's end           0..3 dB      3..8    (4..10) dB
    jitter at a group's end, median              0.4 %        1.2 %   (1.5 %)
    shimmer at a group's end, median             0.2 dB       0.7 dB  (0.9 dB)
    a sustained vowel on one breath, median      14 s         5.5 s   (3.8 s)

source    pauses: see EXPERIMENTS.md; the other numbers are ours, in the direction that the
          clinical literature describes, and prove nothing about patients
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.signal import sosfilt

from spira.domain.recordings import Label

Float = NDArray[np.float32]

LONGEST_GROUP_WORDS = 16
MAX_PAUSE_SHARE = 0.55  # of a recording: what is left must hold speech
_KNOT_SHARE = 0.3  # of jitter and shimmer is there from the beginning of a breath group


@dataclass(frozen=True)
class Breathing:
    """One person's way of breathing while speaking. Levels are in dB under the speech's peak."""

    pause_s: float  # median of the sum of pauses in a recording of 10 s
    pause_log_sd: float  # spread of that sum between recordings
    words_per_group: float  # mean
    inhalation_share: float  # of the pauses
    inhalation_low_db: float
    inhalation_high_db: float
    decay_low_db: float  # fall of the level by the end of a breath group
    decay_high_db: float
    jitter: float  # relative change of the period from cycle to cycle, at a group's end
    shimmer_db: float  # change of the amplitude from cycle to cycle, at a group's end
    phonation_s: float  # a vowel sustained on one breath


def typical_breathing(label: Label, effect: float) -> Breathing:
    """What a class has in common; at `effect` 0 both classes have the same."""
    ill = effect if label == "present" else 0.0
    return Breathing(
        pause_s=0.85 + 2.35 * ill,
        pause_log_sd=max(0.20, 0.40 - 0.10 * ill),
        words_per_group=max(1.5, 8.0 - 3.5 * ill),
        inhalation_share=min(1.0, 0.35 + 0.465 * ill),
        inhalation_low_db=32.0 - 7.9 * ill,
        inhalation_high_db=40.0 - 5.7 * ill,
        decay_low_db=2.86 * ill,
        decay_high_db=3.0 + 5.0 * ill,
        jitter=0.004 + 0.008 * ill,
        shimmer_db=0.2 + 0.5 * ill,
        phonation_s=14.0 * (5.5 / 14.0) ** ill,
    )


def draw_breathing(label: Label, effect: float, rng: np.random.Generator) -> Breathing:
    """One person's breathing: the class's, and what is this person's own."""
    typical = typical_breathing(label, effect)
    words, jitter, shimmer, phonation = np.exp(rng.normal(0.0, (0.10, 0.25, 0.25, 0.20)))
    return replace(
        typical,
        words_per_group=max(1.5, typical.words_per_group * float(words)),
        jitter=typical.jitter * float(jitter),
        shimmer_db=typical.shimmer_db * float(shimmer),
        phonation_s=typical.phonation_s * float(phonation),
    )


def draw_pause_sum(breathing: Breathing, duration_s: float, rng: np.random.Generator) -> float:
    """Seconds of pauses inside the speech of one recording of `duration_s`."""
    per_10_s = breathing.pause_s * float(np.exp(rng.normal(0.0, breathing.pause_log_sd)))
    return min(per_10_s * duration_s / 10, MAX_PAUSE_SHARE * duration_s)


def draw_group_sizes(
    breathing: Breathing, words: int, longest: int, rng: np.random.Generator
) -> list[int]:
    """Words of one breath group after another, until `words` or more are in a group."""
    sizes: list[int] = []
    while sum(sizes) < words:
        sizes.append(min(1 + int(rng.poisson(breathing.words_per_group - 1)), longest))
    return sizes


def share_pauses(total_s: float, n: int, rng: np.random.Generator) -> list[float]:
    """Share a sum of pauses among `n` pauses, none of them under 0.15 s where the sum allows."""
    if n == 0:
        return []
    least = min(0.15, 0.8 * total_s / n)
    return [float(least + (total_s - n * least) * part) for part in rng.dirichlet(np.full(n, 4.0))]


def inhalation(length: int, rate_hz: int, rng: np.random.Generator) -> Float:
    """A quick breath in through the mouth: turbulence with two broad resonances, RMS 1.

    returns   [length] float32
    """
    noise = rng.standard_normal(length, dtype=np.float32)
    low = _resonance(900 * rng.uniform(0.85, 1.15), 900, rate_hz)
    high = _resonance(2300 * rng.uniform(0.85, 1.15), 1800, rate_hz)
    hiss = sosfilt(low, noise) + sosfilt(high, noise)
    position = np.linspace(0, 1, length, dtype=np.float32)
    breath = hiss * np.sin(np.pi * position**0.8).clip(0) ** 0.7  # rises quickly, falls slowly
    rms = max(float(np.sqrt(np.mean(np.square(breath)))), 1e-9)
    return np.asarray(breath / rms, dtype=np.float32)


def tire(
    speech: Float,
    *,
    period: float,
    decay_db: float,
    breathing: Breathing,
    rng: np.random.Generator,
) -> Float:
    """What a breath group's end sounds like: level falls, periods and amplitudes tremble.

    speech    [T] one breath group
    period    samples of one cycle of the voice, roughly
    returns   [T] float32
    """
    n = len(speech)
    position = np.linspace(0, 1, n, dtype=np.float32)
    late = _KNOT_SHARE + (1 - _KNOT_SHARE) * position**2
    knots = np.arange(0, n + period, period)

    def per_cycle(spread: float) -> Float:
        values = np.interp(np.arange(n), knots, rng.normal(0.0, spread, len(knots)))
        return values.astype(np.float32)

    # A shift of its own for each cycle changes a period by the difference of two shifts.
    shift = per_cycle(breathing.jitter * period / np.sqrt(2)) * late
    trembling = np.interp(np.arange(n, dtype=np.float32) + shift, np.arange(n), speech)
    level_db = per_cycle(breathing.shimmer_db) * late - decay_db * position**1.5
    return np.asarray(trembling * 10 ** (level_db / 20), dtype=np.float32)


def sustained_a(
    length: int, rate_hz: int, *, pitch_hz: float, tract: float, rng: np.random.Generator
) -> Float:
    """A sustained /a/ on one breath: glottal pulses through the formants of /a/, peak 1.

    length    samples
    tract     length of the vocal tract against a man's: 1, about 0.86 for a woman
    returns   [length] float32
    """
    seconds = length / rate_hz
    drift = np.interp(
        np.arange(length) / rate_hz,
        np.linspace(0, seconds, 2 + int(4 * seconds)),
        rng.normal(0, 0.012, 2 + int(4 * seconds)),
    )
    phase = np.cumsum(pitch_hz * (1 + drift) / rate_hz) % 1.0
    # Derivative of a Rosenberg pulse: opens for 0.4 of a cycle, closes within 0.16.
    pulse = np.where(
        phase < 0.40,
        np.sin(np.pi * phase / 0.40),
        np.where(phase < 0.56, -2.5 * np.sin(np.pi * (phase - 0.40) / 0.16), 0.0),
    )
    source = pulse.astype(np.float32) + 0.01 * rng.standard_normal(length, dtype=np.float32)
    formants = ((730, 90), (1250, 110), (2500, 150), (3500, 220))  # Hz, bandwidth in Hz
    voiced = source
    for frequency, width in formants:
        voiced = sosfilt(_resonance(frequency / tract, width, rate_hz), voiced)
    edge = min(length // 2, int(0.05 * rate_hz))
    voiced[:edge] *= np.linspace(0, 1, edge, dtype=np.float32)
    voiced[length - edge :] *= np.linspace(1, 0, edge, dtype=np.float32)
    peak = max(float(np.abs(voiced).max(initial=0.0)), 1e-9)
    return np.asarray(voiced / peak, dtype=np.float32)


def _resonance(frequency_hz: float, width_hz: float, rate_hz: int) -> Float:
    """A second-order section [1, 6] that rings at a frequency."""
    radius = np.exp(-np.pi * width_hz / rate_hz)
    angle = 2 * np.pi * frequency_hz / rate_hz
    return np.array(
        [[1 - radius, 0.0, 0.0, 1.0, -2 * radius * np.cos(angle), radius**2]], dtype=np.float32
    )
