"""An experiment on a synthetic hospital, from the first voice to the decision on promotion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import polars as pl
import pytest

from spira.cli import find_command
from spira.console import Console
from spira.datasets.importing import import_dataset
from spira.datasets.sources import read_csv
from spira.domain.errors import PolicyRefused
from spira.domain.fingerprint import fingerprint
from spira.evaluation.results import Audit, ConditionResult, EvaluationResult
from spira.settings import read_settings
from spira.synthetic.hospital import synthesize
from spira.synthetic.records import Hospital
from spira.training.experiments import read_experiment
from spira.training.plan import Plan
from spira.wiring import Application

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


@dataclass(frozen=True)
class Outcome:
    """What came of one experiment on one hospital."""

    result: EvaluationResult
    predictions: pl.DataFrame
    published: bool  # registered as a version
    exit_code: int  # of `spira model promote VERSION --policy demo --dry-run`, or of publishing
    refusal: str  # its sentences; empty where it would have promoted

    def people(self, condition: str) -> ConditionResult:
        """Figures per participant of the test side, "clean" or under "noise"."""
        return next(
            found
            for found in self.result.conditions
            if (found.condition, found.level) == (condition, "participant")
        )

    def auroc(self, condition: str) -> float:
        """AUROC per participant."""
        value = self.people(condition).auroc.value
        assert value is not None
        return value

    def audit(self, name: str) -> Audit:
        """One audit by name."""
        return next(audit for audit in self.result.audits if audit.name == name)

    @property
    def verdicts(self) -> dict[str, str | None]:
        """Verdict of each audit that can refuse a model."""
        return {audit.name: audit.verdict for audit in self.result.audits if audit.refuses}

    @property
    def convicted_by(self) -> set[str]:
        """Audits that are sure: the whole 95 % interval lies beyond the limit."""
        return {audit.name for audit in self.result.audits if audit.refuses and _sure(audit)}

    def row(self) -> tuple[str, ...]:
        """The figures of this run that benchmarks/RESULTS.md shows, in the order of FIGURES."""
        clean, noisy = self.people("clean"), self.people("noise")
        figures = [f"{clean.n_present} + {clean.n_absent}"]
        for name in ("auroc", "sensitivity", "specificity"):
            figures += [f"{getattr(found, name).value:.3f}" for found in (clean, noisy)]
        figures += [
            f"{audit.bound:.3f} {audit.verdict}" for audit in self.result.audits if audit.refuses
        ]
        ended = "refused" if self.published else "not published"
        return (*figures, ended if self.exit_code else "promoted")


FIGURES = (
    *("people tested, RI + no RI", "AUROC", "noise", "sensitivity", "noise"),
    *("specificity", "noise", "noise audit", "background", "acquisition", "demo policy"),
)


def _sure(audit: Audit) -> bool:
    low, high, limit = audit.estimate.low, audit.estimate.high, audit.limit
    assert low is not None
    assert high is not None
    assert limit is not None
    if audit.name == "noise":  # a signed change
        return low > limit or high < -limit
    return low > limit or (audit.name == "background" and high < 1 - limit)


class Laboratory:
    """A data folder; hospitals, datasets and stages that two cases share are made once in it."""

    def __init__(self, home: Path, *, settings: Sequence[str] = ()) -> None:
        self._app = Application(read_settings(home=home, overrides=settings), Console())
        self._datasets: set[str] = set()

    def try_out(
        self, hospital: Hospital, *, recipe: str = "demo", changes: Sequence[str] = ()
    ) -> Outcome:
        """Make the hospital, train a recipe of experiments/ on it, evaluate, publish, decide.

        changes  of the recipe, as `--set` takes them; the seed is the hospital's
        """
        app = self._app
        dataset = self._dataset(hospital)
        experiment = read_experiment(
            EXPERIMENTS / f"{recipe}.yaml", overrides=[f"seed={hospital.seed}", *changes]
        )
        plan = app.plan(experiment, dataset)
        exit_code, refusal = 0, ""
        try:
            app.run_pipeline(experiment, dataset)
            self._promote(plan)
        except PolicyRefused as refused:
            exit_code, refusal = refused.exit_code, str(refused)
        evaluated = app.artifacts.find("evaluate", plan.fingerprints["evaluate"])
        assert evaluated is not None
        return Outcome(
            EvaluationResult.model_validate(evaluated.read_json("metrics.json")),
            pl.read_parquet(evaluated.path("predictions.parquet")),
            self._version(plan) is not None,
            exit_code,
            refusal,
        )

    def _dataset(self, hospital: Hospital) -> str:
        """The name of the hospital's dataset, which is made when first asked for."""
        app = self._app
        name = f"hospital-{fingerprint(hospital.model_dump(mode='json'))[:16]}"
        if name not in self._datasets:
            folder, jobs = app.home / "hospitals" / name, app.settings.datasets.jobs
            synthesize(folder, hospital, jobs=jobs)
            import_dataset(
                read_csv(folder / "recordings.csv"),
                app.artifacts,
                name=name,
                thresholds=app.settings.datasets.quality,
                jobs=jobs,
            )
            self._datasets.add(name)
        return name

    def _promote(self, plan: Plan) -> None:
        """The command, which decides and moves nothing."""
        words = [str(self._version(plan)), "--policy", "demo", "--dry-run"]
        find_command("model", "promote").main(words, standalone_mode=False, obj=self._app)

    def _version(self, plan: Plan) -> int | None:
        """The version that was registered of a plan."""
        name = plan.fingerprints["publish"]
        return next(
            (v.version for v in self._app.registry.versions() if v.fingerprint == name), None
        )


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """For the small versions: few resamples, as nothing here asks for bootstrap intervals, and no
    other processes, whose start takes longer than so little work."""
    settings = ["evaluation.resamples=200", "datasets.jobs=1", "training.jobs=1"]
    return Laboratory(tmp_path_factory.mktemp("science"), settings=settings)


@pytest.fixture
def new_laboratory(tmp_path: Path) -> Callable[[], Laboratory]:
    """For the slow versions: each call another data folder, with the settings as delivered."""
    numbers = count()
    return lambda: Laboratory(tmp_path / str(next(numbers)))


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Print a run's row as it ends, for benchmarks/RESULTS.md; the first call prints the head."""
    said: list[str] = []

    def show(seed: int, outcome: Outcome) -> None:
        with capsys.disabled():
            for cells in () if said else (("seed", *FIGURES), ("---",) * (1 + len(FIGURES))):
                print(f"| {' | '.join(cells)} |", flush=True)
            said.append(f"| {seed} | {' | '.join(outcome.row())} |")
            print(said[-1], flush=True)

    return show
