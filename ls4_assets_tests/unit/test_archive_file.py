"""The archive file: the shipped one publishes what it always has, a wrong one is rejected, and nothing of it is in the code."""

import json
import re
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ls4_assets.domain.archive_file import DEFAULT_FILE, read_archive_file
from ls4_assets.domain.contact import Contact
from ls4_assets.errors import ConfigurationError
from ls4_assets_tests.platform import CHECKOUT
from mapserver import statewide_map
from mapserver.archive_page import install_archive_page
from mapserver.mapfile import MapfileContext, render

PUBLISHED = Path(__file__).parent / "texas"
VALLEY = CHECKOUT / "ls4_assets_tests" / "valley" / "archive.toml"
CONTACT = Contact("A", "B", "C", "a@b.org", "1", "2", "D", "E", "TX", "78701", "USA")
MAP = MapfileContext(
    "Travis_USDA_1958_frames",
    "TRAVISUSDA1958FRAMES",
    "Travis Usda 1958 Frames",
    "travis_usda_1958_frames",
    (-10880000.0, 3530000.0, -10870000.0, 3540000.1234),
    read_archive_file(None).capabilities,
)


def test_shipped_archive_publishes_the_same_bytes_as_before_it_had_a_file() -> None:
    """The texts in `texas/` were rendered when the strings were still in the code; published maps depend on them."""
    with_contact = replace(MAP, capabilities=replace(MAP.capabilities, contact=CONTACT), overview_resolution=9.554628535647032)
    rendered = {
        "collection.map": render(MAP),
        "collection_with_contact.map": render(with_contact),
        **statewide_map.render_documents("ls4", read_archive_file(None)),
    }
    assert rendered.keys() == {path.name for path in PUBLISHED.iterdir()}
    for name, text in rendered.items():
        assert text == (PUBLISHED / name).read_text(), name


def test_every_value_of_a_file_is_read() -> None:
    archive = read_archive_file(VALLEY)
    assert (archive.title, archive.organization) == ("Photographs of the Valley", "Valley Institute")
    assert archive.assumed_datums == (4248,)
    assert archive.naming.shards["RioClaro"] == "county" and archive.naming.shards["Cadastre"] == "program"
    assert archive.naming.agencies_without_rolls == {"IGM"}
    capabilities = archive.capabilities
    assert capabilities.srs == "EPSG:3857 EPSG:4326 EPSG:32719 EPSG:5361"
    assert capabilities.contact and capabilities.contact.organization == "Valley Institute"
    assert archive.region_bounds.rings("RioClaro") == [[(-71, -34), (-70, -34), (-70, -33), (-71, -33), (-71, -34)]]
    assert archive.region_bounds.rings("Norte") == [[(-71, -33), (-70, -33), (-70, -32), (-71, -32), (-71, -33)]]
    assert archive.region_bounds.rings("SAF") == [[(-72, -35), (-69, -35), (-69, -32), (-72, -32), (-72, -35)]]


def test_example_of_the_documentation_is_valid_and_shows_every_key(tmp_path: Path) -> None:
    page = (CHECKOUT / "docs" / "reference" / "settings.md").read_text().partition("## The archive file")[2]
    lines = page.partition("```toml\n")[2].partition("```")[0]
    for name in ("outlines.geojson", "base_map.geojson", "places.csv"):
        (tmp_path / name).write_bytes((VALLEY.parent / name).read_bytes())
    read_archive_file(write(tmp_path, lines))
    assert flatten(tomllib.loads(lines)) == flatten(tomllib.loads(VALLEY.read_text()))


def flatten(table: dict[str, Any]) -> set[str]:
    """The keys of a table and of the tables in it."""
    return {*table, *(f"{name}.{key}" for name, value in table.items() if isinstance(value, dict) for key in value)}


