"""Real imagery through the whole chain: dropped, processed, indexed, and requested from mapserv at three zoom levels."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window

from ls4_assets.domain.names import Frame
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.status import collect
from ls4_assets_tests.integration.serving_fixtures import serve_archive
from ls4_assets_tests.platform import Platform, frame_of, running_platform

NC, BW = "nc/Travis/NOAA_2020/frames/georef", "bw/Travis/LINZ_1958/frames/georef"
SERVED = {
    f"{NC}/03-07-20_1-1.tif": "stac-utils+titiler-pgstac/20200307aC0853900w361030n.tif",
    f"{NC}/04-15-20_1-2.tif": "stactools-packages+naip/m_3211605_ne_11_060_20200415.tif",
    f"{NC}/09-02-20_1-3.tif": "stactools-packages+naip/m_4208701_ne_16_060_20200902.tif",
    f"{NC}/04-01-14_1-4.tif": "cogeotiff+rio-tiler/201404_13SED190110_201404_0x1500m_CL_1.tif",
    # The same image with a mask, in a collection of its own, because the two would cover each other.
    f"{NC.replace('NOAA', 'USGS')}/04-01-14_1-5.tif": "cogeotiff+rio-tiler/201404_13SED190110_201404_0x1500m_CL_1_mask.tif",
    f"{NC}/01-01-18_1-6.tif": "cogeotiff+rio-tiler/pix4d_alpha_nodata.tif",
    f"{NC}/01-01-19_1-7.tif": "linz+topo-imagery/input_aerial.tif",
    f"{NC}/01-01-01_1-8.tif": "rasterio+rasterio/RGB.byte.tif",
    f"{BW}/01-01-58_1-1.tif": "linz+topo-imagery/input_hi.tif",
}
FAILED = {
    f"{BW}/01-01-58_9-1.tiff": ("linz+topo-imagery/empty.tiff", "not a photograph"),
    f"{BW}/01-01-58_9-2.tif": ("rasterio+rasterio/rotated.tif", "georef|CRS|coordinate"),
    f"{NC}/01-01-20_9-3.tif": ("rasterio+rasterio/all-nodata.tif", "no valid pixel"),
    f"{BW}/01-01-58_9-4.tif": ("friedrichknuth+hipp/T.tif", "georef"),
}

# Of 16 bits, stretched to 8: its map has no source to be compared with.
STRETCHED = {f"{BW}/03-31-22_9-5.TIF": "stac-utils+stactools/LC08_L1TP_198029_20220331_20220406_02_T1_B2.TIF"}


@dataclass(frozen=True)
class Maps:
    platform: Platform
    client: httpx.Client

    def get_map(self, frame: Frame, box: tuple[float, ...], width: int, height: int) -> NDArray[np.uint8]:
        """Request a box in EPSG:3857 from the legacy URL; returns RGBA, shape (height, width, 4)."""
        name = frame.collection.name
        parameters = {"SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "LAYERS": name, "SRS": "EPSG:3857", "STYLES": ""}
        parameters |= {
            "map": f"/{frame.collection.map_key}",
            "BBOX": ",".join(map(repr, box)),
            "WIDTH": str(width),
            "HEIGHT": str(height),
        }
        response = self.client.get("/", params=parameters | {"FORMAT": "image/png", "TRANSPARENT": "TRUE"})
        assert response.headers["content-type"] == "image/png", response.text
        return np.asarray(Image.open(BytesIO(response.content)).convert("RGBA"))


@pytest.fixture(scope="module")
def maps(cluster: Cluster, shared_data: Path) -> Iterator[Maps]:
    # Not in pytest's own temporary folders, because the user that serves the maps may not read them.
    home = Path(tempfile.mkdtemp(prefix="ls4-real-"))
    home.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        # Photographs from all over the world are dropped under Travis: this archive configures no regions.
        shards = home / "archive.toml"
        shards.write_text('county = ["Travis"]\n')
        platform = stack.enter_context(running_platform(cluster, home, archive_file=str(shards)))
        for key, name in {**SERVED, **STRETCHED, **{key: name for key, (name, _) in FAILED.items()}}.items():
            platform.drop(key, shared_data / name)
        platform.settle()
        yield Maps(platform, stack.enter_context(serve_archive(home, cluster)))


def test_good_frames_are_indexed_and_others_fail_with_a_reason(maps: Maps) -> None:
    statuses = {status.name: status for status in collect(maps.platform.settings).collections}
    assert statuses["Travis_NOAA_2020_frames"].indexed == 7
    assert statuses["Travis_LINZ_1958_frames"].indexed == 2
    for key, (name, pattern) in FAILED.items():
        state, reason = maps.platform.state(key)
        assert state == "failed", name
        assert reason and re.search(pattern, reason), f"{name}: {reason}"
        assert reason.endswith(".")


@pytest.mark.parametrize("key", SERVED)
def test_map_shows_the_cog_with_a_transparent_collar(maps: Maps, key: str) -> None:
    frame = frame_of(key)
    with rasterio.open(maps.platform.storage.gdal_path(frame.cog_key)) as cog:
        footprint = shapely.from_wkb(read_footprint(maps.platform, frame))
        assert footprint.area > 0
        check_native(maps, frame, cog)
        for zoom_out in (1, 3, 12):
            check_zoom(maps, frame, cog, footprint, zoom_out)


def check_native(maps: Maps, frame: Frame, cog: rasterio.DatasetReader) -> None:
    """At the COG's own resolution and grid, the map equals the COG."""
    size = min(200, cog.width - 2, cog.height - 2)
    window = Window((cog.width - size) // 2, (cog.height - size) // 2, size, size)
    image = maps.get_map(frame, cog.window_bounds(window), size, size)
    valid = cog.dataset_mask(window=window) > 0
    pixels = np.moveaxis(cog.read(window=window), 0, -1)[valid].astype(int)
    assert valid.any()
    assert np.array_equal(image[..., 3] > 0, valid)
    difference = np.abs(image[..., :3][valid].astype(int) - pixels)
    if frame.film_type == "bw":
        assert not difference.any()
    else:
        # The map server's JPEG decoder smooths the subsampled color differently from the decoder of this test.
        assert difference.mean() < 2, (difference.mean(), np.percentile(difference, 99))


def check_zoom(maps: Maps, frame: Frame, cog: rasterio.DatasetReader, footprint: shapely.Geometry, zoom_out: int) -> None:
    """At a resolution `zoom_out` times coarser, the map is opaque inside the footprint and transparent outside it."""
    left, bottom, right, top = cog.bounds
    resolution = cog.res[0] * zoom_out
    margin = 4 * resolution
    box = (left - margin, bottom - margin, right + margin, top + margin)
    width, height = (round((box[2] - box[0]) / resolution), round((box[3] - box[1]) / resolution))
    image = maps.get_map(frame, box, width, height)
    y, x = np.mgrid[0:height, 0:width]
    points = shapely.points(box[0] + (x + 0.5) * resolution, box[3] - (y + 0.5) * resolution)
    outside = ~shapely.contains_properly(footprint.buffer(3 * resolution), points)
    assert not image[..., 3][outside].any(), f"{outside.sum()} pixels outside the footprint, zoom 1:{zoom_out}"
    inside = shapely.contains_properly(footprint.buffer(-2 * resolution), points)
    if inside.any():
        assert (image[..., 3][inside] > 0).mean() > 0.97, f"zoom 1:{zoom_out}"
        assert image[..., :3][inside].std() > 1, "the image is flat"


def read_footprint(platform: Platform, frame: Frame) -> bytes:
    rows = platform.rows(
        f"SELECT ST_AsBinary(geom) AS wkb FROM {frame.collection.table} WHERE location LIKE '%' || :key", key=frame.cog_key
    )
    return bytes(rows[0]["wkb"])  # type: ignore[call-overload,no-any-return]
