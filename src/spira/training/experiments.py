"""An experiment: everything that decides a result, in one YAML file and one typed model.

A file states only what differs from the defaults, which are experiment 3.5 of Casanova et al.
(Findings of ACL 2021). What really ran is stored whole beside its result.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from spira.audio.features import Features, Mfcc
from spira.audio.noise import Noise, NoNoise, PeakNoise, SnrNoise
from spira.audio.windows import Windows
from spira.domain.errors import InputError
from spira.domain.frozen import Frozen
from spira.domain.recordings import Finding
from spira.domain.splits import Fractions
from spira.domain.suggestions import nearest
from spira.model.config import Network, SpiraConvV2

SpokenUtterance = Literal["sentence", "rhyme", "vowel", "other"]  # what a model may learn from


class Split(Frozen):
    """Who is on which side (DESIGN.md, principle 4)."""

    key: str = "spira"  # names the study: the same key never moves anybody
    fractions: Fractions = Fractions()
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

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
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
    def _steps_fit(self) -> "Experiment":
        if self.optimisation.random_start and self.windows.length_s <= 0:
            raise ValueError("random_start needs windows")
        return self

    @property
    def test_noise(self) -> PeakNoise | SnrNoise:
        """The declared noise of the noisy test."""
        return self.evaluation.noise if isinstance(self.noise, NoNoise) else self.noise


def read_experiment(path: Path, *, overrides: Sequence[str] = ()) -> Experiment:
    """Read and validate an experiment file.

    overrides  "optimisation.epochs=3": dotted key, YAML value
    raises     InputError listing every mistake: file, line, key, nearest known key
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = str(error.strerror).lower() if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"experiment {path}: cannot be read ({cause})") from error
    return parse_experiment(text, where=str(path), overrides=overrides)


def parse_experiment(text: str, *, where: str, overrides: Sequence[str] = ()) -> Experiment:
    """As `read_experiment`, from text."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"experiment {where}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise InputError(f"experiment {where}: must be a mapping of keys, such as `name: mine`")
    lines = dict(_lines(node))
    mistakes = [f"{where}, line {line}: key {key} is given twice" for key, line in _doubled(node)]
    for override in overrides:
        _override(document, override)
    try:
        experiment = Experiment.model_validate(document)
    except ValidationError as error:
        mistakes += [_mistake(where, lines, document, fault) for fault in error.errors()]
    if mistakes:
        raise InputError(*mistakes)
    return experiment


def compose(experiment: Experiment) -> str:
    """The whole experiment as YAML, every default written out."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _override(document: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise InputError(f"--set {override}: write it as key=value, e.g. optimisation.epochs=3")
    *parents, last = key.split(".")
    for parent in parents:
        document = document.setdefault(parent, {})
        if not isinstance(document, dict):
            raise InputError(f"--set {override}: {parent} holds a value, not keys")
    try:
        document[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override}: the value is not YAML") from error


def _lines(node: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """(path of keys, line counted from 1) of everything in a document."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*at, str(key.value))
            yield path, key.start_mark.line + 1
            yield from _lines(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*at, str(index)))


def _doubled(node: Any) -> Iterator[tuple[str, int]]:
    paths = [path for path, _ in _lines(node)]
    seen: set[tuple[str, ...]] = set()
    for path, (_, line) in zip(paths, _lines(node), strict=True):
        if path in seen:
            yield ".".join(path), line
        seen.add(path)


def _mistake(where: str, lines: dict[tuple[str, ...], int], document: Any, fault: Any) -> str:
    path = _keys_of(fault["loc"], document)
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    place = f"{where}, line {line}" if line else f"{where} (--set)" if path else where
    key = ".".join(path)
    kind = fault["type"]
    if kind == "extra_forbidden":
        return f"{place}: unknown key {key}{_nearest_key(fault['loc'], path)}"
    if kind == "missing":
        return f"{where}: key {key} is missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        expected = fault["ctx"].get("expected_tags", "")
        return f"{place}: {key}.kind must be one of {expected or 'the known kinds'}"
    return f"{place}: {key}: {fault['msg'].lower()}, it is {fault['input']!r}"


def _keys_of(location: tuple[Any, ...], document: Any) -> tuple[str, ...]:
    """The location without the tags of unions, which pydantic adds and the file does not have."""
    keys: list[str] = []
    here = document
    for number, part in enumerate(location):
        last = number == len(location) - 1
        if isinstance(here, dict) and part not in here and not last and here.get("kind") == part:
            continue
        keys.append(str(part))
        here = here.get(part) if isinstance(here, dict) else None
    return tuple(keys)


def _nearest_key(location: tuple[Any, ...], path: tuple[str, ...]) -> str:
    """Known keys beside the unknown one first; else any known key of the whole experiment."""
    everywhere = dict(_known_keys(Experiment))
    parent = path[:-1]
    siblings = [key[-1] for key in everywhere if key[:-1] == parent]
    beside = nearest(path[-1], siblings)
    if beside:
        return beside
    elsewhere = {key[-1]: ".".join(key) for key in everywhere}
    hint = nearest(path[-1], elsewhere)
    for leaf, full in elsewhere.items():
        if hint == f"; did you mean {leaf}?":
            return f"; did you mean {full}?"
    return hint


def _known_keys(
    model: type[BaseModel], at: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], None]]:
    for name, field in model.model_fields.items():
        yield (*at, name), None
        for inner in _models_in(field.annotation):
            yield from _known_keys(inner, (*at, name))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
