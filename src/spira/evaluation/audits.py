"""Shortcut audits: does the model listen to the voice, or to the ward, the codec, the device?

A limit is compared with a one-sided 95 % bound, and the verdict follows from it:

    fail               the change (or AUROC) is beyond the limit even at the near end of its
                       interval, however few people there are
    not enough data    else, where so few people could not pass with a perfect result
    pass               else, where the bound is within the limit
    fail               else: it may be beyond the limit, and nobody has shown that it is not

Perfect is no change at all (noise) or an AUROC of exactly 0.5: at the default limits 25 people a
class can pass the noise audit and 20 the others. Everything counts per participant.

`noise`, `background` and `acquisition` can refuse a model. Timing of pauses and
amount of speech are physiology, speech level is physiology or the microphone: they are measured,
reported and never refuse.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from spira.domain.answers import OperatingPoint, Sentence
from spira.domain.draws import draws
from spira.evaluation.baselines import baseline_scores, fit_baseline
from spira.evaluation.intervals import (
    ONE_SIDED,
    auroc_estimate,
    auroc_interval,
    chance_variance,
    delong,
    paired_change_interval,
    people_of_each,
)
from spira.evaluation.metrics import per_participant
from spira.evaluation.results import Audit, AuditPart, Estimate, Verdict
from spira.evaluation.wording import at_most, count, decimal, fill, share

ACQUISITION_CATEGORIES: dict[str, Sentence] = {
    "container": Sentence(pt="formato do arquivo", en="file format"),
    "codec": Sentence(pt="codec", en="codec"),
    "rate_hz": Sentence(pt="taxa de amostragem", en="sample rate"),
    "channels": Sentence(pt="número de canais", en="number of channels"),
    "device": Sentence(pt="aparelho", en="device"),
    "site": Sentence(pt="local", en="site"),
}
ACQUISITION_NUMBERS: dict[str, Sentence] = {
    "room_level_dbfs": Sentence(pt="nível do som do ambiente", en="sound level of the room"),
    "noise_floor_dbfs": Sentence(
        pt="ruído de fundo da própria gravação (que as pausas também mudam)",
        en="noise floor of the recording itself (which pauses change too)",
    ),
    "hour": Sentence(pt="hora da gravação", en="hour of the recording"),
}

# Folds are drawn from a seed of the audits' own: the same data have the same verdict, whatever
# seed an experiment trains with. Nobody can draw again until it passes.
_SEED = 0
_FOLDS = 5
_REPEATS = 5
_RARE = 5  # people; rarer codecs, devices and sites count as one

Physiology = Literal["timing", "level", "speech"]


def noise_audit(
    clean: pl.DataFrame,
    noise_on_present: pl.DataFrame,
    noise_on_absent: pl.DataFrame,
    operating_point: OperatingPoint,
    *,
    limit: float,
) -> Audit:
    """Ward noise unheard in training, added to one class and then to the other.

    clean             test predictions: recording_id, participant_id, label, probability
    noise_on_present  the same recordings of people with label present, noise added
    noise_on_absent   the same for label absent
    limit             of the absolute change of sensitivity and of specificity, as a share
    raises            ValueError for a noisy recording that has no clean counterpart

    A model that hears noise as illness calls controls positive (specificity falls) and gains
    sensitivity where it was below 1; one that hears it as health does the reverse; one that is
    merely deafened loses either. In all of these the ward moves answers, and which of them can
    show depends on how near to 1 each figure was, so the change is limited in both directions:
    the bound is the larger of the two one-sided 95 % bounds (two one-sided tests, Schuirmann
    1987), by Tango's method on the same people. The audit is as good as its worse part.
    """
    parts: list[tuple[AuditPart, bool]] = []
    shares: dict[str, Sentence] = {}
    for label, name, noisy in (
        ("present", "sensitivity", noise_on_present),
        ("absent", "specificity", noise_on_absent),
    ):
        before, after = _paired_answers(clean, noisy, operating_point, label)
        parts.append(_noise_part(name, before, after, limit))
        shares |= {
            f"{label}_n": count(before.size),
            f"{label}_before": share(float(before.mean()) if before.size else None, 1),
            f"{label}_after": share(float(after.mean()) if after.size else None, 1),
        }
    severity: dict[Verdict, int] = {"pass": 0, "not enough data": 1, "fail": 2}
    worse, sure = max(parts, key=lambda found: (severity[found[0].verdict], found[0].bound or 0.0))
    bounds = [part.bound for part, _ in parts if part.bound is not None]
    conclusion = _conclusion(
        worse.verdict,
        sure=sure,
        passed=Sentence(
            pt="O ruído não muda as respostas mais do que o limite permite.",
            en="Noise changes the answers no more than the limit allows.",
        ),
        failed=Sentence(
            pt="O ruído muda as respostas: o modelo pode estar ouvindo a enfermaria, e não a voz.",
            en="Noise changes the answers: the model may be listening to the ward and not to the "
            "voice.",
        ),
    )
    return Audit(
        name="noise",
        title=Sentence(
            pt="O ruído da enfermaria muda as respostas?", en="Does ward noise change the answers?"
        ),
        statistic=f"change of {worse.name}",
        estimate=worse.estimate,
        bound=worse.bound,
        limit=limit,
        verdict=worse.verdict,
        refuses=True,
        explanation=fill(
            "Ruído de enfermaria que o modelo nunca ouviu foi somado às gravações de {present_n} "
            "pessoas com insuficiência respiratória (sensibilidade: de {present_before} para "
            "{present_after}) e depois às de {absent_n} pessoas sem ela (especificidade: de "
            "{absent_before} para {absent_after}). Com 95\u202f% de confiança, a mudança é de no "
            "máximo {bound} pontos percentuais; o limite é {limit}. {conclusion}",
            "Ward noise that the model has never heard was added to the recordings of {present_n} "
            "people with respiratory insufficiency (sensitivity: from {present_before} to "
            "{present_after}) and then to those of {absent_n} people without (specificity: from "
            "{absent_before} to {absent_after}). With 95% confidence the change is at most "
            "{bound} percentage points; the limit is {limit}. {conclusion}",
            **shares,
            bound=(
                decimal(at_most(100 * max(bounds), 1), 1) if len(bounds) == 2 else decimal(100.0, 0)
            ),
            limit=decimal(100 * limit, 0),
            conclusion=conclusion,
        ),
        parts=tuple(part for part, _ in parts),
    )


def background_audit(ambient: pl.DataFrame, *, limit: float, gaps: bool = False) -> Audit:
    """The trained model asked about recordings in which nobody speaks: its AUROC must be chance.

    ambient  predictions about ambient recordings of test people, cut to one length:
             participant_id, label, probability; several of a participant are averaged. May be
             empty, then the verdict is "not enough data"
    limit    of 0.5 + |AUROC - 0.5|: an AUROC of 0.2 is a shortcut turned round, and a model that
             calls the wards of controls ill hears the ward as well. The bound is the larger of
             the two one-sided 95 % bounds by DeLong (two one-sided tests, Schuirmann 1987).
             With 80 people a class an innocent model passes 0.65 nine times in ten, with 120
             ninety-eight times in a hundred
    gaps     the predictions are about silences inside spoken recordings, because no ambient ones
             were made: the explanation says so
    """
    people = per_participant(ambient)
    room = Sentence(
        pt="Perguntamos ao modelo sobre gravações do ambiente, sem ninguém falando",
        en="The model was asked about recordings of the room, with nobody speaking",
    )
    silences = Sentence(
        pt="Sem gravações do ambiente, perguntamos ao modelo sobre os silêncios entre as palavras",
        en="Without recordings of the room, the model was asked about silences between words",
    )
    return _chance_audit(
        "background",
        people["probability"].to_numpy(),
        (people["label"] == "present").to_numpy(),
        people["participant_id"].to_numpy(),
        limit=limit,
        both_ways=True,
        title=Sentence(
            pt="O modelo adivinha só pelo ambiente?", en="Can the model guess from the room alone?"
        ),
        what=silences if gaps else room,
        passed=Sentence(
            pt="O ambiente sozinho não diz quem está doente mais do que o limite permite.",
            en="The room alone tells who is ill no more than the limit allows.",
        ),
        failed=Sentence(
            pt="O modelo responde ao ambiente: acertos podem vir do local, e não da voz.",
            en="The model responds to the room: right answers may come from the place and not "
            "from the voice.",
        ),
    )


def acquisition_table(recordings: pl.DataFrame, *, utterance: str) -> pl.DataFrame:
    """What is not the voice about each recording of one utterance with a label.

    recordings  a dataset version's table of recordings, ambient ones included
    returns     participant_id, label, container, codec, rate_hz, channels, device, site, hour
                (0..24, as written, null where unknown), and how loud the room was:
                room_level_dbfs, the mean level of the ambient recordings of the same visit, or,
                in a dataset without any, noise_floor_dbfs of the recording itself

    The noise floor of a spoken sentence is the level of its pauses if it has pauses, else of its
    quietest speech: it would smuggle physiology into an audit of acquisition. So it is used only
    where nothing better was recorded.
    """
    ambient = recordings.filter(pl.col("utterance").is_in(["ambient_before", "ambient_after"]))
    rows = recordings.filter(
        (pl.col("utterance") == utterance) & pl.col("label").is_in(["present", "absent"])
    )
    chosen = ["participant_id", "label", *ACQUISITION_CATEGORIES]
    clock = pl.col("recorded_at").cast(pl.String).str.extract_groups(r"[T ](\d{2}):(\d{2})")
    hour = clock.struct["1"].cast(pl.Float64) + clock.struct["2"].cast(pl.Float64) / 60
    if ambient.is_empty():
        return rows.select(*chosen, "noise_floor_dbfs", hour.alias("hour"))
    rooms = ambient.group_by("participant_id", "visit_id").agg(
        pl.col("level_dbfs").sort().mean().alias("room_level_dbfs")
    )
    return rows.join(
        rooms,
        on=["participant_id", "visit_id"],
        how="left",
        nulls_equal=True,
        maintain_order="left",
    ).select(*chosen, "room_level_dbfs", hour.alias("hour"))


def acquisition_audit(table: pl.DataFrame, *, limit: float) -> Audit:
    """A logistic regression guesses the label from what is not the voice: its AUROC must be chance.

    table  one row a recording: participant_id, label and any of ACQUISITION_CATEGORIES and
           ACQUISITION_NUMBERS, as `acquisition_table` makes it. It is about the data and not
           about the model, so it may (and should) hold every participant of the dataset
    limit  of the AUROC of the out-of-fold scores, by DeLong. Below 0.5 is no finding here: the
           regression was free to learn either direction, so that is chance

    5 folds, by participant, stratified by label, drawn 5 times over; the same for the same table.
    """
    features, used = _acquisition_features(table)
    scores, present, participants = _guesses(table, features, purpose="acquisition")
    words = [(ACQUISITION_CATEGORIES | ACQUISITION_NUMBERS)[name] for name in used]
    known = Sentence(
        pt=", ".join(word.pt for word in words) or "nada que varie",
        en=", ".join(word.en for word in words) or "nothing that varies",
    )
    return _chance_audit(
        "acquisition",
        scores,
        present,
        participants,
        limit=limit,
        both_ways=False,
        title=Sentence(
            pt="A forma de gravar denuncia quem está doente?",
            en="Does the way of recording give away who is ill?",
        ),
        what=fill(
            "Uma conta simples que não ouve a voz tentou adivinhar o rótulo (o que ela sabe: "
            "{known})",
            "A simple calculation that does not hear the voice tried to guess the label (what it "
            "knows: {known})",
            known=known,
        ),
        passed=Sentence(
            pt="A forma de gravar não diz quem está doente mais do que o limite permite.",
            en="The way of recording tells who is ill no more than the limit allows.",
        ),
        failed=Sentence(
            pt="Os grupos foram gravados de formas diferentes: um modelo treinado com estes dados "
            "pode aprender isso em vez da voz.",
            en="The groups were recorded in different ways: a model trained on these data can "
            "learn that instead of the voice.",
        ),
    )


def physiology_audits(table: pl.DataFrame, *, timing: Sequence[str]) -> tuple[Audit, ...]:
    """How far simple physiology alone tells people apart; reported, never a reason to refuse.

    Of the level of speech nobody can say whether it is illness, or the distance and the gain of the
    microphone: a level that `level_warns` is said in the first lines of a report.

    table   one row a recording: participant_id, label, speech_level_dbfs, speech_s and the
            columns named by `timing`; a missing column gives an estimate without a value
    timing  names of the columns of pause timing
    returns the audits "timing", "level" and "speech": AUROC of a cross-validated logistic
            regression on those columns alone, as in `acquisition_audit`
    """
    columns: dict[Physiology, Sequence[str]] = {
        "timing": timing,
        "level": ("speech_level_dbfs",),
        "speech": ("speech_s",),
    }
    return tuple(_physiology(name, table, chosen) for name, chosen in columns.items())


def _paired_answers(
    clean: pl.DataFrame, noisy: pl.DataFrame, operating_point: OperatingPoint, label: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Right or wrong, clean and noisy, of the participants that were given noise."""
    of_label = noisy.filter(pl.col("label") == label)
    same = clean.filter(pl.col("label") == label).join(of_label, on="recording_id", how="semi")
    if same.height != of_label.height:
        raise ValueError(
            f"noise audit: {of_label.height} noisy recordings with label {label}, but "
            f"{same.height} clean ones of the same recording_id"
        )
    answers = []
    for predictions in (same, of_label):
        calibrated = [
            operating_point.calibrate(p) for p in per_participant(predictions)["probability"]
        ]
        positive = np.array(calibrated, dtype=np.float64) >= operating_point.threshold
        answers.append(positive if label == "present" else ~positive)
    return answers[0], answers[1]