def test_smallest_file_has_shards_and_defaults(tmp_path: Path) -> None:
    archive = read_archive_file(write(tmp_path, 'agency = ["NASA"]'))
    assert archive.capabilities.epsg_codes == (3857, 4326) and archive.capabilities.contact is None
    assert archive.naming.example == "bw/NASA/1958/frames"
    assert archive.page.base_map is None and archive.region_bounds.rings("NASA") is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "no shards"),
        ("county = [", "cannot be read"),
        ('county = "Kern"', "county must be a list"),
        ('county = ["St. Croix"]', "letters and digits; correct St. Croix"),
        ('county = ["Kern"]\nagency = ["Kern"]', "Kern is listed twice"),
        ('county = ["Kern"]\ncolor = 1', "color is not a key of an archive file"),
        ('county = ["Kern"]\ntitle = 7', "title must be a text"),
        ('county = ["Kern"]\nlicense = "https://a.org"', "license must not contain an address.*license_url"),
        ('county = ["Kern"]\nlicense_url = "CC0"', "license_url must be an address"),
        ('county = ["Kern"]\nexample = "bw/Adams/USDA_1958/frames"', "example is not a collection of this archive.*Adams"),
        ('county = ["Kern"]\nextent = [2, 1, 1, 2]', "extent = .* is not an extent; write degrees"),
        ('county = ["Kern"]\n[extents]\nAdams = [0, 0, 1, 1]', "Adams is not a shard"),
        ('county = ["Kern"]\nassumed_datums = 4267', "must be a list of EPSG codes"),
        ('county = ["Kern"]\n[services]\nepsg = [4326]', "must contain 3857"),
        ('county = ["Kern"]\n[services]\nepsg = ["EPSG:3857"]', "must be a list of EPSG codes"),
        ('county = ["Kern"]\n[services]\nsrs = [3857]', r"\[services\] srs is not a key"),
        ('county = ["Kern"]\n[contact]\nperson = "A"', r"\[contact\] position.* is missing"),
        ('county = ["Kern"]\n[page]\nbase_map = "none.json"', "base_map = 'none.json' is not a file.*texas"),
        ('county = ["Kern"]\n[page]\nbase_map = "archive.toml"', "neither TopoJSON nor GeoJSON"),
        ('county = ["Kern"]\noutlines = "archive.toml"', "outlines cannot be read"),
    ],
)
def test_wrong_file_is_rejected_with_its_name_and_advice(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_archive_file(write(tmp_path, lines))
    assert str(tmp_path) in str(caught.value) and str(caught.value).endswith(".")


def test_contact_needs_the_organization(tmp_path: Path) -> None:
    lines = VALLEY.read_text().replace('organization = "Valley Institute"\n', "")
    for name in ("outlines.geojson", "base_map.geojson", "places.csv"):
        (tmp_path / name).write_bytes((VALLEY.parent / name).read_bytes())
    with pytest.raises(ConfigurationError, match="needs the organization"):
        read_archive_file(write(tmp_path, lines))


def test_page_gets_the_archives_texts_and_copies_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    install_archive_page(tmp_path, read_archive_file(VALLEY))
    document = json.loads((tmp_path / "archive.json").read_text())
    assert (document["title"], document["license"], document["view"]) == (
        "Photographs of the Valley",
        "CC BY 4.0",
        [-71.6, -34.6, -69.4, -32.4],
    )
    for key, name in (("base_map", "base_map.geojson"), ("gazetteer", "places.csv")):
        assert (tmp_path / document[key].lstrip("/")).read_bytes() == (VALLEY.parent / name).read_bytes()


def test_code_names_nothing_of_the_shipped_archive() -> None:
    """Texas was in the code in nine places. Only its archive file, outlines and base map, and the demo's samples, name it."""
    content = tomllib.loads(DEFAULT_FILE.read_text())
    names = [name for name in content["county"] if re.search(r"[a-z][A-Z]", name)]
    words = ["Texas", "TNRIS", "Travis", "Bastrop", "Austin", "TxDOT", "StratMap", "us-atlas.*48", *names]
    # 4267 is NAD27, a datum of the continent that `raster.datums` knows.
    codes = [str(code) for code in content["services"]["epsg"] if code not in (3857, 4326, 900913, 4267)]
    pattern = rf"(\b|_)({'|'.join(words)})(\b|_)|\b({'|'.join(codes)})\b"
    code = ("ls4_assets", "resources", "sensors", "mapserver", "deploy", "dagster.yaml", "Makefile")
    data = ("ls4_assets/domain/regions", "ls4_assets/local", "mapserver/static", "mapserver/viewer/package-lock.json", "*.md")
    excluded = [f":(exclude){path}" for path in data]
    argv = ["git", "grep", "--untracked", "-n", "-i", "-E", pattern, "--", *code, *excluded]
    found = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True)
    assert found.returncode in (0, 1), found.stderr
    lines = [line for line in found.stdout.splitlines() if f'SHIPPED / "{DEFAULT_FILE.name}"' not in line]
    assert lines == []


def write(folder: Path, lines: str) -> Path:
    file = folder / "archive.toml"
    file.write_text(lines)
    return file
