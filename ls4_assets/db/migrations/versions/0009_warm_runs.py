"""Add the servers of the warm service and their runs.

Revision ID: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "warm_server",
        sa.Column("id", sa.Text(), primary_key=True, comment="one process of the warm service"),
        sa.Column("slots", sa.Integer(), nullable=False, comment="number of runs that it executes at a time"),
        sa.Column("slot_memory_mb", sa.Integer(), nullable=False, comment="memory of one run in MB"),
        sa.Column(
            "is_stopping", sa.Boolean(), nullable=False, server_default=sa.text("false"), comment="it accepts no more runs"
        ),
        sa.Column(
            "seen_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
            comment="time of the last heartbeat",
        ),
        schema="ls4",
        comment="servers of the warm service",
    )
    op.create_table(
        "warm_run",
        sa.Column("run_id", sa.Text(), primary_key=True),
        sa.Column(
            "server",
            sa.Text(),
            sa.ForeignKey("ls4.warm_server.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("arguments", sa.Text(), nullable=False, comment="what `dagster api execute_run` takes"),
        sa.Column("pid", sa.Integer(), comment="process ID on the server; null: not started yet"),
        sa.Column(
            "is_interrupted",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="the run is to be canceled",
        ),
        schema="ls4",
        comment="runs that the warm service starts or executes",
    )
    op.create_index("ix_ls4_warm_run_server", "warm_run", ["server"], schema="ls4")
