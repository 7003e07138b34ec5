"""What is sent to a Kubernetes cluster, and what deploy/kubernetes asks of one; there is none here.

The jobs of runs and stages are made by dagster-k8s itself from our definitions and our
dagster.yaml, and sent to an API server of this file, which keeps them.
"""

import base64
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster import DagsterInstance, DagsterRunStatus
from dagster._cli.api import api_cli
from dagster._config import process_config, resolve_to_config_type
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.execution.context_creation_job import (
    PlanOrchestrationContextManager,
    orchestration_context_event_generator,
)
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.launcher.base import LaunchRunContext
from dagster_postgres import DagsterPostgresStorage

from spira.cli import find_command
from spira.domain.errors import InputError
from spira.scheduling.catalogue import read_catalogue
from spira.scheduling.instance import configuration, prepare
from spira.scheduling.kubernetes import STAGE_ACCOUNT, ends_with_its_run
from spira.scheduling.settings import SchedulingSettings
from spira.settings import read_settings
from spira.training.plan import STAGES

ROOT = Path(__file__).parents[3]
BASE = ROOT / "deploy/kubernetes/base"
GPU = ROOT / "deploy/kubernetes/overlays/gpu"
VERSIONS = ("1.27", "1.37")  # the oldest with gRPC probes for everyone, the newest with a schema
MODULE = "spira.scheduling.definitions"
PARTS = ("code", "daemon", "web", "endpoint")
SECRETS = {
    "spira-database": {"PGPASSWORD": "secret-of-the-database"},
    "spira-stores": {"AWS_ACCESS_KEY_ID": "key-of-s3", "AWS_SECRET_ACCESS_KEY": "secret-of-s3"},
    "spira-endpoint": {"SPIRA_SCHEDULER_TOKEN": "secret-of-the-endpoint"},
}


# ---- what the files say


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


KUSTOMIZATION = documents(BASE / "kustomization.yaml")[0]
MANIFESTS = [found for name in KUSTOMIZATION["resources"] for found in documents(BASE / name)]
DAGSTER = documents(BASE / "dagster.yaml")[0]


def manifest(kind: str, name: str) -> dict[str, Any]:
    """The one of this kind and name."""
    (found,) = (one for one in MANIFESTS if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def pods() -> dict[str, dict[str, Any]]:
    """Part of the service -> its pod."""
    return {
        part: manifest("Deployment", f"spira-{part}")["spec"]["template"]["spec"] for part in PARTS
    }


def settings_of(overlay: str = "cpu") -> dict[str, str]:
    """The variables of every pod; with `cuda`, those of the overlay for GPUs."""
    variables = dict(manifest("ConfigMap", "spira-settings")["data"])
    if overlay == "cuda":
        (patch,) = documents(GPU / "kustomization.yaml")[0]["patches"]
        variables |= yaml.safe_load(patch["patch"])["data"]
    return variables


def kustomized(folder: Path) -> list[dict[str, Any]] | None:
    """What `kubectl apply -k` would send; None where there is no kubectl."""
    if shutil.which("kubectl") is None:
        return None
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True
    )
    return list(yaml.safe_load_all(done.stdout))


def test_every_file_of_the_base_is_used() -> None:
    """A manifest that nobody names would never be applied."""
    generated = KUSTOMIZATION["configMapGenerator"][0]["files"]
    named = {*KUSTOMIZATION["resources"], *generated, "kustomization.yaml"}

    assert {path.name for path in BASE.iterdir()} == named
    assert len(MANIFESTS) >= 15


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", [BASE, GPU], ids=["base", "gpu"])
def test_manifests_agree_with_the_schema_of_kubernetes(folder: Path, version: str) -> None:
    """Strictly: an unknown key is a mistake."""
    for one in kustomized(folder) or MANIFESTS:
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize(("folder", "tag"), [(BASE, "0.1.0"), (GPU, "0.1.0-cuda")])
def test_jobs_run_the_image_of_the_services(folder: Path, tag: str) -> None:
    """The code server names its own image, in every overlay; dagster-k8s takes it for the jobs."""
    found = kustomized(folder) or []
    pods_found = [one["spec"]["template"]["spec"] for one in found if one["kind"] == "Deployment"]
    containers = [
        container
        for pod in pods_found
        for container in (*pod["containers"], *pod.get("initContainers", []))
    ]
    named = [
        variable["value"]
        for container in containers
        for variable in container.get("env", [])
        if variable["name"] == "DAGSTER_CONTAINER_IMAGE"
    ]

    if found:
        assert named == [f"spira:{tag}"]
        assert {container["image"] for container in containers} == set(named)
        return
    overlay = documents(folder / "kustomization.yaml")[0]
    assert overlay["images"] == [{"name": "spira", "newTag": tag}]
    assert overlay["replacements"] == KUSTOMIZATION["replacements"]


