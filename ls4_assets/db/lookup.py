"""A collection by the name that a person types, with the nearest names when there is none of that name."""

import difflib

from sqlalchemy import Connection, select

from ls4_assets.db.schema import collection
from ls4_assets.domain.names import Collection
from ls4_assets.errors import UnknownCollectionError


def find_collection(connection: Connection, name: str) -> Collection:
    """The collection of this name, in whatever case it was typed. Raises UnknownName."""
    table = name.strip().lower()
    row = connection.execute(select(collection.c.shard, collection.c.partition).where(collection.c.table_name == table)).first()
    if row:
        return Collection.from_partition(row.shard, row.partition)
    known = {of.lower(): of for of in connection.scalars(select(collection.c.name))}
    near = [known[close] for close in difflib.get_close_matches(table, known, n=3, cutoff=0.6)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UnknownCollectionError(f"There is no collection {name}; {hint}`ls4 status` names those that there are.")
