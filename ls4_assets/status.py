"""What became of everything that was dropped: per collection for `ls4 status` and the demonstration, from Postgres alone."""

from collections import defaultdict
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from ls4_assets.index.schema import SourceState, collection, frame, source
from ls4_assets.intake.sources import WAITING, refused
from ls4_assets.links import map_url
from ls4_assets.names import Collection
from ls4_assets.settings import Settings
from resources.open import open_database


@dataclass(frozen=True)
class CollectionStatus:
    """`dropped` counts the tifs in georef/; of these `done` are made and `waiting` are not yet, the others are in `failed`.

    `indexed` frames are on the map; `map_url` is None while there is none. `failed` has the reason by key.
    """

    name: str
    dropped: int
    done: int
    waiting: int
    indexed: int
    map_url: str | None
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """The whole archive. `refused` has the reason by key: a file with a wrong name belongs to no collection."""

    collections: tuple[CollectionStatus, ...]
    refused: dict[str, str]


def collect(settings: Settings) -> Status:
    """Read the state of the archive."""
    engine = open_database(settings.database_url.get_secret_value())
    with engine.connect() as connection:
        counts = _count_sources(connection)
        failed = _failed(connection)
        indexed = _indexed(connection)
        rows = connection.execute(select(collection).order_by(collection.c.name)).all()
    listed = []
    for row in rows:
        address = map_url(Collection.from_partition(row.shard, row.partition), settings.map_url) if row.published_at else None
        listed.append(_status(row.name, counts[row.name], failed[row.name], indexed.get(row.name, 0), address))
    return Status(tuple(listed), {key: reason for key, reason, _ in refused(engine)})


def lines(status: Status) -> list[str]:
    """The same in plain words, for a terminal."""
    text = []
    for one in status.collections:
        dropped = f"{one.dropped} dropped: {one.done} done, {one.waiting} waiting, {len(one.failed)} failed"
        text.append(f"{one.name}: {dropped}; {one.indexed} on the map{_explain(one)}")
        text.append(f"    map: {one.map_url or 'none'}")
        text += [f"    failed: {key}\n        {reason}" for key, reason in one.failed.items()]
    if status.refused:
        text.append(f"Refused by name: {len(status.refused)}")
        text += [f"    {reason}" for reason in status.refused.values()]  # each begins with its key
    return text or [
        "The archive is empty: drop a georeferenced tif, or run `ls4 ingest FOLDER --collection bw/Travis/USDA_1958/frames`."
    ]


def _explain(one: CollectionStatus) -> str:
    """Why done and on the map differ, when they do."""
    if one.indexed > one.done:
        return f" ({one.indexed - one.done} of them in an earlier version)"
    return " (the others follow when its map is rebuilt)" if one.indexed < one.done else ""


def _status(name: str, counts: dict[str, int], failed: dict[str, str], indexed: int, address: str | None) -> CollectionStatus:
    waiting = sum(counts.get(state, 0) for state in WAITING)
    return CollectionStatus(name, sum(counts.values()), counts.get(SourceState.DONE, 0), waiting, indexed, address, failed)


def _count_sources(connection: Connection) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    live = source.c.state.not_in([SourceState.DELETED, SourceState.REFUSED])
    for row in connection.execute(
        select(source.c.collection, source.c.state, func.count().label("n"))
        .where(live)
        .group_by(source.c.collection, source.c.state)
    ):
        counts[row.collection][row.state] = row.n
    return counts


def _failed(connection: Connection) -> dict[str, dict[str, str]]:
    failed: dict[str, dict[str, str]] = defaultdict(dict)
    query = (
        select(source.c.collection, source.c.key, source.c.reason)
        .where(source.c.state == SourceState.FAILED)
        .order_by(source.c.key)
    )
    for row in connection.execute(query):
        failed[row.collection][row.key] = row.reason
    return failed


def _indexed(connection: Connection) -> dict[str, int]:
    shown = (frame.c.indexed_revision > 0, frame.c.footprint.is_not(None), ~frame.c.deleted)
    query = select(frame.c.collection, func.count().label("n")).where(*shown).group_by(frame.c.collection)
    return {row.collection: row.n for row in connection.execute(query)}
