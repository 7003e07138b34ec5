"""Image, Compose file and service unit say what is there; none of them is built or started here."""

import re
import shlex
import tomllib
from configparser import ConfigParser, SectionProxy
from pathlib import Path
from typing import Any

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
UP = ["spira", "--log-level", "info", "schedule", "up"]


# ---- the image


def instructions(name: str) -> list[str]:
    """What follows an instruction of the Dockerfile, wherever it stands."""
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.M)


def test_the_image_installs_extras_that_exist() -> None:
    """Those of a service that trains, on pinned versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r"-c requirements/constraints\.txt '\.\[([\w,]+)\]'", DOCKERFILE)

    assert set(extras.split(",")) == {"train", "synthetic", "schedule", "kubernetes"}
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


def test_compose_opens_nothing_to_the_network() -> None:
    """Ports are those of this machine only; the web page, which asks for no password, has none."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert SERVICES["scheduler"]["network_mode"] == "host"  # where it listens on 127.0.0.1
    assert not any("HOST" in name for name in variables("scheduler"))


def test_what_has_to_stay_is_on_volumes() -> None:
    """Each with a name, so that it outlives its container."""
    used = {one.partition(":")[0] for service in SERVICES.values() for one in service["volumes"]}

    assert {name for name in used if not name.startswith(".")} == set(COMPOSE["volumes"])
    assert all(service["volumes"] for service in SERVICES.values())


# ---- secrets


def test_secrets_of_compose_come_from_outside() -> None:
    """Whatever is secret is asked for by name, and named in env.example without a value."""
    secret = {
        value
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

    assert len(files) >= 15
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


def test_a_stage_out_of_memory_does_not_end_the_service() -> None:
    """Left to itself, systemd stops a unit of which the kernel killed one process."""
    page = (ROOT / "docs/how-to.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```text\n(\[Service\].+?)```", page, re.M | re.S)

    for text in (UNIT.read_text(encoding="utf-8"), shown):
        assert unit(text)["OOMPolicy"] == "continue"
