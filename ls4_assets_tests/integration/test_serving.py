"""The web front end (nginx) and the workers: old and new addresses, rejected requests, the public archive, lost workers."""

import os
import signal
import socket
import time
from dataclasses import replace

import pytest

from ls4_assets.domain.names import Collection
from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.integration.serving_fixtures import (
    BLACK,
    EXTENT,
    MIDDLE,
    NAME,
    TABLE,
    WHITE,
    IndexDatabase,
    MapServer,
    cog_path,
    index_database_fixture,  # noqa: F401
    index_table,
    left_half,
    map_server_fixture,  # noqa: F401
    mapfile_context,
    publish_mapfile,
    rgba,
)

pytestmark = pytest.mark.timeout(120)


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        f"/?map=/mapfiles/{TABLE}.map",
        f"/wms/?map=/mapfiles/{TABLE}.map",
        f"/wms?map=/mapfiles/{TABLE}.map",
        f"/?MAP=%2Fmapfiles%2F{TABLE}.map",
        f"/?SERVICE=WMS&Map=/mapfiles/{TABLE}.map",
        f"/wms/{TABLE}?",
    ],
)
def test_old_and_new_addresses_serve_the_same_map(map_server: MapServer, address: str) -> None:
    query = "SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap&SRS=EPSG:3857&STYLES=&FORMAT=image/png&TRANSPARENT=TRUE"
    place = f"LAYERS={NAME}&WIDTH=50&HEIGHT=20&BBOX={','.join(map(str, EXTENT))}"
    assert (rgba(map_server.get(f"{address}&{query}&{place}"))[..., 3] == 255).any()


@pytest.mark.parametrize(
    "address",
    [
        "/wms/nothing_here?SERVICE=WMS&REQUEST=GetCapabilities",
        "/?map=/mapfiles/nothing_here.map&SERVICE=WMS&REQUEST=GetCapabilities",
        "/tiles/nothing_here/3/1/1.png",
        "/ogcapi/nothing_here",
        "/mapserv/map",
        f"/mapfiles/{TABLE}.map",
    ],
)
def test_missing_map_is_a_404_with_advice(map_server: MapServer, address: str) -> None:
    response = map_server.get(address)
    assert response.status_code == 404
    assert "list of collections" in response.text


