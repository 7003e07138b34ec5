"""Where pulling stands: tables. Their history is in `collection.migrations`, times are in UTC."""

import sqlalchemy as sa

TABLES = sa.MetaData()

# One row a hospital: the export under way, and how far it was read.
PULLS = sa.Table(
    "hospital_pulls",
    TABLES,
    sa.Column("hospital", sa.Text, primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),  # one more with each change
    sa.Column("since", sa.Text),  # the transactionTime of the last export that was read whole
    sa.Column("status_url", sa.Text),  # of the export under way
    sa.Column("manifest", sa.Text),  # JSON, once it is ready
    sa.Column("file", sa.Integer, nullable=False),  # being read, in our order of them
    sa.Column("line", sa.Integer, nullable=False),  # the last one that was taken
    sa.Column("digest", sa.Text, nullable=False),  # of all lines up to it
    sa.Column("finished_at", sa.Text),  # when an export was last read whole
    # 0; 1 where the last export lacked lines that its manifest counted; and so many more as this
    # one lacks.
    sa.Column("short", sa.Integer, nullable=False, server_default="0"),
)

# The hospital's patients that are participants, or may be (see `patients`); as keyed hashes.
PATIENTS = sa.Table(
    "hospital_patients",
    TABLES,
    sa.Column("hospital", sa.Text, primary_key=True),
    sa.Column("patient", sa.Text, primary_key=True),  # of the server's own id
    sa.Column("subject", sa.Text, nullable=False),  # as entries about them have it
    sa.Column("complete", sa.Boolean, nullable=False),  # what was known before is here, too
    sa.Column("standing", sa.Text, nullable=False, server_default="current"),
    sa.Column("survivor", sa.Text),  # the patient that this one was merged into
    sa.Column("doubt", sa.Text),  # since when another one has the same number
    sa.Index("hospital_patients_by_subject", "hospital", "subject"),
)
