"""The statewide map: with no collection, with one, with two thousand; by scale; and what it tells of each."""

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
    Served,
    cog_path,
    index_database_fixture,  # noqa: F401
    left_half,
    rgba,
    served_fixture,  # noqa: F401
)
from mapserver.rendering import Extent
from mapserver.statewide_map import COLLECTIONS, IMAGERY, NAME
from mapserver.tiles import HALF

pytestmark = pytest.mark.timeout(180)

OLD, NEW = Collection("Travis", "USDA_1940", "frames"), Collection("Travis", "USDA_1958", "frames")
CLEAR = (0, 0, 0, 0)


def collection_row(connection: Connection, of: Collection, outline: Extent, root: str = "") -> None:
    row = {
        "name": of.name, "shard": of.shard, "partition": of.partition, "table_name": of.table, "title": of.title,
        "agency": "USDA", "year": of.year, "type": of.type, "root": root,
    } | dict(zip(("a", "b", "c", "d"), outline, strict=True))  # fmt: skip
    connection.execute(
        text(
            "INSERT INTO ls4.collection (name, shard, partition, table_name, title, agency, year, type, frames, bands,"
            " index_revision, served_root, published_at, outline) VALUES (:name, :shard, :partition, :table_name, :title,"
            " :agency, :year, :type, 3, '{bw,nc}', 4, :root, now(), ST_MakeEnvelope(:a, :b, :c, :d, 3857))"
        ),
        row,
    )


def frame_row(connection: Connection, of: Collection, left: float, key: str) -> None:
    stem = key.rpartition("/")[2].removesuffix(".tif")
    row = {"id": f"bw/{of.shard}/{of.survey}/{of.type}/{stem}", "collection": of.name, "shard": of.shard, "key": key}
    place = dict(zip(("a", "b", "c", "d"), (left, TOP - SPAN, left + SPAN, TOP), strict=True))
    connection.execute(
        text(
            "INSERT INTO ls4.frame (id, shard, collection, partition, source_key, source_version, content_hash, width,"
            " served_key, indexed_revision, footprint) VALUES (:id, :shard, :collection, :id, :id, '1', 'c', :width, :key, 1,"
            " ST_Multi(ST_MakeEnvelope(:a, :b, :c, :d, 3857)))"
        ),
        row | place | {"width": SIZE},
    )


def mosaic_row(connection: Connection, of: Collection, path: str, geom: Extent) -> None:
    connection.execute(
        text(
            "INSERT INTO public.overview_mosaics (collection, table_name, served_location, resolution, frames, geom)"
            " VALUES (:collection, :table, :path, 16, 1, ST_MakeEnvelope(:a, :b, :c, :d, 3857))"
        ),
        {"collection": of.name, "table": of.table, "path": path} | dict(zip(("a", "b", "c", "d"), geom, strict=True)),
    )


@pytest.fixture(name="empty")
def empty_fixture(index_database: IndexDatabase) -> Iterator[IndexDatabase]:
    yield index_database
    with index_database.owner.begin() as connection:
        for table in ("public.overview_mosaics", "ls4.frame", "ls4.collection"):
            connection.execute(text(f"DELETE FROM {table}"))


@pytest.fixture(name="two_years")
def two_years_fixture(served: Served, empty: IndexDatabase) -> IndexDatabase:
    """1940 shows black where 1958 shows white; the mosaic of 1958, as a stand-in, is the red frame moved nowhere."""
    black, white = (str(cog_path(served.archive, stem).relative_to(served.archive)) for stem in (BLACK, WHITE))
    root = f"{served.archive}/"
    place = (LEFT, TOP - SPAN, LEFT + 3 * SPAN, TOP)
    with empty.owner.begin() as connection:
        for of in (OLD, NEW):
            collection_row(connection, of, place, root)
        frame_row(connection, OLD, FRAMES[BLACK][0], black)
        frame_row(connection, NEW, FRAMES[WHITE][0], white)
        mosaic_row(connection, OLD, root + white, place)
        mosaic_row(connection, NEW, root + black, place)
    return empty


