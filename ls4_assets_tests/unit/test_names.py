"""Names and keys: parity with the legacy naming code, the intentional differences, and the messages for invalid names."""

import json
import os
import re
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ls4_assets.domain.archive_file import read_archive_file
from ls4_assets.domain.key_parser import parse_collection_path, parse_georef_key
from ls4_assets.domain.links import build_links
from ls4_assets.domain.names import _EXPECTED_NAMES, _PATTERNS, Collection, Frame
from ls4_assets.domain.sidecars import SIDECARS, frame_stem, plain_suffix, sidecar_kind
from ls4_assets.errors import InvalidNameError
from ls4_assets_tests.platform import CHECKOUT

NAMING = read_archive_file(None).naming
SHARED = Path(os.environ.get("LS4_SHARED", Path(__file__).parents[2].parent / "shared"))
VECTORS = SHARED / "parity" / "parity_vectors.json"

# Keys that the legacy code handled wrongly, and what ls4 does instead (docs/reference/names.md).
DIFFERENT = {
    "bw/Travis/USDA_1958/frames/cog/02-0860_6-111.tif": "rejected: 02-0860 is not a date",
    "bw/Travis/USDA_1958/frames/cog/02-08-60_6-107.TIF": "frame 107, not 107.TIF; the output is lowercase",
    "bw/Travis/USDA_1958/mosaic/cog/travis.tif": "rejected: a mosaic must be named mosaic<NN>",
    "bw/Travis/USDA_1958/frames/cog/mosaic_6-107.tif": "rejected: the date is missing",
}


def parse_cog_key(cog_key: str) -> Frame:
    return parse_georef_key(cog_key.replace("/cog/", "/georef/"), NAMING)


@pytest.mark.skipif(not VECTORS.exists(), reason="the parity vectors are not next to the checkout")
def test_legacy_names_are_reproduced() -> None:
    compared = 0
    for row in json.loads(VECTORS.read_text()):
        if "error" in row or row["key"] in DIFFERENT:
            continue
        frame = parse_cog_key(row["key"])
        collection, attributes = frame.collection, frame.attributes
        links = build_links(frame, "https://cdn.tnris.org", scan_file=None)
        assert frame.cog_key == row["key"]
        assert f"/vsis3/tnris-ls4/{frame.cog_key}" == row["location"]
        assert (attributes.date, attributes.roll, attributes.frame_num) == (row["date"], row["roll"], row["frame_num"])
        assert (links.dl_orig, links.dl_georef, links.dl_index) == (row["dl_orig"], row["dl_georef"], row["dl_index"])
        assert collection.name == row["index_name"]
        assert collection.tile_index_key(frame.film_type, "") == row["shp_key"]
        assert (collection.table, collection.map_key) == (row["table"], row["map_key"])
        assert (collection.map_name, collection.title) == (row["map_name"], row["wms_title"])
        compared += 1
    assert compared == 13


@pytest.mark.parametrize(
    "key",
    [key for key, behavior in DIFFERENT.items() if behavior.startswith("rejected")]
    + ["bw/Travis/Tobin_1958/frames/cog/02-08-60_107.tif", "bw/Travis/USDA_1958/frames/cog/scan0001.tif"],
)
def test_names_that_the_legacy_code_misread_are_rejected(key: str) -> None:
    with pytest.raises(InvalidNameError, match="rename the file|correct the file"):
        parse_cog_key(key)


def test_uppercase_suffix_is_not_part_of_the_frame_number() -> None:
    frame = parse_cog_key("bw/Travis/USDA_1958/frames/cog/02-08-60_6-107.TIF")
    assert frame.attributes.frame_num == "107"
    assert frame.cog_key.endswith("/cog/02-08-60_6-107.tif")


def test_mission_uses_its_shard_as_the_agency() -> None:
    """The legacy code rejected all AMS and USGS missions, because it searched for the agency in the mission's name."""
    assert parse_cog_key("bw/AMS/M123/frames/cog/03-10-54_1234.tif").attributes.roll == "N/A"


@pytest.mark.parametrize(
    ("survey", "stem", "expected"),
    [("USDA_1958", "02-08-60_6-107", date(1960, 2, 8)), ("TxDOT_2004", "02-08-98_6-107", date(1998, 2, 8))],
)
def test_century_is_the_one_nearest_to_the_collection_year(survey: str, stem: str, expected: date) -> None:
    assert Frame(Collection("Travis", survey, "frames"), "bw", stem).attributes.acquired == expected


def test_mission_without_a_year_is_in_the_twentieth_century() -> None:
    assert Frame(Collection("USDA", "DLK", "frames"), "bw", "02-08-05_6-107").attributes.acquired == date(1905, 2, 8)