def _noise_part(
    name: str, before: NDArray[np.bool_], after: NDArray[np.bool_], limit: float
) -> tuple[AuditPart, bool]:
    """The part, and whether it is surely beyond the limit."""
    n = before.size
    title = {
        "sensitivity": Sentence(pt="Ruído em quem tem IR", en="Noise on people with RI"),
        "specificity": Sentence(pt="Ruído em quem não tem IR", en="Noise on people without RI"),
    }[name]
    if n == 0:
        nothing = Estimate(value=None, n=0)
        part = AuditPart(
            name=name, title=title, estimate=nothing, bound=None, verdict="not enough data"
        )
        return part, False
    gained, lost = int(np.sum(after & ~before)), int(np.sum(before & ~after))
    low, high = paired_change_interval(gained, lost, n)
    estimate = Estimate(value=(gained - lost) / n, low=low, high=high, n=n, method="Tango")
    least, most = paired_change_interval(gained, lost, n, tail=ONE_SIDED)
    bound = max(most, -least)
    sure = least > limit or most < -limit
    perfect = paired_change_interval(0, 0, n, tail=ONE_SIDED)[1]
    verdict = _verdict(bound=bound, limit=limit, sure=sure, perfect_bound=perfect)
    part = AuditPart(name=name, title=title, estimate=estimate, bound=bound, verdict=verdict)
    return part, sure


