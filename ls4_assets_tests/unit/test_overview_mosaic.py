"""The overview mosaic's pixels: what is painted, what is taken over, and that nobody can tell the two apart."""

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
from ls4_assets.raster.overview_grid import MOST_PIXELS, Box, Grid, Tile, choose_zoom, resolution
from ls4_assets.raster.overview_mosaic import Made, Order, build_overview_mosaic
from ls4_assets.raster.overview_painting import PlacedFrame
from ls4_assets_tests.rasters import NORTH, WEST, Pixels, photograph, read, read_mask, rotated_rectangle, write_tif

SIZE = 500
# 1.19 m a pixel, from frames of 1 m: several tiles of few pixels.
ZOOM = 17


def cog(
    folder: Path, order: int, east: float, south: float, pixels: Pixels, mask: NDArray[np.bool_] | None = None, **more: str
) -> PlacedFrame:
    """A COG of a frame, `east` and `south` metres from the corner of all."""
    height, width = pixels.shape[1:]
    plain = write_tif(folder / "plain.tif", pixels, mask=mask, transform=Affine(1, 0, WEST + east, 0, -1, NORTH - south))
    path = folder / f"{order}{more.get('version', '')}.tif"
    compress = more.get("compress") or ("JPEG" if len(pixels) == 3 else "DEFLATE")
    with gdal_env():
        rasterio.shutil.copy(plain, path, driver="COG", blocksize=128, compress=compress)
    return PlacedFrame(order, str(path), (WEST + east, NORTH - south - height, WEST + east + width, NORTH - south))


