"""`spira dataset import|synthesize|show|list|verify`; `snapshot` is of Collection."""

import errno
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spira.console import json_option

if TYPE_CHECKING:
    from spira.datasets.importing import ImportReport
    from spira.datasets.sources import Source
    from spira.datasets.summary import Collected, DatasetSummary, Quality, Spread
    from spira.domain.recordings import LabelCounts
    from spira.synthetic.hospital import Hospital
    from spira.wiring import Application


jobs_option = click.option(
    "--jobs", type=click.IntRange(1, 256), help="Processes; else as the settings."
)
_reference = click.argument("reference", metavar="DATASET")
_file = click.Path(path_type=Path, dir_okay=False)
rejected_option = click.option(
    "--rejected",
    type=_file,
    metavar="FILE",
    help="Where to write what was refused; else rejected/ in the data folder, if anything was.",
)

_FLAGS: dict[int | str, str] = {"devices": "device", "utterances": "utterance"}  # given one by one
_REJECTED_SHOWN = 20
_CELLS_SHOWN = 40


@click.group()
def dataset() -> None:
    """Import, make, show and verify datasets.

    A DATASET is named by its digest, the first digits of it, or the name that was given to it.
    """


@dataset.command("import", short_help="Check recordings and make a dataset of them.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "layout",
    type=click.Choice(["acl2021", "folder", "csv"]),
    required=True,
    help="The published corpus, a folder for each class, or a table (CSV or Parquet).",
)
@click.option("--name", metavar="NAME", help="What to call it; else after the folder or table.")
@click.option(
    "--mapping",
    type=click.Path(path_type=Path),
    metavar="FILE.yaml",
    help="csv: what the columns hold; else mapping.yaml beside the table.",
)
@click.option("--present", multiple=True, metavar="FOLDER", help="folder: a class with RI.")
@click.option("--absent", multiple=True, metavar="FOLDER", help="folder: a class without RI.")
@click.option("--language", metavar="TAG", help="folder: what is spoken, pt-BR unless told.")
@rejected_option
@jobs_option
@json_option
@click.pass_obj
def import_(
    app: "Application",
    path: Path,
    layout: str,
    name: str | None,
    mapping: Path | None,
    present: tuple[str, ...],
    absent: tuple[str, ...],
    language: str | None,
    rejected: Path | None,
    jobs: int | None,
) -> None:
    """Check the recordings at PATH and make a dataset version of those that can be used.

    Reads wav, flac, ogg/opus, webm, mp3 and m4a. A file that cannot be used is refused with its
    reason and stops nothing. The same bytes with the same labels are the same version.
    """
    from spira.datasets.sources import read_acl2021, read_csv, read_folder

    if mapping is not None and layout != "csv":
        raise click.UsageError("--mapping is for --format csv")
    if (present or absent or language) and layout != "folder":
        raise click.UsageError("--present, --absent and --language are for --format folder")
    name = _checked_name(_name_from(path) if name is None else name)
    require_place(rejected)
    if layout == "acl2021":
        source = read_acl2021(path)
    elif layout == "folder":
        source = read_folder(path, present=present, absent=absent, language=language or "pt-BR")
    else:
        source = read_csv(path, mapping_path=mapping)
    report, refused = import_source(app, source, name, rejected, jobs)
    app.emit(document(report, refused))


@dataset.command()
@click.option("--participants", type=int, help="People who visit once (320).")
@click.option("--seed", type=int, help="Another seed is another hospital (42).")
@click.option("--effect", type=float, help="How much RI changes speech, 0 to 2 (1.0).")
@click.option("--prevalence", type=float, help="Share of people with RI (0.5).")
@click.option(
    "--shortcut",
    "shortcuts",
    multiple=True,
    metavar="NAME=STRENGTH",
    help="Couple the label to a nuisance (ward-noise, device, level, site), 0 to 1.",
)
@click.option("--sites", type=int, help="Wards, each with its room and noise (3).")
@click.option("--noise-per-site", type=int, help="Recordings of ward noise at each site (8).")
@click.option("--device", "devices", multiple=True, metavar="NAME", help="Devices used (all).")
@click.option(
    "--utterance", "utterances", multiple=True, metavar="NAME", help="What is recorded (all)."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the files go; else below the data folder.",
)
@click.option("--name", metavar="NAME", default="hospital", help="What to call it (hospital).")
@rejected_option
@jobs_option
@json_option
@click.pass_obj
def synthesize(
    app: "Application",
    /,
    output: Path | None,
    name: str,
    rejected: Path | None,
    jobs: int | None,
    **options: Any,
) -> None:
    """Make a synthetic hospital and import it.

    Deterministic by seed; what an interrupted run made is kept. The truth about every recording
    is written beside the data and never enters the dataset.
    """
    from spira.datasets.sources import read_csv
    from spira.domain.fingerprint import fingerprint
    from spira.synthetic.hospital import synthesize as write_hospital

    config = _hospital(options)
    _checked_name(name)
    require_place(rejected)
    folder = output or app.home / "hospitals" / fingerprint(config.model_dump(mode="json"))[:16]
    with app.writing():
        write_hospital(
            folder, config, jobs=jobs or app.settings.datasets.jobs, progress=app.progress
        )
    source = read_csv(folder / "recordings.csv")
    report, refused = import_source(app, source, name, rejected, jobs)
    app.say(f"Files: {folder}")
    app.say(f"Truth: {folder / 'truth'}")
    app.emit({**document(report, refused), "folder": str(folder), "truth": str(folder / "truth")})


