"""Image, Compose file and service unit say what is there; none of them is built or started here."""

import re
import shlex
import tomllib
from configparser import ConfigParser, SectionProxy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from spira.cli import find_command
from spira.settings import read_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
EXAMPLE = (DEPLOY / "env.example").read_text(encoding="utf-8")
UNIT = DEPLOY / "systemd/spira.service"
SERVING_UNIT = DEPLOY / "systemd/spira-serve.service"
SERVING = ("serving-api", "serving-relay", "serving-predictor")
UP = ["spira", "--log-level", "info", "schedule", "up"]


# ---- the image


def instructions(name: str) -> list[str]:
    """What follows an instruction of the Dockerfile, wherever it stands."""
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.M)


def test_the_image_installs_extras_that_exist() -> None:
    """Those of a service that trains and of one that serves, on pinned versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r"-c requirements/constraints\.txt '\.\[([\w,]+)\]'", DOCKERFILE)

    assert set(extras.split(",")) == {"train", "synthetic", "schedule", "kubernetes", "serve"}
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert {line.split()[0] for line in instructions("FROM")} == {"python:3.11-slim"}


def test_the_image_is_made_of_files_that_reach_the_builder() -> None:
    """Everything is left out unless .dockerignore lets it in."""
    let_in = [
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = [
        word
        for line in instructions("COPY")
        if not line.startswith("--from")
        for word in shlex.split(line)[:-1]
    ]

    assert len(copied) >= 5
    assert set(copied) == set(let_in)
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_can_be_given_a_whole_command_and_runs_it_as_nobody() -> None:
    """dagster-k8s sends arguments without a command: an ENTRYPOINT would swallow them."""
    assert not instructions("ENTRYPOINT")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", instructions("USER")[-1])


# ---- Compose


def variables(service: str) -> dict[str, str]:
    """The environment of a service."""
    return SERVICES[service]["environment"]


def test_the_service_of_compose_is_the_one_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command, with settings that SPIRA takes, and folders that are there."""
    for name, value in variables("scheduler").items():
        monkeypatch.setenv(name, value)

    read = read_settings()

    scheduler = SERVICES["scheduler"]
    assert scheduler["command"] == UP
    assert find_command(*UP[3:]).name == "up"
    assert read.scheduling.database
    assert read.stores.artifacts == "s3://spira/artifacts"
    assert (DEPLOY / scheduler["build"]["context"] / scheduler["build"]["dockerfile"]).exists()
    folders = [one.split(":") for one in scheduler["volumes"]]
    assert str(read.scheduling.experiments) in [target for _, target, *_ in folders]
    assert all((DEPLOY / source).is_dir() for source, *_ in folders if source.startswith("."))


