"""The text of `ls4 status` for a terminal, and whether it reports a failure. `status.py` collects it."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from ls4_assets.assets.report import CollectionReport
from ls4_assets.ingest.deletions import HeldDeletion
from ls4_assets.operations.health.model import Health, Severity
from ls4_assets.operations.status import CollectionStatus, Status

# Lines of each list; the others are counted, and --json prints all.
TERMINAL_LIMIT = 20


def needs_attention(status: Status, health: Health) -> bool:
    """Whether something failed: of the collections that were chosen, or of the whole archive; or the platform has stopped."""
    if status.is_whole:
        return health.severity > Severity.OK
    has_failed = status.rejected_count > 0 or any(item.failed_count or item.rebuild == "failing" for item in status.collections)
    return has_failed or health.severity == Severity.CRITICAL


def format_status(status: Status) -> list[str]:
    """Return the status as lines for a terminal."""
    # What is in the index of a collection without a map is on no map yet.
    collections = [item if item.map_url else replace(item, indexed=0, leaving=0) for item in status.collections]
    lines = []
    if len(collections) > TERMINAL_LIMIT:
        dropped, done, indexed = (sum(getattr(item, name) for item in collections) for name in ("dropped", "done", "indexed"))
        lines.append(f"{len(collections)} collections: {dropped:,} dropped, {done:,} done, {indexed:,} on the map")
        # Collections that need attention come first.
        collections.sort(key=lambda item: item.is_complete)
    for item in collections[:TERMINAL_LIMIT]:
        lines += _format_collection(item)
    if rest := collections[TERMINAL_LIMIT:]:
        note = ", all of their frames on the map" if all(item.is_complete for item in rest) else ""
        lines.append(f"and {len(rest):,} more{note}: `ls4 status NAME` shows one, --json lists all")
    if len(collections) > 1 and (stale := sum(item.stale for item in collections)):
        lines.append(f"Made under an earlier profile: {stale:,} in all; `ls4 rematerialize --stale` makes them again")
    if status.report:
        lines += _format_report(status.report)
    if status.unlisted:
        lines.append(f"Not scanned: {len(status.unlisted):,}")
        lines += _truncate([f"    {record.reason}" for record in status.unlisted], len(status.unlisted))
    if status.rejected_count:
        lines.append(f"Rejected, for their names: {status.rejected_count:,}")
        # Each reason begins with its key.
        lines += _truncate([f"    {reason}" for reason in status.rejected.values()], status.rejected_count)
    if (quarantine := status.quarantine).open or quarantine.resolved:
        page = f": {quarantine.url}" if quarantine.url else ""
        lines.append(f"Rejected files, for name or content: {quarantine.open:,} open, {quarantine.resolved:,} resolved{page}")
    return lines or [
        "The archive is empty: drop a georeferenced tif, or run "
        "`ls4 ingest FOLDER --collection bw/<County>/<AGENCY_YYYY>/frames`."
    ]


def _format_collection(status: CollectionStatus) -> Iterator[str]:
    counts = f"{status.dropped} dropped: {status.done} done, {status.waiting} waiting, {status.failed_count} rejected"
    yield f"{status.name}: {counts}; {status.indexed} on the map{_explain_difference(status)}"
    yield f"    map: {status.map_url or 'none'}"
    if status.waiting_reason:
        yield f"    waiting: {status.waiting_reason}"
    if status.rebuild == "failing":
        yield "    its index or map cannot be rebuilt: fix what its tile_index reports in the Dagster UI; the rebuild is retried"
    if status.rebuild == "pending" and not status.waiting and status.indexed == status.done:
        yield "    its map shows the state before the last change until its rebuild, which is pending, has ended"
    if status.stale:
        yield f"    {status.stale} made under an earlier profile: `ls4 rematerialize --stale {status.name}` makes them again"
    if status.held:
        yield f"    {HeldDeletion(status.name, status.held, status.dropped)}"
    failed = [f"    rejected, for its content: {key}\n        {reason}" for key, reason in status.failed.items()]
    yield from _truncate(failed, status.failed_count)


def _format_report(report: CollectionReport) -> Iterator[str]:
    yield "    size: " + ", ".join(f"{product} {_format_bytes(size)}" for product, size in report.bytes.items())
    if report.changed_at:
        yield f"    last change: {report.changed_at:%Y-%m-%d %H:%M}"
    if batch := report.last_batch:
        yield f"    last run: {batch.frames:,} {'frame' if batch.frames == 1 else 'frames'}"


def _truncate(lines: list[str], count: int) -> Iterator[str]:
    """Yield the first lines of a list of `count` items, and the number of the others."""
    yield from islice(lines, TERMINAL_LIMIT)
    if count > TERMINAL_LIMIT:
        yield f"    and {count - TERMINAL_LIMIT:,} more: --json lists all"


def _format_bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _explain_difference(status: CollectionStatus) -> str:
    """Explain why the numbers of done and of indexed frames differ; empty when they do not."""
    leaving = f"{status.leaving} of them leave with the next rebuild" if status.leaving else ""
    rest = status.indexed - status.leaving - status.done
    if rest > 0:
        reason = "in an earlier version" if status.waiting or status.failed_count else "adopted without a georef tif"
        return f" ({', '.join(filter(None, [leaving, f'{rest} of them {reason}']))})"
    return f" ({leaving or 'the others follow when its map is rebuilt'})" if leaving or rest < 0 else ""
