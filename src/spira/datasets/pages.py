"""A dataset version as one self-contained HTML page: counts, levels, and pages of spectrograms.

Whoever is about to train on recordings should have looked at some of them first. The page loads
nothing from anywhere.
"""

import base64
import csv
import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from spira.audio.decode import decode_blocks
from spira.datasets.summary import Spread
from spira.datasets.versions import DatasetVersion
from spira.domain.draws import draws
from spira.domain.progress import Progress, no_progress
from spira.domain.recordings import LABELS, UTTERANCES

_RATE_HZ = 16_000
_LONGEST_S = 12.0  # of a recording that is drawn
_HOP = 320  # one column of the picture is 20 ms
_FFT = 512
_ROWS = 128  # of the picture, 62.5 Hz each
_RANGE_DBFS = (-100.0, -20.0)  # the same for every picture, so that levels can be compared
_DRAWN = {"sentence": 12}  # pictures for each label; of other utterances _DRAWN_OTHER
_DRAWN_OTHER = 3
# What models are trained on comes first.
_ORDER = sorted(UTTERANCES, key=lambda utterance: utterance != "sentence")
_REJECTED_SHOWN = 200

_WORDS = {  # Portuguese and English of what the tables hold
    "present": ("com IR", "with RI"),
    "absent": ("sem IR", "without RI"),
    "unknown": ("sem rótulo", "unlabelled"),
    "not available": ("não disponível", "not available"),
    "sex": ("sexo", "sex"),
    "age band": ("idade", "age"),
    "SpO2 band": ("SpO₂ (%)", "SpO₂ (%)"),
    "site": ("local", "site"),
    "device": ("aparelho", "device"),
    "utterance": ("fala", "utterance"),
    "split": ("partição publicada", "published split"),
    "format": ("formato", "format"),
    "female": ("feminino", "female"),
    "male": ("masculino", "male"),
    "under 18": ("menos de 18", "under 18"),
    "75 and over": ("75 ou mais", "75 and over"),
    "under 92": ("menos de 92", "under 92"),
    "95 and over": ("95 ou mais", "95 and over"),
    "train": ("treino", "train"),
    "validation": ("validação", "validation"),
    "test": ("teste", "test"),
    "vowel": ("vogal sustentada", "sustained vowel"),
    "rhyme": ("parlenda", "rhyme"),
    "sentence": ("frase", "sentence"),
    "ambient_before": ("ambiente, antes", "room, before"),
    "ambient_after": ("ambiente, depois", "room, after"),
    "other": ("outra", "other"),
    "noise": ("ruído", "noise"),
    "short": ("curta", "short"),
    "quiet": ("som baixo", "quiet"),
    "clipped": ("som estourado", "clipped"),
    "noisy": ("muito barulho", "noisy"),
    "little_speech": ("pouca fala", "little speech"),
    "missing": ("arquivo ausente", "file missing"),
    "damaged": ("bytes danificados", "bytes damaged"),
    "not_audio": ("não é áudio", "not audio"),
    "undecodable": ("não decodifica", "cannot be decoded"),
    "truncated": ("arquivo cortado", "truncated"),
    "empty": ("vazio", "empty"),
    "zeros": ("só zeros", "all zeros"),
    "not_finite": ("amostras inválidas", "invalid samples"),
    "out_of_scale": ("fora de escala", "out of scale"),
    "too_short": ("menos de 0,5 s", "under 0.5 s"),
    "too_long": ("longo demais", "too long"),
    "duplicate": ("áudio repetido", "duplicate audio"),
    "synthetic": ("hospital sintético", "synthetic hospital"),
    "import": ("importação", "import"),
}


@dataclass(frozen=True)
class Picture:
    """One recording of a sample, drawn."""

    recording_id: str
    participant_id: str
    label: str
    duration_s: float
    findings: tuple[str, ...]
    width: int  # pixels
    url: str  # data: URL of a PNG


