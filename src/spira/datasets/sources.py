"""What is to be imported: recordings as a folder or a table lists them, before any audio is read.

Three layouts are read: the published corpus (Casanova et al., Findings of ACL 2021), a folder for
each class, and a table whose columns are mapped. Every fault of a listing is reported at once.
Messages name files, rows and pseudonyms, never what else a row says of a person.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from spira.audio.decode import sniff
from spira.datasets import cells
from spira.datasets.cells import Note, printable, shown, word
from spira.datasets.summary import Collected
from spira.datasets.tables import ColumnMapping, Columns, Faults, Table, read_mapping, read_table
from spira.domain.errors import InputError
from spira.domain.recordings import LABELS, Label, Sex, Side, Utterance
from spira.domain.suggestions import nearest

Origin = Literal["import", "synthetic"]


@dataclass(frozen=True, slots=True)
class Listed:
    """One recording, as its source lists it."""

    file: str  # relative to the source's root, with /
    label: Label
    participant: str | None = None  # None: nobody said, the file counts as its own participant
    visit: str | None = None
    utterance: Utterance = "sentence"
    side: Side | None = None  # the published split
    site: str | None = None
    device: str | None = None
    sex: Sex | None = None
    age: int | None = None  # years
    spo2_percent: float | None = None
    recorded_at: str | None = None  # ISO 8601
    pseudonyms: tuple[str, ...] = ()  # every one of the participant, where a person has several
    sha256: str | None = None  # of the file, where the source knows it
    unfinished: bool = False  # the participant could not finish: it is not `short`
    noise: bool = False  # of the empty room: a noise recording too, on its participant's side


@dataclass(frozen=True, slots=True)
class ListedNoise:
    """One noise recording of a place, as its source lists it."""

    file: str
    site: str | None = None
    side: Side | None = None
    pseudonyms: tuple[str, ...] = ()  # of the participant whose room it is


@dataclass(frozen=True)
class Source:
    """Everything that is to be imported; its files lie below `root`."""

    root: Path
    recordings: tuple[Listed, ...]
    noise: tuple[ListedNoise, ...] = ()
    origin: Origin = "import"
    language: str = "pt-BR"
    unread: tuple[str, ...] = ()  # columns of the table that were not used
    collected: Collected | None = None  # it is a snapshot of the stores

    @property
    def participants(self) -> Literal["given", "per-file"]:
        """Whether the source says who was recorded."""
        known = any(row.participant is not None for row in self.recordings)
        return "given" if known else "per-file"

    @property
    def where(self) -> str:
        """What it is, for messages."""
        return str(self.root) if self.collected is None else self.collected.where


def read_acl2021(root: Path) -> Source:
    """The published corpus: `metadata_{train,eval,test}.csv` with `file_path,class` (0 control,
    1 patient), paths relative to `root`, and `noise_data.csv`, a path a line after a header.

    Its splits are kept (eval is validation). It does not say who was recorded.

    raises    InputError listing every fault
    """
    listing = _Listing(root)
    sides: dict[str, Side] = {"train": "train", "eval": "validation", "test": "test"}
    for part, side in sides.items():
        table = listing.table(root / f"metadata_{part}.csv")
        if table is None:
            continue
        for number, row in listing.rows(table, {"path": "file_path", "label": "class"}):
            note = listing.noting(table.name, number)
            file = listing.inside(row["path"], note)
            label = _ACL_LABELS.get(word(row["label"]))
            if label is None:
                note(f"unrecognised class {shown(row['label'])}; 0 is a control, 1 a patient")
            elif file is not None:
                listing.add(table.name, number, Listed(file, label, side=side))
    if (root / "noise_data.csv").exists():
        table = listing.table(root / "noise_data.csv")
        for number, line in table.rows if table else ():
            file = listing.inside(line[0], listing.noting("noise_data.csv", number))
            if file is not None:
                listing.add("noise_data.csv", number, ListedNoise(file))
    return listing.source(str(root))


def read_folder(
    root: Path,
    *,
    present: Sequence[str] = (),
    absent: Sequence[str] = (),
    language: str = "pt-BR",
) -> Source:
    """A folder for each class, and perhaps one named `noise`.

    present, absent   names of folders; others are recognised by common words (patient, control,
                      paciente, controle, presente, ausente, 1, 0, unknown, ...)
    raises            InputError listing every fault, and the folders that mean nothing
    """
    listing = _Listing(root)
    where = str(root)
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir()]
    names = [folder.name for folder in folders]
    given: dict[str, Label] = {name.rstrip("/"): "present" for name in present}
    given |= {name.rstrip("/"): "absent" for name in absent}
    for name in given:
        if name not in names:
            listing.faults.add(where, f"no folder named {shown(name)}{nearest(name, names)}")
    unrecognised = []
    for folder in folders:
        label = given.get(folder.name) or cells.LABEL_WORDS.get(word(folder.name))
        if label is None and word(folder.name) not in _NOISE_WORDS:
            unrecognised.append(shown(folder.name))
            continue
        for file in _files_in(folder, listing):
            listing.add(
                folder.name, None, ListedNoise(file) if label is None else Listed(file, label)
            )
    if unrecognised:
        listing.faults.add(
            where,
            f"folders that are no class: {', '.join(unrecognised)}; name the classes with "
            "--present NAME and --absent NAME, or rename them (present, absent, unknown, noise)",
        )
    if loose := [printable(entry.name) for entry in entries if _is_audio(entry)]:
        found = ", ".join(loose[:3])
        listing.faults.add(where, f"{len(loose)} recordings outside the class folders: {found}")
    return listing.source(where, language=language)


def read_csv(table_path: Path, *, mapping_path: Path | None = None) -> Source:
    """A CSV or Parquet table of recordings; paths are relative to its folder.

    mapping_path  the YAML that names its columns (spira.datasets.tables); without it
                  `mapping.yaml` beside the table, and without that columns under our own names
    raises        InputError listing every fault of the tables, with row numbers
    """
    if table_path.is_dir():
        raise InputError(f"{table_path}: a folder; give a table in it, such as recordings.csv")
    beside = table_path.parent / "mapping.yaml"
    chosen = mapping_path or (beside if beside.exists() else None)
    mapping = ColumnMapping() if chosen is None else read_mapping(chosen)

    listing = _Listing(table_path.parent)
    table = read_table(table_path)
    columns = _columns(mapping, table)
    vocabulary = cells.LABEL_WORDS if mapping.labels is None else _given_words(mapping, chosen)
    for number, row in listing.rows(table, columns):
        note = listing.noting(table.name, number)
        file = listing.inside(row["path"].replace("\\", "/"), note)
        listed = _listed(file, row, vocabulary, note, per_file="participant" not in columns)
        if listed is not None:
            listing.add(table.name, number, listed)
    if mapping.noise is not None:
        noise = listing.inside(mapping.noise, listing.noting("mapping, key noise", None))
        noise_table = None if noise is None else listing.table(table_path.parent / noise)
        if noise_table is not None:
            _add_noise(noise_table, _columns(mapping, noise_table), listing)
    return listing.source(
        table.name,
        origin=mapping.origin,
        language=mapping.language,
        unread=tuple(column for column in table.header if column not in columns.values()),
    )


_ACL_LABELS: dict[str, Label] = {"0": "absent", "1": "present"}
_NOISE_WORDS = ("noise", "ruido", "ruidos")


class _Listing:
    """What has been read of a source so far, and what is wrong with it."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            what = "not a folder" if root.exists() else "no such folder"
            raise InputError(f"{root}: {what}")
        self.faults = Faults()
        self._root = root
        self._real_root = Path(os.path.realpath(root))
        self._real: dict[Path, Path] = {}  # folder -> where it really is
        self._recordings: list[tuple[str, int | None, Listed]] = []
        self._noise: list[tuple[str, int | None, ListedNoise]] = []

    def table(self, path: Path) -> Table | None:
        """A table; a fault instead of an error, so that all are reported together."""
        try:
            return read_table(path)
        except InputError as error:
            self.faults.take(error)
            return None

    def rows(
        self, table: Table, columns: Mapping[str, str]
    ) -> Iterator[tuple[int, dict[str, str]]]:
        """(row number, our word -> cell) of each row; cells that are not mapped are empty."""
        missing = {key: column for key, column in columns.items() if column not in table.header}
        for key, column in missing.items():
            hint = nearest(column, table.header) or f"; columns: {', '.join(table.header)}"
            self.faults.add(table.name, f"no column {column!r} (for {key}){hint}")
        if missing:
            return
        empty = dict.fromkeys(Columns.model_fields, "")
        at = {key: table.header.index(column) for key, column in columns.items()}
        for number, line in table.rows:
            yield number, empty | {key: line[place] for key, place in at.items()}

    def noting(self, table: str, row: int | None) -> Note:
        """What a reader of cells tells faults to."""
        return lambda fault: self.faults.add(table, fault, row)

    def inside(self, text: str, note: Note) -> str | None:
        """A path below the root, relative to it; None, and a fault, for any other."""
        path = PurePosixPath(text)
        if not text or "\0" in text:
            note("no path" if not text else "a path with a zero byte")
            return None
        if path.is_absolute() and path.is_relative_to(self._real_root):
            path = path.relative_to(self._real_root)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            note(f"{shown(text)} lies outside the folder of the dataset")
            return None
        folder = self._real_root / path.parent
        if folder not in self._real:
            self._real[folder] = Path(os.path.realpath(folder))
        real = self._real[folder] / path.name
        if os.path.islink(real):  # noqa: PTH114 (false for a name that is too long; no error)
            real = Path(os.path.realpath(real))
        if not real.is_relative_to(self._real_root):
            note(f"{shown(text)} is a link out of the folder of the dataset")
            return None
        return str(path)

    def add(self, table: str, row: int | None, listed: Listed | ListedNoise) -> None:
        """Remember a row."""
        if isinstance(listed, Listed):
            self._recordings.append((table, row, listed))
        else:
            self._noise.append((table, row, listed))

    def source(self, where: str, **about: Any) -> Source:
        """Check the rows against one another; report every fault, or return what is listed."""
        _check_files([*self._recordings, *self._noise], self.faults)
        _check_people(self._recordings, self.faults)
        if not self.faults:  # else rows are missing here that the table does have
            labels = {row.label for _, _, row in self._recordings}
            for label in ("present", "absent"):
                if label not in labels:
                    fault = f"no recording with RI {label}; a dataset needs both classes"
                    self.faults.add(where, fault)
        self.faults.report()
        return Source(
            self._root,
            tuple(row for _, _, row in self._recordings),
            tuple(row for _, _, row in self._noise),
            **about,
        )


