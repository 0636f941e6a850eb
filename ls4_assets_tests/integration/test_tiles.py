"""XYZ tiles, TileJSON and WMTS through nginx and mapserv: their pixels, caching and documents."""

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

from ls4_assets.local.state import find_free_port
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
    MapServer,
    cog_path,
    index_database_fixture,  # noqa: F401
    left_half,
    map_server_fixture,  # noqa: F401
    rgba,
    running,
    write_cog,
)
from mapserver.config import write_config
from mapserver.rendering import Extent
from mapserver.tiles import HALF_WORLD_METERS, TileSet, render_documents

pytestmark = pytest.mark.timeout(120)

TILES = TileSet(NAME, TABLE, "Travis Usda 1958 Frames", EXTENT, RESOLUTION, version=7)
A_DAY = "public, max-age=86400, immutable"
A_MINUTE = "public, max-age=60"


def publish(archive: Path, version: int) -> None:
    for suffix, document in render_documents(replace(TILES, version=version)).items():
        path = archive / "mapfiles" / f"{TABLE}{suffix}"
        fresh = path.with_suffix(".new")
        fresh.write_text(document)
        fresh.replace(path)


@pytest.fixture(name="web")
def web_fixture(map_server: MapServer) -> Iterator[MapServer]:
    """The map server, with tiles of its collection published in a version that no other test uses."""
    publish(map_server.archive, next(VERSIONS))
    yield map_server
    for suffix in render_documents(TILES):
        (map_server.archive / "mapfiles" / f"{TABLE}{suffix}").unlink(missing_ok=True)


VERSIONS = iter(range(100, 10_000, 100))


def current_version(web: MapServer) -> int:
    return int(web.get(f"/tiles/{TABLE}/tilejson.json").json()["version"].split(".")[1])


def tile_address(x: float, y: float, zoom: int, extension: str = "png") -> str:
    side = 2 * HALF_WORLD_METERS / 2**zoom
    return f"/tiles/{TABLE}/{zoom}/{int((x + HALF_WORLD_METERS) / side)}/{int((HALF_WORLD_METERS - y) / side)}.{extension}"


def tile_extent(address: str) -> Extent:
    zoom, x, y = (int(part) for part in address.removesuffix(".png").rsplit("/", 3)[1:])
    side = 2 * HALF_WORLD_METERS / 2**zoom
    return (
        x * side - HALF_WORLD_METERS,
        HALF_WORLD_METERS - (y + 1) * side,
        (x + 1) * side - HALF_WORLD_METERS,
        HALF_WORLD_METERS - y * side,
    )


BLACK_TILE = tile_address(left_half(BLACK), MIDDLE, 15)


# Pixels


@pytest.mark.parametrize("zoom", [10, 13, 15, 17, 20])
def test_tile_has_the_pixels_of_the_map(web: MapServer, zoom: int) -> None:
    address = tile_address(LEFT + SPAN / 2, MIDDLE, zoom)
    pixels = rgba(web.get(address))
    assert (pixels[..., 3] == 255).any()
    west, south, east, north = tile_extent(address)
    assert np.array_equal(pixels, web.get_map((west, south, east, north), (east - west) / 256))
    double = rgba(web.get(address.replace(".png", "@2x.png")))
    assert np.array_equal(double, web.get_map((west, south, east, north), (east - west) / 512))


@pytest.mark.parametrize("zoom", [13, 15, 17])
@pytest.mark.parametrize("scale", ["", "@2x"])
def test_webp_tile_has_the_pixels_and_the_alpha_of_the_png(web: MapServer, zoom: int, scale: str) -> None:
    address = tile_address(LEFT + SPAN / 2, MIDDLE, zoom)
    png = rgba(web.get(address.replace(".png", f"{scale}.png"))).astype(int)
    response = web.get(address.replace(".png", f"{scale}.webp"))
    webp = rgba(response).astype(int)
    assert response.headers["content-type"] == "image/webp" and Image.open(BytesIO(response.content)).format == "WEBP"
    assert np.array_equal(png[..., 3], webp[..., 3]) and (png[..., 3] == 255).any()
    opaque = png[..., 3] == 255
    assert np.abs(png - webp)[opaque].mean() < 1


