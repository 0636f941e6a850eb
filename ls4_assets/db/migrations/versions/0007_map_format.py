"""Add the publishers of each collection's map, with their versions.

Revision ID: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    map_format = sa.Column(
        "map_format",
        sa.Text(),
        nullable=False,
        server_default="mapserver 1",
        comment="publishers of the map, with their versions; a map in another format is published again",
    )
    op.add_column("collection", map_format, schema="ls4")
