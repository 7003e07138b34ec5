"""What is asked for, before it is queued."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from spira.datasets.names import STAGE, give_name
from spira.domain.errors import InputError
from spira.scheduling.asking import Body, Desk
from spira.scheduling.requests import KeyUsed, Requests
from spira.scheduling.settings import SchedulingSettings
from spira.stores.artifacts import ArtifactStore
from spira.training.experiments import Experiment


@pytest.fixture
def desk(store: ArtifactStore, tmp_path: Path) -> Desk:
    """A desk with a dataset and an experiment in operation."""
    store.commit(STAGE, "d" * 64, {}, {})
    give_name(store, "ward", "d" * 64, datetime.now(UTC))
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "tiny.yaml").write_text("name: tiny\n")
    requests = Requests.open(f"sqlite:///{tmp_path / 'requests.db'}")
    requests.create()
    settings = SchedulingSettings(
        experiments=tmp_path / "experiments", experiment="tiny", dataset="ward"
    )
    return Desk(store, requests, settings)


def body(**changes: Any) -> Body:
    """Somebody asks for what is in operation."""
    return Body.model_validate({"by": "a test", "reason": "to see"} | changes)


@pytest.mark.parametrize("seed", [True, "42", 42.0])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    """Nothing that could be taken for one, lest another run is made than was meant."""
    with pytest.raises(ValidationError, match="valid integer"):
        body(seed=seed)


def test_an_empty_name_is_not_what_is_in_operation(desk: Desk) -> None:
    """A variable that was not set is no wish; both are told at once, and nothing is queued."""
    with pytest.raises(InputError) as refused:
        desk.ask(body(experiment="", dataset=""))

    assert [one.split(":")[0] for one in refused.value.mistakes] == ["experiment", "dataset"]
    assert not desk.requests.list()
    assert desk.ask(body()).request.experiment == "tiny"


def test_a_key_is_for_one_content_of_a_file(desk: Desk) -> None:
    """The same file gets the same request; edited since, the key is refused."""
    first = desk.ask(body(experiment="./k.yaml"), key="k1", experiment=Experiment(name="k"))

    again = desk.ask(body(experiment="./k.yaml"), key="k1", experiment=Experiment(name="k"))

    assert again.request.id == first.request.id
    with pytest.raises(KeyUsed, match="key k1: it was used before for something else"):
        desk.ask(body(experiment="./k.yaml"), key="k1", experiment=Experiment(name="k", seed=7))
