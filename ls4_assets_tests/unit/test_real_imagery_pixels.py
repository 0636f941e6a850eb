"""Real rasters end as their traits demand: where to find them is said in `shared_data` of conftest."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.warp import transform_geom
from shapely.geometry import mapping, shape

from ls4_assets.domain.names import FilmType
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
]
"""File, band, CRS, and valid pixels as a share of the image's own corners."""

BAD: list[tuple[str, FilmType, str]] = [
    ("linz+topo-imagery/empty.tiff", "bw", "no valid pixel"),
    ("rasterio+rasterio/rotated.tif", "bw", ".prj"),
    ("rasterio+rasterio/all-nodata.tif", "nc", "uint16"),
    ("friedrichknuth+hipp/T.tif", "bw", "no georeference"),
    ("stac-utils+stactools/LC08_L1TP_198029_20220331_20220406_02_T1_B2.TIF", "bw", "uint16"),
    ("stac-utils+titiler-pgstac/20200307aC0853900w361030n.tif", "bw", "under nc/"),
    ("linz+topo-imagery/input_hi.tif", "nc", "under bw/"),
]


def corners_on_the_map(path: Path) -> shapely.Geometry:
    with rasterio.open(path) as dataset:
        corners = [(0, 0), (dataset.width, 0), (dataset.width, dataset.height), (0, dataset.height)]
        outline = shapely.Polygon([dataset.transform @ corner for corner in corners])
        return shape(transform_geom(dataset.crs, "EPSG:3857", mapping(outline)))


def process_here(path: Path, folder: Path, band: FilmType) -> FrameResult:
    return process(path, folder, path.stem, band, PROFILES[band], Limits())


@pytest.mark.parametrize(("name", "band", "crs", "outline"), GOOD, ids=[Path(case[0]).stem for case in GOOD])
def test_real_frame(shared_data: Path, tmp_path: Path, name: str, band: FilmType, crs: str, outline: float) -> None:
    path = shared_data / name
    result = process_here(path, tmp_path, band)
    assert (result.source_crs, result.warped) == (crs, True)
    corners = corners_on_the_map(path)
    cog = tmp_path / "cog" / f"{path.stem}.tif"
    with rasterio.open(cog) as dataset:
        assert dataset.count == PROFILES[band].bands
        valid_area = read_mask(cog).sum() * dataset.transform.a**2
    # Small images: the edge pixels alone are some percent of the area.
    tolerance = 0.01 + 1.5 * (1 / result.width + 1 / result.height)
    assert valid_area / corners.area == pytest.approx(outline, abs=tolerance)
    found = shapely.from_wkb(result.footprint_wkb)
    assert found.is_valid
    assert found.intersection(corners).area / found.area > 0.97 - tolerance


@pytest.mark.parametrize(("name", "band", "reason"), BAD, ids=[f"{Path(case[0]).stem}-{case[1]}" for case in BAD])
def test_real_rejection(shared_data: Path, tmp_path: Path, name: str, band: FilmType, reason: str) -> None:
    with pytest.raises(FrameError) as caught:
        process_here(shared_data / name, tmp_path, band)
    assert reason in str(caught.value)


def test_true_white_of_a_real_photograph_stays(shared_data: Path, tmp_path: Path) -> None:
    """The symptom of `-a_nodata 256`: bright roofs and roads turned transparent."""
    path = shared_data / "rasterio+rasterio" / "RGB.byte.tif"
    process_here(path, tmp_path, "nc")
    deflate_tif = tmp_path / "deflate" / "RGB.byte.tif"
    with rasterio.open(deflate_tif) as dataset:
        red = dataset.read(1)
    assert ((red == 255) & read_mask(deflate_tif)).mean() > 0.01


def test_mixed_source_systems_meet_on_one_map(shared_data: Path, tmp_path: Path) -> None:
    """Two zones of one survey: each footprint lies where its own image does."""
    for name in ("m_3211605_ne_11_060_20200415.tif", "m_4208701_ne_16_060_20200902.tif"):
        path = shared_data / "stactools-packages+naip" / name
        found = shapely.from_wkb(process_here(path, tmp_path, "nc").footprint_wkb)
        corners = corners_on_the_map(path)
        assert found.centroid.distance(corners.centroid) < 0.01 * np.sqrt(corners.area)
