"""Record in which order a tif and its sidecars arrived, and where the position of a frame came from.

Revision ID: 0011
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision = "0010"

COLUMNS = (
    ("source", "arrivals", "of a tif with sidecars, per object key: version, generation, time; null: unknown"),
    ("frame", "georeference", "where position and CRS came from, residuals of control points"),
)


def upgrade() -> None:
    for table, name, comment in COLUMNS:
        op.add_column(table, sa.Column(name, JSONB(), comment=comment), schema="ls4")