def test_png_and_webp_do_not_share_a_cache_entry(web: MapServer) -> None:
    """With the cache key of PNG tiles alone, the second format would get the picture of the first."""
    png = web.get(BLACK_TILE)
    webp = [web.get(BLACK_TILE.replace(".png", ".webp")) for _ in range(2)]
    again = web.get(BLACK_TILE)
    assert png.headers["content-type"] == again.headers["content-type"] == "image/png" and png.content == again.content
    assert [each.headers["content-type"] for each in webp] == ["image/webp"] * 2
    assert [each.headers["x-cache-status"] for each in webp] == ["MISS", "HIT"]


@pytest.mark.parametrize("extension", ["png", "webp"])
def test_tile_outside_the_bounds_is_transparent_and_reaches_no_worker(web: MapServer, extension: str) -> None:
    response = web.get(f"/tiles/{TABLE}/15/1/1.{extension}?v={current_version(web)}")
    assert response.headers["content-type"] == f"image/{extension}"
    assert (rgba(response)[..., 3] == 0).all() and response.content and rgba(response).shape == (256, 256, 4)
    assert "x-cache-status" not in response.headers
    assert response.headers["cache-control"] == A_DAY


@pytest.mark.parametrize("place", ["3/8/1", "3/1/8", "0/1/0", "25/1/1", "99/1/1", "24/99999999/1"])
def test_invalid_tile_position_is_a_404(web: MapServer, place: str) -> None:
    response = web.get(f"/tiles/{TABLE}/{place}.png")
    assert response.status_code == 404 and response.headers["cache-control"] == "no-store"


def test_tiles_without_a_tilejson_are_drawn_and_not_cached(map_server: MapServer) -> None:
    """The case of maps that were published before ls4 had tiles."""
    for _ in range(2):
        response = map_server.get(f"{BLACK_TILE}?v=1")
        assert (rgba(response)[..., 3] == 255).any()
        assert response.headers["x-cache-status"] == "BYPASS" and response.headers["cache-control"] == A_MINUTE
    assert "etag" not in response.headers


# Caching


@pytest.mark.parametrize("extension", ["png", "webp"])
def test_only_the_current_version_is_cached_for_a_day(web: MapServer, extension: str) -> None:
    version, address = current_version(web), BLACK_TILE.replace("png", extension)
    assert web.get(f"{address}?v={version}").headers["cache-control"] == A_DAY
    for other in ("", f"?v={version - 1}", f"?v={version + 1}", "?v=x", "?v=", f"?w={version}"):
        assert web.get(f"{address}{other}").headers["cache-control"] == A_MINUTE


def test_tile_is_drawn_once_per_version(web: MapServer, index_database: IndexDatabase) -> None:
    version = current_version(web)
    assert web.get(f"{BLACK_TILE}?v={version}").headers["x-cache-status"] == "MISS"
    for address in (f"{BLACK_TILE}?v={version}", BLACK_TILE):
        response = web.get(address)
        assert response.headers["x-cache-status"] == "HIT"
        assert rgba(response)[128, 128].tolist() == [0, 0, 0, 255]
    replacement = cog_path(web.archive, BLACK).with_name("again.tif")
    write_cog(replacement, FRAMES[BLACK][0], ((33,), (44,)))
    update = text(f"UPDATE {TABLE} SET served_location = :path WHERE frame_num = '107'")
    with index_database.owner.begin() as connection:
        connection.execute(update, {"path": str(replacement)})
    try:
        publish(web.archive, version + 1)
        for address in (f"{BLACK_TILE}?v={version + 1}", BLACK_TILE, f"{BLACK_TILE}?v={version}"):
            response = web.get(address)
            assert rgba(response)[128, 128].tolist() == [33, 33, 33, 255]
            assert (response.headers["cache-control"] == A_DAY) == address.endswith(str(version + 1))
    finally:
        with index_database.owner.begin() as connection:
            connection.execute(update, {"path": str(cog_path(web.archive, BLACK))})


