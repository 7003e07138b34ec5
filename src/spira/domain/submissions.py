"""A submission: what a device sends of one sitting of one participant.

An **assessment** (Serving) and a **visit** (Collection) are both submissions. The device makes
them, offline, with ids of its own; nothing here says what becomes of them.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

from spira.domain.fingerprint import canonical_json
from spira.domain.frozen import Frozen
from spira.domain.recordings import Utterance

Kind = Literal["assessment", "visit"]
Id = Annotated[
    str,
    StringConstraints(
        pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
    ),
]
"""A UUIDv7 (RFC 9562) in lower case. Its time is the device's, and never used for order."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in lower case."""

Moment = Annotated[
    AwareDatetime,
    Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC)),
]
"""By a device's clock, with its zone: wrong by decades where its battery was empty. The ends are
those of clocks, so that a time can be corrected and shown in any zone."""

_Words = Annotated[str, StringConstraints(max_length=200)]

MOST_FILES = 16
LARGEST_FILE_BYTES = (1 << 31) - 1  # what a column holds; what is accepted is far less, a setting
LONGEST_S = 4 * 3600.0


class Capture(Frozen):
    """Capture provenance: how a recording was really made, as far as the device can tell."""

    device: _Words | None = None
    browser: _Words | None = None
    codec: _Words | None = None
    rate_hz: int | None = Field(default=None, ge=1, le=1_000_000)
    automatic_gain_control: bool | None = None
    noise_suppression: bool | None = None
    echo_cancellation: bool | None = None


class RecordingFile(Frozen):
    """One recording of a submission, as announced."""

    id: Id
    utterance: Utterance
    sha256: Digest
    n_bytes: int = Field(ge=1, le=LARGEST_FILE_BYTES)
    duration_s: float = Field(gt=0, le=LONGEST_S)
    recorded_at: Moment
    capture: Capture = Capture()


def each_once(files: tuple[RecordingFile, ...]) -> tuple[RecordingFile, ...]:
    """As they are, each id once."""
    ids = [file.id for file in files]
    if len(set(ids)) != len(ids):
        raise ValueError("a recording id is there twice; each recording needs its own")
    return files


Files = Annotated[tuple[RecordingFile, ...], AfterValidator(each_once)]
"""Recordings of one submission, each id once."""


class FormValues(Frozen):
    """What was filled in, and into which form."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
    version: int = Field(ge=1, le=1_000_000)
    values: Mapping[str, Any]


class Visit(Frozen):
    """What a visit says beside its form: of which study, and of whom by pseudonym."""

    study: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    study_version: int = Field(ge=1, le=1_000_000)  # whose protocol and words were used
    participant: Id  # made by the device at the first visit
    synthetic: bool = False  # the voices were made: nobody has to agree


class Submission(Frozen):
    """One sitting: who cannot be seen here, the form's values and the recordings can."""

    kind: Kind
    id: Id
    revision: int = Field(ge=1, le=1_000_000)
    form: FormValues
    files: Files = Field(min_length=1, max_length=MOST_FILES)
    replaces: Id | None = None  # of an earlier one, for a re-recording after its receipt
    visit: Visit | None = None

    def canonical(self) -> bytes:
        """The bytes that stand for it: equal submissions have equal bytes.

        What was not said is left out, so that they stay the same when there is more to say one day.
        """
        return canonical_json(self.model_dump(mode="json", exclude_defaults=True))
