"""The statewide map with no, two and two thousand collections: what it draws at each scale, and its feature info."""

import time
from collections.abc import Iterator
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from owslib.ogcapi.features import Features  # type: ignore[import-untyped]
from owslib.wms import WebMapService  # type: ignore[import-untyped]
from owslib.wmts import WebMapTileService  # type: ignore[import-untyped]
from PIL import Image
from rasterio.warp import transform_bounds
from sqlalchemy import Connection, text

from ls4_assets.domain.names import Collection
from ls4_assets_tests.integration.serving_fixtures import (
    BLACK,
    FRAMES,
    LEFT,
    MIDDLE,
    SIZE,
    SPAN,
    TOP,
    WHITE,
    IndexDatabase,
    MapServer,
    cog_path,
    index_database_fixture,  # noqa: F401
    left_half,
    map_server_fixture,  # noqa: F401
    rgba,
    write_cog,
)
from mapserver.rendering import Extent
from mapserver.statewide_map import COLLECTIONS, IMAGERY, NAME
from mapserver.tiles import HALF_WORLD_METERS

pytestmark = pytest.mark.timeout(180)

OLD, NEW = Collection("Travis", "USDA_1940", "frames"), Collection("Travis", "USDA_1958", "frames")
CLEAR = (0, 0, 0, 0)


def collection_row(connection: Connection, collection: Collection, outline: Extent, root: str = "") -> None:
    row = {
        "name": collection.name, "shard": collection.shard, "partition": collection.partition,
        "table_name": collection.table, "title": collection.title,
        "agency": "USDA", "year": collection.year, "type": collection.type, "root": root,
    } | dict(zip(("a", "b", "c", "d"), outline, strict=True))  # fmt: skip
    connection.execute(
        text(
            "INSERT INTO ls4.collection (name, shard, partition, table_name, title, agency, year, type, frames, film_types,"
            " index_revision, served_root, published_at, outline) VALUES (:name, :shard, :partition, :table_name, :title,"
            " :agency, :year, :type, 3, '{bw,nc}', 4, :root, now(), ST_MakeEnvelope(:a, :b, :c, :d, 3857))"
        ),
        row,
    )


def frame_row(connection: Connection, collection: Collection, left: float, key: str) -> None:
    stem = key.rpartition("/")[2].removesuffix(".tif")
    row = {
        "id": f"bw/{collection.shard}/{collection.survey}/{collection.type}/{stem}",
        "collection": collection.name,
        "shard": collection.shard,
        "key": key,
    }
    corners = dict(zip(("a", "b", "c", "d"), (left, TOP - SPAN, left + SPAN, TOP), strict=True))
    connection.execute(
        text(
            "INSERT INTO ls4.frame (id, shard, collection, partition, source_key, source_version, content_hash, width,"
            " served_key, indexed_revision, footprint) VALUES (:id, :shard, :collection, :id, :id, '1', 'c', :width, :key, 1,"
            " ST_Multi(ST_MakeEnvelope(:a, :b, :c, :d, 3857)))"
        ),
        row | corners | {"width": SIZE},
    )


def mosaic_row(connection: Connection, collection: Collection, path: str, geom: Extent) -> None:
    connection.execute(
        text(
            "INSERT INTO public.overview_mosaics (collection, table_name, served_location, resolution, frames, geom)"
            " VALUES (:collection, :table, :path, 16, 1, ST_MakeEnvelope(:a, :b, :c, :d, 3857))"
        ),
        {"collection": collection.name, "table": collection.table, "path": path}
        | dict(zip(("a", "b", "c", "d"), geom, strict=True)),
    )


@pytest.fixture(name="empty")
def empty_fixture(index_database: IndexDatabase) -> Iterator[IndexDatabase]:
    yield index_database
    with index_database.owner.begin() as connection:
        for table in ("public.overview_mosaics", "ls4.frame", "ls4.collection"):
            connection.execute(text(f"DELETE FROM {table}"))


@pytest.fixture(name="two_years")
def two_years_fixture(map_server: MapServer, empty: IndexDatabase) -> IndexDatabase:
    """Two years: 1940 has the black frame, 1958 the white one. Each year's mosaic has the other year's frame."""
    black, white = (str(cog_path(map_server.archive, stem).relative_to(map_server.archive)) for stem in (BLACK, WHITE))
    root = f"{map_server.archive}/"
    place = (LEFT, TOP - SPAN, LEFT + 3 * SPAN, TOP)
    with empty.owner.begin() as connection:
        for collection in (OLD, NEW):
            collection_row(connection, collection, place, root)
        frame_row(connection, OLD, FRAMES[BLACK][0], black)
        frame_row(connection, NEW, FRAMES[WHITE][0], white)
        mosaic_row(connection, OLD, root + white, place)
        mosaic_row(connection, NEW, root + black, place)
    return empty