def test_every_pod_finds_what_it_names() -> None:
    """ConfigMaps, Secrets and accounts are in the manifests, or the page tells how to make them."""
    page = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    config_maps = {
        *(one["metadata"]["name"] for one in MANIFESTS if one["kind"] == "ConfigMap"),
        *(one["name"] for one in KUSTOMIZATION["configMapGenerator"]),
    }
    accounts = {one["metadata"]["name"] for one in MANIFESTS if one["kind"] == "ServiceAccount"}
    text = "".join((BASE / f"{part}.yaml").read_text() for part in PARTS) + yaml.safe_dump(DAGSTER)
    launcher = DAGSTER["run_launcher"]["config"]
    mapped = re.findall(r"configMap(?:Ref)?: ?\n? *\{?name: ([\w-]+)", text)
    secret = {*re.findall(r"secretRef: \{name: ([\w-]+)", text), *launcher["env_secrets"]}

    assert secret == set(SECRETS)
    assert all(f"create secret generic {name} " in page for name in secret)
    assert all(key in page for values in SECRETS.values() for key in values)
    assert "create configmap spira-experiments " in page
    assert {*mapped, *launcher["env_config_maps"]} == config_maps | {"spira-experiments"}
    assert launcher["instance_config_map"] in config_maps
    assert {launcher["service_account_name"], STAGE_ACCOUNT} == accounts
    assert {pod["serviceAccountName"] for pod in pods().values()} == accounts
    assert launcher["job_namespace"] == KUSTOMIZATION["namespace"] == "spira"


def test_only_accounts_that_start_jobs_may_do_anything() -> None:
    """Stages and the code server run as an account without a role; nobody may read a Secret."""
    bound = {
        subject["name"]
        for one in MANIFESTS
        if one["kind"] == "RoleBinding"
        for subject in one["subjects"]
    }
    rules = manifest("Role", "spira-scheduler")["rules"]

    assert bound == {"spira-scheduler"}
    assert pods()["code"]["serviceAccountName"] == STAGE_ACCOUNT
    assert not [one for one in MANIFESTS if one["kind"].startswith("Cluster")]
    resources = {resource for rule in rules for resource in rule["resources"]}
    assert resources <= {"jobs", "jobs/status", "pods", "pods/log", "pods/status", "events"}


def test_there_is_one_daemon_and_never_two() -> None:
    """Two would start runs twice; the old one is gone before the new one comes."""
    spec = manifest("Deployment", "spira-daemon")["spec"]

    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_web_page_is_reached_by_nobody_in_the_cluster() -> None:
    """It asks for no password: no port outside the cluster, and no rule that lets anyone in."""
    services = [one["spec"] for one in MANIFESTS if one["kind"] == "Service"]
    policies = [one["spec"] for one in MANIFESTS if one["kind"] == "NetworkPolicy"]
    labels = manifest("Deployment", "spira-web")["spec"]["template"]["metadata"]["labels"]

    assert {service["type"] for service in services} == {"ClusterIP"}
    assert not [one for one in MANIFESTS if one["kind"] == "Ingress"]
    about_it = [
        policy
        for policy in policies
        if policy["podSelector"]["matchLabels"].items() <= labels.items()
    ]
    assert about_it
    assert not any("ingress" in policy for policy in about_it)


