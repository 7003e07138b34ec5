"""One job a stage on Kubernetes: what a job asks for, and when a stage's pod ends by itself.

What is common to all jobs (image, settings, secrets, volumes, resources of a stage) is said by the
run launcher of deploy/kubernetes/base/dagster.yaml; here is what only this code knows.
"""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from dagster import DagsterInstance, DagsterRunStatus

_CONFIG = "dagster-k8s/config"
_LOOK_EVERY_S = 5.0

# Dagster wants to be some account wherever it is opened; this one may do nothing.
STAGE_ACCOUNT = "spira-stage"

# The worker of a run only waits for its stages; Dagster gives these to no stage.
RUN_TAGS: Mapping[str, Any] = {
    _CONFIG: {
        "container_config": {
            "resources": {
                "requests": {"cpu": "100m", "memory": "512Mi", "ephemeral-storage": "100Mi"},
                "limits": {"memory": "1Gi", "ephemeral-storage": "2Gi"},
            }
        }
    }
}


def stage_tags(*, on_gpu: bool) -> Mapping[str, Any]:
    """What the job of a stage has beside what all jobs have; `on_gpu`: one GPU."""
    pod: dict[str, Any] = {"service_account_name": STAGE_ACCOUNT}
    container: dict[str, Any] = {}
    if on_gpu:
        container["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
        pod["tolerations"] = [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        ]
    return {_CONFIG: {"container_config": container, "pod_spec_config": pod}}


@contextmanager
def ends_with_its_run(
    instance: DagsterInstance, run_id: str, *, look_every_s: float = _LOOK_EVERY_S
) -> Iterator[None]:
    """Interrupt this process, as Kubernetes would, when the run is cancelled or has ended.

    Dagster tells only the worker of a run that it is cancelled. That one leaves the jobs of its
    stages alone wherever another worker may resume the run, even when the run is cancelled: a
    training would go on for hours that nobody waits for.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(look_every_s):
            with suppress(Exception):  # a database that is away comes back
                run = instance.get_run_by_id(run_id)
                if run is None or run.is_finished or run.status == DagsterRunStatus.CANCELING:
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
