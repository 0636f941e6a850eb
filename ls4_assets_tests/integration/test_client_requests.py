"""Requests that clients send and MapServer does not answer as they expect: nginx completes, translates or rejects them."""

import json
from collections.abc import Iterator
from io import BytesIO
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest
import rasterio
from owslib.ogcapi.features import Features  # type: ignore[import-untyped]
from owslib.wms import WebMapService  # type: ignore[import-untyped]
from owslib.wmts import WebMapTileService  # type: ignore[import-untyped]
from PIL import Image
from rasterio.warp import transform_bounds
from sqlalchemy import text

from ls4_assets_tests.integration.serving_fixtures import (
    BLACK,
    EXTENT,
    FRAMES,
    LEFT,
    LINKS,
    MIDDLE,
    NAME,
    RESOLUTION,
    SPAN,
    TABLE,
    WHITE,
    IndexDatabase,
    MapServer,
    index_database_fixture,  # noqa: F401
    index_row,
    left_half,
    map_server_fixture,  # noqa: F401
    rgba,
)
from ls4_assets_tests.integration.test_statewide_map import (
    NEW,
    OLD,
    color,
    empty_fixture,  # noqa: F401
    two_years_fixture,  # noqa: F401
)
from mapserver.tiles import HALF_WORLD_METERS, TileSet, render_documents

pytestmark = pytest.mark.timeout(120)

INDEX = f"{NAME}_index"
PLACE = {"SRS": "EPSG:3857", "WIDTH": "60", "HEIGHT": "12", "BBOX": ",".join(map(str, EXTENT))}


def get_map(map_server: MapServer, mime: str, **parameters: str) -> httpx.Response:
    return map_server.wms("GetMap", **({"LAYERS": NAME, "STYLES": "", "FORMAT": mime} | PLACE | parameters))


def code_of(response: httpx.Response) -> tuple[str | None, str | None]:
    """Code and locator of the exception."""
    assert response.status_code == 400 and response.headers["content-type"].startswith("text/xml"), response.text
    assert response.headers["cache-control"] == "no-store"
    for element in ElementTree.fromstring(response.content).iter():
        if element.tag.rpartition("}")[2] in ("ServiceException", "Exception"):
            return element.get("code") or element.get("exceptionCode"), element.get("locator")
    raise AssertionError(response.text)


# WMS


@pytest.mark.parametrize("version", ["1.1.1", "1.3.0"])
@pytest.mark.parametrize(("name", "layer"), [(TABLE, NAME), ("catalog", "imagery")])
def test_map_without_styles_is_drawn(map_server: MapServer, version: str, name: str, layer: str) -> None:
    """GetMap without STYLES was an exception, although there is only one style."""
    place = PLACE | {"CRS": "EPSG:3857"}
    response = map_server.wms(
        "GetMap", version=version, address=f"/wms/{name}", LAYERS=layer, FORMAT="image/png", TRANSPARENT="TRUE", **place
    )
    assert rgba(response).shape == (12, 60, 4)


def test_map_without_service_is_drawn(map_server: MapServer) -> None:
    query = {"VERSION": "1.1.1", "REQUEST": "GetMap", "LAYERS": NAME, "FORMAT": "image/png", **PLACE}
    assert rgba(map_server.client.get(f"/wms/{TABLE}", params=query)).shape == (12, 60, 4)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("request=GetCapabilities", ("MissingParameterValue", "service")),
        ("REQUEST=GetFeature&TYPENAME=x", ("MissingParameterValue", "service")),
        ("version=1.3.0&request=GetCapabilities", ("MissingParameterValue", "service")),
        ("service=XYZ&request=GetCapabilities", ("InvalidParameterValue", "service")),
        ("service=WMTS&request=GetCapabilities", ("InvalidParameterValue", "service")),
    ],
)
@pytest.mark.parametrize("address", [f"/wms/{TABLE}?", "/wms/catalog?", f"/?map=/mapfiles/{TABLE}.map&"])
def test_request_without_a_known_service_is_an_exception(
    map_server: MapServer, address: str, query: str, expected: tuple[str, str]
) -> None:
    """The response was a page, "Web application error", with status 200."""
    assert code_of(map_server.get(address + query)) == expected


