"""Site tokens: who may send and ask for a site, or lead a study there."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import sqlalchemy as sa

from spira.intake.audit import note_operator
from spira.intake.tables import TOKENS
from spira.stores.database import Database

Role = Literal["site", "lead"]


@dataclass(frozen=True)
class Site:
    """A site, and the token that it showed."""

    name: str
    token_id: str
    role: Role = "site"


class Tokens:
    """The table; it holds digests, never a token. What is made or made void is audited."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, site: str, role: Role = "site") -> str:
        """A new token for a site: told once, and never again."""
        token, token_id = secrets.token_urlsafe(32), secrets.token_hex(4)
        with self._database.writing() as tables:
            tables.execute(
                TOKENS.insert().values(
                    id=token_id,
                    site=site,
                    role=role,
                    sha256=_digest(token),
                    created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                )
            )
            note_operator(tables, "token made", token_id)
        return token

    def revoke(self, token_id: str) -> bool:
        """Make a token void; False where there is none in force."""
        this = (TOKENS.c.id == token_id) & TOKENS.c.revoked_at.is_(None)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._database.writing() as tables:
            revoked = tables.execute(TOKENS.update().where(this).values(revoked_at=now)).rowcount
            if revoked:
                note_operator(tables, "token revoked", token_id)
        return bool(revoked)

    def site_of(self, token: str) -> Site | None:
        """Whose token it is; None for one that is unknown or void."""
        query = sa.select(TOKENS.c.site, TOKENS.c.id, TOKENS.c.role).where(
            TOKENS.c.sha256 == _digest(token), TOKENS.c.revoked_at.is_(None)
        )
        with self._database.reading() as tables:
            row = tables.execute(query).first()
        return None if row is None else Site(row.site, row.id, row.role)

    def list(self) -> list[sa.Row[tuple[str, str, str, str, str, str | None]]]:
        """Every token's id, site and times."""
        with self._database.reading() as tables:
            return [*tables.execute(sa.select(TOKENS).order_by(TOKENS.c.created_at))]


def _digest(token: str) -> str:
    # 256 random bits need no salt and no slow hash.
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
