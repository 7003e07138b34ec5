"""The whole command, as a person or a scheduler starts it."""

import json
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import Stores
from samples import samples
from services import TINY_SPIRA, Service

from spira.domain.fingerprint import canonical_json
from spira.stores.artifacts import ArtifactStore

Spira = Callable[..., "subprocess.CompletedProcess[str]"]
MadeOnce = Callable[[str, Callable[[Path], object]], Path]

TINY = """\
name: tiny
seed: 7
split: {fractions: {train: 0.5, validation: 0.2, test: 0.3}}
noise: {kind: snr, present: 1, absent: 1, snr_db_low: 15, snr_db_high: 25}
network: {kind: compact}
windows: {length_s: 2, step_s: 1}
optimisation:
  epochs: 6
  optimiser: {kind: adamw, rate: 3.0e-3}
  schedule: {kind: cosine}
"""


def command(home: Path, *arguments: str) -> list[str]:
    """`spira --home HOME ARGUMENTS`, with a checkpoint at every step."""
    return [
        sys.executable,
        "-m",
        "spira.cli",
        "--home",
        str(home),
        "--setting",
        "training.checkpoint_every_s=0",
        "--setting",
        "evaluation.resamples=200",
        *arguments,
    ]


@pytest.fixture(scope="session")
def spira_command() -> Callable[..., list[str]]:
    """The words of a command, for a test that starts (and kills) the process itself."""
    return command


@pytest.fixture(scope="session")
def bytes_of_stages() -> Callable[[Path], dict[str, dict[str, str]]]:
    """Digest of every file of every stage's artifact below a data folder."""
    return stage_bytes


@pytest.fixture(scope="session")
def spira() -> Spira:
    """Run the command to its end; its output is kept."""

    def run(home: Path, *arguments: str, ok: bool = True) -> "subprocess.CompletedProcess[str]":
        ended = subprocess.run(
            command(home, *arguments), capture_output=True, text=True, check=False
        )
        assert not ok or ended.returncode == 0, ended.stdout + ended.stderr
        return ended

    return run


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> Spira:
    """The command as a function of this process: what it says and its exit code, without a start.

    An exception that reaches its caller, instead of a sentence, fails the test.
    """
    from spira.cli import main

    def run(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
        words = command(home, *arguments)[3:]
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(words)
        said = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        assert "Traceback" not in said.out + said.err, said.err
        return subprocess.CompletedProcess(words, ended.value.code, said.out, said.err)

    return run


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Path]:
    """A data folder of one's own, with what another one holds."""
    numbers = iter(range(1000))

    def copied(home: Path) -> Path:
        return Path(shutil.copytree(home, tmp_path / f"home-{next(numbers)}"))

    return copied


