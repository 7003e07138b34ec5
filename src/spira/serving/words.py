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
    "saved",  # on the phone alone
    "incomplete",
    "checking",
    "sent",  # the receipt is there
    "expired",
    "queued",
    "no_model",
    "voided",
]
Failure = Literal["input", "model", "unknown"]
Refusal = (
    RefusalReason
    | Literal[
        "wrong_digest",
        "wrong_length",
        "wrong_duration",
        "check_failed",
        "too_large",
        "speech_in_ambient",
    ]
)
Problem = Literal[
    "bad_request",
    "bad_manifest",
    "bad_header",
    "unknown_form",
    "no_token",
    "not_found",
    "not_allowed",
    "conflict",
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
    "checking": _say(
        "O servidor está conferindo a gravação. Aguarde.",
        "The server is checking the recording. Please wait.",
    ),
    "sent": _say("Recebido pelo servidor. Pode seguir.", "Received by the server. You may go on."),
    "expired": _say(
        "O envio não terminou no prazo. Envie de novo deste celular.",
        "It was not sent completely in time. Send it again from this phone.",
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
}

FAILURES: Mapping[Failure, Sentence] = {
    "input": _say(
        "Sem resultado: o áudio não pôde ser analisado. Grave de novo.",
        "No result: the audio could not be analysed. Record again.",
    ),
    "model": _say(
        "Sem resultado: o modelo falhou. Avalie o paciente sem ele e avise o suporte.",
        "No result: the model failed. Assess the patient without it and call support.",
    ),
    "unknown": _say(
        "Sem resultado: a análise falhou. Avalie o paciente sem ela e avise o suporte.",
        "No result: the analysis failed. Assess the patient without it and call support.",
    ),
}

REFUSALS: Mapping[Refusal, Sentence] = {
    **cast(Mapping[Refusal, Sentence], REFUSED),
    "duplicate": _say(
        "A mesma gravação veio duas vezes. Grave de novo a que falta.",
        "The same recording came twice. Record the missing one again.",
    ),
    "wrong_digest": _say(
        "O arquivo chegou diferente do gravado. Será enviado de novo.",
        "The file did not arrive as it was recorded. It will be sent again.",
    ),
    "wrong_length": _say(
        "O arquivo chegou com outro tamanho. Será enviado de novo.",
        "The file arrived with another length. It will be sent again.",
    ),
    "wrong_duration": _say(
        "A duração do áudio não é a anunciada. Grave de novo.",
        "The audio is not as long as announced. Record again.",
    ),
    "check_failed": _say(
        "O áudio não pôde ser conferido. Grave de novo.",
        "The audio could not be checked. Record again.",
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
        "Não encontrado neste local. Confira o número.",
        "Not found at this site. Check the number.",
    ),
    "not_allowed": _say(
        "Operação não permitida neste endereço. Atualize o aplicativo.",
        "Not allowed at this address. Update the app.",
    ),
    "conflict": _say(
        "Já recebido com outro conteúdo. Envie este como uma nova avaliação.",
        "Already received with other content. Send this one as a new assessment.",
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


def stale(recorded_at: datetime, now: datetime, *, after: timedelta) -> Sentence | None:
    """What stands above an answer that is older than `after`; None while it is fresh.

    recorded_at  aware, by the device's clock, corrected by the offset measured at sync. One that
                 lies ahead of `now` by over 5 minutes is nobody's true time, and is told as such.
    """
    age = now - recorded_at
    if age < -AT_MOST_AHEAD:
        return UNCERTAIN_TIME
    if age < after:
        return None
    ago = _ago(age)
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
