"""Bad input, through the whole command: accepted and right, or refused with a sentence.

After every refusal nothing is half-written, and the next good command works.
"""

import csv
import errno
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import obstore
import pytest
import soundfile
import soxr
import yaml
from numpy.typing import NDArray

from spira.datasets.versions import load
from spira.stores.artifacts import ArtifactStore
from spira.training import pipeline

Ended = subprocess.CompletedProcess[str]
Spira = Callable[..., Ended]
Bytes = Callable[[Path], dict[str, dict[str, str]]]

WRONG_INPUT, DAMAGED, LATER = 2, 70, 75


def assert_refused(ended: Ended, *words: str, code: int = WRONG_INPUT) -> None:
    """It ended with the code, and with sentences of ours that hold all of the words."""
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    sentences = [line for line in ended.stderr.splitlines() if line.startswith("spira: ")]
    for word in words:
        assert word in "\n".join(sentences), ended.stderr


def manifests(home: Path) -> set[str]:
    """What is committed in a data folder: STAGE/FINGERPRINT."""
    found = (home / "store" / "manifests").glob("*/*.json")
    return {f"{path.parent.name}/{path.stem}" for path in found}


def assert_whole(home: Path) -> None:
    """Every file that a manifest names is there with its size; nothing is half-written."""
    for path in (home / "store" / "manifests").glob("*/*.json"):
        files = json.loads(path.read_text().partition("\n")[2])["files"]
        for digest, size in files.values():
            assert (home / "store" / "blobs" / digest[:2] / digest).stat().st_size == size
    assert not list((home / "store").rglob("*#*"))
    assert not list((home / "work").glob("*"))


def the_file(home: Path, stage: str, name: str) -> Path:
    """Where the bytes of a file of the only artifact of a stage lie."""
    (path,) = (home / "store" / "manifests" / stage).glob("*.json")
    digest: str = json.loads(path.read_text().partition("\n")[2])["files"][name][0]
    return home / "store" / "blobs" / digest[:2] / digest


