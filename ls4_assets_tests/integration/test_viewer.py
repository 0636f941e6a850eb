"""The map page in headless Chromium over real nginx, mapserv and PostGIS: what a user sees, clicks and types."""

import hashlib
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from ls4_assets.db.schema import tile_index
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.names import Collection
from ls4_assets.local.state import find_free_port
from ls4_assets_tests.integration.serving_fixtures import (
    BLACK,
    COLLECTION,
    EXTENT,
    FRAMES,
    LEFT,
    LINKS,
    MIDDLE,
    NAME,
    SPAN,
    TABLE,
    TOP,
    WHITE,
    IndexDatabase,
    cog_path,
    index_database_fixture,  # noqa: F401
    index_row,
    left_half,
    mapfile_context,
    publish_mapfile,
    running,
    wait_until_healthy,
    write_cog,
)
from mapserver.config import write_config

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
PACKAGE = Path(__file__).resolve().parents[2] / "mapserver"
STATIC, SOURCE = PACKAGE / "static", PACKAGE / "viewer"

pytestmark = pytest.mark.timeout(120)

# The same place twenty-one years earlier: one frame that covers WHITE, in a gray that occurs nowhere else.
EARLIER = Collection("Travis", "Tobin_1937", "frames")
EARLIER_STEM, EARLIER_GRAY = "11-02-37_2-31", 61
# A second frame over WHITE; its raw scan is not in the archive.
OVERLAP = "02-08-60_6-109"

TALL, PHONE = {"width": 1000, "height": 640}, {"width": 360, "height": 740}


@dataclass(frozen=True)
class ViewerServer:
    """A running map server. `listed`: the entries of collections.json."""

    url: str
    collections_file: Path
    listed: list[dict[str, Any]]

    def write_list(self, *entries: Mapping[str, Any]) -> None:
        titles = {film_type: spec.title for film_type, spec in FILM_TYPES.items()}
        self.collections_file.write_text(json.dumps({"film_types": titles, "collections": entries}))


@pytest.fixture(scope="module")
def web(index_database: IndexDatabase) -> Iterator[ViewerServer]:
    """Two collections of one place: four frames, two of which overlap, and one frame of 1937."""
    # Directly below the temporary directory: pytest's folders are closed to the account that serves.
    home = Path(tempfile.mkdtemp(prefix="ls4-viewer-"))
    home.chmod(0o755)
    archive, port = home / "archive", find_free_port()
    for stem, (left, *halves) in FRAMES.items():
        write_cog(cog_path(archive, stem), left, (halves[0], halves[1]))
    earlier = archive / EARLIER.folder("bw") / "cog" / f"{EARLIER_STEM}.tif"
    write_cog(earlier, FRAMES[WHITE][0], ((EARLIER_GRAY,), (EARLIER_GRAY,)))
    config = write_config(
        home / "serving",
        port=port,
        mapfiles_dir=archive / "mapfiles",
        archive_dir=archive,
        database=index_database.service,
        workers=2,
    )
    rows = [index_row(archive, stem) for stem in FRAMES]
    copied: dict[str, object] = {name: str(value).replace("6-108", "6-109") for name, value in rows[1].items()}
    rows.append(copied | {"frame_num": "109"})
    rows[-1]["served_location"] = rows[1]["served_location"]
    old = {
        name: str(value).replace(COLLECTION.survey, EARLIER.survey).replace(WHITE, EARLIER_STEM)
        for name, value in rows[1].items()
    }
    old |= {"date": "11-02-37", "roll": "2", "frame_num": "31", "acquired": "1937-11-02"}
    for name in ("scanned", "cog/tile_index"):
        (archive / COLLECTION.folder("bw") / name).mkdir()
    (archive / COLLECTION.folder("bw") / "scanned" / f"{WHITE}.tif").write_bytes(b"scan" * 1000)
    (archive / COLLECTION.tile_index_key("bw", "_idx.zip")).write_bytes(b"PK")
    thumbnail = archive / f"derived/{NAME}/thumbnails/bw/{WHITE}.webp"
    thumbnail.parent.mkdir(parents=True)
    Image.new("L", (64, 64), 160).save(thumbnail)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        for collection, collection_rows in ((COLLECTION, rows), (EARLIER, [old])):
            table = tile_index(collection)
            links = [
                row
                | {
                    name: str(row[name]).replace(LINKS, f"{config.base_url}/archive")
                    for name in ("dl_orig", "dl_georef", "dl_index")
                }
                for row in collection_rows
            ]
            with index_database.owner.begin() as connection:
                table.create(connection)
                connection.execute(table.insert(), links)
            stack.callback(table.drop, index_database.owner)
            publish_mapfile(archive, mapfile_context(collection))
        log = stack.enter_context((home / "processes.log").open("wb"))
        stack.enter_context(running(config.workers_argv, log))
        stack.enter_context(running(config.nginx_argv, log))
        with httpx.Client() as client:
            wait_until_healthy(client, config.health_url)
        later = list_entry(COLLECTION, config.base_url, EXTENT, 4)
        before = list_entry(EARLIER, config.base_url, (LEFT + 2 * SPAN, TOP - SPAN, LEFT + 3 * SPAN, TOP), 1)
        yield ViewerServer(config.base_url, config.collections_file, [later, before])


