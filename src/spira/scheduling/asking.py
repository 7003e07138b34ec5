"""How a request is made: whoever asks, on whatever way, asks here."""

import uuid
from dataclasses import dataclass
from typing import Any

from pydantic import StrictInt

from spira.datasets.names import resolve
from spira.domain.errors import InputError
from spira.domain.fingerprint import fingerprint
from spira.domain.frozen import Frozen
from spira.scheduling.catalogue import read_catalogue
from spira.scheduling.requests import Asked, Requests
from spira.scheduling.settings import SchedulingSettings
from spira.stores.artifacts import ArtifactStore
from spira.training.experiments import Experiment, compose


class Body(Frozen):
    """What is asked for, as it is written; the defaults are the settings of the service."""

    experiment: str | None = None  # name; None: the one in operation
    dataset: str | None = None  # digest, unique prefix or name; None: the name in operation
    seed: StrictInt | None = None  # None: that of the experiment's file
    by: str
    reason: str


@dataclass(frozen=True)
class Desk:
    """Where requests are made."""

    store: ArtifactStore
    requests: Requests
    settings: SchedulingSettings

    def ask(
        self,
        body: Body,
        *,
        key: str | None = None,
        experiment: Experiment | None = None,
        sweep: str | None = None,
        run_id: str | None = None,
    ) -> Asked:
        """Open a request, or join the one that is open for the same.

        key           None: one of its own, so that it is never taken for another
        experiment    one that was read already, whose content then is part of what is asked for;
                      None: its name is looked for
        sweep         what it belongs to; its model does not become challenger
        run_id        of the run that it is the request of, where that is there already
        raises        InputError for what is unknown, missing or broken, KeyUsed; nothing is queued
        """
        empty = [name for name in ("experiment", "dataset") if getattr(body, name) == ""]
        if empty:
            raise InputError(*(f"{name}: empty; give a name, or leave it out" for name in empty))
        key = key or uuid.uuid4().hex
        asked: dict[str, Any] = body.model_dump(mode="json") | {"sweep": sweep}
        if experiment is not None:
            asked["document"] = fingerprint(compose(experiment))
        known = self.requests.known(key, asked)
        if known is not None:
            return known
        if experiment is None:
            experiment = self._catalogued(body.experiment)
        if body.seed is not None:
            experiment = with_seed(experiment, body.seed)
        return self.requests.ask(
            key=key,
            body=asked,
            by=body.by,
            reason=body.reason,
            dataset=resolve(self.store, self.dataset(body.dataset)),
            experiment=experiment.name,
            seed=experiment.seed,
            document=compose(experiment),
            challenger=sweep is None,
            sweep=sweep,
            run_id=run_id,
        )

    def dataset(self, named: str | None) -> str:
        """The dataset that is named, or the one in operation.

        raises    InputError when neither is there
        """
        dataset = named or self.settings.dataset
        if not dataset:
            raise InputError("dataset: none is given, and setting scheduling.dataset names none")
        return dataset

    def _catalogued(self, name: str | None) -> Experiment:
        wanted = name or self.settings.experiment
        if not wanted:
            raise InputError(
                "experiment: none is given, and setting scheduling.experiment names none"
            )
        return read_catalogue(self.settings.experiments).find(wanted)


def with_seed(experiment: Experiment, seed: int) -> Experiment:
    """The experiment with another seed.

    raises    InputError for what is no seed
    """
    if not 0 <= seed < 2**31:
        raise InputError(f"seed {seed}: a whole number from 0 to {2**31 - 1} is needed")
    return experiment.model_copy(update={"seed": seed})
