"""The point query `/photographs`, and one photograph alone as tiles."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
import pytest
from pyproj import Transformer
from shapely import Polygon, affinity, box
from shapely.geometry import shape
from sqlalchemy import Connection, text

from ls4_assets.domain.archive_file import read_archive_file
from ls4_assets.domain.links import build_links, map_page_url
from ls4_assets.domain.names import Collection, Frame
from ls4_assets_tests.integration.serving_fixtures import (
    LEFT,
    MIDDLE,
    SPAN,
    TOP,
    IndexDatabase,
    MapServer,
    index_database_fixture,  # noqa: F401
    map_server_fixture,  # noqa: F401
    mapfile_context,
    publish_mapfile,
    rgba,
    write_cog,
)
from ls4_assets_tests.integration.test_statewide_map import collection_row, empty_fixture  # noqa: F401
from mapserver import statewide_map
from mapserver.rendering import Extent
from mapserver.tiles import HALF_WORLD_METERS, TILEJSON_SUFFIX, TileSet, render_tilejson

pytestmark = pytest.mark.timeout(180)

PUBLIC = "https://archive.example.org"
PLACE: Extent = (LEFT, TOP - SPAN, LEFT + 3 * SPAN, TOP)
CENTER = (LEFT + SPAN / 2, MIDDLE)
OLD, NEW = Collection("Travis", "USDA_1940", "frames"), Collection("Travis", "USDA_1958", "frames")
MISSION, SHEETS = Collection("USDA", "DLK", "frames"), Collection("Travis", "USDA_1958", "index")
MOSAICS = Collection("Travis", "USDA_1958", "mosaic")
REVISION = 4
"""Of `collection_row`."""


@dataclass(frozen=True)
class Photograph:
    """shade: of its pixels, if it has a COG."""

    frame: Frame
    footprint: Polygon
    scan_file: str | None = None
    shade: int | None = None

    @property
    def id(self) -> str:
        return self.frame.id


WHOLE = box(LEFT, TOP - SPAN, LEFT + SPAN, TOP)
# Its bounding box covers the center, its footprint does not.
BESIDE = affinity.translate(affinity.rotate(WHOLE, 45), SPAN * 0.62, SPAN * 0.62)


def photograph(collection: Collection, stem: str, footprint: Polygon = WHOLE, **more: Any) -> Photograph:
    return Photograph(Frame(collection, more.pop("film_type", "bw"), stem), footprint, **more)


PHOTOGRAPHS = [
    photograph(NEW, "02-08-60_6-107", scan_file="02-08-60_6-107.TIF", shade=60),
    photograph(NEW, "02-08-60_6-108", shade=200),
    photograph(NEW, "02-09-60_6-109", BESIDE),
    photograph(OLD, "11-30-39_1A-5", shade=120),
    photograph(MISSION, "03-10-54_1234", film_type="nc"),
    photograph(SHEETS, "USDA_1958_1"),
    photograph(MOSAICS, "mosaic01"),
]
NEWEST_FIRST = ["02-08-60_6-107", "02-08-60_6-108", "mosaic01", "USDA_1958_1", "03-10-54_1234", "11-30-39_1A-5"]


def insert(connection: Connection, each: Photograph, key: str) -> None:
    frame = each.frame
    values = {
        "id": each.id, "shard": frame.collection.shard, "collection": frame.collection.name, "scan": each.scan_file,
        "partition": frame.partition, "key": key, "footprint": each.footprint.wkt,
    }  # fmt: skip
    connection.execute(
        text(
            "INSERT INTO ls4.frame (id, shard, collection, partition, source_key, source_version, content_hash, width, transform,"
            " scan_file, served_key, indexed_revision, footprint) VALUES (:id, :shard, :collection, :partition, :id, '1', 'c',"
            " 1200, '{2,0,0,0,-2,0}', :scan, :key, 1, ST_Multi(ST_GeomFromText(:footprint, 3857)))"
        ),
        values,
    )


@pytest.fixture(name="photographs")
def photographs_fixture(map_server: MapServer, empty: IndexDatabase) -> Iterator[None]:
    archive, maps = map_server.archive, map_server.archive / "mapfiles"
    with empty.owner.begin() as connection:
        for collection in (OLD, NEW, MISSION, SHEETS, MOSAICS):
            collection_row(connection, collection, PLACE, f"{archive}/")
        connection.execute(text("UPDATE ls4.collection SET public_url = :url"), {"url": PUBLIC})
        for each in PHOTOGRAPHS:
            if each.shade is not None:
                write_cog(archive / each.frame.cog_key, LEFT, ((each.shade,), (each.shade,)))
            insert(connection, each, each.frame.cog_key)
    publish_mapfile(archive, replace(mapfile_context(NEW), extent=PLACE))
    tile_set = TileSet(NEW.name, NEW.table, NEW.title, PLACE, 2.0, REVISION)
    (maps / f"{NEW.table}{TILEJSON_SUFFIX}").write_text(render_tilejson(tile_set))
    yield
    (maps / f"{NEW.table}{TILEJSON_SUFFIX}").unlink()


def degrees(x: float, y: float) -> str:
    longitude, latitude = Transformer.from_crs(3857, 4326, always_xy=True).transform(x, y)
    return f"{longitude:.7f},{latitude:.7f}"


def ask(map_server: MapServer, x: float = CENTER[0], y: float = CENTER[1], **parameters: Any) -> dict[str, Any]:
    response = map_server.client.get("/photographs", params={"point": degrees(x, y)} | parameters)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/geo+json")
    document: dict[str, Any] = response.json()
    return document


def names(document: dict[str, Any]) -> list[str]:
    return [each["properties"]["name"] for each in document["features"]]


# The point query


@pytest.mark.usefixtures("photographs")
def test_a_point_has_the_photographs_of_all_collections_that_cover_it(map_server: MapServer) -> None:
    """Years were offered whose photographs did not show the place: bounding boxes were compared."""
    newest, oldest = ask(map_server), ask(map_server, order="oldest")
    assert names(newest) == NEWEST_FIRST
    assert names(oldest) == ["11-30-39_1A-5", "03-10-54_1234", "mosaic01", "USDA_1958_1", "02-08-60_6-107", "02-08-60_6-108"]
    assert (newest["numberMatched"], newest["numberReturned"]) == (6, 6)
    beside = BESIDE.centroid
    assert names(ask(map_server, beside.x, beside.y)) == ["02-09-60_6-109"]
    nothing = ask(map_server, LEFT - SPAN, TOP)
    assert (nothing["type"], nothing["features"], nothing["numberMatched"]) == ("FeatureCollection", [], 0)


@pytest.mark.usefixtures("photographs")
def test_a_photograph_has_its_date_links_and_footprint(map_server: MapServer) -> None:
    features = {each["id"]: each for each in ask(map_server)["features"]}
    base = map_server.config.base_url
    for each in PHOTOGRAPHS:
        if each.id not in features:
            continue
        feature, frame = features[each.id], each.frame
        properties, links, attributes = feature["properties"], build_links(frame, PUBLIC, each.scan_file), frame.attributes
        assert properties["date"] == (attributes.acquired.isoformat() if attributes.acquired else None)
        if frame.collection.type == "frames":
            assert (properties["roll"] or "N/A", properties["frame_num"]) == (attributes.roll, attributes.frame_num)
        assert properties["dl_georef"] == links.dl_georef
        assert properties["dl_orig"] == (links.dl_orig if each.scan_file else None)
        assert properties["thumbnail"] == f"{PUBLIC}/{frame.product_key('thumbnail')}"
        assert properties["page"] == map_page_url(frame, base)
        assert properties["collection"] == frame.collection.name and properties["type"] == frame.collection.type
        assert properties["year"] == frame.collection.year
        assert properties["map"] == f"{base}/wms/{frame.collection.table}"
        assert properties["maxzoom"] == 17
        footprint = shape(feature["geometry"])
        assert feature["bbox"] == pytest.approx(footprint.bounds, abs=1e-6)
        meters = Transformer.from_crs(4326, 3857, always_xy=True).transform(*footprint.centroid.coords[0])
        assert meters == pytest.approx(each.footprint.centroid.coords[0], abs=1)


@pytest.mark.usefixtures("photographs")
def test_pages_are_complete_and_link_to_the_next(map_server: MapServer) -> None:
    found, document = [], ask(map_server, limit=2)
    while True:
        assert document["numberMatched"] == 6
        found += names(document)
        following = [link["href"] for link in document["links"] if link["rel"] == "next"]
        if not following:
            break
        document = map_server.get(following[0]).json()
    assert found == NEWEST_FIRST


@pytest.mark.usefixtures("photographs")
def test_answers_may_be_cached_and_nearby_points_share_one(map_server: MapServer) -> None:
    first = map_server.get("/photographs?point=-97.7431004,30.2671")
    assert first.headers["cache-control"] == "public, max-age=60"
    assert first.headers["access-control-allow-origin"] == "*"
    assert first.text == map_server.get("/photographs?point=-97.7430996,%2B30.2671000").text
    assert first.json()["point"] == [-97.7431, 30.2671]


@pytest.mark.usefixtures("photographs")
def test_a_new_photograph_is_found_after_a_minute(map_server: MapServer, empty: IndexDatabase) -> None:
    """The cache has one entry for all requests of a place."""
    before = ask(map_server, CENTER[0] + 7)
    with empty.owner.begin() as connection:
        connection.execute(text("DELETE FROM ls4.frame WHERE id = :id"), {"id": PHOTOGRAPHS[0].id})
    assert ask(map_server, CENTER[0] + 7) == before, "from the cache"
    assert names(ask(map_server, CENTER[0] + 7, limit=99)) == NEWEST_FIRST[1:], "another request"


@pytest.mark.parametrize(
    ("query", "advice"),
    [
        ("", "point=longitude,latitude"),
        ("point=", "point=longitude,latitude"),
        ("point=-97.7", "point=longitude,latitude"),
        ("point=-97.7,30.2,5", "point=longitude,latitude"),
        ("point=west,30", "point=longitude,latitude"),
        ("point=NaN,30", "point=longitude,latitude"),
        ("point=1e1,30", "point=longitude,latitude"),
        ("point=-97.7,30)--", "point=longitude,latitude"),
        ("point=-97.7,30&point=-97.7,30", "point=longitude,latitude"),
        ("point=30.2,-97.7", "in this order"),
        ("point=181,0", "longitude is from -180 to 180"),
        ("point=-97.7,30.2&order=name", "order=newest or order=oldest"),
        ("point=-97.7,30.2&limit=0", "from 1 to 100"),
        ("point=-97.7,30.2&limit=101", "from 1 to 100"),
        ("point=-97.7,30.2&limit=all", "from 1 to 100"),
        ("point=-97.7,30.2&offset=-1", "from 0 to 10000"),
        ("point=-97.7,30.2&offset=10001", "from 0 to 10000"),
    ],
)
def test_an_invalid_parameter_is_answered_with_what_to_write(map_server: MapServer, query: str, advice: str) -> None:
    response = map_server.get(f"/photographs?{query}")
    assert response.status_code == 400 and advice in response.text and response.headers["content-type"].startswith("text/plain")
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.usefixtures("photographs")
def test_without_its_view_the_answer_is_an_error_that_nobody_caches(map_server: MapServer, empty: IndexDatabase) -> None:
    """MapServer reports errors with status 200: a list without photographs would be wrong."""
    with empty.owner.begin() as connection:
        connection.execute(text("ALTER VIEW public.archive_frames RENAME TO away"))
    try:
        response = map_server.get("/photographs?point=-97.1,30.1")
        assert response.status_code == 503 and "try again" in response.text
        assert response.headers["cache-control"] == "no-store"
    finally:
        with empty.owner.begin() as connection:
            connection.execute(text("ALTER VIEW public.away RENAME TO archive_frames"))
    assert map_server.get("/photographs?point=-97.1,30.1").status_code == 200


@pytest.mark.parametrize("year", [None, 1850, 1899, 1900, 1949, 1950, 1951, 1958, 1999, 2000, 2049])
def test_the_view_reads_names_as_the_pipeline_does(empty: IndexDatabase, year: int | None) -> None:
    """The pipeline writes the attributes of a name into the tile index, whose tables a query over the archive cannot join."""
    collection = Collection("USDA", f"X_{year}" if year else "DLK", "frames")
    dates = [f"{1 + number % 12:02}-{1 + number % 28:02}-{number:02}" for number in range(100)] + ["02-29-60", "12-31-00"]
    stems = [
        name for date in dates for name in (f"{date}_6-107", f"{date}_1A-0", f"{date}_1234", f"3_107_{date}", f"3_1_{date}_2277")
    ]
    with empty.owner.begin() as connection:
        collection_row(connection, collection, PLACE)
        for stem in stems:
            insert(connection, photograph(collection, stem), stem)
        rows = connection.execute(text("SELECT stem, acquired, roll, frame_num FROM public.archive_frames")).all()
    assert {row.stem for row in rows} == set(stems)
    for row in rows:
        attributes = Frame(collection, "bw", row.stem).attributes
        assert (row.acquired, row.roll or "N/A", row.frame_num) == (attributes.acquired, attributes.roll, attributes.frame_num)


def test_maps_do_not_read_the_names_of_frames(index_database: IndexDatabase) -> None:
    """Matching the names of all frames in a box would cost more than finding them."""
    mapfile = statewide_map.render("ls4", read_archive_file(None))
    data = re.search(r'NAME "frames_index".*?DATA "geom FROM \((.*?)\) AS \w+ USING', mapfile, re.DOTALL)
    assert data
    sql = data[1].replace("%year%", "all").replace("%collection%", "all").replace("!BOX!", "ST_MakeEnvelope(0, 0, 1, 1, 3857)")
    with index_database.owner.connect() as connection:
        plan = "\n".join(connection.scalars(text(f"EXPLAIN VERBOSE {sql}".replace(":", "\\:"))))
    assert "idx_frame_footprint" in plan and "regexp_match" not in plan


# One photograph alone


def tile_place(point: tuple[float, float], zoom: int = 17) -> tuple[dict[str, int], float, float, float]:
    """The tile at a point, its left and top edge, and its width in meters."""
    side = 2 * HALF_WORLD_METERS / 2**zoom
    column, row = int((point[0] + HALF_WORLD_METERS) / side), int((HALF_WORLD_METERS - point[1]) / side)
    return (
        {"z": zoom, "x": column, "y": row},
        column * side - HALF_WORLD_METERS,
        HALF_WORLD_METERS - row * side,
        side,
    )


def tile(map_server: MapServer, frame: str) -> httpx.Response:
    address = f"/tiles/{NEW.table}/{{z}}/{{x}}/{{y}}.png".format(**tile_place(CENTER)[0])
    return map_server.client.get(address, params={"frame": frame, "v": REVISION})


def shades(response: httpx.Response) -> set[int]:
    pixels = rgba(response)
    return set(pixels[pixels[..., 3] == 255][:, 0].tolist())


@pytest.mark.usefixtures("photographs")
def test_a_photograph_alone_shows_its_own_pixels_although_another_covers_it(map_server: MapServer, empty: IndexDatabase) -> None:
    """Stepping through the photographs of a place moved the outline, and the pixels stayed those of the top one."""
    with empty.owner.begin() as connection:
        # The index query of the maps omits what an interior hides.
        connection.execute(text("UPDATE ls4.frame SET interior = footprint"))
    lower, upper = PHOTOGRAPHS[:2]
    assert shades(tile(map_server, "bw/02-08-60_6-107")) == {lower.shade}
    assert shades(tile(map_server, "bw/02-08-60_6-108")) == {upper.shade}
    features = {each["id"]: each["properties"] for each in ask(map_server)["features"]}
    address = features[lower.id]["tiles"]
    assert address.startswith(f"{map_server.config.base_url}/tiles/{NEW.table}/") and address.endswith(f"&v={REVISION}")
    response = map_server.get(address.format(**tile_place(CENTER, 15)[0]))
    assert shades(response) == {lower.shade}
    assert response.headers["cache-control"] == "public, max-age=86400, immutable"
    assert response.headers["etag"] == f'"{REVISION}"'


@pytest.mark.usefixtures("photographs")
def test_pixels_of_a_photograph_alone_are_those_of_a_map_of_it_alone(map_server: MapServer, empty: IndexDatabase) -> None:
    alone = [rgba(tile(map_server, f"bw/{each.frame.stem}")) for each in PHOTOGRAPHS[:2]]
    left, top, side = tile_place(CENTER)[1:]
    for each, pixels in zip(PHOTOGRAPHS[:2], alone, strict=True):
        with empty.owner.begin() as connection:
            connection.execute(text("UPDATE ls4.frame SET deleted = (id <> :id)"), {"id": each.id})
        extent = (left, top - side, left + side, top)
        assert np.array_equal(map_server.get_map(extent, side / 256, layer="imagery", address="/wms/catalog"), pixels)
        selection = {"collection": NEW.name, "frame": f"bw/{each.frame.stem}"}
        drawn = map_server.get_map(extent, side / 256, layer="photograph", address="/wms/catalog", **selection)
        assert np.array_equal(drawn, pixels)
        assert (pixels[..., 3] == 255).all()


@pytest.mark.usefixtures("photographs")
def test_tiles_of_photographs_are_cached_apart(map_server: MapServer) -> None:
    first, again = (tile(map_server, "bw/02-08-60_6-107") for _ in range(2))
    assert again.headers["x-cache-status"] == "HIT" and again.content == first.content
    assert shades(tile(map_server, "bw/02-08-60_6-108")) == {PHOTOGRAPHS[1].shade}


@pytest.mark.usefixtures("photographs")
def test_a_photograph_of_another_collection_is_not_shown(map_server: MapServer) -> None:
    """Its tiles would have the wrong version."""
    assert (rgba(tile(map_server, "bw/11-30-39_1A-5"))[..., 3] == 0).all()


@pytest.mark.parametrize(
    "frame", ["02-08-60_6-107", "bw/", "bw/..", "bw/a/b", "bw/x' OR '1'='1", "bw/%25", "BW/02-08-60_6-107", "bw/%C3%A9"]
)
def test_an_invalid_photograph_is_not_found(map_server: MapServer, frame: str) -> None:
    assert tile(map_server, frame).status_code == 404
    assert map_server.get(f"/tiles/catalog/15/1/1.png?frame={frame}").status_code == 404


@pytest.mark.usefixtures("photographs")
def test_the_layers_behind_these_addresses_are_not_in_the_capabilities(map_server: MapServer) -> None:
    for version in ("1.1.1", "1.3.0"):
        capabilities = map_server.wms("GetCapabilities", version=version, address="/wms/catalog").text
        assert "photograph<" not in capabilities and "photographs<" not in capabilities
    listed = map_server.get("/ogcapi/catalog/collections?f=json").json()["collections"]
    assert [each["id"] for each in listed] == [statewide_map.COLLECTIONS]


@pytest.mark.parametrize("value", ["0) OR (1=1", "1e5", "'", "%", "0;SELECT 1"])
def test_values_of_another_form_do_not_reach_the_database(map_server: MapServer, value: str) -> None:
    fixed = {"LAYERS": "photographs", "QUERY_LAYERS": "photographs", "STYLES": "", "SRS": "EPSG:4326", "BBOX": "-1,-1,1,1"}
    size = {"WIDTH": "3", "HEIGHT": "3", "X": "1", "Y": "1", "INFO_FORMAT": "application/json"}
    for name in ("longitude", "latitude", "order", "count", "offset"):
        response = map_server.wms("GetFeatureInfo", address="/wms/catalog", **(fixed | size | {name: value}))
        assert "SQL" not in response.text
        if response.headers["content-type"].startswith("application/json"):
            assert json.loads(response.text)["features"] == []
