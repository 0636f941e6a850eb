"""An archive folder that has moved: its new path in everything that the map server reads.

Only for a folder on this machine: a bucket never moves. What the paths are is defined in ``tile_index.py`` and ``schema.py``.
"""

from sqlalchemy import Column, Connection, Table, func, literal, select, update

from ls4_assets.db import schema
from ls4_assets.db.tile_index import has_table
from ls4_assets.domain.names import Collection


def relocate_archive(connection: Connection, root: str) -> int:
    """Replace the former folder in `served_location` by `root`, such as /srv/archive/; returns the number of collections.

    Without it every map is empty, though with status 200, until its collection is rebuilt.
    """
    columns = schema.collection.c
    query = select(columns.shard, columns.partition, columns.served_root).where(columns.served_root != root)
    rows = connection.execute(query).all()
    for row in rows:
        collection = Collection.from_partition(row.shard, row.partition)
        if has_table(connection, collection):
            table = schema.tile_index(collection)
            _replace_prefix(connection, table, table.c.served_location, row.served_root, root)
        for table in (schema.overview_mosaics, schema.overview_mosaic_frame):
            _replace_prefix(connection, table, table.c.served_location, row.served_root, root)
        connection.execute(update(schema.collection).where(columns.name == collection.name).values(served_root=root))
    return len(rows)


def _replace_prefix(connection: Connection, table: Table, column: Column[str], former: str, root: str) -> None:
    has_prefix = column.startswith(former, autoescape=True)
    replaced = literal(root) + func.substr(column, len(former) + 1)
    connection.execute(update(table).where(has_prefix).values({column: replaced}))