@pytest.mark.parametrize("transparent", ["TRUE", "true", "FALSE", ""])
@pytest.mark.parametrize("layer", [NAME, INDEX])
def test_jpeg_is_white_where_there_is_no_photograph(map_server: MapServer, transparent: str, layer: str) -> None:
    """Collars were black in JPEG with TRANSPARENT=TRUE, which QGIS sends by default."""
    response = get_map(map_server, "image/jpeg", LAYERS=layer, TRANSPARENT=transparent, WIDTH="600", HEIGHT="120")
    assert response.headers["content-type"] == "image/jpeg", response.text
    pixels = np.asarray(Image.open(BytesIO(response.content)))
    # Between the first two frames.
    assert pixels[60, 150:210].min() >= 250


def test_background_can_be_another_color(map_server: MapServer) -> None:
    response = get_map(map_server, "image/jpeg", TRANSPARENT="TRUE", BGCOLOR="0x00FF00", WIDTH="600", HEIGHT="120")
    red, green, blue = np.asarray(Image.open(BytesIO(response.content)))[60, 180]
    assert green > 245 and max(red, blue) < 10


@pytest.mark.parametrize("name", [TABLE, "catalog"])
def test_geotiff_has_its_place_and_alpha(map_server: MapServer, name: str, two_years: IndexDatabase) -> None:
    size = {"WIDTH": "600", "HEIGHT": "120", "LAYERS": NAME if name == TABLE else "imagery"}
    # Close enough for the frames of the statewide map, and partly in the collar.
    left, bottom, right, top = EXTENT if name == TABLE else (LEFT, MIDDLE, LEFT + 1200, MIDDLE + 240)
    box = {"BBOX": f"{left},{bottom},{right},{top}"}
    request = {"address": f"/wms/{name}", "STYLES": "", "TRANSPARENT": "TRUE"}
    tiff, png = (map_server.wms("GetMap", FORMAT=mime, **(PLACE | size | box | request)) for mime in ("image/tiff", "image/png"))
    assert tiff.headers["content-type"] == "image/tiff" and tiff.headers["cache-control"] == "public, max-age=60"
    with rasterio.MemoryFile(tiff.content) as memory, memory.open() as dataset:
        assert dataset.crs.to_epsg() == 3857 and dataset.count == 4
        assert (dataset.bounds.left, dataset.bounds.top) == (left, top)
        pixels = np.moveaxis(dataset.read(), 0, -1)
    expected = rgba(png)
    assert np.array_equal(pixels[..., 3], expected[..., 3]) and (pixels[..., 3] == 255).any()
    assert np.array_equal(pixels[expected[..., 3] == 255], expected[expected[..., 3] == 255])
    service = WebMapService(f"{map_server.config.base_url}/wms/{name}", version="1.3.0")
    assert "image/tiff" in service.getOperationByName("GetMap").formatOptions


def test_geotiff_is_bounded(map_server: MapServer) -> None:
    assert "ServiceException" in get_map(map_server, "image/tiff", WIDTH="5000").text


@pytest.mark.parametrize("crs", ["EPSG:4267", "EPSG:4269", "EPSG:26714", "EPSG:26914", "EPSG:32614"])
def test_map_in_the_systems_of_the_region(map_server: MapServer, crs: str) -> None:
    service = WebMapService(f"{map_server.config.base_url}/wms/{TABLE}", version="1.1.1")
    assert crs in service[NAME].crsOptions
    bounds = transform_bounds("EPSG:3857", crs, *EXTENT)
    answer = service.getmap(layers=[NAME], srs=crs, bbox=bounds, size=(600, 120), format="image/png", transparent=True)
    pixels = np.asarray(Image.open(BytesIO(answer.read())).convert("RGBA"))
    assert pixels[60, 30].tolist() == [0, 0, 0, 255] and pixels[60, 180, 3] == 0


# Queries of the imagery