def list_entry(collection: Collection, base: str, extent: tuple[float, ...], frames: int) -> dict[str, Any]:
    """The collection's entry of collections.json."""
    entry: dict[str, Any] = {
        "name": collection.name,
        "title": collection.title,
        "table": collection.table,
        "shard": collection.shard,
    }
    entry |= {"county": collection.shard, "agency": collection.agency, "year": collection.year, "type": collection.type}
    entry |= {"bands": ["bw"], "frames": frames, "extent": extent, "version": 1}
    return entry | {
        "updated": "2026-11-22T12:00:00+00:00",
        "index": f"{base}/archive/{collection.tile_index_key('bw', '_idx.zip')}",
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip("chromium is not installed: run `deploy/install.sh tests`")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--use-gl=swiftshader"]
        )
        yield chromium
        chromium.close()


class Visit:
    """A browser tab with the page, and the errors of its console."""

    def __init__(self, browser: Any, web: ViewerServer, viewport: Mapping[str, int]) -> None:
        web.write_list(*web.listed)
        self.web = web
        # No animations: the tests wait for drawing, not for movement.
        self.page = browser.new_page(viewport=dict(viewport), reduced_motion="reduce")
        self.page.set_default_timeout(15_000)
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda message: self.errors.extend([message.text] if message.type == "error" else []))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))

    def open(self, path: str = "/") -> Any:
        # A change of the hash alone would not reload the page.
        self.page.goto("about:blank")
        self.page.goto(self.web.url + path)
        self.page.wait_for_selector("#collections li, #chosen-title, .notice:not([hidden]), .summary:not(:empty)")
        self.settle()
        return self.page

    def settle(self) -> None:
        """Wait until nothing moves and everything is drawn (aria-busy, which screen readers use too)."""
        self.page.wait_for_timeout(250)
        self.page.wait_for_selector("[aria-busy=true]", state="detached")
        self.page.wait_for_timeout(250)

    def window_position(self, x: float, y: float, pane: str = "#map") -> tuple[float, float]:
        """The pixel in the window of a position in EPSG:3857 meters, from the view in the address."""
        _, zoom, lat, lon = self.page.evaluate("location.hash").split("?")[0].split("/")
        resolution = 2 * math.pi * 6378137 / 256 / 2 ** float(zoom)
        east = math.radians(float(lon)) * 6378137
        north = math.asinh(math.tan(math.radians(float(lat)))) * 6378137
        box = self.page.locator(pane).bounding_box()
        return box["x"] + box["width"] / 2 + (x - east) / resolution, box["y"] + box["height"] / 2 - (y - north) / resolution

    def color_at(self, x: float, y: float, pane: str = "#map") -> tuple[int, ...]:
        """The color that is drawn at a position."""
        self.settle()
        position = self.window_position(x, y, pane)
        screenshot = Image.open(BytesIO(self.page.screenshot())).convert("RGB")
        pixel = screenshot.getpixel((round(position[0]), round(position[1])))
        assert isinstance(pixel, tuple)
        return pixel

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.window_position(x, y))


