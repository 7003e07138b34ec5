"""The Scheduler Service: requests become runs, runs end, and everybody is told."""

import json
import os
import signal
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from dagster import AssetKey
from services import Service, wait_for

from spira.scheduling.requests import Request

STAGES = ("snapshot", "split", "features", "train", "evaluate", "publish")


class Webhook:
    """A server that keeps what it is told."""

    def __init__(self) -> None:
        told: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                told.append(body)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._told = told
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/notices"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def of(self, request: Request) -> list[dict[str, Any]]:
        """What it was told of a request."""
        return [one for one in self._told if one["request"] == request.id]


@pytest.fixture(scope="module")
def webhook() -> Webhook:
    """Where notices go."""
    return Webhook()


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Service], webhook: Webhook) -> Service:
    """A service with a webhook, three runs at once in two slots, and one retry; the proxy that
    its environment names is not there, and nothing on this machine may be asked through it."""
    return start_service(
        http_proxy="http://127.0.0.1:9",
        no_proxy="",
        NO_PROXY="",
        SPIRA_SCHEDULING__WEBHOOK=webhook.url,
        SPIRA_SCHEDULING__CONCURRENT_RUNS="3",
        SPIRA_SCHEDULING__CPU_SLOTS="2",
        SPIRA_SCHEDULING__RETRIES="1",
    )


STORIES: dict[str, dict[str, Any]] = {
    "good": {},
    "flaky": {"train": {"fail": "transient", "times": 3}},
    "wrong": {"split": {"fail": "wrong input", "times": 1}},
    "ward": {"publish": {"fail": "refused"}},
}


@pytest.fixture(scope="module")
def ended(service: Service) -> dict[str, Request]:
    """Requests for every story, asked for at once, each when it has ended."""
    for name, stages in STORIES.items():
        service.write(name, **stages)
    asked = {name: service.ask(name) for name in STORIES}
    return {name: service.ended(request, 200) for name, request in asked.items()}


def test_a_request_is_followed_to_its_end(service: Service, ended: dict[str, Request]) -> None:
    """The endpoint tells its stages; asked again, what is up to date is not done again."""
    answer = service.http("GET", f"/v1/runs/{ended['good'].id}").json()

    assert (answer["state"], answer["outcome"], answer["attempt"]) == ("complete", "complete", 1)
    assert answer["kind"] == "redesign"
    assert answer["stages"] == dict.fromkeys(STAGES, "success")
    again = service.ask("good")
    assert service.ended(again, 60).kind == "retrain"
    service.assert_nothing_was_done_twice()


def test_a_transient_failure_is_tried_again(service: Service, ended: dict[str, Request]) -> None:
    """Within the run, and when its retries are used up, with the next attempt."""
    flaky = ended["flaky"]

    assert (flaky.state, flaky.attempt) == ("complete", 2)
    (event,) = [e for e in service.requests.events(flaky.id) if e.what == "next attempt"]
    assert event.detail == "transient: train was told to fail"


def test_a_permanent_failure_is_told_with_what_resumes_it(
    service: Service, ended: dict[str, Request], webhook: Webhook
) -> None:
    """Wrong input is never tried again; the notice has stage, reason and command, once."""
    wrong = ended["wrong"]

    assert (wrong.state, wrong.attempt, wrong.stage) == ("failed", 1, "split")
    (told,) = wait_for(lambda: webhook.of(wrong), 30, "a notice")
    assert (told["stage"], told["reason"]) == ("split", "split was told to fail")
    command = told["resume"].split()
    assert command == ["spira", "schedule", "resume", wrong.id]

    resumed = service.spira(*command[2:])
    assert resumed.returncode == 0, resumed.stderr
    assert service.ended(wrong.id, 60).state == "complete"
    assert len(webhook.of(wrong)) == 1


def test_a_refused_model_ends_its_request_as_refused(
    ended: dict[str, Request], webhook: Webhook
) -> None:
    """A failed audit is not a failure to be resumed: the notice names no command."""
    ward = ended["ward"]

    assert (ward.state, ward.attempt, ward.stage) == ("refused", 1, "publish")
    (told,) = wait_for(lambda: webhook.of(ward), 30, "a notice")
    assert "resume" not in told


