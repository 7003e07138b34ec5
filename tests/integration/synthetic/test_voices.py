"""Real voices: espeak-ng in its own process, the same for the same request."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from spira.domain.draws import draws
from spira.domain.errors import InputError, TransientError
from spira.domain.recordings import Sex
from spira.synthetic.physiology import draw_breathing
from spira.synthetic.utterances import speak
from spira.synthetic.voices import _VARIANTS, RATE_HZ, Voice, Voices, draw_voice

WORDS = ["o sol nasceu,", "e a chuva passou depressa pela serra,"]
VOICE = Voice("m3", 170, 50, 50)


@pytest.fixture
def voices() -> Iterator[Voices]:
    """A voice process of its own."""
    with Voices() as process:
        yield process


def samples(spoken: list[NDArray[np.float32]]) -> list[bytes]:
    """For comparison, bit by bit."""
    return [waveform.tobytes() for waveform in spoken]


@pytest.mark.parametrize("variant", ["m3", "f1", "f5", "Alicia", "Michael"])
def test_the_same_request_gives_the_same_samples_whatever_was_said_before(
    voices: Voices, variant: str
) -> None:
    """In another order, after other voices, in another process; breathy voices draw noise."""
    voice = Voice(variant, 170, 50, 50)
    first = samples(voices.say(voice, WORDS))
    voices.say(Voice("f5", 120, 80, 20), ["xícara de chá sem açúcar,"] * 3)
    again = samples(voices.say(voice, WORDS))
    with Voices() as others:
        others.say(Voice("Alicia", 190, 20, 70), ["outra coisa,"])
        elsewhere = samples(others.say(voice, WORDS))

    assert first == again == elsewhere


def test_every_voice_speaks_and_none_like_another(voices: Voices) -> None:
    """All variants exist, sound, do not clip and begin at once."""
    spoken = {}
    for variant in (*_VARIANTS["female"], *_VARIANTS["male"]):
        (waveform,) = voices.say(Voice(variant, 170, 50, 50), WORDS[1:])
        assert 1.2 < len(waveform) / RATE_HZ < 4
        assert 0.05 < np.abs(waveform).max() < 0.99
        assert np.abs(waveform[:50]).max() > 1e-4
        spoken[waveform.tobytes()] = variant

    assert len(spoken) == len(_VARIANTS["female"]) + len(_VARIANTS["male"])


def test_rate_and_pitch_are_heard(voices: Voices) -> None:
    """Slower takes longer; another pitch or range is another sound."""
    (usual,) = voices.say(VOICE, WORDS[1:])
    (slow,) = voices.say(Voice("m3", 130, 50, 50), WORDS[1:])
    (high,) = voices.say(Voice("m3", 170, 80, 50), WORDS[1:])
    (lively,) = voices.say(Voice("m3", 170, 50, 90), WORDS[1:])

    assert len(slow) > 1.15 * len(usual)
    assert len({usual.tobytes(), high.tobytes(), lively.tobytes()}) == 3


def test_an_unknown_voice_is_refused_and_the_process_goes_on(voices: Voices) -> None:
    """With its name; the next request is answered."""
    before = samples(voices.say(VOICE, WORDS))

    with pytest.raises(InputError, match="nobody"):
        voices.say(Voice("nobody", 170, 50, 50), WORDS)

    assert samples(voices.say(VOICE, WORDS)) == before


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence, before anything is written."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(InputError, match=r"pip install 'spira\[synthetic\]'"):
        Voices()


def test_a_killed_voice_process_is_said_to_have_ended(voices: Voices) -> None:
    """Not an endless wait, nor half a word."""
    os.kill(voices._process.pid, signal.SIGKILL)
    voices._process.wait()

    with pytest.raises(TransientError, match="ended"):
        voices.say(VOICE, WORDS)


def test_the_voice_process_ends_with_its_owner() -> None:
    """Even when the owner is killed: its input ends, and so does it."""
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from spira.synthetic.voices import Voices; import time\n"
            "print(Voices()._process.pid, flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    assert owner.stdout is not None
    voice = int(owner.stdout.readline())
    ending = os.pidfd_open(voice)
    owner.kill()
    owner.wait()
    owner.stdout.close()

    import select

    try:
        assert select.select([ending], [], [], 10)[0]
    finally:
        os.close(ending)


def test_this_process_never_loads_the_gpl_library() -> None:
    """espeak-ng is spoken to through pipes only."""
    with Voices() as voices:
        voices.say(VOICE, WORDS)
        mapped = Path("/proc/self/maps").read_text()

    assert "espeak" not in mapped


@pytest.mark.parametrize("number", range(12))
def test_any_voice_fills_its_time_with_speech(voices: Voices, number: int) -> None:
    """No voice runs out of text, and no tail is longer than a word more than was drawn."""
    sex: Sex = "female" if number % 2 else "male"
    rng = draws(number, "test")

    said = speak(
        "sentence" if number % 3 else "rhyme",
        say=voices.say,
        voice=draw_voice(sex, 20 + 5 * number, rng),
        sex=sex,
        breathing=draw_breathing("absent", 0.0, rng),
        duration_s=10.0,
        rng=rng,
    )

    assert 0.2 <= 10 - said.group_ends_s[-1] < 1.7
    assert 14 <= sum(said.group_words) <= 45
    assert len(said.pauses_s) >= 1
