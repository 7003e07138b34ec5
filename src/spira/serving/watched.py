"""Where a process without an API tells a watcher how it is, and Prometheus what it counts."""

import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

# Says nothing about every question of a watcher.
_Silent = type("_Silent", (WSGIRequestHandler,), {"log_message": lambda *_: None})


def tell(
    is_well: Callable[[], bool], host: str, port: int, *, counted: CollectorRegistry | None = None
) -> None:
    """Serve /healthz (200 or 503), and /metrics where something is counted, from a thread."""
    metrics = None if counted is None else make_wsgi_app(counted)

    def pages(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environment["PATH_INFO"] == "/healthz":
            start("200 OK" if is_well() else "503 Service Unavailable", [])
            return [b""]
        if metrics is None:
            start("404 Not Found", [])
            return [b""]
        found: Iterable[bytes] = metrics(environment, start)
        return found

    server = make_server(host, port, pages, ThreadingWSGIServer, _Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