def test_the_same_asked_twice_joins_and_a_key_repeats(service: Service) -> None:
    """One open request for a dataset version and experiment; one request for a key."""
    service.write("slow", train={"s": 600})
    first = service.ask("slow")
    key = {"Idempotency-Key": "k-1"}
    body = {"experiment": "slow", "dataset": "tiny", "by": "b", "reason": "also"}
    second = service.http("POST", "/v1/runs", json=body, headers=key).json()
    third = service.http("POST", "/v1/runs", json=body, headers=key).json()
    other = service.http("POST", "/v1/runs", json=body | {"seed": 9}, headers=key)

    assert (second["id"], second["joined"]) == (first, True)
    assert third["id"] == first
    assert other.status_code == 409
    assert "key k-1: it was used before" in other.json()["detail"]
    assert service.spira("cancel", first).returncode == 0


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_that_ends_is_followed_by_another(service: Service, end: signal.Signals) -> None:
    """A machine that shuts down is nobody's wish to cancel; the slot of a stage is free again."""
    service.write(end.name, train={"s": 2.0})
    request = service.ask(end.name)
    wait_for(lambda: _at(service, request, "train"), 60, "train is at work")

    for pid in _workers_of(service, request):
        os.kill(pid, end)

    assert service.ended(request, 120).state == "complete"


def test_a_slot_is_for_one_stage_at_a_time_and_cancelling_leaves_none(service: Service) -> None:
    """Of three in two slots one waits, until another is cancelled: the stage and the worker of that
    one are gone, its request says so, and nobody starts it again."""
    names = [f"slot-{number}" for number in range(3)]
    for name in names:
        service.write(name, train={"s": 600})
    requests = [service.ask(name) for name in names]

    def at_work() -> list[str]:
        return [request for request in requests if _at(service, request, "train")]

    wait_for(lambda: len(at_work()) == 2, 120, "two are at work")
    (third,) = set(requests) - set(two := at_work())
    assert len(service.processes("stage")) == 2
    cancelled = service.spira("cancel", two[0])
    wait_for(lambda: not _workers_of(service, two[0]), 30, "its worker is gone")
    wait_for(lambda: not _at(service, two[0], "train"), 30, "its stage is gone")
    wait_for(lambda: third in at_work(), 120, "the third is at work")

    assert cancelled.returncode == 0, cancelled.stderr
    for request in (two[1], third):  # by now the reconciler has passed many times
        assert service.spira("cancel", request).returncode == 0
    assert service.requests.get(two[0]).state == "cancelled"
    assert not _at(service, two[0], "train")


def test_the_page_lists_the_experiments_and_the_broken_files(service: Service) -> None:
    """As the asset `experiments`, with the reason of each."""
    from spira.scheduling.instance import open_instance

    (service.experiments / "broken.yaml").write_text("name: broken\nsede: 3\n")

    with open_instance(service.home) as instance:

        def listed() -> str:
            key = AssetKey("experiments")
            event = instance.get_latest_materialization_event(key)
            shown = event.asset_materialization.metadata if event else {}
            return str(shown["broken files"].value) if "broken files" in shown else ""

        wait_for(lambda: "broken.yaml" in listed(), 60, "the broken file is listed")
        assert "unknown key sede; did you mean seed?" in listed()
        assert "tiny" in instance.get_dynamic_partitions("experiment")
        assert "broken" not in instance.get_dynamic_partitions("experiment")


