"""Tests of the recognition of collars that no exact value marks, against the true outline of the photograph."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy import ndimage

from ls4_assets.domain.profiles import PROFILES
from ls4_assets.raster.collar_edges import Candidate, fit_edge
from ls4_assets.raster.collar_hull import HullFinder
from ls4_assets.raster.deflate import write_deflate
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.mask import find_mask
from ls4_assets.raster.source import Limits, Source, open_source
from ls4_assets_tests.rasters import photograph, read, read_mask, rotated_rectangle, write_tif

HEIGHT, WIDTH = 450, 600

Pixels = NDArray[np.uint8]
Valid = NDArray[np.bool_]


def scan(degrees: float = 7.0, bands: int = 1, fill: int | tuple[int, int] = 0) -> tuple[Pixels, Valid]:
    """A photograph in a collar: `fill` is its value, or the range of its noise."""
    inside = rotated_rectangle(HEIGHT, WIDTH, degrees, 0.76 if degrees < 20 else 0.55)
    low, high = fill if isinstance(fill, tuple) else (fill, fill)
    collar = np.random.default_rng(1).integers(low, high + 1, inside.shape)
    return np.where(inside, photograph(HEIGHT, WIDTH, bands), collar).astype(np.uint8), inside


def find_valid(path: Path) -> Valid:
    with rasterio.open(path) as dataset:
        film_type = "bw" if dataset.count == 1 else "nc"
    source = open_source(path, film_type, Limits())
    with gdal_env(pam=True), source.open() as dataset:
        mask = find_mask(source, dataset, detect_collar=True)
        whole = Window(0, 0, source.width, source.height)
        return mask.read(dataset, whole) if mask else np.ones((source.height, source.width), bool)


def assert_within_a_pixel(valid: Valid, truth: Valid) -> None:
    square = np.ones((3, 3), bool)
    edge = ndimage.binary_dilation(truth, square) & ~ndimage.binary_erosion(truth, square, border_value=1)
    wrong = (valid != truth) & ~edge
    assert not wrong.any(), f"{(wrong & truth).sum()} px of the photograph lost, {(wrong & ~truth).sum()} px of the collar left"


@pytest.mark.parametrize("degrees", [0, 1, 7, 20, 45])
@pytest.mark.parametrize("fill", [(0, 3), (0, 5), (250, 255), 128, 40], ids=str)
def test_nearly_flat_collar_is_masked(tmp_path: Path, fill: int | tuple[int, int], degrees: float) -> None:
    """A collar of scanner noise or of gray stayed opaque."""
    pixels, inside = scan(degrees, fill=fill)
    assert_within_a_pixel(find_valid(write_tif(tmp_path / "a.tif", pixels)), inside)


@pytest.mark.parametrize("value", [0, 255, 128])
@pytest.mark.parametrize("quality", [50, 75, 95])
def test_jpeg_leaves_no_rim(tmp_path: Path, quality: int, value: int) -> None:
    """The ringing of JPEG left a rim of nearly black pixels around the photograph."""
    pixels, inside = scan(fill=value)
    path = write_tif(tmp_path / "a.tif", pixels, compress="JPEG", jpeg_quality=quality)
    assert_within_a_pixel(find_valid(path), inside)


@pytest.mark.parametrize("value", [0, 255])
def test_jpeg_leaves_no_rim_along_its_blocks(tmp_path: Path, value: int) -> None:
    """The rim ended on the blocks of the JPEG, in straight lines like a photograph."""
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[44:-38, 37:-44] = True
    pixels = np.where(inside, photograph(HEIGHT, WIDTH), value).astype(np.uint8)
    path = write_tif(tmp_path / "a.tif", pixels, compress="JPEG", jpeg_quality=75)
    assert_within_a_pixel(find_valid(path), inside)


@pytest.mark.parametrize("fill", [(0, 3), 128], ids=str)
def test_collar_of_a_color_photograph_is_masked(tmp_path: Path, fill: int | tuple[int, int]) -> None:
    pixels, inside = scan(bands=3, fill=fill)
    assert_within_a_pixel(find_valid(write_tif(tmp_path / "a.tif", pixels)), inside)


@pytest.mark.parametrize("sides", [1, 2, 3, 4])
def test_collar_on_some_sides_is_masked(tmp_path: Path, sides: int) -> None:
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[31 * (sides > 2) : HEIGHT - 25 * (sides > 1), 37 : WIDTH - 44 * (sides > 3)] = True
    noise = np.random.default_rng(1).integers(0, 4, inside.shape)
    pixels = np.where(inside, photograph(HEIGHT, WIDTH), noise).astype(np.uint8)
    assert_within_a_pixel(find_valid(write_tif(tmp_path / "a.tif", pixels)), inside)


@pytest.mark.parametrize("fill", [0, 255, (0, 3), 128], ids=str)
@pytest.mark.parametrize("place", [(20, 540), (430, 20), (3, 5)])
def test_speck_in_the_collar_does_not_stretch_the_photograph(
    tmp_path: Path, fill: int | tuple[int, int], place: tuple[int, int]
) -> None:
    """One speck of dust left a triangle of the collar opaque."""
    pixels, inside = scan(fill=fill)
    row, column = place
    pixels[0, row : row + 3, column : column + 3] = 200
    assert_within_a_pixel(find_valid(write_tif(tmp_path / "a.tif", pixels)), inside)


@pytest.mark.parametrize("fill", [0, (0, 3)], ids=str)
def test_dust_line_and_marks_in_the_collar_are_masked(tmp_path: Path, fill: int | tuple[int, int]) -> None:
    """Fiducial marks, writing on the film's edge, and a dust line across the whole scan."""
    pixels, inside = scan(fill=fill)
    pixels[0, :, 300] = 210
    pixels[0, 20:32, 250:253] = pixels[0, 25:28, 240:262] = 220
    pixels[0, 418:430, 120:200:9] = 190
    valid = find_valid(write_tif(tmp_path / "a.tif", pixels))
    assert_within_a_pixel(valid, inside)


