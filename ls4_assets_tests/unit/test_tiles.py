"""TileJSON and WMTS capabilities of a collection, as pure functions write them."""

import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from owslib.wmts import WebMapTileService  # type: ignore[import-untyped]

from mapserver.tiles import HALF, ZOOM_0, TileSet, documents, tilejson, tilejson_findings, wmts, wmts_findings

# Two by one kilometres in Travis county.
SET = TileSet(
    name="Travis_USDA_1958_frames",
    table="travis_usda_1958_frames",
    title="Travis Usda 1958 Frames",
    extent=(-10_880_000.0, 3_539_000.0, -10_878_000.0, 3_540_000.0),
    resolution=1.0,
    version=7,
)
WORLD = replace(SET, extent=(-HALF, -HALF, HALF, HALF))


def test_a_tilejson_keeps_the_rules_of_its_specification() -> None:
    held = json.loads(tilejson(SET))
    assert held["tilejson"] == "3.0.0" and held["scheme"] == "xyz" and held["version"] == "1.7.0"
    assert held["tiles"] == ["/tiles/travis_usda_1958_frames/{z}/{x}/{y}.png?v=7"]
    west, south, east, north = held["bounds"]
    longitude, latitude, zoom = held["center"]
    assert -180 <= west < longitude < east <= 180 and -90 < south < latitude < north < 90
    assert isinstance(zoom, int) and 0 <= held["minzoom"] <= zoom <= held["maxzoom"] <= 30
    assert (-98 < west < east < -97) and (30 < south < north < 31)


def test_bounds_are_rounded_outwards() -> None:
    """A tile at the edge must not be taken for one outside."""
    west, south, east, north = SET.bounds
    degrees = 180 / HALF
    assert west <= SET.extent[0] * degrees and east >= SET.extent[2] * degrees
    assert math.asinh(math.tan(math.radians(south))) * HALF / math.pi <= SET.extent[1]
    assert math.asinh(math.tan(math.radians(north))) * HALF / math.pi >= SET.extent[3]


@pytest.mark.parametrize(
    ("resolution", "maxzoom"),
    [(1.0, 18), (ZOOM_0 / 2**17, 17), (ZOOM_0 / 2**17 * 0.9, 17), (ZOOM_0 / 2**17 * 0.8, 18), (1e-9, 24), (1e9, 0)],
)
def test_the_deepest_zoom_shows_every_pixel(resolution: float, maxzoom: int) -> None:
    assert replace(SET, resolution=resolution).maxzoom == maxzoom


def test_without_a_version_nothing_promises_one() -> None:
    unversioned = replace(SET, version=None)
    assert "version" not in json.loads(tilejson(unversioned)) and "v=" not in tilejson(unversioned) + wmts(unversioned)


def test_a_wmts_client_reads_layer_matrices_and_address() -> None:
    service = WebMapTileService("http://unused", xml=wmts(SET).encode())
    layer = service[SET.name]
    assert layer.title == SET.title and layer.formats == ["image/png"]
    assert layer.boundingBoxWGS84 == pytest.approx(SET.bounds)
    assert layer.resourceURLs[0]["template"] == ("/tiles/travis_usda_1958_frames/{TileMatrix}/{TileCol}/{TileRow}.png?v=7")
    matrices = service.tilematrixsets["GoogleMapsCompatible"].tilematrix
    assert len(matrices) == SET.maxzoom + 1
    # the first as OGC's well-known scale set GoogleMapsCompatible gives it
    assert matrices["0"].scaledenominator == pytest.approx(559082264.0287178)
    assert matrices["18"].matrixwidth == 2**18 and matrices["0"].topleftcorner == pytest.approx((-HALF, HALF))


def test_limits_name_the_tiles_that_hold_something() -> None:
    limits = WebMapTileService("http://unused", xml=wmts(SET).encode())[SET.name].tilematrixsetlinks["GoogleMapsCompatible"]
    deepest = limits.tilematrixlimits["18"]
    side = 2 * HALF / 2**18
    assert deepest.mintilecol * side - HALF <= SET.extent[0] < (deepest.mintilecol + 1) * side - HALF
    assert HALF - (deepest.maxtilerow + 1) * side <= SET.extent[1] < HALF - deepest.maxtilerow * side
    assert WORLD.columns_and_rows(2) == (0, 3, 0, 3)


def test_words_are_escaped() -> None:
    odd = replace(SET, title='Söhne & "<Co>"')
    root = ElementTree.fromstring(wmts(odd))
    assert odd.title in [element.text for element in root.iter()]
    assert json.loads(tilejson(odd))["name"] == odd.title


def test_documents_name_no_host_and_are_found_sound() -> None:
    made = documents(SET)
    assert list(made)[-1] == ".tilejson", "with it the version is in force, so it comes last"
    assert tilejson_findings(made[".tilejson"]) == [] and wmts_findings(made[".wmts"]) == []


@pytest.mark.parametrize(
    "broken",
    ["", "[]", "{", tilejson(SET)[:-5], tilejson(SET).replace('"/tiles', '"http://10.0.0.1/tiles')],
)
def test_an_unsound_tilejson_is_found(broken: str) -> None:
    assert tilejson_findings(broken)


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "<Capabilities/>",
        wmts(SET)[:-5],
        wmts(SET).replace('"/tiles', '"http://10.0.0.1/tiles'),
        wmts(SET).replace("<Capabilities ", '<!DOCTYPE x [<!ENTITY a "b">]><Capabilities ', 1),
    ],
)
def test_unsound_capabilities_are_found(broken: str) -> None:
    assert wmts_findings(broken)
