"""Fill an archive with collections of some shards, so that Dagster defines the assets of these shards only."""

from collections.abc import Sequence

from sqlalchemy import text

from ls4_assets.domain.names import Collection
from resources.archive import Archive

# As in Texas: 3,000 collections of 254 counties, of 300 surveys.
PER_SHARD = 12
_AGENCIES = ("ASCS", "TxDOT", "USAF", "USDA", "USGS")
_YEARS = range(1930, 1990)

_INSERTS = (
    """INSERT INTO ls4.collection (name, shard, partition, table_name, frames) VALUES (:name, :shard, :partition, :table, 0)
    ON CONFLICT DO NOTHING""",
    """INSERT INTO ls4.source (key, state, version, size, frame, shard, collection, partition)
    VALUES (:folder || '/georef/02-08-60_6-1.tif', 'done', 'v', 1, :folder || '/02-08-60_6-1', :shard, :name,
      :partition || '/bw/02-08-60_6-1') ON CONFLICT DO NOTHING""",
)


def use_shards(archive: Archive, shards: Sequence[str]) -> int:
    """Record one dropped frame in each collection of these shards. Returns the number of collections."""
    surveys = [f"{agency}_{year}" for agency in _AGENCIES for year in _YEARS]
    collections = [
        Collection(shard, surveys[(number * PER_SHARD + each) % len(surveys)], "frames")
        for number, shard in enumerate(shards)
        for each in range(PER_SHARD)
    ]
    rows = [
        {
            "name": collection.name, "shard": collection.shard, "partition": collection.partition,
            "table": collection.table, "folder": collection.folder("bw"),
        }
        for collection in collections
    ]  # fmt: skip
    with archive.database.begin() as connection:
        for statement in _INSERTS:
            connection.execute(text(statement), rows)
    return len(collections)
