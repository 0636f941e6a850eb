"""Add the state of the exports and of the statewide files.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    transform: sa.Column[list[float]] = sa.Column(
        "transform", sa.ARRAY(sa.Double()), comment="of the COG, in EPSG:3857: the six numbers of an affine transform"
    )
    op.add_column("frame", transform, schema="ls4")
    exported = sa.Column(
        "exported_revision", sa.Integer(), server_default="0", nullable=False, comment="that its STAC item shows"
    )
    op.add_column("frame", exported, schema="ls4")
    op.create_table(
        "catalogue",
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default="0", nullable=False, comment="of the index that its exports show"),
        sa.Column("frames", sa.Integer(), server_default="0", nullable=False, comment="in them; 0: nothing is exported"),
        sa.Column("form", sa.Text(), comment="what must be the same for items of unchanged frames to stand"),
        sa.Column(
            "attempts", sa.Integer(), server_default="0", nullable=False, comment="requested since the last that ended well"
        ),
        sa.ForeignKeyConstraint(["collection"], ["ls4.collection.name"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("collection"),
        schema="ls4",
    )
    op.create_table(
        "compilation",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "shows", sa.Text(), comment="digest of the collections' exports that the statewide files were put together from"
        ),
        sa.Column("seconds", sa.Double(), server_default="0", nullable=False, comment="that the last one took"),
        sa.Column("begun_at", _TIME),
        sa.Column("compiled_at", _TIME),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False, comment="begun since the last that ended well"),
        sa.PrimaryKeyConstraint("name"),
        schema="ls4",
    )
