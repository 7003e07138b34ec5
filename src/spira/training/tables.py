"""The stages that decide who and what is in: `snapshot` and `split`. Tables only, no audio."""

from collections import Counter
from typing import Any

import polars as pl

from spira.datasets.versions import load, parquet
from spira.domain.errors import InputError
from spira.domain.fingerprint import canonical_json
from spira.domain.recordings import NOT_AVAILABLE, SIDES, Side, age_band
from spira.domain.splits import assign_sides, side_of, side_of_person
from spira.training.experiments import Experiment, Split
from spira.training.plan import Files, Work

_ATTRIBUTES = ("label", "sex", "age band", "site", "device")  # whose balance is told
AMBIENT = ("ambient_before", "ambient_after")
_PER_CLASS: dict[Side, int] = {
    "train": 2,
    "validation": 1,
    "test": 1,
}  # fewer people than this fit or test nothing


def snapshot(work: Work) -> tuple[Files, dict[str, Any]]:
    """Freeze what an experiment uses of a dataset version.

    files     recordings.parquet  the spoken recordings with a label, and the same people's rooms
              noise.parquet       every noise recording
              snapshot.json       how many were left out, and why
    raises    InputError when nothing, or one class only, is left
    """
    dataset = load(work.store, work.plan.dataset)
    spoken, left_out = select(dataset.recordings, work.experiment)
    counts = Counter(spoken["label"].to_list())
    if not counts["present"] or not counts["absent"]:
        raise InputError(
            f"dataset {work.plan.dataset[:12]}: {counts['present']} recordings with RI present and "
            f"{counts['absent']} absent are left for utterance {work.experiment.utterance!r}; "
            "both classes are needed"
        )
    people = spoken["participant_id"].unique()
    ambient = dataset.recordings.filter(
        pl.col("utterance").is_in(AMBIENT) & pl.col("participant_id").is_in(people.to_list())
    )
    table = pl.concat([spoken, ambient]).sort("participant_id", "utterance", "sha256")
    noise = dataset.noise.sort("sha256")
    facts = {
        "recordings": spoken.height,
        "participants": people.len(),
        "ambient": ambient.height,
        "noise": noise.height,
        "labels": dict(sorted(counts.items())),
        "left_out": left_out,
        "origin": dataset.artifact.about["origin"],
        "language": dataset.artifact.about.get("language"),
        "participants_known": dataset.artifact.about.get("participants", "given"),
    }
    return {
        "recordings.parquet": parquet(table),
        "noise.parquet": parquet(noise),
        "snapshot.json": canonical_json(facts),
    }, facts


def select(recordings: pl.DataFrame, experiment: Experiment) -> tuple[pl.DataFrame, dict[str, int]]:
    """The recordings an experiment trains and tests on, and how many were left out, by reason."""
    left_out: dict[str, int] = {}

    def keep(table: pl.DataFrame, condition: pl.Expr, why: str) -> pl.DataFrame:
        kept = table.filter(condition)
        if kept.height < table.height:
            left_out[why] = table.height - kept.height
        return kept

    chosen = keep(recordings, pl.col("utterance") == experiment.utterance, "another utterance")
    chosen = keep(chosen, pl.col("label").is_in(["present", "absent"]), "label unknown")
    samples = (pl.col("duration_s") * experiment.features.rate_hz).round()
    chosen = keep(chosen, samples >= experiment.shortest_samples, "shorter than a window")
    for finding in experiment.exclude_findings:
        chosen = keep(
            chosen, ~pl.col("findings").list.contains(finding), f"finding {finding} excluded"
        )
    return chosen, left_out


def split(work: Work) -> tuple[Files, dict[str, Any]]:
    """Put every person, and every noise recording, on one side.

    files     people.parquet      participant_id, placed (its side)
              noise.parquet       sha256, placed
              balance.json        people by side and attribute, noise recordings by side; nothing
                                  is forced
              linked.json         people who are in training because their pseudonyms fall on two
                                  sides: person -> pseudonym -> side; no file where there is none
    raises    InputError for a person on two published sides, or too few people on a side
    """
    snapshot_of = work.input("snapshot")
    recordings = pl.read_parquet(snapshot_of.path("recordings.parquet"))
    noise = pl.read_parquet(snapshot_of.path("noise.parquet"))
    people = split_people(recordings, work.experiment.split)
    linked = linked_across(recordings, work.experiment.split)
    sides = split_noise(noise, work.experiment.split)
    spoken = recordings.filter(~pl.col("utterance").is_in(AMBIENT)).join(people, "participant_id")
    balance = balance_of(spoken)
    _enough(balance["label"])
    balance["noise"] = {
        side: {"recordings": sides["placed"].to_list().count(side)} for side in SIDES
    }
    files: dict[str, bytes] = {
        "people.parquet": parquet(people),
        "noise.parquet": parquet(sides),
        "balance.json": canonical_json(balance),
    }
    if not linked:
        return files, {"balance": balance}
    return {**files, "linked.json": canonical_json(linked)}, {
        "balance": balance,
        "linked": len(linked),
    }


