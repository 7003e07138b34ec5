"""Assessments, their answers, dead letters."""

import sqlalchemy as sa
from alembic import op

revision = "serving_0001"
down_revision = None
branch_labels = ("serving",)
depends_on = "intake_0001"


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "serving_assessments",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("site", sa.Text, nullable=False),
        sa.Column("record", sa.Text),
        sa.Column("change", sa.BigInteger, nullable=False, unique=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("replaces", sa.Text),
        sa.Column("recorded_at", sa.Text, nullable=False),
        sa.Column("accepted_at", sa.Text, nullable=False),
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("audio", sa.Text),
        sa.Column("audio_sha256", sa.Text),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("reached", sa.Integer, nullable=False),
        sa.Column("lease_until", sa.Text),
        sa.Column("answer", sa.Text),
        sa.Column("answered_at", sa.Text),
        sa.Column("voided_at", sa.Text),
        sa.Column("void_reason", sa.Text),
    )
    op.create_index("serving_assessments_by_state", "serving_assessments", ["state", "lease_until"])
    op.create_index("serving_assessments_by_record", "serving_assessments", ["site", "record"])
    changes = op.create_table("serving_changes", sa.Column("last", sa.BigInteger, primary_key=True))
    op.bulk_insert(changes, [{"last": 0}])
    op.create_table(
        "serving_dead_letters",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("assessment", sa.Text, sa.ForeignKey("serving_assessments.id"), nullable=False),
        sa.Column("at", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("redriven_at", sa.Text),
        sa.Column("redriven_by", sa.Text),
        sa.Column("why", sa.Text),
    )
    op.create_table("serving_model", sa.Column("name", sa.Text, primary_key=True))
