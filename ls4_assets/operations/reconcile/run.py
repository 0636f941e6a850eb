"""`ls4 reconcile` from start to end: the collections one after the other, and the guards before anything is changed.

Nothing is changed after an incomplete listing, with an empty database or folder, or while runs are changing the collection.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
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
from ls4_assets.db.lookup import choose_collection
from ls4_assets.db.schema import PUBLIC
from ls4_assets.db.tile_index import list_owned_tables
from ls4_assets.domain.names import FRAME_TYPES, Collection
from ls4_assets.errors import ConfigurationError
from ls4_assets.ingest.deletions import DeletionGuard
from ls4_assets.operations.adopt.inventory import find_collections
from ls4_assets.operations.reconcile import observed_state, recorded_state
from ls4_assets.operations.reconcile.apply import apply_plan
from ls4_assets.operations.reconcile.collection_history import find_lost_collection_history
from ls4_assets.operations.reconcile.history import find_lost_history, load_materialized
from ls4_assets.operations.reconcile.model import DESTRUCTIVE, MANUAL, Action, ActionKind
from ls4_assets.operations.reconcile.plan import find_lost_frames, plan
from ls4_assets.operations.reconcile.stray_partitions import (
    find_stray_partitions,
    load_partition_sets,
    remove_stray_partitions,
)
from ls4_assets.publishing.maps import MAP_PUBLISHERS
from resources.archive import Archive
from resources.storage import StoredObject

# An object is written before its row, so a recent one is not an orphan.
GRACE_PERIOD = timedelta(hours=1)
# The guard lets this many collections lose their map or table; more only when they are a small share of all.
_GUARD_COLLECTIONS = 5
# Below mapfiles/, where only MapServer's publisher writes.
_DOCUMENT_SUFFIXES = (".map", ".tilejson", ".wmts")


@dataclass
class ReconcileReport:
    """The result for one collection, or the plan. `name` is empty for tables and maps without a collection.

    `held`: actions that delete so much that an operator has to confirm them. `error`: why the collection was not compared, or not
    fixed completely. `scan_errors`: sentences of the scan that RESCAN actions started.
    """

    name: str
    actions: list[Action] = field(default_factory=list)
    held: list[Action] = field(default_factory=list)
    error: str | None = None
    applied: bool = False
    scan_errors: list[str] = field(default_factory=list)

    @property
    def is_consistent(self) -> bool:
        return not (self.actions or self.held or self.error)


@dataclass
class Reconciler:
    """Compares collections. `apply`: fix them too. `delete_many`: the operator confirms what the guard would hold."""

    archive: Archive
    instance: DagsterInstance
    apply: bool = False
    delete_many: bool = False
    # The number of reports; known when the first one is yielded.
    total: int = field(default=0, init=False)
    grace_period: timedelta = GRACE_PERIOD
    # Name and partitions of the current shard: collections are sorted by shard.
    _shard: tuple[str, Set[str], Set[str]] = field(default=("", frozenset(), frozenset()), init=False, repr=False)
    _materialized: tuple[str, Mapping[str, Set[str]]] = field(default=("", {}), init=False, repr=False)

    def run(self, names: Sequence[str] = ()) -> Iterator[ReconcileReport]:
        """Yield a report for each collection. Raises ConfigurationError or UnknownCollectionError before anything is changed."""
        self._require_both_sides()
        if names:
            self.total = len(names)
            for collection in [self._find_collection(name) for name in names]:
                yield self._reconcile(collection)
            return
        collections = self._list_collections()
        self.total = len(collections) + 2
        losing = self._find_losing(collections) if self.apply and not self.delete_many else set()
        for collection in collections:
            yield self._reconcile(collection, is_held=collection.name in losing)
        yield self._reconcile_leftovers(collections)
        yield self._reconcile_stray_partitions(collections)

    def _require_both_sides(self) -> None:
        """Raise when only one side has data: an unmounted disk or a lost database would otherwise mean that all was deleted."""
        first = next(iter(self._bucket_collections), None)
        with self.archive.database.connect() as connection:
            has_live_rows, has_rows = recorded_state.has_live_rows(connection), recorded_state.has_rows(connection)
        if first is None and has_live_rows:
            raise ConfigurationError(
                "The bucket is empty, but the database has collections: mount the disk, or correct LS4_STORAGE."
            )
        if first is not None and not has_rows:
            raise ConfigurationError(
                "The database has no frame, but the bucket has collections: restore a lost database with `ls4 db restore`, "
                "or take over an archive that ls4 did not make with `ls4 adopt`."
            )

    @cached_property
    def _bucket_collections(self) -> list[Collection]:
        with _complete_listing():
            collections = find_collections(self.archive.storage, self.archive.settings.naming)[0]
            return sorted({*collections, *observed_state.list_derived_collections(self.archive.storage)})

    @cached_property
    def _documents(self) -> dict[str, StoredObject]:
        with _complete_listing():
            return observed_state.list_documents(self.archive.storage)

    def _list_collections(self) -> list[Collection]:
        with self.archive.database.connect() as connection:
            return sorted({*self._bucket_collections, *recorded_state.list_collections(connection)})

    def _find_collection(self, name: str) -> Collection:
        return choose_collection(name, self._list_collections())

    def _find_losing(self, collections: Sequence[Collection]) -> set[str]:
        """Return the names of the collections that would lose table or map, if the guard holds that many."""
        losing = {
            collection.name
            for collection in collections
            if any(_ends_publication(action) for action in self._compare(collection).actions)
        }
        guard = DeletionGuard(self.archive.settings.deletion_guard_share, _GUARD_COLLECTIONS)
        return losing if guard.holds(len(losing), len(collections)) else set()

    def _reconcile(self, collection: Collection, *, is_held: bool = False) -> ReconcileReport:
        report = self._compare(collection, is_held=is_held)
        actions = [action for action in report.actions if action.kind not in MANUAL]
        if not self.apply or report.error or not actions:
            return report
        try:
            report.scan_errors = apply_plan(self.archive, self.instance, collection, actions, self._cutoff())
        except SQLAlchemyError:
            raise
        except Exception as error:  # noqa: BLE001  # each storage has its own errors; what was written stays, the next run finds the rest
            return replace(report, error=f"was fixed only in part ({error}); reconcile it again.")
        return replace(report, applied=True)

    def _compare(self, collection: Collection, *, is_held: bool = False) -> ReconcileReport:
        if collections_in_progress(self.instance).blocks(collection):
            return ReconcileReport(collection.name, error="runs are changing it; reconcile it when they are done.")
        cutoff = self._cutoff()
        frame_partitions, collection_partitions = self._load_partitions(collection.shard)
        # Read the rows before the listing: what is published in between is then in the bucket, and too recent to be an orphan.
        with self.archive.database.connect() as connection:
            if recorded_state.has_running_frames(connection, collection):
                return ReconcileReport(collection.name, error="runs are processing its frames; reconcile it when they are done.")
            recorded = recorded_state.load_recorded_state(
                connection, self.archive.storage, collection, frame_partitions, collection_partitions
            )
            materialized = self._load_materialized(collection.shard)
            lost_history = find_lost_history(connection, collection, materialized)
            lost_history += find_lost_collection_history(connection, self.instance, collection, materialized)
        try:
            observed = observed_state.list_collection(self.archive.storage, collection, self._documents, cutoff)
        except Exception as error:  # noqa: BLE001  # each storage has its own errors, and after any of them the listing is incomplete
            reason = f"cannot be listed completely ({error})"
            return ReconcileReport(collection.name, error=f"{reason}; nothing was changed, reconcile it again.")
        actions = [*plan(collection, observed, recorded), *lost_history]
        lost, settings = find_lost_frames(actions), self.archive.settings
        guard = DeletionGuard(settings.deletion_guard_share, settings.deletion_guard_frames)
        should_hold = is_held or guard.holds(len(lost), len(recorded.frames.keys() | lost))
        if should_hold and not self.delete_many:
            held = [action for action in actions if action.kind in DESTRUCTIVE]
            return ReconcileReport(collection.name, [action for action in actions if action.kind not in DESTRUCTIVE], held)
        return ReconcileReport(collection.name, actions)

    def _cutoff(self) -> datetime:
        return datetime.now(UTC) - self.grace_period

    def _load_partitions(self, shard: str) -> tuple[Set[str], Set[str]]:
        if self._shard[0] != shard:
            definitions = (keys.frame_partitions(shard), keys.collection_partitions(shard))
            frames, collections = (
                frozenset(self.instance.get_dynamic_partitions(str(definition.name))) for definition in definitions
            )
            self._shard = (shard, frames, collections)
        return self._shard[1:]

    def _load_materialized(self, shard: str) -> Mapping[str, Set[str]]:
        if self._materialized[0] != shard:
            self._materialized = (shard, load_materialized(self.instance, shard))
        return self._materialized[1]

    def _reconcile_leftovers(self, collections: Sequence[Collection]) -> ReconcileReport:
        """Remove tables and maps whose name no collection has, in neither bucket nor database.

        A collection may appear while the others are compared. Its rebuild reads its row before it creates a table, so the rows
        are read after the tables, and once more before anything is removed.
        """
        cutoff = self._cutoff()
        with self.archive.database.connect() as connection:
            index_tables = set(list_owned_tables(connection))
            relations = recorded_state.list_public_relations(connection)
            tables = {collection.table for collection in [*collections, *recorded_state.list_collections(connection)]}
        leftover = sorted(index_tables - tables)
        actions = [Action(ActionKind.DROP, table, "is the table of no collection") for table in leftover]
        for key, document in sorted(self._documents.items()):
            path = PurePosixPath(key)
            is_orphan = path.suffix in _DOCUMENT_SUFFIXES and path.stem.endswith(FRAME_TYPES) and path.stem not in tables
            # A map over a table that ls4 does not own was not made by ls4; nor was one that ls4 would not publish.
            is_owned = is_orphan and (path.stem in leftover or path.stem not in relations) and document.modified < cutoff
            if is_owned and not observed_state.check_document(self.archive.storage, MAP_PUBLISHERS["mapserver"], key):
                actions.append(Action(ActionKind.REMOVE, key, "is the map of no collection"))
        guard = DeletionGuard(self.archive.settings.deletion_guard_share, _GUARD_COLLECTIONS)
        if not self.delete_many and guard.holds(len({_table(action) for action in actions}), len(collections)):
            return ReconcileReport("", [], actions)
        if self.apply and actions:
            with self.archive.database.begin() as connection:
                new_tables = {collection.table for collection in recorded_state.list_collections(connection)}
                actions = [action for action in actions if _table(action) not in new_tables]
                for key in [action.target for action in actions if action.kind == ActionKind.REMOVE]:
                    self.archive.storage.delete(key)
                quote = connection.dialect.identifier_preparer.quote
                for table in [action.target for action in actions if action.kind == ActionKind.DROP]:
                    connection.execute(text(f"DROP TABLE IF EXISTS {PUBLIC}.{quote(table)}"))
        return ReconcileReport("", actions, applied=self.apply and bool(actions))

    def _reconcile_stray_partitions(self, collections: Sequence[Collection]) -> ReconcileReport:
        """Remove the partitions of all shards that belong to no collection."""
        sets = load_partition_sets(self.instance, self.archive.settings.shards)
        with self.archive.database.connect() as connection:
            current = {*collections, *recorded_state.list_collections(connection)}
        actions = list(find_stray_partitions(sets, current))
        settings, total = self.archive.settings, sum(len(partitions) for pair in sets.values() for partitions in pair)
        guard = DeletionGuard(settings.deletion_guard_share, settings.deletion_guard_frames)
        if not self.delete_many and guard.holds(len(actions), total):
            return ReconcileReport("", [], actions)
        if self.apply:
            remove_stray_partitions(self.instance, actions)
        return ReconcileReport("", actions, applied=self.apply and bool(actions))


@contextmanager
def _complete_listing() -> Iterator[None]:
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:  # each storage has errors of its own
        reason = f"The bucket cannot be listed completely ({error})"
        raise ConfigurationError(f"{reason}; nothing was changed, try again later.") from error


def _table(action: Action) -> str:
    """Return the table name of an action on a table or on a document under mapfiles/."""
    return action.target.rpartition("/")[2].partition(".")[0]


def _ends_publication(action: Action) -> bool:
    return action.kind == ActionKind.DROP or (action.kind == ActionKind.REMOVE and action.target.startswith("mapfiles/"))
