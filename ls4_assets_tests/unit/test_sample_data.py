"""The sample data covers every case that it is meant to cover, on one consistent terrain."""

import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.warp import reproject

from ls4_assets.domain.archive_file import read_archive_file
from ls4_assets.domain.key_parser import parse_georef_key
from ls4_assets.local.sample_data import BASTROP, TRAVIS, UTM, sample_views, write_sample_data
from ls4_assets.local.synthetic_terrain import TerrainSpec, render_terrain

FRAMES = "bw/Travis/USDA_1958/frames/georef"


@pytest.fixture(scope="module")
def sample_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return dict(write_sample_data(tmp_path_factory.mktemp("sample_files")))


def _tifs(sample_files: dict[str, Path], stage: str) -> dict[str, Path]:
    return {key: path for key, path in sample_files.items() if f"/{stage}/" in key and key.endswith(".tif")}


def test_every_key_follows_the_grammar_of_the_archive(sample_files: dict[str, Path]) -> None:
    naming = read_archive_file(None).naming
    for key in _tifs(sample_files, "georef"):
        parse_georef_key(key, naming)


def test_sample_data_has_both_film_types_all_frame_types_and_several_crss(sample_files: dict[str, Path]) -> None:
    crss: dict[str, set[int | None]] = {}
    for key, path in _tifs(sample_files, "georef").items():
        collection = key.split("/georef/")[0]
        with rasterio.open(path) as tif:
            assert tif.count == (1 if key.startswith("bw/") else 3), key
            file_crs = tif.crs or CRS.from_wkt(path.with_suffix(".prj").read_text())
        crss.setdefault(collection, set()).add(file_crs.to_epsg())
    assert crss.keys() == {
        "bw/Travis/USDA_1958/frames",
        "bw/Travis/USDA_1958/index",
        "bw/Travis/USDA_1958/mosaic",
        "nc/Bastrop/TxDOT_1996/frames",
    }
    assert crss["bw/Travis/USDA_1958/frames"] == {26914, 2277, 3857, 4326}
    assert len(crss["nc/Bastrop/TxDOT_1996/frames"]) >= 4


def test_every_collar_type_occurs(sample_files: dict[str, Path]) -> None:
    kinds = set()
    for path in (sample_files[f"{FRAMES}/{exposure.name}.tif"] for exposure in TRAVIS.exposures):
        with rasterio.open(path) as tif:
            corner = tif.read(1)[0, 0]
            flags = tif.mask_flag_enums[0]
            if MaskFlags.nodata in flags:
                assert tif.nodata == corner == 0
                kinds.add("nodata")
            elif MaskFlags.per_dataset in flags:
                assert tif.dataset_mask()[0, 0] == 0
                kinds.add("mask")
            elif tif.crs is None:
                kinds.add("worldfile")
            elif tif.transform.b:
                assert corner > 0, "a rotated geotransform needs no collar"
                kinds.add("rotated")
            else:
                assert corner == 0
                kinds.add("undeclared")
    assert kinds == {"nodata", "mask", "worldfile", "rotated", "undeclared"}


def test_world_file_comes_before_its_tif(sample_files: dict[str, Path]) -> None:
    order = list(sample_files)
    for key in order:
        if key.endswith(".tfw"):
            assert order.index(key) < order.index(key.replace(".tfw", ".tif"))
            assert key.replace(".tfw", ".prj") in order


def test_overlapping_frames_show_the_same_terrain(sample_files: dict[str, Path]) -> None:
    """Neighbors in different CRSs, one georeferenced by its world file, agree where they overlap."""
    views = [_on_common_grid(sample_files[f"{FRAMES}/02-08-58_6-{number}.tif"]) for number in (106, 107, 108)]
    for left, right in ((views[0], views[1]), (views[1], views[2])):
        overlap = (left > 0) & (right > 0)
        assert overlap.sum() > 10_000
        assert np.corrcoef(left[overlap], right[overlap])[0, 1] > 0.95


def test_frame_has_a_raw_scan_with_film_around_it(sample_files: dict[str, Path]) -> None:
    for key in _tifs(sample_files, "georef"):
        if "/mosaic/" not in key:
            assert key.replace("/georef/", "/scanned/") in sample_files
    with rasterio.open(sample_files[f"{FRAMES}/02-08-58_6-104.tif".replace("georef", "scanned")]) as scan:
        assert scan.crs is None
        assert scan.width == scan.height > TRAVIS.side_px


def test_mosaic_covers_the_view_that_the_demonstration_checks(sample_files: dict[str, Path]) -> None:
    west, south, east, north = sample_views()["Travis_USDA_1958_mosaic"]
    with rasterio.open(sample_files["bw/Travis/USDA_1958/mosaic/georef/mosaic01.tif"]) as mosaic:
        window = mosaic.window(west, south, east, north)
        assert mosaic.read_masks(1, window=window).mean() > 0.95 * 255


def test_terrain_depends_only_on_its_seed() -> None:
    spec = TerrainSpec(300, 400, 5, "loam", 20, 8, 0.5, (0.5, 0.3))
    terrain = render_terrain(spec)
    assert terrain.shape == (3, 300, 400)
    assert np.array_equal(terrain, render_terrain(spec))
    assert 20 < terrain.mean() < 220
    assert terrain.std() > 15


def _on_common_grid(path: Path) -> NDArray[np.float64]:
    """A frame at 8 m on the UTM grid around its collection's center; 0 outside the frame."""
    east, north = TRAVIS.center
    grid = rasterio.transform.from_origin(east - 3200, north + 2000, 8, 8)
    view = np.zeros((500, 800), np.uint8)
    with rasterio.open(path) as tif:
        crs = tif.crs or CRS.from_wkt(path.with_suffix(".prj").read_text())
        reproject(
            tif.read(1, masked=True).filled(0),
            view,
            src_transform=tif.transform,
            src_crs=crs,
            src_nodata=0,
            dst_transform=grid,
            dst_crs=UTM,
            dst_nodata=0,
            resampling=rasterio.enums.Resampling.average,
        )
    return view.astype(np.float64)


def test_photographs_stay_inside_their_terrain() -> None:
    """A photograph that extends past the edge of the terrain would repeat the edge pixels."""
    for sample in (TRAVIS, BASTROP):
        for exposure in sample.exposures:
            crab = math.radians(abs(exposure.crab))
            half = sample.side_px * sample.pixel_meters / 2 * (math.cos(crab) + math.sin(crab))
            assert abs(exposure.east) + half < sample.terrain.width * sample.pixel_meters / 2
            assert abs(exposure.north) + half < sample.terrain.height * sample.pixel_meters / 2
