"""Subjects, entries, the worklist and its resolutions."""

import sqlalchemy as sa
from alembic import op

from spira.stores.database import append_only

revision = "labels_0001"
down_revision = None
branch_labels = ("labels",)
depends_on = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "labels_subjects",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("subject", sa.Text, nullable=False, unique=True),
        sa.Column("newest", sa.Text, nullable=False),
        sa.Column("key", sa.Text),
    )
    op.create_index("labels_subjects_by_newest", "labels_subjects", ["newest"])
    op.create_index("labels_subjects_by_key", "labels_subjects", ["key"])
    op.create_table(
        "labels_entries",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("subject", sa.Integer, sa.ForeignKey("labels_subjects.number"), nullable=False),
        sa.Column("issued", sa.Text, nullable=False),
        sa.Column("received", sa.Text, nullable=False),
        sa.Column("kind", sa.Text),
        sa.Column("at", sa.Text),
        sa.Column("until", sa.Text),
        sa.Column("value", sa.Float),
        sa.Column("code", sa.Text),
        sa.Column("breathing", sa.Text),
        sa.Column("method", sa.Text),
        sa.Column("evidence", sa.Text),
        sa.UniqueConstraint("origin", "name", "version"),
    )
    op.create_index("labels_entries_by_name", "labels_entries", ["name", "origin", "issued"])
    op.create_index("labels_entries_by_subject", "labels_entries", ["subject", "kind", "at"])
    op.create_table(
        "labels_worklist",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("received", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("issued", sa.Text, nullable=False),
        sa.Column("said", sa.Text, nullable=False),
        sa.Column("item", sa.Text, nullable=False),
    )
    op.create_index("labels_worklist_by_name", "labels_worklist", ["name", "origin", "issued"])
    op.create_table(
        "labels_resolutions",
        sa.Column("item", sa.Integer, sa.ForeignKey("labels_worklist.number"), primary_key=True),
        sa.Column("at", sa.Text, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("how", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("version", sa.Text),
    )
    tables = op.get_bind()
    for name in ("labels_entries", "labels_worklist", "labels_resolutions"):
        for statement in append_only(name)[tables.dialect.name]:
            tables.exec_driver_sql(statement)
