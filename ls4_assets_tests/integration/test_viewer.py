"""The map page in headless Chromium, over real nginx, mapserv and PostGIS: what a person sees, clicks and types."""

import hashlib
import json
import math
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
from ls4_assets.domain.names import Collection
from ls4_assets.local.state import free_port
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
    context_for,
    index_database_fixture,  # noqa: F401
    index_row,
    left_half,
    publish_mapfile,
    running,
    wait_until_healthy,
    write_cog,
)
from mapserver.config import write_config

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")

CHROMIUM = Path("/usr/bin/chromium")
PACKAGE = Path(__file__).resolve().parents[2] / "mapserver"
STATIC, SOURCE = PACKAGE / "static", PACKAGE / "viewer"

pytestmark = pytest.mark.timeout(120)

# The same ground twenty-one years before: one frame over all of WHITE's, in a grey that occurs nowhere else.
EARLIER = Collection("Travis", "Tobin_1937", "frames")
EARLIER_STEM, EARLIER_GREY = "11-02-37_2-31", 60
# A second frame over WHITE's ground; its raw scan was never brought.
OVERLAP = "02-08-60_6-109"

TALL, PHONE = {"width": 1000, "height": 640}, {"width": 360, "height": 740}


@dataclass(frozen=True)
class Front:
    """A running front; `listed` is what collections.json says."""

    url: str
    collections_file: Path
    listed: list[dict[str, Any]]

    def list(self, *entries: Mapping[str, Any]) -> None:
        self.collections_file.write_text(json.dumps({"collections": entries}))


@pytest.fixture(scope="module")
def front(index_database: IndexDatabase) -> Iterator[Front]:
    """Two collections of one place: three frames and one more over the second's ground; and one frame of 1937."""
    # straight under the temporary directory: pytest's own folders are closed to the user that serves
    home = Path(tempfile.mkdtemp(prefix="ls4-viewer-"))
    home.chmod(0o755)
    archive, port = home / "archive", free_port()
    for stem, (left, *halves) in FRAMES.items():
        write_cog(cog_path(archive, stem), left, (halves[0], halves[1]))
    earlier = archive / EARLIER.folder("bw") / "cog" / f"{EARLIER_STEM}.tif"
    write_cog(earlier, FRAMES[WHITE][0], ((EARLIER_GREY,), (EARLIER_GREY,)))
    config = write_config(
        home / "serving",
        port=port,
        mapfiles_dir=archive / "mapfiles",
        archive_dir=archive,
        database=index_database.service,
        workers=2,
    )
    rows = [index_row(archive, stem) for stem in FRAMES]
    rows.append({name: str(value).replace("6-108", "6-109") for name, value in rows[1].items()} | {"frame_num": "109"})
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
        for collection, held in ((COLLECTION, rows), (EARLIER, [old])):
            made = tile_index(collection)
            links = [
                row
                | {
                    name: str(row[name]).replace(LINKS, f"{config.base_url}/archive")
                    for name in ("dl_orig", "dl_georef", "dl_index")
                }
                for row in held
            ]
            with index_database.owner.begin() as connection:
                made.create(connection)
                connection.execute(made.insert(), links)
            stack.callback(made.drop, index_database.owner)
            publish_mapfile(archive, context_for(collection))
        log = stack.enter_context((home / "processes.log").open("wb"))
        stack.enter_context(running(config.workers_argv, log))
        stack.enter_context(running(config.nginx_argv, log))
        with httpx.Client() as client:
            wait_until_healthy(client, config.health_url)
        later = entry(COLLECTION, config.base_url, EXTENT, 4)
        before = entry(EARLIER, config.base_url, (LEFT + 2 * SPAN, TOP - SPAN, LEFT + 3 * SPAN, TOP), 1)
        yield Front(config.base_url, config.collections_file, [later, before])


