"""What the Client API tells Prometheus; no label says anything about a person."""

from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spira.domain.errors import SpiraError
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

    def text(self) -> bytes:
        """For a scrape; without what the tables tell where the database is away."""
        counted = generate_latest(self._registry)
        try:
            return counted + self._of_tables()
        except SpiraError:
            return counted

    def _of_tables(self) -> bytes:
        """The same from every process of the API, and also what was answered without a model."""
        registry = CollectorRegistry()
        oldest = self._assessments.oldest_open()
        Gauge(
            "spira_api_oldest_open_seconds",
            "Age of the assessment that has waited longest for its answer; 0 when none waits",
            registry=registry,
        ).set(0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds())
        assessments = Gauge(
            "spira_api_assessments",
            "Assessments by state and outcome; each that has failed is a dead letter",
            ["state", "outcome"],
            registry=registry,
        )
        for (state, outcome), n in self._assessments.counts().items():
            assessments.labels(state, outcome or "").set(n)
        return generate_latest(registry)


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
