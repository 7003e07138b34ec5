"""Sweeps: several experiments with several seeds, and a table that compares them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from spira.datasets.names import resolve
from spira.domain.errors import InputError
from spira.domain.fingerprint import fingerprint
from spira.scheduling.asking import Body, Desk, with_seed
from spira.scheduling.requests import Request
from spira.training.experiments import Experiment, compose, read_experiment

if TYPE_CHECKING:
    from spira.wiring import Application

_FIGURES = ("auroc", "balanced_accuracy", "sensitivity", "specificity")
_CONDITIONS = ("clean", "noise")


@dataclass(frozen=True)
class Sweep:
    """A sweep and its requests."""

    name: str
    requests: Sequence[Request]


def ask_for_sweep(
    desk: Desk,
    files: Sequence[Path],
    seeds: Sequence[int],
    dataset: str | None,
    *,
    name: str | None,
    by: str,
    reason: str,
) -> Sweep:
    """Ask for every experiment with every seed; asked again, the same sweep is the same requests.

    raises    InputError listing every file that is wrong; nothing is queued then
    """
    mistakes: list[str] = []
    experiments: dict[Path, Experiment] = {}
    for file in files:
        try:
            experiment = read_experiment(file)
        except InputError as error:
            mistakes += error.mistakes
            continue
        if experiment.name in (other.name for other in experiments.values()):
            mistakes.append(f"{file}: its name, {experiment.name}, is that of another file here")
        experiments[file] = experiment
        for seed in seeds:
            try:
                with_seed(experiment, seed)
            except InputError as error:
                mistakes += [one for one in error.mistakes if one not in mistakes]
    if mistakes:
        raise InputError(*mistakes)
    dataset = resolve(desk.store, desk.dataset(dataset))
    digests = {file: fingerprint(compose(one)) for file, one in experiments.items()}
    whole = fingerprint([sorted(digests.values()), sorted(seeds), dataset])
    name = name or f"sweep-{whole[:8]}"
    who = fingerprint([dataset, by, reason])[:8]
    asked = [
        desk.ask(
            Body(experiment=experiment.name, dataset=dataset, seed=seed, by=by, reason=reason),
            key=f"{name}:{digests[file][:16]}:{seed}:{who}",
            experiment=experiment,
            sweep=name,
        )
        for file, experiment in experiments.items()
        for seed in seeds
    ]
    return Sweep(name, [one.request for one in asked])


@dataclass(frozen=True)
class Figures:
    """The runs of one experiment."""

    experiment: str
    states: Mapping[str, int]  # how many requests ended how
    figures: Mapping[str, Sequence[float]]  # "clean_auroc" -> one of each run that was evaluated


@dataclass(frozen=True)
class Comparison:
    """What a sweep found."""

    experiments: Sequence[Figures]
    missing: Sequence[str] = field(default=())  # sentences about runs without figures

    def emit(self) -> dict[str, Any]:
        """For a program."""
        return {
            "experiments": [
                {
                    "experiment": one.experiment,
                    "states": dict(one.states),
                    "figures": {
                        name: {
                            "mean": fmean(values),
                            "low": min(values),
                            "high": max(values),
                            "values": list(values),
                        }
                        for name, values in one.figures.items()
                        if values
                    },
                }
                for one in self.experiments
            ]
        }

    def shown(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """For a person: a line for each experiment and condition; mean (lowest to highest)."""
        head = ("experiment", "runs", "", *(name.replace("_", " ") for name in _FIGURES))
        rows = []
        for one in self.experiments:
            states = ", ".join(f"{number} {state}" for state, number in one.states.items())
            for condition in _CONDITIONS:
                values = [_range(one.figures[f"{condition}_{name}"]) for name in _FIGURES]
                first = condition == _CONDITIONS[0]
                rows.append(
                    (one.experiment if first else "", states if first else "", condition, *values)
                )
        return head, rows


def summarise(app: "Application", requests: Sequence[Request]) -> Comparison:
    """Mean and range of each experiment's figures, per participant of the test side."""
    missing: list[str] = []
    found: list[Figures] = []
    for name in dict.fromkeys(request.experiment for request in requests):
        of_it = [request for request in requests if request.experiment == name]
        headlines = []
        for request in of_it:
            headline = _headline(app, request)
            if headline is None:
                why = request.outcome or request.state
                missing.append(f"{request.id} ({name}, seed {request.seed}): no figures; {why}")
            else:
                headlines.append(headline)
        states = [request.state for request in of_it]
        found.append(
            Figures(
                name,
                {state: states.count(state) for state in dict.fromkeys(states)},
                dict(_figures(headlines)),
            )
        )
    return Comparison(found, missing)


def _figures(headlines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[float]]]:
    for condition in _CONDITIONS:
        for name in _FIGURES:
            key = f"{condition}_{name}"
            values = (headline.get(key) for headline in headlines)
            yield key, [value for value in values if value is not None]


def _headline(app: "Application", request: Request) -> Mapping[str, Any] | None:
    """The figures of a request's evaluation; a refused model has them too."""
    plan = app.plan_of(request)
    evaluated = app.artifacts.find("evaluate", plan.fingerprints["evaluate"])
    return None if evaluated is None else evaluated.about["headline"]


def _range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
