"""Record the interior of each frame, so that the map opens no frame that cannot be seen.

Revision ID: 0013
"""

import sqlalchemy as sa
from alembic import op
from geoalchemy2 import Geometry

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    comment = "region that hides every frame below it, at every zoom; null: not known"
    geometry = Geometry("MULTIPOLYGON", srid=3857, spatial_index=False)
    op.add_column("frame", sa.Column("interior", geometry, comment=comment), schema="ls4")
