"""What is published beside a collection's mapfile: TileJSON and WMTS capabilities of its tiles.

With the TileJSON a version comes into force: the front lets every cache keep the tiles of that version for good. So it is put
last, when index and mapfile show what the version stands for.
"""

from sqlalchemy import Connection, func, select

from ls4_assets.db.schema import frame
from ls4_assets.db.tile_index import Extent
from ls4_assets.domain.names import Collection
from mapserver.tiles import TILEJSON_SUFFIX, WMTS_SUFFIX, TileSet, documents
from resources.archive import Archive


def publish_tiles(archive: Archive, of: Collection, extent: Extent, revision: int) -> None:
    """Put the documents, the one that names the version last."""
    with archive.database.connect() as connection:
        pixel = resolution(connection, of)
    tiles = TileSet(of.name, of.table, of.title, extent, pixel, revision)
    for suffix, document in documents(tiles).items():
        archive.storage.put(of.map_document_key(suffix), document.encode())


def withdraw_tiles(archive: Archive, of: Collection) -> None:
    """The map is gone already: nobody is led to the documents any more."""
    for suffix in (TILEJSON_SUFFIX, WMTS_SUFFIX):
        archive.storage.delete(of.map_document_key(suffix))


def resolution(connection: Connection, of: Collection) -> float:
    """Metres of EPSG:3857 that a pixel of the frames is wide, in the middle of all of them; 1 where it is unknown."""
    pixel = (func.ST_XMax(frame.c.footprint) - func.ST_XMin(frame.c.footprint)) / frame.c.width
    shown = (frame.c.collection == of.name, ~frame.c.deleted, frame.c.width > 0, frame.c.footprint.is_not(None))
    return connection.scalar(select(func.percentile_cont(0.5).within_group(pixel)).where(*shown)) or 1.0
