"""The front and its processes: addresses old and new, what is rejected, the public archive, lost workers."""

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
    Served,
    cog_path,
    context_for,
    index_database_fixture,  # noqa: F401
    indexed,
    left_half,
    publish_mapfile,
    rgba,
    served_fixture,  # noqa: F401
)

pytestmark = pytest.mark.timeout(120)


# --- addresses


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
def test_published_and_pretty_addresses_lead_to_the_same_map(served: Served, address: str) -> None:
    query = "SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap&SRS=EPSG:3857&STYLES=&FORMAT=image/png&TRANSPARENT=TRUE"
    place = f"LAYERS={NAME}&WIDTH=50&HEIGHT=20&BBOX={','.join(map(str, EXTENT))}"
    assert (rgba(served.get(f"{address}&{query}&{place}"))[..., 3] == 255).any()


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
def test_what_is_not_there_is_a_404_with_advice(served: Served, address: str) -> None:
    answer = served.get(address)
    assert answer.status_code == 404
    assert "list of collections" in answer.text


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
def test_no_path_leads_out(served: Served, path: str) -> None:
    """Sent as it stands: a client library would tidy the dots away."""
    answer = raw_request(served, f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert answer.split(" ", 2)[1] in ("400", "404"), answer
    assert "password=" not in answer and "root:" not in answer


def raw_request(served: Served, request: str) -> str:
    port = int(served.config.base_url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")


def test_only_get_is_answered_and_no_version_is_told(served: Served) -> None:
    answer = served.client.post(f"/wms/{TABLE}", content="map=/etc/passwd")
    assert answer.status_code == 405
    assert answer.headers["server"] == "nginx"
    assert "MapServer version" not in served.wms("GetCapabilities").text


def test_other_services_and_stylesheets_from_outside_are_off(served: Served) -> None:
    coverage = served.get(f"/wms/{TABLE}?SERVICE=WCS&VERSION=2.0.1&REQUEST=GetCapabilities")
    assert "CoverageSummary" not in coverage.text
    assert coverage.status_code == 400
    # a stylesheet that nobody fetches changes nothing
    assert (served.get_map(EXTENT, 100.0, SLD="http://127.0.0.1:1/style.sld")[..., 3] == 255).any()


@pytest.mark.parametrize(
    "meddling",
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
def test_no_parameter_changes_the_map_or_names_a_file(served: Served, meddling: str) -> None:
    """`context=` read any file that the server may read, and an answer told the path of the mapfiles."""
    for address in (
        f"/wms/{TABLE}?SERVICE=WMS&REQUEST=GetCapabilities&",
        f"/?map=/mapfiles/{TABLE}.map&mode=map&",
        f"/ogcapi/{TABLE}?",
    ):
        answer = served.get(f"{address}{meddling}")
        assert answer.status_code == 400 and "parameter" in answer.text


def test_the_landing_page_and_its_list(served: Served) -> None:
    page = served.get("/")
    assert page.headers["content-type"].startswith("text/html") and "/collections.json" in page.text
    served.config.collections_file.write_text('{"collections": [{"name": "x"}]}')
    assert served.get("/collections.json").json()["collections"][0]["name"] == "x"


# --- the archive


def test_the_public_part_of_the_archive_has_ranges_and_cors(served: Served) -> None:
    key = cog_path(served.archive, BLACK).relative_to(served.archive)
    whole = cog_path(served.archive, BLACK).read_bytes()
    part = served.get(f"/archive/{key}", Range="bytes=100-199", Origin="https://viewer.example.org")
    assert part.status_code == 206 and part.content == whole[100:200]
    assert part.headers["access-control-allow-origin"] == "*"
    preflight = served.client.options(f"/archive/{key}")
    assert preflight.status_code == 204 and "Range" in preflight.headers["access-control-allow-headers"]


@pytest.mark.parametrize(
    ("key", "public"),
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
def test_only_public_stages_of_the_archive_are_served(served: Served, key: str, public: bool) -> None:
    path = served.archive / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"content")
    answer = served.get(f"/archive/{key}")
    path.unlink()
    assert (answer.status_code, answer.content == b"content") == ((200, True) if public else (404, False))


# --- life of the processes


def test_a_new_mapfile_and_a_changed_one_are_live_at_once(served: Served, index_database: IndexDatabase) -> None:
    context = context_for(Collection("Bexar", "USDA_1958", "frames"))
    assert served.get(f"/wms/{context.table}?SERVICE=WMS&REQUEST=GetCapabilities").status_code == 404
    with indexed(index_database, served.archive, Collection("Bexar", "USDA_1958", "frames"), [WHITE]):
        publish_mapfile(served.archive, context)
        pixels = served.get_map(EXTENT, 32.0, layer=context.name, address=f"/wms/{context.table}")
    assert (pixels[..., 3] == 255).any()
    publish_mapfile(served.archive, replace(context, title="Another Title"))
    for _ in range(6):
        assert "Another Title" in served.wms("GetCapabilities", address=f"/wms/{context.table}").text
    (served.archive / "mapfiles" / f"{context.table}.map").unlink()
    assert served.get(f"/wms/{context.table}?SERVICE=WMS&REQUEST=GetCapabilities").status_code == 404


def test_a_broken_mapfile_harms_no_other(served: Served) -> None:
    (served.archive / "mapfiles" / "broken.map").write_text('MAP NAME "x')
    for _ in range(6):
        served.get("/wms/broken?SERVICE=WMS&REQUEST=GetCapabilities")
    assert served.colour(left_half(WHITE), MIDDLE) == (255, 255, 255, 255)


def test_every_worker_killed_the_next_request_is_answered(served: Served) -> None:
    before = served.workers()
    assert len(before) == 3
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert served.colour(left_half(WHITE), MIDDLE) == (255, 255, 255, 255)
    time.sleep(1.5)
    assert len(served.workers()) == 3 and not set(served.workers()) & set(before)


def test_a_worker_lost_while_it_draws_costs_nothing(served: Served) -> None:
    """Stopped workers hold the request; killed with it, another answers."""
    held = served.workers()
    for pid in held:
        os.kill(pid, signal.SIGSTOP)
    with socket.socket() as connection:
        connection.settimeout(20)
        connection.connect(("127.0.0.1", int(served.config.base_url.rsplit(":", 1)[1])))
        connection.sendall(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
        time.sleep(0.3)
        for pid in held:
            os.kill(pid, signal.SIGKILL)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_health_and_maps_follow_the_database(served: Served, cluster: Cluster) -> None:
    """A stopped database is a 503; after its restart no worker answers from a dead connection."""
    for _ in range(12):
        assert served.colour(left_half(WHITE), MIDDLE) == (255, 255, 255, 255)
    cluster.stop()
    try:
        answer = served.get("/health")
        assert answer.status_code == 503 and "try again" in answer.text
    finally:
        cluster.start()
    time.sleep(2)
    assert served.get("/health").status_code == 200
    for _ in range(12):
        assert served.colour(left_half(WHITE), MIDDLE) == (255, 255, 255, 255)


@pytest.mark.parametrize("address", [f"/?map=/mapfiles/{TABLE}.map", f"/wms/{TABLE}"])
def test_a_person_who_opens_a_map_s_address_is_led_to_the_page(served: Served, address: str) -> None:
    """The address that every list prints as the map showed "Web application error" in a browser."""
    answer = served.get(address)
    assert answer.status_code == 302
    assert answer.headers["location"].endswith(f"/#{TABLE}")