@pytest.mark.parametrize("stem", ["USDA_1958_1_400dpi_2", "USDA_1958_1_400dpi", "USDA_1958_1_2", "USDA_1958_1"])
def test_index_sheet_scan_omits_the_tile_and_keeps_the_dpi(stem: str) -> None:
    frame = Frame(Collection("Travis", "USDA_1958", "index"), "bw", stem)
    assert frame.scan_stem == ("USDA_1958_1_400dpi" if "dpi" in stem else "USDA_1958_1")
    assert frame.attributes.frame_num == "1"
    assert frame.attributes.acquired is None


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("rgb/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif", "move the file to nc/Travis"),
        ("bw/Travs/USDA_1958/frames/georef/02-08-60_6-107.tif", "did you mean Travis"),
        ("bw/travis/USDA_1958/frames/georef/02-08-60_6-107.tif", "did you mean Travis"),
        ("bw/Atlantis/USDA_1958/frames/georef/02-08-60_6-107.tif", "ask the operator"),
        ("bw/Travis/USDA1958/frames/georef/02-08-60_6-107.tif", "AGENCY_YYYY"),
        ("bw/Travis/USDA_1958/photos/georef/02-08-60_6-107.tif", "frames, index or mosaic"),
        ("bw/Travis/USDA_1958/frames/georef/13-45-60_6-107.tif", "MM-DD-YY"),
        ("bw/Travis/USDA_1958/frames/georef/02-08-60 6-107.tif", "02-08-60_6-107.tif"),
        ("bw/Travis/USDA_1958/frames/georef/fotografía.tif", "02-08-60_6-107.tif"),
        ("bw/Travis/USDA 1958/frames/georef/02-08-60_6-107.tif", "letters, digits"),
        ("bw/StratMap/1996/frames/georef/02-08-60_6-107.tif", "3_107_02-08-96.tif"),
        ("bw/Travis/USDA_1958/georef/02-08-60_6-107.tif", "move the file to such a folder"),
        (f"bw/USDA/{'X' * 60}/frames/georef/02-08-60_6-107.tif", "shorten"),
        ("02-08-60_6-107.tif", "bw .*nc .*cir"),
    ],
)
def test_rejection_says_what_to_do(key: str, advice: str) -> None:
    with pytest.raises(InvalidNameError, match=advice) as error:
        parse_georef_key(key, NAMING)
    assert str(error.value).endswith((".", "."))
    assert "\n" not in str(error.value)


def test_every_pattern_has_an_example_in_a_message_and_on_the_page() -> None:
    """A name that fits two patterns would have the attributes of the wrong one."""
    patterns = [pattern for of_type in _PATTERNS.values() for pattern in of_type]
    page = (CHECKOUT / "docs" / "reference" / "names.md").read_text().partition("## File names")[2].partition("\n## ")[0]
    messages = [text.partition(", for example ")[2] for text in _EXPECTED_NAMES.values()]
    rows = re.findall(r"`([^`<]+)` \|$", page, re.MULTILINE)
    for place, examples in (("_EXPECTED_NAMES", messages), ("the table of names.md", rows)):
        found = {example: [each for each in patterns if each.fullmatch(example.removesuffix(".tif"))] for example in examples}
        assert not [example for example, matching in found.items() if len(matching) != 1], (
            f"{place}: an example fits exactly one pattern"
        )
        assert {each for matching in found.values() for each in matching} == {*patterns}, f"{place} has no example of a pattern"


@given(
    st.sampled_from(["Travis", "VanZandt"]),
    st.from_regex(r"\A[A-Z]{2,5}_19[0-9]{2}\Z"),
    st.sampled_from(["bw", "nc"]),
    st.from_regex(r"\A0[1-9]-1[0-9]-[0-9]{2}_[0-9A-Z]{1,4}-[0-9A-Z]{1,4}\Z"),
)
def test_parsing_and_formatting_round_trip(shard: str, survey: str, film_type: str, stem: str) -> None:
    frame = parse_georef_key(f"{film_type}/{shard}/{survey}/frames/georef/{stem}.tif", NAMING)
    assert Frame.from_partition(shard, frame.partition) == frame
    assert Collection.from_partition(shard, frame.collection.partition) == frame.collection
    assert Frame.from_id(frame.id) == frame
    assert f"{frame.id}.tif" == f"{film_type}/{shard}/{survey}/frames/{stem}.tif"


@pytest.mark.parametrize(
    "suffix",
    [".tif", ".TIF", ".tiff", ".tiffw", ".TFW", ".tiff.aux.xml", ".TIF.msk", ".tiff.points", *(kind.suffix for kind in SIDECARS)],
)
def test_sidecars_belong_to_their_tif(suffix: str) -> None:
    assert frame_stem(f"bw/georef/02-08-60_6-107{suffix}") == "bw/georef/02-08-60_6-107"


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("x.TIFF", ".tif"),
        ("x.Tfw", ".tfw"),
        ("x.tiff.aux.xml", ".tif.aux.xml"),
        ("x.TIF.MSK", ".tif.msk"),
    ],
)
def test_spellings_of_a_suffix_are_one_kind(name: str, suffix: str) -> None:
    kind = sidecar_kind(name)
    assert (plain_suffix(name), kind.suffix if kind else ".tif") == (suffix, suffix)


@pytest.mark.parametrize("key", ["bw/georef/readme.txt", "bw/georef/02-08-60_6-107.ovr", "bw/georef/x.xml"])
def test_other_files_do_not_belong_to_a_frame(key: str) -> None:
    assert frame_stem(key) is None


def test_collection_path_that_an_operator_types_is_parsed() -> None:
    collection, film_type = parse_collection_path("bw/Travis/USDA_1958/frames/", NAMING)
    assert (collection.name, film_type) == ("Travis_USDA_1958_frames", "bw")
    with pytest.raises(InvalidNameError, match="did you mean Travis"):
        parse_collection_path("bw/Traviss/USDA_1958/frames", NAMING)


def test_default_shards_cover_the_whole_state() -> None:
    assert sum(kind == "county" for kind in NAMING.shards.values()) == 254
    assert NAMING.shards["StratMap"] == "program"
