"""What is out of step in one collection, and what would mend it: pure functions over what is listed and what is known.

Nothing is removed but what ls4 itself made and knows to be of nothing any more. A COG of which it never heard is no orphan: it
may be all that there is of a photograph, and is only told of. An intermediate that is missing has expired, and is not missed.
"""

from collections.abc import Iterator

from ls4_assets.db.schema import LIVE, SourceState
from ls4_assets.domain.names import FILM_TYPES, SHAPEFILE_SUFFIXES, Collection, Frame
from ls4_assets.operations.reconcile.model import DOCUMENTS, TAKING, Action, Kind, Known, Listed

# Of an index's shapefile, its .shx tells by its size how many frames it has.
_SHX_HEADER, _SHX_RECORD = 100, 8


def plan(of: Collection, listed: Listed, known: Known) -> list[Action]:
    """All that is out of step, in the order in which it is mended."""
    return [
        *_sources(listed, known),
        *_frames(listed, known),
        *_scans(listed, known),
        *_table(of, listed, known),
        *_files(of, listed, known),
        *_mosaic(listed, known),
        *_documents(of, listed, known),
        *_orphans(of, listed, known),
        *_partitions(of, known),
    ]


def lost_frames(actions: list[Action]) -> set[str]:
    """Of which frames something would go, for the guard before deletions."""
    return {action.frame for action in actions if action.kind in TAKING and action.frame}


def _sources(listed: Listed, known: Known) -> Iterator[Action]:
    for key in sorted(listed.tifs):
        row = known.sources.get(key)
        if row is None or row.state == SourceState.DELETED:
            yield Action(Kind.LOOK, key, "lies in georef/ and is not known")
    for key, row in sorted(known.sources.items()):
        if row.state != SourceState.DELETED and not row.away and key not in listed.tifs:
            yield Action(Kind.LOOK, key, "is known and does not lie in georef/")


def _frames(listed: Listed, known: Known) -> Iterator[Action]:
    idle = {row.frame: key for key, row in known.sources.items() if row.state in (SourceState.DONE, SourceState.FAILED)}
    can_be_made = {frame for frame, key in idle.items() if frame and key in listed.tifs}
    for id_, row in sorted(known.frames.items()):
        if row.deleted or row.served_key is None:
            continue
        found = listed.cogs.get(row.served_key)
        if found is None and id_ in can_be_made:
            yield Action(Kind.REQUEUE, id_, "its COG is missing")
        elif found is None and row.alone:
            yield Action(Kind.WITHDRAW, id_, "its COG, all that there was of it, is missing", id_)
        elif found is not None and found != row.print and row.adopted:
            yield Action(Kind.UNKNOWN, row.served_key, "was replaced by another COG since it was adopted")
        elif found is not None and found != row.print and id_ in can_be_made:
            yield Action(Kind.REQUEUE, id_, "its COG is not the one that was put there")
        elif found is not None and not row.follows and (why := _public_fault(listed, Frame.from_id(id_).cog_key, found)):
            yield Action(Kind.REPUBLISH, id_, why)
    for id_ in sorted(can_be_made - known.frames.keys()):
        if known.sources[idle[id_]].state == SourceState.DONE:
            yield Action(Kind.REQUEUE, id_, "nothing is known of what was made of it")


def _public_fault(listed: Listed, public: str, served: str) -> str | None:
    """A copy has the bytes of the COG that the map reads, but not always its version."""
    if public not in listed.cogs:
        return f"{public} is missing"
    same = listed.cogs[public].split()[0] == served.split()[0]
    return None if same else f"{public} is not the COG that the map reads"


def _scans(listed: Listed, known: Known) -> Iterator[Action]:
    for id_, row in sorted(known.frames.items()):
        stem = Frame.from_id(id_).scan_stem
        there = listed.scans.get((id_.partition("/")[0], stem)) if stem else None
        if not row.deleted and there != row.scan_file:
            why = f"its raw scan {there} is not linked" if there else f"its raw scan {row.scan_file} is not there any more"
            yield Action(Kind.RELINK, id_, why, value=there)


def _table(of: Collection, listed: Listed, known: Known) -> Iterator[Action]:
    row, table = known.row, known.table
    live = any(not frame.deleted for frame in known.frames.values())
    if table and not table.ours:
        if row or listed.cogs:
            yield Action(Kind.FOREIGN, of.table, "is a table of another hand's making")
    elif table and not (known.frames or listed.tifs or listed.cogs) and (row is None or row.settled):
        yield Action(Kind.DROP, of.table, "is the table of a collection that has no frame")
    elif row and row.settled and row.frames and not table and live:
        yield Action(Kind.INDEX, of.table, "is missing")
    elif row and table and (table.missing or table.extra or table.odd or (row.settled and table.rows != row.frames)):
        counts = f"{table.missing} missing, {table.extra} too many, {table.odd} pointing elsewhere, {table.rows} in all"
        yield Action(Kind.INDEX, of.table, f"does not show the frames as they are ({counts})")


