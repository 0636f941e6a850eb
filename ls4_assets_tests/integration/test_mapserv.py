"""WMS, feature info and tiles of one collection, through nginx and mapserv, from a PostGIS index and real COGs."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import httpx
import numpy as np
import psutil
import pytest
from owslib.wms import WebMapService  # type: ignore[import-untyped]
from sqlalchemy import text

from ls4_assets.domain.contact import Contact
from ls4_assets.domain.names import Collection
from ls4_assets_tests.integration.serving_fixtures import (
    BLACK,
    CAPABILITIES,
    COLLAR,
    EXTENT,
    FRAMES,
    LEFT,
    LINKS,
    MIDDLE,
    NAME,
    RED,
    RESOLUTION,
    SPAN,
    TABLE,
    WHITE,
    IndexDatabase,
    MapServer,
    cog_path,
    index_database_fixture,  # noqa: F401
    index_row,
    index_table,
    left_half,
    map_server_fixture,  # noqa: F401
    mapfile_context,
    publish_mapfile,
    rgba,
    write_cog,
)

pytestmark = pytest.mark.timeout(120)

CLEAR = (0, 0, 0, 0)
LEGACY = f"/?map=/mapfiles/{TABLE}.map"


def in_collar(stem: str) -> float:
    return FRAMES[stem][0] + COLLAR * RESOLUTION / 2


# Capabilities


@pytest.mark.parametrize("version", ["1.1.1", "1.3.0"])
def test_capabilities_list_the_two_contract_layers_without_a_warning(map_server: MapServer, version: str) -> None:
    response = map_server.wms("GetCapabilities", version=version)
    assert "WARNING" not in response.text.upper()
    service = WebMapService("http://unused", version=version, xml=response.content)
    assert set(service.contents) - {"TRAVISUSDA1958FRAMES"} == {NAME, f"{NAME}_index"}
    assert service.identification.title == "Travis Usda 1958 Frames"
    west, south, east, north = service[NAME].boundingBoxWGS84
    assert (-98 < west < east < -97) and (30 < south < north < 31)


@pytest.mark.parametrize("version", ["1.1.1", "1.3.0"])
def test_contact_block_and_special_characters_survive_without_a_warning(map_server: MapServer, version: str) -> None:
    value = 'Map "Desk" \\ <Archive> & Söhne'
    contact = Contact(value, value, "Head", "a@b.org", "1", "2", "Street 1", "Austin", "TX", "78701", "USA")
    plain = mapfile_context(Collection("Odd", "USDA_1958", "frames"))
    publish_mapfile(map_server.archive, replace(plain, capabilities=replace(CAPABILITIES, contact=contact)))
    response = map_server.wms("GetCapabilities", version=version, address=f"/wms/{plain.table}")
    assert "WARNING" not in response.text.upper()
    assert value in [element.text for element in ElementTree.fromstring(response.content).iter()]


def test_capabilities_name_the_host_of_the_request(map_server: MapServer) -> None:
    """A local server's port changes at each start; its mapfiles do not."""
    service = WebMapService("http://unused", version="1.1.1", xml=map_server.wms("GetCapabilities").content)
    address = service.getOperationByName("GetMap").methods[0]["url"]
    assert address.startswith(f"{map_server.config.base_url}/wms/{TABLE}?")
    assert str(map_server.archive) not in map_server.wms("GetCapabilities").text
    # A client continues with that address.
    assert map_server.client.get(address, params={"SERVICE": "WMS", "REQUEST": "GetCapabilities"}).status_code == 200


# Pixels


@pytest.mark.parametrize("resolution", [2.0, 8.0, 32.0])
def test_frames_are_drawn_and_collars_are_transparent_at_every_zoom(map_server: MapServer, resolution: float) -> None:
    assert map_server.color_at(left_half(BLACK), MIDDLE, resolution) == (0, 0, 0, 255)
    assert map_server.color_at(left_half(BLACK) + SPAN / 2, MIDDLE, resolution) == (90, 90, 90, 255)
    assert map_server.color_at(left_half(WHITE), MIDDLE, resolution) == (255, 255, 255, 255)
    red = map_server.color_at(left_half(RED), MIDDLE, resolution)
    assert np.abs(np.array(red) - (200, 40, 40, 255)).max() <= 6  # JPEG
    for stem in FRAMES:
        assert map_server.color_at(in_collar(stem), MIDDLE, resolution) == CLEAR


