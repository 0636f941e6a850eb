"""Maps as clients get them: through nginx, from mapserv, out of a PostGIS index and real COGs."""

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
    Served,
    cog_path,
    context_for,
    index_database_fixture,  # noqa: F401
    index_row,
    indexed,
    left_half,
    publish_mapfile,
    rgba,
    served_fixture,  # noqa: F401
    write_cog,
)

pytestmark = pytest.mark.timeout(120)

CLEAR = (0, 0, 0, 0)
LEGACY = f"/?map=/mapfiles/{TABLE}.map"


def in_collar(stem: str) -> float:
    return FRAMES[stem][0] + COLLAR * RESOLUTION / 2


# --- capabilities


@pytest.mark.parametrize("version", ["1.1.1", "1.3.0"])
def test_capabilities_list_the_two_contract_layers_without_a_warning(served: Served, version: str) -> None:
    answer = served.wms("GetCapabilities", version=version)
    assert "WARNING" not in answer.text.upper()
    service = WebMapService("http://unused", version=version, xml=answer.content)
    assert set(service.contents) - {"TRAVISUSDA1958FRAMES"} == {NAME, f"{NAME}_index"}
    assert service.identification.title == "Travis Usda 1958 Frames"
    west, south, east, north = service[NAME].boundingBoxWGS84
    assert (-98 < west < east < -97) and (30 < south < north < 31)


@pytest.mark.parametrize("version", ["1.1.1", "1.3.0"])
def test_a_contact_block_and_odd_characters_make_no_warning_and_survive(served: Served, version: str) -> None:
    odd = 'Map "Desk" \\ <Archive> & Söhne'
    contact = Contact(odd, odd, "Head", "a@b.org", "1", "2", "Street 1", "Austin", "TX", "78701", "USA")
    plain = context_for(Collection("Odd", "USDA_1958", "frames"))
    publish_mapfile(served.archive, replace(plain, contact=contact))
    answer = served.wms("GetCapabilities", version=version, address=f"/wms/{plain.table}")
    assert "WARNING" not in answer.text.upper()
    assert odd in [element.text for element in ElementTree.fromstring(answer.content).iter()]


def test_the_capabilities_name_the_host_that_was_asked(served: Served) -> None:
    """A laptop's port changes from start to start, its mapfiles do not."""
    service = WebMapService("http://unused", version="1.1.1", xml=served.wms("GetCapabilities").content)
    address = service.getOperationByName("GetMap").methods[0]["url"]
    assert address.startswith(f"{served.config.base_url}/wms/{TABLE}?")
    assert str(served.archive) not in served.wms("GetCapabilities").text
    # a client goes on from that very address
    assert served.client.get(address, params={"SERVICE": "WMS", "REQUEST": "GetCapabilities"}).status_code == 200


# --- pixels


@pytest.mark.parametrize("resolution", [2.0, 8.0, 32.0])
def test_frames_are_seen_and_collars_are_transparent_at_every_zoom(served: Served, resolution: float) -> None:
    assert served.colour(left_half(BLACK), MIDDLE, resolution) == (0, 0, 0, 255)
    assert served.colour(left_half(BLACK) + SPAN / 2, MIDDLE, resolution) == (90, 90, 90, 255)
    assert served.colour(left_half(WHITE), MIDDLE, resolution) == (255, 255, 255, 255)
    red = served.colour(left_half(RED), MIDDLE, resolution)
    assert np.abs(np.array(red) - (200, 40, 40, 255)).max() <= 6  # JPEG
    for stem in FRAMES:
        assert served.colour(in_collar(stem), MIDDLE, resolution) == CLEAR


def test_the_footprint_layer_draws_outlines_only(served: Served) -> None:
    pixels = served.get_map(EXTENT, 16.0, layer=f"{NAME}_index")
    drawn = (pixels[..., 3] > 0).mean()
    assert 0 < drawn < 0.1


