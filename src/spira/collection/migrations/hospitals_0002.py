"""Patients that were merged, or that share a number; exports with files that are too short."""

import sqlalchemy as sa
from alembic import op

revision = "hospitals_0002"
down_revision = "hospitals_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is known of them."""
    op.add_column(
        "hospital_patients",
        sa.Column("standing", sa.Text, nullable=False, server_default="current"),
    )
    op.add_column("hospital_patients", sa.Column("survivor", sa.Text))
    op.add_column("hospital_patients", sa.Column("doubt", sa.Text))
    op.add_column(
        "hospital_pulls", sa.Column("short", sa.Integer, nullable=False, server_default="0")
    )