@pytest.mark.parametrize(
    "path",
    [
        "/?map=/etc/passwd",
        "/?map=/mapfiles/../../../../etc/passwd",
        "/?map=/mapfiles/..%2f..%2fserving%2fconf%2fhealth.map",
        "/?map=../serving/conf/health.map",
        "/?map=health",
        f"/?map=/mapfiles/nothing.map&map=/mapfiles/{TABLE}.map",
        "/wms/..%2f..%2fetc%2fpasswd",
        "/wms/../../serving/conf/pg_service.conf",
        "/archive/../serving/conf/pg_service.conf",
        "/archive/derived/..%2f..%2fserving%2fconf%2fpg_service.conf",
        "/archive/derived/%2e%2e/mapfiles/x.map",
        "/archive/derived//../../../serving/conf/pg_service.conf",
        "/collections.json/../serving/conf/pg_service.conf",
    ],
)
def test_path_traversal_is_rejected(map_server: MapServer, path: str) -> None:
    """The request is sent over a socket: a client library would normalize the path."""
    response = send_raw(map_server, f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert response.split(" ", 2)[1] in ("400", "404"), response
    assert "password=" not in response and "root:" not in response


def send_raw(map_server: MapServer, request: str) -> str:
    port = int(map_server.config.base_url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")


def test_only_get_is_accepted_and_no_version_is_revealed(map_server: MapServer) -> None:
    response = map_server.client.post(f"/wms/{TABLE}", content="map=/etc/passwd")
    assert response.status_code == 405
    assert response.headers["server"] == "nginx"
    assert "MapServer version" not in map_server.wms("GetCapabilities").text


def test_wcs_and_external_styles_are_disabled(map_server: MapServer) -> None:
    coverage = map_server.get(f"/wms/{TABLE}?SERVICE=WCS&VERSION=2.0.1&REQUEST=GetCapabilities")
    assert "CoverageSummary" not in coverage.text
    assert coverage.status_code == 400
    # The style is not fetched, so it changes nothing.
    assert (map_server.get_map(EXTENT, 100.0, SLD="http://127.0.0.1:1/style.sld")[..., 3] == 255).any()


@pytest.mark.parametrize(
    "parameter",
    [
        "context=/etc/hostname",
        "CONTEXT=http://127.0.0.1:1/x.xml",
        "%63ontext=/etc/hostname",
        "mode=nquery&queryfile=/etc/hostname",
        "savequery=true",
        f"map.layer[{NAME}].data=/etc/hostname",
        "map_config=CPL_DEBUG+ON",
        "map%2eweb.template=/etc/hostname",
        "MAP.EXTENT=0+0+1+1",
    ],
)
def test_parameters_that_change_the_map_or_name_a_file_are_rejected(map_server: MapServer, parameter: str) -> None:
    """`context=` read any file that the server could read, and a response revealed the path of the mapfiles."""
    for address in (
        f"/wms/{TABLE}?SERVICE=WMS&REQUEST=GetCapabilities&",
        f"/?map=/mapfiles/{TABLE}.map&mode=map&",
        f"/ogcapi/{TABLE}?",
    ):
        response = map_server.get(f"{address}{parameter}")
        assert response.status_code == 400 and "parameter" in response.text


def test_map_page_and_its_list_are_served(map_server: MapServer) -> None:
    page = map_server.get("/")
    assert page.headers["content-type"].startswith("text/html") and "/collections.json" in page.text
    map_server.config.collections_file.write_text('{"collections": [{"name": "x"}]}')
    assert map_server.get("/collections.json").json()["collections"][0]["name"] == "x"


# The archive


def test_public_archive_supports_ranges_and_cors(map_server: MapServer) -> None:
    key = cog_path(map_server.archive, BLACK).relative_to(map_server.archive)
    whole = cog_path(map_server.archive, BLACK).read_bytes()
    part = map_server.get(f"/archive/{key}", Range="bytes=100-199", Origin="https://viewer.example.org")
    assert part.status_code == 206 and part.content == whole[100:200]
    assert part.headers["access-control-allow-origin"] == "*"
    preflight = map_server.client.options(f"/archive/{key}")
    assert preflight.status_code == 204 and "Range" in preflight.headers["access-control-allow-headers"]


@pytest.mark.parametrize(
    ("key", "is_public"),
    [
        ("bw/Travis/USDA_1958/frames/scanned/a.tif", True),
        ("bw/Travis/USDA_1958/frames/scanned/a.TIF", True),
        ("bw/Travis/USDA_1958/frames/cog/a.tif", True),
        (f"bw/Travis/USDA_1958/frames/cog/tile_index/{NAME}_idx.zip", True),
        (f"derived/{NAME}/thumbnails/a.png", True),
        ("geojson/compiled_historical_indexes.geojson", True),
        ("bw/Travis/USDA_1958/frames/georef/a.tif", False),
        ("bw/Travis/USDA_1958/frames/georef/deflate/a.tif", False),
        ("bw/Travis/USDA_1958/frames/cog/.a.tif.part", False),
        ("bw/Travis/USDA_1958/frames/a.tif", False),
        ("bw/Travis/cog/frames/georef/a.tif", False),
        ("bw/cog/tile_index/frames/georef/a.tif", False),
        ("mapfiles/a.map", False),
        ("notes.txt", False),
    ],
)
def test_only_public_files_of_the_archive_are_served(map_server: MapServer, key: str, is_public: bool) -> None:
    path = map_server.archive / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"content")
    response = map_server.get(f"/archive/{key}")
    path.unlink()
    assert (response.status_code, response.content == b"content") == ((200, True) if is_public else (404, False))


# Processes


def test_new_and_changed_mapfiles_are_served_at_once(map_server: MapServer, index_database: IndexDatabase) -> None:
    context = mapfile_context(Collection("Bexar", "USDA_1958", "frames"))
    assert map_server.get(f"/wms/{context.table}?SERVICE=WMS&REQUEST=GetCapabilities").status_code == 404
    with index_table(index_database, map_server.archive, Collection("Bexar", "USDA_1958", "frames"), [WHITE]):
        publish_mapfile(map_server.archive, context)
        pixels = map_server.get_map(EXTENT, 32.0, layer=context.name, address=f"/wms/{context.table}")
    assert (pixels[..., 3] == 255).any()
    publish_mapfile(map_server.archive, replace(context, title="Another Title"))
    for _ in range(6):
        assert "Another Title" in map_server.wms("GetCapabilities", address=f"/wms/{context.table}").text
    (map_server.archive / "mapfiles" / f"{context.table}.map").unlink()
    assert map_server.get(f"/wms/{context.table}?SERVICE=WMS&REQUEST=GetCapabilities").status_code == 404


def test_broken_mapfile_does_not_affect_other_maps(map_server: MapServer) -> None:
    (map_server.archive / "mapfiles" / "broken.map").write_text('MAP NAME "x')
    for _ in range(6):
        map_server.get("/wms/broken?SERVICE=WMS&REQUEST=GetCapabilities")
    assert map_server.color_at(left_half(WHITE), MIDDLE) == (255, 255, 255, 255)


def test_next_request_succeeds_after_all_workers_were_killed(map_server: MapServer) -> None:
    before = map_server.workers()
    assert len(before) == 3
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert map_server.color_at(left_half(WHITE), MIDDLE) == (255, 255, 255, 255)
    time.sleep(1.5)
    assert len(map_server.workers()) == 3 and not set(map_server.workers()) & set(before)


def test_request_of_a_killed_worker_is_retried(map_server: MapServer) -> None:
    """Stopped workers hold the request. When they are killed, another worker answers it."""
    stopped = map_server.workers()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    with socket.socket() as connection:
        connection.settimeout(20)
        connection.connect(("127.0.0.1", int(map_server.config.base_url.rsplit(":", 1)[1])))
        connection.sendall(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
        time.sleep(0.3)
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_health_and_maps_follow_the_database(map_server: MapServer, cluster: Cluster) -> None:
    """While the database is stopped, /health is a 503. After its restart no worker uses a closed connection."""
    for _ in range(12):
        assert map_server.color_at(left_half(WHITE), MIDDLE) == (255, 255, 255, 255)
    cluster.stop()
    try:
        response = map_server.get("/health")
        assert response.status_code == 503 and "try again" in response.text
    finally:
        cluster.start()
    time.sleep(2)
    assert map_server.get("/health").status_code == 200
    for _ in range(12):
        assert map_server.color_at(left_half(WHITE), MIDDLE) == (255, 255, 255, 255)


@pytest.mark.parametrize("address", [f"/?map=/mapfiles/{TABLE}.map", f"/wms/{TABLE}"])
def test_map_address_opened_in_a_browser_redirects_to_the_map_page(map_server: MapServer, address: str) -> None:
    """The address that lists print for a map showed "Web application error" in a browser."""
    response = map_server.get(address)
    assert response.status_code == 302
    assert response.headers["location"].endswith(f"/#{TABLE}")
