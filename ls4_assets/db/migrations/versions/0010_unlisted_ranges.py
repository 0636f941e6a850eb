"""Record which keys of a folder could not be scanned: only a scan of these keys resolves the incident.

Revision ID: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

COLUMNS = {"range_start": "the keys that failed are greater than this", "range_end": "last key of those that failed"}


def upgrade() -> None:
    for name, comment in COLUMNS.items():
        op.add_column("unlisted_folder", sa.Column(name, sa.Text(collation="C"), comment=comment), schema="ls4")
    # Until now a record was of the whole folder: "0" is the character after "/", and U+10FFFF is after every key.
    op.execute(
        "UPDATE ls4.unlisted_folder SET range_start = folder, "
        "range_end = CASE folder WHEN '' THEN U&'\\+10FFFF' ELSE left(folder, -1) || '0' END"
    )
    for name in COLUMNS:
        op.alter_column("unlisted_folder", name, nullable=False, schema="ls4")
