"""Add the folders that scans cannot list, which become incidents.

Revision ID: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "unlisted_folder",
        sa.Column("folder", sa.Text(collation="C"), primary_key=True, comment="key prefix; empty: the bucket itself"),
        sa.Column("reason", sa.Text(), nullable=False, comment="error of the last scan, written for people"),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False, comment="time of the first scan that failed"),
        schema="ls4",
        comment="folders that scans cannot list or ingest",
    )