@dataset.command("list")
@json_option
@click.pass_obj
def list_(app: "Application") -> None:
    """Every dataset version, the latest first. Exit code 70 when one is damaged."""
    from spira.datasets.names import list_versions, require_undamaged

    versions = list_versions(app.artifacts)
    app.emit([{"digest": v.digest, "names": v.names, **v.about} for v in versions])
    if not versions:
        require_undamaged(app.artifacts)
    app.table(
        (
            "dataset",
            "name",
            "people",
            "recordings",
            "present",
            "absent",
            "noise",
            "refused",
            "origin",
            "imported",
        ),
        [
            (
                version.digest[:12],
                ", ".join(version.names) or "-",
                *(str(version.about[key]) for key in ("people", "recordings")),
                *(str(version.about["labels"][label]) for label in ("present", "absent")),
                *(str(version.about[key]) for key in ("noise", "refused", "origin")),
                _when(version.about),
            )
            for version in versions
        ],
        empty="No datasets yet; `spira dataset import` or `spira dataset synthesize` makes one.",
    )
    require_undamaged(app.artifacts)


@dataset.command(short_help="Counts, balance, levels, what was refused; a page.")
@_reference
@click.option(
    "--html",
    type=_file,
    metavar="FILE",
    help="Also write a page with spectrograms of a sample.",
)
@click.option("--rejected", type=_file, metavar="FILE", help="Also write what was refused, as CSV.")
@json_option
@click.pass_obj
def show(app: "Application", reference: str, html: Path | None, rejected: Path | None) -> None:
    """Counts, balance, durations, levels, findings and what was refused."""
    from spira.datasets.names import list_versions
    from spira.datasets.pages import rejected_rows, render_page
    from spira.datasets.versions import load

    require_place(html)
    require_place(rejected)
    version = load(app.artifacts, reference)
    summary, about, collected = version.summary, version.artifact.about, version.collected
    names = next(
        (line.names for line in list_versions(app.artifacts) if line.digest == version.digest), ()
    )
    refused = rejected_rows(version)
    if rejected is not None:
        _write(rejected, version.artifact.read("rejected.csv"))
    if html is not None:
        with app.console.working():
            page = render_page(version, names=names, progress=app.progress)
        _write(html, page.encode())
    app.emit(
        {
            "digest": version.digest,
            "names": names,
            "about": dict(about),
            "summary": summary.model_dump(mode="json"),
            "snapshot": collected and collected.model_dump(mode="json"),
            "rejected": refused,
            "rejected_file": None if rejected is None else str(rejected),
            "html": None if html is None else str(html),
        }
    )
    app.say(f"Dataset {', '.join(names) or about['name']}  {version.digest}")
    app.say(f"{about['origin']}, {about['language']}, imported {_when(about)}")
    _say_counts(app, summary, about["participants"])
    if collected is not None:
        app.say()
        say_collected(app, collected)
    app.say()
    _say_balance(app, summary)
    app.say()
    _say_measured(app, summary)
    _say_quality(app, summary)
    if refused:
        app.say()
        app.table(
            ("refused file", "label", "reason", "why"),
            [
                (row["file"], row["label"], row["reason"], row["message"])
                for row in refused[:_REJECTED_SHOWN]
            ],
        )
        if len(refused) > _REJECTED_SHOWN:
            app.say(f"... and {len(refused) - _REJECTED_SHOWN} more; --rejected FILE has them all")
    if rejected is not None:
        app.say(f"Refused: {rejected}")
    if html is not None:
        app.say(f"Page: {html}")


@dataset.command(short_help="Compare every byte with its digest.")
@_reference
@json_option
@click.pass_obj
def verify(app: "Application", reference: str) -> None:
    """Read every byte and compare it with its digest; exit code 70 names what is damaged."""
    from spira.datasets.versions import verify as verify_version

    with app.console.working():
        verified = verify_version(app.artifacts, reference, progress=app.progress)
    app.emit({"digest": verified.digest, "files": verified.files, "bytes": verified.n_bytes})
    app.say(
        f"Dataset {verified.digest[:12]}: {verified.files} files, "
        f"{verified.n_bytes / 1e6:.1f} MB, every digest matches."
    )