def render_page(
    version: DatasetVersion, *, names: Sequence[str] = (), progress: Progress = no_progress
) -> str:
    """The page; the same version always gives the same page.

    names     what the version is called
    raises    IntegrityError when bytes of the version are damaged
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rejected = rejected_rows(version)
    return environment.get_template("dataset.html.j2").render(
        version=version,
        about=version.artifact.about,
        summary=version.summary,
        names=names,
        pictures=_pictures(version, progress),
        rejected=rejected[:_REJECTED_SHOWN],
        rejected_more=max(0, len(rejected) - _REJECTED_SHOWN),
        word=lambda text: _WORDS.get(text, (text, text)),
        scale=_scale,
        hours=version.recordings["duration_s"].sum() / 3600,
        labels=LABELS,
    )


def rejected_rows(version: DatasetVersion) -> list[dict[str, str]]:
    """What was refused: file, participant, label ("noise" for noise), sex, reason, message."""
    return list(csv.DictReader(io.StringIO(version.artifact.read("rejected.csv").decode())))


def spectrogram_png(waveform: NDArray[np.float32]) -> bytes:
    """Draw a waveform: 20 ms a column, 0 to 8 kHz from below, -100 to -20 dBFS from dark to light.

    waveform  [T], float32 in -1..1, 16 kHz
    returns   a PNG, ceil(T / 320) pixels wide and 128 high
    """
    window = np.hanning(_FFT).astype(np.float32)
    columns = max(1, -(-len(waveform) // _HOP))
    padded = np.zeros((columns - 1) * _HOP + _FFT, np.float32)
    padded[: len(waveform)] = waveform
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP]
    power = np.abs(np.fft.rfft(frames * window, axis=1)[:, 1:]) ** 2 / (window.sum() / 2) ** 2
    power = power.reshape(columns, _ROWS, -1).max(axis=2)  # a thin harmonic stays visible
    low, high = _RANGE_DBFS
    shade = (10 * np.log10(power + 1e-12) - low) / (high - low)
    pixels = np.clip(shade * 255, 0, 255).astype(np.uint8).T[::-1]
    return _png(np.ascontiguousarray(pixels))


def _pictures(version: DatasetVersion, progress: Progress) -> dict[str, dict[str, list[Picture]]]:
    """utterance -> label -> a sample drawn by the version's digest."""
    chosen: list[tuple[str, str, list[dict[str, Any]]]] = []
    for utterance in _ORDER:
        for label in LABELS:
            rows = version.recordings.filter(
                (pl.col("utterance") == utterance) & (pl.col("label") == label)
            )
            order = draws(0, "pictures", version.digest, utterance, label).permutation(rows.height)
            sample = rows[order[: _DRAWN.get(utterance, _DRAWN_OTHER)].tolist()]
            if rows.height:
                chosen.append((utterance, label, sample.to_dicts()))
    total = sum(len(rows) for _, _, rows in chosen)
    pictures: dict[str, dict[str, list[Picture]]] = {}
    done = 0
    for spoken, of, sample_rows in chosen:
        drawn = pictures.setdefault(spoken, {}).setdefault(of, [])
        for row in sample_rows:
            drawn.append(_picture(version, row))
            done += 1
            progress("drawing spectrograms", done, total)
        drawn.sort(key=lambda picture: picture.participant_id)
    return pictures


def _picture(version: DatasetVersion, row: dict[str, Any]) -> Picture:
    wanted = round(_LONGEST_S * _RATE_HZ)
    blocks: list[NDArray[np.float32]] = []
    for block in decode_blocks(version.audio_path(row["sha256"]), rate_hz=_RATE_HZ):
        blocks.append(block)
        if sum(map(len, blocks)) >= wanted:
            break
    waveform = np.concatenate(blocks)[:wanted]
    png = spectrogram_png(waveform)
    return Picture(
        recording_id=row["recording_id"],
        participant_id=row["participant_id"],
        label=row["label"],
        duration_s=row["duration_s"],
        findings=tuple(row["findings"]),
        width=-(-len(waveform) // _HOP),
        url="data:image/png;base64," + base64.b64encode(png).decode(),
    )


def _scale(spreads: Sequence[Spread]) -> tuple[float, float]:
    """Where an axis begins and ends that holds all of these."""
    return min(s.lowest for s in spreads), max(s.highest for s in spreads)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """[height, width] places in the palette -> PNG of 8-bit indexed colour.

    source    PNG specification, third edition (W3C), sections 5 and 11
    """
    height, width = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    lines = b"".join(b"\0" + line.tobytes() for line in pixels)  # 0: no filter
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", _palette()),
            chunk(b"IDAT", zlib.compress(lines, 9)),
            chunk(b"IEND", b""),
        ]
    )


@cache
def _palette() -> bytes:
    from matplotlib import colormaps

    colours = np.asarray(colormaps["magma"](np.arange(256)))[:, :3]
    return np.round(colours * 255).astype(np.uint8).tobytes()
