"""The plan of a comparison: the actions for each difference, and what it never removes."""

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from ls4_assets.db.schema import LIVE_STATES, SourceState
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.operations.reconcile.model import (
    Action,
    ActionKind,
    ObservedState,
    RecordedCollection,
    RecordedFrame,
    RecordedSource,
    RecordedState,
    RecordedTable,
)
from ls4_assets.operations.reconcile.plan import plan

COLLECTION = Collection("Travis", "USDA_1958", "frames")
DOCUMENTS = (COLLECTION.map_key, *(COLLECTION.map_document_key(suffix) for suffix in (".tilejson", ".wmts")))
FRAMES = [Frame(COLLECTION, "bw", f"02-08-60_6-{number}") for number in range(1, 5)]
FIRST = FRAMES[0]
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def georef(frame: Frame) -> str:
    return f"{frame.folder}/georef/{frame.stem}.tif"


def consistent_state() -> tuple[ObservedState, RecordedState]:
    """Return the states of two frames without any difference."""
    frames = FRAMES[:2]
    observed = ObservedState(
        tifs={georef(frame) for frame in frames},
        cogs={frame.cog_key: "9" for frame in frames},
        frame_files={frame.deflate_key: frame.id for frame in frames} | {frame.thumbnail_key: frame.id for frame in frames},
        index_files={
            COLLECTION.tile_index_key("bw", suffix): 116 for suffix in (".shp", ".shx", ".dbf", ".prj", ".cpg", "_idx.zip")
        },
        mosaics={"derived/mosaic": NOW},
        documents={key: [] for key in DOCUMENTS},
    )
    recorded = RecordedState(
        collection=RecordedCollection(2, ("bw",), is_published=True, is_up_to_date=True, document_keys=DOCUMENTS),
        frames={frame.id: RecordedFrame(frame.cog_key, "9", frame.partition) for frame in frames},
        sources={georef(frame): RecordedSource(SourceState.DONE, frame.id, frame.partition) for frame in frames},
        table=RecordedTable(is_owned=True, rows=2),
        served={frame.cog_key for frame in frames},
        served_mosaic="derived/mosaic",
        mosaics={"derived/mosaic"},
        partitions={frame.partition for frame in frames},
        has_collection_partition=True,
    )
    return observed, recorded


def plan_kinds(observed: ObservedState, recorded: RecordedState) -> list[ActionKind]:
    return [action.kind for action in plan(COLLECTION, observed, recorded)]


def test_a_consistent_collection_needs_no_action() -> None:
    assert plan(COLLECTION, *consistent_state()) == []


def test_an_expired_intermediate_needs_no_action() -> None:
    observed, recorded = consistent_state()
    observed.frame_files.clear()
    assert plan(COLLECTION, observed, recorded) == []


def test_files_that_a_pending_rebuild_writes_need_no_action() -> None:
    observed, recorded = consistent_state()
    recorded.collection = RecordedCollection(2, ("bw",), is_published=True, is_up_to_date=False)
    observed.index_files.clear()
    observed.documents.clear()
    assert plan(COLLECTION, observed, recorded) == []


def test_a_missing_cog_of_a_queued_frame_needs_no_action() -> None:
    observed, recorded = consistent_state()
    del observed.cogs[FIRST.cog_key]
    assert plan_kinds(observed, recorded) == [ActionKind.REQUEUE]
    recorded.sources[georef(FIRST)] = RecordedSource(SourceState.QUEUED, FIRST.id, FIRST.partition)
    assert plan_kinds(observed, recorded) == []


def test_a_held_deletion_needs_no_action() -> None:
    observed, recorded = consistent_state()
    observed.tifs.discard(georef(FIRST))
    assert plan_kinds(observed, recorded) == [ActionKind.RESCAN]
    recorded.sources[georef(FIRST)] = RecordedSource(SourceState.DONE, FIRST.id, FIRST.partition, is_missing=True)
    assert plan_kinds(observed, recorded) == []


def test_a_map_over_a_foreign_table_stays() -> None:
    """ls4 has no rows of the collection and does not own its table, so its map keeps serving."""
    observed = ObservedState(documents={COLLECTION.map_key: ["It was not made by ls4."]})
    assert plan_kinds(observed, RecordedState(table=RecordedTable(is_owned=False))) == []
    assert plan(COLLECTION, observed, RecordedState()) == []
    assert plan_kinds(ObservedState(documents={COLLECTION.map_key: []}), RecordedState()) == [ActionKind.REMOVE]


