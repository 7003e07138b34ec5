"""The reconciler, on a real table and Dagster's own storage."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.test_utils import create_run_for_test
from structlog.testing import capture_logs

from spira.datasets.names import STAGE, give_name
from spira.domain.errors import InputError, TransientError
from spira.scheduling.asking import Desk
from spira.scheduling.launcher import DetachedRunLauncher
from spira.scheduling.reconciler import Reconciler
from spira.scheduling.requests import Request, Requests
from spira.scheduling.runs import ATTEMPT, REQUEST, adopt, tags
from spira.scheduling.settings import SchedulingSettings
from spira.stores.artifacts import ArtifactStore

FAILED, SUCCESS = DagsterRunStatus.FAILURE, DagsterRunStatus.SUCCESS
MakeRun = Callable[..., DagsterRun]


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    """Dagster's storage, in memory."""
    with DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def requests(tmp_path: Path) -> Requests:
    """An empty table."""
    table = Requests.open(f"sqlite:///{tmp_path / 'requests.db'}")
    table.create()
    return table


@pytest.fixture
def reconciler(instance: DagsterInstance, requests: Requests, store: ArtifactStore) -> Reconciler:
    """One whose next attempts wait for nothing."""
    settings = SchedulingSettings(retry_delay_s=0)
    return Reconciler(instance, Desk(store, requests, settings))


@pytest.fixture
def ask(requests: Requests) -> Callable[..., Request]:
    """Somebody asks for `tiny`."""

    def asked(key: str, **changes: Any) -> Request:
        wanted: dict[str, Any] = {
            "body": {},
            "by": "a test",
            "reason": "to see",
            "dataset": "d1",
            "experiment": "tiny",
            "seed": 1,
            "document": "name: tiny\n",
        }
        return requests.ask(key=key, **wanted | changes).request

    return asked


@pytest.fixture
def make_run(instance: DagsterInstance) -> MakeRun:
    """A run as the sensor makes it of a request, in some state."""

    def make(request: Request, status: DagsterRunStatus, **how: Any) -> DagsterRun:
        return create_run_for_test(instance, status=status, tags=tags(request), **how)

    return make


def test_a_run_that_ended_while_nobody_looked_ends_its_request(
    reconciler: Reconciler, requests: Requests, ask: Callable[..., Request], make_run: MakeRun
) -> None:
    """The table learns of a run however late."""
    request = ask("a")
    run = make_run(request, SUCCESS)

    reconciler.reconcile()

    found = requests.get(request.id)
    assert (found.state, found.run_id) == ("complete", run.run_id)


def test_a_run_that_failed_without_a_word_has_a_few_successors(
    reconciler: Reconciler, requests: Requests, ask: Callable[..., Request], make_run: MakeRun
) -> None:
    """Five attempts in all, counted anew when somebody resumes it."""
    request = ask("a")
    for attempt in range(1, 6):
        assert requests.get(request.id).attempt == attempt
        make_run(requests.get(request.id), FAILED)
        reconciler.reconcile()
    assert requests.get(request.id).state == "failed"

    resumed = requests.resume(request.id, "a test")
    make_run(resumed, FAILED)
    reconciler.reconcile()

    assert (requests.get(request.id).state, requests.get(request.id).attempt) == ("open", 7)


def test_a_run_that_is_run_again_on_the_page_is_no_attempt_of_its_parent(
    reconciler: Reconciler,
    requests: Requests,
    instance: DagsterInstance,
    ask: Callable[..., Request],
    make_run: MakeRun,
) -> None:
    """It joins what is open, and its end ends nothing of others, however often one looks."""
    request = ask("a", challenger=False, sweep="s")
    first = make_run(request, FAILED)
    reconciler.reconcile()
    waiting = requests.get(request.id)
    again = make_run(
        request, DagsterRunStatus.CANCELED, parent_run_id=first.run_id, root_run_id=first.run_id
    )

    for _ in range(4):
        reconciler.reconcile()

    found = requests.get(request.id)
    assert (found.attempt, found.run_id, found.state) == (waiting.attempt, None, "open")
    assert not found.challenger  # as it was: a sweep's
    stored = instance.get_run_by_id(again.run_id)
    assert stored is not None
    assert (stored.tags[REQUEST], stored.tags[ATTEMPT]) == (request.id, "joined")
    assert [one.by for one in requests.askings(request.id)] == ["a test", "web page"]


def test_a_run_of_a_cancelled_request_is_stopped(
    reconciler: Reconciler,
    requests: Requests,
    instance: DagsterInstance,
    ask: Callable[..., Request],
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also one that was made while somebody cancelled."""
    request = ask("a")
    requests.cancel(request.id, "a test")
    run = make_run(request, DagsterRunStatus.STARTED)
    stopped: list[str] = []
    monkeypatch.setattr(
        type(instance.run_coordinator), "cancel_run", lambda _, one: stopped.append(one)
    )

    reconciler.reconcile()
    for thread in reconciler._stopping.values():
        thread.join()

    assert stopped == [run.run_id]


def test_what_is_wrong_with_one_run_keeps_no_other_from_its_end(
    reconciler: Reconciler,
    requests: Requests,
    instance: DagsterInstance,
    ask: Callable[..., Request],
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run from the page, while the store of datasets is away."""
    partition = {"dagster/partition/experiment": "tiny", "dagster/partition/seed": "1"}
    create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags=partition)
    request = ask("a")
    make_run(request, SUCCESS)

    def away(*_: object, **__: object) -> None:
        raise TransientError("the store is away")

    monkeypatch.setattr(Desk, "ask", away)
    reconciler.reconcile()

    assert requests.get(request.id).state == "complete"