def draw(
    map_server: MapServer, x: float, y: float, resolution: float, layers: str = IMAGERY, **parameters: str
) -> NDArray[np.uint8]:
    half = 16 * resolution
    extent = (x - half, y - half, x + half, y + half)
    return map_server.get_map(extent, resolution, layer=layers, address=f"/wms/{NAME}", **parameters)


def color(map_server: MapServer, stem: str, resolution: float, **parameters: str) -> tuple[int, ...]:
    return tuple(int(value) for value in draw(map_server, left_half(stem), MIDDLE, resolution, **parameters)[16, 16])


# An empty archive


@pytest.mark.parametrize("resolution", [0.5, 5.0, 50.0, 5000.0])
def test_empty_archive_is_an_empty_map(map_server: MapServer, empty: IndexDatabase, resolution: float) -> None:
    assert (draw(map_server, LEFT, TOP, resolution, f"{IMAGERY},{COLLECTIONS}")[..., 3] == 0).all()
    for zoom in (0, 9, 14, 18):
        side = 2 * HALF_WORLD_METERS / 2**zoom
        place = f"{zoom}/{int((LEFT + HALF_WORLD_METERS) / side)}/{int((HALF_WORLD_METERS - TOP) / side)}"
        assert (rgba(map_server.get(f"/tiles/{NAME}/{place}.png"))[..., 3] == 0).all()
    assert map_server.get(f"/ogcapi/{NAME}/collections/{COLLECTIONS}/items?f=json").json()["numberMatched"] == 0


@pytest.mark.parametrize("version", ["1.1.1", "1.3.0"])
def test_capabilities_list_the_two_layers_without_a_warning(map_server: MapServer, version: str) -> None:
    response = map_server.wms("GetCapabilities", version=version, address=f"/wms/{NAME}")
    assert "WARNING" not in response.text.upper() and str(map_server.archive) not in response.text
    service = WebMapService("http://unused", version=version, xml=response.content)
    assert set(service.contents) - {"CATALOG"} == {IMAGERY, COLLECTIONS}
    assert ElementTree.fromstring(response.content) is not None


# By scale


def test_outlines_are_drawn_when_zoomed_out_and_photographs_when_zoomed_in(
    map_server: MapServer, two_years: IndexDatabase
) -> None:
    far = draw(map_server, LEFT + SPAN, MIDDLE, 400.0, f"{IMAGERY},{COLLECTIONS}")
    drawn = far[far[..., 3] > 0]
    assert drawn.size and (drawn[:, 2] > drawn[:, 0]).all(), "blue outlines and no photograph"
    assert (draw(map_server, LEFT + SPAN, MIDDLE, 400.0)[..., 3] == 0).all()
    # 1958's mosaic has the black frame, its frame is the white one.
    assert color(map_server, BLACK, 10.0) == (0, 0, 0, 255)
    assert color(map_server, WHITE, 2.0) == (255, 255, 255, 255)
    near = draw(map_server, left_half(WHITE), MIDDLE, 2.0, f"{IMAGERY},{COLLECTIONS}")
    assert (near[..., :3] == 255).all(), "no outlines over the photographs"


def test_newest_year_is_on_top(map_server: MapServer, two_years: IndexDatabase) -> None:
    with two_years.owner.begin() as connection:
        # Both frames are at the same place now.
        connection.execute(text("UPDATE ls4.frame SET served_key = other.served_key, footprint = other.footprint FROM"
                                " ls4.frame AS other WHERE frame.collection = :old AND other.collection = :new"),
                           {"old": OLD.name, "new": NEW.name})  # fmt: skip
        order = connection.execute(text("SELECT collection FROM archive_frames ORDER BY year NULLS FIRST, id")).scalars().all()
    assert order == [OLD.name, NEW.name]
    assert color(map_server, WHITE, 2.0) == (255, 255, 255, 255)


# From the bottom of the stack to its top. Names and the order of rows say otherwise.
STACK = [
    Collection("Travis", "USDA_1940", "index"),
    Collection("Travis", "AMS_1958", "index"),
    Collection("Travis", "USDA_1940", "mosaic"),
    Collection("Travis", "AMS_1958", "mosaic"),
    Collection("Travis", "USDA_1940", "frames"),
    Collection("Travis", "AMS_1958", "frames"),
]