@pytest.fixture
def visit(browser: Any, web: ViewerServer) -> Iterator[Visit]:
    tab = Visit(browser, web, TALL)
    yield tab
    tab.page.close()


@pytest.fixture
def phone(browser: Any, web: ViewerServer) -> Iterator[Visit]:
    tab = Visit(browser, web, PHONE)
    yield tab
    tab.page.close()


def is_imagery(color: tuple[int, ...]) -> bool:
    """Whether a color is a gray of FRAMES; the ground of the page is not."""
    return any(max(abs(value - gray) for value in color) <= 2 for gray in (0, 90, 160, 255))


def test_page_loads_without_errors_and_from_one_host(visit: Visit) -> None:
    page = visit.open()
    assert page.locator("#collections li").count() == 2
    assert "2 collections, 5 photographs" in page.locator(".masthead").inner_text()
    page.goto(f"{visit.web.url}/#{TABLE}/12.5/30.26/-97.66?compare={EARLIER.table}")
    visit.settle()
    assert visit.errors == []
    assert {host for host in visit.hosts if host} == {visit.web.url.split("/")[2]}
    policy = page.locator("meta[http-equiv]").get_attribute("content")
    assert "script-src 'self'" in policy and "unsafe" not in policy


def test_hashed_assets_are_cached(web: ViewerServer) -> None:
    page = httpx.get(web.url).text
    for asset in [line.split()[1] for line in (STATIC / "SHA256SUMS").read_text().splitlines() if "assets/" in line]:
        response = httpx.get(f"{web.url}/{asset}")
        assert response.status_code == 200 and "immutable" in response.headers["cache-control"], asset
        assert response.content == (STATIC / asset).read_bytes()
    assert "integrity=" in page


@pytest.mark.parametrize("film_type", FILM_TYPES)
def test_film_types_have_titles_and_are_a_facet(visit: Visit, film_type: str) -> None:
    """The page had a list of its own, so a film type that was added had no label."""
    later, before = visit.web.listed
    title = FILM_TYPES[film_type].title
    others = [other for other in FILM_TYPES if other != film_type]
    visit.web.write_list({**later, "bands": [film_type]}, {**before, "bands": others})
    page = visit.open()
    rows = page.locator("#collections li")
    page.select_option("#facet-film", film_type)
    assert rows.count() == 1 and title in rows.inner_text()
    assert f"film={film_type}" in page.url
    assert f"{title} (1)" in page.locator("#facet-film option").all_inner_texts()
    page.select_option("#facet-film", "")
    page.fill("#search", title)
    assert rows.count() == 1 and str(COLLECTION.year) in rows.inner_text()


def test_list_of_an_older_version_shows_the_folder_of_a_film_type(visit: Visit) -> None:
    """The list in the bucket stays that of the older version until the next map is published."""
    visit.web.collections_file.write_text(json.dumps({"collections": visit.web.listed}))
    page = visit.open()
    assert "bw" in page.locator("#collections li").first.inner_text()


def test_search_and_facets_narrow_the_list(visit: Visit) -> None:
    page = visit.open()
    rows = page.locator("#collections li")
    page.fill("#search", "trav 193")
    assert rows.count() == 1 and "Tobin" in rows.inner_text()
    page.fill("#search", "harris")
    assert rows.count() == 0
    assert "No collection matches" in page.locator("#announce").inner_text()
    page.click("text=Show all")
    assert rows.count() == 2
    page.select_option("#facet-year", "1950s")
    assert rows.count() == 1 and "USDA" in rows.inner_text()
    assert page.locator("#facet-agency option").all_inner_texts() == ["Agency", "USDA (1)"]
    page.go_back()
    assert rows.count() == 2


