"""Find the differences in one collection and their fixes: pure functions of the observed and the recorded state.

Only objects that ls4 made and whose source is confirmed deleted are removed. A COG that the database does not have is not an
orphan: it may be the only copy of a photograph, so it is only reported. A missing intermediate has expired and needs no fix.
"""

from collections.abc import Iterator

from ls4_assets.db.schema import LIVE_STATES, SourceState
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.key_parser import parse_product_key
from ls4_assets.domain.names import SHAPEFILE_SUFFIXES, Collection, Frame
from ls4_assets.operations.reconcile.model import DESTRUCTIVE, Action, ActionKind, ObservedState, RecordedState

# The size of a shapefile's .shx gives its number of records.
_SHX_HEADER_BYTES, _SHX_RECORD_BYTES = 100, 8


def plan(collection: Collection, observed: ObservedState, recorded: RecordedState) -> list[Action]:
    """Return an action for every difference, in the order in which they are applied."""
    return [
        *_plan_sources(observed, recorded),
        *_plan_frames(observed, recorded),
        *_plan_scans(observed, recorded),
        *_plan_table(collection, observed, recorded),
        *_plan_files(collection, observed, recorded),
        *_plan_mosaics(observed, recorded),
        *_plan_documents(observed, recorded),
        *_plan_orphans(collection, observed, recorded),
        *_plan_partitions(collection, recorded),
    ]


def find_lost_frames(actions: list[Action]) -> set[str]:
    """Return the ids of the frames that lose something, for the deletion guard."""
    return {action.frame for action in actions if action.kind in DESTRUCTIVE and action.frame}


def _plan_sources(observed: ObservedState, recorded: RecordedState) -> Iterator[Action]:
    for key in sorted(observed.tifs):
        row = recorded.sources.get(key)
        if row is None or row.state == SourceState.DELETED:
            yield Action(ActionKind.RESCAN, key, "is in georef/ but not in the database")
    for key, row in sorted(recorded.sources.items()):
        if row.state != SourceState.DELETED and not row.is_missing and key not in observed.tifs:
            yield Action(ActionKind.RESCAN, key, "is in the database but not in georef/")


def _plan_frames(observed: ObservedState, recorded: RecordedState) -> Iterator[Action]:
    idle = {row.frame: key for key, row in recorded.sources.items() if row.state in (SourceState.DONE, SourceState.FAILED)}
    can_be_made = {frame for frame, key in idle.items() if frame and key in observed.tifs}
    for id_, row in sorted(recorded.frames.items()):
        if row.deleted or row.served_key is None:
            continue
        fingerprint = observed.cogs.get(row.served_key)
        if fingerprint is None and id_ in can_be_made:
            yield Action(ActionKind.REQUEUE, id_, "has no COG in the bucket")
        elif fingerprint is None and row.lacks_source:
            yield Action(ActionKind.WITHDRAW, id_, "has lost its COG, which was its only file", id_)
        elif fingerprint is not None and fingerprint != row.fingerprint and row.is_adopted:
            yield Action(ActionKind.UNKNOWN, row.served_key, "was replaced by another COG after it was adopted")
        elif fingerprint is not None and fingerprint != row.fingerprint and id_ in can_be_made:
            yield Action(ActionKind.REQUEUE, id_, "has a COG that ls4 did not write")
        elif (
            fingerprint is not None
            and not row.is_copy_pending
            and (fault := _find_public_fault(observed, Frame.from_id(id_).cog_key, fingerprint))
        ):
            yield Action(ActionKind.REPUBLISH, id_, fault)
    for id_ in sorted(can_be_made - recorded.frames.keys()):
        if recorded.sources[idle[id_]].state == SourceState.DONE:
            yield Action(ActionKind.REQUEUE, id_, "is done, but the database has no row for its products")


def _find_public_fault(observed: ObservedState, public_key: str, fingerprint: str) -> str | None:
    """Compare sizes only: a copy has the bytes of the COG that the map reads, but not always its version."""
    if public_key not in observed.cogs:
        return f"has no public copy at {public_key}"
    is_same = observed.cogs[public_key].split()[0] == fingerprint.split()[0]
    return None if is_same else f"has a public copy at {public_key} that is not the COG on the map"


def _plan_scans(observed: ObservedState, recorded: RecordedState) -> Iterator[Action]:
    for id_, row in sorted(recorded.frames.items()):
        stem = Frame.from_id(id_).scan_stem
        scan = observed.scans.get((id_.partition("/")[0], stem)) if stem else None
        if not row.deleted and scan != row.scan_file:
            reason = f"is not linked to its raw scan {scan}" if scan else f"is linked to a missing raw scan, {row.scan_file}"
            yield Action(ActionKind.RELINK, id_, reason, value=scan)


def _plan_table(collection: Collection, observed: ObservedState, recorded: RecordedState) -> Iterator[Action]:
    row, table = recorded.collection, recorded.table
    has_live_frames = any(not frame.deleted for frame in recorded.frames.values())
    if table and not table.is_owned:
        if row or observed.cogs:
            yield Action(ActionKind.FOREIGN, collection.table, "is not owned by ls4")
    elif table and not (recorded.frames or observed.tifs or observed.cogs) and (row is None or row.is_up_to_date):
        yield Action(ActionKind.DROP, collection.table, "belongs to a collection without frames")
    elif row and row.is_up_to_date and row.frame_count and not table and has_live_frames:
        yield Action(ActionKind.INDEX, collection.table, "is missing")
    elif (
        row
        and table
        and (table.missing or table.extra or table.mislocated or (row.is_up_to_date and table.rows != row.frame_count))
    ):
        counts = f"{table.missing} missing, {table.extra} extra, {table.mislocated} with another location, {table.rows} in all"
        yield Action(ActionKind.INDEX, collection.table, f"has other rows than the frames ({counts})")