def _files(of: Collection, listed: Listed, known: Known) -> Iterator[Action]:
    row = known.row
    if row is None or not row.settled:
        return
    for film_type in FILM_TYPES:
        keys = [of.tile_index_key(film_type, suffix) for suffix in (*SHAPEFILE_SUFFIXES, "_idx.zip")]
        if film_type in row.bands and row.frames:
            if gone := [key for key in keys if not listed.index_files.get(key)]:
                yield Action(Kind.FILES, gone[0], "is missing or empty")
            elif listed.index_files[keys[1]] != _SHX_HEADER + _SHX_RECORD * row.frames:
                yield Action(Kind.FILES, keys[1], f"has not the {row.frames} frames of the table")
        else:
            for key in keys:
                if key in listed.index_files and key not in listed.young:
                    yield Action(Kind.REMOVE, key, "is the index of a band without frames")


def _mosaic(listed: Listed, known: Known) -> Iterator[Action]:
    if known.mosaic and known.mosaic not in listed.mosaics:
        yield Action(Kind.MOSAIC, known.mosaic, "is missing, and the map reads it")
    if known.row:
        unread = listed.mosaics.keys() - known.mosaics - {known.mosaic or ""}
        # The one before is kept on purpose: some worker may be reading it still.
        kept = max(unread, key=lambda key: listed.mosaics[key], default="")
        for key in sorted(unread - listed.young - {kept}):
            yield Action(Kind.REMOVE, key, "is an overview mosaic that no map reads")


def _documents(of: Collection, listed: Listed, known: Known) -> Iterator[Action]:
    row = known.row
    if row and row.published and row.frames:
        for suffix in DOCUMENTS:
            key, wrong = of.map_document_key(suffix), listed.documents.get(suffix)
            if wrong is None and row.settled:
                yield Action(Kind.MAP, key, "is missing")
            elif wrong:
                yield Action(Kind.MAP, key, f"is not whole: {' '.join(wrong)}")
    elif (row is None or row.withdrawn) and not (known.frames or listed.tifs or listed.cogs or is_foreign(known)):
        for suffix, wrong in listed.documents.items():
            # What ls4 would not publish it has not made.
            if (key := of.map_document_key(suffix)) not in listed.young and not wrong:
                yield Action(Kind.REMOVE, key, "is the map of a collection that has no frame")


def _orphans(of: Collection, listed: Listed, known: Known) -> Iterator[Action]:
    kept = known.frames.keys() | {row.frame for row in known.sources.values() if row.state in LIVE}
    meant = {row.frame for row in known.sources.values() if row.state == SourceState.DELETED} - kept
    read = known.served | {row.served_key for row in known.frames.values()}
    for key in sorted(listed.cogs.keys() - listed.young):
        id_ = _id_of(of, key)
        if key in read or (key == Frame.from_id(id_).cog_key and id_ in kept):
            continue
        if (id_ in meant and not is_foreign(known)) or (key.startswith("derived/") and known.row):
            yield Action(Kind.REMOVE, key, "is a COG that no map reads, of a frame that is gone or was replaced", id_)
        else:
            yield Action(Kind.UNKNOWN, key, "is a COG of which nothing is known")
    if known.row:
        for key, id_ in sorted(listed.made.items()):
            if id_ not in kept and key not in listed.young:
                yield Action(Kind.REMOVE, key, "was made of a frame that is gone", id_)


def _partitions(of: Collection, known: Known) -> Iterator[Action]:
    asked = (SourceState.DONE, SourceState.FAILED, SourceState.REQUESTED)
    wanted = {row.partition for row in known.frames.values() if not row.deleted}
    wanted |= {row.partition for row in known.sources.values() if row.state in asked and row.partition}
    # Those of what waits may be there already; those of what is gone are the sensor's to remove.
    allowed = wanted | {row.partition for row in known.frames.values()} | {row.partition for row in known.sources.values()}
    for partition in sorted(wanted - known.partitions):
        yield Action(Kind.ADD_PARTITION, partition, "is no partition in the Dagster UI")
    for partition in sorted(known.partitions - allowed):
        yield Action(Kind.REMOVE_PARTITION, partition, "is a partition of nothing", f"{partition} in the Dagster UI")
    if known.row and known.row.published and not known.collection_partition:
        yield Action(Kind.ADD_PARTITION, of.partition, "is no partition in the Dagster UI")
    if known.row is None and known.collection_partition:
        yield Action(Kind.REMOVE_PARTITION, of.partition, "is a partition of nothing")


def is_foreign(known: Known) -> bool:
    """Does the map read a table of another hand's making?"""
    return known.table is not None and not known.table.ours


def _id_of(of: Collection, key: str) -> str:
    """Of the frame that a COG is of: bw/.../cog/<stem>.tif, or derived/<Name>/served/<band>/<stem>/<version>.tif."""
    parts = key.split("/")
    film_type, stem = (parts[3], parts[4]) if parts[0] == "derived" else (parts[0], parts[-1].rpartition(".")[0])
    return f"{film_type}/{of.shard}/{of.partition}/{stem}"
