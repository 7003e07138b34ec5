"""What the web page tells: counts, figures, sketches, links, and the checks."""

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import dagster as dg
import polars as pl
import pytest
from samples import samples

from spira.console import Console
from spira.domain.errors import IntegrityError
from spira.domain.fingerprint import canonical_json
from spira.evaluation.results import EvaluationResult
from spira.scheduling.telling import CHECKS, check_results, describe
from spira.scheduling.tokens import TOKEN, read_token
from spira.settings import Settings
from spira.stores.artifacts import Artifact
from spira.training.plan import StageName
from spira.wiring import Application

DATASET = "d" * 64
ABOUT: Mapping[StageName, Mapping[str, Any]] = {
    "snapshot": {
        "recordings": 36,
        "participants": 30,
        "ambient": 60,
        "noise": 6,
        "origin": "synthetic",
        "language": None,
        "labels": {"absent": 20, "present": 16},
        "left_out": {"another utterance": 60},
        "participants_known": "given",
    },
    "split": {
        "balance": {
            "label": {
                "train": {"absent": 11, "present": 9},
                "validation": {"absent": 3, "present": 2},
                "test": {"absent": 6, "present": 5},
            },
            "site": {"train": {"a": 20}, "validation": {"a": 5}, "test": {"b": 11}},
            "noise": {
                "train": {"recordings": 1},
                "validation": {"recordings": 3},
                "test": {"recordings": 4},
            },
        }
    },
}


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Application:
    """The application on a data folder of its own."""
    monkeypatch.delenv(TOKEN, raising=False)
    return application(tmp_path)


def application(home: Path, **settings: Any) -> Application:
    """An application with settings of some rooms."""
    return Application(Settings(home=home, **settings), Console(as_json=True))


def committed(
    app: Application,
    stage: str,
    files: Mapping[str, bytes] = {"file": b"bytes"},
    fingerprint: str = "a" * 64,
    **about: Any,
) -> Artifact:
    """An artifact of a stage, as the pipeline would leave it."""
    known = ABOUT.get(stage, {}) | {"experiment": "tiny", "dataset": DATASET}  # type: ignore[call-overload]
    return app.artifacts.commit(stage, fingerprint, files, known | about)


def imported(app: Application, **changes: Any) -> None:
    """The dataset that a snapshot is of."""
    summary = {"findings": [], "refusals": [], "refusals_of_noise": {}} | changes
    committed(app, "dataset", {"summary.json": canonical_json(summary)}, DATASET)


def rows(told: Mapping[str, Any], name: str) -> list[tuple[Any, ...]]:
    """The rows of a table."""
    assert isinstance(told[name], dg.TableMetadataValue)
    return [tuple(record.data.values()) for record in told[name].records]


def markdown(told: Mapping[str, Any], name: str) -> str:
    """The markdown under a name."""
    assert isinstance(told[name], dg.MarkdownMetadataValue)
    return told[name].md_str or ""


def by_name(artifact: Artifact, app: Application) -> dict[str, dg.AssetCheckResult]:
    """What the checks found."""
    return {str(found.check_name): found for found in check_results(artifact, app)}


def value(found: dg.AssetCheckResult, fact: str) -> Any:
    """One fact that a check tells."""
    return found.metadata[fact].value


# --- data -----------------------------------------------------------------------------------


def test_a_snapshot_is_told_in_counts(app: Application) -> None:
    """People, recordings by label, what was left out, and what was odd in the dataset."""
    short = {"name": "short", "recordings": {"present": 3, "absent": 1, "unknown": 0}}
    imported(app, findings=[short])

    told = describe(committed(app, "snapshot"), app)

    assert (told["participants"], told["recordings"], told["noise"]) == (30, 36, 6)
    assert (told["origin"], told["dataset"]) == ("synthetic", DATASET)
    assert "language" not in told  # not known
    assert rows(told, "labels") == [("absent", 20), ("present", 16)]
    assert rows(told, "left out") == [("another utterance", 60)]
    assert rows(told, "findings in the dataset") == [("short", 3, 1, 0)]
    assert "refusals in the dataset" not in told


def test_sound_data_passes_its_checks(app: Application) -> None:
    """Other utterances in the dataset are no reason to warn."""
    imported(app)

    found = by_name(committed(app, "snapshot"), app)

    assert found.keys() == CHECKS["snapshot"].keys()
    assert all(check.passed for check in found.values())


