"""What the web page tells about an artifact: counts, figures, previews, links and checks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dagster as dg

from spira.domain.answers import Sentence
from spira.domain.errors import SpiraError
from spira.domain.recordings import SIDES
from spira.evaluation import figures
from spira.evaluation.results import Audit, Condition, ConditionResult, Estimate, EvaluationResult
from spira.evaluation.wording import at_most, decimal, interval, word
from spira.scheduling.sketches import pictures
from spira.scheduling.tokens import report_address
from spira.stores.artifacts import Artifact
from spira.training.plan import StageName

if TYPE_CHECKING:
    from spira.wiring import Application

# stage -> name of a check -> what holds when it passes
CHECKS: Mapping[StageName, Mapping[str, Sentence]] = {
    "snapshot": {
        "participants_known": Sentence(
            en="The source says who was recorded.", pt="A fonte diz quem foi gravado."
        ),
        "nothing_refused": Sentence(
            en="Every recording could be used when the dataset was imported.",
            pt="Todas as gravações puderam ser usadas na importação.",
        ),
        "nothing_left_out": Sentence(
            en="The experiment uses every recording of its utterance.",
            pt="O experimento usa todas as gravações do seu enunciado.",
        ),
    },
    "split": {
        "people_on_every_side": Sentence(
            en="Every side has people with RI and people without.",
            pt="Cada lado tem pessoas com IR e pessoas sem IR.",
        ),
        "noise_on_every_side": Sentence(
            en="Figures under noise rest on three noise recordings or more.",
            pt="Os números com ruído se baseiam em três gravações de ruído ou mais.",
        ),
    },
    "evaluate": {
        "noise": Sentence(
            en="Ward noise that training never heard hardly changes the answers.",
            pt="Ruído de enfermaria que o treino nunca ouviu quase não muda as respostas.",
        ),
        "background": Sentence(
            en="The model cannot guess from the room alone.",
            pt="O modelo não adivinha só pelo ambiente.",
        ),
        "acquisition": Sentence(
            en="The way of recording does not give away who is ill.",
            pt="A forma de gravar não denuncia quem está doente.",
        ),
    },
}
_FEW_NOISES = 3  # as in the report: with one or two, what is measured is that recording
_MODEL = "spira"  # its name in the registry


def describe(artifact: Artifact, app: "Application") -> dict[str, Any]:
    """Metadata of an asset: what a person wants to see of a stage's artifact.

    raises    IntegrityError when a file of it is damaged; a defect in here is told on the page,
              and keeps no pipeline from its end
    """
    try:
        told = _told(artifact, app)
    except SpiraError:
        raise
    except Exception as error:
        app.log.exception("an artifact could not be told about", stage=artifact.stage)
        told = {"could not be told": f"{type(error).__name__}: {error}"}
    return told | {
        "fingerprint": artifact.fingerprint,
        "files": len(artifact.files),
        "size (MB)": _number(sum(entry.size for entry in artifact.files.values()) / 1e6),
    }


def check_results(artifact: Artifact, app: "Application") -> Sequence[dg.AssetCheckResult]:
    """What the checks of a stage found; one that cannot tell does not pass, and only warns.

    raises    IntegrityError when a file of the artifact is damaged
    """
    return [
        dg.AssetCheckResult(
            check_name=found.name,
            passed=found.passed,
            severity=dg.AssetCheckSeverity.ERROR if found.grave else dg.AssetCheckSeverity.WARN,
            metadata={"experiment": artifact.about["experiment"], **found.facts},
        )
        for found in _found(artifact, app)
    ]


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dg.TableMetadataValue:
    """A table as the page shows it at once, however long."""
    return dg.MetadataValue.table(
        [dg.TableRecord(dict(zip(columns, row, strict=True))) for row in rows],
        dg.TableSchema([dg.TableColumn(name) for name in columns]),
    )


# --- metadata -------------------------------------------------------------------------------


def _told(artifact: Artifact, app: "Application") -> dict[str, Any]:
    match artifact.stage:
        case "snapshot":
            return _snapshot(artifact, app)
        case "split":
            return _split(artifact)
        case "features":
            return _features(artifact)
        case "train":
            return _train(artifact)
        case "evaluate":
            return _evaluate(artifact, app)
        case "publish":
            return _publish(artifact, app)
    return {}


def _snapshot(artifact: Artifact, app: "Application") -> dict[str, Any]:
    about = artifact.about
    names = ("recordings", "participants", "ambient", "noise", "origin", "language")
    told: dict[str, Any] = {name: about[name] for name in names if about.get(name) is not None}
    told["labels"] = table(("label", "recordings"), sorted(about["labels"].items()))
    if about["left_out"]:
        told["left out"] = table(("reason", "recordings"), sorted(about["left_out"].items()))
    summary = _summary_of_dataset(artifact, app) or {}
    for kind in ("findings", "refusals"):
        if summary.get(kind):
            rows = [
                (row["name"], *(row["recordings"][label] for label in _LABELS))
                for row in summary[kind]
            ]
            told[f"{kind} in the dataset"] = table((kind, *_LABELS), rows)
    return told | {"dataset": about["dataset"]}


_LABELS = ("present", "absent", "unknown")


def _summary_of_dataset(artifact: Artifact, app: "Application") -> dict[str, Any] | None:
    """What was counted when the dataset was imported; None where it is not there any more."""
    dataset = app.artifacts.find("dataset", artifact.about["dataset"])
    return None if dataset is None else dict(dataset.read_json("summary.json"))


def _split(artifact: Artifact) -> dict[str, Any]:
    told: dict[str, Any] = {"balance": _balance(artifact.about["balance"])}
    if "linked.json" in artifact.files:
        rows = [
            (person, ", ".join(f"{name} ({side})" for name, side in sides.items()))
            for person, sides in artifact.read_json("linked.json").items()
        ]
        told["in training, pseudonyms on two sides"] = table(("person", "pseudonyms"), rows)
    return told


def _balance(balance: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dg.TableMetadataValue:
    """People by side and value; of noise, recordings."""
    rows = []
    for attribute in ("label", *sorted(balance.keys() - {"label", "noise"}), "noise"):
        sides = balance.get(attribute, {})
        for value in sorted({value for counts in sides.values() for value in counts}):
            counts = [sides.get(side, {}).get(value, 0) for side in SIDES]
            rows.append((attribute, value, *counts, sum(counts)))
    return table(("attribute", "value", *SIDES, "all"), rows)


def _features(artifact: Artifact) -> dict[str, Any]:
    about, index = artifact.about, artifact.read_json("index.json")
    samples = sum(length for _, _, length in index["waveforms"].values())
    told = {
        "recordings, rooms and noise": about["recordings"],
        "audio (h)": round(samples / about["parameters"]["rate_hz"] / 3600, 3),
        "stored": about["stored"],
    }
    if index["windows"]:
        told["windows"] = sum(length for _, _, length in index["windows"].values())
    return told | {"shards": len(artifact.files) - 1}


def _train(artifact: Artifact) -> dict[str, Any]:
    about, history = artifact.about, artifact.read_json("history.json")
    best = min(history, key=lambda row: row["validation"])
    losses = figures.losses(
        [row["epoch"] + 1 for row in history],
        [_finite(row["train"]) for row in history],
        [_finite(row["validation"]) for row in history],
        best["epoch"] + 1,
    )
    return {
        **pictures({"loss": losses}),
        "epochs": about["epochs"],
        "kept epoch": best["epoch"] + 1,
        "best validation loss": _number(about["best_validation_loss"]),
        "last training loss": _number(history[-1]["train"]),
        "network": about["parameters"]["network"]["kind"],
        "device": about["parameters"]["host"]["device"],
    }


def _evaluate(artifact: Artifact, app: "Application") -> dict[str, Any]:
    result = _result(artifact)
    by_person = {
        found.condition: found for found in result.conditions if found.level == "participant"
    }
    told = {
        **_report(artifact, app),
        "by person, with 95 % intervals": _figures(list(by_person.values())),
        "audits": table(
            ("audit", "verdict", "found", "bound", "limit"),
            [_audit_row(audit) for audit in result.audits],
        ),
    }
    if result.baselines:
        told["simple rules beside it"] = table(
            ("rule", "AUROC, clean", "AUROC, with noise", "standing"),
            [
                (
                    rule.title.en,
                    _figure(rule.auroc_clean),
                    _figure(rule.auroc_noise),
                    word(rule.standing).en,
                )
                for rule in result.baselines
            ],
        )
    return {
        **told,
        **pictures(_charts(artifact, result, by_person)),
        **_headline(artifact.about["headline"]),
    }


def _charts(
    artifact: Artifact, result: EvaluationResult, by_person: Mapping[Condition, ConditionResult]
) -> dict[str, str]:
    lines = [
        figures.Line(
            found.roc,
            css=f"c-{name}",
            label=Sentence(
                en=f"{word(name).en}: AUROC {decimal(found.auroc.value, 2).en}", pt=word(name).pt
            ),
            point=None
            if found.specificity.value is None or found.sensitivity.value is None
            else (1 - found.specificity.value, found.sensitivity.value),
        )
        for name, found in by_person.items()
    ]
    bins = [(f"c-{name}", word(name), found.calibration_bins) for name, found in by_person.items()]
    point, scores = result.operating_point, _scores(artifact)
    return {
        "ROC": figures.roc(lines),
        "calibration": figures.calibration(bins),
        "scores": figures.distribution(
            [number / _BINS for number in range(_BINS + 1)],
            scores["present"],
            scores["absent"],
            threshold=point.threshold,
            band=(point.band_low, point.band_high),
            counted=Sentence(pt="gravações", en="recordings"),
        ),
    }


_BINS = 20


def _scores(artifact: Artifact) -> dict[str, list[int]]:
    """Clean test recordings of each label by calibrated probability, in equal bins."""
    import polars as pl

    answers = pl.read_parquet(
        artifact.path("predictions.parquet"),
        columns=["label", "placed", "condition", "calibrated"],
    ).filter((pl.col("placed") == "test") & (pl.col("condition") == "clean"))
    counts = {label: [0] * _BINS for label in ("present", "absent")}
    for label, calibrated in answers.select("label", "calibrated").iter_rows():
        if label in counts:
            counts[label][min(int(calibrated * _BINS), _BINS - 1)] += 1
    return counts


def _publish(artifact: Artifact, app: "Application") -> dict[str, Any]:
    about, parity = artifact.about, artifact.read_json("parity.json")
    return {
        **_registry_entry(artifact, app),
        "evidence level": about["evidence_level"],
        **_report(artifact, app),
        **_headline(about["metrics"]),
        "export differs by at most (probability)": parity["probability"],
    }


def _result(artifact: Artifact) -> EvaluationResult:
    return EvaluationResult.model_validate(artifact.read_json("metrics.json"))


# --- links ----------------------------------------------------------------------------------


def _report(artifact: Artifact, app: "Application") -> dict[str, Any]:
    """The address at which the endpoint shows the report; nothing where it has none."""
    address = report_address(app.home, app.settings.scheduling, artifact.fingerprint)
    return {} if address is None else {"report": dg.MetadataValue.url(address)}


def _registry_entry(artifact: Artifact, app: "Application") -> dict[str, Any]:
    """The version, and where it is seen: on the page of an MLflow server, else by a command."""
    server = urlsplit(app.settings.stores.registry or "")
    if server.scheme in ("http", "https"):
        host = server.netloc.rpartition("@")[2]  # never a password
        page = f"{server.scheme}://{host}{server.path.rstrip('/')}/#/models/{_MODEL}"
        return {"registry entry": dg.MetadataValue.url(page)}
    version = app.registry.number(artifact.fingerprint)
    if version is None:
        return {}
    return {"model version": version, "registry entry": f"spira model show {version}"}


# --- checks ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """What one check found."""

    name: str
    passed: bool
    facts: Mapping[str, Any]
    grave: bool = False  # an error; else a warning


def _found(artifact: Artifact, app: "Application") -> Iterator[_Found]:
    match artifact.stage:
        case "snapshot":
            yield from _found_in_data(artifact.about, _summary_of_dataset(artifact, app))
        case "split":
            yield from _found_in_split(artifact.about["balance"])
        case "evaluate":
            audits = {audit.name: audit for audit in _result(artifact).audits}
            yield from (_found_by(name, audits.get(name)) for name in CHECKS["evaluate"])


def _found_in_data(about: Mapping[str, Any], summary: Mapping[str, Any] | None) -> Iterator[_Found]:
    yield _Found("participants_known", about["participants_known"] == "given", {})
    if summary is None:
        yield _Found("nothing_refused", False, {"dataset": "it is not there any more"})
    else:
        refused = {
            row["name"]: ", ".join(f"{n} {label}" for label, n in row["recordings"].items() if n)
            for row in summary["refusals"]
        }
        refused |= {f"noise, {why}": str(n) for why, n in summary["refusals_of_noise"].items()}
        yield _Found("nothing_refused", not refused, refused)
    # That a dataset has other utterances too is how it should be.
    left_out = {why: n for why, n in about["left_out"].items() if why != "another utterance"}
    yield _Found("nothing_left_out", not left_out, left_out)


def _found_in_split(balance: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Iterator[_Found]:
    people = {
        f"{side}, {label}": balance["label"][side].get(label, 0)
        for side in SIDES
        for label in ("present", "absent")
    }
    yield _Found("people_on_every_side", min(people.values()) > 0, people)
    noise: dict[str, int] = {side: balance["noise"][side]["recordings"] for side in SIDES}
    measured = min(noise[side] for side in SIDES if side != "train")
    yield _Found("noise_on_every_side", measured >= _FEW_NOISES, noise)


def _found_by(name: str, audit: Audit | None) -> _Found:
    if audit is None:
        return _Found(name, False, {"verdict": "this evaluation has no such audit"})
    verdict = word(audit.verdict)
    facts = {
        "verdict": verdict.en,
        "veredicto": verdict.pt,
        "explanation": audit.explanation.en,
        "explicação": audit.explanation.pt,
        "95 % bound": _number(audit.bound),
        "limit": _number(audit.limit),
    }
    return _Found(
        name,
        audit.verdict == "pass",
        {name: fact for name, fact in facts.items() if fact is not None},
        grave=audit.verdict == "fail",
    )


# --- tables and numbers ---------------------------------------------------------------------


_FIGURES = {
    "auroc": "AUROC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "balanced_accuracy": "balanced accuracy",
    "inconclusive": "inconclusive answers",
    "brier": "Brier score",
    "calibration_slope": "calibration slope",
}


def _figures(conditions: Sequence[ConditionResult]) -> dg.TableMetadataValue:
    """One row a figure, one column a condition."""
    rows: list[tuple[Any, ...]] = [
        ("people with RI", *(str(found.n_present) for found in conditions)),
        ("people without RI", *(str(found.n_absent) for found in conditions)),
    ]
    for name, title in _FIGURES.items():
        rows.append((title, *(_figure(getattr(found, name)) for found in conditions)))
    return table(("figure", *(word(found.condition).en for found in conditions)), rows)


def _figure(estimate: Estimate) -> str:
    """`0.91 (0.85 to 0.96)`, or that there is none."""
    between = interval(estimate, 2).en
    return decimal(estimate.value, 2).en + (f" ({between})" if between else "")


def _audit_row(audit: Audit) -> tuple[str, ...]:
    return (
        f"{audit.name}: {audit.statistic}",
        word(audit.verdict).en if audit.refuses else "only reported",
        _figure(audit.estimate),
        "" if audit.bound is None else decimal(at_most(audit.bound, 2), 2).en,
        "" if audit.limit is None else decimal(audit.limit, 2).en,
    )


def _headline(figures_of: Mapping[str, Any]) -> dict[str, float]:
    """Figures as numbers: the page draws them over time. Spaces let it break their names."""
    numbers = {name.replace("_", " "): _number(value) for name, value in figures_of.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 4)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
