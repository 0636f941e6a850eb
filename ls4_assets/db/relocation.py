"""An archive folder that has moved: its new path in everything that the map server reads.

Only for a folder on this machine: a bucket never moves. What the paths are is defined in ``tile_index.py`` and ``schema.py``.
"""

from sqlalchemy import Column, Connection, Table, Update, func, literal, select, update

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
            connection.execute(_replace_prefix(table, table.c.served_location, row.served_root, root))
        for table in (schema.overview_mosaics, schema.overview_mosaic_frame):
            statement = _replace_prefix(table, table.c.served_location, row.served_root, root)
            connection.execute(statement.where(table.c.collection == collection.name))
        # Without a format, the documents of map servers that name paths are published again.
        values = {"served_root": root, "map_format": ""}
        connection.execute(update(schema.collection).where(columns.name == collection.name).values(values))
    return len(rows)


def _replace_prefix(table: Table, column: Column[str], former: str, root: str) -> Update:
    replaced = literal(root) + func.substr(column, len(former) + 1)
    return update(table).where(column.startswith(former, autoescape=True)).values({column: replaced})
