"""The lookup of collections, such as by a name that a person typed."""

import difflib
from collections.abc import Sequence

from sqlalchemy import Connection, select

from ls4_assets.db import schema
from ls4_assets.domain.names import Collection
from ls4_assets.errors import UnknownCollectionError

_MAX_LISTED = 5


def load_collections(connection: Connection) -> dict[str, Collection]:
    """All collections by name."""
    columns = schema.collection.c
    rows = connection.execute(select(columns.name, columns.shard, columns.partition))
    return {row.name: Collection.from_partition(row.shard, row.partition) for row in rows}


def find_collection(connection: Connection, name: str) -> Collection:
    """Returns the collection of this name, or the only one whose name begins like this, in any case.

    Raises UnknownCollectionError, which suggests the nearest names.
    """
    columns = schema.collection.c
    rows = connection.execute(select(columns.shard, columns.partition).order_by(columns.name))
    return choose_collection(name, [Collection.from_partition(row.shard, row.partition) for row in rows])


def choose_collection(name: str, collections: Sequence[Collection]) -> Collection:
    """The same among `collections`."""
    table = name.strip().lower()
    begin = [collection for collection in collections if table and collection.table.startswith(table)]
    if chosen := [collection for collection in begin if collection.table == table] or (begin if len(begin) == 1 else []):
        return chosen[0]
    if begin:
        listed = ", ".join(collection.name for collection in begin[:_MAX_LISTED])
        rest = f" and {len(begin) - _MAX_LISTED} more" if len(begin) > _MAX_LISTED else ""
        raise UnknownCollectionError(f"{len(begin)} collections begin with {name}: {listed}{rest}; give more of the name.")
    names = {collection.table: collection.name for collection in collections}
    matches = [names[match] for match in difflib.get_close_matches(table, names, n=3, cutoff=0.6)]
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
