"""Ground control points: the fit, its residuals, and the rectified frame against GDAL's command-line tool."""

import subprocess
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import GCPTransformer
from rasterio.warp import transform

from ls4_assets.domain.profiles import GcpTransformation
from ls4_assets.raster.control_points import ControlPoint, ControlPointError, choose, fit
from ls4_assets.raster.frame import process
from ls4_assets.raster.source import Limits
from ls4_assets_tests.rasters import BW, UTM_PLACE, Pixels, photograph, read, read_mask

UTM, DEGREES = CRS.from_epsg(26914), CRS.from_epsg(4326)
WIDTH, HEIGHT = 400, 300


def ground(column: float, row: float) -> tuple[float, float]:
    """A place with rotation, relief and lens distortion, which no polynomial has exactly."""
    x = UTM_PLACE[0] + 2 * column + 0.3 * row + 3 * np.sin(column / 90) + 0.0006 * column * row
    y = UTM_PLACE[1] + 0.25 * column - 2 * row + 3 * np.cos(row / 70) + 0.0004 * column**2
    return float(x), float(y)


def control_points(columns: int, rows: int) -> tuple[ControlPoint, ...]:
    grid = product(np.linspace(5, HEIGHT - 5, rows), np.linspace(5, WIDTH - 5, columns))
    return tuple(
        ControlPoint(str(number), float(column), float(row), *ground(column, row)) for number, (row, column) in enumerate(grid)
    )


def in_degrees(points: tuple[ControlPoint, ...]) -> tuple[ControlPoint, ...]:
    longitudes, latitudes = transform(UTM, DEGREES, [point.x for point in points], [point.y for point in points])
    return tuple(
        replace(point, x=longitude, y=latitude) for point, longitude, latitude in zip(points, longitudes, latitudes, strict=True)
    )


def gdal_points(points: tuple[ControlPoint, ...]) -> list[GroundControlPoint]:
    return [GroundControlPoint(point.row, point.column, point.x, point.y) for point in points]


