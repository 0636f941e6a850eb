"""The asset overview_mosaic of a collection: the one COG that the map reads when it is zoomed out.

It stands between tile_index and mapfile, but the map never waits for it: a mosaic that cannot be made is taken off the map, which
then reads frames at every scale, and is tried again ever more seldom.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ls4_assets.assets import events, keys
from ls4_assets.db import overview_mosaics as mosaics
from ls4_assets.db.overview_mosaics import Change, Mosaic, State
from ls4_assets.db.tile_index import collection_lock
from ls4_assets.domain.names import Collection
from ls4_assets.errors import FrameError, NotFoundError
from ls4_assets.raster.overview_grid import Box, Grid, choose_zoom, resolution
from ls4_assets.raster.overview_mosaic import PAINTING_VERSION, Made, Order, build_overview_mosaic
from ls4_assets.raster.overview_painting import PlacedFrame
from ls4_assets.settings import Settings
from resources.archive import Archive
from resources.open import s3_server_options
from resources.scratch import scratch_folder

# Frames that a collection without a map does not wait for: it gets its map first, and the mosaic by a rebuild of its own.
MAP_FIRST = 500
# Rebuilds that may die in a row before one leaves the mosaic out, in case it is the mosaic that kills them.
_DEATHS = 3
# Times that frames which could not be read are tried again, before they are left out until the collection next changes.
_TRIES = 5


def overview_mosaic_asset(shard: str) -> dg.AssetsDefinition:
    """The asset of a shard."""

    @dg.asset(
        key=keys.overview_mosaic(shard),
        group_name=shard,
        partitions_def=keys.collection_partitions(shard),
        deps=[keys.tile_index(shard)],
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        kinds={"cog"},
        description="One coarse COG of all frames of a collection, which the map reads when it is zoomed out.",
    )
    def overview_mosaic(context: dg.AssetExecutionContext, archive: Archive) -> dg.MaterializeResult[None]:
        of = Collection.from_partition(shard, context.partition_key)
        by_hand = keys.KIND_TAG not in context.run.tags
        with events.logged(context, of):
            result = refresh_overview_mosaic(archive, of, force=by_hand)
        if why := (result.metadata or {}).get("not_made"):
            context.log.warning(f"{of.name} has no overview mosaic for now: {why}")
        return result

    return overview_mosaic


@dataclass(frozen=True)
class _Built:
    made: Made
    key: str
    zoom: int
    size: int


def refresh_overview_mosaic(archive: Archive, of: Collection, *, force: bool = False) -> dg.MaterializeResult[None]:
    """Bring the mosaic up to date with the tile index; `anew`: no tile is taken over. Never raises but for the database."""
    started = time.monotonic()
    with collection_lock(archive.database, of):
        with archive.database.begin() as connection:
            now = mosaics.state(connection, of)
            changed = mosaics.changes(connection, of) if now.extent else []
            same = now.on_map and now.format_version == _format_version(now) and not changed and not force
            if now.extent is None or same:
                # Without frames the mosaic is withdrawn with the map.
                mosaics.note(connection, of, revision=now.revision, attempts=0)
                return _result(of, overview_mosaic="nothing to do", seconds=_since(started))
        if not now.published and len(changed) > MAP_FIRST:
            return _result(of, overview_mosaic=f"the map of {len(changed)} frames comes first, the mosaic follows by itself")
        try:
            if now.rebuilds > _DEATHS:
                raise FrameError(f"the last {now.rebuilds - 1} rebuilds died, so this one leaves it out")
            # Tiles of a mosaic over which the last two attempts failed may be what is wrong.
            failing = now.attempts > 1 and not now.on_map
            built = _build(archive, of, now, now.extent, changed, force=force or failing)
        except SQLAlchemyError:
            raise
        except Exception as fault:  # noqa: BLE001 - whatever it is, the map must not wait for it
            with archive.database.begin() as connection:
                mosaics.take_off(connection, of)
                mosaics.note(connection, of, attempts=now.attempts + 1)
            return _result(of, not_made=f"{type(fault).__name__}: {fault}; it is tried again by itself.", seconds=_since(started))
    return _told(archive, of, built, started)


def withdraw_overview_mosaic(archive: Archive, of: Collection, revision: int) -> None:
    """Remove all of a collection's mosaics; the caller holds the collection's lock, and no map reads them any more."""
    with archive.database.begin() as connection:
        mosaics.forget(connection, of, revision)
    _remove_others(archive, of, kept=())


def _build(archive: Archive, of: Collection, now: State, extent: Box, changed: list[Change], *, force: bool) -> _Built:
    engine, storage = archive.database, archive.storage
    with engine.connect() as connection:
        zoom = choose_zoom(mosaics.native_resolution(connection, of), extent, now.zoom)
    format_version = _format_version(now)
    base = now.key if not force and (now.format_version, now.zoom) == (format_version, zoom) else None
    with scratch_folder("ls4-overview-", archive.settings.work_dir) as folder:
        previous = _fetched(archive, base, folder / "previous.tif")
        boxes = [box for change in changed for box in change.boxes]
        if previous is None:
            with engine.connect() as connection:
                boxes = [frame.box for frame in mosaics.frames_in(connection, of)]

        def frames_in(box: Box) -> list[PlacedFrame]:
            with engine.connect() as connection:
                return mosaics.frames_in(connection, of, box)

        grid, out = Grid.around(extent, zoom), folder / "overview_mosaic.tif"
        order = Order(grid, now.bands, frames_in, boxes, previous, _gdal_options(archive.settings))
        made = build_overview_mosaic(order, out, folder)
        if made.left_out and not made.frames:
            raise FrameError(f"none of {len(made.left_out)} frames can be read ({next(iter(made.left_out.values()))})")
        key = of.overview_mosaic_key(_digest(out))
        size = storage.upload(out, key, may_link=True).size
    complete = not made.left_out or now.attempts + 1 >= _TRIES
    with engine.begin() as connection:
        mosaic = Mosaic(key, storage.gdal_path(key), format_version, zoom)
        mosaics.publish(connection, of, mosaic, changed, [frame.order for frame in made.left_out])
        _note_outcome(connection, of, now, complete=complete)
    _remove_others(archive, of, kept=(key, now.key))
    return _Built(made, key, zoom, size)


def _format_version(now: State) -> str:
    return f"{PAINTING_VERSION}-{now.bands}"


def _note_outcome(connection: Connection, of: Collection, now: State, *, complete: bool) -> None:
    if complete:
        mosaics.note(connection, of, revision=now.revision, attempts=0)
    else:
        mosaics.note(connection, of, attempts=now.attempts + 1)


def _fetched(archive: Archive, key: str | None, path: Path) -> Path | None:
    if key is None:
        return None
    try:
        archive.storage.download(key, path)
    except NotFoundError:
        return None
    return path


def _remove_others(archive: Archive, of: Collection, kept: tuple[str | None, ...]) -> None:
    """Remove mosaics but those kept. The one just replaced is kept until the next: some worker may be reading it."""
    prefix, suffix = of.overview_mosaic_key("*").split("*")
    for found in list(archive.storage.level(prefix.rpartition("/")[0] + "/")):
        key = found if isinstance(found, str) else found.key
        if key.startswith(prefix) and key.endswith(suffix) and key not in kept:
            archive.storage.delete(key)


def _gdal_options(settings: Settings) -> dict[str, str]:
    """Where a bucket on S3 is; credentials GDAL finds as boto3 does."""
    region = {"AWS_REGION": settings.s3_region} if settings.s3_region else {}
    return region | s3_server_options(settings)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _told(archive: Archive, of: Collection, built: _Built, started: float) -> dg.MaterializeResult[None]:
    made = built.made
    faults = {"left_out": "\n".join(f"{frame.path}: {why}" for frame, why in made.left_out.items())} if made.left_out else {}
    return _result(
        of,
        key=built.key,
        link=dg.MetadataValue.url(f"{archive.settings.public_url}/{built.key}"),
        metres_a_pixel=round(resolution(built.zoom), 3),
        bytes=built.size,
        frames_read=len(made.frames),
        frames_left_out=len(made.left_out),
        tiles_painted=made.tiles_painted,
        tiles_kept=made.tiles_kept,
        seconds=_since(started),
        **faults,
    )


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


def _result(of: Collection, **told: Any) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(metadata={"collection": of.name, **told})
