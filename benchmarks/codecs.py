"""What the codec of a phone does to an answer: the same voices through every codec, one model.

The six recordings of real speakers in tests/data/fsdd are sent as phones send them, taken through
the real check (a child that decodes to 16 kHz float32), and scored. Where their answers differ, the
causes are taken away one after the other: what arrived is moved to where it was said and made as
long, and then cut off below 50 Hz and above 3.5 kHz.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spira.intake.checking import Checker
from spira.intake.settings import CheckingSettings
from spira.model.bundle import load
from spira.model.scoring import Scorer
from spira.stores.registry import Registry
from spira.stores.settings import StoresSettings

Float = NDArray[np.float32]

_ROOT = Path(__file__).parents[1]


def lines() -> Iterator[str]:
    """Markdown: probabilities by codec with their spread, and how far what arrives is from what
    was said."""
    sys.path[:0] = [str(_ROOT / "tests" / "system")]
    from phones import (  # type: ignore[import-not-found]
        CODECS,
        VOICE_HZ,
        aligned,
        arrived,
        band,
        distance,
        encoded,
        voices,
    )

    with tempfile.TemporaryDirectory() as folder:
        scorer = _model(Path(folder))
        checker = Checker(CheckingSettings(children=1))
        said: dict[str, Float] = {}
        heard: dict[str, list[Float]] = {}
        for speaker, one, recorded in voices():
            said[speaker] = one
            heard[speaker] = [arrived(checker, encoded(recorded, codec)) for codec in CODECS]
        checker.close()

        def answers(speaker: str, change: Callable[[Float], Float]) -> list[float]:
            return [scorer.score(change(one)).probability for one in heard[speaker]]

        yield "Probabilities of the demo's champion; spread: the greatest less the least."
        yield ""
        codecs = " | ".join(CODECS)
        yield f"| speaker | as it is | {codecs} | spread | moved to its place | and cut off |"
        yield "|" + "---|" * (len(CODECS) + 5)
        for speaker, one in said.items():
            as_sent = answers(speaker, lambda other: other)
            moved = answers(speaker, lambda other: aligned(other, one))  # noqa: B023
            cut = answers(speaker, lambda other: band(aligned(other, one), *VOICE_HZ))  # noqa: B023
            spreads = [np.ptp(row) for row in (as_sent, moved, cut)]
            yield _row(speaker, 4, scorer.score(one).probability, *as_sent, *spreads)
    yield ""
    yield "| codec | longer, ms | later, ms | error, 50 Hz to 3.5 kHz, dB | above 4.2 kHz, dB |"
    yield "|" + "---|" * 5
    for number, codec in enumerate(CODECS):
        mean = np.mean([distance(heard[one][number], said[one]) for one in said], axis=0)
        yield _row(codec, 1, *mean)


def _row(name: str, digits: int, *figures: float) -> str:
    return f"| {name} | {' | '.join(f'{figure:.{digits}f}' for figure in figures)} |"


def _model(folder: Path) -> Scorer:
    """The champion of `make demo`, which is done now where it was not yet."""
    home = _ROOT / ".demo"
    words = ["--home", str(home), "demo"]
    subprocess.run(
        [sys.executable, "-m", "spira.cli", *words], check=True, stdout=subprocess.DEVNULL
    )
    registry = Registry.open(StoresSettings(), home=home)
    _, scorer = load(registry.download(registry.get("champion"), folder))
    return scorer
