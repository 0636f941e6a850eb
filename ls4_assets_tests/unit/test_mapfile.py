"""Mapfiles: what a rendered one contains, and which faults validation finds."""

import re
from dataclasses import replace

import pytest

from ls4_assets.domain.archive_file import read_archive_file
from ls4_assets.domain.contact import Contact
from mapserver.mapfile import ATTRIBUTES, MapfileContext, render, validate_mapfile
from mapserver.rendering import quote

ARCHIVE = read_archive_file(None)
CONTEXT = MapfileContext(
    name="Travis_USDA_1958_frames",
    map_name="TRAVISUSDA1958FRAMES",
    title="Travis Usda 1958 Frames",
    table="travis_usda_1958_frames",
    extent=(-10880000.0, 3530000.0, -10870000.0, 3540000.1234),
    capabilities=ARCHIVE.capabilities,
)
CONTACT = Contact("A", "B", "C", "a@b.org", "1", "2", "D", "E", "TX", "78701", "USA")
WITH_CONTACT = replace(CONTEXT, capabilities=replace(ARCHIVE.capabilities, contact=CONTACT))

WITH_OVERVIEW = replace(CONTEXT, overview_resolution=9.554628535647032)


@pytest.mark.parametrize("context", [CONTEXT, WITH_CONTACT, WITH_OVERVIEW])
def test_rendered_mapfile_is_valid(context: MapfileContext) -> None:
    assert validate_mapfile(render(context)) == []


def test_mapfile_has_the_contract_names_and_a_stable_order_of_frames() -> None:
    text = render(CONTEXT)
    for line in (
        'NAME "TRAVISUSDA1958FRAMES"',
        'NAME "Travis_USDA_1958_frames"',
        'NAME "Travis_USDA_1958_frames_index"',
        'TILEITEM "served_location"',
        'CONNECTION "service=ls4"',
        '"init=epsg:3857"',
        'CONFIG "ON_MISSING_DATA" "LOG"',
        "EXTENT -10880000.000 3530000.000 -10870000.000 3540000.123",
        f'"ows_include_items" "{",".join(ATTRIBUTES)}"',
    ):
        assert line in text
    assert "FROM travis_usda_1958_frames ORDER BY oid %stack%) AS footprints" in text and '"default_stack" "ASC"' in text
    assert "oid >= coalesce(lowest, 0) ORDER BY oid) AS frames" in text
    assert "RESAMPLE" not in text  # it would warp every frame


def test_overview_mosaic_is_read_when_zoomed_out() -> None:
    """It is read from the scale at which a map pixel is about as wide as a mosaic pixel."""
    text = render(WITH_OVERVIEW)
    assert 'TILEINDEX "Travis_USDA_1958_frames_%lod%"' in text
    assert re.search(r'"0" "tileindex"\s+"23021.\d+" "overview"\s+END', text)
    for hidden in ("tileindex", "overview"):
        assert f'NAME "Travis_USDA_1958_frames_{hidden}"' in text
    assert "SCALETOKEN" not in render(CONTEXT)


@pytest.mark.parametrize("hidden", ["tileindex", "overview"])
def test_hidden_layers_must_exist_and_reject_requests(hidden: str) -> None:
    text = render(WITH_OVERVIEW)
    layer = f'NAME "Travis_USDA_1958_frames_{hidden}"'
    assert any(f"_{hidden} is missing or public" in each for each in validate_mapfile(text.replace(layer, 'NAME "elsewhere"')))
    before, after = text.split(layer)
    opened = before + layer + after.replace('"ows_enable_request" "!*"', '"ows_enable_request" "*"', 1)
    assert any(f"_{hidden} is missing or public" in each for each in validate_mapfile(opened))


def test_index_collection_has_a_doubled_suffix() -> None:
    context = MapfileContext(
        "A_B_1958_index", "AB1958INDEX", "A B 1958 Index", "a_b_1958_index", CONTEXT.extent, ARCHIVE.capabilities
    )
    text = render(context)
    assert 'NAME "A_B_1958_index_index"' in text
    assert validate_mapfile(text) == []


def test_contact_block_is_complete_or_absent() -> None:
    assert "ows_contact" not in render(CONTEXT)
    text = render(WITH_CONTACT)
    for item in ("person", "organization", "position", "electronicmailaddress", "voicetelephone"):
        assert f'"ows_contact{item}"' in text
    with pytest.raises(TypeError):
        Contact("A", "B")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('a "b"', r'"a \"b\""'),
        ("a\\b", r'"a\\b"'),
        ('\\"', r'"\\\""'),
        ("two\nlines\t\x00", '"two lines"'),
        ("Söhne & <Co>", '"Söhne & <Co>"'),
    ],
)
def test_quote_escapes_special_characters(value: str, expected: str) -> None:
    assert quote(value) == expected


def test_title_cannot_inject_mapfile_lines() -> None:
    text = render(replace(CONTEXT, title='x"\n    END\n  END\n  LAYER\n    NAME "evil'))
    assert len([line for line in text.splitlines() if line.strip() == "LAYER"]) == 3
    assert validate_mapfile(text) == []


@pytest.mark.parametrize(
    "change",
    [
        {"extent": (1.0, 1.0, 1.0, 2.0)},
        {"extent": (float("inf"), float("inf"), float("-inf"), float("-inf"))},
        {"table": "travis; DROP TABLE x"},
        {"table": "another_table"},
        {"name": "Travis-1958", "table": "travis-1958"},
        {"map_name": "Travis_USDA_1958_frames_index"},
    ],
)
def test_context_that_cannot_be_served_is_rejected(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r": .*\.$"):
        replace(CONTEXT, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("service=ls4", "service=ls4 password=x", "password"),
        ("service=ls4", "host=db.internal dbname=ls4", "not a service name"),
        ('CONFIG "ON_MISSING_DATA" "LOG"', 'CONFIG "AWS_REGION" "x"', "AWS_REGION"),
        ('"ows_fees" "none"', '"ows_fees" "http://10.0.0.1/fees"', "http://10.0.0.1/fees"),
        (
            'NAME "Travis_USDA_1958_frames_index"',
            'NAME "footprints"',
            "Travis_USDA_1958_frames_index is missing",
        ),
        ('NAME "Travis_USDA_1958_frames_tileindex"', 'NAME "Travis_USDA_1958_frames_index"', "same name"),
        ('NAME "TRAVISUSDA1958FRAMES"', 'NAME "Travis_USDA_1958_frames"', "MAP NAME"),
        ("TYPE RASTER", "TYPE POINT", "0 imagery layers"),
        ('      "ows_enable_request" "!*"\n    END\n  END\nEND', "    END\n  END\nEND", "public"),
    ],
)
def test_validation_finds_each_fault(before: str, after: str, fault: str) -> None:
    text = render(CONTEXT)
    assert before in text
    assert any(fault in each for each in validate_mapfile(text.replace(before, after)))
