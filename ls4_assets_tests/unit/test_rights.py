"""License, credit and citation: which ones apply to a collection, and their form in files."""

from pathlib import Path

import pytest

from ls4_assets.domain.archive_file import read_archive_file
from ls4_assets.domain.names import Collection
from ls4_assets.domain.rights import ArchiveRights, Rights
from ls4_assets.errors import ConfigurationError
from ls4_assets_tests.platform import CHECKOUT

VALLEY = read_archive_file(CHECKOUT / "ls4_assets_tests" / "valley" / "archive.toml").rights
TEXAS = read_archive_file(None).rights


def collection(path: str) -> Collection:
    return Collection(*path.split("/"))  # type: ignore[arg-type]


def test_most_specific_rights_apply() -> None:
    own, agency, archive = (
        VALLEY.of(collection(path)) for path in ("RioClaro/SAF_1962/frames", "SanJose/IGM_1970/frames", "Norte/SAF_1950/frames")
    )
    assert (own.attribution, own.license_id) == ("Air Force of the Valley", "CC-BY-4.0")
    assert own.citation == "Air Force of the Valley (1962). RioClaro SAF 1962 frames. Valley Institute."
    assert archive.attribution == "Valley Institute, flight archive"
    # A license's text and identifier are not those of another license.
    assert (agency.license, agency.license_url, agency.license_id) == ("All rights reserved", "https://igm.example/terms", None)
    assert agency.attribution == "IGM"


@pytest.mark.parametrize("path", ["Travis/USDA_1958/frames", "USDA/DLK/frames", "Travis/ASCS_1964/index", "NASA/1969/frames"])
def test_photographs_of_federal_agencies_are_in_the_public_domain(path: str) -> None:
    rights = TEXAS.of(collection(path))
    assert rights.license and rights.license.startswith("Public domain") and rights.license_url
    assert rights.attribution and rights.citation and rights.citation.startswith(f"{rights.attribution} (")


@pytest.mark.parametrize("path", ["Travis/TxDOT_1996/frames", "Tobin/1950/frames", "StratMap/2015/frames"])
def test_photographs_of_others_have_no_default(path: str) -> None:
    assert TEXAS.of(collection(path)) == Rights()


def test_citation_without_year_and_credit_is_complete() -> None:
    rights = ArchiveRights(Rights(citation="{attribution} ({year}). {title}. {organization}"), {}, None)
    assert rights.of(collection("USDA/DLK/frames")).citation == "USDA (n.d.). USDA DLK frames."


def test_digest_changes_with_every_text_and_is_empty_without_any() -> None:
    rights = [
        ArchiveRights(Rights(license="A")),
        ArchiveRights(Rights(attribution="A")),
        ArchiveRights(Rights(license="A"), {"USDA": Rights(citation="B")}),
        ArchiveRights(Rights(license="A"), {"USGS": Rights(citation="B")}),
    ]
    assert len({each.digest() for each in rights}) == 4 and ArchiveRights().digest() == ""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('citation = "{author}"', "citation contains an unknown field.*{title}"),
        ('citation = "{title"', "citation contains an unknown field"),
        ('citation = "{title.x}"', "citation contains an unknown field"),
        ('citation = "{0}"', "citation contains an unknown field"),
        ('[rights.USDA]\nlicenses = "A"', r"\[rights.USDA\] licenses is not a key"),
        ('[rights.Adams_USDA]\nlicense = "A"', "Adams_USDA is neither an agency nor the name of a collection"),
        ('[rights.USDA]\nlicense = "https://a.org"', "license must not contain an address"),
        ('rights = "CC0"', "rights must be a table"),
        ('[services]\nbackground = "white"', "background = 'white' is not a color"),
    ],
)
def test_wrong_rights_are_rejected(tmp_path: Path, lines: str, message: str) -> None:
    file = tmp_path / "archive.toml"
    file.write_text(f'county = ["Kern"]\n{lines}')
    with pytest.raises(ConfigurationError, match=message):
        read_archive_file(file)


def test_tags_and_metadata_contain_only_what_is_known() -> None:
    rights = Rights(license="CC0", license_url="https://a.org", attribution="Söhne", citation="S (1958).")
    assert rights.tiff_tags() == {"TIFFTAG_COPYRIGHT": "CC0 https://a.org", "TIFFTAG_ARTIST": "Söhne", "CITATION": "S (1958)."}
    assert rights.metadata()["attribution"] == "Söhne" and "license_id" not in rights.metadata()
    assert Rights().tiff_tags() == Rights().metadata() == {}