def query(
    map_server: MapServer, name: str, layers: str, x: float, y: float, mime: str = "application/json", **more: str
) -> httpx.Response:
    box = {"BBOX": f"{x - 100},{y - 100},{x + 100},{y + 100}", "WIDTH": "100", "HEIGHT": "100", "X": "50", "Y": "50"}
    fixed = {"SRS": "EPSG:3857", "LAYERS": layers, "QUERY_LAYERS": layers, "INFO_FORMAT": mime}
    return map_server.wms("GetFeatureInfo", address=f"/wms/{name}", **(fixed | box | more))


@pytest.fixture(name="overlapping")
def overlapping_fixture(map_server: MapServer, index_database: IndexDatabase) -> Iterator[None]:
    """The white frame lies over the black one."""
    statement = text(f"UPDATE {TABLE} SET geom = (SELECT geom FROM {TABLE} WHERE frame_num = :from) WHERE frame_num = '108'")
    with index_database.owner.begin() as connection:
        before = connection.scalar(text(f"SELECT geom FROM {TABLE} WHERE frame_num = '108'"))
        connection.execute(statement, {"from": "107"})
    yield
    with index_database.owner.begin() as connection:
        connection.execute(text(f"UPDATE {TABLE} SET geom = :geom WHERE frame_num = '108'"), {"geom": before})


@pytest.mark.parametrize("layers", [NAME, TABLE, f"{NAME},{INDEX}"])
def test_query_of_the_imagery_returns_its_frames_the_topmost_first(map_server: MapServer, overlapping: None, layers: str) -> None:
    """Identify on the imagery layer, the one that people add to their maps, found nothing."""
    response = query(map_server, TABLE, layers, left_half(BLACK), MIDDLE, FEATURE_COUNT="9")
    assert [each["properties"]["frame_num"] for each in response.json()["features"]] == ["108", "107"]
    top = query(map_server, TABLE, layers, left_half(BLACK), MIDDLE)
    assert [each["properties"]["dl_georef"] for each in top.json()["features"]] == [
        index_row(map_server.archive, WHITE)["dl_georef"]
    ]
    # The footprints' own order is as before.
    footprints = query(map_server, TABLE, INDEX, left_half(BLACK), MIDDLE, FEATURE_COUNT="9")
    assert [each["properties"]["frame_num"] for each in footprints.json()["features"]] == ["107", "108"]


def test_query_of_the_imagery_beside_a_photograph_is_empty(map_server: MapServer) -> None:
    assert query(map_server, TABLE, NAME, LEFT + 1.5 * SPAN, MIDDLE).json()["features"] == []


@pytest.mark.parametrize("version", ["1.1.1", "1.3.0"])
@pytest.mark.parametrize("mime", ["text/html", "text/plain", "application/json"])
def test_owslib_queries_the_imagery(map_server: MapServer, version: str, mime: str) -> None:
    service = WebMapService(f"{map_server.config.base_url}/wms/{TABLE}", version=version)
    assert service[NAME].queryable
    request = {"srs": "EPSG:3857", "bbox": EXTENT, "size": (600, 120), "format": "image/png", "layers": [NAME]}
    column = round((left_half(BLACK) - LEFT) / (5 * SPAN) * 600)
    answer = service.getfeatureinfo(**request, query_layers=[NAME], info_format=mime, feature_count=3, xy=(column, 60))
    info = answer.read().decode().replace("\\/", "/")
    assert f"{LINKS}/" in info and BLACK in info and WHITE not in info


