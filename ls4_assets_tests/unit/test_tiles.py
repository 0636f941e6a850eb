"""TileJSON and WMTS capabilities of a collection, rendered and validated."""

import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from owslib.wmts import WebMapTileService  # type: ignore[import-untyped]

from mapserver.tiles import (
    HALF_WORLD_METERS,
    ZOOM_0_RESOLUTION,
    TileSet,
    render_documents,
    render_tilejson,
    render_wmts,
    validate_tilejson,
    validate_wmts,
)

# Two by one kilometers in Travis county.
SET = TileSet(
    name="Travis_USDA_1958_frames",
    table="travis_usda_1958_frames",
    title="Travis Usda 1958 Frames",
    extent=(-10_880_000.0, 3_539_000.0, -10_878_000.0, 3_540_000.0),
    resolution=1.0,
    version=7,
)
WORLD = replace(SET, extent=(-HALF_WORLD_METERS, -HALF_WORLD_METERS, HALF_WORLD_METERS, HALF_WORLD_METERS))


def test_tilejson_follows_its_specification() -> None:
    document = json.loads(render_tilejson(SET))
    assert document["tilejson"] == "3.0.0" and document["scheme"] == "xyz" and document["version"] == "1.7.0"
    assert document["tiles"] == ["/tiles/travis_usda_1958_frames/{z}/{x}/{y}.webp?v=7"]
    west, south, east, north = document["bounds"]
    longitude, latitude, zoom = document["center"]
    assert -180 <= west < longitude < east <= 180 and -90 < south < latitude < north < 90
    assert isinstance(zoom, int) and 0 <= document["minzoom"] <= zoom <= document["maxzoom"] <= 30
    assert (-98 < west < east < -97) and (30 < south < north < 31)


def test_bounds_are_rounded_outward() -> None:
    """A tile at the edge would otherwise count as outside."""
    west, south, east, north = SET.bounds
    degrees = 180 / HALF_WORLD_METERS
    assert west <= SET.extent[0] * degrees and east >= SET.extent[2] * degrees
    assert math.asinh(math.tan(math.radians(south))) * HALF_WORLD_METERS / math.pi <= SET.extent[1]
    assert math.asinh(math.tan(math.radians(north))) * HALF_WORLD_METERS / math.pi >= SET.extent[3]


@pytest.mark.parametrize(
    ("resolution", "maxzoom"),
    [
        (1.0, 18),
        (ZOOM_0_RESOLUTION / 2**17, 17),
        (ZOOM_0_RESOLUTION / 2**17 * 0.9, 17),
        (ZOOM_0_RESOLUTION / 2**17 * 0.8, 18),
        (1e-9, 24),
        (1e9, 0),
    ],
)
def test_maxzoom_shows_every_pixel(resolution: float, maxzoom: int) -> None:
    assert replace(SET, resolution=resolution).maxzoom == maxzoom


def test_documents_without_a_version_mention_none() -> None:
    unversioned = replace(SET, version=None)
    assert "version" not in json.loads(render_tilejson(unversioned)) and "v=" not in render_tilejson(unversioned) + render_wmts(
        unversioned
    )


def test_wmts_client_reads_layer_matrices_and_address() -> None:
    service = WebMapTileService("http://unused", xml=render_wmts(SET).encode())
    layer = service[SET.name]
    assert layer.title == SET.title and layer.formats == ["image/png"]
    assert layer.boundingBoxWGS84 == pytest.approx(SET.bounds)
    address = "/tiles/travis_usda_1958_frames/{TileMatrix}/{TileCol}/{TileRow}"
    templates = [(each["format"], each["template"]) for each in layer.resourceURLs]
    assert templates == [("image/png", f"{address}.png?v=7")]
    matrices = service.tilematrixsets["GoogleMapsCompatible"].tilematrix
    assert len(matrices) == SET.maxzoom + 1
    # The first scale of OGC's well-known scale set GoogleMapsCompatible.
    assert matrices["0"].scaledenominator == pytest.approx(559082264.0287178)
    assert matrices["18"].matrixwidth == 2**18 and matrices["0"].topleftcorner == pytest.approx(
        (-HALF_WORLD_METERS, HALF_WORLD_METERS)
    )


def test_limits_cover_the_extent() -> None:
    limits = WebMapTileService("http://unused", xml=render_wmts(SET).encode())[SET.name].tilematrixsetlinks[
        "GoogleMapsCompatible"
    ]
    deepest = limits.tilematrixlimits["18"]
    side = 2 * HALF_WORLD_METERS / 2**18
    assert deepest.mintilecol * side - HALF_WORLD_METERS <= SET.extent[0] < (deepest.mintilecol + 1) * side - HALF_WORLD_METERS
    assert HALF_WORLD_METERS - (deepest.maxtilerow + 1) * side <= SET.extent[1] < HALF_WORLD_METERS - deepest.maxtilerow * side
    assert WORLD.tile_limits(2) == (0, 3, 0, 3)


def test_titles_are_escaped() -> None:
    odd = replace(SET, title='Söhne & "<Co>"')
    root = ElementTree.fromstring(render_wmts(odd))
    assert odd.title in [element.text for element in root.iter()]
    assert json.loads(render_tilejson(odd))["name"] == odd.title


def test_rendered_documents_are_valid_and_the_tilejson_is_last() -> None:
    rendered = render_documents(SET)
    assert list(rendered)[-1] == ".tilejson", "it makes the new version current"
    assert validate_tilejson(rendered[".tilejson"]) == [] and validate_wmts(rendered[".wmts"]) == []


@pytest.mark.parametrize(
    "broken",
    ["", "[]", "{", render_tilejson(SET)[:-5], render_tilejson(SET).replace('"/tiles', '"http://10.0.0.1/tiles')],
)
def test_broken_tilejson_has_faults(broken: str) -> None:
    assert validate_tilejson(broken)


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "<Capabilities/>",
        render_wmts(SET)[:-5],
        render_wmts(SET).replace('"/tiles', '"http://10.0.0.1/tiles'),
        render_wmts(SET).replace("<Capabilities ", '<!DOCTYPE x [<!ENTITY a "b">]><Capabilities ', 1),
    ],
)
def test_broken_capabilities_have_faults(broken: str) -> None:
    assert validate_wmts(broken)
