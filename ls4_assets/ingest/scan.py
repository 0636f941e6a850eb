"""Scans of the bucket: comparing its contents with the source table, one bounded key range after another.

Nothing here depends on Dagster. The walk only marks what is missing. Whether a missing file is gone is decided by a second
check of just those keys, after the walk has left their folder, so that the deletion guard sees all that is missing of a
collection at once.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from ls4_assets.domain.film_types import FILM_TYPES, join_or
from ls4_assets.domain.printable import printable
from ls4_assets.ingest import listing, sources
from ls4_assets.ingest.arrivals import SourceSnapshot
from ls4_assets.ingest.deletions import DeletionGuard, apply_deletions
from ls4_assets.ingest.listing import DroppedFile, KeyRange
from ls4_assets.ingest.planner import FINISHED_WAIT, Rules, plan_changes
from ls4_assets.ingest.unlisted import clear_listed, record_unlisted
from resources.archive import Archive
from resources.locks import try_lock
from resources.storage import Storage, folder_end

# Keys that are compared, and held in memory, at once.
RANGE_KEYS = 5_000
# An s3fs mount puts an empty object first and the content when the file is closed: uploading the largest frames takes 15 minutes.
EMPTY_WAIT = timedelta(minutes=20)
# The events of one large deletion arrive gradually; wait so that the deletion guard sees all of them.
EVENTS_WAIT = timedelta(seconds=30)
# Up to this many changes are checked again within the tick that found them, in this interval.
_MAX_RECENT = 50
_RECHECK_SECONDS = 1.0
# A scan that waits for files takes at most this long.
_TICK_SECONDS = 25.0
_UNMOUNTED = (
    f"The archive's folder contains no {join_or([f'{film_type}/' for film_type in FILM_TYPES])}, as when its disk is not "
    f"mounted; nothing counts as deleted. Mount the disk, or create an empty {next(iter(FILM_TYPES))}/ if all photographs are "
    "meant to go."
)


@dataclass
class ScanReport:
    """The result of one scan.

    `counts`: changes by kind; `held`: collections with newly held deletions; `unlisted`: folders that could not be listed,
    where "" is the bucket itself. `next_key`: the key after which the next scan resumes; empty when this one reached the end.
    """

    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    unlisted: set[str] = field(default_factory=set)
    next_key: str = ""

    def add(self, other: "ScanReport") -> None:
        """Add the results of another scan; `next_key` stays."""
        self.counts.update(other.counts)
        self.errors += other.errors
        self.held |= other.held
        self.unlisted |= other.unlisted


def scan_lock(database: Engine) -> AbstractContextManager[bool]:
    """Yields False while another scan is running."""
    return try_lock(database, "bucket scan")


def scan_bucket(archive: Archive, start: str = "", seconds: float | None = None, keys: int | None = None) -> ScanReport:
    """Recheck what is pending, then compare the bucket with the source table.

    It goes from the key `start`, exclusive, to the end, or as far as `seconds` and `keys` allow; both default to the settings.
    """
    settings = archive.settings
    deadline = time.monotonic() + (settings.scan_seconds if seconds is None else seconds)
    with _open_scanner(archive, ScanReport(next_key=start), deadline) as scanner:
        try:
            is_unmounted = listing.is_unmounted(archive.storage)
        except Exception as error:  # noqa: BLE001  # each storage raises its own errors; after any, the bucket's state is unknown
            scanner.add_unlisted(
                _whole(""), f"The bucket cannot be listed ({error}); nothing counts as deleted, and the next scan retries."
            )
            return scanner.report
        if is_unmounted and scanner.has_photographs():
            scanner.add_unlisted(_whole(""), _UNMOUNTED)
            return scanner.report
        scanner.recheck()
        scanner.walk(settings.scan_keys if keys is None else keys)
        return scanner.report


def settle_recent(archive: Archive, since: datetime) -> ScanReport:
    """Wait for the files that settle, or are missing, since a scan that began at `since`, and check them again.

    A few files are decided this way within one tick. After a larger change, a longer wait or a long scan, the next scan checks
    them, because Dagster discards a tick that takes a minute.
    """
    elapsed_seconds = (datetime.now(UTC) - since).total_seconds()
    with _open_scanner(archive, ScanReport(), time.monotonic() + _TICK_SECONDS - elapsed_seconds) as scanner:
        deadline = time.monotonic() + max(scanner.rules.settle, FINISHED_WAIT).total_seconds()
        is_last = deadline > scanner.deadline
        while not is_last:
            with scanner.connection.begin():
                recent = sources.find_recent_changes(scanner.connection, since, _MAX_RECENT + 1)
            if not 0 < len(recent) <= _MAX_RECENT:
                break
            remaining = deadline - time.monotonic()
            is_last = remaining <= _RECHECK_SECONDS
            time.sleep(max(0.0, remaining) if is_last else _RECHECK_SECONDS)
            scanner.check(recent)
        return scanner.report


def check_keys(archive: Archive, keys: Iterable[str]) -> ScanReport:
    """Compare only these keys, of tifs or sidecars, with the source table: those in an event, or that a person names."""
    with _open_scanner(archive, ScanReport(), float("inf")) as scanner:
        scanner.check(keys)
        return scanner.report


def recheck_pending(archive: Archive) -> ScanReport:
    """Check only the keys that are pending a second check: files that were settling or are missing."""
    with _open_scanner(archive, ScanReport(), time.monotonic() + archive.settings.scan_seconds) as scanner:
        scanner.recheck()
        return scanner.report


@contextmanager
def _open_scanner(archive: Archive, report: ScanReport, deadline: float) -> Iterator["_Scanner"]:
    with archive.database.connect() as connection:
        settings = archive.settings
        capabilities = archive.storage.capabilities
        settle = timedelta(seconds=settings.settle_seconds if capabilities.lists_partial_files else 0.0)
        with connection.begin():
            tables = sources.load_table_names(connection)
        rules = Rules(settings.naming, settle, EMPTY_WAIT if capabilities.lists_placeholders else settle, tables)
        guard = DeletionGuard(settings.deletion_guard_share, settings.deletion_guard_frames)
        missing_wait = EVENTS_WAIT if settings.events_queue_url else settle
        yield _Scanner(archive.storage, connection, report, deadline, rules, guard, missing_wait)


@dataclass
class _Scanner:
    """A running scan. `deadline` is in time.monotonic() seconds; `missing_wait`: time until a missing file is checked again."""

    storage: Storage
    connection: Connection
    report: ScanReport
    deadline: float
    rules: Rules
    guard: DeletionGuard
    missing_wait: timedelta

    @property
    def deadline_passed(self) -> bool:
        return time.monotonic() > self.deadline

    def add_unlisted(self, part: "_FolderPart", error: str) -> None:
        """Report that keys of a folder were not scanned, and record it for the notifications."""
        self.report.unlisted.add(part.folder)
        self.report.errors.append(printable(error))
        with self.connection.begin():
            record_unlisted(self.connection, part.folder, part.start, part.end, printable(error))

    def has_photographs(self) -> bool:
        with self.connection.begin():
            return sources.has_photographs(self.connection)

    def walk(self, limit: int) -> None:
        """Compare about `limit` keys after the report's `next_key`. Absent files are only marked as missing."""
        count = 0
        ranges = listing.walk_key_ranges(self.storage, self.report.next_key, min(RANGE_KEYS, limit), lambda: self.deadline_passed)
        for key_range in ranges:
            part = _FolderPart(_folder_of(key_range), key_range.start, key_range.end)
            with self._isolated(part, _describe(key_range)):
                count += self._compare(key_range)
                with self.connection.begin():
                    clear_listed(self.connection, key_range.start, key_range.end, self.report.unlisted)
            if key_range.unlisted:
                unlisted = replace(_whole(key_range.unlisted.folder), start=key_range.end)
                self._add_unlisted(unlisted, key_range.unlisted.error)
            self.report.next_key = "" if key_range.next_start == listing.END else key_range.next_start
            if self.deadline_passed or count >= limit:
                return

    def recheck(self) -> None:
        """Check settling and missing files again: missing ones are gone by now, or were only being replaced.

        Missing files of the folder that the walk is in are left out, as it is not yet known how many they are.
        """
        now, current_folder = datetime.now(UTC), self.report.next_key[: self.report.next_key.rfind("/") + 1]
        changed_before = now - (self.rules.settle or self.rules.settle_empty)
        with self.connection.begin():
            due = sources.find_due_rechecks(self.connection, changed_before, now - self.missing_wait, current_folder, RANGE_KEYS)
        self.check(due)

    def check(self, keys: Iterable[str]) -> None:
        """Compare only these keys."""
        for folder, folder_keys in listing.group_by_folder(keys).items():
            if self.deadline_passed:
                return
            try:
                listed = listing.pair_sidecars(listing.list_siblings(self.storage, folder, folder_keys))
                is_unmounted = listing.is_unmounted(self.storage)
            except Exception as error:  # noqa: BLE001  # one folder must not keep the others from being checked
                self._add_unlisted(_whole(folder), error)
                continue
            if not (is_unmounted and self.has_photographs()):
                with self._isolated(_whole(folder), folder or "The top folder"), self.connection.begin():
                    all_keys = list({*folder_keys, *(dropped.key for dropped in listed)})
                    self._apply(listed, sources.load_sources(self.connection, all_keys))

    def _compare(self, key_range: KeyRange) -> int:
        """Returns the number of keys compared."""
        listed = listing.pair_sidecars(key_range.objects)
        present = {dropped.key for dropped in listed}
        count, start, limit = len(listed), key_range.start, len(listed) + RANGE_KEYS
        while start != key_range.end:
            with self.connection.begin():
                recorded = sources.load_source_range(self.connection, start, key_range.end, limit)
                # After a large deletion there are more rows than are held at once: the absent ones come in parts.
                start = max(recorded) if len(recorded) == limit else key_range.end
                absent = {key: row for key, row in recorded.items() if key not in present and row.missing_since is None}
                is_partial = len(recorded) == limit and listed
                matching = sources.load_sources(self.connection, list(present)) if is_partial else recorded
                present_rows = {dropped.key: matching[dropped.key] for dropped in listed if dropped.key in matching}
                self._apply(listed, absent | present_rows)
                count += len(absent)
                listed = []
        return count

    def _apply(self, listed: Sequence[DroppedFile], recorded: Mapping[str, SourceSnapshot]) -> None:
        changes = plan_changes(listed, recorded, datetime.now(UTC), self.rules)
        sources.apply_changes(self.connection, changes)
        deleted, held = apply_deletions(self.connection, changes.gone, self.guard) if changes.gone else (0, [])
        self.report.counts.update(str(change.state) for change in changes.rows)
        self.report.counts["missing"] += len(changes.missing)
        self.report.counts["gone"] += deleted
        self.report.held.update(held)
        # The next key range may hold another spelling of a collection that was new in this one.
        if collections := {change.frame.collection for change in changes.rows if change.frame}:
            new_tables = {collection.table: collection.name for collection in collections}
            self.rules = replace(self.rules, tables={**self.rules.tables, **new_tables})

    @contextmanager
    def _isolated(self, part: "_FolderPart", place: str) -> Iterator[None]:
        """Report an error and continue: a row that cannot be written must not stop the scan. Database outages are raised."""
        try:
            yield
        except OperationalError:
            raise
        except Exception as error:  # noqa: BLE001  # any error is reported and the scan continues
            reason = str(error).partition("\n")[0]
            self.add_unlisted(part, f"{place} cannot be ingested ({reason}); it stays as it is. Report this if it persists.")

    def _add_unlisted(self, part: "_FolderPart", error: Exception) -> None:
        place = part.folder or "The bucket"
        self.add_unlisted(part, f"{place} cannot be listed ({error}); its frames stay as they are, and the next scan retries.")


@dataclass(frozen=True)
class _FolderPart:
    """The keys `start` < key <= `end`, reported as the folder `folder`: the whole of it, or a range that begins in it."""

    folder: str
    start: str
    end: str


def _whole(folder: str) -> _FolderPart:
    return _FolderPart(folder, folder, folder_end(folder) if folder else listing.END)


def _folder_of(key_range: KeyRange) -> str:
    """The folder of the first drop in a range."""
    first = key_range.objects[0].key if key_range.objects else key_range.start
    return first[: first.rfind("/") + 1]


def _describe(key_range: KeyRange) -> str:
    last = "the last key" if key_range.end == listing.END else key_range.end
    return f"The range from {key_range.start or 'the first key'} to {last}"
