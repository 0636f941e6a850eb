"""XYZ tiles, TileJSON and WMTS through the real front: their pixels, what caches may keep of them, and what they never keep."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
import rasterio
from owslib.wmts import WebMapTileService  # type: ignore[import-untyped]
from PIL import Image
from rasterio.windows import from_bounds
from sqlalchemy import text

from ls4_assets.local.state import free_port
from ls4_assets_tests.integration.serving_fixtures import (
    BLACK,
    EXTENT,
    FRAMES,
    LEFT,
    MIDDLE,
    NAME,
    RESOLUTION,
    SPAN,
    TABLE,
    TOP,
    WHITE,
    IndexDatabase,
    Served,
    cog_path,
    index_database_fixture,  # noqa: F401
    left_half,
    rgba,
    running,
    served_fixture,  # noqa: F401
    write_cog,
)
from mapserver.config import write_config
from mapserver.rendering import Extent
from mapserver.tiles import HALF, TileSet, documents

pytestmark = pytest.mark.timeout(120)

TILES = TileSet(NAME, TABLE, "Travis Usda 1958 Frames", EXTENT, RESOLUTION, version=7)
A_DAY = "public, max-age=86400, immutable"
A_MINUTE = "public, max-age=60"


def publish(archive: Path, version: int) -> None:
    for suffix, document in documents(replace(TILES, version=version)).items():
        path = archive / "mapfiles" / f"{TABLE}{suffix}"
        fresh = path.with_suffix(".new")
        fresh.write_text(document)
        fresh.replace(path)


@pytest.fixture(name="front")
def front_fixture(served: Served) -> Iterator[Served]:
    """The served collection, published as tiles in a version that no other test has."""
    publish(served.archive, next(VERSIONS))
    yield served
    for suffix in documents(TILES):
        (served.archive / "mapfiles" / f"{TABLE}{suffix}").unlink(missing_ok=True)


VERSIONS = iter(range(100, 10_000, 100))


def version(front: Served) -> int:
    return int(front.get(f"/tiles/{TABLE}/tilejson.json").json()["version"].split(".")[1])


def tile_of(x: float, y: float, zoom: int) -> str:
    side = 2 * HALF / 2**zoom
    return f"/tiles/{TABLE}/{zoom}/{int((x + HALF) / side)}/{int((HALF - y) / side)}.png"


def box_of(address: str) -> Extent:
    zoom, x, y = (int(part) for part in address.removesuffix(".png").rsplit("/", 3)[1:])
    side = 2 * HALF / 2**zoom
    return (x * side - HALF, HALF - (y + 1) * side, (x + 1) * side - HALF, HALF - y * side)


HERE = tile_of(left_half(BLACK), MIDDLE, 15)


# --- pixels


@pytest.mark.parametrize("zoom", [10, 13, 15, 17, 20])
def test_a_tile_has_the_pixels_of_the_map_at_its_place(front: Served, zoom: int) -> None:
    address = tile_of(LEFT + SPAN / 2, MIDDLE, zoom)
    pixels = rgba(front.get(address))
    assert (pixels[..., 3] == 255).any()
    west, south, east, north = box_of(address)
    assert np.array_equal(pixels, front.get_map((west, south, east, north), (east - west) / 256))
    double = rgba(front.get(address.replace(".png", "@2x.png")))
    assert np.array_equal(double, front.get_map((west, south, east, north), (east - west) / 512))


def test_where_nothing_is_a_tile_is_transparent_and_no_worker_is_asked(front: Served) -> None:
    answer = front.get(f"/tiles/{TABLE}/15/1/1.png?v={version(front)}")
    assert (rgba(answer)[..., 3] == 0).all() and answer.content and rgba(answer).shape == (256, 256, 4)
    assert "x-cache-status" not in answer.headers
    assert answer.headers["cache-control"] == A_DAY


@pytest.mark.parametrize("place", ["3/8/1", "3/1/8", "0/1/0", "25/1/1", "99/1/1", "24/99999999/1"])
def test_a_place_that_is_no_tile_is_a_404(front: Served, place: str) -> None:
    answer = front.get(f"/tiles/{TABLE}/{place}.png")
    assert answer.status_code == 404 and answer.headers["cache-control"] == "no-store"


def test_tiles_without_a_tilejson_are_drawn_and_not_kept(served: Served) -> None:
    """An archive whose maps were published before there were tiles."""
    for _ in range(2):
        answer = served.get(f"{HERE}?v=1")
        assert (rgba(answer)[..., 3] == 255).any()
        assert answer.headers["x-cache-status"] == "BYPASS" and answer.headers["cache-control"] == A_MINUTE
    assert "etag" not in answer.headers


# --- what may be kept


def test_only_the_version_in_force_is_kept_for_good(front: Served) -> None:
    now = version(front)
    assert front.get(f"{HERE}?v={now}").headers["cache-control"] == A_DAY
    for other in ("", f"?v={now - 1}", f"?v={now + 1}", "?v=x", "?v=", f"?w={now}"):
        assert front.get(f"{HERE}{other}").headers["cache-control"] == A_MINUTE


def test_a_tile_is_drawn_once_and_a_new_version_is_drawn_anew(front: Served, index_database: IndexDatabase) -> None:
    now = version(front)
    assert front.get(f"{HERE}?v={now}").headers["x-cache-status"] == "MISS"
    for address in (f"{HERE}?v={now}", HERE):
        answer = front.get(address)
        assert answer.headers["x-cache-status"] == "HIT"
        assert rgba(answer)[128, 128].tolist() == [0, 0, 0, 255]
    fresh = cog_path(front.archive, BLACK).with_name("again.tif")
    write_cog(fresh, FRAMES[BLACK][0], ((33,), (44,)))
    moved = text(f"UPDATE {TABLE} SET served_location = :path WHERE frame_num = '107'")
    with index_database.owner.begin() as connection:
        connection.execute(moved, {"path": str(fresh)})
    try:
        publish(front.archive, now + 1)
        for address in (f"{HERE}?v={now + 1}", HERE, f"{HERE}?v={now}"):
            answer = front.get(address)
            assert rgba(answer)[128, 128].tolist() == [33, 33, 33, 255]
            assert (answer.headers["cache-control"] == A_DAY) == address.endswith(str(now + 1))
    finally:
        with index_database.owner.begin() as connection:
            connection.execute(moved, {"path": str(cog_path(front.archive, BLACK))})


def test_whoever_holds_a_tile_of_this_version_is_told_so(front: Served) -> None:
    answer = front.get(HERE)
    tag = answer.headers["etag"]
    for held in (tag, f"W/{tag}", f'"1", {tag}'):
        same = front.get(HERE, **{"If-None-Match": held})
        assert same.status_code == 304 and same.headers["etag"] == tag and same.headers["cache-control"] == A_MINUTE
    publish(front.archive, version(front) + 1)
    assert front.get(HERE, **{"If-None-Match": tag}).status_code == 200


def test_an_exception_is_kept_by_nobody(front: Served, index_database: IndexDatabase) -> None:
    """MapServer tells of it with status 200: the blank or broken picture stayed in caches until they were emptied."""
    with index_database.owner.begin() as connection:
        connection.execute(text(f"ALTER TABLE {TABLE} RENAME TO away"))
    try:
        now = version(front)
        for address in (HERE, f"{HERE}?v={now}"):
            answer = front.get(address)
            assert "ServiceException" in answer.text and answer.headers["cache-control"] == "no-store"
            assert "etag" not in answer.headers
        whole = {"WIDTH": "9", "HEIGHT": "9", "BBOX": ",".join(map(str, EXTENT)), "SRS": "EPSG:3857", "FORMAT": "image/png"}
        exception = front.wms("GetMap", LAYERS=NAME, STYLES="", **whole)
        assert "ServiceException" in exception.text and exception.headers["cache-control"] == "no-store"
    finally:
        with index_database.owner.begin() as connection:
            connection.execute(text(f"ALTER TABLE away RENAME TO {TABLE}"))
    assert (rgba(front.get(f"{HERE}?v={now}"))[..., 3] == 255).any()


def test_what_may_be_kept_of_everything_else(front: Served) -> None:
    place = f"WIDTH=50&HEIGHT=20&BBOX={','.join(map(str, EXTENT))}&SRS=EPSG:3857&STYLES=&FORMAT=image/png"
    key = cog_path(front.archive, WHITE).relative_to(front.archive)
    kept = {
        "/": "no-cache",
        "/collections.json": "no-cache",
        f"/tiles/{TABLE}/tilejson.json": "no-cache",
        f"/wmts/{TABLE}/WMTSCapabilities.xml": "no-cache",
        f"/ogcapi/{TABLE}/collections?f=json": "no-cache",
        f"/wms/{TABLE}?service=WMS&version=1.3.0&request=getcapabilities": "no-cache",
        f"/?map=/mapfiles/{TABLE}.map&SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap&LAYERS={NAME}&{place}": A_MINUTE,
        f"/wms/{TABLE}?SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap&LAYERS=nothing&{place}": "no-store",
        f"/wms/{TABLE}": "no-store",
        f"/archive/{key}": A_MINUTE,
        "/archive/bw/Travis/USDA_1958/frames/cog/none.tif": "no-store",
        "/nothing": "no-store",
    }
    assert {address: front.get(address).headers["cache-control"] for address in kept} == kept


def test_a_head_request_tells_the_same_and_spoils_no_cache(front: Served) -> None:
    assert front.client.head(HERE).status_code == 200
    assert (rgba(front.get(HERE))[..., 3] == 255).any()
    assert front.client.head(f"/wms/{TABLE}?SERVICE=WMS&REQUEST=GetCapabilities").headers["content-type"].startswith("text/xml")


# --- documents


def test_the_tilejson_leads_to_tiles(front: Served) -> None:
    answer = front.get(f"/tiles/{TABLE}/tilejson.json")
    assert answer.headers["content-type"].startswith("application/json")
    template = answer.json()["tiles"][0]
    assert template.startswith(f"{front.config.base_url}/tiles/{TABLE}/")
    longitude, latitude, zoom = answer.json()["center"]
    x, y = longitude / 180 * HALF, np.arcsinh(np.tan(np.radians(latitude))) / np.pi * HALF
    place = tile_of(x, y, zoom).removesuffix(".png").rsplit("/", 3)[1:]
    tile = httpx.get(template.format(**dict(zip("zxy", place, strict=True))), trust_env=False)
    assert (rgba(tile)[..., 3] == 255).any() and tile.headers["cache-control"] == A_DAY


@pytest.mark.parametrize("path", ["WMTSCapabilities.xml", "1.0.0/WMTSCapabilities.xml"])
def test_a_wmts_client_gets_tiles(front: Served, path: str) -> None:
    service = WebMapTileService(f"{front.config.base_url}/wmts/{TABLE}/{path}")
    limits = service[NAME].tilematrixsetlinks["GoogleMapsCompatible"].tilematrixlimits["13"]
    tile = service.gettile(layer=NAME, tilematrixset="GoogleMapsCompatible", tilematrix="13", format="image/png",
                           row=limits.mintilerow, column=limits.mintilecol)  # fmt: skip
    assert Image.open(BytesIO(tile.read())).size == (256, 256)


def test_gdal_reads_the_wmts_as_a_raster_at_its_place(front: Served) -> None:
    """What QGIS and ArcGIS do with the address: capabilities, limits and tiles must agree."""
    warnings.simplefilter("ignore", PendingDeprecationWarning)
    address = f"WMTS:{front.config.base_url}/wmts/{TABLE}/WMTSCapabilities.xml"
    x, y = left_half(WHITE), MIDDLE
    with rasterio.open(address) as dataset:
        assert dataset.crs.to_epsg() == 3857
        window = from_bounds(x - 20, y - 20, x + 20, y + 20, dataset.transform)
        pixels = dataset.read(window=window)
    assert (pixels == 255).all()
    left, bottom, right, top = EXTENT
    assert dataset.bounds.left <= left + 1 and dataset.bounds.right >= right - 1
    assert dataset.bounds.bottom <= bottom + 1 and dataset.bounds.top >= top - 1


def test_a_withdrawn_map_takes_its_tiles_and_documents_along(front: Served) -> None:
    """The mapfile goes first; whatever lies beside it then leads nowhere."""
    mapfile = front.archive / "mapfiles" / f"{TABLE}.map"
    assert front.get(HERE).headers["x-cache-status"] == "MISS"
    held = mapfile.read_text()
    mapfile.unlink()
    try:
        for address in (HERE, f"/tiles/{TABLE}/tilejson.json", f"/wmts/{TABLE}/WMTSCapabilities.xml"):
            assert front.get(address).status_code == 404
    finally:
        mapfile.write_text(held)


# --- addresses


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ({"Host": "maps.example.org"}, "http://maps.example.org"),
        ({"Host": "maps.example.org:8443"}, "http://maps.example.org:8443"),
        ({"Host": "[::1]:8080"}, "http://[::1]:8080"),
        ({"Host": 'x"><script>'}, "http://localhost"),
        ({"Host": "a", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example.org"}, "http://a"),
    ],
)
def test_addresses_are_those_that_were_asked(front: Served, headers: dict[str, str], origin: str) -> None:
    assert front.get(f"/tiles/{TABLE}/tilejson.json", **headers).json()["tiles"][0].startswith(f"{origin}/tiles/{TABLE}/")
    links = front.get(f"/ogcapi/{TABLE}?f=json", **headers).json()["links"]
    assert links and all(link["href"].startswith(f"{origin}/ogcapi/{TABLE}") for link in links)
    capabilities = front.get(f"/wms/{TABLE}?SERVICE=WMS&REQUEST=GetCapabilities", **headers).text
    assert f'xlink:href="{origin}/wms/{TABLE}?' in capabilities


def test_a_load_balancer_is_believed_when_it_is_one_of_ours(index_database: IndexDatabase) -> None:
    with tempfile.TemporaryDirectory(prefix="ls4-front-") as home, ExitStack() as stack:
        Path(home).chmod(0o755)
        mapfiles = Path(home) / "mapfiles"
        config = write_config(
            Path(home) / "run", port=free_port(), mapfiles_dir=mapfiles, database=index_database.service, proxies=["127.0.0.0/8"]
        )
        (mapfiles / f"{TABLE}.map").touch()
        publish(Path(home), 1)
        log = stack.enter_context((Path(home) / "log").open("wb"))
        stack.enter_context(running(config.nginx_argv, log))
        client = stack.enter_context(
            httpx.Client(base_url=config.base_url, transport=httpx.HTTPTransport(retries=5), trust_env=False)
        )
        for headers, origin in (
            ({"X-Forwarded-Proto": "https", "X-Forwarded-Host": "maps.example.org"}, "https://maps.example.org"),
            ({"X-Forwarded-Proto": "https", "Host": "maps.example.org"}, "https://maps.example.org"),
            ({"X-Forwarded-Proto": "javascript", "X-Forwarded-Host": 'x"y'}, "http://localhost"),
        ):
            answer = client.get(f"/tiles/{TABLE}/tilejson.json", headers=headers)
            assert answer.json()["tiles"][0].startswith(f"{origin}/tiles/")


def test_extent_and_bounds_agree_with_the_drawn_frames(front: Served) -> None:
    """The tiles around the edge of the bounds are drawn, not called empty."""
    edge = tile_of(EXTENT[0] + 1, TOP - 1, 17)
    assert "x-cache-status" in front.get(edge).headers
