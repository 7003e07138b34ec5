"""What the Client API says to people: states, refusals and problems, in Portuguese and English.

The words are clinical safety controls, as those of spira.domain.answers: what a person at a bed
reads has at most 90 characters and one thing to do. None repeats a value or a person's data.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal, cast

from spira.domain.answers import FINDING_SENTENCES, Sentence
from spira.domain.errors import RefusalReason
from spira.domain.recordings import Finding
from spira.model.prediction import REFUSED

State = Literal[
    "saved",  # on the phone alone: for the app, which no server can tell it
    "incomplete",
    "to_correct",
    "checking",
    "accepted",
    "queued",
    "no_model",
    "voided",
    "replaced",
]
Failure = Literal["input", "unknown"]
Refusal = RefusalReason | Literal["wrong_duration", "too_large", "speech_in_ambient"]
Problem = Literal[
    "bad_request",
    "bad_manifest",
    "bad_header",
    "unknown_form",
    "no_token",
    "not_found",
    "not_allowed",
    "conflict",
    "send_again",
    "wrong_offset",
    "tus_version",
    "too_large",
    "wrong_type",
    "too_many",
    "storage_full",
    "unavailable",
    "broken",
    "no_reason",
]

AT_MOST_AHEAD = timedelta(minutes=5)  # of a corrected device clock; more is no error of its offset


def _say(pt: str, en: str) -> Sentence:
    return Sentence(pt=pt, en=en)


STATES: Mapping[State, Sentence] = {
    "saved": _say(
        "Guardado neste celular. Será enviado quando houver internet.",
        "Saved on this phone. It will be sent when there is a network.",
    ),
    "incomplete": _say(
        "Envio incompleto. O resto será enviado quando houver internet.",
        "Partly sent. The rest will be sent when there is a network.",
    ),
    "to_correct": _say(
        "Corrija o que está indicado. Sem isso a avaliação não é recebida.",
        "Correct what is named. Without it the assessment is not accepted.",
    ),
    "checking": _say(
        "O servidor está conferindo a gravação. Aguarde.",
        "The server is checking the recording. Please wait.",
    ),
    "accepted": _say(
        "Recebido pelo servidor. Pode seguir.", "Received by the server. You may go on."
    ),
    "queued": _say(
        "Recebido. A análise da voz ainda não terminou. Não espere por ela para agir.",
        "Received. The voice is still being analysed. Do not wait for it to act.",
    ),
    "no_model": _say(
        "Recebido. Ainda não há modelo em uso. Avalie o paciente sem este resultado.",
        "Received. No model is in use yet. Assess the patient without this result.",
    ),
    "voided": _say("Anulado. Não use este resultado.", "Voided. Do not use this result."),
    "replaced": _say(
        "Substituído por outra gravação. Não use este resultado.",
        "Replaced by another recording. Do not use this result.",
    ),
}

FAILURES: Mapping[Failure, Sentence] = {
    "input": _say(
        "Sem resultado: o áudio não pôde ser analisado. Grave de novo.",
        "No result: the audio could not be analysed. Record again.",
    ),
    "unknown": _say(
        "Sem resultado: a análise falhou. Avalie o paciente sem ela e avise o suporte.",
        "No result: the analysis failed. Assess the patient without it and call support.",
    ),
}

REFUSALS: Mapping[Refusal, Sentence] = {
    **cast(Mapping[Refusal, Sentence], REFUSED),
    "wrong_duration": _say(
        "A duração do áudio não é a anunciada. Grave de novo.",
        "The audio is not as long as announced. Record again.",
    ),
    "too_large": _say(
        "Arquivo grande demais. Grave só a frase pedida.",
        "The file is too large. Record only what is asked for.",
    ),
    "speech_in_ambient": _say(
        "Havia fala na gravação do ambiente; ela foi apagada. As outras valem.",
        "Speech in the recording of the room; it was deleted. The others count.",
    ),
}

PROBLEMS: Mapping[Problem, Sentence] = {
    "bad_request": _say(
        "Pedido inválido. Atualize o aplicativo.", "Invalid request. Update the app."
    ),
    "bad_manifest": _say(
        "Envio com dados inválidos. Confira os campos indicados.",
        "Invalid data was sent. Check the fields that are named.",
    ),
    "bad_header": _say(
        "Cabeçalho ausente ou inválido. Atualize o aplicativo.",
        "A header is missing or invalid. Update the app.",
    ),
    "unknown_form": _say(
        "Versão de formulário desconhecida. Atualize o aplicativo.",
        "Unknown version of the form. Update the app.",
    ),
    "no_token": _say(
        "Acesso não autorizado. Peça ao responsável pelo local um novo acesso.",
        "Not authorised. Ask the person responsible for the site for access.",
    ),
    "not_found": _say(
        "Avaliação não encontrada neste local. Busque pelo prontuário.",
        "No such assessment at this site. Search by the record number.",
    ),
    "not_allowed": _say(
        "Operação não permitida neste endereço. Atualize o aplicativo.",
        "Not allowed at this address. Update the app.",
    ),
    "conflict": _say(
        "O servidor tem outra versão desta avaliação. Envie esta como uma nova avaliação.",
        "The server has another version of it. Send this one as a new assessment.",
    ),
    "send_again": _say(
        "A avaliação mudou durante o envio. Continua neste celular e será enviada de novo.",
        "It changed while it was sent. It stays on this phone and will be sent again.",
    ),
    "wrong_offset": _say(
        "Outra parte do arquivo já chegou. O envio continua de onde parou.",
        "Another part of the file is already there. Sending goes on from where it is.",
    ),
    "tus_version": _say(
        "Versão de envio desconhecida. Atualize o aplicativo.",
        "Unknown version of the upload protocol. Update the app.",
    ),
    "too_large": _say(
        "Envio grande demais. Grave só a frase pedida.",
        "Too large. Record only what is asked for.",
    ),
    "wrong_type": _say(
        "Tipo de conteúdo não aceito. Atualize o aplicativo.",
        "Content type not accepted. Update the app.",
    ),
    "too_many": _say(
        "Muitos envios ao mesmo tempo. O envio continua daqui a pouco.",
        "Too many requests at once. Sending goes on in a moment.",
    ),
    "storage_full": _say(
        "Servidor sem espaço. Continua guardado neste celular. Avise o suporte.",
        "The server is full. It stays saved on this phone. Call support.",
    ),
    "unavailable": _say(
        "Servidor indisponível. Continua guardado neste celular e será enviado depois.",
        "The server is unavailable. It stays on this phone and will be sent later.",
    ),
    "broken": _say(
        "Erro no servidor. Continua guardado neste celular. Avise o suporte.",
        "Error in the server. It stays saved on this phone. Call support.",
    ),
    "no_reason": _say(
        "Falta o motivo da anulação. Escreva por que o resultado não vale.",
        "The reason is missing. Write why the result must not be used.",
    ),
}

UNCERTAIN_TIME = _say(
    "Horário da gravação incerto. Confira quando foi gravado antes de usar o resultado.",
    "Uncertain time of recording. Check when it was recorded before using the result.",
)

# Of an answer that no model gave; spira.delivery.about says the same of SPIRA.
NO_MODELS_ANSWER = _say(
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
