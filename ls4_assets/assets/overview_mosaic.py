"""The asset overview_mosaic of a collection: the one COG that the map reads when it is zoomed out.

The asset is between tile_index and mapfile, but a failure never blocks the map: ls4 takes the mosaic off the map, which then
reads frames at every scale, and retries with backoff. Painting is in `raster.overview_mosaic`, SQL in `db.overview_mosaics`.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from ls4_assets.assets import events, keys
from ls4_assets.assets.details import AssetDetails
from ls4_assets.db import overview_mosaics as mosaics
from ls4_assets.db.overview_mosaics import FrameChange, MosaicState, OverviewMosaic
from ls4_assets.db.tile_index import collection_lock
from ls4_assets.domain.names import Collection
from ls4_assets.errors import FrameError, NotFoundError
from ls4_assets.raster.overview_grid import Box, Grid, choose_zoom, zoom_resolution
from ls4_assets.raster.overview_mosaic import PAINTING_VERSION, MosaicResult, MosaicTask, build_overview_mosaic
from ls4_assets.raster.overview_painting import PlacedFrame
from ls4_assets.runtime.run_line import KIND_TAG
from resources.archive import Archive
from resources.scratch import scratch_folder

# A new collection with more frames than this gets its map first, and its mosaic in a separate rebuild.
MAP_FIRST = 500
# After this many crashed rebuilds in a row, a rebuild skips the mosaic, in case the mosaic causes the crashes.
_MAX_CRASHES = 3
# Attempts to read an unreadable frame before it is left out until the collection changes again.
_MAX_ATTEMPTS = 5


def overview_mosaic_asset(shard: str, details: AssetDetails) -> dg.AssetsDefinition:
    """The asset of a shard."""

    @dg.asset(
        key=keys.overview_mosaic(shard),
        group_name=shard,
        partitions_def=keys.collection_partitions(shard),
        deps=[keys.tile_index(shard)],
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        kinds={"cog"},
        description="Low-resolution COG of all frames of the collection, which the map reads when it is zoomed out.",
        **details.of(refresh_overview_mosaic, "collection"),
    )
    def overview_mosaic(context: dg.AssetExecutionContext, archive: Archive) -> dg.MaterializeResult[None]:
        collection = events.collection_of(context, shard)
        is_manual = KIND_TAG not in context.run.tags
        with events.log_collection_asset(context, collection):
            result = refresh_overview_mosaic(archive, collection, force=is_manual)
        if reason := (result.metadata or {}).get("not_built"):
            context.log.warning(f"{collection.name} has no overview mosaic for now: {reason}")
        return result

    return overview_mosaic


@dataclass(frozen=True)
class _UploadedMosaic:
    result: MosaicResult
    key: str
    zoom: int
    size: int


def refresh_overview_mosaic(archive: Archive, collection: Collection, *, force: bool = False) -> dg.MaterializeResult[None]:
    """Update the mosaic to the tile index. `force` repaints all tiles. Raises only SQLAlchemyError."""
    started = time.monotonic()
    with collection_lock(archive.database, collection):
        with archive.database.begin() as connection:
            state = mosaics.load_state(connection, collection)
            changes = mosaics.load_changes(connection, collection) if state.extent else []
            is_current = state.on_map and state.format_version == _format_version(state) and not changes
            if state.extent is None or (is_current and not force):
                # If there are no frames, the mapfile asset withdraws the mosaic together with the map.
                mosaics.update_state(connection, collection, revision=state.revision, attempts=0)
                return _result(collection, overview_mosaic="nothing to do", seconds=_seconds_since(started))
        if not state.published and len(changes) > MAP_FIRST:
            return _result(collection, overview_mosaic=f"skipped until the map of {len(changes)} frames is online")
        try:
            if state.rebuilds > _MAX_CRASHES:
                raise FrameError(f"the last {state.rebuilds - 1} rebuilds crashed, so this one skips the mosaic")
            # After two failed attempts the tiles of the previous mosaic may be the cause.
            is_failing = state.attempts > 1 and not state.on_map
            uploaded = _build(archive, collection, state, state.extent, changes, force=force or is_failing)
        except SQLAlchemyError:
            raise
        except Exception as error:  # noqa: BLE001 - no error of the mosaic may block the map
            with archive.database.begin() as connection:
                mosaics.unpublish(connection, collection)
                mosaics.update_state(connection, collection, attempts=state.attempts + 1)
            reason = f"{type(error).__name__}: {error}; ls4 retries it automatically."
            return _result(collection, not_built=reason, seconds=_seconds_since(started))
    return _build_result(archive, collection, uploaded, started)


def withdraw_overview_mosaic(archive: Archive, collection: Collection, revision: int) -> None:
    """Delete all of a collection's mosaics. The caller holds the collection's lock and has already withdrawn the map."""
    with archive.database.begin() as connection:
        mosaics.delete_mosaic(connection, collection, revision)
    _delete_other_versions(archive, collection, kept=())


def _build(
    archive: Archive, collection: Collection, state: MosaicState, extent: Box, changes: list[FrameChange], *, force: bool
) -> _UploadedMosaic:
    engine, storage = archive.database, archive.storage
    with engine.connect() as connection:
        zoom = choose_zoom(mosaics.measure_native_resolution(connection, collection), extent, state.zoom)
    format_version = _format_version(state)
    can_update = not force and (state.format_version, state.zoom) == (format_version, zoom)
    with scratch_folder("ls4-overview-", archive.settings.work_dir) as folder:
        previous = _download(archive, state.key if can_update else None, folder / "previous.tif")
        boxes = [box for change in changes for box in change.boxes]
        if previous is None:
            with engine.connect() as connection:
                boxes = [frame.box for frame in mosaics.load_frames(connection, collection)]

        def frames_in(box: Box) -> list[PlacedFrame]:
            with engine.connect() as connection:
                return mosaics.load_frames(connection, collection, box)

        grid, out = Grid.covering(extent, zoom), folder / "overview_mosaic.tif"
        task = MosaicTask(grid, state.bands, frames_in, boxes, previous, storage.gdal_options())
        result = build_overview_mosaic(task, out, folder)
        if result.left_out and not result.frames:
            raise FrameError(f"none of {len(result.left_out)} frames can be read ({next(iter(result.left_out.values()))})")
        key = collection.overview_mosaic_key(_digest(out))
        size = storage.upload(out, key, may_link=True).size
    is_complete = not result.left_out or state.attempts + 1 >= _MAX_ATTEMPTS
    with engine.begin() as connection:
        mosaic = OverviewMosaic(key, storage.gdal_path(key), format_version, zoom)
        mosaics.publish(connection, collection, mosaic, changes, [frame.order for frame in result.left_out])
        if is_complete:
            mosaics.update_state(connection, collection, revision=state.revision, attempts=0)
        else:
            mosaics.update_state(connection, collection, attempts=state.attempts + 1)
    _delete_other_versions(archive, collection, kept=(key, state.key))
    return _UploadedMosaic(result, key, zoom, size)


def _format_version(state: MosaicState) -> str:
    return f"{PAINTING_VERSION}-{state.bands}"


def _download(archive: Archive, key: str | None, path: Path) -> Path | None:
    """`path` with the object's content; None if `key` is None or the object does not exist."""
    if key is None:
        return None
    try:
        archive.storage.download(key, path)
    except NotFoundError:
        return None
    return path


