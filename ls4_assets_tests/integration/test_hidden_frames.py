"""The map opens no frame that others hide, and shows the same pixels as if it opened all of them."""

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.shutil import copy
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds
from sqlalchemy import Connection, text

from ls4_assets.db.schema import tile_index
from ls4_assets.domain.archive_file import read_archive_file
from ls4_assets.domain.names import Collection
from ls4_assets.raster.footprint import trace_footprint
from ls4_assets.raster.interior import trace_interior
from ls4_assets_tests.integration.serving_fixtures import (
    BLACK,
    LEFT,
    TOP,
    IndexDatabase,
    MapServer,
    index_database_fixture,  # noqa: F401
    index_row,
    map_server_fixture,  # noqa: F401
    mapfile_context,
    publish_mapfile,
    rgba,
)
from ls4_assets_tests.integration.test_statewide_map import collection_row
from mapserver import statewide_map
from mapserver.mapfile import render
from mapserver.rendering import Extent
from mapserver.statewide_map import IMAGERY
from mapserver.statewide_map import NAME as CATALOG

pytestmark = pytest.mark.timeout(180)

SURVEY = Collection("Travis", "USDA_1966", "frames")
SIDE, STEP, COUNT = 1400, 500, 4
"""Pixels of one meter: frames of a flight with 64 % overlap in both directions."""


