"""Tifs and sidecars that cost much or can never succeed: each is rejected in one sentence, and following its advice helps."""

import http.server
import os
import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from html import escape
from pathlib import Path

import pytest
import rasterio
from affine import Affine
from rasterio.shutil import copy

from ls4_assets.errors import FrameError
from ls4_assets.raster import tiff_structure
from ls4_assets.raster.crs_files import reject_crs_files
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
    tiff_structure.reject_unbounded(chain_of_images(tmp_path / "few.tif", tiff_structure.MAX_IMAGES))
    many = chain_of_images(tmp_path / "x.tif", tiff_structure.MAX_IMAGES + 1)
    assert "export the photograph alone with gdal_translate" in rejection(many)
    inspect(gdal_translate(many))


def test_number_of_strips_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tif(tmp_path / "x.tif", photograph(300, 20), blockysize=1)
    inspect(path)
    monkeypatch.setattr(tiff_structure, "MAX_BLOCKS", 299)
    assert "stored in 300 strips or tiles and the limit is 299" in rejection(path)
    inspect(gdal_translate(path))


@pytest.mark.parametrize("offset", [2**64 - 1, 2**63, 2**63 - 1, 2**40])
@pytest.mark.parametrize("place", ["first", "next"])
def test_offset_beyond_the_end_of_a_bigtiff_is_left_to_gdal(tmp_path: Path, offset: int, place: str) -> None:
    """A BigTIFF with a large offset failed with `ValueError: cannot fit 'int' into an offset-sized integer`."""
    path = write_tif(tmp_path / "x.tif", photograph(40, 50), bigtiff="YES")
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<Q", data, 8)
    (count,) = struct.unpack_from("<Q", data, first)
    struct.pack_into("<Q", data, 8 if place == "first" else first + 8 + 20 * count, offset)
    path.write_bytes(data)
    tiff_structure.reject_unbounded(path)
    if place == "first":
        assert "its header cannot be read" in rejection(path)


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


BOUND = (
    'BOUNDCRS[SOURCECRS[{source}],TARGETCRS[{target}],ABRIDGEDTRANSFORMATION["to WGS 84",METHOD["NTv2",ID["EPSG",9615]],'
    'PARAMETERFILE["Latitude and longitude difference file","GRID",ID["EPSG",8656]]]]'
)
WKT_2 = BOUND.format(
    **{side: rasterio.CRS.from_epsg(code).to_wkt(version="WKT2_2019") for side, code in (("source", 26714), ("target", 4326))}
)
PROJ_STRING = "+proj=utm +zone=14 +ellps=GRS80 +nadgrids=GRID +type=crs"
NOTATIONS = {
    "PROJ string": PROJ_STRING,
    "WKT 1": rasterio.CRS.from_string(PROJ_STRING.replace("GRID", "nowhere.gsb")).to_wkt().replace("nowhere.gsb", "GRID"),
    "WKT 2": WKT_2,
    "WKT 2 with spaces and parentheses": WKT_2.replace("PARAMETERFILE[", "PARAMETERFILE (").replace('","GRID"', '" , "GRID"'),
    "WKT 2 in the quotation marks of printed text": WKT_2.replace('"GRID"', "\u201cGRID\u201d"),
    "WKT 2 with a bracket in the name": WKT_2.replace("Latitude and", "Latitude ] and"),
    "JSON": '{"type": "BoundCRS", "parameters": [{"name": "Latitude and longitude difference file", "value": "GRID"}]}',
}


def open_in_a_thread(path: Path) -> str:
    """Returns the rejection, or "" when the open still waits after some seconds."""
    messages: list[str] = []
    reader = threading.Thread(target=lambda: messages.append(rejection(path)), daemon=True)
    reader.start()
    reader.join(10)
    return "".join(messages)


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("suffix", [".tif.aux.xml", ".aux.xml", ".prj"])
def test_no_grid_is_opened_by_its_path(tmp_path: Path, notation: str, suffix: str) -> None:
    """A grid that was a FIFO occupied a worker for an hour: PROJ opened it before its path was checked."""
    path = write_tif(tmp_path / "x.tif", photograph(40, 50), transform=UTM_14, crs=None)
    os.mkfifo(tmp_path / "evil.gsb")
    crs = NOTATIONS[notation].replace("GRID", str(tmp_path / "evil.gsb"))
    path.with_suffix(suffix).write_text(crs if suffix == ".prj" else HIDDEN_AUX.format(escape(crs, quote=True)))
    assert f"refers to another file, {tmp_path}/evil.gsb" in open_in_a_thread(path)


@pytest.mark.parametrize("escaped", ["\\u002fetc\\u002fevil.gsb", "\\/etc\\/evil.gsb", "&#47;etc&#x2f;evil.gsb"])
def test_path_of_a_grid_may_be_escaped(tmp_path: Path, escaped: str) -> None:
    """A path in the escape sequences of JSON or XML was not recognized as one."""
    path = write_tif(tmp_path / "x.tif", photograph(40, 50), transform=UTM_14, crs=None)
    (tmp_path / "x.tif.aux.xml").write_text(HIDDEN_AUX.format(NOTATIONS["JSON"].replace("GRID", escaped)))
    assert "refers to another file" in rejection(path)


@pytest.mark.parametrize("version", ["WKT1_GDAL", "WKT1_ESRI", "WKT2_2015", "WKT2_2019"])
@pytest.mark.parametrize("code", [26914, 26714, 2277, 6578, 3857])
def test_usual_systems_name_no_file(tmp_path: Path, version: str, code: int) -> None:
    wkt = rasterio.CRS.from_epsg(code).to_wkt(version=version)
    reject_crs_files(wkt, tmp_path / "x.tif")
    reject_crs_files(HIDDEN_AUX.format(escape(wkt, quote=True)), tmp_path / "x.tif")
    reject_crs_files(f"+init=epsg:{code}", tmp_path / "x.tif")


def test_path_of_a_grid_in_wkt_2_is_recognized(tmp_path: Path) -> None:
    """The name of the parameter was compared instead of the path of its file."""
    reject_crs_files(WKT_2.replace("GRID", "conus"), tmp_path / "x.tif")
    with pytest.raises(FrameError, match="refers to another file, /etc/evil.gsb;"):
        reject_crs_files(WKT_2.replace("GRID", "/etc/evil.gsb"), tmp_path / "x.tif")


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
