"""Maps between two overview levels, through nginx and mapserv: fine patterns are averaged, and edges keep their color."""

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.shutil import copy
from rasterio.transform import from_origin
from shapely.geometry import MultiPolygon, box
from sqlalchemy import text

from ls4_assets_tests.integration.serving_fixtures import (
    LEFT,
    RESOLUTION,
    TABLE,
    TOP,
    WHITE,
    IndexDatabase,
    MapServer,
    cog_path,
    index_database_fixture,  # noqa: F401
    map_server_fixture,  # noqa: F401
)

pytestmark = pytest.mark.timeout(120)

SIDE = 1024
# Furrows 3.3 pixels apart, almost parallel to the rows of pixels: as on a plowed field in a photograph of 1 m.
PERIOD, ANGLE = 3.3, 0.05
# The map is compared in squares of this many pixels: wider patterns are visible and not in the photograph.
SQUARE = 8
# Pixels of the frame in one of the map; none is the resolution of an overview.
FACTORS = [1.2, 1.5, 2.6, 3.3]
COLLAR = 100


@pytest.fixture(name="furrows", scope="module")
def furrows_fixture(map_server: MapServer, index_database: IndexDatabase) -> NDArray[np.float64]:
    """The pixels of a frame of furrows with a black, masked collar, which is alone in the index table."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    pixels = np.where((x * np.cos(ANGLE) + y * np.sin(ANGLE)) % PERIOD < PERIOD / 2, 100, 200).astype(np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[COLLAR:-COLLAR, COLLAR:-COLLAR] = 255
    pixels[mask == 0] = 0
    path = cog_path(map_server.archive, WHITE).with_name("furrows.tif")
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 1, "dtype": "uint8", "crs": "EPSG:3857"}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), MemoryFile() as memory:
        with memory.open(**profile, transform=from_origin(LEFT, TOP, RESOLUTION, RESOLUTION)) as dataset:
            dataset.write(pixels, 1)
            dataset.write_mask(mask)
        with memory.open() as dataset:
            copy(dataset, path, driver="COG", compress="DEFLATE", overview_resampling="average")
    span = SIDE * RESOLUTION
    outline = f"SRID=3857;{MultiPolygon([box(LEFT, TOP - span, LEFT + span, TOP)]).wkt}"
    values = {"path": str(path), "outline": outline}
    with index_database.owner.begin() as connection:
        connection.execute(text(f"UPDATE {TABLE} SET served_location = :path, geom = ST_GeomFromEWKT(:outline)"), values)
    return pixels.astype(float)


@pytest.mark.parametrize("factor", FACTORS)
def test_furrows_show_no_moire(map_server: MapServer, furrows: NDArray[np.float64], factor: float) -> None:
    """Between overview levels, nearest neighbor drew broad stripes that are not in the photograph."""
    resolution, size = factor * RESOLUTION, 128
    left, top = LEFT + 211.3 * RESOLUTION, TOP - 250.7 * RESOLUTION
    drawn = map_server.get_map((left, top - size * resolution, left + size * resolution, top), resolution)
    assert (drawn[..., 3] == 255).all()
    squares = drawn[..., 0].reshape(size // SQUARE, SQUARE, size // SQUARE, SQUARE).mean((1, 3))
    assert squares.std() < 2.7, f"stripes of {np.ptp(squares):.0f} gray values"
    assert squares.mean() == pytest.approx(furrows[300:700, 300:700].mean(), abs=2)


@pytest.mark.parametrize("factor", FACTORS)
def test_collar_does_not_darken_the_edge(map_server: MapServer, furrows: NDArray[np.float64], factor: float) -> None:
    """An average with the black collar would draw a dark seam around each frame."""
    resolution, size = factor * RESOLUTION, 128
    drawn = map_server.get_map((LEFT, TOP - size * resolution, LEFT + size * resolution, TOP), resolution)
    opaque = drawn[..., 3] == 255
    assert set(np.unique(drawn[..., 3])) == {0, 255}
    assert drawn[..., 0][opaque].min() >= furrows[furrows > 0].min()
    assert opaque.sum() == pytest.approx((size - COLLAR / factor) ** 2, rel=0.08)