def split_people(recordings: pl.DataFrame, rule: Split) -> pl.DataFrame:
    """participant_id -> placed, for every participant of the table."""
    published: dict[str, set[Any]] = {}
    for person, side in recordings.select("participant_id", "side").iter_rows():
        published.setdefault(person, set()).add(side if rule.published == "keep" else None)
    sides = assign_sides(
        published, key=rule.key, fractions=rule.fractions, pseudonyms=_pseudonyms(recordings)
    )
    return pl.DataFrame(
        sorted(sides.items()), schema={"participant_id": pl.Utf8, "placed": pl.Utf8}, orient="row"
    )


def linked_across(recordings: pl.DataFrame, rule: Split) -> dict[str, dict[str, Side]]:
    """Whoever is in training because of pseudonyms on two sides: person -> pseudonym -> side."""
    sides = {
        person: {one: side_of(one, key=rule.key, fractions=rule.fractions) for one in names}
        for person, names in _pseudonyms(recordings).items()
        if len(names) > 1
    }
    return {person: each for person, each in sorted(sides.items()) if len({*each.values()}) > 1}


def _pseudonyms(recordings: pl.DataFrame) -> dict[str, list[str]]:
    """Those of every participant; empty where the dataset says nothing of pseudonyms."""
    if "pseudonyms" not in recordings.columns:
        return {}
    told = recordings.select("participant_id", "pseudonyms").unique("participant_id").drop_nulls()
    return dict(told.iter_rows())


def split_noise(noise: pl.DataFrame, rule: Split) -> pl.DataFrame:
    """sha256 -> placed, for every noise recording.

    A room of somebody's visit is on the side of that person. Of all others, a side that the hash
    leaves empty takes one from the fullest side, so that three recordings are enough
    (docs/decisions/0005-noise.md); with fewer, the experiment's noise cannot be kept apart and the
    stages say so.
    """
    given = dict(noise.select("sha256", "side").iter_rows()) if rule.published == "keep" else {}
    rooms: dict[str, Side] = {}
    if "pseudonyms" in noise.columns:
        for digest, names in noise.select("sha256", "pseudonyms").drop_nulls().iter_rows():
            rooms[digest] = side_of_person(names, key=rule.key, fractions=rule.fractions)
    sides: dict[str, Side] = {
        digest: given.get(digest) or side_of(digest, key=rule.key, fractions=rule.noise)
        for digest in noise["sha256"].sort()
        if digest not in rooms
    }
    if len(sides) >= len(SIDES):
        for side in SIDES:
            if side not in sides.values():
                fullest, _ = Counter(sides.values()).most_common(1)[0]
                sides[min(digest for digest, at in sides.items() if at == fullest)] = side
    return pl.DataFrame(
        sorted((sides | rooms).items()), schema={"sha256": pl.Utf8, "placed": pl.Utf8}, orient="row"
    )


def placed(work: Work) -> tuple[pl.DataFrame, dict[Side, list[str]]]:
    """Recordings with their side in `placed`, and the digests of noise recordings by side."""
    recordings = pl.read_parquet(work.input("snapshot").path("recordings.parquet"))
    people = pl.read_parquet(work.input("split").path("people.parquet"))
    noise = pl.read_parquet(work.input("split").path("noise.parquet"))
    by_side = {
        side: noise.filter(pl.col("placed") == side)["sha256"].sort().to_list() for side in SIDES
    }
    return recordings.join(people, "participant_id", maintain_order="left"), by_side


def balance_of(spoken: pl.DataFrame) -> dict[str, dict[Side, dict[str, int]]]:
    """How many people of each side have each value; who has two counts for both."""
    bands = pl.col("age").map_elements(age_band, pl.Utf8, skip_nulls=False).alias("age band")
    rows = spoken.with_columns(bands)

    def counted(side: Side, attribute: str) -> dict[str, int]:
        pairs = rows.filter(pl.col("placed") == side).unique(["participant_id", attribute])
        values = Counter(value or NOT_AVAILABLE for value in pairs[attribute].to_list())
        return dict(sorted(values.items()))

    return {
        attribute: {side: counted(side, attribute) for side in SIDES} for attribute in _ATTRIBUTES
    }


def _enough(labels: dict[Side, dict[str, int]]) -> None:
    mistakes = [
        f"split: {labels[side].get(label, 0)} participants with RI {label} in {side}, "
        f"at least {least} needed; add participants or change split.fractions"
        for side, least in _PER_CLASS.items()
        for label in ("present", "absent")
        if labels[side].get(label, 0) < least
    ]
    if mistakes:
        raise InputError(*mistakes)