def test_pruning_leaves_what_is_open(service: Service) -> None:
    """Records, event files, logs and locks of runs that ended are removed, models are not."""
    service.write("brief", split={"fail": "wrong input"})
    service.write("open", train={"s": 600})
    brief, open_ = service.ask("brief"), service.ask("open")
    run_id = service.ended(brief, 90).run_id
    wait_for(lambda: _at(service, open_, "train"), 60, "train is at work")

    pruned = service.spira("prune", "--older-than", "0h")

    assert pruned.returncode == 0, pruned.stderr
    left = [path for path in (service.home / "scheduler").rglob("*") if str(run_id) in path.name]
    assert left == []
    assert [one.id for one in service.requests.list()] == [open_]
    assert _at(service, open_, "train")
    assert service.spira("cancel", open_).returncode == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"experiment": "nosuch"}, "experiment 'nosuch': unknown"),
        ({"experiment": "../tiny"}, "experiment '../tiny': unknown"),
        ({"experiment": "broken"}, "broken.yaml, line 2: unknown key sede; did you mean seed?"),
        ({"dataset": "nosuch"}, "dataset 'nosuch': unknown"),
        ({"dataset": "../../etc"}, "dataset '../../etc': unknown"),
        ({"seed": -1}, "seed -1"),
        ({"seed": "42"}, "seed: input should be a valid integer"),
        ({"experiment": ""}, "experiment: empty"),
        ({"reason": ""}, "reason: 1 to 500 characters"),
        ({"sede": 3}, "sede: unknown; did you mean seed?"),
    ],
)
def test_a_wrong_body_is_refused_and_nothing_is_queued(
    service: Service, body: dict[str, Any], said: str
) -> None:
    """422 with what is wrong; the table stays as it is."""
    (service.experiments / "broken.yaml").write_text("name: broken\nsede: 3\n")
    before = service.requests.list()
    wanted = {"experiment": "tiny", "dataset": "tiny", "by": "a test", "reason": "to see"}

    answer = service.http("POST", "/v1/runs", json=wanted | body)

    assert answer.status_code == 422, answer.text
    assert said in answer.json()["detail"]
    assert service.requests.list() == before


def test_a_wrong_token_and_garbage_are_refused(service: Service) -> None:
    """401, 422, 413, 404; none of them queues anything."""
    before = service.requests.list()
    wrong = {"Authorization": "Bearer wrong"}

    codes = [
        service.http("POST", "/v1/runs", json={}, headers=wrong).status_code,
        service.http("GET", "/v1/runs/r-1", headers=wrong).status_code,
        service.http("POST", "/v1/runs", content=b"\xff{").status_code,
        service.http("POST", "/v1/runs", content=b"x" * 20_000).status_code,
        service.http("GET", "/v1/runs/r-1").status_code,
    ]

    assert codes == [401, 401, 422, 413, 404]
    assert service.requests.list() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["request", "nosuch", "--data", "tiny", "--reason", "x"], "experiment 'nosuch': unknown"),
        (["request", "tiny", "--data", "nosuch", "--reason", "x"], "dataset 'nosuch': unknown"),
        (["request", "../x.yaml", "--data", "tiny", "--reason", "x"], "cannot be read"),
        (["resume", "r-1"], "request r-1: there is none"),
        (["cancel", "r-1"], "request r-1: there is none"),
        (["sweep", "nosuch.yaml", "--data", "tiny"], "nosuch.yaml: cannot be read"),
        (["prune", "--older-than", "soon"], "write days or hours"),
    ],
)
def test_wrong_commands_exit_with_2(service: Service, words: list[str], said: str) -> None:
    """Each says what is wrong and queues nothing."""
    before = service.requests.list()

    ended = service.spira(*words)

    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert service.requests.list() == before


def test_a_second_service_on_the_folder_names_the_holder(service: Service) -> None:
    """It exits with 2 and leaves the first one alone."""
    second = service.spira("up")

    assert second.returncode == 2
    assert service.process is not None
    assert f"running already (process {service.process.pid}, since " in second.stderr
    assert service.http("GET", "/healthz").status_code == 200


def test_a_sweep_ends_with_a_table(service: Service) -> None:
    """Mean and range of an experiment, clean and noisy; asked again it is the same sweep."""
    service.write("swept")
    words = ("sweep", str(service.experiments / "swept.yaml"), "--seeds", "1,2", "--data", "tiny")

    ended = service.spira(*words)
    again = service.spira(*words)

    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[-3:] == again.stdout.splitlines()[-3:]
    assert lines[-2].split()[:4] == ["swept", "2", "complete", "clean"]
    assert "0.900 (0.900 to 0.900)" in lines[-2]
    assert "0.800 (0.800 to 0.800)" in lines[-1]
    requests = [one for one in service.requests.list() if one.experiment == "swept"]
    assert len(requests) == 2
    assert not any(one.challenger for one in requests)


def _at(service: Service, request: str, stage: str) -> list[int]:
    """Processes of a stage of a request."""
    digest = service.requests.get(request).digest
    return [
        pid
        for pid, words in service.alive()
        if f" stage {stage} " in words and digest in words and "api " not in words
    ]


def _workers_of(service: Service, request: str) -> list[int]:
    run_id = service.requests.get(request).run_id or "none"
    return [pid for pid, words in service.alive() if run_id in words]
