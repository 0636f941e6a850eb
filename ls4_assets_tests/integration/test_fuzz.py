"""Fuzzing with thousands of requests: no 5xx, no lost worker, and no response with a file, a local path or a secret.

A seed generates the requests, so failures can be repeated. They are sent over a socket, because a client would normalize them.
"""

import random
import socket
from collections.abc import Iterator
from urllib.parse import quote, unquote_to_bytes

import pytest

from ls4_assets_tests.integration.serving_fixtures import (
    EXTENT,
    MIDDLE,
    NAME,
    TABLE,
    MapServer,
    index_database_fixture,  # noqa: F401
    left_half,
    map_server_fixture,  # noqa: F401
)
from ls4_assets_tests.platform import PASSWORDS

VALUES = (
    "", " ", "-1", "0", "1", "2147483648", "-9223372036854775809", "1e309", "NaN", "inf", "0x10", "1,2,3", ",,,,", "a" * 3000,
    "../../../../../../etc/passwd", "..\\..\\etc\\passwd", "/etc/passwd", "file:///etc/passwd", "/vsicurl/http://127.0.0.1:1/x",
    "/vsizip//etc/passwd", "%00", "\x7f", "%c0%ae%c0%ae/", "é", "%", "%%%", "%s%n%x", "${HOME}", "$(id)", "`id`", "{z}",
    "'", "' OR '1'='1", "1; DROP TABLE travis_usda_1958_frames", "\\'", '"', "<script>alert(1)</script>", "<!DOCTYPE x>",
    "]]>", "&amp;", "+", "map=health.map", "health", "catalog", "mapserver.conf", "pg_service.conf", TABLE, NAME, f"{NAME}_index",
    f"{NAME}_tileindex", f"{NAME}_overview", "all", "default", "EPSG:4326", "EPSG:0", "EPSG:99999999", "AUTO2:42001,1,-97,30",
    "CRS:84", "urn:ogc:def:crs:EPSG::3857", "image/png", "image/tiff", "application/json", "text/html", "mvt", "utfgrid", "png",
    ",".join(map(str, EXTENT)), "-1e30,-1e30,1e30,1e30", "0,0,0,0", "1,1,-1,-1", "-20037508,-20037508,20037508,20037508",
    "http://127.0.0.1:1/x.sld", "<StyledLayerDescriptor version='1.0.0'/>", "[shape]", "(1=1)", "([oid] > 0)", "layer[0]",
)  # fmt: skip
NAMES = (
    "SERVICE", "VERSION", "REQUEST", "LAYERS", "LAYER", "STYLES", "STYLE", "SRS", "CRS", "BBOX", "WIDTH", "HEIGHT", "FORMAT",
    "TRANSPARENT", "BGCOLOR", "EXCEPTIONS", "TIME", "ELEVATION", "QUERY_LAYERS", "INFO_FORMAT", "X", "Y", "I", "J",
    "FEATURE_COUNT", "SLD", "SLD_BODY", "FILTER", "RULE", "ANGLE", "map", "MAP", "mode", "tile", "tilemode", "layers", "layer",
    "qlayer", "qstring", "qitem", "queryfile", "savequery", "imgext", "imgxy", "img", "mapext", "mapxy", "mapsize", "zoom",
    "zoomdir", "template", "context", "id", "outline", "year", "collection", "map.imagetype", "map.layer[0]", "map_web",
    "map_resolution", "map.config", "map.projection", "map_layer_data", "map.layer[x].data", "map.web.template", "TYPENAME",
    "TYPENAMES", "OUTPUTFORMAT", "PROPERTYNAME", "MAXFEATURES", "STARTINDEX", "COVERAGE", "IDENTIFIER", "f", "limit", "offset",
    "bbox", "crs", "bbox-crs", "filter", "v", "MAP_IMAGETYPE", "DIM_X", "icon", "shapepath", "class", "coordsys", "buffer",
)  # fmt: skip
REQUESTS = {
    "SERVICE": ("WMS", "WFS", "WCS", "SOS", "wms"),
    "VERSION": ("1.0.0", "1.1.0", "1.1.1", "1.3.0", "2.0.0", "2.0.1"),
    "REQUEST": (
        "GetMap", "GetCapabilities", "GetFeatureInfo", "GetLegendGraphic", "GetStyles", "DescribeLayer", "GetMetadata", "map",
        "capabilities", "feature_info", "GetFeature", "DescribeFeatureType", "GetPropertyValue", "GetSchemaExtension",
        "GetContext",
    ),
    "mode": ("tile", "map", "browse", "query", "nquery", "itemquery", "legend", "zoomin", "coordinate", "featurequery",
    "indexquery"),
}  # fmt: skip
VALID = {
    "LAYERS": NAME, "QUERY_LAYERS": f"{NAME}_index", "LAYER": f"{NAME}_index", "STYLES": "", "SRS": "EPSG:3857",
    "CRS": "EPSG:3857",
    "BBOX": f"{left_half('02-08-60_6-107') - 100},{MIDDLE - 100},{left_half('02-08-60_6-107') + 100},{MIDDLE + 100}",
    "WIDTH": "64", "HEIGHT": "64", "FORMAT": "image/png", "X": "5", "Y": "5", "I": "5", "J": "5", "INFO_FORMAT": "text/plain",
    "TYPENAME": f"{NAME}_index", "tilemode": "gmap", "tile": "7488+13490+15", "layers": "all", "map.imagetype": "png",
}  # fmt: skip
PATHS = (
    "/", "/wms", "/wms/", f"/wms/{TABLE}", f"/wms/{TABLE}/", "/wms/catalog", "/wms/health", f"/tiles/{TABLE}/tilejson.json",
    f"/wmts/{TABLE}/WMTSCapabilities.xml", f"/wmts/{TABLE}", f"/ogcapi/{TABLE}", f"/ogcapi/{TABLE}/collections",
    "/ogcapi/catalog",
    f"/ogcapi/{TABLE}/collections/{NAME}_index/items", f"/ogcapi/{TABLE}/api", "/ogcapi/catalog/collections/collections/items",
    "/collections.json", "/health", "/mapserv/map", "/mapserv/tile", "/mapserv/features", "/mapserv/document.tilejson",
    "/assets/x",
    "/archive/bw/Travis/USDA_1958/frames/cog/x.tif", "/archive/derived/x/y", "/archive/mapfiles/x.map",
    "/tiles/catalog/1/1/1.png",
)  # fmt: skip


