"""The receipt: the server's signed word that it has a submission.

A JWS (Ed25519, compact) over a JSON document that names every digest taken. It is made once, kept,
and given again byte for byte for ever; whoever holds it can have it checked years later, with the
public keys that were published (old ones too).
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, Field, ValidationError

from spira.domain.errors import IntegrityError
from spira.domain.fingerprint import canonical_json
from spira.domain.frozen import Frozen
from spira.domain.submissions import Digest, Id, Kind, Submission
from spira.intake.keys import KeyRing, verify

_TYP = "spira-receipt+jws"


class RecordingReceived(Frozen):
    """What became of one recording that was announced."""

    id: Id
    sha256: Digest
    n_bytes: int
    what: Literal["taken", "dropped"]  # dropped: left out of the submission, its bytes are not here
    reason: Literal["speech_in_ambient"] | None = None  # why it was dropped


class Receipt(Frozen):
    """What is signed."""

    kind: Kind
    id: Id
    revision: int
    manifest: Digest  # SHA-256 of the canonical manifest as the server keeps it
    accepted_at: AwareDatetime  # by the server's clock
    site: str
    recordings: tuple[RecordingReceived, ...] = Field(min_length=1)


def write_receipt(
    ring: KeyRing,
    submission: Submission,
    *,
    manifest: bytes,
    accepted_at: datetime,
    site: str,
    dropped: Mapping[str, Any] = {},
) -> str:
    """The receipt of a submission; keep exactly what comes back.

    manifest  its canonical bytes as they are kept (a record number in them is a hash)
    dropped   why, by the ids of recordings that were announced and are not taken
    """
    receipt = Receipt(
        kind=submission.kind,
        id=submission.id,
        revision=submission.revision,
        manifest=hashlib.sha256(manifest).hexdigest(),
        accepted_at=accepted_at,
        site=site,
        recordings=tuple(
            RecordingReceived(
                id=file.id,
                sha256=file.sha256,
                n_bytes=file.n_bytes,
                what="dropped" if file.id in dropped else "taken",
                reason=dropped.get(file.id),
            )
            for file in submission.files
        ),
    )
    return ring.sign(canonical_json(receipt.model_dump(mode="json", exclude_none=True)), typ=_TYP)


def read_receipt(token: str, keys: Mapping[str, Any]) -> Receipt:
    """What a receipt says that one of these keys has signed.

    keys      public keys (JWKS), as they are published
    raises    IntegrityError when none of them has signed it, or it is something else
    """
    signed = verify(token, keys, typ=_TYP)
    try:
        return Receipt.model_validate_json(signed)
    except ValidationError as error:
        raise IntegrityError("receipt: signed, and not readable; ask for it again") from error
