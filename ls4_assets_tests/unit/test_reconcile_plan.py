"""What a comparison concludes, and above all what it never concludes, whatever is listed and known."""

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from ls4_assets.db.schema import LIVE, SourceState
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.operations.reconcile.model import (
    Action,
    Kind,
    Known,
    KnownCollection,
    KnownFrame,
    KnownSource,
    KnownTable,
    Listed,
)
from ls4_assets.operations.reconcile.plan import plan

OF = Collection("Travis", "USDA_1958", "frames")
FRAMES = [Frame(OF, "bw", f"02-08-60_6-{number}") for number in range(1, 5)]
FIRST = FRAMES[0]
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def georef(frame: Frame) -> str:
    return f"{frame.folder}/georef/{frame.stem}.tif"


def in_step() -> tuple[Listed, Known]:
    """Two frames, all of whose parts are there."""
    two = FRAMES[:2]
    listed = Listed(
        tifs={georef(frame) for frame in two},
        cogs={frame.cog_key: "9" for frame in two},
        made={frame.deflate_key: frame.id for frame in two} | {frame.thumbnail_key: frame.id for frame in two},
        index_files={OF.tile_index_key("bw", suffix): 116 for suffix in (".shp", ".shx", ".dbf", ".prj", ".cpg", "_idx.zip")},
        mosaics={"derived/mosaic": NOW},
        documents={".map": [], ".tilejson": [], ".wmts": []},
    )
    known = Known(
        row=KnownCollection(2, ("bw",), published=True, settled=True),
        frames={frame.id: KnownFrame(frame.cog_key, "9", frame.partition) for frame in two},
        sources={georef(frame): KnownSource(SourceState.DONE, frame.id, frame.partition) for frame in two},
        table=KnownTable(ours=True, rows=2),
        served={frame.cog_key for frame in two},
        mosaic="derived/mosaic",
        mosaics={"derived/mosaic"},
        partitions={frame.partition for frame in two},
        collection_partition=True,
    )
    return listed, known


def kinds(listed: Listed, known: Known) -> list[Kind]:
    return [action.kind for action in plan(OF, listed, known)]


def test_what_is_in_step_asks_for_nothing() -> None:
    assert plan(OF, *in_step()) == []


def test_an_intermediate_that_expired_is_not_missed() -> None:
    listed, known = in_step()
    listed.made.clear()
    assert plan(OF, listed, known) == []


def test_nothing_is_concluded_of_what_a_rebuild_will_change_anyway() -> None:
    listed, known = in_step()
    known.row = KnownCollection(2, ("bw",), published=True, settled=False)
    listed.index_files.clear()
    listed.documents.clear()
    assert plan(OF, listed, known) == []


def test_a_cog_that_waits_to_be_made_is_not_asked_for_twice() -> None:
    listed, known = in_step()
    del listed.cogs[FIRST.cog_key]
    assert kinds(listed, known) == [Kind.REQUEUE]
    known.sources[georef(FIRST)] = KnownSource(SourceState.QUEUED, FIRST.id, FIRST.partition)
    assert kinds(listed, known) == []


def test_a_deletion_that_is_held_is_left_to_the_operator() -> None:
    listed, known = in_step()
    listed.tifs.discard(georef(FIRST))
    assert kinds(listed, known) == [Kind.LOOK]
    known.sources[georef(FIRST)] = KnownSource(SourceState.DONE, FIRST.id, FIRST.partition, away=True)
    assert kinds(listed, known) == []


def test_a_map_of_lambda_s4_stays_with_its_table() -> None:
    """Of the collection nothing is known, and its table is another's: it goes on being served."""
    listed = Listed(documents={".map": ["It is not ours."]})
    assert [action.kind for action in plan(OF, listed, Known(table=KnownTable(ours=False)))] == []
    assert plan(OF, listed, Known()) == []
    assert [action.kind for action in plan(OF, Listed(documents={".map": []}), Known())] == [Kind.REMOVE]


