"""Where pulling stands, and which patients are participants."""

import sqlalchemy as sa
from alembic import op

revision = "hospitals_0001"
down_revision = None
branch_labels = ("hospitals",)
depends_on = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "hospital_pulls",
        sa.Column("hospital", sa.Text, primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("since", sa.Text),
        sa.Column("status_url", sa.Text),
        sa.Column("manifest", sa.Text),
        sa.Column("file", sa.Integer, nullable=False),
        sa.Column("line", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("finished_at", sa.Text),
    )
    op.create_table(
        "hospital_patients",
        sa.Column("hospital", sa.Text, primary_key=True),
        sa.Column("patient", sa.Text, primary_key=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("complete", sa.Boolean, nullable=False),
    )
    op.create_index("hospital_patients_by_subject", "hospital_patients", ["hospital", "subject"])
