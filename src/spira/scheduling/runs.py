"""Requests as runs of Dagster, and runs as what became of requests."""

from typing import Any

import dagster as dg

from spira.domain.errors import InputError
from spira.scheduling.asking import Body, Desk
from spira.scheduling.requests import Request

PIPELINE = "pipeline"  # the job
EXPERIMENT, SEED = "experiment", "seed"  # the dimensions of partitions
# Tags of a run.
REQUEST, ATTEMPT, DATASET, KIND, BY, RUN = (
    f"spira/{name}" for name in ("request", "attempt", "dataset", "kind", "by", "run")
)
UNKNOWN = "none"  # in place of a request: what the run is to do is unknown
_JOINED = "joined"  # in place of an attempt: a run of one's own beside that of the request


def run_request(request: Request) -> dg.RunRequest:
    """The run that a request waits for."""
    return dg.RunRequest(
        run_key=f"{request.id}:{request.attempt}",
        partition_key=dg.MultiPartitionKey(
            {EXPERIMENT: request.experiment, SEED: str(request.seed)}
        ),
        run_config={"resources": {"pipeline": {"config": {"dataset": request.dataset}}}},
        tags=tags(request),
    )


def tags(request: Request) -> dict[str, str]:
    """What a run says about its request."""
    return {
        REQUEST: request.id,
        ATTEMPT: str(request.attempt),
        DATASET: request.dataset,
        KIND: request.kind,
    }


def adopt(run: dg.DagsterRun, instance: dg.DagsterInstance, desk: Desk) -> Request:
    """The request of a run; one that a person started from the web page is given one now.

    raises    InputError when what it asks for is unknown
    """
    named = run.tags.get(REQUEST)
    if named == UNKNOWN:  # maybe it is known by now; else whoever asks hears what is wrong
        named = None
    adopted = run.tags.get(RUN) == run.run_id
    if named is not None and (adopted or run.parent_run_id is None):
        return desk.requests.get(named)
    if named is not None:  # run again, with its parent's tags
        made = _again(run, desk, desk.requests.get(named))
    else:
        made = desk.ask(_body(run), key=f"run:{run.run_id}", run_id=run.run_id).request
    own = made.run_id == run.run_id
    attempt = {} if own else {ATTEMPT: _JOINED}
    about = tags(made) | {BY: "web page", RUN: run.run_id} | attempt
    instance.add_run_tags(run.run_id, about)
    return made


def _again(run: dg.DagsterRun, desk: Desk, before: Request) -> Request:
    """The same experiment as it was then, whatever has become of its file."""
    return desk.requests.ask(
        key=f"run:{run.run_id}",
        body={"again": run.parent_run_id},
        by="web page",
        reason="run again from the web page",
        dataset=before.dataset,
        experiment=before.experiment,
        seed=before.seed,
        document=before.document,
        challenger=before.challenger,
        run_id=run.run_id,
    ).request


def _body(run: dg.DagsterRun) -> Body:
    experiment, seed = (run.tags.get(f"dagster/partition/{one}") for one in (EXPERIMENT, SEED))
    if experiment is None or seed is None or not seed.isdecimal():
        raise InputError(f"run {run.run_id}: it names no experiment and seed")
    return Body(
        experiment=experiment,
        dataset=_dataset(run.run_config) or None,
        seed=int(seed),
        by="web page",
        reason="started from the web page",
    )


def _dataset(config: Any) -> str:
    for key in ("resources", "pipeline", "config", "dataset"):
        config = config.get(key) if isinstance(config, dict) else None
    return str(config or "")