@pytest.mark.parametrize("extension", ["png", "webp"])
def test_etag_of_the_current_version_gives_304(web: MapServer, extension: str) -> None:
    address = BLACK_TILE.replace("png", extension)
    response = web.get(address)
    tag = response.headers["etag"]
    for header in (tag, f"W/{tag}", f'"1", {tag}'):
        not_modified = web.get(address, **{"If-None-Match": header})
        assert not_modified.status_code == 304 and not_modified.headers["etag"] == tag
        assert not_modified.headers["cache-control"] == A_MINUTE
    publish(web.archive, current_version(web) + 1)
    assert web.get(address, **{"If-None-Match": tag}).status_code == 200


def test_service_exception_is_not_cached(web: MapServer, index_database: IndexDatabase) -> None:
    """MapServer sends it with status 200: the broken response stayed in caches until they were emptied."""
    with index_database.owner.begin() as connection:
        connection.execute(text(f"ALTER TABLE {TABLE} RENAME TO away"))
    try:
        version = current_version(web)
        for address in (BLACK_TILE, f"{BLACK_TILE}?v={version}"):
            response = web.get(address)
            assert "ServiceException" in response.text and response.headers["cache-control"] == "no-store"
            assert "etag" not in response.headers
        parameters = {"WIDTH": "9", "HEIGHT": "9", "BBOX": ",".join(map(str, EXTENT)), "SRS": "EPSG:3857", "FORMAT": "image/png"}
        exception = web.wms("GetMap", LAYERS=NAME, STYLES="", **parameters)
        assert "ServiceException" in exception.text and exception.headers["cache-control"] == "no-store"
    finally:
        with index_database.owner.begin() as connection:
            connection.execute(text(f"ALTER TABLE away RENAME TO {TABLE}"))
    assert (rgba(web.get(f"{BLACK_TILE}?v={version}"))[..., 3] == 255).any()


