"""The clinical form of an assessment, and what it says about the model's intended use.

Form values never reach the model and never change its score; they may withhold it. What tells
people apart at the bed beside the record number (initials and bed) stays on the device.
"""

from collections.abc import Mapping
from typing import Any

from spira.domain.answers import Sentence
from spira.domain.forms import Choice, Field, Form, Range
from spira.model.prediction import (
    ADULT_YEARS,
    ANOTHER_LANGUAGE,
    INTUBATED,
    MINOR,
    TRACHEOSTOMY,
    Declared,
    other_language,
)

INTENDED_LANGUAGES = ("pt-BR",)  # where no model says which it was tested in


def _say(pt: str, en: str) -> Sentence:
    return Sentence(pt=pt, en=en)


def _choice(value: str, pt: str, en: str) -> Choice:
    return Choice(value=value, title=_say(pt, en))


_PER_MINUTE = _say("irpm", "breaths/min")

# Ranges. Possible: what a person or an instrument can show. Plausible: what a ward sees every day,
# sick people included, so that a confirmation stays rare enough to be read. Both are settings of
# the form's version, to be signed by a clinician.
ASSESSMENT_1 = Form(
    id="assessment",
    version=1,
    title=_say("Avaliação", "Assessment"),
    fields=(
        Field(
            name="record_number",
            kind="text",
            title=_say("Prontuário", "Record number"),
            help=_say(
                "Número do prontuário neste hospital. O servidor guarda só um código dele.",
                "Record number in this hospital. The server keeps only a keyed hash of it.",
            ),
            required=True,
            longest=32,
            identifying=True,
        ),
        Field(
            name="age",
            kind="whole",
            title=_say("Idade", "Age"),
            required=True,
            unit=_say("anos", "years"),
            plausible=Range(low=ADULT_YEARS, high=105),
            possible=Range(low=0, high=125),
        ),
        Field(
            name="sex",
            kind="choice",
            title=_say("Sexo", "Sex"),
            help=_say("Sexo ao nascer.", "Sex at birth."),
            choices=(_choice("female", "Feminino", "Female"), _choice("male", "Masculino", "Male")),
        ),
        Field(
            name="language",
            kind="choice",
            title=_say("Língua do paciente", "Patient's language"),
            help=_say(
                "A língua que o paciente fala no dia a dia.",
                "The language that the patient speaks every day.",
            ),
            required=True,
            choices=(
                _choice("pt-BR", "Português do Brasil", "Brazilian Portuguese"),
                _choice("es", "Espanhol", "Spanish"),
                _choice("en", "Inglês", "English"),
                Choice(value="other", title=ANOTHER_LANGUAGE),
            ),
        ),
        Field(
            name="mask",
            kind="choice",
            title=_say("Máscara", "Mask"),
            help=_say(
                "A máscara que o paciente usa durante a gravação.",
                "The mask that the patient wears while recording.",
            ),
            choices=(
                _choice("none", "Sem máscara", "No mask"),
                _choice("surgical", "Cirúrgica", "Surgical"),
                _choice("ffp2", "PFF2 ou N95", "FFP2 or N95"),
                _choice("cloth", "Pano", "Cloth"),
                _choice("other", "Outra", "Other"),
            ),
        ),
        Field(
            name="covid",
            kind="choice",
            title=_say("COVID-19", "COVID-19"),
            choices=(
                _choice("confirmed", "Confirmada", "Confirmed"),
                _choice("suspected", "Suspeita", "Suspected"),
                _choice("ruled_out", "Descartada", "Ruled out"),
                _choice("unknown", "Não se sabe", "Not known"),
            ),
        ),
        Field(
            name="cid10",
            kind="text",
            title=_say("CID-10", "CID-10 code"),
            help=_say(
                "Código dado pelo médico, se houver, como J96.0.",
                "The code given by the physician, if any, as J96.0.",
            ),
            longest=16,
            format="cid10",
        ),
        Field(
            name="heart_rate",
            kind="whole",
            title=_say("Frequência cardíaca", "Heart rate"),
            unit=_say("bpm", "bpm"),
            plausible=Range(low=40, high=180),
            possible=Range(low=20, high=300),
        ),
        Field(
            name="respiratory_rate",
            kind="whole",
            title=_say("Frequência respiratória", "Respiratory rate"),
            unit=_PER_MINUTE,
            plausible=Range(low=8, high=45),
            possible=Range(low=2, high=100),
        ),
        Field(
            name="spo2",
            kind="number",
            title=_say("SpO₂", "SpO₂"),
            help=_say(
                "Valor do oxímetro agora, em porcentagem.",
                "What the oximeter shows now, as a percentage.",
            ),
            unit=_say("%", "%"),
            plausible=Range(low=70, high=100),
            possible=Range(low=30, high=100),  # as in imports: below, oximeters show nothing
        ),
        Field(
            name="oxygen_support",
            kind="choice",
            title=_say("Suporte de oxigênio", "Oxygen support"),
            help=_say("No momento da SpO₂.", "While SpO₂ was measured."),
            choices=(
                _choice("room_air", "Ar ambiente", "Room air"),
                _choice("oxygen", "Oxigênio", "Oxygen"),
                _choice("ventilation", "Ventilação", "Ventilation"),
            ),
        ),
        Field(
            name="oxygen_flow",
            kind="number",
            title=_say("Fluxo de oxigênio", "Oxygen flow"),
            unit=_say("L/min", "L/min"),
            plausible=Range(low=0.5, high=60),
            possible=Range(low=0, high=100),
        ),
        Field(name="hospitalised", kind="yes_no", title=_say("Internado", "Hospitalised")),
        Field(
            name="unfinished",
            kind="yes_no",
            title=_say(
                "O paciente não conseguiu terminar a frase",
                "The patient was not able to finish the sentence",
            ),
        ),
        Field(
            name="tracheostomy",
            kind="yes_no",
            title=_say("Traqueostomia", "Tracheostomy"),
            required=True,
        ),
        Field(name="intubated", kind="yes_no", title=_say("Intubação", "Intubated"), required=True),
        Field(
            name="patient_informed",
            kind="yes_no",
            title=_say("Paciente informado", "Patient informed"),
            help=_say(
                "O paciente sabe que uma inteligência artificial apoia esta avaliação.",
                "The patient knows that artificial intelligence supports this assessment.",
            ),
            required=True,
            must_be_yes=True,
        ),
        Field(
            name="research_consent",
            kind="yes_no",
            title=_say("Consentimento para pesquisa", "Research consent"),
            help=_say(
                "Sem ele a avaliação nunca entra em um conjunto de dados.",
                "Without it the assessment never enters a dataset.",
            ),
            required=True,
            yes_needs="consent_form_version",
        ),
        Field(
            name="consent_form_version",
            kind="text",
            title=_say("Versão do termo", "Consent form version"),
            longest=32,
        ),
    ),
)

FORMS: Mapping[tuple[str, int], Form] = {(form.id, form.version): form for form in (ASSESSMENT_1,)}


def outside_intended_use(
    values: Mapping[str, Any], *, languages: tuple[str, ...] = INTENDED_LANGUAGES
) -> tuple[Sentence, ...]:
    """Every reason why no model may answer about this patient; such a one is recorded, not scored.

    values     of the form, those that may be used
    languages  that the model in use was tested in
    """
    said = declared(values)
    reasons = (
        MINOR if said.age is not None and said.age < ADULT_YEARS else None,
        TRACHEOSTOMY if said.tracheostomy else None,
        INTUBATED if said.intubated else None,
        other_language(said.language, languages),
    )
    return tuple(reason for reason in reasons if reason is not None)


def declared(values: Mapping[str, Any]) -> Declared:
    """What the form declares about the person; device, site and utterance are not the form's."""
    return Declared(
        language=values.get("language"),
        age=values.get("age"),
        tracheostomy=values.get("tracheostomy"),
        intubated=values.get("intubated"),
        unfinished=values.get("unfinished", False),
    )
