"""The tables of intake. Their history is in `migrations`; times are ISO 8601 in UTC."""

import sqlalchemy as sa

from spira.stores.database import append_only

TABLES = sa.MetaData()

SUBMISSIONS = sa.Table(
    "intake_submissions",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("site", sa.Text, nullable=False),
    sa.Column("secret_sha256", sa.Text, nullable=False),  # of the device that made it
    sa.Column("state", sa.Text, nullable=False),  # announced, accepted, expired
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),  # one more each time it had expired
    sa.Column("manifest", sa.Text, nullable=False),  # canonical; identifying values are hashes
    sa.Column("announced_at", sa.Text, nullable=False),
    sa.Column("deadline", sa.Text, nullable=False),
    sa.Column("device_ahead_s", sa.Float),  # of the device's clock, at the last manifest
    sa.Column("accepted_at", sa.Text),
    sa.Column("receipt", sa.Text),
    sa.Column("swept", sa.Boolean, nullable=False),  # nothing is left that is not needed
    sa.Index("intake_submissions_by_state", "state", "swept", "deadline"),
    sa.Index("intake_submissions_by_site", "site", "accepted_at"),
)

RECORDINGS = sa.Table(
    "intake_recordings",
    TABLES,
    sa.Column("submission", sa.Text, sa.ForeignKey("intake_submissions.id"), primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("upload", sa.Text, nullable=False, unique=True),
    sa.Column("n_bytes", sa.BigInteger, nullable=False),
    sa.Column("asked", sa.Text, nullable=False),  # all that its check depends on
    sa.Column("tries", sa.Integer, nullable=False),  # uploads that were discarded
    sa.Column("state", sa.Text, nullable=False),  # announced, stored, dropped, refused
    sa.Column("place", sa.Text, nullable=False, unique=True),  # what its objects' keys begin with
    sa.Column("found", sa.Text),  # what the check found; null where it died of the file
    sa.Column("audio_sha256", sa.Text),  # of the samples beside the original
    sa.Column("reason", sa.Text),
    sa.Column("detail", sa.Text),
)

TOKENS = sa.Table(
    "intake_tokens",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("site", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),  # site, lead
    sa.Column("sha256", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", sa.Text, nullable=False),
    sa.Column("revoked_at", sa.Text),
)

# The audit: a chain, each row with the digest of the one before it (spira.intake.audit).
AUDIT = sa.Table(
    "intake_audit",
    TABLES,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),  # 1, 2, 3, …
    sa.Column("at", sa.String(40), nullable=False),  # RFC 3339, UTC, by the server's clock
    sa.Column("who", sa.String(100), nullable=False),
    sa.Column("role", sa.String(100), nullable=False),
    sa.Column("device", sa.String(100)),
    sa.Column("what", sa.String(100), nullable=False),
    sa.Column("which", sa.String(100)),
    sa.Column("why", sa.String(500)),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)
# Where the chain ends: one row, which whoever adds to the chain locks. Without it, rows cut off
# at the end would not be missed.
AUDIT_HEAD = sa.Table(
    "intake_audit_head",
    TABLES,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)

# What makes the audit append-only for whoever means well; whoever drops the triggers first is
# found by the chain. A migration that makes the table runs these after it.
APPEND_ONLY = append_only("intake_audit")


def _add_triggers(_: sa.Table, tables: sa.Connection, **__: object) -> None:
    for statement in APPEND_ONLY[tables.dialect.name]:
        tables.exec_driver_sql(statement)


sa.event.listen(AUDIT, "after_create", _add_triggers)