@pytest.mark.parametrize("zoom", [10, 12, 14, 15, 16, 17, 19])
def test_photographs_are_over_mosaics_and_these_over_index_sheets(map_server: MapServer, empty: IndexDatabase, zoom: int) -> None:
    """The mosaic of a year covered its frames completely, and at another zoom it did not."""
    place = (LEFT, TOP - SPAN, LEFT + SPAN, TOP)
    folder = map_server.archive / "bw" / "stack"
    with empty.owner.begin() as connection:
        for index in (3, 0, 5, 1, 4, 2):
            shade, path = 30 + 40 * index, folder / f"{index}.tif"
            write_cog(path, LEFT, ((shade,), (shade,)))
            collection_row(connection, STACK[index], place, f"{map_server.archive}/")
            frame_row(connection, STACK[index], LEFT, str(path.relative_to(map_server.archive)))
            mosaic_row(connection, STACK[index], str(path), place)
    resolution = 2 * HALF_WORLD_METERS / 256 / 2**zoom
    for index in (5, 4, 3, 2, 1, 0):
        pixels = draw(map_server, LEFT + SPAN / 2, MIDDLE, resolution)
        assert set(pixels[pixels[..., 3] == 255][:, 0].tolist()) == {30 + 40 * index}, STACK[index].name
        with empty.owner.begin() as connection:
            for table, column in (("ls4.frame", "collection"), ("ls4.collection", "name")):
                connection.execute(text(f"DELETE FROM {table} WHERE {column} = :name"), {"name": STACK[index].name})


@pytest.mark.parametrize(
    ("selection", "black", "white"),
    [
        ({}, (0, 0, 0, 255), (255, 255, 255, 255)),
        ({"year": "1940"}, (0, 0, 0, 255), CLEAR),
        ({"year": "1958"}, CLEAR, (255, 255, 255, 255)),
        ({"collection": OLD.name}, (0, 0, 0, 255), CLEAR),
        ({"collection": NEW.table}, CLEAR, (255, 255, 255, 255)),
        ({"year": "1900"}, CLEAR, CLEAR),
    ],
)
def test_a_year_or_a_collection_can_be_selected(
    map_server: MapServer, two_years: IndexDatabase, selection: dict[str, str], black: tuple[int, ...], white: tuple[int, ...]
) -> None:
    assert (color(map_server, BLACK, 2.0, **selection), color(map_server, WHITE, 2.0, **selection)) == (black, white)
    side = 2 * HALF_WORLD_METERS / 2**17
    x, y = int((left_half(WHITE) + HALF_WORLD_METERS) / side), int((HALF_WORLD_METERS - MIDDLE) / side)
    query = "&".join(f"{name}={value}" for name, value in selection.items())
    tile = rgba(map_server.get(f"/tiles/{NAME}/17/{x}/{y}.png?{query}"))
    assert (tile[..., 3] == 255).any() == (white != CLEAR)


@pytest.mark.parametrize("value", ["1958' OR '1'='1", "all') OR ('1'='1", "%", "19", "1958;DROP TABLE x", "%27"])
def test_invalid_selection_does_not_reach_the_database(map_server: MapServer, two_years: IndexDatabase, value: str) -> None:
    place = {"WIDTH": "9", "HEIGHT": "9", "SRS": "EPSG:3857", "STYLES": "", "FORMAT": "image/png"}
    box = {"BBOX": f"{LEFT},{TOP - 20},{LEFT + 20},{TOP}", "LAYERS": IMAGERY}
    for name in ("year", "collection"):
        response = map_server.wms("GetMap", address=f"/wms/{NAME}", **(place | box | {name: value}))
        assert (rgba(response)[..., 3] == 0).all(), "an invalid year or collection selects nothing"
        tile = map_server.client.get(f"/tiles/{NAME}/17/1/1.png", params={name: value})
        assert (rgba(tile)[..., 3] == 0).all(), "a tile ignores it"


# Feature info


def test_feature_info_lists_the_collections_at_a_place(map_server: MapServer, two_years: IndexDatabase) -> None:
    x, y = left_half(BLACK), MIDDLE
    for resolution in (2.0, 400.0):
        bbox = {
            "BBOX": ",".join(str(v) for v in (x - 50 * resolution, y - 50 * resolution, x + 50 * resolution, y + 50 * resolution))
        }
        layers = {"LAYERS": COLLECTIONS, "QUERY_LAYERS": COLLECTIONS, "STYLES": "", "SRS": "EPSG:3857", "FEATURE_COUNT": "9"}
        size = {"WIDTH": "100", "HEIGHT": "100", "X": "50", "Y": "50"}
        responses = {
            kind: map_server.wms("GetFeatureInfo", address=f"/wms/{NAME}", INFO_FORMAT=kind, **layers, **bbox, **size)
            for kind in ("application/json", "text/html")
        }
        properties = {each["properties"]["name"]: each["properties"] for each in responses["application/json"].json()["features"]}
        assert set(properties) == {OLD.name, NEW.name}
        new = properties[NEW.name]
        assert (new["title"], int(new["year"]), int(new["frames"])) == (NEW.label, 1958, 3)
        assert new["wms"] == f"/wms/{NEW.table}" and new["page"] == f"/#{NEW.table}"
        assert f'href="/tiles/{NEW.table}/tilejson.json"' in responses["text/html"].text


