"""Stage `evaluate`: the exported network asked about people it has never met, and audited.

What is evaluated is what will be published: the network is exported first, and every answer here
comes from `score()`, the one function that prediction and serving call.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from spira.audio.features import Mfcc, extract_single, window_shape
from spira.audio.noise import SnrNoise
from spira.audio.speech import PauseTiming, pauses, quiet_parts
from spira.datasets.versions import parquet
from spira.domain.answers import OperatingPoint, Sentence
from spira.domain.draws import draws
from spira.domain.errors import InputError
from spira.domain.fingerprint import canonical_json
from spira.domain.recordings import Side, age_band
from spira.evaluation.audits import (
    acquisition_audit,
    acquisition_table,
    background_audit,
    noise_audit,
    physiology_audits,
)
from spira.evaluation.baselines import Sample, compare_baseline, fit_baseline
from spira.evaluation.calibration import choose_operating_point
from spira.evaluation.metrics import evaluate_condition, subgroups
from spira.evaluation.results import Audit, Baseline, EvaluationResult
from spira.model.scoring import Scorer, ScoringSpec
from spira.training.examples import add_noise
from spira.training.features import FeatureSet
from spira.training.plan import Files, Work
from spira.training.tables import AMBIENT, placed

Float = NDArray[np.float32]
Spoken = Literal["clean", "noise"]
Asking = Literal["clean", "noise", "audit noise", "ambient"]
Given = TypeVar("Given")
Made = TypeVar("Made")
_GAPS_S = 1.0  # of audio without speech or breath, for everyone, where no ambient was recorded


@dataclass(frozen=True)
class _Asked:
    """Everything needed to ask about a recording under a condition, in any order."""

    work: Work
    features: FeatureSet
    noises: Mapping[Side, list[str]]
    scorer: Scorer

    def waveform(self, row: dict[str, Any], condition: Asking) -> Float:
        """The recording as it is, or with noise of its side, fixed by seed and recording."""
        waveform = self.features.waveform(row["sha256"])
        if condition not in ("noise", "audit noise"):
            return waveform
        experiment = self.work.experiment
        noise = experiment.test_noise if condition == "noise" else self.audit_noise
        return add_noise(
            waveform,
            [self.features.waveform(digest) for digest in self.noises[row["placed"]]],
            noise,
            present=row["label"] == "present",
            rng=draws(experiment.seed, "test noise", row["recording_id"]),
        )

    @property
    def audit_noise(self) -> SnrNoise:
        """The audit's own, the same for both classes: no experiment can make it easier."""
        settings = self.work.plan.evaluation
        return SnrNoise(
            present=settings.noise_excerpts,
            absent=settings.noise_excerpts,
            snr_db_low=settings.noise_snr_db_low,
            snr_db_high=settings.noise_snr_db_high,
        )

    def background(self, row: dict[str, Any]) -> Float | None:
        """What a recording holds beside the voice, of one length for everyone; None if too short.

        Ambient recordings as they are; of a spoken one, the gaps without speech or breath. As much
        as a window takes of the one, a second of the other, or what the windows ask for at least.
        """
        rate, windows = self.work.experiment.features.rate_hz, self.work.experiment.windows
        heard = self.features.waveform(row["sha256"])
        is_room = row["utterance"] in AMBIENT
        wanted = round((windows.length_s if is_room else _GAPS_S) * rate)
        length = max(wanted, self.work.experiment.shortest_samples)
        found = heard if is_room else quiet_parts(heard)
        return found[:length] if len(found) >= length else None

    def predict(self, rows: Sequence[dict[str, Any]], condition: Asking) -> pl.DataFrame:
        """One row a recording, with the mean of its windows' probabilities."""

        def ask(row: dict[str, Any]) -> dict[str, Any] | None:
            heard = (
                self.background(row) if condition == "ambient" else self.waveform(row, condition)
            )
            if heard is None:
                return None
            try:
                score = self.scorer.score(heard)
            except InputError as error:
                raise InputError(f"recording {row['recording_id']}: {error}") from error
            return {**row, "condition": condition, "probability": score.probability}

        asked = [row for row in self.each(f"asking ({condition})", ask, rows) if row is not None]
        return pl.DataFrame(asked, infer_schema_length=None)

    def each(
        self, what: str, function: Callable[[Given], Made], items: Iterable[Given]
    ) -> list[Made]:
        """`function` of every item, in order, on as many threads as there are jobs."""
        todo = list(items)
        done: list[Made] = []
        with ThreadPoolExecutor(self.work.plan.training.jobs) as threads:
            for made in threads.map(function, todo):
                done.append(made)
                self.work.progress(what, len(done), len(todo))
        return done