def survey(folder: Path, bands: int, count: int = 9) -> list[PlacedFrame]:
    """Flown frames: overlapping, with rotated photographs in collars."""
    mask = rotated_rectangle(SIZE, SIZE)
    photographs = (photograph(SIZE, SIZE, bands, seed=number) * mask for number in range(count))
    return [cog(folder, n, 290.7 * (n % 5), 310.3 * (n // 5), pixels, mask) for n, pixels in enumerate(photographs)]


def around(frames: Sequence[PlacedFrame]) -> Box:
    sides = np.array([frame.box for frame in frames])
    west, south = sides[:, :2].min(axis=0)
    east, north = sides[:, 2:].max(axis=0)
    return float(west), float(south), float(east), float(north)


def among(frames: Sequence[PlacedFrame]) -> Callable[[Box], list[PlacedFrame]]:
    def meets(one: Box, other: Box) -> bool:
        return one[0] <= other[2] and one[2] >= other[0] and one[1] <= other[3] and one[3] >= other[1]

    return lambda box: [frame for frame in frames if meets(frame.box, box)]


def build(
    out: Path, frames: Sequence[PlacedFrame], bands: int, previous: Path | None = None, changed: Sequence[PlacedFrame] = ()
) -> Made:
    grid = Grid.around(around(frames), ZOOM)
    boxes = [frame.box for frame in (changed if previous else frames)]
    scratch = out.with_suffix(".scratch")
    scratch.mkdir()
    return build_overview_mosaic(Order(grid, bands, among(frames), boxes, previous), out, scratch)


@pytest.mark.parametrize("bands", [1, 3])
def test_what_is_touched_up_is_what_a_full_rebuild_gives(tmp_path: Path, bands: int) -> None:
    """Byte for byte, so also after a hundred rebuilds nothing has faded: frames came, were replaced and left."""
    *frames, last = survey(tmp_path, bands)
    build(tmp_path / "before.tif", frames, bands)

    more = [*frames, last]
    made = build(tmp_path / "more.tif", more, bands, tmp_path / "before.tif", [last])
    build(tmp_path / "more_anew.tif", more, bands)
    assert (tmp_path / "more.tif").read_bytes() == (tmp_path / "more_anew.tif").read_bytes()
    assert made.tiles_kept and made.tiles_painted
    assert len(made.frames) < len(frames)

    moved = cog(tmp_path, 3, 900, 640, photograph(SIZE, SIZE, bands, seed=99), version="-2")
    replaced = [moved if frame.order == 3 else frame for frame in more]
    build(tmp_path / "replaced.tif", replaced, bands, tmp_path / "more.tif", [more[3], moved])
    build(tmp_path / "replaced_anew.tif", replaced, bands)
    assert (tmp_path / "replaced.tif").read_bytes() == (tmp_path / "replaced_anew.tif").read_bytes()

    gone = [frame for frame in replaced if frame.order not in (4, 8)]
    build(tmp_path / "gone.tif", gone, bands, tmp_path / "replaced.tif", [replaced[4], replaced[8]])
    build(tmp_path / "gone_anew.tif", gone, bands)
    assert (tmp_path / "gone.tif").read_bytes() == (tmp_path / "gone_anew.tif").read_bytes()


def test_a_collection_that_grows_far_keeps_its_tiles(tmp_path: Path) -> None:
    """The image gets larger to the west and north too; what was there lies elsewhere in it, and is the same."""
    frames = survey(tmp_path, 1, 4)
    build(tmp_path / "small.tif", frames, 1)
    far = cog(tmp_path, 9, -9000, -7000, photograph(SIZE, SIZE))
    made = build(tmp_path / "large.tif", [*frames, far], 1, tmp_path / "small.tif", [far])
    assert made.frames == {far}
    build(tmp_path / "anew.tif", [*frames, far], 1)
    assert (tmp_path / "large.tif").read_bytes() == (tmp_path / "anew.tif").read_bytes()
    # And back again, to an image that does not reach to where the frame was.
    build(tmp_path / "shrunk.tif", frames, 1, tmp_path / "large.tif", [far])
    assert (tmp_path / "shrunk.tif").read_bytes() == (tmp_path / "small.tif").read_bytes()
    with rasterio.open(tmp_path / "large.tif") as large:
        empty = large.width * large.height
    assert (tmp_path / "large.tif").stat().st_size < empty / 20, "what is empty takes no room"


@pytest.mark.parametrize("bands", [1, 3])
def test_it_is_a_valid_cog_with_mask_and_overviews(tmp_path: Path, bands: int) -> None:
    frames = survey(tmp_path, bands)
    build(tmp_path / "mosaic.tif", frames, bands)
    assert cog_validate(tmp_path / "mosaic.tif", strict=True, quiet=True) == (True, [], [])
    with rasterio.open(tmp_path / "mosaic.tif") as mosaic:
        assert (mosaic.crs.to_epsg(), mosaic.count, mosaic.block_shapes[0]) == (3857, bands, (512, 512))
        assert mosaic.compression.name == {1: "deflate", 3: "jpeg"}[bands]
        assert mosaic.res == (resolution(ZOOM), resolution(ZOOM))
        smallest = mosaic.overviews(1)[-1]
        assert max(mosaic.shape) / smallest <= 1024
        west, south, east, north = around(frames)
        assert mosaic.bounds.left <= west < east <= mosaic.bounds.right
        assert mosaic.bounds.bottom <= south < north <= mosaic.bounds.top


@pytest.mark.parametrize(("bands", "tolerance"), [(1, 0), (3, 3)])
@pytest.mark.parametrize("value", [0, 200, 255])
def test_collars_stay_out_and_no_seam_is_darker(tmp_path: Path, bands: int, tolerance: int, value: int) -> None:
    """Frames of one value, true black among them, give that value wherever any of them is, and nothing else anywhere."""
    mask = rotated_rectangle(SIZE, SIZE)
    pixels = np.full((bands, SIZE, SIZE), value, np.uint8) * mask
    # Without loss, so that what JPEG does to a mosaic's own edges is seen and not what it did to the frames'.
    frames = [cog(tmp_path, n, 291 * n, 17 * n, pixels, mask, compress="DEFLATE") for n in range(3)]
    build(tmp_path / "mosaic.tif", frames, bands)
    area = sum(int(read_mask(Path(frame.path)).sum()) for frame in frames)
    with rasterio.open(tmp_path / "mosaic.tif") as mosaic:
        levels = [None, *range(len(mosaic.overviews(1)))]
    for number, level in enumerate(levels):
        valid, seen = read_mask(tmp_path / "mosaic.tif", level), read(tmp_path / "mosaic.tif", level)
        assert np.abs(seen[:, valid].astype(int) - value).max() <= tolerance
        covered = valid.sum() * (resolution(ZOOM) * 2**number) ** 2
        if number == 0:
            assert 0.6 * area < covered < area, "the frames overlap"
            corner = 25
            assert not valid[: corner + 1, : corner + 1].any()


def test_later_frames_lie_on_top(tmp_path: Path) -> None:
    values = {5: 50, 2: 20, 9: 90}
    full = {order: np.full((1, SIZE, SIZE), value, np.uint8) for order, value in values.items()}
    frames = [cog(tmp_path, order, 100 * place, 0, full[order]) for place, order in enumerate((5, 2, 9))]
    build(tmp_path / "mosaic.tif", frames, 1)
    with rasterio.open(tmp_path / "mosaic.tif") as mosaic:
        row, columns = mosaic.index(WEST + 50, NORTH - 250)[0], [mosaic.index(WEST + x, NORTH)[1] for x in (50, 150, 550, 650)]
        seen = mosaic.read(1)[row, columns]
    assert list(seen) == [50, 50, 90, 90], "2 lies under both"


def test_the_average_is_that_of_the_ground(tmp_path: Path) -> None:
    """Against the plain definition: every source pixel by the area that it has in the pixel to be."""
    rng = np.random.default_rng(3)
    pixels, valid = rng.integers(0, 256, (1, 60, 70), np.uint8), rng.random((60, 70)) > 0.3
    east, south = 3.3, 1.7
    frame = cog(tmp_path, 0, east, south, pixels * valid, valid)
    build(tmp_path / "mosaic.tif", [frame], 1)
    with rasterio.open(tmp_path / "mosaic.tif") as mosaic:
        transform, seen, mask = mosaic.transform, mosaic.read(1), mosaic.read_masks(1) > 0

    def shares(first: float, size: int, count: int) -> NDArray[np.float64]:
        edges = first + np.arange(count + 1) * resolution(ZOOM)
        low, high = edges[:-1, None], edges[1:, None]
        return np.clip(np.minimum(high, np.arange(size) + 1) - np.maximum(low, np.arange(size)), 0, None)

    down = shares(NORTH - south - transform.f, 60, seen.shape[0])
    across = shares(transform.c - WEST - east, 70, seen.shape[1])
    weight = down @ valid @ across.T
    expected = np.divide(down @ (pixels[0] * valid) @ across.T, weight, out=np.zeros_like(weight), where=weight > 0.01)
    sure = weight > 0.01
    assert mask[sure].all() and not mask[weight == 0].any()
    assert np.abs(seen[sure] - expected[sure]).max() <= 0.51


def test_colour_and_grey_in_one_mosaic(tmp_path: Path) -> None:
    grey = cog(tmp_path, 0, 0, 0, np.full((1, SIZE, SIZE), 100, np.uint8))
    blue = np.zeros((3, SIZE, SIZE), np.uint8)
    blue[2] = 180
    frames = [grey, cog(tmp_path, 1, 600, 0, blue)]
    build(tmp_path / "mosaic.tif", frames, 3)
    with rasterio.open(tmp_path / "mosaic.tif") as mosaic:
        seen = np.array(list(mosaic.sample([(WEST + x, NORTH - 250) for x in (250, 850)]))).astype(int)
    assert np.abs(seen - [[100, 100, 100], [0, 0, 180]]).max() <= 3


@pytest.mark.parametrize("fault", ["missing", "no tif", "cut off", "elsewhere"])
def test_a_frame_that_cannot_be_read_is_left_out_and_named(tmp_path: Path, fault: str) -> None:
    good, bad = survey(tmp_path, 1, 2)
    path = Path(bad.path)
    if fault == "missing":
        path.unlink()
    elif fault == "no tif":
        path.write_bytes(b"no tif at all")
    elif fault == "cut off":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    else:
        bad = PlacedFrame(bad.order, bad.path, (WEST + 5000, NORTH - 600, WEST + 5500, NORTH - 100))
    made = build(tmp_path / "mosaic.tif", [good, bad], 1)
    assert list(made.left_out) == [bad]
    assert made.left_out[bad]
    assert made.frames == {good}
    assert read_mask(tmp_path / "mosaic.tif").any()


def test_the_zoom_follows_the_frames_but_not_every_one_of_them() -> None:
    extent = (0.0, 0.0, 30_000.0, 30_000.0)
    assert resolution(choose_zoom(1.0, extent)) == pytest.approx(8, rel=0.4)
    assert resolution(choose_zoom(0.15, (0.0, 0.0, 9000.0, 9000.0))) == pytest.approx(1.2, rel=0.4)
    border = resolution(14) / 8 * 2**0.5  # just between two zooms
    assert {choose_zoom(border * 1.02, extent), choose_zoom(border * 0.98, extent)} == {13, 14}
    assert choose_zoom(border * 1.02, extent, previous=14) == choose_zoom(border * 0.98, extent, previous=14) == 14
    assert choose_zoom(border * 1.5, extent, previous=14) == 13


@pytest.mark.parametrize("side", [150_000.0, 600_000.0, 30_000_000.0])
def test_a_large_collection_gets_a_coarser_mosaic(side: float) -> None:
    zoom = choose_zoom(0.5, (0.0, 0.0, side, side))
    assert side**2 / resolution(zoom) ** 2 <= MOST_PIXELS < side**2 / resolution(zoom + 1) ** 2


@pytest.mark.parametrize(
    "box", [(0.0, 0.0, 10.0, 10.0), (-60_000.0, -2000.0, 40_000.0, 90_000.0), (WEST, NORTH, WEST + 9e5, NORTH + 7)]
)
def test_a_grid_holds_its_extent_in_few_last_tiles(box: Box) -> None:
    grid = Grid.around(box, 13)
    down, across = grid.shape(grid.last_level)
    assert 1 <= down <= 2 and 1 <= across <= 2
    tiles = grid.touched([box])
    assert tiles <= set(grid.tiles(0))
    west, south, east, north = grid.box(tiles)
    assert west < box[0] and south < box[1] and east > box[2] and north > box[3]
    assert Grid.of(grid.transform, *(512 * n for n in reversed(grid.shape(0))), 13, grid.last_level) == grid


def test_a_tile_is_the_parent_of_its_children() -> None:
    tile = Tile(3, 10, 7)
    assert {child.parent for child in tile.children} == {tile}
    assert len(set(tile.children)) == 4
