"""The tables of Collection. Their history is in `migrations`; times are ISO 8601 in UTC."""

import sqlalchemy as sa

TABLES = sa.MetaData()

# Versions of studies: rows are added and never changed.
STUDIES = sa.Table(
    "collection_studies",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("document", sa.Text, nullable=False),  # canonical JSON, without what is default
    sa.Column("applied_at", sa.Text, nullable=False),
)