def _delete_other_versions(archive: Archive, collection: Collection, kept: tuple[str | None, ...]) -> None:
    """Delete mosaics other than `kept`. The previous version is kept too, because map workers may still be reading it."""
    prefix, suffix = collection.overview_mosaic_key("*").split("*")
    for entry in list(archive.storage.list_level(prefix.rpartition("/")[0] + "/")):
        key = entry if isinstance(entry, str) else entry.key
        if key.startswith(prefix) and key.endswith(suffix) and key not in kept:
            archive.storage.delete(key)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _build_result(
    archive: Archive, collection: Collection, mosaic: _UploadedMosaic, started: float
) -> dg.MaterializeResult[None]:
    result = mosaic.result
    reasons = "\n".join(f"{frame.path}: {reason}" for frame, reason in result.left_out.items())
    return _result(
        collection,
        key=mosaic.key,
        link=dg.MetadataValue.url(f"{archive.settings.public_url}/{mosaic.key}"),
        meters_per_pixel=round(zoom_resolution(mosaic.zoom), 3),
        bytes=mosaic.size,
        frames_read=len(result.frames),
        frames_left_out=len(result.left_out),
        tiles_painted=result.tiles_painted,
        tiles_kept=result.tiles_kept,
        seconds=_seconds_since(started),
        **({"left_out": reasons} if reasons else {}),
    )


def _seconds_since(started: float) -> float:
    return round(time.monotonic() - started, 3)


def _result(collection: Collection, **metadata: Any) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(metadata={"collection": collection.name, **metadata})
