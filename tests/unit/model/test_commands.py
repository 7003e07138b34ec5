"""`spira predict`: one row a file, whatever the file is."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from spira.audio.features import Mfcc
from spira.audio.windows import Windows
from spira.console import Console
from spira.datasets.settings import DatasetsSettings
from spira.domain.answers import Envelope, OperatingPoint
from spira.domain.errors import InputError, IntegrityError
from spira.domain.recordings import EvidenceLevel
from spira.evaluation.results import (
    ConditionResult,
    Confusion,
    Curve,
    Estimate,
    EvaluationResult,
    PredictiveValue,
)
from spira.model.bundle import ModelManifest, bundle_files
from spira.model.commands import predict
from spira.model.scoring import ScoringSpec

RATE_HZ = 16_000
POINT = OperatingPoint(threshold=0.5, band_low=0.5, band_high=0.5, temperature=1.0, prevalence=0.5)
DEMO_PT = "Modelo de demonstração, treinado com vozes sintéticas: sem significado clínico."


def network() -> bytes:
    """The mean of a window's coefficients, shifted: loud windows are positive, quiet negative."""
    inputs = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["windows", 1, 401, 40])
    outputs = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["windows"])
    shift = helper.make_tensor("shift", TensorProto.FLOAT, [1], [4.0])
    nodes = [
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Add", ["mean", "shift"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "network", [inputs], [outputs], [shift])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def evaluation() -> EvaluationResult:
    """An evaluation with predictive values at two prevalences."""
    none = Estimate(value=None, n=0)
    people = ConditionResult(
        condition="clean",
        level="participant",
        n_present=80,
        n_absent=80,
        sensitivity=none,
        specificity=none,
        balanced_accuracy=none,
        auroc=none,
        brier=none,
        calibration_slope=none,
        calibration_intercept=none,
        calibration_error=none,
        calibration_bins=(),
        inconclusive=none,
        confusion=Confusion(
            present_positive=0,
            present_inconclusive=0,
            present_negative=0,
            absent_positive=0,
            absent_inconclusive=0,
            absent_negative=0,
        ),
        roc=Curve(x=(), y=()),
        predictive_values=tuple(
            PredictiveValue(
                prevalence=prevalence,
                positive=Estimate(value=positive, low=0.38, high=0.70, n=80),
                negative=Estimate(value=0.97, low=0.94, high=0.99, n=80),
            )
            for prevalence, positive in ((0.05, 0.3), (0.10, 0.51))
        ),
    )
    return EvaluationResult(
        operating_point=POINT,
        evaluated="test",
        participants_disjoint="proven",
        conditions=(people,),
        subgroups=(),
        audits=(),
        baselines=(),
    )


def write_bundle(folder: Path, evidence_level: EvidenceLevel = "synthetic") -> Path:
    """A bundle that answers about sounds of any kind, tested from 16 kHz up."""
    manifest = ModelManifest(
        name="demo",
        evidence_level=evidence_level,
        scoring=ScoringSpec(features=Mfcc(), windows=Windows(), rate_hz=RATE_HZ),
        operating_point=POINT,
        envelope=Envelope(
            utterances=("sentence",),
            languages=("pt-BR",),
            sites=("ward-1",),
            sample_rates_hz=(RATE_HZ,),
            minimum_speech_s=0.0,
            n_people=160,
        ),
        network_sha256=hashlib.sha256(network()).hexdigest(),
        dataset="d" * 64,
        fingerprints={},
    )
    folder.mkdir()
    for name, data in bundle_files(manifest, network()).items():
        (folder / name).write_bytes(data)
    (folder / "metrics.json").write_text(evaluation().model_dump_json())
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A demonstration model."""
    return write_bundle(tmp_path / "bundle")


def sound(path: Path, *, peak: float = 0.5, seconds: float = 5.0, rate_hz: int = RATE_HZ) -> Path:
    """White noise, the same every time."""
    samples = np.random.default_rng(1).uniform(-peak, peak, round(seconds * rate_hz))
    soundfile.write(path, samples, rate_hz)
    return path


class Desk(Console):
    """What the command is handed, as far as it looks."""

    def __init__(self) -> None:
        super().__init__()
        self.console = self
        self.settings = SimpleNamespace(datasets=DatasetsSettings(jobs=1))

    @property
    def json(self) -> bool:
        return self.as_json


def run(*arguments: str | Path) -> Result:
    """Run `spira predict`; errors of the domain come out as they are."""
    result = CliRunner().invoke(predict, [str(argument) for argument in arguments], obj=Desk())
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def answers(*arguments: str | Path) -> list[dict[str, Any]]:
    """The rows for programs."""
    document = json.loads(run("--json", *arguments).stdout)
    rows: list[dict[str, Any]] = document["answers"]
    return rows


def test_an_answer_has_its_words_its_certainty_and_its_evidence(
    bundle: Path, tmp_path: Path
) -> None:
    """CLINICAL.md's sentences, in both languages, on every answer; no bare probability."""
    loud, faint = sound(tmp_path / "loud.wav"), sound(tmp_path / "faint.wav", peak=0.0005)

    text = run("--model", bundle, loud, faint).stdout

    assert "Indício de insuficiência respiratória na voz." in text
    assert "Indication of respiratory insufficiency in the voice." in text
    assert "cerca de 51 tinham IR (entre 38 e 70, se 10 em 100 têm)" in text
    assert "Sem indício na voz. Não exclui insuficiência respiratória." in text
    assert "cerca de 3 tinham IR (entre 1 e 6, se 10 em 100 têm)" in text
    assert text.count(DEMO_PT) == 2
    assert "Som baixo." in text
    assert "Testado com 160 pessoas" in text
    assert "0." not in text.replace(str(tmp_path), "")


def test_the_probability_is_shown_on_request_only(bundle: Path, tmp_path: Path) -> None:
    """For people and for programs."""
    loud = sound(tmp_path / "loud.wav")

    (without,) = answers("--model", bundle, loud)
    (with_it,) = answers("--model", bundle, "--probability", loud)

    assert "probability" not in without
    assert 0.5 < with_it["probability"] <= 1


def test_one_bad_file_is_one_row(bundle: Path, tmp_path: Path) -> None:
    """The others are answered; each row names its file as it was given, and its reason."""
    loud = sound(tmp_path / "loud.wav")
    text = tmp_path / "notes.txt"
    text.write_text("not a sound")
    short = sound(tmp_path / "short.wav", seconds=0.2)

    rows = answers("--model", bundle, tmp_path / "absent.wav", text, loud, short)

    assert [row["status"] for row in rows] == ["refused", "refused", "answered", "refused"]
    assert [row["file"] for row in rows] == [
        str(tmp_path / name) for name in ("absent.wav", "notes.txt", "loud.wav", "short.wav")
    ]
    assert rows[1]["sentence"]["pt"] == "Não é um arquivo de áudio."
    assert "at least 0.5 s" in rows[3]["detail"]


def test_nothing_usable_is_an_input_error_after_the_rows(bundle: Path, tmp_path: Path) -> None:
    """Exit code 2."""
    with pytest.raises(InputError, match="none of the 2 files") as refused:
        run("--model", bundle, tmp_path / "a.wav", tmp_path / "b.wav")

    assert refused.value.exit_code == 2


def test_what_is_outside_the_envelope_is_not_scored(bundle: Path, tmp_path: Path) -> None:
    """Declared language and the file's own rate, both named; no outcome and no score."""
    narrow = sound(tmp_path / "narrow.wav", rate_hz=8000)

    (row,) = answers("--model", bundle, "--language", "en", "--probability", narrow)

    assert row["status"] == "not scored"
    assert row["sentence"]["pt"].startswith("Gravado, não avaliado")
    assert [reason["en"].split(".")[0] for reason in row["reasons"]] == [
        "The model was tested in pt-BR",
        "File of 8000 Hz",
    ]
    assert {"outcome", "probability", "how_sure"}.isdisjoint(row)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (("--site", "ward-9"), "Local não testado."),
        (("--tracheostomy",), "O modelo não avalia pessoas com traqueostomia."),
        (("--intubated",), "O modelo não avalia pessoas intubadas."),
    ],
)
def test_what_is_declared_to_be_outside_is_recorded_and_not_scored(
    bundle: Path, tmp_path: Path, declared: tuple[str, ...], said: str
) -> None:
    """Site, tracheostomy, intubation: told, and so kept from the model."""
    loud = sound(tmp_path / "loud.wav")

    (row,) = answers("--model", bundle, *declared, loud)

    assert row["status"] == "not scored"
    assert row["reasons"][0]["pt"].startswith(said)
    assert "outcome" not in row


