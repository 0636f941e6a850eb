"""Tests of the steps of a frame: equal products together or one by one, and the fields of the result."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

from ls4_assets.domain.film_types import FilmType
from ls4_assets.domain.products import PRODUCTS, STEPS
from ls4_assets.domain.profiles import PROFILES
from ls4_assets.errors import FrameError
from ls4_assets.raster.frame import FrameResult, process, product_path
from ls4_assets.raster.source import Limits
from ls4_assets_tests.rasters import BW, NC, photograph, rotated_rectangle, write_tif


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_tif(tmp_path / "02-08-60_6-107.tif", photograph(700, 900) * rotated_rectangle(700, 900))


def products(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_result_fields(tmp_path: Path, scan: Path) -> None:
    result = process(scan, tmp_path / "work", "f", "bw", BW, Limits(), source_sha256="ab12")
    assert (result.width, result.height, result.source_width, result.source_height) == (900, 700, 900, 700)
    assert (result.source_crs, result.warped, result.cog_method) == ("EPSG:3857", False, "assembled")
    assert result.overview_levels == (2,)
    assert result.valid_share == pytest.approx(rotated_rectangle(700, 900).mean())
    assert set(result.seconds) == set(result.peak_mb) == set(result.sizes) == set(result.profile_hash) == set(STEPS)
    assert result.sizes["cog"] == (tmp_path / "work" / "cog" / "f.tif").stat().st_size
    assert result.profile_hash["cog"] == BW.hash("cog")
    assert all(20 < megabytes < 20_000 for megabytes in result.peak_mb.values())
    assert result.footprint_wkb is not None and shapely.from_wkb(result.footprint_wkb).geom_type == "MultiPolygon"
    assert product_path(tmp_path / "work", "f", "thumbnail").read_bytes()[8:12] == b"WEBP"


@pytest.mark.parametrize("film_type", ["bw", "nc"])
def test_single_steps_write_the_same_products_as_all_steps(tmp_path: Path, film_type: FilmType) -> None:
    pixels = photograph(700, 900, PROFILES[film_type].bands) * rotated_rectangle(700, 900)
    source = write_tif(tmp_path / "a.tif", pixels)
    process(source, tmp_path / "together", "f", film_type, PROFILES[film_type], Limits())
    for step in STEPS:
        process(source if step == "deflate" else None, tmp_path / "apart", "f", film_type, PROFILES[film_type], Limits(), [step])
    assert set(products(tmp_path / "together")) == {product.work_file.format(stem="f") for product in PRODUCTS}
    assert products(tmp_path / "together") == products(tmp_path / "apart")


def test_products_are_reproducible(tmp_path: Path, scan: Path) -> None:
    for name in ("first", "second"):
        process(scan, tmp_path / name, "f", "bw", BW, Limits(), source_sha256="ab12")
    assert products(tmp_path / "first") == products(tmp_path / "second")


@pytest.mark.parametrize("film_type", ["bw", "nc"])
def test_tags_are_in_the_products_and_change_neither_pixels_nor_hashes(tmp_path: Path, film_type: FilmType) -> None:
    """A downloaded COG named neither its license nor whom to credit."""
    source, profile = write_tif(tmp_path / "a.tif", photograph(700, 900, PROFILES[film_type].bands)), PROFILES[film_type]
    tags = {"TIFFTAG_COPYRIGHT": "Public domain", "TIFFTAG_ARTIST": "Söhne", "CITATION": "Söhne (1958)."}
    plain = process(source, tmp_path / "plain", "f", film_type, profile, Limits())
    tagged = process(source, tmp_path / "tagged", "f", film_type, profile, Limits(), tags=tags)
    assert tagged.profile_hash == plain.profile_hash and tagged.cog_findings == ()
    with (
        rasterio.open(tmp_path / "tagged" / "cog" / "f.tif") as cog,
        rasterio.open(tmp_path / "plain" / "cog" / "f.tif") as other,
    ):
        assert {name: cog.tags().get(name) for name in tags} == tags and not set(tags) & set(other.tags())
        assert np.array_equal(cog.read(), other.read()) and cog.overviews(1) == other.overviews(1)


def test_result_contains_requested_steps_only(tmp_path: Path, scan: Path) -> None:
    result = process(scan, tmp_path / "work", "f", "bw", BW, Limits(), ["deflate"])
    assert list(result.seconds) == ["deflate"]
    assert (result.cog_method, result.footprint_wkb) == (None, None)
    assert set(products(tmp_path / "work")) == {"deflate/f.tif"}


@pytest.mark.parametrize("steps", [["overviews"], ["cog"], ["deflate", "cog"]])
def test_missing_upstream_product_raises_value_error(tmp_path: Path, scan: Path, steps: list[str]) -> None:
    with pytest.raises(ValueError, match="fetch it"):
        process(scan, tmp_path, "f", "bw", BW, Limits(), steps)  # type: ignore[arg-type]


def test_deflate_needs_a_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pass its path"):
        process(None, tmp_path, "f", "bw", BW, Limits())


def test_empty_steps_raise_value_error(tmp_path: Path, scan: Path) -> None:
    with pytest.raises(ValueError, match="request at least one of"):
        process(scan, tmp_path, "f", "bw", BW, Limits(), [])


def test_result_contains_findings_of_an_invalid_cog(tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ls4_assets.raster.frame.check_cog", lambda *_: ["overview levels should be [2], found []"])
    result = process(scan, tmp_path, "f", "bw", BW, Limits())
    assert result.cog_findings == ("overview levels should be [2], found []",)


def test_rejected_frame_leaves_no_files(tmp_path: Path) -> None:
    scan = write_tif(tmp_path / "a.tif", np.full((1, 600, 600), 3, np.uint8), nodata=3)
    with pytest.raises(FrameError):
        process(scan, tmp_path / "work", "f", "bw", BW, Limits())
    assert [path for path in (tmp_path / "work").rglob("*") if path.is_file()] == []


def _process_nc(source: Path, workdir: Path) -> FrameResult:
    return process(source, workdir, "f", "nc", NC, Limits())


def test_frames_in_a_pool_of_processes(tmp_path: Path) -> None:
    scans = [write_tif(tmp_path / f"{n}.tif", photograph(600, 700, 3, seed=n)) for n in range(4)]
    with ProcessPoolExecutor(2) as pool:
        results = list(pool.map(_process_nc, scans, [tmp_path / f"work{n}" for n in range(4)]))
    assert all(result.cog_method == "driver" for result in results)
    assert len({(tmp_path / f"work{n}" / "cog" / "f.tif").read_bytes() for n in range(4)}) == 4