def look(served: Served, x: float, y: float, resolution: float, layers: str = IMAGERY, **more: str) -> NDArray[np.uint8]:
    half = 16 * resolution
    extent = (x - half, y - half, x + half, y + half)
    return served.get_map(extent, resolution, layer=layers, address=f"/wms/{NAME}", **more)


def colour(served: Served, stem: str, resolution: float, **more: str) -> tuple[int, ...]:
    return tuple(int(value) for value in look(served, left_half(stem), MIDDLE, resolution, **more)[16, 16])


# --- with nothing


@pytest.mark.parametrize("resolution", [0.5, 5.0, 50.0, 5000.0])
def test_an_empty_archive_is_an_empty_map(served: Served, empty: IndexDatabase, resolution: float) -> None:
    assert (look(served, LEFT, TOP, resolution, f"{IMAGERY},{COLLECTIONS}")[..., 3] == 0).all()
    for zoom in (0, 9, 14, 18):
        side = 2 * HALF / 2**zoom
        place = f"{zoom}/{int((LEFT + HALF) / side)}/{int((HALF - TOP) / side)}"
        assert (rgba(served.get(f"/tiles/{NAME}/{place}.png"))[..., 3] == 0).all()
    assert served.get(f"/ogcapi/{NAME}/collections/{COLLECTIONS}/items?f=json").json()["numberMatched"] == 0


@pytest.mark.parametrize("version", ["1.1.1", "1.3.0"])
def test_capabilities_list_the_two_layers_without_a_warning(served: Served, version: str) -> None:
    answer = served.wms("GetCapabilities", version=version, address=f"/wms/{NAME}")
    assert "WARNING" not in answer.text.upper() and str(served.archive) not in answer.text
    service = WebMapService("http://unused", version=version, xml=answer.content)
    assert set(service.contents) - {"CATALOG"} == {IMAGERY, COLLECTIONS}
    assert ElementTree.fromstring(answer.content) is not None


# --- by scale


def test_far_out_collections_are_outlines_and_closer_photographs(served: Served, two_years: IndexDatabase) -> None:
    far = look(served, LEFT + SPAN, MIDDLE, 400.0, f"{IMAGERY},{COLLECTIONS}")
    drawn = far[far[..., 3] > 0]
    assert drawn.size and (drawn[:, 2] > drawn[:, 0]).all(), "blue outlines, and no photograph"
    assert (look(served, LEFT + SPAN, MIDDLE, 400.0)[..., 3] == 0).all()
    # the stand-ins tell mosaic from frame: 1958's mosaic shows the black frame, its frame is the white one
    assert colour(served, BLACK, 10.0) == (0, 0, 0, 255)
    assert colour(served, WHITE, 2.0) == (255, 255, 255, 255)
    near = look(served, left_half(WHITE), MIDDLE, 2.0, f"{IMAGERY},{COLLECTIONS}")
    assert (near[..., :3] == 255).all(), "closer up no outline lies over the photographs"


def test_the_newest_year_lies_on_top(served: Served, two_years: IndexDatabase) -> None:
    with two_years.owner.begin() as connection:
        # both show the same place now: where the white frame lies, 1940 has it and 1958 the black one moved over it
        connection.execute(text("UPDATE ls4.frame SET served_key = other.served_key, footprint = other.footprint FROM"
                                " ls4.frame AS other WHERE frame.collection = :old AND other.collection = :new"),
                           {"old": OLD.name, "new": NEW.name})  # fmt: skip
        order = connection.execute(text("SELECT collection FROM archive_frames ORDER BY year NULLS FIRST, id")).scalars().all()
    assert order == [OLD.name, NEW.name]
    assert colour(served, WHITE, 2.0) == (255, 255, 255, 255)


