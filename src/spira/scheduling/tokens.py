"""The endpoint's token, and links that are signed with it."""

import hmac
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from spira.domain.errors import InputError
from spira.scheduling.settings import SchedulingSettings

TOKEN = "SPIRA_SCHEDULER_TOKEN"  # variable of the environment
_SHORTEST = 16


def read_token(home: Path) -> str:
    """The token that callers show: from the environment, else from a file made on first use."""
    given = os.environ.get(TOKEN)
    if given:
        if len(given) < _SHORTEST:
            raise InputError(f"{TOKEN}: shorter than {_SHORTEST} characters; it could be guessed")
        return given
    path = home / "scheduler" / "token"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        new = path.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
        with suppress(FileExistsError):  # of two that make one, the first counts, whole
            os.link(new, path)
        new.unlink()
    return path.read_text(encoding="utf-8").strip()


def report_address(home: Path, settings: SchedulingSettings, fingerprint: str) -> str | None:
    """Where a browser finds the report of an evaluation, or of the model published of it.

    A browser that follows a link shows no token, so the link is signed with it: who has the link
    can read this one report, and nothing else; another token makes it void. Where the service
    listens everywhere the link names this machine, as the web page's own address does.

    returns   None where nobody knows the port or the token: it has never been served here
    """
    try:
        written = (home / "scheduler" / "addresses.json").read_text(encoding="utf-8")
        port = urlsplit(json.loads(written)["endpoint"]).port
    except FileNotFoundError:
        port = settings.port
    if not port or not (os.environ.get(TOKEN) or (home / "scheduler" / "token").exists()):
        return None
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    key = signature(read_token(home), fingerprint)
    return f"http://{in_address(host)}:{port}/v1/reports/{fingerprint}?key={key}"


def in_address(host: str) -> str:
    """A host as it is written in addresses: those of IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def signature(token: str, fingerprint: str) -> str:
    """Of the link to a report: 128 bits: an address that a person may have to read."""
    return hmac.new(token.encode(), f"report {fingerprint}".encode(), "sha256").hexdigest()[:32]