def _plan_files(collection: Collection, observed: ObservedState, recorded: RecordedState) -> Iterator[Action]:
    row = recorded.collection
    if row is None or not row.is_up_to_date:
        return
    for film_type in FILM_TYPES:
        keys = [collection.tile_index_key(film_type, suffix) for suffix in (*SHAPEFILE_SUFFIXES, "_idx.zip")]
        if film_type in row.film_types and row.frame_count:
            if absent := [key for key in keys if not observed.index_files.get(key)]:
                yield Action(ActionKind.FILES, absent[0], "is missing or empty")
            elif observed.index_files[keys[1]] != _SHX_HEADER_BYTES + _SHX_RECORD_BYTES * row.frame_count:
                yield Action(ActionKind.FILES, keys[1], f"does not have the {row.frame_count} frames of the table")
        else:
            for key in keys:
                if key in observed.index_files and key not in observed.recent:
                    yield Action(ActionKind.REMOVE, key, "is the index of a film type without frames")


def _plan_mosaics(observed: ObservedState, recorded: RecordedState) -> Iterator[Action]:
    if recorded.served_mosaic and recorded.served_mosaic not in observed.mosaics:
        yield Action(ActionKind.MOSAIC, recorded.served_mosaic, "is missing, but the map reads it")
    if recorded.collection:
        unread = observed.mosaics.keys() - recorded.mosaics - {recorded.served_mosaic or ""}
        # Keep the previous mosaic: a map worker may still be reading it.
        kept = max(unread, key=lambda key: observed.mosaics[key], default="")
        for key in sorted(unread - observed.recent - {kept}):
            yield Action(ActionKind.REMOVE, key, "is an overview mosaic that no map reads")


def _plan_documents(observed: ObservedState, recorded: RecordedState) -> Iterator[Action]:
    row = recorded.collection
    if row and row.is_published and row.frame_count:
        for key in row.document_keys:
            problems = observed.documents.get(key)
            if problems is None and row.is_up_to_date:
                yield Action(ActionKind.MAP, key, "is missing")
            elif problems:
                yield Action(ActionKind.MAP, key, f"is damaged: {' '.join(problems)}")
    elif (row is None or row.is_withdrawn) and not (
        recorded.frames or observed.tifs or observed.cogs or has_foreign_table(recorded)
    ):
        for key, problems in observed.documents.items():
            # A document that ls4 would not publish was not made by ls4.
            if key not in observed.recent and not problems:
                yield Action(ActionKind.REMOVE, key, "is the map of a collection without frames")


def _plan_orphans(collection: Collection, observed: ObservedState, recorded: RecordedState) -> Iterator[Action]:
    kept = recorded.frames.keys() | {row.frame for row in recorded.sources.values() if row.state in LIVE_STATES}
    deleted = {row.frame for row in recorded.sources.values() if row.state == SourceState.DELETED} - kept
    served = recorded.served | {row.served_key for row in recorded.frames.values()}
    for key in sorted(observed.cogs.keys() - observed.recent):
        id_ = _frame_id(collection, key)
        if key in served or (key == Frame.from_id(id_).cog_key and id_ in kept):
            continue
        if (id_ in deleted and not has_foreign_table(recorded)) or (key.startswith("derived/") and recorded.collection):
            yield Action(ActionKind.REMOVE, key, "is a COG that no map reads, of a frame that was deleted or replaced", id_)
        else:
            yield Action(ActionKind.UNKNOWN, key, "is a COG that is not in the database")
    if recorded.collection:
        for key, id_ in sorted(observed.frame_files.items()):
            if id_ not in kept and key not in observed.recent:
                yield Action(ActionKind.REMOVE, key, "belongs to a frame that is gone", id_)


def _plan_partitions(collection: Collection, recorded: RecordedState) -> Iterator[Action]:
    requested = (SourceState.DONE, SourceState.FAILED, SourceState.REQUESTED)
    wanted = {row.partition for row in recorded.frames.values() if not row.deleted}
    wanted |= {row.partition for row in recorded.sources.values() if row.state in requested and row.partition}
    # Partitions of waiting sources may exist already; those of deleted ones are removed by the sensor.
    allowed = wanted | {row.partition for row in recorded.frames.values()} | {row.partition for row in recorded.sources.values()}
    for partition in sorted(wanted - recorded.partitions):
        yield Action(ActionKind.ADD_PARTITION, partition, "is missing in the Dagster UI")
    for partition in sorted(recorded.partitions - allowed):
        yield Action(ActionKind.REMOVE_PARTITION, partition, "is a partition without a frame", f"{partition} in the Dagster UI")
    if recorded.collection and recorded.collection.is_published and not recorded.has_collection_partition:
        yield Action(ActionKind.ADD_PARTITION, collection.partition, "is missing in the Dagster UI")
    if recorded.collection is None and recorded.has_collection_partition:
        yield Action(ActionKind.REMOVE_PARTITION, collection.partition, "is a partition without a collection")


def has_foreign_table(recorded: RecordedState) -> bool:
    """Return whether the map reads a table that ls4 does not own."""
    return recorded.table is not None and not recorded.table.is_owned


def _frame_id(collection: Collection, key: str) -> str:
    """Return the frame id of a COG's key, public or of a later version."""
    product = parse_product_key(key, collection)
    assert product is not None, key
    return product[1].id
