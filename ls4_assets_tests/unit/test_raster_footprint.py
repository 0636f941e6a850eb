"""Tests of footprints (they cover the valid pixels with few vertices) and thumbnails."""

import io
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from PIL import Image

from ls4_assets.domain.profiles import PROFILES
from ls4_assets.raster.footprint import trace_footprint
from ls4_assets.raster.frame import process
from ls4_assets.raster.source import Limits
from ls4_assets.raster.thumbnail import render_thumbnail
from ls4_assets_tests.rasters import (
    BW,
    NORTH,
    WEST,
    photograph,
    read_mask,
    rotated_rectangle,
    write_tif,
)

HEIGHT, WIDTH = 1500, 1900


def build_cog(folder: Path, valid: NDArray[np.bool_] | None, **options: object) -> Path:
    pixels = photograph(HEIGHT, WIDTH)
    source = write_tif(folder / "a.tif", pixels, **options, mask=valid)
    process(source, folder, "a", "bw", BW, Limits())
    return folder / "cog" / "a.tif"


def mask_area(path: Path) -> shapely.Geometry:
    """The exact union of the valid pixels, from the runs of each row."""
    valid = read_mask(path)
    with rasterio.open(path) as dataset:
        transform = dataset.transform
    boxes = []
    for row, line in enumerate(valid):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], line.view(np.int8), [0]))))
        for left, right in zip(edges[::2], edges[1::2], strict=True):
            boxes.append(shapely.box(*(transform @ (left, row + 1)), *(transform @ (right, row))))
    return shapely.union_all(boxes)


def similarity(first: shapely.Geometry, second: shapely.Geometry) -> float:
    return float(first.intersection(second).area / first.union(second).area)


def test_footprint_without_a_mask_is_the_image_rectangle(tmp_path: Path) -> None:
    outline = trace_footprint(build_cog(tmp_path, None))
    assert outline.normalize() == shapely.MultiPolygon([shapely.box(WEST, NORTH - HEIGHT, WEST + WIDTH, NORTH)]).normalize()


@pytest.mark.parametrize("degrees", [0, 3, 7, 31, 45])
def test_footprint_of_a_rotated_frame_has_few_vertices(tmp_path: Path, degrees: float) -> None:
    cog = build_cog(tmp_path, rotated_rectangle(HEIGHT, WIDTH, degrees, 0.7))
    outline, truth = trace_footprint(cog), mask_area(cog)
    assert similarity(outline, truth) > 0.99
    assert truth.difference(outline).area <= 1e-6 * truth.area, "covers all valid pixels"
    assert shapely.get_num_coordinates(outline) < 60
    assert len(outline.geoms) == 1


def test_footprint_of_a_frame_rotated_by_its_geotransform(tmp_path: Path) -> None:
    rotated = Affine.translation(WEST, NORTH) @ Affine.rotation(-17) @ Affine.scale(1, -1)
    outline = trace_footprint(build_cog(tmp_path, None, transform=rotated))
    corners = [rotated @ corner for corner in ((0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (0, HEIGHT))]
    assert similarity(outline, shapely.Polygon(corners)) > 0.99


def test_footprint_with_a_bay_and_a_hole(tmp_path: Path) -> None:
    valid = rotated_rectangle(HEIGHT, WIDTH, 10, 0.8)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    valid &= (x - 500) ** 2 + (y - 200) ** 2 > 250**2
    valid &= (x - 1100) ** 2 + (y - 800) ** 2 > 150**2
    cog = build_cog(tmp_path, valid)
    outline, truth = trace_footprint(cog), mask_area(cog)
    assert similarity(outline, truth) > 0.98
    assert truth.difference(outline).area <= 0.0005 * HEIGHT * WIDTH, "at most a speck is left out"
    assert sum(len(part.interiors) for part in outline.geoms) == 1
    assert shapely.get_num_coordinates(outline) < 120
    assert outline.is_valid


def test_specks_and_pinholes_are_dropped(tmp_path: Path) -> None:
    valid = rotated_rectangle(HEIGHT, WIDTH, 0, 0.7)
    valid[20:30, 20:30] = True
    valid[700:712, 900:912] = False
    outline = trace_footprint(build_cog(tmp_path, valid))
    assert len(outline.geoms) == 1
    assert len(outline.geoms[0].interiors) == 0


def test_two_parts_stay_separate(tmp_path: Path) -> None:
    valid = np.zeros((HEIGHT, WIDTH), bool)
    valid[200:1300, 100:700] = valid[300:900, 1000:1800] = True
    outline = trace_footprint(build_cog(tmp_path, valid))
    assert len(outline.geoms) == 2


def test_deflate_tif_and_cog_have_the_same_footprint(tmp_path: Path) -> None:
    cog = build_cog(tmp_path, rotated_rectangle(HEIGHT, WIDTH))
    assert trace_footprint(cog) == trace_footprint(tmp_path / "deflate" / "a.tif")


@pytest.mark.parametrize(("bands", "film_type"), [(1, "bw"), (3, "nc")])
def test_thumbnail_is_small_and_transparent_in_the_collar(tmp_path: Path, bands: int, film_type: str) -> None:
    inside = rotated_rectangle(900, 1200)
    source = write_tif(tmp_path / "a.tif", photograph(900, 1200, bands), mask=inside)
    process(source, tmp_path, "a", film_type, PROFILES[film_type], Limits())
    picture = render_thumbnail(tmp_path / "cog" / "a.tif", 256)
    assert len(picture) < 40_000
    with Image.open(io.BytesIO(picture)) as image:
        assert (image.format, image.mode, image.size) == ("WEBP", "RGBA", (256, 192))
        alpha = np.asarray(image)[..., 3]
    assert alpha[0, 0] == 0
    assert alpha[96, 128] == 255
    assert (alpha > 127).mean() == pytest.approx(inside.mean(), abs=0.02)