def test_nearly_black_edge_of_a_film_belongs_to_the_collar(tmp_path: Path) -> None:
    """A rotated scan: black outside the film, and noise on the film's edge around the photograph."""
    pixels, inside = scan(fill=(1, 5))
    pixels[0, ~rotated_rectangle(HEIGHT, WIDTH, 7, 0.84)] = 0
    assert_within_a_pixel(find_valid(write_tif(tmp_path / "a.tif", pixels)), inside)


def test_dark_notches_of_a_film_stay_in_the_photograph(tmp_path: Path) -> None:
    pixels, inside = scan(5, fill=(0, 5))
    pixels[0, 210:240, 505:560] = pixels[0, 375:430, 290:320] = 3
    assert_within_a_pixel(find_valid(write_tif(tmp_path / "a.tif", pixels)), inside)


def test_black_lake_at_the_collar_stays(tmp_path: Path) -> None:
    """Dark photograph at a part of the edge does not move the edge inwards."""
    pixels, inside = scan(fill=(0, 3))
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels[0, inside & (np.hypot(y - 220, x - 100) < 70)] = 0
    assert_within_a_pixel(find_valid(write_tif(tmp_path / "a.tif", pixels)), inside)


def test_photograph_that_a_flat_band_divides_is_one_photograph(tmp_path: Path) -> None:
    """A river of the collar's color across the whole photograph."""
    pixels, inside = scan(fill=(0, 3))
    pixels[0, :, 200:230] = np.random.default_rng(4).integers(0, 4, (HEIGHT, 30))
    assert_within_a_pixel(find_valid(write_tif(tmp_path / "a.tif", pixels)), inside)