def test_a_public_cog_that_differs_from_the_map_is_copied_again() -> None:
    observed, recorded = consistent_state()
    served = f"{FIRST.served_folder}a.tif"
    observed.cogs |= {served: "9 a", FIRST.cog_key: "9 copied in parts"}
    recorded.frames[FIRST.id] = RecordedFrame(served, "9 a", FIRST.partition)
    assert plan(COLLECTION, observed, recorded) == []
    observed.cogs[FIRST.cog_key] = "8 damaged"
    assert plan_kinds(observed, recorded) == [ActionKind.REPUBLISH]
    recorded.frames[FIRST.id] = RecordedFrame(served, "9 a", FIRST.partition, is_copy_pending=True)
    assert plan_kinds(observed, recorded) == []


def test_the_newest_unread_mosaic_is_kept() -> None:
    """After a rebuild, map workers may still read the previous mosaic. Older ones are left by crashed rebuilds."""
    observed, recorded = consistent_state()
    observed.mosaics["derived/before"] = NOW - timedelta(hours=2)
    assert plan(COLLECTION, observed, recorded) == []
    observed.mosaics["derived/older"] = NOW - timedelta(hours=3)
    (action,) = plan(COLLECTION, observed, recorded)
    assert (action.kind, action.target) == (ActionKind.REMOVE, "derived/older")


def test_an_unlinked_raw_scan_is_linked() -> None:
    observed, recorded = consistent_state()
    observed.scans["bw", FIRST.stem] = f"{FIRST.stem}.TIF"
    reason = f"is not linked to its raw scan {FIRST.stem}.TIF"
    assert plan(COLLECTION, observed, recorded) == [Action(ActionKind.RELINK, FIRST.id, reason, value=f"{FIRST.stem}.TIF")]


STATES = st.sampled_from([None, *SourceState])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_files_of_frames_and_files_not_made_by_ls4_are_never_removed(data: st.DataObject) -> None:
    """Rows, tifs and objects exist or not, in any combination."""
    observed, recorded = ObservedState(), RecordedState()
    recorded.collection = data.draw(st.sampled_from([None, RecordedCollection(2, ("bw",), True, True)]))
    recorded.table = data.draw(st.sampled_from([None, RecordedTable(True, 2), RecordedTable(False)]))
    needed: set[str] = set()
    for frame in FRAMES:
        replaced, older = (f"{frame.served_folder}{version}.tif" for version in "ba")
        state = data.draw(STATES)
        if state is not None:
            has_frame = state != SourceState.REJECTED
            id_, partition = (frame.id, frame.partition) if has_frame else (None, None)
            recorded.sources[georef(frame)] = RecordedSource(state, id_, partition)
        served = data.draw(st.sampled_from([None, frame.cog_key, replaced]))
        if served:
            recorded.frames[frame.id] = RecordedFrame(served, "9", frame.partition, deleted=data.draw(st.booleans()))
        if data.draw(st.booleans()):
            observed.tifs.add(georef(frame))
        observed.cogs |= {key: "9" for key in (frame.cog_key, replaced, older) if data.draw(st.booleans())}
        observed.frame_files |= {key: frame.id for key in (frame.deflate_key, frame.thumbnail_key) if data.draw(st.booleans())}
        if data.draw(st.booleans()):
            recorded.partitions.add(frame.partition)
        if state in LIVE_STATES or served:
            needed |= {frame.cog_key, frame.deflate_key, frame.thumbnail_key, served or ""}
        # The row of the index may be older than the last replacement of the frame.
        has_index = recorded.table and recorded.table.is_owned
        indexed = data.draw(st.sampled_from([None, frame.cog_key, replaced, older])) if has_index else None
        if indexed:
            recorded.served.add(indexed)
            needed.add(indexed)
        if state != SourceState.DELETED:
            # It may be the only copy of a photograph.
            needed.add(frame.cog_key)
    actions = plan(COLLECTION, observed, recorded)
    removed = {action.target for action in actions if action.kind == ActionKind.REMOVE}
    assert not removed & needed
    assert all(action.frame for action in actions if action.kind == ActionKind.REMOVE and "/cog/" in action.target)
    kept = {row.partition for row in recorded.frames.values()} | {row.partition for row in recorded.sources.values()}
    assert not kept & {action.target for action in actions if action.kind == ActionKind.REMOVE_PARTITION}
    if recorded.table and not recorded.table.is_owned:
        assert not [action for action in actions if action.kind in (ActionKind.DROP, ActionKind.INDEX)]
