"""What keeps a frame off the map, and what is said of it; and where its shard's photographs may lie."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import rasterio.warp
import shapely

from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.regions import RegionBounds
from ls4_assets.domain.regions.distance import kilometres_off, middle
from ls4_assets.errors import ConfigurationError
from ls4_assets.processing.quality import FrameQualityError, validate_frame
from ls4_assets.raster.fidelity import Fidelity
from ls4_assets.raster.frame import FrameResult
from ls4_assets.settings import read_region_bounds, read_shards

FRAME = Frame(Collection("Travis", "USDA_1958", "frames"), "bw", "02-08-60_6-107")
TEXAS = read_region_bounds(None)
AUSTIN, LUBBOCK, ROUND_ROCK = (-97.74, 30.27), (-101.85, 33.58), (-97.68, 30.51)


def footprint(longitude: float, latitude: float) -> bytes:
    """A square kilometre, more or less, in EPSG:3857."""
    (x,), (y,) = rasterio.warp.transform("EPSG:4326", "EPSG:3857", [longitude], [latitude])
    return shapely.MultiPolygon([shapely.box(x - 500, y - 500, x + 500, y + 500)]).wkb


GOOD = FrameResult(
    film_type="bw", width=900, height=700, transform=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0), overview_levels=(2,),
    sizes={}, seconds={}, peak_mb={}, profile_hash={},
    cog_valid_share=0.75, fidelity=Fidelity(8, 0, 0, float("inf"), float("inf")), footprint_wkb=footprint(*AUSTIN),
)  # fmt: skip


def test_a_good_frame_has_a_finding_of_each_kind_and_nothing_wrong() -> None:
    findings = validate_frame(FRAME, GOOD, TEXAS, 0.75)
    assert [finding.what for finding in findings] == ["layout", "pixels", "mask", "place", "name"]
    assert not any(finding.wrong for finding in findings)
    assert findings[3].found == "in Travis (30.270, -97.740)"
    assert findings[4].found == "date 02-08-60, roll 6, frame 107"


WRONG = {
    "layout": (replace(GOOD, cog_findings=("overview levels should be [2], found []",)), "overview levels should be"),
    "pixels": (replace(GOOD, fidelity=Fidelity(8, 3, 0, 41.0, float("inf"))), "differs from the scan in 3 of 8 blocks"),
    "pixels of a JPEG": (replace(GOOD, fidelity=Fidelity(8, 8, 0, 20.0, 29.5)), "29.5 dB are asked for"),
    "mask": (replace(GOOD, cog_valid_share=0.9), "90.00 % of the COG are photograph, 75.00 % of the scan"),
    "mask of a block": (replace(GOOD, fidelity=Fidelity(8, 0, 1, float("inf"), float("inf"))), "collar"),
    "place": (replace(GOOD, footprint_wkb=footprint(*LUBBOCK)), "km from Travis, at latitude 33.580 and longitude -101.850"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_each_fault_is_told_in_one_sentence_that_ends_with_what_to_do(kind: str) -> None:
    result, said = WRONG[kind]
    with pytest.raises(FrameQualityError, match="02-08-60_6-107 is not as it should be: ") as caught:
        validate_frame(FRAME, result, TEXAS, 0.75)
    assert said in str(caught.value) and str(caught.value).endswith(".")
    assert any(advice in str(caught.value) for advice in ("report", "drop it again"))
    assert [finding.what for finding in caught.value.findings if finding.wrong] == [kind.split()[0]]


def test_a_jpeg_within_its_promise_is_right() -> None:
    validate_frame(FRAME, replace(GOOD, fidelity=Fidelity(8, 8, 0, 31.0, 29.5)), TEXAS, None)


def test_texas_has_an_outline_for_each_of_its_counties() -> None:
    outlines = json.loads((files("ls4_assets.domain.regions") / "texas.json").read_text())
    counties = {name for name, kind in read_shards(None).items() if kind == "county"}
    assert set(outlines) == counties
    whole = shapely.union_all([shapely.Polygon(ring).buffer(0.011) for rings in outlines.values() for ring in rings])
    assert whole.area == pytest.approx(65.5, rel=0.05), "square degrees"


@pytest.mark.parametrize(
    ("shard", "place", "low", "high"),
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
def test_distance_from_the_ground_of_a_shard(shard: str, place: tuple[float, float], low: float, high: float) -> None:
    off = kilometres_off(TEXAS, shard, footprint(*place))
    assert off is not None and low <= off <= high
    assert middle(footprint(*place)) == pytest.approx(place, abs=1e-6)


def test_another_archive_s_shards_have_an_extent_or_none(tmp_path: Path) -> None:
    file = tmp_path / "shards.toml"
    file.write_text('county = ["Orange", "Kern"]\n[extents]\nKern = [-120.2, 34.8, -117.6, 35.8]\n')
    ground = read_region_bounds(file)
    assert read_shards(file) == {"Orange": "county", "Kern": "county"}
    assert kilometres_off(ground, "Orange", footprint(*AUSTIN)) is None, "nothing is known of Orange, not even Texas's Orange"
    assert kilometres_off(ground, "Kern", footprint(-119, 35.3)) == 0
    assert (kilometres_off(ground, "Kern", footprint(*AUSTIN)) or 0) > 1000


@pytest.mark.parametrize("wrong", ['outlines = "utopia"', "extent = [1, 2, 3]", "[extents]\nKern = [-117.6, 34.8, -120.2, 35.8]"])
def test_a_wrong_ground_is_told(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "shards.toml"
    file.write_text(f'county = ["Kern"]\n{wrong}\n')
    with pytest.raises(ConfigurationError, match="use texas|write degrees"):
        read_region_bounds(file)


def test_ground_of_a_shard_of_one_s_own_goes_before_the_outline() -> None:
    own = RegionBounds("texas", None, {"Travis": (-102.0, 33.0, -101.0, 34.0)})
    assert kilometres_off(own, "Travis", footprint(*LUBBOCK)) == 0
