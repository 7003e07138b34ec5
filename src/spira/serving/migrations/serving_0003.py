"""The outcome of an answer in a column, so that answers are counted without reading them."""

import sqlalchemy as sa
from alembic import op

revision = "serving_0003"
down_revision = "serving_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """An answer's JSON begins with its outcome."""
    op.add_column("serving_assessments", sa.Column("outcome", sa.Text))
    told = sa.func.replace(sa.column("answer"), " ", "")
    for outcome in ("positive", "negative", "inconclusive"):
        op.execute(
            sa.table("serving_assessments", sa.column("outcome"))
            .update()
            .where(told.startswith(f'{{"outcome":"{outcome}"'))
            .values(outcome=outcome)
        )
    op.create_index("serving_assessments_by_outcome", "serving_assessments", ["state", "outcome"])
