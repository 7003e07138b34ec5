"""What Dagster loads: the stages as assets, and what turns requests into runs.

`dagster api grpc -m spira.scheduling.definitions` is how the service starts it. Nothing here
trains, and no experiment file is read while it is loaded: an asset starts `spira stage NAME` as a
process of its own and tells what came of it.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from spira.console import Console
from spira.domain.errors import InputError, SpiraError
from spira.logs import configure_logs
from spira.scheduling.asking import Body
from spira.scheduling.catalogue import read_catalogue
from spira.scheduling.growth import worth_training
from spira.scheduling.instance import folder
from spira.scheduling.kubernetes import RUN_TAGS, ends_with_its_run, stage_tags
from spira.scheduling.notices import tell_not_asked
from spira.scheduling.requests import Request
from spira.scheduling.runs import (
    EXPERIMENT,
    PIPELINE,
    SEED,
    adopt,
    run_request,
)
from spira.scheduling.stages import Trouble, run_process
from spira.scheduling.telling import CHECKS, check_results, describe, table
from spira.settings import read_settings
from spira.stores.artifacts import Artifact
from spira.stores.processes import end_with_starter
from spira.stores.registry import Alias
from spira.training.plan import INPUTS, STAGES, VERSIONS, StageName
from spira.wiring import Application

configure_logs("info")
app = Application(read_settings(), Console(as_json=True))
settings = app.settings.scheduling
on_kubernetes = settings.executor == "kubernetes"

_TELLS: Mapping[StageName, str] = {
    "snapshot": "Freezes the recordings and labels that the experiment uses.",
    "split": "Gives every person, and every noise recording, one side.",
    "features": "Decodes and resamples; stores what does not change between epochs.",
    "train": "Fits the network, with checkpoints that hold everything.",
    "evaluate": "Answers on people it has never met, and audits for shortcuts.",
    "publish": "Proves the export, and registers the model unless an audit failed.",
}
_partitions = dg.MultiPartitionsDefinition(
    {
        EXPERIMENT: dg.DynamicPartitionsDefinition(name=EXPERIMENT),
        SEED: dg.DynamicPartitionsDefinition(name=SEED),
    }
)
_retries = dg.RetryPolicy(
    max_retries=settings.retries,
    delay=settings.retry_delay_s,
    backoff=dg.Backoff.EXPONENTIAL,
    jitter=dg.Jitter.PLUS_MINUS,
)


class Pipeline(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Which dataset version a run is about: the only thing to configure."""

    dataset: str = settings.dataset or ""


def _stage(name: StageName) -> dg.AssetsDefinition:
    on_gpu = name == "train" and app.settings.training.accelerator == "cuda"

    @dg.asset(
        name=name,
        description=_TELLS[name],
        deps=[*INPUTS[name]] if INPUTS[name] else ["experiments"],
        partitions_def=_partitions,
        group_name="pipeline",
        code_version=str(VERSIONS[name]),
        kinds={"spira"},
        pool="gpu" if on_gpu else "cpu",
        retry_policy=_retries,
        check_specs=[
            dg.AssetCheckSpec(check, asset=name, description=f"{holds.en}  \n{holds.pt}")
            for check, holds in CHECKS.get(name, {}).items()
        ],
        op_tags=stage_tags(on_gpu=on_gpu) if on_kubernetes else {},
    )
    def asset(context: dg.AssetExecutionContext, pipeline: Pipeline) -> dg.MaterializeResult:  # type: ignore[type-arg]
        if settings.executor == "process":
            end_with_starter()  # a step's process would outlive the worker, and its stage with it
        began = time.monotonic()
        try:
            request = adopt(context.run, context.instance, app.desk)
            artifact, already = _done(context, name, request)
            told, checked = describe(artifact, app), check_results(artifact, app)
        except SpiraError as error:
            raise _failure(name, Trouble.of(error)) from error
        except dg.Failure:
            raise
        except Exception as error:  # a defect, or Dagster's own database: its request decides
            reason = f"{type(error).__name__}: {error}"
            raise _failure(name, Trouble("unexplained", reason)) from error
        return dg.MaterializeResult(
            metadata=told
            | {
                "already done": already,
                "took (s)": round(time.monotonic() - began, 1),
                "request": request.id,
            },
            check_results=checked,
            data_version=dg.DataVersion(artifact.fingerprint),
        )

    return asset


def _done(
    context: dg.AssetExecutionContext, name: StageName, request: Request
) -> tuple[Artifact, bool]:
    """The artifact of a stage, and whether it was there before; runs the stage unless it was."""
    plan = app.plan_of(request)
    alias: Alias | None = "challenger"
    if name == "publish" and not app.requests.register_as(request.id):
        alias = None
    found = app.find_done(name, plan, alias=alias)
    if found is not None:
        return found, True
    words = [*_words(), "stage", name, str(_written(request)), "--data", request.dataset]
    if alias is None:
        words.append("--no-alias")
    pod = ends_with_its_run(context.instance, context.run_id) if on_kubernetes else nullcontext()
    with pod:
        trouble = run_process(
            words,
            log=folder(app.home) / "stages" / context.run_id / f"{name}.log",
            limit_s=settings.stage_limit_s,
            show=sys.stderr.write,  # Dagster keeps it, and shows it beside the step
        )
    if trouble is not None:
        raise _failure(name, trouble)
    artifact = app.artifacts.find(name, plan.fingerprints[name])
    if artifact is None:
        raise _failure(name, Trouble("transient", "its artifact is not there; it is made again"))
    return artifact, False


