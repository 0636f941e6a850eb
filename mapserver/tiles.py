"""A collection as tiles of the web's own pyramid: its TileJSON and its WMTS capabilities, rendered from plain data.

Both lie beside the mapfile and name no host: addresses begin with a slash, and nginx puts scheme and host of the request before
them. nginx also reads bounds and version from the TileJSON (mapserver/front_end.js).
"""

import json
import math
import re
from dataclasses import dataclass
from xml.etree import ElementTree

from mapserver.rendering import Extent, environment

TILEJSON_SUFFIX = ".tilejson"
WMTS_SUFFIX = ".wmts"

# Half the earth's circumference in metres of EPSG:3857, and the metres of a pixel at zoom 0.
HALF = 20037508.342789244
ZOOM_0 = 2 * HALF / 256
# The inverse of the pixel of 0.28 mm that OGC's scale denominators stand on.
_PIXELS_A_METRE = 1 / 0.00028
DEEPEST = 24
# A frame that is by so much finer than a zoom level is still called of that level.
_TOLERANCE = 0.2


@dataclass(frozen=True)
class TileSet:
    """What the documents of one collection are made from.

    name: the imagery layer (`Travis_USDA_1958_frames`). table: the address under `/tiles/`.
    extent: of all footprints, in EPSG:3857 metres. resolution: metres of EPSG:3857 that a pixel of the frames is wide.
    version: of what the map shows; no two states of the map have the same. None: nothing may be kept.
    """

    name: str
    table: str
    title: str
    extent: Extent
    resolution: float
    version: int | None

    @property
    def maxzoom(self) -> int:
        """The zoom level that shows every pixel of the frames."""
        return min(DEEPEST, max(0, math.ceil(math.log2(ZOOM_0 / self.resolution) - _TOLERANCE)))

    @property
    def bounds(self) -> Extent:
        """West, south, east, north in degrees, rounded outwards."""
        left, bottom, right, top = self.extent
        south, north = (_latitude(y) for y in (bottom, top))
        west, east = (x / HALF * 180 for x in (left, right))
        return (_down(west), _down(south), -_down(-east), -_down(-north))

    @property
    def template(self) -> str:
        """The address of a tile, with {z}, {x} and {y}."""
        return f"/tiles/{self.table}/{{z}}/{{x}}/{{y}}.png" + ("" if self.version is None else f"?v={self.version}")

    def columns_and_rows(self, zoom: int) -> tuple[int, int, int, int]:
        """First and last column, first and last row of the tiles that hold something."""
        side = 2 * HALF / 2**zoom
        left, bottom, right, top = self.extent
        last = 2**zoom - 1
        places = ((left + HALF) / side, (right + HALF) / side, (HALF - top) / side, (HALF - bottom) / side)
        first_column, last_column, first_row, last_row = (min(last, max(0, math.floor(place))) for place in places)
        return first_column, last_column, first_row, last_row


def documents(of: TileSet) -> dict[str, str]:
    """Everything that is published beside the mapfile, by suffix. The TileJSON comes last: with it the version is in force."""
    return {WMTS_SUFFIX: wmts(of), TILEJSON_SUFFIX: tilejson(of)}


def tilejson(of: TileSet) -> str:
    """TileJSON 3.0.0."""
    west, south, east, north = of.bounds
    held = {
        "tilejson": "3.0.0",
        "name": of.title,
        "description": f"Scanned and georeferenced aerial photographs: {of.title}.",
        **({} if of.version is None else {"version": f"1.{of.version}.0"}),
        "scheme": "xyz",
        "tiles": [of.template],
        "minzoom": 0,
        "maxzoom": of.maxzoom,
        "bounds": [west, south, east, north],
        "center": [round((west + east) / 2, 6), round((south + north) / 2, 6), _whole_view(of)],
    }
    return json.dumps(held, indent=1, ensure_ascii=False) + "\n"


def wmts(of: TileSet) -> str:
    """WMTS 1.0.0 capabilities of the same tiles, as resources without a query service."""
    matrices = [
        {
            "zoom": zoom,
            "scale": ZOOM_0 / 2**zoom * _PIXELS_A_METRE,
            "across": 2**zoom,
            "limits": of.columns_and_rows(zoom),
        }
        for zoom in range(of.maxzoom + 1)
    ]
    place = of.template.replace("{z}", "{TileMatrix}").replace("{x}", "{TileCol}").replace("{y}", "{TileRow}")
    return environment().get_template("wmts.xml.j2").render(of=of, half=HALF, matrices=matrices, place=place)


def tilejson_findings(text: str) -> list[str]:
    """What is wrong with a TileJSON that is about to be served; empty when nothing is."""
    try:
        held = json.loads(text)
    except ValueError as error:
        return [f"It is no JSON: {error}."]
    if not isinstance(held, dict) or not {"tilejson", "tiles", "bounds"} <= held.keys():
        return ["It is no TileJSON of a collection."]
    return _host_findings(text)


def wmts_findings(text: str) -> list[str]:
    """What is wrong with WMTS capabilities that are about to be served; empty when nothing is."""
    if "<!" in text:
        return ["It declares entities or holds comments, which ours never does."]
    try:
        root = ElementTree.fromstring(text)  # noqa: S314  # a document without entities
    except ElementTree.ParseError as error:
        return [f"It is no XML: {error}."]
    if root.tag != "{http://www.opengis.net/wmts/1.0}Capabilities":
        return ["It is no WMTS capabilities document."]
    return _host_findings(re.sub(r'\b(?:xmlns(?::\w+)?|xsi:schemaLocation)="[^"]*"', "", text))


def _host_findings(text: str) -> list[str]:
    return [f"It names {address}: addresses begin with a slash." for address in re.findall(r"https?://[^\s\"'<>]+", text)]


def _whole_view(of: TileSet) -> int:
    """The zoom level at which the whole fits in about two tiles."""
    left, bottom, right, top = of.extent
    return min(of.maxzoom, max(0, math.floor(math.log2(4 * HALF / max(right - left, top - bottom)))))


def _latitude(y: float) -> float:
    return math.degrees(math.atan(math.sinh(y / HALF * math.pi)))


def _down(degrees: float) -> float:
    return math.floor(degrees * 1e6) / 1e6
