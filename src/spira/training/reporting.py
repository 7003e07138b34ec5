"""What the report of an evaluation tells beside its figures: data, split, curves, lineage."""

import platform
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import polars as pl

from spira.datasets.versions import load
from spira.domain.answers import Envelope
from spira.domain.recordings import SIDES, EvidenceLevel, LabelCounts
from spira.evaluation.card import render_card
from spira.evaluation.report import (
    Durations,
    ReportedDataset,
    ReportedGroup,
    ReportInput,
    ScoreHistogram,
    SplitSide,
    TrainingCurves,
    render_report,
)
from spira.evaluation.results import EvaluationResult
from spira.training.experiments import compose
from spira.training.plan import Files, Work
from spira.training.tables import AMBIENT

_PACKAGES = ("torch", "lightning-fabric", "onnxruntime", "numpy", "scipy", "scikit-learn")
_MINIMUM_SPEECH_S = 1.0  # less than one breath group; below it nothing was tested
_BINS = 20
_REPORTED = ("sex", "age band", "site", "device")


def write_report(
    work: Work, result: EvaluationResult, recordings: pl.DataFrame, tested: pl.DataFrame
) -> Files:
    """report.html and card.md: the same input gives the same bytes, so no date is in them."""
    experiment = work.experiment
    history = work.input("train").read_json("history.json")
    best = min(history, key=lambda row: row["validation"])
    data = ReportInput(
        result=result,
        evidence_level=evidence_level(work),
        envelope=envelope(work, recordings),
        experiment_name=experiment.name,
        experiment_description=experiment.description,
        experiment_yaml=compose(experiment),
        dataset=_dataset(work),
        split=_split(work, recordings),
        curves=TrainingCurves(
            epoch=tuple(row["epoch"] + 1 for row in history),
            train_loss=tuple(row["train"] for row in history),
            validation_loss=tuple(row["validation"] for row in history),
            kept_epoch=best["epoch"] + 1,
        ),
        scores=_scores(tested),
        lineage={
            "dataset": work.plan.dataset,
            **{stage: name for stage, name in work.plan.fingerprints.items() if stage != "publish"},
        },
        environment=_environment(work),
    )
    return {"report.html": render_report(data).encode(), "card.md": render_card(data).encode()}


def evidence_level(work: Work) -> EvidenceLevel:
    """What a model of this data may claim; higher levels are given by people, not by a run."""
    origin = work.input("snapshot").about["origin"]
    return "synthetic" if origin == "synthetic" else "research"


def envelope(work: Work, recordings: pl.DataFrame) -> Envelope:
    """Where the model was tested: what the test side's spoken recordings were."""
    test = recordings.filter((pl.col("placed") == "test") & ~pl.col("utterance").is_in(AMBIENT))
    language = work.input("snapshot").about.get("language")
    ages = test["age"].drop_nulls().to_list()
    return Envelope(
        utterances=(work.experiment.utterance,),
        languages=(language,) if language else (),
        age_min=min(ages, default=None),
        age_max=max(ages, default=None),
        sites=_values(test, "site"),
        devices=_values(test, "device"),
        sample_rates_hz=tuple(sorted(test["rate_hz"].unique().to_list())),
        minimum_speech_s=_MINIMUM_SPEECH_S,
        n_people=test["participant_id"].n_unique(),
    )


def _values(table: pl.DataFrame, column: str) -> tuple[str, ...]:
    return tuple(sorted(table[column].drop_nulls().unique().to_list()))


