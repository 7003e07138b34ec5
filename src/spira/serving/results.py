"""The result writer: replies of the predictor become answers, once each."""

from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from pydantic import ValidationError

from spira.serving.answers import About, failed, of_reply
from spira.serving.assessments import Assessments
from spira.serving.messages import Reply
from spira.serving.words import Failure

_MOST_REACHED = 20  # attempts that reached the model and brought no reply

_log = structlog.get_logger()


class Results:
    """Writes what comes back, in one transaction a reply; a reply that comes twice changes nothing.

    raises    TransientError when the database is away: the reply is not acknowledged then
    """

    def __init__(
        self,
        assessments: Assessments,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._assessments = assessments
        self._now = now

    def write(self, reply: Reply) -> bool:
        """Take one reply; whether it changed anything."""
        row = self._assessments.about(reply.assessment)
        if row is None:
            _log.error("a reply to nothing", assessment=reply.assessment)
            return False
        if row.state != "queued":
            return False
        if reply.kind == "tried":
            return self._count(reply)
        if reply.kind == "failed":
            return self._fail(reply, "input", f"{reply.reason}: {reply.detail}")
        try:
            said = of_reply(About.model_validate_json(row.about), reply)
        except ValidationError as error:  # a predictor of another version; it is asked again
            places = ["_".join(map(str, fault["loc"])) for fault in error.errors()]
            _log.error("a reply with no model", assessment=reply.assessment, places=places)
            return False
        answer = said.model_dump(mode="json")
        scored = {
            "probability": reply.probability,
            "calibrated": reply.calibrated,
            "windows": reply.windows,
            "attempt": reply.attempt,
        }
        answer["scored"] = scored
        written = self._assessments.complete(reply.assessment, reply.attempt, answer, self._now())
        if written:
            _log.info("answered", assessment=reply.assessment, outcome=answer.get("outcome"))
        return written

    def _count(self, reply: Reply) -> bool:
        """An attempt reaches the model; after too many that brought nothing, it ends."""
        counted, reached = self._assessments.reached(
            reply.assessment, reply.attempt, reply.delivery
        )
        if reached <= _MOST_REACHED:
            return counted
        return self._fail(
            reply, "unknown", f"{_MOST_REACHED} attempts reached the model, none ended"
        )

    def _fail(self, reply: Reply, kind: Failure, detail: str) -> bool:
        document = failed(kind).model_dump(mode="json")
        ended = self._assessments.fail(
            reply.assessment, reply.attempt, kind, detail, document, self._now()
        )
        if ended:
            _log.error("a dead letter", assessment=reply.assessment, kind=kind, detail=detail)
        return ended
