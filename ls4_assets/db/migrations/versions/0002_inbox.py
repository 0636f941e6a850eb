"""Add the inbox of bucket events.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "inbox",
        sa.Column("key", sa.Text(collation="C"), nullable=False, comment="of an object that events told of: to be looked at"),
        sa.Column(
            "events",
            sa.BigInteger(),
            server_default="1",
            nullable=False,
            comment="so many told of it since it was looked at last",
        ),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "not_before",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="its folder could not be read",
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False, comment="looks that failed"),
        sa.PrimaryKeyConstraint("key"),
        schema="ls4",
    )
    op.create_index("inbox_next", "inbox", ["not_before", "since"], schema="ls4")