def test_selected_collection_is_drawn(visit: Visit) -> None:
    page = visit.open()
    page.click(f'[data-table="{TABLE}"]')
    page.wait_for_timeout(500)
    assert page.url.endswith(f"#{TABLE}") or f"#{TABLE}/" in page.url
    x = left_half(WHITE)
    assert visit.color_at(x, MIDDLE) == (255, 255, 255)
    assert visit.color_at(x + SPAN / 2, MIDDLE) == (160, 160, 160)
    assert visit.color_at(left_half(BLACK), MIDDLE) == (0, 0, 0)
    background = visit.color_at(LEFT + 1.5 * SPAN, MIDDLE)
    assert background not in [(0, 0, 0), (255, 255, 255)]
    page.locator("#opacity").focus()
    page.keyboard.press("Home")
    assert visit.color_at(left_half(BLACK), MIDDLE) == background
    assert "opacity=0.00" in page.url
    page.go_back()
    page.wait_for_selector("#collections li")
    assert visit.errors == []


def test_statewide_map_opens_a_collection(visit: Visit) -> None:
    elsewhere = visit.web.listed[1] | {
        "county": "Harris",
        "table": "harris_tobin_1937_frames",
        "extent": (-1.06e7, 3.4e6, -1.05e7, 3.5e6),
    }
    visit.web.write_list(*visit.web.listed, elsewhere)
    page = visit.open("/#/11/30.26/-97.69")
    visit.click(LEFT + SPAN / 2, MIDDLE)
    page.wait_for_selector("#chosen-title:visible")
    assert page.locator("#chosen-title").inner_text() == "Travis · USDA · 1958"
    page.click("#back")
    page.wait_for_selector("#collections li:visible")
    visit.settle()
    visit.click(left_half(WHITE), MIDDLE)  # two collections are here
    page.wait_for_selector("text=2 of 3 collections at the place you chose")
    assert page.locator("#collections li").count() == 2


def test_click_shows_the_photographs_at_that_place(visit: Visit) -> None:
    page = visit.open(f"/#{TABLE}")
    visit.click(left_half(WHITE), MIDDLE)
    panel = page.locator("#frame-panel")
    page.wait_for_selector("#frame-panel:visible")
    assert "Roll 6, frame 109" in panel.inner_text() and "1 of 2" in panel.inner_text()
    page.wait_for_selector("text=is not in the archive")
    page.wait_for_selector("text=There is no preview")
    page.click("#next")
    page.wait_for_selector("text=Roll 6, frame 108")
    page.wait_for_selector("text=4 kB")
    assert "February 8, 1960" in panel.inner_text()
    assert page.evaluate("document.querySelector('.preview').complete && document.querySelector('.preview').naturalWidth") == 64
    links = [link.get_attribute("href") for link in panel.locator(".downloads a").all()]
    assert [link.rsplit("/", 1)[1] for link in links] == [f"{WHITE}.tif", f"{WHITE}.tif", f"{NAME}_idx.zip"]
    assert [httpx.head(link).status_code for link in links] == [200, 200, 200]
    page.keyboard.press("Escape")
    assert not panel.is_visible()


def test_exports_of_the_collection_can_be_downloaded(visit: Visit) -> None:
    """GeoJSON, GeoParquet, STAC and the mosaics for GDAL were in the archive, but the map page did not list them."""
    later, before = visit.web.listed
    base = f"{visit.web.url}/archive/derived/{NAME}"
    exports: dict[str, Any] = {
        "geojson": f"{base}/footprints.geojson",
        "parquet": f"{base}/footprints.parquet",
        "stac": f"{base}/stac/collection.json",
        "mosaics": {"bw": f"{base}/{NAME}_bw.gti.gpkg"},
    }
    visit.web.write_list(later | {"exports": exports}, before)
    page = visit.open(f"/#{TABLE}")
    page.click("#files summary")
    links = [link.get_attribute("href") for link in page.locator("#files a").all()]
    assert links == [later["index"], exports["geojson"], exports["parquet"], exports["stac"], exports["mosaics"]["bw"]]
    page = visit.open(f"/#{EARLIER.table}")
    page.click("#files summary")
    assert [link.get_attribute("href") for link in page.locator("#files a").all()] == [before["index"]]


