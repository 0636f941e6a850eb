"""Publishing the TileJSON and the WMTS capabilities of a collection's tiles. Their content is built in `mapserver.tiles`.

The TileJSON activates a version: the web front end allows caches to keep the tiles of a version forever. So it is written last,
after the index and the mapfile have that version's content.
"""

from sqlalchemy import Connection, func, select

from ls4_assets.db.schema import frame
from ls4_assets.db.tile_index import Extent
from ls4_assets.domain.names import Collection
from mapserver.tiles import TILEJSON_SUFFIX, WMTS_SUFFIX, TileSet, render_documents
from resources.archive import Archive


def publish_tiles(archive: Archive, collection: Collection, extent: Extent, revision: int) -> None:
    """Write the documents, the TileJSON last. `extent` is in EPSG:3857."""
    with archive.database.connect() as connection:
        pixel_size = _median_pixel_size(connection, collection)
    attribution = archive.settings.archive_description.capabilities.attribution
    tiles = TileSet(collection.name, collection.table, collection.title, extent, pixel_size, revision, attribution)
    for suffix, document in render_documents(tiles).items():
        archive.storage.put(collection.map_document_key(suffix), document.encode())


def withdraw_tiles(archive: Archive, collection: Collection) -> None:
    """Delete the documents. The caller has already deleted the map, so nothing links to them."""
    for suffix in (TILEJSON_SUFFIX, WMTS_SUFFIX):
        archive.storage.delete(collection.map_document_key(suffix))


def _median_pixel_size(connection: Connection, collection: Collection) -> float:
    """Median pixel width of the frames in EPSG:3857 meters; 1 if it is unknown."""
    pixel_size = (func.ST_XMax(frame.c.footprint) - func.ST_XMin(frame.c.footprint)) / frame.c.width
    conditions = (frame.c.collection == collection.name, ~frame.c.deleted, frame.c.width > 0, frame.c.footprint.is_not(None))
    return connection.scalar(select(func.percentile_cont(0.5).within_group(pixel_size)).where(*conditions)) or 1.0
