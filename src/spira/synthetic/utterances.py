"""What people say, and how an utterance is put together: breath groups, pauses, inhalations.

An utterance fills the duration that was drawn for it, whoever speaks: who pauses more says fewer
words in the same time and leaves the sentence unfinished.

    |<-lead->|group|<pause, breath>|group|<pause>|gro…|<-tail->|
    0                                                          duration

Lead and tail are drawn in the same way for everybody; what remains when no further word fits is
less than a word, and lengthens the tail.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spira.domain.recordings import Sex
from spira.synthetic.physiology import (
    LONGEST_GROUP_WORDS,
    Breathing,
    draw_group_sizes,
    draw_pause_sum,
    inhalation,
    share_pauses,
    sustained_a,
    tire,
)
from spira.synthetic.voices import RATE_HZ, Voice

Float = NDArray[np.float32]
Say = Callable[[Voice, Sequence[str]], list[Float]]  # as `Voices.say`
Spoken = Literal["sentence", "rhyme", "vowel"]

# Ours. The first sentence of each takes a healthy speaker most of ten seconds; who is quicker
# reads on, and begins again at the end.
_SENTENCES = (
    "O jardim da praça amanheceu coberto de folhas e o vento morno da tarde levou o cheiro de "
    "terra molhada até a varanda da casa. As crianças correram descalças pela calçada enquanto a "
    "avó preparava o café e contava histórias de um tempo em que o rio passava bem perto da porta "
    "da cozinha.",
    "O barco azul saiu cedo do porto e seguiu devagar pela costa até encontrar a praia onde os "
    "pescadores consertavam as redes. Quando o sol subiu eles voltaram para a vila com os cestos "
    "cheios e dividiram o peixe com os vizinhos que esperavam sentados na sombra da amendoeira.",
    "A professora abriu a janela da sala e pediu que cada aluno escolhesse um livro da estante "
    "para ler durante a semana. No sábado todos se juntaram no pátio da escola e falaram das "
    "viagens e dos bichos que tinham conhecido em cada página daquelas histórias antigas.",
)
# Traditional parlendas, in the public domain.
_RHYMES = (
    "Hoje é domingo pede cachimbo o cachimbo é de ouro bate no touro o touro é valente bate na "
    "gente a gente é fraco cai no buraco o buraco é fundo acabou-se o mundo.",
    "Um dois feijão com arroz três quatro feijão no prato cinco seis falar inglês sete oito comer "
    "biscoito nove dez comer pastéis.",
)

_LEAD_S = (0.35, 0.75)
_TAIL_S = (0.20, 0.60)
_PITCH_HZ: dict[Sex, float] = {"female": 200.0, "male": 110.0}  # of the variants, roughly
_TRACT: dict[Sex, float] = {"female": 0.86, "male": 1.0}


@dataclass(frozen=True)
class Utterance:
    """A dry utterance and the truth about it. Times are seconds from the start."""

    waveform: Float  # [T] at `RATE_HZ`, peak 1
    group_starts_s: tuple[float, ...]
    group_ends_s: tuple[float, ...]
    group_words: tuple[int, ...]  # zeros for a vowel
    pauses_s: tuple[float, ...]  # between the groups, one less than groups
    inhalations_db: tuple[float | None, ...]  # per pause: RMS under the peak, None where silent
    decays_db: tuple[float, ...]  # per group
    finished: bool  # the first sentence was said to its end; a vowel: on one breath


def speak(
    kind: Spoken,
    *,
    say: Say,
    voice: Voice,
    sex: Sex,
    breathing: Breathing,
    duration_s: float,
    rng: np.random.Generator,
) -> Utterance:
    """One person says a sentence or a rhyme, or sustains an /a/, for `duration_s` (6 s or more)."""
    lead_s, tail_s = float(rng.uniform(*_LEAD_S)), float(rng.uniform(*_TAIL_S))
    period = RATE_HZ / (_PITCH_HZ[sex] * 2 ** ((voice.pitch - 50) / 50))
    if kind == "vowel":
        pause_s, groups = _sustain(duration_s - lead_s - tail_s, period, sex, breathing, rng)
        finished = len(groups) == 1
    else:
        texts = _SENTENCES if kind == "sentence" else _RHYMES
        text = texts[int(rng.integers(len(texts)))]
        pause_s = draw_pause_sum(breathing, duration_s, rng)
        speech_s = duration_s - lead_s - tail_s - pause_s
        groups = _fill(text, speech_s, say, voice, breathing, rng)
        finished = sum(group.words for group in groups) >= len(text.split(".")[0].split())
    pauses_s = share_pauses(pause_s, len(groups) - 1, rng)
    return _assemble(
        groups,
        pauses_s,
        lead_s=lead_s,
        duration_s=duration_s,
        period=period,
        finished=finished,
        breathing=breathing,
        rng=rng,
    )


@dataclass(frozen=True)
class _Group:
    """What is said on one breath."""

    waveform: Float
    words: int


def _fill(
    text: str,
    speech_s: float,
    say: Say,
    voice: Voice,
    breathing: Breathing,
    rng: np.random.Generator,
) -> list[_Group]:
    """As many words of `text`, from its start, as fit in `speech_s`, in breath groups."""
    slowest = speech_s * voice.words_per_minute / 60  # words; the voices say up to 1.5 times that
    # At most half of what is said, or there would be no pause to plant.
    longest = min(LONGEST_GROUP_WORDS, max(1, int(0.6 * slowest)))
    sizes = draw_group_sizes(breathing, int(1.6 * slowest), longest, rng)
    words = text.replace(".", "").split()
    words *= 1 + sum(sizes) // len(words)
    ends = np.cumsum(sizes)
    phrases = [words[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    room = round(speech_s * RATE_HZ)
    groups: list[_Group] = []
    spoken = say(voice, [_spelt(phrase) for phrase in phrases])
    for phrase, waveform in zip(phrases, spoken, strict=True):
        if len(waveform) > room:
            # The time is up inside this group: say as much of its beginning as fits.
            most = min(len(phrase) - 1, 2 + len(phrase) * room // len(waveform))
            shorter = [phrase[:n] for n in range(most, 0, -1)]
            waveforms = say(voice, [_spelt(part) for part in shorter])
            parts = [_Group(w, len(part)) for w, part in zip(waveforms, shorter, strict=True)]
            return groups + [part for part in parts if len(part.waveform) <= room][:1]
        groups.append(_Group(waveform, len(phrase)))
        room -= len(waveform)
    return groups


def _spelt(words: Sequence[str]) -> str:
    return " ".join(words) + ","  # the melody of a sentence that goes on


def _sustain(
    available_s: float, period: float, sex: Sex, breathing: Breathing, rng: np.random.Generator
) -> tuple[float, list[_Group]]:
    """The sum of the pauses, and an /a/ on one breath after another, `available_s` in all."""
    lengths_s: list[float] = []
    pause_s = 0.0
    while True:
        left_s = available_s - sum(lengths_s) - pause_s
        breath_s = breathing.phonation_s * float(np.exp(rng.normal(0.0, 0.15)))
        next_pause_s = float(rng.uniform(0.35, 0.7))
        if left_s - breath_s - next_pause_s < 0.4:  # no time for another one: hold this one
            lengths_s.append(left_s)
            break
        lengths_s.append(breath_s)
        pause_s += next_pause_s
    return pause_s, [
        _Group(
            sustained_a(
                int(length_s * RATE_HZ),
                RATE_HZ,
                pitch_hz=RATE_HZ / period,
                tract=_TRACT[sex],
                rng=rng,
            ),
            words=0,
        )
        for length_s in lengths_s
    ]


def _assemble(
    groups: Sequence[_Group],
    pauses_s: Sequence[float],
    *,
    lead_s: float,
    duration_s: float,
    period: float,
    finished: bool,
    breathing: Breathing,
    rng: np.random.Generator,
) -> Utterance:
    """Lay groups, pauses and inhalations on the time line, and say where each of them is."""
    waveform = np.zeros(round(duration_s * RATE_HZ), dtype=np.float32)
    at = round(lead_s * RATE_HZ)
    starts, ends, decays = [], [], []
    for number, group in enumerate(groups):
        decay_db = float(rng.uniform(breathing.decay_low_db, breathing.decay_high_db))
        spoken = tire(
            group.waveform, period=period, decay_db=decay_db, breathing=breathing, rng=rng
        )
        spoken = spoken[: len(waveform) - at]  # rounding: a sample at most
        waveform[at : at + len(spoken)] = spoken
        starts.append(at / RATE_HZ)
        at += len(spoken)
        ends.append(at / RATE_HZ)
        decays.append(decay_db)
        if number < len(pauses_s):
            at += round(pauses_s[number] * RATE_HZ)
    waveform /= max(float(np.abs(waveform).max(initial=0.0)), 1e-9)

    breaths = []
    for end_s, pause_s in zip(ends, pauses_s, strict=False):
        level_db = float(rng.uniform(breathing.inhalation_low_db, breathing.inhalation_high_db))
        length_s = min(float(rng.uniform(0.22, 0.42)), 0.8 * pause_s)
        audible = rng.random() < breathing.inhalation_share
        breaths.append(level_db if audible else None)
        if audible:
            # Just before the next group begins.
            first = round((end_s + pause_s - length_s - 0.1 * pause_s) * RATE_HZ)
            breath = inhalation(round(length_s * RATE_HZ), RATE_HZ, rng)
            waveform[first : first + len(breath)] += breath * np.float32(10 ** (-level_db / 20))
    return Utterance(
        waveform=waveform,
        group_starts_s=tuple(starts),
        group_ends_s=tuple(ends),
        group_words=tuple(group.words for group in groups),
        pauses_s=tuple(pauses_s),
        inhalations_db=tuple(breaths),
        decays_db=tuple(decays),
        finished=finished,
    )
