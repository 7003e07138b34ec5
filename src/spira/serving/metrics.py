"""What the Client API tells Prometheus; no label says anything about a person."""

from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spira.serving.assessments import Assessments


class Metrics:
    """Of one process of the API."""

    def __init__(self, assessments: Assessments) -> None:
        self._assessments = assessments
        self._registry = CollectorRegistry()
        self.accepted = Histogram(
            "spira_api_accept_seconds",
            "From a manifest whose bytes are all there to its receipt",
            registry=self._registry,
            buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
        )
        self.refused = Counter(
            "spira_api_refusals", "Answers of 400 and above", ["status"], registry=self._registry
        )
        self._oldest = Gauge(
            "spira_api_oldest_open_seconds",
            "Age of the assessment that has waited longest for its answer; 0 when none waits",
            registry=self._registry,
        )

    def text(self) -> bytes:
        """For a scrape.

        raises    TransientError when the database is away
        """
        oldest = self._assessments.oldest_open()
        waited_s = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
        self._oldest.set(waited_s)
        return generate_latest(self._registry)


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