def test_query_of_the_statewide_imagery_returns_frames(map_server: MapServer, two_years: IndexDatabase) -> None:
    with two_years.owner.begin() as connection:
        # Both frames are at the same place now.
        new = "(SELECT footprint FROM ls4.frame WHERE collection = :new)"
        statement = f"UPDATE ls4.frame SET footprint = {new} WHERE collection = :old"
        connection.execute(text(statement), {"old": OLD.name, "new": NEW.name})
    response = query(map_server, "catalog", "imagery", left_half(WHITE), MIDDLE, FEATURE_COUNT="9")
    found = [each["properties"] for each in response.json()["features"]]
    assert [each["collection"] for each in found] == [NEW.name, OLD.name]
    assert found[0]["frame"] == WHITE and found[0]["page"] == f"/#{NEW.table}?frame=bw/{WHITE}"
    assert found[0]["title"] == "Travis USDA 1958 frames"
    one = query(map_server, "catalog", "imagery", left_half(WHITE), MIDDLE, FEATURE_COUNT="9", TIME="1940")
    assert [each["properties"]["collection"] for each in one.json()["features"]] == [OLD.name]
    html = query(map_server, "catalog", "imagery", left_half(WHITE), MIDDLE, "text/html").text
    assert f'href="/#{NEW.table}?frame=bw/{WHITE}"' in html and str(map_server.archive) not in html
    # The layer that answers is neither listed nor drawn.
    assert "imagery_frames" not in map_server.wms("GetCapabilities", address="/wms/catalog").text
    request = {"LAYERS": "imagery_frames", "STYLES": "", "FORMAT": "image/png"}
    assert "LayerNotDefined" in map_server.wms("GetMap", address="/wms/catalog", **(PLACE | request)).text


# The dimension TIME


@pytest.mark.parametrize(
    ("time", "years"),
    [
        ("1940", {1940}),
        ("1958-02-08", {1958}),
        ("1958-02-08T10:00:00Z", {1958}),
        ("1950/1960", {1958}),
        ("1930-01-01/1960-12-31/P1Y", {1940, 1958}),
        ("1941/1957", set()),
    ],
)
def test_time_selects_years(map_server: MapServer, two_years: IndexDatabase, time: str, years: set[int]) -> None:
    drawn = {year for year, stem in ((1940, BLACK), (1958, WHITE)) if color(map_server, stem, RESOLUTION, TIME=time)[3]}
    assert drawn == years


def test_year_wins_over_time(map_server: MapServer, two_years: IndexDatabase) -> None:
    assert color(map_server, BLACK, RESOLUTION, TIME="1958", year="1940")[3] == 255


@pytest.mark.parametrize("time", ["yesterday", "58", "1958' OR '1'='1", "1940,1958"])
def test_invalid_time_is_an_exception(map_server: MapServer, time: str) -> None:
    request = {"LAYERS": "imagery", "FORMAT": "image/png", "TIME": time, "address": "/wms/catalog"}
    assert code_of(map_server.wms("GetMap", **(PLACE | request))) == ("InvalidDimensionValue", "time")


# The extent of all collections


@pytest.fixture(name="listed")
def listed_fixture(map_server: MapServer) -> Iterator[dict[str, list[int]]]:
    """The list of collections with its summary."""
    entry = {"name": NAME, "table": TABLE, "title": "Travis USDA 1958 frames", "year": 1958, "extent": list(EXTENT)}
    summary = {"extent": [-10_890_000, 3_530_000, -10_860_000, 3_550_000], "years": [1940, 1996]}
    file = map_server.config.collections_file
    file.write_text(json.dumps({"archive": summary, "film_types": {}, "collections": [entry]}, indent=1))
    yield summary
    file.unlink()


@pytest.mark.parametrize("version", ["1.1.1", "1.3.0"])
def test_statewide_capabilities_have_the_extent_and_years_of_the_collections(
    map_server: MapServer, listed: dict[str, list[int]], version: str
) -> None:
    """QGIS zoomed to the whole world, where nothing is drawn."""
    service = WebMapService(f"{map_server.config.base_url}/wms/catalog", version=version)
    expected = transform_bounds("EPSG:3857", "EPSG:4326", *listed["extent"])
    for layer in ("imagery", "collections", "CATALOG"):
        assert service[layer].boundingBoxWGS84 == pytest.approx(expected, abs=1e-4)
    assert service["imagery"].timepositions == ["1940/1996/P1Y"]
    assert "WARNING" not in map_server.wms("GetCapabilities", version=version, address="/wms/catalog").text.upper()


