"""The Scheduler Service on a pretended cluster: pods are processes, each with a folder of its own.

Manifests, dagster.yaml, dagster-k8s, PostgreSQL and S3 are the real ones. A server of this file
takes the place of Kubernetes: it starts what a job says, tells whether it lives, and stops it.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from services import wait_for

from spira.training.plan import STAGES

ROOT = Path(__file__).parents[2]
BASE = ROOT / "deploy/kubernetes/base"
TOKEN = "a token for tests"
EXPERIMENT = """
name: {name}
split: {{fractions: {{train: 0.5, validation: 0.2, test: 0.3}}}}
noise: {{kind: snr, present: 1, absent: 1, snr_db_low: 15, snr_db_high: 25}}
network: {{kind: compact}}
windows: {{length_s: 2, step_s: 1}}
optimisation: {{epochs: {epochs}, optimiser: {{kind: adamw, rate: 3.0e-3}}}}
"""


@dataclass
class Cluster:
    """Pods, jobs, and the API server that is asked for them."""

    folder: Path
    variables: Mapping[str, str]  # what ConfigMaps and Secrets give every pod
    dagster: Mapping[str, Any]
    pods: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def start(self, pod: str, words: list[str], variables: Mapping[str, str]) -> None:
        """Start a pod: it shares nothing with others but what is on servers."""
        home = self.folder / "pods" / pod
        dagster_home = home / "scheduler/dagster"
        dagster_home.mkdir(parents=True)
        (dagster_home / "dagster.yaml").write_text(yaml.safe_dump(dict(self.dagster)))
        own = {"SPIRA_HOME": str(home), "HOME": str(home), "DAGSTER_HOME": str(dagster_home)}
        if words[0] != "python":  # `dagster` and `spira`, as the image has them
            words = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
        else:
            words = [sys.executable, *words[1:]]
        with (self.folder / f"{pod}.log").open("wb") as log:
            self.pods[pod] = subprocess.Popen(
                words,
                env={**os.environ, **self.variables, **variables, **own},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def take(self, job: dict[str, Any]) -> None:
        """What Kubernetes does with a new job."""
        name = job["metadata"]["name"]
        container = job["spec"]["template"]["spec"]["containers"][0]
        variables = {one["name"]: one["value"] for one in container["env"]}
        self.jobs[name] = job
        self.start(name, container["args"], variables)

    def status(self, name: str) -> dict[str, int]:
        """As a job tells it."""
        code = self.pods[name].poll()
        return {"active": 1} if code is None else {"failed" if code else "succeeded": 1}

    def of_stage(self, stage: str) -> list[str]:
        """Names of the jobs of a stage, in order."""
        labels = ((name, job["metadata"]["labels"]) for name, job in self.jobs.items())
        return [name for name, found in labels if found.get("dagster/op") == stage]

    def stop(self) -> None:
        """End everything."""
        for pod in self.pods.values():
            with suppress(ProcessLookupError):
                os.killpg(pod.pid, signal.SIGKILL)
            pod.wait()


def serve(cluster: Cluster) -> ThreadingHTTPServer:
    """The part of the API of Kubernetes that dagster-k8s asks for."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if job["metadata"]["name"] in cluster.jobs:
                return self.answer(409, {})
            cluster.take(job)
            return self.answer(201, job)

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path.endswith("/pods"):
                name = query.partition("job-name%3D")[2].partition("&")[0]
                found = [{"metadata": {"name": name}, "spec": {"containers": []}}]
                return self.answer(200, {"items": found if name in cluster.pods else []})
            name = path.split("/")[-2]
            if name not in cluster.jobs:
                return self.answer(404, {})
            return self.answer(200, cluster.jobs[name] | {"status": cluster.status(name)})

        def do_DELETE(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "/pods/" in self.path:
                cluster.pods[self.path.rpartition("/")[2].partition("?")[0]].terminate()
            self.answer(200, {})

        def answer(self, code: int, document: Mapping[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory,
    postgres: Any,
    s3: dict[str, str],
    tiny_table: Path,
) -> Iterator[Cluster]:
    """The service, up, with a dataset `tiny` and the experiments `short` and `long`."""
    folder = tmp_path_factory.mktemp("cluster")
    experiments = folder / "experiments"
    experiments.mkdir()
    for name, epochs in (("short", 6), ("long", 4000)):
        (experiments / f"{name}.yaml").write_text(EXPERIMENT.format(name=name, epochs=epochs))
    code, endpoint = free_port(), free_port()
    (config_map,) = (
        one
        for one in yaml.safe_load_all((BASE / "settings.yaml").read_text())
        if one["kind"] == "ConfigMap"
    )
    variables = {
        **config_map["data"],
        **s3,
        "SPIRA_SCHEDULING__DATABASE": postgres.empty("cluster"),
        "SPIRA_STORES__REGISTRY": f"sqlite:///{folder}/mlflow/mlflow.db",
        "SPIRA_SCHEDULING__EXPERIMENTS": str(experiments),
        "SPIRA_SCHEDULING__HOST": "127.0.0.1",
        "SPIRA_EVALUATION__RESAMPLES": "200",
        "SPIRA_TRAINING__CHECKPOINT_EVERY_S": "1",
        "SPIRA_SCHEDULER_TOKEN": TOKEN,
        "DAGSTER_CONTAINER_IMAGE": "spira",
        "DAGSTER_GRPC_PORT": str(code),
        "ENDPOINT": f"http://127.0.0.1:{endpoint}",
    }
    (folder / "mlflow").mkdir()
    dagster = yaml.safe_load((BASE / "dagster.yaml").read_text())
    cluster = Cluster(folder, variables, dagster)
    server = serve(cluster)
    kubeconfig = {
        "clusters": [
            {"name": "it", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        ],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "users": [{"name": "it", "user": {}}],
        "current-context": "it",
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    dagster["run_launcher"]["config"] |= {
        "load_incluster_config": False,
        "kubeconfig_file": str(folder / "kubeconfig"),
    }
    dagster["local_artifact_storage"]["config"]["base_dir"] = str(folder / "nothing")
    workspace = (BASE / "workspace.yaml").read_text()
    workspace = workspace.replace("spira-code", "127.0.0.1").replace("4000", str(code))
    (folder / "workspace.yaml").write_text(workspace)
    elsewhere = {
        "4000": str(code),
        "0.0.0.0": "127.0.0.1",
        "8700": str(endpoint),
        "/var/lib/spira/scheduler/dagster/workspace.yaml": str(folder / "workspace.yaml"),
    }
    try:
        importing = ["spira", "dataset", "import", "--format", "csv", str(tiny_table)]
        mapping = ["--mapping", str(tiny_table.with_name("mapping.yaml")), "--name", "tiny"]
        cluster.start("import", importing + mapping, {})
        assert cluster.pods["import"].wait(120) == 0, (folder / "import.log").read_text()
        for part in ("daemon", "code", "endpoint"):
            manifest = next(yaml.safe_load_all((BASE / f"{part}.yaml").read_text()))
            pod = manifest["spec"]["template"]["spec"]
            for container in pod.get("initContainers", []):
                cluster.start(container["name"], container["command"], {})
                assert cluster.pods[container["name"]].wait(120) == 0
            words = [elsewhere.get(word, word) for word in pod["containers"][0]["command"]]
            cluster.start(part, words, {})
        wait_for(lambda: answers(cluster), 120, "the endpoint answers")
        yield cluster
    finally:
        server.shutdown()
        cluster.stop()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(cluster: Cluster) -> bool:
    """Whether the endpoint is healthy."""
    with suppress(OSError):
        return bool(
            urllib.request.urlopen(f"{cluster.variables['ENDPOINT']}/healthz").status == 200
        )
    return False


def asked(cluster: Cluster, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the endpoint answers; with a body it is a POST."""
    request = urllib.request.Request(
        f"{cluster.variables['ENDPOINT']}/v1/runs{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {TOKEN}"},
    )
    with urllib.request.urlopen(request) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def ask_for(cluster: Cluster, experiment: str) -> str:
    """The id of a new request."""
    body = {"experiment": experiment, "dataset": "tiny", "by": "a test", "reason": "to see"}
    return str(asked(cluster, "", body)["id"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pipeline_is_done_by_one_job_a_stage(cluster: Cluster) -> None:
    """From the request to the model, by pods that share no folder."""
    request = ask_for(cluster, "short")

    ended = wait_for(
        lambda: (found := asked(cluster, f"/{request}"))["state"] != "open" and found,
        600,
        "the request has ended",
    )

    assert (ended["state"], ended["attempt"]) == ("complete", 1), ended
    assert {stage: len(cluster.of_stage(stage)) for stage in STAGES} == dict.fromkeys(STAGES, 1)
    assert len(cluster.jobs) == 1 + len(STAGES)
    assert {cluster.pods[name].wait(30) for name in cluster.jobs} == {0}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_outlives_its_runs_worker_goes_on_after_a_kill_and_ends_when_cancelled(
    cluster: Cluster,
) -> None:
    """Three things that on one machine the launcher of ours sees to."""
    before = set(cluster.jobs)
    request = ask_for(cluster, "long")
    (first,) = wait_for(lambda: training(cluster) - before, 300, "a training begins")
    wait_for(lambda: epoch(cluster, first) >= 20, 120, "it trains")

    worker = next(name for name in set(cluster.jobs) - before if name.startswith("dagster-run"))
    cluster.pods[worker].kill()
    wait_for(lambda: f"{worker}-1" in cluster.jobs, 60, "another worker resumes the run")
    assert cluster.pods[first].poll() is None

    reached = epoch(cluster, first)
    os.killpg(cluster.pods[first].pid, signal.SIGKILL)
    (second,) = wait_for(lambda: training(cluster) - before - {first}, 120, "it is started again")
    wait_for(lambda: epoch(cluster, second), 180, "it trains again")
    assert epoch(cluster, second, 0) > reached / 2  # from its last checkpoint, not from the start

    cancelling = ["spira", "schedule", "cancel", request, "--by", "a test"]
    cluster.start("cancel", cancelling, {})
    assert cluster.pods["cancel"].wait(60) == 0
    wait_for(lambda: cluster.pods[second].poll() is not None, 30, "the training ends")
    wait_for(
        lambda: all(cluster.pods[name].poll() is not None for name in cluster.jobs),
        30,
        "no job is left",
    )
    assert asked(cluster, f"/{request}")["state"] == "cancelled"


def training(cluster: Cluster) -> set[str]:
    """Names of the jobs of trainings."""
    return set(cluster.of_stage("train"))


def epoch(cluster: Cluster, pod: str, which: int = -1) -> int:
    """How far a training says it is; 0 before it says so."""
    said = (cluster.folder / f"{pod}.log").read_text(errors="replace")
    found = re.findall(r"training: (\d+) of", said)
    return int(found[which]) if found else 0