def _words() -> tuple[str, ...]:
    program = settings.command or (sys.executable, "-m", "spira.cli")
    return (*program, "--home", str(app.home), "--log-level", "info")


def _written(request: Request) -> Path:
    """The experiment of a request as a file for the stage."""
    path = folder(app.home) / "experiments" / f"{request.digest}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}.new")
    new.write_text(request.document, encoding="utf-8")  # anew: a power cut may have emptied it
    new.replace(path)
    return path


def _failure(name: StageName, trouble: Trouble) -> dg.Failure:
    return dg.Failure(
        trouble.reason,
        metadata={"stage": name, "cause": trouble.cause, "reason": trouble.reason},
        allow_retries=trouble.cause in ("transient", "killed"),
    )


@dg.sensor(
    name="requests",
    job_name=PIPELINE,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Turns open requests into runs.",
)
def requests(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Every request that waits becomes a run; its key keeps it from becoming two."""
    due = app.requests.due()
    if not due:
        return dg.SkipReason("nobody is waiting")
    return dg.SensorResult(
        run_requests=[run_request(request) for request in due],
        dynamic_partitions_requests=_missing(
            context.instance,
            {request.experiment for request in due},
            {str(request.seed) for request in due},
        ),
    )


@dg.sensor(
    name="experiments",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Lists the experiment files, and what is wrong with the broken ones.",
)
def experiments(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """A partition for every file that can be read; the list of them when it has changed."""
    catalogue = read_catalogue(settings.experiments)
    state = repr((sorted(catalogue.files.items()), sorted(catalogue.broken.items())))
    new = _missing(
        context.instance,
        set(catalogue.experiments),
        {str(experiment.seed) for experiment in catalogue.experiments.values()},
    )
    if state == context.cursor and not new:
        return dg.SkipReason("as before")
    told = dg.AssetMaterialization(
        "experiments",
        metadata={
            "can be asked for": len(catalogue.experiments),
            "broken": len(catalogue.broken),
            "experiments": table(("experiment", "file", "description"), [*_listed(catalogue)]),
            "broken files": table(("file", "reason"), sorted(catalogue.broken.items())),
        },
    )
    return dg.SensorResult(dynamic_partitions_requests=new, asset_events=[told], cursor=state)


def _listed(catalogue: Any) -> Iterator[tuple[str, ...]]:
    for name, experiment in sorted(catalogue.experiments.items()):
        yield name, catalogue.files[name], experiment.description


def _missing(
    instance: dg.DagsterInstance, names: set[str], seeds: set[str]
) -> list[dg.AddDynamicPartitionsRequest]:
    wanted = ((EXPERIMENT, names), (SEED, seeds))
    new = ((name, keys - set(instance.get_dynamic_partitions(name))) for name, keys in wanted)
    return [dg.AddDynamicPartitionsRequest(name, sorted(keys)) for name, keys in new if keys]


@dg.sensor(
    name="new_data",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for the experiment in operation when its dataset has grown enough.",
)
def new_data(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """N new participants of each class, or any new data after M days."""
    if settings.new_participants is None and settings.new_after_days is None:
        return dg.SkipReason("settings scheduling.new_participants and new_after_days are not set")
    why = worth_training(app.artifacts, app.requests, settings, now=datetime.now(UTC))
    if why is None:
        return dg.SkipReason("not enough is new")
    said, failed = _asked("new data", why)
    if failed and said != context.cursor:  # told once, not every minute
        tell_not_asked("new data", said, settings.webhook)
    context.update_cursor(said if failed else "")
    return dg.SkipReason(said)


def _asked(by: str, reason: str, key: str | None = None) -> tuple[str, bool]:
    """Ask for the experiment in operation; what came of it, and whether it failed."""
    try:
        asked = app.desk.ask(Body(by=by, reason=reason), key=key)
    except InputError as error:
        return str(error), True
    return f"request {asked.request.id}: {reason}", False


def _schedules() -> list[dg.ScheduleDefinition]:
    if settings.cron is None:
        return []

    @dg.schedule(
        name="cron",
        cron_schedule=settings.cron,
        execution_timezone="UTC",
        job_name=PIPELINE,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Asks for the experiment in operation on the latest data.",
    )
    def cron(context: dg.ScheduleEvaluationContext) -> dg.SkipReason:
        at = context.scheduled_execution_time.astimezone(UTC).isoformat()
        said, failed = _asked("cron", f"scheduled for {at}", key=f"cron:{settings.experiment}:{at}")
        if failed:
            tell_not_asked("cron", said, settings.webhook)
        return dg.SkipReason(said)

    return [cron]


def _executor() -> dg.ExecutorDefinition:
    if on_kubernetes:
        from dagster_k8s import k8s_job_executor  # an extra of its own

        return k8s_job_executor
    return dg.in_process_executor if settings.executor == "in process" else dg.multiprocess_executor


_stages = [_stage(name) for name in STAGES]
definitions = dg.Definitions(
    assets=[
        dg.AssetSpec(
            "experiments",
            group_name="pipeline",
            description="The experiment files, and what is wrong with those that are broken.",
        ),
        *_stages,
    ],
    jobs=[
        dg.define_asset_job(
            PIPELINE,
            selection=dg.AssetSelection.assets(*_stages),
            tags=RUN_TAGS if on_kubernetes else None,
        )
    ],
    sensors=[requests, experiments, new_data],
    schedules=_schedules(),
    resources={"pipeline": Pipeline()},
    executor=_executor(),
)
