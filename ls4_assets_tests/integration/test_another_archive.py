"""An archive elsewhere in the world, described in its own file, from dropped frames to maps and page."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from owslib.wms import WebMapService  # type: ignore[import-untyped]
from PIL import Image
from rasterio.warp import transform_bounds

from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.status import collect
from ls4_assets_tests.integration.serving_fixtures import rgba, serve_archive
from ls4_assets_tests.platform import CHECKOUT, Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif

pytestmark = pytest.mark.timeout(300)

VALLEY = CHECKOUT / "ls4_assets_tests" / "valley" / "archive.toml"
CHROMIUM = Path("/usr/bin/chromium")

# In UTM zone 19S, in the counties RioClaro and SanJose: upper left corners of photographs of 400 x 400 pixels of 2 m.
SIZE, RESOLUTION = 400, 2.0
RIO_CLARO, SAN_JOSE = (350_000.0, 6_300_000.0), (350_000.0, 6_180_000.0)
WITH_ROLL = "bw/RioClaro/SAF_1962/frames/georef/02-08-62_6-107.tif"
WITHOUT_ROLL = "bw/SanJose/IGM_1970/frames/georef/03-10-70_1234.tif"
WITHOUT_ITS_ROLL = "bw/RioClaro/SAF_1962/frames/georef/02-08-62_108.tif"
ELSEWHERE = "bw/RioClaro/SAF_1962/frames/georef/02-08-62_6-109.tif"
TEXAN = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
OFFERED = {"EPSG:3857", "EPSG:4326", "EPSG:32719", "EPSG:5361"}


@dataclass(frozen=True)
class Valley:
    """The archive and its map server."""

    platform: Platform
    client: httpx.Client

    def get_map(self, name: str, layer: str, corner: tuple[float, float], srs: str = "EPSG:32719") -> httpx.Response:
        """The photograph at a corner, at its own resolution."""
        left, top = corner
        box = (left, top - SIZE * RESOLUTION, left + SIZE * RESOLUTION, top)
        size = {"WIDTH": str(SIZE), "HEIGHT": str(SIZE), "BBOX": ",".join(map(str, box)), "SRS": srs}
        request = {"SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "LAYERS": layer, "STYLES": ""}
        return self.client.get(f"/wms/{name}", params=request | size | {"FORMAT": "image/png", "TRANSPARENT": "TRUE"})

    def capabilities(self, name: str, version: str = "1.1.1") -> WebMapService:
        query = {"SERVICE": "WMS", "VERSION": version, "REQUEST": "GetCapabilities"}
        response = self.client.get(f"/wms/{name}", params=query)
        assert "WARNING" not in response.text.upper()
        return WebMapService("http://unused", version=version, xml=response.content)


def pixels(seed: int) -> NDArray[np.uint8]:
    return photograph(SIZE, SIZE, seed=seed)


@pytest.fixture(scope="module")
def valley(cluster: Cluster) -> Iterator[Valley]:
    # Directly below the temporary directory: pytest's folders are closed to the account that serves.
    home = Path(tempfile.mkdtemp(prefix="ls4-valley-"))
    home.chmod(0o755)
    places = {WITH_ROLL: RIO_CLARO, WITHOUT_ROLL: SAN_JOSE, WITHOUT_ITS_ROLL: RIO_CLARO, ELSEWHERE: SAN_JOSE, TEXAN: RIO_CLARO}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        platform = stack.enter_context(running_platform(cluster, home, archive_file=str(VALLEY)))
        for seed, (key, (left, top)) in enumerate(places.items()):
            place: dict[str, Any] = {"crs": "EPSG:32719", "transform": Affine(RESOLUTION, 0, left, 0, -RESOLUTION, top)}
            platform.drop(key, write_tif(home / f"{seed}.tif", pixels(seed), **place))
        platform.settle()
        platform.settle()
        yield Valley(platform, stack.enter_context(serve_archive(home, cluster, VALLEY)))


def test_frames_follow_the_archives_names_and_regions(valley: Valley) -> None:
    assert {item.name: item.indexed for item in collect(valley.platform.settings).collections} == {
        "RioClaro_SAF_1962_frames": 1,
        "SanJose_IGM_1970_frames": 1,
    }
    state, reason = valley.platform.state(WITHOUT_ITS_ROLL)
    assert state == "rejected" and reason and "MM-DD-YY_<roll>-<frame>.tif" in reason
    state, reason = valley.platform.state(TEXAN)
    assert state == "rejected" and reason and "'Travis' is not a county or agency of this archive" in reason
    state, reason = valley.platform.state(ELSEWHERE)
    assert state == "failed" and reason and "km from RioClaro" in reason
    (row,) = valley.platform.rows("SELECT roll, frame_num FROM sanjose_igm_1970_frames")
    assert row == {"roll": "N/A", "frame_num": "1234"}


@pytest.mark.parametrize(("name", "layer"), [("rioclaro_saf_1962_frames", "RioClaro_SAF_1962_frames"), ("catalog", "imagery")])
def test_map_shows_the_photograph_in_the_archives_zone(valley: Valley, name: str, layer: str) -> None:
    drawn = rgba(valley.get_map(name, layer, RIO_CLARO))
    inside = slice(40, -40)
    assert (drawn[inside, inside, 3] == 255).all()
    # Two resamplings, to EPSG:3857 and back, blur the grain but keep the structures.
    scan = pixels(0)[0, inside, inside].astype(float)
    correlation = np.corrcoef(drawn[inside, inside, 0].ravel(), scan.ravel())[0, 1]
    assert correlation > 0.97


def test_map_rejects_a_zone_that_the_archive_does_not_offer(valley: Valley) -> None:
    for name, layer in (("rioclaro_saf_1962_frames", "RioClaro_SAF_1962_frames"), ("catalog", "imagery")):
        response = valley.get_map(name, layer, RIO_CLARO, "EPSG:26914")
        assert "InvalidSRS" in response.text, name


@pytest.mark.parametrize("name", ["rioclaro_saf_1962_frames", "catalog"])
def test_capabilities_list_the_archives_zones_and_texts(valley: Valley, name: str) -> None:
    service = valley.capabilities(name)
    title = "All flights of the Valley" if name == "catalog" else "Rioclaro Saf 1962 Frames"
    assert service.identification.title == title
    assert service.identification.accessconstraints == "CC BY 4.0"
    assert service.provider.contact.organization == "Valley Institute" and service.provider.contact.city == "Río Claro"
    for layer in [*service.contents.values(), *valley.capabilities(name, "1.3.0").contents.values()]:
        assert set(layer.crsOptions) == OFFERED, layer.name
    imagery = service["imagery" if name == "catalog" else "RioClaro_SAF_1962_frames"]
    credit = "Valley Institute, flight archive" if name == "catalog" else "Air Force of the Valley"
    assert imagery.attribution["title"] == credit
    cited = "Cite as: Air Force of the Valley (1962). RioClaro SAF 1962 frames. Valley Institute."
    assert (cited in service.identification.abstract) == (name != "catalog")


def test_agency_has_its_own_license(valley: Valley) -> None:
    service = valley.capabilities("sanjose_igm_1970_frames")
    assert service.identification.accessconstraints == "All rights reserved"
    assert valley.client.get("/tiles/sanjose_igm_1970_frames/tilejson.json").json()["attribution"] == "IGM"
    stac = json.loads(valley.platform.storage.read("derived/SanJose_IGM_1970_frames/stac/collection.json"))
    assert stac["license"] == "other"
    assert [link["href"] for link in stac["links"] if link["rel"] == "license"] == ["https://igm.example/terms"]


def test_background_of_jpeg_is_the_archives(valley: Valley) -> None:
    left, top = RIO_CLARO
    request = {"LAYERS": "RioClaro_SAF_1962_frames", "SRS": "EPSG:32719", "FORMAT": "image/jpeg", "TRANSPARENT": "TRUE"}
    box = {"BBOX": f"{left - 5000},{top},{left - 4000},{top + 1000}", "WIDTH": "64", "HEIGHT": "64"}
    fixed = {"SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap"}
    response = valley.client.get("/wms/rioclaro_saf_1962_frames", params=fixed | request | box)
    assert (np.asarray(Image.open(BytesIO(response.content))) == 0xF0).all()


def test_lists_and_documents_name_the_archive(valley: Valley) -> None:
    listed = {entry["name"]: entry for entry in valley.client.get("/collections.json").json()["collections"]}
    assert {entry["county"] for entry in listed.values()} == {"RioClaro", "SanJose"}
    west, south, east, north = transform_bounds("EPSG:3857", "EPSG:4326", *listed["RioClaro_SAF_1962_frames"]["extent"])
    assert -71 < west < east < -70 and -34 < south < north < -33
    assert valley.client.get("/tiles/rioclaro_saf_1962_frames/tilejson.json").json()["attribution"] == "Air Force of the Valley"
    west, south, east, north = valley.client.get("/tiles/catalog/tilejson.json").json()["bounds"]
    assert -72 < west < east < -69 and -35 < south < north < -33, "the statewide map has the extent of the collections"
    offered = {each["id"] for each in valley.client.get("/ogcapi/collections").json()["collections"]}
    assert offered == {f"{name}_index" for name in listed}
    stac = json.loads(valley.platform.storage.read("derived/RioClaro_SAF_1962_frames/stac/collection.json"))
    assert stac["license"] == "CC-BY-4.0"
    assert {"name": "Valley Institute", "roles": ["processor", "host"]} in stac["providers"]
    assert "https://creativecommons.org/licenses/by/4.0/" in [link["href"] for link in stac["links"] if link["rel"] == "license"]


@pytest.fixture
def page(valley: Valley) -> Iterator[Any]:
    """The map page in headless Chromium; the console must stay free of errors."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip("chromium is not installed: run `deploy/install.sh tests`")
    errors: list[str] = []
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--use-gl=swiftshader"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        tab = browser.new_page(viewport={"width": 1000, "height": 700}, reduced_motion="reduce")
        tab.on("console", lambda message: errors.extend([message.text] if message.type == "error" else []))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        yield tab
        browser.close()
    assert errors == []


