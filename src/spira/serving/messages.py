"""What the relay asks the predictor, and what the predictor replies: JSON, versioned, small.

Messages carry ids and figures; nothing of a form, and no name. Whoever reads one trusts nothing
of it: what is no message is refused with an error, whatever its bytes are.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, StringConstraints, ValidationError, model_validator

from spira.domain.answers import Outcome
from spira.domain.errors import InputError, RefusalReason, TransientError
from spira.domain.frozen import Frozen
from spira.domain.submissions import Digest, Id
from spira.model.prediction import PresentShare

_VERSION = 1
LARGEST_BYTES = 256 * 1024  # the server takes 1 MB
ASKS, REPLIES = "spira.asks", "spira.replies"  # subjects

_Key = Annotated[
    str,
    StringConstraints(
        pattern=r"^[0-9A-Za-z_-][0-9A-Za-z._-]*(/[0-9A-Za-z_-][0-9A-Za-z._-]*)*$", max_length=400
    ),
]


class Ask(Frozen):
    """One recording to be scored."""

    version: Literal[1] = 1
    assessment: Id
    attempt: int = Field(ge=1, le=1_000_000)
    audio: _Key  # of an object: float32 little-endian samples, mono, 16 kHz
    sha256: Digest  # of its bytes

    @property
    def identity(self) -> str:
        """What the queue knows it by."""
        return f"{self.assessment}:{self.attempt}"


class Reply(Frozen):
    """What came of an ask.

    scored    the model's figures, and the model
    failed    the recording can never be scored, and why
    tried     no answer: the model is about to be asked, after an attempt or a delivery that brought
              no reply. Whoever counts these knows a recording that kills predictors, or that the
              model has no number for. Waiting for a store or a model is never told so.
    """

    version: Literal[1] = 1
    assessment: Id
    attempt: int = Field(ge=1, le=1_000_000)
    kind: Literal["scored", "failed", "tried"]
    delivery: int = Field(default=1, ge=1, le=1_000_000)  # of the ask, at which it was `tried`
    probability: float | None = Field(default=None, ge=0, le=1)
    calibrated: float | None = Field(default=None, ge=0, le=1)
    outcome: Outcome | None = None
    windows: int | None = Field(default=None, ge=1)
    model: str = Field(min_length=1, max_length=200)  # name/version@digest of its manifest
    manifest: Mapping[str, Any] | None = None  # spira.model.bundle.ModelManifest, of `scored`
    shares: Mapping[Outcome, PresentShare] = Field(default_factory=dict)  # of the model's test
    reason: RefusalReason | None = None  # of `failed`
    detail: str | None = Field(default=None, max_length=1000)

    @model_validator(mode="after")
    def _complete(self) -> "Reply":
        figures = (self.probability, self.calibrated, self.outcome, self.windows, self.manifest)
        if self.kind == "scored" and None in figures:
            raise ValueError("a reply that is scored needs every figure and the manifest")
        if self.kind != "scored" and any(figure is not None for figure in figures):
            raise ValueError("a reply without a score has no figures")
        if (self.kind == "failed") != (self.reason is not None):
            raise ValueError("a reply that failed, and no other, says why")
        return self


_Message = TypeVar("_Message", Ask, Reply)


def write_message(message: Ask | Reply) -> bytes:
    """The bytes of a message."""
    return message.model_dump_json().encode()


def read_message(kind: type[_Message], data: bytes) -> _Message:
    """The message in these bytes.

    raises    InputError for what is none: it will never be one. TransientError for one of a later
              version: somebody who was upgraded will read it.
    """
    name = kind.__name__.lower()
    if len(data) > LARGEST_BYTES:
        raise InputError(f"{name}: {len(data)} bytes, at most {LARGEST_BYTES} are read")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=True, include_context=False)
        for fault in faults:
            later = fault["input"]
            if fault["loc"] == ("version",) and isinstance(later, int) and later > _VERSION:
                raise TransientError(
                    f"{name}: of version {later}, this SPIRA reads {_VERSION}; upgrade it"
                ) from error
        # Where and what, never the value: nobody knows what is in it.
        wrong = [f"{'.'.join(map(str, fault['loc'])) or name}: {fault['type']}" for fault in faults]
        raise InputError(f"{name}: not one ({'; '.join(wrong[:5])})") from None