def _chance_audit(
    name: str,
    scores: NDArray[np.float64],
    present: NDArray[np.bool_],
    participants: NDArray[np.str_],
    *,
    limit: float,
    both_ways: bool,
    title: Sentence,
    what: Sentence,
    passed: Sentence,
    failed: Sentence,
) -> Audit:
    """An audit whose AUROC must be near 0.5."""
    estimate = auroc_estimate(scores, present, participants)
    n_present, n_absent = people_of_each(present, participants)
    bound: float | None = None
    verdict: Verdict = "not enough data"
    explanation = fill(
        "{what}. Não há gravações de pessoas com e sem insuficiência respiratória em número "
        "suficiente para uma medida.",
        "{what}. There are not enough recordings of people with and without respiratory "
        "insufficiency for a figure.",
        what=what,
    )
    if estimate.value is not None:
        value, variance = delong(scores, present, participants)
        low, high = auroc_interval(value, variance, n_present, n_absent, tail=ONE_SIDED)
        bound = max(high, 1 - low) if both_ways else high
        sure = low > limit or (both_ways and high < 1 - limit)
        chance = chance_variance(n_present, n_absent)
        perfect = auroc_interval(0.5, chance, n_present, n_absent, tail=ONE_SIDED)[1]
        verdict = _verdict(bound=bound, limit=limit, sure=sure, perfect_bound=perfect)
        ways = Sentence(pt=", para um lado ou para o outro", en=", one way or the other")
        explanation = fill(
            "{what}: {present} pessoas com insuficiência respiratória e {absent} sem ela. AUROC "
            "{value} (0,5 é acaso, 1 é acerto sempre); com 95\u202f% de confiança, no máximo "
            "{bound}{ways}; o limite é {limit}. {conclusion}",
            "{what}: {present} people with respiratory insufficiency and {absent} without. AUROC "
            "{value} (0.5 is chance, 1 is always right); with 95% confidence at most "
            "{bound}{ways}; the limit is {limit}. {conclusion}",
            what=what,
            present=n_present,
            absent=n_absent,
            value=decimal(value, 2),
            bound=decimal(at_most(bound, 2), 2),
            ways=ways if both_ways else "",
            limit=decimal(limit, 2),
            conclusion=_conclusion(verdict, sure=sure, passed=passed, failed=failed),
        )
    return Audit(
        name=name,
        title=title,
        statistic="AUROC",
        estimate=estimate,
        bound=bound,
        limit=limit,
        verdict=verdict,
        refuses=True,
        explanation=explanation,
    )