def test_single_photograph_has_no_previous_and_next(visit: Visit) -> None:
    """The word `false` was shown under the title of a photograph that overlaps no other."""
    page = visit.open(f"/#{TABLE}?frame=bw/{BLACK}")
    page.wait_for_selector("#frame-panel:visible")
    panel = page.locator("#frame-panel")
    assert panel.locator(".steps").count() == 0 and "false" not in panel.inner_text()


def test_address_restores_the_view(browser: Any, visit: Visit) -> None:
    page = visit.open(f"/#{TABLE}")
    visit.click(left_half(BLACK), MIDDLE)
    page.wait_for_selector("#frame-panel:visible")
    visit.settle()
    address = page.url
    other = Visit(browser, visit.web, TALL)
    other.open(address.removeprefix(visit.web.url))
    other.page.wait_for_selector("#frame-panel:visible")
    assert "Roll 6, frame 107" in other.page.locator("#frame-panel").inner_text()
    assert other.page.url == address
    other.page.close()
    visit.open(f"/#{TABLE}?frame=bw/01-01-60_1-1")
    page.wait_for_selector("text=no longer in this collection")
    visit.open("/#nothing_here_1958")
    page.wait_for_selector("text=Collection nothing_here_1958 is not on the map")
    # A map's own address, as published catalogs list it.
    page.goto(f"{visit.web.url}/?map=/mapfiles/{TABLE}.map")
    page.wait_for_selector("#chosen-title:visible")


def test_two_years_are_compared_with_a_divider_and_side_by_side(visit: Visit) -> None:
    page = visit.open(f"/#{TABLE}")
    page.select_option("#compare", EARLIER.table)
    x, later, earlier = left_half(WHITE) + SPAN / 8, (255, 255, 255), (EARLIER_GRAY,) * 3
    assert page.locator(".side-label.left").inner_text() == "Travis · USDA · 1958"
    assert page.locator(".side-label.right").inner_text() == "Travis · Tobin · 1937"
    slider = page.locator("[role=slider]")
    slider.focus()
    page.keyboard.press("Home")
    assert visit.color_at(x, MIDDLE) == earlier
    page.keyboard.press("End")
    assert visit.color_at(x, MIDDLE) == later
    box = slider.bounding_box()
    page.mouse.move(box["x"] + 8, box["y"] + 200)  # the other half of the divider is outside the window
    page.mouse.down()
    page.mouse.move(visit.window_position(x, MIDDLE)[0] - 60, box["y"] + 200, steps=4)
    page.mouse.up()
    assert visit.color_at(x, MIDDLE) == earlier and visit.color_at(left_half(BLACK), MIDDLE) == (0, 0, 0)
    visit.click(x, MIDDLE)
    page.wait_for_selector("text=Roll 2, frame 31")
    page.keyboard.press("Escape")
    page.click("#mode-side")
    page.click("#fit")
    assert visit.color_at(x, MIDDLE) == later and visit.color_at(x, MIDDLE, "#map-right") == earlier
    assert "side=1" in page.url


def test_everything_is_reachable_by_keyboard(visit: Visit) -> None:
    page = visit.open()
    press = page.keyboard.press
    press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    reached: list[str] = []
    while len(reached) < 40 and "search" not in reached:
        press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    page.keyboard.type("1958")
    for _ in range(7):  # five facets, "Show all", the first collection
        press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus must be visible"
    press("Enter")
    assert page.evaluate("document.activeElement.id") == "chosen-title"
    visit.settle()
    page.locator("#map").focus()
    before = page.url
    press("ArrowRight")
    visit.settle()
    assert page.url != before
    press("ArrowLeft")
    visit.settle()
    press("Enter")  # selects what is at the center: WHITE
    page.wait_for_selector("#frame-panel:visible")
    assert page.evaluate("document.activeElement.id") == "frame-panel"
    press("ArrowRight")
    page.wait_for_selector("text=2 of 2")
    press("Escape")
    assert page.evaluate("document.activeElement.id") == "map"
    page.locator("#fit").focus()
    press("Enter")
    page.locator("#in-view summary").focus()
    press("Enter")
    page.wait_for_selector(".in-view button")
    assert page.locator(".in-view button").count() == 4


