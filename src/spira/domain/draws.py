"""Randomness as a pure function: the same seed, purpose and keys draw the same numbers, anywhere.

Nothing in SPIRA keeps a running random state. A killed run resumes, workers share work in any
order, and a result can be replayed, because each draw is named by what it is for.
"""

import hashlib

import numpy as np


def draw_seed(seed: int, purpose: str, *keys: str | int) -> int:
    """A 63-bit integer that names one draw."""
    text = "\x1f".join([str(seed), purpose, *map(str, keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def draws(seed: int, purpose: str, *keys: str | int) -> np.random.Generator:
    """A generator of its own for one draw, e.g. `draws(seed, "noise", epoch, recording_id)`."""
    return np.random.Generator(np.random.SFC64(draw_seed(seed, purpose, *keys)))
