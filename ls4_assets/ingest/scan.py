"""Looking at the bucket: comparing what lies there with the source table, a bounded piece after the other.

Nothing here knows Dagster. The walk marks what it misses; whether that is gone is decided in a second look at just those keys,
once the walk is past their folder, so that the guard before deletions sees all that is missing of a collection at once.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from ls4_assets.ingest import listing, sources
from ls4_assets.ingest.deletions import Guard, take_deletions
from ls4_assets.ingest.listing import Dropped, KeyRange
from ls4_assets.ingest.planner import Known, Rules, plan_changes
from resources.archive import Archive
from resources.locks import try_lock
from resources.storage import Storage

# Keys that are compared, and held in memory, at once.
PIECE = 5_000
# An s3fs mount puts an empty object first and its content when the file is closed: the largest frames are uploaded for a quarter
# of an hour.
EMPTY_WAIT = timedelta(minutes=20)
# The events of one large deletion come by and by: the guard before deletions shall see them all.
EVENTS_WAIT = timedelta(seconds=30)
_BARE = (
    "The archive's folder has neither bw/ nor nc/, as when its disk is not mounted; nothing is taken for deleted. "
    "Mount it, or make an empty bw/ if everything shall go."
)


@dataclass
class ScanReport:
    """What one look found. `next_key`: the next one goes on behind it; empty when the whole archive was seen. `unseen`: folders
    of which nothing became known; "" is the bucket itself."""

    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    unlisted: set[str] = field(default_factory=set)
    next_key: str = ""

    def add(self, other: "ScanReport") -> None:
        """What another look found besides."""
        self.counts.update(other.counts)
        self.errors += other.errors
        self.held |= other.held
        self.unlisted |= other.unlisted


def scan_lock(database: Engine) -> AbstractContextManager[bool]:
    """False while another look is under way."""
    return try_lock(database, "look at the bucket")


def scan_bucket(archive: Archive, start: str = "", seconds: float | None = None, keys: int | None = None) -> ScanReport:
    """Compare the bucket with the source table from behind the key `start`, until its end, or as far as `seconds` and `keys`
    allow; before that, look again at what waits for it."""
    settings = archive.settings
    deadline = time.monotonic() + (settings.scan_seconds if seconds is None else seconds)
    with _looking(archive, ScanReport(next_key=start), deadline) as looking:
        try:
            bare = listing.is_unmounted(archive.storage)
        except Exception as error:  # noqa: BLE001  # each storage has errors of its own; whichever it is, nothing is known now
            looking.look.unlisted.add("")
            looking.tell(f"The bucket cannot be listed ({error}); nothing is taken for deleted, the next look tries again.")
            return looking.look
        if bare and looking.knows_photographs():
            looking.tell(_BARE)
            return looking.look
        looking.again()
        looking.walk(settings.scan_keys if keys is None else keys)
        return looking.look


def check_keys(archive: Archive, keys: Iterable[str]) -> ScanReport:
    """Compare just these keys, of tifs or sidecars, with the source table: what an event tells of, or a person asks for."""
    with _looking(archive, ScanReport(), float("inf")) as looking:
        looking.at(keys)
        return looking.look


def recheck_pending(archive: Archive) -> ScanReport:
    """Look only at what waits for a second look: files that were settling, or are missing."""
    with _looking(archive, ScanReport(), time.monotonic() + archive.settings.scan_seconds) as looking:
        looking.again()
        return looking.look


@contextmanager
def _looking(archive: Archive, look: ScanReport, deadline: float) -> Iterator["_Scanner"]:
    with archive.database.connect() as connection:
        settings = archive.settings
        settle = timedelta(seconds=settings.settle_seconds if archive.storage.is_folder else 0.0)
        with connection.begin():
            tables = sources.tables_in_use(connection)
        rules = Rules(settings.shards, settle, settle if archive.storage.is_folder else EMPTY_WAIT, tables)
        guard = Guard(settings.deletion_guard_share, settings.deletion_guard_frames)
        away = EVENTS_WAIT if settings.events_queue_url else settle
        yield _Scanner(archive.storage, connection, look, deadline, rules, guard, away)


@dataclass
class _Scanner:
    """A look under way."""

    storage: Storage
    connection: Connection
    look: ScanReport
    deadline: float
    rules: Rules
    guard: Guard
    # So long after it was first missed is a file looked for again.
    away: timedelta

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.deadline

    def tell(self, error: str) -> None:
        self.look.errors.append(error)

    def knows_photographs(self) -> bool:
        with self.connection.begin():
            return sources.anything_in_place(self.connection)

    def walk(self, most: int) -> None:
        """Go on behind `next_key`. What is not there is marked as missing, no more."""
        seen = 0
        for piece in listing.key_ranges(self.storage, self.look.next_key, min(PIECE, most), lambda: self.is_over):
            with self._isolated(_between(piece)):
                seen += self._compare(piece)
            if piece.unlisted:
                self._tell_unseen(piece.unlisted.folder, piece.unlisted.error)
            self.look.next_key = "" if piece.next == listing.END else piece.next
            if self.is_over or seen >= most:
                return

    def again(self) -> None:
        """Look again at files that were settling, and at missing ones: now they are gone, or were only being replaced.

        Not at missing ones of the folder that the walk is in: how many there are of them is not known yet.
        """
        now, inside = datetime.now(UTC), self.look.next_key[: self.look.next_key.rfind("/") + 1]
        changed_before = now - (self.rules.settle or self.rules.settle_empty)
        with self.connection.begin():
            due = sources.due_again(self.connection, changed_before, now - self.away, inside, PIECE)
        self.at(due)

    def at(self, keys: Iterable[str]) -> None:
        """Look at these keys alone."""
        for folder, wanted in listing.by_folder(keys).items():
            if self.is_over:
                return
            try:
                listed = listing.pair_sidecars(listing.beside(self.storage, folder, wanted))
                bare = listing.is_unmounted(self.storage)
            except Exception as error:  # noqa: BLE001  # one folder must not keep the others from being seen
                self._tell_unseen(folder, error)
                continue
            if not (bare and self.knows_photographs()):
                with self._isolated(folder), self.connection.begin():
                    known = sources.known_of(self.connection, list({*wanted, *(dropped.key for dropped in listed)}))
                    self._take(listed, known)

    def _compare(self, piece: KeyRange) -> int:
        """Returns how many keys were looked at."""
        listed = listing.pair_sidecars(piece.objects)
        present = {dropped.key for dropped in listed}
        count, after, most = len(listed), piece.after, len(listed) + PIECE
        while after != piece.upto:
            with self.connection.begin():
                known = sources.known_between(self.connection, after, piece.upto, most)
                # Where a great deal is gone there are more rows than are held at once: the absent ones come in parts.
                after = max(known) if len(known) == most else piece.upto
                absent = {key: row for key, row in known.items() if key not in present and row.missing_since is None}
                here = sources.known_of(self.connection, list(present)) if len(known) == most and listed else known
                self._take(listed, absent | {dropped.key: here[dropped.key] for dropped in listed if dropped.key in here})
                count += len(absent)
                listed = []
        return count

    def _take(self, listed: Sequence[Dropped], known: Mapping[str, Known]) -> None:
        changes = plan_changes(listed, known, datetime.now(UTC), self.rules)
        sources.apply_changes(self.connection, changes)
        removed, holding = take_deletions(self.connection, changes.gone, self.guard) if changes.gone else (0, [])
        self.look.counts.update(str(change.state) for change in changes.rows)
        self.look.counts["missing"] += len(changes.missing)
        self.look.counts["gone"] += removed
        self.look.held.update(holding)
        # The next piece may hold another spelling of a collection that was new in this one.
        if found := {change.frame.collection for change in changes.rows if change.frame}:
            self.rules = replace(self.rules, tables={**self.rules.tables, **{of.table: of.name for of in found}})

    @contextmanager
    def _isolated(self, where: str) -> Iterator[None]:
        """A row that cannot be written must not keep the rest of the archive from being seen; a database that is away may."""
        try:
            yield
        except OperationalError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told and the look goes on
            self.look.unlisted.add(where)
            reason = str(error).partition("\n")[0]
            self.tell(f"{where or 'The top folder'} cannot be taken ({reason}); it stays as it is, report this if it goes on.")

    def _tell_unseen(self, folder: str, error: Exception) -> None:
        self.look.unlisted.add(folder)
        self.tell(f"{folder or 'The bucket'} cannot be listed ({error}); its frames stay as they are, the next look tries again.")


def _between(piece: KeyRange) -> str:
    last = "the last key" if piece.upto == listing.END else piece.upto
    return f"What lies between {piece.after or 'the first key'} and {last}"
