"""What Prometheus is told of the API."""

from datetime import UTC, datetime, timedelta
from typing import Any

from spira.domain.errors import TransientError
from spira.serving.metrics import Metrics


class Table:
    """Of two assessments, or of a database that is away."""

    def __init__(self, *, away: bool = False) -> None:
        self._away = away

    def oldest_open(self) -> datetime:
        """Half a minute."""
        return datetime.now(UTC) - timedelta(seconds=30)

    def counts(self) -> dict[Any, int]:
        """One that waits, and one that was not scored."""
        if self._away:
            raise TransientError("away")
        return {("queued", None): 1, ("completed", None): 1, ("completed", "positive"): 0}


def test_answers_are_told_by_state_and_outcome() -> None:
    """Those without a model too, and those of which there are none."""
    told = Metrics(Table()).text().decode()  # type: ignore[arg-type]

    assert 'spira_api_assessments{outcome="",state="queued"} 1.0' in told
    assert 'spira_api_assessments{outcome="",state="completed"} 1.0' in told
    assert 'spira_api_assessments{outcome="positive",state="completed"} 0.0' in told
    assert "spira_api_oldest_open_seconds 30" in told


def test_what_this_process_counts_is_told_while_the_database_is_away() -> None:
    """Then above all; of the database nothing is told, rather than something old."""
    metrics = Metrics(Table(away=True))  # type: ignore[arg-type]
    metrics.refused.labels(503).inc()

    told = metrics.text().decode()

    assert 'spira_api_refusals_total{status="503"} 1.0' in told
    assert "spira_api_assessments" not in told
    assert "spira_api_oldest_open_seconds" not in told