def damage(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# ---- Recordings


@pytest.fixture(scope="module")
def voice(tiny_table: Path) -> NDArray[np.float32]:
    """Four seconds of the tiny corpus, 16 kHz, finer than 16 bit."""
    samples, _ = soundfile.read(tiny_table.parent / "p-001-sentence.wav", dtype="float32")
    return np.resize(0.9 * samples, 64_000).astype(np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, trained_home: Path) -> Path:
    """A data folder with a published model, for tests that change nothing in it."""
    return Path(shutil.copytree(trained_home, tmp_path_factory.mktemp("trained") / "home"))


@pytest.fixture(scope="module")
def bundle(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published model as a folder."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    folder.mkdir()
    for name in ("model.onnx", "model.json"):
        shutil.copyfile(the_file(trained, "publish", name), folder / name)
    return folder


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, voice: NDArray[np.float32]) -> Path:
    """A folder with one file of every kind that cannot be used, all named as if they could."""
    folder = tmp_path_factory.mktemp("bad")
    for kind, ending in {"wav": "wav", "flac": "flac", "ogg": "ogg", "mp3": "mp3"}.items():
        whole = folder / f"whole.{ending}"
        soundfile.write(whole, voice, 16_000, format=kind)
        data = whole.read_bytes()
        whole.unlink()
        (folder / f"truncated.{ending}").write_bytes(data[: len(data) * 2 // 3])
    (folder / "text.wav").write_text("This is no recording.\n" * 100)
    (folder / "no-bytes.wav").write_bytes(b"")
    soundfile.write(folder / "no-samples.wav", voice[:0], 16_000)
    soundfile.write(folder / "short.wav", voice[:3200], 16_000)
    holed = voice.copy()
    holed[8_000] = np.nan
    soundfile.write(folder / "nan.wav", holed, 16_000, subtype="FLOAT")
    soundfile.write(folder / "other.wav", voice, 16_000)
    (folder / "playlist.wav").write_text("ffconcat version 1.0\nfile 'other.wav'\n")
    shutil.move(folder / "other.wav", folder.parent / "other.wav")
    soundfile.write(folder / "integers.wav", voice * 32_768, 16_000, subtype="FLOAT")
    soundfile.write(folder / "huge.wav", voice * 1e20, 16_000, subtype="DOUBLE")
    with soundfile.SoundFile(folder / "endless.flac", "w", 1_000, 1, format="FLAC") as file:
        for _ in range(5):
            file.write(np.zeros(3_600_000, np.int16))
    (folder / "missing.wav").symlink_to("nowhere.wav")
    return folder


# file -> (reason in rejected.csv, what its sentence says)
REFUSED = {
    "truncated.wav": ("truncated", "announces 128000 bytes"),
    "truncated.flac": ("truncated", "64000 samples are announced"),
    "truncated.ogg": ("truncated", "last Ogg page"),
    "truncated.mp3": ("truncated", "announces"),
    "text.wav": ("not_audio", "not audio; wav, flac, ogg"),
    "no-bytes.wav": ("empty", "the file has no bytes"),
    "no-samples.wav": ("empty", "no samples in it"),
    "short.wav": ("too_short", "0.20 s of audio, at least 0.5 s"),
    "nan.wav": ("not_finite", "a sample at 0.500 s is not a finite number"),
    "integers.wav": ("out_of_scale", "divide 16-bit integers that were written as floats"),
    "huge.wav": ("out_of_scale", "full scale is 1 and at most 32 is read"),
    "endless.flac": ("too_long", "5.0 h of audio, at most 4 h is read"),
    "playlist.wav": ("not_audio", "not audio; wav, flac, ogg"),
    "missing.wav": ("missing", "no such file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_recording_that_cannot_be_used_is_refused_by_name(
    name: str, bad: Path, bundle: Path, here: Spira, tmp_path: Path
) -> None:
    """`spira predict` of one such file says which, what is wrong and where, and exits 2."""
    ended = here(tmp_path, "--json", "predict", str(bad / name), "--model", str(bundle))

    assert_refused(ended, "the file cannot be used")
    (answer,) = json.loads(ended.stdout)["answers"]
    assert answer["status"] == "refused"
    assert answer["detail"].startswith(f"{bad / name}: ")
    assert REFUSED[name][1] in answer["detail"]
    assert not {"outcome", "probability"} & answer.keys()


def test_one_bad_file_among_many_is_one_row(
    bad: Path, bundle: Path, here: Spira, tiny_table: Path, tmp_path: Path
) -> None:
    """The others are answered and the command succeeds; with none that can be used it exits 2."""
    good = str(tiny_table.parent / "p-001-sentence.wav")
    words = ("--json", "predict", "--force", "--model", str(bundle))

    one_bad = here(tmp_path, *words, good, str(bad / "text.wav"), good)
    all_bad = here(tmp_path, *words, str(bad / "text.wav"), str(bad / "nan.wav"))

    assert one_bad.returncode == 0
    rows = json.loads(one_bad.stdout)["answers"]
    assert [row["status"] for row in rows] == ["forced", "refused", "forced"]
    assert rows[0] == rows[2]
    assert_refused(all_bad, "none of the 2 files can be used")
    assert len(json.loads(all_bad.stdout)["answers"]) == 2


def test_bad_files_of_an_import_are_rows_and_stop_nothing(
    bad: Path, tiny_table: Path, here: Spira, tmp_path: Path
) -> None:
    """Each is in `rejected.csv` with its reason; of none anything enters the dataset."""
    source = tmp_path / "source"
    shutil.copytree(bad, source / "present", symlinks=True)
    (source / "absent").mkdir()
    for name, folder in {"p-000-sentence.wav": "absent", "p-001-sentence.wav": "present"}.items():
        shutil.copy(tiny_table.parent / name, source / folder)
    home = tmp_path / "home"

    ended = here(home, "dataset", "import", str(source), "--format", "folder", "--name", "mixed")

    assert ended.returncode == 0, ended.stderr
    assert f"{len(REFUSED)} recordings refused" in ended.stdout
    shown = json.loads(here(home, "--json", "dataset", "show", "mixed").stdout)
    assert {Path(row["file"]).name: row["reason"] for row in shown["rejected"]} == {
        name: reason for name, (reason, _) in REFUSED.items()
    }
    for row in shown["rejected"]:
        assert REFUSED[Path(row["file"]).name][1] in row["message"]
    assert shown["about"]["recordings"] == 2
    assert here(home, "dataset", "verify", "mixed").returncode == 0
    assert_whole(home)


def test_an_import_with_nothing_usable_is_refused(bad: Path, here: Spira, tmp_path: Path) -> None:
    """It exits 2, counts the reasons, gives an example of each, and leaves no dataset."""
    source, home = tmp_path / "source", tmp_path / "home"
    shutil.copytree(bad, source / "present", symlinks=True)
    (source / "absent").mkdir()
    shutil.copy(bad / "text.wav", source / "absent")

    ended = here(home, "dataset", "import", str(source), "--format", "folder")

    assert_refused(
        ended,
        f"{source}: no usable recording; 15 of 15 were refused",
        "not_audio: 3, such as absent/text.wav",
        "truncated: 4",
        "too_short: 1, such as present/short.wav: 0.20 s of audio",
    )
    assert not manifests(home)


def test_unusual_recordings_are_right(
    voice: NDArray[np.float32], bundle: Path, here: Spira, tmp_path: Path
) -> None:
    """8-bit and 32-bit float, 192 kHz and 7 channels, rates mixed in one folder: the same level,
    length and answer as of the plain recording."""
    source, home = tmp_path / "source", tmp_path / "home"
    seven = voice[:, None] * np.array([0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6], np.float32)
    forms: dict[str, tuple[NDArray[np.float32], int, str, int, str]] = {
        "present/plain.wav": (voice, 16_000, "PCM_16", 1, "pcm_s16le"),
        "present/8-bit.wav": (voice, 16_000, "PCM_U8", 1, "pcm_u8"),
        "present/float.wav": (voice, 16_000, "FLOAT", 1, "pcm_f32le"),
        "present/7-channels.wav": (seven, 16_000, "PCM_24", 7, "pcm_s24le"),
        "absent/192-khz.wav": (at(192_000, voice), 192_000, "PCM_24", 1, "pcm_s24le"),
        "absent/44-khz.wav": (at(44_100, voice), 44_100, "PCM_16", 1, "pcm_s16le"),
        "absent/48-khz.flac": (at(48_000, voice), 48_000, "PCM_16", 1, "flac"),
    }
    for name, (samples, rate_hz, subtype, _, _) in forms.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(source / name, samples, rate_hz, subtype=subtype)
    files = [str(source / name) for name in forms]

    imported = here(home, "dataset", "import", str(source), "--format", "folder", "--name", "forms")
    asked = here(home, "--json", "predict", *files, "--model", str(bundle), "--force")

    assert imported.returncode == 0, imported.stderr
    dataset = load(ArtifactStore.open(str(home / "store"), cache=home / "cache"), "forms")
    found = dataset.recordings.sort("n_bytes").select("rate_hz", "channels", "codec").rows()
    assert sorted(found) == sorted(
        (rate_hz, channels, codec) for _, rate_hz, _, channels, codec in forms.values()
    )
    assert dataset.recordings["duration_s"].to_list() == pytest.approx([4.0] * len(forms), abs=1e-4)
    levels = dataset.recordings["level_dbfs"].to_numpy()
    assert np.ptp(levels) < 0.2  # dB
    answers = json.loads(asked.stdout)["answers"]
    assert [answer["status"] for answer in answers] == ["forced"] * len(forms)
    plain, *others = (answer["probability"] for answer in answers)
    assert others == pytest.approx([plain] * len(others), abs=0.03)


def at(rate_hz: int, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """16 kHz samples at another rate."""
    return np.asarray(soxr.resample(samples, 16_000, rate_hz), np.float32)


@pytest.mark.parametrize(
    ("minutes", "most_mb"),
    [(10, 25), pytest.param(180, 100, marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
)
def test_a_long_recording_takes_no_more_memory_than_a_minute(
    minutes: int,
    most_mb: int,
    voice: NDArray[np.float32],
    bundle: Path,
    tmp_path: Path,
    spira_command: Callable[..., list[str]],
) -> None:
    """Predicted and imported, its peak memory is at most `most_mb` above that of one minute.

    The samples alone would take 38 MB for ten minutes, 691 MB for three hours.
    """

    def peaks(length: int) -> tuple[float, float]:
        source, home = tmp_path / f"{length}", tmp_path / f"home-{length}"
        for folder in ("present", "absent"):
            (source / folder).mkdir(parents=True)
        soundfile.write(source / "absent" / "other.wav", voice, 16_000)
        long = source / "present" / "long.wav"
        with soundfile.SoundFile(long, "w", 16_000, 1, "PCM_U8") as file:
            for _ in range(length):
                file.write(np.resize(voice, 960_000))
        asking = ("--json", "predict", str(long), "--model", str(bundle), "--force")
        asked, out = peak_mb(spira_command(home, *asking))
        assert json.loads(out)["answers"][0]["status"] == "forced"
        importing = ("dataset", "import", str(source), "--format", "folder", "--name", "long")
        imported, _ = peak_mb(spira_command(home, *importing, "--jobs", "1"))
        dataset = load(ArtifactStore.open(str(home / "store"), cache=home / "cache"), "long")
        assert dataset.recordings["duration_s"].max() == 60 * length
        return asked, imported

    of_a_minute, of_many = peaks(1), peaks(minutes)

    print(f"{minutes} min: {of_many} MB, 1 min: {of_a_minute} MB (predict, import)")
    for minute, many in zip(of_a_minute, of_many, strict=True):
        assert many - minute < most_mb


def peak_mb(words: list[str]) -> tuple[float, str]:
    """Run a command; the most memory that one of its processes ever held, and what it printed."""
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    peak = 0.0
    while True:
        try:
            out, errors = process.communicate(timeout=0.05)
            break
        except subprocess.TimeoutExpired:
            peak = max([peak, *_held_mb(process.pid)])
    assert process.returncode == 0, errors
    assert peak > 0
    return peak, out


def _held_mb(session: int) -> Iterator[float]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == session:
                status = (folder / "status").read_text()
                yield int(status.partition("VmHWM:")[2].split()[0]) / 1024
        except (OSError, IndexError):  # it ended meanwhile
            continue


# ---- Tables


class Wrong(NamedTuple):
    """A table that is wrong, and what is said of it."""

    change: Callable[[list[dict[str, str]]], list[dict[str, str]]]
    said: tuple[str, ...]
    columns: tuple[str, ...] = ()  # mapped beside the usual ones


WRONG = {
    "missing columns": Wrong(
        lambda rows: [
            {key: row[key] for key in row if key not in ("label", "participant")} for row in rows
        ],
        ("table.csv: no column 'label' (for label)", "no column 'participant' (for participant)"),
    ),
    "a misspelled column": Wrong(
        lambda rows: [{"lable" if k == "label" else k: v for k, v in row.items()} for row in rows],
        ("no column 'label' (for label); did you mean lable?",),
    ),
    "duplicate rows": Wrong(
        lambda rows: [*rows, rows[0], rows[3]],
        ("table.csv, rows 2, 10: 'p-000-sentence.wav' is listed 2 times", "rows 5, 11: "),
    ),
    "unrecognised labels": Wrong(
        lambda rows: [rows[0] | {"label": "ill"}, rows[1] | {"label": "well"}, *rows[2:]],
        (
            "table.csv, row 2: unrecognised label 'ill'; recognised: absent, present",
            "table.csv, row 3: unrecognised label 'well'",
        ),
    ),
    "one class only": Wrong(
        lambda rows: [row | {"label": "present"} for row in rows],
        ("table.csv: no recording with RI absent; a dataset needs both classes",),
    ),
    "a participant in two splits": Wrong(
        lambda rows: [
            row | {"split": "train" if number % 2 else "test"} for number, row in enumerate(rows)
        ],
        ("rows 2, 3: participant p-000 is in two splits; a person belongs to one",),
        ("split",),
    ),
    "several mistakes": Wrong(
        lambda rows: [
            rows[0] | {"label": "ill", "age": "ninety"},
            *rows[1:4],
            rows[4] | {"participant": "Maria da Silva"},
        ],
        (
            "row 2: unrecognised label 'ill'",
            "row 2: age is not a whole number of years",
            "row 6: participant is not a pseudonym",
        ),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_table_is_refused_before_any_audio_is_read(
    case: str, tiny_table: Path, here: Spira, tmp_path: Path
) -> None:
    """Every fault is told at once, with its rows; no dataset is left, and the mended one works."""
    wrong = WRONG[case]
    with tiny_table.open(newline="") as file:
        rows = list(csv.DictReader(file))[:8]
    for row in rows:
        shutil.copy(tiny_table.parent / row["file"], tmp_path)
    mapping = yaml.safe_load((tiny_table.parent / "mapping.yaml").read_text())
    del mapping["noise"]
    home, table = tmp_path / "home", tmp_path / "table.csv"
    importing = ("dataset", "import", str(table), "--format", "csv")

    write_table(table, wrong.change(rows), mapping, wrong.columns)
    refused = here(home, *importing)
    left = manifests(home)
    write_table(table, rows, mapping, ())
    mended = here(home, *importing)

    assert_refused(refused, *wrong.said)
    assert "Maria" not in refused.stderr
    assert not left
    assert mended.returncode == 0, mended.stderr


def write_table(
    path: Path, rows: list[dict[str, str]], mapping: dict[str, Any], columns: tuple[str, ...]
) -> None:
    """The table and its mapping, with more columns mapped."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    both = mapping | {"columns": mapping["columns"] | {name: name for name in columns}}
    path.with_name("mapping.yaml").write_text(yaml.safe_dump(both))


def test_a_table_that_is_not_there_is_named(here: Spira, tmp_path: Path) -> None:
    """A missing table, folder or mapping, and a file that is no table, exit 2 with its name."""
    (tmp_path / "sound.csv").write_bytes(b"RIFF\xff\xfe\x00WAVE")

    for words, said in {
        ("nowhere.csv", "--format", "csv"): "nowhere.csv: cannot be read (no such file",
        ("sound.csv", "--format", "csv"): "sound.csv: neither Parquet nor UTF-8 text",
        ("nowhere", "--format", "folder"): "nowhere: no such folder",
        ("nowhere", "--format", "acl2021"): "nowhere: no such folder",
        ("sound.csv", "--format", "folder"): "sound.csv: not a folder",
    }.items():
        path = str(tmp_path / words[0])
        assert_refused(here(tmp_path / "home", "dataset", "import", path, *words[1:]), said)
    assert not manifests(tmp_path / "home")


# ---- Experiments


TYPOS = """\
name: tiny
sed: 7
split: {fractions: {train: 0.5, validation: 0.2, test: 0.2}}
noise: {kind: snr, presnt: 1}
network: {kind: compakt}
optimisation:
  epochs: 0
  epochs: 6
  rate: 3.0e-3
"""


def test_every_mistake_of_an_experiment_is_told_at_once(
    tiny_home: Path, here: Spira, copy: Callable[[Path], Path], tmp_path: Path
) -> None:
    """With its line and the nearest known key; nothing runs and no run is recorded."""
    path = tmp_path / "typos.yaml"
    path.write_text(TYPOS)
    home = copy(tiny_home)

    ended = here(home, "train", str(path), "--data", "tiny", "--set", "windows.lenght_s=2")

    assert_refused(
        ended,
        f"{path}, line 2: unknown key sed; did you mean seed?",
        "line 3: split.fractions: ",
        "line 4: unknown key noise.presnt; did you mean present?",
        "line 5: network.kind must be one of",
        "line 8: key optimisation.epochs is given twice",
        "line 9: unknown key optimisation.rate; did you mean optimisation.optimiser.rate?",
        "(--set): unknown key windows.lenght_s; did you mean length_s?",
    )
    assert not (home / "runs").exists()


def test_what_is_not_an_experiment_is_named(
    tiny_home: Path, tiny_experiment: Path, here: Spira, bad: Path
) -> None:
    """A missing file, a folder, audio, a list, an unknown dataset, setting, stage or command."""
    data = ("--data", "tiny")
    experiment = str(tiny_experiment)
    for words, said in {
        ("train", "nowhere.yaml", *data): "nowhere.yaml: cannot be read (no such file",
        ("train", str(bad), *data): "cannot be read (is a directory)",
        ("train", str(bad / "short.wav"), *data): "cannot be read (not UTF-8 text)",
        ("train", str(bad / "text.wav"), *data): "must be a mapping of keys",
        ("train", experiment, "--data", "tinny"): "dataset 'tinny': unknown; did you mean tiny?",
        ("train", experiment, *data, "--set", "seed"): "--set seed: write it as key=value",
        ("stage", "trian", experiment, *data): "stage trian: unknown; did you mean train?",
        ("--setting", "stores.registri=x", "model", "list"): "did you mean stores.registry?",
        ("runs", "show", "nothing"): "run nothing: 0 runs",
    }.items():
        assert_refused(here(tiny_home, *words), said)
    assert not (tiny_home / "runs").exists()


def test_too_few_participants_are_counted_by_side_and_label(
    tiny_home: Path, tiny_experiment: Path, here: Spira, copy: Callable[[Path], Path]
) -> None:
    """The split is refused with what is missing where; other fractions then work."""
    home = copy(tiny_home)
    split = ("stage", "split", str(tiny_experiment), "--data", "tiny")
    fractions = "split.fractions={train: 0.998, validation: 0.001, test: 0.001}"

    here(home, "stage", "snapshot", str(tiny_experiment), "--data", "tiny")
    refused = here(home, *split, "--set", fractions)
    left = manifests(home)
    mended = here(home, *split)

    assert_refused(
        refused,
        "split: 0 participants with RI present in validation, at least 1 needed",
        "split: 0 participants with RI absent in validation, at least 1 needed",
        "add participants or change split.fractions",
    )
    assert not any(name.startswith("split/") for name in left)
    assert mended.returncode == 0, mended.stderr


def test_an_experiment_that_is_left_with_one_class_is_refused(
    tiny_home: Path, tiny_experiment: Path, here: Spira, copy: Callable[[Path], Path]
) -> None:
    """It exits 2 and counts what is left; the run is recorded as failed with the same sentence."""
    home = copy(tiny_home)

    ended = here(home, "train", str(tiny_experiment), "--data", "tiny", "--set", "utterance=vowel")

    assert_refused(ended, "0 recordings with RI present and 0 absent", "both classes are needed")
    (run,) = json.loads(here(home, "--json", "runs", "list").stdout)
    assert run["state"] == "failed"
    assert f"spira: {run['reason']}" in ended.stderr
    assert not any(name.startswith("snapshot/") for name in manifests(home))


# ---- Full and unwritable disks


def full_disk(*arguments: Any, **options: Any) -> Any:
    """What obstore raises on a full disk."""
    raise obstore.exceptions.GenericError(
        "Generic LocalFileSystem error: Unable to copy data to file: "
        f"No space left on device (os error {errno.ENOSPC})"
    )


def test_a_disk_full_at_any_write_loses_nothing(
    tiny_home: Path,
    trained_home: Path,
    tiny_experiment: Path,
    here: Spira,
    copy: Callable[[Path], Path],
    bytes_of_stages: Bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every write of a run fails once, each in its turn: of every file and manifest of every
    artifact, and of every checkpoint. The same command goes on and ends with the same bytes."""
    home = copy(tiny_home)
    put, function_of = obstore.put, pipeline._function
    room = 0  # writes that still succeed
    results: dict[str, Any] = {}

    def scarce(*arguments: Any, **options: Any) -> Any:
        nonlocal room
        if not room:
            full_disk()
        room -= 1
        return put(*arguments, **options)

    def remembered(stage: pipeline.StageName) -> Callable[[pipeline.Work], Any]:
        """A result follows from its inputs: computed once, it is committed in vain many times."""

        def result(work: pipeline.Work) -> Any:
            if stage not in results:
                results[stage] = function_of(stage)(work)
            files, about = results[stage]
            return files, dict(about)

        return result

    monkeypatch.setattr("spira.stores.artifacts.obstore.put", scarce)
    monkeypatch.setattr(pipeline, "_function", remembered)
    training = ("train", str(tiny_experiment), "--data", "tiny")

    refused = []
    while (ended := here(home, *training)).returncode:
        assert_refused(ended, "the disk is full; free some space", code=LATER)
        assert_whole(home)
        refused.append(ended.stderr)
        room = 1  # what failed now succeeds, and the next write fails

    assert bytes_of_stages(home) == bytes_of_stages(trained_home)
    for stage in (*pipeline.STAGES, "features-shard"):
        assert any(f"committing {stage} " in text for text in refused), stage
    assert any("saving checkpoint" in text for text in refused)
    files = {digest for stage in bytes_of_stages(home).values() for digest in stage.values()}
    made = files - {d for stage in bytes_of_stages(tiny_home).values() for d in stage.values()}
    assert len(refused) >= len(made) + len(manifests(home)) - len(manifests(tiny_home))
    runs = json.loads(here(home, "--json", "runs", "list").stdout)
    assert Counter(run["state"] for run in runs) == {"complete": 1, "failed": len(refused)}
    print(f"{len(refused)} writes failed")


@pytest.mark.parametrize("written", [0, 7, 81, 82])
def test_a_disk_full_during_an_import_leaves_no_dataset(
    written: int,
    tiny_home: Path,
    tiny_table: Path,
    here: Spira,
    tmp_path: Path,
    bytes_of_stages: Bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the first file, in the middle, at the manifest, at the name: the same command mends it."""
    importing = ("dataset", "import", str(tiny_table), "--format", "csv", "--name", "tiny")
    put, home = obstore.put, tmp_path / "home"
    room = written

    def scarce(*arguments: Any, **options: Any) -> Any:
        nonlocal room
        if not room:
            full_disk()
        room -= 1
        return put(*arguments, **options)

    with monkeypatch.context() as context:
        context.setattr("spira.stores.artifacts.obstore.put", scarce)
        refused = here(home, *importing)
    unnamed = here(home, "dataset", "show", "tiny")
    mended = here(home, *importing)

    assert_refused(refused, "the disk is full; free some space", code=LATER)
    assert_refused(unnamed, "dataset 'tiny': unknown")
    assert mended.returncode == 0, mended.stderr
    assert bytes_of_stages(home)["dataset"] == bytes_of_stages(tiny_home)["dataset"]


def test_a_small_disk_that_is_really_full(
    trained_home: Path,
    tiny_table: Path,
    tiny_experiment: Path,
    here: Spira,
    tmp_path: Path,
    mount: Callable[..., Path],
    bytes_of_stages: Bytes,
) -> None:
    """No room for a lock, a run's record, a worker's file, a shard, MLflow's tables, a bundle:
    each is told in a sentence; with room again, the same bytes."""
    disk = mount(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64m", "none")
    training = ("train", str(tiny_experiment), "--data", "tiny")
    home = Path(shutil.copytree(trained_home, disk / "home"))

    def with_room(kilobytes: int, *words: str) -> Ended:
        usage = shutil.disk_usage(disk)
        size = usage.used // 1024 + kilobytes
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)
        return here(home, *words)

    for stage in ("features", "features-shard", "publish"):
        shutil.rmtree(home / "store" / "manifests" / stage)
    shutil.rmtree(home / "mlflow")
    assert here(home, "runs", "clean").returncode == 0  # removes the files that nothing names now

    for kilobytes in (0, 60, 4_000, 23_000):
        ended = with_room(kilobytes, *training)
        assert_refused(ended, "the disk is full", code=LATER)
        assert_whole(home)
    assert with_room(40_000, "stage", "features", *training[1:]).returncode == 0
    refusals = 0
    for kilobytes in range(200, 20_000, 250):  # MLflow's tables, then its files, find no room
        ended = with_room(kilobytes, *training)
        assert_whole(home)
        if ended.returncode == 0:
            break
        assert_refused(ended, "the disk is full", code=LATER)
        refusals += 1
    import_elsewhere = ("--home", str(disk / "new"), "dataset", "import", str(tiny_table))
    refused = with_room(3_000, *import_elsewhere, "--format", "csv")

    assert refusals >= 3
    assert_refused(refused, "committing dataset", "the disk is full", code=LATER)
    assert not manifests(disk / "new")
    assert ended.returncode == 0, ended.stderr
    assert bytes_of_stages(home) == bytes_of_stages(trained_home)
    (version,) = json.loads(here(home, "--json", "model", "list").stdout)
    assert version["aliases"] == ["challenger"]


def test_a_folder_that_cannot_be_written_is_named(
    trained: Path,
    tiny_table: Path,
    tiny_experiment: Path,
    here: Spira,
    tmp_path: Path,
    mount: Callable[..., Path],
) -> None:
    """Mounted read-only: whatever writes exits 2 and names the folder; writable again, it works."""
    home = mount(tmp_path / "read-only", "--bind", str(trained))
    subprocess.run(["mount", "-o", "remount,bind,ro", str(home)], check=True)
    experiment = (str(tiny_experiment), "--data", "tiny")
    importing = ("dataset", "import", str(tiny_table), "--format", "csv")

    for words in (
        ("train", *experiment),
        ("stage", "split", *experiment),
        ("dataset", "synthesize", "--participants", "4"),
        importing,
        ("runs", "clean"),
        ("--home", str(home / "new"), *importing),
        ("--home", str(home / "new"), "model", "list"),
    ):
        assert_refused(here(home, *words), str(home))
    assert here(home, "runs", "list").returncode == 0  # reading is no writing
    assert here(home, "model", "list").returncode == 0
    subprocess.run(["mount", "-o", "remount,bind,rw", str(home)], check=True)
    assert here(home, "train", *experiment).returncode == 0


def test_a_file_where_the_data_folder_should_be_is_named(
    tiny_table: Path, here: Spira, tmp_path: Path
) -> None:
    """The path is in the sentence, and the exit code is 2."""
    (tmp_path / "file").write_text("")

    for words in (
        ("dataset", "import", str(tiny_table), "--format", "csv"),
        ("dataset", "list"),
        ("runs", "clean"),
        ("model", "list"),
    ):
        assert_refused(here(tmp_path / "file", *words), str(tmp_path / "file"))


# ---- Registries, artifacts and models


@pytest.fixture
def nobody() -> str:
    """The address of a port that nobody listens on, with a password in it."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://someone:secret@127.0.0.1:{listener.getsockname()[1]}"


def test_a_registry_that_does_not_answer_is_named(
    trained_home: Path,
    tiny_experiment: Path,
    tiny_table: Path,
    here: Spira,
    copy: Callable[[Path], Path],
    nobody: str,
) -> None:
    """Publishing, listing and predicting exit 75 and name the setting; what was trained stays."""
    home = copy(trained_home)
    before = manifests(home)
    away = ("--setting", f"stores.registry={nobody}")
    training = ("train", str(tiny_experiment), "--data", "tiny")

    for words in (
        training,
        ("model", "list"),
        ("predict", str(tiny_table.parent / "p-001-sentence.wav")),
    ):
        ended = here(home, *away, *words)
        assert_refused(ended, "model registry: ", "stores.registry does not answer", code=LATER)
        assert "secret" not in ended.stdout + ended.stderr
    assert manifests(home) == before
    assert_whole(home)
    assert here(home, *training).stdout.count("already done") == len(pipeline.STAGES)


def test_a_damaged_dataset_is_found_named_and_mended(
    tiny_home: Path,
    tiny_table: Path,
    tiny_experiment: Path,
    here: Spira,
    copy: Callable[[Path], Path],
) -> None:
    """A flipped bit in a recording stops `verify` and `features` with exit code 70; importing
    again mends it. A damaged manifest is found too."""
    home = copy(tiny_home)
    digest = load(ArtifactStore.open(str(home / "store"), cache=home), "tiny").recordings["sha256"]
    importing = ("dataset", "import", str(tiny_table), "--format", "csv", "--name", "tiny")
    experiment = (str(tiny_experiment), "--data", "tiny")
    here(home, "stage", "snapshot", *experiment)

    damage(the_file(home, "dataset", f"audio/{digest[0]}"))
    verified = here(home, "dataset", "verify", "tiny")
    used = here(home, "stage", "features", *experiment)
    mended = here(home, *importing)

    assert_refused(verified, "1 of 82 files are damaged", f"audio/{digest[0]}", code=DAMAGED)
    assert_refused(used, "dataset ", f"audio/{digest[0]}", "do not match", code=DAMAGED)
    assert mended.returncode == 0, mended.stderr
    assert here(home, "dataset", "verify", "tiny").returncode == 0

    (manifest,) = (home / "store" / "manifests" / "dataset").glob("*.json")
    damage(manifest)
    assert_refused(here(home, "train", *experiment), "manifest is damaged", code=DAMAGED)
    assert here(home, *importing).returncode == 0
    assert here(home, "dataset", "verify", "tiny").returncode == 0


def test_a_damaged_input_of_a_stage_is_named(
    trained_home: Path, tiny_experiment: Path, here: Spira, copy: Callable[[Path], Path]
) -> None:
    """A stage alone does not use it: exit code 70, which file, and what to do."""
    home = copy(trained_home)
    shutil.rmtree(home / "store" / "manifests" / "publish")
    damage(the_file(home, "evaluate", "model.onnx"))

    ended = here(home, "stage", "publish", str(tiny_experiment), "--data", "tiny")

    assert_refused(ended, "evaluate ", "/model.onnx", "run the stage again", code=DAMAGED)
    assert not any(name.startswith("publish/") for name in manifests(home))


def test_a_damaged_model_does_not_answer(
    trained_home: Path,
    tiny_table: Path,
    tiny_experiment: Path,
    here: Spira,
    copy: Callable[[Path], Path],
) -> None:
    """A damaged copy is fetched again; where the registry's own file is damaged, exit code 70."""
    home = copy(trained_home)
    shutil.rmtree(home / "mlflow")  # a copied one still names the files of the first
    shutil.rmtree(home / "store" / "manifests" / "publish")
    here(home, "train", str(tiny_experiment), "--data", "tiny")
    asking = ("predict", str(tiny_table.parent / "p-001-sentence.wav"), "--model", "challenger")
    first = here(home, *asking)
    (cached,) = (home / "cache" / "models").glob("*/model.onnx")
    (registered,) = (home / "mlflow" / "artifacts").rglob("model.onnx")

    damage(cached)
    again = here(home, *asking)
    damage(cached)
    damage(registered)
    refused = here(home, *asking)

    assert first.returncode == 0, first.stderr
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert_refused(refused, "model 1/model.onnx", "do not match", code=DAMAGED)
    assert not refused.stdout


def test_a_model_of_a_newer_version_or_damaged_is_refused(
    bundle: Path, tiny_table: Path, here: Spira, tmp_path: Path
) -> None:
    """Its format, its manifest and its network are looked at before it is asked anything."""
    manifest = json.loads((bundle / "model.json").read_text())
    for change, code, said in (
        ({"format_version": 3}, WRONG_INPUT, "its format is version 3, this SPIRA reads version 2"),
        ({"network_sha256": "0" * 64}, DAMAGED, "model.json is not as it was published"),
        ({"envelope": None}, WRONG_INPUT, "envelope"),
    ):
        folder = Path(shutil.copytree(bundle, tmp_path / "bundle", dirs_exist_ok=True))
        (folder / "model.json").write_text(json.dumps(manifest | change))

        ended = here(
            tmp_path,
            "predict",
            str(tiny_table.parent / "p-001-sentence.wav"),
            "--model",
            str(folder),
        )

        assert_refused(ended, str(folder), said, code=code)
        assert not ended.stdout


def test_a_registry_that_is_no_database_is_named(
    trained_home: Path, here: Spira, copy: Callable[[Path], Path]
) -> None:
    """Exit code 70, and what to do; the data folder's other commands work."""
    home = copy(trained_home)
    (home / "mlflow" / "mlflow.db").write_bytes(b"no database" * 1000)

    ended = here(home, "model", "list")

    assert_refused(ended, "mlflow.db is damaged", code=DAMAGED)
    assert here(home, "dataset", "list").returncode == 0
    assert here(home, "about").returncode == 0