def test_page_works_on_a_phone(phone: Visit) -> None:
    page = phone.open()
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) <= PHONE["width"]
    page.click(f'[data-table="{TABLE}"]')
    phone.settle()
    assert page.evaluate(width) <= PHONE["width"]
    assert phone.color_at(left_half(WHITE), MIDDLE) == (255, 255, 255)
    height = page.locator("#map").bounding_box()["height"]
    page.click("#handle")
    assert page.locator("#map").bounding_box()["height"] > height * 1.4
    page.click("#handle")
    phone.settle()
    phone.click(left_half(WHITE), MIDDLE)
    page.wait_for_selector("#frame-panel:visible")
    box = page.locator("#frame-panel").bounding_box()
    assert box["width"] == PHONE["width"] and box["y"] + box["height"] <= PHONE["height"] + 1
    page.locator("#frame-panel .close").click()
    visible = "[...document.querySelectorAll('button, select, input')].filter(each => each.offsetWidth)"
    small = f"{visible}.filter(each => each.getBoundingClientRect().height < 16).map(each => each.id || each.textContent)"
    assert page.evaluate(small) == []


@pytest.mark.parametrize("path", ["/", f"/#{TABLE}?compare={EARLIER.table}&frame=bw/{WHITE}"])
def test_no_serious_accessibility_violation(visit: Visit, path: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed").Axe()
    page = visit.open(path)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        visit.settle()
        violations = [each for each in axe.run(page).response["violations"] if each["impact"] in ("serious", "critical")]
        assert [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in violations] == []


def test_errors_are_shown_with_advice(visit: Visit) -> None:
    page = visit.page
    visit.web.write_list()
    visit.open()
    assert "The map is empty" in page.locator(".summary").inner_text()
    visit.web.write_list(*visit.web.listed)
    page.route("**/collections.json", lambda route: route.abort())
    visit.open()
    assert "is not responding" in page.locator("#notice").inner_text()
    page.unroute("**/collections.json")
    page.click("text=Try again")
    page.wait_for_selector("#collections li")
    assert not page.locator("#notice").is_visible()
    for pattern in ("**/tiles/**", "**/wms/**"):
        page.route(pattern, lambda route: route.fulfill(status=503))
    page.click(f'[data-table="{TABLE}"]')
    page.wait_for_selector("text=The map server is not responding")


def test_imagery_falls_back_to_wms_without_tiles(visit: Visit) -> None:
    visit.page.route("**/tiles/**", lambda route: route.fulfill(status=404))
    visit.open(f"/#{TABLE}")
    assert visit.color_at(left_half(WHITE), MIDDLE) == (255, 255, 255)


def test_missing_tiles_are_named_and_requested_again(visit: Visit) -> None:
    """Tiles that failed stayed white holes: the page did not mention them and never requested them again."""
    page, is_failing = visit.page, [True]

    def answer(route: Any) -> None:
        column = int(route.request.url.split("/")[-2])
        if is_failing[0] and column % 2:
            route.fulfill(status=503)
        else:
            route.continue_()

    page.route(f"**/tiles/{TABLE}/**", answer)
    page.goto(f"{visit.web.url}/#{TABLE}")
    page.wait_for_selector("#notice:visible", timeout=15_000)
    notice = page.locator("#notice").inner_text()
    assert re.search(r"\b[0-9]+ tiles? of Travis · USDA · 1958\b", notice) and "requests them again" in notice
    is_failing[0] = False
    page.wait_for_selector("#notice", state="hidden", timeout=30_000)
    for x in (left_half(WHITE), left_half(WHITE) + SPAN / 2, left_half(BLACK)):
        assert is_imagery(visit.color_at(x, MIDDLE)), x


def test_statewide_map_without_tiles_is_not_silent(visit: Visit) -> None:
    """With the statewide tiles blocked, the map was blank without a notice."""
    visit.page.route("**/tiles/catalog/**", lambda route: route.abort())
    page = visit.open("/#/13/30.26/-97.69")
    page.wait_for_selector("#notice:visible", timeout=15_000)
    assert "of the map of all collections" in page.locator("#notice").inner_text()


def test_retries_end_with_a_button(browser: Any, web: ViewerServer) -> None:
    tab = Visit(browser, web, TALL)
    tab.page.clock.install()
    requests: list[str] = []

    def reject(route: Any) -> None:
        requests.append(route.request.url)
        route.fulfill(status=503)

    tab.page.route(f"**/tiles/{TABLE}/**", reject)
    tab.page.goto(f"{web.url}/#{TABLE}")
    for _ in range(60):
        tab.page.clock.run_for(2000)
        if tab.page.locator("#notice button").is_visible():
            break
    assert "check your connection" in tab.page.locator("#notice").inner_text().lower()
    # The first tile that failed is requested once more, to learn whether the map has tiles.
    assert sorted({requests.count(url) for url in requests}) == [6, 7]
    before = len(requests)
    tab.page.unroute(f"**/tiles/{TABLE}/**")
    tab.page.click("#notice button")
    for _ in range(5):
        tab.page.clock.run_for(1000)
        tab.page.wait_for_timeout(200)
    tab.page.wait_for_selector("#notice", state="hidden")
    assert len(requests) == before
    tab.page.close()


@pytest.mark.parametrize(("density", "zoom", "suffix"), [(1, 14, ""), (2, 14, "@2x"), (2, 19, "")])
def test_double_tiles_are_requested_only_where_they_show_more(
    browser: Any, web: ViewerServer, density: int, zoom: int, suffix: str
) -> None:
    """From the zoom of the photographs' own pixels on, a tile of 512 pixels weighs four times as much and shows no more."""
    web.write_list(*web.listed)
    page = browser.new_page(viewport=TALL, device_scale_factor=density, reduced_motion="reduce")
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.route("**/tilejson.json", lambda route: route.fulfill(json={"maxzoom": 17}))
    page.goto(f"{web.url}/#{TABLE}/{zoom}/30.275/-97.69")
    page.wait_for_timeout(3000)
    tiles = [url for url in urls if f"/tiles/{TABLE}/{zoom}/" in url]
    assert tiles and all(url.split("?")[0].endswith(f"{suffix}.webp") for url in tiles)
    assert suffix or not any("@2x" in url for url in tiles)
    page.close()


def test_names_are_not_parsed_as_markup(visit: Visit) -> None:
    hostile = '<img src=x onerror="document.title=1">'
    visit.web.write_list(visit.web.listed[0] | {"county": hostile, "agency": hostile, "name": f"{hostile}_frames"})
    page = visit.open()
    page.click("#collections button")
    visit.settle()
    assert hostile in page.locator("#chosen-title").inner_text()
    assert page.locator("main img").count() == 0


def test_committed_page_matches_its_checksums() -> None:
    """The files that SHA256SUMS lists exist unchanged, and there are no others."""
    lines = [line.split("  ") for line in (STATIC / "SHA256SUMS").read_text().splitlines()]
    sums = {name: checksum for checksum, name in lines}
    files = {str(path.relative_to(STATIC)): path for path in STATIC.rglob("*") if path.is_file() and path.name != "SHA256SUMS"}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == sums
    licenses = next(STATIC.glob("assets/licenses-*.txt")).read_text()
    for package in ("ol ", "us-atlas ", "@fontsource-variable/source-sans-3 "):
        assert f"\n{package}" in licenses


@pytest.mark.slow
def test_rebuild_reproduces_the_committed_page(tmp_path: Path) -> None:
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    copy = tmp_path / "viewer"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=copy, check=True, capture_output=True)
    subprocess.run(["node", "build.mjs", str(tmp_path / "built")], cwd=copy, check=True, capture_output=True)
    assert (tmp_path / "built" / "SHA256SUMS").read_text() == (STATIC / "SHA256SUMS").read_text()
