"""TileJSON and WMTS capabilities of one collection's web map tiles: rendering them from plain data, and validating them.

Pure: publishing them is in `ls4_assets.publishing.maps`. Both documents are stored beside the mapfile and name no host:
addresses start with a slash, and nginx inserts scheme and host of the request. nginx also reads bounds and version from the
TileJSON (mapserver/front_end.js). Sources: TileJSON 3.0.0, and OGC WMTS 1.0.0 with the scale set GoogleMapsCompatible.
"""

import json
import math
import re
from dataclasses import dataclass
from xml.etree import ElementTree

from mapserver.rendering import Extent, render_template

TILEJSON_SUFFIX = ".tilejson"
WMTS_SUFFIX = ".wmts"

# Half the width of the world, and the meters per pixel at zoom 0, both in EPSG:3857.
HALF_WORLD_METERS = 20037508.342789244
ZOOM_0_RESOLUTION = 2 * HALF_WORLD_METERS / 256
# OGC scale denominators assume a pixel of 0.28 mm.
_PIXELS_PER_METER = 1 / 0.00028
MAX_ZOOM = 24
# Frames that are finer than a zoom level by at most this many levels still count as that level.
_ZOOM_TOLERANCE = 0.2


@dataclass(frozen=True)
class TileSet:
    """The input of one collection's documents.

    name: the imagery layer (`Adams_USDA_1958_frames`). table: the address under `/tiles/`.
    extent: of all footprints, in EPSG:3857 meters. resolution: EPSG:3857 meters per pixel of the frames.
    version: changes with everything that the map shows; None: tiles must not be cached. attribution: clients show it on the map.
    license: the access constraints of WMTS.
    """

    name: str
    table: str
    title: str
    extent: Extent
    resolution: float
    version: int | None
    attribution: str | None = None
    license: str | None = None

    @property
    def maxzoom(self) -> int:
        """The zoom level that shows every pixel of the frames."""
        return min(MAX_ZOOM, max(0, math.ceil(math.log2(ZOOM_0_RESOLUTION / self.resolution) - _ZOOM_TOLERANCE)))

    @property
    def bounds(self) -> Extent:
        """West, south, east, north in degrees, rounded outward."""
        left, bottom, right, top = self.extent
        south, north = (_latitude(y) for y in (bottom, top))
        west, east = (x / HALF_WORLD_METERS * 180 for x in (left, right))
        return (_floor(west), _floor(south), -_floor(-east), -_floor(-north))

    def template(self, extension: str) -> str:
        """The address of a tile, with {z}, {x} and {y}. `extension`: png or webp."""
        return f"/tiles/{self.table}/{{z}}/{{x}}/{{y}}.{extension}" + ("" if self.version is None else f"?v={self.version}")

    def tile_limits(self, zoom: int) -> tuple[int, int, int, int]:
        """First and last column, first and last row of the tiles that meet the extent."""
        side = 2 * HALF_WORLD_METERS / 2**zoom
        left, bottom, right, top = self.extent
        last = 2**zoom - 1
        positions = (
            (left + HALF_WORLD_METERS) / side,
            (right + HALF_WORLD_METERS) / side,
            (HALF_WORLD_METERS - top) / side,
            (HALF_WORLD_METERS - bottom) / side,
        )
        first_column, last_column, first_row, last_row = (min(last, max(0, math.floor(position))) for position in positions)
        return first_column, last_column, first_row, last_row


def render_documents(tile_set: TileSet) -> dict[str, str]:
    """The documents to publish beside the mapfile, by suffix. The TileJSON is last: it makes the new version current."""
    return {WMTS_SUFFIX: render_wmts(tile_set), TILEJSON_SUFFIX: render_tilejson(tile_set)}


def render_tilejson(tile_set: TileSet) -> str:
    """TileJSON 3.0.0, of WebP tiles. nginx writes the addresses of PNG tiles for clients that ask with `format=png`."""
    west, south, east, north = tile_set.bounds
    document = {
        "tilejson": "3.0.0",
        "name": tile_set.title,
        "description": f"Scanned and georeferenced aerial photographs: {tile_set.title}.",
        **({} if tile_set.version is None else {"version": f"1.{tile_set.version}.0"}),
        **({"attribution": tile_set.attribution} if tile_set.attribution else {}),
        "scheme": "xyz",
        "tiles": [tile_set.template("webp")],
        "minzoom": 0,
        "maxzoom": tile_set.maxzoom,
        "bounds": [west, south, east, north],
        "center": [round((west + east) / 2, 6), round((south + north) / 2, 6), _overview_zoom(tile_set)],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def render_wmts(tile_set: TileSet) -> str:
    """WMTS 1.0.0 capabilities of the same tiles, RESTful and with key-value parameters (services.js)."""
    matrices = [
        {
            "zoom": zoom,
            "scale": ZOOM_0_RESOLUTION / 2**zoom * _PIXELS_PER_METER,
            "size": 2**zoom,
            "limits": tile_set.tile_limits(zoom),
        }
        for zoom in range(tile_set.maxzoom + 1)
    ]
    # PNG only: OWSLib ignores the requested format where the capabilities list two.
    template = tile_set.template("png").replace("{z}", "{TileMatrix}").replace("{x}", "{TileCol}").replace("{y}", "{TileRow}")
    return render_template("wmts.xml.j2", tile_set=tile_set, half=HALF_WORLD_METERS, matrices=matrices, template=template)


def validate_tilejson(text: str) -> list[str]:
    """The faults of a TileJSON that is about to be served, as sentences; empty when it is valid."""
    try:
        document = json.loads(text)
    except ValueError as error:
        return [f"The document is not JSON: {error}."]
    if not isinstance(document, dict) or not {"tilejson", "tiles", "bounds"} <= document.keys():
        return ["The document is not the TileJSON of a collection."]
    return _find_hosts(text)


def validate_wmts(text: str) -> list[str]:
    """The faults of WMTS capabilities that are about to be served, as sentences; empty when they are valid."""
    if "<!" in text:
        return ["The document contains a declaration or a comment, which ls4 never writes."]
    try:
        root = ElementTree.fromstring(text)  # noqa: S314  # a document without entities
    except ElementTree.ParseError as error:
        return [f"The document is not XML: {error}."]
    if root.tag != "{http://www.opengis.net/wmts/1.0}Capabilities":
        return ["The document is not WMTS capabilities."]
    return _find_hosts(re.sub(r'\b(?:xmlns(?::\w+)?|xsi:schemaLocation)="[^"]*"', "", text))


def _find_hosts(text: str) -> list[str]:
    addresses = re.findall(r"https?://[^\s\"'<>]+", text)
    return [f"The document names the host of {address}: addresses must start with a slash." for address in addresses]


def _overview_zoom(tile_set: TileSet) -> int:
    """The zoom level at which the extent fits in about two tiles."""
    left, bottom, right, top = tile_set.extent
    return min(tile_set.maxzoom, max(0, math.floor(math.log2(4 * HALF_WORLD_METERS / max(right - left, top - bottom)))))


def _latitude(y: float) -> float:
    """Degrees of latitude of a northing in EPSG:3857 meters."""
    return math.degrees(math.atan(math.sinh(y / HALF_WORLD_METERS * math.pi)))


def _floor(degrees: float) -> float:
    """Degrees rounded down to six decimals."""
    return math.floor(degrees * 1e6) / 1e6
