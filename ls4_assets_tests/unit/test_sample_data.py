"""The sample survey shows every trait that it is there to show, on one consistent piece of ground."""

import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.warp import reproject

from ls4_assets.domain.names import Shards, parse_georef_key
from ls4_assets.local.sample_data import BASTROP, TRAVIS, UTM, make_survey, sample_views
from ls4_assets.local.synthetic_terrain import Plan, make_ground
from ls4_assets.settings import read_shards

FRAMES = "bw/Travis/USDA_1958/frames/georef"


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return dict(make_survey(tmp_path_factory.mktemp("survey")))


def _tifs(survey: dict[str, Path], stage: str) -> dict[str, Path]:
    return {key: path for key, path in survey.items() if f"/{stage}/" in key and key.endswith(".tif")}


def test_every_name_follows_the_archives_grammar(survey: dict[str, Path]) -> None:
    shards: Shards = read_shards(None)
    for key in _tifs(survey, "georef"):
        parse_georef_key(key, shards)


def test_both_bands_all_types_and_several_crss(survey: dict[str, Path]) -> None:
    crss: dict[str, set[int | None]] = {}
    for key, path in _tifs(survey, "georef").items():
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


def test_every_kind_of_collar_occurs(survey: dict[str, Path]) -> None:
    kinds = set()
    for path in (survey[f"{FRAMES}/{shot.name}.tif"] for shot in TRAVIS.exposures):
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


def test_a_world_file_comes_before_its_tif(survey: dict[str, Path]) -> None:
    order = list(survey)
    for key in order:
        if key.endswith(".tfw"):
            assert order.index(key) < order.index(key.replace(".tfw", ".tif"))
            assert key.replace(".tfw", ".prj") in order


def test_overlapping_frames_show_the_same_ground(survey: dict[str, Path]) -> None:
    """Neighbours in different CRSs, one placed by its world file, agree where they overlap."""
    views = [_on_common_grid(survey[f"{FRAMES}/02-08-58_6-{number}.tif"]) for number in (106, 107, 108)]
    for one, other in ((views[0], views[1]), (views[1], views[2])):
        both = (one > 0) & (other > 0)
        assert both.sum() > 10_000
        assert np.corrcoef(one[both], other[both])[0, 1] > 0.95


def test_a_frame_has_a_raw_scan_with_film_around_it(survey: dict[str, Path]) -> None:
    for key in _tifs(survey, "georef"):
        if "/mosaic/" not in key:
            assert key.replace("/georef/", "/scanned/") in survey
    with rasterio.open(survey[f"{FRAMES}/02-08-58_6-104.tif".replace("georef", "scanned")]) as scan:
        assert scan.crs is None
        assert scan.width == scan.height > TRAVIS.side


def test_the_views_that_the_demonstration_checks_are_covered(survey: dict[str, Path]) -> None:
    west, south, east, north = sample_views()["Travis_USDA_1958_mosaic"]
    with rasterio.open(survey["bw/Travis/USDA_1958/mosaic/georef/mosaic01.tif"]) as mosaic:
        window = mosaic.window(west, south, east, north)
        assert mosaic.read_masks(1, window=window).mean() > 0.95 * 255


def test_the_ground_depends_on_its_seed_only() -> None:
    plan = Plan(300, 400, 5, "loam", 20, 8, 0.5, (0.5, 0.3))
    ground = make_ground(plan)
    assert ground.shape == (3, 300, 400)
    assert np.array_equal(ground, make_ground(plan))
    assert 20 < ground.mean() < 220
    assert ground.std() > 15


def _on_common_grid(path: Path) -> NDArray[np.float64]:
    """A frame at 8 m on the UTM grid around its collection's centre; 0 where it has nothing."""
    east, north = TRAVIS.centre
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


def test_both_collections_fit_on_their_ground() -> None:
    """A photograph that reached over the ground's edge would repeat its last pixels."""
    for county in (TRAVIS, BASTROP):
        for shot in county.exposures:
            crab = math.radians(abs(shot.crab))
            half = county.side * county.metres / 2 * (math.cos(crab) + math.sin(crab))
            assert abs(shot.east) + half < county.plan.width * county.metres / 2
            assert abs(shot.north) + half < county.plan.height * county.metres / 2
