"""What the Client API tells Prometheus; no label says anything about a person."""

from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from spira.domain.errors import SpiraError
from spira.intake.metrics import FrontMetrics
from spira.serving.assessments import Assessments


class Metrics(FrontMetrics):
    """Of one process of the API."""

    def __init__(self, assessments: Assessments) -> None:
        super().__init__()
        self._assessments = assessments

    def text(self) -> bytes:
        """For a scrape; without what the tables tell where the database is away."""
        counted = generate_latest(self.registry)
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