def entry(of: Collection, base: str, extent: tuple[float, ...], frames: int) -> dict[str, Any]:
    """A collection as collections.json lists it."""
    about = {"name": of.name, "title": of.title, "table": of.table, "shard": of.shard, "county": of.shard, "agency": of.agency}
    about |= {"year": of.year, "type": of.type, "bands": ["bw"], "frames": frames, "extent": extent, "version": 1}
    return about | {"updated": "2026-11-22T12:00:00+00:00", "index": f"{base}/archive/{of.tile_index_key('bw', '_idx.zip')}"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip("there is no chromium here: `deploy/install.sh tests` installs it")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--use-gl=swiftshader"]
        )
        yield made
        made.close()


class Visit:
    """One person's visit to the page, and what went wrong in it."""

    def __init__(self, browser: Any, front: Front, viewport: Mapping[str, int]) -> None:
        front.list(*front.listed)
        self.front = front
        # nothing glides: the tests wait for what is drawn, not for movements
        self.page = browser.new_page(viewport=dict(viewport), reduced_motion="reduce")
        self.page.set_default_timeout(15_000)
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))

    def open(self, after: str = "/") -> Any:
        # another hash alone would not load the page anew
        self.page.goto("about:blank")
        self.page.goto(self.front.url + after)
        self.page.wait_for_selector("#collections li, #chosen-title, .notice:not([hidden]), .found:not(:empty)")
        self.settle()
        return self.page

    def settle(self) -> None:
        """What moves has come to rest, and what was asked for is drawn: the map says so to screen readers too."""
        self.page.wait_for_timeout(250)
        self.page.wait_for_selector("[aria-busy=true]", state="detached")
        self.page.wait_for_timeout(250)

    def place(self, x: float, y: float, pane: str = "#map") -> tuple[float, float]:
        """Where a ground position is in the window, by the view that the address names."""
        _, zoom, lat, lon = self.page.evaluate("location.hash").split("?")[0].split("/")
        metres = 2 * math.pi * 6378137 / 256 / 2 ** float(zoom)
        east = math.radians(float(lon)) * 6378137
        north = math.asinh(math.tan(math.radians(float(lat)))) * 6378137
        box = self.page.locator(pane).bounding_box()
        return box["x"] + box["width"] / 2 + (x - east) / metres, box["y"] + box["height"] / 2 - (y - north) / metres

    def colour(self, x: float, y: float, pane: str = "#map") -> tuple[int, ...]:
        """What is painted at a ground position."""
        self.settle()
        at = self.place(x, y, pane)
        picture = Image.open(BytesIO(self.page.screenshot())).convert("RGB")
        return tuple(picture.getpixel((round(at[0]), round(at[1]))))

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.place(x, y))


@pytest.fixture
def visit(browser: Any, front: Front) -> Iterator[Visit]:
    made = Visit(browser, front, TALL)
    yield made
    made.page.close()


@pytest.fixture
def phone(browser: Any, front: Front) -> Iterator[Visit]:
    made = Visit(browser, front, PHONE)
    yield made
    made.page.close()


def test_the_page_loads_quietly_and_asks_nobody_else(visit: Visit) -> None:
    page = visit.open()
    assert page.locator("#collections li").count() == 2
    assert "2 collections, 5 photographs" in page.locator(".masthead").inner_text()
    page.goto(f"{visit.front.url}/#{TABLE}/12.5/30.26/-97.66?compare={EARLIER.table}")
    visit.settle()
    assert visit.complaints == []
    assert {host for host in visit.hosts if host} == {visit.front.url.split("/")[2]}
    policy = page.locator("meta[http-equiv]").get_attribute("content")
    assert "script-src 'self'" in policy and "unsafe" not in policy


def test_files_with_a_hash_in_their_name_may_be_kept(front: Front) -> None:
    page = httpx.get(front.url).text
    for asset in [line.split()[1] for line in (STATIC / "SHA256SUMS").read_text().splitlines() if "assets/" in line]:
        answer = httpx.get(f"{front.url}/{asset}")
        assert answer.status_code == 200 and "immutable" in answer.headers["cache-control"], asset
        assert answer.content == (STATIC / asset).read_bytes()
    assert "integrity=" in page


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