def test_a_run_left_on_its_way_is_started_again_and_then_more_seldom(
    reconciler: Reconciler,
    instance: DagsterInstance,
    ask: Callable[..., Request],
    make_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its daemon died between queue and launch: after two passes, four, eight."""
    started: list[str] = []

    class Launcher(DetachedRunLauncher):
        def launch_run(self, context: LaunchRunContext) -> None:
            started.append(context.dagster_run.run_id)

    run = make_run(ask("a"), DagsterRunStatus.STARTING)
    monkeypatch.setattr(instance, "_run_launcher", Launcher(str(tmp_path)), raising=False)

    counts = []
    for _ in range(9):
        reconciler.reconcile()
        counts.append(len(started))

    assert counts == [0, 1, 1, 2, 2, 2, 2, 3, 3]
    assert set(started) == {run.run_id}


def test_a_run_that_was_never_queued_is_given_up(
    reconciler: Reconciler,
    requests: Requests,
    instance: DagsterInstance,
    ask: Callable[..., Request],
    make_run: MakeRun,
) -> None:
    """The web page was killed between making and queueing it: half a minute, and another is due."""
    request = ask("a")
    run = make_run(request, DagsterRunStatus.NOT_STARTED)

    for _ in range(14):
        reconciler.reconcile()
    left = instance.get_run_by_id(run.run_id)
    assert left is not None
    assert left.status == DagsterRunStatus.NOT_STARTED
    for _ in range(2):
        reconciler.reconcile()

    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status == FAILED
    found = requests.get(request.id)
    assert (found.state, found.attempt, found.run_id) == ("open", 2, None)
    assert [one.id for one in requests.due()] == [request.id]


def test_a_webhook_that_refuses_one_notice_gets_the_others(
    reconciler: Reconciler,
    requests: Requests,
    ask: Callable[..., Request],
    server: tuple[str, list[Any], list[int]],
) -> None:
    """In the order in which they ended; the log has every ending once, taken or not."""
    url, told, codes = server
    codes += [500, 204, 500, 204]
    reconciler.desk = Desk(
        reconciler.desk.store, requests, SchedulingSettings.model_validate({"webhook": url})
    )
    first, second = ask("a"), ask("b", dataset="d2")
    requests.end(second.id, 1, "failed", "no memory")
    requests.end(first.id, 1, "refused", "an audit")

    with capture_logs() as said:
        for _ in range(3):
            reconciler.reconcile()

    assert [one["request"] for one in told] == [second.id, first.id]
    assert [one.id for one in requests.untold()] == [second.id]
    logged = [line["request"] for line in said if "without a model" in line["event"]]
    assert logged == [second.id, first.id]


def test_a_run_of_the_page_without_partition_is_told_apart(
    reconciler: Reconciler, requests: Requests, instance: DagsterInstance
) -> None:
    """It has no request, and is looked at no more."""
    run = create_run_for_test(instance, status=DagsterRunStatus.STARTED)

    reconciler.reconcile()

    stored = instance.get_run_by_id(run.run_id)
    assert stored is not None
    assert stored.tags[REQUEST] == "none"
    assert not requests.list()


def test_a_run_of_the_page_for_something_unknown_says_so_and_can_be_run_again(
    reconciler: Reconciler,
    requests: Requests,
    instance: DagsterInstance,
    store: ArtifactStore,
    tmp_path: Path,
) -> None:
    """Its stage is told what is unknown; when that is mended, run again it gets a request."""
    settings = SchedulingSettings(experiments=tmp_path / "experiments", dataset="ward")
    desk = reconciler.desk = Desk(store, requests, settings)
    store.commit(STAGE, "d" * 64, {}, {})
    give_name(store, "ward", "d" * 64, datetime.now(UTC))
    partition = {"dagster/partition/experiment": "later", "dagster/partition/seed": "1"}

    def page(tags: Any, **how: Any) -> DagsterRun:
        made = create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags=tags, **how)
        reconciler.reconcile()
        found = instance.get_run_by_id(made.run_id)
        assert found is not None
        return found

    first = page(partition)
    with pytest.raises(InputError, match="experiment 'later': unknown"):
        adopt(first, instance, desk)

    settings.experiments.mkdir()
    (settings.experiments / "later.yaml").write_text("name: later\n")
    again = page(first.tags, parent_run_id=first.run_id, root_run_id=first.run_id)

    request = adopt(again, instance, desk)
    assert (request.experiment, request.run_id) == ("later", again.run_id)
    assert again.tags[REQUEST] == request.id


def test_a_run_of_the_page_gets_its_request_once(
    reconciler: Reconciler,
    requests: Requests,
    instance: DagsterInstance,
    ask: Callable[..., Request],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever looks first gives it; everybody then finds the same."""
    partition = {"dagster/partition/experiment": "tiny", "dagster/partition/seed": "1"}
    run = create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags=partition)

    def asked(_: Desk, body: Any, *, key: str, run_id: str) -> Any:
        return requests.ask(
            key=key,
            body=body.model_dump(),
            by=body.by,
            reason=body.reason,
            dataset="d1",
            experiment=body.experiment,
            seed=body.seed,
            document="name: tiny\n",
            run_id=run_id,
        )

    monkeypatch.setattr(Desk, "ask", asked)
    found = adopt(run, instance, reconciler.desk)
    reconciler.reconcile()

    stored = instance.get_run_by_id(run.run_id)
    assert stored is not None
    assert adopt(stored, instance, reconciler.desk).id == found.id
    assert (found.run_id, len(requests.list())) == (run.run_id, 1)
