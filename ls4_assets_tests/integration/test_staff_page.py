"""The staff's page of rejected files: real nginx, real Chromium, and the JSON as the platform writes it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from ls4_assets.local.state import free_port
from ls4_assets.notifications.rejections import Counts, Rejection, staff_json
from ls4_assets_tests.integration.serving_fixtures import running
from mapserver.config import PostgresService, write_config

CHROMIUM = Path("/usr/bin/chromium")
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TRAVIS, BASTROP = "Travis_USDA_1958_frames", "Bastrop_USDA_1940_frames"


def rejection(number: int, place: str = TRAVIS, **more: Any) -> Rejection:
    county, folder, type_ = place.split("_", 1)[0], place.split("_", 1)[1].rsplit("_", 1)[0], "frames"
    about = {
        "key": f"bw/{county}/{folder}/{type_}/georef/02-08-60_6-{number}.tif",
        "kind": "failed",
        "place": place,
        "reason": f"02-08-60_6-{number}.tif is empty (zero bytes).",
        "advice": "Copy it again from the scanner's disk and drop it again.",
        "first_seen": NOW - timedelta(days=1, minutes=number),
        "last_seen": NOW - timedelta(minutes=number),
        "times": 1,
        "resolved_at": None,
        "taken": False,
    }
    return Rejection(**(about | more))


MISSPELT = rejection(
    999,
    kind="rejected",
    place="bw/Traviss/USDA_1958/frames",
    key="bw/Traviss/USDA_1958/frames/georef/<b>1.tif",
    reason="'Traviss' is no county or agency of this archive.",
    advice="Did you mean Travis? Rename the folder, or ask the operator to add it to the list of shards.",
    last_seen=NOW,
)
TAKEN = rejection(500, BASTROP, resolved_at=NOW - timedelta(hours=1), taken=True, times=3)
LIST = [MISSPELT, *(rejection(number) for number in range(150)), rejection(200, BASTROP), TAKEN]


@dataclass(frozen=True)
class Front:
    """nginx alone: the page needs no map server."""

    url: str
    rejections_file: Path


@contextmanager
def front_with(**options: Any) -> Iterator[Front]:
    # straight under the temporary directory: pytest's own folders are closed to the user that serves
    home = Path(tempfile.mkdtemp(prefix="ls4-staff-"))
    home.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        file = home / "archive" / "staff" / "rejections.json"
        file.parent.mkdir(parents=True)
        file.write_bytes(staff_json(Counts(152, 1, ""), LIST, NOW))
        database = PostgresService("127.0.0.1", 1, "none", "nobody")
        config = write_config(
            home / "serving", port=free_port(), mapfiles_dir=home / "archive" / "mapfiles", archive_dir=home / "archive",
            database=database, **({"rejections_file": file} | options),
        )  # fmt: skip
        log = stack.enter_context((home / "log").open("wb"))
        stack.enter_context(running(config.nginx_argv, log))
        with httpx.Client(transport=httpx.HTTPTransport(retries=5)) as client:
            client.get(f"{config.base_url}/collections.json").raise_for_status()
        yield Front(config.base_url, file)


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with front_with(staff=["127.0.0.0/8"]) as running_front:
        yield running_front


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")
    if not CHROMIUM.exists():
        pytest.skip("there is no chromium here: `deploy/install.sh tests` installs it")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.fixture
def page(browser: Any, front: Front) -> Iterator[Any]:
    """A visit; at its end nothing must have gone wrong in it."""
    visit = browser.new_page(viewport={"width": 1200, "height": 800})
    complaints: list[str] = []
    visit.on("console", lambda said: said.type == "error" and complaints.append(said.text))
    visit.on("pageerror", lambda error: complaints.append(str(error)))
    opened(visit, front, "")
    yield visit
    visit.close()
    assert complaints == []


def opened(page: Any, front: Front, after: str) -> None:
    page.goto("about:blank")
    page.goto(f"{front.url}/staff{after}")
    # Not by wait_for_function: where the page is slow it asks again by eval, which the page's own policy forbids.
    page.locator("#found", has_text="In all 152").wait_for()


def files(page: Any) -> list[str]:
    return [str(name) for name in page.locator("tbody strong").all_text_contents()]


def test_open_files_are_listed_the_newest_first_with_reason_and_advice(page: Any) -> None:
    shown = files(page)
    assert shown[:3] == ["<b>1.tif", "02-08-60_6-0.tif", "02-08-60_6-1.tif"] and len(shown) == 100
    first = page.locator("tbody tr").first.inner_text()
    for part in ("bw/Traviss/USDA_1958/frames/georef", "is no county", "Did you mean Travis?", "Open", "Nov 23, 2026"):
        assert part in first
    page.get_by_role("button", name="Show more").click()
    assert len(files(page)) == 152 and not page.get_by_role("button", name="Show more").is_visible()
    assert page.evaluate("document.activeElement.rowIndex") == 101


def test_a_search_is_by_county_collection_file_and_reason_and_stands_in_the_address(page: Any, front: Front) -> None:
    search = page.get_by_label("County, collection, file or reason")
    for words, found in (("bastrop", 1), (TRAVIS.lower(), 150), ("no county", 1), ("bastrop empty", 1), ("nothing like it", 0)):
        search.fill(words)
        assert page.locator("#found").inner_text().startswith(f"{found} file" if found else "No file"), words
    search.fill(BASTROP)
    page.get_by_label("State").select_option("all")
    assert files(page) == ["02-08-60_6-500.tif", "02-08-60_6-200.tif"], "resolved an hour ago, and rejected 200 minutes ago"
    address = page.url
    assert address == f"{front.url}/staff#find={BASTROP}&state=all"
    opened(page, front, address.removeprefix(f"{front.url}/staff"))
    assert files(page) == ["02-08-60_6-500.tif", "02-08-60_6-200.tif"], "resolved an hour ago, and rejected 200 minutes ago"


def test_a_resolved_file_says_what_became_of_it(page: Any) -> None:
    page.get_by_label("State").select_option("resolved")
    (row,) = page.locator("tbody tr").all_inner_texts()
    assert "Resolved" in row and "taken, Nov 23" in row and "3 times" in row and "Nothing is left to do." in row


def test_a_list_that_cannot_be_read_any_more_is_told_and_what_was_shown_stays(browser: Any, front: Front) -> None:
    visit = browser.new_page()
    visit.clock.install()
    opened(visit, front, "")
    visit.route("**/rejections.json", lambda route: route.abort())
    visit.clock.run_for(61_000)
    told = visit.get_by_role("alert")
    told.wait_for()
    assert "cannot be read" in told.inner_text() and len(files(visit)) == 100
    visit.unroute("**/rejections.json")
    visit.clock.run_for(61_000)
    told.wait_for(state="hidden")
    visit.close()


@pytest.mark.parametrize("width", [1200, 360])
def test_no_accessibility_fault_and_no_sideways_scrolling(page: Any, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed").Axe()
    page.set_viewport_size({"width": width, "height": 800})
    page.get_by_label("State").select_option("all")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = axe.run(page).response["violations"]
        assert [(fault["id"], [node["html"][:120] for node in fault["nodes"]]) for fault in found] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if folder := os.environ.get("PICTURES"):
            page.screenshot(path=f"{folder}/staff-{width}-{scheme}.png")


def test_it_is_for_staff_alone_whoever_the_balancer_says_asks() -> None:
    with front_with(staff=["10.1.0.0/16"], proxies=["127.0.0.0/8"]) as front:
        through_two = {"10.1.2.3, 127.0.0.9": 200, "8.8.8.8, 127.0.0.9": 404, "10.1.2.3, 8.8.8.8, 127.0.0.9": 404}
        through_one = {"10.1.2.3": 200, "8.8.8.8": 404, "10.1.2.3, 8.8.8.8": 404, "": 404}
        for asked_for, status in (through_one | through_two).items():
            for path in ("/staff", "/staff/", "/staff/rejections.json", "/staff/staff.js", "/staff/staff.css"):
                answer = httpx.get(front.url + path, headers={"X-Forwarded-For": asked_for} if asked_for else {})
                assert answer.status_code == status, (asked_for, path)


@pytest.mark.parametrize("path", ["/staff", "/staff/rejections.json", "/staff/staff.js"])
def test_no_other_site_reads_it_in_the_browser_of_staff(front: Front, path: str) -> None:
    """Any page that they had open was allowed to fetch the list of files, and to send it away."""
    answer = httpx.get(front.url + path, headers={"Origin": "https://elsewhere.example"})
    assert answer.status_code == 200
    assert [name for name in answer.headers if name.startswith("access-control-")] == []
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-cache")
    assert httpx.get(f"{front.url}/collections.json").headers["access-control-allow-origin"] == "*"


def test_the_list_is_not_there_until_it_is_written() -> None:
    with front_with(staff=["127.0.0.0/8"]) as front:
        front.rejections_file.unlink()
        assert httpx.get(f"{front.url}/staff/rejections.json").status_code == 404


@pytest.mark.parametrize("options", [{"rejections_file": None}, {"staff": ["10.1.0.0/16"]}])
def test_without_a_balancer_nobody_can_say_that_he_is_staff(options: dict[str, Any]) -> None:
    with front_with(**options) as front:
        for path in ("/staff", "/staff/index.html", "/staff/rejections.json", "/archive/staff/rejections.json"):
            assert httpx.get(front.url + path, headers={"X-Forwarded-For": "10.1.2.3"}).status_code == 404, path