def test_bowed_sides_are_followed(tmp_path: Path) -> None:
    """A photograph that a polynomial has rectified has no straight sides."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    left, right = 50 + 4 * ((y - 225) / 225) ** 2, 540 - 4 * ((y - 225) / 225) ** 2
    top, bottom = 40 + 4 * ((x - 300) / 300) ** 2, 400 - 4 * ((x - 300) / 300) ** 2
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    noise = np.random.default_rng(1).integers(0, 4, inside.shape)
    pixels = np.where(inside, photograph(HEIGHT, WIDTH), noise).astype(np.uint8)
    assert_within_a_pixel(find_valid(write_tif(tmp_path / "a.tif", pixels)), inside)


Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
COAST = 300 + 30 * np.sin(X / 85) + 10 * np.sin(X / 15)
WATER: dict[str, Valid] = {
    "dam along a row": Y >= 300,
    "sloping dam": Y > 280 + 0.1 * X,
    "coast": COAST < Y,
    "coast close to the border": COAST + 110 < Y,
    "cape": (COAST < Y) | (450 + 25 * np.sin(Y / 60) + 8 * np.sin(Y / 11) < X),
}


@pytest.mark.parametrize("fill", [0, 255, (0, 5), (126, 130)], ids=str)
@pytest.mark.parametrize("water", WATER)
def test_water_and_snow_at_two_corners_stay(tmp_path: Path, water: str, fill: int | tuple[int, int]) -> None:
    """A black sea over two corners became transparent."""
    low, high = fill if isinstance(fill, tuple) else (fill, fill)
    sea = np.random.default_rng(1).integers(low, high + 1, (HEIGHT, WIDTH))
    pixels = np.where(WATER[water], sea, photograph(HEIGHT, WIDTH)).astype(np.uint8)
    assert find_valid(write_tif(tmp_path / "a.tif", pixels)).all()


def test_black_water_saved_as_jpeg_stays(tmp_path: Path) -> None:
    pixels = np.where(WATER["dam along a row"], 0, photograph(HEIGHT, WIDTH)).astype(np.uint8)
    assert find_valid(write_tif(tmp_path / "a.tif", pixels, compress="JPEG", jpeg_quality=75)).all()


def test_white_roofs_in_two_corners_stay(tmp_path: Path) -> None:
    pixels = photograph(HEIGHT, WIDTH)
    pixels[0, :50, :80] = pixels[0, -40:, -90:] = 255
    assert find_valid(write_tif(tmp_path / "a.tif", pixels)).all()


@pytest.mark.parametrize("fill", [(0, 3), (250, 255), 128], ids=str)
def test_flat_photograph_with_one_building_stays(tmp_path: Path, fill: int | tuple[int, int]) -> None:
    """A house in snow was taken for a photograph, and the snow for its collar."""
    house = rotated_rectangle(HEIGHT, WIDTH, 9, 0.3)
    low, high = fill if isinstance(fill, tuple) else (fill, fill)
    snow = np.random.default_rng(1).integers(low, high + 1, (HEIGHT, WIDTH))
    pixels = np.where(house, 90, snow)[None].astype(np.uint8)
    assert find_valid(write_tif(tmp_path / "a.tif", pixels)).all()


def test_dark_forest_at_two_corners_stays(tmp_path: Path) -> None:
    forest = np.clip(np.random.default_rng(3).gamma(2.0, 2.0, (HEIGHT, WIDTH)), 0, 60)
    pixels = np.where(WATER["coast"], forest, photograph(HEIGHT, WIDTH)).astype(np.uint8)
    assert find_valid(write_tif(tmp_path / "a.tif", pixels)).all()


@pytest.mark.parametrize("degrees", [0, 1, 7, 45])
@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("darkest", [1, 30])
def test_exact_collar_keeps_the_mask_of_its_hull(tmp_path: Path, degrees: float, value: int, darkest: int) -> None:
    """The pixels of frames that were right must not depend on the recognition by outline: PIXELS_VERSION has not changed."""
    inside = rotated_rectangle(HEIGHT, WIDTH, degrees, 0.76 if degrees < 20 else 0.55)
    dark = np.clip(photograph(HEIGHT, WIDTH).astype(int) - 90, darkest, 254)
    pixels = np.where(inside, dark, value).astype(np.uint8)
    finder = HullFinder(value, WIDTH, HEIGHT)
    finder.add(0, pixels)
    hull = finder.result()
    assert hull is not None
    expected = hull.inside(Window(0, 0, WIDTH, HEIGHT))
    assert (find_valid(write_tif(tmp_path / "a.tif", pixels)) == expected).all()


def test_nearly_black_edge_of_the_film_is_followed_where_the_hull_was_tight(tmp_path: Path) -> None:
    """Dark photograph along an edge of an exact collar is no rim of the collar."""
    pixels, inside = scan(0)
    columns = np.flatnonzero(inside.any(axis=0))
    pixels[0, :, columns[0] : columns[0] + 40] = np.where(
        inside[:, columns[0] : columns[0] + 40], np.random.default_rng(2).integers(1, 7, (HEIGHT, 40)), 0
    )
    assert (find_valid(write_tif(tmp_path / "a.tif", pixels)) == inside).all()


@pytest.mark.parametrize(("raggedness_px", "is_edge"), [(0, True), (1, True), (6, False)])
def test_edge_needs_most_profiles_on_one_line(raggedness_px: int, is_edge: bool) -> None:
    along = np.arange(400)
    candidate = Candidate(True, 1, along, np.full(400, 60), 30)
    begins = 30 + np.random.default_rng(5).integers(-raggedness_px, raggedness_px + 1, 400)
    profiles = np.where(np.arange(61) >= begins[:, None], 120, 2).astype(np.int16)
    assert (fit_edge(candidate, profiles) is not None) == is_edge


def test_image_is_read_at_most_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass for the reduced image, one for the edges; a frame without a flat corner costs only its corners."""
    read_pixels, count = Source.read, 0

    def count_pixels(self: Source, dataset: rasterio.DatasetReader, window: Window) -> Pixels:
        nonlocal count
        count += int(window.width * window.height)
        return read_pixels(self, dataset, window)

    monkeypatch.setattr(Source, "read", count_pixels)
    counts = []
    for pixels in (photograph(HEIGHT, WIDTH), scan()[0], scan(fill=(0, 3))[0]):
        count = 0
        find_valid(write_tif(tmp_path / "a.tif", pixels))
        counts.append(count / (HEIGHT * WIDTH))
    assert [round(each) for each in counts] == [0, 1, 2]


def test_photograph_keeps_its_values_in_the_deflate_tif(tmp_path: Path) -> None:
    """True black and white pixels inside a photograph with a noisy collar are exact."""
    pixels, inside = scan(fill=(0, 3))
    pixels[0, 200:220, 280:300], pixels[0, 230:240, 280:300] = 0, 255
    source = open_source(write_tif(tmp_path / "a.tif", pixels), "bw", Limits())
    write_deflate(source, tmp_path / "out.tif", PROFILES["bw"])
    valid = read_mask(tmp_path / "out.tif")
    assert_within_a_pixel(valid, inside)
    assert (read(tmp_path / "out.tif")[0][valid] == pixels[0][valid]).all()
