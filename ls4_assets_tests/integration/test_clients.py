"""The services as OWSLib and published maps ask them: every version, axis order, coordinate system and format leads to the same
ground. What capabilities, tiles and addresses say in themselves is looked at in test_mapserv, test_tiles and test_serving.
"""

import json
import math
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from owslib.ogcapi.features import Features  # type: ignore[import-untyped]
from owslib.wms import WebMapService  # type: ignore[import-untyped]
from owslib.wmts import WebMapTileService  # type: ignore[import-untyped]
from PIL import Image
from rasterio.warp import transform, transform_bounds

from ls4_assets_tests.integration.serving_fixtures import (
    BLACK,
    COLLAR,
    EXTENT,
    FRAMES,
    MIDDLE,
    NAME,
    RED,
    RESOLUTION,
    SPAN,
    TABLE,
    Served,
    index_database_fixture,  # noqa: F401
    index_row,
    left_half,
    served_fixture,  # noqa: F401
)
from mapserver.rendering import Extent
from mapserver.tiles import HALF, TileSet, documents

pytestmark = pytest.mark.timeout(120)

INDEX = f"{NAME}_index"
VERSIONS = ["1.1.1", "1.3.0"]
LEGACY = f"/?map=/mapfiles/{TABLE}.map"


def wms(served: Served, version: str) -> WebMapService:
    return WebMapService(f"{served.config.base_url}/wms/{TABLE}", version=version)


def screen(crs: str, extent: Extent = EXTENT, width: int = 600) -> tuple[Extent, tuple[int, int]]:
    """The ground of an extent in another coordinate system: its bounds, and a picture's size in that shape."""
    west, south, east, north = bounds = transform_bounds("EPSG:3857", crs, *extent)
    return bounds, (width, round(width * (north - south) / (east - west)))


def pixel(crs: str, bounds: Extent, size: tuple[int, int], x: float, y: float) -> tuple[int, int]:
    """Column and row of a ground position (EPSG:3857) in a picture."""
    (east,), (north,) = transform("EPSG:3857", crs, [x], [y])
    left, bottom, right, top = bounds
    return int((east - left) / (right - left) * size[0]), int((top - north) / (top - bottom) * size[1])


def picture(answer: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(answer)).convert("RGBA"))


def box_of(zoom: int, x: int, y: int) -> Extent:
    side = 2 * HALF / 2**zoom
    return (x * side - HALF, HALF - (y + 1) * side, (x + 1) * side - HALF, HALF - y * side)


def tile_at(x: float, y: float, zoom: int) -> tuple[int, int]:
    side = 2 * HALF / 2**zoom
    return int((x + HALF) / side), int((HALF - y) / side)


# --- WMS


@pytest.mark.parametrize("mime", ["image/png", "image/jpeg"])
@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326", "EPSG:26914", "EPSG:3081"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_ground_lies_at_its_place_in_every_projection(served: Served, version: str, crs: str, mime: str) -> None:
    """WMS 1.3.0 wants EPSG:4326 as latitude, longitude: the wrong way round there is no ground at all."""
    service = wms(served, version)
    assert crs in service[NAME].crsOptions
    bounds, size = screen(crs)
    answer = service.getmap(layers=[NAME], styles=[""], srs=crs, bbox=bounds, size=size, format=mime, transparent=True)
    assert answer.info()["Content-Type"] == mime
    pixels = picture(answer.read())
    for stem, (left, *halves) in FRAMES.items():
        for x, colour in zip((left_half(stem), left_half(stem) + SPAN / 2), halves, strict=True):
            column, row = pixel(crs, bounds, size, x, MIDDLE)
            wanted = np.array([*np.broadcast_to(colour, 3), 255])
            assert np.abs(pixels[row, column].astype(int) - wanted).max() <= 8, (stem, colour)  # JPEG, of frame or picture
        column, row = pixel(crs, bounds, size, left + COLLAR * RESOLUTION / 2, MIDDLE)
        assert mime == "image/jpeg" or pixels[row, column, 3] == 0, "a collar is transparent"