def test_the_servers_of_compose_are_where_the_service_looks() -> None:
    """By host, port, bucket, and the same keys on both sides."""
    ours = variables("scheduler")

    for service, address in (
        ("postgres", ours["SPIRA_SCHEDULING__DATABASE"]),
        ("s3", ours["AWS_ENDPOINT_URL"]),
    ):
        (port,) = SERVICES[service]["ports"]
        assert port.rpartition(":")[0] in address
    assert "-bucket=spira" in SERVICES["s3"]["command"]
    assert variables("postgres")["POSTGRES_PASSWORD"] == ours["PGPASSWORD"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert variables("s3")[name] == ours[name]
    assert all(service in SERVICES for service in SERVICES["scheduler"]["depends_on"])


@pytest.mark.parametrize("service", SERVING)
def test_the_parts_of_serving_are_started_and_find_each_other(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By commands and settings that SPIRA takes, and addresses of services of this file."""
    for name, value in variables(service).items():
        monkeypatch.setenv(name, value)

    words = SERVICES[service]["command"][3:]
    options = [option for one in find_command(*words[:2]).params for option in one.opts]
    read = read_settings()

    assert all(word in options for word in words if word.startswith("-"))
    assert read.serving.objects == "s3://spira/recordings"
    addresses = [variables(service)["AWS_ENDPOINT_URL"], read.serving.database, read.serving.queue]
    for address in filter(None, addresses):
        assert urlsplit(address).hostname in SERVICES
    assert (read.serving.database is None) == (service == "serving-predictor")
    assert (read.serving.queue is None) == (service == "serving-api")
    assert all(one in SERVICES for one in SERVICES[service]["depends_on"])


def test_the_database_of_serving_is_made_and_is_not_dagsters() -> None:
    """Whoever needs it waits for that."""
    name = urlsplit(variables("serving-api")["SPIRA_SERVING__DATABASE"]).path[1:]
    made = SERVICES["serving-database"]

    assert name != urlsplit(variables("scheduler")["SPIRA_SCHEDULING__DATABASE"]).path[1:]
    assert made["command"][-1].endswith(f"createdb {name}")
    for service in ("serving-api", "serving-relay"):
        waits = SERVICES[service]["depends_on"]["serving-database"]["condition"]
        assert waits == "service_completed_successfully"


def test_keys_are_on_a_volume_that_only_the_api_has() -> None:
    """The image has its folder, for its owner alone; a new volume takes both from there."""
    (mounted,) = SERVICES["serving-api"]["volumes"]
    folder = variables("serving-api")["SPIRA_INTAKE__KEYS"]

    assert mounted == f"keys:{folder}"
    assert f"install -d -m 0700 -o spira -g spira {folder}" in DOCKERFILE
    assert [name for name in SERVICES if "keys:" in str(SERVICES[name].get("volumes"))] == [
        "serving-api"
    ]


def test_the_queue_of_compose_keeps_its_messages_and_asks_for_the_token() -> None:
    """With the configuration that is used in Kubernetes too, in a folder that the image has."""
    nats = SERVICES["nats"]
    mounts = dict(one.split(":")[:2] for one in nats["volumes"])
    program, _, configuration, _, store = nats["command"]
    said = (DEPLOY / "kubernetes/serving/nats.conf").read_text(encoding="utf-8")

    assert program == "nats-server"
    assert mounts == {"queue": store, "./kubernetes/serving/nats.conf": configuration}
    assert re.search(rf"-o spira -g spira [^&]*{store}\b", DOCKERFILE)
    assert "token: $QUOTED_TOKEN" in said
    assert "sync_interval: always" in said
    asked = variables("serving-relay")["SPIRA_QUEUE_TOKEN"]
    assert variables("nats")["QUOTED_TOKEN"] == f'"{asked}"'


def test_parts_of_serving_can_write_nothing_but_their_volumes_and_say_how_they_are() -> None:
    """No part has more rights than it needs."""
    asked = {}
    for service in (*SERVING, "nats"):
        part = SERVICES[service]
        assert part["read_only"]
        assert part["cap_drop"] == ["ALL"]
        assert part["security_opt"] == ["no-new-privileges:true"]
        assert "network_mode" not in part
        if "healthcheck" in part:
            ((asked[service],),) = [re.findall(r":(\d+/\w+)", part["healthcheck"]["test"][-1])]

    assert asked == {
        "serving-api": "8600/readyz",
        "serving-relay": "8602/healthz",
        "serving-predictor": "8601/healthz",
        "nats": "8222/healthz",
    }
    for service in SERVING:
        words = SERVICES[service]["command"]
        assert asked[service].startswith(words[words.index("--port") + 1] + "/")


def test_there_may_be_any_number_of_predictors() -> None:
    """Nothing of theirs is there only once."""
    assert not {"ports", "container_name", "hostname"} & set(SERVICES["serving-predictor"])


def test_compose_opens_nothing_to_the_network() -> None:
    """Ports are those of this machine only; the web page, which asks for no password, has none."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert SERVICES["scheduler"]["network_mode"] == "host"  # where it listens on 127.0.0.1
    assert not any("HOST" in name for name in variables("scheduler"))


def test_what_has_to_stay_is_on_volumes() -> None:
    """Each with a name, so that it outlives its container."""
    used = [
        one.partition(":")[0]
        for service in SERVICES.values()
        for one in service.get("volumes", [])
        if not one.startswith(".")
    ]

    assert set(used) == set(COMPOSE["volumes"])
    without = {name for name, service in SERVICES.items() if not service.get("volumes")}
    assert without == {"serving-database"}  # which makes one, and ends


# ---- secrets


def test_secrets_of_compose_come_from_outside() -> None:
    """Whatever is secret is asked for by name, and named in env.example without a value."""
    secret = {
        value.strip('"')
        for service in SERVICES
        for name, value in variables(service).items()
        if re.search("PASSWORD|SECRET|ACCESS_KEY|TOKEN", name)
    }
    asked = {re.fullmatch(r"\$\{(\w+):\?[^}]+\}", value) for value in secret}

    assert None not in asked
    named = dict(line.split("=", 1) for line in EXAMPLE.splitlines() if not line.startswith("#"))
    assert {found[1] for found in asked if found} == set(named)
    assert set(named.values()) == {""}


def test_no_file_of_deploy_holds_a_secret() -> None:
    """No Secret with a value, no password in an address, and no file of secrets is committed."""
    files = [path for path in DEPLOY.rglob("*") if path.is_file() and path.name != ".env"]

    assert len(files) >= 25
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"://[^/\s:@]+:[^/\s@]+@", text), path
        assert not re.search(r"^kind: Secret$", text, re.M), path
    assert ".env" in (DEPLOY / ".gitignore").read_text().split()


# ---- one machine


def unit(text: str) -> SectionProxy:
    """The service of a unit of systemd."""
    parsed = ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(text)
    return parsed["Service"]


def test_the_unit_starts_the_service_and_leaves_its_workers_alone() -> None:
    """Stopping the service must not stop a training; wrong settings are not tried for ever."""
    service = unit(UNIT.read_text(encoding="utf-8"))
    program, *words = shlex.split(service["ExecStart"])

    assert [Path(program).name, *words] == UP
    assert service["KillMode"] == "process"
    assert service["RestartPreventExitStatus"] == "2"
    assert service["User"] != "root"
    assert "PrivateTmp" not in service


def test_the_unit_of_serving_starts_it_and_lets_it_end_in_order() -> None:
    """The supervisor alone is told to stop, and has the time that draining takes."""
    service = unit(SERVING_UNIT.read_text(encoding="utf-8"))
    program, *words = shlex.split(service["ExecStart"])

    assert [Path(program).name, *words] == ["spira", "--log-level", "info", "serve"]
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > 20 + 5 + 8  # drained, ended, and the queue after them
    assert service["RestartPreventExitStatus"] == "2"
    assert service["OOMPolicy"] == "continue"  # a check that runs out of memory ends alone
    assert service["LimitCORE"] == "0"
    ours, schedulers = service["EnvironmentFile"], unit(UNIT.read_text())["EnvironmentFile"]
    assert ours == schedulers  # which the page makes


def test_the_page_shows_the_unit_of_serving_as_it_is() -> None:
    """To be read where it is explained."""
    page = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```text\n(# `spira serve`.+?)```", page, re.M | re.S)

    assert shown == SERVING_UNIT.read_text(encoding="utf-8")


def test_a_stage_out_of_memory_does_not_end_the_service() -> None:
    """Left to itself, systemd stops a unit of which the kernel killed one process."""
    page = (ROOT / "docs/how-to.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```text\n(\[Service\].+?)```", page, re.M | re.S)

    for text in (UNIT.read_text(encoding="utf-8"), shown):
        assert unit(text)["OOMPolicy"] == "continue"
