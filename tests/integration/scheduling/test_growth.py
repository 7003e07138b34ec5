"""When new data are worth a training, and what the service asks for by itself."""

import importlib.util
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from spira.datasets.names import STAGE, give_name
from spira.domain.fingerprint import canonical_json, fingerprint
from spira.scheduling.growth import worth_training
from spira.scheduling.requests import Requests
from spira.scheduling.settings import SchedulingSettings
from spira.stores.artifacts import ArtifactStore

NOW = datetime.now(UTC)
SETTINGS = SchedulingSettings(
    experiment="tiny", dataset="ward", new_participants=10, new_after_days=30
)


@pytest.fixture
def requests(tmp_path: Path) -> Requests:
    """An empty table."""
    (tmp_path / "scheduler").mkdir()
    table = Requests.open(f"sqlite:///{tmp_path / 'scheduler' / 'requests.db'}")
    table.create()
    return table


@pytest.fixture
def version(store: ArtifactStore) -> Callable[..., str]:
    """Make a dataset version with so many people, with RI and without, the latest of its name."""
    made = iter(range(100))

    def make(present: int, absent: int, name: str = "ward") -> str:
        at = NOW + timedelta(seconds=next(made))
        about = {"imported_at": at.isoformat(), "people": present + absent}
        counts = {"people": {"present": present, "absent": absent, "unknown": 0}}
        digest = fingerprint([present, absent])
        store.commit(STAGE, digest, {"summary.json": canonical_json(counts)}, about)
        give_name(store, name, digest, at)
        return digest

    return make


def asked(requests: Requests, dataset: str, experiment: str = "tiny") -> None:
    """Somebody asked for the experiment on this version, and it is complete."""
    request = requests.ask(
        key=f"{experiment} {dataset}",
        body={},
        by="a test",
        reason="to see",
        dataset=dataset,
        experiment=experiment,
        seed=1,
        document=f"name: {experiment}\n",
    ).request
    requests.end(request.id, 1, "complete", "complete")


def test_ten_more_of_each_class_are_worth_a_training(
    store: ArtifactStore, requests: Requests, version: Callable[[int, int], str]
) -> None:
    """Of one class alone they are not, and one version is asked for once."""
    first = version(50, 50)
    assert worth_training(store, requests, SETTINGS, now=NOW) == "first data"
    asked(requests, first)
    assert worth_training(store, requests, SETTINGS, now=NOW) is None

    version(90, 59)
    assert worth_training(store, requests, SETTINGS, now=NOW) is None

    enough = version(62, 60)
    why = worth_training(store, requests, SETTINGS, now=NOW)
    assert why == "12 new participants with RI, 10 without"
    asked(requests, enough)
    assert worth_training(store, requests, SETTINGS, now=NOW) is None


def test_requests_on_other_datasets_do_not_count(
    store: ArtifactStore, requests: Requests, version: Callable[..., str]
) -> None:
    """A look at a large pilot is not the ward's first, nor what its new people are counted from."""
    asked(requests, version(200, 200, name="pilot"))
    first = version(50, 50)
    assert worth_training(store, requests, SETTINGS, now=NOW) == "first data"

    asked(requests, first)
    asked(requests, version(300, 300, name="pilot"))
    assert worth_training(store, requests, SETTINGS, now=NOW) is None
    version(60, 61)
    why = worth_training(store, requests, SETTINGS, now=NOW)
    assert why == "10 new participants with RI, 11 without"


def test_the_last_request_may_be_on_any_version_of_the_name(
    store: ArtifactStore, requests: Requests, version: Callable[..., str]
) -> None:
    """Counted from that one, be it the latest version or one that the name meant before."""
    first, second = version(50, 50), version(62, 62)
    asked(requests, second)
    asked(requests, first)

    version(65, 65)

    why = worth_training(store, requests, SETTINGS, now=NOW)
    assert why == "15 new participants with RI, 15 without"