def test_variables_of_the_pods_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPIRA reads them without a complaint; pods share no folder, so stores are on servers."""
    for name, value in settings_of("cuda").items():
        monkeypatch.setenv(name, value)

    read = read_settings()

    assert read.scheduling.executor == "kubernetes"
    assert read.training.accelerator == "cuda"
    assert read.scheduling.database
    assert read.stores.artifacts
    assert read.stores.registry
    assert read.home == Path(DAGSTER["run_launcher"]["config"]["dagster_home"]).parents[1]


def test_commands_of_the_pods_exist() -> None:
    """Programs, modules, options and files that the pods are started with."""
    for part, pod in pods().items():
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            program, *words = container["command"]
            if program == "python":
                assert words[0] == "-m"
                assert find_spec(words[1]) is not None, part
            elif program == "spira":
                options = [
                    option for one in find_command(*words[2:4]).params for option in one.opts
                ]
                assert all(word in options for word in words[4:] if word.startswith("-")), part
            else:
                assert program == "dagster", part
                found = api_cli.commands[words[1]].params
                options = [option for one in found for option in one.opts]
                assert all(word in options for word in words[2:] if word.startswith("-")), part
            if "-w" in words:
                mounted = Path(words[words.index("-w") + 1])
                assert (BASE / mounted.name).exists()
                assert str(mounted.parent) == settings_of()["DAGSTER_HOME"]


def test_probes_ask_the_page_as_this_machine() -> None:
    """By the address of its pod it answers 403, as to other sites."""
    (container,) = pods()["web"]["containers"]

    assert container["command"][:3] == ["python", "-m", "spira.scheduling.web"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        headers = container[probe]["httpGet"]["httpHeaders"]
        assert headers == [{"name": "Host", "value": "localhost"}]


def test_the_daemon_and_the_page_find_the_code_server() -> None:
    """By the name and the port of its Service."""
    (loaded,) = documents(BASE / "workspace.yaml")[0]["load_from"]
    service = manifest("Service", loaded["grpc_server"]["host"])
    words = pods()["code"]["containers"][0]["command"]

    assert loaded["grpc_server"]["port"] == service["spec"]["ports"][0]["port"]
    assert str(loaded["grpc_server"]["port"]) == words[words.index("--port") + 1]
    assert loaded["grpc_server"]["location_name"] == words[words.index("--location-name") + 1]


def test_dagster_has_the_settings_that_were_tried_on_one_machine() -> None:
    """Everything but storage, logs and launcher is the same."""
    ours = configuration(Path("folder"), SchedulingSettings())
    differ = {"storage", "compute_logs", "local_artifact_storage", "run_launcher"}

    assert set(DAGSTER) == set(ours)
    for key in set(ours) - differ:
        assert DAGSTER[key] == ours[key], key


def test_one_machine_refuses_the_executor_of_a_cluster(tmp_path: Path) -> None:
    """Its workers would look for a cluster and fail, again and again."""
    with pytest.raises(InputError, match=r"scheduling\.executor: kubernetes"):
        prepare(tmp_path, SchedulingSettings(executor="kubernetes"))

    assert list(tmp_path.iterdir()) == []


def test_the_password_of_the_database_is_in_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster takes the address from SPIRA's setting; libpq takes the password from PGPASSWORD."""
    url = settings_of()["SPIRA_SCHEDULING__DATABASE"]
    monkeypatch.setenv("SPIRA_SCHEDULING__DATABASE", url)
    schema = resolve_to_config_type(DagsterPostgresStorage.config_type())

    read = process_config(schema, DAGSTER["storage"]["postgres"])

    assert read.success, read.errors
    assert SchedulingSettings(database=url).database == url  # which refuses one with a password


def test_experiments_of_a_mounted_config_map_are_found_once(tmp_path: Path) -> None:
    """The kubelet puts them into a hidden folder, and links to them beside it."""
    mounted = tmp_path / "etc/spira/experiments"
    (mounted / "..2026_11_25").mkdir(parents=True)
    shutil.copy(ROOT / "experiments/demo.yaml", mounted / "..2026_11_25")
    (mounted / "..data").symlink_to("..2026_11_25")
    (mounted / "demo.yaml").symlink_to("..data/demo.yaml")

    catalogue = read_catalogue(tmp_path / settings_of()["SPIRA_SCHEDULING__EXPERIMENTS"][1:])

    assert len(catalogue.experiments) == 1
    assert not catalogue.broken


# ---- what dagster-k8s sends


