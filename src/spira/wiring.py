"""The composition root: settings in, the parts of SPIRA joined together out."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from spira.console import Console
from spira.domain.errors import PolicyRefused
from spira.settings import Settings

if TYPE_CHECKING:
    from spira.domain.labels import Subject
    from spira.intake.keys import KeyRing
    from spira.labels.store import Labels
    from spira.scheduling.asking import Desk
    from spira.scheduling.requests import Request, Requests
    from spira.stores.artifacts import Artifact, ArtifactStore
    from spira.stores.database import Database
    from spira.stores.objects import Objects
    from spira.stores.registry import Alias, Registry
    from spira.training.experiments import Experiment
    from spira.training.pipeline import Done
    from spira.training.plan import Plan, StageName
    from spira.training.runs import Run

# Whose tables the database has. They are brought up to date together: Alembic refuses a database
# in which it finds a migration of a room that it was not told of.
ROOMS = (
    "spira.intake",
    "spira.labels",
    "spira.serving",
    "spira.collection",
    "spira.collection.hospitals",
)


class Application:
    """What a command is handed. Parts are opened when first asked for."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self.settings = settings
        self.console = console
        self.log = structlog.get_logger()

    @property
    def home(self) -> Path:
        """The data folder."""
        return self.settings.home

    @property
    def json(self) -> bool:
        """Whether the caller is a program."""
        return self.console.as_json

    def say(self, text: str = "") -> None:
        """Tell a person."""
        self.console.say(text)

    def emit(self, document: dict[str, Any] | list[Any]) -> None:
        """Tell a program."""
        self.console.emit(document)

    def progress(self, what: str, done: int, total: int) -> None:
        """Tell how far the work is."""
        self.console.progress(what, done, total)

    @cached_property
    def artifacts(self) -> "ArtifactStore":
        """Feature Store D, dataset versions, and every other artifact."""
        from spira.stores.artifacts import ArtifactStore

        url = self.settings.stores.artifacts or str(self.home / "store")
        return ArtifactStore.open(
            url, cache=self.home / "cache", lease_s=self.settings.stores.lease_s
        )

    @cached_property
    def registry(self) -> "Registry":
        """Metadata Store E and Model Registry I."""
        from spira.stores.registry import Registry

        return Registry.open(self.settings.stores, home=self.home)

    @property
    def keys_folder(self) -> Path:
        """Where the key ring is."""
        return self.settings.intake.keys or self.home / "keys"

    @cached_property
    def requests(self) -> "Requests":
        """The table of requests."""
        from spira.scheduling.instance import open_requests

        return open_requests(self.home, self.settings.scheduling)

    @cached_property
    def desk(self) -> "Desk":
        """Where requests are made."""
        from spira.scheduling.asking import Desk

        return Desk(self.artifacts, self.requests, self.settings.scheduling)

    @cached_property
    def database(self) -> "Database":
        """Document database B: submissions, assessments, audit."""
        from spira.stores.database import Database

        url = self.settings.serving.database or f"sqlite:///{self.home / 'spira.db'}"
        return Database.open(
            url,
            what="setting serving.database: the database does not answer; see to it that it runs",
        )

    def prepare(self) -> None:
        """Bring the database up to date; whoever comes second finds nothing to do."""
        from spira.stores.files import sync_names

        self.home.mkdir(parents=True, exist_ok=True)
        sync_names(self.home)
        self.database.migrate(ROOMS)

    @cached_property
    def recordings(self) -> "Objects":
        """Audio key-value store G."""
        from spira.stores.objects import Objects

        url = self.settings.serving.objects or str(self.home / "recordings")
        return Objects.open(url, setting="serving.objects")

    @cached_property
    def collected(self) -> "Objects":
        """Audio key-value store A."""
        from spira.stores.objects import Objects

        url = self.settings.collection.objects or str(self.home / "collected")
        return Objects.open(url, setting="collection.objects")

    @cached_property
    def consents(self) -> "Objects":
        """Where spoken consents lie, sealed."""
        from spira.stores.objects import Objects

        url = self.settings.collection.consents or str(self.home / "consents")
        return Objects.open(url, setting="collection.consents")

    @cached_property
    def keys(self) -> "KeyRing":
        """Keys that sign, hide and seal; made where there are none."""
        from spira.intake.keys import KeyRing

        return KeyRing.open(self.keys_folder, separators=self.settings.intake.record_separators)

    @cached_property
    def labels(self) -> "Labels":
        """Label Store C; its tables and those of the audit are brought up to date."""
        from spira.labels.store import Labels

        self.prepare()
        return Labels(self.database, self._newest)

    def _newest(self, subject: "Subject") -> "Subject":
        kind, _, stored = subject.partition(":")
        return f"{kind}:{self.keys.wrapped(stored)}" if kind == "record" else subject

    def check_keys(self) -> None:
        """Make keys where there are none yet.

        raises    IntegrityError where the keys are not those of the database: no patient of theirs
                  would be found, and no spoken consent opened
        """
        from spira.collection import visits
        from spira.intake.keys import sealed_with, signed_with
        from spira.intake.submissions import newest_consent, newest_receipts
        from spira.serving import assessments

        self.keys.require(assessments.record_keys(self.database))
        self.keys.require(visits.record_keys(self.database))
        self.keys.require(map(signed_with, newest_receipts(self.database)))
        consent = newest_consent(self.database)
        sealed = None if consent is None else self.consents.read(consent)
        if consent is not None and sealed is not None:
            self.keys.require([sealed_with(sealed, about=consent)])

    def environment(self) -> dict[str, str]:
        """The environment of another process that is to have these settings."""
        rooms = {
            f"SPIRA_{room.upper()}": json.dumps(value) if isinstance(value, dict) else str(value)
            for room, value in self.settings.model_dump(mode="json").items()
        }
        kept = {key: text for key, text in os.environ.items() if not key.startswith("SPIRA_")}
        # A click.py in the working folder is not ours.
        return {**kept, **rooms, "PYTHONSAFEPATH": "1"}

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str = "") -> None:
        """Show a table to a person."""
        self.console.table(head, rows, empty=empty)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold off `spira runs clean` while this process writes to the data folder."""
        from spira.stores.locks import locked

        with locked(self.home / "locks" / "writers", shared=True), self.console.working():
            yield

    def plan(self, experiment: "Experiment", data: str) -> "Plan":
        """Name every stage of an experiment on a dataset (digest, unique prefix, or name)."""
        from spira.datasets.names import resolve
        from spira.training.plan import make_plan

        return make_plan(
            experiment,
            resolve(self.artifacts, data),
            training=self.settings.training,
            evaluation=self.settings.evaluation,
        )

    def plan_of(self, request: "Request") -> "Plan":
        """The stages of what was asked for."""
        from spira.training.experiments import parse_experiment

        return self.plan(parse_experiment(request.document, where=request.id), request.dataset)

    def find_done(
        self, stage: "StageName", plan: "Plan", alias: "Alias | None" = "challenger"
    ) -> "Artifact | None":
        """What a stage left, if it is done (spira.training.pipeline.find_done)."""
        from spira.training.pipeline import find_done

        return find_done(
            plan,
            stage,
            store=self.artifacts,
            open_registry=lambda: self.registry,
            alias=alias,
        )

    def run_stage(
        self,
        stage: "StageName",
        experiment: "Experiment",
        data: str,
        *,
        alias: "Alias | None" = "challenger",
    ) -> "Done":
        """Run one stage alone.

        alias     what `publish` gives the model it registers
        raises    PolicyRefused when `publish` refuses; where the report is has been said then
        """
        from spira.training.pipeline import run_stage

        with self.writing():
            plan = self.plan(experiment, data)
            try:
                return run_stage(
                    plan,
                    stage,
                    store=self.artifacts,
                    home=self.home,
                    open_registry=lambda: self.registry,
                    alias=alias,
                    progress=self.progress,
                    waiting=lambda: self.say(f"{stage}: another process is at it; waiting"),
                )
            except PolicyRefused:
                self.say(f"Report: {self._kept_report(plan)}")
                raise

    def _kept_report(self, plan: "Plan") -> Path:
        """A copy of an evaluation's report where no run keeps one, for a browser to open."""
        import shutil

        evaluated = self.artifacts.find("evaluate", plan.fingerprints["evaluate"])
        assert evaluated is not None  # it was what the refusal rests on
        kept = self.home / "reports" / f"{evaluated.fingerprint[:12]}.html"
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(evaluated.path("report.html"), kept)
        return kept

    def run_pipeline(self, experiment: "Experiment", data: str) -> "Run":
        """Run every stage that is not done, telling how far it is; returns the finished run.

        raises    PolicyRefused when `publish` refuses; run and report have been told then
        """
        from dataclasses import asdict

        from spira.training.pipeline import run_pipeline
        from spira.training.runs import recorded

        if self.settings.training.accelerator == "cuda":
            from spira.training.loop import require_device

            require_device(self.settings.training)  # before the stages that need none
        with self.writing():
            plan = self.plan(experiment, data)
            self.say(f"{experiment.name}, seed {experiment.seed}, on dataset {plan.dataset[:12]}")
            refused: PolicyRefused | None = None
            try:
                with recorded(self.home, plan) as recorder:
                    for done in run_pipeline(
                        plan,
                        store=self.artifacts,
                        home=self.home,
                        open_registry=lambda: self.registry,
                        progress=self.progress,
                        waiting=lambda: self.say("  another process is at this stage; waiting"),
                    ):
                        recorder.add(done)
                        took = "already done" if done.already else f"{done.seconds:6.1f} s"
                        self.say(f"  {done.stage:<9} {done.artifact.fingerprint[:12]}  {took}")
                        if done.stage == "evaluate":
                            for name in ("report.html", "card.md"):
                                recorder.keep(name, done.artifact.path(name))
            except PolicyRefused as refusal:
                refused = refusal
            self.say(f"Report: {recorder.folder / 'report.html'}")
        self.emit(asdict(recorder.run))
        if refused is not None:
            raise refused
        return recorder.run