@pytest.fixture(scope="session")
def tiny_experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of a few seconds."""
    path = tmp_path_factory.mktemp("experiment") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny_home(
    tmp_path_factory: pytest.TempPathFactory,
    made_once: MadeOnce,
    tiny_table: Path,
    spira: Spira,
) -> Path:
    """A data folder with the tiny corpus imported; copy it before writing to it."""
    importing = ("dataset", "import", str(tiny_table), "--format", "csv", "--name", "tiny")
    mapping = ("--mapping", str(tiny_table.parent / "mapping.yaml"))
    home = made_once("home", lambda home: spira(home, *importing, *mapping))
    return Path(shutil.copytree(home, tmp_path_factory.mktemp("tiny") / "home"))


@pytest.fixture(scope="session")
def trained_home(
    tmp_path_factory: pytest.TempPathFactory,
    made_once: MadeOnce,
    tiny_home: Path,
    tiny_experiment: Path,
    spira: Spira,
) -> Path:
    """A data folder in which the tiny experiment ran without interruption."""

    def make(home: Path) -> None:
        shutil.copytree(tiny_home, home, dirs_exist_ok=True)
        spira(home, "train", str(tiny_experiment), "--data", "tiny")

    home = made_once("trained", make)
    return Path(shutil.copytree(home, tmp_path_factory.mktemp("trained") / "home"))


@pytest.fixture(scope="module")
def start_service(
    tmp_path_factory: pytest.TempPathFactory, tiny_home: Path, tiny_table: Path
) -> Iterator[Callable[..., Service]]:
    """Start the Scheduler Service on a folder with the tiny corpus; its stages are tiny ones."""
    started: list[Service] = []

    def start(
        *,
        tiny: bool = True,
        wait: bool = True,
        imported: bool = True,
        source: Path = tiny_home,
        **settings: str,
    ) -> Service:
        """On a copy of the source; another store than the folder's has the corpus imported."""
        folder = tmp_path_factory.mktemp("service")
        if imported:
            shutil.copytree(source, folder / "home")
        else:
            (folder / "home").mkdir()
        (folder / "experiments").mkdir()
        if tiny:
            settings["SPIRA_SCHEDULING__COMMAND"] = json.dumps([sys.executable, str(TINY_SPIRA)])
            settings["TINY_METRICS"] = str(folder / "metrics.json")
            (folder / "metrics.json").write_text(samples().make_result().model_dump_json())
        service = Service(folder / "home", folder / "experiments", settings)
        service.write("tiny")
        started.append(service)
        if not imported:
            service.import_csv(tiny_table)
        service.start(wait=wait)
        return service

    yield start
    for service in started:
        service.kill("everything")


@pytest.fixture(scope="session")
def evaluated_as() -> Callable[..., None]:
    """Give the only evaluation of a data folder these verdicts by audit, as if it had found them;
    its model was not published then."""

    def changed(home: Path, **verdicts: str) -> None:
        store = ArtifactStore.open(str(home / "store"), cache=home / "cache")
        (evaluated,) = store.list("evaluate")
        result = evaluated.read_json("metrics.json")
        found = {audit["name"]: audit for audit in result["audits"]}
        for name, verdict in verdicts.items():
            found[name]["verdict"] = verdict
        files = {name: evaluated.read(name) for name in evaluated.files}
        for artifact in (evaluated, *store.list("publish")):
            store.forget(artifact)
        store.commit(
            "evaluate",
            evaluated.fingerprint,
            files | {"metrics.json": canonical_json(result)},
            evaluated.about,
        )
        shutil.rmtree(home / "mlflow", ignore_errors=True)

    return changed


def stage_bytes(home: Path) -> dict[str, dict[str, str]]:
    """Digest of every file of every stage's artifact: what must be the same bytes."""
    digests: dict[str, dict[str, str]] = {}
    for path in sorted((home / "store" / "manifests").glob("*/*.json")):
        manifest: dict[str, Any] = json.loads(path.read_text().partition("\n")[2])
        stage = path.parent.name
        digests.setdefault(stage, {}).update(
            {f"{path.stem[:8]}/{name}": entry[0] for name, entry in manifest["files"].items()}
        )
    return digests


@pytest.fixture
def embedded(tmp_path: Path) -> Stores:
    """SQLite and folders, of the data folder `home`."""
    home = tmp_path / "home"
    home.mkdir()
    return Stores({}, f"sqlite:///{home / 'spira.db'}", str(home))


@pytest.fixture
def servers(postgres: Any, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Stores:
    """A real PostgreSQL, which may die too, and a real S3 server."""
    url, place = postgres.empty(uuid.uuid4().hex), f"s3://spira/{uuid.uuid4().hex}"
    for name, value in s3.items():
        monkeypatch.setenv(name, value)

    def crash() -> None:
        postgres.kill()
        time.sleep(1.0)
        postgres.start()

    def suspend() -> None:
        postgres.signal(signal.SIGSTOP)
        time.sleep(3.0)
        postgres.signal(signal.SIGCONT)

    settings = {
        "SPIRA_SERVING__DATABASE": url,
        "SPIRA_SERVING__OBJECTS": f"{place}/recordings",
        "SPIRA_COLLECTION__OBJECTS": f"{place}/collected",
    }
    return Stores(settings, url, place, {"database": crash, "database suspended": suspend})
