"""What a dataset version holds, counted: balance, quality, durations and levels, by label."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl
from pydantic import AwareDatetime

from spira.domain.frozen import Frozen
from spira.domain.label_policies import Agreement
from spira.domain.recordings import (
    AGE_BANDS,
    FINDINGS,
    LABELS,
    NOT_AVAILABLE,
    OLDEST_BAND,
    UTTERANCES,
    LabelCounts,
    age_band,
)

REFUSED: dict[str, Any] = {  # what is counted of a refused recording
    "label": pl.Utf8,
    "sex": pl.Utf8,
    "age": pl.Int64,
    "spo2_percent": pl.Float64,
    "reason": pl.Utf8,
}

_SPO2_BANDS = ("under 92", "92-94", "95 and over")  # percent; the limits of label policy ri-v1
# Values that have an order; all others are sorted, and what is not known comes last.
_ORDER = [*(band for _, _, band in AGE_BANDS), OLDEST_BAND, *_SPO2_BANDS, "train", "validation"]


class Group(Frozen):
    """One value of one attribute."""

    attribute: str  # sex, age band, site, device, utterance, split, format
    value: str  # "not available" where the dataset does not say
    people: LabelCounts
    recordings: LabelCounts


class Cell(Frozen):
    """People who agree in sex, age band, site and device."""

    sex: str
    age_band: str
    site: str
    device: str
    people: LabelCounts


class Quality(Frozen):
    """How often one finding was made, or one reason to refuse, and in whom.

    A check that speaks more often of patients than of controls is a defect that no audit of a
    model can see.
    """

    name: str
    recordings: LabelCounts
    by: dict[str, dict[str, LabelCounts]]  # sex, age band, SpO2 band -> value -> counts


class Spread(Frozen):
    """How a measurement is spread."""

    lowest: float
    p10: float
    median: float
    p90: float
    highest: float


class Measured(Frozen):
    """Durations in s and levels in dBFS of one utterance and label."""

    utterance: str
    label: str
    recordings: int
    total_s: float
    duration_s: Spread
    level_dbfs: Spread
    speech_level_dbfs: Spread
    noise_floor_dbfs: Spread


class DatasetSummary(Frozen):
    """Counts of a dataset version: what is in it, what was odd, what was refused."""

    people: LabelCounts  # participants; one with two labels counts for both
    recordings: LabelCounts
    noise: int
    refused: LabelCounts
    refused_noise: int
    groups: tuple[Group, ...]
    cells: tuple[Cell, ...]  # sex x age band x site x device, those that are not empty
    findings: tuple[Quality, ...]
    refusals: tuple[Quality, ...]
    refusals_of_noise: dict[str, int]
    measured: tuple[Measured, ...]


class Collected(Frozen):
    """What a snapshot of the stores says beside its counts. Visits and people are pseudonyms."""

    study: str
    label_policy: str
    as_of: AwareDatetime
    visits: int  # that are in it
    withdrawn: int  # recordings of people who have withdrawn by now
    without_consent: int  # visits; to research
    synthetic: int  # visits of voices that were made, left out because others are of people
    doubts: tuple[str, ...]  # visits that count for nobody (spira.collection.visits.DOUBTS)
    linked: Mapping[str, tuple[str, ...]]  # person -> pseudonyms, of whoever has several
    two_sexes: tuple[str, ...]  # people of whom two were said: theirs is not available
    unknown: Mapping[str, int]  # reason -> visits without a label
    agreement: Agreement  # about these visits, whichever of the policies labels them
    mismatches: Mapping[str, LabelCounts]  # what the audio shows otherwise than its device said

    @property
    def where(self) -> str:
        """What it is of, for messages."""
        return f"study {self.study} as of {self.as_of.isoformat()}"


def summarise(
    recordings: pl.DataFrame,
    noise: pl.DataFrame,
    refused: pl.DataFrame,
    refused_noise: Iterable[str],
) -> DatasetSummary:
    """Count a dataset version.

    recordings     columns RECORDINGS
    refused        columns REFUSED, one row a refused recording
    refused_noise  the reason of each refused noise recording
    """
    table = _in_words(recordings)
    rejected = _in_words(refused)
    reasons = sorted(refused_noise)
    found = [(name, table.filter(pl.col("findings").list.contains(name))) for name in FINDINGS]
    refusals = [
        (name, rejected.filter(pl.col("reason") == name))
        for name in rejected["reason"].unique().sort()
    ]
    return DatasetSummary(
        people=_counts(_people(table)),
        recordings=_counts(table),
        noise=noise.height,
        refused=_counts(rejected),
        refused_noise=len(reasons),
        groups=tuple(_groups(table)),
        cells=tuple(_cells(table)),
        findings=tuple(_quality(name, part) for name, part in found if part.height),
        refusals=tuple(_quality(name, part) for name, part in refusals),
        refusals_of_noise={name: reasons.count(name) for name in sorted(set(reasons))},
        measured=tuple(_measured(recordings)),
    )


def in_order(value: str) -> tuple[bool, int, str]:
    """The key that sorts values of an attribute: bands by age, "not available" last."""
    place = _ORDER.index(value) if value in _ORDER else len(_ORDER)
    return value == NOT_AVAILABLE, place, value


def _in_words(table: pl.DataFrame) -> pl.DataFrame:
    """The table with every attribute as text, "not available" where nothing is said."""
    said = [
        pl.col(name).fill_null(NOT_AVAILABLE)
        for name in ("sex", "site", "device", "side")
        if name in table.columns
    ]
    bands = [
        pl.Series("age band", [age_band(age) for age in table["age"]], dtype=pl.Utf8),
        pl.Series("SpO2 band", [_spo2_band(p) for p in table["spo2_percent"]], dtype=pl.Utf8),
    ]
    return table.with_columns(said).with_columns(bands)


def _spo2_band(percent: float | None) -> str:
    if percent is None:
        return NOT_AVAILABLE
    return _SPO2_BANDS[(percent >= 92) + (percent >= 95)]


def _groups(table: pl.DataFrame) -> Iterable[Group]:
    columns = {name: name for name in ("sex", "age band", "site", "device", "utterance")}
    columns["split"] = "side"
    formats = pl.format("{} {} {} Hz {} ch", "container", "codec", "rate_hz", "channels")
    columns["format"] = "format"
    table = table.with_columns(formats.alias("format"))
    for attribute, column in columns.items():
        people = _by(_people(table, column), column)
        for value, recordings in _by(table, column).items():
            yield Group(
                attribute=attribute, value=value, people=people[value], recordings=recordings
            )


def _cells(table: pl.DataFrame) -> Iterable[Cell]:
    columns = ["sex", "age band", "site", "device"]
    parts = list(_people(table, *columns).group_by(columns))
    for (sex, band, site, device), part in sorted(
        parts, key=lambda group: [in_order(str(value)) for value in group[0]]
    ):
        yield Cell(
            sex=str(sex),
            age_band=str(band),
            site=str(site),
            device=str(device),
            people=_counts(part),
        )


def _quality(name: str, part: pl.DataFrame) -> Quality:
    by = {column: _by(part, column) for column in ("sex", "age band", "SpO2 band")}
    return Quality(name=name, recordings=_counts(part), by=by)


def _measured(table: pl.DataFrame) -> Iterable[Measured]:
    for utterance in UTTERANCES:
        for label in LABELS:
            part = table.filter((pl.col("utterance") == utterance) & (pl.col("label") == label))
            if part.height:
                yield Measured(
                    utterance=utterance,
                    label=label,
                    recordings=part.height,
                    total_s=float(part["duration_s"].sum()),
                    duration_s=_spread(part["duration_s"]),
                    level_dbfs=_spread(part["level_dbfs"]),
                    speech_level_dbfs=_spread(part["speech_level_dbfs"]),
                    noise_floor_dbfs=_spread(part["noise_floor_dbfs"]),
                )


def _spread(values: pl.Series) -> Spread:
    quantiles = [values.quantile(q, "linear") for q in (0.0, 0.1, 0.5, 0.9, 1.0)]
    lowest, p10, median, p90, highest = (float(q) for q in quantiles if q is not None)
    return Spread(lowest=lowest, p10=p10, median=median, p90=p90, highest=highest)


def _people(table: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """One row for each participant, label and value of the columns."""
    return table.unique(["participant_id", "label", *columns])


def _by(table: pl.DataFrame, column: str) -> dict[str, LabelCounts]:
    values: dict[str, dict[str, int]] = {}
    for value, label, count in table.group_by(column, "label").len().iter_rows():
        values.setdefault(value, {})[label] = count
    return {value: LabelCounts(**values[value]) for value in sorted(values, key=in_order)}


def _counts(table: pl.DataFrame) -> LabelCounts:
    return LabelCounts(**dict(table.group_by("label").len().iter_rows()))
