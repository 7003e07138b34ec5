"""What the web page tells about an artifact: counts, figures, previews, links and checks.

The page shows markdown at once where it is short, and behind a click where it is long. So every
chart is there twice: as a sketch of its lines, and whole under `plots`. Both are pictures inside
the text (`data:`): nothing is fetched, and they stay when the artifact is cleaned away.
"""

import base64
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import dagster as dg

from spira.domain.answers import Sentence
from spira.domain.errors import SpiraError
from spira.domain.recordings import SIDES
from spira.evaluation import figures
from spira.evaluation.results import Audit, Condition, ConditionResult, Estimate, EvaluationResult
from spira.evaluation.wording import at_most, decimal, interval, word
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
            return {"balance": _balance(artifact.about["balance"])}
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
        **_pictures({"loss": losses}),
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
        **_pictures(_charts(artifact, result, by_person)),
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


# --- pictures -------------------------------------------------------------------------------

_AT_ONCE = 1000  # characters of markdown; from there on the page wants a click
_INKS = {  # colour class of a chart -> the report's colour for it
    "c-clean": "17507f",
    "c-noise": "7d5a06",
    "c-train": "6d7780",
    "who-present": "a33d12",
    "who-absent": "17507f",
    "diagonal": "d8d5cc",
    "limit": "18212b",
}


_COLOURS = {  # what a legend says
    "loss": "grey: training, blue: validation",
    "ROC": "blue: clean, brown: with noise",
    "calibration": "blue: clean, brown: with noise",
    "scores": "red: with RI, blue: without",
}


def _pictures(charts: Mapping[str, str]) -> dict[str, dg.MarkdownMetadataValue]:
    """A sketch of every chart, and all of them whole."""
    whole = "\n\n".join(
        f"**{name}**\n\n![{name}]({_whole(chart)})" for name, chart in charts.items()
    )
    return {
        **{name: dg.MetadataValue.md(_sketch(name, chart)) for name, chart in charts.items()},
        "plots": dg.MetadataValue.md(whole),
    }


def _sketch(name: str, chart: str) -> str:
    """The lines, points and bars of a chart as markdown, thinned until the page shows it at once.

    A curve of many steps loses those that lie within a pixel or more of the one before.
    """
    for pixels in (1, 2, 3, 5, 8, 13):
        shapes = "".join(_shapes(ElementTree.fromstring(chart), pixels))
        picture = (
            "<svg xmlns='http://www.w3.org/2000/svg' width='194' height='170' "
            "viewBox='55 7 310 272' fill='none' stroke-width='3' style='background:#fff'>"
            f"<path d='M60 12v262h300' stroke='#6d7780'/>{shapes}</svg>"
        )
        encoded = picture.replace("<", "%3C").replace(">", "%3E").replace("#", "%23")
        sketch = f"![{name}](<data:image/svg+xml,{encoded}>)  \n{_COLOURS[name]}"
        if len(sketch) < _AT_ONCE:
            break
    return sketch


def _shapes(chart: ElementTree.Element, pixels: int) -> Iterator[str]:
    """Elements of a sketch: what has one of the colours, all of one look in one path."""
    paths: dict[str, str] = {}
    for element in chart.iter():
        classes = element.get("class", "").split()
        ink = next((_INKS[name] for name in classes if name in _INKS), None)
        if ink is not None and "error" not in classes:
            look, steps = _drawn(element, pixels)
            look = f"stroke='#{ink}'{look}"
            paths[look] = paths.get(look, "") + steps
    for look, steps in paths.items():
        if steps:
            yield f"<path d='{steps}' {look}/>"


def _drawn(element: ElementTree.Element, pixels: int) -> tuple[str, str]:
    """How a line, point or bar of a chart is drawn beside its colour, and its steps in pixels."""
    if element.tag == "path":
        return "", _line(element.get("d", ""), pixels)
    if element.tag == "circle":
        x, y = (round(float(element.get(name, "0"))) for name in ("cx", "cy"))
        return " stroke-width='9' stroke-linecap='round'", f"M{x} {y}h0"
    left, top, width, height = (
        float(element.get(name, "0")) for name in ("x", "y", "width", "height")
    )
    bar = f"M{left + width / 2:.0f} {top:.0f}v{height:.0f}"  # shorter than its four corners
    return f" stroke-width='{width:.0f}'", bar


def _line(steps: str, pixels: int) -> str:
    """A path of a chart with fewer points; nothing of the legend, whose words are not here."""
    if "h" in steps:
        return ""
    numbers = [round(float(text)) for text in re.findall(r"[\d.]+", steps)]
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    kept = points[:1]
    for x, y in points[1:]:
        if max(abs(x - kept[-1][0]), abs(y - kept[-1][1])) >= pixels:
            kept.append((x, y))
    kept[-1:] = points[-1:]
    moves = [move for old, new in pairwise(kept) for move in (new[0] - old[0], new[1] - old[1])]
    # A minus parts two numbers as a space does.
    relative = "".join(f"{move}" if move < 0 else f" {move}" for move in moves)
    return f"M{kept[0][0]} {kept[0][1]}l{relative}"


def _whole(chart: str) -> str:
    """A chart of the report as the address of a picture that needs no page around it."""
    inside = chart[chart.index(">") + 1 :]
    size = "width='380' height='320' viewBox='0 0 380 320'"
    picture = (
        f"<svg xmlns='http://www.w3.org/2000/svg' {size}><style>{_style()}</style>"
        f"<rect width='380' height='320' fill='#fff'/><g class='chart'>"
        f"{inside.removesuffix('</svg>')}</g></svg>"
    )
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()}"


def _style() -> str:
    """What the report's style sheet says of figures, in its light colours and in English."""
    templates = resources.files("spira.evaluation") / "templates"
    sheet = (templates / "report.css").read_text(encoding="utf-8")
    colours = re.findall(r":root \{.*?\}", sheet, re.DOTALL)[0]
    rules = sheet.partition("/* Figures */")[2].partition("/* Tables */")[0]
    people = "".join(re.findall(r"^\.who-.*$", sheet, re.MULTILINE))
    return f"{colours}{people}{rules}.pt{{display:none}} text{{font-family:sans-serif}}"