def evaluate(work: Work) -> tuple[Files, dict[str, Any]]:
    """Export, choose the operating point on validation, measure and audit on test.

    files     model.onnx, predictions.parquet (every answer), metrics.json (EvaluationResult),
              scoring.json (how the network is asked), report.html, card.md
    """
    from spira.training.reporting import write_report

    experiment, settings = work.experiment, work.plan.evaluation
    recordings, noises = placed(work)
    features = FeatureSet(work.input("features"))
    spec = ScoringSpec(
        features=experiment.features,
        windows=experiment.windows,
        rate_hz=experiment.features.rate_hz,
    )
    network = _exported(work, spec)
    asked = _Asked(work, features, noises, Scorer(network, spec))
    conditions: list[Spoken] = ["clean", "noise"] if all(noises.values()) else ["clean"]

    spoken = recordings.filter(~pl.col("utterance").is_in(AMBIENT))
    validation = _rows(spoken, "validation")
    test = _rows(spoken, "test")
    ambient = _rows(recordings.filter(pl.col("utterance").is_in(AMBIENT)), "test")
    chosen_in = experiment.evaluation.operating_condition
    if chosen_in != "clean" and "noise" not in conditions:
        raise InputError(
            f"evaluation.operating_condition is {chosen_in}, but the dataset has fewer than three "
            "noise recordings to keep apart; add some or use operating_condition: clean"
        )
    every = [asked.predict(validation, condition) for condition in conditions]
    every += [asked.predict(test, condition) for condition in conditions]
    every += [asked.predict(ambient or test, "ambient")]
    if "noise" in conditions:
        every += [asked.predict(test, "audit noise")]
    answers = pl.concat([table for table in every if table.height], how="vertical_relaxed")

    point = _operating_point(work, answers)
    answers = answers.with_columns(
        calibrated=pl.col("probability").map_elements(point.calibrate, pl.Float64)
    ).with_columns(outcome=pl.col("calibrated").map_elements(point.outcome, pl.Utf8))
    tested = answers.filter(pl.col("placed") == "test")

    heard = pl.concat([_heard(asked, spoken, condition) for condition in conditions])
    measured = tuple(
        evaluate_condition(
            tested, point, condition, level, seed=experiment.seed, resamples=settings.resamples
        )
        for condition in conditions
        for level in ("participant", "recording")
    )
    result = EvaluationResult(
        operating_point=point,
        evaluated="test",
        participants_disjoint="unproven" if _per_file(work) else "proven",
        notes=_notes(conditions, bool(ambient)),
        conditions=measured,
        subgroups=subgroups(tested, point, minimum=settings.subgroup_minimum),
        audits=_audits(work, recordings, tested, heard, point, gaps=not ambient),
        baselines=tuple(_baselines(heard, tested, conditions)),
    )
    files: dict[str, Path | bytes] = {
        "model.onnx": network,
        "predictions.parquet": parquet(_kept(answers)),
        "metrics.json": canonical_json(result.model_dump(mode="json")),
        "scoring.json": canonical_json(spec.model_dump(mode="json")),
    }
    files |= write_report(work, result, recordings, tested)
    return files, {"headline": headline(result)}


def _kept(answers: pl.DataFrame) -> pl.DataFrame:
    """Every answer with what it is compared by; no time, no vital sign, no exact age."""
    bands = pl.col("age").map_elements(age_band, pl.Utf8, skip_nulls=False).alias("age_band")
    return answers.select(
        "recording_id",
        "participant_id",
        "utterance",
        "label",
        "placed",
        "condition",
        "probability",
        "calibrated",
        "outcome",
        "sex",
        bands,
        "site",
        "device",
    ).sort("condition", "placed", "recording_id")


def headline(result: EvaluationResult) -> dict[str, float | str | None]:
    """The few figures that lists and registries show."""
    figures: dict[str, float | str | None] = {}
    for condition in result.conditions:
        if condition.level == "participant":
            for name in ("auroc", "sensitivity", "specificity", "balanced_accuracy", "brier"):
                figures[f"{condition.condition}_{name}"] = getattr(condition, name).value
    for audit in result.audits:
        figures[f"audit_{audit.name}"] = audit.bound
    return figures


def _exported(work: Work, spec: ScoringSpec) -> bytes:
    from spira.model.export import export
    from spira.training.weights import trained_network

    frames, coefficients = window_shape(work.experiment.windows, work.experiment.features)
    return export(trained_network(work.input("train"), work.experiment), frames, coefficients)


def _rows(table: pl.DataFrame, side: Side) -> list[dict[str, Any]]:
    return table.filter(pl.col("placed") == side).to_dicts()


