"""What deploy/kubernetes asks of a cluster for Serving; there is none here."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from spira.cli import find_command
from spira.serving.messages import ASKS
from spira.serving.predictor import DURABLE
from spira.settings import read_settings
from spira.stores.queue import STREAMS

ROOT = Path(__file__).parents[3]
SERVING = ROOT / "deploy/kubernetes/serving"
KEDA = ROOT / "deploy/kubernetes/overlays/serving-keda"
PAGE = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
VERSIONS = ("1.27", "1.37")  # the oldest that we support, the newest with a schema
PARTS = ("api", "relay", "predictor")
SECRETS = {
    "api": {"spira-database", "spira-stores", "spira-keys", "spira-keys-passphrase"},
    "relay": {"spira-database", "spira-stores", "spira-queue"},
    "predictor": {"spira-stores", "spira-queue"},
    "queue": {"spira-queue"},
}


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


KUSTOMIZATION = documents(SERVING / "kustomization.yaml")[0]
MANIFESTS = [found for name in KUSTOMIZATION["resources"] for found in documents(SERVING / name)]
SCALING = documents(KEDA / "scaling.yaml")


def manifest(kind: str, name: str) -> dict[str, Any]:
    """The one of this kind and name."""
    (found,) = (one for one in MANIFESTS if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def workload(part: str) -> dict[str, Any]:
    """The spec of a part's Deployment; of the queue, its StatefulSet."""
    spec: dict[str, Any] = manifest(
        "StatefulSet" if part == "queue" else "Deployment", f"spira-{part}"
    )["spec"]
    return spec


def pod(part: str) -> dict[str, Any]:
    """A pod of a part."""
    spec: dict[str, Any] = workload(part)["template"]["spec"]
    return spec


def containers(part: str) -> list[dict[str, Any]]:
    """Of a pod, in the order in which they are started."""
    return [*pod(part).get("initContainers", []), *pod(part)["containers"]]


def settings_of_pods() -> dict[str, str]:
    """The variables that API, relay and predictor get."""
    data: dict[str, str] = manifest("ConfigMap", "spira-settings")["data"]
    return data


def kustomized(folder: Path) -> list[dict[str, Any]] | None:
    """What `kubectl apply -k` would send; None where there is no kubectl."""
    if shutil.which("kubectl") is None:
        return None
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True
    )
    return list(yaml.safe_load_all(done.stdout))


def test_every_file_is_used() -> None:
    """A manifest that nobody names would never be applied."""
    generated = KUSTOMIZATION["configMapGenerator"][0]["files"]

    assert {path.name for path in SERVING.iterdir()} == {
        *KUSTOMIZATION["resources"],
        *generated,
        "kustomization.yaml",
    }
    overlay = documents(KEDA / "kustomization.yaml")[0]["resources"]
    assert overlay == ["../../serving", "scaling.yaml"]
    assert len(MANIFESTS) >= 15


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", [SERVING, KEDA], ids=["serving", "keda"])
def test_manifests_agree_with_the_schema_of_kubernetes(folder: Path, version: str) -> None:
    """Strictly: an unknown key is a mistake. Of KEDA's kind there is no schema here."""
    written = MANIFESTS if folder == SERVING else [*MANIFESTS, *SCALING]
    found = kustomized(folder) or written

    for one in found:
        if one["kind"] != "ScaledObject":
            kubernetes_validate.validate(one, version, strict=True)
    assert len(found) >= len(written)
    assert {one["metadata"].get("namespace") for one in found if one["kind"] != "Namespace"} <= {
        "spira-serving",
        None,
    }