def _listed(
    file: str | None,
    row: Mapping[str, str],
    vocabulary: Mapping[str, Label],
    note: Note,
    *,
    per_file: bool,
) -> Listed | None:
    """One row of a table, or None where it does not tell what or whom it lists."""
    label = vocabulary.get(word(row["label"]))
    if label is None and cells.is_empty(row["label"]):
        note("no label; write unknown, or list the empty word under labels.unknown")
    elif label is None:
        known = ", ".join(sorted(vocabulary))
        note(f"unrecognised label {shown(row['label'])}; recognised: {known}")
    participant = cells.pseudonym(row["participant"], "participant", note)
    if not per_file and cells.is_empty(row["participant"]):
        note("no participant")
    utterance = cells.meaning(
        row["utterance"] or "sentence", cells.UTTERANCE_WORDS, "utterance", note
    )
    if utterance == "consent":
        note("a spoken consent holds a name and enters no dataset; leave it out of the table")
    listed = Listed(
        file=file or "",
        label=label or "unknown",
        participant=participant,
        visit=cells.pseudonym(row["visit"], "visit", note),
        utterance=utterance or "other",
        side=cells.meaning(row["split"], cells.SIDE_WORDS, "split", note),
        site=cells.name(row["site"], "site", note),
        device=cells.name(row["device"], "device", note),
        sex=cells.meaning(row["sex"], cells.SEX_WORDS, "sex", note),
        age=cells.age(row["age"], note),
        spo2_percent=cells.spo2_percent(row["spo2"], note),
        recorded_at=cells.time(row["time"], note),
    )
    told = file is not None and label is not None and (per_file or participant is not None)
    return listed if told else None


