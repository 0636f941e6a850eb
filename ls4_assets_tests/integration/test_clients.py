"""Requests as OWSLib and published maps send them: every version, axis order, CRS and format shows the same ground.

The content of capabilities, tiles and URLs is tested in test_mapserv, test_tiles and test_serving.
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
    MapServer,
    index_database_fixture,  # noqa: F401
    index_row,
    left_half,
    map_server_fixture,  # noqa: F401
)
from mapserver.rendering import Extent
from mapserver.tiles import HALF_WORLD_METERS, TileSet, render_documents

pytestmark = pytest.mark.timeout(120)

INDEX = f"{NAME}_index"
VERSIONS = ["1.1.1", "1.3.0"]
LEGACY = f"/?map=/mapfiles/{TABLE}.map"


def connect_wms(map_server: MapServer, version: str) -> WebMapService:
    return WebMapService(f"{map_server.config.base_url}/wms/{TABLE}", version=version)


def project_extent(crs: str, extent: Extent = EXTENT, width: int = 600) -> tuple[Extent, tuple[int, int]]:
    """Return the bounds of an EPSG:3857 extent in another CRS, and an image size in pixels of the same shape."""
    west, south, east, north = bounds = transform_bounds("EPSG:3857", crs, *extent)
    return bounds, (width, round(width * (north - south) / (east - west)))


def pixel_position(crs: str, bounds: Extent, size: tuple[int, int], x: float, y: float) -> tuple[int, int]:
    """Return column and row of an EPSG:3857 position in an image."""
    (east,), (north,) = transform("EPSG:3857", crs, [x], [y])
    left, bottom, right, top = bounds
    return int((east - left) / (right - left) * size[0]), int((top - north) / (top - bottom) * size[1])


def read_image(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(data)).convert("RGBA"))


def tile_bounds(zoom: int, x: int, y: int) -> Extent:
    side = 2 * HALF_WORLD_METERS / 2**zoom
    return (
        x * side - HALF_WORLD_METERS,
        HALF_WORLD_METERS - (y + 1) * side,
        (x + 1) * side - HALF_WORLD_METERS,
        HALF_WORLD_METERS - y * side,
    )


def tile_at(x: float, y: float, zoom: int) -> tuple[int, int]:
    side = 2 * HALF_WORLD_METERS / 2**zoom
    return int((x + HALF_WORLD_METERS) / side), int((HALF_WORLD_METERS - y) / side)


# --- WMS


@pytest.mark.parametrize("mime", ["image/png", "image/jpeg"])
@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326", "EPSG:26914", "EPSG:3081"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_frame_is_at_its_place_in_every_projection(map_server: MapServer, version: str, crs: str, mime: str) -> None:
    """WMS 1.3.0 orders EPSG:4326 as latitude, longitude. In the wrong order the map is empty."""
    service = connect_wms(map_server, version)
    assert crs in service[NAME].crsOptions
    bounds, size = project_extent(crs)
    answer = service.getmap(layers=[NAME], styles=[""], srs=crs, bbox=bounds, size=size, format=mime, transparent=True)
    assert answer.info()["Content-Type"] == mime
    pixels = read_image(answer.read())
    for stem, (left, *halves) in FRAMES.items():
        for x, color in zip((left_half(stem), left_half(stem) + SPAN / 2), halves, strict=True):
            column, row = pixel_position(crs, bounds, size, x, MIDDLE)
            expected = np.array([*np.broadcast_to(color, 3), 255])
            assert np.abs(pixels[row, column].astype(int) - expected).max() <= 8, (stem, color)  # JPEG is lossy
        column, row = pixel_position(crs, bounds, size, left + COLLAR * RESOLUTION / 2, MIDDLE)
        assert mime == "image/jpeg" or pixels[row, column, 3] == 0, "a collar is transparent"


def test_each_version_declares_the_extent_of_the_layers_in_its_own_form(map_server: MapServer) -> None:
    def boxes(version: str, tag: str) -> list[ElementTree.Element]:
        root = ElementTree.fromstring(map_server.wms("GetCapabilities", version=version).content)
        return [element for element in root.iter() if element.tag.rpartition("}")[2] == tag]

    def parse_bounds(box: ElementTree.Element) -> tuple[float, ...]:
        return tuple(float(box.attrib[name]) for name in ("minx", "miny", "maxx", "maxy"))

    degrees = transform_bounds("EPSG:3857", "EPSG:4326", *EXTENT)
    for version in ("1.0.0", "1.1.1"):
        assert [parse_bounds(box) for box in boxes(version, "LatLonBoundingBox")] == [pytest.approx(degrees, abs=1e-4)] * 3
    for version, attribute in (("1.1.1", "SRS"), ("1.3.0", "CRS")):
        for box in boxes(version, "BoundingBox"):
            assert box.attrib[attribute] == "EPSG:3857" and parse_bounds(box) == pytest.approx(EXTENT, abs=1)
    sides = ("westBoundLongitude", "southBoundLatitude", "eastBoundLongitude", "northBoundLatitude")
    boxes_1_3 = [{part.tag.rpartition("}")[2]: part.text for part in box} for box in boxes("1.3.0", "EX_GeographicBoundingBox")]
    geographic = [tuple(float(box[side] or "nan") for side in sides) for box in boxes_1_3]
    assert geographic == [pytest.approx(degrees, abs=1e-4)] * 3


@pytest.mark.parametrize("version", VERSIONS)
def test_every_listed_style_can_be_requested(map_server: MapServer, version: str) -> None:
    service = connect_wms(map_server, version)
    bounds, size = project_extent("EPSG:3857")
    request = {"srs": "EPSG:3857", "bbox": bounds, "size": size, "format": "image/png"}
    for layer in (NAME, INDEX):
        plain = service.getmap(layers=[layer], styles=[""], **request).read()
        for style in ["default", *service[layer].styles]:
            assert service.getmap(layers=[layer], styles=[style], **request).read() == plain


@pytest.mark.parametrize("mime", ["text/html", "text/plain", "application/json"])
@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326"])
@pytest.mark.parametrize("version", VERSIONS)
def test_feature_info_returns_the_links_of_the_frame(map_server: MapServer, version: str, crs: str, mime: str) -> None:
    bounds, size = project_extent(crs)
    request = {"srs": crs, "bbox": bounds, "size": size, "format": "image/png", "layers": [INDEX], "query_layers": [INDEX]}
    place = pixel_position(crs, bounds, size, left_half(RED), MIDDLE)
    service = connect_wms(map_server, version)
    assert mime in service.getOperationByName("GetFeatureInfo").formatOptions
    answer = service.getfeatureinfo(**request, info_format=mime, feature_count=9, xy=place)
    assert answer.info()["Content-Type"].startswith(mime)
    info, rows = answer.read().decode(), {stem: index_row(map_server.archive, stem) for stem in FRAMES}
    for link in ("dl_orig", "dl_georef", "dl_index"):
        assert str(rows[RED][link]) in info.replace("\\/", "/")
    assert str(rows[BLACK]["dl_georef"]) not in info.replace("\\/", "/")


@pytest.mark.parametrize("dots", ["96", "300"])
@pytest.mark.parametrize("width", [100, 600, 2400])
def test_the_resolution_parameters_of_qgis_change_no_pixel(map_server: MapServer, width: int, dots: str) -> None:
    """QGIS sends the parameters of three servers at once. When they were rejected, all of its maps were blank."""
    bounds, size = project_extent("EPSG:3857", width=width)
    request = {"layers": [NAME], "styles": [""], "srs": "EPSG:3857", "bbox": bounds, "size": size, "format": "image/png"}
    service = connect_wms(map_server, "1.3.0")
    plain = service.getmap(**request, transparent=True).read()
    with_dpi = service.getmap(**request, transparent=True, dpi=dots, map_resolution=dots, format_options=f"dpi:{dots}").read()
    assert (read_image(with_dpi)[..., 3] == 255).any() and np.array_equal(read_image(with_dpi), read_image(plain))


# --- OGC API Features


def test_ogc_api_features_returns_the_footprints(map_server: MapServer) -> None:
    service = Features(f"{map_server.config.base_url}/ogcapi/{TABLE}")
    assert any(uri.endswith("ogcapi-features-1/1.0/conf/core") for uri in service.conformance()["conformsTo"])
    assert service.feature_collections() == [INDEX]
    (bounds,) = service.collection(INDEX)["extent"]["spatial"]["bbox"]
    assert bounds == pytest.approx(transform_bounds("EPSG:3857", "EPSG:4326", *EXTENT), abs=1e-4)
    left = FRAMES[BLACK][0]
    around = transform_bounds("EPSG:3857", "EPSG:4326", left, MIDDLE - 10, left + SPAN, MIDDLE + 10)
    (feature,) = service.collection_items(INDEX, bbox=list(around))["features"]
    assert feature["properties"]["dl_georef"] == index_row(map_server.archive, BLACK)["dl_georef"]
    assert service.collection_item(INDEX, str(feature["id"])) | {"links": None} == feature | {"links": None}
    assert feature["geometry"]["type"] in ("Polygon", "MultiPolygon")


# --- WMTS


@pytest.mark.parametrize("zoom", [11, 13, 15, 16])
def test_a_wmts_tile_equals_the_map(map_server: MapServer, zoom: int) -> None:
    tile_set = TileSet(NAME, TABLE, "Travis Usda 1958 Frames", EXTENT, RESOLUTION, version=1)
    for suffix, document in render_documents(tile_set).items():
        (map_server.archive / "mapfiles" / f"{TABLE}{suffix}").write_text(document)
    tiles = WebMapTileService(f"{map_server.config.base_url}/wmts/{TABLE}/WMTSCapabilities.xml")
    column, row = tile_at(left_half(BLACK), MIDDLE, zoom)
    request = {"layer": NAME, "tilematrixset": "GoogleMapsCompatible", "tilematrix": str(zoom), "format": "image/png"}
    tile = read_image(tiles.gettile(**request, row=row, column=column).read())
    place = {"srs": "EPSG:3857", "bbox": tile_bounds(zoom, column, row), "size": (256, 256)}
    plain = connect_wms(map_server, "1.3.0").getmap(layers=[NAME], styles=[""], **place, format="image/png", transparent=True)
    assert (tile[..., 3] == 255).any() and np.array_equal(tile, read_image(plain.read()))


# --- published maps


@pytest.mark.parametrize("zoom", [12, 14, 16])
def test_a_published_tile_request_equals_the_map(map_server: MapServer, zoom: int) -> None:
    """Web maps request `mode=tile` with `layers=all`: imagery and outlines in PNG."""
    x, y = tile_at(FRAMES[BLACK][0] + COLLAR * RESOLUTION, MIDDLE, zoom)
    answer = map_server.get(f"{LEGACY}&mode=tile&tilemode=gmap&tile={x}+{y}+{zoom}&layers=all&map.imagetype=png")
    assert answer.headers["content-type"] == "image/png"
    tile, box = read_image(answer.content), tile_bounds(zoom, x, y)
    plain = map_server.get_map(box, (box[2] - box[0]) / 256, layer=f"{NAME},{INDEX}")
    # The two requests round to pixels differently, so edges may differ by one pixel.
    share_different = (np.abs(tile.astype(int) - plain).max(axis=2) > 8).mean()
    assert (tile[..., 3] == 255).any() and share_different < 0.02


def test_published_vector_and_grid_tiles_contain_the_footprints(map_server: MapServer) -> None:
    zoom = 15
    x, y = tile_at(left_half(BLACK), MIDDLE, zoom)
    tile = f"{LEGACY}&mode=tile&tilemode=gmap&tile={x}+{y}+{zoom}&layers={INDEX}"
    vector = map_server.get(f"{tile}&map.imagetype=mvt")
    assert vector.headers["content-type"] == "application/vnd.mapbox-vector-tile"
    assert str(index_row(map_server.archive, BLACK)["dl_georef"]).encode() in vector.content
    grid = map_server.get(f"{tile}&map.imagetype=utfgrid")
    assert grid.headers["content-type"].startswith("application/json")
    data = json.loads(grid.content)
    rows = data["grid"]
    left, _, right, top = tile_bounds(zoom, x, y)
    cell = (right - left) / len(rows)
    character = rows[math.floor((top - MIDDLE) / cell)][math.floor((left_half(BLACK) - left) / cell)]
    code = ord(character) - 32 - (ord(character) >= 35) - (ord(character) >= 93)
    assert data["data"][data["keys"][code]]["frame_num"] == "107"


@pytest.mark.parametrize("layer", [NAME, INDEX])
def test_the_published_wms_request_of_a_web_map(map_server: MapServer, layer: str) -> None:
    """Consumers of lambda-s4 send WMS 1.1.1 requests in EPSG:3857 for transparent PNGs of 256 pixels to the published URL."""
    box = tile_bounds(13, *tile_at(left_half(BLACK), MIDDLE, 13))
    request = f"&SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap&LAYERS={layer}&STYLES=&SRS=EPSG:3857&FORMAT=image/png&TRANSPARENT=true"
    answer = map_server.get(f"{LEGACY}{request}&WIDTH=256&HEIGHT=256&BBOX={','.join(map(str, box))}")
    assert answer.headers["content-type"] == "image/png"
    pixels = read_image(answer.content)
    assert pixels.shape == (256, 256, 4)
    assert np.array_equal(pixels, map_server.get_map(box, (box[2] - box[0]) / 256, layer=layer))
    assert 0 < (pixels[..., 3] > 0).mean() < 1
