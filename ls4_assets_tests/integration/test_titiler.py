"""titiler over the published MosaicJSON documents, compared with MapServer's map of the same frames.

titiler runs in an environment of its own: the one that TITILER_PYTHON names, or the locked dependency group `bench`.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import morecantile
import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from PIL import Image

from benchmarks.serve_contenders import TITILER_PYTHON, Titiler
from ls4_assets.domain.export_keys import mosaicjson_key
from ls4_assets.local.postgres import Cluster
from ls4_assets.local.state import find_free_port
from ls4_assets_tests.integration.serving_fixtures import running, wait_until_healthy
from ls4_assets_tests.platform import CHECKOUT, PASSWORDS, Platform, frame_of, running_platform
from ls4_assets_tests.rasters import write_tif
from mapserver.config import PostgresService, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TMS = morecantile.tms.get("WebMercatorQuad")
ZOOM = 17
# The frames begin at the corner of this tile, in Travis county, and have the pixels of its zoom.
TILE = TMS.tile(-97.74, 30.27, ZOOM)
LEFT, TOP = TMS.xy_bounds(TILE).left, TMS.xy_bounds(TILE).top
PIXEL = (TMS.xy_bounds(TILE).right - LEFT) / 256
FRAMES = {"bw/Travis/USDA_1958": 1, "nc/Travis/USDA_1996": 3}


@pytest.fixture(scope="module")
def titiler_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    if configured := os.environ.get(TITILER_PYTHON):
        return configured
    environment = tmp_path_factory.mktemp("titiler") / "venv"
    uv = shutil.which("uv") or str(CHECKOUT / ".tools" / "bin" / "uv")
    command = [uv, "sync", "--only-group", "bench", "--locked", "--no-install-project", "--quiet", "--python", sys.executable]
    subprocess.run(command, cwd=CHECKOUT, env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(environment)}, check=True)
    return str(environment / "bin" / "python")


@pytest.fixture(scope="module", name="served")
def served_fixture(cluster: Cluster) -> Iterator[tuple[Platform, httpx.Client]]:
    """Two collections of two overlapping frames each, published for both servers; MapServer and the public archive run."""
    # Not in pytest's own temporary folders, because nginx's OS user may not read them.
    home = Path(tempfile.mkdtemp(prefix="ls4-test-titiler-"))
    home.chmod(0o755)
    port = find_free_port()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        address = {"public_url": f"http://127.0.0.1:{port}/archive", "map_url": f"http://127.0.0.1:{port}"}
        platform = stack.enter_context(running_platform(cluster, home, map_publishers="mapserver,mosaicjson", **address))
        archive = home / "archive"
        (archive / "mapfiles").mkdir()
        database = PostgresService("127.0.0.1", cluster.port, "ls4", "mapserver", PASSWORDS["mapserver"])
        config = write_config(
            home / "serving", port=port, mapfiles_dir=archive / "mapfiles", archive_dir=archive, database=database, workers=1
        )
        log = stack.enter_context((home / "processes.log").open("wb"))
        stack.enter_context(running(config.workers_argv, log))
        stack.enter_context(running(config.nginx_argv, log))
        client = stack.enter_context(httpx.Client(base_url=config.base_url, timeout=60))
        wait_until_healthy(client, config.health_url)
        for folder, bands in FRAMES.items():
            for number in range(2):
                place = Affine(PIXEL, 0, LEFT + 100 * number * PIXEL, 0, -PIXEL, TOP - 50 * number * PIXEL)
                scan = write_tif(home / "scan.tif", gradient(bands, number), transform=place)
                platform.drop(f"{folder}/frames/georef/02-08-60_6-10{number}.tif", scan)
        platform.settle()
        platform.rebuild()
        yield platform, client


def gradient(bands: int, number: int) -> NDArray[np.uint8]:
    """A scan of 400 pixels that changes by a fifth of a level each pixel; the second is brighter everywhere.

    Where frames lie exactly on the pixels of a tile, MapServer may pick the pixel beside the one that titiler picks.
    """
    slope = np.add.outer(np.linspace(0, 40, 400), np.linspace(0, 40, 400))
    return np.stack([slope + 30 + 100 * number + 5 * band for band in range(bands)]).astype(np.uint8)


def share_of(pixels: NDArray[np.bool_]) -> float:
    return float(np.count_nonzero(pixels) / pixels.size)


def picture(response: httpx.Response) -> NDArray[np.int16]:
    """RGBA of a tile of 256 pixels."""
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)).convert("RGBA").resize((256, 256)), dtype=np.int16)


@pytest.mark.parametrize("addresses", ["public", "storage"])
@pytest.mark.parametrize("folder", FRAMES)
def test_titiler_draws_the_same_tiles_as_mapserver(
    served: tuple[Platform, httpx.Client], titiler_python: str, tmp_path: Path, addresses: str, folder: str
) -> None:
    platform, client = served
    platform = platform.with_settings(mosaicjson_addresses=addresses)
    platform.skip_waits()
    platform.rebuild()
    collection = frame_of(f"{folder}/frames/georef/02-08-60_6-100.tif").collection
    document = tmp_path / "mosaic.json"
    document.write_bytes(platform.storage.read(mosaicjson_key(collection)))
    with Titiler(tmp_path, titiler_python, {}).running(1) as server:
        # The corner of the first frame, the pixels that only the second one has, and the border of both.
        for column, row in ((0, 0), (1, 1), (1, 0), (0, 1)):
            place = f"{ZOOM}/{TILE.x + column}/{TILE.y + row}"
            ours = picture(client.get(f"/tiles/{collection.table}/{place}.png"))
            theirs = picture(
                httpx.get(f"http://{server}/tiles/WebMercatorQuad/{place}.png?tilesize=256&url={document}", timeout=60)
            )
            visible = ours[..., 3] > 0, theirs[..., 3] > 0
            assert share_of(visible[0]) > 0.1
            # One pixel along each edge: two edges of a frame are 0.8% of a tile.
            assert share_of(visible[0] != visible[1]) < 0.01, f"other outline in {place}"
            differs = (np.abs(ours - theirs) > 6).any(axis=2) & visible[0] & visible[1]
            assert share_of(differs) < 0.01, f"other pixels in {place}"


def test_document_lists_the_same_tiles_as_cogeo_mosaic(
    served: tuple[Platform, httpx.Client], titiler_python: str, tmp_path: Path
) -> None:
    platform, _ = served
    collection = frame_of("bw/Travis/USDA_1958/frames/georef/02-08-60_6-100.tif").collection
    document = json.loads(platform.storage.read(mosaicjson_key(collection)))
    footprints = json.loads(platform.storage.read(f"derived/{collection.name}/footprints.geojson"))["features"]
    features = []
    for feature in footprints:
        (ring,) = feature["geometry"]["coordinates"][0]
        path = feature["properties"]["dl_georef"].removeprefix(f"{platform.settings.public_url}/")
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": {"path": path}, "geometry": geometry})
    source, out = tmp_path / "features.json", tmp_path / "mosaic.json"
    zooms = {name: document[name] for name in ("minzoom", "maxzoom")}
    source.write_text(json.dumps({"features": features[::-1], **zooms}))
    program = CHECKOUT / "benchmarks" / "serve_titiler.py"
    subprocess.run([titiler_python, str(program), str(source), str(out)], check=True)
    theirs = json.loads(out.read_text())
    assert document["tiles"] == theirs["tiles"]
    assert document["bounds"] == pytest.approx(theirs["bounds"], abs=1e-6)
