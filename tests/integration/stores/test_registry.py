"""The Model Registry on a real MLflow with SQLite, kills and damage included."""

import hashlib
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from onnx import TensorProto, helper

from spira.domain.errors import InputError, IntegrityError, TransientError
from spira.stores import registry as registry_module
from spira.stores.registry import Alias, ChampionChange, ModelVersion, Registry
from spira.stores.settings import StoresSettings

FIRST = hashlib.sha256(b"first").hexdigest()
SECOND = hashlib.sha256(b"second").hexdigest()
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh database of MLflow, made once: its tables cost a second."""
    folder = tmp_path_factory.mktemp("mlflow")
    assert registry_in(folder).versions() == []
    return folder / "mlflow.db"


@pytest.fixture
def home(tmp_path: Path, empty_database: Path) -> Path:
    """A data folder with an empty registry."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose network takes features of windows and gives one logit a window."""
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["windows", 401, 40])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["windows"])
    mean = helper.make_node("ReduceMean", ["features"], ["logits"], axes=[1, 2], keepdims=0)
    graph = helper.make_graph([mean], "network", [features], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    for name in ("model.json", "metrics.json", "report.html", "card.md", "lineage.json"):
        (folder / name).write_text(f"contents of {name}")
    return folder


def registry_in(folder: Path) -> Registry:
    """A new connection to the registry in a folder."""
    return Registry(
        f"sqlite:///{folder / 'mlflow.db'}",
        artifacts=folder / "artifacts",
        lock=folder / "registry.lock",
    )


def publish(
    registry: Registry,
    bundle: Path,
    fingerprint: str = FIRST,
    alias: Alias | None = "challenger",
) -> ModelVersion:
    """Publish with figures and parameters that MLflow would not take as they are."""
    return registry.register(
        fingerprint,
        bundle,
        evidence_level="synthetic",
        metrics={"auroc": 0.97, "slope": float("nan")},
        parameters={"train.epochs": "40", "description": "", "long": "x" * 7000},
        tags={"experiment": "demo"},
        alias=alias,
    )


def test_a_published_version_is_found_with_all_that_is_known_about_it(
    home: Path, bundle: Path
) -> None:
    """What was registered comes back, from another connection too."""
    publish(registry_in(home), bundle)

    version = registry_in(home).get("challenger")

    assert version.version == 1
    assert version.aliases == ("challenger",)
    assert version.fingerprint == FIRST
    assert version.evidence_level == "synthetic"
    assert version.metrics == {"auroc": 0.97}
    assert version.parameters["train.epochs"] == "40"
    assert version.parameters["long"].startswith("xxx")
    assert version.tags == {"experiment": "demo"}
    assert set(version.files) == {path.name for path in bundle.iterdir()} | {"MLmodel"}
    assert abs(version.created_at - datetime.now(UTC)) < timedelta(minutes=5)


def test_publishing_twice_makes_one_version(home: Path, bundle: Path) -> None:
    """The same fingerprint is one version, and a later challenger stays challenger."""
    registry = registry_in(home)
    publish(registry, bundle)
    publish(registry, bundle, SECOND)

    again = publish(registry, bundle)

    assert again.version == 1
    assert [version.version for version in registry.versions()] == [2, 1]
    assert registry.get("challenger").version == 2


def test_a_version_without_alias_becomes_challenger_when_that_is_asked_for_once(
    home: Path, bundle: Path
) -> None:
    """Not before, not a second time, and no call without an alias takes it away."""
    registry = registry_in(home)
    publish(registry, bundle, SECOND)

    first = publish(registry, bundle, alias=None)
    again = publish(registry, bundle, alias=None)
    before = registry.get("challenger").fingerprint
    asked = publish(registry, bundle)
    third = publish(registry, bundle, "3" * 64)
    later = [publish(registry, bundle), publish(registry, bundle, alias=None)]

    assert first == again
    assert first.aliases == ()
    assert before == SECOND
    assert asked.aliases == ("challenger",)
    assert (asked.version, asked.tags) == (first.version, first.tags)
    assert [version.aliases for version in later] == [(), ()]
    assert registry.get("challenger").version == third.version


def test_a_publish_without_alias_is_complete_for_who_asks_for_none(
    home: Path, bundle: Path
) -> None:
    """And incomplete for who asks for one, until it has been given."""
    registry = registry_in(home)

    def complete() -> tuple[bool, bool]:
        return registry.holds(FIRST, alias=None), registry.holds(FIRST, alias="challenger")

    nothing = complete()
    publish(registry, bundle, alias=None)
    without = complete()
    publish(registry, bundle)

    assert nothing == (False, False)
    assert without == (True, False)
    assert complete() == (True, True)


def test_a_complete_publish_is_known_without_mlflow(home: Path, bundle: Path) -> None:
    """Not before its alias is set, not when a file is damaged, not of another fingerprint."""
    registry = registry_in(home)
    unknown = registry.holds(FIRST)
    published = publish(registry, bundle)
    known = registry.holds(FIRST)
    report = home / "artifacts" / published.run_id / "artifacts/model/report.html"
    report.write_text("other")

    assert (unknown, known) == (False, True)
    assert not registry.holds(FIRST)
    assert not registry.holds(SECOND)
    assert not registry_in(home / "nowhere").holds(FIRST)


def test_users_of_mlflow_find_a_signature(home: Path, bundle: Path) -> None:
    """MLflow's own reader of schemas understands the description beside the network."""
    from mlflow.types.schema import Schema

    registry = registry_in(home)
    folder = registry.download(publish(registry, bundle), home / "cache")

    description = yaml.safe_load((folder / "MLmodel").read_text())
    inputs = Schema.from_json(description["signature"]["inputs"])
    outputs = Schema.from_json(description["signature"]["outputs"])
    assert inputs.inputs[0].name == "features"
    assert inputs.inputs[0].shape == (-1, 401, 40)
    assert inputs.inputs[0].type == "float32"
    assert outputs.inputs[0].shape == (-1,)
    assert (folder / description["flavors"]["onnx"]["data"]).is_file()


PUBLISHER = textwrap.dedent(
    """
    import importlib.util, os, signal, sys
    from pathlib import Path

    tests, home, bundle, method, nth, alias = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("test_registry", tests)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    registry = module.registry_in(Path(home))
    registry.versions()

    from mlflow import MlflowClient

    original, calls = getattr(MlflowClient, method), []

    def dying(*arguments, **named):
        calls.append(method)
        if len(calls) == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    setattr(MlflowClient, method, dying)
    module.publish(registry, Path(bundle), alias=alias or None)
    """
)


def publisher(
    home: Path, bundle: Path, method: str, nth: int, alias: Alias | None = "challenger"
) -> "subprocess.Popen[bytes]":
    """Publish in a process that dies just before the n-th call of an MLflow method."""
    arguments = [__file__, str(home), str(bundle), method, str(nth), alias or ""]
    return subprocess.Popen([sys.executable, "-c", PUBLISHER, *arguments])


@pytest.mark.parametrize(
    ("method", "nth"),
    [
        ("log_batch", 1),
        ("log_artifact", 2),
        ("create_model_version", 1),
        ("set_registered_model_alias", 1),
        ("set_model_version_tag", 1),
    ],
)
def test_a_kill_between_register_and_alias_leaves_one_version_with_its_report(
    home: Path, bundle: Path, method: str, nth: int
) -> None:
    """After `kill -9` anywhere, the next publish leaves one version, with report and alias."""
    killed = publisher(home, bundle, method, nth)
    assert killed.wait() == -signal.SIGKILL
    before = registry_in(home)
    assert not before.holds(FIRST)
    for version in before.versions():
        assert (before.download(version, home / "early") / "report.html").is_file()

    publish(registry_in(home), bundle)

    registry = registry_in(home)
    (version,) = registry.versions()
    assert version.version == 1
    assert version.aliases == ("challenger",)
    assert (registry.download(version, home / "cache") / "report.html").is_file()
    assert len(list((home / "artifacts").iterdir())) == 1, "one run, not two"


@pytest.mark.parametrize("method", ["set_registered_model_alias", "set_model_version_tag"])
def test_a_kill_while_an_alias_is_given_later_is_completed(
    home: Path, bundle: Path, method: str
) -> None:
    """A version that stood without one: it is not taken for challenger before it is marked so."""
    publish(registry_in(home), bundle, alias=None)
    killed = publisher(home, bundle, method, 1)
    assert killed.wait() == -signal.SIGKILL
    known = registry_in(home).holds(FIRST, alias=None), registry_in(home).holds(FIRST)

    publish(registry_in(home), bundle)

    assert known == (True, False)
    (version,) = registry_in(home).versions()
    assert version.aliases == ("challenger",)
    assert registry_in(home).holds(FIRST)


def test_a_kill_of_a_publish_without_alias_is_completed(home: Path, bundle: Path) -> None:
    """Before it is marked it is not complete; afterwards it stands, without an alias."""
    killed = publisher(home, bundle, "set_model_version_tag", 1, alias=None)
    assert killed.wait() == -signal.SIGKILL
    known = registry_in(home).holds(FIRST, alias=None)

    publish(registry_in(home), bundle, alias=None)

    assert not known
    (version,) = registry_in(home).versions()
    assert version.aliases == ()
    assert registry_in(home).holds(FIRST, alias=None)


def test_two_publishers_at_once_make_one_version(home: Path, bundle: Path) -> None:
    """Two processes that publish the same thing at the same time agree on one version."""
    both = [publisher(home, bundle, "delete_run", 1) for _ in range(2)]

    assert [process.wait() for process in both] == [0, 0]

    (version,) = registry_in(home).versions()
    assert version.aliases == ("challenger",)


def test_a_whole_download_is_not_fetched_again_and_a_damaged_one_is(
    home: Path, bundle: Path
) -> None:
    """The cache is trusted only as far as its digests hold."""
    registry = registry_in(home)
    version = publish(registry, bundle)
    folder = registry.download(version, home / "cache")
    stamp = (folder / "model.onnx").stat().st_mtime_ns
    assert registry.download(version, home / "cache") == folder
    assert (folder / "model.onnx").stat().st_mtime_ns == stamp

    (folder / "model.onnx").write_bytes(b"not these")
    again = registry.download(version, home / "cache")

    assert (again / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()


def test_damaged_bytes_in_the_registry_never_answer_and_publishing_repairs_them(
    home: Path, bundle: Path
) -> None:
    """A flipped byte is an IntegrityError; the same publish stores the file again."""
    registry = registry_in(home)
    version = publish(registry, bundle)
    (stored,) = (home / "artifacts").rglob("model.onnx")
    stored.write_bytes(stored.read_bytes()[:-1] + b"\x00")

    with pytest.raises(IntegrityError, match=r"model 1/model\.onnx"):
        registry.download(version, home / "cache")

    assert list((home / "cache").glob("*")) == []
    publish(registry, bundle)
    assert registry.download(version, home / "cache").is_dir()


def test_files_gone_from_the_registry_are_named(home: Path, bundle: Path) -> None:
    """An emptied artifact folder is damage, not a reason to try again."""
    registry = registry_in(home)
    version = publish(registry, bundle)
    shutil.rmtree(home / "artifacts")

    with pytest.raises(IntegrityError, match="gone from the registry"):
        registry.download(version, home / "cache")


def test_a_data_folder_may_be_moved(home: Path, bundle: Path, tmp_path: Path) -> None:
    """Restored elsewhere or mounted at another place, it still has its models, and takes more."""
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy(home / "mlflow.db", there)
    publish(registry_in(there), bundle)
    here = there.rename(tmp_path / "here")

    registry = registry_in(here)
    version = registry.get("1")
    folder = registry.download(version, tmp_path / "cache")
    again = publish(registry, bundle, SECOND)

    assert {path.name for path in folder.iterdir()} == set(version.files)
    assert (here / "artifacts" / again.run_id).is_dir()
    assert not there.exists()


def test_a_copied_data_folder_keeps_its_models_to_itself(
    home: Path, bundle: Path, tmp_path: Path
) -> None:
    """A backup restored beside the original: what is published in the one is not in the other."""
    publish(registry_in(home), bundle)
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(home / "mlflow.db", copy)
    shutil.copytree(home / "artifacts", copy / "artifacts")

    made = publish(registry_in(copy), bundle, SECOND)
    shutil.rmtree(home / "artifacts")

    assert registry_in(copy).holds(SECOND)
    assert (registry_in(copy).download(made, tmp_path / "cache") / "report.html").is_file()
    assert registry_in(copy).download(registry_in(copy).get("1"), tmp_path / "cache").is_dir()


def test_a_moved_folder_that_cannot_be_written_can_be_read(
    home: Path, bundle: Path, tmp_path: Path, mount: Callable[..., Path]
) -> None:
    """A backup mounted read-only at another place."""
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy(home / "mlflow.db", there)
    publish(registry_in(there), bundle)
    here = there.rename(tmp_path / "here")
    seen = mount(tmp_path / "seen", "--bind", str(here))
    subprocess.run(["mount", "-o", "remount,ro,bind", str(seen)], check=True)

    registry = registry_in(seen)

    assert registry.holds(FIRST)
    assert registry.download(registry.get("1"), tmp_path / "cache").is_dir()


def test_a_relative_address_and_an_empty_database_are_taken(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sqlite:///reg.db`, where a file without tables lies."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reg.db").touch()
    settings = StoresSettings(registry="sqlite:///reg.db")

    publish(Registry.open(settings, home=tmp_path / "home"), bundle)

    assert Registry.open(settings, home=tmp_path / "other").holds(FIRST)


def test_asking_for_a_champion_before_there_is_one_says_how_to_get_one(
    home: Path, bundle: Path
) -> None:
    """Each empty answer names the next command."""
    registry = registry_in(home)
    with pytest.raises(InputError, match="spira train"):
        registry.get("champion")
    publish(registry, bundle)

    with pytest.raises(InputError, match="spira model promote"):
        registry.get("champion")
    with pytest.raises(InputError, match="did you mean challenger"):
        registry.get("chalenger")
    with pytest.raises(InputError, match="model 7: there is no such version"):
        registry.get("7")


def change(version: int, previous: int | None, minutes: int) -> ChampionChange:
    """A promotion some minutes after noon."""
    return ChampionChange(
        action="promoted",
        version=version,
        previous=previous,
        by=("A. Silva", "B. Souza"),
        reason="first model",
        policy="clinical 1",
        at=NOON + timedelta(minutes=minutes),
    )


def test_every_move_of_the_champion_is_recorded(home: Path, bundle: Path) -> None:
    """The alias follows the change, the promoted version is challenger no longer, and who,
    when and why can be read afterwards."""
    registry = registry_in(home)
    publish(registry, bundle)
    publish(registry, bundle, SECOND)

    registry.move_champion(change(1, None, 0))
    registry.move_champion(change(2, 1, 1))

    assert registry.get("champion").version == 2
    assert registry.get("champion").aliases == ("champion",)
    assert registry_in(home).champion_history() == (change(1, None, 0), change(2, 1, 1))


def test_a_change_decided_on_an_older_champion_is_refused(home: Path, bundle: Path) -> None:
    """Whoever promotes against a champion that has moved meanwhile must look again."""
    registry = registry_in(home)
    publish(registry, bundle)
    publish(registry, bundle, SECOND)
    registry.move_champion(change(1, None, 0))

    with pytest.raises(TransientError, match="champion is version 1 by now"):
        registry.move_champion(change(2, None, 1))

    assert registry.get("champion").version == 1
    assert len(registry.champion_history()) == 1


def test_versions_of_other_people_are_left_alone(home: Path, bundle: Path) -> None:
    """A version that somebody registered by hand is not one of SPIRA's."""
    publish(registry_in(home), bundle)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    client.create_model_version("spira", source=f"file://{bundle}")

    assert [version.version for version in registry_in(home).versions()] == [1]
    with pytest.raises(InputError, match="not one of SPIRA's"):
        registry_in(home).get("2")


def test_an_absent_server_is_said_within_seconds_and_without_its_address(tmp_path: Path) -> None:
    """A refused connection is a TransientError that holds neither host nor password."""
    registry = Registry(
        "http://user:secret@127.0.0.1:1", artifacts=tmp_path, lock=tmp_path / "lock"
    )
    started = time.monotonic()

    with pytest.raises(TransientError) as refused:
        registry.get("champion")

    assert time.monotonic() - started < 10
    assert "stores.registry does not answer" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "127.0.0.1" not in str(refused.value)


def test_a_server_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is accepted and then silent ends too."""
    monkeypatch.setattr(registry_module, "_ANSWER_WITHIN_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        registry = Registry(f"http://127.0.0.1:{port}", artifacts=tmp_path, lock=tmp_path / "lock")

        with pytest.raises(TransientError, match="does not answer"):
            registry.versions()


def test_a_place_that_cannot_hold_a_registry_is_said_plainly(tmp_path: Path) -> None:
    """A file where a folder should be, a database that is none, an address that is none."""
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be read or written"):
        registry_in(tmp_path / "file").versions()

    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(IntegrityError, match=r"mlflow\.db is damaged"):
        registry_in(tmp_path).versions()

    with pytest.raises(InputError, match="sqlite:////folder"):
        Registry("/some/folder", artifacts=tmp_path, lock=tmp_path / "lock")


def test_a_bundle_without_its_report_is_not_published(home: Path, bundle: Path) -> None:
    """No model without its report; nothing is written."""
    (bundle / "report.html").unlink()
    registry = registry_in(home)

    with pytest.raises(InputError, match=r"report\.html missing"):
        publish(registry, bundle)

    assert registry.versions() == []
    assert not (home / "artifacts").exists()


def test_publishing_says_nothing_and_sends_nothing(
    home: Path, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """MLflow and alembic keep quiet, and MLflow's telemetry is off."""
    registry_in(home / "fresh").versions()
    publish(registry_in(home), bundle)

    from mlflow.telemetry.client import get_telemetry_client

    assert get_telemetry_client() is None
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
