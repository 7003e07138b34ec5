"""What SPIRA is for, how it works, and what it must not be used for: the words of `spira about`.

They are clinical safety controls, like those of an answer, in Portuguese and English.
"""

from spira.domain.answers import Sentence
from spira.domain.frozen import Frozen
from spira.domain.vitals import VitalRules, limits

_ALTERED = "{altered}"  # in its place stands what the rules in force say


class Section(Frozen):
    """A heading and what stands under it."""

    heading: Sentence
    text: tuple[Sentence, ...]


def sections(rules: VitalRules) -> tuple[Section, ...]:
    """All of it; `rules` are those in force about vital signs."""
    altered = limits(rules)
    return tuple(
        Section(
            heading=section.heading,
            text=tuple(
                Sentence(
                    pt=sentence.pt.replace(_ALTERED, altered.pt),
                    en=sentence.en.replace(_ALTERED, altered.en),
                )
                for sentence in section.text
            ),
        )
        for section in _ABOUT
    )


_ABOUT = (
    Section(
        heading=Sentence(pt="Uso previsto", en="Intended use"),
        text=(
            Sentence(
                pt="Apontar indícios de insuficiência respiratória em alguns segundos de fala de "
                "adultos, como apoio a profissionais de saúde. O médico decide.",
                en="Point out indications of respiratory insufficiency in a few seconds of adult "
                "speech, in support of health professionals. The physician decides.",
            ),
        ),
    ),
    Section(
        heading=Sentence(pt="Como funciona", en="How it works"),
        text=(
            Sentence(
                pt="A gravação de uma frase é cortada em janelas de poucos segundos; de cada uma "
                "se calculam características do som, e uma rede neural, treinada com gravações de "
                "pessoas com e sem insuficiência respiratória, dá um valor a cada janela. A média, "
                "calibrada em pessoas que a rede não conhecia, é comparada com um limite escolhido "
                "nelas; perto do limite a resposta é inconclusiva. Dados do formulário não entram "
                "no cálculo.",
                en="A recorded sentence is cut into windows of a few seconds; features of the "
                "sound are computed for each, and a neural network, trained on recordings of "
                "people with and without respiratory insufficiency, gives each window a value. "
                "Their mean, calibrated on people that the network had not met, is compared with "
                "a threshold chosen on them; close to the threshold the answer is inconclusive. "
                "Form values take no part.",
            ),
        ),
    ),
    Section(
        heading=Sentence(pt="Avisos", en="Warnings"),
        text=(
            Sentence(
                pt="Dá indícios, nunca um diagnóstico. Não estima a SpO₂ e não indica tratamento.",
                en="It gives indications, never a diagnosis. It neither estimates SpO₂ nor "
                "suggests a treatment.",
            ),
            Sentence(
                pt="Sem indício na voz não exclui insuficiência respiratória.",
                en="No indication in the voice does not exclude respiratory insufficiency.",
            ),
            Sentence(
                pt=f"Sinais vitais alterados ({_ALTERED}): avalie o paciente agora. A análise da "
                "voz não muda essa conduta.",
                en=f"Abnormal vital signs ({_ALTERED}): assess the patient now. The analysis of "
                "the voice does not change that.",
            ),
            Sentence(
                pt="Não avalia quem é declarado menor de 18 anos, com traqueostomia ou intubado, "
                "quem não fala a língua do modelo, nem o que se declara gravado fora dos locais e "
                "aparelhos testados. Só sabe o que lhe declaram: o resto supõe igual ao do teste, "
                "e a resposta diz o que supôs.",
                en="It does not score who is declared to be under 18, to have a tracheostomy or to "
                "be intubated, who does not speak the model's language, or what is declared to be "
                "recorded outside the tested sites and devices. It only knows what it is told: "
                "the rest it takes to be as in the test, and the answer says what it assumed.",
            ),
        ),
    ),
    Section(
        heading=Sentence(pt="Situação regulatória", en="Regulatory status"),
        text=(
            Sentence(
                pt="Não regularizado na Anvisa. Uso em pesquisa; modelos treinados com vozes "
                "sintéticas são demonstração, sem significado clínico.",
                en="Not cleared by Anvisa. Research use; models trained on synthetic voices are "
                "demonstrations without clinical meaning.",
            ),
        ),
    ),
)
