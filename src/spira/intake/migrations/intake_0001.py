"""Submissions, their recordings, and the audit."""

import sqlalchemy as sa
from alembic import op

from spira.intake.tables import APPEND_ONLY

revision = "intake_0001"
down_revision = None
branch_labels = ("intake",)
depends_on = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "intake_submissions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("site", sa.Text, nullable=False),
        sa.Column("secret_sha256", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("announced_at", sa.Text, nullable=False),
        sa.Column("deadline", sa.Text, nullable=False),
        sa.Column("device_ahead_s", sa.Float),
        sa.Column("accepted_at", sa.Text),
        sa.Column("receipt", sa.Text),
        sa.Column("swept", sa.Boolean, nullable=False),
    )
    op.create_index(
        "intake_submissions_by_state", "intake_submissions", ["state", "swept", "deadline"]
    )
    op.create_index("intake_submissions_by_site", "intake_submissions", ["site", "accepted_at"])
    op.create_table(
        "intake_recordings",
        sa.Column("submission", sa.Text, sa.ForeignKey("intake_submissions.id"), primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("upload", sa.Text, nullable=False, unique=True),
        sa.Column("n_bytes", sa.BigInteger, nullable=False),
        sa.Column("asked", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("place", sa.Text, nullable=False, unique=True),
        sa.Column("found", sa.Text),
        sa.Column("audio_sha256", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("detail", sa.Text),
    )
    op.create_table(
        "intake_audit",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("who", sa.String(100), nullable=False),
        sa.Column("role", sa.String(100), nullable=False),
        sa.Column("device", sa.String(100)),
        sa.Column("what", sa.String(100), nullable=False),
        sa.Column("which", sa.String(100)),
        sa.Column("why", sa.String(500)),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    op.create_table(
        "intake_tokens",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("site", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False, unique=True),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("revoked_at", sa.Text),
    )
    op.create_table(
        "intake_audit_head",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    for statement in APPEND_ONLY[op.get_bind().dialect.name]:
        op.get_bind().exec_driver_sql(statement)
