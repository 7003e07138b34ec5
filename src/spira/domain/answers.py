"""What SPIRA says about an assessment, and in which words.

The words are clinical safety controls (docs/safety/hazards.yaml): an indication, never a
diagnosis; a negative never excludes; an inconclusive answer names one action.
"""

import math
from typing import Literal

from pydantic import Field, model_validator

from spira.domain.errors import RefusalReason
from spira.domain.frozen import Frozen
from spira.domain.recordings import EvidenceLevel, Finding

Outcome = Literal["positive", "negative", "inconclusive"]


class Sentence(Frozen):
    """One sentence in Brazilian Portuguese and in English."""

    pt: str
    en: str


def figure(number: float) -> Sentence:
    """A number as each language writes it, with up to ten digits: 36,5 and 36.5."""
    english = f"{number:.10g}"
    return Sentence(pt=english.replace(".", ","), en=english)


OUTCOME_SENTENCES: dict[Outcome, Sentence] = {
    "positive": Sentence(
        pt="Indício de insuficiência respiratória na voz.",
        en="Indication of respiratory insufficiency in the voice.",
    ),
    "negative": Sentence(
        pt="Sem indício na voz. Não exclui insuficiência respiratória.",
        en="No indication in the voice. Does not exclude respiratory insufficiency.",
    ),
    "inconclusive": Sentence(
        pt="Inconclusivo: o resultado ficou perto do limite. Repita a gravação.",
        en="Inconclusive: the result is close to the threshold. Record again.",
    ),
}

FINDING_SENTENCES: dict[Finding, Sentence] = {
    "quiet": Sentence(
        pt="Som baixo. Aproxime o celular a um palmo da boca e grave de novo.",
        en="Too quiet. Hold the phone a hand's width from the mouth and record again.",
    ),
    "clipped": Sentence(
        pt="Som estourado. Afaste o celular a dois palmos e grave de novo.",
        en="Distorted sound. Hold the phone two hands away and record again.",
    ),
    "noisy": Sentence(
        pt="Muito barulho. Feche a porta ou espere o barulho passar e grave de novo.",
        en="Too much noise. Close the door or wait for it to pass and record again.",
    ),
    "little_speech": Sentence(
        pt="Nenhuma fala. Toque em Gravar e peça ao paciente que leia a frase.",
        en="No speech. Press Record and ask the patient to read the sentence.",
    ),
    "short": Sentence(
        pt="Gravação curta. O paciente conseguiu terminar a frase?",
        en="Short recording. Was the patient able to finish the sentence?",
    ),
}

# Why a recording cannot be used at all.
REFUSED_SENTENCES: dict[RefusalReason, Sentence] = {
    "missing": Sentence(pt="Arquivo não encontrado.", en="File not found."),
    "not_audio": Sentence(pt="Não é um arquivo de áudio.", en="Not an audio file."),
    "undecodable": Sentence(
        pt="O áudio não pôde ser lido. Grave de novo.",
        en="The audio cannot be read. Record again.",
    ),
    "truncated": Sentence(
        pt="Arquivo incompleto. Envie o arquivo de novo.",
        en="Incomplete file. Send the file again.",
    ),
    "empty": Sentence(pt="Arquivo sem áudio. Grave de novo.", en="No audio. Record again."),
    "zeros": Sentence(
        pt="Sem som. Verifique se o microfone está liberado ou coberto pela capa.",
        en="Silence. Check that the microphone is allowed and not covered by the case.",
    ),
    "not_finite": Sentence(
        pt="Áudio com valores inválidos. Grave de novo.",
        en="Audio with invalid values. Record again.",
    ),
    "out_of_scale": Sentence(
        pt="Áudio fora de escala. Exporte de novo do original ou grave de novo.",
        en="Audio out of scale. Export it again from the original or record again.",
    ),
    "too_short": Sentence(
        pt="Gravação curta demais. Grave de novo.", en="Recording too short. Record again."
    ),
    "too_long": Sentence(
        pt="Gravação longa demais. Envie só o trecho da fala.",
        en="Recording too long. Send only the part with speech.",
    ),
}

EVIDENCE_SENTENCES: dict[EvidenceLevel, Sentence] = {
    "synthetic": Sentence(
        pt="DEMONSTRAÇÃO. Modelo de demonstração, treinado com vozes sintéticas: "
        "sem significado clínico.",
        en="DEMONSTRATION. Demonstration model, trained on synthetic voices: no clinical meaning.",
    ),
    "research": Sentence(
        pt="Uso em pesquisa. Não regularizado na Anvisa.",
        en="Research use. Not cleared by Anvisa.",
    ),
    "clinical-study": Sentence(
        pt="Estudo clínico. Não regularizado na Anvisa.",
        en="Clinical study. Not cleared by Anvisa.",
    ),
    "cleared": Sentence(pt="Regularizado na Anvisa.", en="Cleared by Anvisa."),
}


class OperatingPoint(Frozen):
    """How a probability becomes an answer; chosen on validation people, never on test people.

    A calibrated probability inside [band_low, band_high) is inconclusive; below it is negative;
    from band_high up it is positive. `threshold` lies in the band and decides where the band is
    left out (sensitivity and specificity are reported at it).
    """

    threshold: float = Field(gt=0, lt=1)
    band_low: float = Field(ge=0, le=1)
    band_high: float = Field(ge=0, le=1)
    temperature: float = Field(gt=0)  # calibrated logit = logit of the mean / temperature
    prevalence: float = Field(gt=0, lt=1)  # of `present` where the point was chosen
    aim: str = "sensitivity >= 0.90"
    condition: str = "clean"  # the conditions that it was chosen in, and belongs to

    @model_validator(mode="after")
    def _ordered(self) -> "OperatingPoint":
        if not self.band_low <= self.threshold <= self.band_high:
            raise ValueError("an operating point needs band_low <= threshold <= band_high")
        return self

    def calibrate(self, probability: float) -> float:
        """Temperature scaling of a mean window probability, on its logit.

        source    Guo et al., On Calibration of Modern Neural Networks, ICML 2017
        """
        clamped = min(max(probability, 1e-7), 1 - 1e-7)
        logit = math.log(clamped / (1 - clamped)) / self.temperature
        return 1 / (1 + math.exp(-logit))

    def outcome(self, calibrated: float) -> Outcome:
        """The answer to a calibrated probability."""
        if calibrated >= self.band_high:
            return "positive"
        # In this order, what is not a number is never negative.
        return "negative" if calibrated < self.band_low else "inconclusive"


class Envelope(Frozen):
    """Where a model was tested, and so where it may answer."""

    utterances: tuple[str, ...]
    languages: tuple[str, ...]
    age_min: int | None = None  # None: ages were not available, nothing can be said
    age_max: int | None = None
    sites: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    sample_rates_hz: tuple[int, ...] = ()
    minimum_speech_s: float = 1.0
    n_people: int = 0
