"""The lookup of a collection by a name that a person typed."""

import difflib

from sqlalchemy import Connection, select

from ls4_assets.db import schema
from ls4_assets.domain.names import Collection
from ls4_assets.errors import UnknownCollectionError


def find_collection(connection: Connection, name: str) -> Collection:
    """Returns the collection of this name, in any case. Raises UnknownCollectionError, which suggests the nearest names."""
    columns = schema.collection.c
    table_name = name.strip().lower()
    row = connection.execute(select(columns.shard, columns.partition).where(columns.table_name == table_name)).first()
    if row:
        return Collection.from_partition(row.shard, row.partition)
    names = {other.lower(): other for other in connection.scalars(select(columns.name))}
    matches = [names[match] for match in difflib.get_close_matches(table_name, names, n=3, cutoff=0.6)]
    hint = f"did you mean {' or '.join(matches)}? " if matches else ""
    raise UnknownCollectionError(f"There is no collection {name}; {hint}`ls4 status` lists all collections.")


def match_collections(connection: Connection, name: str) -> list[Collection]:
    """Returns the collection of this name or, if there is none, those whose names begin with it, in any case.

    Raises UnknownCollectionError, which suggests the nearest names.
    """
    columns = schema.collection.c
    prefix = name.strip().lower()
    query = select(columns.table_name, columns.shard, columns.partition).order_by(columns.name)
    rows = connection.execute(query.where(columns.table_name.startswith(prefix, autoescape=True))).all() if prefix else []
    if not rows or any(row.table_name == prefix for row in rows):
        return [find_collection(connection, name)]
    return [Collection.from_partition(row.shard, row.partition) for row in rows]
