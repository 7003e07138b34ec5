"""Versions of studies."""

import sqlalchemy as sa
from alembic import op

revision = "collection_0001"
down_revision = None
branch_labels = ("collection",)
depends_on = "intake_0001"


def upgrade() -> None:
    """Make the first table."""
    op.create_table(
        "collection_studies",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("applied_at", sa.Text, nullable=False),
    )
