"""Rename tables, columns, indexes and states to the terms of docs/glossary.md, and rewrite all comments.

The comments are in the .sql file beside this one. `ls4 db upgrade` recreates the views and triggers after the last revision.

Revision ID: 0006
"""

from pathlib import Path

from alembic import op

revision = "0006"
down_revision = "0005"

# The triggers call functions that name the old tables and columns.
_TRIGGERS = ("note_waiting", "note_refusal", "note_removal")
_FUNCTIONS = ("note_waiting", "note_refusal")

_TABLES = {
    "refusal": "rejection",
    "notice": "notification",
    "catalogue": "export_state",
    "compilation": "statewide_build",
}
# By the new names of the tables.
_COLUMNS = {
    "source": {
        "generation": "version_count",
        "gone_at": "missing_since",
        "held_at": "deletion_held_at",
        "not_before": "retry_after",
        "waiting_since": "pending_since",
    },
    "collection": {"bands": "film_types", "scans_looked_at": "raw_scans_checked_at"},
    "overview_mosaic": {"form": "format_version"},
    "rejection": {"place": "scope", "times": "occurrences"},
    "failed_run": {"place": "scope"},
    "notification": {"place": "scope", "files": "item_count", "latest": "latest_at", "told_at": "notified_at"},
    "export_state": {"form": "format_version"},
    "statewide_build": {"shows": "inputs_digest", "begun_at": "started_at"},
    "inbox": {"not_before": "retry_after"},
}
# Primary keys have the names of their indexes.
_INDEXES = {
    "refusal_pkey": "rejection_pkey",
    "refusal_open": "rejection_open",
    "refusal_resolved": "rejection_resolved",
    "notice_pkey": "notification_pkey",
    "catalogue_pkey": "export_state_pkey",
    "compilation_pkey": "statewide_build_pkey",
    "source_waiting": "source_pending",
    "source_leftover": "source_orphan_partition",
}
_STATES = (("source", "state"), ("rejection", "kind"), ("notification", "kind"))

# PostgreSQL 18 and later name each NOT NULL constraint after its table and column.
_NOT_NULL_CONSTRAINTS = """
DO $$
DECLARE found record;
BEGIN
  FOR found IN
    SELECT conrelid::regclass AS relation, conname, format('%s_%s_not_null', relname, attname) AS wanted
      FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
     WHERE contype = 'n' AND relnamespace = 'ls4'::regnamespace AND conname <> format('%s_%s_not_null', relname, attname)
  LOOP
    EXECUTE format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I', found.relation, found.conname, found.wanted);
  END LOOP;
END $$
"""


def upgrade() -> None:
    for trigger in _TRIGGERS:
        op.execute(f"DROP TRIGGER IF EXISTS {trigger} ON ls4.source")
    for function in _FUNCTIONS:
        op.execute(f"DROP FUNCTION IF EXISTS ls4.{function}()")
    for old, new in _TABLES.items():
        op.rename_table(old, new, schema="ls4")
    for table, columns in _COLUMNS.items():
        for old, new in columns.items():
            op.alter_column(table, old, new_column_name=new, schema="ls4")
    for old, new in _INDEXES.items():
        op.execute(f"ALTER INDEX ls4.{old} RENAME TO {new}")
    op.execute("ALTER TABLE ls4.export_state RENAME CONSTRAINT catalogue_collection_fkey TO export_state_collection_fkey")
    op.execute("ALTER SEQUENCE ls4.refusal_id_seq RENAME TO rejection_id_seq")
    op.execute(_NOT_NULL_CONSTRAINTS)
    for table, column in _STATES:
        op.execute(f"UPDATE ls4.{table} SET {column} = 'rejected' WHERE {column} = 'refused'")  # noqa: S608
    op.execute("DROP INDEX ls4.source_refused")
    op.execute("CREATE INDEX source_rejected ON ls4.source (key) WHERE state = 'rejected'")
    op.execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
