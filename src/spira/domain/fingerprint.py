"""Naming things by what they are made of."""

import hashlib
import json
from collections.abc import Iterable, Mapping
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


def fingerprint_with_rows(value: Mapping[str, Any], rows: Mapping[str, Iterable[Any]]) -> str:
    """The fingerprint of `value` with lists of rows in it, each in the order of its rows' JSON.

    Of a long list only the JSON is held at a time, and not its rows.
    """
    parts = {key: canonical_json(one) for key, one in value.items()}
    digest = hashlib.sha256()
    before = b"{"
    for key in sorted([*parts, *rows]):
        digest.update(before + canonical_json(key) + b":")
        before = b","
        if key in parts:
            digest.update(parts[key])
            continue
        opening = b"["
        for row in sorted(map(canonical_json, rows[key])):
            digest.update(opening + row)
            opening = b","
        digest.update(b"[]" if opening == b"[" else b"]")
    digest.update(b"}")
    return digest.hexdigest()
