"""The tables of Intake. Alembic makes them (`migrations`); here they are for queries."""

import sqlalchemy as sa

metadata = sa.MetaData()

# The audit: a chain, each row with the digest of the one before it (spira.intake.audit).
audit = sa.Table(
    "intake_audit",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),  # 1, 2, 3, …
    sa.Column("at", sa.String(40), nullable=False),  # RFC 3339, UTC, by the server's clock
    sa.Column("who", sa.String(100), nullable=False),
    sa.Column("role", sa.String(100), nullable=False),
    sa.Column("device", sa.String(100)),
    sa.Column("what", sa.String(100), nullable=False),
    sa.Column("which", sa.String(100)),
    sa.Column("why", sa.String(500)),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)
# Where the chain ends: one row, which whoever adds to the chain locks. Without it, rows cut off
# at the end would not be missed.
audit_head = sa.Table(
    "intake_audit_head",
    metadata,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)

# What makes the audit append-only for whoever means well; whoever drops the triggers first is
# found by the chain. A migration that makes the table runs these after it.
APPEND_ONLY = {
    "sqlite": tuple(
        f"CREATE TRIGGER intake_audit_no_{what} BEFORE {what.upper()} ON intake_audit "
        "BEGIN SELECT RAISE(ABORT, 'intake_audit is append-only'); END"
        for what in ("update", "delete")
    ),
    "postgresql": (
        "CREATE FUNCTION intake_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'intake_audit is append-only'; END $$",
        "CREATE TRIGGER intake_audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE "
        "ON intake_audit FOR EACH STATEMENT EXECUTE FUNCTION intake_audit_refuse()",
    ),
}


def _add_triggers(_: sa.Table, tables: sa.Connection, **__: object) -> None:
    for statement in APPEND_ONLY[tables.dialect.name]:
        tables.exec_driver_sql(statement)


sa.event.listen(audit, "after_create", _add_triggers)
