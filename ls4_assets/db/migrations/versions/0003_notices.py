"""Add the history of rejections, failed runs and notifications.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column(
        "source",
        sa.Column("waiting_since", _TIME, comment="since when this version waits or works; null: it does not"),
        schema="ls4",
    )
    op.execute("UPDATE ls4.source SET waiting_since = changed_at WHERE state IN ('settling', 'queued', 'requested')")
    op.create_index(
        "source_waiting",
        "source",
        ["waiting_since", "collection"],
        schema="ls4",
        postgresql_where=sa.text("waiting_since is not null"),
    )
    _refusals()
    op.create_table(
        "failed_run",
        sa.Column("kind", sa.Text(), nullable=False, comment="rebuild: of a collection; run: any other"),
        sa.Column(
            "place",
            sa.Text(),
            nullable=False,
            comment="what it worked on; a later run of the same that ends well removes the row",
        ),
        sa.Column("run", sa.Text(), nullable=False, comment="id of the run that failed last"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("failed_at", _TIME, nullable=False, comment="when the first failed since the last that ended well"),
        sa.PrimaryKeyConstraint("kind", "place"),
        schema="ls4",
    )
    op.create_table(
        "notice",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False, comment="that were told of"),
        sa.Column("latest", _TIME, nullable=False, comment="the newest trouble that was told of"),
        sa.Column("told_at", _TIME, nullable=False),
        sa.Column("resolved_at", _TIME, comment="when it was told that the trouble is over"),
        sa.PrimaryKeyConstraint("kind", "place"),
        schema="ls4",
    )


def _refusals() -> None:
    op.create_table(
        "refusal",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False, comment="of the georef tif"),
        sa.Column("kind", sa.Text(), nullable=False, comment="refused: its name is at fault; failed: its content"),
        sa.Column(
            "place", sa.Text(), nullable=False, comment="name of its collection, or its folder where the name tells of none"
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="in words for staff, with what to do"),
        sa.Column("version", sa.Text(), nullable=False, comment="that was refused last"),
        sa.Column("times", sa.Integer(), server_default="1", nullable=False, comment="how often it was refused"),
        sa.Column("first_seen", _TIME, nullable=False),
        sa.Column("last_seen", _TIME, nullable=False, comment="when it was refused last"),
        sa.Column("resolved_at", _TIME, comment="null: open"),
        sa.Column("resolved_by", sa.Text(), comment="the version that was taken; null: the file was renamed or taken away"),
        sa.PrimaryKeyConstraint("id"),
        schema="ls4",
    )
    op.create_index(
        "refusal_open", "refusal", ["key"], unique=True, schema="ls4", postgresql_where=sa.text("resolved_at is null")
    )
    op.create_index(
        "refusal_resolved", "refusal", ["resolved_at"], schema="ls4", postgresql_where=sa.text("resolved_at is not null")
    )
    # Triggers write the table from now on. Sources that are already refused get an open row.
    op.execute(
        """
        INSERT INTO ls4.refusal (key, kind, place, reason, version, first_seen, last_seen)
        SELECT key, state, coalesce(collection, regexp_replace(key, '(/georef)?/[^/]+$', '')), coalesce(reason, ''), version,
               changed_at, changed_at
          FROM ls4.source WHERE state IN ('refused', 'failed')
        """
    )
