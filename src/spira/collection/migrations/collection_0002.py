"""Participants, their visits, the versions of forms, recordings."""

import sqlalchemy as sa
from alembic import op

revision = "collection_0002"
down_revision = "collection_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables of what is collected."""
    op.create_table(
        "collection_participants",
        sa.Column("study", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("withdrawn_at", sa.Text),
    )
    op.create_table(
        "collection_visits",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("study", sa.Text, nullable=False),
        sa.Column("study_version", sa.Integer, nullable=False),
        sa.Column("participant", sa.Text, nullable=False),
        sa.Column("site", sa.Text, nullable=False),
        sa.Column("record", sa.Text),
        sa.Column("replaces", sa.Text),
        sa.Column("recorded_at", sa.Text, nullable=False),
        sa.Column("uncertainty_s", sa.Float, nullable=False),
        sa.Column("accepted_at", sa.Text, nullable=False),
        sa.Column("synthetic", sa.Boolean, nullable=False),
        sa.ForeignKeyConstraint(
            ["study", "participant"],
            ["collection_participants.study", "collection_participants.id"],
        ),
    )
    op.create_index(
        "collection_visits_by_participant", "collection_visits", ["study", "participant"]
    )
    op.create_index("collection_visits_by_record", "collection_visits", ["record"])
    op.create_index("collection_visits_by_replaced", "collection_visits", ["replaces"])
    op.create_table(
        "collection_forms",
        sa.Column("visit", sa.Text, sa.ForeignKey("collection_visits.id"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("form", sa.Text, nullable=False),
        sa.Column("form_version", sa.Integer, nullable=False),
        sa.Column("kept", sa.Text, nullable=False),
        sa.Column("used", sa.Text, nullable=False),
        sa.Column("record", sa.Text),
        sa.Column("doubt", sa.Text),
        sa.Column("at", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("why", sa.Text),
    )
    op.create_table(
        "collection_recordings",
        sa.Column("visit", sa.Text, sa.ForeignKey("collection_visits.id"), primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("utterance", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("recorded_at", sa.Text, nullable=False),
        sa.Column("original", sa.Text, nullable=False),
        sa.Column("audio", sa.Text),
        sa.Column("audio_sha256", sa.Text),
        sa.Column("described", sa.Text),
        sa.Column("capture", sa.Text, nullable=False),
        sa.Column("mismatches", sa.Text, nullable=False),
    )
