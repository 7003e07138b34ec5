"""By what a hospital knows us: a private key of our own, or a secret that it gave us.

The key is a file with a JWK Set (RFC 7517), the newest key first: the hospital may take a while to
learn of a new one, and until then an older one signs. It can be made anew at any time, and needs no
backup.
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, KeyParameters, RSAKey

from spira.domain.errors import InputError
from spira.stores.files import sync_names, write_whole

Algorithm = Literal["ES384", "RS384"]


@dataclass(frozen=True)
class Credentials:
    """What we show to one hospital."""

    client_id: str
    keys: tuple[ECKey | RSAKey, ...] = field(repr=False)
    secret: str | None = field(repr=False)


def read_credentials(
    hospital: str,
    client_id: str,
    key_file: Path,
    secret_file: Path | None,
    environment: Mapping[str, str],
) -> Credentials:
    """What the environment has, else what the files have.

    raises    InputError when there is neither a key nor a secret, or a file is not as it must be
    """
    key = environment.get(variable("KEY", hospital))
    if key is None and key_file.exists():
        key = _private_text(key_file)
    secret = environment.get(variable("SECRET", hospital))
    if secret is None and secret_file is not None:
        secret = _private_text(secret_file).strip()
    if key is None and not secret:
        raise InputError(
            f"hospital {hospital}: there is no key to show it; `spira hospital key {hospital}` "
            "makes one, and prints what the hospital needs"
        )
    return Credentials(client_id, () if key is None else _parsed(key, hospital), secret or None)


def make_key(file: Path, algorithm: Algorithm, *, rotate: bool) -> dict[str, Any]:
    """Make the key where there is none, or one more in front of it; the public keys.

    raises    InputError when the file cannot be written, or is not ours
    """
    there = [*_parsed(_private_text(file), file.stem)] if file.exists() else []
    if rotate or not there:
        about: KeyParameters = {
            "kid": f"spira-{secrets.token_hex(8)}",
            "use": "sig",
            "alg": algorithm,
        }
        new: ECKey | RSAKey
        if algorithm == "ES384":
            new = ECKey.generate_key("P-384", about)
        else:
            new = RSAKey.generate_key(3072, about)
        there = [new, *there]
        _write(file, json.dumps({"keys": [key.as_dict(private=True) for key in there]}, indent=2))
    return {"keys": [key.as_dict(private=False) for key in there]}


def variable(what: Literal["KEY", "SECRET"], hospital: str) -> str:
    """The variable of the environment that has it."""
    name = re.sub(r"[^A-Z0-9]+", "_", hospital.upper())
    return f"SPIRA_HOSPITAL_{what}_{name}"


def _parsed(text: str, hospital: str) -> tuple[ECKey | RSAKey, ...]:
    """Private keys of a JWK Set, or of one JWK."""
    try:
        document = json.loads(text)
        given = document.get("keys", [document])
        keys = tuple(JWKRegistry.import_key(one) for one in given)
        known = all(isinstance(key, ECKey | RSAKey) and key.is_private and key.kid for key in keys)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        known = False
    if not known:
        raise InputError(
            f"hospital {hospital}: its key is not a JWK Set of private RSA or P-384 keys with a "
            f"kid; `spira hospital key {hospital}` makes one"
        )
    return keys  # type: ignore[return-value]


def _private_text(file: Path) -> str:
    try:
        if file.stat().st_mode & 0o077:
            raise InputError(f"{file}: others may read it, and it is a secret; chmod 600 it")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        cause = str(error.strerror).lower()
        raise InputError(f"{file}: cannot be read ({cause})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text") from error


def _write(file: Path, text: str) -> None:
    """A whole file or none, for the owner alone."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        sync_names(file)
        write_whole(file, f"{text}\n".encode())
    except OSError as error:
        cause = str(error.strerror).lower()
        raise InputError(f"{file}: cannot be written ({cause})") from error
