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

PARTICIPANTS = sa.Table(
    "collection_participants",
    TABLES,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),  # the pseudonym
    sa.Column("created_at", sa.Text, nullable=False),
    sa.Column("withdrawn_at", sa.Text),
)

VISITS = sa.Table(
    "collection_visits",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),  # of its submission
    sa.Column("study", sa.Text, nullable=False),
    sa.Column("study_version", sa.Integer, nullable=False),
    sa.Column("participant", sa.Text, nullable=False),
    sa.Column("site", sa.Text, nullable=False),
    sa.Column("record", sa.Text),  # keyed hash of the record number, as the last form has it
    sa.Column("replaces", sa.Text),
    sa.Column("recorded_at", sa.Text, nullable=False),  # corrected; with the device's zone
    sa.Column("uncertainty_s", sa.Float, nullable=False),  # of that, either way
    sa.Column("accepted_at", sa.Text, nullable=False),
    sa.Column("synthetic", sa.Boolean, nullable=False),
    sa.ForeignKeyConstraint(
        ["study", "participant"], ["collection_participants.study", "collection_participants.id"]
    ),
    sa.Index("collection_visits_by_participant", "study", "participant"),
    sa.Index("collection_visits_by_record", "record"),
    sa.Index("collection_visits_by_replaced", "replaces"),
)

# Versions of a visit's form: rows are added and never changed; a withdrawal erases them.
FORMS = sa.Table(
    "collection_forms",
    TABLES,
    sa.Column("visit", sa.Text, sa.ForeignKey("collection_visits.id"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),  # 1: as it was sent
    sa.Column("form", sa.Text, nullable=False),
    sa.Column("form_version", sa.Integer, nullable=False),
    sa.Column("kept", sa.Text, nullable=False),  # JSON: everything that was filled in
    sa.Column("used", sa.Text, nullable=False),  # JSON: what of it can be true
    sa.Column("record", sa.Text),
    sa.Column("doubt", sa.Text),  # by this version it counts for nobody, and why
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text),  # it was amended
)

RECORDINGS = sa.Table(
    "collection_recordings",
    TABLES,
    sa.Column("visit", sa.Text, sa.ForeignKey("collection_visits.id"), primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("utterance", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),  # of the original
    sa.Column("recorded_at", sa.Text, nullable=False),  # corrected; with the device's zone
    sa.Column("original", sa.Text, nullable=False),  # object
    sa.Column("audio", sa.Text),  # object: the samples; null where the check died, and of consent
    sa.Column("audio_sha256", sa.Text),
    sa.Column("described", sa.Text),  # JSON: format, measurements, findings
    sa.Column("capture", sa.Text, nullable=False),  # JSON: what the device said of it
    sa.Column("mismatches", sa.Text, nullable=False),  # JSON: where the audio shows something else
)