# Importing


def import_source(
    app: "Application",
    source: "Source",
    name: str,
    rejected: Path | None,
    jobs: int | None,
    *,
    still: "Callable[[], None]" = lambda: None,
) -> "tuple[ImportReport, Path | None]":
    """Import, and tell; returns the report, and where what was refused is listed."""
    from spira.datasets.importing import import_dataset

    with app.writing():
        report = import_dataset(
            source,
            app.artifacts,
            name=name,
            thresholds=app.settings.datasets.quality,
            jobs=jobs or app.settings.datasets.jobs,
            progress=app.progress,
            still=still,
        )
        if rejected is None and report.artifact.about["refused"]:
            rejected = app.home / "rejected" / f"{report.digest[:12]}.csv"
            rejected.parent.mkdir(exist_ok=True)
        if rejected is not None:
            _write(rejected, report.rejected)
    counts = {key: report.artifact.about[key] for key in ("people", "recordings", "refused")}
    app.log.info("dataset imported", dataset=report.digest, already=report.already_there, **counts)
    state = "already there, nothing was written" if report.already_there else "new"
    app.say(f"Dataset {report.name}  {report.digest[:12]}  ({state})")
    _say_counts(app, report.summary, source.participants)
    if source.unread:
        app.say(f"Columns that were not read: {', '.join(source.unread)}")
    if not report.summary.noise:
        app.say("No noise recordings: experiments that mix in ward noise cannot use this dataset.")
    _say_quality(app, report.summary)
    if rejected is not None:
        app.say(f"Refused: {rejected}{_reasons(report.summary)}")
    return report, rejected


def _reasons(summary: "DatasetSummary") -> str:
    """How many files for each reason, in brackets."""
    counts = Counter({quality.name: quality.recordings.total for quality in summary.refusals})
    counts.update(summary.refusals_of_noise)
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    return f" ({told})" if told else ""


def document(report: "ImportReport", rejected: Path | None) -> dict[str, Any]:
    """What a program is told of an import."""
    return {
        "digest": report.digest,
        "name": report.name,
        "already_there": report.already_there,
        "about": dict(report.artifact.about),
        "summary": report.summary.model_dump(mode="json"),
        "rejected_file": None if rejected is None else str(rejected),
    }


def _checked_name(name: str) -> str:
    """The name, before any work for it is done."""
    from spira.datasets.names import check_name

    check_name(name)
    return name


def _name_from(path: Path) -> str:
    """A name made of the folder's or table's, in the letters that names may have."""
    here = path.resolve()
    stem = here.stem if here.is_file() else here.name
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:64] or "dataset"


def _hospital(options: dict[str, Any]) -> "Hospital":
    from pydantic import ValidationError

    from spira.domain.errors import InputError
    from spira.synthetic.hospital import Hospital

    strengths: dict[str, float] = {}
    for shortcut in options.pop("shortcuts"):
        key, _, strength = shortcut.partition("=")
        if not re.fullmatch(r"-?[0-9]*[.]?[0-9]+", strength):
            raise InputError(f"--shortcut {shortcut}: write it as ward-noise=0.9")
        strengths[key] = float(strength)
    given = {key: value for key, value in options.items() if value not in (None, ())}
    try:
        config = Hospital(**given, shortcuts=strengths)
    except ValidationError as error:
        raise InputError(
            *(
                f"--{_FLAGS.get(fault['loc'][0], str(fault['loc'][0]).replace('_', '-'))}: "
                f"{fault['msg'].lower()}, it is {fault['input']!r}"
                for fault in error.errors()
                if fault["type"] != "too_short"  # what is left of a list after a wrong name in it
            )
        ) from error
    for people, what in ((config.present, "with"), (config.absent, "without")):
        if not people:
            raise InputError(
                f"--participants {config.participants}, --prevalence {config.prevalence:g}: nobody "
                f"{what} RI; a dataset needs both classes"
            )
    return config