def test_a_missing_frame_leaves_a_hole_and_the_others_are_drawn(served: Served, index_database: IndexDatabase) -> None:
    gone = Collection("Gone", "USDA_1958", "frames")
    publish_mapfile(served.archive, context_for(gone))
    with indexed(index_database, served.archive, gone, FRAMES):
        with index_database.owner.begin() as connection:
            lost = text(f"UPDATE {gone.table} SET served_location = '/nowhere.tif' WHERE frame_num = '107'")
            connection.execute(lost)
        pixels = served.get_map(EXTENT, 32.0, layer=gone.name, address=f"/wms/{gone.table}")
    row = pixels[pixels.shape[0] // 2]
    assert row[round(SPAN / 4 / 32)].tolist() == [0, 0, 0, 0]
    assert row[round((left_half(WHITE) - LEFT) / 32)].tolist() == [255, 255, 255, 255]


def test_a_replaced_cog_is_seen_at_once_by_every_worker(served: Served) -> None:
    path = cog_path(served.archive, BLACK)
    before = path.read_bytes()
    try:
        for _ in range(12):
            assert served.colour(left_half(BLACK), MIDDLE) == (0, 0, 0, 255)
        write_cog(path, FRAMES[BLACK][0], ((33,), (44,)))
        for _ in range(12):
            assert served.colour(left_half(BLACK), MIDDLE) == (33, 33, 33, 255)
    finally:
        fresh = path.with_suffix(".new")
        fresh.write_bytes(before)
        fresh.replace(path)


def test_frames_that_workers_keep_open_never_show_old_pixels(served: Served, index_database: IndexDatabase) -> None:
    """At native zoom frames stay open. A replaced one comes under another path, as the pipeline has it; a deleted one's row goes.

    Zoomed out they do not: one view could open all of them.
    """
    kept = Collection("Kept", "USDA_1958", "frames")
    publish_mapfile(served.archive, replace(context_for(kept), overview_resolution=16.0))
    old = cog_path(served.archive, BLACK)
    fresh = old.with_name("version-2.tif")

    def seen(resolution: float = RESOLUTION) -> set[tuple[int, ...]]:
        half = 16 * resolution
        x, y = left_half(BLACK), MIDDLE
        extent = (x - half, y - half, x + half, y + half)
        looks = [served.get_map(extent, resolution, layer=kept.name, address=f"/wms/{kept.table}") for _ in range(12)]
        return {tuple(int(value) for value in pixels[16, 16]) for pixels in looks}

    with indexed(index_database, served.archive, kept, [BLACK]):
        assert seen(64.0) == seen() == {(0, 0, 0, 255)}
        assert any(str(old) == file.path for pid in served.workers() for file in psutil.Process(pid).open_files())
        write_cog(fresh, FRAMES[BLACK][0], ((33,), (44,)))
        with index_database.owner.begin() as connection:
            connection.execute(text(f"UPDATE {kept.table} SET served_location = :path"), {"path": str(fresh)})
        assert seen() == seen(64.0) == {(33, 33, 33, 255)}
        with index_database.owner.begin() as connection:
            connection.execute(text(f"DELETE FROM {kept.table}"))
        fresh.unlink()
        assert seen() == seen(64.0) == {CLEAR}


def test_a_map_larger_than_the_limit_is_rejected(served: Served) -> None:
    size = {"WIDTH": "5000", "HEIGHT": "100", "BBOX": ",".join(map(str, EXTENT)), "SRS": "EPSG:3857"}
    answer = served.wms("GetMap", LAYERS=NAME, STYLES="", FORMAT="image/png", **size)
    assert "ServiceException" in answer.text


# --- footprints


def feature_info(served: Served, mime_type: str) -> httpx.Response:
    x, y = left_half(BLACK), MIDDLE
    around = {
        "BBOX": f"{x - 100},{y - 100},{x + 100},{y + 100}",
        "WIDTH": "100",
        "HEIGHT": "100",
        "X": "50",
        "Y": "50",
    }
    layer = {"LAYERS": f"{NAME}_index", "QUERY_LAYERS": f"{NAME}_index", "STYLES": "", "SRS": "EPSG:3857"}
    return served.wms("GetFeatureInfo", INFO_FORMAT=mime_type, FEATURE_COUNT="5", **layer, **around)


def test_feature_info_as_geojson_has_all_attributes_and_links(served: Served) -> None:
    answer = feature_info(served, "application/json")
    features = answer.json()["features"]
    assert len(features) == 1
    row = index_row(served.archive, BLACK)
    names = ("date", "roll", "frame_num", "acquired", "band", "dl_orig", "dl_georef", "dl_index")
    assert features[0]["properties"] == {name: row[name] for name in names}
    assert features[0]["geometry"]["type"] in ("Polygon", "MultiPolygon")


@pytest.mark.parametrize("mime_type", ["text/html", "text/plain"])
def test_feature_info_for_people_has_the_links(served: Served, mime_type: str) -> None:
    answer = feature_info(served, mime_type)
    assert answer.headers["content-type"].startswith(mime_type)
    row = index_row(served.archive, BLACK)
    for name in ("date", "frame_num", "acquired", "dl_orig", "dl_georef", "dl_index"):
        assert str(row[name]) in answer.text
    if mime_type == "text/html":
        assert f'href="{row["dl_georef"]}"' in answer.text


def test_served_location_and_the_tile_index_layer_are_not_public(served: Served) -> None:
    """Paths of the storage are nobody's business."""
    size = {"WIDTH": "10", "HEIGHT": "10", "BBOX": ",".join(map(str, EXTENT)), "SRS": "EPSG:3857"}
    asked = served.wms("GetMap", LAYERS=f"{NAME}_tileindex", STYLES="", FORMAT="image/png", **size)
    assert "LayerNotDefined" in asked.text
    features = served.get(f"/ogcapi/{TABLE}/collections/{NAME}_index/items?f=json").text
    gml = served.get(f"/wms/{TABLE}?SERVICE=WFS&VERSION=1.1.0&REQUEST=GetFeature&TYPENAME={NAME}_index").text
    for answer in (features, gml, feature_info(served, "text/plain").text):
        assert LINKS in answer
        assert str(served.archive) not in answer


def test_footprints_are_an_ogc_api_and_a_wfs(served: Served) -> None:
    items = served.get(f"/ogcapi/{TABLE}/collections/{NAME}_index/items?f=json&limit=2").json()
    assert items["numberMatched"] == 3 and len(items["features"]) == 2
    assert served.get(f"/ogcapi/{TABLE}/collections/nothing?f=json").status_code == 404
    query = f"SERVICE=WFS&VERSION=2.0.0&REQUEST=GetFeature&TYPENAMES={NAME}_index&OUTPUTFORMAT=geojson"
    assert len(served.get(f"/wms/{TABLE}?{query}").json()["features"]) == 3


# --- tiles


def tile_at(x: float, y: float, zoom: int) -> tuple[int, int]:
    half = 20037508.342789244
    width = 2 * half / 2**zoom
    return int((x + half) / width), int((half - y) / width)


def test_tiles_are_imagery_without_outlines(served: Served) -> None:
    zoom = 13  # 19 m a pixel: the whole frame lies in one tile or two
    x, y = tile_at(left_half(BLACK), MIDDLE, zoom)
    pixels = rgba(served.get(f"/tiles/{TABLE}/{zoom}/{x}/{y}.png"))
    assert pixels.shape == (256, 256, 4)
    opaque = pixels[pixels[..., 3] == 255]
    assert opaque.size and (opaque[:, 0] == opaque[:, 2]).all(), "grey frames only: no coloured outline"
    assert (pixels[..., 3] == 0).any()


def test_legacy_tile_requests_answer_png_mvt_and_utfgrid(served: Served) -> None:
    x, y = tile_at(left_half(BLACK), MIDDLE, 15)
    tile = f"{LEGACY}&mode=tile&tilemode=gmap&tile={x}+{y}+15"
    assert (rgba(served.get(f"{tile}&layers=all&map.imagetype=png"))[..., 3] == 255).any()
    vector = served.get(f"{tile}&layers=all&map.imagetype=mvt")
    assert vector.headers["content-type"] == "application/vnd.mapbox-vector-tile"
    assert f"{NAME}_index".encode() in vector.content and b"tileindex" not in vector.content
    grid = json.loads(served.get(f"{tile}&layers={NAME}_index&map.imagetype=utfgrid").content)
    assert any(entry["frame_num"] == "107" for entry in grid["data"].values())
