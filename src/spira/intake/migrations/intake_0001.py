"""Submissions and their recordings."""

import sqlalchemy as sa
from alembic import op

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
        sa.Column("n_bytes", sa.Integer, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("place", sa.Text, nullable=False, unique=True),
        sa.Column("found", sa.Text),
        sa.Column("audio_sha256", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("detail", sa.Text),
    )
