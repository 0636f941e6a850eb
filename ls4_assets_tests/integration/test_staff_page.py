"""The staff page of rejected files, in Chromium over nginx, with the JSON of the pipeline; and what the monitor writes."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from ls4_assets.domain.export_keys import HEALTH_FILE, METRICS_FILE
from ls4_assets.errors import ConfigurationError
from ls4_assets.local.state import find_free_port
from ls4_assets.notifications.messages import file_link
from ls4_assets.notifications.rejections import Rejection, RejectionCounts, render_staff_json
from ls4_assets.operations.health.conditions import ESSENTIAL_SENSORS, judge
from ls4_assets.operations.health.files import write_file
from ls4_assets.operations.health.model import Facts, SensorFact
from ls4_assets.operations.health.monitor import render_json
from ls4_assets_tests.integration.serving_fixtures import running
from mapserver.config import PostgresService, write_config

CHROMIUM = Path("/usr/bin/chromium")
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TRAVIS, BASTROP = "Travis_USDA_1958_frames", "Bastrop_USDA_1940_frames"


def make_rejection(number: int, scope: str = TRAVIS, **fields: Any) -> Rejection:
    county, folder, type_ = scope.split("_", 1)[0], scope.split("_", 1)[1].rsplit("_", 1)[0], "frames"
    defaults: dict[str, Any] = {
        "key": f"bw/{county}/{folder}/{type_}/georef/02-08-60_6-{number}.tif",
        "kind": "failed",
        "scope": scope,
        "reason": f"02-08-60_6-{number}.tif is empty (zero bytes).",
        "advice": "Copy it again from the scanner's disk and drop it again.",
        "first_seen": NOW - timedelta(days=1, minutes=number),
        "last_seen": NOW - timedelta(minutes=number),
        "occurrences": 1,
        "resolved_at": None,
        "is_accepted": False,
    }
    return Rejection(**(defaults | fields))


MISSPELLED = make_rejection(
    999,
    kind="rejected",
    scope="bw/Traviss/USDA_1958/frames",
    key="bw/Traviss/USDA_1958/frames/georef/<b>1.tif",
    reason="'Traviss' is not a county or agency of this archive.",
    advice="Did you mean Travis? Rename the folder, or ask the operator to add it to the list of shards.",
    last_seen=NOW,
)
ACCEPTED = make_rejection(500, BASTROP, resolved_at=NOW - timedelta(hours=1), is_accepted=True, occurrences=3)
PICTURED = make_rejection(0, thumbnail_key=f"derived/{TRAVIS}/thumbnails/bw/02-08-60_6-0.webp")
LIST = [MISSPELLED, PICTURED, *(make_rejection(number) for number in range(1, 150)), make_rejection(200, BASTROP), ACCEPTED]


@dataclass(frozen=True)
class StaffServer:
    """Only nginx: the page does not need mapserv."""

    url: str
    rejections_file: Path
    monitor: Path


@contextmanager
def serve_staff_page(**options: Any) -> Iterator[StaffServer]:
    # Directly below the temporary directory: pytest's folders are closed to the account that serves.
    home = Path(tempfile.mkdtemp(prefix="ls4-staff-"))
    home.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        port = find_free_port()
        file = home / "archive" / "staff" / "rejections.json"
        file.parent.mkdir(parents=True)
        file.write_bytes(render_staff_json(RejectionCounts(152, 1, ""), LIST, NOW, f"http://127.0.0.1:{port}/archive"))
        monitor = home / "monitor"
        monitor.mkdir()
        picture = home / "archive" / str(PICTURED.thumbnail_key)
        picture.parent.mkdir(parents=True)
        Image.new("L", (192, 128), 160).save(picture)
        database = PostgresService("127.0.0.1", 1, "none", "nobody")
        config = write_config(
            home / "serving", port=port, mapfiles_dir=home / "archive" / "mapfiles", archive_dir=home / "archive",
            database=database, **({"rejections_file": file, "monitor_dir": monitor} | options),
        )  # fmt: skip
        log = stack.enter_context((home / "log").open("wb"))
        stack.enter_context(running(config.nginx_argv, log))
        with httpx.Client(transport=httpx.HTTPTransport(retries=5)) as client:
            client.get(f"{config.base_url}/collections.json").raise_for_status()
        yield StaffServer(config.base_url, file, monitor)


@pytest.fixture(scope="module")
def web() -> Iterator[StaffServer]:
    with serve_staff_page(staff=["127.0.0.0/8"]) as server:
        yield server


@pytest.fixture(scope="module")
def named() -> Iterator[StaffServer]:
    """Behind a trusted load balancer, as `maps.example.org`."""
    with serve_staff_page(staff=["127.0.0.0/8"], proxies=["127.0.0.0/8"], staff_hosts=["maps.example.org"]) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip("chromium is not installed: run `deploy/install.sh tests`")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, web: StaffServer) -> Iterator[Any]:
    """The page in a browser tab. At the end of the test the console must contain no errors."""
    tab = browser.new_page(viewport={"width": 1200, "height": 800})
    errors: list[str] = []
    tab.on("console", lambda message: errors.extend([message.text] if message.type == "error" else []))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    open_page(tab, web, "")
    yield tab
    tab.close()
    assert errors == []


def open_page(page: Any, web: StaffServer, suffix: str) -> None:
    page.goto("about:blank")
    page.goto(f"{web.url}/staff{suffix}")
    # Not wait_for_function: on a slow page it retries with eval, which the page's Content-Security-Policy forbids.
    page.locator("#summary", has_text="Total: 152").wait_for()


def files(page: Any) -> list[str]:
    return [str(name) for name in page.locator("tbody strong").all_text_contents()]


def test_open_files_are_listed_newest_first_with_reason_and_advice(page: Any) -> None:
    names = files(page)
    assert names[:3] == ["<b>1.tif", "02-08-60_6-0.tif", "02-08-60_6-1.tif"] and len(names) == 100
    first = page.locator("tbody tr").first.inner_text()
    for part in ("bw/Traviss/USDA_1958/frames/georef", "is not a county", "Did you mean Travis?", "Open", "Nov 23, 2026"):
        assert part in first
    page.get_by_role("button", name="Show more").click()
    assert len(files(page)) == 152 and not page.get_by_role("button", name="Show more").is_visible()
    assert page.evaluate("document.activeElement.rowIndex") == 101


def test_search_by_county_collection_file_and_reason_is_in_the_address(page: Any, web: StaffServer) -> None:
    search = page.get_by_label("County, collection, file or reason")
    for words, count in (("bastrop", 1), (TRAVIS.lower(), 150), ("no county", 1), ("bastrop empty", 1), ("nothing like it", 0)):
        search.fill(words)
        assert page.locator("#summary").inner_text().startswith(f"{count} file" if count else "No files"), words
    search.fill(BASTROP)
    page.get_by_label("State").select_option("all")
    assert files(page) == ["02-08-60_6-500.tif", "02-08-60_6-200.tif"], "resolved an hour ago, and rejected 200 minutes ago"
    address = page.url
    assert address == f"{web.url}/staff#find={BASTROP}&state=all"
    open_page(page, web, address.removeprefix(f"{web.url}/staff"))
    assert files(page) == ["02-08-60_6-500.tif", "02-08-60_6-200.tif"], "resolved an hour ago, and rejected 200 minutes ago"


def test_folder_that_staff_call_theirs_is_in_the_address(page: Any, web: StaffServer) -> None:
    """Nobody could bookmark the files of one contractor: the search of words also finds other folders."""
    mine = page.get_by_label("My folder")
    mine.select_option("bw/Bastrop")
    assert files(page) == ["02-08-60_6-200.tif"] and page.title() == "Rejected files: bw/Bastrop"
    assert page.url == f"{web.url}/staff#folder=bw%2FBastrop"
    for folder, count in (("bw/Travis", 100), ("bw/Travis/USDA_1958/frames", 100), ("bw/Trav", 0), ("bw/Hays/USDA_1958/", 0)):
        open_page(page, web, f"#folder={folder}")
        assert len(files(page)) == count and mine.input_value() == folder.rstrip("/"), folder
    open_page(page, web, "#folder=bw/Bastrop&state=all")
    assert len(files(page)) == 2


def test_link_of_a_message_shows_that_file_even_when_it_is_resolved(page: Any, web: StaffServer) -> None:
    for entry, text in ((MISSPELLED, "Did you mean Travis?"), (ACCEPTED, "accepted, Nov 23")):
        open_page(page, web, file_link(f"{web.url}/staff", entry.key).removeprefix(f"{web.url}/staff"))
        (row,) = page.locator("tbody tr").all_inner_texts()
        assert text in row and not page.get_by_label("State").is_visible()
    page.get_by_role("link", name="Show all rejected files").click()
    assert len(files(page)) == 100
    page.get_by_role("link", name="02-08-60_6-1.tif", exact=True).click()
    assert files(page) == ["02-08-60_6-1.tif"] and page.title() == "Rejected files: 02-08-60_6-1.tif"
    open_page(page, web, "#file=bw/Travis/never.tif")
    assert "bw/Travis/never.tif is not in the list" in page.locator("#summary").inner_text() and not files(page)


def test_file_with_a_version_on_the_map_has_its_thumbnail(page: Any) -> None:
    (picture,) = page.locator("tbody img").all()
    assert picture.get_attribute("alt") == "02-08-60_6-0.tif on the map"
    picture.evaluate("image => image.decode()")
    assert picture.evaluate("image => image.naturalWidth") == 192


@pytest.mark.parametrize("suffix", ["", "#file=bw/Bastrop/USDA_1940/frames/georef/02-08-60_6-500.tif"])
def test_targets_are_large_enough_for_fingers(page: Any, web: StaffServer, suffix: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    open_page(page, web, suffix)
    targets = page.locator("a:not(.skip), button, input, select").all()
    boxes = {target.evaluate("element => element.outerHTML.slice(0, 80)"): target.bounding_box() for target in targets}
    shown = {name: box for name, box in boxes.items() if box}
    assert len(shown) >= 3
    assert {name: box for name, box in shown.items() if min(box["width"], box["height"]) < 44} == {}


def test_resolved_file_shows_its_outcome(page: Any) -> None:
    page.get_by_label("State").select_option("resolved")
    (row,) = page.locator("tbody tr").all_inner_texts()
    assert "Resolved" in row and "accepted, Nov 23" in row and "3 times" in row and "No action is needed." in row


def test_unreadable_list_shows_an_error_and_keeps_the_rows(browser: Any, web: StaffServer) -> None:
    tab = browser.new_page()
    tab.clock.install()
    open_page(tab, web, "")
    tab.route("**/rejections.json", lambda route: route.abort())
    tab.clock.run_for(61_000)
    alert = tab.get_by_role("alert")
    alert.wait_for()
    assert "cannot be read" in alert.inner_text() and len(files(tab)) == 100
    tab.unroute("**/rejections.json")
    tab.clock.run_for(61_000)
    alert.wait_for(state="hidden")
    tab.close()


@pytest.mark.parametrize("width", [1200, 390, 320])
def test_no_accessibility_violation_and_no_horizontal_scrolling(page: Any, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed").Axe()
    page.set_viewport_size({"width": width, "height": 800})
    page.get_by_label("State").select_option("all")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        violations = axe.run(page).response["violations"]
        assert [(violation["id"], [node["html"][:120] for node in violation["nodes"]]) for violation in violations] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if folder := os.environ.get("PICTURES"):
            page.screenshot(path=f"{folder}/staff-{width}-{scheme}.png")


def test_only_staff_can_read_it_behind_load_balancers() -> None:
    with serve_staff_page(staff=["10.1.0.0/16"], proxies=["127.0.0.0/8"]) as web:
        through_two = {"10.1.2.3, 127.0.0.9": 200, "8.8.8.8, 127.0.0.9": 404, "10.1.2.3, 8.8.8.8, 127.0.0.9": 404}
        through_one = {"10.1.2.3": 200, "8.8.8.8": 404, "10.1.2.3, 8.8.8.8": 404, "": 404}
        for forwarded_for, status in (through_one | through_two).items():
            for path in ("/staff", "/staff/", "/staff/rejections.json", "/staff/staff.js", "/staff/staff.css"):
                response = httpx.get(web.url + path, headers={"X-Forwarded-For": forwarded_for} if forwarded_for else {})
                assert response.status_code == status, (forwarded_for, path)


@pytest.mark.parametrize("path", ["/staff", "/staff/rejections.json", "/staff/staff.js"])
def test_other_sites_cannot_read_it_in_the_browser_of_staff(web: StaffServer, path: str) -> None:
    """Any page that staff had open was allowed to fetch the list of files and send it elsewhere."""
    response = httpx.get(web.url + path, headers={"Origin": "https://elsewhere.example"})
    assert response.status_code == 200
    assert [name for name in response.headers if name.startswith("access-control-")] == []
    assert (response.headers["x-content-type-options"], response.headers["cache-control"]) == ("nosniff", "no-cache")
    assert httpx.get(f"{web.url}/collections.json").headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8800", 200),
        ("127.0.0.1:8800", 200),
        ("[::1]:8800", 200),
        ("Maps.example.org", 200),
        ("maps.example.org:8443", 200),
        ("evil.example", 404),
        ("maps-example.org", 404),
        ("maps.example.org.evil.example", 404),
        ("localhost.evil.example", 404),
        ("127.0.0.1.evil.example", 404),
    ],
)
@pytest.mark.parametrize("path", ["/staff", "/staff/rejections.json", "/staff/staff.js"])
def test_page_is_served_under_its_own_names_only(named: StaffServer, path: str, host: str, status: int) -> None:
    """A page whose name an attacker pointed to this server (DNS rebinding) could read the list: it was of the same site."""
    headers = {"Host": host, "X-Forwarded-Host": "localhost"}
    assert httpx.get(named.url + path, headers=headers).status_code == status


def test_staff_host_must_be_a_name() -> None:
    with (
        pytest.raises(ConfigurationError, match=r"without scheme and port, such as maps\.example\.org"),
        serve_staff_page(staff_hosts=["https://maps.example.org"]),
    ):
        pass


def test_missing_list_is_a_404() -> None:
    with serve_staff_page(staff=["127.0.0.0/8"]) as web:
        web.rejections_file.unlink()
        assert httpx.get(f"{web.url}/staff/rejections.json").status_code == 404


@pytest.mark.parametrize("options", [{"rejections_file": None}, {"staff": ["10.1.0.0/16"]}])
def test_forwarded_header_is_ignored_without_a_proxy(options: dict[str, Any]) -> None:
    with serve_staff_page(**options) as web:
        for path in ("/staff", "/staff/index.html", "/staff/rejections.json", "/archive/staff/rejections.json"):
            assert httpx.get(web.url + path, headers={"X-Forwarded-For": "10.1.2.3"}).status_code == 404, path


def write_health(web: StaffServer, facts: Facts) -> None:
    write_file(web.monitor / HEALTH_FILE, render_json(facts, judge(facts)).encode())


OFF = Facts(
    now=NOW,
    daemon_seen_at=NOW,
    sensors={name: SensorFact(name, name != "ingest_poll", NOW, NOW) for name in ("ingest_poll", *ESSENTIAL_SENSORS)},
    held=2,
)


def test_health_is_the_first_line_of_the_page(page: Any, web: StaffServer) -> None:
    """With the sensors off, the page of staff looked as always."""
    health = page.locator("#health")
    assert not health.is_visible()
    write_health(web, replace(OFF, now=datetime.now(UTC), daemon_seen_at=datetime.now(UTC)))
    open_page(page, web, "")
    health.wait_for()
    lines = page.locator("header").inner_text().splitlines()
    assert lines[0].startswith("CRITICAL: sensor ingest_poll is OFF. Turn it on: ")
    assert "WARNING: 2 deletions not confirmed yet." in health.inner_text()
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed").Axe()
    assert axe.run(page).response["violations"] == []
    write_health(web, replace(OFF, now=datetime.now(UTC) - timedelta(minutes=5)))
    open_page(page, web, "")
    page.locator("#health", has_text="CRITICAL: the monitor has not reported for 5 min.").wait_for()


def test_others_get_no_health_and_no_metrics() -> None:
    with serve_staff_page(staff=["10.1.0.0/16"], proxies=["127.0.0.0/8"]) as web:
        write_health(web, OFF)
        write_file(web.monitor / METRICS_FILE, b"ls4_health 2.0\n")
        for client, statuses in (("10.1.2.3", (200, 200)), ("8.8.8.8", (204, 404))):
            headers = {"X-Forwarded-For": client}
            responses = [httpx.get(f"{web.url}{path}", headers=headers) for path in ("/status.json", "/metrics")]
            assert tuple(response.status_code for response in responses) == statuses
            assert all("access-control-allow-origin" not in response.headers for response in responses if statuses[0] == 200)
        assert responses[0].content == b"" and b"ls4_health" not in responses[1].content
        assert httpx.get(f"{web.url}/mapserv/metrics", headers={"X-Forwarded-For": "10.1.2.3"}).status_code == 404


def test_metrics_of_a_monitor_that_has_stopped_are_an_error(named: StaffServer) -> None:
    """Prometheus would keep values that never change, and report a target that is up."""
    url = f"{named.url}/metrics"
    assert httpx.get(url).status_code == 503
    write_file(named.monitor / METRICS_FILE, b"ls4_health 0.0\n")
    answer = httpx.get(url)
    assert (answer.status_code, answer.text) == (200, "ls4_health 0.0\n")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    os.utime(named.monitor / METRICS_FILE, (0, time.time() - 300))
    assert httpx.get(url).status_code == 503
