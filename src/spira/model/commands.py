"""`spira predict FILE…`: ask a model about recordings."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from spira.console import json_option
from spira.domain.recordings import UTTERANCES, Utterance

if TYPE_CHECKING:
    from spira.audio.quality import QualityThresholds
    from spira.domain.answers import Outcome, Sentence
    from spira.model.bundle import ModelManifest
    from spira.model.prediction import Answer, Declared, PresentShare
    from spira.model.scoring import Scorer
    from spira.wiring import Application


@dataclass(frozen=True)
class _Model:
    """A loaded model, and what is said with each of its answers."""

    label: str
    manifest: "ModelManifest"
    scorer: "Scorer"
    shares: Mapping["Outcome", "PresentShare"]


@click.command()
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    "reference",
    default="champion",
    show_default=True,
    metavar="ALIAS|VERSION|FOLDER",
    help="champion, challenger, a version's number, or a bundle's folder.",
)
@click.option("--language", metavar="TAG", help="Spoken language, e.g. pt-BR; else the model's.")
@click.option("--utterance", type=click.Choice(UTTERANCES), help="What was said; else the model's.")
@click.option("--age", type=click.IntRange(0, 130), help="In years, where known.")
@click.option("--device", metavar="NAME", help="Capture device, where known.")
@click.option("--site", metavar="NAME", help="Where it was recorded, where known.")
@click.option(
    "--tracheostomy/--no-tracheostomy", default=None, help="With one: recorded, not scored."
)
@click.option("--intubated/--not-intubated", default=None, help="If so: recorded, not scored.")
@click.option("--unfinished", is_flag=True, help="The patient could not finish the sentence.")
@click.option("--probability", is_flag=True, help="Also the calibrated probability.")
@click.option(
    "--force", is_flag=True, help="Score outside the intended use too (demonstration models only)."
)
@json_option
@click.pass_obj
def predict(
    app: "Application",
    files: tuple[Path, ...],
    reference: str,
    language: str | None,
    utterance: Utterance | None,
    age: int | None,
    device: str | None,
    site: str | None,
    tracheostomy: bool | None,
    intubated: bool | None,
    unfinished: bool,
    probability: bool,
    force: bool,
) -> None:
    """Ask a model about recordings; an indication, never a diagnosis.

    What is declared to be outside the model's intended use is not scored, and the answer says why.
    What nobody declares is taken to be as in the test, and the answer says so. Exit code 2 when no
    file can be used.
    """
    from spira.domain.errors import InputError
    from spira.model.prediction import Declared, population

    model = _load(app, reference)
    if force and model.manifest.evidence_level != "synthetic":
        raise InputError(
            f"--force: only for demonstration models; {model.label} has evidence level "
            f"{model.manifest.evidence_level}"
        )
    declared = Declared(
        language=language,
        utterance=utterance,
        age=age,
        device=device,
        site=site,
        tracheostomy=tracheostomy,
        intubated=intubated,
        unfinished=unfinished,
    )
    thresholds = app.settings.datasets.quality
    answers = []
    with app.console.working():
        for number, file in enumerate(files, start=1):
            answers.append(
                _answer(file, model, declared, thresholds, force=force, probability=probability)
            )
            app.progress("predicting", number, len(files))

    tested = population(model.manifest.envelope)
    app.emit(
        {
            "model": {
                "name": model.label,
                "evidence_level": model.manifest.evidence_level,
                "tested_on": tested.model_dump(),
            },
            "answers": [_document(answer) for answer in answers],
        }
    )
    if not app.json:
        _show(app, model.label, tested, answers)
    if all(answer.status == "refused" for answer in answers):
        count = "the file" if len(files) == 1 else f"none of the {len(files)} files"
        raise InputError(f"predict: {count} can{'not' if len(files) == 1 else ''} be used")


def _load(app: "Application", reference: str) -> _Model:
    """A version out of the registry, or a bundle's folder."""
    from spira.evaluation.shares import present_shares
    from spira.model.bundle import load

    folder = Path(reference)
    if "/" in reference or (folder / "model.json").is_file():
        label = folder.resolve().name
    else:
        version = app.registry.get(reference)
        folder = app.registry.download(version, app.home / "cache" / "models")
        alias = f" ({', '.join(version.aliases)})" if version.aliases else ""
        label = f"spira {version.version}{alias}"
    manifest, scorer = load(folder)
    return _Model(label, manifest, scorer, present_shares(folder))


