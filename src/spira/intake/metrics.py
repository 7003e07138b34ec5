"""What an API that takes submissions in tells Prometheus; no label says anything about a person."""

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class FrontMetrics:
    """Of one process of an API."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.accepted = Histogram(
            "spira_api_accept_seconds",
            "From a manifest whose bytes are all there to its receipt",
            registry=self.registry,
            buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
        )
        self.refused = Counter(
            "spira_api_refusals", "Answers of 400 and above", ["status"], registry=self.registry
        )


class CountRefusals:
    """Counts answers of 400 and above by status; what is uploaded passes it untouched."""

    def __init__(self, app: ASGIApp, refused: Counter) -> None:
        self._app = app
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and look at the status."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                self._refused.labels(message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counted)
