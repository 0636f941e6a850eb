"""Tests of the raster steps with real imagery. The fixture `shared_data` in conftest locates the files."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.warp import transform_geom
from shapely.geometry import mapping, shape

from ls4_assets.domain.film_types import FilmType
from ls4_assets.domain.profiles import PROFILES
from ls4_assets.errors import FrameError
from ls4_assets.raster.frame import FrameResult, process
from ls4_assets.raster.source import Limits
from ls4_assets_tests.rasters import read_mask

GOOD: list[tuple[str, FilmType, str, float]] = [
    ("stac-utils+titiler-pgstac/20200307aC0853900w361030n.tif", "nc", "EPSG:4326", 1.0),
    ("stactools-packages+naip/m_3211605_ne_11_060_20200415.tif", "nc", "EPSG:26911", 1.0),
    ("stactools-packages+naip/m_4208701_ne_16_060_20200902.tif", "nc", "EPSG:26916", 1.0),
    ("cogeotiff+rio-tiler/201404_13SED190110_201404_0x1500m_CL_1.tif", "nc", "EPSG:26913", 1.0),
    ("cogeotiff+rio-tiler/201404_13SED190110_201404_0x1500m_CL_1_mask.tif", "nc", "EPSG:26913", 0.969),
    ("cogeotiff+rio-tiler/pix4d_alpha_nodata.tif", "nc", "EPSG:32750", 0.876),
    ("linz+topo-imagery/input_hi.tif", "bw", "EPSG:2193", 1.0),
    ("linz+topo-imagery/input_aerial.tif", "nc", "EPSG:2193", 1.0),
    ("rasterio+rasterio/RGB.byte.tif", "nc", "EPSG:32618", 0.675),
    # Of 16 bits, with nodata.
    ("stac-utils+stactools/LC08_L1TP_198029_20220331_20220406_02_T1_B2.TIF", "bw", "EPSG:32631", 0.8),
]
"""File, film type, CRS, and valid area as a share of the area inside the image's corners."""

BAD: list[tuple[str, FilmType, str]] = [
    ("linz+topo-imagery/empty.tiff", "bw", "1 x 2 pixels"),
    ("rasterio+rasterio/rotated.tif", "bw", ".prj"),
    ("rasterio+rasterio/all-nodata.tif", "nc", "no valid pixel"),
    ("friedrichknuth+hipp/T.tif", "bw", "no georeference"),
    ("stac-utils+titiler-pgstac/20200307aC0853900w361030n.tif", "bw", "under nc/"),
    ("linz+topo-imagery/input_hi.tif", "nc", "under bw/"),
]


def map_outline(path: Path) -> shapely.Geometry:
    with rasterio.open(path) as dataset:
        corners = [(0, 0), (dataset.width, 0), (dataset.width, dataset.height), (0, dataset.height)]
        outline = shapely.Polygon([dataset.transform @ corner for corner in corners])
        return shape(transform_geom(dataset.crs, "EPSG:3857", mapping(outline)))


def process_scan(path: Path, folder: Path, film_type: FilmType) -> FrameResult:
    return process(path, folder, path.stem, film_type, PROFILES[film_type], Limits())


@pytest.mark.parametrize(("name", "film_type", "crs", "valid_share"), GOOD, ids=[Path(case[0]).stem for case in GOOD])
def test_real_frame_has_the_expected_valid_area(
    shared_data: Path, tmp_path: Path, name: str, film_type: FilmType, crs: str, valid_share: float
) -> None:
    path = shared_data / name
    result = process_scan(path, tmp_path, film_type)
    assert (result.source_crs, result.warped) == (crs, True)
    outline = map_outline(path)
    cog = tmp_path / "cog" / f"{path.stem}.tif"
    with rasterio.open(cog) as dataset:
        assert dataset.count == PROFILES[film_type].bands
        valid_area = read_mask(cog).sum() * dataset.transform.a**2
    # In small images the edge pixels alone are a few percent of the area.
    tolerance = 0.01 + 1.5 * (1 / result.width + 1 / result.height)
    assert valid_area / outline.area == pytest.approx(valid_share, abs=tolerance)
    footprint = shapely.from_wkb(result.footprint_wkb)
    assert footprint.is_valid
    assert footprint.intersection(outline).area / footprint.area > 0.97 - tolerance


@pytest.mark.parametrize(("name", "film_type", "reason"), BAD, ids=[f"{Path(case[0]).stem}-{case[1]}" for case in BAD])
def test_unsuitable_raster_is_rejected(shared_data: Path, tmp_path: Path, name: str, film_type: FilmType, reason: str) -> None:
    with pytest.raises(FrameError) as caught:
        process_scan(shared_data / name, tmp_path, film_type)
    assert reason in str(caught.value)


def test_true_white_stays_valid(shared_data: Path, tmp_path: Path) -> None:
    """With `-a_nodata 256`, bright roofs and roads became transparent."""
    path = shared_data / "rasterio+rasterio" / "RGB.byte.tif"
    process_scan(path, tmp_path, "nc")
    deflate_tif = tmp_path / "deflate" / "RGB.byte.tif"
    with rasterio.open(deflate_tif) as dataset:
        red = dataset.read(1)
    assert ((red == 255) & read_mask(deflate_tif)).mean() > 0.01


def test_footprints_from_different_utm_zones_are_in_place(shared_data: Path, tmp_path: Path) -> None:
    """Two UTM zones in one survey: each footprint is where its image is."""
    for name in ("m_3211605_ne_11_060_20200415.tif", "m_4208701_ne_16_060_20200902.tif"):
        path = shared_data / "stactools-packages+naip" / name
        footprint = shapely.from_wkb(process_scan(path, tmp_path, "nc").footprint_wkb)
        outline = map_outline(path)
        assert footprint.centroid.distance(outline.centroid) < 0.01 * np.sqrt(outline.area)