def frame_mask(number: int) -> NDArray[np.uint8]:
    """Full, collared, rotated and with holes of every size, in turn."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] - SIDE / 2
    angle = np.radians((0, 0, 7, -4, 31)[number % 5])
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    half = SIDE * (0.5 if number % 5 == 0 else 0.42 if number % 5 == 1 else 0.38)
    mask = (abs(along) < half) & (abs(across) < half)
    for size in (1, 3, 40) if number % 3 == 0 else ():
        left, top = 300 + 37 * number % 500, 350 + 11 * size
        mask[top : top + size, left : left + size] = False
    return np.where(mask, np.uint8(255), np.uint8(0))


def write_frame(path: Path, number: int, left: float, top: float) -> None:
    """A COG whose pixels are of its own gray, so that a wrong frame on top shows."""
    shade = np.full((1, SIDE, SIDE), 20 + 14 * number, np.uint8)
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 1, "dtype": "uint8", "crs": "EPSG:3857"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), MemoryFile() as memory:
        with memory.open(**profile, transform=from_origin(left, top, 1, 1)) as dataset:
            dataset.write(shade)
            dataset.write_mask(frame_mask(number))
        with memory.open() as dataset:
            copy(dataset, path, driver="COG", compress="DEFLATE", blocksize=256)


@contextmanager
def survey(database: IndexDatabase, archive: Path) -> Iterator[Extent]:
    """The collection on its own map and on the statewide one; yields its extent."""
    table = tile_index(SURVEY)
    with database.owner.begin() as connection:
        table.create(connection)
        extent = (LEFT, TOP - SIDE - STEP * COUNT, LEFT + SIDE + STEP * COUNT, TOP)
        collection_row(connection, SURVEY, extent, f"{archive}/")
        for number in range(COUNT * COUNT):
            insert_frame(connection, archive, number)
    publish_mapfile(archive, replace(mapfile_context(SURVEY), extent=extent))
    try:
        yield extent
    finally:
        (archive / "mapfiles" / f"{SURVEY.table}.map").unlink()
        with database.owner.begin() as connection:
            table.drop(connection)
            connection.execute(text("DELETE FROM ls4.frame"))
            connection.execute(text("DELETE FROM ls4.collection"))


def insert_frame(connection: Connection, archive: Path, number: int) -> None:
    stem = f"03-04-66_1-{number + 1}"
    key = f"bw/Travis/USDA_1966/frames/cog/{stem}.tif"
    write_frame(archive / key, number, LEFT + STEP * (number % COUNT), TOP - STEP * (number // COUNT))
    interior = trace_interior(archive / key)
    geometries = {
        "geom": f"SRID=3857;{trace_footprint(archive / key).wkt}",
        "interior": f"SRID=3857;{interior.wkt}" if interior else None,
    }
    row = index_row(archive, BLACK) | geometries
    row |= {"location": f"/vsis3/bucket/{key}", "served_location": str(archive / key)}
    connection.execute(tile_index(SURVEY).insert(), [row])
    values = geometries | {"id": f"bw/Travis/USDA_1966/frames/{number:03}", "collection": SURVEY.name, "key": key}
    connection.execute(
        text(
            "INSERT INTO ls4.frame (id, shard, collection, partition, source_key, source_version, content_hash, width,"
            " served_key, indexed_revision, footprint, interior) VALUES (:id, 'Travis', :collection, :id, :id, '1', 'c', 1400,"
            " :key, 1, :geom, :interior)"
        ),
        values,
    )


def forget_interiors(database: IndexDatabase) -> None:
    with database.owner.begin() as connection:
        connection.execute(text(f"UPDATE {SURVEY.table} SET interior = NULL"))
        connection.execute(text("UPDATE ls4.frame SET interior = NULL"))


def random_boxes(extent: Extent, resolution: float, count: int) -> list[Extent]:
    """Boxes of 128 x 128 map pixels, some of them partly outside."""
    generator, side = random.Random(round(resolution * 10)), 128 * resolution
    west, south, east, north = extent
    corners = [(generator.uniform(west - side / 2, east), generator.uniform(south - side / 2, north)) for _ in range(count)]
    return [(x, y, x + side, y + side) for x, y in corners]


def draw(map_server: MapServer, address: str, layer: str, srs: str, extent: Extent) -> NDArray[np.uint8]:
    bounds = transform_bounds("EPSG:3857", srs, *extent) if srs != "EPSG:3857" else extent
    parameters = {"SRS": srs, "BBOX": ",".join(map(repr, bounds)), "WIDTH": "128", "HEIGHT": "128", "FORMAT": "image/png"}
    return rgba(map_server.wms("GetMap", address=address, LAYERS=layer, STYLES="", TRANSPARENT="TRUE", **parameters))


MAPS = [(f"/wms/{SURVEY.table}", SURVEY.name, (0.3, 1.0, 2.6, 9.0, 21.0)), (f"/wms/{CATALOG}", IMAGERY, (0.3, 1.0, 2.6))]


@pytest.mark.parametrize("srs", ["EPSG:3857", "EPSG:4326"])
def test_pixels_are_the_same_as_of_all_frames(map_server: MapServer, index_database: IndexDatabase, srs: str) -> None:
    """Overlapping frames, full, collared, rotated and with holes of one pixel and more."""
    with survey(index_database, map_server.archive) as extent:
        requests = [
            (address, layer, srs, box)
            for address, layer, resolutions in MAPS
            for resolution in resolutions
            for box in random_boxes(extent, resolution, 25)
        ]
        pruned = [draw(map_server, *request) for request in requests]
        forget_interiors(index_database)
        for request, pixels in zip(requests, pruned, strict=True):
            assert np.array_equal(draw(map_server, *request), pixels), request
        assert sum(bool((pixels[..., 3] == 255).all()) for pixels in pruned) > 50, "most maps lie within the survey"


def opened(connection: Connection, sql: str, extent: Extent) -> int:
    """How many frames MapServer opens for a box."""
    envelope = "ST_MakeEnvelope({}, {}, {}, {}, 3857)".format(*extent)
    return len(connection.exec_driver_sql(sql.replace("!BOX!", envelope)).all())


def test_a_tile_of_native_zoom_opens_a_third_of_the_frames(map_server: MapServer, index_database: IndexDatabase) -> None:
    """Each of them was read, and the topmost covered the others."""
    own, statewide = render(mapfile_context(SURVEY)), statewide_map.render("ls4", read_archive_file(None))
    for text_of_map, layer in ((own, f"{SURVEY.name}_tileindex"), (statewide, "frames_index")):
        data = re.search(rf'NAME "{layer}".*?DATA "geom FROM \((.*?)\) AS \w+ USING', text_of_map, re.DOTALL)
        assert data
        sql = data[1].replace("%year%", "all").replace("%collection%", "all").replace("%", "%%")
        with survey(index_database, map_server.archive) as extent:
            inside = (extent[0] + SIDE / 2, extent[1] + SIDE / 2, extent[2] - SIDE / 2, extent[3] - SIDE / 2)
            boxes = random_boxes(inside, 1.0, 60)
            with index_database.owner.connect() as connection:
                pruned = sum(opened(connection, sql, box) for box in boxes)
            forget_interiors(index_database)
            with index_database.owner.connect() as connection:
                everything = sum(opened(connection, sql, box) for box in boxes)
            assert pruned < 0.4 * everything, (pruned, everything)