def test_footprint_layer_draws_outlines_only(map_server: MapServer) -> None:
    pixels = map_server.get_map(EXTENT, 16.0, layer=f"{NAME}_index")
    drawn = (pixels[..., 3] > 0).mean()
    assert 0 < drawn < 0.1


def test_missing_frame_leaves_a_hole_and_the_others_are_drawn(map_server: MapServer, index_database: IndexDatabase) -> None:
    collection = Collection("Gone", "USDA_1958", "frames")
    publish_mapfile(map_server.archive, mapfile_context(collection))
    with index_table(index_database, map_server.archive, collection, FRAMES):
        with index_database.owner.begin() as connection:
            statement = text(f"UPDATE {collection.table} SET served_location = '/nowhere.tif' WHERE frame_num = '107'")
            connection.execute(statement)
        pixels = map_server.get_map(EXTENT, 32.0, layer=collection.name, address=f"/wms/{collection.table}")
    row = pixels[pixels.shape[0] // 2]
    assert row[round(SPAN / 4 / 32)].tolist() == [0, 0, 0, 0]
    assert row[round((left_half(WHITE) - LEFT) / 32)].tolist() == [255, 255, 255, 255]


def test_every_worker_draws_a_replaced_cog_at_once(map_server: MapServer) -> None:
    path = cog_path(map_server.archive, BLACK)
    before = path.read_bytes()
    try:
        for _ in range(12):
            assert map_server.color_at(left_half(BLACK), MIDDLE) == (0, 0, 0, 255)
        write_cog(path, FRAMES[BLACK][0], ((33,), (44,)))
        for _ in range(12):
            assert map_server.color_at(left_half(BLACK), MIDDLE) == (33, 33, 33, 255)
    finally:
        fresh = path.with_suffix(".new")
        fresh.write_bytes(before)
        fresh.replace(path)


def test_frames_that_workers_keep_open_never_show_old_pixels(map_server: MapServer, index_database: IndexDatabase) -> None:
    """At native zoom frames stay open. The pipeline writes a replaced frame to a new path, and deletes the row of a deleted one.

    When zoomed out frames do not stay open, because one map could open all of them.
    """
    collection = Collection("Kept", "USDA_1958", "frames")
    publish_mapfile(map_server.archive, replace(mapfile_context(collection), overview_resolution=16.0))
    old = cog_path(map_server.archive, BLACK)
    fresh = old.with_name("version-2.tif")

    def draw(resolution: float = RESOLUTION) -> set[tuple[int, ...]]:
        half = 16 * resolution
        x, y = left_half(BLACK), MIDDLE
        extent = (x - half, y - half, x + half, y + half)
        maps = [
            map_server.get_map(extent, resolution, layer=collection.name, address=f"/wms/{collection.table}") for _ in range(12)
        ]
        return {tuple(int(value) for value in pixels[16, 16]) for pixels in maps}

    with index_table(index_database, map_server.archive, collection, [BLACK]):
        assert draw(64.0) == draw() == {(0, 0, 0, 255)}
        assert any(str(old) == file.path for pid in map_server.workers() for file in psutil.Process(pid).open_files())
        write_cog(fresh, FRAMES[BLACK][0], ((33,), (44,)))
        with index_database.owner.begin() as connection:
            connection.execute(text(f"UPDATE {collection.table} SET served_location = :path"), {"path": str(fresh)})
        assert draw() == draw(64.0) == {(33, 33, 33, 255)}
        with index_database.owner.begin() as connection:
            connection.execute(text(f"DELETE FROM {collection.table}"))
        fresh.unlink()
        assert draw() == draw(64.0) == {CLEAR}


def test_map_larger_than_the_limit_is_rejected(map_server: MapServer) -> None:
    size = {"WIDTH": "5000", "HEIGHT": "100", "BBOX": ",".join(map(str, EXTENT)), "SRS": "EPSG:3857"}
    response = map_server.wms("GetMap", LAYERS=NAME, STYLES="", FORMAT="image/png", **size)
    assert "ServiceException" in response.text


# Footprints


def get_feature_info(map_server: MapServer, mime_type: str) -> httpx.Response:
    x, y = left_half(BLACK), MIDDLE
    bbox = {
        "BBOX": f"{x - 100},{y - 100},{x + 100},{y + 100}",
        "WIDTH": "100",
        "HEIGHT": "100",
        "X": "50",
        "Y": "50",
    }
    layer = {"LAYERS": f"{NAME}_index", "QUERY_LAYERS": f"{NAME}_index", "STYLES": "", "SRS": "EPSG:3857"}
    return map_server.wms("GetFeatureInfo", INFO_FORMAT=mime_type, FEATURE_COUNT="5", **layer, **bbox)


def test_feature_info_as_geojson_has_all_attributes_and_links(map_server: MapServer) -> None:
    response = get_feature_info(map_server, "application/json")
    features = response.json()["features"]
    assert len(features) == 1
    row = index_row(map_server.archive, BLACK)
    names = ("date", "roll", "frame_num", "acquired", "band", "dl_orig", "dl_georef", "dl_index")
    assert features[0]["properties"] == {name: row[name] for name in names}
    assert features[0]["geometry"]["type"] in ("Polygon", "MultiPolygon")


@pytest.mark.parametrize("mime_type", ["text/html", "text/plain"])
def test_feature_info_for_people_has_the_links(map_server: MapServer, mime_type: str) -> None:
    response = get_feature_info(map_server, mime_type)
    assert response.headers["content-type"].startswith(mime_type)
    row = index_row(map_server.archive, BLACK)
    for name in ("date", "frame_num", "acquired", "dl_orig", "dl_georef", "dl_index"):
        assert str(row[name]) in response.text
    if mime_type == "text/html":
        assert f'href="{row["dl_georef"]}"' in response.text


def test_served_location_and_tile_index_layer_are_not_public(map_server: MapServer) -> None:
    """Storage paths are internal."""
    size = {"WIDTH": "10", "HEIGHT": "10", "BBOX": ",".join(map(str, EXTENT)), "SRS": "EPSG:3857"}
    response = map_server.wms("GetMap", LAYERS=f"{NAME}_tileindex", STYLES="", FORMAT="image/png", **size)
    assert "LayerNotDefined" in response.text
    features = map_server.get(f"/ogcapi/{TABLE}/collections/{NAME}_index/items?f=json").text
    gml = map_server.get(f"/wms/{TABLE}?SERVICE=WFS&VERSION=1.1.0&REQUEST=GetFeature&TYPENAME={NAME}_index").text
    for document in (features, gml, get_feature_info(map_server, "text/plain").text):
        assert LINKS in document
        assert str(map_server.archive) not in document


def test_footprints_are_served_as_ogc_api_features_and_wfs(map_server: MapServer) -> None:
    items = map_server.get(f"/ogcapi/{TABLE}/collections/{NAME}_index/items?f=json&limit=2").json()
    assert items["numberMatched"] == 3 and len(items["features"]) == 2
    assert map_server.get(f"/ogcapi/{TABLE}/collections/nothing?f=json").status_code == 404
    query = f"SERVICE=WFS&VERSION=2.0.0&REQUEST=GetFeature&TYPENAMES={NAME}_index&OUTPUTFORMAT=geojson"
    assert len(map_server.get(f"/wms/{TABLE}?{query}").json()["features"]) == 3


# Tiles


def tile_at(x: float, y: float, zoom: int) -> tuple[int, int]:
    half = 20037508.342789244
    width = 2 * half / 2**zoom
    return int((x + half) / width), int((half - y) / width)


def test_tiles_are_imagery_without_outlines(map_server: MapServer) -> None:
    zoom = 13  # 19 m per pixel: the whole frame is in one or two tiles
    x, y = tile_at(left_half(BLACK), MIDDLE, zoom)
    pixels = rgba(map_server.get(f"/tiles/{TABLE}/{zoom}/{x}/{y}.png"))
    assert pixels.shape == (256, 256, 4)
    opaque = pixels[pixels[..., 3] == 255]
    assert opaque.size and (opaque[:, 0] == opaque[:, 2]).all(), "gray frames only: no colored outline"
    assert (pixels[..., 3] == 0).any()


def test_legacy_tile_requests_return_png_mvt_and_utfgrid(map_server: MapServer) -> None:
    x, y = tile_at(left_half(BLACK), MIDDLE, 15)
    tile = f"{LEGACY}&mode=tile&tilemode=gmap&tile={x}+{y}+15"
    assert (rgba(map_server.get(f"{tile}&layers=all&map.imagetype=png"))[..., 3] == 255).any()
    vector = map_server.get(f"{tile}&layers=all&map.imagetype=mvt")
    assert vector.headers["content-type"] == "application/vnd.mapbox-vector-tile"
    assert f"{NAME}_index".encode() in vector.content and b"tileindex" not in vector.content
    grid = json.loads(map_server.get(f"{tile}&layers={NAME}_index&map.imagetype=utfgrid").content)
    assert any(entry["frame_num"] == "107" for entry in grid["data"].values())