def test_an_answer_says_what_it_assumed(bundle: Path, tmp_path: Path) -> None:
    """For people in both languages, for programs by name; nothing where all was declared."""
    loud = sound(tmp_path / "loud.wav")
    patient = ("--age", "60", "--no-tracheostomy", "--not-intubated", "--utterance", "sentence")
    whole = (*patient, "--language", "pt-BR", "--device", "phone", "--site", "ward-1")

    text = run("--model", bundle, *patient, loud).stdout
    (row,) = answers("--model", bundle, *patient, loud)
    (told,) = answers("--model", bundle, *whole, loud)
    (refused,) = answers("--model", bundle, "--age", "12", loud)

    assert "Não declarado, suposto como no teste: língua (pt-BR), aparelho, local." in text
    assert "Not declared, taken to be as in the test: language (pt-BR), device, site." in text
    assert row["not_declared"] == ["language", "device", "site"]
    assert row["assumed"]["en"].startswith("Not declared")
    assert "tracheostomy" in refused["not_declared"]  # not scored; what nobody said is told too
    assert told["not_declared"] == []
    assert "assumed" not in told


def test_a_folder_is_told_to_be_one(bundle: Path, tmp_path: Path) -> None:
    """Its files are asked for; other files are answered."""
    folder = tmp_path / "visit"
    folder.mkdir()

    row, answered = answers("--model", bundle, folder, sound(tmp_path / "loud.wav"))

    assert row["status"] == "refused"
    assert row["sentence"]["pt"] == "Isto é uma pasta, não um arquivo."
    assert str(folder / "*.wav") in row["detail"]
    assert answered["status"] == "answered"


