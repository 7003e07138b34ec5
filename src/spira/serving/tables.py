"""The tables of Serving. Their history is in `migrations`; times are ISO 8601 in UTC."""

import sqlalchemy as sa

TABLES = sa.MetaData()

ASSESSMENTS = sa.Table(
    "serving_assessments",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("site", sa.Text, nullable=False),
    sa.Column("record", sa.Text),  # keyed hash of the record number
    sa.Column("change", sa.BigInteger, nullable=False, unique=True),  # order of the last change
    sa.Column("state", sa.Text, nullable=False),  # queued, completed, failed
    sa.Column("replaces", sa.Text),
    sa.Column("recorded_at", sa.Text, nullable=False),  # by the corrected clock of the device
    sa.Column("accepted_at", sa.Text, nullable=False),
    sa.Column("about", sa.Text, nullable=False),  # usable form values, what the check found
    sa.Column("audio", sa.Text),  # the object that is asked about, and its digest
    sa.Column("audio_sha256", sa.Text),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("redriven_after", sa.Integer, nullable=False),  # replies to later attempts count
    sa.Column("reached", sa.Integer, nullable=False),  # deliveries that reached the model
    sa.Column("reached_attempt", sa.Integer, nullable=False),  # the last that was counted
    sa.Column("reached_delivery", sa.Integer, nullable=False),
    sa.Column("lease_until", sa.Text),  # published, and not to be published again before
    sa.Column("answer", sa.Text),
    sa.Column("outcome", sa.Text),  # of the answer; null where nothing was scored
    sa.Column("answered_at", sa.Text),
    sa.Column("voided_at", sa.Text),
    sa.Column("void_reason", sa.Text),
    sa.Column("replaced_by", sa.Text),  # the last recorded of those that replace it
    sa.Index("serving_assessments_by_state", "state", "lease_until"),
    sa.Index("serving_assessments_by_record", "site", "record"),
    sa.Index("serving_assessments_by_change", "site", "change"),
    sa.Index("serving_assessments_by_replaces", "site", "replaces"),
    sa.Index("serving_assessments_by_outcome", "state", "outcome"),
)

# One row: whoever changes an assessment takes the next number in the same transaction, so that a
# reader who has seen a number has seen all before it.
CHANGES = sa.Table("serving_changes", TABLES, sa.Column("last", sa.BigInteger, primary_key=True))

DEAD_LETTERS = sa.Table(
    "serving_dead_letters",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("assessment", sa.Text, sa.ForeignKey("serving_assessments.id"), nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),  # input, unknown
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("redriven_at", sa.Text),
    sa.Column("redriven_by", sa.Text),
    sa.Column("why", sa.Text),
)

# One row: the model that predictors answer with, as the relay last saw it in the registry.
MODEL = sa.Table("serving_model", TABLES, sa.Column("name", sa.Text, primary_key=True))