def test_a_chosen_collection_shows_its_ground(visit: Visit) -> None:
    page = visit.open()
    page.click(f'[data-table="{TABLE}"]')
    page.wait_for_timeout(500)
    assert page.url.endswith(f"#{TABLE}") or f"#{TABLE}/" in page.url
    x = left_half(WHITE)
    assert visit.colour(x, MIDDLE) == (255, 255, 255)
    assert visit.colour(x + SPAN / 2, MIDDLE) == (160, 160, 160)
    assert visit.colour(left_half(BLACK), MIDDLE) == (0, 0, 0)
    base = visit.colour(LEFT + 1.5 * SPAN, MIDDLE)
    assert base not in [(0, 0, 0), (255, 255, 255)]
    page.locator("#opacity").focus()
    page.keyboard.press("Home")
    assert visit.colour(left_half(BLACK), MIDDLE) == base
    assert "opacity=0.00" in page.url
    page.go_back()
    page.wait_for_selector("#collections li")
    assert visit.complaints == []


def test_the_statewide_map_leads_to_a_collection(visit: Visit) -> None:
    elsewhere = visit.front.listed[1] | {
        "county": "Harris",
        "table": "harris_tobin_1937_frames",
        "extent": (-1.06e7, 3.4e6, -1.05e7, 3.5e6),
    }
    visit.front.list(*visit.front.listed, elsewhere)
    page = visit.open("/#/11/30.26/-97.69")
    visit.click(LEFT + SPAN / 2, MIDDLE)
    page.wait_for_selector("#chosen-title:visible")
    assert page.locator("#chosen-title").inner_text() == "Travis · USDA · 1958"
    page.click("#back")
    page.wait_for_selector("#collections li:visible")
    visit.settle()
    visit.click(left_half(WHITE), MIDDLE)  # two collections lie here
    page.wait_for_selector("text=2 of 3 collections at the place you chose")
    assert page.locator("#collections li").count() == 2


def test_a_click_tells_of_the_photographs_there(visit: Visit) -> None:
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
    assert "8 February 1960" in panel.inner_text()
    assert page.evaluate("document.querySelector('.preview').complete && document.querySelector('.preview').naturalWidth") == 64
    links = [link.get_attribute("href") for link in panel.locator(".downloads a").all()]
    assert [link.rsplit("/", 1)[1] for link in links] == [f"{WHITE}.tif", f"{WHITE}.tif", f"{NAME}_idx.zip"]
    assert [httpx.head(link).status_code for link in links] == [200, 200, 200]
    page.keyboard.press("Escape")
    assert not panel.is_visible()


def test_the_whole_collection_can_be_taken_away(visit: Visit) -> None:
    """GeoJSON, GeoParquet, STAC and the mosaics for GDAL were in the archive, and nobody who looked at the map could know."""
    later, before = visit.front.listed
    base = f"{visit.front.url}/archive/derived/{NAME}"
    exports = {
        "geojson": f"{base}/footprints.geojson",
        "parquet": f"{base}/footprints.parquet",
        "stac": f"{base}/stac/collection.json",
        "mosaics": {"bw": f"{base}/{NAME}_bw.gti.gpkg"},
    }
    visit.front.list(later | {"exports": exports}, before)
    page = visit.open(f"/#{TABLE}")
    page.click("#files summary")
    links = [link.get_attribute("href") for link in page.locator("#files a").all()]
    assert links == [later["index"], exports["geojson"], exports["parquet"], exports["stac"], exports["mosaics"]["bw"]]
    page = visit.open(f"/#{EARLIER.table}")
    page.click("#files summary")
    assert [link.get_attribute("href") for link in page.locator("#files a").all()] == [before["index"]]


