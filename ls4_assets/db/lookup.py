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
