"""`ls4 status`: the state of everything that was dropped, for each collection, from Postgres alone. `ls4 demo` reads it too.

It is fast with millions of frames: each value comes from one grouped query on an index, and a caller may limit
long lists. The report on a single collection is in `ls4_assets.assets.report`, the text for a terminal in `status_text.py`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, or_, select, true

from ls4_assets.assets.report import CollectionReport, collect_report
from ls4_assets.db import schema
from ls4_assets.db.lookup import match_collections
from ls4_assets.db.schema import PENDING_STATES, SourceState, frame, source
from ls4_assets.db.stale import count_stale
from ls4_assets.domain.names import Collection
from ls4_assets.ingest.deletions import list_held_deletions
from ls4_assets.ingest.unlisted import UnlistedRecord, list_unlisted
from ls4_assets.notifications import rejections
from ls4_assets.notifications.rejections import Rejection
from ls4_assets.publishing.maps import map_links
from ls4_assets.settings import Settings
from resources.open import open_database

# Rebuild attempts since the last success from which the rebuild counts as failing.
_FAILING_ATTEMPTS = 2


@dataclass(frozen=True)
class CollectionStatus:
    """The state of one collection.

    `dropped`: tifs in georef/; of these `done` are processed, `waiting` are not yet, and `failed_count` cannot be. `failed`:
    reasons by key, cut at the limit. `bytes`: total size of the tifs. `held`: deletions that wait for confirmation.
    `waiting_reason`: why waiting tifs are not processed, unless it is only their turn. `stale`: frames on the map that were made
    under another profile than the active one.

    `indexed`: frames on the map; `leaving`: those of them that the next rebuild removes. `map_url`: None while there is no map.
    `rebuild` of index and map: "none", "pending" or "failing".
    """

    name: str
    dropped: int
    done: int
    waiting: int
    indexed: int
    map_url: str | None
    failed: Mapping[str, str] = field(default_factory=dict)
    failed_count: int = 0
    bytes: int = 0
    held: int = 0
    rebuild: str = "none"
    stale: int = 0
    waiting_reason: str | None = None
    leaving: int = 0

    @property
    def is_complete(self) -> bool:
        """Everything that was dropped is on the map, and nothing is pending or needs attention."""
        return (
            not (self.waiting or self.failed_count or self.held or self.stale)
            and self.rebuild == "none"
            and self.indexed >= self.done
        )


@dataclass(frozen=True)
class Quarantine:
    """The list of rejected and failed files, including resolved ones. `url`: the page that shows it."""

    open: int
    resolved: int
    rejections: tuple[Rejection, ...]
    url: str


@dataclass(frozen=True)
class Status:
    """The whole archive, or one collection with its `report`.

    `rejected`: reasons by key; a file with an invalid name belongs to no collection. `quarantine`, `unlisted`: of the whole
    archive; `unlisted` are the folders that scans cannot list. `is_whole`: all collections were asked for.
    """

    collections: tuple[CollectionStatus, ...]
    rejected: Mapping[str, str]
    rejected_count: int = 0
    report: CollectionReport | None = None
    quarantine: Quarantine = Quarantine(0, 0, (), "")
    unlisted: tuple[UnlistedRecord, ...] = ()
    is_whole: bool = True


def collect(settings: Settings, name: str | None = None, limit: int | None = None) -> Status:
    """Return the state of the archive, or of the collections that `name` means, with at most `limit` reasons in each list.

    A single collection has a report. Raises UnknownCollectionError.
    """
    with open_database(settings.database_url.get_secret_value()).connect() as connection:
        chosen = match_collections(connection, name) if name else None
        single = chosen[0] if chosen and len(chosen) == 1 else None
        stale = count_stale(connection, settings.profiles, single.name if single else None)
        statuses = tuple(_load_statuses(connection, settings, chosen, limit, stale))
        if single:
            report = collect_report(connection, single)
            return Status(statuses, report.rejected, report.rejected_count, report, is_whole=False)
        if chosen:
            return Status(statuses, {}, is_whole=False)
        rejected, count = _load_rejected(connection, limit)
        quarantine = _load_quarantine(connection, limit, settings.staff_url)
        return Status(statuses, rejected, count, quarantine=quarantine, unlisted=tuple(list_unlisted(connection)))


def _load_statuses(
    connection: Connection, settings: Settings, chosen: Sequence[Collection] | None, limit: int | None, stale: Mapping[str, int]
) -> Iterator[CollectionStatus]:
    counts, sizes = _count_sources(connection, chosen)
    failed, pending = _load_failed(connection, chosen, limit), _load_unindexed(connection, chosen)
    held = {deletion.collection: deletion.held for deletion in list_held_deletions(connection)}
    leaving = _count_leaving(connection, chosen)
    waiting_reasons = _load_waiting_reasons(connection, chosen)
    table = schema.collection
    for row in connection.execute(select(table).where(_is_in(table.c.name, chosen)).order_by(table.c.name)):
        count = counts[row.name]
        yield CollectionStatus(
            name=row.name,
            dropped=sum(count.values()),
            done=count.get(SourceState.DONE, 0),
            waiting=sum(count.get(state, 0) for state in PENDING_STATES),
            indexed=row.frames,
            map_url=_map_url(row, settings) if row.published_at else None,
            failed=failed[row.name],
            failed_count=count.get(SourceState.FAILED, 0),
            bytes=sizes[row.name],
            held=held.get(row.name, 0),
            rebuild=_rebuild_state(row, row.name in pending),
            stale=stale.get(row.name, 0),
            waiting_reason=waiting_reasons.get(row.name),
            leaving=leaving.get(row.name, 0),
        )


def _map_url(row: Row[Any], settings: Settings) -> str:
    return map_links(Collection.from_partition(row.shard, row.partition), settings).map_url


def _rebuild_state(row: Row[Any], has_unindexed_frames: bool) -> str:
    if has_unindexed_frames or row.files_revision != row.index_revision or row.map_revision != row.index_revision:
        return "failing" if row.attempts >= _FAILING_ATTEMPTS else "pending"
    return "none"


def _is_in(column: ColumnElement[str], chosen: Sequence[Collection] | None) -> ColumnElement[bool]:
    return true() if chosen is None else column.in_([collection.name for collection in chosen])


def _count_sources(
    connection: Connection, chosen: Sequence[Collection] | None
) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Return the number of tifs by collection and state, and their bytes by collection."""
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    sizes: dict[str, int] = defaultdict(int)
    is_live = source.c.state.not_in([SourceState.DELETED, SourceState.REJECTED])
    sums = select(source.c.collection, source.c.state, func.count().label("n"), func.sum(source.c.size).label("size"))
    query = sums.where(is_live, _is_in(source.c.collection, chosen)).group_by(source.c.collection, source.c.state)
    for row in connection.execute(query):
        counts[row.collection][row.state] = row.n
        sizes[row.collection] += int(row.size)
    return counts, sizes


