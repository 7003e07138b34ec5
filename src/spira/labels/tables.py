"""The tables of the Label Store. Their history is in `migrations`; times are ISO 8601 in UTC."""

import sqlalchemy as sa

TABLES = sa.MetaData()  # the migration makes all but the first append-only

# Whom entries are about. The key ring moves on and entries are never changed: what a hash of a
# record number has become since is written here, and only here.
SUBJECTS = sa.Table(
    "labels_subjects",
    TABLES,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("subject", sa.Text, nullable=False, unique=True),  # as it was when it came
    sa.Column("newest", sa.Text, nullable=False),  # under the newest key
    sa.Column("key", sa.Text),  # of `newest`; null for what is no hash
    sa.Index("labels_subjects_by_newest", "newest"),
    sa.Index("labels_subjects_by_key", "key"),
)

ENTRIES = sa.Table(
    "labels_entries",
    TABLES,
    sa.Column("number", sa.Integer, primary_key=True),  # in the order in which they came
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("subject", sa.Integer, sa.ForeignKey("labels_subjects.number"), nullable=False),
    sa.Column("issued", sa.Text, nullable=False),  # when the source knew
    sa.Column("received", sa.Text, nullable=False),  # when we knew
    sa.Column("kind", sa.Text),  # from here on the observation; null where it was taken back
    sa.Column("at", sa.Text),
    sa.Column("until", sa.Text),
    sa.Column("value", sa.Float),
    sa.Column("code", sa.Text),
    sa.Column("breathing", sa.Text),
    sa.Column("method", sa.Text),
    sa.Column("evidence", sa.Text),
    sa.UniqueConstraint("origin", "name", "version"),
    sa.Index("labels_entries_by_name", "name", "origin", "issued"),
    sa.Index("labels_entries_by_subject", "subject", "kind", "at"),
)

WORKLIST = sa.Table(
    "labels_worklist",
    TABLES,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("received", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("issued", sa.Text, nullable=False),
    sa.Column("said", sa.Text, nullable=False),  # digest of all that a source repeats
    sa.Column("item", sa.Text, nullable=False),  # JSON
    sa.Index("labels_worklist_by_name", "name", "origin", "issued"),
)

RESOLUTIONS = sa.Table(
    "labels_resolutions",
    TABLES,
    sa.Column("item", sa.Integer, sa.ForeignKey("labels_worklist.number"), primary_key=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("how", sa.Text, nullable=False),  # assigned, corrected, discarded
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("version", sa.Text),  # of the entry that was made of it
)
