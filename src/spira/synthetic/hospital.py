"""The synthetic hospital: a folder of visits, with its tables and its truth.

    recordings.csv, noise.csv, mapping.yaml   what `spira dataset import --format csv` reads
    audio/p-00001/sentence.webm               one folder a participant
    noise/site-1-01.flac                      the empty rooms, amid ward noise
    truth/hospital.json                       the configuration and the rules
    truth/truth.parquet                       what was planted in each recording, and where

Every recording is a pure function of the seed and its own names: the number of processes, the
order of work and a kill in its middle change nothing. The tables are written last.
"""

import csv
import errno
import io
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import soundfile
from numpy.typing import NDArray

from spira.domain.draws import draws
from spira.domain.errors import InputError, TransientError
from spira.domain.fingerprint import fingerprint
from spira.domain.progress import Progress, no_progress
from spira.stores.locks import locked
from spira.stores.processes import end_with_parent
from spira.synthetic.devices import DEVICES, capture
from spira.synthetic.physiology import draw_breathing, typical_breathing
from spira.synthetic.records import (
    COUPLING,
    SHORTCUTS,
    SPEECH_PEAK,
    SPO2_PERCENT,
    VISIT_ORDER,
    Participant,
    UtteranceName,
    admit,
)
from spira.synthetic.records import Hospital as Hospital
from spira.synthetic.rooms import background, reverberate, room_of
from spira.synthetic.utterances import Spoken, Utterance, speak
from spira.synthetic.voices import RATE_HZ, Voices, draw_voice, require_voices

GENERATOR_VERSION = 1  # changes when the same configuration begins to give other bytes

_AMBIENT_S = (5.0, 6.0)
_VOWEL_S = (5.5, 7.0)
_NOISE_S = (14.0, 16.0)
_NOISE_DBFS = (-32.0, -22.0)
_NOISE_SPREAD_DB = 5.0  # each noise recording is an hour of its own

_MAPPING = """\
columns: {path: file, participant: participant, visit: visit, utterance: utterance, \
label: label, sex: sex, age: age, site: site, device: device, spo2: spo2_percent, \
time: recorded_at}
labels: {present: [present], absent: [absent]}
noise: noise.csv
origin: synthetic
language: pt-BR
"""