def test_doubtful_data_warns_and_says_of_what(app: Application) -> None:
    """Nobody knows who was recorded; some were refused, some not used: warnings, no errors."""
    cut = {"name": "truncated", "recordings": {"present": 3, "absent": 0, "unknown": 0}}
    imported(app, refusals=[cut], refusals_of_noise={"too_short": 2})
    left_out = {"another utterance": 60, "label unknown": 4}
    snapshot = committed(app, "snapshot", left_out=left_out, participants_known="per-file")

    found = by_name(snapshot, app)

    assert not any(check.passed for check in found.values())
    assert {check.severity for check in found.values()} == {dg.AssetCheckSeverity.WARN}
    assert value(found["nothing_refused"], "truncated") == "3 present"
    assert value(found["nothing_refused"], "noise, too_short") == "2"
    assert value(found["nothing_left_out"], "label unknown") == 4
    assert "another utterance" not in found["nothing_left_out"].metadata


def test_a_dataset_that_is_gone_passes_for_nothing(app: Application) -> None:
    """What cannot be looked up is told as such; the rest of the snapshot is told all the same."""
    snapshot = committed(app, "snapshot")

    found = by_name(snapshot, app)

    assert not found["nothing_refused"].passed
    assert found["participants_known"].passed
    assert describe(snapshot, app)["participants"] == 30


def test_balance_is_one_table_without_holes(app: Application) -> None:
    """Every value on every side, none of them left out where it is zero; labels first."""
    told = describe(committed(app, "split"), app)

    assert rows(told, "balance") == [
        ("label", "absent", 11, 3, 6, 20),
        ("label", "present", 9, 2, 5, 16),
        ("site", "a", 20, 5, 0, 25),
        ("site", "b", 0, 0, 11, 11),
        ("noise", "recordings", 1, 3, 4, 8),
    ]


@pytest.mark.parametrize(
    ("side", "changed", "failing"),
    [
        ("train", {}, set()),  # noise heard in training alone measures nothing
        ("test", {"noise": {"recordings": 2}}, {"noise_on_every_side"}),
        ("test", {"label": {"absent": 6}}, {"people_on_every_side"}),
    ],
)
def test_a_thin_side_of_a_split_warns(
    app: Application, side: str, changed: dict[str, dict[str, int]], failing: set[str]
) -> None:
    """A side without one of the labels, or with too little noise to measure with."""
    balance = {name: dict(sides) for name, sides in ABOUT["split"]["balance"].items()}
    for attribute, counts in changed.items():
        balance[attribute][side] = counts

    found = by_name(committed(app, "split", balance=balance), app)

    assert {name for name, check in found.items() if not check.passed} == failing


def test_features_are_told_in_hours(app: Application) -> None:
    """Samples at 16 kHz as hours, whatever of them lies in which shard."""
    index = {
        "waveforms": {"x": ["s-0.npy", 0, 48_000_000], "y": ["s-1.npy", 0, 9_600_000]},
        "windows": {},
    }
    files = {"index.json": canonical_json(index), "s-0.npy": b"0", "s-1.npy": b"1"}
    features = committed(
        app,
        "features",
        files,
        recordings=2,
        stored="waveforms",
        parameters={"rate_hz": 16_000},
    )

    told = describe(features, app)

    assert (told["audio (h)"], told["shards"], told["stored"]) == (1.0, 2, "waveforms")
    assert "windows" not in told


# --- training and evaluation ----------------------------------------------------------------


def trained(app: Application, epochs: int) -> Artifact:
    """A training that was best at its third epoch."""
    history = [
        {"epoch": n, "train": 0.7 / (n + 1), "validation": 0.3 + 0.01 * abs(n - 2)}
        for n in range(epochs)
    ]
    return committed(
        app,
        "train",
        {"history.json": canonical_json(history)},
        epochs=epochs,
        best_validation_loss=0.3,
        parameters={"network": {"kind": "compact"}, "host": {"device": "some CPU"}},
    )


@pytest.mark.parametrize("epochs", [3, 1000])
def test_training_shows_its_losses_at_once(app: Application, epochs: int) -> None:
    """The sketch is short enough for the page however long the training was; and it is marked
    which epoch was kept.
    """
    told = describe(trained(app, epochs), app)

    assert (told["epochs"], told["kept epoch"]) == (epochs, 3)
    assert told["best validation loss"] == 0.3
    strokes = [path.get("stroke") for path in sketch_of(told, "loss")]
    assert strokes == ["#6d7780", "#18212b", "#6d7780", "#17507f"]  # axes, kept epoch, two losses


