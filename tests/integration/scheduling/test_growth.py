"""When new data are worth a training."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

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
    table = Requests.open(f"sqlite:///{tmp_path / 'requests.db'}")
    table.create()
    return table


@pytest.fixture
def version(store: ArtifactStore) -> Callable[[int, int], str]:
    """Make a dataset version with so many people, with RI and without, the latest of its name."""
    made = iter(range(100))

    def make(present: int, absent: int) -> str:
        at = NOW + timedelta(seconds=next(made))
        about = {"imported_at": at.isoformat(), "people": present + absent}
        counts = {"people": {"present": present, "absent": absent, "unknown": 0}}
        digest = fingerprint([present, absent])
        store.commit(STAGE, digest, {"summary.json": canonical_json(counts)}, about)
        give_name(store, "ward", digest, at)
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
