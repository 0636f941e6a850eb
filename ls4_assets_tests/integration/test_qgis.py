"""The map services in headless QGIS: every connection of docs/how-to/use-in-qgis.md is added, drawn and identified."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rasterio.warp import transform_bounds

from ls4_assets.local.postgres import Cluster
from ls4_assets.local.sample_data import TRAVIS, sample_views, write_sample_data
from ls4_assets_tests.integration.serving_fixtures import rgba, serve_archive
from ls4_assets_tests.platform import running_platform
from mapserver.rendering import Extent

PYTHON = "/usr/bin/python3"
CLIENT = Path(__file__).with_name("qgis_client.py")
HAS_QGIS = Path(PYTHON).exists() and not subprocess.run([PYTHON, "-c", "import qgis.core"], capture_output=True).returncode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not HAS_QGIS, reason="QGIS is not installed: apt-get install python3-qgis qgis-providers"),
]

NAME, TABLE = "Travis_USDA_1958_frames", "travis_usda_1958_frames"
SIDE = 512
WEB = sample_views()[NAME]


def square_extent(crs: str, half_side: float = 1200) -> Extent:
    """Return a square extent around the center of the sample data; `half_side` is in meters.

    QGIS would extend the shorter side of any other shape.
    """
    center = ((WEB[0] + WEB[2]) / 2, (WEB[1] + WEB[3]) / 2)
    box = (center[0] - half_side, center[1] - half_side, center[0] + half_side, center[1] + half_side)
    left, bottom, right, top = transform_bounds("EPSG:3857", crs, *box)
    half = min(right - left, top - bottom) / 2
    x, y = (left + right) / 2, (bottom + top) / 2
    return (x - half, y - half, x + half, y + half)


EXTENTS = {crs: square_extent(crs) for crs in ("EPSG:3857", "EPSG:4326", "EPSG:26914", "EPSG:3081")}
# At larger scales the catalog shows photographs instead of the outlines of collections.
OVERVIEW_EXTENT = square_extent("EPSG:3857", 100_000)


def wms(crs: str, layer: str, url: str) -> dict[str, str]:
    uri = urlencode({"crs": crs, "format": "image/png", "layers": layer, "styles": "", "url": url}, quote_via=quote)
    return {"provider": "wms", "crs": crs, "uri": uri}


def wms_with_query(layer: str, url: str) -> dict[str, str]:
    """Keep the parameters of the URL: QGIS would otherwise use the URL from the capabilities."""
    source = wms("EPSG:3857", layer, url)
    return source | {"uri": source["uri"] + "&IgnoreGetMapUrl=1&IgnoreGetFeatureInfoUrl=1"}


def xyz(url: str) -> dict[str, str]:
    return {"provider": "wms", "crs": "EPSG:3857", "uri": urlencode({"type": "xyz", "url": url, "zmin": 0, "zmax": 18})}


def wmts(layer: str, url: str) -> dict[str, str]:
    layer_params = {"layers": layer, "styles": "default", "tileMatrixSet": "GoogleMapsCompatible", "format": "image/png"}
    uri = urlencode({"crs": "EPSG:3857", "url": url} | layer_params, quote_via=quote)
    return {"provider": "wms", "crs": "EPSG:3857", "uri": uri}


def features(layer: str, url: str) -> dict[str, str]:
    return {"provider": "OAPIF", "crs": "EPSG:3857", "uri": f"url='{url}' typename='{layer}'"}


def connections(host: str) -> dict[str, dict[str, str]]:
    """Return every connection of the guide by name: those to the imagery, and those to the footprints."""
    return {
        **{f"wms {crs[5:]}": wms(crs, NAME, f"{host}/wms/{TABLE}") for crs in EXTENTS},
        "wms published": wms("EPSG:3857", NAME, f"{host}/?map=/mapfiles/{TABLE}.map"),
        "wms footprints": wms("EPSG:3857", f"{NAME}_index", f"{host}/wms/{TABLE}"),
        "xyz": xyz(f"{host}/tiles/{TABLE}/{{z}}/{{x}}/{{y}}.png"),
        "wmts": wmts(NAME, f"{host}/wmts/{TABLE}/WMTSCapabilities.xml"),
        "features": features(f"{NAME}_index", f"{host}/ogcapi/{TABLE}"),
        "catalog wms": wms("EPSG:3857", "imagery", f"{host}/wms/catalog"),
        "catalog wms 4326": wms("EPSG:4326", "imagery", f"{host}/wms/catalog"),
        "catalog 1958": wms_with_query("imagery", f"{host}/wms/catalog?year=1958"),
        "catalog 1940": wms_with_query("imagery", f"{host}/wms/catalog?year=1940"),
        "catalog collections": wms("EPSG:3857", "collections", f"{host}/wms/catalog"),
        "catalog xyz": xyz(f"{host}/tiles/catalog/{{z}}/{{x}}/{{y}}.png"),
        "catalog wmts": wmts("catalog", f"{host}/wmts/catalog/WMTSCapabilities.xml"),
        "catalog features": features("collections", f"{host}/ogcapi/catalog"),
    }


IMAGERY = [
    name for name in connections("") if not any(word in name for word in ("footprints", "features", "collections", "1940"))
]

IDENTIFIED = ("wms footprints", "catalog collections")


class QgisSession:
    """The images and results of QGIS for each connection. `client` requests the same maps without QGIS."""

    def __init__(self, client: httpx.Client, folder: Path, results: dict[str, dict[str, Any]]) -> None:
        self.client, self.folder, self.results = client, folder, results

    def image(self, name: str) -> NDArray[np.uint8]:
        return np.asarray(Image.open(self.folder / f"{name}.png").convert("RGBA"))

    def reference_image(self, crs: str) -> NDArray[np.uint8]:
        """Return the same extent from a WMS 1.1.1 request, whose axis order is unambiguous."""
        size = {"WIDTH": str(SIDE), "HEIGHT": str(SIDE), "BBOX": ",".join(map(str, EXTENTS[crs])), "SRS": crs}
        request = {"SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "LAYERS": NAME, "STYLES": ""}
        return rgba(self.client.get(f"/wms/{TABLE}", params=request | size | {"FORMAT": "image/png", "TRANSPARENT": "TRUE"}))


@pytest.fixture(scope="module", name="qgis")
def qgis_fixture(cluster: Cluster) -> Iterator[QgisSession]:
    """Load a collection of the sample data, published on the map, into QGIS."""
    # Directly under the temporary directory: the map server's user cannot read pytest's own folders.
    home = Path(tempfile.mkdtemp(prefix="ls4-qgis-"))
    home.chmod(0o755)
    survey = write_sample_data(home / "survey")
    try:
        with running_platform(cluster, home) as platform:
            for key, path in survey:
                if key.startswith(f"{TRAVIS.prefix}/frames/georef/"):
                    platform.drop(key, path)
            platform.settle()
            with serve_archive(home, cluster) as client:
                (home / "images").mkdir()
                yield QgisSession(client, home / "images", run_qgis(str(client.base_url).rstrip("/"), home))
    finally:
        shutil.rmtree(home)


def run_qgis(host: str, home: Path) -> dict[str, dict[str, Any]]:
    """Run every connection in headless QGIS with default settings and without a proxy. Returns the results by name."""
    layers: list[dict[str, Any]] = []
    for name, connection in connections(host).items():
        extent = OVERVIEW_EXTENT if name == "catalog collections" else EXTENTS[connection["crs"]]
        center = [(extent[0] + extent[2]) / 2, (extent[1] + extent[3]) / 2]
        layers.append({"name": name, "extent": extent, "click": center if name in IDENTIFIED else None, **connection})
    request = json.dumps({"folder": str(home / "images"), "layers": layers})
    base_env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and "PYTHON" not in name}
    env = base_env | {"QT_QPA_PLATFORM": "offscreen", "HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    process = subprocess.run([PYTHON, CLIENT], input=request, text=True, capture_output=True, env=env, timeout=200)
    assert process.returncode == 0, process.stderr
    results: dict[str, dict[str, Any]] = json.loads(process.stdout.splitlines()[-1])
    return results


@pytest.mark.parametrize("name", connections(""))
def test_qgis_adds_and_draws_the_layer(qgis: QgisSession, name: str) -> None:
    result = qgis.results[name]
    assert result["valid"], result
    assert result["errors"] == []
    is_drawn = (qgis.image(name)[..., 3] > 0).any()
    assert is_drawn == (name != "catalog 1940"), "all photographs are of 1958"


@pytest.mark.parametrize("name", IMAGERY)
def test_qgis_shows_the_imagery_at_its_place(qgis: QgisSession, name: str) -> None:
    """With swapped axes or wrong tiles the images would not correlate."""
    image, reference = qgis.image(name), qgis.reference_image(connections("")[name]["crs"])
    assert (image[..., 3] == 255).mean() > 0.95
    assert np.corrcoef(downsample(image), downsample(reference))[0, 1] > 0.95


def downsample(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Average blocks of 8 by 8 pixels. This removes the film grain, which differs with each resampling."""
    means: NDArray[np.float64] = image[..., 0].astype(float).reshape(SIDE // 8, 8, SIDE // 8, 8).mean(axis=(1, 3))
    return means.ravel()


@pytest.mark.parametrize(
    ("name", "links"),
    [
        ("wms footprints", (f"{TRAVIS.prefix}/frames/cog/02-08-58_6-", f"{TRAVIS.prefix}/frames/scanned/02-08-58_6-")),
        ("catalog collections", (f'href="/wms/{TABLE}"', f'href="/tiles/{TABLE}/tilejson.json"')),
    ],
)
def test_identify_in_qgis_returns_the_links(qgis: QgisSession, name: str, links: tuple[str, ...]) -> None:
    assert all(link in qgis.results[name]["click"] for link in links), qgis.results[name]["click"]


def test_qgis_loads_the_footprints_with_their_links(qgis: QgisSession) -> None:
    frames = {feature["dl_georef"].rpartition("/")[2].removesuffix(".tif") for feature in qgis.results["features"]["features"]}
    assert frames == {exposure.name for exposure in TRAVIS.exposures}
    (collection,) = qgis.results["catalog features"]["features"]
    assert collection["name"] == NAME and collection["wms"].endswith(f"/wms/{TABLE}")