def test_collections_are_served_as_ogc_api_features_with_links(map_server: MapServer, two_years: IndexDatabase) -> None:
    items = map_server.get(f"/ogcapi/{NAME}/collections/{COLLECTIONS}/items?f=json").json()
    assert items["numberMatched"] == 2
    assert all(link["href"].startswith(f"{map_server.config.base_url}/ogcapi/{NAME}/") for link in items["links"])
    properties = {each["properties"]["features"] for each in items["features"]}
    assert properties == {f"{map_server.config.base_url}/ogcapi/{collection.table}" for collection in (OLD, NEW)}
    listed = map_server.get(f"/ogcapi/{NAME}/collections?f=json").json()["collections"]
    assert [each["id"] for each in listed] == [COLLECTIONS]


@pytest.mark.parametrize("version", ["1.1.1", "1.3.0"])
def test_owslib_gets_the_same_pixels_as_map_and_as_tile(map_server: MapServer, two_years: IndexDatabase, version: str) -> None:
    zoom, side = 17, 2 * HALF_WORLD_METERS / 2**17
    column, row = int((left_half(WHITE) + HALF_WORLD_METERS) / side), int((HALF_WORLD_METERS - MIDDLE) / side)
    box = (
        column * side - HALF_WORLD_METERS,
        HALF_WORLD_METERS - (row + 1) * side,
        (column + 1) * side - HALF_WORLD_METERS,
        HALF_WORLD_METERS - row * side,
    )
    service = WebMapService(f"{map_server.config.base_url}/wms/{NAME}", version=version)
    request = {
        "layers": [IMAGERY, COLLECTIONS],
        "styles": ["", ""],
        "size": (256, 256),
        "format": "image/png",
        "transparent": True,
    }
    plain, degrees = (
        np.asarray(Image.open(service.getmap(srs=crs, bbox=transform_bounds("EPSG:3857", crs, *box), **request)).convert("RGBA"))
        for crs in ("EPSG:3857", "EPSG:4326")
    )
    assert plain[128, 128].tolist() == degrees[128, 128].tolist() == [255, 255, 255, 255]
    tiles = WebMapTileService(f"{map_server.config.base_url}/wmts/{NAME}/WMTSCapabilities.xml")
    place = {"tilematrixset": "GoogleMapsCompatible", "tilematrix": str(zoom), "row": row, "column": column}
    tile = tiles.gettile(layer=NAME, format="image/png", **place).read()
    assert np.array_equal(np.asarray(Image.open(BytesIO(tile)).convert("RGBA")), plain)


def test_owslib_gets_the_collections_as_features(map_server: MapServer, two_years: IndexDatabase) -> None:
    service = Features(f"{map_server.config.base_url}/ogcapi/{NAME}")
    assert service.feature_collections() == [COLLECTIONS]
    features = service.collection_items(COLLECTIONS, bbox=[-98, 30, -97, 31])["features"]
    assert {each["properties"]["name"] for each in features} == {OLD.name, NEW.name}
    assert service.collection_items(COLLECTIONS, bbox=[-100, 35, -99, 36])["features"] == []


def test_two_thousand_collections_are_drawn_quickly(map_server: MapServer, empty: IndexDatabase) -> None:
    """One mapfile serves all of them; it was written before they existed."""
    side = 30_000.0
    with empty.owner.begin() as connection:
        for number in range(2000):
            left, bottom = -11_800_000 + number % 50 * side, 3_000_000 + number // 50 * side
            collection = Collection(f"County{number // 8}", f"USDA_{1930 + number % 8 * 5}", "frames")
            collection_row(connection, collection, (left, bottom, left + side * 0.9, bottom + side * 0.9))
    extent = (-11_900_000.0, 2_900_000.0, -10_200_000.0, 4_300_000.0)
    started = time.monotonic()
    pixels = map_server.get_map(extent, 2000.0, layer=COLLECTIONS, address=f"/wms/{NAME}")
    assert time.monotonic() - started < 20
    assert (pixels[..., 3] > 0).mean() > 0.5
    items = map_server.get(f"/ogcapi/{NAME}/collections/{COLLECTIONS}/items?f=json&limit=5&bbox=-106,26,-105.5,26.5").json()
    assert 0 < items["numberMatched"] < 20
    tile = map_server.get(f"/tiles/{NAME}/5/6/13.png")
    assert (rgba(tile)[..., 3] > 0).any()