def test_page_shows_the_archives_title_license_and_base_map(valley: Valley, page: Any) -> None:
    with page.expect_response(lambda response: "/assets/base_map-" in response.url) as base_map:
        page.goto(str(valley.client.base_url))
    assert base_map.value.ok
    page.wait_for_selector("#collections li")
    assert page.title() == page.locator("h1").inner_text() == "Photographs of the Valley"
    footer = page.locator("#credits")
    assert footer.inner_text().strip() == "Valley Institute, flight archive. CC BY 4.0. County lines: Valley Survey."
    assert footer.locator("a").get_attribute("href") == "https://creativecommons.org/licenses/by/4.0/"
    assert "Texas" not in page.content() and "Census" not in page.locator("footer").inner_text()
    # A click into a county selects it, so its lines are on the map; "San José" of the base map is SanJose of the archive.
    page.goto(f"{valley.client.base_url}#/8/-34.5/-70.7")
    page.wait_for_selector("[aria-busy=true]", state="detached")
    page.wait_for_timeout(800)
    box = page.locator("#map").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_url("**county=SanJose**")
    assert page.locator("#collections li").count() == 1


def test_page_of_an_empty_archive_opens_on_the_archives_view(valley: Valley, page: Any) -> None:
    page.route("**/collections.json", lambda route: route.fulfill(json={"collections": []}))
    page.goto(str(valley.client.base_url))
    page.wait_for_selector(".summary:not(:empty)")
    page.wait_for_selector("[aria-busy=true]", state="detached")
    page.wait_for_timeout(800)
    box = page.locator("#map").bounding_box()
    shot = Image.open(BytesIO(page.screenshot())).convert("RGB")
    middle = (round(box["x"] + box["width"] / 2), round(box["y"] + box["height"] / 2))
    corner = (round(box["x"] + 60), round(box["y"] + 100))
    # The counties are in the middle of the map and do not reach its corner.
    assert shot.getpixel(middle) != shot.getpixel(corner)
