"""Two hundred requests at once, on SQLite."""

import os
import time
from collections.abc import Callable

import httpx
import psutil
import pytest
from services import Service

RUNS = 200


@pytest.mark.slow
def test_two_hundred_requests_are_run_in_order(start_service: Callable[..., Service]) -> None:
    """The daemon grows by less than 30 MB, and the page lists the runs in less than a second."""
    service = start_service(SPIRA_SCHEDULING__CONCURRENT_RUNS="2", SPIRA_SCHEDULING__CPU_SLOTS="2")
    service.ended(service.ask(seed=10_000), 120)  # everything is loaded
    (daemon,) = service.processes("daemon")
    before = psutil.Process(daemon).memory_info().rss
    began = time.monotonic()

    requests = [service.ask(seed=seed) for seed in range(RUNS)]
    asked_s = time.monotonic() - began
    listed: list[float] = []
    while any(one.state == "open" for one in service.requests.list(limit=RUNS)):
        listed.append(list_of_runs_s(service))
        time.sleep(5)
        assert time.monotonic() - began < 3600

    took_s = time.monotonic() - began
    grown = (psutil.Process(daemon).memory_info().rss - before) / 1e6
    states = [service.requests.get(one).state for one in requests]
    print(
        f"{RUNS} requests asked for in {asked_s:.0f} s and complete in {took_s:.0f} s; the daemon "
        f"grew by {grown:.0f} MB to {psutil.Process(daemon).memory_info().rss / 1e6:.0f} MB; the "
        f"list of runs took {max(listed):.2f} s at most ({os.cpu_count()} cores)"
    )
    assert states == ["complete"] * RUNS
    assert service.processes("daemon") == [daemon]
    assert in_order(service, requests)
    assert grown < 30
    assert max(listed) < 1.0
    service.assert_nothing_was_done_twice()


def list_of_runs_s(service: Service) -> float:
    """Seconds until the page's own question for its list of runs is answered."""
    query = (
        "{ runsOrError(limit: 25) { ... on Runs { results { id status tags { key value } } } } }"
    )
    began = time.monotonic()
    answer = httpx.post(
        service.addresses["web"] + "/graphql", json={"query": query}, timeout=60
    ).json()
    assert answer["data"]["runsOrError"]["results"]
    return time.monotonic() - began


def in_order(service: Service, requests: list[str]) -> bool:
    """Whether runs were started in the order of the requests; two start at once."""
    from spira.scheduling.instance import open_instance

    with open_instance(service.home) as instance:
        records = instance.get_run_records()
    started = {
        record.dagster_run.tags["spira/request"]: record.start_time or 0.0 for record in records
    }
    order = sorted(requests, key=started.__getitem__)
    return all(abs(order.index(one) - place) <= 1 for place, one in enumerate(requests))
