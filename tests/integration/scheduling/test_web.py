"""Dagster's page is for this machine, and other sites in the browser that shows it are kept out."""

import asyncio
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from dagster_webserver.webserver import DagsterWebserver
from starlette.types import ASGIApp

import spira.scheduling.web  # noqa: F401

HERE = "localhost:8701"
OURS = {"origin": f"http://{HERE}", "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
THEIRS = {"origin": "http://evil.example", "sec-fetch-site": "cross-site"}
IMAGE = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
QUERY = "{ __typename }"


@pytest.fixture(scope="module")
def page() -> ASGIApp:
    """Dagster's own application, as the service starts it; it knows no runs."""
    empty: Any = SimpleNamespace(create_request_context=lambda _: nullcontext())
    return DagsterWebserver(empty).create_asgi_app()


def answer(page: ASGIApp, method: str, path: str, host: str = HERE, **how: Any) -> httpx.Response:
    """What the page answers."""

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app=page)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.request(method, path, **how)

    return asyncio.run(asked())


@pytest.mark.parametrize("headers", [OURS, {}], ids=["the page", "no browser"])
def test_the_page_commands_itself(page: ASGIApp, headers: dict[str, str]) -> None:
    """And so does a program on this machine, which says of itself nothing."""
    told = answer(page, "POST", "/graphql", headers=headers, json={"query": QUERY})

    assert (told.status_code, told.json()["data"]) == (200, {"__typename": "Query"})


@pytest.mark.parametrize("headers", [{}, IMAGE, LINK, OURS])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_command_is_taken_from_an_address(
    page: ASGIApp, method: str, headers: dict[str, str]
) -> None:
    """An image or a link could hold it, and older browsers do not say whose it is."""
    told = answer(page, method, "/graphql", params={"query": QUERY}, headers=headers)

    assert (told.status_code, told.text) == (
        403,
        "a query in the address: send it as JSON, by POST\n",
    )


@pytest.mark.parametrize(
    "headers",
    [
        THEIRS,
        {"origin": "null"},
        {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    ],
    ids=["another site", "a sandbox", "another program here", "a form"],
)
def test_another_site_commands_nothing(page: ASGIApp, headers: dict[str, str]) -> None:
    """Whatever it calls itself."""
    told = answer(page, "POST", "/graphql", headers=headers, json={"query": QUERY})

    assert told.status_code == 403


def test_another_site_may_link_to_the_page_and_not_frame_it(page: ASGIApp) -> None:
    """A link in a mail or a chat opens it."""
    assert answer(page, "GET", "/server_info", headers=LINK).status_code == 200
    assert answer(page, "GET", "/server_info", headers=IMAGE).status_code == 403
    framed = LINK | {"sec-fetch-dest": "iframe"}
    assert answer(page, "GET", "/server_info", headers=framed).status_code == 403


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("localhost", 200),
        ("127.0.0.1:8701", 200),
        ("[::1]:9000", 200),
        ("evil.example:8701", 403),
        ("127.0.0.1.evil.example", 403),
        ("10.1.2.3:8701", 403),
    ],
)
def test_the_page_has_the_names_of_this_machine_only(page: ASGIApp, host: str, code: int) -> None:
    """A name of another site may be made to mean 127.0.0.1; then the browser takes both for one."""
    assert answer(page, "GET", "/server_info", host=host).status_code == code


@pytest.mark.parametrize(
    ("headers", "first"), [(OURS, "websocket.accept"), (THEIRS, "websocket.close")]
)
def test_only_the_page_opens_a_websocket(
    page: ASGIApp, headers: dict[str, str], first: str
) -> None:
    """Browsers let every site open one; commands could be sent through it."""
    sent: list[Any] = []
    messages = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {
        "type": "websocket",
        "path": "/graphql",
        "query_string": b"",
        "headers": [(k.encode(), v.encode()) for k, v in ({"host": HERE} | headers).items()],
    }
    asyncio.run(page(scope, receive, send))

    assert sent[0] == first