def _add_noise(table: Table, columns: Mapping[str, str], listing: _Listing) -> None:
    """Noise tables name their columns as the table of recordings does; only the path is needed."""
    here = {
        key: columns[key]
        for key in ("path", "site", "split")
        if key == "path" or columns.get(key) in table.header
    }
    for number, row in listing.rows(table, here):
        note = listing.noting(table.name, number)
        file = listing.inside(row["path"].replace("\\", "/"), note)
        site = cells.name(row["site"], "site", note)
        side = cells.meaning(row["split"], cells.SIDE_WORDS, "split", note)
        if file is not None:
            listing.add(table.name, number, ListedNoise(file, site, side))


def _columns(mapping: ColumnMapping, table: Table) -> dict[str, str]:
    """Our word for a column -> the table's."""
    if mapping.columns is not None:
        named: dict[str, str | None] = mapping.columns.model_dump()
        return {key: column for key, column in named.items() if column is not None}
    own = {key: key for key in Columns.model_fields if key in table.header}
    return {"path": "path", "label": "label"} | own


def _given_words(mapping: ColumnMapping, path: Path | None) -> dict[str, Label]:
    assert mapping.labels is not None
    meanings: dict[str, Label] = {}
    for label in LABELS:
        for given in getattr(mapping.labels, label):
            if meanings.setdefault(word(given), label) != label:
                both = f"{meanings[word(given)]} and {label}"
                raise InputError(f"mapping {path}: labels: {given!r} stands for {both}")
    return meanings


