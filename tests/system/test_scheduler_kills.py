"""`kill -9` of any process of the Scheduler Service, or of all at once: nothing is lost or redone.

SPIRA_KILLS_SEED replays a series; each test prints the one it used.
"""

import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from services import Service, wait_for

TARGETS = ("stage", "worker", "daemon", "daemon at launch", "code", "web", "endpoint", "everything")
RECOVERED_WITHIN_S = 180  # on a busy machine; what it takes on an idle one is printed


def kill(service: Service, target: str, stage: str) -> bool:
    """Kill the target when it is there; a reboot is followed by a start."""
    if target == "daemon at launch":
        deadline = time.monotonic() + 10
        while not left_on_its_way(service) and time.monotonic() < deadline:
            time.sleep(0.001)  # the state lasts some milliseconds; missed, the daemon dies later
        return service.kill("daemon")
    process = stage if target == "stage" else target
    if target in ("stage", "worker"):
        wait_for(lambda: service.processes(process), 60, f"a {target} is there")
    killed = service.kill(process)
    if target == "everything":
        service.start()
    return killed


def left_on_its_way(service: Service) -> bool:
    """Whether the daemon has taken a run from the queue and not started its worker yet."""
    database = service.home / "scheduler" / "dagster" / "history" / "runs.db"
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as runs:
        starting = runs.execute("SELECT run_id FROM runs WHERE status = 'STARTING'").fetchall()
    return any(
        not (service.home / "scheduler" / "workers" / f"{run_id}.lock").exists()
        for (run_id,) in starting
    )


def a_seed() -> int:
    """Of the moments and the order of kills."""
    seed = int(os.environ.get("SPIRA_KILLS_SEED", random.randrange(10_000)))
    print(f"SPIRA_KILLS_SEED={seed}")
    return seed


def test_five_kills_lose_nothing(start_service: Callable[..., Service]) -> None:
    """Every request completes; no stage is done twice. Whatever needs a run to be killed in gets a
    new one, the rest dies while that is open."""
    service = start_service(SPIRA_SCHEDULING__CPU_SLOTS="3")
    rng = random.Random(a_seed())
    targets = ["stage", "worker", "daemon at launch", "code", "everything"]
    rng.shuffle(targets)
    requests: list[str] = []

    for target in targets:
        still_open = any(service.requests.get(one).state == "open" for one in requests)
        if target in ("stage", "worker", "daemon at launch") or not still_open:
            service.write(name := f"killed-{len(requests)}", train={"s": 1.0})
            requests.append(service.ask(name))
        if target != "daemon at launch":
            time.sleep(rng.uniform(0.0, 3.0))
        assert kill(service, target, "stage"), target

    began = time.monotonic()
    for request in requests:
        ended = service.ended(request, RECOVERED_WITHIN_S)
        assert (ended.state, ended.outcome) == ("complete", "complete")
    print(f"complete {time.monotonic() - began:.0f} s after the last of {', '.join(targets)}")
    service.assert_nothing_was_done_twice()
    assert len(service.requests.list()) == len(requests)
    done = [fingerprint for event, fingerprint in service.stage_log() if event == "stage done"]
    assert len(set(done)) == len(done)


@pytest.mark.slow
def test_thirty_kills_and_the_bytes_are_the_same(
    start_service: Callable[..., Service],
    spira: Callable[..., object],
    bytes_of_stages: Callable[[Path], dict[str, dict[str, str]]],
    tiny_home: Path,
    tiny_experiment: Path,
    tmp_path: Path,
) -> None:
    """Real stages, killed thirty times at random: the models are those of an undisturbed run."""
    service = start_service(
        tiny=False,
        SPIRA_TRAINING__CHECKPOINT_EVERY_S="0",
        SPIRA_EVALUATION__RESAMPLES="200",
    )
    shutil.copy(tiny_experiment, service.experiments / "tiny.yaml")
    rng = random.Random(a_seed())
    requests: list[str] = []
    killed: list[str] = []
    longest_s = 0.0

    while len(killed) < 30:
        if not requests or service.requests.get(requests[-1]).state != "open":
            requests.append(service.ask(seed=len(requests) + 1))
        target = rng.choice(TARGETS if len(killed) % 6 else ("everything", "worker"))
        if target == "daemon at launch":
            service.ended(requests[-1], 400)
            requests.append(service.ask(seed=len(requests) + 1))
        else:
            time.sleep(rng.uniform(0.0, 4.0))
        if target in ("stage", "worker") and not service.processes(
            "real stage" if target == "stage" else "worker"
        ):
            continue
        if kill(service, target, "real stage"):
            killed.append(target)

    for request in requests:
        began = time.monotonic()
        ended = service.ended(request, RECOVERED_WITHIN_S + 60)
        longest_s = max(longest_s, time.monotonic() - began)
        assert ended.state == "complete", ended
    print(f"{len(killed)} kills of {len(requests)} requests: {', '.join(killed)}")
    print(f"the last one was complete {longest_s:.0f} s after the last kill")
    service.assert_nothing_was_done_twice()
    undisturbed = Path(shutil.copytree(tiny_home, tmp_path / "undisturbed"))
    for seed in range(1, len(requests) + 1):
        words = ("train", str(tiny_experiment), "--data", "tiny", "--set", f"seed={seed}")
        spira(undisturbed, *words)
    assert bytes_of_stages(service.home) == bytes_of_stages(undisturbed)
