"""Tests of `ls4 check`: the sentences of a rejection, a preview, and one bad file among good ones, without an archive."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from ls4_assets.errors import FrameError, InvalidNameError
from ls4_assets.operations.file_check import check_files, find_tifs
from ls4_assets.operations.file_report import FileReport
from ls4_assets.raster.source import Limits, open_source
from ls4_assets.settings import load_file_check_settings
from ls4_assets_tests.rasters import UTM_PLACE, photograph, rotated_rectangle, write_tif

TRAVIS: dict[str, Any] = {"crs": "EPSG:26914", "transform": Affine(2, 0, UTM_PLACE[0], 0, -2, UTM_PLACE[1])}
NO_GEOREFERENCE: dict[str, Any] = {"crs": None, "transform": Affine.identity()}
NAME = "02-08-60_6-107.tif"


@pytest.fixture(autouse=True)
def _no_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LS4_")]:
        monkeypatch.delenv(name)


def check(*paths: Path, **options: Any) -> dict[str, FileReport]:
    reports = check_files(find_tifs(paths), load_file_check_settings(), **options)
    return {Path(report.file).name: report for report in reports}


def pipeline_rejection(path: Path) -> str:
    with pytest.raises(FrameError) as caught:
        open_source(path, "bw", Limits())
    return str(caught.value)


def test_a_folder_is_checked_and_one_bad_file_stops_no_other(tmp_path: Path) -> None:
    scans, previews = tmp_path / "scans", tmp_path / "previews"
    (scans / "roll 7").mkdir(parents=True)
    inside = rotated_rectangle(300, 250)
    write_tif(scans / NAME, photograph(300, 250) * inside, **TRAVIS)
    write_tif(scans / "roll 7" / "02-08-60_7-1.TIF", photograph(300, 250, 3), **TRAVIS)
    cut = write_tif(scans / "02-08-60_6-108.tif", photograph(300, 250), compress="deflate", **TRAVIS)
    cut.write_bytes(cut.read_bytes()[:20_000])
    (scans / "02-08-60_6-109.tif").write_bytes(b"")
    (scans / "02-08-60_6-110.tif").write_bytes(b"JFIF")
    os.mkfifo(scans / "pipe.tif")
    (scans / "notes.txt").write_text("not a tif")
    before = sorted(scans.rglob("*"))
    reports = check(scans, previews=previews)
    assert {name: report.is_accepted for name, report in reports.items()} == {
        NAME: True, "02-08-60_7-1.TIF": True, "02-08-60_6-108.tif": False, "02-08-60_6-109.tif": False,
        "02-08-60_6-110.tif": False,
    }  # fmt: skip
    for name in ("02-08-60_6-109.tif", "02-08-60_6-110.tif"):
        assert reports[name].rejections == (pipeline_rejection(scans / name),)
    assert "truncated or corrupt" in reports["02-08-60_6-108.tif"].rejections[0]
    assert sorted(scans.rglob("*")) == before
    facts = reports[NAME].facts
    assert facts is not None
    assert (facts["film_type"], facts["crs"], facts["position"], facts["collar_rule"]) == (
        "bw",
        "EPSG:26914",
        "its header",
        "collar",
    )
    assert facts["collar_share"] == pytest.approx(1 - inside.mean(), abs=0.02)
    assert facts["center"] == pytest.approx([30.273018, -97.749821], abs=1e-4)
    assert facts["pixel_m"] == pytest.approx(2.0, abs=0.01)
    assert reports["02-08-60_7-1.TIF"].facts is not None and reports["02-08-60_7-1.TIF"].facts["film_type"] == "nc"
    assert {path.name for path in previews.iterdir()} == {"02-08-60_6-107.png", "02-08-60_7-1.png"}
    with rasterio.open(previews / "02-08-60_6-107.png") as picture:
        pixels = picture.read()
    assert max(pixels.shape) <= 512
    red = (pixels == np.array([220, 40, 40], np.uint8)[:, None, None]).all(axis=0)
    assert red[0, 0] and red.mean() == pytest.approx(1 - inside.mean(), abs=0.05)


@pytest.mark.parametrize("place", [TRAVIS, {}], ids=["reprojected", "in place"])
def test_the_collar_of_a_16_bit_scan_is_reported(tmp_path: Path, place: dict[str, Any]) -> None:
    """A 16-bit scan with a collar of 65535 was reported to have none: it was measured before its conversion to 8 bits."""
    inside = rotated_rectangle(300, 250)
    pixels: Any = np.where(inside, photograph(300, 250).astype(np.uint16) * 200, np.uint16(65535))
    facts = check(write_tif(tmp_path / NAME, pixels, **place))[NAME].facts
    assert facts is not None and facts["collar_rule"] == "collar"
    assert facts["collar_share"] == pytest.approx(1 - inside.mean(), abs=0.02)


def test_scans_are_checked_before_georeferencing(tmp_path: Path) -> None:
    """Everything else is checked, and the missing georeference is a rejection only when it should be there already."""
    write_tif(tmp_path / NAME, photograph(300, 250), **NO_GEOREFERENCE)
    cut = write_tif(tmp_path / "02-08-60_6-108.tif", photograph(300, 250), compress="deflate", **NO_GEOREFERENCE)
    cut.write_bytes(cut.read_bytes()[:20_000])
    missing = pipeline_rejection(tmp_path / NAME)
    report = check(tmp_path)[NAME]
    assert report.rejections == (missing,)
    assert report.facts is not None and report.facts["width_px"] == 250 and "center" not in report.facts
    reports = check(tmp_path, is_georeference_required=False)
    assert reports[NAME].is_accepted and reports[NAME].warnings == (missing,)
    assert "truncated or corrupt" in reports["02-08-60_6-108.tif"].rejections[0]


def test_sidecars_are_used_and_oversized_ones_rejected(tmp_path: Path) -> None:
    path = write_tif(tmp_path / NAME, photograph(300, 250), crs="EPSG:26914", transform=Affine.identity())
    path.with_suffix(".TFW").write_text(f"2\n0\n0\n-2\n{UTM_PLACE[0]}\n{UTM_PLACE[1]}\n")
    # Of another tif.
    (tmp_path / "02-08-60_6-1070.prj").write_text("x" * 2_000_000)
    facts = check(path)[NAME].facts
    assert facts is not None and facts["position"] == "02-08-60_6-107.tfw"
    path.with_suffix(".prj").write_text("x" * 2_000_000)
    assert "has a sidecar 02-08-60_6-107.prj of 2,000,000 bytes" in check(path)[NAME].rejections[0]


def test_place_and_name_are_compared_with_the_collection(tmp_path: Path) -> None:
    write_tif(tmp_path / NAME, photograph(300, 250), **TRAVIS)
    write_tif(tmp_path / "scan 12.tif", photograph(300, 250), **TRAVIS)
    anywhere, there = check(tmp_path), check(tmp_path, collection_path="bw/Travis/USDA_1958/frames")
    assert all(report.is_accepted for report in (*anywhere.values(), *there.values()))
    assert "not a valid name" in anywhere["scan 12.tif"].warnings[0] and not anywhere[NAME].warnings
    elsewhere = check(tmp_path, collection_path="bw/ElPaso/USDA_1958/frames")[NAME]
    assert "km from ElPaso" in elsewhere.rejections[0]
    wrong = write_tif(tmp_path / "02-08-60_6-1.tif", photograph(300, 250), **{**TRAVIS, "crs": "EPSG:32719"})
    assert "from the region of the archive" in check(wrong)[wrong.name].rejections[0]
    with pytest.raises(InvalidNameError):
        check(tmp_path, collection_path="bw/Nowhere/USDA_1958/frames")


def test_an_inaccurate_datum_transformation_is_a_warning(tmp_path: Path) -> None:
    path = write_tif(tmp_path / NAME, photograph(300, 250), **{**TRAVIS, "crs": "EPSG:26714"})
    (warning,) = check(path)[NAME].warnings
    assert "us_noaa_conus.tif" in warning and "accuracy 7 m" in warning


@pytest.mark.parametrize(("arguments", "status"), [(["good"], 0), (["good", "bad"], 1), (["empty"], 2), (["nowhere"], 2)])
def test_the_exit_status_is_for_scripts(tmp_path: Path, arguments: list[str], status: int) -> None:
    for folder in ("good", "bad", "empty"):
        (tmp_path / folder).mkdir()
    write_tif(tmp_path / "good" / NAME, photograph(300, 250), **TRAVIS)
    (tmp_path / "bad" / NAME).write_bytes(b"")
    argv = [str(Path(sys.executable).parent / "ls4"), "check", "--json", *arguments]
    result = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == status, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["rejections"] == [] for line in sorted(lines, key=lambda line: str(line["file"]))] == {
        0: [True], 1: [False, True], 2: []
    }[status]  # fmt: skip
