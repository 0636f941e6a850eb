"""Tests of the quality checks of a frame, and of the distance from its shard's region."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import rasterio.warp
import shapely

from ls4_assets.assets.frame_checks import COG_VALID, check_specs
from ls4_assets.domain.archive_file import SHIPPED, read_archive_file
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.regions import RegionBounds
from ls4_assets.domain.regions.distance import distance_km, footprint_center
from ls4_assets.errors import ConfigurationError
from ls4_assets.processing.quality import FrameQualityError, validate_frame
from ls4_assets.raster.fidelity import Fidelity
from ls4_assets.raster.frame import FrameResult

FRAME = Frame(Collection("Travis", "USDA_1958", "frames"), "bw", "02-08-60_6-107")
TEXAS = read_archive_file(None).region_bounds
AUSTIN, LUBBOCK, ROUND_ROCK = (-97.74, 30.27), (-101.85, 33.58), (-97.68, 30.51)


def footprint(longitude: float, latitude: float) -> bytes:
    """WKB of a square of 1 km in EPSG:3857 units."""
    (x,), (y,) = rasterio.warp.transform("EPSG:4326", "EPSG:3857", [longitude], [latitude])
    return bytes(shapely.MultiPolygon([shapely.box(x - 500, y - 500, x + 500, y + 500)]).wkb)


GOOD = FrameResult(
    film_type="bw", width=900, height=700, transform=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0), overview_levels=(2,),
    sizes={}, seconds={}, peak_mb={}, profile_hash={},
    cog_valid_share=0.75, fidelity=Fidelity(8, 0, 0, float("inf"), float("inf")), footprint_wkb=footprint(*AUSTIN),
)  # fmt: skip


def test_good_frame_passes_every_check() -> None:
    findings = validate_frame(FRAME, GOOD, TEXAS, 0.75)
    assert [finding.check for finding in findings] == ["layout", "pixels", "mask", "location", "name"]
    assert not any(finding.error for finding in findings)
    assert findings[3].measured == "in Travis (30.270, -97.740)"
    assert findings[4].measured == "date 02-08-60, roll 6, frame 107"


DEFECTS = {
    "layout": (replace(GOOD, cog_findings=("overview levels should be [2], found []",)), "overview levels should be"),
    "pixels": (replace(GOOD, fidelity=Fidelity(8, 3, 0, 41.0, float("inf"))), "differs from the scan in 3 of 8 blocks"),
    "pixels of a JPEG": (replace(GOOD, fidelity=Fidelity(8, 8, 0, 20.0, 29.5)), "the minimum is 29.5 dB"),
    "mask": (replace(GOOD, cog_valid_share=0.9), "90.00 % of the COG is photograph, 75.00 % of the scan"),
    "mask of a block": (replace(GOOD, fidelity=Fidelity(8, 0, 1, float("inf"), float("inf"))), "collar"),
    "location": (replace(GOOD, footprint_wkb=footprint(*LUBBOCK)), "km from Travis, at latitude 33.580 and longitude -101.850"),
}


@pytest.mark.parametrize("kind", DEFECTS)
def test_each_defect_is_rejected_with_advice(kind: str) -> None:
    result, message = DEFECTS[kind]
    with pytest.raises(FrameQualityError, match="02-08-60_6-107 failed validation: ") as caught:
        validate_frame(FRAME, result, TEXAS, 0.75)
    assert message in str(caught.value) and str(caught.value).endswith(".")
    assert any(advice in str(caught.value) for advice in ("report", "drop it again"))
    assert [finding.check for finding in caught.value.findings if finding.error] == [kind.split()[0]]


def test_every_check_has_a_defect_and_is_described() -> None:
    checks = [finding.check for finding in validate_frame(FRAME, GOOD, TEXAS, 0.75)]
    # Names are already checked when a file is dropped.
    assert {*checks} - {"name"} == {kind.split()[0] for kind in DEFECTS}, "add the defect that the check finds to DEFECTS"
    (description,) = [spec.description for spec in check_specs("Travis") if spec.name == COG_VALID]
    assert not [check for check in checks if check not in str(description)], "name the check in assets/frame_checks.py"


def test_jpeg_above_its_minimum_psnr_passes() -> None:
    validate_frame(FRAME, replace(GOOD, fidelity=Fidelity(8, 8, 0, 31.0, 29.5)), TEXAS, None)


def test_every_texas_county_has_an_outline() -> None:
    outlines = json.loads((SHIPPED / "outlines" / "texas.json").read_text())
    counties = {name for name, kind in read_archive_file(None).naming.shards.items() if kind == "county"}
    assert set(outlines) == counties
    state = shapely.union_all([shapely.Polygon(ring).buffer(0.011) for rings in outlines.values() for ring in rings])
    assert state.area == pytest.approx(65.5, rel=0.05), "square degrees"


@pytest.mark.parametrize(
    ("shard", "location", "min_km", "max_km"),
    [
        ("Travis", AUSTIN, 0, 0),
        ("Travis", ROUND_ROCK, 0.1, 10),
        ("Travis", LUBBOCK, 450, 550),
        ("Bexar", AUSTIN, 60, 110),
        ("ElPaso", (-106.45, 31.77), 0, 0),
        ("USDA", LUBBOCK, 0, 0),
        ("USDA", (-115.2, 36.1), 700, 820),
    ],
)
def test_distance_from_the_region_of_a_shard(shard: str, location: tuple[float, float], min_km: float, max_km: float) -> None:
    distance = distance_km(TEXAS, shard, footprint(*location))
    assert distance is not None and min_km <= distance <= max_km
    assert footprint_center(footprint(*location)) == pytest.approx(location, abs=1e-6)


def test_shards_of_another_archive_have_an_extent_or_no_region(tmp_path: Path) -> None:
    file = tmp_path / "archive.toml"
    file.write_text('county = ["Orange", "Kern"]\n[extents]\nKern = [-120.2, 34.8, -117.6, 35.8]\n')
    archive = read_archive_file(file)
    bounds = archive.region_bounds
    assert archive.naming.shards == {"Orange": "county", "Kern": "county"}
    assert distance_km(bounds, "Orange", footprint(*AUSTIN)) is None, (
        "Orange has no region here, not even that of Orange in Texas"
    )
    assert distance_km(bounds, "Kern", footprint(-119, 35.3)) == 0
    assert (distance_km(bounds, "Kern", footprint(*AUSTIN)) or 0) > 1000


@pytest.mark.parametrize("line", ['outlines = "utopia"', "extent = [1, 2, 3]", "[extents]\nKern = [-117.6, 34.8, -120.2, 35.8]"])
def test_invalid_regions_are_rejected(tmp_path: Path, line: str) -> None:
    file = tmp_path / "archive.toml"
    file.write_text(f'county = ["Kern"]\n{line}\n')
    with pytest.raises(ConfigurationError, match="ships with ls4: texas|write degrees"):
        read_archive_file(file)


def test_configured_extent_takes_precedence_over_the_outline() -> None:
    bounds = RegionBounds(TEXAS.outlines, None, {"Travis": (-102.0, 33.0, -101.0, 34.0)})
    assert distance_km(bounds, "Travis", footprint(*LUBBOCK)) == 0
