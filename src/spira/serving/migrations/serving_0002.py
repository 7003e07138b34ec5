"""Which replies count: those to attempts after a redrive, and of `tried` each delivery once.

And an index for a site's changes, and what replaces an assessment.
"""

import sqlalchemy as sa
from alembic import op

revision = "serving_0002"
down_revision = "serving_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing was redriven, counted or marked as replaced before."""
    for name in ("redriven_after", "reached_attempt", "reached_delivery"):
        op.add_column(
            "serving_assessments",
            sa.Column(name, sa.Integer, nullable=False, server_default="0"),
        )
    op.create_index("serving_assessments_by_change", "serving_assessments", ["site", "change"])
    op.add_column("serving_assessments", sa.Column("replaced_by", sa.Text))
    op.create_index("serving_assessments_by_replaces", "serving_assessments", ["site", "replaces"])