@pytest.mark.parametrize(
    ("wanted", "black", "white"),
    [
        ({}, (0, 0, 0, 255), (255, 255, 255, 255)),
        ({"year": "1940"}, (0, 0, 0, 255), CLEAR),
        ({"year": "1958"}, CLEAR, (255, 255, 255, 255)),
        ({"collection": OLD.name}, (0, 0, 0, 255), CLEAR),
        ({"collection": NEW.table}, CLEAR, (255, 255, 255, 255)),
        ({"year": "1900"}, CLEAR, CLEAR),
    ],
)
def test_a_year_or_a_collection_may_be_chosen(
    served: Served, two_years: IndexDatabase, wanted: dict[str, str], black: tuple[int, ...], white: tuple[int, ...]
) -> None:
    assert (colour(served, BLACK, 2.0, **wanted), colour(served, WHITE, 2.0, **wanted)) == (black, white)
    side = 2 * HALF / 2**17
    x, y = int((left_half(WHITE) + HALF) / side), int((HALF - MIDDLE) / side)
    query = "&".join(f"{name}={value}" for name, value in wanted.items())
    tile = rgba(served.get(f"/tiles/{NAME}/17/{x}/{y}.png?{query}"))
    assert (tile[..., 3] == 255).any() == (white != CLEAR)


@pytest.mark.parametrize("odd", ["1958' OR '1'='1", "all') OR ('1'='1", "%", "19", "1958;DROP TABLE x", "%27"])
def test_no_other_choice_reaches_the_database(served: Served, two_years: IndexDatabase, odd: str) -> None:
    place = {"WIDTH": "9", "HEIGHT": "9", "SRS": "EPSG:3857", "STYLES": "", "FORMAT": "image/png"}
    box = {"BBOX": f"{LEFT},{TOP - 20},{LEFT + 20},{TOP}", "LAYERS": IMAGERY}
    for name in ("year", "collection"):
        answer = served.wms("GetMap", address=f"/wms/{NAME}", **(place | box | {name: odd}))
        assert (rgba(answer)[..., 3] == 0).all(), "what is no year is no choice"
        tile = served.client.get(f"/tiles/{NAME}/17/1/1.png", params={name: odd})
        assert (rgba(tile)[..., 3] == 0).all(), "a tile takes no notice of it"


# --- what it tells


def test_a_click_tells_of_the_collections_at_a_place(served: Served, two_years: IndexDatabase) -> None:
    x, y = left_half(BLACK), MIDDLE
    for resolution in (2.0, 400.0):
        around = {
            "BBOX": ",".join(str(v) for v in (x - 50 * resolution, y - 50 * resolution, x + 50 * resolution, y + 50 * resolution))
        }
        asked = {"LAYERS": COLLECTIONS, "QUERY_LAYERS": COLLECTIONS, "STYLES": "", "SRS": "EPSG:3857", "FEATURE_COUNT": "9"}
        size = {"WIDTH": "100", "HEIGHT": "100", "X": "50", "Y": "50"}
        answers = {
            kind: served.wms("GetFeatureInfo", address=f"/wms/{NAME}", INFO_FORMAT=kind, **asked, **around, **size)
            for kind in ("application/json", "text/html")
        }
        told = {each["properties"]["name"]: each["properties"] for each in answers["application/json"].json()["features"]}
        assert set(told) == {OLD.name, NEW.name}
        assert (told[NEW.name]["title"], int(told[NEW.name]["year"]), int(told[NEW.name]["frames"])) == (NEW.title, 1958, 3)
        assert told[NEW.name]["wms"] == f"/wms/{NEW.table}" and told[NEW.name]["page"] == f"/#{NEW.table}"
        assert f'href="/tiles/{NEW.table}/tilejson.json"' in answers["text/html"].text