def sketch_of(told: Mapping[str, Any], name: str) -> list[ElementTree.Element]:
    """The paths of a sketch, which the page shows without a click."""
    text = markdown(told, name)
    assert len(text) < 1000
    found = re.match(rf"!\[{name}\]\(<data:image/svg\+xml,([^<>]*)>\)", text)
    assert found is not None
    assert "#" not in found[1]  # it would end the address
    return list(ElementTree.fromstring(unquote(found[1])))


@pytest.fixture(scope="module")
def sample() -> EvaluationResult:
    """The sample evaluation of the report's tests: 160 people."""
    result: EvaluationResult = samples().make_result()
    return result


def evaluated(app: Application, result: EvaluationResult) -> Artifact:
    """An evaluation: its result, and 240 answers spread over every probability."""
    answers = pl.DataFrame(
        {
            "label": ["present", "absent"] * 120,
            "placed": ["test"] * 240,
            "condition": ["clean"] * 240,
            "calibrated": [number / 239 for number in range(240)],
        }
    )
    others = pl.DataFrame(
        {
            "label": ["present", "present"],
            "placed": ["validation", "test"],
            "condition": ["clean", "noise"],
            "calibrated": [1.0, 1.0],
        }
    )
    written = io.BytesIO()
    pl.concat([answers, others]).write_parquet(written)
    files = {
        "metrics.json": canonical_json(result.model_dump(mode="json")),
        "predictions.parquet": written.getvalue(),
    }
    headline = {"clean_auroc": 0.987654321, "audit_level": None}
    return committed(app, "evaluate", files, headline=headline)


def test_an_evaluation_shows_its_figures_with_their_intervals(
    app: Application, sample: EvaluationResult
) -> None:
    """By person, clean beside noise; audits with bound and limit; numbers that can be drawn."""
    told = describe(evaluated(app, sample), app)

    figures = {row[0]: row[1:] for row in rows(told, "by person, with 95 % intervals")}
    assert figures["people with RI"] == ("80", "80")
    clean = next(c for c in sample.conditions if (c.condition, c.level) == ("clean", "participant"))
    assert clean.sensitivity.value is not None
    assert figures["sensitivity"][0].startswith(f"{clean.sensitivity.value:.2f} (")
    audits = {row[0]: row[1:] for row in rows(told, "audits")}
    assert audits["acquisition: AUROC"] == (
        "not enough data",
        "0.58 (0.49 to 0.67)",
        "0.66",
        "0.65",
    )
    assert audits["timing: AUROC"][0] == "only reported"
    assert len(rows(told, "simple rules beside it")) == 2
    assert told["clean auroc"] == 0.9877
    assert "audit level" not in told  # there is no such number


def test_an_evaluation_shows_its_plots_small_and_whole(
    app: Application, sample: EvaluationResult
) -> None:
    """Sketches at once; behind a click the report's own charts, which need nothing from outside."""
    told = describe(evaluated(app, sample), app)

    inks = {
        name: {path.get("stroke") for path in sketch_of(told, name)}
        for name in ("ROC", "calibration", "scores")
    }
    assert inks["ROC"] >= {"#17507f", "#7d5a06"}  # clean, with noise
    assert inks["calibration"] >= {"#17507f", "#7d5a06"}
    assert inks["scores"] >= {"#a33d12", "#17507f"}  # with RI, without
    found = re.findall(r"\(data:image/svg\+xml;base64,([\w+/=]+)\)", markdown(told, "plots"))
    assert len(found) == 3
    for encoded in found:
        chart = base64.b64decode(encoded).decode()
        assert ElementTree.fromstring(chart).tag == "{http://www.w3.org/2000/svg}svg"
        assert set(re.findall(r"var\((--\w+)\)", chart)) <= set(re.findall(r"(--\w+):", chart))
        assert "url(" not in chart
        assert ".who-present" in chart  # the colours of the bars stand elsewhere in the sheet


def test_only_clean_test_recordings_are_counted_as_scores(
    app: Application, sample: EvaluationResult
) -> None:
    """120 of each label in 20 bins are 6 a bin: every bar of the whole chart is as high."""
    told = describe(evaluated(app, sample), app)

    encoded = markdown(told, "plots").rpartition("base64,")[2].removesuffix(")")
    chart = base64.b64decode(encoded).decode()
    bars = re.findall(r'<rect class="bar [\w-]+" [^>]*height="([\d.]+)"', chart)
    assert len(bars) == 40
    assert len(set(bars)) == 1