def require_place(path: Path | None) -> None:
    """See, before the work, that a file can be written there."""
    from spira.domain.errors import InputError

    if path is None:
        return
    if not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written, there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written, nor can anything in {path.parent}")


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all; a link stays a link, and a pipe or a device is written to."""
    from spira.domain.errors import InputError

    target = path.resolve()
    part = target.with_name(f"{target.name}.part")
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        try:
            part.write_bytes(data)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


# Telling


def _say_counts(app: "Application", summary: "DatasetSummary", participants: str) -> None:
    people, recordings = summary.people, summary.recordings
    app.say(f"{people.total} participants ({_labels(people)})")
    app.say(f"{recordings.total} recordings ({_labels(recordings)}), {summary.noise} of noise")
    refused = summary.refused.total
    if refused or summary.refused_noise:
        noise = f", {summary.refused_noise} of noise" if summary.refused_noise else ""
        app.say(f"{refused} recordings refused ({_labels(summary.refused)}){noise}")
    if participants == "per-file":
        app.say(
            "The source does not say who was recorded: each file counts as its own participant, "
            "and that nobody is in two splits is not proven."
        )


def say_collected(app: "Application", collected: "Collected") -> None:
    """What a snapshot of the stores says beside its counts."""
    agreed = collected.agreement
    app.say(f"{collected.where}, labelled by {collected.label_policy}: {collected.visits} visits")
    app.say(f"withdrawn: {collected.withdrawn} recordings")
    for what, count in (
        ("left out, visits without consent to research", collected.without_consent),
        ("left out, visits in doubt (--json)", len(collected.doubts)),
        ("left out, visits of made voices beside those of people", collected.synthetic),
        ("people known under several pseudonyms", len(collected.linked)),
        ("people of whom two sexes were said, so that none is", len(collected.two_sexes)),
    ):
        if count:
            app.say(f"{what}: {count}")
    app.say(
        f"{agreed.first} and {agreed.second} differ about {agreed.differing} of {agreed.total} "
        "visits"
    )
    if collected.unknown:
        app.table(
            ("without a label", "visits"),
            [(reason, str(count)) for reason, count in sorted(collected.unknown.items())],
        )
    if collected.mismatches:
        app.table(
            ("not as the device said", "present", "absent", "unknown"),
            [
                (name, *map(str, (counts.present, counts.absent, counts.unknown)))
                for name, counts in collected.mismatches.items()
            ],
        )


def _say_quality(app: "Application", summary: "DatasetSummary") -> None:
    """Findings and refusals, by label and sex."""
    rows = [
        *_quality_rows("finding", summary.findings),
        *_quality_rows("refused", summary.refusals),
        *(
            ("refused noise", reason, "", str(count), "", "")
            for reason, count in summary.refusals_of_noise.items()
        ),
    ]
    if rows:
        app.say()
        app.table(("", "", "sex", "present", "absent", "unknown"), rows)


def _quality_rows(what: str, found: "Iterable[Quality]") -> Iterable[tuple[str, ...]]:
    for row in found:
        for sex, counts in row.by["sex"].items():
            yield what, row.name, sex, *map(str, (counts.present, counts.absent, counts.unknown))


def _say_balance(app: "Application", summary: "DatasetSummary") -> None:
    """Label by each attribute, and by sex x age x site x device where that is not too long."""
    head = ("", "", "people: present", "absent", "unknown", "recordings: present", "absent")
    app.table(
        head,
        [
            (
                group.attribute,
                group.value,
                *map(str, (group.people.present, group.people.absent, group.people.unknown)),
                *map(str, (group.recordings.present, group.recordings.absent)),
            )
            for group in summary.groups
        ],
    )
    app.say()
    if len(summary.cells) > _CELLS_SHOWN:
        app.say(f"{len(summary.cells)} groups by sex, age, site and device: see --html or --json")
        return
    app.table(
        ("sex", "age", "site", "device", "people: present", "absent", "unknown"),
        [
            (
                *(cell.sex, cell.age_band, cell.site, cell.device),
                *map(str, (cell.people.present, cell.people.absent, cell.people.unknown)),
            )
            for cell in summary.cells
        ],
    )


def _say_measured(app: "Application", summary: "DatasetSummary") -> None:
    head = ("utterance", "label", "n", "minutes", "duration, s", "speech, dBFS", "floor, dBFS")
    app.table(
        head,
        [
            (
                row.utterance,
                row.label,
                str(row.recordings),
                f"{row.total_s / 60:.1f}",
                *map(_spread, (row.duration_s, row.speech_level_dbfs, row.noise_floor_dbfs)),
            )
            for row in summary.measured
        ],
    )
    app.say("Median, and the range of the middle 80 %.")


def _when(about: Mapping[str, Any]) -> str:
    return f"{about['imported_at'][:16].replace('T', ' ')} UTC"


def _spread(spread: "Spread") -> str:
    return f"{spread.median:.1f} ({spread.p10:.1f} to {spread.p90:.1f})"


def _labels(counts: "LabelCounts") -> str:
    known: Sequence[tuple[str, int]] = (
        ("present", counts.present),
        ("absent", counts.absent),
        ("unknown", counts.unknown),
    )
    return ", ".join(f"{count} {label}" for label, count in known if count or label != "unknown")
