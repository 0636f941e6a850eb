"""`ls4 reconcile` as a whole: which collections, one after the other, and the guards before anything is done.

Nothing is concluded from a listing that broke off, from an empty database or folder, or while runs change the collection.
"""

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import PurePosixPath

from dagster import DagsterInstance
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from ls4_assets.assets import keys
from ls4_assets.assets.active_runs import collections_in_progress
from ls4_assets.db.schema import PUBLIC
from ls4_assets.domain.names import TYPES, Collection
from ls4_assets.errors import ConfigurationError, UnknownCollectionError
from ls4_assets.ingest.deletions import Guard
from ls4_assets.operations.adopt.inventory import find_collections
from ls4_assets.operations.reconcile import observed_state, recorded_state
from ls4_assets.operations.reconcile.apply import act
from ls4_assets.operations.reconcile.model import DOCUMENTS, FOR_PEOPLE, TAKING, Action, Kind
from ls4_assets.operations.reconcile.plan import lost_frames, plan
from resources.archive import Archive
from resources.storage import StoredObject

# What is put before its row is written is no orphan yet.
GRACE = timedelta(hours=1)
# So many collections may lose their map or table in one go, and more only when they are few of all.
_COLLECTIONS_WITHOUT_QUESTION = 5


@dataclass
class Report:
    """What became of one collection, or would. `name` is empty for what belongs to none.

    held: actions that take so much away that somebody has to say so; rejected: why nothing was compared; said: by the look.
    """

    name: str
    actions: list[Action] = field(default_factory=list)
    held: list[Action] = field(default_factory=list)
    rejected: str | None = None
    applied: bool = False
    said: list[str] = field(default_factory=list)

    @property
    def in_step(self) -> bool:
        return not (self.actions or self.held or self.rejected)


