"""What became of everything that was dropped: per collection for `ls4 status` and the demonstration, from Postgres alone.

Made for millions: each question is one grouped query that an index answers, and a terminal gets the beginning of long lists.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, or_, select, true

from ls4_assets.assets.report import Report, collect_report
from ls4_assets.db.lookup import find_collection
from ls4_assets.db.schema import WAITING, SourceState, collection, frame, source
from ls4_assets.db.stale import count_stale
from ls4_assets.domain.links import map_url
from ls4_assets.domain.names import Collection
from ls4_assets.ingest.deletions import Held, held_collections
from ls4_assets.notifications import rejections
from ls4_assets.notifications.rejections import Rejection
from ls4_assets.settings import Settings
from resources.open import open_database

# What a terminal gets of each list.
LISTED = 20
# Rebuilds asked for since the last that ended well, from which on something is wrong.
_FAILING = 2


@dataclass(frozen=True)
class CollectionStatus:
    """`dropped` counts the tifs in georef/, `bytes` their bytes; of these `done` are made and `waiting` are not yet, and
    `failed_count` cannot be made: `failed` has the reason by key. `held` deletions wait for the operator's word.

    `waits_for`: why some of the waiting are not taken up yet, where that is not just their turn.

    `stale` frames were made under another profile than the one in force; they are on the map.

    `indexed` frames are on the map; `map_url` is None while there is none. `rebuild` of index and map: "none" is due, one is
    "pending", or those that are asked for are "failing".
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
    waits_for: str | None = None

    @property
    def at_rest(self) -> bool:
        """All that was dropped is on the map, and nothing is left to do or to say."""
        return (
            not (self.waiting or self.failed_count or self.held or self.stale)
            and self.rebuild == "none"
            and self.indexed >= self.done
        )


@dataclass(frozen=True)
class Quarantine:
    """The list of files that could not be taken, with those that were since; `address` of the page that shows it."""

    open: int
    resolved: int
    rejections: tuple[Rejection, ...]
    address: str


@dataclass(frozen=True)
class Status:
    """The whole archive, or one collection with its `report`. `rejected` has the reason by key: a file with a wrong name belongs
    to no collection. `quarantine` is of the whole archive."""

    collections: tuple[CollectionStatus, ...]
    rejected: Mapping[str, str]
    rejected_count: int = 0
    report: Report | None = None
    quarantine: Quarantine = Quarantine(0, 0, (), "")


def collect(settings: Settings, name: str | None = None, listed: int | None = None) -> Status:
    """Read the state of the archive, or of one collection; at most `listed` reasons of each. Raises UnknownName."""
    with open_database(settings.database_url.get_secret_value()).connect() as connection:
        of = find_collection(connection, name) if name else None
        stale = count_stale(connection, settings.profiles, of.name if of else None)
        statuses = tuple(_collections(connection, settings.map_url, of, listed, stale))
        if of:
            report = collect_report(connection, of)
            return Status(statuses, report.rejected, report.rejected_count, report)
        rejected, count = _rejected(connection, listed)
        return Status(statuses, rejected, count, quarantine=_quarantine(connection, listed, settings.staff_url))


def lines(status: Status) -> list[str]:
    """The same in plain words, for a terminal."""
    shown = list(status.collections)
    text = []
    if len(shown) > LISTED:
        dropped, done, indexed = (sum(getattr(one, what) for one in shown) for what in ("dropped", "done", "indexed"))
        text.append(f"{len(shown)} collections: {dropped:,} dropped, {done:,} done, {indexed:,} on the map")
        # Those about which there is something to say come first.
        shown.sort(key=lambda one: one.at_rest)
    for one in shown[:LISTED]:
        text += _collection_lines(one)
    if rest := shown[LISTED:]:
        quiet = ", all of their frames on the map" if all(one.at_rest for one in rest) else ""
        text.append(f"and {len(rest):,} more{quiet}: `ls4 status NAME` tells of one, --json lists all")
    if len(shown) > 1 and (stale := sum(one.stale for one in shown)):
        text.append(f"Made under an earlier profile: {stale:,} in all; `ls4 rematerialize --stale` makes these anew")
    if status.report:
        text += _report_lines(status.report)
    if status.rejected_count:
        text.append(f"Rejected by name: {status.rejected_count:,}")
        # Each reason begins with its key.
        text += _cut([f"    {reason}" for reason in status.rejected.values()], status.rejected_count)
    if (quarantine := status.quarantine).open or quarantine.resolved:
        page = f": {quarantine.address}" if quarantine.address else ""
        text.append(f"Quarantine: {quarantine.open:,} open, {quarantine.resolved:,} resolved{page}")
    return text or [
        "The archive is empty: drop a georeferenced tif, or run `ls4 ingest FOLDER --collection bw/Travis/USDA_1958/frames`."
    ]


def _collection_lines(one: CollectionStatus) -> Iterator[str]:
    dropped = f"{one.dropped} dropped: {one.done} done, {one.waiting} waiting, {one.failed_count} failed"
    yield f"{one.name}: {dropped}; {one.indexed} on the map{_explain(one)}"
    yield f"    map: {one.map_url or 'none'}"
    if one.waits_for:
        yield f"    waiting: {one.waits_for}"
    if one.rebuild == "failing":
        yield "    its index or map cannot be rebuilt: mend what its tile_index says in the Dagster UI; it is tried again by itself"
    if one.rebuild == "pending" and not one.waiting and one.indexed == one.done:
        yield "    its index and map are about to be brought up to date"
    if one.stale:
        yield f"    {one.stale} made under an earlier profile: `ls4 rematerialize --stale {one.name}` makes these anew"
    if one.held:
        yield f"    {Held(one.name, one.held, one.dropped)}"
    yield from _cut([f"    failed: {key}\n        {reason}" for key, reason in one.failed.items()], one.failed_count)