@contextmanager
def api_server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An API server of Kubernetes that takes jobs and runs none; its address, and the jobs."""
    taken: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/apis/batch/v1/namespaces/spira/jobs"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append(json.loads(body))
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", taken
    finally:
        server.shutdown()
        server.server_close()


def instance_of(folder: Path, server: str) -> DagsterInstance:
    """Dagster by our dagster.yaml, except for what needs PostgreSQL and a cluster."""
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "pretended", "cluster": {"server": server}}],
        "contexts": [{"name": "pretended", "context": {"cluster": "pretended", "user": "nobody"}}],
        "users": [{"name": "nobody", "user": {}}],
        "current-context": "pretended",
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    launcher = DAGSTER["run_launcher"]
    outside = {"load_incluster_config": False, "kubeconfig_file": str(folder / "kubeconfig")}
    changed = {
        "storage": {"sqlite": {"base_dir": str(folder)}},
        "run_launcher": launcher | {"config": launcher["config"] | outside},
    }
    (folder / "dagster.yaml").write_text(yaml.safe_dump(DAGSTER | changed))
    return DagsterInstance.from_config(str(folder))


def jobs_of_a_run(folder: Path, accelerator: str) -> list[dict[str, Any]]:
    """The worker's job, then that of each stage, as the API server gets them."""
    with pytest.MonkeyPatch.context() as patch, api_server() as (server, taken):
        for name, value in settings_of(accelerator).items():
            patch.setenv(name, value)
        patch.setenv("SPIRA_HOME", str(folder))
        for values in SECRETS.values():
            for name, value in values.items():
                patch.setenv(name, value)
        patch.delitem(sys.modules, MODULE, raising=False)  # settings are read when it is loaded
        repository = ReconstructableRepository(
            ModuleCodePointer(MODULE, "definitions", str(folder)),
            container_image=f"spira:{accelerator}",
        )
        job = repository.get_reconstructable_job("pipeline")
        with instance_of(folder, server) as instance:
            run = instance.create_run_for_job(
                job.get_definition(),
                job_code_origin=job.get_python_origin(),
                tags=job.get_definition().run_tags,
            )
            instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
            launch_stages(job, run, instance)
        sys.modules.pop(MODULE, None)
    return taken


def launch_stages(job: Any, run: dg.DagsterRun, instance: DagsterInstance) -> None:
    """What the executor of the run does when it comes to each of its steps."""
    plan = dg._core.execution.api.create_execution_plan(job)
    assert isinstance(plan, ExecutionPlan)
    manager = PlanOrchestrationContextManager(
        orchestration_context_event_generator, job, plan, {}, run, instance, raise_on_error=True
    )
    list(manager.prepare_context())
    context = manager.get_context()
    executor: Any = context.executor
    nothing_known = SimpleNamespace(get_known_state=KnownExecutionState)
    for step in plan.get_all_steps_in_topo_order():
        asked = executor._get_step_handler_context(context, [step], nothing_known)
        list(executor._step_handler.launch_step(asked))


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[dict[str, Any]]]:
    """Accelerator -> the jobs of a run."""
    return {
        accelerator: jobs_of_a_run(tmp_path_factory.mktemp(accelerator), accelerator)
        for accelerator in ("cpu", "cuda")
    }