def synthesize(
    folder: Path, config: Hospital, *, jobs: int = 1, progress: Progress = no_progress
) -> None:
    """Write the hospital's recordings, tables and truth into `folder`.

    What an interrupted run of the same configuration left there is kept and completed; the bytes
    are the same in the end.

    jobs      worker processes, each with a voice process of its own
    raises    InputError when the folder holds anything else, cannot be written, or voices are not
              installed; TransientError on a full disk, or when somebody else is writing there
    """
    if any(name in get_args(Spoken) for name in config.utterances):
        require_voices()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock", wait=False):
            _claim(folder, config)
            _fill(folder, config, jobs, progress)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise TransientError(
                f"synthetic hospital {folder}: the disk is full; free some space and run the "
                "same command again, what is done stays done"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
            raise InputError(
                f"synthetic hospital {folder}: cannot be written ({error.strerror}); "
                "choose another folder"
            ) from error
        raise


# The folder: whose it is, what is missing, and what is written last.


def _claim(folder: Path, config: Hospital) -> None:
    """Mark the folder as this configuration's, or refuse one that holds anything else."""
    marker = folder / "truth" / "hospital.json"
    values = config.model_dump(mode="json")
    name = fingerprint({"generator": GENERATOR_VERSION, "config": values})
    if marker.exists():
        if json.loads(marker.read_text())["fingerprint"] != name:
            raise InputError(
                f"synthetic hospital {folder}: holds a hospital of another configuration or "
                "version; choose another folder, or delete this one"
            )
        return
    if any(path.name not in (".lock", "truth") for path in folder.iterdir()):
        raise InputError(f"synthetic hospital {folder}: not empty; choose another folder")
    rules = {
        "breathing": {
            "present": asdict(typical_breathing("present", config.effect)),
            "absent": asdict(typical_breathing("absent", config.effect)),
        },
        "label_policy": "ri-v1",
        "spo2_percent": SPO2_PERCENT,
        "speech_peak": SPEECH_PEAK,
        "coupling": COUPLING,
        "shortcuts": SHORTCUTS,
    }
    about = {
        "fingerprint": name,
        "generator": GENERATOR_VERSION,
        "config": values,
        "rules": rules,
    }
    marker.parent.mkdir(exist_ok=True)
    _write(marker, json.dumps(about, indent=2, sort_keys=True).encode() + b"\n")


def _fill(folder: Path, config: Hospital, jobs: int, progress: Progress) -> None:
    """Make what is missing; a finished folder from which nothing is missing stays untouched."""
    people = admit(config)
    finished = (folder / "recordings.csv").exists()
    visits = [
        person
        for person in people
        if not (finished or _truth_part(folder, person).exists())
        or not all((folder / _audio(person, name)).exists() for name in config.utterances)
    ]
    noises = [name for name in _noise_files(config) if not (folder / name).exists()]
    for path in ("audio", "noise", "truth/parts"):
        (folder / path).mkdir(exist_ok=True)
    tasks: list[Callable[[], None]] = [
        partial(_make_noise, folder, config, name) for name in noises
    ]
    tasks += [partial(_make_visit, folder, config, person) for person in visits]
    _run(tasks, jobs, progress)
    if not finished:
        _write(folder / "truth" / "truth.parquet", _truth_table(folder, people))
        _write(folder / "mapping.yaml", _MAPPING.encode())
        _write(folder / "noise.csv", _csv(("file", "site"), _noise_files(config).items()))
        _write(folder / "recordings.csv", _recordings_table(config, people))
    shutil.rmtree(folder / "truth" / "parts")


def _audio(person: Participant, utterance: UtteranceName) -> str:
    return f"audio/{person.id}/{utterance}.{DEVICES[person.device].suffix}"


def _truth_part(folder: Path, person: Participant) -> Path:
    return folder / "truth" / "parts" / f"{person.id}.json"


def _noise_files(config: Hospital) -> dict[str, str]:
    """File -> site."""
    return {
        f"noise/{site}-{number:02d}.flac": site
        for site in config.site_names
        for number in range(1, config.noise_per_site + 1)
    }


def _utterances(config: Hospital) -> list[UtteranceName]:
    return sorted(config.utterances, key=VISIT_ORDER.index)


def _recordings_table(config: Hospital, people: Sequence[Participant]) -> bytes:
    head = (
        *("file", "participant", "visit", "utterance", "label", "sex", "age", "site", "device"),
        *("spo2_percent", "recorded_at"),
    )
    rows = (
        (
            *(_audio(person, name), person.id, person.id.replace("p-", "v-"), name, person.label),
            *(person.sex, person.age, person.site, person.device, person.spo2_percent),
            (person.visited_at + timedelta(minutes=VISIT_ORDER.index(name))).isoformat(),
        )
        for person in people
        for name in _utterances(config)
    )
    return _csv(head, rows)


def _truth_table(folder: Path, people: Sequence[Participant]) -> bytes:
    import polars as pl

    schema: dict[str, Any] = {
        **dict.fromkeys(("file", "participant", "utterance", "label", "noise"), pl.String),
        **dict.fromkeys(("duration_s", "peak", "noise_dbfs", "snr_db"), pl.Float64),
        **dict.fromkeys(("jitter", "shimmer_db", "pause_sum_s"), pl.Float64),
        "words": pl.Int64,
        "finished": pl.Boolean,
        **dict.fromkeys(("group_starts_s", "group_ends_s", "pauses_s"), pl.List(pl.Float64)),
        **dict.fromkeys(("inhalations_db", "decays_db"), pl.List(pl.Float64)),
        "group_words": pl.List(pl.Int64),
        "coupled": pl.List(pl.String),
    }
    rows = [row for person in people for row in json.loads(_truth_part(folder, person).read_text())]
    file = io.BytesIO()
    pl.DataFrame(rows, schema=schema).write_parquet(file)
    return file.getvalue()


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue().encode()


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: a kill leaves a `.part`, which the next run overwrites."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


# The work, in this process or in several.

_voices: Voices | None = None  # of this process, started when first needed


def _run(tasks: Sequence[Callable[[], None]], jobs: int, progress: Progress) -> None:
    what = "synthesizing"
    if jobs <= 1 or len(tasks) <= 1:
        try:
            for done, task in enumerate(tasks, start=1):
                task()
                progress(what, done, len(tasks))
        finally:
            _stop_voices()
        return
    processes = min(jobs, len(tasks))
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(processes, context, initializer=end_with_parent) as pool:
        try:
            futures = [pool.submit(task) for task in tasks]
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                progress(what, done, len(tasks))
        except BrokenProcessPool as error:
            raise TransientError(
                "synthetic hospital: a worker process was killed; run the same command again, "
                "what is done stays done"
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _this_process_voices() -> Voices:
    global _voices
    if _voices is None:
        _voices = Voices()
    return _voices


def _stop_voices() -> None:
    global _voices
    if _voices is not None:
        _voices.close()
    _voices = None


def _make_noise(folder: Path, config: Hospital, name: str) -> None:
    """One recording of a site's room, empty of speech, amid ward noise."""
    rng = draws(config.seed, "noise", name)
    here = room_of(config.seed, _noise_files(config)[name])
    length = round(rng.uniform(*_NOISE_S) * RATE_HZ)
    noise = background(here, length, "ward", rng, spread_db=_NOISE_SPREAD_DB)
    level = float(10 ** (rng.uniform(*_NOISE_DBFS) / 20))
    level = min(level, 0.9 / float(np.abs(noise).max()))  # an impact stands far above the rest
    file = io.BytesIO()
    soundfile.write(file, noise * np.float32(level), RATE_HZ, format="FLAC", subtype="PCM_16")
    _write(folder / name, file.getvalue())


def _make_visit(folder: Path, config: Hospital, person: Participant) -> None:
    """Every recording of one participant, and then the truth about them."""
    (folder / "audio" / person.id).mkdir(exist_ok=True)
    truth = []
    for name in _utterances(config):
        data, row = _record(config, person, name)
        _write(folder / _audio(person, name), data)
        truth.append(row)
    _write(_truth_part(folder, person), json.dumps(truth).encode())


def _record(
    config: Hospital, person: Participant, name: UtteranceName
) -> tuple[bytes, dict[str, Any]]:
    """The bytes of one recording and its row of the truth: a pure function of the arguments."""
    keys = (person.id, name)
    duration_s = _duration_s(config, name, draws(config.seed, "duration", *keys))
    here = room_of(config.seed, person.site)
    length = round(duration_s * RATE_HZ)
    noise = background(here, length, person.noise, draws(config.seed, "background", *keys))
    sound = noise * np.float32(10 ** (person.noise_dbfs / 20))
    truth: dict[str, Any] = {
        "file": _audio(person, name),
        "participant": person.id,
        "utterance": name,
        "label": person.label,
        "duration_s": duration_s,
        "noise": person.noise,
        "noise_dbfs": person.noise_dbfs,
        "coupled": list(person.coupled),
    }
    if name in get_args(Spoken):
        said, row = _say(config, person, cast(Spoken, name), duration_s)
        heard = reverberate(said.waveform, here)
        heard *= np.float32(person.peak / float(np.abs(heard).max(initial=1e-9)))
        sound = sound + heard
        truth |= row | {
            "peak": person.peak,
            "snr_db": _active_dbfs(heard, said) - person.noise_dbfs,
        }
    rng = draws(config.seed, "device", *keys)
    return capture(sound, DEVICES[person.device], rng), truth


def _say(
    config: Hospital, person: Participant, name: Spoken, duration_s: float
) -> tuple[Utterance, dict[str, Any]]:
    voice = draw_voice(person.sex, person.age, draws(config.seed, "voice", person.id))
    rng = draws(config.seed, "breathing", person.id)
    breathing = draw_breathing(person.label, config.effect, rng)
    said = speak(
        name,
        say=_this_process_voices().say,
        voice=voice,
        sex=person.sex,
        breathing=breathing,
        duration_s=duration_s,
        rng=draws(config.seed, "speech", person.id, name),
    )
    return said, {
        "jitter": breathing.jitter,
        "shimmer_db": breathing.shimmer_db,
        "words": sum(said.group_words),
        "finished": said.finished,
        "group_starts_s": said.group_starts_s,
        "group_ends_s": said.group_ends_s,
        "group_words": said.group_words,
        "pause_sum_s": sum(said.pauses_s),
        "pauses_s": said.pauses_s,
        "inhalations_db": said.inhalations_db,
        "decays_db": said.decays_db,
    }


def _duration_s(config: Hospital, name: UtteranceName, rng: np.random.Generator) -> float:
    """Drawn from the utterance alone: the label must not be heard in it."""
    if name == "vowel":
        return float(rng.uniform(*_VOWEL_S))
    return float(rng.uniform(*config.duration_s if name in get_args(Spoken) else _AMBIENT_S))


def _active_dbfs(heard: NDArray[np.float32], said: Utterance) -> float:
    """RMS level inside the breath groups."""
    spans = zip(said.group_starts_s, said.group_ends_s, strict=True)
    active = np.concatenate([heard[round(a * RATE_HZ) : round(b * RATE_HZ)] for a, b in spans])
    return float(10 * np.log10(np.mean(np.square(active)) + 1e-12))
