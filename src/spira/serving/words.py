"""What the Client API says of an assessment, in Portuguese and English.

The words are clinical safety controls, as those of spira.domain.answers: what a person at a bed
reads has at most 90 characters and one thing to do. None repeats a value or a person's data.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal

from spira.domain.answers import FINDING_SENTENCES, Sentence
from spira.domain.recordings import Finding
from spira.intake.words import say

State = Literal[
    "queued",
    "no_model",
    "voided",
    "replaced",
]
Failure = Literal["input", "unknown"]

AT_MOST_AHEAD = timedelta(minutes=5)  # of a corrected device clock; more is no error of its offset


STATES: Mapping[State, Sentence] = {
    "queued": say(
        "Recebido. A análise da voz ainda não terminou. Não espere por ela para agir.",
        "Received. The voice is still being analysed. Do not wait for it to act.",
    ),
    "no_model": say(
        "Recebido. Ainda não há modelo em uso. Avalie o paciente sem este resultado.",
        "Received. No model is in use yet. Assess the patient without this result.",
    ),
    "voided": say("Anulado. Não use este resultado.", "Voided. Do not use this result."),
    "replaced": say(
        "Substituído por outra gravação. Não use este resultado.",
        "Replaced by another recording. Do not use this result.",
    ),
}

FAILURES: Mapping[Failure, Sentence] = {
    "input": say(
        "Sem resultado: o áudio não pôde ser analisado. Grave de novo.",
        "No result: the audio could not be analysed. Record again.",
    ),
    "unknown": say(
        "Sem resultado: a análise falhou. Avalie o paciente sem ela e avise o suporte.",
        "No result: the analysis failed. Assess the patient without it and call support.",
    ),
}

UNCERTAIN_TIME = say(
    "Horário da gravação incerto. Confira quando foi gravado antes de usar o resultado.",
    "Uncertain time of recording. Check when it was recorded before using the result.",
)

# Of an answer that no model gave; spira.delivery.about says the same of SPIRA.
NO_MODELS_ANSWER = say(
    "Sem resultado de modelo. O SPIRA não é regularizado na Anvisa.",
    "Not the result of a model. SPIRA is not cleared by Anvisa.",
)


def stale(
    recorded_at: datetime,
    accepted_at: datetime,
    now: datetime,
    *,
    after: timedelta,
    answered: bool = True,
) -> Sentence | None:
    """What stands above an answer that is older than `after`; None while it is fresh.

    recorded_at  aware, by the device's clock, corrected by the offset measured at sync. One that
                 lies ahead of `now`, or of when it was accepted, by over 5 minutes is nobody's
                 true time, and is told as such for ever: it does not become true once it is reached
    answered     False: there is no result that could be old
    """
    if recorded_at - min(accepted_at, now) > AT_MOST_AHEAD:
        return UNCERTAIN_TIME
    age = now - min(recorded_at, accepted_at)
    if age < after:
        return None
    ago = _ago(age)
    if not answered:
        return Sentence(
            pt=f"Gravado há {ago.pt}, sem resultado. O quadro pode ter mudado.",
            en=f"Recorded {ago.en} ago, no result. The patient's condition may have changed.",
        )
    return Sentence(
        pt=f"Resultado antigo: gravado há {ago.pt}. O quadro pode ter mudado.",
        en=f"Old result: recorded {ago.en} ago. The patient's condition may have changed.",
    )


def inconclusive(finding: Finding) -> Sentence:
    """The sentence of an answer that a finding made inconclusive: the reason, and one action."""
    said = FINDING_SENTENCES[finding]
    return Sentence(
        pt=f"Inconclusivo: {said.pt[0].lower()}{said.pt[1:]}",
        en=f"Inconclusive: {said.en[0].lower()}{said.en[1:]}",
    )


def _ago(age: timedelta) -> Sentence:
    """A time in whole minutes, rounded down; from two days on in days."""
    minutes = int(age.total_seconds()) // 60
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        days = hours // 24
        return Sentence(pt=f"{days} dias", en=f"{days} days")
    words = ([f"{hours} h"] if hours else []) + ([f"{minutes} min"] if minutes or not hours else [])
    return Sentence(pt=" ".join(words), en=" ".join(words))