@dataclass
class Reconciler:
    """`apply`: do it, and not only tell; `delete_many`: the operator's word on what the guard would hold."""

    archive: Archive
    instance: DagsterInstance
    apply: bool = False
    delete_many: bool = False
    grace: timedelta = GRACE
    # Name and partitions of the shard in hand: collections come sorted.
    _shard: tuple[str, Set[str], Set[str]] = field(default=("", frozenset(), frozenset()), init=False, repr=False)

    def run(self, names: Sequence[str] = ()) -> Iterator[Report]:
        """A report for each collection. Raises ConfigurationError or UnknownName before anything is done."""
        self._reject_to_guess()
        if names:
            for of in [self._named(name) for name in names]:
                yield self._reconcile(of)
            return
        collections = self._all()
        losing = self._losing(collections) if self.apply and not self.delete_many else set()
        for of in collections:
            yield self._reconcile(of, held_whole=of.name in losing)
        yield self._of_none(collections)

    def _reject_to_guess(self) -> None:
        """An unmounted disk and a lost database look like an archive from which all was deleted."""
        first = next(iter(self._in_bucket), None)
        with self.archive.database.connect() as connection:
            knows, remembers = recorded_state.knows_anything(connection), recorded_state.remembers_anything(connection)
        if first is None and knows:
            raise ConfigurationError("The bucket holds no collection, the database does: mount the disk, or correct LS4_STORAGE.")
        if first is not None and not remembers:
            raise ConfigurationError(
                "The database knows no frame and the bucket holds collections: `ls4 rebuild` restores it from the bucket, "
                "`ls4 adopt` takes over another's archive."
            )

    @cached_property
    def _in_bucket(self) -> list[Collection]:
        with _whole_listing():
            found = find_collections(self.archive.storage, self.archive.settings.shards)[0]
            return sorted({*found, *observed_state.derived_collections(self.archive.storage)})

    @cached_property
    def _documents(self) -> dict[str, StoredObject]:
        with _whole_listing():
            return observed_state.list_documents(self.archive.storage)

    def _all(self) -> list[Collection]:
        with self.archive.database.connect() as connection:
            return sorted({*self._in_bucket, *recorded_state.all_collections(connection)})

    def _named(self, name: str) -> Collection:
        table = name.strip().lower()
        for of in self._all():
            if of.table == table:
                return of
        raise UnknownCollectionError(f"There is no collection {name}; `ls4 status` names those that there are.")

    def _losing(self, collections: Sequence[Collection]) -> set[str]:
        """Names of the collections that would lose table or map, when they are too many to go without a question."""
        losing = {of.name for of in collections if any(_ends(action) for action in self._compare(of).actions)}
        guard = Guard(self.archive.settings.deletion_guard_share, _COLLECTIONS_WITHOUT_QUESTION)
        return losing if guard.holds(len(losing), len(collections)) else set()

    def _reconcile(self, of: Collection, *, held_whole: bool = False) -> Report:
        report = self._compare(of, held_whole=held_whole)
        if not self.apply or report.rejected or not _to_do(report):
            return report
        try:
            report.said = act(self.archive, self.instance, of, _to_do(report), datetime.now(UTC) - self.grace)
        except SQLAlchemyError:
            raise
        except Exception as error:  # noqa: BLE001  # storage's own errors: what was written stands, the rest is found again
            return replace(report, rejected=f"was not mended to the end ({error}); reconcile it again.")
        return replace(report, applied=True)

    def _compare(self, of: Collection, *, held_whole: bool = False) -> Report:
        if collections_in_progress(self.instance).blocks(of):
            return Report(of.name, rejected="runs are changing it; reconcile it when they are done.")
        old = datetime.now(UTC) - self.grace
        partitions, collections = self._partitions(of.shard)
        # The rows first: what is published meanwhile lies in the bucket then, and is too young to be an orphan.
        with self.archive.database.connect() as connection:
            if recorded_state.in_runs(connection, of):
                return Report(of.name, rejected="runs are making frames of it; reconcile it when they are done.")
            held_by = recorded_state.known_of(connection, self.archive.storage, of, partitions, collections)
        try:
            listed = observed_state.list_collection(self.archive.storage, of, self._documents, old)
        except Exception as error:  # noqa: BLE001  # whatever broke the listing off: the rest of it is unknown
            return Report(of.name, rejected=f"cannot be listed whole ({error}); nothing of it was changed, reconcile it again.")
        actions = plan(of, listed, held_by)
        lost, settings = lost_frames(actions), self.archive.settings
        guard = Guard(settings.deletion_guard_share, settings.deletion_guard_frames)
        held = held_whole or guard.holds(len(lost), len(held_by.frames.keys() | lost))
        if held and not self.delete_many:
            taking = [action for action in actions if action.kind in TAKING]
            return Report(of.name, [action for action in actions if action.kind not in TAKING], taking)
        return Report(of.name, actions)

    def _partitions(self, shard: str) -> tuple[Set[str], Set[str]]:
        if self._shard[0] != shard:
            sets = (keys.frame_partitions(shard), keys.collection_partitions(shard))
            frames, collections = (frozenset(self.instance.get_dynamic_partitions(str(one.name))) for one in sets)
            self._shard = (shard, frames, collections)
        return self._shard[1:]

    def _of_none(self, collections: Sequence[Collection]) -> Report:
        """Tables and maps whose name no collection has: left by one that is gone from bucket and database alike.

        A collection may have come while the others were compared. Its rebuild found a row before it made a table: so the rows
        are read after the tables, and again when something is to go.
        """
        old = datetime.now(UTC) - self.grace
        with self.archive.database.connect() as connection:
            indexes, present = recorded_state.index_tables(connection), recorded_state.all_tables(connection)
            tables = {of.table for of in [*collections, *recorded_state.all_collections(connection)]}
        lost = sorted(indexes - tables)
        actions = [Action(Kind.DROP, table, "is the table of no collection") for table in lost]
        for key, found in sorted(self._documents.items()):
            path = PurePosixPath(key)
            orphan = path.suffix in DOCUMENTS and path.stem.endswith(TYPES) and path.stem not in tables
            # A map over a table of another hand is another's, and so is one that ls4 would not publish.
            ours = orphan and (path.stem in lost or path.stem not in present) and found.modified < old
            if ours and not observed_state.document_findings(self.archive.storage, found):
                actions.append(Action(Kind.REMOVE, key, "is the map of no collection"))
        guard = Guard(self.archive.settings.deletion_guard_share, _COLLECTIONS_WITHOUT_QUESTION)
        if not self.delete_many and guard.holds(len({_table(action) for action in actions}), len(collections)):
            return Report("", [], actions)
        if self.apply and actions:
            with self.archive.database.begin() as connection:
                come = {of.table for of in recorded_state.all_collections(connection)}
                actions = [action for action in actions if _table(action) not in come]
                for key in [one.target for one in actions if one.kind == Kind.REMOVE]:
                    self.archive.storage.delete(key)
                quote = connection.dialect.identifier_preparer.quote
                for table in [one.target for one in actions if one.kind == Kind.DROP]:
                    connection.execute(text(f"DROP TABLE IF EXISTS {PUBLIC}.{quote(table)}"))
        return Report("", actions, applied=self.apply and bool(actions))


@contextmanager
def _whole_listing() -> Iterator[None]:
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:  # each storage has errors of its own
        what = f"The bucket cannot be listed whole ({error})"
        raise ConfigurationError(f"{what}; nothing was done, try again later.") from error


def _to_do(report: Report) -> list[Action]:
    return [action for action in report.actions if action.kind not in FOR_PEOPLE]


def _table(action: Action) -> str:
    """Of a table or a document under mapfiles/."""
    return action.target.rpartition("/")[2].partition(".")[0]


def _ends(action: Action) -> bool:
    return action.kind == Kind.DROP or (action.kind == Kind.REMOVE and action.target.startswith("mapfiles/"))