# What rows say together


def _check_files(
    rows: Iterable[tuple[str, int | None, Listed | ListedNoise]], faults: Faults
) -> None:
    places: dict[str, list[tuple[str, int | None]]] = {}
    for table, number, row in rows:
        places.setdefault(row.file, []).append((table, number))
    for file, listed in places.items():
        if len(listed) > 1:
            for table, number in listed:
                faults.add(table, f"{shown(file)} is listed {len(listed)} times", number)


def _check_people(rows: Iterable[tuple[str, int | None, Listed]], faults: Faults) -> None:
    """A person has one sex and one split; a visit one label and one age.

    Without a visit, all recordings of a participant count as one.
    """
    people: dict[str, list[tuple[str, int | None, Listed]]] = {}
    visits: dict[tuple[str, str | None], list[tuple[str, int | None, Listed]]] = {}
    for place in rows:
        row = place[2]
        if row.participant is not None:
            people.setdefault(row.participant, []).append(place)
            visits.setdefault((row.participant, row.visit), []).append(place)

    def check(places: list[tuple[str, int | None, Listed]], attribute: str, fault: str) -> None:
        values = {getattr(row, attribute) for _, _, row in places} - {None}
        if len(values) > 1:
            for table, number, _ in places:
                faults.add(table, fault, number)

    for person, places in people.items():
        check(places, "sex", f"participant {person} has two sexes")
        check(places, "side", f"participant {person} is in two splits; a person belongs to one")
    for (person, visit), places in visits.items():
        whom = f"participant {person}" if visit is None else f"participant {person}, visit {visit}"
        hint = "; recordings of several days need a visit column" if visit is None else ""
        check(places, "label", f"{whom} has two labels{hint}")
        check(places, "age", f"{whom} has two ages{hint}")


# Folders


def _files_in(folder: Path, listing: _Listing) -> list[str]:
    """Every file of a class, however deep, but hidden ones."""

    def unreadable(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error

    found = []
    note = listing.noting(folder.name, None)
    for here, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            path = Path(here, name)
            if path.is_symlink():
                relative = path.relative_to(folder.parent).as_posix()
                note(f"{shown(relative)} is a link to a folder; put the recordings there")
        for name in files:
            if not name.startswith("."):
                file = listing.inside(Path(here, name).relative_to(folder.parent).as_posix(), note)
                found += [] if file is None else [file]
    return sorted(found)


def _is_audio(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return sniff(file.read(4096)) is not None
