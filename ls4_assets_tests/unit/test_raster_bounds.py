"""Tifs and sidecars that cost much or can never succeed: each is rejected in one sentence, and following its advice helps."""

import http.server
import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import rasterio
from affine import Affine
from rasterio.shutil import copy

from ls4_assets.errors import FrameError
from ls4_assets.raster import tiff_structure
from ls4_assets.raster.frame import process
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.source import Limits, Source, open_source
from ls4_assets_tests.rasters import BW, NORTH, UTM_PLACE, WEST, photograph, write_tif

UTM_14 = Affine(1, 0, UTM_PLACE[0], 0, -1, UTM_PLACE[1])


def inspect(path: Path) -> Source:
    return open_source(path, "bw", Limits())


def rejection(path: Path) -> str:
    with pytest.raises(FrameError) as raised:
        inspect(path)
    message = str(raised.value)
    assert message.startswith(path.name) and message.endswith(".") and "; " in message
    return message


def gdal_translate(path: Path) -> Path:
    """Convert as `gdal_translate -co TILED=YES` does."""
    out = path.with_name("translated.tif")
    with gdal_env():
        copy(path, out, driver="GTiff", tiled=True)
    return out


def chain_of_images(path: Path, images: int, *, loop: bool = False) -> Path:
    """A tif whose first image is followed by copies of its directory; with `loop`, the last one leads to the first."""
    write_tif(path, photograph(40, 50))
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<L", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    directory = bytes(data[first : first + 2 + 12 * count])
    link = first + len(directory)
    for _ in range(images - 1):
        struct.pack_into("<L", data, link, len(data))
        link = len(data) + len(directory)
        data += directory + struct.pack("<L", 0)
    struct.pack_into("<L", data, link, first if loop else 0)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("images", [1, 7])
def test_list_of_images_that_never_ends_is_rejected(tmp_path: Path, images: int) -> None:
    assert "leads back to itself" in rejection(chain_of_images(tmp_path / "x.tif", images, loop=True))


def test_number_of_images_is_limited(tmp_path: Path) -> None:
    """A tif of 60,000 images was walked by every step that opened it."""
    inspect(chain_of_images(tmp_path / "few.tif", tiff_structure.MAX_IMAGES))
    many = chain_of_images(tmp_path / "x.tif", tiff_structure.MAX_IMAGES + 1)
    assert "export the photograph alone with gdal_translate" in rejection(many)
    inspect(gdal_translate(many))


def test_number_of_strips_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tif(tmp_path / "x.tif", photograph(300, 20), blockysize=1)
    inspect(path)
    monkeypatch.setattr(tiff_structure, "MAX_BLOCKS", 299)
    assert "stored in 300 strips or tiles and the limit is 299" in rejection(path)
    inspect(gdal_translate(path))


def test_image_without_strips_is_rejected(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "x.tif", photograph(40, 50))
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<L", data, 4)
    for entry in range(first + 2, first + 2 + 12 * struct.unpack_from("<H", data, first)[0], 12):
        if struct.unpack_from("<H", data, entry)[0] == 273:
            struct.pack_into("<L", data, entry + 4, 0)
    path.write_bytes(data)
    assert "without strips or tiles" in rejection(path)


def test_size_of_metadata_is_limited(tmp_path: Path) -> None:
    """GDAL took minutes for 50 MB of small items."""
    path = write_tif(tmp_path / "x.tif", photograph(40, 50))
    with rasterio.open(path, "r+") as tif:
        tif.update_tags(ns="big", text="x" * 1_100_000)
    assert "gdalwarp -nomd" in rejection(path)
    with rasterio.open(path) as tif:
        profile, pixels = tif.profile, tif.read()
    inspect(write_tif(tmp_path / "without.tif", pixels, **{key: profile[key] for key in ("crs", "transform")}))


@pytest.mark.parametrize("bigtiff", ["YES", "NO"])
@pytest.mark.parametrize("endianness", ["LITTLE", "BIG"])
def test_every_kind_of_tif_is_read(tmp_path: Path, bigtiff: str, endianness: str) -> None:
    inspect(write_tif(tmp_path / "x.tif", photograph(40, 50), bigtiff=bigtiff, endianness=endianness))


@pytest.mark.parametrize("size", [1e-12, 0.0009, 10_100, 1e6])
@pytest.mark.parametrize("side", ["width", "height"])
def test_implausible_pixel_size_is_rejected(tmp_path: Path, size: float, side: str) -> None:
    """Pixels of 1e-12 m failed with `Attempt to create 0x362 dataset is illegal`, and were retried."""
    transform = Affine(size, 0, WEST, 0, -1, NORTH) if side == "width" else Affine(1, 0, WEST, 0, -size, NORTH)
    assert "has pixels of" in rejection(write_tif(tmp_path / "x.tif", photograph(30, 30), transform=transform))