def test_a_photograph_that_lies_alone_has_no_steps(visit: Visit) -> None:
    """The word `false` stood under the title of a photograph that no other overlaps."""
    page = visit.open(f"/#{TABLE}?frame=bw/{BLACK}")
    page.wait_for_selector("#frame-panel:visible")
    panel = page.locator("#frame-panel")
    assert panel.locator(".steps").count() == 0 and "false" not in panel.inner_text()


def test_an_address_brings_back_what_was_seen(browser: Any, visit: Visit) -> None:
    page = visit.open(f"/#{TABLE}")
    visit.click(left_half(BLACK), MIDDLE)
    page.wait_for_selector("#frame-panel:visible")
    visit.settle()
    address = page.url
    other = Visit(browser, visit.front, TALL)
    other.open(address.removeprefix(visit.front.url))
    other.page.wait_for_selector("#frame-panel:visible")
    assert "Roll 6, frame 107" in other.page.locator("#frame-panel").inner_text()
    assert other.page.url == address
    other.page.close()
    visit.open(f"/#{TABLE}?frame=bw/01-01-60_1-1")
    page.wait_for_selector("text=not in this collection any more")
    visit.open("/#nothing_here_1958")
    page.wait_for_selector("text=There is no collection nothing_here_1958")
    # a map's own address, as published catalogues give it
    page.goto(f"{visit.front.url}/?map=/mapfiles/{TABLE}.map")
    page.wait_for_selector("#chosen-title:visible")


def test_two_years_under_a_divider_and_beside_each_other(visit: Visit) -> None:
    page = visit.open(f"/#{TABLE}")
    page.select_option("#compare", EARLIER.table)
    x, later, earlier = left_half(WHITE) + SPAN / 8, (255, 255, 255), (EARLIER_GREY,) * 3
    assert page.locator(".side-label.left").inner_text() == "Travis · USDA · 1958"
    assert page.locator(".side-label.right").inner_text() == "Travis · Tobin · 1937"
    slider = page.locator("[role=slider]")
    slider.focus()
    page.keyboard.press("Home")
    assert visit.colour(x, MIDDLE) == earlier
    page.keyboard.press("End")
    assert visit.colour(x, MIDDLE) == later
    box = slider.bounding_box()
    page.mouse.move(box["x"] + 8, box["y"] + 200)  # the other half of it is outside of the window
    page.mouse.down()
    page.mouse.move(visit.place(x, MIDDLE)[0] - 60, box["y"] + 200, steps=4)
    page.mouse.up()
    assert visit.colour(x, MIDDLE) == earlier and visit.colour(left_half(BLACK), MIDDLE) == (0, 0, 0)
    visit.click(x, MIDDLE)
    page.wait_for_selector("text=Roll 2, frame 31")
    page.keyboard.press("Escape")
    page.click("#mode-side")
    page.click("#fit")
    assert visit.colour(x, MIDDLE) == later and visit.colour(x, MIDDLE, "#map-right") == earlier
    assert "side=1" in page.url


def test_everything_can_be_reached_by_keyboard(visit: Visit) -> None:
    page = visit.open()
    press = page.keyboard.press
    press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    reached = []
    while len(reached) < 40 and "search" not in reached:
        press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    page.keyboard.type("1958")
    for _ in range(6):  # four facets, "Show all", the first collection
        press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus cannot be seen"
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
    press("Enter")  # what is in the middle: WHITE's ground
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


