"""An utterance: what is planted where, and that the time line gives nothing away."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from spira.domain.draws import draws
from spira.domain.recordings import Label
from spira.synthetic.physiology import draw_breathing
from spira.synthetic.utterances import Spoken, Utterance, speak
from spira.synthetic.voices import RATE_HZ, Voice

VOICE = Voice("m3", 170, 50, 50)


def say(voice: Voice, texts: Sequence[str]) -> list[NDArray[np.float32]]:
    """A voice that hums: a letter takes 60 ms, as those of espeak-ng do, roughly."""
    lengths = [round(0.06 * RATE_HZ) * len(text) for text in texts]
    return [np.sin(np.arange(n) * 2 * np.pi * 110 / RATE_HZ).astype(np.float32) for n in lengths]


def utter(
    label: Label,
    number: int = 0,
    *,
    effect: float = 1.4,
    kind: Spoken = "sentence",
    duration_s: float = 10.0,
) -> Utterance:
    """What one person says."""
    breathing = draw_breathing(label, effect, draws(number, "breathing"))
    rng = draws(number, "speech", label)
    return speak(
        kind, say=say, voice=VOICE, sex="male", breathing=breathing, duration_s=duration_s, rng=rng
    )


def tail_s(utterance: Utterance) -> float:
    """Seconds after the last word."""
    return len(utterance.waveform) / RATE_HZ - utterance.group_ends_s[-1]


@pytest.mark.parametrize("kind", ["sentence", "rhyme", "vowel"])
@pytest.mark.parametrize("label", ["present", "absent"])
@pytest.mark.parametrize("duration_s", [6.0, 9.7, 14.0])
def test_an_utterance_fills_its_duration_and_no_more(
    kind: Spoken, label: Label, duration_s: float
) -> None:
    """Groups and pauses follow one another without a gap, whoever speaks and for how long."""
    for number in range(5):
        said = utter(label, number, kind=kind, duration_s=duration_s)

        assert len(said.waveform) == round(duration_s * RATE_HZ)
        gaps = np.array(said.group_starts_s[1:]) - said.group_ends_s[:-1]
        np.testing.assert_allclose(gaps, said.pauses_s, atol=1e-4)
        assert len(said.inhalations_db) == len(said.pauses_s) == len(said.decays_db) - 1
        assert 0.3 < said.group_starts_s[0] < 0.8
        assert 0.19 < tail_s(said) < 1.7  # less than a word more than was drawn
        assert np.abs(said.waveform).max() == pytest.approx(1)


def test_a_sentence_always_has_a_pause_to_plant() -> None:
    """The planted sum would otherwise become silence at the end, and be heard there."""
    assert all(utter("absent", number, duration_s=6.0).pauses_s for number in range(40))


def test_who_pauses_more_says_less_and_leaves_the_sentence_unfinished() -> None:
    """In the same time."""
    ill = [utter("present", number) for number in range(20)]
    healthy = [utter("absent", number) for number in range(20)]

    def words(utterances: list[Utterance]) -> float:
        return float(np.mean([sum(said.group_words) for said in utterances]))

    assert words(ill) < 0.75 * words(healthy)
    assert not any(said.finished for said in ill)
    assert np.mean([said.finished for said in healthy]) > 0.3


def test_beginning_and_end_give_nothing_away() -> None:
    """Lead and tail are the same for both labels, at an effect that changes everything between."""
    said = {label: [utter(label, n) for n in range(150)] for label in ("present", "absent")}
    present = np.repeat([1, 0], 150)
    everybody = said["present"] + said["absent"]

    leads = roc_auc_score(present, [one.group_starts_s[0] for one in everybody])
    tails = roc_auc_score(present, [tail_s(one) for one in everybody])

    assert leads == pytest.approx(0.5, abs=0.08)
    assert tails == pytest.approx(0.5, abs=0.08)


def test_pauses_are_silent_but_for_the_planted_inhalations() -> None:
    """Each inhalation has its level under the peak; a pause without one holds nothing at all."""
    seen = 0
    for number in range(20):
        said = utter("absent", number)
        ends = said.group_ends_s[:-1]
        for end_s, pause_s, level_db in zip(ends, said.pauses_s, said.inhalations_db, strict=True):
            first, last = round(end_s * RATE_HZ), round((end_s + pause_s) * RATE_HZ)
            sound = said.waveform[first:last]
            if level_db is None:
                assert not sound.any()
                continue
            seen += 1
            heard = np.sqrt(np.mean(sound[np.flatnonzero(sound)] ** 2))
            assert 20 * np.log10(heard) == pytest.approx(-level_db, abs=0.3)
            assert not sound[-10:].any()  # the breath is over before the next word
    assert seen > 5


def test_an_utterance_is_repeated_exactly() -> None:
    """The same draws and voice give the same samples."""
    np.testing.assert_array_equal(utter("present", 3).waveform, utter("present", 3).waveform)


def test_a_short_of_breath_vowel_is_interrupted() -> None:
    """Nobody healthy runs out of breath in 7 s; at effect 1.4 most patients do."""
    ill = [utter("present", n, kind="vowel", duration_s=7.0).finished for n in range(20)]
    healthy = [utter("absent", n, kind="vowel", duration_s=7.0).finished for n in range(20)]

    assert np.mean(ill) < 0.2
    assert np.mean(healthy) > 0.9
