"""Add the profile of each frame and the time of a collection's last search for raw scans.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_SCANLESS = "scan_file is null and not deleted and partition not like '%/mosaic/%'"


def upgrade() -> None:
    profile = sa.Column(
        "profile",
        sa.Text(),
        sa.Computed("products #>> '{cog,profile}'", persisted=True),
        comment="of its COG, which names all options of a frame",
    )
    op.add_column("frame", profile, schema="ls4")
    looked = sa.Column(
        "scans_looked_at",
        sa.DateTime(timezone=True),
        comment="when scanned/ was last looked through for scans that were missing",
    )
    op.add_column("collection", looked, schema="ls4")
    op.create_index("frame_profile", "frame", ["profile", "collection"], schema="ls4", postgresql_where=sa.text("not deleted"))
    op.create_index("frame_scanless", "frame", ["collection", "id"], schema="ls4", postgresql_where=sa.text(_SCANLESS))
