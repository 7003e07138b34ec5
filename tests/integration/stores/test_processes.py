"""Processes are watched by their answers."""

import errno
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from spira.domain.errors import InputError
from spira.stores.processes import Process, answers, free_or_wanted, without_proxy

WELL = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """A process that writes down that it was started, and sleeps; it ends with the test."""
    made: list[Process] = []

    def make(answers: Callable[[], bool], script: str = "sleep 60", **how: Any) -> Process:
        words = ["sh", "-c", f"echo $$ >> {tmp_path}/starts; exec {script}"]
        one = Process("one", words, answers, dict(os.environ), tmp_path / "log", **how)
        made.append(one)
        return one

    yield make
    for one in made:
        one.stop()
        one.wait(time.monotonic() + 5)


def starts(folder: Path) -> int:
    """How often it was started."""
    path = folder / "starts"
    return len(path.read_text().splitlines()) if path.exists() else 0


def watch_until(process: Process, condition: Callable[[], bool]) -> None:
    """Watch as the service does, only faster."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        process.watch()
        time.sleep(0.02)


def test_what_ended_is_started_again(process: Callable[..., Process], tmp_path: Path) -> None:
    """At once when it had answered before."""
    one = process(lambda: True)
    watch_until(one, lambda: one.well)

    assert one.pid is not None
    os.kill(one.pid, 9)
    watch_until(one, lambda: starts(tmp_path) == 2 and one.well)


def test_what_ends_at_once_is_not_started_in_a_row(
    process: Callable[..., Process], tmp_path: Path
) -> None:
    """Whatever is wrong with it, the machine is left in peace meanwhile."""
    one = process(lambda: False, script="false", pause_s=0.3)

    began = time.monotonic()
    watch_until(one, lambda: starts(tmp_path) == 3)

    assert time.monotonic() - began > 1.0  # 0.6 and then 1.2 s


def test_what_does_not_answer_any_more_is_killed_and_started_again(
    process: Callable[..., Process], tmp_path: Path
) -> None:
    """A process may hang and live."""
    answers = iter([True, *[False] * 1000])
    one = process(lambda: next(answers), silent_s=0.3)

    watch_until(one, lambda: starts(tmp_path) == 2)


def answering(said: bytes) -> str:
    """The address of a server that says this to the first who asks."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with listener, listener.accept()[0] as asked:
            asked.recv(4096)
            asked.sendall(said)

    Thread(target=answer, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/healthz"


@pytest.mark.parametrize(
    ("said", "up"),
    [(WELL, True), (b"HTTP/1.1 503 No\r\n\r\n", False), (b"SSH-2.0-x\r\n", False), (b"", False)],
)
def test_an_answer_that_is_none_does_not_end_the_service(said: bytes, up: bool) -> None:
    """Whoever listens there, and whatever it was about to say when it was killed."""
    assert answers(answering(said)) == up


def test_this_machine_is_asked_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy of a hospital knows nothing of its 127.0.0.1: what is well would be killed."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    assert answers(answering(WELL))


def test_what_was_asked_past_a_proxy_still_is() -> None:
    """Whichever spelling said so."""
    ours = "127.0.0.1,localhost,10.0.0.7"

    assert set(without_proxy({}, "10.0.0.7").values()) == {ours}
    for name in ("no_proxy", "NO_PROXY"):
        found = without_proxy({name: "s3.ward.example"}, "10.0.0.7")
        assert found == dict.fromkeys(("no_proxy", "NO_PROXY"), f"s3.ward.example,{ours}")


def test_a_port_that_is_taken_is_named_with_its_setting() -> None:
    """And 0 means any free one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match=rf"scheduling.web_port: port {port} is taken"):
            free_or_wanted("scheduling.web_port", port)
    assert free_or_wanted("scheduling.port", 0) > 0


def test_the_endpoint_may_listen_on_ipv6() -> None:
    """Where the machine has it; where not, that is what is said."""
    try:
        found = str(free_or_wanted("scheduling.port", 0, "::1"))
    except InputError as error:
        found = str(error)

    assert re.match(r"\d+$|setting scheduling\.host: ::1: nothing can listen there", found)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("ward..example", "label empty"),
        ("192.0.2.1", "cannot assign requested address"),
    ],
)
def test_an_address_that_is_not_of_this_machine_is_named_with_its_setting(
    host: str, why: str
) -> None:
    """It is not the port that is wrong."""
    says = rf"^setting scheduling\.host: {re.escape(host)}: .*{why}.*such as 127\.0\.0\.1$"
    with pytest.raises(InputError, match=says):
        free_or_wanted("scheduling.port", 0, host)


def test_a_name_that_nobody_knows_is_named_with_its_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As misspelt ones are."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    with pytest.raises(InputError, match=r"scheduling.host: wrad: .*name or service not known"):
        free_or_wanted("scheduling.port", 8700, "wrad")


def test_a_port_that_this_account_may_not_have_is_not_called_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those below 1024 are root's."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)  # root may have every port

    with pytest.raises(InputError, match=r"scheduling.port: port 80 is not for this account"):
        free_or_wanted("scheduling.port", 80)