def write_scan(path: Path, points: tuple[ControlPoint, ...], pixels: Pixels, crs: CRS = UTM) -> Path:
    options = {"driver": "GTiff", "width": WIDTH, "height": HEIGHT, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", **options) as target:
        target.write(pixels)
        target.gcps = (gdal_points(points), crs)
    return path


@pytest.mark.parametrize(
    ("shape", "wanted", "options", "crs"),
    [
        ((2, 2), "auto", ["-order", "1"], UTM),
        ((4, 3), "auto", ["-order", "2"], UTM),
        ((5, 4), "polynomial 3", ["-order", "3"], UTM),
        ((4, 3), "polynomial 1", ["-order", "1"], UTM),
        ((6, 5), "auto", ["-tps"], UTM),
        ((4, 3), "auto", ["-order", "2"], DEGREES),
        ((6, 5), "auto", ["-tps"], DEGREES),
    ],
    ids=["four points", "twelve points", "order 3", "order 1 by option", "thirty points", "degrees", "thirty points in degrees"],
)
def test_rectified_frame_is_that_of_gdalwarp(
    tmp_path: Path, shape: tuple[int, int], wanted: GcpTransformation, options: list[str], crs: CRS
) -> None:
    """A scan with control points was rejected, whichever of four programs had written them."""
    points = control_points(*shape) if crs == UTM else in_degrees(control_points(*shape))
    scan = write_scan(tmp_path / "scan.tif", points, photograph(HEIGHT, WIDTH), crs)
    profile = BW.model_copy(update={"gcp_transformation": wanted, "detect_collar": False})
    result = process(scan, tmp_path / "work", "f", "bw", profile, Limits())
    command = ["gdalwarp", "-q", *options, "-r", "cubic", "-dstalpha", "-t_srs", "EPSG:3857"]
    subprocess.run([*command, str(scan), str(tmp_path / "expected.tif")], check=True)
    with rasterio.open(tmp_path / "expected.tif") as expected:
        assert (expected.width, expected.height) == (result.width, result.height)
        assert np.allclose(expected.transform[:6], result.transform, rtol=0, atol=0.01)
        gray, alpha = expected.read()
    frame, valid = read(tmp_path / "work/cog/f.tif")[0], read_mask(tmp_path / "work/cog/f.tif")
    assert (valid != (alpha > 127)).mean() < 0.001
    both = valid & (alpha == 255)
    assert both.mean() > 0.7
    difference = np.abs(frame.astype(int) - gray)[both]
    assert difference.max() <= 12 and difference.mean() < 1


def test_mask_of_a_frame_with_control_points_is_rectified_too(tmp_path: Path) -> None:
    pixels = photograph(HEIGHT, WIDTH)
    pixels[:, :, :60] = 0
    scan = write_scan(tmp_path / "scan.tif", control_points(4, 3), pixels)
    with rasterio.open(scan, "r+") as target:
        target.write_mask(pixels[0] > 0)
    result = process(scan, tmp_path / "work", "f", "bw", BW, Limits())
    valid, frame = read_mask(tmp_path / "work/cog/f.tif"), read(tmp_path / "work/cog/f.tif")[0]
    assert 0.5 < valid.mean() < 0.85 and result.valid_share == pytest.approx(valid.mean())
    assert (frame[valid] > 0).mean() > 0.999


@pytest.mark.parametrize("shape", [(6, 5), (8, 6)])
def test_residuals_of_a_spline_are_those_without_the_point(shape: tuple[int, int]) -> None:
    """A thin-plate spline passes through every point, so a wrong one has a residual of zero."""
    points = control_points(*shape)
    fitted = fit(points, UTM, WIDTH, HEIGHT)
    assert fitted.kind == "thin-plate spline" and fitted.residuals_px is not None
    expected = []
    for index, point in enumerate(points):
        with GCPTransformer(gdal_points(points[:index] + points[index + 1 :]), tps=True) as transformer:
            (row,), (column,) = transformer.rowcol([point.x], [point.y], op=lambda values: values)
        expected.append(np.hypot(row - point.row, column - point.column))
    # The residual of the other direction may be larger.
    assert (fitted.residuals_px >= np.array(expected) - 1e-6).all()
    assert np.allclose(fitted.residuals_px, expected, rtol=0.25, atol=0.05)


@pytest.mark.parametrize("count", [(3, 3), (4, 3), (6, 5)])
def test_wrong_point_has_the_largest_residual(count: tuple[int, int]) -> None:
    points = list(control_points(*count))
    wrong = points[4]
    points[4] = ControlPoint("wrong", wrong.column, wrong.row, wrong.x + 5000, wrong.y)
    fitted = fit(tuple(points), UTM, WIDTH, HEIGHT)
    assert fitted.describe_worst().startswith("wrong (column ")
    assert fitted.rms_px and fitted.rms_px > 100


def test_transformation_depends_on_the_number_of_points() -> None:
    kinds = {count: choose(count) for count in (3, 6, 7, 29, 30)}
    assert [*kinds.values()] == ["polynomial 1"] * 2 + ["polynomial 2"] * 2 + ["thin-plate spline"]
    assert choose(5, "thin-plate spline") == "thin-plate spline"


@pytest.mark.parametrize(
    ("points", "advice"),
    [
        (control_points(2, 1), "2 of the 3 or more ground control points"),
        (tuple(ControlPoint("", column, column, *ground(column, column)) for column in (10, 100, 200, 290)), "on one line"),
        (tuple(ControlPoint("", point.column / 300, point.row / 300, 1, 1) for point in control_points(2, 2)), "in pixels"),
        ((*control_points(6, 5), control_points(6, 5)[7]), "twice at one place"),
        (control_points(50, 50), "the limit is 1,000"),
    ],
)
def test_points_that_place_nothing_are_rejected(points: tuple[ControlPoint, ...], advice: str) -> None:
    with pytest.raises(ControlPointError, match=advice):
        fit(points, UTM, WIDTH, HEIGHT)


def test_three_points_have_no_residuals() -> None:
    fitted = fit(control_points(2, 2)[:3], UTM, WIDTH, HEIGHT)
    assert (fitted.residuals_px, fitted.rms_px, fitted.max_px) == (None, None, None)
