"""The Scheduler Service on a real PostgreSQL and a real S3 server, both killed under it."""

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from services import Service, wait_for


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Service], postgres: Any) -> Service:
    """A service whose requests and runs are on PostgreSQL."""
    return start_service(SPIRA_SCHEDULING__DATABASE=postgres.empty(f"spira-{uuid.uuid4().hex}"))


def test_a_short_crash_of_the_database_goes_unnoticed(service: Service, postgres: Any) -> None:
    """Under five seconds, in the middle of a stage: the same attempt completes."""
    service.write("crash", train={"s": 6.0})
    request = service.ask("crash")
    wait_for(lambda: at_train(service, request), 60, "train is at work")

    killed_at = time.monotonic()
    postgres.kill()
    time.sleep(1.5)
    postgres.start()  # which takes seconds itself on a busy machine
    away_s = time.monotonic() - killed_at

    ended = service.ended(request, 120)
    assert ended.state == "complete"
    assert ended.attempt == 1 or away_s > 5
    service.assert_nothing_was_done_twice()


@pytest.mark.slow
def test_after_a_minute_without_database_the_request_completes(
    service: Service, postgres: Any
) -> None:
    """The service waits for its lock, and goes on by itself when the database is back."""
    service.write("outage", train={"s": 6.0}, evaluate={"s": 1.0})
    request = service.ask("outage")
    wait_for(lambda: at_train(service, request), 60, "train is at work")

    postgres.kill()
    time.sleep(60.0)
    postgres.start()

    ended = service.ended(request, 240)
    assert ended.state == "complete"
    print(f"attempt {ended.attempt}; {[e.detail for e in service.requests.events(request)]}")
    service.assert_nothing_was_done_twice()


def test_two_services_on_one_database(
    start_service: Callable[..., Service], service: Service
) -> None:
    """The second one, on another data folder, exits with 2 and names the holder."""
    second = start_service(
        wait=False, SPIRA_SCHEDULING__DATABASE=service.settings["SPIRA_SCHEDULING__DATABASE"]
    )
    assert second.process is not None
    assert second.process.wait(60) == 2
    assert service.process is not None
    holder = f"(spira schedule up, process {service.process.pid} from 127.0.0.1)"
    assert f"a scheduler holds this database already {holder}" in second.said
    assert service.http("GET", "/healthz").status_code == 200


@pytest.mark.slow
def test_an_s3_server_that_comes_back_is_waited_for(
    start_service: Callable[..., Service], weed: Any
) -> None:
    """Killed in the middle of a stage: the request completes, and nothing was done twice."""
    place = {"SPIRA_STORES__ARTIFACTS": f"s3://spira/{uuid.uuid4().hex}", **weed.environment}
    service = start_service(imported=False, SPIRA_STORES__LEASE_S="2", **place)
    service.write("away", train={"s": 3.0})
    request = service.ask("away")
    wait_for(lambda: at_train(service, request), 60, "train is at work")

    weed.kill()
    time.sleep(8.0)
    assert weed.start()

    assert service.ended(request, 150).state == "complete"
    service.assert_nothing_was_done_twice()


def at_train(service: Service, request: str) -> bool:
    """Whether the stage `train` of a request is at work."""
    run_id = service.requests.get(request).run_id
    log = service.home / "scheduler" / "stages" / str(run_id) / "train.log"
    return log.exists() and "stage started" in log.read_text()
