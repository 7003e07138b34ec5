"""Stage `features` and the Feature Store (D): what does not change between epochs.

With noise redrawn every epoch that is the 16 kHz waveform of each recording, and the transform
runs in training; without noise it is also the features of each recording's windows. Both lie in
shards of 8 to 64 recordings, each an artifact of its own made by an independent job, and are
memory-mapped by whoever reads them: memory does not grow with the corpus.
"""

import json
import math
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from spira.audio.decode import decode_blocks
from spira.audio.features import Features, extract, window_shape
from spira.audio.windows import Windows, slices
from spira.datasets.versions import DatasetVersion, load
from spira.domain.errors import TransientError
from spira.domain.fingerprint import canonical_json, fingerprint
from spira.stores.artifacts import Artifact
from spira.stores.processes import end_with_parent
from spira.training.plan import Files, Work
from spira.training.tables import AMBIENT

# A kill costs the shards that are not committed yet: a small corpus has several of them all the
# same, and a large one no more files than it needs.
_SHARDS, _FEWEST_RECORDINGS, _MOST_RECORDINGS = 8, 8, 64
_SHARD_VERSION = 2
Float = NDArray[np.float32]


@dataclass(frozen=True)
class _Job:
    """One shard: which audio goes in, in which order, and how. Independent of every other."""

    audio: tuple[tuple[str, str], ...]  # (sha256, local path)
    rate_hz: int
    recipe: tuple[Features, Windows] | None  # set: also the features of the windows
    made_with: Mapping[str, Any]  # the software, and what else decides the bytes

    @property
    def fingerprint(self) -> str:
        return fingerprint(
            {
                "stage": "features-shard",
                "version": _SHARD_VERSION,
                "audio": [digest for digest, _ in self.audio],
                "rate_hz": self.rate_hz,
                "recipe": [part.model_dump(mode="json") for part in self.recipe or ()],
                "made_with": self.made_with,
            }
        )