def test_each_version_tells_where_the_layers_lie_in_its_own_words(served: Served) -> None:
    def boxes(version: str, tag: str) -> list[ElementTree.Element]:
        root = ElementTree.fromstring(served.wms("GetCapabilities", version=version).content)
        return [each for each in root.iter() if each.tag.rpartition("}")[2] == tag]

    def place(box: ElementTree.Element) -> tuple[float, ...]:
        return tuple(float(box.attrib[name]) for name in ("minx", "miny", "maxx", "maxy"))

    degrees = transform_bounds("EPSG:3857", "EPSG:4326", *EXTENT)
    for version in ("1.0.0", "1.1.1"):
        assert [place(box) for box in boxes(version, "LatLonBoundingBox")] == [pytest.approx(degrees, abs=1e-4)] * 3
    for version, attribute in (("1.1.1", "SRS"), ("1.3.0", "CRS")):
        for box in boxes(version, "BoundingBox"):
            assert box.attrib[attribute] == "EPSG:3857" and place(box) == pytest.approx(EXTENT, abs=1)
    ways = ("westBoundLongitude", "southBoundLatitude", "eastBoundLongitude", "northBoundLatitude")
    told = [{part.tag.rpartition("}")[2]: part.text for part in box} for box in boxes("1.3.0", "EX_GeographicBoundingBox")]
    named = [tuple(float(box[way] or "nan") for way in ways) for box in told]
    assert named == [pytest.approx(degrees, abs=1e-4)] * 3


@pytest.mark.parametrize("version", VERSIONS)
def test_the_styles_that_are_listed_can_be_asked_for(served: Served, version: str) -> None:
    service = wms(served, version)
    bounds, size = screen("EPSG:3857")
    asked = {"srs": "EPSG:3857", "bbox": bounds, "size": size, "format": "image/png"}
    for layer in (NAME, INDEX):
        plain = service.getmap(layers=[layer], styles=[""], **asked).read()
        for style in ["default", *service[layer].styles]:
            assert service.getmap(layers=[layer], styles=[style], **asked).read() == plain


@pytest.mark.parametrize("mime", ["text/html", "text/plain", "application/json"])
@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_click_gives_the_links_of_the_frame_under_it(served: Served, version: str, crs: str, mime: str) -> None:
    bounds, size = screen(crs)
    asked = {"srs": crs, "bbox": bounds, "size": size, "format": "image/png", "layers": [INDEX], "query_layers": [INDEX]}
    place = pixel(crs, bounds, size, left_half(RED), MIDDLE)
    service = wms(served, version)
    assert mime in service.getOperationByName("GetFeatureInfo").formatOptions
    answer = service.getfeatureinfo(**asked, info_format=mime, feature_count=9, xy=place)
    assert answer.info()["Content-Type"].startswith(mime)
    told, rows = answer.read().decode(), {stem: index_row(served.archive, stem) for stem in FRAMES}
    for link in ("dl_orig", "dl_georef", "dl_index"):
        assert str(rows[RED][link]) in told.replace("\\/", "/")
    assert str(rows[BLACK]["dl_georef"]) not in told.replace("\\/", "/")


@pytest.mark.parametrize("dots", ["96", "300"])
@pytest.mark.parametrize("width", [100, 600, 2400])
def test_dots_per_inch_as_qgis_tells_them_change_no_pixel_of_the_ground(served: Served, width: int, dots: str) -> None:
    """QGIS says them in the words of three servers at once: rejected, all of its maps were blank."""
    bounds, size = screen("EPSG:3857", width=width)
    asked = {"layers": [NAME], "styles": [""], "srs": "EPSG:3857", "bbox": bounds, "size": size, "format": "image/png"}
    service = wms(served, "1.3.0")
    plain = service.getmap(**asked, transparent=True).read()
    told = service.getmap(**asked, transparent=True, dpi=dots, map_resolution=dots, format_options=f"dpi:{dots}").read()
    assert (picture(told)[..., 3] == 255).any() and np.array_equal(picture(told), picture(plain))


# --- OGC API Features


def test_footprints_by_ogc_api(served: Served) -> None:
    service = Features(f"{served.config.base_url}/ogcapi/{TABLE}")
    assert any(each.endswith("ogcapi-features-1/1.0/conf/core") for each in service.conformance()["conformsTo"])
    assert service.feature_collections() == [INDEX]
    (bounds,) = service.collection(INDEX)["extent"]["spatial"]["bbox"]
    assert bounds == pytest.approx(transform_bounds("EPSG:3857", "EPSG:4326", *EXTENT), abs=1e-4)
    left = FRAMES[BLACK][0]
    around = transform_bounds("EPSG:3857", "EPSG:4326", left, MIDDLE - 10, left + SPAN, MIDDLE + 10)
    (found,) = service.collection_items(INDEX, bbox=list(around))["features"]
    assert found["properties"]["dl_georef"] == index_row(served.archive, BLACK)["dl_georef"]
    assert service.collection_item(INDEX, str(found["id"])) | {"links": None} == found | {"links": None}
    assert found["geometry"]["type"] in ("Polygon", "MultiPolygon")