def test_any_new_data_are_after_a_while(
    store: ArtifactStore, requests: Requests, version: Callable[[int, int], str]
) -> None:
    """Counted from the last request for the experiment in operation, not for another one."""
    asked(requests, version(50, 50))
    latest = version(51, 50)
    later = NOW + timedelta(days=31, hours=1)
    asked(requests, latest, experiment="other")

    assert worth_training(store, requests, SETTINGS, now=NOW) is None
    why = worth_training(store, requests, SETTINGS, now=later)
    assert why == "new data, 31 days after the last request"
    patient = SETTINGS.model_copy(update={"new_after_days": None})
    assert worth_training(store, requests, patient, now=later) is None


def test_nothing_is_asked_for_where_nothing_is_in_operation(
    store: ArtifactStore, requests: Requests, version: Callable[[int, int], str]
) -> None:
    """Without an experiment, a dataset, or a version of it."""
    assert worth_training(store, requests, SETTINGS, now=NOW) is None
    version(50, 50)
    for name in ("experiment", "dataset"):
        without = SETTINGS.model_copy(update={name: None})
        assert worth_training(store, requests, without, now=NOW) is None


@pytest.fixture
def definitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requests: Requests
) -> Callable[..., Any]:
    """Load the definitions with settings of their own, as the code server does."""
    place = importlib.util.find_spec("spira.scheduling.definitions")
    assert place is not None
    assert place.origin is not None

    def load(**settings: object) -> Any:
        values = {"HOME": tmp_path, "SCHEDULING__EXPERIMENTS": tmp_path}
        values |= {f"SCHEDULING__{name.upper()}": value for name, value in settings.items()}
        for name, value in values.items():
            monkeypatch.setenv(f"SPIRA_{name}", str(value))
        spec = importlib.util.spec_from_file_location("definitions_of_a_test", place.origin)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_new_data_are_asked_for(
    version: Callable[[int, int], str], definitions: Callable[..., Any], tmp_path: Path
) -> None:
    """Once, by the sensor, with the reason."""
    (tmp_path / "tiny.yaml").write_text("name: tiny\nseed: 1\n")
    module = definitions(experiment="tiny", dataset="ward", new_participants=10)
    digest = version(50, 50)

    for _ in range(2):
        module.new_data(dg.build_sensor_context())

    (asked,) = module.app.requests.list()
    assert (asked.experiment, asked.dataset, asked.state) == ("tiny", digest, "open")
    asks = module.app.requests.askings(asked.id)
    assert [(one.by, one.reason) for one in asks] == [("new data", "first data")]


def test_the_clock_asks_once_a_tick(
    version: Callable[[int, int], str], definitions: Callable[..., Any], tmp_path: Path
) -> None:
    """A tick that is told twice, as after a crash, is one request."""
    (tmp_path / "tiny.yaml").write_text("name: tiny\nseed: 1\n")
    module = definitions(experiment="tiny", dataset="ward", cron="0 3 * * 1")
    version(50, 50)
    (clock,) = module.definitions.schedules
    assert (clock.cron_schedule, clock.execution_timezone) == ("0 3 * * 1", "UTC")

    for day in (9, 9, 16):
        at = datetime(2026, 11, day, 3, tzinfo=UTC)
        clock.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=at))
        for asked in module.app.requests.list(state="open"):
            module.app.requests.end(asked.id, 1, "complete", "complete")

    assert len(module.app.requests.list()) == 2


@pytest.mark.parametrize("asks", ["cron", "new data"])
def test_what_cannot_be_asked_for_is_told(
    asks: str,
    version: Callable[[int, int], str],
    definitions: Callable[..., Any],
    server: tuple[str, list[Any], list[int]],
    tmp_path: Path,
) -> None:
    """To the webhook, with the reason; the sensor tells it once, not every minute."""
    (tmp_path / "tiny.yaml").write_text("name: [broken")
    url, told, codes = server
    codes += [204, 204]
    module = definitions(
        experiment="tiny", dataset="ward", cron="0 3 * * 1", new_participants=10, webhook=url
    )
    version(50, 50)

    if asks == "cron":
        (clock,) = module.definitions.schedules
        clock.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=NOW))
    else:
        context = dg.build_sensor_context()
        module.new_data(context)
        module.new_data(context)

    assert [(one["state"], one["by"], one["request"]) for one in told] == [
        ("not asked", asks, None)
    ]
    assert "tiny" in told[0]["reason"]
    assert module.app.requests.list() == []