def test_statewide_tile_documents_have_the_extent_of_the_collections(map_server: MapServer, listed: dict[str, list[int]]) -> None:
    """A viewer of the TileJSON opened in the Gulf of Guinea."""
    expected = pytest.approx(transform_bounds("EPSG:3857", "EPSG:4326", *listed["extent"]), abs=1e-5)
    document = map_server.get("/tiles/catalog/tilejson.json").json()
    assert document["bounds"] == expected
    longitude, latitude, zoom = document["center"]
    assert -98 < longitude < -97 and 30 < latitude < 31 and 10 <= zoom <= 12
    assert document["tiles"] == [f"{map_server.config.base_url}/tiles/catalog/{{z}}/{{x}}/{{y}}.webp"]
    for address in ("WMTSCapabilities.xml", "1.0.0/WMTSCapabilities.xml", "?SERVICE=WMTS&REQUEST=GetCapabilities"):
        layer = WebMapTileService("http://unused", xml=map_server.get(f"/wmts/catalog/{address}").content)["catalog"]
        assert layer.boundingBoxWGS84 == expected
        limits = layer.tilematrixsetlinks["GoogleMapsCompatible"].tilematrixlimits["12"]
        side = 2 * HALF_WORLD_METERS / 2**12
        assert (limits.mintilecol, limits.mintilerow) == (
            int((listed["extent"][0] + HALF_WORLD_METERS) / side),
            int((HALF_WORLD_METERS - listed["extent"][3]) / side),
        )


@pytest.mark.parametrize("content", ["", "{", '{"archive": {}, "collections": []}', '{"collections": []}'])
def test_statewide_documents_without_a_summary_are_of_the_world(map_server: MapServer, content: str) -> None:
    map_server.config.collections_file.write_text(content)
    assert map_server.get("/tiles/catalog/tilejson.json").json()["bounds"][0] == -180
    assert map_server.get("/wmts/catalog/WMTSCapabilities.xml").status_code == 200
    west, *_ = WebMapService(f"{map_server.config.base_url}/wms/catalog", version="1.3.0")["imagery"].boundingBoxWGS84
    assert west == pytest.approx(-180)
    map_server.config.collections_file.unlink()


# OGC API of the archive


def test_ogc_api_lists_all_collections(map_server: MapServer, listed: dict[str, list[int]]) -> None:
    """/ogcapi/ was not found: a client had to know the address of each collection."""
    service = Features(f"{map_server.config.base_url}/ogcapi/")
    assert service.feature_collections() == [INDEX]
    assert any(uri.endswith("features-1/1.0/conf/core") for uri in service.conformance()["conformsTo"])
    (described,) = service.collections()["collections"]
    assert described["title"] == "Travis USDA 1958 frames"
    assert described["extent"]["spatial"]["bbox"][0] == pytest.approx(
        transform_bounds("EPSG:3857", "EPSG:4326", *EXTENT), abs=1e-5
    )
    for link in described["links"]:
        assert map_server.get(link["href"].removeprefix(map_server.config.base_url)).status_code == 200
    assert service.collection(INDEX)["id"] == INDEX
    assert len(service.collection_items(INDEX)["features"]) == len(FRAMES)
    assert service.collection_item(INDEX, "1")["properties"]["frame_num"] == "107"


def test_ogc_api_of_an_empty_archive_is_empty(map_server: MapServer) -> None:
    assert map_server.get("/ogcapi/collections").json()["collections"] == []
    assert map_server.get("/ogcapi").json()["links"]
    assert map_server.get("/ogcapi/collections/Nothing_index/items").status_code == 404


# WMTS with key-value parameters


TILE = {"SERVICE": "WMTS", "REQUEST": "GetTile", "VERSION": "1.0.0", "LAYER": NAME, "STYLE": "default",
        "TILEMATRIXSET": "GoogleMapsCompatible", "FORMAT": "image/png"}  # fmt: skip
