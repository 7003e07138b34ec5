"""Naming things by what they are made of."""

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """One byte string for one value: sorted keys, no spaces, UTF-8, no NaN.

    raises    ValueError for NaN or infinity, TypeError for what JSON cannot hold
    source    the shape of RFC 8785 (JCS), without its rules for numbers beyond double precision
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`: 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