def _report_lines(report: Report) -> Iterator[str]:
    yield "    size: " + ", ".join(f"{what} {_readable(size)}" for what, size in report.bytes.items())
    if report.changed_at:
        yield f"    last change: {report.changed_at:%Y-%m-%d %H:%M}"
    if (batch := report.last_batch) and batch.frames_per_minute:
        yield f"    last run: {batch.frames} frames, {batch.frames_per_minute} a minute, one each {batch.seconds_per_frame} s"


def _cut(items: list[str], count: int) -> Iterator[str]:
    """The beginning of a list of `count` things, and how many more there are."""
    yield from islice(items, LISTED)
    if count > LISTED:
        yield f"    and {count - LISTED:,} more: --json lists all"


def _readable(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _explain(one: CollectionStatus) -> str:
    """Why done and on the map differ, when they do."""
    if one.indexed > one.done:
        why = "in an earlier version" if one.waiting or one.failed_count else "adopted without a georef tif"
        return f" ({one.indexed - one.done} of them {why})"
    return " (the others follow when its map is rebuilt)" if one.indexed < one.done else ""


def _collections(
    connection: Connection, map_front: str, of: Collection | None, listed: int | None, stale: Mapping[str, int]
) -> Iterator[CollectionStatus]:
    counts, sizes = _sources(connection, of)
    failed, unindexed = _failed(connection, of, listed), _unindexed(connection, of)
    held = {one.collection: one.held for one in held_collections(connection, of.name if of else None)}
    waits = _reasons_to_wait(connection, of)
    for row in connection.execute(select(collection).where(_only(collection.c.name, of)).order_by(collection.c.name)):
        counted = counts[row.name]
        yield CollectionStatus(
            name=row.name,
            dropped=sum(counted.values()),
            done=counted.get(SourceState.DONE, 0),
            waiting=sum(counted.get(state, 0) for state in WAITING),
            indexed=row.frames,
            map_url=map_url(Collection.from_partition(row.shard, row.partition), map_front) if row.published_at else None,
            failed=failed[row.name],
            failed_count=counted.get(SourceState.FAILED, 0),
            bytes=sizes[row.name],
            held=held.get(row.name, 0),
            rebuild=_rebuild(row, row.name in unindexed),
            stale=stale.get(row.name, 0),
            waits_for=waits.get(row.name),
        )


def _rebuild(row: Row[Any], unindexed: bool) -> str:
    if unindexed or row.files_revision != row.index_revision or row.map_revision != row.index_revision:
        return "failing" if row.attempts >= _FAILING else "pending"
    return "none"


def _only(column: ColumnElement[str], of: Collection | None) -> ColumnElement[bool]:
    return column == of.name if of else true()


def _sources(connection: Connection, of: Collection | None) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Tifs by collection and state, and their bytes by collection."""
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    sizes: dict[str, int] = defaultdict(int)
    live = source.c.state.not_in([SourceState.DELETED, SourceState.REJECTED])
    each = select(source.c.collection, source.c.state, func.count().label("n"), func.sum(source.c.size).label("size"))
    for row in connection.execute(each.where(live, _only(source.c.collection, of)).group_by(source.c.collection, source.c.state)):
        counts[row.collection][row.state] = row.n
        sizes[row.collection] += int(row.size)
    return counts, sizes


def _failed(connection: Connection, of: Collection | None, listed: int | None) -> dict[str, dict[str, str]]:
    failed: dict[str, dict[str, str]] = defaultdict(dict)
    rank = func.row_number().over(partition_by=source.c.collection, order_by=source.c.key).label("rank")
    mine = (source.c.state == SourceState.FAILED, _only(source.c.collection, of))
    ranked = select(source.c.collection, source.c.key, source.c.reason, rank).where(*mine).subquery()
    query = select(ranked).order_by(ranked.c.collection, ranked.c.rank)
    for row in connection.execute(query if listed is None else query.where(ranked.c.rank <= listed)):
        failed[row.collection][row.key] = row.reason
    return failed


def _reasons_to_wait(connection: Connection, of: Collection | None) -> dict[str, str]:
    waits = (source.c.state == SourceState.QUEUED, source.c.reason.is_not(None), _only(source.c.collection, of))
    told = select(source.c.collection, func.max(source.c.reason)).where(*waits).group_by(source.c.collection)
    return dict(connection.execute(told).tuples().all())


def _unindexed(connection: Connection, of: Collection | None) -> set[str]:
    changed = or_(frame.c.revision != frame.c.indexed_revision, frame.c.deleted)
    return set(connection.scalars(select(frame.c.collection).where(changed, _only(frame.c.collection, of)).distinct()))


def _quarantine(connection: Connection, most: int | None, address: str) -> Quarantine:
    counted = rejections.counts(connection)
    return Quarantine(counted.open, counted.resolved, tuple(rejections.listed(connection, most or rejections.LISTED)), address)


def _rejected(connection: Connection, listed: int | None) -> tuple[dict[str, str], int]:
    mine = source.c.state == SourceState.REJECTED
    rows = connection.execute(select(source.c.key, source.c.reason).where(mine).order_by(source.c.key).limit(listed))
    count = connection.scalar(select(func.count()).select_from(source).where(mine)) or 0
    return {row.key: row.reason for row in rows}, count
