"""Stage `publish`: prove that the exported network is the trained one, and register it.

A model whose evaluation failed a shortcut audit is not published, whoever asks for it
(docs/decisions/0006-publish-refuses.md).
"""

import json
import math
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from spira.domain.errors import PolicyRefused
from spira.domain.fingerprint import canonical_json
from spira.domain.recordings import SIDES
from spira.evaluation.results import Audit, EvaluationResult
from spira.evaluation.wording import at_most, decimal
from spira.model.bundle import ModelManifest, bundle_files
from spira.model.scoring import Scorer, ScoringSpec
from spira.stores.artifacts import Artifact
from spira.stores.registry import Alias, Registry
from spira.training.evaluating import headline
from spira.training.experiments import compose
from spira.training.features import FeatureSet
from spira.training.plan import Files, Work
from spira.training.reporting import envelope, evidence_level
from spira.training.tables import AMBIENT, placed
from spira.training.weights import trained_network

_COMPARED = 8  # recordings of the test side, beside the edge cases that parity brings


def publish(work: Work) -> tuple[Files, dict[str, Any]]:
    """Put together what is registered: the network that was evaluated, and all about it.

    files     the bundle (model.onnx, model.json), report.html, card.md, metrics.json,
              predictions.parquet, experiment.yaml, lineage.json, parity.json
    raises    PolicyRefused when an audit failed, before anything is done; IntegrityError when
              score() and the trained network disagree
    """
    evaluated = work.input("evaluate")
    result = EvaluationResult.model_validate(evaluated.read_json("metrics.json"))
    _refuse_if_failed(result)
    import torch

    from spira.model.export import prove_parity

    torch.set_num_threads(work.plan.training.threads)  # the last bits of parity.json
    recordings, _ = placed(work)
    network = evaluated.read("model.onnx")
    spec = ScoringSpec.model_validate(evaluated.read_json("scoring.json"))
    parity = prove_parity(
        trained_network(work.input("train"), work.experiment),
        Scorer(network, spec, result.operating_point),
        _some_recordings(work, recordings),
        seed=work.experiment.seed,
    )
    manifest = ModelManifest(
        name=work.experiment.name,
        evidence_level=evidence_level(work),
        scoring=spec,
        operating_point=result.operating_point,
        envelope=envelope(work, recordings),
        network_sha256=evaluated.files["model.onnx"].sha256,
        dataset=work.plan.dataset,
        fingerprints={
            stage: name for stage, name in work.plan.fingerprints.items() if stage != "publish"
        },
    )
    copied = ("report.html", "card.md", "metrics.json", "predictions.parquet")
    files = {
        **bundle_files(manifest, network),
        **{name: evaluated.read(name) for name in copied},
        "experiment.yaml": compose(work.experiment).encode(),
        "lineage.json": canonical_json(_lineage(work, recordings)),
        "parity.json": canonical_json(asdict(parity)),
    }
    return files, {
        "evidence_level": manifest.evidence_level,
        "metrics": _finite(headline(result)),
        "parameters_of_experiment": _flat(work.experiment.model_dump(mode="json")),
    }


def _refuse_if_failed(result: EvaluationResult) -> None:
    """Too few people to tell is no failure: such a model may be looked at, and not promoted."""
    failed = [audit for audit in result.audits if audit.refuses and audit.verdict == "fail"]
    if failed:
        raise PolicyRefused(
            "\n".join(
                [
                    *map(_told, failed),
                    "stage publish: refused, nothing is registered; the model may hear the ward "
                    "instead of the voice: read its report, then try another experiment or other "
                    "data",
                ]
            )
        )


def _told(audit: Audit) -> str:
    bound = None if audit.bound is None else at_most(audit.bound, 3)
    return (
        f"stage publish: audit {audit.name} failed: {audit.statistic} "
        f"{decimal(audit.estimate.value).en}, one-sided 95 % bound {decimal(bound).en}, "
        f"limit {decimal(audit.limit, 2).en}"
    )


def register(published: Artifact, registry: Registry, *, alias: Alias | None) -> None:
    """See to it that the registry has the published model, once, with the alias asked for.

    raises    TransientError when the registry is away: nothing is registered by halves
    """
    about = published.about
    with tempfile.TemporaryDirectory() as folder:
        for name in published.files:
            shutil.copyfile(published.path(name), Path(folder) / name)
        registry.register(
            published.fingerprint,
            Path(folder),
            evidence_level=about["evidence_level"],
            metrics=about["metrics"],
            parameters=about["parameters_of_experiment"],
            tags={"experiment": about["experiment"], "dataset": about["dataset"]},
            alias=alias,
        )


def _some_recordings(work: Work, recordings: pl.DataFrame) -> dict[str, Any]:
    """Real recordings of the test side, by id."""
    features = FeatureSet(work.input("features"))
    spoken = recordings.filter((pl.col("placed") == "test") & ~pl.col("utterance").is_in(AMBIENT))
    chosen = spoken.sort("sha256").head(_COMPARED)
    return {
        name: features.waveform(digest)
        for name, digest in chosen.select("recording_id", "sha256").iter_rows()
    }


def _lineage(work: Work, recordings: pl.DataFrame) -> dict[str, Any]:
    """From the model back to every recording's digest, by the side it was on."""
    return {
        "dataset": work.plan.dataset,
        "stages": dict(work.plan.fingerprints),
        "recordings": {
            side: sorted(recordings.filter(pl.col("placed") == side)["sha256"].to_list())
            for side in SIDES
        },
    }


def _finite(figures: dict[str, float | str | None]) -> dict[str, float]:
    return {
        name: value
        for name, value in figures.items()
        if isinstance(value, float) and math.isfinite(value)
    }


def _flat(value: Any, at: str = "") -> dict[str, str]:
    """`{"a": {"b": 1}}` as `{"a.b": "1"}`."""
    if isinstance(value, dict):
        return {
            key: text
            for name, inner in value.items()
            for key, text in _flat(inner, f"{at}.{name}" if at else name).items()
        }
    return {at: value if isinstance(value, str) else json.dumps(value)}
