"""Receipts: what a device may let go of its copy for."""

import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spira.domain.errors import IntegrityError
from spira.domain.submissions import Submission
from spira.intake.keys import KeyRing
from spira.intake.receipts import read_receipt, write_receipt

NOW = datetime(2026, 11, 26, 6, 0, tzinfo=UTC)
IDS = [f"01936a7e-0000-7000-8000-00000000000{number}" for number in range(4)]


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    """Keys of a server."""
    return KeyRing.open(tmp_path_factory.mktemp("ring") / "keys")


def submission(**changes: Any) -> Submission:
    """Two recordings of one sitting."""
    sent: dict[str, Any] = {
        "kind": "assessment",
        "id": IDS[0],
        "revision": 2,
        "form": {"id": "assessment", "version": 1, "values": {"age": 63}},
        "files": [recording(1), recording(2)],
    }
    return Submission.model_validate(sent | changes)


def recording(number: int, **changes: Any) -> dict[str, Any]:
    """One that was announced."""
    return {
        "id": IDS[number],
        "utterance": "sentence",
        "sha256": hashlib.sha256(bytes([number])).hexdigest(),
        "n_bytes": 1000 + number,
        "duration_s": 5.0,
        "recorded_at": "2026-11-26T03:00:00-03:00",
    } | changes


def written(ring: KeyRing, sent: Submission, **changes: Any) -> str:
    """Its receipt."""
    told: dict[str, Any] = {"manifest": b"kept", "accepted_at": NOW, "site": "ward"}
    return write_receipt(ring, sent, **told | changes)


def test_a_receipt_names_all_that_was_taken_and_what_was_not(ring: KeyRing) -> None:
    """In canonical JSON, so that its bytes are the same wherever they are made."""
    token = written(ring, submission(), dropped={IDS[2]: "speech_in_ambient"})

    signed = base64.urlsafe_b64decode(token.split(".")[1] + "==")
    told = json.loads(signed)
    assert signed == json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
    assert told == {
        "kind": "assessment",
        "id": IDS[0],
        "revision": 2,
        "manifest": hashlib.sha256(b"kept").hexdigest(),
        "accepted_at": "2026-11-26T06:00:00Z",
        "site": "ward",
        "recordings": [
            {
                "id": IDS[number],
                "sha256": hashlib.sha256(bytes([number])).hexdigest(),
                "n_bytes": 1000 + number,
                **what,
            }
            for number, what in (
                (1, {"what": "taken"}),
                (2, {"what": "dropped", "reason": "speech_in_ambient"}),
            )
        ],
    }


def test_a_device_checks_it_with_the_published_keys(ring: KeyRing) -> None:
    """Also after a rotation, with the old key and the new one; Ed25519 repeats its bytes."""
    token = written(ring, submission())
    assert token == written(ring, submission())
    ring.rotate("receipts")

    receipt = read_receipt(token, ring.public())

    assert receipt.accepted_at == NOW
    assert [one.what for one in receipt.recordings] == ["taken", "taken"]
    assert read_receipt(written(ring, submission()), ring.public()) == receipt


def test_only_a_receipt_that_the_server_signed_counts(ring: KeyRing, tmp_path: Path) -> None:
    """Not one of another server, and nothing else that this one has signed."""
    other = KeyRing.open(tmp_path / "keys")
    with pytest.raises(IntegrityError, match="does not fit any key"):
        read_receipt(written(other, submission()), ring.public())
    payload = base64.urlsafe_b64decode(written(ring, submission()).split(".")[1] + "==")
    with pytest.raises(IntegrityError, match="signed as something else"):
        read_receipt(ring.sign(payload, typ="else"), ring.public())
    with pytest.raises(IntegrityError, match="signed, and not readable"):
        read_receipt(ring.sign(b"{}", typ="spira-receipt+jws"), ring.public())


def test_the_largest_receipt_verifies(ring: KeyRing) -> None:
    """Sixteen recordings, a long name of a site."""
    ids = [f"01936a7e-0000-7000-8000-0000000001{number:02d}" for number in range(16)]
    sent = submission(files=[recording(1, id=one) for one in ids])
    token = written(ring, sent, site="x" * 100)
    assert len(read_receipt(token, ring.public()).recordings) == 16