def test_a_public_cog_that_is_not_the_one_of_the_map_is_copied_again() -> None:
    listed, known = in_step()
    served = f"{FIRST.served_folder}a.tif"
    listed.cogs |= {served: "9 a", FIRST.cog_key: "9 copied in parts"}
    known.frames[FIRST.id] = KnownFrame(served, "9 a", FIRST.partition)
    assert plan(OF, listed, known) == []
    listed.cogs[FIRST.cog_key] = "8 torn"
    assert kinds(listed, known) == [Kind.REPUBLISH]
    known.frames[FIRST.id] = KnownFrame(served, "9 a", FIRST.partition, follows=True)
    assert kinds(listed, known) == []


def test_of_mosaics_that_no_map_reads_the_last_is_kept() -> None:
    """A rebuild leaves it to the workers that read it; only what a dead one left goes."""
    listed, known = in_step()
    listed.mosaics["derived/before"] = NOW - timedelta(hours=2)
    assert plan(OF, listed, known) == []
    listed.mosaics["derived/older"] = NOW - timedelta(hours=3)
    assert [(action.kind, action.target) for action in plan(OF, listed, known)] == [(Kind.REMOVE, "derived/older")]


def test_links_follow_the_scans() -> None:
    listed, known = in_step()
    listed.scans["bw", FIRST.stem] = f"{FIRST.stem}.TIF"
    why = f"its raw scan {FIRST.stem}.TIF is not linked"
    assert plan(OF, listed, known) == [Action(Kind.RELINK, FIRST.id, why, value=f"{FIRST.stem}.TIF")]


STATES = st.sampled_from([None, *SourceState])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_nothing_is_ever_removed_that_a_frame_has_or_that_ls4_did_not_make(data: st.DataObject) -> None:
    """Rows, tifs and objects there or not in any combination."""
    listed, known = Listed(), Known(row=data.draw(st.sampled_from([None, KnownCollection(2, ("bw",), True, True)])))
    known.table = data.draw(st.sampled_from([None, KnownTable(True, 2), KnownTable(False)]))
    alive: set[str] = set()
    for frame in FRAMES:
        replaced, older = (f"{frame.served_folder}{version}.tif" for version in "ba")
        state = data.draw(STATES)
        if state is not None:
            named = state != SourceState.REJECTED
            known.sources[georef(frame)] = KnownSource(state, frame.id if named else None, frame.partition if named else None)
        served = data.draw(st.sampled_from([None, frame.cog_key, replaced]))
        if served:
            known.frames[frame.id] = KnownFrame(served, "9", frame.partition, deleted=data.draw(st.booleans()))
        if data.draw(st.booleans()):
            listed.tifs.add(georef(frame))
        listed.cogs |= {key: "9" for key in (frame.cog_key, replaced, older) if data.draw(st.booleans())}
        listed.made |= {key: frame.id for key in (frame.deflate_key, frame.thumbnail_key) if data.draw(st.booleans())}
        if data.draw(st.booleans()):
            known.partitions.add(frame.partition)
        if state in LIVE or served:
            alive |= {frame.cog_key, frame.deflate_key, frame.thumbnail_key, served or ""}
        # A row of the index, which may be of before the frame was replaced last.
        shown = data.draw(st.sampled_from([None, frame.cog_key, replaced, older])) if known.table and known.table.ours else None
        if shown:
            known.served.add(shown)
            alive.add(shown)
        if state != SourceState.DELETED:
            # The only copy of a photograph, for all that is known.
            alive.add(frame.cog_key)
    actions = plan(OF, listed, known)
    removed = {action.target for action in actions if action.kind == Kind.REMOVE}
    assert not removed & alive
    assert all(action.frame for action in actions if action.kind == Kind.REMOVE and "/cog/" in action.target)
    kept = {row.partition for row in known.frames.values()} | {row.partition for row in known.sources.values()}
    assert not kept & {action.target for action in actions if action.kind == Kind.REMOVE_PARTITION}
    if known.table and not known.table.ours:
        assert not [action for action in actions if action.kind in (Kind.DROP, Kind.INDEX)]
