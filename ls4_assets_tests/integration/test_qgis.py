"""The services in QGIS itself, without its window: every way of docs/qgis.md is added as a layer, drawn, and clicked on."""

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
from ls4_assets.local.sample_data import TRAVIS, make_survey, sample_views
from ls4_assets_tests.integration.serving_fixtures import front_of, rgba
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


def square(crs: str, metres: float = 1200) -> Extent:
    """What a square window shows around the middle of the survey: QGIS would show more of it along the shorter side."""
    middle = ((WEB[0] + WEB[2]) / 2, (WEB[1] + WEB[3]) / 2)
    box = (middle[0] - metres, middle[1] - metres, middle[0] + metres, middle[1] + metres)
    left, bottom, right, top = transform_bounds("EPSG:3857", crs, *box)
    half = min(right - left, top - bottom) / 2
    x, y = (left + right) / 2, (bottom + top) / 2
    return (x - half, y - half, x + half, y + half)


SCREENS = {crs: square(crs) for crs in ("EPSG:3857", "EPSG:4326", "EPSG:26914", "EPSG:3081")}
# Closer up the outlines of collections make room for the photographs.
FAR = square("EPSG:3857", 100_000)


def wms(crs: str, layer: str, address: str) -> dict[str, str]:
    uri = urlencode({"crs": crs, "format": "image/png", "layers": layer, "styles": "", "url": address}, quote_via=quote)
    return {"provider": "wms", "crs": crs, "uri": uri}


def chosen(layer: str, address: str) -> dict[str, str]:
    """With parameters of the address kept: QGIS would go on from the address that the capabilities name."""
    way = wms("EPSG:3857", layer, address)
    return way | {"uri": way["uri"] + "&IgnoreGetMapUrl=1&IgnoreGetFeatureInfoUrl=1"}


def xyz(address: str) -> dict[str, str]:
    return {"provider": "wms", "crs": "EPSG:3857", "uri": urlencode({"type": "xyz", "url": address, "zmin": 0, "zmax": 18})}


def wmts(layer: str, address: str) -> dict[str, str]:
    which = {"layers": layer, "styles": "default", "tileMatrixSet": "GoogleMapsCompatible", "format": "image/png"}
    uri = urlencode({"crs": "EPSG:3857", "url": address} | which, quote_via=quote)
    return {"provider": "wms", "crs": "EPSG:3857", "uri": uri}


def features(layer: str, address: str) -> dict[str, str]:
    return {"provider": "OAPIF", "crs": "EPSG:3857", "uri": f"url='{address}' typename='{layer}'"}


def ways(host: str) -> dict[str, dict[str, str]]:
    """By name, all that the recipe says: each of the imagery, and the footprints."""
    return {
        **{f"wms {crs[5:]}": wms(crs, NAME, f"{host}/wms/{TABLE}") for crs in SCREENS},
        "wms published": wms("EPSG:3857", NAME, f"{host}/?map=/mapfiles/{TABLE}.map"),
        "wms footprints": wms("EPSG:3857", f"{NAME}_index", f"{host}/wms/{TABLE}"),
        "xyz": xyz(f"{host}/tiles/{TABLE}/{{z}}/{{x}}/{{y}}.png"),
        "wmts": wmts(NAME, f"{host}/wmts/{TABLE}/WMTSCapabilities.xml"),
        "features": features(f"{NAME}_index", f"{host}/ogcapi/{TABLE}"),
        "catalog wms": wms("EPSG:3857", "imagery", f"{host}/wms/catalog"),
        "catalog wms 4326": wms("EPSG:4326", "imagery", f"{host}/wms/catalog"),
        "catalog 1958": chosen("imagery", f"{host}/wms/catalog?year=1958"),
        "catalog 1940": chosen("imagery", f"{host}/wms/catalog?year=1940"),
        "catalog collections": wms("EPSG:3857", "collections", f"{host}/wms/catalog"),
        "catalog xyz": xyz(f"{host}/tiles/catalog/{{z}}/{{x}}/{{y}}.png"),
        "catalog wmts": wmts("catalog", f"{host}/wmts/catalog/WMTSCapabilities.xml"),
        "catalog features": features("collections", f"{host}/ogcapi/catalog"),
    }


GROUND = [name for name in ways("") if not any(word in name for word in ("footprints", "features", "collections", "1940"))]

CLICKED = ("wms footprints", "catalog collections")


