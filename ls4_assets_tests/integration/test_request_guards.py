"""Requests that reach a fault of MapServer: none may crash a worker, and the requests of ordinary clients keep working."""

import subprocess
import time
from dataclasses import replace
from urllib.parse import quote

import pytest

from ls4_assets_tests.integration.crash_requests import crash_addresses, forged_database_error, get_feature, get_map
from ls4_assets_tests.integration.serving_fixtures import (
    BLACK,
    COLLECTION,
    NAME,
    TABLE,
    MapServer,
    index_database_fixture,  # noqa: F401
    map_server_fixture,  # noqa: F401
    mapfile_context,
    publish_mapfile,
)
from mapserver.config import MAPSERV

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def overview(map_server: MapServer) -> None:
    """The mapfile of a collection with an overview mosaic, which switches its tile index by the scale."""
    publish_mapfile(map_server.archive, replace(mapfile_context(COLLECTION), overview_resolution=16.0))


@pytest.mark.parametrize("fault", crash_addresses())
def test_request_does_not_crash_a_worker(map_server: MapServer, fault: str) -> None:
    """One anonymous GET crashed two workers, and forty took all maps down for minutes."""
    before = map_server.workers()
    response = map_server.get(crash_addresses()[fault])
    assert response.status_code < 500, response.text
    assert map_server.workers() == before


def test_name_with_the_lines_of_a_database_error_replaces_no_worker(map_server: MapServer) -> None:
    """One client that repeated such a request had one worker after another replaced, and all maps waited."""
    before = map_server.workers()
    for _ in range(6):
        map_server.get(forged_database_error())
    time.sleep(1)
    assert map_server.workers() == before


def test_rejected_request_says_what_to_change(map_server: MapServer) -> None:
    response = map_server.get(crash_addresses()["hits as geojson, 2.0.0"])
    assert response.status_code == 400 and "OUTPUTFORMAT" in response.text
    response = map_server.get(crash_addresses()["WFS between ] or 1=1"])
    assert response.status_code == 400 and "bracket" in response.text


def test_filter_of_the_map_page_finds_its_frame(map_server: MapServer) -> None:
    """As mapserver/viewer/src/footprints.js sends it."""
    like = '<PropertyIsLike wildCard="*" singleChar="." escapeChar="!"><PropertyName>dl_georef</PropertyName>'
    text = f"<Filter>{like}<Literal>*/bw/*/cog/{BLACK}.tif</Literal></PropertyIsLike></Filter>"
    response = map_server.get(get_feature("2.0.0", f"OUTPUTFORMAT=geojson&FILTER={quote(text)}"))
    assert [feature["properties"]["frame_num"] for feature in response.json()["features"]] == ["107"]


@pytest.mark.parametrize("version", ["1.1.0", "2.0.0"])
@pytest.mark.parametrize("output", ["", "&OUTPUTFORMAT=gml3", "&OUTPUTFORMAT=text/xml;%20subtype%3Dgml/3.1.1"])
def test_clients_count_features_without_a_format_or_in_gml(map_server: MapServer, version: str, output: str) -> None:
    response = map_server.get(get_feature(version, f"RESULTTYPE=hits{output}"))
    assert response.status_code == 200
    assert 'numberMatched="3"' in response.text or 'numberOfFeatures="3"' in response.text


def test_between_and_identifiers_of_ordinary_clients_work(map_server: MapServer) -> None:
    between = (
        "<Filter><PropertyIsBetween><PropertyName>frame_num</PropertyName><LowerBoundary><Literal>107</Literal></LowerBoundary>"
    )
    text = f"{between}<UpperBoundary><Literal>108</Literal></UpperBoundary></PropertyIsBetween></Filter>"
    found = map_server.get(get_feature("1.1.0", f"OUTPUTFORMAT=geojson&FILTER={quote(text)}")).json()
    assert {feature["properties"]["frame_num"] for feature in found["features"]} == {"107", "108"}
    found = map_server.get(get_feature("1.1.0", f"OUTPUTFORMAT=geojson&FEATUREID={NAME}_index.1")).json()
    assert len(found["features"]) == 1


def test_mapfile_itself_survives_an_infinite_scale(map_server: MapServer) -> None:
    """mapserv crashed in msLayerApplyScaletokens. Run directly, without the web front end, which rejects such a request."""
    conf = map_server.config.log_dir.parent / "conf"
    query = f"map={TABLE}.map&{get_map(1, 300).partition('?')[2]}"
    files = {"MAPSERVER_CONFIG_FILE": str(conf / "mapserver.conf"), "PGSERVICEFILE": str(conf / "pg_service.conf")}
    done = subprocess.run(
        [MAPSERV],
        env={"REQUEST_METHOD": "GET", "QUERY_STRING": query, **files},
        cwd=map_server.archive / "mapfiles",
        capture_output=True,
        check=False,
    )
    assert (done.returncode, b"image/png" in done.stdout[:100]) == (0, True)


@pytest.mark.parametrize(
    "parameter", ["context%3D/etc/hostname", "%6Dap%2Econfig%3DCPL_DEBUG%20ON", "template%3Dx=y", "map_layer%3D=a"]
)
def test_parameter_with_an_encoded_equals_sign_is_judged_by_its_name(map_server: MapServer, parameter: str) -> None:
    """MapServer splits a parameter after it has decoded it, and `context%3D/etc/passwd` reached it."""
    response = map_server.get(f"/wms/{TABLE}?SERVICE=WMS&REQUEST=GetCapabilities&{parameter}")
    assert response.status_code == 400 and "parameter" in response.text