def test_a_damaged_evaluation_is_not_taken_for_another_version(
    bundle: Path, tmp_path: Path
) -> None:
    """Cut off is damage; whole and of other keys is another version."""
    loud, metrics = sound(tmp_path / "loud.wav"), bundle / "metrics.json"
    whole = metrics.read_text()

    metrics.write_text(whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match="no whole JSON"):
        run("--model", bundle, loud)
    metrics.write_text(json.dumps(json.loads(whole) | {"new": 1}))
    with pytest.raises(InputError, match="of another version"):
        run("--model", bundle, loud)


def test_a_forced_score_stands_under_the_words_that_take_its_meaning(
    bundle: Path, tmp_path: Path
) -> None:
    """The demonstration's sentence comes first, and no outcome is given."""
    narrow = sound(tmp_path / "narrow.wav", rate_hz=8000)

    text = run("--model", bundle, "--force", narrow).stdout
    (row,) = answers("--model", bundle, "--force", narrow)

    assert text.index(DEMO_PT) < text.index("Pontuação 1,00 (limite 0,50)")
    assert "Indício" not in text
    assert row["status"] == "forced"
    assert "outcome" not in row


def test_only_a_demonstration_can_be_forced(tmp_path: Path) -> None:
    """A model of patients never answers outside its intended use."""
    bundle = write_bundle(tmp_path / "research", "research")

    with pytest.raises(InputError, match="only for demonstration models"):
        run("--model", bundle, "--force", sound(tmp_path / "loud.wav"))


def test_somebody_who_could_not_finish_is_not_asked_whether_they_could(
    bundle: Path, tmp_path: Path
) -> None:
    """`--unfinished` answers the question that `short` asks."""
    short = sound(tmp_path / "short.wav", seconds=2.0)

    (asked,), (told,) = (
        answers("--model", bundle, short),
        answers("--model", bundle, "--unfinished", short),
    )

    assert "short" in [finding["finding"] for finding in asked["findings"]]
    assert "short" not in [finding["finding"] for finding in told["findings"]]


def test_a_bundle_without_its_evaluation_says_nothing_about_how_sure(
    bundle: Path, tmp_path: Path
) -> None:
    """What is not known is not invented."""
    (bundle / "metrics.json").unlink()

    (row,) = answers("--model", bundle, sound(tmp_path / "loud.wav"))

    assert row["outcome"] == "positive"
    assert "how_sure" not in row


def test_a_damaged_or_absent_model_answers_nothing(bundle: Path, tmp_path: Path) -> None:
    """The error names the model, before any file is looked at."""
    (bundle / "model.onnx").write_bytes(network() + b"\x00")

    with pytest.raises(IntegrityError):
        run("--model", bundle, tmp_path / "a.wav")
    with pytest.raises(InputError, match="not a bundle"):
        run("--model", tmp_path / "nowhere", tmp_path / "a.wav")


def test_predicting_needs_no_torch() -> None:
    """The prediction of a laptop without the `train` extra."""
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import spira.model.commands, spira.model.bundle, spira.model.prediction\n"
        "import spira.audio.quality, spira.audio.decode, spira.evaluation.results\n"
        "assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
