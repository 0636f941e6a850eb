"""What nginx sends with every response, what it does not follow or load, and how it limits a client."""

import http.client
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, text

from ls4_assets.local.postgres import Cluster
from ls4_assets.local.state import find_free_port
from ls4_assets_tests.integration.crash_requests import get_feature, get_map
from ls4_assets_tests.integration.serving_fixtures import (
    BLACK,
    NAME,
    TABLE,
    IndexDatabase,
    MapServer,
    index_database_fixture,  # noqa: F401
    map_server_fixture,  # noqa: F401
    running,
    wait_until_healthy,
)
from mapserver.config import ServingConfig, write_config

pytestmark = pytest.mark.timeout(120)

TILE = f"/tiles/{TABLE}/14/3743/6745.png"
ITEMS = f"/ogcapi/{TABLE}/collections/{NAME}_index/items"


# Pages


@pytest.mark.parametrize(
    "address",
    [
        "/", "/collections.json", "/nothing", "/health", TILE, f"/tiles/{TABLE}/3/1/1.png", f"/ogcapi/{TABLE}?f=html",
        f"/ogcapi/{TABLE}/api?f=html", f"{ITEMS}?f=html", ITEMS, get_map(), get_map(layers="none"), f"/wms/{TABLE}?mode=map",
        f"/wms/{TABLE}?SERVICE=WMS&REQUEST=GetCapabilities", f"/wms/{TABLE}?SERVICE=WMS&context=x", f"/wms/{TABLE}",
        f"/archive/bw/Travis/USDA_1958/frames/cog/{BLACK}.tif", "/archive/derived/nothing",
    ],
)  # fmt: skip
def test_every_response_has_a_policy_and_no_script_of_another_site(map_server: MapServer, address: str) -> None:
    """The page of the OGC API loaded Swagger from a CDN, on the origin of the maps, and any site could frame the map page."""
    response = map_server.get(address)
    policies = response.headers.get_list("content-security-policy")
    assert len(policies) == 1 and "frame-ancestors 'none'" in policies[0] and "default-src 'none'" in policies[0]
    assert ("script-src 'self'" in policies[0]) == (address == "/")
    if response.headers.get("content-type", "").startswith("text/html"):
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"'](?:https?:)?//[^\"']*", response.text)
        assert not loaded


def test_api_page_names_its_description(map_server: MapServer) -> None:
    page = map_server.get(f"/ogcapi/{TABLE}/api?f=html")
    (address,) = re.findall(r'href="([^"]*api[?]f=json)"', page.text)
    assert map_server.get(address).json()["openapi"].startswith("3.")


# The archive


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("bw/Travis/USDA_1958/frames/scanned/a.conf", "serving/conf/pg_service.conf"),
        ("bw/Travis/USDA_1958/frames/cog/linked.tif", "archive/bw/Travis/USDA_1958/frames/georef/private.tif"),
        ("derived/conf/pg_service.conf", "serving/conf/pg_service.conf"),
    ],
)
def test_link_in_the_archive_is_not_followed(map_server: MapServer, link: str, target: str) -> None:
    """A symbolic link from scanned/ to the service file published the password of the database."""
    private = map_server.archive.parent / target
    private.parent.mkdir(parents=True, exist_ok=True)
    if not private.exists():
        private.write_bytes(b"private")
    path = map_server.archive / link
    linked = path.parent if link.startswith("derived") else path
    linked.parent.mkdir(parents=True, exist_ok=True)
    linked.symlink_to(private.parent if link.startswith("derived") else private)
    try:
        assert map_server.get(f"/archive/{link}").status_code == 404
    finally:
        linked.unlink()
    assert map_server.get(f"/archive/bw/Travis/USDA_1958/frames/cog/{BLACK}.tif").status_code == 200


def test_linked_document_of_a_collection_is_not_followed(map_server: MapServer) -> None:
    path = map_server.archive / "mapfiles" / f"{TABLE}.wmts"
    path.symlink_to(map_server.archive.parent / "serving" / "conf" / "pg_service.conf")
    try:
        assert map_server.get(f"/wmts/{TABLE}/WMTSCapabilities.xml").status_code == 404
    finally:
        path.unlink()


# The database


def test_response_is_503_while_the_database_is_stopped(map_server: MapServer, cluster: Cluster) -> None:
    """Maps were exceptions with status 200, so monitoring and caches took them for pictures."""
    addresses = [get_map(), get_map(layers=f"{NAME}_index"), TILE, get_feature("2.0.0", "OUTPUTFORMAT=geojson"), ITEMS]
    addresses += [
        "/tiles/catalog/12/935/1686.png",
        f"/?map=/mapfiles/{TABLE}.map&mode=tile&tilemode=gmap&tile=3743+6745+14&layers={NAME}",
    ]
    cluster.stop()
    try:
        for address in addresses:
            response = map_server.get(address)
            assert (response.status_code, response.headers["cache-control"]) == (503, "no-store"), (address, response.text)
            assert "try again" in response.text
    finally:
        cluster.start()
    time.sleep(1.5)
    for address in addresses[:5] * 3:
        assert map_server.get(address).status_code == 200, address


