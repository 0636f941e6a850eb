"""The interior of a frame: no invalid pixel in it or near it, at any zoom, and not much smaller than the photograph."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.io import MemoryFile
from rasterio.shutil import copy
from rasterio.transform import from_origin

from ls4_assets.raster.footprint import trace_footprint
from ls4_assets.raster.interior import trace_interior

PIXEL = 0.5


def write(path: Path, mask: NDArray[np.bool_] | None, shape: tuple[int, int]) -> Path:
    """A COG with an internal mask, or without one."""
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:3857", "height": shape[0], "width": shape[1]}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), MemoryFile() as memory:
        with memory.open(**profile, transform=from_origin(1000, 2000, PIXEL, PIXEL)) as dataset:
            dataset.write(np.full((1, *shape), 7, np.uint8))
            if mask is not None:
                dataset.write_mask(mask)
        with memory.open() as dataset:
            copy(dataset, path, driver="COG", compress="DEFLATE", blocksize=256)
    return path


def rotated(shape: tuple[int, int], degrees: float, share: float = 0.4) -> NDArray[np.bool_]:
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(float)
    x, y, angle = x - shape[1] / 2, y - shape[0] / 2, np.radians(degrees)
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    return np.asarray((abs(along) < share * shape[1]) & (abs(across) < share * shape[0]), dtype=np.bool_)


def punch(mask: NDArray[np.bool_], holes: int, size: int) -> NDArray[np.bool_]:
    generator = np.random.default_rng(holes)
    for top, left in zip(*(generator.integers(0, side, holes) for side in mask.shape), strict=True):
        mask[top : top + size, left : left + size] = False
    return mask


MASKS = {
    "collar": rotated((1500, 1500), 0),
    "rotated": rotated((1500, 1900), 11),
    "one pixel": punch(rotated((1500, 1500), 3), 1, 1),
    "pinholes": punch(rotated((3000, 2600), 5), 9, 2),
    "large holes": punch(rotated((1500, 1500), 0), 4, 200),
    "small": rotated((300, 280), 8),
    "an odd number of pixels": rotated((2049, 1033), 2, 0.51),
}


@pytest.mark.parametrize("name", MASKS)
def test_no_pixel_of_the_interior_is_invalid_at_any_zoom(tmp_path: Path, name: str) -> None:
    mask = MASKS[name]
    path = write(tmp_path / "a.tif", mask, mask.shape)
    interior = trace_interior(path)
    assert interior is not None and interior.is_valid
    with rasterio.open(path) as dataset:
        levels = [None, *range(len(dataset.overviews(1)))]
    for level in levels:
        with rasterio.open(path, **({} if level is None else {"overview_level": level})) as dataset:
            inside = rasterize([interior], out_shape=dataset.shape, transform=dataset.transform, all_touched=True) > 0
            assert inside.any() and dataset.read_masks(1)[inside].all(), level
    assert sum(len(ring.coords) for part in interior.geoms for ring in (part.exterior, *part.interiors)) <= 60


@pytest.mark.parametrize("name", ["collar", "rotated"])
def test_interior_of_a_photograph_without_holes_is_most_of_it(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.tif", MASKS[name], MASKS[name].shape)
    interior = trace_interior(path)
    assert interior is not None and interior.area > 0.9 * trace_footprint(path).area


def test_interior_without_a_mask_is_the_rectangle_within_two_pixels_of_the_coarsest_overview(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", None, (1000, 2000))
    with rasterio.open(path) as dataset:
        distance = 2 * max(dataset.overviews(1)) * PIXEL
    interior = trace_interior(path)
    assert interior is not None
    assert interior.bounds == (1000 + distance, 1500 + distance, 2000 - distance, 2000 - distance)


@pytest.mark.parametrize("mask", [np.zeros((900, 900), bool), punch(np.ones((900, 900), bool), 3000, 2)])
def test_frame_without_room_for_an_interior_has_none(tmp_path: Path, mask: NDArray[np.bool_]) -> None:
    assert trace_interior(write(tmp_path / "a.tif", mask, mask.shape)) is None