def test_variables_of_the_pods_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPIRA reads them without a complaint; pods share no folder, so stores are on servers."""
    for name, value in settings_of_pods().items():
        monkeypatch.setenv(name, value)

    read = read_settings()

    assert read.serving.database
    assert read.serving.objects
    assert read.serving.queue
    assert read.stores.registry
    assert read.serving.host == "0.0.0.0"
    assert read.intake.checking.children == 2


def test_commands_and_ports_of_the_pods_exist() -> None:
    """Each part is started by its command, and probed and served at the port that it is told."""
    for part in PARTS:
        for container in containers(part):
            program, *words = container["command"]
            words = words[2:] if words[0] == "--log-level" else words
            options = [option for one in find_command(*words[:2]).params for option in one.opts]
            assert program == "spira"
            assert all(word in options for word in words if word.startswith("--")), part
        (port,) = container["ports"]
        assert str(port["containerPort"]) == words[words.index("--port") + 1]
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    assert pod("api")["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/readyz"
    for part in ("relay", "predictor"):
        assert "0.0.0.0" in pod(part)["containers"][0]["command"]  # else no probe reaches it


def test_the_queue_is_where_the_parts_look_for_it() -> None:
    """By Service and port; with our configuration, on a volume that outlives its pod."""
    address = urlsplit(settings_of_pods()["SPIRA_SERVING__QUEUE"])
    service = manifest("Service", address.hostname or "")["spec"]
    (container,) = pod("queue")["containers"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    program, _, configuration, _, store = container["command"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    listens = re.findall(r'"0\.0\.0\.0:(\d+)"', (SERVING / "nats.conf").read_text())

    assert service["selector"] == workload("queue")["selector"]["matchLabels"]
    assert address.port == ports["clients"]
    assert [str(port) for port in ports.values()] == listens
    assert {one["name"]: one["port"] for one in service["ports"]} == ports
    assert program == "nats-server"
    assert Path(configuration) == Path(mounts["configuration"]) / "nats.conf"
    assert store == mounts["messages"]
    assert workload("queue")["serviceName"] == address.hostname
    (claim,) = workload("queue")["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "messages"
    # What its streams may hold, and as much again for what a server does with them.
    held = sum(one.max_bytes or 0 for one in STREAMS.values())
    assert (
        int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) << 30 > 2 * held
    )


def test_every_part_has_the_secrets_that_it_needs_and_no_others() -> None:
    """And the page tells how each is made."""
    for part, needed in SECRETS.items():
        told = json.dumps(pod(part))
        named = {
            *re.findall(r'"secretRef": {"name": "([\w-]+)"', told),
            *re.findall(r'"secretKeyRef": {"name": "([\w-]+)"', told),
            *re.findall(r'"secretName": "([\w-]+)"', told),
        }
        assert named == needed, part
    for name in set().union(*SECRETS.values()):
        assert f"kubectl -n spira-serving create secret generic {name} " in PAGE


def test_two_pods_of_the_api_have_the_same_keys_and_make_none() -> None:
    """A key that one of them made would be gone with it, and unknown to the other.

    The ring refuses what a group may read: no fsGroup, and a folder that is made in memory.
    """
    spec = pod("api")
    init, api = containers("api")
    ring = Path(settings_of_pods()["SPIRA_INTAKE__KEYS"])
    volumes = {one["name"]: one for one in spec["volumes"]}
    mounted = {one["name"]: one for one in api["volumeMounts"]}
    sealed = next(one for one in init["volumeMounts"] if one["name"] == "sealed-keys")

    assert "fsGroup" not in spec["securityContext"]
    assert volumes["keys"]["emptyDir"]["medium"] == "Memory"
    assert mounted["keys"]["readOnly"]
    assert Path(mounted["keys"]["mountPath"]) == ring.parent  # the ring makes the folder below it
    assert init["command"][:3] == ["spira", "keys", "restore"]
    file = Path(init["command"][3])
    assert (str(file.parent), f"--from-file={file.name} " in PAGE) == (sealed["mountPath"], True)
    assert volumes["sealed-keys"]["secret"]["defaultMode"] == 0o444  # root's, read by nobody else
    assert "sealed-keys" not in mounted
    assert not [
        one
        for part in ("relay", "predictor")
        for one in pod(part)["volumes"]
        if "keys" in one["name"]
    ]


def test_the_api_stays_while_nodes_are_emptied_and_versions_change() -> None:
    """Two, never less than one; and time to finish what is in hand."""
    spec = workload("api")
    budget = manifest("PodDisruptionBudget", "spira-api")["spec"]

    assert spec["replicas"] >= 2
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert budget == {"minAvailable": 1, "selector": spec["selector"]}
    assert pod("api")["terminationGracePeriodSeconds"] > 20 + 5


# ---- who may reach whom


def policies(direction: str, part: str) -> list[dict[str, Any]]:
    """The rules about a part's pods."""
    labels = workload(part)["template"]["metadata"]["labels"]
    return [
        rule
        for one in MANIFESTS
        if one["kind"] == "NetworkPolicy"
        and one["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items()
        for rule in one["spec"].get(direction, [])
    ]


def ports(rules: list[dict[str, Any]]) -> set[int]:
    """All that rules let through."""
    return {port["port"] for rule in rules for port in rule["ports"]}


def test_only_the_api_is_reached_from_outside() -> None:
    """The queue by relay and predictor alone, the others by nobody; no way in but a Service."""
    nobody = manifest("NetworkPolicy", "spira-nobody")["spec"]
    (from_outside,) = policies("ingress", "api")
    (to_the_queue,) = policies("ingress", "queue")
    ((selector,),) = [rule["from"] for rule in [to_the_queue]]
    asking = {one["key"]: one["values"] for one in selector["podSelector"]["matchExpressions"]}

    assert nobody == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert (from_outside, ports([to_the_queue])) == ({"ports": [{"port": 8600}]}, {4222})
    assert asking["app.kubernetes.io/component"] == ["relay", "predictor"]
    assert policies("ingress", "relay") == policies("ingress", "predictor") == []
    kinds = {one["kind"] for one in MANIFESTS}
    assert not kinds & {"Ingress", "Gateway", "Role", "ClusterRole"}
    services = [one["spec"] for one in MANIFESTS if one["kind"] == "Service"]
    assert {one.get("type", "ClusterIP") for one in services} == {"ClusterIP"}


def test_every_part_reaches_the_servers_that_it_needs_and_no_others() -> None:
    """At the ports of the settings, so that an address with another port is noticed here."""
    told = settings_of_pods()
    database = urlsplit(told["SPIRA_SERVING__DATABASE"]).port or 5432
    store = urlsplit(told["AWS_ENDPOINT_URL"]).port
    registry = urlsplit(told["SPIRA_STORES__REGISTRY"]).port
    queue = urlsplit(told["SPIRA_SERVING__QUEUE"]).port
    names = 53

    assert ports(policies("egress", "api")) == {names, database, store}
    assert ports(policies("egress", "relay")) == {names, database, store, registry, queue}
    assert ports(policies("egress", "predictor")) == {names, store, registry, queue}
    assert ports(policies("egress", "queue")) == {names}
    for part in ("relay", "predictor"):
        (rule,) = [one for one in policies("egress", part) if ports([one]) == {queue}]
        labels = rule["to"][0]["podSelector"]["matchLabels"]
        assert labels == workload("queue")["selector"]["matchLabels"]


def test_no_pod_has_rights_that_it_does_not_need() -> None:
    """No root, no account, nothing to write but its volumes; as much memory as was thought of."""
    user = re.search(r"^USER (\d+):", (ROOT / "deploy/Dockerfile").read_text(), re.M)
    assert user is not None

    for part in (*PARTS, "queue"):
        spec = pod(part)
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False  # SPIRA_… variables of Services are no settings
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == int(user[1])
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(part):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"]
            assert container["resources"]["limits"]["memory"]
            assert "/tmp" in [one["mountPath"] for one in container["volumeMounts"]]
        assert all(
            one["emptyDir"]["sizeLimit"] for one in spec.get("volumes", []) if "emptyDir" in one
        )


def test_the_page_says_what_a_pod_asks_for() -> None:
    """One row for each."""
    for part in (*PARTS, "queue"):
        asked = pod(part)["containers"][0]["resources"]
        cells = (workload(part)["replicas"], asked["requests"]["cpu"], asked["requests"]["memory"])
        most = asked["limits"]["memory"]
        assert f"| `spira-{part}` | {' | '.join(map(str, cells))} | {most} |" in PAGE


# ---- as many predictors as the queue needs


def test_predictors_are_counted_by_what_the_queue_holds() -> None:
    """KEDA finds our stream and consumer, and may count as far as the relay ever publishes."""
    scaled, policy = SCALING
    (trigger,) = scaled["spec"]["triggers"]
    asked = trigger["metadata"]
    host, _, port = asked["natsServerMonitoringEndpoint"].partition(":")
    in_flight = read_settings().serving.in_flight

    assert scaled["spec"]["scaleTargetRef"] == {"name": "spira-predictor"}
    assert scaled["spec"]["minReplicaCount"] >= 1  # without the first there is no consumer
    assert scaled["spec"]["maxReplicaCount"] * int(asked["lagThreshold"]) <= in_flight
    assert (trigger["type"], asked["account"]) == ("nats-jetstream", "$G")
    assert STREAMS[asked["stream"]].subjects == [ASKS]
    assert asked["consumer"] == DURABLE
    assert host.startswith("spira-queue.spira-serving.svc.")
    assert policy["spec"]["ingress"][0]["ports"] == [{"port": int(port)}]
    assert (
        policy["spec"]["podSelector"]["matchLabels"] == workload("queue")["selector"]["matchLabels"]
    )


def test_the_number_of_predictors_is_kedas_where_there_is_keda() -> None:
    """Applying the overlay again must not set it back; without it there are some."""
    (patch,) = documents(KEDA / "kustomization.yaml")[0]["patches"]
    found = kustomized(KEDA)

    assert workload("predictor")["replicas"] >= 1
    assert yaml.safe_load(patch["patch"]) == [{"op": "remove", "path": "/spec/replicas"}]
    if found:
        (scaled,) = [
            one
            for one in found
            if (one["kind"], one["metadata"]["name"]) == ("Deployment", "spira-predictor")
        ]
        assert "replicas" not in scaled["spec"]