def _verdict(*, bound: float, limit: float, sure: bool, perfect_bound: float) -> Verdict:
    """See the top; `sure`: beyond the limit even at the near end of the interval."""
    if sure:
        return "fail"
    if perfect_bound > limit:
        return "not enough data"
    return "pass" if bound <= limit else "fail"


def _conclusion(verdict: Verdict, *, sure: bool, passed: Sentence, failed: Sentence) -> Sentence:
    if verdict == "pass":
        return passed
    if sure:
        return failed
    if verdict == "fail":
        return Sentence(
            pt="Estes dados não excluem mais que o limite; na dúvida, a auditoria reprova.",
            en="These data do not exclude more than the limit; in doubt, the audit fails.",
        )
    return Sentence(
        pt="Há pessoas de menos para concluir: nem um resultado perfeito bastaria.",
        en="There are too few people to conclude: not even a perfect result would do.",
    )


def _acquisition_features(table: pl.DataFrame) -> tuple[NDArray[np.float64], list[str]]:
    """Columns for a regression, and the names of the attributes that vary at all."""
    columns: list[NDArray[np.float64]] = []
    used = []
    participants = table["participant_id"]
    for name in (*ACQUISITION_CATEGORIES, *ACQUISITION_NUMBERS):
        if name not in table.columns or table[name].n_unique() < 2:
            continue
        used.append(name)
        if name in ACQUISITION_CATEGORIES:
            levels = table[name].cast(pl.String).fill_null("\x00")
            frequent = [
                level
                for level in sorted(set(levels))
                if participants.filter(levels == level).n_unique() >= _RARE
            ]
            columns += [(levels == level).to_numpy().astype(np.float64) for level in frequent]
        else:
            values = table[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
            around = [np.cos(values * np.pi / 12), np.sin(values * np.pi / 12)]
            columns += around if name == "hour" else [values]
    return np.column_stack(columns) if columns else np.zeros((table.height, 0)), used


def _guesses(
    table: pl.DataFrame, features: NDArray[np.float64], *, purpose: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.str_]]:
    """Cross-validated scores of a logistic regression: one a participant and label.

    returns  (scores, present, participants); empty where a class has fewer than two people
    """
    labelled = table.select("participant_id", "label").with_row_index("row")
    labelled = labelled.filter(pl.col("label").is_in(["present", "absent"])).sort(
        "participant_id", "label", "row"
    )
    features = features[labelled["row"].to_numpy()]
    present = (labelled["label"] == "present").to_numpy()
    names, person = np.unique(
        np.array(labelled["participant_id"].to_list(), dtype=str), return_inverse=True
    )
    ill = np.bincount(person, weights=present, minlength=names.size) > 0
    folds = min(_FOLDS, int(ill.sum()), int((~ill).sum()))
    if folds < 2:
        nothing = np.zeros(0)
        return nothing, nothing.astype(bool), nothing.astype(str)
    scores = np.zeros(present.size)
    for repeat in range(_REPEATS if features.shape[1] else 0):
        rng = draws(_SEED, "audit folds", purpose, repeat)
        fold = np.zeros(names.size, dtype=np.int64)
        for stratum in (np.flatnonzero(ill), np.flatnonzero(~ill)):
            fold[rng.permutation(stratum)] = np.arange(stratum.size) % folds
        for number in range(folds):
            held_out = fold[person] == number
            fitted = fit_baseline(features[~held_out], present[~held_out])
            scores[held_out] += baseline_scores(fitted, features[held_out]) / _REPEATS
    people = per_participant(labelled.with_columns(pl.Series("probability", scores)))
    return (
        people["probability"].to_numpy(),
        (people["label"] == "present").to_numpy(),
        np.array(people["participant_id"].to_list(), dtype=str),
    )


