"""Dagster's page, for who opens it on this machine, and not for other sites in the same browser.

It asks for no password, and takes commands from the address alone: an image on any site could
start and stop runs. A browser says of each request which page made it; what no browser sends
(curl, a probe) says nothing, and is let in where it names this machine.
"""

import re
from typing import Any

from dagster_webserver.cli import main
from dagster_webserver.webserver import DagsterWebserver
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

_THIS_MACHINE = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)
_unguarded = DagsterWebserver.build_middleware


class Guard:
    """Answers 403 to what another site asks; closes its websockets before they open."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        why = None if scope["type"] == "lifespan" else _refusal(HTTPConnection(scope))
        if why is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(1008, why)(scope, receive, send)
        else:
            await PlainTextResponse(why, 403)(scope, receive, send)


def _refusal(asked: HTTPConnection) -> str | None:
    """Why this is not for the page, in a sentence; None where it is."""
    host = asked.headers.get("host", "")
    if not _THIS_MACHINE.fullmatch(host):  # a name that another site had made to mean 127.0.0.1
        return f"host {host!r}: the page is 127.0.0.1 or localhost; come by a tunnel\n"
    if (origin := asked.headers.get("origin", f"http://{host}")) != f"http://{host}":
        return f"origin {origin!r}: only the page itself, http://{host}, may ask\n"
    if asked.scope["path"].endswith("/graphql") and "query" in asked.query_params:
        return "a query in the address: send it as JSON, by POST\n"
    site = asked.headers.get("sec-fetch-site", "none")
    how = [asked.headers.get(f"sec-fetch-{name}") for name in ("mode", "dest")]
    a_link = asked.scope.get("method") == "GET" and how == ["navigate", "document"]
    if site not in ("same-origin", "none") and not a_link:
        return f"asked by another site ({site}), which may only link to the page\n"
    return None


def _guarded(server: Any) -> list[Middleware]:
    return [Middleware(Guard), *_unguarded(server)]


DagsterWebserver.build_middleware = _guarded  # type: ignore[method-assign, assignment]

if __name__ == "__main__":
    main()  # type: ignore[no-untyped-call]