HIDDEN_AUX = "<PAMDataset><SRS>{}</SRS></PAMDataset>"
USELESS = {
    "address": "http://127.0.0.1:9/crs",
    "file": "/etc/passwd",
    "unknown code": "EPSG:999999",
    "unknown grid": "+proj=utm +zone=14 +ellps=GRS80 +nadgrids=nowhere.gsb +type=crs",
    "grid at an address": "+proj=utm +zone=14 +ellps=GRS80 +nadgrids=@/vsicurl/http://127.0.0.1:9/x +type=crs",
}


@pytest.mark.parametrize("kind", USELESS)
def test_crs_that_cannot_be_used_is_rejected_and_the_advice_helps(tmp_path: Path, kind: str) -> None:
    """A CRS with an address, a path or an unknown grid counted as a defect of the platform and was retried."""
    path = write_tif(tmp_path / "x.tif", photograph(40, 50), transform=UTM_14, crs=None)
    sidecar = tmp_path / "x.tif.aux.xml"
    sidecar.write_text(HIDDEN_AUX.format(USELESS[kind]))
    message = rejection(path)
    assert "\n" not in message and "delete its .aux.xml and .prj, write a CRS with an EPSG code" in message
    sidecar.unlink()
    with rasterio.open(path, "r+") as tif:  # gdal_edit.py -a_srs
        tif.crs = "EPSG:26914"
    assert inspect(path).crs_label == "EPSG:26914"


def test_optional_grids_of_old_systems_are_accepted(tmp_path: Path) -> None:
    """Old exports in NAD27 name grids that PROJ skips when they are missing, and Web Mercator names the grid @null."""
    crs = "+proj=utm +zone=14 +ellps=clrk66 +nadgrids=@conus,@null +type=crs"
    (tmp_path / "x.tif.aux.xml").write_text(HIDDEN_AUX.format(crs))
    inspect(write_tif(tmp_path / "x.tif", photograph(40, 50), transform=UTM_14, crs=None))


@pytest.mark.parametrize("end", ["", "</SRS>"])
def test_time_for_a_sidecar_grows_with_its_size_only(tmp_path: Path, end: str) -> None:
    """A sidecar of 2 MB occupied a worker for an hour: the time grew with the square of its size."""
    path = write_tif(tmp_path / "x.tif", photograph(40, 50), crs=None)
    (tmp_path / "x.aux.xml").write_text("<PAMDataset>" + "<SRS>" * 400_000 + end)
    started = time.monotonic()
    with pytest.raises(FrameError):
        inspect(path)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "xml",
    [
        "<PAMDataset><SRS>EPSG_WKT</SRS></PAMDataset>",
        '<PAMDataset><SRSX>x</SRSX>\n<SRS dataAxisToSRSAxisMapping="1,2">EPSG_WKT</SRS></PAMDataset>',
    ],
)
def test_crs_of_an_arcgis_sidecar_is_read(tmp_path: Path, xml: str) -> None:
    path = write_tif(tmp_path / "x.tif", photograph(40, 50), transform=UTM_14, crs=None)
    wkt = rasterio.CRS.from_epsg(26914).to_wkt().replace('"', "&quot;")
    (tmp_path / "x.aux.xml").write_text(xml.replace("EPSG_WKT", wkt))
    assert inspect(path).crs_label == "EPSG:26914"


@pytest.fixture
def address() -> Iterator[tuple[str, list[str]]]:
    """A web server, and the requests that reached it."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()


OVERVIEWS = '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{}</MDI></Metadata></PAMDataset>'
REFERENCES: dict[str, Callable[[str], str]] = {
    "overviews": lambda url: OVERVIEWS.format(f"{url}/x.ovr"),
    "overviews through curl": lambda url: OVERVIEWS.format(f"/vsicurl/{url}/x.ovr"),
    "crs": lambda url: HIDDEN_AUX.format(f"{url}/crs"),
    "grid": lambda url: HIDDEN_AUX.format(f"+proj=utm +zone=14 +ellps=GRS80 +nadgrids={url}/grid.tif +type=crs"),
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_nothing_that_a_sidecar_names_is_fetched(tmp_path: Path, address: tuple[str, list[str]], kind: str) -> None:
    url, requests = address
    path = write_tif(tmp_path / "x.tif", photograph(300, 300), crs="EPSG:26914", transform=UTM_14)
    (tmp_path / "x.tif.aux.xml").write_text(REFERENCES[kind](url))
    with pytest.raises(FrameError) if kind in ("crs", "grid") else nullcontext():
        process(path, tmp_path / "work", "x", "bw", BW, Limits())
    assert requests == []


def test_curl_opens_nothing_while_a_source_is_read(tmp_path: Path, address: tuple[str, list[str]]) -> None:
    url, requests = address
    with gdal_env(pam=True), pytest.raises(rasterio.errors.RasterioIOError):
        rasterio.open(f"/vsicurl/{url}/x.tif")
    assert requests == []
    shutil.rmtree(tmp_path)
