"""The publisher of titiler: one MosaicJSON document for each collection. titiler reads the COGs that it lists.

Format: https://github.com/developmentseed/mosaicjson-spec, version 0.0.3. A document lists the COGs of each tile of one zoom
level, as cogeo-mosaic does. The first COG is on top, so the newest row of the tile index comes first, as on MapServer's map.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from sqlalchemy import LargeBinary, Row, func, select

from ls4_assets.db.schema import tile_index
from ls4_assets.db.tile_index import served_root
from ls4_assets.domain.export_keys import mosaicjson_key
from ls4_assets.domain.names import Collection
from ls4_assets.publishing.map_publisher import CollectionMap, Documents, MapLinks, Point, PublisherCheck, SmokeTestResult
from ls4_assets.raster.gdal_env import GDAL_ERRORS
from ls4_assets.settings import MapPublisherName, MosaicJsonAddresses, Settings
from resources.archive import Archive

# Raise it when the same collection gets another document: all documents are then rewritten.
_VERSION = "2"
# Columns of the tile index with the address of a COG.
_COLUMNS: dict[MosaicJsonAddresses, str] = {"public": "dl_georef", "storage": "served_location"}
_TILE_MATRIX_SET = "WebMercatorQuad"
_TILE_PX = 256
_REQUIRED_FIELDS = {"mosaicjson", "minzoom", "maxzoom", "quadkey_zoom", "bounds", "tiles"}
_TIMEOUT_SECONDS = 10


class MosaicJsonPublisher:
    """derived/<Name>/mosaic.json for each collection."""

    name: MapPublisherName = "mosaicjson"
    noun = "MosaicJSON document"
    validity_check = PublisherCheck(
        "mosaicjson_valid",
        "The MosaicJSON document is complete and lists a COG for each tile. "
        "A document that fails is not published, and the last good map stays.",
    )
    smoke_check = PublisherCheck("mosaicjson_opens", "GDAL opens a COG that the published document lists and finds a photograph.")

    def version(self, settings: Settings) -> str:
        return f"{_VERSION} {settings.mosaicjson_addresses}"

    def render(self, archive: Archive, state: CollectionMap) -> Documents:
        prefix = _address_prefix(archive)
        column = _COLUMNS[archive.settings.mosaicjson_addresses]
        table = tile_index(state.collection)
        footprint = func.ST_AsBinary(table.c.geom, type_=LargeBinary).label("footprint")
        query = select(table.c[column].label("address"), footprint).order_by(table.c.oid.desc())
        with archive.database.connect() as connection:
            rows = connection.execute(query).all()
        return {mosaicjson_key(state.collection): json.dumps(_build_document(state, rows, prefix)).encode()}

    def document_keys(self, collection: Collection) -> tuple[str, ...]:
        return (mosaicjson_key(collection),)

    def validate(self, documents: Documents) -> list[str]:
        return [finding for key, document in documents.items() for finding in _find_faults(key, document)]

    def smoke_test(self, archive: Archive, collection: Collection, point: Point) -> SmokeTestResult:
        import rasterio

        document = json.loads(archive.storage.read(mosaicjson_key(collection)))
        addresses = [f"{document['asset_prefix']}{asset}" for asset in document["tiles"].get(_quadkey(document, point), [])]
        if not addresses:
            return SmokeTestResult("the document", "the document lists no COG where a photograph should be")
        # A run may not reach the public URL, but it always reaches the storage.
        renderer = None if archive.settings.mosaicjson_addresses == "public" else "GDAL"
        with rasterio.Env(GDAL_HTTP_TIMEOUT=_TIMEOUT_SECONDS, **archive.storage.gdal_options()):
            for address in addresses:
                try:
                    with rasterio.open(address) as cog:
                        if next(cog.sample([point], indexes=1, masked=True)).count():
                            return SmokeTestResult(address)
                except GDAL_ERRORS as error:
                    return SmokeTestResult(renderer, f"{address} cannot be opened ({error})")
        return SmokeTestResult("GDAL", "no COG of the document has a pixel where a photograph should be")

    def links(self, collection: Collection, settings: Settings) -> MapLinks:
        url = f"{settings.public_url}/{mosaicjson_key(collection)}"
        title = f"{collection.label} (MosaicJSON for titiler)"
        stac = {"rel": "related", "href": url, "type": "application/json", "title": title}
        return MapLinks(url, {"mosaicjson": url}, (stac,), {"mosaicjson": url})


def _build_document(state: CollectionMap, rows: Sequence[Row[Any]], prefix: str) -> dict[str, Any]:
    """The document of `rows`, top frame first."""
    import morecantile
    import shapely

    tms = morecantile.tms.get(_TILE_MATRIX_SET)
    footprints = shapely.from_wkb([bytes(row.footprint) for row in rows])
    boxes = shapely.bounds(footprints)
    widths = sorted(boxes[:, 2] - boxes[:, 0])
    # The zoom at which a frame is about as wide as a tile: a tile of it, and its quadkey, then have only a few frames.
    minzoom = tms.zoom_for_res(widths[len(widths) // 2] / _TILE_PX)
    maxzoom = max(minzoom, tms.zoom_for_res(state.pixel_size))
    tiles: dict[str, list[str]] = {}
    bounds_of, quadkey_of = cache(tms.xy_bounds), cache(tms.quadkey)
    for row, footprint, box in zip(rows, footprints, boxes, strict=True):
        for tile in _tiles(tms, box, minzoom):
            if footprint.intersects(shapely.box(*bounds_of(tile))):
                tiles.setdefault(quadkey_of(tile), []).append(row.address.removeprefix(prefix))
    (west, south), (east, north) = tms.lnglat(*state.extent[:2]), tms.lnglat(*state.extent[2:])
    return {
        "mosaicjson": "0.0.3",
        "name": state.collection.label,
        "version": f"1.{state.revision}.0",
        "minzoom": minzoom,
        "maxzoom": maxzoom,
        "quadkey_zoom": minzoom,
        "bounds": [west, south, east, north],
        "center": [(west + east) / 2, (south + north) / 2, minzoom],
        "asset_prefix": prefix,
        "tiles": {quadkey: tiles[quadkey] for quadkey in sorted(tiles)},
    }


def _tiles(tms: Any, box: Sequence[float], zoom: int) -> Iterator[Any]:
    """Tiles that meet a box in EPSG:3857 meters. `TileMatrixSet.tiles` takes degrees, which costs a millisecond per frame."""
    import morecantile

    matrix = tms.matrix(zoom)
    left, top = matrix.pointOfOrigin
    span = matrix.cellSize * matrix.tileWidth
    for column in range(int((box[0] - left) // span), int((box[2] - left) // span) + 1):
        for row in range(int((top - box[3]) // span), int((top - box[1]) // span) + 1):
            yield morecantile.Tile(column, row, zoom)


def _quadkey(document: dict[str, Any], point: Point) -> str:
    import morecantile

    tms = morecantile.tms.get(_TILE_MATRIX_SET)
    return str(tms.quadkey(tms.tile(*tms.lnglat(*point), document["quadkey_zoom"])))


def _address_prefix(archive: Archive) -> str:
    """What all addresses begin with. The document has it once, because a collection may have ten thousand COGs."""
    is_public = archive.settings.mosaicjson_addresses == "public"
    return f"{archive.settings.public_url}/" if is_public else served_root(archive.storage)


def _find_faults(key: str, document: bytes) -> Iterator[str]:
    try:
        fields = json.loads(document)
    except ValueError as error:
        yield f"{key} is not JSON: {error}."
        return
    if not isinstance(fields, dict) or not fields.keys() >= _REQUIRED_FIELDS:
        yield f"{key} is not a MosaicJSON document."
    elif not fields["tiles"] or not all(fields["tiles"].values()):
        yield f"{key} lists no COG for some of its tiles."