# --- WMTS


@pytest.mark.parametrize("zoom", [11, 13, 15, 16])
def test_a_wmts_tile_has_the_pixels_of_the_map(served: Served, zoom: int) -> None:
    of = TileSet(NAME, TABLE, "Travis Usda 1958 Frames", EXTENT, RESOLUTION, version=1)
    for suffix, document in documents(of).items():
        (served.archive / "mapfiles" / f"{TABLE}{suffix}").write_text(document)
    tiles = WebMapTileService(f"{served.config.base_url}/wmts/{TABLE}/WMTSCapabilities.xml")
    column, row = tile_at(left_half(BLACK), MIDDLE, zoom)
    asked = {"layer": NAME, "tilematrixset": "GoogleMapsCompatible", "tilematrix": str(zoom), "format": "image/png"}
    tile = picture(tiles.gettile(**asked, row=row, column=column).read())
    place = {"srs": "EPSG:3857", "bbox": box_of(zoom, column, row), "size": (256, 256)}
    plain = wms(served, "1.3.0").getmap(layers=[NAME], styles=[""], **place, format="image/png", transparent=True)
    assert (tile[..., 3] == 255).any() and np.array_equal(tile, picture(plain.read()))


# --- published maps


@pytest.mark.parametrize("zoom", [12, 14, 16])
def test_published_tile_requests_show_what_the_map_shows(served: Served, zoom: int) -> None:
    """`mode=tile` with `layers=all`, as maps on the web have it: imagery and outlines, in PNG."""
    x, y = tile_at(FRAMES[BLACK][0] + COLLAR * RESOLUTION, MIDDLE, zoom)
    answer = served.get(f"{LEGACY}&mode=tile&tilemode=gmap&tile={x}+{y}+{zoom}&layers=all&map.imagetype=png")
    assert answer.headers["content-type"] == "image/png"
    tile, box = picture(answer.content), box_of(zoom, x, y)
    plain = served.get_map(box, (box[2] - box[0]) / 256, layer=f"{NAME},{INDEX}")
    # the two round to pixels in their own ways, so that edges may lie one pixel aside
    unlike = (np.abs(tile.astype(int) - plain).max(axis=2) > 8).mean()
    assert (tile[..., 3] == 255).any() and unlike < 0.02


def test_published_vector_and_grid_tiles_have_the_footprints(served: Served) -> None:
    zoom = 15
    x, y = tile_at(left_half(BLACK), MIDDLE, zoom)
    tile = f"{LEGACY}&mode=tile&tilemode=gmap&tile={x}+{y}+{zoom}&layers={INDEX}"
    vector = served.get(f"{tile}&map.imagetype=mvt")
    assert vector.headers["content-type"] == "application/vnd.mapbox-vector-tile"
    assert str(index_row(served.archive, BLACK)["dl_georef"]).encode() in vector.content
    grid = served.get(f"{tile}&map.imagetype=utfgrid")
    assert grid.headers["content-type"].startswith("application/json")
    held = json.loads(grid.content)
    rows = held["grid"]
    left, _, right, top = box_of(zoom, x, y)
    cell = (right - left) / len(rows)
    sign = rows[math.floor((top - MIDDLE) / cell)][math.floor((left_half(BLACK) - left) / cell)]
    code = ord(sign) - 32 - (ord(sign) >= 35) - (ord(sign) >= 93)
    assert held["data"][held["keys"][code]]["frame_num"] == "107"


@pytest.mark.parametrize("layer", [NAME, INDEX])
def test_the_published_request_of_a_map_on_the_web(served: Served, layer: str) -> None:
    """WMS 1.1.1, EPSG:3857, transparent PNG of 256 pixels, at the published address: what lambda-s4's consumers send."""
    box = box_of(13, *tile_at(left_half(BLACK), MIDDLE, 13))
    asked = f"&SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap&LAYERS={layer}&STYLES=&SRS=EPSG:3857&FORMAT=image/png&TRANSPARENT=true"
    answer = served.get(f"{LEGACY}{asked}&WIDTH=256&HEIGHT=256&BBOX={','.join(map(str, box))}")
    assert answer.headers["content-type"] == "image/png"
    pixels = picture(answer.content)
    assert pixels.shape == (256, 256, 4)
    assert np.array_equal(pixels, served.get_map(box, (box[2] - box[0]) / 256, layer=layer))
    assert 0 < (pixels[..., 3] > 0).mean() < 1