def _dataset(work: Work) -> ReportedDataset:
    """The whole dataset version as it was counted at import, refused recordings included."""
    dataset = load(work.store, work.plan.dataset)
    about = dataset.artifact.about
    counted = dataset.artifact.read_json("summary.json")
    spoken = dataset.recordings.filter(pl.col("utterance") == work.experiment.utterance)
    lengths = spoken["duration_s"].to_numpy()
    collected = dataset.collected
    everybody = {name: counted[name] for name in ("people", "recordings", "refused")}
    return ReportedDataset(
        digest=work.plan.dataset,
        origin=about["origin"],
        language=about.get("language") or "",
        participants=about.get("participants"),
        groups=(
            ReportedGroup.model_validate({"attribute": "all", **everybody}),
            *reported_groups(counted),
        ),
        refusals={row["name"]: LabelCounts(**row["recordings"]) for row in counted["refusals"]},
        findings={row["name"]: LabelCounts(**row["recordings"]) for row in counted["findings"]},
        durations=Durations(
            total_s=float(lengths.sum()),
            shortest_s=float(lengths.min()),
            median_s=float(np.median(lengths)),
            longest_s=float(lengths.max()),
        ),
        noise_recordings=counted["noise"],
        label_policy=collected and collected.label_policy,
        agreement=collected and collected.agreement,
    )


def reported_groups(counted: dict[str, Any]) -> Iterator[ReportedGroup]:
    """Every value of the reported attributes, also one of which every recording was refused."""
    for attribute in _REPORTED:
        groups = {
            group["value"]: group for group in counted["groups"] if group["attribute"] == attribute
        }
        refused = _refused(counted, attribute)
        for value in [*groups, *sorted((refused or {}).keys() - groups.keys())]:
            nobody = {"attribute": attribute, "value": value, "people": {}, "recordings": {}}
            known = None if refused is None else refused.get(value, LabelCounts())
            yield ReportedGroup.model_validate(groups.get(value, nobody) | {"refused": known})


def _refused(counted: dict[str, Any], attribute: str) -> dict[str, LabelCounts] | None:
    """Refused recordings by value of an attribute; None where it was not counted by it."""
    if any(attribute not in reason["by"] for reason in counted["refusals"]):
        return None
    found: dict[str, Counter[str]] = {}
    for reason in counted["refusals"]:
        for value, counts in reason["by"][attribute].items():
            found.setdefault(value, Counter()).update(counts)
    return {value: LabelCounts(**counts) for value, counts in found.items()}


def _split(work: Work, recordings: pl.DataFrame) -> tuple[SplitSide, ...]:
    noise = pl.read_parquet(work.input("split").path("noise.parquet"))
    spoken = recordings.filter(~pl.col("utterance").is_in(AMBIENT))
    return tuple(
        SplitSide(
            side=side,
            people=_people(spoken.filter(pl.col("placed") == side)),
            recordings=_counts(spoken.filter(pl.col("placed") == side)),
            noise_recordings=noise.filter(pl.col("placed") == side).height,
        )
        for side in SIDES
    )


def _scores(tested: pl.DataFrame) -> ScoreHistogram:
    clean = tested.filter(pl.col("condition") == "clean")
    edges = np.linspace(0, 1, _BINS + 1)

    def of(label: str) -> tuple[int, ...]:
        values = clean.filter(pl.col("label") == label)["calibrated"].to_numpy()
        return tuple(int(count) for count in np.histogram(values, edges)[0])

    return ScoreHistogram(
        edges=tuple(float(edge) for edge in edges), present=of("present"), absent=of("absent")
    )


def _environment(work: Work) -> dict[str, str]:
    host = work.plan.parameters["train"]["host"]
    return {
        "spira": version("spira"),
        "python": platform.python_version(),
        "device": str(host["device"]),
        "accelerator": str(host["accelerator"]),
        "threads": str(host["threads"]),
    } | {package: version(package) for package in _PACKAGES}


def _people(table: pl.DataFrame) -> LabelCounts:
    return _counts(table.unique(["participant_id", "label"]))


def _counts(table: pl.DataFrame) -> LabelCounts:
    labels = table["label"].to_list()
    return LabelCounts(
        present=labels.count("present"),
        absent=labels.count("absent"),
        unknown=len(labels) - labels.count("present") - labels.count("absent"),
    )