def test_cache_control_of_all_other_responses(web: MapServer) -> None:
    place = f"WIDTH=50&HEIGHT=20&BBOX={','.join(map(str, EXTENT))}&SRS=EPSG:3857&STYLES=&FORMAT=image/png"
    key = cog_path(web.archive, WHITE).relative_to(web.archive)
    expected = {
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
    assert {address: web.get(address).headers["cache-control"] for address in expected} == expected


def test_head_request_does_not_corrupt_the_cache(web: MapServer) -> None:
    assert web.client.head(BLACK_TILE).status_code == 200
    assert (rgba(web.get(BLACK_TILE))[..., 3] == 255).any()
    assert web.client.head(f"/wms/{TABLE}?SERVICE=WMS&REQUEST=GetCapabilities").headers["content-type"].startswith("text/xml")


# Documents


def test_tilejson_links_to_tiles(web: MapServer) -> None:
    response = web.get(f"/tiles/{TABLE}/tilejson.json")
    assert response.headers["content-type"].startswith("application/json")
    template = response.json()["tiles"][0]
    assert template.startswith(f"{web.config.base_url}/tiles/{TABLE}/")
    longitude, latitude, zoom = response.json()["center"]
    x, y = longitude / 180 * HALF_WORLD_METERS, np.arcsinh(np.tan(np.radians(latitude))) / np.pi * HALF_WORLD_METERS
    place = tile_address(x, y, zoom).removesuffix(".png").rsplit("/", 3)[1:]
    png_template = web.get(f"/tiles/{TABLE}/tilejson.json?format=png").json()["tiles"][0]
    for address, media_type in ((template, "image/webp"), (png_template, "image/png")):
        tile = httpx.get(address.format(**dict(zip("zxy", place, strict=True))), trust_env=False)
        assert tile.headers["content-type"] == media_type
        assert (rgba(tile)[..., 3] == 255).any() and tile.headers["cache-control"] == A_DAY


@pytest.mark.parametrize("path", ["WMTSCapabilities.xml", "1.0.0/WMTSCapabilities.xml"])
def test_wmts_client_gets_tiles(web: MapServer, path: str) -> None:
    service = WebMapTileService(f"{web.config.base_url}/wmts/{TABLE}/{path}")
    limits = service[NAME].tilematrixsetlinks["GoogleMapsCompatible"].tilematrixlimits["13"]
    tile = service.gettile(layer=NAME, tilematrixset="GoogleMapsCompatible", tilematrix="13", format="image/png",
                           row=limits.mintilerow, column=limits.mintilecol)  # fmt: skip
    assert Image.open(BytesIO(tile.read())).size == (256, 256)


def test_gdal_reads_the_wmts_as_a_georeferenced_raster(web: MapServer) -> None:
    """QGIS and ArcGIS read it like this: capabilities, limits and tiles must agree."""
    warnings.simplefilter("ignore", PendingDeprecationWarning)
    address = f"WMTS:{web.config.base_url}/wmts/{TABLE}/WMTSCapabilities.xml"
    x, y = left_half(WHITE), MIDDLE
    with rasterio.open(address) as dataset:
        assert dataset.crs.to_epsg() == 3857
        window = from_bounds(x - 20, y - 20, x + 20, y + 20, dataset.transform)
        pixels = dataset.read(window=window)
    assert (pixels == 255).all()
    left, bottom, right, top = EXTENT
    assert dataset.bounds.left <= left + 1 and dataset.bounds.right >= right - 1
    assert dataset.bounds.bottom <= bottom + 1 and dataset.bounds.top >= top - 1


def test_withdrawn_map_has_no_tiles_and_documents(web: MapServer) -> None:
    """The mapfile is deleted first; its documents may still exist."""
    mapfile = web.archive / "mapfiles" / f"{TABLE}.map"
    assert web.get(BLACK_TILE).headers["x-cache-status"] == "MISS"
    text_before = mapfile.read_text()
    mapfile.unlink()
    try:
        for address in (BLACK_TILE, f"/tiles/{TABLE}/tilejson.json", f"/wmts/{TABLE}/WMTSCapabilities.xml"):
            assert web.get(address).status_code == 404
    finally:
        mapfile.write_text(text_before)


# Addresses


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
def test_documents_name_the_host_of_the_request(web: MapServer, headers: dict[str, str], origin: str) -> None:
    assert web.get(f"/tiles/{TABLE}/tilejson.json", **headers).json()["tiles"][0].startswith(f"{origin}/tiles/{TABLE}/")
    links = web.get(f"/ogcapi/{TABLE}?f=json", **headers).json()["links"]
    assert links and all(link["href"].startswith(f"{origin}/ogcapi/{TABLE}") for link in links)
    capabilities = web.get(f"/wms/{TABLE}?SERVICE=WMS&REQUEST=GetCapabilities", **headers).text
    assert f'xlink:href="{origin}/wms/{TABLE}?' in capabilities


def test_forwarded_headers_of_a_trusted_proxy_are_used(index_database: IndexDatabase) -> None:
    with tempfile.TemporaryDirectory(prefix="ls4-proxy-") as home, ExitStack() as stack:
        Path(home).chmod(0o755)
        mapfiles = Path(home) / "mapfiles"
        config = write_config(
            Path(home) / "run",
            port=find_free_port(),
            mapfiles_dir=mapfiles,
            database=index_database.service,
            proxies=["127.0.0.0/8"],
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
            response = client.get(f"/tiles/{TABLE}/tilejson.json", headers=headers)
            assert response.json()["tiles"][0].startswith(f"{origin}/tiles/")


def test_tiles_at_the_edge_of_the_bounds_are_drawn(web: MapServer) -> None:
    """They must not count as outside."""
    edge = tile_address(EXTENT[0] + 1, TOP - 1, 17)
    assert "x-cache-status" in web.get(edge).headers