ZOOM = 15
SIDE = 2 * HALF_WORLD_METERS / 2**ZOOM
COLUMN, ROW = int((left_half(BLACK) + HALF_WORLD_METERS) / SIDE), int((HALF_WORLD_METERS - MIDDLE) / SIDE)
POSITION = {"TILEMATRIX": str(ZOOM), "TILECOL": str(COLUMN), "TILEROW": str(ROW)}


@pytest.fixture(name="with_documents")
def with_documents_fixture(map_server: MapServer) -> Iterator[None]:
    tile_set = TileSet(NAME, TABLE, "Travis USDA 1958 frames", EXTENT, RESOLUTION, version=7, license="CC & BY")
    paths = [map_server.archive / "mapfiles" / f"{TABLE}{suffix}" for suffix in render_documents(tile_set)]
    for path, document in zip(paths, render_documents(tile_set).values(), strict=True):
        path.write_text(document)
    yield
    for path in paths:
        path.unlink()


def test_key_value_tile_equals_the_restful_one(map_server: MapServer, with_documents: None) -> None:
    """Only RESTful clients got tiles."""
    response = map_server.client.get(f"/wmts/{TABLE}", params=TILE | POSITION)
    restful = map_server.get(f"/tiles/{TABLE}/{ZOOM}/{COLUMN}/{ROW}.png")
    assert (rgba(response)[..., 3] == 255).any() and response.content == restful.content
    lower = {name.lower(): value for name, value in (TILE | POSITION).items()}
    assert map_server.client.get(f"/wmts/{TABLE}/", params=lower).content == restful.content
    versioned = map_server.client.get(f"/wmts/{TABLE}", params=TILE | POSITION | {"v": "7"})
    assert versioned.headers["cache-control"] == "public, max-age=86400, immutable"


def test_owslib_uses_key_value_parameters(map_server: MapServer, with_documents: None) -> None:
    tiles = WebMapTileService(f"{map_server.config.base_url}/wmts/{TABLE}?SERVICE=WMTS&REQUEST=GetCapabilities")
    assert tiles.identification.accessconstraints == "CC & BY" and tiles[NAME].title == "Travis USDA 1958 frames"
    get = tiles.getOperationByName("GetTile").methods[0]
    assert get["url"].startswith(f"{map_server.config.base_url}/wmts/{TABLE}?") and "KVP" in get["constraints"][0].values
    tile = tiles.gettile(
        layer=NAME, tilematrixset="GoogleMapsCompatible", tilematrix=str(ZOOM), row=ROW, column=COLUMN, format="image/png"
    )
    assert f"/wmts/{TABLE}?" in tile.geturl()
    assert tile.read() == map_server.get(f"/tiles/{TABLE}/{ZOOM}/{COLUMN}/{ROW}.png").content


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"SERVICE": ""}, ("MissingParameterValue", "service")),
        ({"REQUEST": ""}, ("MissingParameterValue", "request")),
        ({"REQUEST": "GetFeatureInfo"}, ("OperationNotSupported", "request")),
        ({"LAYER": ""}, ("MissingParameterValue", "layer")),
        ({"LAYER": "other"}, ("InvalidParameterValue", "layer")),
        ({"FORMAT": "image/gif"}, ("InvalidParameterValue", "format")),
        ({"FORMAT": "toString"}, ("InvalidParameterValue", "format")),
        ({"STYLE": "red"}, ("InvalidParameterValue", "style")),
        ({"TILEMATRIXSET": "x"}, ("InvalidParameterValue", "tilematrixset")),
        ({"TILEMATRIX": "../../"}, ("InvalidParameterValue", "tilematrix")),
        ({"TILEROW": "-1"}, ("InvalidParameterValue", "tilerow")),
    ],
)
def test_wrong_tile_request_is_an_exception(map_server: MapServer, changed: dict[str, str], expected: tuple[str, str]) -> None:
    assert code_of(map_server.client.get(f"/wmts/{TABLE}", params=TILE | POSITION | changed)) == expected


def test_tile_request_of_a_missing_map_is_a_404(map_server: MapServer) -> None:
    assert map_server.client.get("/wmts/nothing", params=TILE | POSITION).status_code == 404
