"""What the Data Collection App (1) does, as a library: visits of a collector's device.

A `Device` is an outbox in a folder (spira.device.outbox). Where the server says that a participant
has withdrawn, it erases the visit: audio, form and all.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from uuid_utils import uuid7

from spira.device.line import Rejected, Withdrawn
from spira.device.outbox import Kept, Outbox, Outcome, Recorded, Refusal, Report
from spira.domain import submissions
from spira.domain.recordings import UTTERANCES
from spira.domain.submissions import MOST_FILES

__all__ = ["Device", "Outcome", "Recorded", "Refusal", "Report", "new_participant"]


class Visit(Kept):
    """A visit as the device keeps it."""

    kind = "visit"
    address = "/v1/collection/visits"
    utterances = UTTERANCES
    most_recordings = MOST_FILES

    visit: submissions.Visit


class Device(Outbox[Visit]):
    """An outbox of visits."""

    _keeps = Visit

    def record(
        self,
        study: str,
        study_version: int,
        participant: str,
        form_values: Mapping[str, Any],
        recordings: Sequence[tuple[Any, ...]],
        *,
        form: tuple[str, int] = ("visit", 1),
        synthetic: bool = False,
        replaces: str | None = None,
    ) -> str:
        """Keep a visit; when this returns it is on stable storage, and before, nothing is.

        study_version  whose protocol and words were used
        participant    a pseudonym (`new_participant`); the same one at each visit of a person
        recordings     1 to 16 of `Recorded`, or tuples like it
        form           which form was filled in, and its version
        synthetic      the voices were made: nobody has to agree
        replaces       the visit that this one is a re-recording of: what `record` returned, or the
                       id of one of another device
        returns        its id
        raises         InputError for what no server would take; StorageFull, TransientError
        """
        return self._record(
            form,
            form_values,
            recordings,
            replaces=replaces,
            visit={
                "study": study,
                "study_version": study_version,
                "participant": participant,
                "synthetic": synthetic,
            },
        )

    def _rejected(self, name: str, sent: Visit, error: Rejected) -> Outcome:
        if not isinstance(error, Withdrawn):
            return super()._rejected(name, sent, error)
        erased = self._erase(name, sent)
        return Outcome(
            recorded_as=name,
            id=sent.id,
            state="erased" if erased else "waiting",
            detail=error.detail if erased else "it was revised meanwhile",
        )


def new_participant() -> str:
    """A pseudonym for whom this device has not met; it says nothing of the person (UUIDv7)."""
    return str(uuid7())
