"""Record the datum transformation of each frame, and the grids that would make it more accurate.

Revision ID: 0012
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    transformation = sa.Column("transformation", sa.Text, comment="datum transformation to EPSG:3857 and its stated accuracy")
    grids = "PROJ grids without which the accuracy is insufficient; null: not known"
    op.add_column("frame", transformation, schema="ls4")
    op.add_column("frame", sa.Column("missing_grids", ARRAY(sa.Text), comment=grids), schema="ls4")
    hashed = "SHA-256 of tif and sidecars, and their order if they arrived apart"
    op.alter_column("frame", "content_hash", schema="ls4", comment=hashed)
    without_grids = sa.text("missing_grids <> '{}'")
    op.create_index("frame_without_grids", "frame", ["collection"], schema="ls4", postgresql_where=without_grids)