def test_a_phone_is_enough(phone: Visit) -> None:
    page = phone.open()
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= PHONE["width"]
    page.click(f'[data-table="{TABLE}"]')
    phone.settle()
    assert page.evaluate(wide) <= PHONE["width"]
    assert phone.colour(left_half(WHITE), MIDDLE) == (255, 255, 255)
    above = page.locator("#map").bounding_box()["height"]
    page.click("#handle")
    assert page.locator("#map").bounding_box()["height"] > above * 1.4
    page.click("#handle")
    phone.settle()
    phone.click(left_half(WHITE), MIDDLE)
    page.wait_for_selector("#frame-panel:visible")
    box = page.locator("#frame-panel").bounding_box()
    assert box["width"] == PHONE["width"] and box["y"] + box["height"] <= PHONE["height"] + 1
    page.locator("#frame-panel .close").click()
    shown = "[...document.querySelectorAll('button, select, input')].filter(each => each.offsetWidth)"
    small = f"{shown}.filter(each => each.getBoundingClientRect().height < 16).map(each => each.id || each.textContent)"
    assert page.evaluate(small) == []


@pytest.mark.parametrize("after", ["/", f"/#{TABLE}?compare={EARLIER.table}&frame=bw/{WHITE}"])
def test_no_serious_accessibility_fault(visit: Visit, after: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed").Axe()
    page = visit.open(after)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        visit.settle()
        found = [fault for fault in axe.run(page).response["violations"] if fault["impact"] in ("serious", "critical")]
        assert [(fault["id"], [node["html"][:120] for node in fault["nodes"]]) for fault in found] == []


def test_it_says_plainly_what_is_wrong(visit: Visit) -> None:
    page = visit.page
    visit.front.list()
    visit.open()
    assert "Nothing is on the map yet" in page.locator(".found").inner_text()
    visit.front.list(*visit.front.listed)
    page.route("**/collections.json", lambda route: route.abort())
    visit.open()
    assert "does not answer" in page.locator("#notice").inner_text()
    page.unroute("**/collections.json")
    page.click("text=Try again")
    page.wait_for_selector("#collections li")
    assert not page.locator("#notice").is_visible()
    for pattern in ("**/tiles/**", "**/wms/**"):
        page.route(pattern, lambda route: route.fulfill(status=503))
    page.click(f'[data-table="{TABLE}"]')
    page.wait_for_selector("text=the map server does not answer")


def test_imagery_comes_as_wms_where_there_are_no_tiles(visit: Visit) -> None:
    visit.page.route("**/tiles/**", lambda route: route.fulfill(status=404))
    visit.open(f"/#{TABLE}")
    assert visit.colour(left_half(WHITE), MIDDLE) == (255, 255, 255)


def test_names_are_never_read_as_markup(visit: Visit) -> None:
    hostile = '<img src=x onerror="document.title=1">'
    visit.front.list(visit.front.listed[0] | {"county": hostile, "agency": hostile, "name": f"{hostile}_frames"})
    page = visit.open()
    page.click("#collections button")
    visit.settle()
    assert hostile in page.locator("#chosen-title").inner_text()
    assert page.locator("main img").count() == 0


def test_the_committed_page_is_whole() -> None:
    """What SHA256SUMS lists is there, unchanged, and nothing else is."""
    sums = dict(reversed(line.split("  ")) for line in (STATIC / "SHA256SUMS").read_text().splitlines())
    files = {str(path.relative_to(STATIC)): path for path in STATIC.rglob("*") if path.is_file() and path.name != "SHA256SUMS"}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == sums
    licences = next(STATIC.glob("assets/licences-*.txt")).read_text()
    for work in ("ol ", "us-atlas ", "@fontsource-variable/source-sans-3 "):
        assert f"\n{work}" in licences


@pytest.mark.slow
def test_a_rebuild_gives_the_committed_page(tmp_path: Path) -> None:
    if not shutil.which("npm"):
        pytest.skip("there is no npm here: the committed page is used as it is")
    copy = tmp_path / "viewer"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=copy, check=True, capture_output=True)
    subprocess.run(["node", "build.mjs", str(tmp_path / "built")], cwd=copy, check=True, capture_output=True)
    assert (tmp_path / "built" / "SHA256SUMS").read_text() == (STATIC / "SHA256SUMS").read_text()