_PHYSIOLOGY = Sentence(
    pt="Isto é fisiologia, não um atalho: serve de comparação.",
    en="This is physiology and no shortcut: it is there to compare with.",
)
_LEVEL = Sentence(
    pt="Pode ser a doença, ou a distância e o ganho do microfone: esta medida não os distingue.",
    en="It may be the illness, or the distance and the gain of the microphone: this figure does "
    "not tell them apart.",
)
_LEVEL_WARNS_ABOVE = 0.65  # AUROC; as far from chance as the audits that refuse allow unless told


def level_warns(audit: Audit) -> bool:
    """Whether the level of speech alone surely tells people apart, which a reader must be told."""
    low = audit.estimate.low
    return audit.name == "level" and low is not None and low > _LEVEL_WARNS_ABOVE


def _physiology(name: Physiology, table: pl.DataFrame, columns: Sequence[str]) -> Audit:
    titles: dict[Physiology, tuple[Sentence, Sentence]] = {
        "timing": (
            Sentence(pt="Só o tempo das pausas", en="Timing of pauses alone"),
            Sentence(pt="só o tempo das pausas", en="only the timing of pauses"),
        ),
        "level": (
            Sentence(pt="Só o volume da fala", en="Speech level alone"),
            Sentence(pt="só o volume da fala", en="only how loud the speech is"),
        ),
        "speech": (
            Sentence(pt="Só a quantidade de fala", en="Amount of speech alone"),
            Sentence(pt="só quantos segundos de fala há", en="only how many seconds are speech"),
        ),
    }
    title, what = titles[name]
    estimate = Estimate(value=None, n=table.height)
    if columns and all(column in table.columns for column in columns):
        numbers = table.select(pl.col(column).cast(pl.Float64) for column in columns)
        features = numbers.fill_null(np.nan).to_numpy()
        scores, present, participants = _guesses(table, features, purpose=name)
        estimate = auroc_estimate(scores, present, participants)
    explanation = Sentence(
        pt="Não há dados para esta medida.", en="There are no data for this figure."
    )
    if estimate.value is not None:
        explanation = fill(
            "Uma conta simples que conhece {what} separa as pessoas com AUROC {value} (0,5 é "
            "acaso, 1 é acerto sempre). {meaning}",
            "A simple calculation that knows {what} tells people apart with an AUROC of {value} "
            "(0.5 is chance, 1 is always right). {meaning}",
            what=what,
            value=decimal(estimate.value, 2),
            meaning=_LEVEL if name == "level" else _PHYSIOLOGY,
        )
    return Audit(
        name=name,
        title=title,
        statistic="AUROC",
        estimate=estimate,
        bound=None,
        limit=None,
        verdict=None,
        refuses=False,
        explanation=explanation,
    )