class FeatureSet:
    """A committed feature set, read by the digest of the audio."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._index: Mapping[str, Any] = artifact.read_json("index.json")
        self._open: dict[str, NDArray[np.float32]] = {}

    def waveform(self, sha256: str) -> Float:
        """[T] float32, 16 kHz mono; a read-only view of a memory-mapped shard."""
        shard, start, length = self._index["waveforms"][sha256]
        return self._mapped(shard)[start : start + length]

    def windows(self, sha256: str) -> Float:
        """[N, frames, coefficients] float32; only where the features were stored."""
        shard, start, length = self._index["windows"][sha256]
        return self._mapped(shard)[start : start + length]

    def _mapped(self, name: str) -> Float:
        if name not in self._open:
            self._open[name] = np.load(self._artifact.path(name), mmap_mode="r")
        return self._open[name]


def features(work: Work) -> tuple[Files, dict[str, Any]]:
    """Decode and resample everything the experiment uses, shard by shard, in parallel.

    files     waveforms-NNNN.npy [samples of all its recordings]; windows-NNNN.npy
              [windows, frames, coefficients]; index.json: sha256 -> shard, start, length
    """
    recordings = pl.read_parquet(work.input("snapshot").path("recordings.parquet"))
    noise = pl.read_parquet(work.input("snapshot").path("noise.parquet"))
    dataset = load(work.store, work.plan.dataset)
    experiment = work.experiment
    recipe = (experiment.features, experiment.windows) if experiment.stores_features else None
    is_spoken = ~pl.col("utterance").is_in(AMBIENT)
    spoken = recordings.filter(is_spoken)["sha256"].to_list()
    rest = [*recordings.filter(~is_spoken)["sha256"].to_list(), *noise["sha256"].to_list()]
    rate, named = experiment.features.rate_hz, work.plan.parameters["features"]
    decoding = {"decoding": named["decoding"]}
    computing = decoding | ({"host": named["host"]} if recipe else {})
    jobs = [
        *_jobs(dataset, spoken, rate, recipe, computing),
        *_jobs(dataset, rest, rate, None, decoding),
    ]

    made = _run(work, jobs)
    files: dict[str, Path | bytes] = {}
    index: dict[str, dict[str, tuple[str, int, int]]] = {"waveforms": {}, "windows": {}}
    for number, job in enumerate(jobs):
        shard = made[job.fingerprint]
        for kind, entries in shard.read_json("index.json").items():
            name = f"{kind}-{number:04d}.npy"
            files[name] = shard.path(f"{kind}.npy")
            for digest, (start, length) in entries.items():
                index[kind][digest] = (name, start, length)
    return {**files, "index.json": canonical_json(index)}, {
        "recordings": len(spoken) + len(rest),
        "stored": "features and waveforms" if recipe else "waveforms",
    }


def _jobs(
    dataset: DatasetVersion,
    digests: Sequence[str],
    rate_hz: int,
    recipe: tuple[Features, Windows] | None,
    made_with: Mapping[str, Any],
) -> Iterator[_Job]:
    for part in shards(digests):
        audio = tuple((digest, str(dataset.audio_path(digest))) for digest in part)
        yield _Job(audio, rate_hz, recipe, made_with)


def shards(digests: Iterable[str]) -> list[list[str]]:
    """Which recordings share a shard, by their digests alone: 8 shards, of 8 to 64 recordings each
    but the last one; more shards where there are more recordings.
    """
    unique = sorted(set(digests))
    size = min(max(math.ceil(len(unique) / _SHARDS), _FEWEST_RECORDINGS), _MOST_RECORDINGS)
    return [unique[first : first + size] for first in range(0, len(unique), size)]


def _run(work: Work, jobs: Sequence[_Job]) -> dict[str, Artifact]:
    """Run the shard jobs that are not done; each is committed by itself as it ends."""
    done: dict[str, Artifact] = {}
    for job in jobs:
        found = work.store.find("features-shard", job.fingerprint)
        if found is not None and work.store.intact(found):
            done[job.fingerprint] = found
        elif found is not None:
            work.store.discard(found)
    todo = [job for job in jobs if job.fingerprint not in done]
    total = len(jobs)
    work.progress("features", len(done), total)
    if not todo:
        return done
    processes = min(work.plan.training.jobs, len(todo))
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(processes, context, initializer=end_with_parent) as pool:
        waiting: dict[Future[None], tuple[_Job, Path]] = {}
        for number, job in enumerate(todo):
            folder = work.folder / f"shard-{number}"
            waiting[pool.submit(_make_shard, job, str(folder))] = (job, folder)
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    job, folder = waiting.pop(future)
                    future.result()
                    done[job.fingerprint] = work.store.commit(
                        "features-shard",
                        job.fingerprint,
                        {path.name: path for path in sorted(folder.iterdir())},
                        {"recordings": len(job.audio)},
                    )
                    work.progress("features", len(done), total)
        except BrokenProcessPool as error:
            raise TransientError(
                "features: a process that decodes was killed; is there memory left? "
                "Run the same command again"
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return done


def _make_shard(job: _Job, folder: str) -> None:
    """In a process of its own: decode the job's audio, block by block, into one array."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    index: dict[str, dict[str, tuple[int, int]]] = {"waveforms": {}}
    samples = target / "waveforms.npy"
    position = 0
    # Written, never memory-mapped: on a full disk a write is an error, a mapped page is a crash.
    with samples.open("wb") as file:
        _write_header(file, (position,))
        for digest, path in job.audio:
            start = position
            for block in decode_blocks(Path(path), rate_hz=job.rate_hz):
                file.write(np.ascontiguousarray(block, dtype="<f4").tobytes())
                position += len(block)
            index["waveforms"][digest] = (start, position - start)
        file.seek(0)
        _write_header(file, (position,))  # as long as the first one: numpy pads it for growth
    if job.recipe is not None:
        waveforms = np.load(samples, mmap_mode="r")
        index["windows"] = _write_windows(
            job.recipe, index["waveforms"], waveforms, target / "windows.npy"
        )
    (target / "index.json").write_text(json.dumps(index, sort_keys=True))


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    description = {"descr": "<f4", "fortran_order": False, "shape": shape}
    write_array_header_1_0(file, description)


def _write_windows(
    recipe: tuple[Features, Windows],
    waveforms: Mapping[str, tuple[int, int]],
    samples: Float,
    path: Path,
) -> dict[str, tuple[int, int]]:
    """Features of the windows of each waveform, slice by slice, into one array."""
    chosen, cut = recipe
    index: dict[str, tuple[int, int]] = {}
    position = 0
    frames, coefficients = window_shape(cut, chosen)
    with path.open("wb") as file:
        _write_header(file, (position, frames, coefficients))
        for digest, (start, length) in waveforms.items():
            first = position
            for part in slices([samples[start : start + length]], cut, chosen.rate_hz):
                windows = extract(part, cut, chosen)
                file.write(np.ascontiguousarray(windows, dtype="<f4").tobytes())
                position += len(windows)
            index[digest] = (first, position - first)
        file.seek(0)
        _write_header(file, (position, frames, coefficients))
    return index