def test_collections_are_an_ogc_api_with_links(served: Served, two_years: IndexDatabase) -> None:
    items = served.get(f"/ogcapi/{NAME}/collections/{COLLECTIONS}/items?f=json").json()
    assert items["numberMatched"] == 2
    assert all(link["href"].startswith(f"{served.config.base_url}/ogcapi/{NAME}/") for link in items["links"])
    told = {each["properties"]["features"] for each in items["features"]}
    assert told == {f"{served.config.base_url}/ogcapi/{of.table}" for of in (OLD, NEW)}
    listed = served.get(f"/ogcapi/{NAME}/collections?f=json").json()["collections"]
    assert [each["id"] for each in listed] == [COLLECTIONS]


@pytest.mark.parametrize("version", ["1.1.1", "1.3.0"])
def test_owslib_gets_the_same_ground_as_map_and_as_tile(served: Served, two_years: IndexDatabase, version: str) -> None:
    zoom, side = 17, 2 * HALF / 2**17
    column, row = int((left_half(WHITE) + HALF) / side), int((HALF - MIDDLE) / side)
    box = (column * side - HALF, HALF - (row + 1) * side, (column + 1) * side - HALF, HALF - row * side)
    service = WebMapService(f"{served.config.base_url}/wms/{NAME}", version=version)
    asked = {"layers": [IMAGERY, COLLECTIONS], "styles": ["", ""], "size": (256, 256), "format": "image/png", "transparent": True}
    plain, degrees = (
        np.asarray(Image.open(service.getmap(srs=crs, bbox=transform_bounds("EPSG:3857", crs, *box), **asked)).convert("RGBA"))
        for crs in ("EPSG:3857", "EPSG:4326")
    )
    assert plain[128, 128].tolist() == degrees[128, 128].tolist() == [255, 255, 255, 255]
    tiles = WebMapTileService(f"{served.config.base_url}/wmts/{NAME}/WMTSCapabilities.xml")
    place = {"tilematrixset": "GoogleMapsCompatible", "tilematrix": str(zoom), "row": row, "column": column}
    tile = tiles.gettile(layer=NAME, format="image/png", **place).read()
    assert np.array_equal(np.asarray(Image.open(BytesIO(tile)).convert("RGBA")), plain)


def test_owslib_gets_the_collections_as_features(served: Served, two_years: IndexDatabase) -> None:
    service = Features(f"{served.config.base_url}/ogcapi/{NAME}")
    assert service.feature_collections() == [COLLECTIONS]
    found = service.collection_items(COLLECTIONS, bbox=[-98, 30, -97, 31])["features"]
    assert {each["properties"]["name"] for each in found} == {OLD.name, NEW.name}
    assert service.collection_items(COLLECTIONS, bbox=[-100, 35, -99, 36])["features"] == []


def test_two_thousand_collections_are_one_quick_answer(served: Served, empty: IndexDatabase) -> None:
    """One mapfile for all, made before any of them was there."""
    side = 30_000.0
    with empty.owner.begin() as connection:
        for number in range(2000):
            left, bottom = -11_800_000 + number % 50 * side, 3_000_000 + number // 50 * side
            of = Collection(f"County{number // 8}", f"USDA_{1930 + number % 8 * 5}", "frames")
            collection_row(connection, of, (left, bottom, left + side * 0.9, bottom + side * 0.9))
    extent = (-11_900_000.0, 2_900_000.0, -10_200_000.0, 4_300_000.0)
    started = time.monotonic()
    pixels = served.get_map(extent, 2000.0, layer=COLLECTIONS, address=f"/wms/{NAME}")
    assert time.monotonic() - started < 20
    assert (pixels[..., 3] > 0).mean() > 0.5
    items = served.get(f"/ogcapi/{NAME}/collections/{COLLECTIONS}/items?f=json&limit=5&bbox=-106,26,-105.5,26.5").json()
    assert 0 < items["numberMatched"] < 20
    tile = served.get(f"/tiles/{NAME}/5/6/13.png")
    assert (rgba(tile)[..., 3] > 0).any()