def _load_failed(connection: Connection, chosen: Sequence[Collection] | None, limit: int | None) -> dict[str, dict[str, str]]:
    failed: dict[str, dict[str, str]] = defaultdict(dict)
    rank = func.row_number().over(partition_by=source.c.collection, order_by=source.c.key).label("rank")
    is_failed = (source.c.state == SourceState.FAILED, _is_in(source.c.collection, chosen))
    ranked = select(source.c.collection, source.c.key, source.c.reason, rank).where(*is_failed).subquery()
    query = select(ranked).order_by(ranked.c.collection, ranked.c.rank)
    for row in connection.execute(query if limit is None else query.where(ranked.c.rank <= limit)):
        failed[row.collection][row.key] = row.reason
    return failed


def _load_waiting_reasons(connection: Connection, chosen: Sequence[Collection] | None) -> dict[str, str]:
    waiting = (source.c.state == SourceState.QUEUED, source.c.reason.is_not(None), _is_in(source.c.collection, chosen))
    reasons = select(source.c.collection, func.max(source.c.reason)).where(*waiting).group_by(source.c.collection)
    return dict(connection.execute(reasons).tuples().all())


def _load_unindexed(connection: Connection, chosen: Sequence[Collection] | None) -> set[str]:
    """Return the names of the collections with frames that the tile index does not show yet."""
    changed = or_(frame.c.revision != frame.c.indexed_revision, frame.c.deleted)
    names = select(frame.c.collection).where(changed, _is_in(frame.c.collection, chosen)).distinct()
    return set(connection.scalars(names))


def _count_leaving(connection: Connection, chosen: Sequence[Collection] | None) -> dict[str, int]:
    """Return the number of frames by collection that are in the tile index and whose tif was removed."""
    is_leaving = (frame.c.deleted, frame.c.indexed_revision > 0, _is_in(frame.c.collection, chosen))
    counts = select(frame.c.collection, func.count()).where(*is_leaving).group_by(frame.c.collection)
    return dict(connection.execute(counts).tuples().all())


def _load_quarantine(connection: Connection, limit: int | None, url: str) -> Quarantine:
    counts = rejections.count_rejections(connection)
    listed = rejections.list_rejections(connection, limit or rejections.MAX_LISTED)
    return Quarantine(counts.open, counts.resolved, tuple(listed), url)


def _load_rejected(connection: Connection, limit: int | None) -> tuple[dict[str, str], int]:
    is_rejected = source.c.state == SourceState.REJECTED
    rows = connection.execute(select(source.c.key, source.c.reason).where(is_rejected).order_by(source.c.key).limit(limit))
    count = connection.scalar(select(func.count()).select_from(source).where(is_rejected)) or 0
    return {row.key: row.reason for row in rows}, count