def stages(jobs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Stage -> the only container of its job."""
    return {
        one["metadata"]["labels"]["dagster/op"]: one["spec"]["template"]["spec"]["containers"][0]
        for one in jobs[1:]
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_jobs_agree_with_the_schema_of_kubernetes(
    sent: Mapping[str, list[dict[str, Any]]], accelerator: str, version: str
) -> None:
    """The worker's and those of all stages, strictly."""
    for one in sent[accelerator]:
        kubernetes_validate.validate(one, version, strict=True)


def test_a_run_is_one_job_and_every_stage_another(
    sent: Mapping[str, list[dict[str, Any]]],
) -> None:
    """Each with a name of its own, tried once by Kubernetes: trying again is Dagster's business."""
    jobs = sent["cpu"]

    assert len(jobs) == 1 + len(STAGES) == len({one["metadata"]["name"] for one in jobs})
    assert set(stages(jobs)) == set(STAGES)
    assert {one["spec"]["backoffLimit"] for one in jobs} == {0}
    assert all(
        container["args"] == ["dagster", "api", "execute_step"]
        for container in stages(jobs).values()
    )


def test_only_training_asks_for_a_gpu(sent: Mapping[str, list[dict[str, Any]]]) -> None:
    """And only where the setting says that it trains on one."""
    asking = {
        accelerator: {
            stage
            for stage, container in stages(jobs).items()
            if "nvidia.com/gpu" in json.dumps(container["resources"])
        }
        for accelerator, jobs in sent.items()
    }

    assert asking == {"cpu": set(), "cuda": {"train"}}
    assert "nvidia.com/gpu" not in json.dumps(sent["cuda"][0])
    assert stages(sent["cuda"])["train"]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_page_says_what_a_job_asks_for(sent: Mapping[str, list[dict[str, Any]]]) -> None:
    """One row for the worker of a run, for a stage, and for training on a GPU."""
    page = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    worker = sent["cuda"][0]["spec"]["template"]["spec"]["containers"][0]
    rows = {
        "worker of a run": worker,
        "a stage": stages(sent["cuda"])["features"],
        "`train`, on CUDA": stages(sent["cuda"])["train"],
    }

    for name, container in rows.items():
        asked, most = container["resources"]["requests"], container["resources"]["limits"]
        gpus = most.get("nvidia.com/gpu", "none")
        cells = (asked["cpu"], asked["memory"], most["memory"], asked["ephemeral-storage"], gpus)
        assert f"| {name} | {' | '.join(cells)} |" in page


def test_no_secret_is_in_a_job(sent: Mapping[str, list[dict[str, Any]]]) -> None:
    """Nor in its arguments, which Dagster compresses; jobs name the Secrets instead."""
    for one in sent["cuda"]:
        container = one["spec"]["template"]["spec"]["containers"][0]
        packed = [
            zlib.decompress(base64.b64decode(variable["value"])).decode()
            for variable in container["env"]
            if variable["name"].startswith("DAGSTER_COMPRESSED")
        ]
        told = "".join([json.dumps(one), *packed])
        assert not [
            name for values in SECRETS.values() for name, value in values.items() if value in told
        ]
        refs = [source["secretRef"]["name"] for source in container["envFrom"][1:]]
        assert refs == ["spira-database", "spira-stores"]


def test_no_pod_has_rights_that_it_does_not_need(
    sent: Mapping[str, list[dict[str, Any]]],
) -> None:
    """Services and jobs alike: no root, nothing to write but their volumes, no more rights."""
    of_jobs = [one["spec"]["template"]["spec"] for one in sent["cuda"]]
    user = re.search(r"^USER (\d+):", (ROOT / "deploy/Dockerfile").read_text(), re.M)
    assert user is not None

    for pod in (*of_jobs, *pods().values()):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == int(user[1])
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["enableServiceLinks"] is False  # SPIRA_… variables of Services are no settings
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"]
            assert container["resources"]["limits"]["memory"]
    assert [pod["serviceAccountName"] for pod in of_jobs] == [
        "spira-scheduler",
        *([STAGE_ACCOUNT] * len(STAGES)),
    ]


# ---- inside the pod of a stage


class Stopped(BaseException):
    """What SIGTERM raises here, as Dagster has it raise something in a stage's pod."""


@pytest.mark.parametrize(
    "ended", [DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED, DagsterRunStatus.FAILURE]
)
def test_a_stage_ends_with_its_run(ended: DagsterRunStatus) -> None:
    """Nobody else tells its pod when the run is cancelled while another worker may resume it."""

    def stop(*_: object) -> None:
        raise Stopped

    gone_on: list[bool] = []
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with DagsterInstance.ephemeral() as instance:
            run = instance.create_run_for_job(dg.GraphDefinition(name="empty").to_job())
            with pytest.raises(Stopped):
                work_until_stopped(instance, run, ended, gone_on)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert gone_on


def work_until_stopped(
    instance: DagsterInstance, run: dg.DagsterRun, ended: DagsterRunStatus, gone_on: list[bool]
) -> None:
    """A stage that would work on for long after its run has come to a status."""
    with ends_with_its_run(instance, run.run_id, look_every_s=0.01):
        time.sleep(0.1)  # many looks: it is not stopped as long as the run goes on
        gone_on.append(True)
        end(instance, run, ended)
        time.sleep(30)


def end(instance: DagsterInstance, run: dg.DagsterRun, status: DagsterRunStatus) -> None:
    """Bring a run to a status as Dagster does."""
    match status:
        case DagsterRunStatus.CANCELING:
            instance.report_run_canceling(run)
        case DagsterRunStatus.CANCELED:
            instance.report_run_canceled(run)
        case _:
            instance.report_run_failed(run)


def test_a_stage_that_is_done_is_not_stopped_later() -> None:
    """Its run may end as soon as it likes."""
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        with DagsterInstance.ephemeral() as instance:
            run = instance.create_run_for_job(dg.GraphDefinition(name="empty").to_job())
            with ends_with_its_run(instance, run.run_id, look_every_s=0.01):
                pass
            instance.report_run_canceled(run)
            time.sleep(0.1)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert told == []
