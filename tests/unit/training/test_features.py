"""The Feature Store is made in shards: each a piece of work of its own, named by what it holds."""

import hashlib
from typing import Any

import pytest

from spira.audio.features import Mfcc
from spira.audio.windows import Windows
from spira.training.features import _Job, shards

AUDIO = (("a" * 64, "/one/place"), ("b" * 64, "/one/place/too"))


def digests(count: int) -> list[str]:
    """As many digests as recordings."""
    return [hashlib.sha256(b"%d" % number).hexdigest() for number in range(count)]


@pytest.mark.parametrize(
    ("recordings", "made", "largest"),
    [(0, 0, 0), (1, 1, 1), (8, 1, 8), (60, 8, 8), (100, 8, 13), (512, 8, 64), (1000, 16, 64)],
)
def test_a_small_corpus_has_several_shards_too(recordings: int, made: int, largest: int) -> None:
    """A killed run loses the shards it is at: at most an eighth of the corpus or 64 recordings."""
    cut = shards(digests(recordings))

    assert len(cut) == made
    assert max((len(part) for part in cut), default=0) == largest
    assert sorted(digest for part in cut for digest in part) == sorted(digests(recordings))


def test_shards_follow_from_the_recordings_alone() -> None:
    """Their order and repetitions change nothing: whoever resumes finds the same shards."""
    some = digests(100)

    assert shards([*reversed(some), *some[:7]]) == shards(some)


@pytest.mark.parametrize(
    "change",
    [
        {"audio": AUDIO[:1]},
        {"rate_hz": 8_000},
        {"recipe": (Mfcc(n_mfcc=20), Windows())},
        {"made_with": {"decoding": {"av": "2"}}},
    ],
    ids=["audio", "rate", "recipe", "software"],
)
def test_a_shard_is_named_by_all_that_decides_its_bytes(change: dict[str, Any]) -> None:
    """Another library, another recipe or other audio is another shard; another place is not."""
    job: dict[str, Any] = {
        "audio": AUDIO,
        "rate_hz": 16_000,
        "recipe": (Mfcc(), Windows()),
        "made_with": {"decoding": {"av": "1"}},
    }
    moved = tuple((digest, "/another/place") for digest, _ in AUDIO)

    assert _Job(**job | change).fingerprint != _Job(**job).fingerprint
    assert _Job(**job | {"audio": moved}).fingerprint == _Job(**job).fingerprint
