"""The tables of intake. Their history is in `migrations`; times are ISO 8601 in UTC."""

import sqlalchemy as sa

TABLES = sa.MetaData()

SUBMISSIONS = sa.Table(
    "intake_submissions",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("site", sa.Text, nullable=False),
    sa.Column("secret_sha256", sa.Text, nullable=False),  # of the device that made it
    sa.Column("state", sa.Text, nullable=False),  # announced, accepted, expired
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),  # one more each time it had expired
    sa.Column("manifest", sa.Text, nullable=False),  # canonical; identifying values are hashes
    sa.Column("announced_at", sa.Text, nullable=False),
    sa.Column("deadline", sa.Text, nullable=False),
    sa.Column("device_ahead_s", sa.Float),  # of the device's clock, at the last manifest
    sa.Column("accepted_at", sa.Text),
    sa.Column("receipt", sa.Text),
    sa.Column("swept", sa.Boolean, nullable=False),  # nothing is left that is not needed
    sa.Index("intake_submissions_by_state", "state", "swept", "deadline"),
    sa.Index("intake_submissions_by_site", "site", "accepted_at"),
)

RECORDINGS = sa.Table(
    "intake_recordings",
    TABLES,
    sa.Column("submission", sa.Text, sa.ForeignKey("intake_submissions.id"), primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("upload", sa.Text, nullable=False, unique=True),
    sa.Column("n_bytes", sa.Integer, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),  # uploads that were discarded
    sa.Column("state", sa.Text, nullable=False),  # announced, stored, refused
    sa.Column("place", sa.Text, nullable=False, unique=True),  # what its objects' keys begin with
    sa.Column("found", sa.Text),  # what the check found; null where it died of the file
    sa.Column("audio_sha256", sa.Text),  # of the samples beside the original
    sa.Column("reason", sa.Text),
    sa.Column("detail", sa.Text),
)
