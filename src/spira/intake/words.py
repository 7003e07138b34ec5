"""What an API that takes submissions in says to people: states, refusals and problems, in
Portuguese and English.

The words are clinical safety controls, as those of spira.domain.answers: what a person at a bed
reads has at most 90 characters and one thing to do. None repeats a value or a person's data.
"""

from collections.abc import Mapping
from typing import Literal, cast

from spira.domain.answers import REFUSED_SENTENCES, Sentence
from spira.domain.errors import RefusalReason
from spira.intake.problems import Said

State = Literal[
    "saved",  # on the phone alone: for the app, which no server can tell it
    "incomplete",
    "to_correct",
    "checking",
    "accepted",
]
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
    "no_visit",
    "amended",
    "unknown_study",
    "not_approved",
    "not_lead",
    "withdrawn",
]


def say(pt: str, en: str) -> Sentence:
    """A sentence in both languages."""
    return Sentence(pt=pt, en=en)


STATES: Mapping[State, Sentence] = {
    "saved": say(
        "Guardado neste celular. Será enviado quando houver internet.",
        "Saved on this phone. It will be sent when there is a network.",
    ),
    "incomplete": say(
        "Envio incompleto. O resto será enviado quando houver internet.",
        "Partly sent. The rest will be sent when there is a network.",
    ),
    "to_correct": say(
        "Corrija o que está indicado. Sem isso o envio não é aceito.",
        "Correct what is named. Without it nothing is accepted.",
    ),
    "checking": say(
        "O servidor está conferindo a gravação. Aguarde.",
        "The server is checking the recording. Please wait.",
    ),
    "accepted": say(
        "Recebido pelo servidor. Pode seguir.", "Received by the server. You may go on."
    ),
}

REFUSALS: Mapping[Refusal, Sentence] = {
    **cast(Mapping[Refusal, Sentence], REFUSED_SENTENCES),
    "wrong_duration": say(
        "A duração do áudio não é a anunciada. Grave de novo.",
        "The audio is not as long as announced. Record again.",
    ),
    "too_large": say(
        "Arquivo grande demais. Grave só a frase pedida.",
        "The file is too large. Record only what is asked for.",
    ),
    "speech_in_ambient": say(
        "Havia fala na gravação do ambiente; ela foi apagada. As outras valem.",
        "Speech in the recording of the room; it was deleted. The others count.",
    ),
}

PROBLEMS: Mapping[Problem, Sentence] = {
    "bad_request": say(
        "Pedido inválido. Atualize o aplicativo.", "Invalid request. Update the app."
    ),
    "bad_manifest": say(
        "Envio com dados inválidos. Confira os campos indicados.",
        "Invalid data was sent. Check the fields that are named.",
    ),
    "bad_header": say(
        "Cabeçalho ausente ou inválido. Atualize o aplicativo.",
        "A header is missing or invalid. Update the app.",
    ),
    "unknown_form": say(
        "Versão de formulário desconhecida. Atualize o aplicativo.",
        "Unknown version of the form. Update the app.",
    ),
    "no_token": say(
        "Acesso não autorizado. Peça ao responsável pelo local um novo acesso.",
        "Not authorised. Ask the person responsible for the site for access.",
    ),
    "not_found": say(
        "Não encontrado neste local. Busque pelo prontuário.",
        "Not found at this site. Search by the record number.",
    ),
    "not_allowed": say(
        "Operação não permitida neste endereço. Atualize o aplicativo.",
        "Not allowed at this address. Update the app.",
    ),
    "conflict": say(
        "O servidor tem outra versão deste envio. Envie este como um novo.",
        "The server has another version of it. Send this one as a new one.",
    ),
    "send_again": say(
        "Mudou durante o envio. Continua neste celular e será enviado de novo.",
        "It changed while it was sent. It stays on this phone and will be sent again.",
    ),
    "wrong_offset": say(
        "Outra parte do arquivo já chegou. O envio continua de onde parou.",
        "Another part of the file is already there. Sending goes on from where it is.",
    ),
    "tus_version": say(
        "Versão de envio desconhecida. Atualize o aplicativo.",
        "Unknown version of the upload protocol. Update the app.",
    ),
    "too_large": say(
        "Envio grande demais. Grave só a frase pedida.",
        "Too large. Record only what is asked for.",
    ),
    "wrong_type": say(
        "Tipo de conteúdo não aceito. Atualize o aplicativo.",
        "Content type not accepted. Update the app.",
    ),
    "too_many": say(
        "Muitos envios ao mesmo tempo. O envio continua daqui a pouco.",
        "Too many requests at once. Sending goes on in a moment.",
    ),
    "storage_full": say(
        "Servidor sem espaço. Continua guardado neste celular. Avise o suporte.",
        "The server is full. It stays saved on this phone. Call support.",
    ),
    "unavailable": say(
        "Servidor indisponível. Continua guardado neste celular e será enviado depois.",
        "The server is unavailable. It stays on this phone and will be sent later.",
    ),
    "broken": say(
        "Erro no servidor. Continua guardado neste celular. Avise o suporte.",
        "Error in the server. It stays saved on this phone. Call support.",
    ),
    "no_reason": say(
        "Falta o motivo. Escreva por quê.",
        "The reason is missing. Write why.",
    ),
    "no_visit": say(
        "Visita não encontrada neste local. Confira de onde ela foi enviada.",
        "No such visit at this site. Check where it was sent from.",
    ),
    "amended": say(
        "O formulário mudou desde que foi aberto. Abra a visita de novo e corrija.",
        "The form has changed since it was opened. Open the visit again and correct it.",
    ),
    "unknown_study": say(
        "Estudo desconhecido neste local. Atualize o aplicativo.",
        "Unknown study at this site. Update the app.",
    ),
    "not_approved": say(
        "O estudo não pode receber esta gravação. Avise o responsável pelo estudo.",
        "The study may not take this recording. Tell the person responsible for the study.",
    ),
    "not_lead": say(
        "Só para quem coordena o estudo. Peça ao responsável pelo estudo.",
        "For the study's lead only. Ask the person responsible for the study.",
    ),
    "withdrawn": say(
        "O participante saiu da pesquisa. Apague o que há dele neste celular.",
        "The participant has withdrawn. Erase what this phone has of theirs.",
    ),
}


def said(what: Problem) -> Said:
    """A problem's code and sentence."""
    return {"code": what, "sentence": PROBLEMS[what]}
