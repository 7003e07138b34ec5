"""Services under faults: phones that come back at once, over a bad network, while everything dies.

SPIRA_FAULTS_SEED replays a series; each test prints the one it used.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from faulty_network import FaultyNetwork
from served import UP_WITHIN_S, Served
from services import wait_for

from spira.device.outbox import Outbox
from spira.stores.database import Database
from spira.stores.objects import Objects
from spira.stores.processes import answers


@dataclass
class Stores:
    """Where a service keeps things, as a test sees them."""

    settings: dict[str, str]  # that lead there
    url: str  # of the database
    place: str  # folder, or address of an S3, of all object stores
    dies: dict[str, Callable[[], None]] = field(default_factory=dict)  # what may be killed of them

    @cached_property
    def database(self) -> Database:
        """The service's."""
        return Database.open(self.url, what="away")

    def objects(self, name: str) -> Objects:
        """`recordings` of Serving, or `collected` of Collection."""
        return Objects.open(f"{self.place}/{name}", setting="a test")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the database answers."""
        with self.database.reading() as tables:
            return [tuple(row) for row in tables.execute(sa.text(query))]


def send_all(
    devices: Sequence[Outbox[Any]],
    served: Served,
    targets: Sequence[str],
    stores: Stores,
    *,
    port: int,
    kills: int,
    for_s: float,
) -> None:
    """Let every device sync through a bad network until it holds all its receipts.

    Meanwhile targets, and what the stores consist of, are killed and suspended; when this returns
    everything runs again.
    """
    seed = int(os.environ.get("SPIRA_FAULTS_SEED", random.randrange(10_000)))
    print(f"SPIRA_FAULTS_SEED={seed}")
    rng = random.Random(seed)
    began = time.monotonic()

    def send(device: Outbox[Any]) -> None:
        while not (report := device.sync(network.url, served.token)).complete:
            assert time.monotonic() < began + 2 * for_s + 300, report

    with (
        FaultyNetwork(seed=seed, upstream=port, rate=0.2).running() as network,
        ThreadPoolExecutor(len(devices)) as pool,
    ):
        sending = [pool.submit(send, one) for one in devices]
        killed = disturb(served, rng, targets, stores.dies, kills, for_s)
        network.mode = "clean"
        for one in sending:
            one.result()
    wait_for(lambda: answers(f"{served.address}/readyz"), UP_WITHIN_S, "everything runs again")
    print(
        f"{sum(len(one.ids()) for one in devices)} sent in {time.monotonic() - began:.0f} s; "
        f"{len(killed)} kills ({', '.join(killed)}); connections: {dict(network.dealt)}"
    )


def disturb(
    served: Served,
    rng: random.Random,
    targets: Sequence[str],
    dies: dict[str, Callable[[], None]],
    kills: int,
    for_s: float,
) -> list[str]:
    """Kill and suspend at random moments; what."""
    told = []
    for _ in range(kills):
        time.sleep(rng.uniform(0.2, 2 * for_s / kills - 0.2))
        target = rng.choice([*targets, *dies])
        if target in dies:
            dies[target]()
        elif target != "everything" and rng.random() < 0.3 and served.kill(target, signal.SIGSTOP):
            time.sleep(rng.uniform(0.5, 3.0))
            served.kill(target, signal.SIGCONT)
            target += " suspended"
        else:
            served.crash(target)
        told.append(target)
    return told