def requests(seed: int, count: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(count):
        yield f"{_path(rng)}?{_query(rng)}" if rng.random() < 0.85 else _path(rng)


def _path(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(PATHS)
    values = [quote(rng.choice(VALUES), safe=rng.choice(("", "/.%"))) for _ in range(4)]
    numbers = [str(rng.choice((0, 1, 3, 12, 15, 24, 25, 99, 7488, 13490, 99999999))) for _ in range(3)]
    return rng.choice(
        (
            f"/tiles/{TABLE}/{'/'.join(numbers)}.png",
            f"/tiles/{TABLE}/{numbers[0]}/{values[0]}/{values[1]}.png",
            f"/tiles/{values[0]}/{'/'.join(numbers)}@2x.png",
            f"/wms/{values[0]}",
            f"/wmts/{values[0]}/WMTSCapabilities.xml",
            f"/ogcapi/{TABLE}/{values[0]}/{values[1]}/{values[2]}",
            f"/ogcapi/{TABLE}/collections/{values[0]}/items/{values[1]}",
            f"/ogcapi/{TABLE}/collections/{NAME}_index/items/{values[0]}",
            f"/ogcapi/{values[0]}",
            f"/archive/{values[0]}/{values[1]}/{values[2]}",
            f"/archive/derived/{values[0]}/../../{values[1]}",
            f"/{values[0]}/{values[1]}",
        )
    )


def _query(rng: random.Random) -> str:
    parameters: list[tuple[str, str]] = []
    if rng.random() < 0.7:
        request = {name: rng.choice(values) for name, values in REQUESTS.items()}
        request.pop("mode" if rng.random() < 0.7 else "REQUEST")
        parameters = list((request | VALID).items())
    for _ in range(rng.randrange(4)):
        name, value = rng.choice(NAMES), rng.choice(VALUES)
        parameters = [pair for pair in parameters if pair[0] != name or rng.random() < 0.2] + [(name, value)]
    if rng.random() < 0.3:
        parameters.insert(0, ("map", rng.choice((f"/mapfiles/{TABLE}.map", f"{TABLE}.map", *VALUES))))
    if rng.random() < 0.3:
        rng.shuffle(parameters)
    safe = rng.choice(("", "/:,", "/:,%+"))
    return "&".join(f"{name}={quote(value, safe=safe)}" for name, value in parameters)


def send(map_server: MapServer, address: str, header: str = "") -> tuple[int, bytes]:
    port = int(map_server.config.base_url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"GET {address} HTTP/1.0\r\nHost: localhost\r\n{header}\r\n".encode())
        response = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    return int(response.split(None, 2)[1]), response


def fuzz(map_server: MapServer, seed: int, count: int) -> None:
    before = map_server.workers()
    home = str(map_server.archive.parent)
    forbidden = (b"root:x:", b"CONNECTION", b"service=ls4", b"TILEITEM", b"connect_timeout", home.encode(), b"/usr/",
                 b"pg_service", b"SELECT ", b"/vsis3/", PASSWORDS["mapserver"].encode(), b"MapServer version",
                 b"8.0.0")  # fmt: skip
    statuses = set()
    for number, address in enumerate(requests(seed, count)):
        header = ("", "Cookie: map=/etc/passwd\r\n", "X-Forwarded-Host: evil.example.org\r\n", "Accept: text/html\r\n")[
            number % 4
        ]
        status, response = send(map_server, address, header)
        assert status < 500, (address, response[-500:])
        leaked = [word for word in forbidden if word in response and word not in unquote_to_bytes(address)]
        assert not leaked, (leaked, address, response[-1500:])
        assert b"evil.example.org" not in response, address
        statuses.add(status)
    assert {200, 400, 404} <= statuses, "some requests must get past nginx"
    assert map_server.workers() == before, "a worker was lost"
    assert map_server.color_at(left_half("02-08-60_6-108"), MIDDLE) == (255, 255, 255, 255)


@pytest.mark.timeout(180)
def test_three_hundred_random_requests(map_server: MapServer) -> None:
    fuzz(map_server, seed=1958, count=300)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_random_requests(map_server: MapServer, seed: int) -> None:
    fuzz(map_server, seed, count=1500)
