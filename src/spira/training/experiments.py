"""An experiment: everything that decides a result, in one YAML file and one typed model.

A file states only what differs from the defaults, which are experiment 3.5 of Casanova et al.
(Findings of ACL 2021). What really ran is stored whole beside its result.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from spira.audio.features import Features, Mfcc
from spira.audio.noise import Noise, NoNoise, PeakNoise, SnrNoise
from spira.audio.windows import Windows
from spira.documents import parse_document, read_document
from spira.domain.errors import InputError
from spira.domain.frozen import Frozen
from spira.domain.recordings import Finding
from spira.domain.splits import Fractions
from spira.model.config import SPIRA_CONV_FRAMES, Network, SpiraConvV2

SpokenUtterance = Literal["sentence", "rhyme", "vowel", "other"]  # what a model may learn from


class Split(Frozen):
    """Who is on which side (DESIGN.md, principle 4)."""

    key: str = "spira"  # names the study: the same key never moves anybody
    fractions: Fractions = Fractions()
    # Of noise recordings. More than of people go to validation and test: with a few only, the
    # operating point and the figures under noise would rest on one of them.
    noise: Fractions = Fractions(train=0.4, validation=0.3, test=0.3)
    published: Literal["keep", "ignore"] = "keep"  # sides that the dataset itself gives


class Adam(Frozen):
    """Adam with L2 added to the gradient, as published."""

    kind: Literal["adam"] = "adam"
    rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)


class AdamW(Frozen):
    """Adam with decoupled decay, of weights only (not of biases and norms)."""

    kind: Literal["adamw"] = "adamw"
    rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)


class Noam(Frozen):
    """rate x sqrt(w) x min(s^-1/2, s w^-3/2) at step s >= 1: warm-up, then inverse square root.

    source    Vaswani et al., Attention Is All You Need, 2017, scaled so that its peak is `rate`
    """

    kind: Literal["noam"] = "noam"
    warmup_steps: int = Field(default=1000, ge=1)

    def factor(self, step: int, total: int) -> float:
        """What the rate is multiplied by at `step`, counted from 1."""
        w = self.warmup_steps
        return float(w**0.5 * min(step**-0.5, step * w**-1.5))


class Cosine(Frozen):
    """Linear warm-up over a share of all steps, then a half cosine down to zero."""

    kind: Literal["cosine"] = "cosine"
    warmup_share: float = Field(default=0.15, ge=0, lt=1)

    def factor(self, step: int, total: int) -> float:
        """What the rate is multiplied by at `step` of `total`, counted from 1."""
        import math

        warmup = max(1, round(self.warmup_share * total))
        if step <= warmup:
            return step / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


class Constant(Frozen):
    """The same rate throughout."""

    kind: Literal["constant"] = "constant"

    def factor(self, step: int, total: int) -> float:
        """One."""
        return 1.0


class Optimisation(Frozen):
    """How the network is fitted: binary cross entropy on the windows of each batch."""

    epochs: int = Field(default=1000, ge=1)
    batch_recordings: int = Field(default=5, ge=1)  # all windows of a recording stay together
    drop_last: bool = True  # an incomplete last batch of an epoch is left out, as published
    optimiser: Annotated[Adam | AdamW, Field(discriminator="kind")] = Adam()
    schedule: Annotated[Noam | Cosine | Constant, Field(discriminator="kind")] = Noam()
    window_step_s: float | None = Field(default=None, gt=0)  # training only; None: as in `windows`
    random_start: bool = False  # training windows start anywhere in the first step, each epoch


class Evaluation(Frozen):
    """What is asked of the trained model. Limits of the audits are settings of the evaluation."""

    sensitivity_aim: float = Field(default=0.90, gt=0, lt=1)
    inconclusive_share: float = Field(default=0.10, ge=0, lt=1)  # of validation recordings
    # The operating point belongs to the conditions that it was chosen in.
    operating_condition: Literal["clean", "noise", "both"] = "clean"
    # Used by the noise audit and the noisy test where training knows no noise of its own.
    noise: Annotated[PeakNoise | SnrNoise, Field(discriminator="kind")] = SnrNoise()


class Experiment(Frozen):
    """One experiment."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
    )
    description: str = ""
    seed: int = Field(default=42, ge=0, lt=2**31)
    utterance: SpokenUtterance = "sentence"
    exclude_findings: tuple[Finding, ...] = ()  # nobody is filtered away unless named here
    split: Split = Split()
    features: Features = Mfcc()
    windows: Windows = Windows()
    noise: Noise = PeakNoise(present=3, absent=3)
    network: Network = SpiraConvV2()
    optimisation: Optimisation = Optimisation()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _windows_fit(self) -> "Experiment":
        try:
            length, _ = self.windows.samples(self.features.rate_hz)
        except InputError as error:
            raise ValueError(str(error)) from error
        frames = length // self.features.hop + 1
        if isinstance(self.network, SpiraConvV2) and frames < SPIRA_CONV_FRAMES:
            shortest_s = (SPIRA_CONV_FRAMES - 1) * self.features.hop / self.features.rate_hz
            raise ValueError(
                f"windows.length_s: {self.windows.length_s} s are too short for spira_conv_v2, "
                f"which needs {shortest_s:.2f} s; choose longer windows or network.kind: compact"
            )
        return self

    @property
    def stores_features(self) -> bool:
        """Whether windows' features stay the same between epochs, and so are computed once."""
        redrawn = self.optimisation.random_start or self.optimisation.window_step_s is not None
        return isinstance(self.noise, NoNoise) and not redrawn

    @property
    def shortest_samples(self) -> int:
        """The fewest samples of a recording that the windows accept; shorter ones are left out."""
        if self.windows.short == "pad":
            return 1
        length, _ = self.windows.samples(self.features.rate_hz)
        return length + 1 if self.windows.last == "drop" else length

    @property
    def test_noise(self) -> PeakNoise | SnrNoise:
        """The declared noise of the noisy test."""
        return self.evaluation.noise if isinstance(self.noise, NoNoise) else self.noise


def read_experiment(path: Path, *, overrides: Sequence[str] = ()) -> Experiment:
    """Read and validate an experiment file.

    overrides  "optimisation.epochs=3": dotted key, YAML value
    raises     InputError listing every mistake: file, line, key, nearest known key
    """
    return read_document(path, Experiment, overrides=overrides)


def parse_experiment(text: str, *, where: str, overrides: Sequence[str] = ()) -> Experiment:
    """As `read_experiment`, from text."""
    return parse_document(text, Experiment, where=where, overrides=overrides)


def compose(experiment: Experiment) -> str:
    """The whole experiment as YAML, every default written out."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