def _answer(
    file: Path,
    model: _Model,
    declared: "Declared",
    thresholds: "QualityThresholds",
    *,
    force: bool,
    probability: bool,
) -> "Answer":
    """One file's row: refused, not scored, forced, or answered."""
    from spira.audio.decode import decode_blocks
    from spira.audio.quality import check
    from spira.domain.answers import EVIDENCE_SENTENCES, OUTCOME_SENTENCES, REFUSED_SENTENCES
    from spira.domain.errors import RecordingRefused
    from spira.model import prediction

    manifest = model.manifest
    every: dict[str, Any] = {
        "file": str(file),
        "model": model.label,
        "evidence": EVIDENCE_SENTENCES[manifest.evidence_level],
    }
    if file.is_dir():
        return prediction.Answer(
            status="refused",
            sentence=prediction.A_FOLDER,
            detail=f"{file}: a folder; name its files, e.g. {file / '*.wav'}",
            **every,
        )
    try:
        utterance = declared.utterance or cast(Utterance, manifest.envelope.utterances[0])
        checked = check(
            file, thresholds=thresholds, utterance=utterance, unfinished=declared.unfinished
        )
        unsaid = prediction.not_declared(declared)
        every |= {
            "sha256": checked.sha256,
            "not_declared": unsaid,
            "assumed": prediction.assumed(manifest.envelope, unsaid),
        }
        reasons = prediction.outside(
            manifest.envelope, declared, checked.format, checked.measurements
        )
        if reasons and not force:
            return prediction.Answer(
                status="not scored",
                sentence=prediction.NOT_SCORED,
                reasons=reasons,
                findings=checked.findings,
                **every,
            )
        score = model.scorer.score(decode_blocks(file, rate_hz=manifest.scoring.rate_hz))
    except RecordingRefused as refused:
        return prediction.Answer(
            status="refused",
            sentence=REFUSED_SENTENCES[refused.reason],
            detail=str(refused),
            **every,
        )
    assert score.calibrated is not None  # the manifest has an operating point
    assert score.outcome is not None
    if reasons:
        return prediction.Answer(
            status="forced",
            sentence=prediction.forced_sentence(manifest.operating_point, score.calibrated),
            reasons=reasons,
            findings=checked.findings,
            probability=score.calibrated,
            **every,
        )
    share = model.shares.get(score.outcome)
    return prediction.Answer(
        status="answered",
        outcome=score.outcome,
        sentence=OUTCOME_SENTENCES[score.outcome],
        findings=checked.findings,
        how_sure=None if share is None else prediction.how_sure(share),
        probability=score.calibrated if probability else None,
        **every,
    )


def _document(answer: "Answer") -> dict[str, Any]:
    """An answer for programs; findings with their sentences, nothing that was not asked for."""
    from spira.domain.answers import FINDING_SENTENCES

    document = answer.model_dump(mode="json", exclude_none=True)
    document["findings"] = [
        {"finding": finding, **FINDING_SENTENCES[finding].model_dump()}
        for finding in answer.findings
    ]
    return document


def _show(app: "Application", label: str, tested: "Sentence", answers: "list[Answer]") -> None:
    """Answers for people: framed on a terminal, indented lines elsewhere."""
    if not sys.stdout.isatty():
        app.say(f"Modelo / Model: {label}")
        app.say(f"{tested.pt}\n{tested.en}")
        for answer in answers:
            app.say(f"\n{answer.file}")
            for text, _ in _lines(answer):
                app.say(f"  {text}")
        return
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    screen = Console(highlight=False, width=min(Console().width, 100))
    screen.print(Text(f"Modelo / Model: {label}", style="bold"))
    screen.print(Text(tested.pt))
    screen.print(Text(tested.en, style="dim"))
    for answer in answers:
        # One frame for every outcome: the words carry the verdict, not a colour.
        body = Text("\n").join(Text(text, style=style) for text, style in _lines(answer))
        screen.print(Panel(body, title=Text(answer.file), title_align="left", border_style="cyan"))


def _lines(answer: "Answer") -> "Iterator[tuple[str, str]]":
    """(text, style) of each line of an answer, Portuguese first."""
    from spira.domain.answers import FINDING_SENTENCES

    if answer.status == "forced":  # a score that means nothing never stands without these words
        yield from _both(answer.evidence, "bold")
    yield from _both(answer.sentence, "bold")
    if answer.detail is not None:
        yield answer.detail, "dim"
    for reason in answer.reasons:
        yield from _both(reason, "")
    if answer.how_sure is not None:
        yield from _both(answer.how_sure, "")
    if answer.assumed is not None:
        yield from _both(answer.assumed, "")
    if answer.probability is not None and answer.status == "answered":
        yield f"Probabilidade calibrada / calibrated probability: {answer.probability:.3f}", ""
    for finding in answer.findings:
        yield from _both(FINDING_SENTENCES[finding], "yellow")
    if answer.status in ("answered", "not scored"):
        yield from _both(answer.evidence, "italic")


def _both(sentence: "Sentence", style: str) -> "Iterator[tuple[str, str]]":
    yield sentence.pt, style
    yield sentence.en, f"{style} dim".strip()