def test_request_after_a_broken_connection_is_503_and_the_next_a_map(map_server: MapServer, cluster: Cluster) -> None:
    """The first request of a worker whose connection had just broken was an exception with status 200."""
    break_connections = text(
        "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE usename = 'mapserver' AND pid <> pg_backend_pid()"
    )
    administrator = create_engine(cluster.admin_url)
    for _ in range(3):
        for _worker in map_server.workers():
            assert map_server.get(get_map()).status_code == 200
        with administrator.connect() as connection:
            assert connection.execute(break_connections).scalars().all()
        # A worker that was replaced meanwhile has a new connection.
        response = map_server.get(get_map())
        is_map = (response.status_code, response.headers["content-type"]) == (200, "image/png")
        assert is_map or response.status_code == 503, response.text
        wait_until_healthy(map_server.client, map_server.config.health_url)
        time.sleep(1.5)
        assert map_server.get(get_map()).headers["content-type"] == "image/png"
    administrator.dispose()


# Limits


@contextmanager
def front_end(database: IndexDatabase, home: Path, **options: object) -> Iterator[tuple[ServingConfig, httpx.Client]]:
    """nginx and one worker over an empty archive."""
    archive = home / "archive"
    arguments = {"port": find_free_port(), "mapfiles_dir": archive / "mapfiles", "workers": 1, "database": database.service}
    config = write_config(home / "serving", **(arguments | options))  # type: ignore[arg-type]
    with ExitStack() as stack:
        log = stack.enter_context((home / "processes.log").open("wb"))
        stack.enter_context(running(config.workers_argv, log))
        stack.enter_context(running(config.nginx_argv, log))
        client = stack.enter_context(httpx.Client(base_url=config.base_url, timeout=30))
        wait_until_healthy(client, config.health_url)
        yield config, client


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ls4-front-end-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


CATALOG = "/wms/catalog?SERVICE=WMS&REQUEST=GetCapabilities"


def statuses(client: httpx.Client, count: int, address: str = CATALOG, **headers: str) -> list[int]:
    return [client.get(address, headers=headers).status_code for _ in range(count)]


def test_client_that_sends_too_many_requests_gets_429_and_others_do_not(index_database: IndexDatabase, home: Path) -> None:
    with front_end(index_database, home, client_rate=1, proxies=["127.0.0.1"]) as (_, client):
        first = {"X-Forwarded-For": "198.51.100.7"}
        assert {200, 429} == set(statuses(client, 20, **first))
        limited = client.get(CATALOG, headers=first)
        assert limited.status_code == 429 and limited.headers["retry-after"] == "1" and "wait" in limited.text
        assert statuses(client, 3, **{"X-Forwarded-For": "198.51.100.8"}) == [200] * 3
        # The page is not limited, and an address before the last untrusted one may be invented.
        assert client.get("/", headers=first).status_code == 200
        assert 429 in statuses(client, 3, **{"X-Forwarded-For": "203.0.113.1, 198.51.100.7"})


def test_health_check_is_limited_and_counted_alone(index_database: IndexDatabase, home: Path) -> None:
    """Anybody could occupy the workers with requests to /health, which had no limit."""
    with front_end(index_database, home, client_rate=1, proxies=["127.0.0.1"]) as (_, client):
        checker, other = ({"X-Forwarded-For": f"198.51.100.{number}"} for number in (7, 8))
        assert {200, 429} == set(statuses(client, 20, "/health", **checker))
        assert client.get(CATALOG, headers=checker).status_code == 200
        assert 429 in statuses(client, 20, **other)
        assert client.get("/health", headers=other).status_code == 200


def test_addresses_of_one_ipv6_network_are_one_client(index_database: IndexDatabase, home: Path) -> None:
    with front_end(index_database, home, client_rate=1, proxies=["127.0.0.1"]) as (_, client):
        spread = [client.get(CATALOG, headers={"X-Forwarded-For": f"2001:db8::{n:x}:1"}).status_code for n in range(12)]
        assert 429 in spread
        assert client.get(CATALOG, headers={"X-Forwarded-For": "2001:db8:0:1::1"}).status_code == 200


def test_ipv4_addresses_that_come_as_ipv6_are_clients_of_their_own(index_database: IndexDatabase, home: Path) -> None:
    """Behind a load balancer with IPv6, all clients with IPv4 were one client."""
    with front_end(index_database, home, client_rate=1, proxies=["127.0.0.1"]) as (_, client):
        assert 429 in statuses(client, 20, **{"X-Forwarded-For": "::ffff:198.51.100.7"})
        assert client.get(CATALOG, headers={"X-Forwarded-For": "198.51.100.7"}).status_code == 429
        assert statuses(client, 3, **{"X-Forwarded-For": "::ffff:198.51.100.8"}) == [200] * 3


def test_client_cannot_invent_an_address_without_a_load_balancer(index_database: IndexDatabase, home: Path) -> None:
    with front_end(index_database, home, client_rate=1) as (_, client):
        spread = [client.get(CATALOG, headers={"X-Forwarded-For": f"198.51.100.{n}"}).status_code for n in range(20)]
        assert 429 in spread


def test_limit_can_be_disabled(index_database: IndexDatabase, home: Path) -> None:
    with front_end(index_database, home, client_rate=0) as (_, client):
        assert set(statuses(client, 30)) == {200}


def test_half_open_connections_do_not_close_the_front_end(map_server: MapServer) -> None:
    """1,100 connections with an unfinished header reset every other client."""
    port = int(map_server.config.base_url.rsplit(":", 1)[1])
    half_open = []
    try:
        for _ in range(1100):
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            half_open.append(connection)
        for _ in range(8):
            fresh = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            fresh.request("GET", "/")
            assert fresh.getresponse().status == 200
            fresh.close()
        time.sleep(11)
        with suppress(ConnectionResetError):
            assert half_open[0].recv(100) == b"", "nginx has not ended a connection whose header never came"
    finally:
        for connection in half_open:
            connection.close()
