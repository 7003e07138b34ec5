"""After which attempt an assessment was redriven: replies to earlier ones no longer count."""

import sqlalchemy as sa
from alembic import op

revision = "serving_0002"
down_revision = "serving_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing was redriven before."""
    op.add_column(
        "serving_assessments",
        sa.Column("redriven_after", sa.Integer, nullable=False, server_default="0"),
    )
