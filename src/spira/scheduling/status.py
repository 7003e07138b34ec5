"""How the service stands, seen from another process."""

import json
from typing import TYPE_CHECKING, Any

from spira.scheduling.instance import folder, open_instance
from spira.stores.locks import is_held

if TYPE_CHECKING:
    from spira.wiring import Application


def is_up(app: "Application") -> bool:
    """Whether a service holds this data folder."""
    return is_held(folder(app.home) / "lock")


def service_status(app: "Application") -> dict[str, Any]:
    """Whether it is up, where, and how many requests are in which state."""
    place = folder(app.home)
    running = is_up(app)
    addresses = place / "addresses.json"
    return {
        "up": running,
        "addresses": json.loads(addresses.read_text()) if running and addresses.exists() else {},
        "requests": dict(app.requests.counts())
        if app.settings.scheduling.database or (place / "requests.db").exists()
        else {},
    }


def stop_run(app: "Application", run_id: str) -> None:
    """Stop a run with its stage, whether the service is up or not."""
    with open_instance(app.home) as instance:
        instance.run_coordinator.cancel_run(run_id)
