"""The page of a dataset version: right pictures, nothing from elsewhere, nothing unescaped."""

import io
import re
from typing import Any

import numpy as np
from matplotlib import image

from spira.datasets.pages import render_page, spectrogram_png
from spira.datasets.versions import load
from spira.stores.artifacts import ArtifactStore


def brightness(png: bytes) -> Any:
    """[128, columns] sum of the colours, from above; as an independent reader sees it."""
    return image.imread(io.BytesIO(png))[:, :, :3].sum(axis=2)


def test_a_tone_is_a_line_at_its_frequency_while_it_sounds() -> None:
    """1 kHz in the second half of two seconds: one bright row, on the right only."""
    time = np.arange(32_000) / 16_000
    tone = np.where(time >= 1, 0.5 * np.sin(2 * np.pi * 1000 * time), 0).astype(np.float32)

    seen = brightness(spectrogram_png(tone))

    assert seen.shape == (128, 100)
    row = 127 - int(seen[:, 75].argmax())  # counted from below, 62.5 Hz each
    assert abs((row + 0.5) * 62.5 - 1000) <= 62.5
    assert seen[:, 55:].max(axis=0).min() > 3 * seen[:, :45].max()


def test_short_and_empty_waveforms_are_drawn_too() -> None:
    """One column at least."""
    for length in (0, 1, 319, 321):
        picture = brightness(spectrogram_png(np.zeros(length, np.float32)))
        assert picture.shape == (128, max(1, -(-length // 320)))


def test_louder_is_lighter_by_one_scale() -> None:
    """Pictures of two recordings can be compared: colours are levels, not ranks."""
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)

    loud, quiet = (brightness(spectrogram_png(noise * gain)).mean() for gain in (0.1, 0.001))

    assert loud > 2 * quiet


def test_a_page_stands_alone_and_is_repeatable(store: ArtifactStore, make_version: Any) -> None:
    """Nothing is loaded, no script runs, the same version gives the same page."""
    make_version("mine")

    page = render_page(load(store, "mine"), names=["mine"])

    assert page == render_page(load(store, "mine"), names=["mine"])
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page
    assert "&lt;script&gt;.wav" in page
    assert "default-src 'none'" in page
    assert page.count("data:image/png;base64,") == 2


def test_a_page_speaks_portuguese_with_english_beside(
    store: ArtifactStore, make_version: Any
) -> None:
    """Headings in both languages; decimal commas; synthetic voices are announced as such."""
    make_version("mine")

    page = render_page(load(store, "mine"))

    for pt, en in (("Equilíbrio", "Balance"), ("Espectrogramas", "Spectrograms")):
        assert f'{pt} <span class="en" lang="en">{en}</span>' in page
    assert "1,0 s" in page
    assert "Vozes sintéticas" not in page
