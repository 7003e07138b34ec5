"""New data: when a dataset has grown enough for the experiment in operation to be trained again."""

from datetime import datetime, timedelta

from spira.datasets.names import STAGE, list_versions, versions_of
from spira.scheduling.requests import Requests
from spira.scheduling.settings import SchedulingSettings
from spira.stores.artifacts import ArtifactStore

_LABELS = ("present", "absent")


def worth_training(
    store: ArtifactStore, requests: Requests, settings: SchedulingSettings, *, now: datetime
) -> str | None:
    """Why the latest version of the dataset in operation is worth a training; None when it is not.

    It is when it has `new_participants` more of each class than the version of the last request
    for the experiment in operation, or when it is another version and that request is
    `new_after_days` old. Only requests on versions that the dataset's name means, or has meant,
    count. One version is asked for once.
    """
    if not (settings.dataset and settings.experiment):
        return None
    newest = next((one for one in list_versions(store) if settings.dataset in one.names), None)
    if newest is None:
        return None
    last = requests.latest(settings.experiment, versions_of(store, settings.dataset))
    if last is None:
        return "first data"
    if last.dataset == newest.digest:
        return None
    before, after = _people(store, last.dataset), _people(store, newest.digest)
    new = {label: after[label] - before[label] for label in _LABELS}
    if settings.new_participants is not None and min(new.values()) >= settings.new_participants:
        return f"{new['present']} new participants with RI, {new['absent']} without"
    age = now - datetime.fromisoformat(last.asked_at)
    if settings.new_after_days is not None and age >= timedelta(days=settings.new_after_days):
        return f"new data, {age.days} days after the last request"
    return None


def _people(store: ArtifactStore, digest: str) -> dict[str, int]:
    """Participants of a dataset version by label; none where it is not there any more."""
    dataset = store.find(STAGE, digest)
    if dataset is None:
        return dict.fromkeys(_LABELS, 0)
    people = dataset.read_json("summary.json")["people"]
    return {label: people[label] for label in _LABELS}
