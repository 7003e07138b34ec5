"""What phones send arrives as it was said, within what their codecs do to a voice."""

from collections.abc import Iterator

import pytest
from phones import CODECS, Distance, arrived, distance, encoded, voices

from spira.intake.checking import Checker
from spira.intake.settings import CheckingSettings

# The most that may come of each. Opus fills its last frame and says so in its container; a
# fragmented mp4 has no edit list: the 1,024 samples that an AAC encoder begins with stay, and so
# does the filling of its last frame. For an error: -20 dB is a tenth of the voice's amplitude, and
# the quietest speaker is 63 dB above the steps of 16 bits.
MOST = {
    "wav 48 kHz": Distance(longer_ms=0.1, later_ms=0.1, error_db=-60, above_db=-60),
    "webm/opus, no duration": Distance(longer_ms=20, later_ms=0.1, error_db=-24, above_db=-60),
    "ogg/opus": Distance(longer_ms=20, later_ms=0.1, error_db=-24, above_db=-60),
    "fragmented mp4/aac": Distance(longer_ms=43, later_ms=21.4, error_db=-18, above_db=-60),
}


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    """One child that checks."""
    checker = Checker(CheckingSettings(children=1))
    yield checker
    checker.close()


@pytest.mark.parametrize("codec", CODECS)
def test_a_voice_arrives_as_it_was_said(codec: str, checker: Checker) -> None:
    """Of every speaker, by every codec: nothing is lost, moved or added beyond what is stated."""
    most = MOST[codec]

    for speaker, said, recorded in voices():
        found = distance(arrived(checker, encoded(recorded, codec)), said)

        assert 0 <= found.longer_ms <= most.longer_ms, (speaker, found)
        assert 0 <= found.later_ms <= most.later_ms, (speaker, found)
        assert found.error_db <= most.error_db, (speaker, found)
        assert found.above_db <= most.above_db, (speaker, found)