def _operating_point(work: Work, answers: pl.DataFrame) -> OperatingPoint:
    chosen = work.experiment.evaluation
    wanted = (
        ["clean", "noise"] if chosen.operating_condition == "both" else [chosen.operating_condition]
    )
    rows = answers.filter((pl.col("placed") == "validation") & pl.col("condition").is_in(wanted))
    return choose_operating_point(
        rows["probability"].to_numpy(),
        (rows["label"] == "present").to_numpy(),
        sensitivity_aim=chosen.sensitivity_aim,
        inconclusive_share=chosen.inconclusive_share,
        condition=chosen.operating_condition,
    )


TIMING = tuple(field.name for field in fields(PauseTiming))


def _heard(asked: _Asked, spoken: pl.DataFrame, condition: Spoken) -> pl.DataFrame:
    """What can be heard of each recording without a network: timing of pauses, plain averages.

    returns   one row a recording: recording_id, participant_id, label, placed, condition,
              speech_level_dbfs, speech_s, the columns TIMING, and `summary` (a list)
    """

    def listen(row: dict[str, Any]) -> dict[str, Any]:
        waveform = asked.waveform(row, condition)
        kept = ("recording_id", "participant_id", "label", "placed", "speech_level_dbfs")
        mfcc = extract_single(waveform, Mfcc())  # [frames, coefficients] of the whole recording
        return (
            {name: row[name] for name in kept}
            | asdict(pauses(waveform))
            | {"condition": condition, "summary": [*mfcc.mean(0).tolist(), *mfcc.std(0).tolist()]}
        )

    sides = [*_rows(spoken, "train"), *_rows(spoken, "test")]
    return pl.DataFrame(
        asked.each(f"listening ({condition})", listen, sides), infer_schema_length=None
    )


def _audits(
    work: Work,
    recordings: pl.DataFrame,
    tested: pl.DataFrame,
    heard: pl.DataFrame,
    point: OperatingPoint,
    *,
    gaps: bool,
) -> tuple[Audit, ...]:
    """Which of the known shortcuts the model, or the data, would allow."""
    limits = work.plan.evaluation
    noisy = tested.filter(pl.col("condition") == "audit noise")
    table = acquisition_table(recordings, utterance=work.experiment.utterance)
    return (
        noise_audit(
            tested.filter(pl.col("condition") == "clean"),
            noisy.filter(pl.col("label") == "present"),
            noisy.filter(pl.col("label") == "absent"),
            point,
            limit=limits.noise_change_limit,
        ),
        background_audit(
            tested.filter(pl.col("condition") == "ambient"), limit=limits.auroc_limit, gaps=gaps
        ),
        acquisition_audit(table, limit=limits.auroc_limit),
        *physiology_audits(
            heard.filter((pl.col("condition") == "clean") & (pl.col("placed") == "test")),
            timing=TIMING,
        ),
    )


def _baselines(
    heard: pl.DataFrame, tested: pl.DataFrame, conditions: Sequence[Spoken]
) -> Iterator[Baseline]:
    """The two simple competitors, trained on what the model was trained on, clean and noisy."""
    train = heard.filter(pl.col("placed") == "train")
    asked = tested.select("recording_id", "condition", "probability")
    test = heard.join(asked, on=["recording_id", "condition"], maintain_order="left")
    names: tuple[Literal["timing", "summary"], ...] = ("timing", "summary")
    for name in names:

        def features(table: pl.DataFrame, name: str = name) -> NDArray[np.float64]:
            columns = table["summary"].to_list() if name == "summary" else table.select(TIMING)
            return np.asarray(columns, dtype=np.float64)

        samples = {
            condition: Sample(
                features(table),
                (table["label"] == "present").to_numpy(),
                table["participant_id"].to_numpy(),
                table["probability"].to_numpy(),
            )
            for condition in conditions
            for table in [test.filter(pl.col("condition") == condition)]
        }
        yield compare_baseline(
            name,
            fit_baseline(features(train), (train["label"] == "present").to_numpy()),
            clean=samples["clean"],
            noise=samples.get("noise"),
        )


def _per_file(work: Work) -> bool:
    known = work.input("snapshot").about.get("participants_known")
    return bool(known == "per-file")


def _notes(conditions: Sequence[Spoken], ambient: bool) -> tuple[Sentence, ...]:
    """What a reader must know before believing a figure."""
    notes = []
    if "noise" not in conditions:
        notes.append(
            Sentence(
                pt="Sem gravações de ruído suficientes: nada foi medido com ruído.",
                en="Too few noise recordings: nothing was measured under noise.",
            )
        )
    if not ambient:
        notes.append(
            Sentence(
                pt="Sem gravações de ambiente: o fundo foi medido nas pausas sem fala.",
                en="No ambient recordings: the background was measured in gaps without speech.",
            )
        )
    return tuple(notes)
