"""Tests of the overview mosaic: painted pixels, incremental builds, grid and zoom."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rio_cogeo.cogeo import cog_validate

from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.overview_grid import MAX_MOSAIC_PIXELS, Box, Grid, Tile, choose_zoom, zoom_resolution
from ls4_assets.raster.overview_mosaic import MosaicResult, MosaicTask, build_overview_mosaic
from ls4_assets.raster.overview_painting import PlacedFrame
from ls4_assets_tests.rasters import NORTH, WEST, Pixels, photograph, read, read_mask, rotated_rectangle, write_tif

SIZE = 500
# 1.19 m per pixel, from frames of 1 m: several tiles of few pixels.
ZOOM = 17


def place_cog(
    folder: Path, order: int, east: float, south: float, pixels: Pixels, mask: NDArray[np.bool_] | None = None, **options: str
) -> PlacedFrame:
    """Write the COG of a frame whose corner is `east` and `south` meters from the common origin."""
    height, width = pixels.shape[1:]
    plain = write_tif(folder / "plain.tif", pixels, mask=mask, transform=Affine(1, 0, WEST + east, 0, -1, NORTH - south))
    path = folder / f"{order}{options.get('version', '')}.tif"
    compress = options.get("compress") or ("JPEG" if len(pixels) == 3 else "DEFLATE")
    with gdal_env():
        rasterio.shutil.copy(plain, path, driver="COG", blocksize=128, compress=compress)
    return PlacedFrame(order, str(path), (WEST + east, NORTH - south - height, WEST + east + width, NORTH - south))


def place_survey(folder: Path, bands: int, count: int = 9) -> list[PlacedFrame]:
    """Overlapping frames with rotated photographs in collars."""
    mask = rotated_rectangle(SIZE, SIZE)
    photographs = (photograph(SIZE, SIZE, bands, seed=number) * mask for number in range(count))
    return [place_cog(folder, n, 290.7 * (n % 5), 310.3 * (n // 5), pixels, mask) for n, pixels in enumerate(photographs)]


def extent_of(frames: Sequence[PlacedFrame]) -> Box:
    sides = np.array([frame.box for frame in frames])
    west, south = sides[:, :2].min(axis=0)
    east, north = sides[:, 2:].max(axis=0)
    return float(west), float(south), float(east), float(north)


def frame_lookup(frames: Sequence[PlacedFrame]) -> Callable[[Box], list[PlacedFrame]]:
    def intersects(first: Box, second: Box) -> bool:
        return first[0] <= second[2] and first[2] >= second[0] and first[1] <= second[3] and first[3] >= second[1]

    return lambda box: [frame for frame in frames if intersects(frame.box, box)]


def build(
    out: Path, frames: Sequence[PlacedFrame], bands: int, previous: Path | None = None, changed: Sequence[PlacedFrame] = ()
) -> MosaicResult:
    grid = Grid.covering(extent_of(frames), ZOOM)
    boxes = [frame.box for frame in (changed if previous else frames)]
    scratch = out.with_suffix(".scratch")
    scratch.mkdir()
    return build_overview_mosaic(MosaicTask(grid, bands, frame_lookup(frames), boxes, previous), out, scratch)


@pytest.mark.parametrize("bands", [1, 3])
def test_incremental_build_equals_full_rebuild(tmp_path: Path, bands: int) -> None:
    """Frames are added, replaced and removed. The files are equal, so repeated rebuilds lose no quality."""
    *frames, last = place_survey(tmp_path, bands)
    build(tmp_path / "before.tif", frames, bands)

    added = [*frames, last]
    result = build(tmp_path / "added.tif", added, bands, tmp_path / "before.tif", [last])
    build(tmp_path / "added_full.tif", added, bands)
    assert (tmp_path / "added.tif").read_bytes() == (tmp_path / "added_full.tif").read_bytes()
    assert result.tiles_kept and result.tiles_painted
    assert len(result.frames) < len(frames)

    moved = place_cog(tmp_path, 3, 900, 640, photograph(SIZE, SIZE, bands, seed=99), version="-2")
    replaced = [moved if frame.order == 3 else frame for frame in added]
    build(tmp_path / "replaced.tif", replaced, bands, tmp_path / "added.tif", [added[3], moved])
    build(tmp_path / "replaced_full.tif", replaced, bands)
    assert (tmp_path / "replaced.tif").read_bytes() == (tmp_path / "replaced_full.tif").read_bytes()

    remaining = [frame for frame in replaced if frame.order not in (4, 8)]
    build(tmp_path / "removed.tif", remaining, bands, tmp_path / "replaced.tif", [replaced[4], replaced[8]])
    build(tmp_path / "removed_full.tif", remaining, bands)
    assert (tmp_path / "removed.tif").read_bytes() == (tmp_path / "removed_full.tif").read_bytes()


def test_growing_extent_keeps_existing_tiles(tmp_path: Path) -> None:
    """The image also grows to the west and north, so that existing tiles move within it, unchanged."""
    frames = place_survey(tmp_path, 1, 4)
    build(tmp_path / "small.tif", frames, 1)
    far = place_cog(tmp_path, 9, -9000, -7000, photograph(SIZE, SIZE))
    result = build(tmp_path / "large.tif", [*frames, far], 1, tmp_path / "small.tif", [far])
    assert result.frames == {far}
    build(tmp_path / "full.tif", [*frames, far], 1)
    assert (tmp_path / "large.tif").read_bytes() == (tmp_path / "full.tif").read_bytes()
    # Shrink again to an image that does not reach the removed frame.
    build(tmp_path / "shrunk.tif", frames, 1, tmp_path / "large.tif", [far])
    assert (tmp_path / "shrunk.tif").read_bytes() == (tmp_path / "small.tif").read_bytes()
    with rasterio.open(tmp_path / "large.tif") as large:
        pixels = large.width * large.height
    assert (tmp_path / "large.tif").stat().st_size < pixels / 20, "empty tiles take no space"


@pytest.mark.parametrize("bands", [1, 3])
def test_mosaic_is_a_valid_cog_with_mask_and_overviews(tmp_path: Path, bands: int) -> None:
    frames = place_survey(tmp_path, bands)
    build(tmp_path / "mosaic.tif", frames, bands)
    assert cog_validate(tmp_path / "mosaic.tif", strict=True, quiet=True) == (True, [], [])
    with rasterio.open(tmp_path / "mosaic.tif") as mosaic:
        assert (mosaic.crs.to_epsg(), mosaic.count, mosaic.block_shapes[0]) == (3857, bands, (512, 512))
        assert mosaic.compression.name == {1: "deflate", 3: "jpeg"}[bands]
        assert mosaic.res == (zoom_resolution(ZOOM), zoom_resolution(ZOOM))
        smallest = mosaic.overviews(1)[-1]
        assert max(mosaic.shape) / smallest <= 1024
        west, south, east, north = extent_of(frames)
        assert mosaic.bounds.left <= west < east <= mosaic.bounds.right
        assert mosaic.bounds.bottom <= south < north <= mosaic.bounds.top


@pytest.mark.parametrize(("bands", "tolerance"), [(1, 0), (3, 3)])
@pytest.mark.parametrize("value", [0, 200, 255])
def test_collars_are_excluded_and_seams_are_not_darker(tmp_path: Path, bands: int, tolerance: int, value: int) -> None:
    """Frames of one value, including true black, give that value wherever a frame is, and no other value anywhere."""
    mask = rotated_rectangle(SIZE, SIZE)
    pixels = np.full((bands, SIZE, SIZE), value, np.uint8) * mask
    # Lossless frames, so that only the JPEG artifacts of the mosaic itself are measured.
    frames = [place_cog(tmp_path, n, 291 * n, 17 * n, pixels, mask, compress="DEFLATE") for n in range(3)]
    build(tmp_path / "mosaic.tif", frames, bands)
    area = sum(int(read_mask(Path(frame.path)).sum()) for frame in frames)
    with rasterio.open(tmp_path / "mosaic.tif") as mosaic:
        levels = [None, *range(len(mosaic.overviews(1)))]
    for number, level in enumerate(levels):
        valid, values = read_mask(tmp_path / "mosaic.tif", level), read(tmp_path / "mosaic.tif", level)
        assert np.abs(values[:, valid].astype(int) - value).max() <= tolerance
        covered = valid.sum() * (zoom_resolution(ZOOM) * 2**number) ** 2
        if number == 0:
            assert 0.6 * area < covered < area, "the frames overlap"
            corner = 25
            assert not valid[: corner + 1, : corner + 1].any()


def test_frames_with_a_higher_order_are_on_top(tmp_path: Path) -> None:
    values = {5: 50, 2: 20, 9: 90}
    full = {order: np.full((1, SIZE, SIZE), value, np.uint8) for order, value in values.items()}
    frames = [place_cog(tmp_path, order, 100 * position, 0, full[order]) for position, order in enumerate((5, 2, 9))]
    build(tmp_path / "mosaic.tif", frames, 1)
    with rasterio.open(tmp_path / "mosaic.tif") as mosaic:
        row, columns = mosaic.index(WEST + 50, NORTH - 250)[0], [mosaic.index(WEST + x, NORTH)[1] for x in (50, 150, 550, 650)]
        values = mosaic.read(1)[row, columns]
    assert list(values) == [50, 50, 90, 90], "frame 2 is below both"


def test_average_is_weighted_by_area(tmp_path: Path) -> None:
    """Compared with the definition: each source pixel is weighted by its area inside the target pixel."""
    rng = np.random.default_rng(3)
    pixels, valid = rng.integers(0, 256, (1, 60, 70), np.uint8), rng.random((60, 70)) > 0.3
    east, south = 3.3, 1.7
    frame = place_cog(tmp_path, 0, east, south, pixels * valid, valid)
    build(tmp_path / "mosaic.tif", [frame], 1)
    with rasterio.open(tmp_path / "mosaic.tif") as mosaic:
        transform, values, mask = mosaic.transform, mosaic.read(1), mosaic.read_masks(1) > 0

    def shares(first: float, size: int, count: int) -> NDArray[np.float64]:
        edges = first + np.arange(count + 1) * zoom_resolution(ZOOM)
        low, high = edges[:-1, None], edges[1:, None]
        overlap: NDArray[np.float64] = np.minimum(high, np.arange(size) + 1) - np.maximum(low, np.arange(size))
        return np.clip(overlap, 0, None)

    down = shares(NORTH - south - transform.f, 60, values.shape[0])
    across = shares(transform.c - WEST - east, 70, values.shape[1])
    weight = down @ valid @ across.T
    expected = np.divide(down @ (pixels[0] * valid) @ across.T, weight, out=np.zeros_like(weight), where=weight > 0.01)
    covered = weight > 0.01
    assert mask[covered].all() and not mask[weight == 0].any()
    assert np.abs(values[covered] - expected[covered]).max() <= 0.51


def test_color_and_gray_frames_in_one_mosaic(tmp_path: Path) -> None:
    gray = place_cog(tmp_path, 0, 0, 0, np.full((1, SIZE, SIZE), 100, np.uint8))
    blue = np.zeros((3, SIZE, SIZE), np.uint8)
    blue[2] = 180
    frames = [gray, place_cog(tmp_path, 1, 600, 0, blue)]
    build(tmp_path / "mosaic.tif", frames, 3)
    with rasterio.open(tmp_path / "mosaic.tif") as mosaic:
        values = np.array(list(mosaic.sample([(WEST + x, NORTH - 250) for x in (250, 850)]))).astype(int)
    assert np.abs(values - [[100, 100, 100], [0, 0, 180]]).max() <= 3


@pytest.mark.parametrize("fault", ["missing", "not a tif", "truncated", "outside its box"])
def test_unreadable_frame_is_left_out_and_reported(tmp_path: Path, fault: str) -> None:
    good, bad = place_survey(tmp_path, 1, 2)
    path = Path(bad.path)
    if fault == "missing":
        path.unlink()
    elif fault == "not a tif":
        path.write_bytes(b"not a tif")
    elif fault == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    else:
        bad = PlacedFrame(bad.order, bad.path, (WEST + 5000, NORTH - 600, WEST + 5500, NORTH - 100))
    result = build(tmp_path / "mosaic.tif", [good, bad], 1)
    assert list(result.left_out) == [bad]
    assert result.left_out[bad]
    assert result.frames == {good}
    assert read_mask(tmp_path / "mosaic.tif").any()


def test_zoom_follows_the_median_resolution_with_hysteresis() -> None:
    extent = (0.0, 0.0, 30_000.0, 30_000.0)
    assert zoom_resolution(choose_zoom(1.0, extent)) == pytest.approx(8, rel=0.4)
    assert zoom_resolution(choose_zoom(0.15, (0.0, 0.0, 9000.0, 9000.0))) == pytest.approx(1.2, rel=0.4)
    border = zoom_resolution(14) / 8 * 2**0.5  # halfway between two zooms
    assert {choose_zoom(border * 1.02, extent), choose_zoom(border * 0.98, extent)} == {13, 14}
    assert choose_zoom(border * 1.02, extent, previous=14) == choose_zoom(border * 0.98, extent, previous=14) == 14
    assert choose_zoom(border * 1.5, extent, previous=14) == 13


@pytest.mark.parametrize("side", [150_000.0, 600_000.0, 30_000_000.0])
def test_large_collection_gets_a_coarser_mosaic(side: float) -> None:
    zoom = choose_zoom(0.5, (0.0, 0.0, side, side))
    assert side**2 / zoom_resolution(zoom) ** 2 <= MAX_MOSAIC_PIXELS < side**2 / zoom_resolution(zoom + 1) ** 2


@pytest.mark.parametrize(
    "box", [(0.0, 0.0, 10.0, 10.0), (-60_000.0, -2000.0, 40_000.0, 90_000.0), (WEST, NORTH, WEST + 9e5, NORTH + 7)]
)
def test_grid_covers_its_extent_with_few_tiles_at_the_last_level(box: Box) -> None:
    grid = Grid.covering(box, 13)
    down, across = grid.shape(grid.last_level)
    assert 1 <= down <= 2 and 1 <= across <= 2
    tiles = grid.find_touched([box])
    assert tiles <= set(grid.iter_tiles(0))
    west, south, east, north = grid.bounds(tiles)
    assert west < box[0] and south < box[1] and east > box[2] and north > box[3]
    rows, columns = grid.shape(0)
    assert Grid.from_transform(grid.transform, 512 * columns, 512 * rows, 13, grid.last_level) == grid


def test_tile_is_the_parent_of_its_children() -> None:
    tile = Tile(3, 10, 7)
    assert {child.parent for child in tile.children} == {tile}
    assert len(set(tile.children)) == 4