@pytest.mark.parametrize(
    ("verdict", "passed", "severity", "said", "dito"),
    [
        ("pass", True, "WARN", "passed", "aprovada"),
        ("fail", False, "ERROR", "failed", "reprovada"),
        ("not enough data", False, "WARN", "not enough data", "dados insuficientes"),
    ],
)
def test_an_audit_is_a_check_in_two_languages(
    app: Application,
    sample: EvaluationResult,
    verdict: str,
    passed: bool,
    severity: str,
    said: str,
    dito: str,
) -> None:
    """Failed is an error; too few people to tell is a warning, and never a pass."""
    audits = tuple(audit.model_copy(update={"verdict": verdict}) for audit in sample.audits)
    evaluation = evaluated(app, sample.model_copy(update={"audits": audits}))

    found = by_name(evaluation, app)

    assert found.keys() == {"noise", "background", "acquisition"}
    for check in found.values():
        assert (check.passed, check.severity.value) == (passed, severity)
        assert (value(check, "verdict"), value(check, "veredicto")) == (said, dito)
    explanation = sample.audits[0].explanation
    assert value(found["noise"], "explanation") == explanation.en
    assert value(found["noise"], "explicação") == explanation.pt


def test_an_audit_that_was_not_made_does_not_pass(
    app: Application, sample: EvaluationResult
) -> None:
    """Every check that the page promises has an answer."""
    some = tuple(audit for audit in sample.audits if audit.name != "noise")

    found = by_name(evaluated(app, sample.model_copy(update={"audits": some})), app)

    assert not found["noise"].passed
    assert found["background"].passed


# --- publication ----------------------------------------------------------------------------


def published(app: Application) -> Artifact:
    """A published model."""
    parity = {"probability": 3e-8}
    return committed(
        app,
        "publish",
        {"parity.json": canonical_json(parity), "report.html": b"<h1>report</h1>"},
        evidence_level="synthetic",
        metrics={"clean_auroc": 0.9},
    )


@dataclass
class Numbered:
    """A registry that knows the numbers of its models."""

    numbers: dict[str, int]

    def number(self, fingerprint: str) -> int | None:
        """Of this publish."""
        return self.numbers.get(fingerprint)


def test_a_published_model_says_how_to_see_its_entry(app: Application) -> None:
    """Its number in the registry, and the words that show it."""
    artifact = published(app)
    app.registry = Numbered({artifact.fingerprint: 3})  # type: ignore[assignment]

    told = describe(artifact, app)

    assert (told["model version"], told["registry entry"]) == (3, "spira model show 3")
    assert (told["evidence level"], told["clean auroc"]) == ("synthetic", 0.9)
    assert "report" not in told  # nothing serves it yet


def test_a_model_on_a_server_has_a_link_without_a_password(tmp_path: Path) -> None:
    """The page of an MLflow server, whatever stands before its host."""
    stores = {"registry": "https://me:secret@mlflow.example/base/"}
    app = application(tmp_path, stores=stores)

    told = describe(published(app), app)

    assert told["registry entry"].value == "https://mlflow.example/base/#/models/spira"


def test_a_report_is_a_link_once_it_is_served(tmp_path: Path) -> None:
    """Signed for this artifact (tests of the endpoint: who may follow it)."""
    app = application(tmp_path, scheduling={"port": 8700})
    read_token(app.home)

    told = describe(published(app), app)

    assert isinstance(told["report"], dg.UrlMetadataValue)
    assert told["report"].value.startswith("http://127.0.0.1:8700/v1/reports/aaaa")


# --- trouble --------------------------------------------------------------------------------


def test_what_cannot_be_told_stops_no_pipeline(app: Application) -> None:
    """A surprise in a file that is only shown is told on the page instead of raised."""
    told = describe(trained(app, 0), app)

    assert told["could not be told"].startswith("ValueError: ")
    assert told["fingerprint"] == "a" * 64


def test_damage_is_raised(app: Application, sample: EvaluationResult) -> None:
    """Whoever meets a damaged file says so: the pipeline mends it."""
    artifact = evaluated(app, sample)
    digest = artifact.files["metrics.json"].sha256
    (app.home / "store" / "blobs" / digest[:2] / digest).write_bytes(b"{}")

    with pytest.raises(IntegrityError):
        describe(artifact, application(app.home))
    with pytest.raises(IntegrityError):
        check_results(artifact, application(app.home))