class Seen:
    """What QGIS made of each way; `front` asks the same map without QGIS."""

    def __init__(self, front: httpx.Client, folder: Path, told: dict[str, dict[str, Any]]) -> None:
        self.front, self.folder, self.told = front, folder, told

    def picture(self, name: str) -> NDArray[np.uint8]:
        return np.asarray(Image.open(self.folder / f"{name}.png").convert("RGBA"))

    def plain(self, crs: str) -> NDArray[np.uint8]:
        """The same ground by a WMS 1.1.1 request, whose axes nobody mistakes."""
        size = {"WIDTH": SIDE, "HEIGHT": SIDE, "BBOX": ",".join(map(str, SCREENS[crs])), "SRS": crs}
        asked = {"SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "LAYERS": NAME, "STYLES": ""}
        return rgba(self.front.get(f"/wms/{TABLE}", params=asked | size | {"FORMAT": "image/png", "TRANSPARENT": "TRUE"}))


@pytest.fixture(scope="module", name="seen")
def seen_fixture(cluster: Cluster) -> Iterator[Seen]:
    """A collection of the sample survey, on the map, in QGIS."""
    # straight under the temporary directory: pytest's own folders are closed to the user that serves
    home = Path(tempfile.mkdtemp(prefix="ls4-qgis-"))
    home.chmod(0o755)
    survey = make_survey(home / "survey")
    try:
        with running_platform(cluster, home) as platform:
            for key, path in survey:
                if key.startswith(f"{TRAVIS.collection}/frames/georef/"):
                    platform.drop(key, path)
            platform.settle()
            with front_of(home, cluster) as front:
                (home / "pictures").mkdir()
                yield Seen(front, home / "pictures", in_qgis(str(front.base_url).rstrip("/"), home))
    finally:
        shutil.rmtree(home)


def in_qgis(host: str, home: Path) -> dict[str, dict[str, Any]]:
    """Each way in a QGIS without a window, settings or proxy of anybody's."""
    layers: list[dict[str, Any]] = []
    for name, way in ways(host).items():
        extent = FAR if name == "catalog collections" else SCREENS[way["crs"]]
        middle = [(extent[0] + extent[2]) / 2, (extent[1] + extent[3]) / 2]
        layers.append({"name": name, "extent": extent, "click": middle if name in CLICKED else None, **way})
    asked = json.dumps({"folder": str(home / "pictures"), "layers": layers})
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and "PYTHON" not in name}
    env = clean | {"QT_QPA_PLATFORM": "offscreen", "HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    done = subprocess.run([PYTHON, CLIENT], input=asked, text=True, capture_output=True, env=env, timeout=200)
    assert done.returncode == 0, done.stderr
    told: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("name", ways(""))
def test_qgis_takes_the_layer_and_draws_it(seen: Seen, name: str) -> None:
    told = seen.told[name]
    assert told["valid"], told
    assert told["errors"] == []
    drawn = (seen.picture(name)[..., 3] > 0).any()
    assert drawn == (name != "catalog 1940"), "there are photographs of 1958 only"


@pytest.mark.parametrize("name", GROUND)
def test_qgis_shows_the_ground_at_its_place(seen: Seen, name: str) -> None:
    """Axes the wrong way round, or tiles of a neighbour, look like anything but the same picture."""
    shown, plain = seen.picture(name), seen.plain(ways("")[name]["crs"])
    assert (shown[..., 3] == 255).mean() > 0.95
    assert np.corrcoef(coarse(shown), coarse(plain))[0, 1] > 0.95


def coarse(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Blocks of 8 by 8 pixels, in which the film's grain is evened out: it differs with each resampling."""
    return picture[..., 0].astype(float).reshape(SIDE // 8, 8, SIDE // 8, 8).mean(axis=(1, 3)).ravel()


@pytest.mark.parametrize(
    ("name", "links"),
    [
        ("wms footprints", (f"{TRAVIS.collection}/frames/cog/02-08-58_6-", f"{TRAVIS.collection}/frames/scanned/02-08-58_6-")),
        ("catalog collections", (f'href="/wms/{TABLE}"', f'href="/tiles/{TABLE}/tilejson.json"')),
    ],
)
def test_a_click_in_qgis_gives_the_links(seen: Seen, name: str, links: tuple[str, ...]) -> None:
    assert all(link in seen.told[name]["click"] for link in links), seen.told[name]["click"]


def test_qgis_has_the_footprints_with_their_links(seen: Seen) -> None:
    frames = {each["dl_georef"].rpartition("/")[2].removesuffix(".tif") for each in seen.told["features"]["features"]}
    assert frames == {shot.name for shot in TRAVIS.exposures}
    (collection,) = seen.told["catalog features"]["features"]
    assert collection["name"] == NAME and collection["wms"].endswith(f"/wms/{TABLE}")
